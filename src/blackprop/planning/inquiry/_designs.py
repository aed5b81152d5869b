"""The designs of integrated meshes that a matrix may have, told by where the phases of single columns are seen."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import torch
from torch import Tensor

from blackprop.core._declaration import Declaration
from blackprop.core._ledger import Ledger
from blackprop.core._procedure import Procedure
from blackprop.devices.photonic.chips import Butterfly, Chip, Design, Rectangular, Triangular
from blackprop.planning._physics import chip_queries, is_chip
from blackprop.planning.inquiry._bounds import Predicted, is_noise, rms
from blackprop.twins.chips.growth._layers import Shifters, Splitters, layers

DESIGNS: tuple[Design, ...] = (
    Rectangular(),
    Rectangular(3),
    Triangular(),
    Triangular(3),
    Butterfly(),
    Butterfly(3),
)
SETTINGS = 3  # for each design: a part of its first, of its last and of its second column moved
SECOND = 2  # the first layer of the second column
WIDEST = 2  # times the ports: the modes of a mesh of which few are wired
SEEN, NOISE = 0.1, 2.0  # of the changes of all lines, and of the noise: the least of a line whose phases move
MOST = 0.6  # of the lines must change: half do where the blocks have another splitter than in the design


@dataclass(frozen=True, eq=False)
class Sketch:
    """A mesh design that has as many phases as the device has parameters.

    - `chip`: the mesh, without any knowledge of its errors.
    - `order` (P,): the parameter of each phase of the design's own order; None where it is the device's order.
    """

    chip: Chip
    order: Tensor | None = None

    @property
    def why(self) -> str:
        """The evidence in words."""
        kind, splitters = type(self.chip.design).__name__.lower(), self.chip.design.splitters
        mesh = f"a {kind} mesh of {self.chip.modes} modes and {splitters} splitters a block"
        return f"the phases of the outer columns of {mesh} change the inputs and outputs of theirs alone"

    def place(self, numbers: Tensor) -> Tensor:
        """The parameters of these phases."""
        return numbers if self.order is None else self.order[numbers]


@dataclass(frozen=True, eq=False)
class LayerCheck:
    """A setting that moves some phases of one layer, and the cells of the matrix that may change.

    - `moved`: the numbers of the parameters that move.
    - `cells` (d_out, d_in): those that may change; all others stay.
    - `lines`: the outputs (d_out,) of which most must change; where not `by_output`, the inputs (d_in,).
    """

    moved: Tensor
    cells: Tensor
    lines: Tensor
    by_output: bool

    def holds(self, change: Tensor, repeated: Tensor, tolerance: float) -> bool:
        """Whether the change (d_out, d_in) of the matrix is that of such a layer, beside a repeated reading."""
        place, along = change.device, int(self.by_output)
        if not is_noise(change, ~self.cells.to(place), repeated, tolerance):
            return False
        of_lines = change.square().mean(along).sqrt()[self.lines.to(place)]
        seen = of_lines > max(SEEN * rms(of_lines), NOISE * rms(repeated))
        return float(seen.double().mean()) > MOST  # little light may take some of the ways


def sketches(spec: Declaration) -> list[Sketch]:
    """The designs that a device of such a declaration may have, which a calibration serves: those of as many phases.

    θ lists the blocks as the library's designs do, or column by column; in each block the outer phase first, or the
    inner one.
    """
    theta = spec.theta
    if not spec.of_vectors or theta.limited or theta.period is None or spec.drawing is not None:
        return []
    if not math.isclose(theta.period, 2 * math.pi, rel_tol=1e-3):
        return []
    chips = [each for each in _drawn(theta.size, spec.d_in, spec.d_out) if is_chip(_as_drawn(spec, each))]
    return [Sketch(chip, order) for chip in chips for order in _orders(chip)]


@lru_cache(maxsize=16)
def _drawn(size: int, d_in: int, d_out: int) -> tuple[Chip, ...]:
    """The chips of all designs of so many phases."""
    widths = [(design, _modes(design, size, max(d_in, d_out))) for design in DESIGNS]
    return tuple(Chip(design, d_in, d_out, modes=modes) for design, modes in widths if modes is not None)


def _as_drawn(spec: Declaration, chip: Chip) -> Declaration:
    """The declaration that the device has if it is the mesh."""
    theta = replace(spec.theta, period=chip.theta.period)  # 6.2832 may be declared
    return replace(spec, linear=True, theta=theta, drawing=chip)


def calibration(spec: Declaration) -> Ledger:
    """The most that the calibration of a design costs that such a device may have."""
    ledgers = [chip_queries(_as_drawn(spec, chip)) for chip in {each.chip for each in sketches(spec)}]
    return max(ledgers, key=lambda each: each.total_programmings, default=Ledger())


def recognised(
    spec: Declaration,
    theta: Tensor,
    far: Tensor,
    known: Predicted,
    read: Callable[[list[Tensor]], Procedure[list[Tensor]]],
    generator: torch.Generator,
) -> Procedure[Sketch | None]:
    """The design of which a device shows the outer columns; None where it shows those of none.

    **Arguments:** `theta` and `far`, parameters (P,) as they are and as they are moved; `known`, the matrix at theta;
    `read`, which returns the matrices at some settings.
    """
    for sketch in sketches(spec):
        for check in checks(sketch, generator):
            moved = theta.clone()
            moved[check.moved] = far[check.moved]
            (matrix,) = yield from read([moved])
            if not check.holds(matrix - known.base, known.repeated, known.tolerance):
                break
        else:
            return sketch
    return None


def checks(sketch: Sketch, generator: torch.Generator) -> list[LayerCheck]:
    """The settings that tell the design: half of its first, of its last and of its second column, side by side.

    A phase is met by few inputs where it stands near them, and shown by few outputs where it stands near those.
    """
    found, last = layers(sketch.chip)
    between = [each.splitters for each in found]
    return [
        _check(sketch, found[0].shifters, between[:1], generator, by_output=False),
        _check(sketch, found[-1].shifters, [last], generator, by_output=True),
        _check(sketch, found[SECOND].shifters, between[: SECOND + 1], generator, by_output=False),
    ]


def _check(
    sketch: Sketch,
    shifters: Shifters,
    between: Sequence[tuple[Splitters, ...]],
    generator: torch.Generator,
    *,
    by_output: bool,
) -> LayerCheck:
    """Of a layer that stands near the outputs, or near the inputs; `between` it and them are splitters."""
    spec = sketch.chip.declaration
    mixed = torch.eye(sketch.chip.modes, dtype=torch.bool)
    for each in (splitters for side in between for splitters in side):
        for a, b in zip(each.upper.tolist(), each.lower.tolist(), strict=True):
            mixed[a] = mixed[b] = mixed[a] | mixed[b]
    touched = mixed[shifters.upper] | mixed[shifters.lower] if shifters.push else mixed[shifters.upper]
    touched = touched[:, : spec.d_out if by_output else spec.d_in]
    seen = touched.any(1).nonzero().flatten()
    upper = bool(torch.rand((), generator=generator, device=generator.device) < 0.5)
    count = -(-len(seen) // 2)
    half = seen[:count] if upper else seen[-count:]
    lines = touched[half].any(0)
    cells = lines[:, None].expand(-1, spec.d_in) if by_output else lines[None].expand(spec.d_out, -1)
    return LayerCheck(sketch.place(shifters.number[half]), cells, lines, by_output)


def _modes(design: Design, size: int, ports: int) -> int | None:
    """The modes of the mesh of this design with `size` phases; None where there is none of so few."""
    modes = design.fitting(ports)
    while modes <= WIDEST * max(2, ports):
        phases = 2 * sum(map(len, design.columns(modes)))
        if phases >= size:
            return modes if phases == size else None
        modes = design.fitting(modes + 1)
    return None


def _orders(chip: Chip) -> list[Tensor | None]:
    """The design's own order and the one by columns, each with the two phases of a block in either order."""
    places = chip.layout.places
    by_column = torch.empty_like(places)
    by_column[places] = torch.arange(len(places))  # the column-wise number of the block at each place
    found: list[Tensor | None] = []
    for blocks in (None, by_column):
        if blocks is not None and bool((blocks == torch.arange(len(blocks))).all()):
            continue
        start = torch.arange(len(places)) if blocks is None else blocks
        both = torch.stack((2 * start, 2 * start + 1), 1)
        found += [None if blocks is None else both.flatten(), both.flip(1).flatten()]
    return found
