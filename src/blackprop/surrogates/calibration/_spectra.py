"""Estimate the common curve of many elements, and the spectrum of the curves that elements add to it.

The curve of an element is `m(t) + r(t)`, t in turns of its range: m is common, r its own, normal with the same power
spectrum for all elements, and a sample has white noise on top. All three are found by maximum likelihood from the sums
and the second moments of groups of elements that are sampled at the same places, so that the time does not grow with
the number of elements. The curve of an element is then its posterior mean.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from blackprop.surrogates.calibration._posterior import Posterior, left_out
from blackprop.surrogates.calibration._sweep import blocks
from blackprop.surrogates.calibration._waves import orders, waves

NOTHING = 1e-8  # of the samples' variance: the least noise assumed, above the rounding of single precision
DECAYS = (0.25, 0.5, 0.7, 0.85, 0.95)  # of the power beyond the orders that are fitted one by one, order by order
STEP = 0.8  # of a step of Fisher's scoring that is taken: parts overlap a little
ALIKE = 1e-6  # of the samples' power: elements that differ by less are the same
ROUNDS = 2  # of fitting the common curve and the own spectrum in turn


@dataclass(frozen=True)
class Samples:
    """Sums over the elements of each of G groups, which are sampled at the same K places."""

    turns: Tensor  # (G, K), in turns
    counts: Tensor  # (G,)
    sums: Tensor  # (G, K)
    moments: Tensor  # (G, K, K)
    even: bool
    """Whether the curves are even in the turn: those of a range that is gone through there and back."""

    @classmethod
    def of(cls, turns: Tensor, groups: list[Tensor], values: Tensor, even: bool) -> Samples:
        """Of `values` (K, P) at `turns` (K, G); `groups` are the elements of each, as ascending indices."""
        (K, P), G = values.shape, len(groups)
        sums, moments = turns.new_zeros(G, K), turns.new_zeros(G, K, K)
        for some, members in blocks(groups, P):
            block = values[:, some].mT.contiguous()
            for g, member in enumerate(members):
                part = block.index_select(0, member).double()
                sums[g] += part.sum(0)
                moments[g] += part.mT @ part
        return cls(turns.mT, turns.new_tensor([len(some) for some in groups]), sums, moments, even)

    def first(self, settings: int) -> Samples:
        """The samples at the first so many places."""
        turns, sums, moments = self.turns[:, :settings], self.sums[:, :settings], self.moments[:, :settings, :settings]
        return Samples(turns, self.counts, sums, moments, self.even)

    @property
    def size(self) -> float:
        """How many elements there are."""
        return float(self.counts.sum())

    @property
    def power(self) -> float:
        """The mean square of a sample."""
        return float(self.moments.diagonal(dim1=1, dim2=2).sum()) / (self.size * self.turns.shape[1])

    @property
    def within(self) -> Tensor:
        """The second moments (G, K, K) about the mean of each group, for as many elements."""
        less = self.moments - self.sums[:, :, None] * self.sums[:, None, :] / self.counts[:, None, None]
        return less * self.size / (self.size - len(self.counts))

    @property
    def variance(self) -> float:
        return max(0.0, self.power - float(self.sums.sum() / (self.size * self.turns.shape[1])) ** 2)


@dataclass(frozen=True)
class Spectra:
    """Common curve, own spectrum and noise, by the columns of `waves`: n of them for `harmonics` orders."""

    common: Tensor  # (n,): the coefficients of the common curve
    doubt: Tensor  # (n, n): their covariance
    own: Tensor  # (n,): the variance of the elements' own coefficients
    noise: float
    """The variance of a sample about its curve."""
    harmonics: int
    samples: Samples

    @property
    def waves(self) -> Tensor:  # (G, K, n)
        return waves(self.samples.turns, self.harmonics, self.samples.even)

    def gains(self) -> tuple[Tensor, Tensor]:
        """The matrix (G, n, K) from samples less the common curve to an element's own coefficients, and the inverse
        covariance (G, K, K) of these samples.
        """
        F = self.waves
        Q = _inverse(F, self.own, self.noise)[0]
        return self.own[:, None] * (F.mT @ Q), Q

    def explained(self) -> Tensor:
        """The power (n,) of the elements' own coefficients that their samples explain."""
        F, (gain, _) = self.waves, self.gains()
        return (gain @ F).diagonal(dim1=1, dim2=2).mean(0).clamp_min(0) * self.own

    def posterior(self, group: Tensor, values: Tensor) -> Posterior:
        """The curves of elements of `group` (E,) through their samples `values` (K, E)."""
        F, (gain, Q) = self.waves, self.gains()
        identity = torch.eye(len(self.common)).to(gain)
        scale = self.own.sqrt()
        # own - own Fᵀ Q F own = scale (1 + scale Fᵀ F scale / noise)⁻¹ scale
        L = torch.linalg.cholesky(identity + scale[:, None] * (F.mT @ F) * scale / self.noise)
        left = scale[:, None] * torch.linalg.solve_triangular(L.mT, identity, upper=True)
        # An element's own curve makes up for a part of the error of the common one.
        shared = (identity - gain @ F) @ _factor(self.doubt)
        rest = values.mT.double() - (F @ self.common)[group]
        variance = 1 / Q.diagonal(dim1=1, dim2=2)[group]
        off, wrong, score = left_out((Q[group] @ rest[..., None])[..., 0] * variance, variance)
        return Posterior(
            curves=self.common + (gain[group] @ rest[..., None])[..., 0],
            phase=F.new_zeros(len(F)),
            left=left,
            shared=shared,
            off=off,
            wrong=wrong,
            score=score,
            row=group,
            group=torch.arange(len(F), device=group.device),
            turns=self.samples.turns,
            noise=self.noise,
            harmonics=self.harmonics,
            even=self.samples.even,
        )


