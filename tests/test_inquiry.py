"""An inquiry names the family of every device, and is never sure of a wrong one."""

from __future__ import annotations

import math

import pytest
import torch

import blackprop as bp
from blackprop.core import metered
from blackprop.devices import (
    Declared,
    Diffraction,
    LightModulator,
    LowRank,
    Matrix,
    Microring,
    Monarch,
    MZIMesh,
    Noisy,
    ScatteringMedium,
    ThreeSplitterMesh,
)
from blackprop.planning import Family, InquiryResult, inquire
from support import draw

N = 20
SHAPE = {"in_shape": N, "out_shape": N, "theta_size": N * N}


def turned(matrix, **more) -> bp.Device:
    """A device whose matrix is a function of the cosines of its parameters (N, N)."""
    return bp.devices.from_callable(
        lambda x, t: x @ matrix(t.cos().view(N, N)).mT / math.sqrt(N),
        initial=lambda g: math.pi / 2 + 0.2 * torch.randn(N * N, generator=g),
        **SHAPE,
        **more,
    )


def saturated(matrix) -> bp.Device:
    return bp.devices.from_callable(
        lambda x, t: (4 * x @ matrix(t.cos().view(N, N)).mT / math.sqrt(N)).tanh(),
        initial=lambda g: 2 * math.pi * torch.rand(N * N, generator=g),
        **PERIOD,
        **SHAPE,
    )


PERIOD = {"period": 2 * math.pi}
Q = torch.linalg.qr(draw(N, N, seed=4))[0]
TRUTHS = {
    "modulator": (LightModulator(N, N), Family.ELEMENT),
    "rings": (Microring(N, N), Family.ELEMENT),
    "matrix": (Matrix(N, N), Family.ELEMENT),
    "limits": (turned(lambda c: c, low=0.0, high=3.2), Family.ELEMENT),
    "unsigned inputs": (turned(lambda c: c, x_low=0.0, x_high=1.0, **PERIOD), Family.ELEMENT),
    "rows": (turned(lambda c: c @ Q, **PERIOD), Family.ROW),
    "columns": (turned(lambda c: Q @ c, **PERIOD), Family.LINEAR),
    "leaks to the next row": (turned(lambda c: c + 0.1 * c.roll(1, 0), **PERIOD), Family.LINEAR),
    "leaks to the next element": (turned(lambda c: c + 0.1 * c.roll(1, 1), **PERIOD), Family.ROW),
    "leaks in order": (turned(lambda c: c + 0.1 * c.flatten().roll(1).view(N, N), **PERIOD), Family.LINEAR),
    "MZI mesh": (MZIMesh(N, N), Family.MESH),
    "three-splitter mesh": (ThreeSplitterMesh(N, N), Family.LINEAR),
    "Monarch": (Monarch(N, N), Family.LINEAR),
    "low rank": (LowRank(N, N), Family.LINEAR),
    "medium": (ScatteringMedium(N, N, seed=1), Family.MASK),
    "saturated": (saturated(lambda c: c), Family.BLOCKS),
    "saturated, leaks to the next row": (saturated(lambda c: c + 0.2 * c.roll(1, 0)), Family.OTHER),
    "diffraction": (Diffraction(N, N), Family.OTHER),
}


def told(device: bp.Device, seed: int, *, hidden: bool = False, scale: float = 1.0) -> tuple[InquiryResult, bp.Ledger]:
    size = device.theta.size
    order = torch.randperm(size, generator=torch.Generator().manual_seed(seed)) if hidden else None
    undeclared = Declared(device, period=device.theta.period, order=order)
    theta = undeclared.theta.draw(torch.Generator().manual_seed(seed))
    ledger = bp.Ledger()
    procedure = inquire(undeclared.declaration, theta, 0.4 * scale, torch.Generator().manual_seed(seed))
    found = bp.run(procedure, metered(undeclared, ledger))
    if found.order is not None:
        right = float((found.order == order.argsort()).double().mean())
        assert right > 0.99 if found.sure else right > 0.9, right
    return found, ledger


@pytest.mark.parametrize("noise", [0.0, 0.01, 0.05])
@pytest.mark.parametrize("name", TRUTHS)
def test_the_family_is_named_and_never_surely_wrong(name: str, noise: float):
    device, family = TRUTHS[name]
    for seed in range(3):
        noisy = Noisy(device, read=noise, seed=seed) if noise else device
        found, _ = told(noisy, seed)
        assert found.family is family or not found.sure, found
        if noise <= 0.01:
            assert found.family is family, found


@pytest.mark.parametrize("name", ["modulator", "rings", "matrix", "limits", "unsigned inputs"])
@pytest.mark.parametrize("noise", [0.0, 0.02])
def test_hidden_wiring_is_found(name: str, noise: float):
    device, family = TRUTHS[name]
    found, ledger = told(Noisy(device, read=noise, seed=1) if noise else device, 5, hidden=True)
    assert found.family is family
    assert found.order is not None
    assert ledger.total_programmings <= 30


@pytest.mark.parametrize("scale", [1e-3, 1e3])
@pytest.mark.parametrize("name", ["modulator", "MZI mesh", "medium", "leaks to the next row"])
def test_the_scale_of_inputs_does_not_matter(name: str, scale: float):
    device, family = TRUTHS[name]
    assert told(device, 1, scale=scale)[0].family is family


def test_four_settings_tell_elements_and_rows_and_two_check_them():
    for name in ("modulator", "rows"):
        ledger = told(TRUTHS[name][0], 0)[1]
        assert ledger.total_programmings == 6
        assert ledger.total_rows == 6 * (3 * N + 1) + 28  # few inputs are read repeatedly, beside the row 0


def test_what_was_found_survives_its_state():
    found, _ = told(LightModulator(N, N), 3, hidden=True)
    again = InquiryResult.from_state(found.state_dict())
    assert str(again) == str(found)
    spec = again.declaration(Declared(LightModulator(N, N)).declaration)
    assert (spec.linear, spec.coupling) == (True, bp.Coupling.ELEMENT)


class Jolted(bp.devices.Wrapper):
    """Its settings are displaced from programming `at` on, as those of a bench that was knocked."""

    def __init__(self, device: bp.Device, at: int, size: float = 0.3) -> None:
        super().__init__(device)
        self.at, self.written = at, 0
        self.jolt = size * draw(device.theta.size, seed=8)

    def _setting(self, theta: torch.Tensor, fresh: bool) -> torch.Tensor:
        self.written += fresh
        return theta + self.jolt if self.written >= self.at else theta


@pytest.mark.parametrize("hidden", [False, True], ids=["in order", "wired at random"])
@pytest.mark.parametrize("at", range(2, 10))
@pytest.mark.parametrize("name", ["modulator", "rows"])
def test_a_device_that_moves_while_it_is_asked_is_not_surely_another(name: str, at: int, hidden: bool):
    device, family = TRUTHS[name]
    found, _ = told(Jolted(device, at), 2, hidden=hidden and family is Family.ELEMENT)
    assert found.family is family or not found.sure, found
