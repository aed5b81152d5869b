"""A modulator and a camera around a scattering medium: patterns, grey levels, backgrounds, and learning by them."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

import blackprop as bp
from blackprop.errors import ArgumentError, DeviceError, InDoubtError, LimitError, ReadingError, UnreachableError
from blackprop.lab import CameraModulator, Gamma, Region

SHAPE = (16, 24)
GREYS = np.linspace(0, 255, 18)
TRANSMISSION = Gamma(GREYS.tolist(), ((GREYS / 255) ** 2.2).tolist())  # a display: bent by 2.2
PHASE = Gamma([0, 255], [0.0, 2 * math.pi], period=2 * math.pi)
IMAGE = Region(slice(0, 16), slice(0, 8), (4, 2), TRANSMISSION)
MASK = Region(slice(0, 16), slice(8, 24), (2, 4), TRANSMISSION)
SPOTS = [(slice(4 * i, 4 * i + 4), slice(0, 6)) for i in range(3)]


class Medium:
    """Modulator, scattering medium `E = T t` and camera in one: counts `4095 · exposure · |E|² + offset`, 12 bits."""

    def __init__(self, exposure: float = 0.15, offset: int = 0, phase: bool = False) -> None:
        rng = np.random.default_rng(0)
        pixels, grains = math.prod(SHAPE), 3  # a grain of speckle is as large as a spot
        self.T = (rng.normal(size=(grains, pixels)) + 1j * rng.normal(size=(grains, pixels))) / math.sqrt(pixels)
        self.exposure, self.offset, self.phase = exposure, offset, phase
        self.shown: list[np.ndarray] = []
        self.grabbed = 0
        self.fault: Exception | None = None
        self.flicker = 0

    def show(self, pattern: np.ndarray, /) -> None:
        assert pattern.dtype == np.uint8
        assert pattern.shape == SHAPE
        self.shown.append(pattern)

    def intensity(self, field: np.ndarray) -> np.ndarray:
        return (np.abs(self.T @ field.ravel()) ** 2 * self.exposure).repeat(24).reshape(12, 6)

    def grab(self) -> np.ndarray:
        if self.fault is not None:
            raise self.fault
        self.grabbed += 1
        level = self.shown[-1] / 255
        field = np.exp(2j * math.pi * level) if self.phase else level**2.2
        swing = self.flicker * (-1) ** self.grabbed
        return np.clip(4095 * self.intensity(field) + self.offset + swing, 0, 4095).round().astype(np.uint16)


def camera_of(medium: Medium, **kwargs) -> CameraModulator:
    parts = {"shape": SHAPE, "inputs": IMAGE, "mask": MASK, "spots": SPOTS, "saturation": 4095, **kwargs}
    return CameraModulator(medium, medium, **parts)


def expected(medium: Medium, x: torch.Tensor, theta: torch.Tensor) -> torch.Tensor:
    """The outputs for transmissions that are exactly as wanted, (rows, 3)."""
    rows = []
    for row in x.numpy():
        field = np.zeros(SHAPE)
        field[:, :8] = np.kron(row, np.ones((4, 4)))
        field[:, 8:] = np.kron(theta.view(2, 4).numpy(), np.ones((8, 4)))
        rows.append([medium.intensity(field)[spot].mean() for spot in SPOTS])
    return torch.tensor(rows, dtype=torch.float32)


def test_images_in_and_intensities_out_as_the_medium_has_them(generator):
    medium = Medium()
    device = camera_of(medium)
    assert (device.in_shape, device.out_shape, device.theta.size) == ((4, 2), (3,), 8)
    x, theta = torch.rand(5, 4, 2, generator=generator), torch.rand(8, generator=generator)
    device.program(theta)
    y = device.read(x)
    torch.testing.assert_close(y, expected(medium, x, theta), rtol=0.03, atol=2e-3)
    straight = Gamma([0, 255], [0.0, 1.0])  # without the measured curve it is another device
    naive = camera_of(medium, inputs=Region(IMAGE.rows, IMAGE.columns, (4, 2), straight))
    naive.program(theta)
    assert not torch.allclose(naive.read(x), expected(medium, x, theta), rtol=0.1)


def test_it_passes_the_contract():
    medium = Medium(phase=True, exposure=0.05)
    phases = Region(MASK.rows, MASK.columns, (2, 4), PHASE)
    device = camera_of(medium, inputs=Region(slice(0, 16), slice(0, 8), 8, PHASE), mask=phases, noise=0.01)
    assert device.in_shape == (8,)
    assert device.theta.period == 2 * math.pi
    assert not device.theta.limited
    bp.testing.check_device(device, tolerance=0.02)


def test_the_background_is_subtracted_once_it_is_renewed(generator):
    x, theta = torch.rand(3, 4, 2, generator=generator), torch.rand(8, generator=generator)
    clean, medium = camera_of(Medium()), Medium(offset=400)
    device = camera_of(medium)
    clean.program(theta)
    device.program(theta)
    truth, raised = clean.read(x), device.read(x)
    torch.testing.assert_close(raised, truth + 400 / 4095, rtol=0, atol=1e-4)
    device.renew_background()
    assert not medium.shown[-1].any()  # taken in the dark
    torch.testing.assert_close(device.read(x), truth, rtol=0, atol=1e-4)


def test_frames_are_averaged_and_the_modulator_gets_its_time():
    medium, waits = Medium(offset=400), []
    medium.flicker = 200
    device = camera_of(medium, frames=4, settle=0.3, settle_row=0.1, sleep=waits.append)
    steady = camera_of(Medium(offset=400))
    x, theta = torch.full((2, 4, 2), 0.5), torch.full((8,), 0.5)
    for each in (device, steady):
        each.program(theta)
    torch.testing.assert_close(device.read(x), steady.read(x), rtol=0, atol=1e-4)
    assert medium.grabbed == 8
    assert waits == [0.3, 0.1, 0.1]


def test_a_saturated_spot_is_refused_and_a_mask_leaves_a_hot_pixel_out():
    bright, theta, x = Medium(exposure=20.0), torch.ones(8), torch.ones(1, 4, 2)
    device = camera_of(bright)
    device.program(theta)
    with pytest.raises(ReadingError, match=r"of 24 pixels of spot \d are saturated \(4095\)"):
        device.read(x)
    medium = Medium()
    grab = medium.grab

    def hot() -> np.ndarray:
        frame = grab()
        frame[1, 1] = 4095
        return frame

    medium.grab = hot
    with pytest.raises(ReadingError, match="1 of 24 pixels of spot 0"):
        camera_of(medium).read(x)
    cold = np.zeros((12, 6), dtype=bool)
    cold[:4] = True
    cold[1, 1] = False
    y = camera_of(medium, spots=[cold]).read(x)
    whole = camera_of(Medium()).read(x)
    assert abs(float(y[0, 0]) - float(whole[0, 0])) < 0.2 * float(whole[0, 0])


def test_what_cannot_be_shown_never_reaches_the_modulator():
    medium = Medium()
    device = camera_of(medium)
    with pytest.raises(LimitError, match=r"theta\[0\] = 1.1"):
        device.program(torch.full((8,), 1.1))
    with pytest.raises(LimitError, match=r"entry 0 of row 0 is -0\.1"):
        device.read(torch.full((1, 4, 2), -0.1))
    assert not medium.shown


@pytest.mark.parametrize(("fault", "kind"), [(TimeoutError("no frame"), UnreachableError), (ValueError(), DeviceError)])
def test_a_camera_that_fails_is_told(fault, kind):
    medium = Medium()
    device = camera_of(medium)
    medium.fault = fault
    with pytest.raises(DeviceError, match="taking the background failed") as caught:
        device.renew_background()
    assert type(caught.value) is kind
    with pytest.raises(DeviceError, match="reading failed") as caught:
        device.read(torch.zeros(1, 4, 2))
    assert type(caught.value) is (InDoubtError if kind is UnreachableError else kind)  # a row was shown


@pytest.mark.parametrize(
    "frame", [np.zeros((12, 6)), np.zeros((2, 12, 6), dtype=np.uint8), None, np.zeros((8, 6), np.uint8)]
)
def test_a_frame_that_is_none_is_told(frame):
    medium = Medium()
    medium.grab = lambda: frame
    with pytest.raises(ReadingError, match=r"expected \(height, width\)|does not fit"):
        camera_of(medium).read(torch.zeros(1, 4, 2))


def test_training_through_it_lowers_the_loss(generator):
    """The mask learns to send the light of all images to one spot."""
    medium, phases = Medium(phase=True, exposure=0.02), Region(MASK.rows, MASK.columns, (4, 4), PHASE)
    device = camera_of(medium, mask=phases, initial=lambda g: 6 * torch.rand(16, generator=g))
    layer = bp.PhysicalLayer(device, *bp.presets.paper(rank=2, samples=8, step=0.2, linear=False))
    x = torch.rand(8, 4, 2, generator=generator)
    optimizer = torch.optim.Adam([layer.theta], lr=0.1)
    losses = []
    for _ in range(40):
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(50 * layer(x), torch.full((8,), 1))
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 20


@pytest.mark.parametrize("period", [None, 2 * math.pi])
@pytest.mark.parametrize("falls", [False, True])
def test_a_curve_is_inverted_to_half_a_grey_level(period, falls):
    greys = np.linspace(0, 255, 30)
    values = (greys / 255) ** 1.7 * 7.0 - 1.0
    curve = Gamma(greys.tolist(), (values[::-1] if falls else values).tolist(), period)
    wanted = np.linspace(-1.0, 6.0, 500) if period is None else np.linspace(-20.0, 20.0, 500)
    levels = curve.levels(wanted)
    shown = np.interp(levels, greys, values[::-1] if falls else values)
    error = shown - wanted
    if period is not None:
        error = (error + period / 2) % period - period / 2
    steps = np.abs(np.diff(np.interp(np.arange(256), greys, values)))
    assert np.abs(error).max() <= 0.51 * steps.max()


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Gamma([0, 1], [0.0]), "equally long"),
        (lambda: Gamma([0, 256], [0.0, 1.0]), "within 0 to 255"),
        (lambda: Gamma([0, 9, 5], [0.0, 1.0, 2.0]), "must rise"),
        (lambda: Gamma([0, 5, 9], [0.0, 1.0, 1.0]), "rise all the way"),
        (lambda: Gamma([0, 255], [0.0, 5.0], 2 * math.pi), "less than one period"),
        (lambda: camera_of(Medium(), inputs=Region(slice(0, 15), slice(0, 8), (4, 2), PHASE)), "15 × 8 pixels do not"),
        (lambda: camera_of(Medium(), inputs=Region(slice(0, 20), slice(0, 8), (4, 2), PHASE)), "are not on the"),
        (lambda: camera_of(Medium(), mask=Region(slice(0, 16), slice(7, 23), (2, 4), PHASE)), "overlap"),
        (lambda: camera_of(Medium(), spots=[]), "at least 1 frame and 1 spot"),
        (lambda: camera_of(Medium(), frames=0), "at least 1 frame"),
        (lambda: camera_of(Medium(), dark=256), "grey level"),
    ],
)
def test_what_cannot_be_built_says_so(build, message):
    with pytest.raises(ArgumentError) as caught:
        build()
    assert message in str(caught.value)
