"""The unknowns of one layer, and the mode profiles in which its phase shifters show them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from blackprop.twins.chips.growth._layers import Shifters, Splitters, modes_of

SPREAD = 0.05  # rad, of the splitters, as foundries build them
ROUNDS, LEAST_GAIN = 40, 1e-14  # of the fit of a layer
STARTS, SWEEPS, GRID = 3, 2, 8  # of the search for the offsets of a layer that does not fit
UNSEEN = 1e-12  # of the largest curvature: an unknown with less stays
MOST = 1e10  # damping with which the fit of a layer gives up

Pending = dict[int, tuple[int, int]]  # mode: the number in θ of the offset that stands there unknown, and its sign


@dataclass(frozen=True, eq=False)
class Profiles:
    """Shifters whose profiles spread over equally many modes: `which` (b,), and their `support` (b, n) in modes."""

    which: Tensor
    support: Tensor

    @property
    def basis(self) -> Tensor:  # (n² − 1, n, n)
        return traceless(self.support.shape[1])


class LayerStep:
    """The step from the shifters of all earlier layers to those of one layer.

    Its unknowns are the offsets of earlier shifters whose light is mixed here, and the errors ε of the splitters
    between. Together they make the unitary R. Shifter b sees the profile `v_b = R† e_b`, e_b being its upper mode. A
    change of its phase by δ acts in front of R as `1 + (e^{iδ} − 1) v_b v_b†`, or, with w_b for its lower mode, as
    `exp(iδ (v_b v_b† − w_b w_b†))` where it pushes and pulls. The generator `G_b = v_b v_b†`, or
    `v_b v_b† − w_b w_b†`, is `tr/n + Σ_m t_m E_m` with real t on few modes.

    **Arguments:** `splitters`, since the last layer; `shifters`; `modes`, of the chip; `pending`, the unknown offsets.
    """

    def __init__(self, splitters: Sequence[Splitters], shifters: Shifters, modes: int, pending: Pending) -> None:
        self.splitters, self.shifters, self.modes = tuple(splitters), shifters, modes
        mixed = modes_of(self.splitters) if splitters else sorted(pending)
        self.consumed = {mode: pending[mode] for mode in mixed if mode in pending}
        self.numbers = sorted({number for number, _ in self.consumed.values()})
        self.turn = torch.zeros(modes, len(self.numbers), dtype=torch.float64)
        for mode, (number, sign) in self.consumed.items():
            self.turn[mode, self.numbers.index(number)] = sign
        self.sizes = [len(each.block) for each in self.splitters]
        self.groups = self._grouped()
        self.colours = self._coloured()

    @property
    def count(self) -> int:
        """Of its unknowns: offsets first, then errors."""
        return len(self.numbers) + sum(self.sizes)

    @property
    def trace(self) -> float:
        """Of a generator."""
        return 0.0 if self.shifters.push else 1.0

    def through(self, field: Tensor, unknowns: Tensor) -> Tensor:
        """`R field` (..., modes, rows)."""
        phases = self.turn @ unknowns[: len(self.numbers)]
        field = torch.complex(phases.cos(), phases.sin())[:, None] * field
        for each, errors in zip(self.splitters, unknowns[len(self.numbers) :].split(self.sizes), strict=True):
            field = each.through(field, errors)
        return field

    def transposed(self, field: Tensor, unknowns: Tensor) -> Tensor:
        """`Rᵀ field` (..., modes, rows)."""
        phases = self.turn @ unknowns[: len(self.numbers)]
        parts = zip(self.splitters, unknowns[len(self.numbers) :].split(self.sizes), strict=True)
        for each, errors in reversed(list(parts)):
            field = each.through(field, errors)  # splitters are symmetric
        return torch.complex(phases.cos(), phases.sin())[:, None] * field

    def matrix(self, unknowns: Tensor) -> Tensor:
        """R (modes, modes)."""
        return self.through(torch.eye(self.modes, dtype=torch.complex128), unknowns)

    def generators(self, unknowns: Tensor) -> list[Tensor]:
        """G (b, n, n) of each group."""
        matrix, found = self.matrix(unknowns), []
        for group in self.groups:
            profile = matrix[self.shifters.upper[group.which]].gather(1, group.support).conj()
            each = profile[:, :, None] * profile[:, None, :].conj()
            if self.shifters.push:
                profile = matrix[self.shifters.lower[group.which]].gather(1, group.support).conj()
                each = each - profile[:, :, None] * profile[:, None, :].conj()
            found.append(each)
        return found

    def tangents(self, field: Tensor, unknowns: Tensor) -> Tensor:
        """The derivatives (unknowns, ..., modes, rows) of `R field`."""
        phases = self.turn @ unknowns[: len(self.numbers)]
        field = torch.complex(phases.cos(), phases.sin())[:, None] * field
        turn = self.turn.mT.view(-1, *[1] * (field.dim() - 2), self.modes, 1)
        found = 1j * turn * field
        for each, errors in zip(self.splitters, unknowns[len(self.numbers) :].split(self.sizes), strict=True):
            found = torch.cat((each.through(found, errors), each.tangents(field, errors)))
            field = each.through(field, errors)
        return found

    def slopes(self, unknowns: Tensor) -> Tensor:
        """The derivatives (t, unknowns) of all coefficients."""
        unit = torch.eye(self.modes, dtype=torch.complex128)
        matrix, tangents = self.through(unit, unknowns), self.tangents(unit, unknowns)
        found = []
        for group in self.groups:
            each = torch.zeros(len(group.which), len(group.basis), self.count, dtype=torch.float64)
            for sign, modes in ((1, self.shifters.upper), (-1, self.shifters.lower))[: 2 if self.shifters.push else 1]:
                mode = modes[group.which]
                profile = matrix[mode].gather(1, group.support).conj()
                change = tangents[:, mode].gather(2, group.support.expand(self.count, -1, -1)).conj()
                each += sign * 2 * torch.einsum("mij,pbj,bi->bmp", group.basis, change, profile.conj()).real
            found.append(each.flatten(0, 1))
        return torch.cat(found)

    def coefficients(self, unknowns: Tensor) -> Tensor:
        """All t, of group after group."""
        parts = zip(self.groups, self.generators(unknowns), strict=True)
        return torch.cat([torch.einsum("mij,bji->bm", group.basis, each).real.flatten() for group, each in parts])

    def owners(self) -> Tensor:
        """The shifter that each coefficient belongs to."""
        return torch.cat([each.which.repeat_interleave(len(each.basis)) for each in self.groups])

    def gathered(self, offset: Tensor, errors: Tensor) -> Tensor:
        """Its unknowns out of those of the chip, offsets (P,) and errors (blocks, splitters)."""
        return torch.cat((offset[self.numbers], *[errors[each.block, each.which] for each in self.splitters]))

    def scatter(self, unknowns: Tensor, offset: Tensor, errors: Tensor) -> None:
        """The reverse, in place."""
        offset[self.numbers] = unknowns[: len(self.numbers)]
        for each, some in zip(self.splitters, unknowns[len(self.numbers) :].split(self.sizes), strict=True):
            errors[each.block, each.which] = some

    def links(self, coefficients: Tensor) -> Tensor:
        """The phases between the modes as the generators show them: z_m z_n* times a weight, (modes, modes)."""
        start = torch.zeros(self.count, dtype=torch.float64)
        measured, place = torch.zeros(self.modes, self.modes, dtype=torch.complex128), 0
        for group, nominal in zip(self.groups, self.generators(start), strict=True):
            size = len(group.which) * len(group.basis)
            t = coefficients[place : place + size].view(len(group.which), -1)
            link = torch.einsum("bm,mij->bij", t.to(torch.complex128), group.basis) * nominal.conj()
            n = group.support.shape[1]
            rows, columns = group.support[:, :, None].expand(-1, -1, n), group.support[:, None, :].expand(-1, n, -1)
            measured.index_put_((rows.flatten(), columns.flatten()), link.flatten(), accumulate=True)
            place += size
        return measured

    def begun(self, coefficients: Tensor) -> Tensor:
        """Unknowns to start from: the offsets by the phases of the generators, and no errors."""
        start = torch.zeros(self.count, dtype=torch.float64)
        waves = synchronised(self.links(coefficients), set(self.consumed))
        for place, number in enumerate(self.numbers):
            modes = [mode for mode, (other, _) in self.consumed.items() if other == number]
            signs = torch.tensor([self.consumed[mode][1] for mode in modes], dtype=torch.float64)
            phases = -waves[modes].angle()
            if len(modes) > 1:  # pushed and pulled: only the difference is seen
                start[place] = float((waves[modes[1]] * waves[modes[0]].conj()).angle() * signs[0]) / 2
            else:
                start[place] = phases[0] * signs[0]
        return start

    def searched(self, unknowns: Tensor, gram: Tensor, right: Tensor, weight: float) -> Tensor:
        """`fitted` from better offsets, if there are: from several points, each in turn the best of a grid."""

        def loss(at: Tensor) -> float:
            t = self.coefficients(at)
            return float(t @ (gram @ t) - 2 * (right @ t))

        offsets, generator = len(self.numbers), torch.Generator().manual_seed(0)
        found = unknowns
        for start in range(STARTS):
            best = torch.zeros_like(unknowns)
            best[:offsets] = unknowns[:offsets]
            if start:
                best[:offsets] = 2 * math.pi * torch.rand(offsets, generator=generator, dtype=torch.float64)
            value = loss(best)
            for place in [*range(offsets)] * SWEEPS:
                for turn in range(1, GRID):
                    trial = best.clone()
                    trial[place] += turn * 2 * math.pi / GRID
                    there = loss(trial)
                    if there < value:
                        best, value = trial, there
            best = self.fitted(best, gram, right, weight)
            if loss(best) < loss(found):
                found = best
        return found

    def fitted(self, start: Tensor, gram: Tensor, right: Tensor, weight: float) -> Tensor:
        """The unknowns that minimise `tᵀ G t − 2 bᵀ t + weight Σ (ε / SPREAD)²`, by damped Gauss-Newton steps."""
        offsets = len(self.numbers)
        prior = torch.zeros(self.count, dtype=torch.float64)
        prior[offsets:] = weight / SPREAD**2

        def loss(unknowns: Tensor) -> float:
            t = self.coefficients(unknowns)
            return float(t @ (gram @ t) - 2 * (right @ t) + (prior * unknowns.square()).sum())

        here, value, damping = start, loss(start), 1e-6
        scale = float(gram.diagonal().mean()) + 1e-300
        for _ in range(ROUNDS):
            slope = self.slopes(here)
            curved = slope.mT @ gram @ slope + prior.diag()
            # Behind shifters that do not answer, some unknowns are not seen.
            curved.diagonal().add_(UNSEEN * float(curved.diagonal().max()) + 1e-30)
            downhill = slope.mT @ (right - gram @ self.coefficients(here)) - prior * here
            while damping < MOST:
                step = torch.linalg.solve(curved + damping * scale * torch.eye(self.count), downhill)
                there = here + step
                after = loss(there)
                if after <= value:
                    break
                damping *= 10
            else:
                break
            gained, here, value = value - after, there, after
            damping = max(damping / 10, 1e-12)
            if gained <= LEAST_GAIN * (abs(value) + 1e-300) or float(step.abs().max()) < 1e-13:
                break
        return here

    def _grouped(self) -> list[Profiles]:
        reach = torch.eye(self.modes, dtype=torch.bool)
        for each in self.splitters:
            both = reach[each.upper] | reach[each.lower]
            reach[each.upper], reach[each.lower] = both, both
        seen = reach[self.shifters.upper]
        if self.shifters.push:
            seen = seen | reach[self.shifters.lower]
        found, sizes = [], seen.sum(1)
        for size in sorted(set(sizes.tolist())):
            which = (sizes == size).nonzero().flatten()
            found.append(Profiles(which, torch.stack([row.nonzero().flatten() for row in seen[which]])))
        return found

    def _coloured(self) -> list[Tensor]:
        """Shifters (b,) by colours: those of a colour have no mode in common."""
        support = {int(b): set(s.tolist()) for g in self.groups for b, s in zip(g.which, g.support, strict=True)}
        colours: list[tuple[list[int], set[int]]] = []
        for b in sorted(support):
            for members, taken in colours:
                if not taken & support[b]:
                    members.append(b)
                    taken.update(support[b])
                    break
            else:
                colours.append(([b], set(support[b])))
        return [torch.tensor(members) for members, _ in colours]


def traceless(size: int) -> Tensor:
    """An orthonormal basis (size² − 1, size, size) of the Hermitian matrices without a trace."""
    found, root = [], 1 / math.sqrt(2)
    for i in range(size):
        for j in range(i):
            for value in (complex(root), 1j * root):
                each = torch.zeros(size, size, dtype=torch.complex128)
                each[j, i], each[i, j] = torch.tensor((value, value.conjugate()), dtype=each.dtype)
                found.append(each)
    for i in range(1, size):
        each = torch.zeros(size, dtype=torch.complex128)
        each[:i], each[i] = 1.0, -i
        found.append((each / math.sqrt(i + i * i)).diag())
    return torch.stack(found) if found else torch.zeros(0, size, size, dtype=torch.complex128)


def synchronised(links: Tensor, free: set[int]) -> Tensor:
    """The waves z (modes,) with `links[m, n] ∝ z_m z_n*`; 1 on modes that are not free, and on the first of each
    connected part that has no such mode.
    """
    links = links - links.diagonal().diag()
    waves = torch.ones(len(links), dtype=torch.complex128)
    known = [mode for mode in range(len(links)) if mode not in free]
    left = sorted(free)
    while left:
        sums = links[left][:, known] @ waves[known] if known else torch.zeros(len(left), dtype=torch.complex128)
        tied = (links[left][:, known].abs().sum(1) > 0).tolist() if known else [False] * len(left)
        if not any(tied):
            tied = [True] + [False] * (len(left) - 1)
        for mode, sum_, yes in zip(left, sums, tied, strict=True):
            if yes and float(sum_.abs()) > 0:
                waves[mode] = sum_ / sum_.abs()
        known += [mode for mode, yes in zip(left, tied, strict=True) if yes]
        left = [mode for mode, yes in zip(left, tied, strict=True) if not yes]
    return waves
