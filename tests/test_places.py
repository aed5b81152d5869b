"""Everything on every torch device that is at hand: the CPU, and CUDA where there is one."""

from __future__ import annotations

import pytest
import torch

import blackprop as bp
from blackprop.core import Purpose, Query
from blackprop.devices import Drifting, Noisy, Quantised
from support import draw

PLACES = ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA"))]
DEVICES = [
    bp.devices.Matrix(9, 4),
    bp.devices.LowRank(9, 4, rank=2),
    bp.devices.LightModulator(9, 4),
    bp.devices.Microring(9, 4),
    bp.devices.MZIMesh(9, 4),
    bp.devices.ThreeSplitterMesh(9, 4),
    bp.devices.Monarch(9, 4),
    bp.devices.Resampling(9, 4),
    bp.devices.Diffraction(9, 4),
    bp.devices.Diffraction(9, 4, encoding=bp.devices.Diffraction.Encoding.PHASE_AMPLITUDE, double=True),
    Noisy(bp.devices.LightModulator(9, 4), read=0.01),
    Quantised(bp.devices.LightModulator(9, 4), theta_bits=8, input_bits=16, output_bits=16),
    Drifting(bp.devices.LightModulator(9, 4), per_programming=0.01),
]


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("device", DEVICES, ids=str)
def test_a_device_answers_where_it_is_asked(device: bp.Device, place: str):
    theta = device.theta.draw(torch.Generator().manual_seed(0)).to(place)
    settings = [device.theta.clamp(theta + 0.1 * k) for k in range(3)]
    readings = device.measure([Query(draw(5, 9).to(place), t, Purpose.FORWARD) for t in settings])
    assert all(y.device.type == place and y.shape == (5, 4) for y in readings)


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("device", DEVICES, ids=str)
def test_a_network_trains_where_it_is(device: bp.Device, place: str, dtype: torch.dtype):
    rank = 1 if device.theta.size == 1 else 3
    method = bp.presets.paper(rank=rank, samples=4, step=5e-2, linear=device.linear)
    model = torch.nn.Sequential(torch.nn.Linear(5, 9), bp.PhysicalLayer(device, *method)).to(place, dtype)
    optimizer = torch.optim.Adam(bp.param_groups(model, lr=1e-2, device_lr=1e-2))
    layer = model[1]
    before = layer.theta.detach().clone()
    for step in range(3):
        optimizer.zero_grad()
        model(draw(8, 5, seed=step, dtype=dtype).to(place)).square().mean().backward()
        optimizer.step()
    assert layer.theta.device.type == place
    assert layer.theta.dtype == dtype
    assert layer.generator.device.type == place
    assert not torch.equal(layer.theta, before)
    assert bool(model[0].weight.grad.any())
    assert layer.ledger.programmings[Purpose.SURROGATE] == 2
