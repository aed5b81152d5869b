"""Whether a surrogate gives the input gradient, follows θ, and keeps its state."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor

from blackprop.core._ledger import Ledger
from blackprop.core._metered import price
from blackprop.core._procedure import Procedure, ask
from blackprop.core._query import Count, Purpose, Query, same_setting
from blackprop.devices import Device, LowRank
from blackprop.errors import IncompatibleError
from blackprop.surrogates import Surrogate
from blackprop.testing._bench import (
    Bench,
    Redeclared,
    Report,
    fork,
    generator_or_default,
    normal,
    random_rows,
    relative,
    seeded,
    watched,
)
from blackprop.testing._surrogate_case import SurrogateCase

Make = Callable[[], Surrogate]
Learn = Callable[[Surrogate, torch.Generator], Procedure[None]]


def check_surrogate(
    factory: Make,
    *,
    device: Device | None = None,
    tracks: bool = True,
    steps: int = 50,
    tolerance: float = 1e-4,
    batch: int = 4,
    generator: torch.Generator | None = None,
) -> Report:
    """Measure whether a surrogate gives the right gradient where it was learnt, without queries.

    The reference is the vector-Jacobian product of the device: read from d_in unit rows if it is linear, by autograd
    otherwise; for a surrogate with a `rank`, that of the best approximation of rank r. (A surrogate that treats a
    nonlinear device as linear is not compared.) By default the device is a matrix of rank at most r, so that the
    reference is exact.

    **Arguments:**

    - `factory`: makes a new surrogate at each call.
    - `device` (default None, a matrix of low rank): a linear device or a simulator.
    - `tracks` (default True): whether it claims to follow θ. Over `steps` small changes on a straight line, which
      change the readings by a third, each followed by a batch to observe, its gradient must keep a cosine above 0.99 to
      the reference.
    - `steps` (default 50).
    - `tolerance` (default 1e-4): relative error of a gradient just learnt.
    - `batch` (default 4): rows.
    - `generator` (default: seed 0).

    **Raises** `ContractError` for the first claim that does not hold.
    """
    generator = generator_or_default(generator)
    sample = factory()
    bench = Bench(f"{type(sample).__name__}({sample.extra_repr()})")
    device = device if device is not None else LowRank(16, 12, rank=min(3, getattr(sample, "rank", 3)))
    spec = device.declaration
    bench.note("device", spec.name)
    path = _path(bench, device, steps, batch, generator)

    def start(surrogate: Surrogate, stream: torch.Generator) -> Procedure[None]:
        return surrogate.start(path[0], stream)

    def track(surrogate: Surrogate, stream: torch.Generator) -> Procedure[None]:
        return surrogate.track(path[0], path[1], stream)

    case = SurrogateCase(bench, device, factory, generator, batch, tolerance)
    _binding(case)
    learnt = _conduct(case, "start", start, case.bound())
    _gradient(case, learnt, path[0])
    moved = _conduct(case, "track", track, learnt)
    _order(case, track, learnt, path[0], path[1])
    _blindness(case, start, track)
    _restored(case, moved)
    _following(case, path, tracks)
    return bench.report()


def _path(bench: Bench, device: Device, steps: int, batch: int, generator: torch.Generator) -> list[Tensor]:
    """Return settings on a straight line, over which the readings change by a third."""
    spec = device.declaration
    x = random_rows(spec, batch, generator)
    start = spec.theta.draw(generator)
    way = normal(start.shape, generator)

    def read(theta: Tensor) -> Tensor:
        return bench.run("path", ask(Query(x, theta, Purpose.CALIBRATE)), device)[0]

    first, length = read(start), 1e-3
    for _ in range(100):
        if relative(read(spec.theta.clamp(start + length * way)) - first, first) >= 1 / 3:
            break
        length *= 1.1
    return [spec.theta.clamp(start + (k / steps) * length * way) for k in range(steps + 1)]


def _binding(case: SurrogateCase) -> None:
    surrogate = case.bound()
    try:
        surrogate.bind(case.spec)
    except IncompatibleError:
        case.bench.note("binds once", "yes")
    else:
        case.bench.require(False, "binds once", "a second device was taken on", "one device")


def _conduct(case: SurrogateCase, name: str, learn: Learn, before: Surrogate) -> Surrogate:
    """One `start` or `track`: all or nothing, repeatable, priced. Returns the surrogate afterwards."""
    bench, seed, asked = case.bench, fork(case.generator), []
    surrogate, state = case.copy(before), _state(before)
    rounds = 0
    while _fails(case, surrogate, learn, seed, rounds):
        rounds += 1
        kept, claim = _equal(_state(surrogate), state), f"{name} is all or nothing"
        bench.require(kept, claim, f"another state when round {rounds} fails", "the state before it")
    bench.note(f"{name} is all or nothing", f"cut short in each of {rounds} rounds, unchanged")
    twin = case.copy(before)
    quote = price(lambda: learn(case.copy(before), seeded(seed, case.generator)), case.device)
    booked = Ledger()
    with bench.own_randomness(f"{name} draws from the generator alone"):
        bench.run(name, watched(learn(twin, seeded(seed, case.generator)), asked), case.device, booked)
    cost = f"{booked.total_rows:,} rows, {booked.total_programmings:,} programmings"
    quoted = f"{quote.total_rows:,} rows, {quote.total_programmings:,} programmings"
    bench.settle(quote == booked, f"price of {name}", cost, quoted)
    purposes = {query.purpose.value for query in asked} - {Purpose.SURROGATE.value, Purpose.CALIBRATE.value}
    bench.require(not purposes, f"purpose of the queries of {name}", f"{purposes}", "surrogate or calibrate")
    again = case.copy(before)
    case.learn(again, name, learn, seed)
    same = _equal(_state(again), _state(twin))
    bench.settle(same, f"{name} repeats at the same seed", "yes" if same else "another state", "yes")
    return twin


class _Cut(Exception):
    """A round that fails."""


class _Failing:
    """A device that serves this many rounds and then fails."""

    def __init__(self, device: Device, rounds: int) -> None:
        self.declaration, self._device, self._left = device.declaration, device, rounds

    @property
    def programmed(self) -> Tensor | None:
        return self._device.programmed

    def repeated(self) -> Count:
        return self._device.repeated()

    def measure(self, queries: Sequence[Query], /) -> list[Tensor]:
        if self._left == 0:
            raise _Cut
        self._left -= 1
        return self._device.measure(queries)


def _fails(case: SurrogateCase, surrogate: Surrogate, learn: Learn, seed: int, rounds: int) -> bool:
    """Serve this many rounds and fail the next; return whether there was one to fail."""
    try:
        case.learn(surrogate, "cut short", learn, seed, _Failing(case.device, rounds))
    except _Cut:
        return True
    return False


def _gradient(case: SurrogateCase, surrogate: Surrogate, theta: Tensor) -> None:
    """Check `grad_x` (form, linearity in the cotangent, no side effects), and its value after `start`."""
    bench, (x, g), (_, other) = case.bench, case.rows(), case.rows()
    given, state = (x.clone(), g.clone()), _state(surrogate)
    spent = bench.ledger.total_rows
    with torch.no_grad():
        grad = surrogate.grad_x(x, g)
        mixed, apart = surrogate.grad_x(x, 2 * g - other), 2 * grad - surrogate.grad_x(x, other)
    fits = grad.shape == x.shape and grad.dtype == x.dtype and bool(grad.isfinite().all())
    bench.settle(fits, "gradient", f"{tuple(grad.shape)}, {grad.dtype}", f"{tuple(x.shape)}, {x.dtype}, finite")
    untouched = torch.equal(x, given[0]) and torch.equal(g, given[1]) and _equal(_state(surrogate), state)
    bench.require(untouched, "grad_x has no side effects", "its arguments or its state changed", "unchanged")
    asked = bench.ledger.total_rows - spent
    bench.settle(asked == 0, "grad_x makes no queries", f"{asked} rows", "0 rows")
    error = relative(mixed - apart, apart)
    bench.settle(error <= 1e-4, "grad_x is linear in the cotangent", f"within {error:.2g}", "linear")
    (y,) = bench.run("forward", ask(Query(x, theta, Purpose.CALIBRATE)), case.device)
    surrogate.observe(x, y)
    if not case.spec.linear and getattr(surrogate, "treat_as_linear", False):
        bench.note("right after start", "not tested: it treats the device as linear")
        return
    truth = case.truth(theta, x, g, getattr(surrogate, "rank", None))
    with torch.no_grad():
        error = relative(surrogate.grad_x(x, g) - truth, truth)
    bench.settle(error <= case.tolerance, "right after start", f"within {error:.2g}", f"within {case.tolerance:g}")


def _order(case: SurrogateCase, track: Learn, learnt: Surrogate, old: Tensor, new: Tensor) -> None:
    asked: Sequence[Query] = []
    procedure = watched(track(case.copy(learnt), seeded(fork(case.generator), case.generator)), asked)
    case.bench.run("track", procedure, case.device)
    at_old = [same_setting(query.theta, old) for query in asked]
    first_elsewhere = at_old.index(False) if False in at_old else len(at_old)
    ordered = not any(at_old[first_elsewhere:])
    known = all(is_old or same_setting(query.theta, new) for is_old, query in zip(at_old, asked, strict=True))
    text = f"{sum(at_old)} queries at the old setting, {len(at_old) - sum(at_old)} at the new"
    claim = "asks at the old setting first"
    case.bench.require(known, claim, "a query at a third setting", "the old and the new setting alone")
    case.bench.settle(ordered, claim, text if ordered else "the old setting after the new", "old, then new")


def _blindness(case: SurrogateCase, start: Learn, track: Learn) -> None:
    """The state is the same with a device that hides its oracle and whose readings cannot be differentiated."""
    claim, hidden = "needs queries alone", Redeclared(case.device)
    try:
        blind = case.bound(hidden.declaration)
    except IncompatibleError:
        case.bench.note(claim, "no: it takes simulators only, and says so")
        return
    seed, seeing = fork(case.generator), case.bound()
    for surrogate, device in ((seeing, case.device), (blind, hidden)):
        for learn in (start, track):
            case.learn(surrogate, claim, learn, seed, device)
    same = _equal(_state(blind), _state(seeing))
    case.bench.settle(same, claim, "the same state from a black box" if same else "another state", "the same state")


def _restored(case: SurrogateCase, surrogate: Surrogate) -> None:
    x, g = case.rows()
    with torch.no_grad():
        same = torch.equal(case.copy(surrogate).grad_x(x, g), surrogate.grad_x(x, g))
    case.bench.settle(same, "state_dict is its whole state", "yes" if same else "another gradient", "the same gradient")


def _following(case: SurrogateCase, path: list[Tensor], tracks: bool) -> None:
    """As in training: at each change of θ track it, then show the rows of a batch; return the cosine at the end."""
    claim, surrogate, seed = f"tracks over {len(path) - 1} changes", case.bound(), fork(case.generator)
    stream = seeded(seed, case.generator)
    for old, new in [(None, path[0]), *pairwise(path)]:
        procedure = surrogate.start(new, stream) if old is None else surrogate.track(old, new, stream)
        case.bench.run(claim, procedure, case.device)
        x, _ = case.rows()
        (y,) = case.bench.run(claim, ask(Query(x, new, Purpose.CALIBRATE)), case.device)
        surrogate.observe(x, y)
    x, g = case.rows()
    rank = getattr(surrogate, "rank", None)
    right, first = case.truth(path[-1], x, g, rank), case.truth(path[0], x, g, rank)
    with torch.no_grad():
        found = float(torch.cosine_similarity(surrogate.grad_x(x, g).flatten(), right.flatten(), 0))
    stayed = float(torch.cosine_similarity(first.flatten(), right.flatten(), 0))
    text = f"cosine {found:.4f} (staying behind: {stayed:.4f})"
    if tracks:
        case.bench.settle(found > 0.99, claim, text, "above 0.99")
    else:
        case.bench.note(claim, f"not claimed: {text}")


def _state(surrogate: Surrogate) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in surrogate.state_dict().items()}


def _equal(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(a[name].dtype == b[name].dtype and torch.equal(a[name], b[name]) for name in a)
