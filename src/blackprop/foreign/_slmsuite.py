"""A light modulator and a camera of slmsuite, simulated or real, as a device."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Unpack

import numpy as np
import torch
from torch import Tensor

from blackprop.core._theta import ThetaSpec
from blackprop.errors import ArgumentError, ReadingError
from blackprop.lab.instruments._instrument import Instrument, InstrumentOptions


def from_slmsuite(
    slm: Any,
    camera: Any,
    *,
    inputs: tuple[int, int],
    mask: tuple[int, int],
    spots: Sequence[tuple[slice, slice]],
    amplitude: float = math.pi,
    initial: Callable[[torch.Generator], Tensor] | None = None,
    frames: int = 1,
    **bench: Unpack[InstrumentOptions],
) -> Instrument:
    """Make a device of a light modulator and a camera of slmsuite: `y_k = mean intensity of spot k / full scale`.

    The modulator shows the sum of two patterns of phase: blocks of `mask` with the angles θ, and blocks of `inputs`
    with the angles `amplitude · x`. The camera reads the light behind a lens, so an output depends on all of θ and x.

    **Costs** a frame for each row; a programming alone shows no pattern. The device declares period 2π, and no
    linearity: its response to x and θ is that of an interference.

    **Arguments:**

    - `slm`, `camera`: objects of slmsuite's `SLM` and `Camera`, such as its simulated ones.
    - `inputs`, `mask`: (rows, columns) of blocks, over the whole modulator. A row has as many entries as the first has
      blocks, and θ (rad) as many as the second.
    - `spots`: the regions of the camera's image, one an output, as pairs of slices.
    - `amplitude` (rad, default π): the phase of an entry 1 of a row.
    - `initial` (default: uniform over a period): as in `ThetaSpec`.
    - `frames` (default 1): the number of images averaged.
    - The others are those of `lab.VisaDevice`, such as `settle_row` (s), a wait in addition to slmsuite's own.

    `close()` closes neither of them: they belong to the caller.

    **Raises** `ArgumentError` for blocks that do not fit the modulator or a spot outside the image, `ReadingError` for
    a spot with saturated pixels, `InDoubtError` and `DeviceError` for failures of slmsuite.

    ```python
    spots = [np.s_[20:24, 30:34], np.s_[40:44, 30:34]]
    device = from_slmsuite(slm, camera, inputs=(4, 4), mask=(16, 16), spots=spots)
    ```
    """
    for name, blocks in (("inputs", inputs), ("mask", mask)):
        if len(blocks) != 2 or any(not 1 <= n <= size for n, size in zip(blocks, slm.shape, strict=True)):
            raise ArgumentError(
                f"`from_slmsuite({name}=...)` takes blocks that fit the shape {slm.shape}, got {blocks}"
            )
    if not spots or not frames >= 1:
        raise ArgumentError("`from_slmsuite` takes at least one spot and at least one frame")
    for spot in spots:
        if not all(0 <= each.start < each.stop <= size for each, size in zip(spot, camera.shape, strict=True)):
            raise ArgumentError(f"`from_slmsuite(spots=...)`: {spot} is not inside an image of {tuple(camera.shape)}")
    turn = 2 * math.pi
    theta = ThetaSpec(
        mask[0] * mask[1], initial or (lambda g: turn * torch.rand(mask[0] * mask[1], generator=g)), period=turn
    )
    return _Modulator(slm, camera, inputs, mask, list(spots), amplitude, frames, theta, **bench)


class _Modulator(Instrument):
    def __init__(
        self,
        slm: Any,
        camera: Any,
        inputs: tuple[int, int],
        mask: tuple[int, int],
        spots: list[tuple[slice, slice]],
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
        self._slm.set_phase(np.mod(self._phase + rows, 2 * math.pi))

    def _sense(self) -> list[float]:
        full = float(self._camera.bitresolution) - 1
        total = np.zeros(len(self._spots))
        for _ in range(self._frames):
            image = np.asarray(self._camera.get_image())
            cut = [image[spot] for spot in self._spots]
            if any(part.max(initial=0) >= full for part in cut):
                raise ReadingError("a spot has saturated pixels: lower the exposure of the camera (`set_exposure`)")
            total += [part.mean() / full for part in cut]
        return (total / self._frames).tolist()


def _blocks(shape: Sequence[int], blocks: tuple[int, int]) -> np.ndarray:
    """For each pixel, the number of its block; blocks are as equal as the shape allows."""
    rows, columns = (np.arange(size) * count // size for size, count in zip(shape, blocks, strict=True))
    return rows[:, None] * blocks[1] + columns
