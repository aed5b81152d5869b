"""Calibrate independent elements: read settings, fit and check curves, and read more settings where the check asks."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from blackprop.core._declaration import Declaration
from blackprop.core._probes import Probes, hartley, spanning
from blackprop.core._procedure import ROUND_BYTES, Procedure
from blackprop.core._query import Purpose, Query
from blackprop.errors import BudgetExhausted
from blackprop.surrogates._watch import NEGLIGIBLE
from blackprop.surrogates.calibration._curve_fit import FEWEST, LEARNT_FROM, CurveFit, preferred
from blackprop.surrogates.calibration._drift import displaced, moved
from blackprop.surrogates.calibration._range import Range
from blackprop.surrogates.calibration._spectra import NOTHING, Samples, estimate
from blackprop.surrogates.calibration._sweep import PLACES, Sweep
from blackprop.surrogates.calibration._trust import LOOKED_AT, Surprise, Trust, contradicted, surprise, trust

BLOCK = 1024  # inputs that one orthogonal set spans; more are spanned in blocks
LEAST = 0.92, 0.9  # cosine and share of right signs that are expected of slopes to train by
CLEARLY = 0.97, 0.93  # the same, where more settings may be asked for
CALLS = len(PLACES)


@dataclass(frozen=True)
class Calibration:
    """Curves, their samples, and the result of the check."""

    fit: CurveFit
    trust: Trust
    wrong: float
    """The mean square by which the first fit mistook the settings that were held out last."""
    values: Tensor  # (K, P)
    turns: Tensor  # (K, G)
    sweep: Sweep
    range: Range
    asked: int = 0
    """The number of settings read, with those that were read again."""
    moving: bool = False
    """Whether the settings that were read again show that the device moves."""

    @property
    def settings(self) -> int:
        return len(self.values)

    @property
    def trusted(self) -> bool:
        return trustworthy(self.trust, self.fit.found.samples.size)

    def setting(self, k: int) -> Tensor:
        """The k-th θ (P,) that was measured."""
        return _settings(self.range, self.turns[k, None].to(self.values), self.sweep.group)[0]


def calibrate(
    spec: Declaration,
    range_: Range,
    input_rms: float | None,
    theta: Tensor,
    generator: torch.Generator,
    *,
    settings: int,
    calls: int,
    harmonics: int,
) -> Procedure[Calibration]:
    """Read `settings` settings, and as many again where the check asks for them, in `calls` calls at most or until the
    budget forbids more. Read one setting twice again before that, to see whether the device moves.
    """
    sweep = Sweep.draw(theta.numel(), settings, not range_.periodic, theta, generator)
    (some, learnt), groups = _chosen(theta, generator), sweep.groups
    turns, values = torch.zeros(0, len(sweep.shift)).to(sweep.shift), theta.new_zeros(0, theta.numel())
    best, asked = None, 0

    def fitted(samples: Samples, turns: Tensor) -> CurveFit:
        return CurveFit(estimate(samples, harmonics, spec.noise**2 * samples.power), None, turns)

    def judged(turns: Tensor, values: Tensor, held: int, drift: float = 0.0) -> Calibration:
        before, group = values[:-held], sweep.group[some].long()
        samples = Samples.of(turns, groups, values, sweep.even)
        first, full = fitted(samples.first(len(before)), turns[:-held]), fitted(samples, turns)
        noise = min(first.noise, full.noise)

        def seen_by(fit: CurveFit) -> Surprise:
            curves = fit.posterior(group, before[:, some])
            return surprise(curves, before[:, some], turns[-held:], values[-held:, some], min(noise, fit.noise), drift)

        seen, curves = seen_by(first), full.posterior(group, values[:, some])
        if len(learnt) >= FEWEST and full.found.own.any():
            floor = max(spec.noise**2 * full.found.samples.power, NOTHING * full.found.samples.variance)
            of = sweep.group[learnt].long()
            part = first.as_family(of, before[:, learnt], floor)
            whole = full.following(part, of, values[:, learnt], floor)
            others, better = whole.posterior(group, values[:, some]), seen_by(part)
            if preferred(others, curves, whole.learnt) and not contradicted(better, seen):
                seen, full, curves = better, whole, others
        told = trust(curves, seen)
        left = told.left if full.family is None else max(told.left, curves.mistaken - full.noise)  # by strays
        told = replace(told, left=left, cosine=told.cosine * displaced(full.found, drift))
        return Calibration(full, told, seen.wrong, values, turns, sweep, range_, moving=drift > 0)

    def read(*turns: Tensor) -> Procedure[Tensor]:
        drawn = (spanning_probes(spec, input_rms, theta, generator) for _ in turns)
        return _values(spec, range_, theta, turns, sweep.group, drawn)

    for number in range(calls):
        grid, apart = sweep.call(number)
        try:
            more = yield from read(grid, apart)
            turns, values = torch.cat((turns, grid, apart)), torch.cat((values, more)) if len(values) else more
            asked += len(grid) + len(apart)
            best = judged(turns, values, len(apart))
            if _settled(best) or calls == 1 or (number == calls - 1 and best.trusted):
                break
            old, now = yield from read(grid[:1], grid[:1])  # on other rows, as those before were
            asked += 2
            power = sum(float(value.square().mean()) for value in values) / len(values)
            if drift := moved(old - more[0], old - now, power):  # further settings would be of other places
                parts = {len(turns), settings}
                tried = [judged(turns[-n:], values[-n:], len(apart), drift / 2) for n in parts]
                best = max(tried, key=lambda each: each.trust.cosine)
                break
        except BudgetExhausted:
            if best is None:
                raise
            break
    assert best is not None
    return replace(best, asked=asked)


def trustworthy(trust: Trust, elements: float, least: tuple[float, float] = LEAST) -> bool:
    """Whether slopes are good enough to train by: a cosine above 0.92 and 90 signs of 100 right, and a margin where
    elements are few, since less is then known of their spectra.
    """
    margin, (cosine, signs) = 1 / math.sqrt(elements), least
    return trust.cosine > cosine + min(0.12 * margin, 0.95 * (1 - cosine)) and trust.signs > signs + 0.05 * margin


def _settled(calibration: Calibration) -> bool:
    """Whether more settings are not needed or would not help: held-out ones err by 1 %, or by little beyond the noise,
    and slopes may be trusted clearly; or the samples show noise alone.
    """
    noise, samples = calibration.fit.noise, calibration.fit.found.samples
    explained = calibration.wrong - noise < max(NEGLIGIBLE * samples.power, 0.5 * noise)
    return samples.variance < 2 * noise or (explained and trustworthy(calibration.trust, samples.size, CLEARLY))


def _chosen(theta: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """At most `LOOKED_AT` elements that are checked, and at most `LEARNT_FROM` of them that a family is learnt from: at
    random, since every other column may be of another kind.
    """
    order = torch.randperm(theta.numel(), generator=generator, device=generator.device)
    checked, learnt = (order[:count].sort().values.to(theta.device) for count in (LOOKED_AT, LEARNT_FROM))
    return checked, learnt


def spanning_probes(spec: Declaration, input_rms: float | None, theta: Tensor, generator: torch.Generator) -> Probes:
    """Rows that span the inputs: a random orthogonal set, each as long as the data's are; within limits, others."""
    norm = input_rms or math.sqrt(spec.d_in)
    if spec.d_in <= BLOCK or spec.x_limited:
        rows = orthogonal(spec.d_in, theta, generator).mul_(norm)
        return spanning(spec, rows, norm**2, norm / math.sqrt(spec.d_in))
    # Many inputs: random signs before a transform that is fast, in place of products and of a decomposition.
    drawn = torch.randint(2, (spec.d_in,), generator=generator, device=generator.device).to(theta)
    signs, full = 2 * drawn - 1, hartley(BLOCK, theta)
    sizes = [min(BLOCK, spec.d_in - start) for start in range(0, spec.d_in, BLOCK)]
    parts = [full if size == BLOCK else hartley(size, theta) for size in sizes]
    rows = torch.block_diag(*parts).mul_(norm * signs)
    return spanning(spec, rows, norm**2, norm / math.sqrt(spec.d_in), BLOCK, signs)


