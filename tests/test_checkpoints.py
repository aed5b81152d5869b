"""A checkpoint knows which device it was written with: another is refused, one that has moved is noticed."""

from __future__ import annotations

import copy
import io
import warnings
from dataclasses import asdict

import pytest
import torch

import blackprop as bp
from blackprop.core import Purpose
from blackprop.core._packing import pack, unpack
from blackprop.errors import CheckpointError, DeviceChangedWarning
from support import behind_a_linear, draw, make_layer

METHODS = {
    "default": lambda: (None, None),
    "memory": lambda: (bp.estimators.DirectionalMemory(count=4), bp.surrogates.Streaming()),
    "fresh": lambda: (bp.estimators.RandomDirections(4, 1e-2), bp.surrogates.Streaming()),
}


class Displaced(bp.devices.Wrapper):
    """The same device, its settings off by so many radians."""

    def __init__(self, device: bp.Device, offset: float) -> None:
        super().__init__(device)
        self.offset = offset

    def _setting(self, theta: torch.Tensor, fresh: bool) -> torch.Tensor:
        del fresh
        return theta + self.offset

    def state_dict(self):
        return self.device.state_dict()

    def load_state_dict(self, state, /):
        self.device.load_state_dict(state)


def _trained(device: bp.Device, method, steps: int = 8) -> tuple[torch.nn.Sequential, torch.optim.Optimizer]:
    model = behind_a_linear(make_layer(device, method=method))
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-2)
    _train(model, optimizer, range(steps))
    return model, optimizer


def _train(model, optimizer, steps):
    for step in steps:
        optimizer.zero_grad()
        model(draw(16, 5, seed=step)).square().mean().backward()
        optimizer.step()


def test_a_checkpoint_of_another_kind_of_device_is_refused_and_leaves_the_layer():
    """Both declare the same shapes, coupling and period: the kind tells them apart."""
    state = make_layer(bp.devices.Microring(16, 8), method=(None, None)).state_dict()
    layer = make_layer(bp.devices.LightModulator(16, 8), method=(None, None))
    before = layer.theta.detach().clone()
    with pytest.raises(CheckpointError, match=r"kind Microring, here LightModulator.*bp.for_another_device"):
        layer.load_state_dict(state)
    assert torch.equal(layer.theta, before)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"linear": False}, "linear True, here False"),
        ({"coupling": bp.Coupling.NONE}, "coupling element, here none"),
        (
            {"theta": bp.ThetaSpec(24, low=-1.0, high=1.0)},
            r"limits \[None, None\], here \[\[-1.0, -1.0\], \[1.0, 1.0\]\]",
        ),
        ({"theta": bp.ThetaSpec(24, period=3.0)}, "period 6.28.*, here 3.0"),
    ],
)
def test_a_device_that_declares_otherwise_is_refused(change, words):
    state = make_layer().state_dict()
    device = bp.devices.LightModulator(6, 4)
    for name, value in change.items():
        setattr(device, name, value)
    with pytest.raises(CheckpointError, match=words):
        make_layer(device, method=(bp.estimators.RandomDirections(3), bp.surrogates.RandomFeedback())).load_state_dict(
            state
        )


def test_wrappers_and_links_stand_for_the_device_behind_them():
    state = make_layer(Displaced(bp.devices.LightModulator(6, 4), 0.0)).state_dict()
    make_layer(bp.devices.LightModulator(6, 4)).load_state_dict(state)


@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
@pytest.mark.parametrize("offset", [0.5, 1.5])
def test_a_moved_device_is_noticed_at_the_first_batch_after_loading(method, offset, train):
    """Also when the checkpoint was written one step after a calibration, and when the model is only evaluated."""
    for steps in (2, 12):
        model, _ = _trained(bp.devices.LightModulator(6, 4), method(), steps)
        moved = behind_a_linear(make_layer(Displaced(bp.devices.LightModulator(6, 4), offset), method=method()))
        moved.load_state_dict(model.state_dict())
        with pytest.warns(DeviceChangedWarning, match=r"differ by \d+%.*for_another_device"):
            moved.train(train)(draw(16, 5, seed=99))
        with warnings.catch_warnings():
            warnings.simplefilter("error", DeviceChangedWarning)
            moved(draw(16, 5, seed=99))  # said once


