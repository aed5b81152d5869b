"""What is missing in a black-box solver, learnt inside it: Lorenz-63 without its −βz.

    python benchmarks/field/lorenz.py --plot docs/methods/lorenz.svg

The truth is Lorenz-63 (σ 10, ρ 28, β 8/3). The solver, classical Runge-Kutta of step 0.01, knows all of it but −βz,
and a network M of 3-3-3-3 with tanh, inside it, is to make up for that. Data: 5,000 states on the attractor, each with
the next 10 of its trajectory. Each method finds the gradient in its own way, all else alike: *static* and *ensemble*
are `EulerGradient`; *oracle* differentiates through the solver. Then each learnt system runs by itself from 500 states.

Printed: the mean squared error of 10 steps relative to the variance of the states; how well the invariant histogram
(20³ bins over the attractor, and the worst of the three marginals of 50 bins) correlates with that of the truth; rows,
each of 10 steps. *another run* is the truth from other states: the most that can be had.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import blackprop as bp
from blackprop.devices import Rollout
from blackprop.devices._rollout import Tendency
from blackprop.estimators import EulerGradient
from blackprop.surrogates import Euler

SIGMA, RHO, BETA, H = 10.0, 28.0, 8 / 3, 0.01
SETTLE = 2000  # steps until a state is on the attractor
MEAN, SPREAD = torch.tensor([0.0, 0.0, 23.5]), torch.tensor([7.9, 9.0, 8.6])  # of the attractor
LOW, HIGH = torch.tensor([-22.0, -30.0, 0.0]), torch.tensor([22.0, 30.0, 50.0])


class Missing(nn.Module):
    """M: 3-3-3-3 with tanh; states come in units of their spread, tendencies in units of that over 0.2."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.layers = nn.ModuleList(nn.Linear(3, 3) for _ in range(3))
        for layer in self.layers:
            for value in layer.parameters():
                value.data = torch.empty_like(value).uniform_(-(3**-0.5), 3**-0.5, generator=generator)

    def forward(self, u: Tensor) -> Tensor:
        v = (u - MEAN.to(u)) / SPREAD.to(u)
        for layer in self.layers[:-1]:
            v = layer(v).tanh()
        return self.layers[-1](v) * SPREAD.to(u) / 0.2


def known(u: Tensor) -> Tensor:
    """F: all of Lorenz-63 but −βz."""
    x, y, z = u.unbind(-1)
    return torch.stack((SIGMA * (y - x), x * (RHO - z) - y, x * y), -1)


def truth(u: Tensor) -> Tensor:
    """What the known part lacks."""
    return u * u.new_tensor([0.0, 0.0, -BETA])


def step(u: Tensor, missing: Tendency, h: float = H) -> Tensor:
    """Ψ: one step of classical Runge-Kutta."""
    a = known(u) + missing(u)
    b = known(v := u + h / 2 * a) + missing(v)
    c = known(v := u + h / 2 * b) + missing(v)
    d = known(v := u + h * c) + missing(v)
    return u + h / 6 * (a + 2 * b + 2 * c + d)


@torch.no_grad()
def on_attractor(count: int, seed: int) -> Tensor:
    """States (count, 3)."""
    u = MEAN + SPREAD * torch.randn(count, 3, generator=torch.Generator().manual_seed(seed))
    for _ in range(SETTLE):
        u = step(u, truth)
    return u


@torch.no_grad()
def trajectories(u: Tensor, steps: int, missing: Tendency) -> Tensor:
    """(rows, steps, 3) after the states u."""
    states = []
    for _ in range(steps):
        u = step(u, missing)
        states.append(u)
    return torch.stack(states, 1)


@torch.no_grad()
def histograms(u: Tensor, steps: int, missing: Tendency) -> tuple[Tensor, Tensor]:
    """Of the states visited after `u` and `SETTLE` steps: joint, 20³ bins, and of each coordinate, (3, 50)."""
    joint, single = torch.zeros(20**3), torch.zeros(3, 50)
    for t in range(SETTLE + steps):
        u = step(u, missing)
        if t < SETTLE or t % 5:
            continue
        part = ((u - LOW) / (HIGH - LOW)).nan_to_num(-1.0)
        inside = part[((part >= 0) & (part < 1)).all(1)]
        bins = (inside * 20).long()
        joint += torch.bincount(bins @ torch.tensor([400, 20, 1]), minlength=20**3)
        for axis in range(3):
            single[axis] += torch.bincount((inside[:, axis] * 50).long(), minlength=50)
    return joint, single


def correlation(a: Tensor, b: Tensor) -> float:
    pair = torch.stack((a.flatten(), b.flatten()))
    return float(torch.corrcoef(pair)[0, 1]) if bool((pair.std(1) > 0).all()) else 0.0


