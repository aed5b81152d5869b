"""Replacing layers by name; parameter groups; the bill of a model."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize, prune

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
    digital, gain, device = bp.param_groups(model, lr=1e-3, device_lr=1e-2)
    layer = model.head.fc
    assert device["params"] == [layer.theta]
    assert device["lr"] == 1e-2
    assert gain["params"] == [layer.gain]
    assert gain["lr"] == digital["lr"] == 1e-3
    assert {id(p) for p in digital["params"]} == {id(p) for p in model.parameters()} - {id(layer.theta), id(layer.gain)}
    torch.optim.AdamW([digital, gain, device], weight_decay=0.1)
    assert device["weight_decay"] == gain["weight_decay"] == 0.0


def _clipped(layer: bp.PhysicalLayer) -> None:
    class Clip(nn.Module):
        def forward(self, theta):
            return theta.clamp(0, 2)

    parametrize.register_parametrization(layer, "theta", Clip())


def _pruned(layer: bp.PhysicalLayer) -> None:
    prune.random_unstructured(layer, "theta", amount=0.25)


@pytest.mark.parametrize("change", [_clipped, _pruned])
def test_a_theta_that_is_computed_is_trained_by_its_leaves(change):
    """`torch.nn.utils.parametrize` and `prune` put another parameter behind θ: that one moves, at the device's rate."""
    model = bp.substitute(_model(), {"head.fc": _modulator})
    layer = model.head.fc
    change(layer)
    *_, device = bp.param_groups(model, lr=0.0, device_lr=1e-1)
    (leaf,) = device["params"]
    assert leaf.is_leaf
    assert leaf.shape == (48,)
    before = leaf.detach().clone()
    optimizer = torch.optim.SGD(bp.param_groups(model, lr=0.0, device_lr=1e-1))
    for _ in range(2):
        optimizer.zero_grad()
        model(draw(16, 5)).square().sum().backward()
        optimizer.step()
    assert not torch.equal(leaf, before)


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


def test_attention_is_refused_with_the_reason():
    model = nn.ModuleDict({"attn": nn.MultiheadAttention(8, 2)})
    with pytest.raises(SubstitutionError, match=r"'attn.out_proj' cannot be replaced: `nn.Multihead"):
        bp.substitute(model, {"attn.out_proj": _modulator})
    assert isinstance(model["attn"].out_proj, nn.Linear)


@pytest.mark.parametrize("alone", [True, False])
@pytest.mark.parametrize("child", ["linear1", "linear2"])
def test_feed_forward_layers_of_a_transformer_are_served_in_train_and_eval(alone, child):
    layer = nn.TransformerEncoderLayer(8, 2, 6, dropout=0.0, batch_first=True)
    model = layer if alone else nn.TransformerEncoder(layer, 2)
    name = child if alone else f"layers.0.{child}"
    x, mask = draw(3, 5, 8), torch.zeros(3, 5, dtype=torch.bool)
    mask[:, 4:] = True
    masked = {"src_key_padding_mask": mask}
    model = bp.substitute(model, {name: _modulator})
    trained = model.train()(x, **masked)
    trained.sum().backward()
    with torch.no_grad():
        torch.testing.assert_close(model.eval()(x, **masked)[:, :4], trained[:, :4].detach())


def test_tied_weights_are_refused():
    model = nn.Sequential(nn.Embedding(6, 8), nn.Linear(8, 6, bias=False))
    model[1].weight = model[0].weight
    with pytest.raises(SubstitutionError, match=r"'1' cannot be replaced: its weight is tied to `0.weight`"):
        bp.substitute(model, {"1": _modulator})


def test_a_parent_that_reads_the_weight_is_refused():
    class Reads(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(8, 6)

        def forward(self, x):
            return nn.functional.linear(x, self.fc.weight) + self.fc(x)

    with pytest.raises(SubstitutionError, match=r"Reads, reads `self.fc.weight`"):
        bp.substitute(Reads(), {"fc": _modulator})
    with pytest.raises(AttributeError, match="its matrix is inside the device"):
        bp.PhysicalLayer(bp.devices.LightModulator(8, 6)).weight  # noqa: B018
    assert not hasattr(bp.PhysicalLayer(bp.devices.LightModulator(8, 6)), "weight")