@pytest.mark.parametrize("noise", [0.0, 0.05])
@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_a_device_that_stays_is_asked_nothing_more(method, noise):
    def build():
        return bp.devices.Noisy(bp.devices.LightModulator(6, 4), read=noise)

    for steps in (2, 12):
        model, optimizer = _trained(build(), method(), steps)
        state = copy.deepcopy(model.state_dict())
        _train(model, optimizer, range(steps, steps + 6))
        other = behind_a_linear(make_layer(build(), method=method()))
        other.load_state_dict(state)
        again = torch.optim.SGD(other.parameters(), lr=1e-2)
        _train(other, again, range(steps, steps + 6))
        assert other[1].ledger == model[1].ledger
        assert torch.equal(other[1].theta, model[1].theta)


def test_verify_compares_the_readings_that_the_checkpoint_remembers():
    model, _ = _trained(bp.devices.LightModulator(6, 4), METHODS["default"]())
    for offset, moved in ((0.0, False), (0.3, True)):
        other = behind_a_linear(make_layer(Displaced(bp.devices.LightModulator(6, 4), offset), method=(None, None)))
        other.load_state_dict(model.state_dict())
        before = other[1].ledger.rows[Purpose.EVALUATE]
        difference = other[1].verify()
        assert (difference is not None) is moved
        assert other[1].ledger.rows[Purpose.EVALUATE] == before + 4
    assert difference > 0.1
    assert make_layer().verify() is None


def test_a_model_is_moved_to_another_device_and_learns_that_from_the_start():
    """Weights are carried over; ledger, device state, surrogate and estimator are those of the new layer."""
    model, _ = _trained(bp.devices.LightModulator(6, 4), METHODS["default"]())
    state = model.state_dict()
    noisy = bp.devices.Noisy(bp.devices.LightModulator(6, 4), read=0.01)
    for device, method in ((noisy, (None, None)), (bp.devices.Microring(6, 4), METHODS["memory"]())):
        other = behind_a_linear(make_layer(device, method=method))
        assert not any(other.load_state_dict(bp.for_another_device(state)))
        assert torch.equal(other[1].theta, model[1].theta)
        assert torch.equal(other[0].weight, model[0].weight)
        assert not other[1].started
        assert other[1].ledger.total_rows == 0
        optimizer = torch.optim.SGD(other.parameters(), lr=1e-2)
        _train(other, optimizer, range(3))
        if method == (None, None):
            assert other[1].ledger.rows[Purpose.CALIBRATE] > 0
    assert all(torch.equal(a, b) for a, b in zip(state.values(), model.state_dict().values(), strict=True))


def test_a_checkpoint_of_version_1_is_migrated():
    """It held the extra state as a dictionary, and `started` and `residual` as buffers."""
    model, optimizer = _trained(bp.devices.LightModulator(6, 4), METHODS["memory"]())
    old = copy.deepcopy(model.state_dict())
    content = unpack(old["1._extra_state"])
    old["1.started"], old["1.residual"] = torch.tensor(content["started"]), torch.tensor(content["residual"])
    old["1._extra_state"] = {name: content[name] for name in ("ledger", "budget", "generator", "device")}
    old["1.signal._extra_state"] = unpack(old["1.signal._extra_state"])
    file = io.BytesIO()
    torch.save(old, file)
    file.seek(0)
    _train(model, optimizer, range(8, 12))
    other = behind_a_linear(make_layer(bp.devices.LightModulator(6, 4), method=METHODS["memory"]()))
    other.load_state_dict(torch.load(file, weights_only=True))
    _train(other, torch.optim.SGD(other.parameters(), lr=1e-2), range(8, 12))
    assert torch.equal(other[1].theta, model[1].theta)
    assert other[1].ledger == model[1].ledger


