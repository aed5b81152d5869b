"""Mixed-signal spiking neurons: the synapse in closed form, the spread of its parts, and the curve of its rates."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

import blackprop as bp
from blackprop import errors
from blackprop.core import Ledger, Purpose, Query, metered
from blackprop.devices import Biases, SpikingNeurons
from blackprop.devices.electronic._spiking_neuron import time_constant
from blackprop.devices.electronic.compiled import _neurons
from blackprop.errors import ArgumentError
from blackprop.testing import check_device


def test_time_constants_are_those_of_the_circuit():
    assert time_constant(5.0, 3.0) == pytest.approx(25 / 0.705 * 3 / 5)  # ms of mV · pF / pA


@pytest.mark.parametrize("trains", [False, True], ids=("rates", "trains"))
def test_keeps_the_contract(trains):
    device = SpikingNeurons(5, 4, duration=50.0, trains=trains)
    check_device(device, scale=4.0)
    assert device.oracle() is None


@pytest.mark.parametrize("sign", [1, -1])
def test_the_synapse_answers_a_step_in_closed_form(sign):
    device = SpikingNeurons(3, 2, duration=60.0, trains=True, mismatch=0.0)
    b, theta = device.biases, torch.full((6,), 0.5 * sign, dtype=torch.float64)
    counts = 2.0 * torch.ones(1, device.steps, 3, dtype=torch.float64)  # two spikes a step from the start
    currents = device.synaptic(counts, theta)
    tau = time_constant(b.synapse_leak, b.synapse_capacitance)
    jump = b.synapse_gain / b.synapse_leak * b.weight / math.sqrt(3) * 0.5 * 2 * 3
    n = torch.arange(1, device.steps + 1, dtype=torch.float64)
    kept = math.exp(-device.step / tau)
    expected = jump * (1 - kept**n) / (1 - kept)
    driven, other = currents if sign > 0 else currents[::-1]
    assert torch.allclose(driven, expected[:, None].expand(1, device.steps, 2))
    assert not bool(other.any())


def test_the_membrane_settles_where_the_circuit_says():
    # Without feedback and below threshold, I → (I_g/I_τ)(I_in − I_τ).
    biases = Biases(feedback=0.0, threshold=1e6)
    device = SpikingNeurons(1, 1, biases=biases, duration=1000.0, mismatch=0.0)
    above = SpikingNeurons(1, 1, biases=Biases(feedback=0.0, threshold=159.0), duration=1000.0, mismatch=0.0)
    beyond = SpikingNeurons(1, 1, biases=Biases(feedback=0.0, threshold=161.0), duration=1000.0, mismatch=0.0)
    current = torch.full((1, device.steps, 1), 45.0, dtype=torch.float64)  # 4 · (45 − 5) = 160 pA
    fired = [float(each.fire(current, torch.zeros_like(current))) for each in (above, beyond)]
    assert fired[0] > 0
    assert fired[1] == 0


def curve(device: SpikingNeurons, currents: Tensor) -> Tensor:
    """Spikes at constant currents (n,) into every neuron: (n, d_out)."""
    drive = currents.double()[:, None, None].expand(-1, device.steps, *device.out_shape)
    return device.fire(drive, torch.zeros_like(drive))


def test_more_current_never_means_fewer_spikes():
    device = SpikingNeurons(1, 20, duration=500.0, seed=2)
    counts = curve(device, torch.linspace(0, 600, 61))
    assert bool((counts.diff(dim=0) >= 0).all())
    assert not bool(counts[0].any())
    assert bool((counts[-1] > 20).all())
    assert len(counts[:, 0].unique()) > 20


def test_more_rate_means_more_spikes_and_inhibition_fewer():
    device = SpikingNeurons(2, 12, duration=400.0)
    excited = torch.tensor([1.0, 0.0]).repeat(12)
    rates = torch.linspace(0, 3, 13)
    counts = device.transfer(torch.stack((rates, rates), -1), excited).mean(1)
    assert bool((counts.diff() > 0)[1:].all())
    assert float(counts[0]) == 0
    held = device.transfer(torch.stack((rates, rates), -1), torch.tensor([1.0, -0.8]).repeat(12)).mean(1)
    assert bool((held[4:] < 0.7 * counts[4:]).all())


def test_spikes_keep_the_refractory_time():
    device = SpikingNeurons(1, 1, biases=Biases(refractory=10.0), duration=300.0, mismatch=0.0)
    assert float(curve(device, torch.tensor([1e5]))) == pytest.approx(300 / 10, abs=3)


def test_halving_the_step_changes_little():
    fine, coarse = (SpikingNeurons(1, 1, duration=500.0, mismatch=0.0, step=h) for h in (0.05, 0.5))
    currents = torch.tensor([100.0, 200.0, 400.0])
    assert torch.allclose(curve(coarse, currents), curve(fine, currents), rtol=0.15)


@pytest.mark.parametrize("name", ["synapse_weight", "membrane_leak", "membrane_gain", "threshold"])
def test_parts_spread_log_normally_by_a_fifth(name):
    device = SpikingNeurons(50, 4000, duration=1.0)
    nominal = getattr(SpikingNeurons(50, 4000, duration=1.0, mismatch=0.0), name).flatten()
    ratio = (getattr(device, name).flatten() / nominal)[:4000]
    assert float(ratio.mean()) == pytest.approx(1, abs=0.015)
    assert float(ratio.std()) == pytest.approx(0.2, rel=0.05)
    logs = ratio.log()
    centred = (logs - logs.mean()) / logs.std()
    assert abs(float(centred.pow(3).mean())) < 0.15  # the logarithms lie evenly: no skew, no excess
    assert abs(float(centred.pow(4).mean()) - 3) < 0.3
    assert float(((ratio - 1) / ratio.std()).pow(3).mean()) > 0.4  # the values themselves do not


def test_the_seed_alone_decides_the_mismatch():
    x, theta = torch.rand(6, 5, generator=torch.Generator().manual_seed(0)), torch.full((20,), 0.8)
    same, again, other = (SpikingNeurons(5, 4, seed=s).transfer(2 * x, theta) for s in (1, 1, 2))
    assert torch.equal(same, again)
    assert not torch.equal(same, other)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Biases(threshold=0.01), "dark current"),
        (lambda: Biases(membrane_leak=0.0), "membrane_leak"),
        (lambda: Biases(synapse_gain=-1.0), "synapse_gain"),
        (lambda: Biases(refractory=-1.0), "refractory"),
        (lambda: Biases(weight=math.inf), "weight"),
        (lambda: SpikingNeurons(3, 2, step=5.0), "at most 1.77 ms"),
        (lambda: SpikingNeurons(3, 2, duration=0.0), "duration"),
        (lambda: SpikingNeurons(3, 2, duration=0.1), "at most 0.1 ms"),
        (lambda: SpikingNeurons(3, 2, peak=math.nan), "peak"),
        (lambda: SpikingNeurons(3, 2, mismatch=-0.1), "mismatch"),
    ],
)
def test_refuses(make, message):
    with pytest.raises(ArgumentError, match=message):
        make()


@pytest.mark.parametrize("trains", [False, True], ids=("rates", "trains"))
def test_rates_below_zero_are_refused_and_not_taken_for_none(trains):
    device = SpikingNeurons(2, 3, duration=50.0, trains=trains)
    assert device.x_low == 0
    x, theta = torch.ones(4, *device.in_shape), torch.zeros(6)
    x[2, ..., 1] = -0.1
    with pytest.raises(errors.LimitError, match=r"row 2, input .* = -0.1 is outside .*Differential"):
        metered(device, Ledger())([Query(x, theta, Purpose.FORWARD)])
    device.program(theta)
    with pytest.raises(errors.LimitError, match="row 2"):
        device.read(x)
    signed = bp.devices.Differential(device)
    metered(signed, Ledger())([Query(x, theta, Purpose.FORWARD)])


@pytest.mark.skipif(not _neurons.serves(_neurons.LONG, torch.device("cpu")), reason="needs Numba: the extra `fast`")
@pytest.mark.parametrize("trains", [False, True], ids=("rates", "trains"))
@pytest.mark.parametrize("stacked", ["one", "settings", "both"])
def test_compiled_code_counts_the_same_spikes(trains, stacked, monkeypatch):
    device = SpikingNeurons(30, 20, trains=trains, duration=60.0)
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(3, 4, *device.in_shape, generator=generator)
    x = (x < 0.1).double() if trains else 3 * x
    thetas = torch.stack([device.theta.draw(generator) for _ in range(3)])
    asked = {"one": (x[0], thetas[0]), "settings": (x[0], thetas), "both": (x, thetas)}[stacked]
    monkeypatch.setattr(_neurons, "LONG", 10**9)
    plain = device.transfer(*asked)
    monkeypatch.setattr(_neurons, "LONG", 1)
    monkeypatch.setattr(SpikingNeurons, "fire", None)  # which compiled code does not call
    assert torch.equal(device.transfer(*asked), plain)
    assert float(plain.std()) > 1
    with pytest.raises(errors.LimitError):
        device.transfer(-1 - asked[0], asked[1])