def _factor(covariance: Tensor) -> Tensor:
    """L with `L Lᵀ` = covariance, which may be singular."""
    values, vectors = torch.linalg.eigh(covariance)
    return vectors * values.clamp_min(0).sqrt()


def estimate(samples: Samples, harmonics: int, noise: float = 0.0) -> Spectra:
    """The spectra that explain the samples best; `noise` is the least variance of a sample's noise that is known."""
    even, K = samples.even, samples.turns.shape[1]
    order, F = orders(harmonics, even, samples.turns), waves(samples.turns, harmonics, even)
    floor = max(noise, NOTHING * samples.variance, torch.finfo(F.dtype).tiny)
    own, left = torch.zeros_like(F[0, 0]), max(samples.power, floor)
    common = doubt = own
    for _ in range(5):  # first as though elements were alike
        common, doubt = _common(samples, F, own, left, order)
        before, rest = left, _residual(samples, F, common)
        left = max(float(rest.diagonal(dim1=1, dim2=2).sum()) / (samples.size * K), floor)
        if left > 0.9 * before:
            break
    if left < ALIKE * samples.power:
        return Spectra(common, doubt, own, left, harmonics, samples)
    start, within = None, samples.size >= 2 * len(samples.counts)
    for _ in range(ROUNDS):
        rest = _residual(samples, F, common) + samples.counts[:, None, None] * (F @ doubt @ F.mT)
        own, left, start = _own(samples, F, samples.within if within else rest, order, left, floor, start)
        if within:
            left += _misfit(samples, F, common, own, left)
        common, doubt = _common(samples, F, own, left, order)
    return Spectra(common, doubt, own, left, harmonics, samples)


def _misfit(samples: Samples, F: Tensor, common: Tensor, own: Tensor, noise: float) -> float:
    """The variance of differences that a group shares and no smooth curve explains, such as steps of a converter."""
    Q = _inverse(F, own, noise)[0]
    wrong = samples.sums / samples.counts[:, None] - F @ common
    told = samples.counts * (Q @ wrong[..., None])[..., 0].square().sum(1) - Q.diagonal(dim1=1, dim2=2).sum(1)
    return max(0.0, float(told.mean() / Q.square().sum((1, 2)).mean()))


def _inverse(F: Tensor, own: Tensor, noise: float) -> tuple[Tensor, Tensor]:
    """Of `F diag(own) Fᵀ + noise`, with the logarithm of its determinant."""
    L = torch.linalg.cholesky((F * own) @ F.mT + noise * torch.eye(F.shape[1], dtype=F.dtype, device=F.device))
    return torch.cholesky_inverse(L), 2 * L.diagonal(dim1=1, dim2=2).log().sum(1)


def _residual(samples: Samples, F: Tensor, common: Tensor) -> Tensor:
    """The second moments (G, K, K) of the samples less the common curve."""
    at = F @ common
    cross = samples.sums[:, :, None] * at[:, None, :]
    return samples.moments - cross - cross.mT + samples.counts[:, None, None] * at[:, :, None] * at[:, None, :]


def _common(samples: Samples, F: Tensor, own: Tensor, noise: float, order: Tensor) -> tuple[Tensor, Tensor]:
    """The common coefficients and their covariance: generalised least squares, each order shrunk by its own standard
    error. An order that stands out has the power it shows, the others have the power that a geometric decay expects.
    """
    Q = _inverse(F, own, noise)[0] if bool(own.any()) else None
    QF = F / noise if Q is None else Q @ F
    normal = (F.mT @ (QF * samples.counts[:, None, None])).sum(0)
    right = (QF.mT @ samples.sums[..., None])[..., 0].sum(0)

    def posterior(power: Tensor) -> tuple[Tensor, Tensor]:
        L = torch.linalg.cholesky(normal + torch.diag(1 / power))
        return torch.cholesky_solve(right[:, None], L)[:, 0], torch.cholesky_inverse(L)

    size = samples.power
    found, doubt = posterior(torch.full_like(right, size))
    columns, error = torch.bincount(order).to(found), doubt.diagonal()
    clear = torch.zeros_like(columns).index_add_(0, order, found.square() / error) / columns
    shown = torch.zeros_like(columns).index_add_(0, order, found.square()) / columns
    decay = torch.linspace(0.05, 1.0, 20, dtype=F.dtype, device=F.device)[:, None, None]
    level = size * torch.logspace(-10, 1, 45, dtype=F.dtype, device=F.device)[:, None]
    expected = level * decay ** (2 * (order[1:] - 1))  # (decays, levels, n - 1)
    spread = expected + error[1:]
    wrong = (spread.log() + found[1:].square() / spread).sum(2)
    best = expected.flatten(0, 1)[int(wrong.argmin())]
    power = torch.cat((shown.new_full((1,), size), torch.where((clear > 8)[order[1:]], shown[order[1:]], best)))
    return posterior(power.clamp_min(1e-14 * size))


