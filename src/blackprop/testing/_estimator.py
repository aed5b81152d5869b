"""Whether an estimator finds the gradient, with its declared bias and variance."""

from __future__ import annotations

import copy
import math
from dataclasses import is_dataclass, replace
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from blackprop.core._declaration import Declaration
from blackprop.core._ledger import Ledger
from blackprop.core._metered import price
from blackprop.core._query import Purpose
from blackprop.devices import Device, Diffraction, LightModulator, LowRank
from blackprop.errors import IncompatibleError
from blackprop.estimators import Estimator
from blackprop.testing._bench import (
    Bench,
    Redeclared,
    Report,
    fork,
    generator_or_default,
    log_slope,
    relative,
    seeded,
    together,
    watched,
)
from blackprop.testing._estimator_case import EstimatorCase
from blackprop.testing._learning import check_learning, freshly_bound, learns

SIGMAS = 5.0  # largest error of a mean, in its own standard errors
ROUNDING = 1e-3  # further allowed error, relative to the gradient: bias and rounding at the smallest step
COUNTS = (1, 4, 16)
REPEATED = 1e-9  # relative: least squares round by where in memory their arguments lie


def check_estimator(
    estimator: Estimator,
    *,
    device: Device | None = None,
    batch: int = 5,
    samples: int = 2000,
    step: float = 1e-3,
    generator: torch.Generator | None = None,
) -> Report:
    """Measure whether an estimator fulfils its declarations: mean, `bias_order`, `relative_variance`, price, limits.

    Works in float64 on simulators, with their derivative by autograd as the reference: `device`, or three small ones
    (linear, bilinear in θ, and nonlinear within limits), if the estimator accepts them. The declared bias is fitted
    with the estimator's `step` set to `step`, a half, a quarter and an eighth of it, along the same random directions;
    all other measurements use a thousandth of it. For an estimator with a `count`, the variance is fitted over counts 1
    to 16. An estimator that compresses the batch is compared with the gradient of the part that it keeps (`kept`), and
    the bias by the rest is reported.

    An estimator with state, an `nn.Module`, is passed unbound; each claim is tested on a copy. In place of mean and
    variance, its cosine to the gradient must not fall with the calls, and must in the end be at least that of as many
    random directions; with a `relative_variance` of 0 it must find the gradient itself. `eval()` and an interrupted
    procedure must leave its state unchanged, and the state_dict must contain all of it.

    **Arguments:**

    - `estimator`: the estimator.
    - `device` (default None, the three simulators): a simulator.
    - `batch` (default 5): rows of a batch.
    - `samples` (default 2000): directions of each statistic; its error falls as 1/√samples.
    - `step` (units of θ, default 1e-3): small against the features of the device.
    - `generator` (default: seed 0).

    **Raises** `ContractError` for the first claim that does not hold.
    """
    generator = generator_or_default(generator)
    bench = Bench(repr(estimator))
    devices = [device] if device is not None else [LightModulator(3, 2), LowRank(4, 3, rank=2), Diffraction(4, 4)]
    served = [device for device in devices if device is not None and _takes(estimator, device.declaration)]
    if not served:
        estimator.check(devices[0].declaration)
    small = _with(estimator, step=step / 1000)
    for index, each in enumerate(served):
        case = EstimatorCase.draw(bench, each, batch, 20 * step, generator)
        bound = freshly_bound(small, each.declaration, case.theta)
        case = case.kept_by(bench, bound)
        _conduct(bench, bound, case, generator)
        _limits(bench, bound, case, step / 10, generator)
        _bias(bench, bound, case, step, generator)
        if learns(estimator):
            lasting = case.lasting(bound)
            check_learning(bench, bound, each, case.ask, case.truth, step / 1000, generator, lasting)
            continue
        _mean(bench, bound, case, samples, generator)
        if index == 0:  # the law is the directions' and not the device's
            _variance(bench, bound, case, samples, generator)
    return bench.report()


def _takes(estimator: Estimator, spec: Declaration) -> bool:
    try:
        estimator.check(spec)
    except IncompatibleError:
        return False
    return True


def _with(estimator: Estimator, **changes: Any) -> Estimator:
    """Return the estimator with other values of its fields, or of the fields of the estimator that it wraps."""
    if isinstance(estimator, nn.Module):
        twin = copy.deepcopy(estimator)
        for name in changes.keys() & vars(twin).keys():
            setattr(twin, name, changes[name])
        for name, part in _parts(twin):
            setattr(twin, name, _with(part, **changes))
        return twin
    return replace(estimator, **{name: value for name, value in changes.items() if _has(estimator, name)})  # pyright: ignore[reportArgumentType]


