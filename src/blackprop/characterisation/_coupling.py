"""The outputs, or the elements of the matrix, that each parameter moves."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from blackprop.characterisation._device_under_test import Comparison, DeviceUnderTest, rms
from blackprop.characterisation._findings import Finding, sure, unknown
from blackprop.core._declaration import Coupling
from blackprop.core._probes import Probes, spanning
from blackprop.core._procedure import Procedure
from blackprop.planning.inquiry._codes import decode, draw_codes, few, settings_needed
from blackprop.surrogates.calibration._calibration import orthogonal

SINGLES = 6  # parameters moved alone
PATIENCE = 16  # repeats of a reading on a noisy device, in the check of a finding
UNSEEN = 0.2  # of a parameter's effect on its own cell: bound of an undetected effect on others
MOST_ROWS = 512  # of a setting, by those repeats
LEVELS = 3  # pairs of levels, for cells that do not change between the first
NAMED = 0.999  # of the elements; the rest must not move at all


@dataclass
class Wiring:
    """The coupling, and the order (P,) of the parameters that makes it the declared one."""

    finding: Finding
    order: Tensor | None = None
    curves: dict[str, Any] = field(default_factory=dict)


def coupling(dut: DeviceUnderTest) -> Procedure[Wiring]:
    """Find the coupling, from the cheapest guess to the most expensive.

    In this order: consecutive blocks of parameters, one an output; one element each, in order; single parameters, which
    show at once if one moves two outputs; and codes, which find a hidden wiring. Every finding is checked on settings
    that it was not made from: random halves of the elements (or outputs) get random settings, and the others must stay.
    """
    spec = dut.spec
    elements = spec.d_out * spec.d_in
    size = spec.theta.size
    in_blocks = size % spec.d_out == 0 and spec.d_out > 1
    if in_blocks:
        owner = torch.arange(size, device=dut.home.device) // (size // spec.d_out)
        stays = yield from _stays(dut, dut.rows, owner, by_output=True)
        if stays.hold:
            if dut.linear and size == elements:
                plain = torch.arange(size, device=dut.home.device)
                return (yield from _element(dut, plain, "in row-major order", hidden=True))
            return Wiring(_claim(Coupling.ROW, "each output has a block of parameters, in order", stays))
    if shared := (yield from _shared(dut)):
        return Wiring(Finding("coupling", Coupling.NONE.value, True, shared, sure(SINGLES * 3)))
    if not dut.linear:
        text = "no parameter was seen to move two outputs, nor do they come in blocks, in order"
        return Wiring(unknown("coupling", f"{text}; codes are for what is linear", Coupling.NONE.value))
    return (yield from _decoded(dut))


def _element(
    dut: DeviceUnderTest, order: Tensor, how: str, *, hidden: bool, curves: dict[str, Any] | None = None
) -> Procedure[Wiring]:
    """Check element coupling in this order on fresh settings; if it fails and may still be found, search for it."""
    place = order.argsort()  # the element that each parameter moves
    stays = yield from _stays(dut, _spanning(dut), place, by_output=False)
    if stays.hold:
        finding = _claim(Coupling.ELEMENT, f"each parameter moves one element of the matrix, {how}", stays)
        plain = torch.equal(order, torch.arange(len(order), device=order.device))
        return Wiring(finding, None if plain else order, curves or {})
    if hidden:
        return (yield from _decoded(dut))
    text = f"codes suggest a parameter an element, {how}, but fresh settings move what should stay: {stays}"
    return Wiring(unknown("coupling", text, Coupling.NONE.value), None, curves or {})


def _claim(kind: Coupling, what: str, stays: Stays) -> Finding:
    return Finding("coupling", kind.value, True, f"{what}; {stays}", sure(stays.checks))


@dataclass(frozen=True)
class Stays:
    """How far the cells move whose parameters do not, compared with those whose parameters do."""

    others: Comparison
    own: float  # root mean square
    checks: float

    @property
    def hold(self) -> bool:
        """Whether the others stay, and an undetected move of theirs is small against that of the own parameters."""
        return self.others.alike and self.others.allowed < UNSEEN * self.own

    def __str__(self) -> str:
        if self.own <= self.others.allowed:
            return f"what should move does not, within noise, rounding and drift ({self.others.allowed:.2g})"
        moved, allowed = self.others.size / self.own, self.others.allowed / self.own
        return f"what should stay moves by {moved:.2g} of what should move, where noise and drift explain {allowed:.2g}"


def _stays(dut: DeviceUnderTest, x: Tensor, owner: Tensor, *, by_output: bool) -> Procedure[Stays]:
    """Give the parameters of random halves of the cells random settings, and measure how far the other cells move.

    `owner` (P,) is the cell of each parameter: an output, or an element. A stray coupling of a single parameter shows
    in a quarter of the halves. Of outputs, two halves come first: most wrong guesses end there.
    """
    d_out, d_in = dut.spec.d_out, dut.spec.d_in
    cells = d_out if by_output else d_out * d_in
    subsets = 16 if len(x) <= 64 else 8 if len(x) <= 256 else 4
    patience = max(1, min(PATIENCE, MOST_ROWS // len(x))) if dut.noisy else 1
    found = None
    first = [(2, 1)] if by_output else []
    for count, repeats in (*first, (subsets, patience)):
        halves = [dut.half(cells) for _ in range(count)]
        settings = [torch.where(half[owner], dut.anywhere(), dut.base) for half in halves]
        changes, controls = yield from dut.interleaved(x, dut.base, settings, repeats)
        if by_output:
            moved = torch.stack(halves)[:, None, :].expand_as(changes)
        else:
            changes, controls = _matrices(dut, changes, x), _matrices(dut, controls, x)
            moved = torch.stack([half.view(d_out, d_in) for half in halves])
        size = 3 * dut.size if by_output else float(changes.abs().max())
        part = 1.0 if by_output else 1 / (dut.scale * math.sqrt(d_in))  # of a reading's error that an element has
        others = dut.compare(changes[~moved], controls, size, part) if cells > 1 else Comparison(0.0, 0.0, 0.0, 0.0)
        found = Stays(others, rms(changes[moved]), count * dut.checks)
        if not others.alike:
            break
    assert found is not None
    return found


def _shared(dut: DeviceUnderTest) -> Procedure[str]:
    """Move single parameters; return a sentence about one that moves two outputs, or None."""
    indices = dut.chosen(SINGLES)
    settings = []
    for index in indices:
        there = dut.shifted(dut.base, dut.reach)
        settings.append(torch.where(torch.arange(len(there), device=there.device) == index, there, dut.base))
    changes, controls = yield from dut.interleaved(dut.rows, dut.base, settings)
    bound = dut.compare(changes, controls).worst_allowed
    for index, change in zip(indices, changes, strict=True):
        moved = (change.abs().amax(0) > bound).nonzero().flatten().tolist()
        if len(moved) > 1:
            return f"parameter {index} alone moves {len(moved)} outputs, {moved[0]} and {moved[1]} among them"
    return ""


def _decoded(dut: DeviceUnderTest) -> Procedure[Wiring]:
    """Find the wiring by codes, and check it on fresh settings."""
    spec, size = dut.spec, dut.spec.theta.size
    elements = spec.d_out * spec.d_in
    x = _spanning(dut)
    readings, codes = yield from _blink(dut, x, torch.arange(size, device=dut.home.device), dut.base)
    names = torch.arange(size, device=dut.home.device)
    found = decode(readings, codes, names)
    owner, explained = found.owner, found.explained
    curves = {"explained": torch.histc(explained.float(), 40, 0.0, 1.0).tolist()}
    settings = len(readings)
    if size == elements:
        owner, more = yield from _again(dut, x, owner, explained)
        settings += more
        named = owner >= 0
        distinct = bool(owner[named].bincount(minlength=size).le(1).all())
        part = float(named.double().mean())
        if distinct and part >= NAMED:
            rest = torch.ones(size, dtype=torch.bool, device=owner.device)
            rest[owner[named]] = False
            owner[~named] = rest.nonzero().flatten()
            how = f"by a hidden wiring that {settings} settings named {part:.2%} of"
            return (yield from _element(dut, owner, how, hidden=False, curves=curves))
    return (yield from _by_output(dut, readings, codes, owner.view(spec.d_out, -1), curves))


def _blink(dut: DeviceUnderTest, x: Tensor, names: Tensor, low: Tensor) -> Procedure[tuple[Tensor, Tensor]]:
    """Return the readings (1 + S, cells) of all at `low`, then of the parameters `names` at their codes' levels."""
    codes = draw_codes(len(names), settings_needed(len(names)), dut.generator).to(low.device)
    high = dut.shifted(low, dut.reach)
    settings = [low]
    for code in codes:
        setting = low.clone()
        setting[names[code]] = high[names[code]]
        settings.append(setting)
    y = yield from dut.readings(x, settings)
    return _matrices(dut, y, x).flatten(1), codes