def _own(
    samples: Samples,
    F: Tensor,
    rest: Tensor,
    order: Tensor,
    noise: float,
    floor: float,
    start: tuple[Tensor, Tensor] | None,
) -> tuple[Tensor, float, tuple[Tensor, Tensor]]:
    """The power of the elements' own coefficients, by order as far as the settings resolve them and decaying beyond,
    and the noise: of the greatest likelihood, given the second moments `rest` of the samples less the common curve.
    """
    K = F.shape[1]
    share, mean = samples.counts / samples.size, rest / samples.size
    if not samples.even:  # every group's places are those of the first, turned: the covariance is the same
        F, share, mean = F[:1], share.new_ones(1), mean.sum(0, keepdim=True)
    top = min(int(order[-1]), max(1, 2 * K // 3 if samples.even else K // 2 - 2))
    low = torch.stack([(order == h).to(F) for h in range(top + 1)])
    tails = [torch.where(order > top, decay ** (2.0 * (order - top)), 0.0).to(F) for decay in DECAYS]
    if start is None:
        power = torch.einsum("gkn,gkl,gln->n", F, mean, F).clamp_min(0) / K**2
        power = ((low @ power) / low.sum(1)).clamp_min(1e-12 * samples.power)
        least, best = K * float(power[1:].min()), None
        for parts in (low, torch.cat((low, torch.stack(tails)))):
            for white in (least / 100, least):
                s = (power - white / K).clamp_min(1e-2 * white / K)
                s = torch.cat((s, s[-1:].expand(len(parts) - len(low)) / len(tails)))
                found = _maximise(F, share, mean, parts, s, max(white, floor), floor, 12)
                cost = samples.size * found[2] + (0 if len(parts) == len(low) else 6)
                if best is None or cost < best[0]:
                    best = cost, parts, *found[:2]
        assert best is not None
        start, noise = best[1:3], best[3]
    parts = start[0]
    s, noise, _, seen, told = _maximise(F, share, mean, *start, max(noise, floor), floor, 25)
    # A part that does not stand out by itself is dropped: by the score it would have at none.
    columns = (parts > 0).sum(1).clamp_max(2)
    seen, told = (parts @ seen) / parts.sum(1), (parts @ told) / parts.sum(1)
    score = (told / seen.clamp_min(1e-300) / (1 - s * seen).clamp_min(1e-9) - 1) * (samples.size * columns / 2).sqrt()
    s = torch.where((score > 2) | (torch.arange(len(s), device=s.device) > top), s, 0.0)
    s, noise, *_ = _maximise(F, share, mean, parts, s, noise, floor, 5)
    return s @ parts, noise, (parts, s.clamp_min(1e-9 * samples.power * NOTHING))


def _maximise(
    F: Tensor, share: Tensor, mean: Tensor, parts: Tensor, s: Tensor, noise: float, floor: float, steps: int
) -> tuple[Tensor, float, float, Tensor, Tensor]:
    """Steps `s ← s · (∂/∂s of the trace) / (∂/∂s of the determinant)` to the greatest likelihood, for s and the noise;
    with −2 log-likelihood an element, and both derivatives (n,).
    """
    cost = math.inf
    seen = told = s
    for step in range(steps + 1):
        Q, volume = _inverse(F, s @ parts, noise)
        both = Q @ mean @ Q
        seen = (((Q @ F) * F).sum(1) * share[:, None]).sum(0)
        told = (F * (both @ F)).sum((0, 1)).clamp_min(0)
        cost = float((volume * share).sum() + (Q * mean).sum())
        if step == steps:
            break
        known, asked = parts @ seen, parts @ told
        columns = parts.sum(1)
        # Orders by themselves take the step of Fisher's scoring; tails, which overlap, one that cannot overshoot.
        scored = (s + STEP * (asked - known) * columns / known.square().clamp_min(1e-300)).clamp_min(0)
        s = torch.where((parts > 0).sum(1) <= 2, scored, s * asked / known.clamp_min(1e-300))
        trace = float((Q.diagonal(dim1=1, dim2=2).sum(1) * share).sum())
        slope = float(both.diagonal(dim1=1, dim2=2).sum()) - trace
        curve = float((Q.square().sum((1, 2)) * share).sum())
        noise = max(noise + STEP * slope / curve, noise / 10, floor)
    return s, noise, cost, seen, told