def orthogonal(size: int, like: Tensor, generator: torch.Generator) -> Tensor:
    """An orthogonal matrix, uniformly random; of more than `BLOCK` inputs, block by block."""
    sizes = [min(BLOCK, size - start) for start in range(0, size, BLOCK)]
    drawn = [torch.randn(n, n, generator=generator, device=generator.device, dtype=like.dtype) for n in sizes]
    return torch.block_diag(*(torch.linalg.qr(each.to(like.device))[0] for each in drawn))


def _values(
    spec: Declaration,
    range_: Range,
    theta: Tensor,
    turns: Sequence[Tensor],
    group: Tensor,
    drawn: Iterable[Probes],
) -> Procedure[Tensor]:
    """Every element (n, P) at several `turns` (·, G) of its `group` (P,), each of them read on rows of its own."""
    values, done = theta.new_empty(sum(map(len, turns)), theta.numel()), 0
    for part, probes in zip(turns, drawn, strict=True):
        x = probes.rows.unflatten(1, spec.in_shape)
        size = theta.element_size() * (2 * theta.numel() + probes.rows.numel())
        for some in part.split(max(1, ROUND_BYTES // size)):
            settings = spec.theta.clamp(_settings(range_, some.to(theta), group))
            answers = yield [Query(x, t, Purpose.CALIBRATE) for t in settings]
            del settings
            for y in answers:
                values[done] = probes.matrix(y.flatten(1)).flatten()
                done += 1
    return values


def _settings(range_: Range, turns: Tensor, group: Tensor) -> Tensor:
    """θ (n, P) at the turns (n, G) of each element's group."""
    if len(range_.low) == 1:
        return range_.setting(turns).index_select(1, group)
    return range_.setting(turns.index_select(1, group))
