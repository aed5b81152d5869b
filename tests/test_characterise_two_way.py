"""What `characterise` finds of devices that are read backwards or have power taps, and the lines to paste."""

from __future__ import annotations

import json

import pytest
import torch

import blackprop as bp
from blackprop.core import ReadBack, Taps
from blackprop.devices import ImperfectMZIMesh, ImperfectThreeSplitterMesh, Noisy, TappedMesh
from blackprop.errors import ArgumentError, IncompatibleError
from blackprop.estimators import InSitu

ANYWHERE = {"phase": 10.0, "splitter": 0.05}


class OneWay(bp.devices.Wrapper):
    """An isolator behind the device: outputs are scaled forwards alone."""

    survives = (ReadBack,)

    def _sense(self, y, purpose):
        return y * torch.linspace(1.0, 1.3, y.shape[-1]) if y.shape[-1] == 4 else y


def test_reciprocity_and_gains_are_found_and_the_pasted_lines_use_them(tmp_path, monkeypatch):
    device = TappedMesh(ImperfectMZIMesh(6, 6, **ANYWHERE), gain=0.1)
    found = bp.characterise(device)
    assert found["reciprocal"].value is True
    assert found["taps"].value is True
    assert found.tap_gains is not None
    assert float(torch.corrcoef(torch.stack((found.tap_gains, device.gains)))[0, 1]) > 0.99
    assert found.ledger.rows[bp.Purpose.PARAMETER] == 0
    assert json.loads(found.to_json())["declaration"]["tap_gains"] == pytest.approx(found.tap_gains.tolist())
    found.save(tmp_path)
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {"bp": bp, "torch": torch, "device": device}
    exec(found.conclusion.line, names)
    pasted = names["device"]
    assert isinstance(pasted, bp.devices.Declared)
    assert pasted.declaration.has(Taps)
    assert found.conclusion.plan.startswith("in-situ")

    def gradient(estimator: object) -> torch.Tensor:
        method = (*bp.presets.oracle(),) if estimator is None else (estimator, bp.surrogates.Reciprocal())
        layer = bp.PhysicalLayer(pasted, *method, generator=torch.Generator().manual_seed(0))
        layer(torch.randn(16, 6, generator=torch.Generator().manual_seed(1))).square().sum().backward()
        return layer.theta.grad

    exact = gradient(None)
    plain, corrected = (
        float((gradient(each) - exact).norm() / exact.norm()) for each in (InSitu(None), names["estimator"])
    )
    assert plain > 0.05
    assert corrected < plain / 5


def test_a_device_that_is_not_reciprocal_is_found_and_trained_without():
    device = OneWay(bp.devices.Matrix(6, 4))
    found = bp.characterise(device)
    assert found["reciprocal"].value is False
    assert any("not reciprocal" in each for each in found.conclusion.advice)
    assert "without=[bp.core.ReadBack]" in found.conclusion.line
    assert not found.declaration.has(ReadBack)
    names: dict[str, object] = {"bp": bp, "torch": torch, "device": device}
    exec(found.conclusion.line, names)
    assert not names["device"].declaration.has(ReadBack)  # pyright: ignore[reportAttributeAccessIssue]


def test_noise_of_readings_and_taps_is_told_from_faults():
    device = Noisy(TappedMesh(ImperfectThreeSplitterMesh(6, 6, **ANYWHERE), noise=0.01), read=0.01)
    found = bp.characterise(device)
    assert found["reciprocal"].value is True
    assert found["taps"].value is True


def test_taps_in_other_places_and_devices_without_either_are_said():
    device = TappedMesh(ImperfectMZIMesh(6, 6, **ANYWHERE))
    taps = device.declaration.capability(Taps)
    wrong = Taps(taps.modes, taps.units, taps.combination[::-1])
    device.capabilities = (*(each for each in device.capabilities if not isinstance(each, Taps)), wrong)
    found = bp.characterise(device)["taps"]
    assert not found.known
    assert "in another place or of another sign" in found.evidence
    none = bp.characterise(bp.devices.Declared(bp.devices.LightModulator(4, 3), without=[ReadBack]))
    assert not none["reciprocal"].known
    assert not none["taps"].known
    assert "does not declare" in none["taps"].evidence


def test_gains_that_do_not_fit_are_refused():
    with pytest.raises(ArgumentError, match="gains"):
        InSitu(gains=(1.0, -1.0))
    with pytest.raises(IncompatibleError, match=r"2 gains, and .* has 18 taps"):
        InSitu(gains=(1.0, 1.0)).check(bp.devices.MZIMesh(4, 4).declaration)
