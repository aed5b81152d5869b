"""Candidates for devices that are moved by pulses: one row for each method of `estimators.pulsed`."""

from __future__ import annotations

from collections.abc import Callable

import torch

from blackprop.core._declaration import Declaration
from blackprop.core.capabilities._pulse import Pulse
from blackprop.estimators import pulsed
from blackprop.planning import _methods as methods
from blackprop.planning._candidates import Candidate, Quality
from blackprop.planning._physics import reads_back
from blackprop.presets import Method
from blackprop.surrogates import Reciprocal

Make = Callable[[], pulsed.PulsedUpdate]


def is_pulsed(spec: Declaration) -> bool:
    """Whether the device is a matrix whose cells are moved by pulses."""
    return methods.is_matrix(spec) and spec.has(Pulse)


def is_residual(spec: Declaration) -> bool:
    """Whether the fast tile is read together with the main one."""
    return bool(spec.theta.draw(torch.Generator().manual_seed(0))[0] != 0)


def _pulsed(name: str, quality: int, make: Make, applies: Callable[[Declaration], bool], needs: str) -> Candidate:
    def method(spec: Declaration) -> Method:
        return Method(make(), Reciprocal() if reads_back(spec) else methods.fitted(spec))

    def reason(spec: Declaration) -> str:
        tiles = f"{spec.theta.size} tile{'s' if spec.theta.size > 1 else ''}"
        states = spec.capability(Pulse).states
        back = "; the input gradient is read backwards" if reads_back(spec) else ""
        return (
            f"cells moved by pulses, {tiles} of {states:,.3g} states: {name}{back} (wrap the optimizer in "
            "`bp.optim.Pulsed`)"
        )

    return Candidate(name, quality, lambda s: is_pulsed(s) and applies(s), method, reason, needs=needs)


def _tiles(count: int) -> Callable[[Declaration], bool]:
    return lambda spec: spec.theta.size == count


def _residual(spec: Declaration) -> bool:
    return spec.theta.size == 2 and is_residual(spec)


OFF = 0.1  # of half the range: a symmetric point that drags a tile which is not told about it
FEW = 50  # states below which single pulses of a fast tile's transfer are too coarse


def _drags(spec: Declaration) -> bool:
    """Whether the cells of the fast tile are known to rest elsewhere than at 0."""
    pulse = spec.capability(Pulse)
    return pulse.symmetric_point is not None and pulse.symmetric_point > OFF * (pulse.high - pulse.low) / 2


def _few(spec: Declaration) -> bool:
    """Whether the cells have so few states that their steps are better added up digitally."""
    return spec.capability(Pulse).states < FEW


def _summed(spec: Declaration) -> bool:
    return _tiles(1)(spec) or (_tiles(2)(spec) and not is_residual(spec) and _few(spec))


def _several(spec: Declaration) -> bool:
    gains = spec.theta.draw(torch.Generator().manual_seed(0)).abs()
    return len(gains) > 2 and bool((gains[1:] > gains[:-1]).all())


ONE = "a matrix moved by pulses, of one tile"
TWO = "a matrix moved by pulses, of a fast tile and a main one"
PULSED: tuple[Candidate, ...] = (
    _pulsed(
        "multi-tile", Quality.EXACT, pulsed.MultiTile, _several, "a matrix moved by pulses, of tiles with growing gains"
    ),
    _pulsed(
        "residual",
        Quality.EXACT,
        pulsed.ResidualLearning,
        _residual,
        f"{TWO}, both read",
    ),
    _pulsed(
        "tiki-taka",
        Quality.EXACT,
        pulsed.TikiTaka,
        lambda s: _tiles(2)(s) and not is_residual(s) and not _drags(s) and not _few(s),
        f"{TWO}, of at least {FEW} states, whose cells are not known to rest away from 0",
    ),
    _pulsed(
        "mixed-precision",
        Quality.EXACT,
        pulsed.MixedPrecision,
        _summed,
        f"{ONE}; of two, where it has less than {FEW} states",
    ),
    # Slow at first, and robust against unknown symmetric points, which a declaration does not tell.
    _pulsed("agad", Quality.COARSE, pulsed.AGAD, _tiles(2), TWO),
    _pulsed("chopped-tiki-taka", Quality.COARSE, pulsed.ChoppedTikiTaka, _tiles(2), TWO),
    _pulsed("tiki-taka-v2", Quality.ROUGH, pulsed.TikiTakaV2, _tiles(2), TWO),
    _pulsed("symmetric-point-tracking", Quality.ROUGH, pulsed.SymmetricPointTracking, _tiles(2), TWO),
    _pulsed("filtered-residual", Quality.ASKED, pulsed.FilteredResidual, _residual, f"{TWO}, both read"),
    _pulsed("analog-sgd", Quality.SAMPLED, pulsed.AnalogSGD, _tiles(1), ONE),
)