def _again(dut: DeviceUnderTest, x: Tensor, owner: Tensor, explained: Tensor) -> Procedure[tuple[Tensor, int]]:
    """Try other levels for cells that the first two did not separate, as long as that helps; named ones stay."""
    size, spent = dut.spec.theta.size, 0
    for _ in range(LEVELS - 1):
        owner = _settled(owner, explained, size)
        left = (owner < 0).nonzero().flatten()
        if not len(left) or len(left) > 0.2 * len(owner):
            break
        rest = torch.ones(size, dtype=torch.bool, device=owner.device)
        rest[owner[owner >= 0]] = False
        names = rest.nonzero().flatten()
        readings, codes = yield from _blink(dut, x, names, torch.where(rest, dut.anywhere(), dut.base))
        spent += len(readings)
        found = decode(readings[:, left], codes, names)
        owner[left], explained[left] = found.owner, found.explained
    return _settled(owner, explained, size), spent


def _settled(owner: Tensor, explained: Tensor, size: int) -> Tensor:
    """If two elements name one parameter, the one that it explains better keeps it."""
    by_trust = explained.argsort(descending=True)
    by_trust = by_trust[owner[by_trust] >= 0]
    ranked = owner[by_trust]
    order = ranked.argsort(stable=True)
    first = torch.ones_like(order, dtype=torch.bool)
    first[1:] = ranked[order][1:] != ranked[order][:-1]
    kept = torch.full_like(owner, -1)
    winners = by_trust[order[first]]
    kept[winners] = owner[winners]
    return kept


