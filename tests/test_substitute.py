"""Replacing layers by name; parameter groups; the bill of a model."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import blackprop as bp
from blackprop.errors import SubstitutionError
from support import draw


def _model() -> nn.Sequential:
    head = nn.Sequential()
    head.add_module("norm", nn.BatchNorm1d(8))
    head.add_module("fc", nn.Linear(8, 6))
    model = nn.Sequential()
    model.add_module("body", nn.Linear(5, 8))
    model.add_module("head", head)
    return model


def _modulator(old: nn.Module) -> bp.Device:
    return bp.devices.LightModulator(old.in_features, old.out_features)


def test_a_layer_is_replaced_by_its_qualified_name():
    model = _model().eval()
    same = bp.substitute(model, {"head.fc": _modulator, "body": lambda old: bp.PhysicalLayer(_modulator(old))})
    assert same is model
    assert isinstance(model.head.fc, bp.PhysicalLayer)
    assert isinstance(model.body, bp.PhysicalLayer)
    assert not model.head.fc.training
    assert model(draw(3, 5)).shape == (3, 6)


@pytest.mark.parametrize(
    ("replacements", "words"),
    [
        ({"head.fv": _modulator}, r"no layer 'head.fv' \(near it: 'head.fc'.*\); candidates: 'body', 'head.fc'"),
        ({"": _modulator}, "the model itself"),
        ({"body": _modulator, "head.fc": lambda old: bp.devices.Matrix(8, 7)}, r"'head.fc' maps \(8,\) to \(6,\)"),
        ({"body": _modulator, "head.fc": lambda old: nn.Identity()}, "returned Identity"),
        ({"head": _modulator, "head.fc": _modulator}, "lies inside"),
    ],
)
def test_everything_is_checked_before_anything_is_replaced(replacements, words):
    model = _model()
    before = dict(model.named_modules())
    with pytest.raises(SubstitutionError, match=words):
        bp.substitute(model, replacements)
    assert dict(model.named_modules()) == before


def test_a_layer_held_under_two_names_stays_one():
    model = _model()
    model.tied = model.head.fc
    bp.substitute(model, {"tied": _modulator})
    assert model.tied is model.head.fc
    assert isinstance(model.tied, bp.PhysicalLayer)


def test_a_double_model_stays_double():
    model = bp.substitute(_model().double(), {"head.fc": _modulator})
    assert model(draw(3, 5, dtype=torch.float64)).dtype == torch.float64


def test_device_parameters_have_a_group_of_their_own():
    model = bp.substitute(_model(), {"head.fc": _modulator})
    digital, device = bp.param_groups(model, lr=1e-3, device_lr=1e-2)
    assert device["params"] == [model.head.fc.theta]
    assert device["lr"] == 1e-2
    assert {id(p) for p in digital["params"]} == {id(p) for p in model.parameters()} - {id(model.head.fc.theta)}
    torch.optim.AdamW([digital, device], weight_decay=0.1)
    assert device["weight_decay"] == 0.0


def test_a_model_without_devices_has_one_group():
    (group,) = bp.param_groups(_model(), lr=1e-3, device_lr=1e-2)
    assert group["lr"] == 1e-3


def test_a_substituted_model_trains():
    model = bp.substitute(_model(), {"head.fc": _modulator})
    optimizer = torch.optim.Adam(bp.param_groups(model, lr=1e-2, device_lr=3e-2))
    x = draw(64, 5)
    target = (x @ draw(5, 6, seed=1)).argmax(1)
    losses = []
    for _ in range(80):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(x), target)
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.6 * losses[0]
    assert bp.ledger(model).total_rows == model.head.fc.ledger.total_rows > 64 * 80
