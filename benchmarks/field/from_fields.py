"""Gradients that the device computes from complex fields: scattering backpropagation, and fully forward mode.

    python benchmarks/field/from_fields.py cosines
    python benchmarks/field/from_fields.py digits --seeds 3

*cosines*: one row through three coupled modes, one of them read, six seeds: the cosine of the estimate to the gradient,
and the ratio of their sizes, the least and the greatest, for each Kerr coefficient g (κ = 1, inputs N(0, 1)).

*digits*: the device, 64 inputs and 10 outputs, and a batch norm are the whole model; 10 epochs of 22 batches of 64.
*found*: θ from fields. *oracle*: autograd through the same device. *frozen*: θ as drawn, the batch norm trained. With
`--noise` every reading, and every field, has this noise, relative to its root mean square. Printed: test accuracy in %,
mean and standard deviation, rows and programmings of a training. Each cell has the rate of `--rates` with the best test
accuracy on the first seed.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor, nn

import blackprop as bp
from blackprop.core import metered, run
from blackprop.devices import CoupledModes, MirroredDiffraction
from blackprop.estimators import Estimator, ForwardMode, Oracle, ScatteringBackprop, Still
from blackprop.experiments import Digits

DEVICES: dict[str, tuple[Callable[[], bp.devices.Simulator], Estimator]] = {
    "coupled modes, g = 0": (lambda: CoupledModes(64, 10), ScatteringBackprop()),
    "coupled modes, g = 0.05": (lambda: CoupledModes(64, 10, kerr=0.05), ScatteringBackprop()),
    "coupled modes, g = 0.2": (lambda: CoupledModes(64, 10, kerr=0.2), ScatteringBackprop()),
    "mirrored, 1 mask": (lambda: MirroredDiffraction(64, 10), ForwardMode()),
    "mirrored, 8 masks": (lambda: MirroredDiffraction(64, 10, planes=8), ForwardMode()),
    "mismatch 1 %, 8 masks": (lambda: MirroredDiffraction(64, 10, planes=8, mismatch=0.01), ForwardMode()),
    "mismatch 20 %, 8 masks": (lambda: MirroredDiffraction(64, 10, planes=8, mismatch=0.2), ForwardMode()),
}


def gradients(estimator: Estimator, device: bp.devices.Simulator, seed: int) -> tuple[Tensor, Tensor]:
    """The estimate and the gradient, of one row."""
    generator = torch.Generator().manual_seed(seed)
    theta = device.theta.draw(generator).double().requires_grad_()
    x, g = (torch.randn(1, *shape, generator=generator).double() for shape in (device.in_shape, device.out_shape))
    (exact,) = torch.autograd.grad(device.transfer(x, theta), theta, g)
    theta = theta.detach()
    procedure = estimator.grad_theta(x, theta, x, g, device.declaration, generator)
    return run(procedure, metered(device, bp.Ledger())), exact


def cosines(step: float) -> None:
    print(f"{'g':>6}{'cosine':>20}{'ratio':>18}")
    for kerr in (0.0, 0.05, 0.2, 0.5):
        device = CoupledModes(2, 1, kerr=kerr)
        pairs = [gradients(ScatteringBackprop(step), device, seed) for seed in range(6)]
        along = [float(torch.cosine_similarity(*pair, 0)) for pair in pairs]
        ratio = [float(found.norm() / exact.norm()) for found, exact in pairs]
        print(f"{kerr:6g}{min(along):10.4f} ...{max(along):7.4f}{min(ratio):8.3f} ...{max(ratio):6.3f}")


def trained(
    device: bp.devices.Simulator, estimator: Estimator, rate: float, seed: int, noise: float, epochs: int
) -> tuple[float, bp.Ledger]:
    """The test accuracy in %, and the ledger of the training."""
    data, generator = Digits().data(), torch.Generator().manual_seed(seed)
    noisy = bp.devices.Noisy(device, read=noise, seed=seed) if noise else device
    layer = bp.PhysicalLayer(noisy, estimator, generator=torch.Generator().manual_seed(seed))
    model = nn.Sequential(layer, nn.BatchNorm1d(10))
    optimizer = torch.optim.Adam(bp.param_groups(model, lr=1e-2, device_lr=rate))
    for _ in range(epochs):
        for rows in torch.randperm(len(data.x_train), generator=generator).split(64):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(data.x_train[rows]), data.y_train[rows]).backward()
            optimizer.step()
    spent = bp.ledger(model)
    model.eval()
    with torch.no_grad():
        return 100 * float((model(data.x_test).argmax(1) == data.y_test).float().mean()), spent


def digits(names: list[str], rates: list[float], seeds: int, noise: float, epochs: int, step: float | None) -> None:
    print(f"{'device':26}{'method':8}{'rate':>6}{'accuracy, %':>16}{'rows':>9}{'programmings':>14}")
    for name in names:
        make, estimator = DEVICES[name]
        if step is not None and isinstance(estimator, ScatteringBackprop):
            estimator = replace(estimator, step=step)
        for method, each in (("oracle", Oracle()), ("frozen", Still()), ("found", estimator)):
            tried = rates[:1] if method == "frozen" else rates
            first = {rate: trained(make(), each, rate, 0, noise, epochs) for rate in tried}
            rate = max(first, key=lambda one: first[one][0])
            found = [first[rate], *(trained(make(), each, rate, seed, noise, epochs) for seed in range(1, seeds))]
            scores, spent = [score for score, _ in found], found[0][1]
            spread = f" ± {statistics.stdev(scores):4.1f}" if len(scores) > 1 else ""
            print(
                f"{name:26}{method:8}{rate:6g}{statistics.fmean(scores):9.1f}{spread:7}{spent.total_rows:9,}"
                f"{spent.total_programmings:14,}",
                flush=True,
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=["cosines", "digits"])
    parser.add_argument("--devices", nargs="+", choices=list(DEVICES), default=list(DEVICES))
    parser.add_argument("--rates", nargs="+", type=float, default=[1e-2, 3e-2, 1e-1])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--noise", type=float, default=0.0)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--step", type=float, help="β (0.01 for the cosines, the default of the method for the digits)")
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.part == "cosines":
        cosines(args.step if args.step is not None else 0.01)
    else:
        digits(args.devices, args.rates, args.seeds, args.noise, args.epochs, args.step)


if __name__ == "__main__":
    main()
