"""Power taps on chips as they are built: exact gradients for every design, errors by loss and heaters, refusals."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

import blackprop as bp
from blackprop.core import Ledger, Taps, metered, run
from blackprop.devices import Chip, MZIMesh, ThreeSplitterMesh, as_built, chips
from blackprop.errors import ArgumentError, ContractError, IncompatibleError
from blackprop.estimators import InSitu
from blackprop.experiments import Digits
from blackprop.surrogates import Reciprocal
from blackprop.testing import check_device, check_estimator
from support import draw

TAPS = chips.PowerTaps()
DESIGNS = [
    design(splitters) for design in (chips.Rectangular, chips.Triangular, chips.Butterfly) for splitters in (2, 3)
]


def compared(device: bp.devices.Simulator, dtype: torch.dtype = torch.float64, rows: int = 12) -> tuple[float, float]:
    """Relative error and cosine of the gradient from all pairs."""
    x, g = draw(rows, *device.in_shape, dtype=dtype), draw(rows, *device.out_shape, seed=1, dtype=dtype)
    theta = device.theta.draw(torch.Generator().manual_seed(2)).to(dtype)
    leaf = theta.clone().requires_grad_()
    (exact,) = torch.autograd.grad(device.transfer(x, leaf), leaf, g)
    procedure = InSitu(None).grad_theta(x, theta, x, g, device.declaration, torch.Generator())
    found = run(procedure, metered(device, Ledger()))
    return float((found - exact).norm() / exact.norm()), float(torch.cosine_similarity(found, exact, 0))


@pytest.mark.parametrize("design", DESIGNS, ids=str)
@pytest.mark.parametrize("ports", [(8, 8), (5, 3), (8, 2), (2, 8)], ids=str)
def test_the_gradient_is_exact_without_loss_for_every_design_and_any_ports(design, ports):
    device = Chip(design, *ports, modes=8, taps=TAPS, seed=3)
    assert compared(device, torch.float64)[0] < 1e-12
    assert compared(device, torch.float32)[0] < 1e-5


def test_losses_of_ports_and_of_equal_paths_are_divided_out():
    losses = chips.Losses(interferometer=0.3, port=1.0, spread=0.0)
    assert compared(Chip(chips.Butterfly(), 16, 16, losses=losses, taps=TAPS))[0] < 0.03  # shares are rounded to 5 %
    assert compared(Chip(chips.Rectangular(), 16, 16, losses=losses, taps=TAPS))[1] > 0.997  # edges lose nothing
    assert compared(Chip(chips.Triangular(), 16, 16, losses=losses, taps=TAPS))[1] > 0.98  # paths of unequal length
    spread = chips.Losses(interferometer=0.3, port=1.0, spread=0.3)
    assert 0.99 < compared(Chip(chips.Butterfly(), 16, 16, losses=spread, taps=TAPS))[1] < 0.9999
    silent = Chip(chips.Rectangular(), 16, 16, losses=losses, taps=TAPS)
    others = (each for each in silent.capabilities if not isinstance(each, Taps))
    silent.capabilities = (*others, Taps(16, 120, silent.declaration.capability(Taps).combination))
    assert compared(silent)[0] > 0.3  # what the nominal share is worth


def test_voltages_follow_the_nominal_law_of_their_heaters():
    even = chips.Heaters(quartic=0.1, spread=0.0, crosstalk=0.0)
    assert compared(Chip(chips.Rectangular(), 8, 8, heaters=even, taps=TAPS))[0] < 1e-12
    assert compared(Chip(chips.Rectangular(), 8, 8, heaters=chips.Heaters(crosstalk=0.0), taps=TAPS))[1] > 0.998
    assert compared(Chip(chips.Rectangular(), 16, 16, heaters=chips.Heaters(), taps=TAPS))[1] > 0.995


def test_the_contracts_hold():
    device = Chip(chips.Triangular(), 5, 4, modes=6, taps=chips.PowerTaps(0.01, 0.05), losses=chips.Losses(port=1.0))
    assert dict(check_device(device).claims)["taps give the gradient"]
    check_estimator(InSitu(None), device=Chip(chips.Butterfly(3), 3, 4, taps=TAPS))
    wrong = Chip(chips.Rectangular(), 4, 4, taps=TAPS)
    taps = wrong.declaration.capability(Taps)
    swapped = Taps(taps.modes, taps.units, taps.combination[::-1])
    wrong.capabilities = (*(each for each in wrong.capabilities if not isinstance(each, Taps)), swapped)
    with pytest.raises(ContractError, match="taps give the gradient"):
        check_device(wrong)


@pytest.mark.parametrize("mesh", [MZIMesh(6, 4), ThreeSplitterMesh(4, 6)], ids=str)
def test_meshes_as_built_have_taps_where_asked_for(mesh):
    device = as_built(mesh, taps=TAPS, seed=1, scale=1e-3)
    assert compared(device)[0] < 1e-12
    check_device(device)
    assert not as_built(mesh).declaration.has(Taps)


def test_noise_and_gains_of_taps_are_drawn_and_their_stream_is_saved():
    device = as_built(MZIMesh(8, 8), taps=chips.PowerTaps(noise=0.05, gain=0.1))
    layer = bp.PhysicalLayer(device, InSitu(), Reciprocal(), generator=torch.Generator().manual_seed(0))
    x, state = draw(16, 8), device.state_dict()

    def gradient() -> Tensor:
        layer.zero_grad()
        layer(x).square().sum().backward()
        assert layer.theta.grad is not None
        return layer.theta.grad.clone()

    first, second = gradient(), gradient()
    assert not torch.equal(first, second)
    device.load_state_dict(state)
    torch.testing.assert_close(gradient(), first)


def test_a_network_of_chips_as_built_is_trained_without_calibration():
    task = Digits()
    data = task.data()
    device = as_built(ThreeSplitterMesh(64, 10), taps=chips.PowerTaps(0.01, 0.05), seed=5)
    layer = bp.PhysicalLayer(device, InSitu(), Reciprocal(), generator=torch.Generator().manual_seed(0))
    model = nn.Sequential(layer, nn.BatchNorm1d(10))
    optimizer = torch.optim.Adam(bp.param_groups(model, lr=1e-2, device_lr=6e-2))
    order = torch.Generator().manual_seed(0)
    for _ in range(2):
        for rows in torch.randperm(len(data.x_train), generator=order).split(64):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(data.x_train[rows]), data.y_train[rows]).backward()
            optimizer.step()
    model.eval()
    with torch.no_grad():
        right = (model(data.x_test).argmax(1) == data.y_test).float().mean()
    assert float(right) > 0.5  # as drawn it is at chance
    assert layer.ledger.rows[bp.Purpose.CALIBRATE] == 0


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: Chip(chips.Rectangular(), 4, 4, readout=chips.Power(), taps=TAPS), "reads powers, which have none"),
        (lambda: Chip(chips.Rectangular(), 4, 2, readout=chips.Balanced(), taps=TAPS), "needs `readout=chips.Field"),
        (lambda: Chip(chips.Rectangular(), 4, 4, taps=0.01), "takes one of the parts"),
        (lambda: chips.PowerTaps(noise=-1.0), "noise"),
        (lambda: chips.PowerTaps(gain=math.inf), "gain"),
        (lambda: as_built(MZIMesh(4, 4), camera=True, taps=TAPS), "reads powers"),
        (lambda: as_built(MZIMesh(4, 4), unsigned=True, taps=TAPS), "intensities alone"),
        (lambda: as_built(bp.devices.Microring(4, 4), taps=TAPS), "has none"),
        (lambda: Taps(4, 6, ((1.0,), (1.0,)), law=(0.0, math.nan)), "law"),
    ],
)
def test_wrong_parts_are_refused(build, words):
    with pytest.raises(ArgumentError, match=words):
        build()


def test_a_chip_that_reads_powers_is_refused_with_the_way_out():
    device = Chip(chips.Rectangular(), 4, 4, readout=chips.Power())
    with pytest.raises(IncompatibleError, match="homodyne detectors"):
        InSitu().check(device.declaration)
    with pytest.raises(ArgumentError, match="has no taps"):
        untapped = Chip(chips.Rectangular(), 4, 4)
        untapped.program(untapped.theta.draw(torch.Generator()))
        untapped.tap_powers(torch.zeros(1, 2, 4))


def test_the_description_of_many_taps_fits_into_a_message():
    device = Chip(chips.Triangular(), 80, 80, losses=chips.Losses(), taps=TAPS)
    assert len(device.declaration.capability(Taps).transmission) <= 2000
