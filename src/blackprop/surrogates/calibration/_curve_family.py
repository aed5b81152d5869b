"""Curves of one family: a shape and a few modes, which each element has at a phase and with weights of its own.

    y_ek = w(t_ek + o_e)ᵀ (m + B z_e) + ε_ek,   z_e ~ N(0, 1),   ε_ek ~ N(0, σ²)

t is in turns of the range, and w are the `waves`. The phase o_e is uniform over the turn; without a period it is zero.
The modes B span the differences that remain in the frame of the shape m: gain, offset, width. Shape, modes and
noise have the greatest posterior probability, found by expectation maximisation with expanded parameters. An order of
a function has the variance that a geometric decay expects of it, so a mode without support by the samples vanishes.

Elements that differ in phase and gain need two numbers each. Under a stationary prior (`_spectra`) they need two an
order.

Sources: Lawton, Sylvestre & Maggio, Technometrics 14, 513 (1972), curves of one shape; James, Hastie & Sugar,
Biometrika 87, 587 (2000), modes of sparse samples; Liu, Rubin & Wu, Biometrika 85, 755 (1998), expanded parameters.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from blackprop.surrogates.calibration._posterior import Posterior, left_out
from blackprop.surrogates.calibration._registration import TABLE, align, scan
from blackprop.surrogates.calibration._waves import advanced, derivative, orders, tabulated, waves

MODES = 4, 9  # with a period; and without, where modes stand for phases as well
STEPS, FEW = 20, 8  # of expectation maximisation: from the start, and from a family of fewer samples
SEARCHED = 4  # steps from one search of all phases to the next
HOT = 0.3  # of the samples' variance: the noise assumed at first, halved step by step, so that phases find their place
FARTHEST = 1 / 48  # of a turn, that a phase moves in a step
REFINED = 8  # steps to a phase
FREE = 1e-6  # the precision of a phase beforehand, per turn squared
DECAYS = torch.linspace(0.1, 0.98, 30, dtype=torch.float64)  # of the amplitude from order to order


@dataclass(frozen=True)
class CurveFamily:
    """Shape and modes, by the columns of `waves`."""

    functions: Tensor  # (n, 1 + r): the shape, and the modes
    doubt: Tensor  # (n, n): a factor of the covariance of a curve that learning them leaves, on average over elements
    noise: float
    harmonics: int
    even: bool
    learnt: float = 0.0
    """How many coefficients the samples determine."""
    beyond: tuple[float, float] = (0.0, 0.0)
    """The variance of a coefficient of the last order, and its decay from order to order beyond."""

    def posterior(self, turns: Tensor, group: Tensor, values: Tensor) -> Posterior:
        """The curves of elements of `group` (E,) through `values` (K, E) at `turns` (K, G)."""
        phase = values.new_zeros(len(group), dtype=turns.dtype)
        if not self.even:
            phase = scan(self.functions, self.noise, turns.mT, group, values)
        places, y = turns.mT[group], values.mT.to(turns)
        weights = y.new_zeros(len(group), self.functions.shape[1] - 1)
        table, slope = tabulated(self.functions.mT, self.even, TABLE)
        steps = 1 if self.even else REFINED
        while True:
            place = (places + phase[:, None]) * TABLE
            near = place.round()
            index = near.long() % TABLE
            steep = slope[index]
            at = table[index] + steep * ((place - near) / TABLE)[..., None]
            here = _expect(at, None if self.even else steep, y, weights, self.noise)
            weights, phase, steps = here.weights, phase + here.moved, steps - 1
            if not steps:
                break
        rest = here.rest - (here.columns @ here.solution[..., None])[..., 0]
        own = 1 - ((here.columns @ here.covariance) * here.columns).sum(2) / self.noise  # of its residual, a sample's
        own = own.clamp_min(1e-6)
        off, wrong, score = left_out(rest / own, self.noise / own)
        curves = self.functions[:, 0] + weights @ self.functions[:, 1:].mT
        basis = self.functions[:, 1:].expand(len(group), -1, -1)
        if not self.even:
            basis = torch.cat((basis, derivative(curves)[..., None]), 2)
        return Posterior(
            curves=curves,
            phase=phase,
            left=basis @ torch.linalg.cholesky(here.covariance),
            shared=self.doubt[None],
            off=off,
            wrong=wrong,
            score=score,
            row=torch.arange(len(group), device=group.device),
            group=group,
            turns=places,
            noise=self.noise,
            harmonics=self.harmonics,
            even=self.even,
            beyond=self.beyond,
        )


@dataclass(frozen=True)
class _Expected:
    """Weights and phases of E elements, given a family, to first order in the phase."""

    columns: Tensor  # (E, K, q): the modes at the samples, and the derivative by the phase
    rest: Tensor  # (E, K): the samples less the shape
    covariance: Tensor  # (E, q, q)
    solution: Tensor  # (E, q)
    modes: int

    @property
    def weights(self) -> Tensor:  # (E, r)
        return self.solution[:, : self.modes]

    @property
    def moved(self) -> Tensor:  # (E,)
        return self.solution[:, self.modes :].sum(1).clamp(-FARTHEST, FARTHEST)


def _expect(at: Tensor, steep: Tensor | None, values: Tensor, weights: Tensor, noise: float) -> _Expected:
    """From `values` (E, K), the functions (E, K, 1 + r) where these were sampled, and their derivatives by the phase
    where elements have one; `weights` (E, r) are those of the step before.
    """
    columns, prior = at[..., 1:], values.new_ones(at.shape[2] - 1)
    if steep is not None:
        by_phase = steep[..., :1] + steep[..., 1:] @ weights[..., None]
        columns, prior = torch.cat((columns, by_phase), 2), torch.cat((prior, prior.new_tensor([FREE])))
    rest = values - at[..., 0]
    covariance = torch.linalg.inv(columns.mT @ columns / noise + torch.diag(prior))
    solution = (covariance @ (columns.mT @ rest[..., None]))[..., 0] / noise
    return _Expected(columns, rest, covariance, solution, at.shape[2] - 1)


def learn(
    turns: Tensor, values: Tensor, group: Tensor, curves: Tensor, even: bool, noise: float, floor: float
) -> CurveFamily:
    """The family of elements whose samples are `values` (K, E) at `turns` (K, G), from a first guess of their `curves`
    (E, n) and of the noise; `floor` is the least noise.
    """
    harmonics = curves.shape[1] - 1 if even else curves.shape[1] // 2
    phase = curves.new_zeros(len(curves)) if even else align(curves)
    curves = curves if even else advanced(curves, -phase)
    mean = curves.mean(0)
    modes, size, _ = torch.linalg.svd((curves - mean).mT / math.sqrt(len(curves)), full_matrices=False)
    functions = torch.cat((mean[:, None], (modes * size)[:, : MODES[even]]), 1)
    heat = 0.0 if even else HOT * float(values.var())
    family = CurveFamily(functions, functions.new_zeros(len(mean), len(mean)), max(noise, heat), harmonics, even)
    return _improved(family, turns, values, group, phase, heat, floor, STEPS)


def relearn(family: CurveFamily, turns: Tensor, values: Tensor, group: Tensor, floor: float) -> CurveFamily:
    """The family of the same elements, from one that explains a part of these samples."""
    phase = turns.new_zeros(len(group))
    if not family.even:
        phase = scan(family.functions, family.noise, turns.mT, group, values)
    return _improved(family, turns, values, group, phase, 0.0, floor, FEW)


def _improved(
    family: CurveFamily,
    turns: Tensor,
    values: Tensor,
    group: Tensor,
    phase: Tensor,
    heat: float,
    floor: float,
    steps: int,
) -> CurveFamily:
    places, y = turns.mT[group], values.mT.to(turns)
    order = orders(family.harmonics, family.even, y)
    weights, power = y.new_zeros(len(y), family.functions.shape[1] - 1), _decaying(family.functions.mT.square(), order)
    for step in range(steps):
        F = waves(places + phase[:, None], family.harmonics, family.even)
        steep = None if family.even else F @ derivative(family.functions.mT).mT
        here = _expect(F @ family.functions, steep, y, weights, family.noise)
        heat /= 2
        family, weights, power = _maximised(family, F, y, here, power, order, max(floor, heat))
        phase = phase + here.moved
        if not family.even and step % SEARCHED == SEARCHED - 1 and step < steps - 1:
            phase = scan(family.functions, family.noise, turns.mT, group, values, near=phase)
    return family


def _maximised(
    family: CurveFamily, F: Tensor, values: Tensor, here: _Expected, power: Tensor, order: Tensor, floor: float
) -> tuple[CurveFamily, Tensor, Tensor]:
    """Shape, modes and noise of the greatest posterior probability, given the expectations of the elements; with the
    weights (E, r), and the variances (1 + r, n) expected of the functions' coefficients.
    """
    (n, count), E = family.functions.shape, len(values)
    aligned = values - (here.columns[..., here.modes :].sum(2) * here.moved[:, None])
    one = torch.cat((values.new_ones(E, 1), here.weights), 1)
    moments = one[:, :, None] * one[:, None]
    moments[:, 1:, 1:] += here.covariance[:, : here.modes, : here.modes]
    normal = (moments.flatten(1).mT @ (F.mT @ F).flatten(1)).view(count, count, n, n)
    normal = normal.transpose(1, 2).reshape(count * n, count * n) / family.noise
    right = (one.mT @ (F.mT @ aligned[..., None])[..., 0]).flatten() / family.noise
    scale = power.flatten().clamp_min(1e-14 * float(power.max())).sqrt()
    L = torch.linalg.cholesky(scale[:, None] * normal * scale + torch.eye(len(scale)).to(scale))
    found = (scale * torch.cholesky_solve((scale * right)[:, None], L)[:, 0]).view(count, n)
    doubt = scale[:, None] * torch.cholesky_inverse(L) * scale
    learnt = float((1 - doubt.diagonal() / scale.square()).sum())
    wrong = (aligned - (F @ (one @ found)[..., None])[..., 0]).square().sum()
    spread = ((here.columns @ here.covariance) * here.columns).sum()
    noise = max((float(wrong + spread) + family.noise * learnt) / values.numel(), floor)
    power = _decaying(found.square() + doubt.diagonal().view(count, n), order)
    # Expanded parameters: weights have the mean 0 and the covariance 1.
    mean, square = here.weights.mean(0), moments[:, 1:, 1:].mean(0)
    L = torch.linalg.cholesky(square - mean[:, None] * mean + 1e-9 * torch.eye(here.modes).to(square))
    shape, modes = found[0] + mean @ found[1:], found[1:].mT @ L
    weights = torch.linalg.solve_triangular(L, (here.weights - mean).mT, upper=False).mT
    each = torch.einsum("anam,a->nm", doubt.view(count, n, count, n), moments.diagonal(dim1=1, dim2=2).mean(0))
    each = torch.linalg.cholesky(each + 1e-12 * float(each.diagonal().max()) * torch.eye(n).to(each))
    functions = torch.cat((shape[:, None], modes), 1)
    last, before = (float(power[:, order == h].mean(1).sum()) for h in (family.harmonics, family.harmonics - 1))
    beyond = last, last / max(before, 1e-300)
    return CurveFamily(functions, each, noise, family.harmonics, family.even, learnt, beyond), weights, power


def _decaying(power: Tensor, order: Tensor) -> Tensor:
    """The variances (f, n) of the greatest likelihood among those that decay geometrically from order to order, of
    functions whose coefficients have the squares `power` (f, n). The mean is as free as the first order.
    """
    decay = 2 * (order - 1).clamp_min(0) * DECAYS.to(power.device)[:, None].log()  # (d, n)
    wave = (order > 0).to(power)
    level = (power[:, None] * (-decay).exp() * wave).sum(2, keepdim=True) / wave.sum()  # (f, d, 1)
    cost = ((level.clamp_min(1e-300).log() + decay) * wave).sum(2)
    best = cost.argmin(1)
    expected = level[torch.arange(len(power)), best] * decay[best].exp()
    return torch.where(order > 0, expected, torch.maximum(power, expected.amax(1, keepdim=True)))