def _has(estimator: Estimator, name: str) -> bool:
    if isinstance(estimator, nn.Module):
        return name in vars(estimator) or any(_has(part, name) for _, part in _parts(estimator))
    return is_dataclass(estimator) and name in estimator.__dataclass_fields__


def _parts(estimator: nn.Module) -> list[tuple[str, Estimator]]:
    held = [*vars(estimator).items(), *estimator.named_children()]
    return [(name, part) for name, part in held if isinstance(part, Estimator)]


def _conduct(bench: Bench, estimator: Estimator, case: EstimatorCase, generator: torch.Generator) -> None:
    """One run: repeatable, priced, from a black box, without side effects."""
    spec, seed, asked = case.device.declaration, fork(generator), []
    given = (case.x, case.theta, case.y, case.grad_y)
    before = [tensor.clone() for tensor in given]
    quote = price(lambda: case.grad_theta(estimator, seeded(seed, generator)), case.device)
    booked = Ledger()
    with bench.own_randomness(f"draws from the generator alone, {spec.name}"):
        procedure = watched(case.grad_theta(estimator, seeded(seed, generator)), asked)
        first = bench.run("asks what the device takes", procedure, case.device, booked)
    form = f"{tuple(first.shape)}, {first.dtype}"
    bench.require(
        first.shape == case.theta.shape and first.dtype == case.theta.dtype, "gradient", form, "that of theta"
    )
    same = all(torch.equal(now, then) for now, then in zip(given, before, strict=True))
    bench.require(same, "leaves its arguments as given", "changed in place", "unchanged")
    purposes = {query.purpose.value for query in asked} - {Purpose.PARAMETER.value}
    bench.require(not purposes, "purpose of its queries", f"{purposes}", "parameter")
    cost = f"{booked.total_rows:,} rows, {booked.total_programmings:,} programmings"
    quoted = f"{quote.total_rows:,} rows, {quote.total_programmings:,} programmings"
    bench.settle(quote == booked, f"price, {spec.name}", cost, quoted)
    again = bench.run("repeats", case.grad_theta(estimator, seeded(seed, generator)), case.device)
    off = relative(again - first, first)
    found = "to rounding" if off <= REPEATED else f"off by {off:.2g}"
    bench.settle(off <= REPEATED, f"repeats at the same seed, {spec.name}", found, "to rounding")
    claim, hidden = f"needs queries alone, {spec.name}", Redeclared(case.device)
    if not _takes(estimator, hidden.declaration):
        bench.note(claim, "no: it takes simulators only, and says so")
        return
    blind = bench.run(claim, case.grad_theta(estimator, seeded(seed, generator), hidden.declaration), hidden)
    error = relative(blind - first, first)
    bench.settle(error <= REPEATED, claim, f"the same gradient from a black box within {error:.2g}", "the same")


def _limits(bench: Bench, estimator: Estimator, case: EstimatorCase, width: float, generator: torch.Generator) -> None:
    """Set limits close to θ on both sides, and θ at one of them in every other parameter."""
    claim, seed = f"stays within limits, {case.device.declaration.name}", fork(generator)
    even = torch.arange(case.theta.numel(), device=case.theta.device) % 2 == 0
    low = torch.where(even, case.theta, case.theta - width)
    theta = replace(case.device.declaration.theta, low=low, high=low + width)
    tight = Redeclared(case.device, theta)
    if not _takes(estimator, tight.declaration):
        return
    free = bench.run(claim, case.grad_theta(estimator, seeded(seed, generator)), case.device)
    try:
        held = bench.run(claim, case.grad_theta(estimator, seeded(seed, generator), tight.declaration), tight)
    except IncompatibleError as error:
        bench.note(claim, f"refuses limits {width:g} apart: {error}")
        return
    error = relative(held - free, free)
    bench.settle(error <= 0.01, claim, f"the same gradient at a limit within {error:.2g}", "within 0.01")


