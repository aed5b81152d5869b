"""Chips: the published meshes where nothing errs, physics where something does, and devices as they are built."""

from __future__ import annotations

import math

import pytest
import torch

import blackprop as bp
from blackprop.core import Purpose, Query
from blackprop.devices import Chip, as_built, chips
from blackprop.errors import ArgumentError
from blackprop.testing import check_device
from simulators import SIMULATORS
from support import draw

DESIGNS = [kind(splitters) for kind in (chips.Rectangular, chips.Triangular, chips.Butterfly) for splitters in (2, 3)]


def settings(device, count=3, seed=1):
    theta = device.theta
    low, high = (0.0, 2 * math.pi) if not theta.limited else (theta.low, theta.high)
    draws = torch.rand(count, theta.size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return low + (high - low) * draws


@pytest.mark.parametrize("modes", [2, 3, 7, 16])
@pytest.mark.parametrize(("splitters", "published"), [(2, bp.devices.MZIMesh), (3, bp.devices.ThreeSplitterMesh)])
def test_without_errors_it_is_the_published_mesh(splitters, published, modes):
    chip = Chip(chips.Rectangular(splitters), modes, max(1, modes - 1), offset=0, splitter=0)
    mesh = published(modes, max(1, modes - 1))
    x, theta = draw(5, modes, dtype=torch.float64), settings(mesh)
    assert chip.theta.size == mesh.theta.size
    torch.testing.assert_close(chip.transfer(x, theta), mesh.transfer(x, theta), rtol=0, atol=1e-13)


def test_with_hidden_errors_it_is_the_imperfect_mesh():
    chip = Chip(chips.Rectangular(), 6, 6, seed=4)
    mesh = bp.devices.ImperfectMZIMesh(6, 6)
    x, theta = draw(5, 6, dtype=torch.float64), settings(mesh, 1)[0]
    expected = mesh.transfer_with(x, theta, chip.build.offset, chip.build.splitters)
    torch.testing.assert_close(chip.transfer(x, theta), expected, rtol=0, atol=1e-13)


@pytest.mark.parametrize("design", DESIGNS, ids=str)
def test_a_chip_without_loss_keeps_the_power(design):
    chip = Chip(design, 8, 8, splitter=0.2, heaters=chips.Heaters(), readout=chips.Power())
    x = draw(5, 8, dtype=torch.float64)
    power = chip.transfer(x, settings(chip)).sum(-1)
    torch.testing.assert_close(power, x.square().sum(-1).expand(3, 5), rtol=1e-12, atol=0)


@pytest.mark.parametrize(("design", "columns"), [(DESIGNS[0], 8), (DESIGNS[2], 13), (DESIGNS[4], 3)], ids=str)
def test_the_number_of_columns_and_blocks(design, columns):
    layout = design.layout(8)
    assert len(layout.columns) == columns
    assert layout.blocks == (12 if isinstance(design, chips.Butterfly) else 28)
    assert layout.places.sort().values.tolist() == list(range(layout.blocks))
    for pairs in layout.columns:
        modes = [mode for pair in pairs for mode in pair]
        assert len(set(modes)) == len(modes)


@pytest.mark.parametrize("design", [DESIGNS[0], DESIGNS[2]], ids=str)
def test_rectangles_and_triangles_reach_any_unitary(design):
    """As many independent directions as a unitary has, less the phases behind the last column."""
    chip = Chip(design, 4, 4)
    theta = settings(chip, 1)[0]
    unit = torch.eye(4, dtype=torch.float64)

    def field(setting):
        return torch.view_as_real(chip.field_with(unit, setting, chip.build)).flatten()

    rank = int(torch.linalg.matrix_rank(torch.autograd.functional.jacobian(field, theta), rtol=1e-9))
    assert rank == 12


def test_losses_take_what_they_say():
    """Light that crosses all columns in the mean loses so many dB, and so much more at the ports."""
    lossless, lossy = (
        Chip(chips.Butterfly(), 16, 16, readout=chips.Power(), losses=losses)
        for losses in (None, chips.Losses(interferometer=0.3, port=1.5, spread=0.0))
    )
    x, theta = draw(5, 16, dtype=torch.float64), settings(lossless, 1)[0]
    ratio = lossy.transfer(x, theta) / lossless.transfer(x, theta)
    torch.testing.assert_close(ratio, torch.full_like(ratio, 10 ** -((4 * 0.3 + 2 * 1.5) / 10)), rtol=1e-9, atol=0)


def test_a_heater_turns_its_phase_and_warms_its_neighbours():
    heaters = chips.Heaters(v_pi=2.0, v_max=3.0, quartic=0.1, spread=0.1, crosstalk=0.03, reach=0.5)
    chip = Chip(chips.Rectangular(), 8, 8, heaters=heaters, seed=2)
    cold = chip.phases_with(torch.zeros(chip.theta.size, dtype=torch.float64), chip.build)
    torch.testing.assert_close(cold, chip.build.offset)
    volts = torch.zeros(chip.theta.size, dtype=torch.float64)
    volts[2] = 2.0  # θ of the second block of column 0
    rise = chip.phases_with(volts, chip.build) - cold
    own = 1.1 * math.pi * (1 + float(chip.build.slopes[2]))
    assert float(rise[2]) == pytest.approx(own)
    for place, distance in ((3, 1.0), (0, 1.0), (4, 1.0), (1, math.sqrt(2)), (6, 2.0)):
        assert float(rise[place]) == pytest.approx(0.03 * math.exp((1 - distance) / 0.5) * own)
    others = [place for place in range(chip.theta.size) if place >= 8]
    assert not bool(rise[others].any())
    phases = torch.linspace(0, heaters.top, 7, dtype=torch.float64)
    torch.testing.assert_close(heaters.nominal(heaters.volts(phases)), phases)


def test_dead_heaters_move_nothing():
    chip = Chip(chips.Rectangular(), 4, 4, heaters=chips.Heaters(dead=3, crosstalk=0.0))
    low, high = (torch.full((chip.theta.size,), v, dtype=torch.float64) for v in (0.5, 2.5))
    still = chip.phases_with(low, chip.build) == chip.phases_with(high, chip.build)
    assert int(still.sum()) == 3


def test_readouts():
    parts = {"offset": 1.0, "seed": 5}
    x = draw(6, 8, dtype=torch.float64)
    amplitude = Chip(chips.Rectangular(), 8, 8, **parts)
    theta = settings(amplitude, 1)[0]
    field = amplitude.field_with(x, theta, amplitude.build).mT
    torch.testing.assert_close(amplitude.transfer(x, theta), field.real)
    diodes = Chip(chips.Rectangular(), 8, 8, readout=chips.Power(responsivity=0.2, dark=0.1), **parts)
    current = diodes.build.responsivity * field.abs().square() + diodes.build.dark
    torch.testing.assert_close(diodes.transfer(x, theta), current)
    assert 0.05 <= float(diodes.build.dark.min()) <= float(diodes.build.dark.max()) <= 0.15
    pairs = Chip(chips.Rectangular(), 8, 4, readout=chips.Balanced(responsivity=0.2, dark=0.1), **parts)
    torch.testing.assert_close(pairs.transfer(x, theta), current[:, ::2] - current[:, 1::2])
    assert bool((pairs.transfer(x, theta) < 0).any())


def test_one_error_more_leaves_the_others():
    plain = Chip(chips.Rectangular(), 6, 6, seed=3)
    full = Chip(chips.Rectangular(), 6, 6, seed=3, heaters=chips.Heaters(), losses=chips.Losses())
    assert torch.equal(plain.build.offset, full.build.offset)
    assert torch.equal(plain.build.splitters, full.build.splitters)
    assert not torch.equal(plain.build.offset, Chip(chips.Rectangular(), 6, 6, seed=4).build.offset)


def test_the_declaration_is_the_same_whatever_is_hidden():
    one, other = (Chip(chips.Rectangular(), 6, 4, seed=seed).declaration for seed in (0, 1))
    assert one.name == other.name
    assert (one.linear, one.coupling, one.noise) == (other.linear, other.coupling, other.noise)
    assert torch.equal(*(spec.theta.draw(torch.Generator().manual_seed(0)) for spec in (one, other)))


def test_the_oracle_knows_what_is_hidden():
    chip = Chip(chips.Triangular(), 4, 4, heaters=chips.Heaters(), losses=chips.Losses(), readout=chips.Power())
    theta = settings(chip, 1)[0].requires_grad_()
    x = draw(3, 4, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(chip.oracle(), (x, theta))


def test_drift_noise_and_converters_are_wrappers():
    chip = Chip(chips.Rectangular(), 4, 4, readout=chips.Power())
    built = bp.devices.Quantised(
        bp.devices.Noisy(bp.devices.Drifting(chip, per_programming=1e-3), read=0.01, shot=0.02), output_bits=10
    )
    check_device(built, tolerance=0.05)


def test_shot_noise_grows_with_the_root_of_the_output():
    device = bp.devices.Noisy(bp.devices.Matrix(1, 2), shot=0.05, scale=4.0)
    x, theta = torch.ones(20_000, 1, dtype=torch.float64), torch.tensor([1.0, 9.0], dtype=torch.float64)
    (y,) = device.measure([Query(x, theta, Purpose.FORWARD)])
    torch.testing.assert_close(y.std(0), 0.05 * (4.0 * theta).sqrt(), rtol=0.03, atol=0)
    assert device.noise == 0.05


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: Chip("rectangular", 4, 4), "design=.*takes one of the parts"),
        (lambda: Chip(chips.Rectangular(), 4, 4, readout="power"), "readout=.*takes one of the parts"),
        (lambda: Chip(chips.Rectangular(), 4, 4, modes=5), "no mesh of 5 modes; the next is of 6"),
        (lambda: Chip(chips.Butterfly(), 4, 4, modes=6), "no mesh of 6 modes; the next is of 8"),
        (lambda: Chip(chips.Rectangular(), 4, 4, modes=2), "too few for 4 inputs"),
        (lambda: Chip(chips.Rectangular(), 4, 4, readout=chips.Balanced(), modes=4), "8 ports that are read"),
        (lambda: Chip(chips.Rectangular(), 4, 4, offset=-1.0), "offset=.*not negative"),
        (lambda: Chip(chips.Rectangular(), 2, 2, heaters=chips.Heaters(dead=3)), "more than the chip's 2"),
        (lambda: chips.Rectangular(splitters=4), "splitters=.*2 or 3"),
        (lambda: chips.Heaters(v_pi=0.0), "v_pi=.*positive"),
        (lambda: chips.Heaters(quartic=-1.0), "must rise"),
        (lambda: chips.Losses(interferometer=-1.0), "interferometer=.*not negative"),
        (lambda: chips.Power(dark=-1.0), "dark=.*not negative"),
        (lambda: as_built(bp.devices.Noisy(bp.devices.Matrix(2, 2))), "takes a simulator"),
        (lambda: as_built(bp.devices.Matrix(2, 2), scale=0.0), "finite and positive"),
    ],
)
def test_impossible_chips_are_refused(make, match):
    with pytest.raises(ArgumentError, match=match):
        make()