def _by_output(
    dut: DeviceUnderTest, readings: Tensor, codes: Tensor, owner: Tensor, curves: dict[str, Any]
) -> Procedure[Wiring]:
    """Return blocks of parameters, one an output, from the parameters of its cells (d_out, cells)."""
    size, d_out = dut.spec.theta.size, dut.spec.d_out
    sets = _sets(dut, readings, codes, owner)
    if sets is None:
        text = "no parameter was seen to move two outputs, and no code names what moves each"
        return Wiring(unknown("coupling", text, Coupling.NONE.value), None, curves)
    counted = torch.zeros(size, dtype=torch.long)
    for members in sets:
        counted[list(members)] += 1
    if bool((counted > 1).any()):
        text = f"by their codes {int((counted > 1).sum())} of {size} parameters move more than one output"
        return Wiring(Finding("coupling", Coupling.NONE.value, True, text, sure(len(codes))), None, curves)
    if bool((counted == 0).any()) or len({len(members) for members in sets}) > 1:
        text = "the outputs have different numbers of parameters, or some parameters move none"
        return Wiring(unknown("coupling", text, Coupling.NONE.value), None, curves)
    order = torch.tensor([p for members in sets for p in sorted(members)], device=dut.home.device)
    block = torch.arange(size, device=order.device) // (size // d_out)
    stays = yield from _stays(dut, dut.rows, block[order.argsort()], by_output=True)
    if not stays.hold:
        text = f"codes suggest a block an output, but fresh settings move what should stay: {stays}"
        return Wiring(unknown("coupling", text, Coupling.NONE.value), None, curves)
    what = f"each output has {size // d_out} of the parameters, by a hidden wiring"
    return Wiring(_claim(Coupling.ROW, what, stays), order, curves)


def _sets(dut: DeviceUnderTest, readings: Tensor, codes: Tensor, owner: Tensor) -> list[set[int]] | None:
    """Return the parameters of each output: of cells with one parameter by name, of others by sparse regression."""
    d_out = dut.spec.d_out
    if bool((owner >= 0).all()):
        return [set(row.unique().tolist()) for row in owner]
    cells = readings.unflatten(1, (d_out, -1))
    strongest = cells.std(0).argmax(1)
    one = cells[:, torch.arange(d_out), strongest]
    return few(one, codes, 1.5 * dut.blur * _probes(dut, _spanning(dut)).blur)


def _spanning(dut: DeviceUnderTest) -> Tensor:
    """Return d_in orthogonal rows at the amplitude of the data; within limits, those of `probes.spanning`."""
    d_in = dut.spec.d_in
    return _probes(dut, dut.scale * math.sqrt(d_in) * orthogonal(d_in, dut.home, dut.generator)).rows


def _probes(dut: DeviceUnderTest, x: Tensor) -> Probes:
    return spanning(dut.spec, x, dut.scale**2 * dut.spec.d_in, dut.scale)


def _matrices(dut: DeviceUnderTest, y: Tensor, x: Tensor) -> Tensor:
    """Return the matrices (..., d_out, d_in) of the answers y (..., rows, d_out) to the spanning rows x."""
    return _probes(dut, x).matrix(y)