def _mean(bench: Bench, estimator: Estimator, case: EstimatorCase, samples: int, generator: torch.Generator) -> None:
    """`E ĝ = ∂L/∂θ`, along the gradient and across it."""
    name, truth = case.device.declaration.name, case.truth
    size = float(truth.norm())
    drawn = case.gradients(bench, estimator, _repeats(estimator, samples), generator)
    error = drawn.mean(0) - truth
    deviation = drawn - drawn.mean(0)
    covariance = deviation.mT @ deviation / ((len(drawn) - 1) * len(drawn))  # of the mean
    spread = float(covariance.diagonal().sum())
    # |error|² is a sum of squares: its mean is the trace of the covariance, and its variance 2 tr C².
    across = math.sqrt(spread + SIGMAS * math.sqrt(2 * float(covariance.square().sum()))) / size
    along = SIGMAS * math.sqrt(float(truth @ covariance @ truth)) / size**2
    off, part = float(error.norm()) / size, float(error @ truth) / size**2
    lasting = case.lasting(estimator)
    allowed = lasting + ROUNDING
    bench.require(
        abs(part) <= along + allowed,
        f"mean, {name}",
        f"{1 + part:.4f} of the true gradient",
        f"1 ± {along + allowed:.2g} ({SIGMAS:g} standard errors)",
    )
    bench.settle(
        off <= across + allowed,
        f"mean, {name}",
        f"{1 + part:.4f} ± {along / SIGMAS:.2g} of the true gradient, off by {off:.2g}"
        + (f" (declared to last: {lasting:.2g})" if lasting else ""),
        f"the true gradient, within {across + allowed:.2g}",
    )


def _bias(bench: Bench, estimator: Estimator, case: EstimatorCase, step: float, generator: torch.Generator) -> None:
    """`ĝ(h) − ĝ(h/2) ~ h^q` along the same directions."""
    order = estimator.bias_order
    if order is None:
        return
    claim = f"bias order, {case.device.declaration.name}"
    bench.require(_has(estimator, "step"), claim, "no field `step` to fit it with", f"{order}")
    seeds, steps = [fork(generator) for _ in range(8)], [step / 2**k for k in range(4)]

    def at(each: float) -> Tensor:
        stepped = _with(estimator, step=each)
        procedures = [case.grad_theta(stepped, seeded(seed, generator)) for seed in seeds]
        return torch.stack(bench.run(claim, together(procedures), case.device))

    found = [at(each) for each in steps]
    sizes = [float((a - b).norm()) for a, b in pairwise(found)]
    # A difference quotient is never more exact than φ's own rounding divided by the step.
    floor = 1e-14 * float((case.y * case.grad_y).abs().sum()) * math.sqrt(8 * case.theta.numel())
    seen = [(h, size) for h, size in zip(steps, sizes, strict=False) if size > floor / h]
    if len(seen) < 2:
        bench.note(claim, f"no bias to be seen at steps up to {step:g}")
        return
    found = log_slope([h for h, _ in seen], [size for _, size in seen])
    bench.settle(abs(found - order) <= 0.1 * order, claim, f"{found:.3f}", f"{order}")


def _variance(
    bench: Bench, estimator: Estimator, case: EstimatorCase, samples: int, generator: torch.Generator
) -> None:
    """`E|ĝ − E ĝ|² / |g|²` against the declared law, at the estimator's own count and over others."""
    case = case.of_one_row(bench)
    variants = [_with(estimator, count=count) for count in COUNTS] if _has(estimator, "count") else [estimator]
    found: list[tuple[int, float, float, float]] = []  # count, measured, law, standard error
    for variant in variants:
        drawn = case.gradients(bench, variant, _repeats(variant, samples), generator)
        squares = (drawn - case.truth).square().sum(1) / case.truth.square().sum()
        measured, error = float(squares.mean()), float(squares.std()) / math.sqrt(len(squares))
        law = variant.relative_variance(case.theta.numel())
        count = getattr(variant, "count", None)
        claim = "relative variance" + (f", count {count}" if count is not None else "")
        text = f"{measured:.4g} ± {error:.2g} (law {law:.4g})"
        lasting = case.lasting(variant)  # its square is not a variance
        allowed = SIGMAS * error + 0.02 * law + (ROUNDING + lasting) ** 2
        bench.settle(abs(measured - law) <= allowed, claim, text, f"{law:.4g}")
        found.append((count or 1, measured, law, error))
    if len(found) > 1 and all(min(measured, law) > ROUNDING for _, measured, law, _ in found):
        counts = [count for count, *_ in found]
        seen, declared = (log_slope(counts, [row[column] for row in found]) for column in (1, 2))
        doubt = max(error / measured for _, measured, _, error in found) / math.log(counts[-1] / counts[0])
        text, bound = f"{seen:.3f} (law {declared:.3f})", max(0.1 * abs(declared), SIGMAS * doubt)
        bench.settle(abs(seen - declared) <= bound, "variance over count, slope", text, f"{declared:.3f} ± {bound:.2g}")


def _repeats(estimator: Estimator, samples: int) -> int:
    """Return how many estimates of `count` directions make up `samples`; few suffice for a deterministic estimator."""
    if not _has(estimator, "count"):
        return samples if estimator.relative_variance(2) else 4
    return max(samples // getattr(estimator, "count"), min(samples, 200))  # noqa: B009
