"""Whether an estimator with memory improves with its queries, and keeps its state."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

from blackprop.core._declaration import Declaration
from blackprop.core._metered import Measurable, price
from blackprop.core._procedure import Procedure
from blackprop.core._query import Query
from blackprop.estimators import Estimator, RandomDirections
from blackprop.testing._bench import Bench, fork, relative, seeded, together

CALLS = (1, 4, 16)  # numbers of estimates after which the quality is measured
CHAINS = 24  # independent starts
LONG = 4  # calls for each parameter, after which an exact estimator knows them all
SIGMAS = 5.0
EXACT = 1e-3  # allowed error of an exact estimate at the smallest step: bias and rounding

Ask = Callable[[Estimator, torch.Generator], Procedure[Tensor]]


def learns(estimator: Estimator) -> bool:
    """Return whether an estimator has state, that is whether it is a module."""
    return isinstance(estimator, nn.Module)


def freshly_bound(estimator: Estimator, spec: Declaration, like: Tensor) -> Estimator:
    """Return a copy that is bound to this device and has learnt from no query, in the precision and place of `like`."""
    twin = copy.deepcopy(estimator)
    twin.bind(spec)
    return twin.to(like).train() if isinstance(twin, nn.Module) else twin


def check_learning(
    bench: Bench,
    estimator: Estimator,
    device: Measurable,
    ask: Ask,
    truth: Tensor,
    step: float,
    generator: torch.Generator,
    lasting: float = 0.0,
) -> None:
    """Test an estimator with state at one θ, batch and cotangent, bound and not yet queried.

    Its estimates may use measurements made elsewhere, so mean and variance are not tested; see `check_estimator`.
    `step` is that of the random directions; `lasting`, the declared error that remains, relative to the gradient.
    """
    lesson = _Lesson(bench, estimator, device, ask, truth, generator)
    _improvement(lesson, step)
    if estimator.relative_variance(len(truth)) == 0:
        _exactness(lesson, EXACT + lasting)
    learnt, stream = copy.deepcopy(estimator), lesson.stream()
    for _ in range(3):
        lesson.estimates([learnt], [stream])
    _evaluation(lesson, learnt)
    _restored(lesson, learnt)
    for when, each in (("at first", estimator), ("later", learnt)):
        _cut_short(lesson, copy.deepcopy(each), when)


@dataclass(frozen=True, eq=False)
class _Lesson:
    bench: Bench
    estimator: Estimator  # before its first query
    device: Measurable
    ask: Ask  # runs the estimator itself, and not a copy
    truth: Tensor  # (P,)
    generator: torch.Generator

    @property
    def name(self) -> str:
        return self.device.declaration.name

    def stream(self, seed: int | None = None) -> torch.Generator:
        return seeded(seed if seed is not None else fork(self.generator), self.generator)

    def estimates(self, estimators: Sequence[Estimator], streams: Sequence[torch.Generator]) -> Tensor:
        procedures = [self.ask(each, stream) for each, stream in zip(estimators, streams, strict=True)]
        return torch.stack(self.bench.run("asks what the device takes", together(procedures), self.device))


def _improvement(lesson: _Lesson, step: float) -> None:
    """The cosine to the exact gradient does not fall over the calls, and ends at least at that of random directions."""
    bench, name, truth = lesson.bench, lesson.name, lesson.truth
    chains = [copy.deepcopy(lesson.estimator) for _ in range(CHAINS)]
    streams = [lesson.stream() for _ in chains]
    found = [_cosines(lesson.estimates(chains, streams), truth) for _ in range(CALLS[-1])]
    cosines = [found[call - 1] for call in CALLS]
    claim, text = f"cosine after {CALLS} calls, {name}", ", ".join(f"{float(c.mean()):.4f}" for c in cosines)
    for before, after in pairwise(cosines):
        rise, doubt = _mean(after - before)
        bench.require(rise >= -SIGMAS * doubt - EXACT, claim, text, "not falling")
    bench.note(claim, text)
    plain = RandomDirections(_count(lesson), step)
    drawn = lesson.estimates([plain] * 8 * CHAINS, [lesson.stream() for _ in range(8 * CHAINS)])
    (least, doubt), (reached, own) = _mean(_cosines(drawn, truth)), _mean(cosines[-1])
    bench.settle(
        reached >= least - SIGMAS * math.hypot(doubt, own),
        f"no worse than random directions, {name}",
        f"cosine {reached:.4f} ± {own:.2g}, that of {plain.count} directions is {least:.4f}",
        f"at least {least:.4f}",
    )


def _count(lesson: _Lesson) -> int:
    """Return the number of directions that it measures along, or else of settings that it programs."""
    if (count := getattr(lesson.estimator, "count", None)) is not None:
        return count
    spent = price(lambda: lesson.ask(copy.deepcopy(lesson.estimator), lesson.stream()), lesson.device)
    return max(1, spent.total_programmings)


def _exactness(lesson: _Lesson, allowed: float) -> None:
    learner, stream, found = copy.deepcopy(lesson.estimator), lesson.stream(), lesson.truth[None]
    for _ in range(LONG * len(lesson.truth)):
        found = lesson.estimates([learner], [stream])
    error = relative(found[0] - lesson.truth, lesson.truth)
    claim = f"exact once learnt, {lesson.name}"
    lesson.bench.settle(error <= allowed, claim, f"within {error:.2g}", f"within {allowed:.2g}")


def _evaluation(lesson: _Lesson, learnt: Estimator) -> None:
    module, seed = _module(learnt), fork(lesson.generator)
    before = _state(module)
    module.eval()
    found = [lesson.estimates([learnt], [lesson.stream(seed)]) for _ in range(2)]
    module.train()
    same = torch.equal(*found) and _equal(_state(module), before)
    lesson.bench.settle(
        same, f"eval leaves the state unchanged, {lesson.name}", "yes" if same else "its state", "unchanged"
    )


def _restored(lesson: _Lesson, learnt: Estimator) -> None:
    """Loaded into an estimator without knowledge, its state continues identically."""
    one, other = copy.deepcopy(learnt), copy.deepcopy(lesson.estimator)
    _module(other).load_state_dict(_module(learnt).state_dict())
    seed = fork(lesson.generator)
    streams = [lesson.stream(seed), lesson.stream(seed)]
    same = all(torch.equal(*lesson.estimates([one, other], streams)) for _ in range(3))
    claim = f"state_dict is its whole state, {lesson.name}"
    lesson.bench.settle(same, claim, "yes" if same else "another estimate", "the same estimates")


def _cut_short(lesson: _Lesson, estimator: Estimator, when: str) -> None:
    """A procedure closed in any of its rounds leaves the following estimates unchanged."""
    bench, claim, seed = lesson.bench, f"all or nothing {when}, {lesson.name}", fork(lesson.generator)
    rounds = 0
    while bench.run(claim, _cut(lesson.ask(cut := copy.deepcopy(estimator), lesson.stream()), rounds), lesson.device):
        rounds += 1
        streams, pair = [lesson.stream(seed), lesson.stream(seed)], [copy.deepcopy(estimator), cut]
        same = all(torch.equal(*lesson.estimates(pair, streams)) for _ in range(2))
        bench.require(same, claim, f"other estimates once round {rounds} fails", "the same")
    bench.note(claim, f"cut short in each of {rounds} rounds, the same estimates after")


def _cut(procedure: Procedure[Tensor], rounds: int) -> Procedure[bool]:
    """Serve this many rounds and close the procedure in the next; return whether there was one."""
    try:
        queries: Sequence[Query] = next(procedure)
        for _ in range(rounds):
            queries = procedure.send((yield queries))
    except StopIteration:
        return False
    procedure.close()
    return True


def _module(estimator: Estimator) -> nn.Module:
    assert isinstance(estimator, nn.Module)
    return estimator


def _state(module: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in module.state_dict().items()}


def _equal(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def _cosines(found: Tensor, truth: Tensor) -> Tensor:
    return torch.cosine_similarity(found, truth[None])


def _mean(values: Tensor) -> tuple[float, float]:
    """Return the mean and its standard error."""
    return float(values.mean()), float(values.std()) / math.sqrt(len(values))