def train(
    method: str, samples: int, epochs: int, members: int, seed: int, steps: int = 10, lr: float = 1e-1
) -> tuple[bp.PhysicalLayer, Missing, float]:
    """The layer, its model with what was learnt, and the relative error of the last epoch."""
    model, oracle = Missing(seed), bp.presets.oracle()
    device = Rollout(step, model, state=3, steps=steps, differentiable=True)
    estimator = {
        "static": EulerGradient(model, H),
        "ensemble": EulerGradient(model, H, members=members),
        "oracle": oracle.estimator,
    }[method]
    layer = bp.PhysicalLayer(device, estimator, Euler(), generator=torch.Generator().manual_seed(seed))
    layer.gain.requires_grad_(False)
    u = on_attractor(samples, seed)
    target, batch = trajectories(u, steps, truth), 100
    optimizer = torch.optim.Adam([layer.theta], lr=lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs * -(-samples // batch))
    order, error = torch.Generator().manual_seed(seed), 0.0
    for _ in range(epochs):
        errors = []
        for some in torch.randperm(samples, generator=order).split(batch):
            optimizer.zero_grad()
            loss = ((layer(u[some]) - target[some]) / SPREAD).square().mean()
            loss.backward()
            optimizer.step()
            schedule.step()
            errors.append(float(loss.detach()))
        error = sum(errors) / len(errors)
    torch.nn.utils.vector_to_parameters(layer.theta.detach(), model.parameters())
    return layer, model, error


def plot(found: dict[str, tuple[Tensor, Tensor]], file: Path) -> None:
    """A trajectory of each system seen along y, and the histograms of z."""
    import matplotlib as mpl  # noqa: PLC0415
    from matplotlib.figure import Figure  # noqa: PLC0415

    look: dict[Any, Any] = {"svg.fonttype": "none", "svg.hashsalt": "blackprop", "font.size": 9}
    with mpl.rc_context(look):
        figure = Figure(figsize=(2.4 * (len(found) + 1), 2.6), layout="constrained", facecolor="#ffffff")
        panels = figure.subplots(1, len(found) + 1)
        for ax, (name, (path, _)) in zip(panels, found.items(), strict=False):
            ax.plot(path[:, 0], path[:, 2], linewidth=0.4, color="#0072b2")
            ax.set(title=name, xlim=(-22, 22), ylim=(0, 50), xlabel="x", ylabel="z")
        for (name, (_, single)), style in zip(found.items(), ("-", "--", ":", "-."), strict=False):
            centres = (torch.arange(50) + 0.5) * float(HIGH[2]) / 50
            panels[-1].plot(centres, single[2] / single[2].sum(), style, label=name, linewidth=1.2)
        panels[-1].set(title="how often z is visited", xlabel="z", yticks=[])
        panels[-1].legend(frameon=False, fontsize=7)
        figure.savefig(file, dpi=120, metadata={"Date": None} if file.suffix == ".svg" else None)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", nargs="+", default=["static", "ensemble", "oracle"])
    parser.add_argument("--samples", type=int, default=5000)
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--members", type=int, default=4)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--run", type=int, default=4000, help="steps of each of 500 trajectories in the histograms")
    parser.add_argument("--plot", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    reference = histograms(on_attractor(500, 100), args.run, truth)
    again = histograms(on_attractor(500, 101), args.run, truth)
    print(f"{'method':12}{'seed':>5}{'error':>11}{'joint':>9}{'worst':>9}{'rows':>12}{'s':>7}")
    print(f"{'another run':12}{'':5}{'':11}{_scores(again, reference)}")
    nothing = histograms(on_attractor(500, 101), args.run, torch.zeros_like)
    print(f"{'untrained':12}{'':5}{'':11}{_scores(nothing, reference)}")
    shown = {"truth": (trajectories(on_attractor(1, 7), 3000, truth)[0], reference[1])}
    for seed in range(args.seeds):
        for method in args.methods:
            start = time.perf_counter()
            layer, model, error = train(method, args.samples, args.epochs, args.members, seed)
            spent = time.perf_counter() - start
            found = histograms(on_attractor(500, 101), args.run, model)
            rows = layer.ledger.total_rows
            print(f"{method:12}{seed:5}{error:11.2e}{_scores(found, reference)}{rows:12,}{spent:7.0f}", flush=True)
            if seed == 0:
                shown[method] = trajectories(on_attractor(1, 7), 3000, model)[0], found[1]
    if args.plot is not None:
        plot(shown, args.plot)


def _scores(found: tuple[Tensor, Tensor], reference: tuple[Tensor, Tensor]) -> str:
    worst = min(correlation(a, b) for a, b in zip(found[1], reference[1], strict=True))
    return f"{correlation(found[0], reference[0]):9.4f}{worst:9.4f}"


if __name__ == "__main__":
    main()
