"""Where cells come to rest, and the steps of single pulses there: their size and how they vary."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from blackprop.characterisation._findings import Finding, sure, unknown
from blackprop.characterisation.pulsed._array import Array
from blackprop.characterisation.pulsed._retention import retention
from blackprop.characterisation.pulsed._steps import CHECKED, Steps
from blackprop.core._procedure import Procedure

LEAST, MOST = 32, 4096  # pairs of pulses that lead to the symmetric point
READINGS = 8  # of the weights at rest, between which they are touched
REPEATS = 32  # of each number of pulses
PARTS = 32  # of the way between the bounds: the pulses of a group
APART = 0.2  # of the range between two ways to the symmetric point, above which there is none
EXACT = 0.05  # relative error up to which a mean step is used
ALIKE = 0.1  # between two halves of the repetitions
CUT = 0.7  # of the change of a single pulse, below which those of several are cut off
COARSE = 16  # states below which a cell rests between two weights that are far apart
BALANCED = 0.25  # of a step: the most by which steps at rest may differ
SIGMAS = 4.0


@dataclass(frozen=True, eq=False)
class PulseGroup:
    """Changes by `size` pulses up, and then down, again and again: each (repeats, d_out, d_in), positive."""

    size: int
    up: Tensor
    down: Tensor

    @property
    def both(self) -> Tensor:
        return torch.stack((self.up, self.down))

    @property
    def variance(self) -> float:
        """Of a change of one cell, from repetition to repetition."""
        return float(self.both.var(1).mean())

    def mean(self, *parts: slice) -> tuple[float, float]:
        """The mean change of a pulse, and its standard error, by default of all repetitions."""
        taken = self.both[:, parts[0]] if parts else self.both
        each = taken.mean((0, 2, 3)) / self.size
        return float(each.mean()), float(each.std()) / len(each) ** 0.5


@dataclass(frozen=True, eq=False)
class Rest:
    findings: tuple[Finding, ...]

    def value(self, name: str) -> float | None:
        """The value of a finding, if it is known."""
        found = next(each for each in self.findings if each.name == name)
        return found.value if found.known and isinstance(found.value, float) else None


def rest(array: Array, seen: Steps) -> Procedure[Rest]:
    """Lead the cells to rest from both ends, and repeat pulses there."""
    if not seen.moves:
        names = ("step size", "states", "symmetric point", "cycle variation", "write noise", "retention")
        return Rest(tuple(unknown(name, "not asked: the pulses move no cell") for name in names))
    range_ = seen.high - seen.low
    pairs = min(max(seen.pulses, LEAST), MOST)
    ends = []
    for sign in (1.0, -1.0):
        yield from array.send(sign, seen.pulses)
        yield from array.shake(pairs)
        ends.append((yield from _settled(array)))
    first = yield from _repeated(array, 1)
    middle = yield from _repeated(array, max(2, seen.pulses // (2 * PARTS)))
    groups = [first, middle, (yield from _repeated(array, max(3, seen.pulses // PARTS)))]
    step = _step(groups)
    findings = [step, _states(step, seen), _point(ends, groups, range_, 2 * pairs), *_cycles(groups)]
    findings.append((yield from retention(array, seen)))
    return Rest(tuple(findings))


def _settled(array: Array) -> Procedure[Tensor]:
    """The mean of readings after pulses up and after pulses down, with each of which write noise is drawn anew."""
    total = torch.zeros(())
    for _ in range(READINGS // 2):
        for sign in (1.0, -1.0):
            yield from array.send(sign, 1)
            (now,) = yield from array.read()
            total = total + now.double() / READINGS
    return total


def _repeated(array: Array, size: int) -> Procedure[PulseGroup]:
    (here,) = yield from array.read()
    ups, downs = [], []
    for _ in range(REPEATS):
        yield from array.send(1.0, size)
        (top,) = yield from array.read()
        yield from array.send(-1.0, size)
        (now,) = yield from array.read()
        ups.append(top - here)
        downs.append(top - now)
        here = now
    return PulseGroup(size, torch.stack(ups).double(), torch.stack(downs).double())


def _step(groups: list[PulseGroup]) -> Finding:
    """From the first half of the repetitions of the smallest number of pulses that is exact enough; the second half
    must agree.
    """
    exact = (group for group in groups if max(error for _, error in _halves(group)) <= EXACT * _halves(group)[0][0])
    group = next(exact, groups[-1])
    (first, error), (second, other) = _halves(group)
    text = f"{first:.4g} a pulse where the cells rest, by {group.size} pulses at a time; {second:.4g} in later ones"
    if not first > 0 or abs(first - second) > ALIKE * first + SIGMAS * math.hypot(error, other):
        return unknown("step size", f"{text}: they do not agree")
    mean, error = group.mean()
    return Finding("step size", mean, True, text, sure(min(float(group.up.numel()), CHECKED)), error)


def _halves(group: PulseGroup) -> tuple[tuple[float, float], tuple[float, float]]:
    """The mean change of a pulse, with its error, of the first half of the repetitions and of the second."""
    return group.mean(slice(0, REPEATS // 2)), group.mean(slice(REPEATS // 2, REPEATS))


def _states(step: Finding, seen: Steps) -> Finding:
    text = f"steps from {seen.low:.4g} to {seen.high:.4g}"
    if not step.known or not isinstance(step.value, float) or step.error is None:
        return unknown("states", "the size of the steps is not known")
    states = (seen.high - seen.low) / step.value
    return Finding("states", states, True, text, step.confidence, states * step.error / step.value)


def _point(ends: list[Tensor], groups: list[PulseGroup], range_: float, pulses: int) -> Finding:
    """The root mean square over the cells, from two independent ways to it, whose noise so does not enter."""
    name, apart = "symmetric point", float((ends[0] - ends[1]).mean().abs())
    if apart > APART * range_:
        text = (
            f"after {pulses} pulses up and down in turn the cells from above and from below are {apart:.3g} apart, of "
            f"a range of {range_:.3g}: steps are so alike in both directions that no point draws them"
        )
        return unknown(name, text)
    products = ends[0] * ends[1]
    square, doubt = float(products.mean()), float(products.std()) / products.numel() ** 0.5
    spread, mean = math.sqrt(max(square, 0.0)), float((ends[0] + ends[1]).mean()) / 2
    up, down = (float(each.mean()) / groups[-1].size for each in groups[-1].both)
    error = groups[-1].mean()[1]
    text = (
        f"root mean square over the cells, whose mean is {mean:.3g}; from above and below {apart:.2g} apart after "
        f"{pulses} pulses; steps up and down there, {up:.3g} and {down:.3g} on the mean"
    )
    if range_ < COARSE * groups[0].mean()[0]:
        text = f"{text}; it is the mean of the two weights between which a cell of so few states goes to and fro"
    if abs(up - down) > BALANCED * (up + down) / 2 + SIGMAS * error:
        return unknown(name, f"{text}: they do not balance")
    checks = sure(min(float(products.numel()), CHECKED))
    return Finding(name, spread, True, text, checks, doubt / max(2 * spread, doubt**0.5))


def _cycles(groups: list[PulseGroup]) -> list[Finding]:
    """From three numbers of pulses n: the variance of a change is `a + n b`, of reading and writing a, of pulses b."""
    names = ("cycle variation", "write noise")
    first, middle, last = groups
    samples = 2 * REPEATS * first.up[0].numel()
    each = (last.variance - first.variance) / (last.size - first.size)
    fixed = first.variance - first.size * each
    text = (
        f"changes by {', '.join(str(g.size) for g in groups)} pulses, {REPEATS} times each, vary by "
        f"{', '.join(f'{g.variance**0.5:.3g}' for g in groups)}"
    )
    error = SIGMAS * last.variance * math.sqrt(2 / samples)
    grown = last.variance - first.variance
    if last.mean()[0] < CUT * first.mean()[0] - SIGMAS * first.mean()[1]:
        why = f"{text}: several pulses in a row move the cells to their bounds, which cut the noise off"
        return [unknown(name, why) for name in names]
    if abs(middle.variance - fixed - middle.size * each) > 0.25 * abs(grown) + error:
        why = f"{text}: they do not grow with the number of pulses as independent ones do"
        return [unknown(name, why) for name in names]
    square = float((first.both.mean(1) ** 2).mean()) - first.variance / REPEATS  # of a cell's own step
    if square <= 3 * first.variance / REPEATS:  # a single pulse is lost in the write noise
        square = float((last.both.mean(1) ** 2).mean() - last.variance / REPEATS) / last.size**2
    doubt = error / SIGMAS / (last.size - first.size) / max(square, 1e-30)
    relative, checks = math.sqrt(max(each, 0.0) / max(square, 1e-30)), sure(min(2.0 * REPEATS, CHECKED))
    told, doubt = f"{text}; in units of a cell's step", doubt / max(2 * relative, doubt**0.5)
    cycle = Finding(names[0], relative, True, told, checks, doubt)
    if fixed <= error:
        floor = f"less than {math.sqrt(error / 2):.2g}: the variance of a change grows from zero with the pulses"
        return [cycle, Finding(names[1], 0.0, True, floor, checks, math.sqrt(error / 2))]
    told = "the part of these changes that does not grow with the pulses, of a reading included"
    written = math.sqrt(fixed / 2)
    return [cycle, Finding(names[1], written, True, told, checks, error / SIGMAS / (4 * written))]
