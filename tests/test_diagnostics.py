"""Diagnostics: the share of signal is that of the stream, the cosine that of the gradients, the warning deserved."""

from __future__ import annotations

import json
import math
import warnings

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import blackprop as bp
from blackprop.errors import NoisyGradientWarning
from blackprop.experiments import (
    Callback,
    Default,
    Digits,
    FrozenReference,
    Grid,
    Hardware,
    OracleReference,
    Paper,
    Trial,
    compare,
)
from blackprop.experiments.engine._against_oracle import seen
from blackprop.experiments.engine._training import Training
from blackprop.experiments.tasks._networks import DigitNetwork
from blackprop.nn import SignalMeter, advise
from blackprop.nn._diagnostics import MEMORY
from support import draw

SIZE = 20_000


def metered(share: float, steps: int, size: int = SIZE, seed: int = 0) -> SignalMeter:
    """A meter after a stream whose gradients are, in power, `share` signal and the rest noise."""
    generator = torch.Generator().manual_seed(seed)
    signal = torch.randn(size, generator=generator)
    signal /= signal.norm()
    meter = SignalMeter(size)
    for _ in range(steps):
        noise = torch.randn(size, generator=generator) / math.sqrt(size)
        meter.add(math.sqrt(share) * signal + math.sqrt(1 - share) * noise)
    return meter


@pytest.mark.parametrize("share", [0.05, 0.2, 0.5, 0.9, 1.0])
def test_the_share_of_signal_is_that_of_the_stream(share):
    found = metered(share, 150).share
    assert found == pytest.approx(share, rel=0.1)


def test_noise_has_no_signal_within_the_error_that_is_told():
    meters = [metered(0.0, 250, size=2000, seed=seed) for seed in range(10)]
    scatter = torch.tensor([meter.share for meter in meters])
    assert float(scatter.square().mean().sqrt()) == pytest.approx(meters[0].error, rel=0.5)
    assert meters[0].error == pytest.approx(1 / math.sqrt(2000 * (2 * MEMORY - 1)), rel=0.05)


def test_scale_zeros_and_overflow_change_nothing():
    plain, rough = SignalMeter(50), SignalMeter(50)
    for step in range(10):
        plain.add(draw(50, seed=step))
        rough.add(draw(50, seed=step) * 10.0**step)
        rough.add(torch.zeros(50))
        rough.add(torch.full((50,), math.inf))
    assert rough.count == plain.count == 10
    assert rough.share == pytest.approx(plain.share, abs=1e-5)


def test_a_meter_that_is_saved_goes_on_alike():
    whole, cut = metered(0.3, 20, size=100), SignalMeter(100)
    cut.load_state_dict(whole.state_dict())
    for step in range(5):
        whole.add(draw(100, seed=step))
        cut.add(draw(100, seed=step))
    assert cut.share == whole.share
    assert (cut.count, cut.error) == (whole.count, whole.error)


def test_of_many_entries_evenly_spread_ones_tell_the_share():
    meter = metered(0.3, 60, size=2**20)
    assert meter.latest.numel() < 2**18
    assert meter.share == pytest.approx(0.3, abs=0.01)


def test_a_checkpoint_that_holds_a_whole_gradient_is_taken_back():
    device = bp.devices.LightModulator(1024, 512)
    layers = [bp.PhysicalLayer(device) for _ in range(2)]
    grad = draw(1024 * 512)
    layers[0].signal.add(grad)
    layers[1].load_state_dict({**layers[0].state_dict(), "signal.latest": grad})
    assert torch.equal(layers[1].signal.latest, layers[0].signal.latest)
    assert bool(layers[0].signal.latest.any())


def test_one_gradient_tells_nothing():
    meter = metered(0.5, 1, size=10)
    assert (meter.share, meter.error) == (None, math.inf)


def layer_of(device, *method, seed=0):
    return bp.PhysicalLayer(device, *method, generator=torch.Generator().manual_seed(seed))


