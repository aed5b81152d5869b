"""A light modulator and a camera of slmsuite, simulated or real, as a device."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Unpack

import numpy as np
import torch
from torch import Tensor

from blackprop.core._declaration import Cost
from blackprop.core._theta import ThetaSpec
from blackprop.errors import ArgumentError, ReadingError
from blackprop.lab.instruments._instrument import Instrument, InstrumentOptions


def from_slmsuite(
    slm: Any,
    camera: Any,
    *,
    inputs: tuple[int, int],
    mask: tuple[int, int],
    spots: Sequence[tuple[slice, slice] | np.ndarray],
    amplitude: float = math.pi,
    initial: Callable[[torch.Generator], Tensor] | None = None,
    frames: int = 1,
    **bench: Unpack[InstrumentOptions],
) -> Instrument:
    """Make a device of a light modulator and a camera of slmsuite: `y_k = mean intensity of spot k / full scale`.

    The modulator shows the sum of two patterns of phase: blocks of `mask` with the angles θ, and blocks of `inputs`
    with the angles `amplitude · x`. The camera reads the light behind a lens, so an output depends on all of θ and x.

    **Costs** a frame for each row, after the settling time of the modulator (`slm.settle_time_s`) and a `flush()` of
    the camera, which discards older frames. A programming alone shows no pattern. The device declares period 2π, and
    no linearity: its response to x and θ is that of an interference.

    **Arguments:**

    - `slm`, `camera`: objects of slmsuite's `SLM` and `Camera`, such as its simulated ones.
    - `inputs`, `mask`: (rows, columns) of blocks, over the whole modulator. A row has as many entries as the first has
      blocks, and θ (rad) as many as the second.
    - `spots`: the regions of the camera's image, one an output, as pairs of slices or as boolean masks of its shape.
    - `amplitude` (rad, default π): the phase of an entry 1 of a row.
    - `initial` (default: uniform over a period): as in `ThetaSpec`.
    - `frames` (default 1): the number of images averaged, times the `averaging` of the camera, where it is set.
    - The others are those of `lab.VisaDevice`, such as `settle_row` (s), a wait in addition to that of the modulator.

    `close()` closes neither of them: they belong to the caller.

    **Raises** `ArgumentError` for blocks that do not fit the modulator, a spot outside the image, or a camera with
    `hdr`, whose images have no full scale; `ReadingError` for a spot with saturated pixels, `InDoubtError` and
    `DeviceError` for failures of slmsuite.

    ```python
    spots = [np.s_[20:24, 30:34], np.s_[40:44, 30:34]]
    device = from_slmsuite(slm, camera, inputs=(4, 4), mask=(16, 16), spots=spots)
    ```
    """
    _check_hardware(slm, camera)
    for name, blocks in (("inputs", inputs), ("mask", mask)):
        _check_blocks(name, blocks, slm.shape)
    if not spots or not frames >= 1:
        raise ArgumentError("`from_slmsuite` takes at least one spot and at least one frame")
    if not math.isfinite(amplitude) or amplitude == 0:
        raise ArgumentError(f"`from_slmsuite(amplitude=...)` must be a number other than 0, got {amplitude}")
    regions = [_region(spot, tuple(camera.shape)) for spot in spots]
    bench.setdefault("cost", Cost(bench.get("settle", 0.0), bench.get("settle_row", 0.0) + float(slm.settle_time_s)))
    turn = 2 * math.pi
    theta = ThetaSpec(
        mask[0] * mask[1], initial or (lambda g: turn * torch.rand(mask[0] * mask[1], generator=g)), period=turn
    )
    return _Modulator(slm, camera, inputs, mask, regions, amplitude, frames, theta, **bench)


class _Modulator(Instrument):
    def __init__(
        self,
        slm: Any,
        camera: Any,
        inputs: tuple[int, int],
        mask: tuple[int, int],
        spots: list[Any],
        amplitude: float,
        frames: int,
        theta: ThetaSpec,
        **bench: Any,
    ) -> None:
        super().__init__(inputs[0] * inputs[1], len(spots), theta, **bench)
        self._slm, self._camera, self._spots = slm, camera, spots
        self._amplitude, self._frames = amplitude, frames
        self._spread = [_blocks(slm.shape, blocks) for blocks in (inputs, mask)]
        self._phase = np.zeros(slm.shape)

    def _set(self, values: list[float], /) -> None:
        self._phase = np.asarray(values)[self._spread[1]]

    def _drive(self, values: list[float], /) -> None:
        rows = self._amplitude * np.asarray(values)[self._spread[0]]
        self._slm.set_phase(np.mod(self._phase + rows, 2 * math.pi), settle=True)  # which is not its default

    def _sense(self) -> list[float]:
        full, count = float(self._camera.bitresolution) - 1, self._frames * int(self._camera.averaging or 1)
        total = np.zeros(len(self._spots))
        self._camera.flush()  # frames that were exposed before the pattern had settled
        for _ in range(count):
            image = np.asarray(self._camera.get_image(averaging=False))  # slmsuite's own averaging adds images up
            cut = [image[spot] for spot in self._spots]
            if any(part.max(initial=0) >= full for part in cut):
                raise ReadingError("a spot has saturated pixels: lower the exposure of the camera (`set_exposure`)")
            total += [part.mean() / full for part in cut]
        return (total / count).tolist()


def _check_hardware(slm: Any, camera: Any) -> None:
    for name, given, verb in (("slm", slm, "set_phase"), ("camera", camera, "get_image")):
        if isinstance(given, type) or not callable(getattr(given, verb, None)) or not hasattr(given, "shape"):
            raise ArgumentError(
                f"`from_slmsuite({name})` takes an object with `{verb}` and `shape`, got {type(given).__name__}; of a "
                "`FourierSLM` pass its `slm` and its `cam`"
            )
    if getattr(camera, "hdr", None):
        raise ArgumentError(
            "`from_slmsuite(camera)`: images of several exposures have no full scale: set `camera.hdr = None`"
        )


def _check_blocks(name: str, blocks: Any, shape: Sequence[int]) -> None:
    pair = isinstance(blocks, Sequence) and len(blocks) == 2 and all(isinstance(n, int) for n in blocks)
    if not pair or any(not 1 <= n <= size for n, size in zip(blocks, shape, strict=True)):
        raise ArgumentError(
            f"`from_slmsuite({name}=...)` takes (rows, columns) of blocks that fit the shape {tuple(shape)}, "
            f"got {blocks}"
        )


def _region(spot: Any, shape: tuple[int, ...]) -> Any:
    """A spot as an index of images of this shape, checked."""
    if isinstance(spot, np.ndarray) and spot.dtype == np.bool_:
        if spot.shape != shape or not spot.any():
            raise ArgumentError(f"`from_slmsuite(spots=...)`: a mask of shape {spot.shape} selects no pixel of {shape}")
        return spot
    if not (isinstance(spot, tuple) and len(spot) == 2 and all(isinstance(each, slice) for each in spot)):
        raise ArgumentError(
            f"`from_slmsuite(spots=...)` takes pairs of slices, such as `np.s_[20:24, 30:34]`, got {spot!r}"
        )
    ends = [(each.start or 0, size if each.stop is None else each.stop) for each, size in zip(spot, shape, strict=True)]
    if not all(0 <= first < last <= size for (first, last), size in zip(ends, shape, strict=True)):
        raise ArgumentError(f"`from_slmsuite(spots=...)`: {spot} is not inside an image of {shape}")
    return spot


def _blocks(shape: Sequence[int], blocks: tuple[int, int]) -> np.ndarray:
    """For each pixel, the number of its block; blocks are as equal as the shape allows."""
    rows, columns = (np.arange(size) * count // size for size, count in zip(shape, blocks, strict=True))
    return rows[:, None] * blocks[1] + columns
