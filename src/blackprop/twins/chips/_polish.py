"""A joint least-squares fit of all that a chip hides to everything that was read of it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn.functional import pad

from blackprop.devices.photonic.chips import Build, Chip
from blackprop.devices.photonic.chips._losses import amplitudes
from blackprop.devices.photonic.chips._propagation import factors
from blackprop.twins.chips._adjoint import Propagation

TOGETHER = 2**22  # bytes of a field that are held at a time: settings beyond them are taken in turn
HISTORY = 40
DEAD = -1.0  # the slope of a shifter that does not answer
UNITS = {"slopes": 0.25, "crosstalk": 0.005}  # of these parameters, where a unit of 1 rad is too long a step


@dataclass(frozen=True, eq=False)
class ChipReadings:
    """`readings` (settings, rows, d_out) of the rows `x` (rows, d_in) at each of the settings `theta` (settings, P)."""

    x: Tensor
    theta: Tensor
    readings: Tensor


@dataclass(frozen=True)
class Prior:
    """A normal prior of one part of a build: its mean and standard deviation."""

    mean: float
    std: float


def polishing(
    chip: Chip,
    build: Build,
    measured: Sequence[ChipReadings],
    *,
    free: Sequence[str] = ("offset", "splitters"),
    priors: dict[str, Prior] | None = None,
    noise: float = 0.0,
    steps: int = 15,
    which: Tensor | None = None,
    dtype: torch.dtype = torch.float32,
) -> Iterator[Build]:
    """Yield the build after every so many `steps` of L-BFGS on `Σ|ŷ − y|² / Σ|y|²` with its priors, from `build` on.

    The gain of all outputs together is always free. Shifters that do not answer, of a slope of −1, stay so. The model
    is evaluated in `dtype`, the parameters and the search are in float64. A prior weighs as much as the readings'
    relative `noise` says. Of offsets and slopes those in `which` (P,) alone are free, None for all.
    """
    units = {name: UNITS.get(name, 1.0) for name in free}
    middle = chip.heaters.top / 2 if chip.heaters is not None else 0.0
    scaled = {name: (getattr(build, name) / units[name]).clone() for name in free}
    if "slopes" in free:  # an offset is known best where the heaters were used: in the middle of their range
        scaled["offset"] = build.offset + build.slopes * middle
    scaled["gain"] = torch.zeros((), dtype=torch.float64)
    for value in scaled.values():
        value.requires_grad_()

    dead = build.slopes == DEAD

    def present() -> Build:
        parts = {name: scaled[name] * units[name] for name in free}
        if "slopes" in free:
            parts["slopes"] = torch.where(dead, DEAD, parts["slopes"])
            parts["offset"] = scaled["offset"] - parts["slopes"] * middle
        if which is not None:
            for name in ("offset", "slopes"):
                parts[name] = torch.where(which, parts.get(name, getattr(build, name)), getattr(build, name))
        parts["loss_out"] = parts.get("loss_out", build.loss_out) - scaled["gain"]
        return replace(build, **parts)

    blocks = [part for each in measured for part in _split(each, chip.modes, dtype)]
    total = sum(float(each.readings.double().square().sum()) for each in blocks)
    if not 0 < total < math.inf:
        return
    weight = noise**2 / sum(each.readings.numel() for each in blocks)

    def closure() -> Tensor:
        search.zero_grad()
        loss = torch.zeros((), dtype=torch.float64)
        for each in blocks:
            left = (_model(chip, each.x, each.theta, present().to(each.x)) - each.readings).square().sum() / total
            left.backward()
            loss += left.detach()
        for name, prior in (priors or {}).items():
            if name in free:
                off = (getattr(present(), name) - prior.mean) / prior.std
                far = weight * (torch.where(dead, 0.0, off) if name == "slopes" else off).square().sum()
                far.backward()
                loss += far.detach()
        return loss

    search = torch.optim.LBFGS(
        list(scaled.values()),
        max_iter=steps,
        history_size=HISTORY,
        line_search_fn="strong_wolfe",
        tolerance_grad=1e-12,
        tolerance_change=1e-12,
    )
    while True:
        with torch.enable_grad():
            search.step(closure)
        yield Build(**{name: value.detach() for name, value in vars(present()).items()})


def residual(chip: Chip, build: Build, measured: ChipReadings) -> float:
    """`|ŷ − y| / |y|` of readings."""
    with torch.no_grad():
        found = chip.transfer_with(measured.x, measured.theta, build)
    size = measured.readings.norm().clamp_min(torch.finfo(measured.readings.dtype).tiny)
    return float((found - measured.readings).norm() / size)


def _split(measured: ChipReadings, modes: int, dtype: torch.dtype) -> list[ChipReadings]:
    fields = min(len(measured.x), measured.readings.shape[-1])
    size = max(1, TOGETHER // (16 * modes * fields))
    x = measured.x.to(dtype)
    pairs = zip(measured.theta.split(size), measured.readings.split(size), strict=True)
    return [ChipReadings(x, theta.to(dtype), y.to(dtype)) for theta, y in pairs]


def _model(chip: Chip, x: Tensor, theta: Tensor, build: Build) -> Tensor:
    """`chip.transfer_with`, with the faster backward pass."""
    first, second = chip.phases_with(theta, build).unflatten(-1, (-1, 2)).unbind(-1)
    blocks = chip.design.block(first, second, build.splitters)
    a, b, c, d = (amplitudes(build.loss) * element for element in blocks)
    own, other = factors(chip.layout, (a, b, c, d))
    driven = pad(x * amplitudes(build.loss_in), (0, chip.modes - x.shape[-1])).mT.to(own.dtype)
    partners, ports = chip.layout.partners, len(build.loss_out)
    if ports < len(x):  # fewer fields go backwards from the outputs than forwards from the rows
        mirrored = other.gather(-1, partners.expand_as(other))
        unit = torch.eye(chip.modes, ports, dtype=own.dtype)[None]
        back = Propagation.apply(own.flip(1), mirrored.flip(1), partners.flip(0), unit)
        field = back.mT @ driven
    else:
        field = Propagation.apply(own, other, partners, driven.contiguous()[None])[:, :ports]
    field = amplitudes(build.loss_out).unsqueeze(-1) * field
    return chip.readout.detect(field, build.responsivity, build.dark).mT
