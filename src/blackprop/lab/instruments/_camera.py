"""A device of a light modulator and a camera: an image in, intensities of regions out."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Protocol, Unpack

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from blackprop.core._theta import ThetaSpec
from blackprop.errors import ArgumentError, ReadingError
from blackprop.lab.instruments._instrument import Instrument, InstrumentOptions
from blackprop.lab.instruments._pixels import LEVELS, Region

Spot = tuple[slice, slice] | NDArray[np.bool_]


class Modulator(Protocol):
    """A light modulator."""

    def show(self, pattern: NDArray[np.uint8], /) -> None:
        """Show grey levels (height, width), and return once they are sent."""


class Camera(Protocol):
    """A camera."""

    def grab(self) -> NDArray[np.unsignedinteger[Any]]:
        """A frame (height, width) whose exposure began after the call, never one that waited in a buffer."""
        ...


class CameraModulator(Instrument):
    """`y_k = mean over region k of (frame − background) / saturation`, a camera behind a modulator that shows the
    row x in one region and the mask θ in another.

    Light that passes, or leaves, both regions meets on the camera, by a lens, a scattering medium, a chip. Where x and
    θ have a modulator each, give them one `show` that hands each its part of the pattern.

    **Arguments:**

    - `shape`: (height, width) of the modulator, in pixels.
    - `inputs`, `mask`: `Region`s of it, whose blocks are the entries of a row (in_shape is `inputs.blocks`) and of θ,
      in the units of their `Gamma`, whose ends are the limits.
    - `spots`: the camera's regions of interest, one an output: pairs of slices, or boolean masks, which can also leave
      out hot pixels.
    - `frames`: the number of frames averaged.
    - `saturation`: the count at which a pixel is full; None for the largest value of the frames' dtype (pass 4095 for
      12 bits in 16). A full pixel in a spot raises `ReadingError`.
    - `dark`: the grey level of pixels outside the regions.
    - `initial`: as in `ThetaSpec`. The others as in `Instrument`; `settle` and `settle_row` (s) are the time from
      `show` to a stable pattern, a frame or two.

    The background is zero until `renew_background` measures it; it belongs to the hour, and is not saved with a layer.
    The intensity of coherent light is not linear in x or θ, so leave `linear` and `coupling` undeclared.
    """

    modulator: Modulator
    camera: Camera

    def __init__(
        self,
        modulator: Modulator,
        camera: Camera,
        *,
        shape: tuple[int, int],
        inputs: Region,
        mask: Region,
        spots: Sequence[Spot],
        frames: int = 1,
        saturation: int | None = None,
        dark: int = 0,
        initial: Callable[[torch.Generator], Tensor] | None = None,
        **bench: Unpack[InstrumentOptions],
    ) -> None:
        for name, region in (("inputs", inputs), ("mask", mask)):
            region.check(f"CameraModulator({name}=...)", shape)
        _check_apart(inputs, mask, shape)
        if frames < 1 or not spots:
            raise ArgumentError(f"`CameraModulator` takes at least 1 frame and 1 spot, got {frames} and {len(spots)}")
        if not 0 <= dark < LEVELS:
            raise ArgumentError(f"`CameraModulator(dark=...)` must be a grey level, 0 to {LEVELS - 1}, got {dark}")
        low, high = (None if math.isinf(limit) else limit for limit in mask.gamma.limits)
        theta = ThetaSpec(mask.size, initial, low, high, mask.gamma.period)
        row_low, row_high = inputs.gamma.limits
        super().__init__(inputs.blocks, len(spots), theta, low=row_low, high=row_high, **bench)
        self.modulator, self.camera = modulator, camera
        self._inputs, self._mask, self._spots = inputs, mask, tuple(spots)
        self._frames, self._saturation, self._dark = frames, saturation, dark
        self._pattern = np.full(shape, dark, dtype=np.uint8)
        self.background: np.ndarray = np.zeros(len(spots))  # parts of the saturation, an output each

    def renew_background(self) -> None:
        """Take the mean of `frames` frames at the dark grey level for the background from now on. Where that level is
        not dark, as with a modulator of phase alone, block the light first.
        """
        with self._reported("taking the background"):
            self.modulator.show(np.full_like(self._pattern, self._dark))
            self._wait(self.settle_row)
            self.background = self._spot_means()

    def _set(self, values: list[float], /) -> None:
        self._mask.paint(self._pattern, values)
        self.modulator.show(self._pattern.copy())

    def _drive(self, values: list[float], /) -> None:
        self._inputs.paint(self._pattern, values)
        self.modulator.show(self._pattern.copy())

    def _sense(self) -> list[float]:
        return (self._spot_means() - self.background).tolist()

    def _spot_means(self) -> NDArray[np.float64]:
        return np.mean([self._exposed(self.camera.grab()) for _ in range(self._frames)], axis=0)

    def _exposed(self, frame: NDArray[np.unsignedinteger[Any]]) -> NDArray[np.float64]:
        """The mean of each spot of one frame, as a part of the saturation."""
        if not isinstance(frame, np.ndarray) or frame.dtype.kind != "u" or frame.ndim != 2:
            raise ReadingError(f"the camera returned {frame!r:.80}, expected (height, width) unsigned counts")
        full = self._saturation if self._saturation is not None else np.iinfo(frame.dtype).max
        means = []
        for number, spot in enumerate(self._spots):
            if not _fits(spot, frame.shape):
                raise ReadingError(f"spot {number} does not fit the camera's frames of {frame.shape}")
            counts = frame[spot]
            if (filled := int((counts >= full).sum())) > 0:
                raise ReadingError(
                    f"{filled} of {counts.size} pixels of spot {number} are saturated ({full}): expose them for less "
                    "time, or leave hot ones out by a mask"
                )
            means.append(counts.mean() / full)
        return np.array(means)


def _check_apart(inputs: Region, mask: Region, shape: tuple[int, int]) -> None:
    covered = np.zeros(shape, dtype=np.uint8)
    for region in (inputs, mask):
        covered[region.rows, region.columns] += 1
    if covered.max() > 1:
        raise ArgumentError("`CameraModulator(inputs=..., mask=...)`: the two regions overlap")


def _fits(spot: Spot, shape: tuple[int, ...]) -> bool:
    """Whether a spot has pixels, all of them on the frame."""
    if isinstance(spot, np.ndarray):
        return spot.dtype == np.bool_ and spot.shape == shape and bool(spot.any())
    return all((s.stop or 0) <= n and len(range(n)[s]) > 0 for s, n in zip(spot, shape, strict=True))
