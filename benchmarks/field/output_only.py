"""Three imperfect meshes in series, trained from the error at their output: what the intermediate readings are worth.

    python benchmarks/field/output_only.py

Digits of 4×4 pixels; mesh 16→16, tanh, mesh 16→16, tanh, mesh 16→10, batch norm. The meshes' phases are off by
`--phase` rad and their splitters by 0.05. *output-only*: the error of the chain's output pulled back through the
meshes as designed, at the activations of the model; *fitted*: the same after the models were fitted to 2,560 rows of
the chain's output; *physics-aware*: each mesh a layer of its own, read after each, pulled back through the mesh as
designed at what was read; *oracle* and *frozen* as ever. Adam, θ rate 1e-2, batch 50, cosine decay.

Printed: test accuracy on 397 digits and rows, means over the seeds.
"""

from __future__ import annotations

import argparse
import math
import statistics
from itertools import pairwise

import torch
from torch import Tensor, nn

import blackprop as bp
from blackprop.devices import Chain, ImperfectThreeSplitterMesh
from blackprop.experiments import Digits
from blackprop.twins import ChainTwin

WIDTHS = (16, 16, 16, 10)
METHODS = ("oracle", "frozen", "output-only", "fitted", "physics-aware")


def digits() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Rows (16,) of norm 4 and labels, to train on and to test."""
    data = Digits().data()
    x = nn.functional.avg_pool2d(torch.cat((data.x_train, data.x_test)).view(-1, 1, 8, 8), 2).flatten(1)
    x = x - x.mean(0)
    x, y = 4 * x / x.norm(dim=1, keepdim=True), torch.cat((data.y_train, data.y_test))
    return x[:1400], y[:1400], x[1400:], y[1400:]


def build(method: str, phase: float, seed: int) -> nn.Module:
    sizes = enumerate(pairwise(WIDTHS))
    meshes = [ImperfectThreeSplitterMesh(a, b, phase=phase, seed=10 * seed + i) for i, (a, b) in sizes]
    generator = torch.Generator().manual_seed(seed)
    if method == "physics-aware":
        layers = [bp.PhysicalLayer(m, *_through(bp.twins.MeshTwin(m)), generator=generator) for m in meshes]
    else:
        chain = Chain(*[part for mesh in meshes for part in (torch.tanh, mesh)][1:])
        model = ChainTwin(chain, *(bp.twins.MeshTwin(mesh) for mesh in meshes))
        pair = bp.presets.oracle() if method == "oracle" else _through(model, fitted=method == "fitted")
        layers = [bp.PhysicalLayer(chain, *pair, generator=generator)]
    for layer in layers:
        layer.gain.requires_grad_(False)
        layer.theta.requires_grad_(method != "frozen")
    parts = [part for layer in layers for part in (nn.Tanh(), layer)][1:]
    return nn.Sequential(*parts, nn.BatchNorm1d(WIDTHS[-1]))


def _through(model: nn.Module, fitted: bool = False) -> tuple[bp.estimators.Estimator, bp.surrogates.Surrogate]:
    twin = bp.surrogates.Twin(model) if fitted else bp.surrogates.Twin(model, fit_steps=0, online_steps=0)
    return bp.estimators.FromSurrogate(twin), twin


def run(method: str, phase: float, seed: int, epochs: int) -> tuple[float, int]:
    """Test accuracy, % and the rows it took."""
    x, y, x_test, y_test = digits()
    model = build(method, phase, seed)
    optimizer = torch.optim.Adam(bp.param_groups(model, lr=1e-2, device_lr=1e-2))
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs * 28)
    order = torch.Generator().manual_seed(seed)
    for _ in range(epochs):
        for some in torch.randperm(len(x), generator=order).split(50):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x[some]), y[some]).backward()
            optimizer.step()
            schedule.step()
    rows = bp.ledger(model).total_rows
    model.eval()
    return 100 * float((model(x_test).argmax(1) == y_test).float().mean()), rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--phase", type=float, nargs="+", default=[0.2])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=15)
    args = parser.parse_args()
    torch.set_num_threads(1)
    print(f"{'phase, rad':>10}  {'method':14}{'accuracy, %':>16}{'rows':>9}")
    for phase in args.phase:
        for method in METHODS:
            found = [run(method, phase, seed, args.epochs) for seed in range(args.seeds)]
            values = [accuracy for accuracy, _ in found]
            error = statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else 0.0
            print(f"{phase:10}  {method:14}{statistics.fmean(values):9.1f} ± {error:4.1f}{found[0][1]:9,}", flush=True)


if __name__ == "__main__":
    main()