SMALL = [
    kind(2, 2) for kind in (bp.devices.Matrix, bp.devices.LightModulator, bp.devices.Microring, bp.devices.MZIMesh)
]
PUBLISHED = [device for device in SIMULATORS if not isinstance(device, Chip)]


@pytest.mark.parametrize("device", PUBLISHED + SMALL + [bp.devices.ScatteringMedium(5, 4)], ids=str)
@pytest.mark.parametrize(
    "options", [{}, {"camera": True}, {"unsigned": True, "scale": 1e-3}, {"camera": True, "scale": 1e3}], ids=str
)
def test_devices_as_built_keep_the_contract_and_differ(device, options):
    built, again, other = (as_built(device, seed=seed, **options) for seed in (3, 3, 4))
    check_device(built)
    spec = built.declaration
    assert (spec.in_shape, spec.out_shape, spec.theta.size) == (device.in_shape, device.out_shape, device.theta.size)
    theta, x = built.theta.draw(torch.Generator().manual_seed(0)), draw(4, *device.in_shape).abs()
    y = built.transfer(x, theta)
    assert torch.equal(y, again.transfer(x, theta))
    published, changed = device.transfer(x, theta), other.transfer(x, theta)
    assert float((y - changed).norm()) > 1e-3 * float(y.norm())
    assert float((y / options.get("scale", 1.0) - published).norm()) > 1e-3 * float(published.norm())


def test_a_camera_shows_a_dark_level_and_is_not_declared_linear():
    built = as_built(bp.devices.LightModulator(3, 4), camera=True, scale=5.0)
    assert not built.linear
    dark = built.transfer(torch.zeros(1, 3), built.theta.draw(torch.Generator().manual_seed(0)))
    assert bool(((dark > 0.2) & (dark < 0.8)).all())


def test_unsigned_devices_declare_their_limit():
    assert as_built(bp.devices.LightModulator(3, 4), unsigned=True).x_low == 0.0
