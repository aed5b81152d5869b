"""What cannot work is refused in one sentence that says what to do."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import blackprop as bp
from blackprop.errors import ArgumentError, IncompatibleError
from support import draw, make_layer, oracle_layer


def _dual(layer):
    with torch.autograd.forward_ad.dual_level():
        layer(torch.autograd.forward_ad.make_dual(draw(3, 6), draw(3, 6)))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("use", "words"),
    [
        (lambda layer: torch.func.grad(lambda x: layer(x).sum())(draw(3, 6)), "`torch.func` and `vmap`"),
        (lambda layer: torch.func.vmap(layer)(draw(3, 1, 6)), "put the mapped dimension into the batch dimension"),
        (lambda layer: torch.func.jacrev(layer)(draw(3, 6)), "to_linear"),
        (lambda layer: torch.export.export(nn.Sequential(layer), (draw(3, 6),)), "`torch.export`.*to_linear"),
        (lambda layer: torch.jit.trace(layer, draw(3, 6)), "`torch.jit.trace`.*to_linear"),
        (torch.jit.script, "`torch.jit.script`.*to_linear"),
        (_dual, "no forward-mode derivative.*to_linear"),
    ],
)
def test_a_device_is_neither_traced_nor_transformed(use, words):
    layer = oracle_layer()
    with pytest.raises(IncompatibleError, match=words):
        use(layer)
    assert layer.ledger.total_rows == 0


def test_a_full_graph_is_refused_and_names_the_layer():
    """By PyTorch itself, in words of its own."""
    model = torch.compile(nn.Sequential(nn.Linear(6, 6), oracle_layer()), fullgraph=True, backend="aot_eager")
    with pytest.raises(Exception, match=r"PhysicalLayer.forward. should not be traced"):
        model(draw(3, 6))


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        (draw(3, 6).to(torch.complex64), "takes real rows, got torch.complex64.*view_as_real"),
        (draw(3, 6).int(), r"got torch.int32.*x.float\(\)"),
        (draw(3, 6) > 0, "got torch.bool"),
        (draw(3, 6).double(), r"input is float64 and the layer.*float32.*layer.double\(\)"),
        (draw(3, 6).to("meta"), "tensors on `meta`"),
    ],
)
def test_rows_that_would_be_changed_in_silence_are_refused(rows, words):
    layer = make_layer()
    with pytest.raises(ArgumentError, match=words):
        layer(rows)
    assert layer.ledger.total_rows == 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_narrower_rows_are_widened_without_loss(dtype):
    x = draw(3, 6).to(dtype)
    assert torch.equal(make_layer()(x), make_layer()(x.float()))
    assert torch.equal(make_layer().double()(draw(3, 6)), make_layer().double()(draw(3, 6).double()))


def test_a_layer_on_meta_says_how_to_come_back():
    layer = bp.PhysicalLayer(bp.devices.LightModulator(6, 4)).to("meta")
    with pytest.raises(ArgumentError, match=r"to_empty\(device=...\)"):
        layer(draw(3, 6))


def test_a_model_built_on_meta_has_a_layer_that_holds_numbers():
    """As frameworks build a model before they load its weights."""
    with torch.device("meta"):
        model = nn.Sequential(nn.Linear(5, 6), bp.PhysicalLayer(bp.devices.LightModulator(6, 4)))
    assert model[0].weight.is_meta
    assert model[1](draw(3, 6)).shape == (3, 4)


def test_a_device_that_forgot_to_build_itself_says_what_is_missing():
    class Forgetful(bp.Device):
        def __init__(self) -> None:
            self.volts = None

        def program(self, theta, /):
            self.volts = theta

        def read(self, x, /):
            return x

    for use in (bp.PhysicalLayer, bp.devices.Noisy, bp.testing.check_device, lambda d: d.in_shape):
        with pytest.raises(AttributeError, match=r"Forgetful has no .* yet: its `__init__` must call `super"):
            use(Forgetful())
    with pytest.raises(AttributeError, match="has no attribute 'volt'"):
        bp.devices.Matrix(3, 2).volt  # noqa: B018
    assert not hasattr(bp.devices.Matrix(3, 2), "volt")
