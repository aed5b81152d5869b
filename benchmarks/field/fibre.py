"""A digital layer trained in front of a multimode fibre: through an online twin, beside the oracle and a frozen input.

    python benchmarks/field/fibre.py [--seeds 3] [--epochs 6] [--walk 0.03] [--only NAME ...] [--speed]

Digits, batch 64, one thread: Linear 64 → 16, phases of unit variance, fibre 16 → 16 (6 modes, 500 kW, its launch and
its camera mixed by hidden matrices of 0.2 rad), batch norm, Linear 16 → 10; Adam at 1e-2, cosine decay to 2e-3; the
fibre's own mask is not trained. Accuracy is of 360 test images at the end, mean and standard deviation over the seeds.
Under drift the phases of the mask walk as lab time passes, a row being a frame of 1/60 s; the accuracy
is then measured with the fibre where it has walked to. `--speed` prints the ratio to row-by-row Python instead.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable
from dataclasses import dataclass

import torch
from ratios import told
from torch import Tensor, nn
from torch.nn import functional as F

import blackprop as bp
from blackprop.devices import Device, Drifting, GradedIndexFibre, MultimodeFibre
from blackprop.devices.photonic._multimode_fibre import unitary
from blackprop.experiments import Digits
from blackprop.surrogates import Oracle, Surrogate, Twin
from blackprop.twins import MLPTwin, MultimodeFibreTwin

BATCH, PIXELS = 64, 16


@dataclass(frozen=True)
class Method:
    surrogate: Callable[[MultimodeFibre], Surrogate]
    trains: bool = True
    drifts: bool = False


def calibrated(fibre: MultimodeFibre, online: int = 1) -> Twin:
    return Twin(MultimodeFibreTwin(fibre), settings=16, rows=32, fit_steps=100, lr=0.05, online_steps=online)


def online_only(fibre: MultimodeFibre) -> Twin:
    return Twin(MultimodeFibreTwin(fibre), fit_steps=0, lr=0.05, online_steps=1)


class Phases(nn.Module):
    """A perceptron that is shown cos x and sin x, since phases are phases; it knows nothing else of the fibre."""

    stacks = True

    def __init__(self, size: int) -> None:
        super().__init__()
        self.inner = MLPTwin(2 * PIXELS, PIXELS, size)

    def forward(self, x: Tensor, theta: Tensor) -> Tensor:
        return self.inner(torch.cat((x.cos(), x.sin()), -1), theta)


def neural(fibre: MultimodeFibre) -> Twin:
    return Twin(Phases(fibre.theta.size), fit_steps=0, lr=0.02, online_steps=16)


METHODS = {
    "oracle": Method(lambda _: Oracle()),
    "frozen input": Method(lambda _: Oracle(), trains=False),
    "physical twin": Method(calibrated),
    "physical twin, online only": Method(online_only),
    "neural twin, online only": Method(neural),
    "drift: oracle": Method(lambda _: Oracle(), drifts=True),
    "drift: frozen input": Method(lambda _: Oracle(), trains=False, drifts=True),
    "drift: physical twin": Method(calibrated, drifts=True),
    "drift: physical twin, calibrated once": Method(lambda f: calibrated(f, 0), drifts=True),
    "drift: neural twin, online only": Method(neural, drifts=True),
}


def fibre_of(seed: int) -> MultimodeFibre:
    return MultimodeFibre(PIXELS, PIXELS, power=5e5, times=8, steps=19, mixing=0.2, seed=seed)


def train(method: Method, seed: int, epochs: int, walk: float) -> tuple[float, bp.Ledger, float]:
    """Test accuracy, what was asked while it was trained, and how far the mask has walked, rms in rad."""
    torch.manual_seed(seed)
    stream, data = torch.Generator().manual_seed(seed), Digits().data()
    fibre, clock = fibre_of(seed), [0.0]
    walking = Drifting(fibre, per_root_second=walk, seed=seed, clock=lambda: clock[0])
    device: Device = walking if method.drifts else fibre
    layer = bp.PhysicalLayer(device, bp.estimators.Oracle(), method.surrogate(fibre), generator=stream)
    layer.theta.requires_grad_(False)
    front = nn.Sequential(nn.Linear(64, PIXELS), nn.BatchNorm1d(PIXELS, affine=False)).requires_grad_(method.trains)
    model = nn.Sequential(front, layer, nn.BatchNorm1d(PIXELS), nn.Linear(PIXELS, 10))
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    steps = len(data.x_train) // BATCH
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs * steps, eta_min=2e-3)
    for _ in range(epochs):
        for some in torch.randperm(len(data.x_train), generator=stream).split(BATCH)[:steps]:
            optimizer.zero_grad()
            F.cross_entropy(model(data.x_train[some]), data.y_train[some]).backward()
            optimizer.step()
            schedule.step()
            clock[0] = layer.ledger.lab_seconds
    ledger = bp.Ledger.sum([layer.ledger])
    model.eval()
    with torch.no_grad():
        right = model(data.x_test).argmax(1) == data.y_test
    return float(right.double().mean()), ledger, float(walking.offset.square().mean().sqrt())


def by_hand(fibre: MultimodeFibre, x: Tensor, theta: Tensor) -> Tensor:
    """The same equation row by row, time by time, with the Kerr tensor as it is written."""
    design, optics = fibre.fibre, {k: v.to(torch.complex64) for k, v in fibre._optics.items()}
    S, entry_leaving = design.kerr_tensor().to(torch.complex64) / design.alpha, unitary(fibre.mixing)
    rows = []
    for row in x:
        launched = (torch.exp(1j * row) @ optics["lens"] * torch.exp(1j * theta)) @ optics["launch"]
        a = torch.outer(optics["pulse"][:, 0], entry_leaving[0] @ launched)

        def slope(a: Tensor) -> Tensor:
            return 1j * fibre._turn * torch.einsum("plmn,l,m,n->p", S, a, a, a.conj())

        def dispersed(a: Tensor, phases: Tensor) -> Tensor:
            return torch.fft.ifft(torch.fft.fft(a, dim=0) * phases, dim=0)

        for _ in range(fibre.steps):
            a, moments = dispersed(a, optics["half"]), []
            for moment in a:
                k1 = slope(moment)
                k2 = slope(moment + k1 / 2)
                k3 = slope(moment + k2 / 2)
                moments.append(moment + (k1 + 2 * k2 + 2 * k3 + slope(moment + k3)) / 6)
            a = dispersed(torch.stack(moments), optics["half"])
        rows.append((a @ entry_leaving[1].mT @ optics["camera"]).abs().square().sum(0))
    return torch.stack(rows)


def speed() -> None:
    """Two straightforward forms: the Kerr tensor time by time (a few rows), and the device itself row by row."""
    fibre, stream = fibre_of(0), torch.Generator().manual_seed(0)
    x, theta = torch.randn(256, PIXELS, generator=stream), fibre.theta.draw(stream)
    torch.testing.assert_close(by_hand(fibre, x[:1], theta), fibre.transfer(x[:1], theta), rtol=1e-3, atol=1e-4)
    forms = (
        ("the Kerr tensor, row by row and time by time", 2, lambda rows: by_hand(fibre, rows, theta)),
        ("the device's own batched code, row by row", 32, lambda r: [fibre.transfer(row[None], theta) for row in r]),
    )
    told(f"{GradedIndexFibre().modes} modes", x, lambda rows: fibre.transfer(rows, theta), forms)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--walk", type=float, default=0.03, help="of the mask's phases under drift, rad/√s")
    parser.add_argument("--only", nargs="*", default=list(METHODS), choices=list(METHODS), metavar="NAME")
    parser.add_argument("--speed", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.speed:
        speed()
        return
    print(f"{'':40}{'accuracy, %':>16}{'rows':>10}{'programmings':>14}{'walked, rad':>13}")
    for name in options.only:
        found = [train(METHODS[name], seed, options.epochs, options.walk) for seed in range(options.seeds)]
        each = [100 * accuracy for accuracy, _, _ in found]
        spread = statistics.stdev(each) if len(each) > 1 else 0.0
        ledger, walked = found[0][1], statistics.fmean(way for _, _, way in found)
        count = f"{ledger.total_rows:>10,}{ledger.total_programmings:>14,}{walked:>13.2f}"
        print(f"{name:40}{statistics.fmean(each):>9.1f} ± {spread:4.1f}{count}", flush=True)


if __name__ == "__main__":
    main()