def test_what_is_measured_of_a_layer_is_what_it_does():
    """At one θ and batch, Gaussian directions make noise whose power the estimator declares."""
    device = bp.devices.LightModulator(15, 15)
    estimator = bp.estimators.RandomDirections(40, 1e-3)
    layer = layer_of(device, estimator, bp.surrogates.Streaming())
    x = draw(16, 15).requires_grad_()
    for _ in range(120):
        layer(x).square().sum().backward()
    found = bp.diagnose(layer)[""]
    declared = 1 / (1 + estimator.relative_variance(225))
    assert found.signal == pytest.approx(declared, rel=0.15)
    assert found.snr == pytest.approx(declared / (1 - declared), rel=0.2)
    assert found.residual < 1e-3  # a matrix that stands still
    assert found.at_limit == 0
    assert not found.hopeless


def test_the_residual_is_that_of_the_batch_before_it_was_learnt():
    layer = layer_of(
        bp.devices.LightModulator(20, 20), bp.estimators.RandomDirections(1, 1e-2), bp.surrogates.Streaming()
    )
    x = draw(8, 20).requires_grad_()
    layer(x)
    old = layer.surrogate.A.clone()
    with torch.no_grad():
        layer.theta += 0.1 * draw(400, seed=3)
    x = x.detach().requires_grad_()
    y, x = layer(x).detach(), x.detach()
    assert bp.diagnose(layer)[""].residual == pytest.approx(float((y - x @ old.mT).norm() / y.norm()), rel=1e-4)


def test_a_setting_at_its_limit_is_seen_and_parts_tell_of_themselves():
    class Telling(bp.surrogates.Streaming):
        def diagnosis(self):
            return {"telling": 3.0}

    device = bp.devices.from_callable(
        lambda x, theta: x @ theta.view(4, 4), in_shape=4, out_shape=4, theta_size=16, low=0.0, high=1.0, linear=True
    )
    layer = layer_of(device, bp.estimators.RandomDirections(1, 1e-2), Telling())
    with torch.no_grad():
        layer.theta.copy_(torch.tensor([0.0] * 4 + [0.5] * 10 + [1.0] * 2))
    found = layer.diagnose()
    assert found.at_limit == 6 / 16
    assert found.plain()["telling"] == 3.0
    assert (found.signal, found.cosine, found.snr, found.residual) == (None, None, None, None)


def test_the_cosines_to_the_oracle_are_those_computed_by_hand():
    device = bp.devices.LightModulator(6, 4)
    layer = layer_of(device, bp.estimators.RandomDirections(3, 1e-3), bp.surrogates.Frozen())
    with torch.no_grad():
        layer.gain.fill_(-2.0)
    x = draw(5, 6).requires_grad_()
    layer(x)
    with torch.no_grad():
        layer.theta += 0.5 * draw(24, seed=1)  # the frozen surrogate is wrong now
    target = draw(5, 4, seed=2)
    inputs = []
    model = nn.Sequential(nn.Identity(), layer)
    with seen(model) as steps:
        held = x.detach().requires_grad_()
        (model(held) - target).square().sum().backward()
        inputs.append(held.grad)
    theta, rows = layer.theta.detach().requires_grad_(), x.detach().requires_grad_()
    output = layer.gain.detach() * (rows @ (theta.cos().view(4, 6) / math.sqrt(6)).mT)
    (output - target).square().sum().backward()
    found = steps["1"].cosines()
    assert found["oracle_cosine"] == pytest.approx(
        float(F.cosine_similarity(layer.theta.grad, theta.grad, 0)), abs=1e-4
    )
    by_hand = F.cosine_similarity(inputs[0].flatten(), rows.grad.flatten(), 0)
    assert found["oracle_cosine_x"] == pytest.approx(float(by_hand), abs=1e-4)
    assert 0.1 < abs(found["oracle_cosine"]) < 0.9  # neither is nothing
    assert found["oracle_cosine_x"] < 0.99


# The warning.


def among_digital_layers(width: int, *method) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(width, width), nn.Linear(width, width), layer_of(bp.devices.LightModulator(width, width), *method)
    )


