"""Whether an optimizer that needs the loss alone finds the gradient, and has no side effects."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from blackprop import presets
from blackprop.core._ledger import Ledger
from blackprop.core._theta import ThetaSpec
from blackprop.devices import Simulator
from blackprop.errors import BlackpropError, ContractError
from blackprop.nn._layer import PhysicalLayer
from blackprop.testing._bench import Bench, Report, fork, generator_or_default, normal, relative, seeded

SIGMAS = 5.0  # largest error of a mean, in its own standard errors
ROUNDING = 1e-3  # further allowed error: bias and rounding at the smallest displacement
KNOBS = {"directions": (1, 4, 16), "keep": (1.0, 0.3, 0.1), "levels": (1, 4)}  # possible arguments of a variance law


class TrainsByLoss(Protocol):
    """The tested interface, that of `bp.optim.ForwardOnly`."""

    param_groups: list[dict[str, Any]]
    integration: int

    @property
    def passes(self) -> int: ...
    @property
    def bias_order(self) -> int: ...
    def relative_variance(self, size: int, /) -> float: ...
    def estimate(self, closure: Callable[[], Any], /) -> list[Tensor]: ...
    def step(self, closure: Callable[[], Any], /) -> Any: ...
    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state_dict: dict[str, Any], /) -> None: ...


Factory = Callable[[nn.Module, torch.Generator], TrainsByLoss]


def check_optimizer(
    factory: Factory, *, samples: int = 1000, step: float = 0.02, generator: torch.Generator | None = None
) -> Report:
    """Measure whether an optimizer that needs the loss alone fulfils its declaration.

    Checks mean, `bias_order`, `relative_variance` (over `directions`, `keep` and `levels`, if it has them) and
    `passes`; that its steps follow its estimate; that its state_dict is its whole state; that a failing closure leaves
    everything unchanged, bit for bit (which `in_place` does not claim); and that it keeps devices' limits.

    Works in float64 on small losses of 7 parameters, with their gradient by autograd as the reference. The bias is
    fitted with `delta` set to `step` and fractions of it, along the same directions; all other measurements use a
    thousandth of it.

    **Arguments:**

    - `factory`: makes a new optimizer of all parameters of a model at each call, which draws from the generator:
      `lambda model, generator: SPSA(model.parameters(), 0.1, generator=generator, model=model)`.
    - `samples` (default 1000): directions of each statistic.
    - `step` (units of θ, default 0.02).
    - `generator` (default: seed 0).

    **Raises** `ContractError` for the first claim that does not hold.
    """
    case = _Case(factory, generator_or_default(generator), samples, step)
    _conduct(case)
    _following(case)
    _restored(case)
    _failures(case)
    _limits(case)
    _bias(case)
    _mean_and_variance(case)
    _law(case)
    return case.bench.report()


class _Curved(nn.Module):
    """A loss of 7 parameters with all derivatives."""

    def __init__(self, generator: torch.Generator) -> None:
        super().__init__()
        self.weight = nn.Parameter(normal((2, 3), generator, torch.float64))
        self.bias = nn.Parameter(normal((1,), generator, torch.float64))
        self.register_buffer("x", normal((5, 3), generator, torch.float64))

    def forward(self) -> Tensor:
        y = (self.get_buffer("x") @ self.weight.mT + self.bias).sin()
        return (y * y.new_tensor([1.0, 2.0])).exp().mean()


class _Case:
    def __init__(self, factory: Factory, generator: torch.Generator, samples: int, step: float) -> None:
        self.factory, self.generator, self.samples, self.step = factory, generator, samples, step
        self.model = _Curved(generator)
        self.start = _values(self.model)
        self.truth = _flat(torch.autograd.grad(self.model(), list(self.model.parameters())))
        sample = self.made(0)
        self.passes, self.integration = sample.passes, sample.integration
        self.random = sample.relative_variance(self.truth.numel()) > 0
        self.bench = Bench(type(sample).__name__)

    def made(self, seed: int, delta: float | None = None, model: nn.Module | None = None, **knobs: Any) -> TrainsByLoss:
        """Return a new optimizer, at the start."""
        if model is None:
            _set(self.model, self.start)
        made = self.factory(model if model is not None else self.model, seeded(seed, self.generator))
        for group in made.param_groups:
            group["delta"] = delta if delta is not None else self.step / 1000
            group.update({name: value for name, value in knobs.items() if name in group})
        for name in knobs.keys() - made.param_groups[0].keys():
            setattr(made, name, knobs[name])
        return made

    def seed(self) -> int:
        """Return a seed whose first estimate is not zero, as a sparse perturbation of few parameters may give."""
        for seed in (fork(self.generator) for _ in range(1000)):
            if bool(_flat(self.made(seed).estimate(self.model)).any()):
                _set(self.model, self.start)
                return seed
        raise ContractError(f"{self.bench.subject}: every one of 1000 estimates is zero")

    def estimates(self, **knobs: Any) -> tuple[Tensor, float]:  # (count, P)
        """Return independent estimates, and their declared variance."""
        made = self.made(fork(self.generator), **knobs)
        count = max(2 * self.samples // (made.passes * made.integration), 60) if self.random else 2
        drawn = torch.stack([_flat(made.estimate(self.model)) for _ in range(count)])
        return drawn, made.relative_variance(self.truth.numel())


def _conduct(case: _Case) -> None:
    """One estimate: counted, independent of gradients, repeatable, without side effects."""
    bench, seed, graphs = case.bench, case.seed(), []

    def watched() -> Tensor:
        graphs.append(torch.is_grad_enabled())
        return case.model()

    with bench.own_randomness():
        first = _flat(case.made(seed).estimate(watched))
    case.made(seed, delta=1e3).estimate(case.model)  # large enough that adding and subtracting it would lose digits
    moved = any(not torch.equal(a, b) for a, b in zip(_values(case.model), case.start, strict=True))
    bench.settle(not moved, "an estimate moves no parameter", "parameters moved" if moved else "to the bit", "none")
    bench.require(not any(graphs), "takes no gradient", "the closure ran with gradients enabled", "none")
    made = case.made(seed)
    asked, expected = len(graphs), {made.passes * made.integration + extra for extra in (0, 1)}
    bench.require(asked in expected, "passes", f"{asked} in {made.integration} steps", f"{made.passes} each")
    off = float((_flat(made.estimate(case.model)) - first).abs().max())
    bench.settle(off == 0, "repeats at the same seed", "exactly" if off == 0 else f"off by {off:.2g}", "exactly")
    graphs.clear()
    for _ in range(made.integration):
        made.step(watched)
    bench.settle(
        len(graphs) == made.passes * made.integration,
        "passes a step",
        f"{len(graphs) / made.integration:g}",
        f"{made.passes}",
    )


def _mean_and_variance(case: _Case) -> None:
    bench, truth = case.bench, case.truth
    drawn, law = case.estimates()
    spread = (drawn - truth).square().sum(1) / truth.square().sum()
    error = relative(drawn.mean(0) - truth, truth)
    # |error|² of the mean has the mean law/n, and of so few effective directions a standard deviation as large.
    bound = math.sqrt((1 + SIGMAS) * law / len(drawn)) + ROUNDING
    bench.settle(error <= bound, "mean", f"the true gradient within {error:.2g}", f"within {bound:.2g}")
    if not case.random:
        return
    part = drawn @ truth / truth.square().sum()
    doubt = SIGMAS * float(part.std()) / math.sqrt(len(part)) + ROUNDING
    text = f"{float(part.mean()):.4f} of the true gradient"
    bench.settle(abs(float(part.mean()) - 1) <= doubt, "mean, along the gradient", text, f"1 ± {doubt:.2g}")
    _against_law(bench, "relative variance", spread, law)


def _law(case: _Case) -> None:
    """The variance over each of the knobs of the optimizer, and its slope."""
    sample = case.made(0)
    for name, values in KNOBS.items():
        if not (name in sample.param_groups[0] or hasattr(sample, name)):
            continue
        measured, laws, doubts = [], [], []
        for value in values:
            drawn, law = case.estimates(**{name: value})
            spread = (drawn - case.truth).square().sum(1) / case.truth.square().sum()
            doubts.append(_against_law(case.bench, f"relative variance, {name} {value:g}", spread, law))
            measured.append(float(spread.mean()))
            laws.append(law)
        slope, declared = _slope(values, measured), _slope(values, laws)
        if abs(declared) < 0.1:  # hardly a power
            continue
        bound = SIGMAS * max(doubts) / abs(math.log(values[-1] / values[0])) + 0.02
        case.bench.settle(
            abs(slope - declared) <= bound,
            f"variance over {name}, slope",
            f"{slope:.3f} (law {declared:.3f})",
            f"{declared:.3f} ± {bound:.2g}",
        )


def _against_law(bench: Bench, claim: str, spread: Tensor, law: float) -> float:
    """Compare with the law, and return the relative standard error."""
    measured, error = float(spread.mean()), float(spread.std()) / math.sqrt(len(spread))
    bench.settle(
        abs(measured - law) <= SIGMAS * error + 0.02 * law,
        claim,
        f"{measured:.4g} ± {error:.2g} (law {law:.4g})",
        f"{law:.4g}",
    )
    return error / measured


def _bias(case: _Case) -> None:
    """`ĝ(δ) − ĝ(δ/2) ~ δ^q` along the same directions."""
    seeds = [case.seed() for _ in range(8 if case.random else 1)]
    deltas = [case.step / 2**k for k in range(4)]
    found = [torch.stack([_flat(case.made(seed, delta).estimate(case.model)) for seed in seeds]) for delta in deltas]
    slope = _slope(deltas[:3], [float((a - b).norm()) for a, b in pairwise(found)])
    order = case.made(0).bias_order
    case.bench.settle(abs(slope - order) <= 0.1 * order, "bias order", f"{slope:.3f}", f"{order}")


def _following(case: _Case) -> None:
    """The parameters move along the estimate."""
    seed = case.seed()
    estimate = _flat(case.made(seed).estimate(case.model))
    made = case.made(seed)
    for _ in range(case.integration - 1):
        made.step(case.model)
        still = torch.equal(_flat(_values(case.model)), _flat(case.start))
        case.bench.require(still, "steps", "parameters moved before the time was up", f"after {case.integration}")
    made.step(case.model)
    moved = _flat(case.start) - _flat(_values(case.model))
    cosine = float(torch.cosine_similarity(moved, estimate, 0))
    case.bench.settle(cosine > 0.5, "steps along its estimate", f"cosine {cosine:.3f}", "downhill")


def _restored(case: _Case) -> None:
    """Saved in the middle of an integration, and loaded into another optimizer with another seed."""
    made = case.made(fork(case.generator))
    for _ in range(case.integration + 2):
        made.step(case.model)
    file = io.BytesIO()
    torch.save(made.state_dict(), file)
    file.seek(0)
    there = _values(case.model)
    expected = _trace(case, made)
    other = case.made(fork(case.generator), delta=case.step)
    other.load_state_dict(torch.load(file))
    _set(case.model, there)
    same = torch.equal(_trace(case, other), expected)
    case.bench.settle(same, "state_dict is its whole state", "yes" if same else "other steps", "the same steps")


def _failures(case: _Case) -> None:
    """A failing closure, in any of its calls, leaves everything unchanged."""
    failures = {
        "raises": lambda: 1 / 0,
        "returns NaN": lambda: case.model() * math.nan,
        "returns a vector": lambda: case.model().expand(2),
    }
    for what, fail in failures.items():
        claim = f"all or nothing where the closure {what}"
        for broken in sorted({0, case.passes // 2, case.passes - 1}):
            seed, calls = case.seed(), iter(range(case.passes))
            _refuse(
                case,
                claim,
                made := case.made(seed),
                lambda b=broken, c=calls, f=fail: f() if next(c) == b else case.model(),
            )
            expected = _trace(case, case.made(seed))
            _set(case.model, case.start)
            same = torch.equal(_trace(case, made), expected)
            case.bench.require(same, claim, f"other steps after call {broken} failed", "those without the failure")
        case.bench.note(claim, "parameters and later steps are the same to the bit")
    _refuse(
        case,
        claim := "says that a loss does not depend on the parameters",
        case.made(case.seed()),
        lambda: torch.ones(()),
    )
    case.bench.note(claim, "yes")


def _refuse(case: _Case, claim: str, made: TrainsByLoss, closure: Callable[[], Any]) -> None:
    try:
        made.step(closure)
    except (BlackpropError, ZeroDivisionError):
        same = all(torch.equal(a, b) for a, b in zip(_values(case.model), case.start, strict=True))
        case.bench.require(same, claim, "parameters changed", "as they were, to the bit")
    else:
        case.bench.require(False, claim, "no error", "an error")


class _Tight(Simulator):
    def __init__(self, low: Tensor | None = None, high: Tensor | None = None) -> None:
        super().__init__(3, 2, ThetaSpec(6, low=low, high=high))

    def transfer(self, x: Tensor, theta: Tensor, /) -> Tensor:
        return (x @ theta.unflatten(-1, (2, 3)).mT).sin()


def _limits(case: _Case) -> None:
    """Set limits close to θ on both sides, and θ at one of them in every other parameter."""
    bench, claim, seed, width = case.bench, "heeds devices' limits", case.seed(), 1.0
    theta, x = (normal(shape, case.generator, torch.float64) for shape in ((6,), (5, 3)))
    low = torch.where(torch.arange(6, device=theta.device) % 2 == 0, theta, theta - width)
    found = []
    for device in (_Tight(), tight := _Tight(low, low + width)):
        layer = PhysicalLayer(device, *presets.oracle(), generator=seeded(seed, case.generator)).to(theta)
        layer.theta.data.copy_(theta)

        def loss(layer: PhysicalLayer = layer) -> Tensor:
            return (layer(x).sum(1) + 1).square().mean()

        made = case.made(seed, model=layer)
        found.append(_flat(made.estimate(loss)))
        for group in made.param_groups:
            group["lr"] *= 1e3
        for _ in range(2 * case.integration):
            made.step(loss)
        bench.ledger = Ledger.sum([bench.ledger, layer.ledger])
        if device is tight:
            inside = bool(((layer.theta >= low) & (layer.theta <= low + width)).all())
            bench.require(inside, claim, "theta outside them", "within")
    error = relative(found[1] - found[0], found[0])
    bench.settle(error <= 0.01, claim, f"the same gradient at a limit within {error:.2g}", "within 0.01")


def _trace(case: _Case, made: TrainsByLoss) -> Tensor:
    """Return the parameters after the next updates."""
    for _ in range(2 * case.integration):
        made.step(case.model)
    return _flat(_values(case.model))


def _flat(tensors: Sequence[Tensor]) -> Tensor:
    return torch.cat([t.detach().flatten() for t in tensors])


def _values(model: nn.Module) -> list[Tensor]:
    return [p.detach().clone() for p in model.parameters()]


def _set(model: nn.Module, values: Sequence[Tensor]) -> None:
    with torch.no_grad():
        for p, value in zip(model.parameters(), values, strict=True):
            p.copy_(value)


def _slope(x: Sequence[float], y: Sequence[float]) -> float:
    """Return the slope of log y against log x, by least squares."""
    u, v = (torch.tensor(values, dtype=torch.float64).log() for values in (x, y))
    u = u - u.mean()
    return float(u @ v / (u @ u))