def test_a_newer_version_and_damaged_bytes_are_refused():
    layer = make_layer()
    state = layer.state_dict()
    newer = {**unpack(state["_extra_state"]), "version": 3}
    damaged = state["_extra_state"].clone()
    damaged[8:400] = 0
    for extra, words in (
        (pack(newer), "version 3, and this library reads up to 2"),
        (damaged, "cannot be read"),
        (state["_extra_state"][:100], "cut short"),
        (torch.zeros(20_000, dtype=torch.uint8), "cut short or changed"),
        (torch.zeros(3), "tensor of bytes"),
    ):
        with pytest.raises(CheckpointError, match=words):
            layer.load_state_dict({**state, "_extra_state": extra})


def test_packed_states_have_one_size_and_one_form():
    state = {"a": 1, "b": [1.5, None, "é"], "c": {"d": torch.arange(3)}}
    assert torch.equal(pack(state), pack(state))
    assert torch.equal(pack(unpack(pack({**state, "d": ["a", "a"]}))), pack({**state, "d": ["a", "a"]}))
    assert pack(state).shape == pack({**state, "a": 10**15}).shape
    again = unpack(pack(state))
    assert torch.equal(again.pop("c")["d"], torch.arange(3))
    assert again == {"a": 1, "b": [1.5, None, "é"]}


def test_code_in_a_packed_state_is_not_run():
    class Evil:
        def __reduce__(self):
            return (print, ("run",))

    file = io.BytesIO()
    torch.save({"a": Evil()}, file)
    content = file.getvalue()
    whole = len(content).to_bytes(8, "little") + content
    with pytest.raises(CheckpointError, match="cannot be read"):
        unpack(torch.frombuffer(bytearray(whole), dtype=torch.uint8))


@pytest.mark.parametrize("oldest", [False, True])
def test_a_calibration_whose_numbers_were_buffers_is_taken_back(oldest):
    """The oldest have a count `used` beside orders padded with zeros, and no `moving`."""
    layers = [bp.PhysicalLayer(bp.devices.Microring(6, 4)) for _ in range(2)]
    layers[0](draw(8, 6).requires_grad_()).sum().backward()
    verdict, state = layers[0].surrogate.verdict, layers[0].state_dict()
    own, slope = state["surrogate.own"], state["surrogate.slope"]
    numbers = {
        "check_found": torch.tensor([verdict.cosine, verdict.signs, verdict.settings]),
        "displaced": torch.tensor(verdict.unexplained).sqrt() / slope.square().mean().sqrt(),
        **{name: torch.tensor(getattr(verdict, name)) for name in ("spread", "calm", "excess")},
        **{name: torch.tensor(int(getattr(verdict, name))) for name in ("trusted", "moving", "said")},
    }
    old = {name: value for name, value in state.items() if name != "surrogate._extra_state"}
    old |= {f"surrogate.{name}": value for name, value in numbers.items()}
    if oldest:
        del old["surrogate.moving"]
        old["surrogate.own"] = torch.cat([own, own.new_zeros(3, *own.shape[1:])])
        old["surrogate.used"] = torch.tensor(len(own))
    layers[1].load_state_dict(old)
    for name, value in asdict(verdict).items():
        assert getattr(layers[1].surrogate.verdict, name) == pytest.approx(value, rel=1e-5), name
    x = draw(5, 6, seed=1)
    for layer in layers:
        layer.eval()
    surrogates = [layer.surrogate for layer in layers]
    torch.testing.assert_close(surrogates[1].predict(x), surrogates[0].predict(x))
    torch.testing.assert_close(surrogates[1].slope, surrogates[0].slope)
