"""Whether an optimizer that needs the loss alone finds the gradient, and has no side effects."""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from blackprop import presets
from blackprop.core._ledger import Ledger
from blackprop.core._theta import ThetaSpec
from blackprop.devices import Simulator
from blackprop.errors import BlackpropError
from blackprop.nn._layer import PhysicalLayer
from blackprop.testing._bench import Bench, Report, fork, generator_or_default, log_slope, normal, relative, seeded
from blackprop.testing._optimizer_case import Factory, OptimizerCase, TrainsByLoss, flat, set_values, values

SIGMAS = 5.0  # largest error of a mean, in its own standard errors
ROUNDING = 1e-3  # further allowed error: bias and rounding at the smallest displacement
KNOBS = {"directions": (1, 4, 16), "keep": (1.0, 0.3, 0.1), "levels": (1, 4)}  # possible arguments of a variance law


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
    case = OptimizerCase(factory, generator_or_default(generator), samples, step)
    _conduct(case)
    _following(case)
    _restored(case)
    _failures(case)
    _limits(case)
    _bias(case)
    _mean_and_variance(case)
    _law(case)
    return case.bench.report()


def _conduct(case: OptimizerCase) -> None:
    """One estimate: counted, independent of gradients, repeatable, without side effects."""
    bench, seed, graphs = case.bench, case.seed(), []

    def watched() -> Tensor:
        graphs.append(torch.is_grad_enabled())
        return case.model()

    with bench.own_randomness():
        first = flat(case.made(seed).estimate(watched))
    case.made(seed, delta=1e3).estimate(case.model)  # large enough that adding and subtracting it would lose digits
    moved = any(not torch.equal(a, b) for a, b in zip(values(case.model), case.start, strict=True))
    bench.settle(not moved, "an estimate moves no parameter", "parameters moved" if moved else "to the bit", "none")
    bench.require(not any(graphs), "takes no gradient", "the closure ran with gradients enabled", "none")
    made = case.made(seed)
    asked, expected = len(graphs), {made.passes * made.integration + extra for extra in (0, 1)}
    bench.require(asked in expected, "passes", f"{asked} in {made.integration} steps", f"{made.passes} each")
    off = float((flat(made.estimate(case.model)) - first).abs().max())
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


def _mean_and_variance(case: OptimizerCase) -> None:
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


def _law(case: OptimizerCase) -> None:
    """The variance over each of the knobs of the optimizer, and its slope."""
    sample = case.made(0)
    for name, tried in KNOBS.items():
        if not (name in sample.param_groups[0] or hasattr(sample, name)):
            continue
        measured, laws, doubts = [], [], []
        for value in tried:
            drawn, law = case.estimates(**{name: value})
            spread = (drawn - case.truth).square().sum(1) / case.truth.square().sum()
            doubts.append(_against_law(case.bench, f"relative variance, {name} {value:g}", spread, law))
            measured.append(float(spread.mean()))
            laws.append(law)
        slope, declared = log_slope(tried, measured), log_slope(tried, laws)
        if abs(declared) < 0.1:  # hardly a power
            continue
        bound = SIGMAS * max(doubts) / abs(math.log(tried[-1] / tried[0])) + 0.02
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


def _bias(case: OptimizerCase) -> None:
    """`ĝ(δ) − ĝ(δ/2) ~ δ^q` along the same directions."""
    seeds = [case.seed() for _ in range(8 if case.random else 1)]
    deltas = [case.step / 2**k for k in range(4)]
    found = [torch.stack([flat(case.made(seed, delta).estimate(case.model)) for seed in seeds]) for delta in deltas]
    slope = log_slope(deltas[:3], [float((a - b).norm()) for a, b in pairwise(found)])
    order = case.made(0).bias_order
    case.bench.settle(abs(slope - order) <= 0.1 * order, "bias order", f"{slope:.3f}", f"{order}")


def _following(case: OptimizerCase) -> None:
    """The parameters move along the estimate."""
    seed = case.seed()
    estimate = flat(case.made(seed).estimate(case.model))
    made = case.made(seed)
    for _ in range(case.integration - 1):
        made.step(case.model)
        still = torch.equal(flat(values(case.model)), flat(case.start))
        case.bench.require(still, "steps", "parameters moved before the time was up", f"after {case.integration}")
    made.step(case.model)
    moved = flat(case.start) - flat(values(case.model))
    cosine = float(torch.cosine_similarity(moved, estimate, 0))
    case.bench.settle(cosine > 0.5, "steps along its estimate", f"cosine {cosine:.3f}", "downhill")


def _restored(case: OptimizerCase) -> None:
    """Saved in the middle of an integration, and loaded into another optimizer with another seed."""
    made = case.made(fork(case.generator))
    for _ in range(case.integration + 2):
        made.step(case.model)
    file = io.BytesIO()
    torch.save(made.state_dict(), file)
    file.seek(0)
    there = values(case.model)
    expected = _trace(case, made)
    other = case.made(fork(case.generator), delta=case.step)
    other.load_state_dict(torch.load(file))
    set_values(case.model, there)
    same = torch.equal(_trace(case, other), expected)
    case.bench.settle(same, "state_dict is its whole state", "yes" if same else "other steps", "the same steps")


def _failures(case: OptimizerCase) -> None:
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
            set_values(case.model, case.start)
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


def _refuse(case: OptimizerCase, claim: str, made: TrainsByLoss, closure: Callable[[], Any]) -> None:
    try:
        made.step(closure)
    except (BlackpropError, ZeroDivisionError):
        same = all(torch.equal(a, b) for a, b in zip(values(case.model), case.start, strict=True))
        case.bench.require(same, claim, "parameters changed", "as they were, to the bit")
    else:
        case.bench.require(False, claim, "no error", "an error")


class _Tight(Simulator):
    def __init__(self, low: Tensor | None = None, high: Tensor | None = None) -> None:
        super().__init__(3, 2, ThetaSpec(6, low=low, high=high))

    def transfer(self, x: Tensor, theta: Tensor, /) -> Tensor:
        return (x @ theta.unflatten(-1, (2, 3)).mT).sin()


def _limits(case: OptimizerCase) -> None:
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
        found.append(flat(made.estimate(loss)))
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


def _trace(case: OptimizerCase, made: TrainsByLoss) -> Tensor:
    """Return the parameters after the next updates."""
    for _ in range(2 * case.integration):
        made.step(case.model)
    return flat(values(case.model))