def fed(model: nn.Sequential, share: float) -> nn.Sequential:
    meter, size = model[2].signal, model[2].theta.numel()
    meter.load_state_dict(metered(share, 150, size=size).state_dict())
    return model


def test_a_gradient_of_noise_among_digital_layers_is_warned_of_once():
    model = fed(among_digital_layers(384), 0.0)
    with pytest.warns(NoisyGradientWarning, match=r"layer '2'.*SignalScaled"):
        assert advise(model) == ["2"]
    again = among_digital_layers(384)
    again.load_state_dict(model.state_dict())
    assert advise(again) == ["2"]  # a second warning would be an error here


@pytest.mark.parametrize("case", ["signal", "frozen", "all physical", "too early"])
def test_a_healthy_layer_is_not_warned_of(case):
    model = fed(among_digital_layers(384), 0.01 if case == "signal" else 0.0)
    if case == "frozen":
        model[2].theta.requires_grad_(False)
    if case == "all physical":
        model[0], model[1] = nn.Identity(), nn.Identity()
    if case == "too early":
        model[2].signal.load_state_dict(metered(0.0, 20, size=384**2).state_dict())
    assert advise(model) == []


def test_training_with_noise_is_warned_of_and_with_the_exact_gradient_is_not():
    def train(*method):
        model = among_digital_layers(384, *method)
        optimizer = torch.optim.Adam(bp.param_groups(model, lr=1e-3, device_lr=1e-2))
        for step in range(105):
            x = draw(4, 384, seed=step)
            optimizer.zero_grad()
            (model(x) - x).square().mean().backward()
            optimizer.step()
        return model

    with pytest.warns(NoisyGradientWarning):
        advise(train(bp.estimators.RandomDirections(1, 1e-2), bp.surrogates.Oracle()))
    assert advise(train(*bp.presets.oracle())) == []


# In recipes.


def test_the_lines_of_metrics_tell_how_the_training_stands(tmp_path):
    task = Digits(epochs=2, batch_size=256, network=DigitNetwork.HYBRID)
    methods = (OracleReference(), FrozenReference(), Default(), Paper(rank=4, samples=3))
    compare(Grid(task, methods, (Hardware.MICRORING,)), tmp_path / "run")
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    last = {line["method"]: line for line in lines}
    (oracle,), (frozen,), (default,), (paper,) = (last[method.name]["layers"].values() for method in methods)
    assert oracle["oracle_cosine"] == pytest.approx(1, abs=1e-6)
    assert oracle["oracle_cosine_x"] == pytest.approx(1, abs=1e-6)
    assert (frozen["oracle_cosine"], frozen["signal"]) == (None, None)
    assert default["oracle_cosine"] > 0.95
    assert default["residual"] < 0.05
    assert abs(paper["oracle_cosine"]) < 0.1
    assert paper["oracle_cosine_x"] < 0.9
    assert paper["snr"] < 0.1 < oracle["snr"]
    ends = last["frozen"]["accuracy"], last["oracle"]["accuracy"]
    assert last["default"]["gap_closed"] == pytest.approx((last["default"]["accuracy"] - ends[0]) / (ends[1] - ends[0]))
    assert last["oracle"]["gap_closed"] is None  # frozen was not finished then


def test_the_progress_line_tells_it_in_short():
    from blackprop.experiments.report._progress import step_line

    told = []

    class Listening(Callback):
        def step(self, progress):
            told.append(step_line(progress))

    task = Digits(epochs=2, batch_size=256)
    training = Training(Trial(task, OracleReference(), Hardware.LIGHT_MODULATOR), task.data())
    training.run_segment(Listening())
    training.run_segment(Listening())
    assert "cos" not in told[0]
    assert "cos 1  snr" in told[-1]


def test_the_layer_pays_next_to_nothing_for_it():
    """Nothing is asked of the device that training does not ask anyway."""
    layer = layer_of(bp.devices.LightModulator(6, 4))
    x = draw(8, 6).requires_grad_()
    layer(x).sum().backward()
    rows = layer.ledger.total_rows
    with warnings.catch_warnings():
        bp.diagnose(layer)
        advise(layer)
    assert layer.ledger.total_rows == rows
