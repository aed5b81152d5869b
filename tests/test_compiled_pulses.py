"""Pulses in compiled code: the law of the trains and of every kind of step, as the plain path has it."""

from __future__ import annotations

import math
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import Tensor

from blackprop.core import Pulse
from blackprop.devices import PulsedCrossbar, cells
from blackprop.devices.electronic.pulsed import _compiled as compiled
from blackprop.devices.electronic.pulsed._trains import drawn
from support import draw

pytestmark = pytest.mark.skipif(compiled.loops() is None, reason="needs Numba: the extra `fast`")

SAME = {"step_spread": 0.0, "high_spread": 0.0, "low_spread": 0.0, "asymmetry_spread": 0.0}
KINDS = {
    "constant": cells.ConstantStep(step=0.02, noise=0.5, **SAME),
    "soft bounds": cells.SoftBounds(step=0.02, noise=0.5, asymmetry=0.3, **SAME),
    "linear": cells.LinearStep(step=0.02, noise=0.4, slope_up=0.3, slope_down=0.6, **SAME),
    "reference": cells.SoftBoundsReference(step=0.02, noise=0.5, reference=0.1, **SAME),
    "exponential": cells.ExponentialStep(
        step=0.02, noise=0.3, amplitude_up=0.3, amplitude_down=0.2, rate_up=1.5, noise_floor=0.01, noise_slope=0.1,
        b=0.2, **SAME,
    ),
    "power": cells.PowerStep(step=0.04, noise=0.3, power=1.5, power_asymmetry=0.2, power_spread=0.0, **SAME),
    "piecewise": cells.PiecewiseStep(step=0.02, noise=0.3, nodes_up=(1.5, 1, 0.2), nodes_down=(0.3, 2), **SAME),
}  # fmt: skip


def spread(bits: np.ndarray, slots: int) -> Tensor:
    """Signed slots (B, slots, lines) of the bits of lines (lines, B)."""
    sign = np.where(bits >> np.uint64(63), -1.0, 1.0)
    fires = [((bits >> np.uint64(slot)) & np.uint64(1)).astype(np.float64) * sign for slot in range(slots)]
    return torch.from_numpy(np.stack(fires, 1)).permute(2, 1, 0)


def test_slots_fire_by_the_law_of_the_train_and_cells_of_one_line_vary_together():
    """Mean, variance and both covariances of the coincidences over 200,000 trains."""
    pulse, count = Pulse(1e-3, -1.0, 1.0), 200_000
    train = pulse.trains(torch.tensor([[1.0, -0.7]]), torch.tensor([[0.0042, 0.003]]))
    bits = compiled.fired(train.expand(count, -1).contiguous(), 2, torch.Generator().manual_seed(3))
    x, d = (spread(each, int(train[0, -1])) for each in bits)
    n = (d.mT @ x).flatten(1)
    p, q, slots = train[0, :2].double(), train[0, 2:4].double(), float(train[0, -1])
    chance = (q[:, None] * p).flatten()
    mean, covariance = n.mean(0), torch.cov(n.mT)
    torch.testing.assert_close(mean, slots * chance, rtol=0.005, atol=0)
    torch.testing.assert_close(covariance.diagonal(), slots * chance.abs() * (1 - chance.abs()), rtol=0.01, atol=0)
    row, column = slots * p.prod() * q[0] * (1 - q[0]), slots * q.prod() * p[0] * (1 - p[0])
    assert float(covariance[0, 1]) == pytest.approx(float(row), rel=0.05)
    assert float(covariance[0, 2]) == pytest.approx(float(column), rel=0.05)
    assert abs(float(covariance[0, 3])) < 0.02 * float(column)


def test_random_numbers_of_steps_are_normal():
    """Moments, quantiles and tails of single steps of noise alone."""
    cell = cells.ConstantStep(step=1e-3, noise=1.0, high=1e3, low=-1e3, **SAME)
    population = cell.draw((1000, 1000), torch.Generator())
    trains = torch.ones(1, 2001)
    generator = torch.Generator().manual_seed(1)
    columns, rows = compiled.fired(trains, 1000, generator)
    w, touched = compiled.moved(cell, torch.zeros(1000, 1000), columns, rows, population, generator)
    z = (w / 1e-3 - 1).double().flatten()
    assert bool(touched.all())
    assert abs(float(z.mean())) < 0.004
    assert float(z.var()) == pytest.approx(1, abs=0.006)
    assert float(z.pow(4).mean()) == pytest.approx(3, abs=0.04)
    for at in (1.0, 2.0, 3.0, 3.6):
        tail = math.erfc(at / math.sqrt(2))
        assert float((z.abs() > at).double().mean()) == pytest.approx(tail, rel=5 / math.sqrt(1e6 * tail))
    neighbours = float((z[:-1] * z[1:]).mean())
    assert abs(neighbours) < 0.004


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("start", [-0.5, 0.0, 0.55])
def test_the_steps_of_every_kind_have_the_law_of_the_plain_path(name, start):
    cell, shape = KINDS[name], (200, 200)
    generator = torch.Generator().manual_seed(0)
    population = cell.draw(shape, generator)
    lines = torch.full((6, 400), 0.5)
    lines[1::2, :200] *= -1
    trains = torch.cat((lines, torch.full((6, 1), 9.0)), 1)
    w = torch.full(shape, start)
    columns, rows = compiled.fired(trains, 200, generator)
    fast, touched = compiled.moved(cell, w, columns, rows, population, generator)
    slow, moved = cell.moved(w, *drawn(trains, 200, generator), population, generator)
    assert bool(moved.all() and touched.all())
    # Cells of one line share its slots: the mean of an array is as uncertain as that of its 200 lines.
    error = float(slow.std()) / math.sqrt(200)
    assert abs(float(fast.mean() - slow.mean())) < 4 * error
    assert float(fast.std() / slow.std()) == pytest.approx(1, abs=0.1)
    for part in (0.02, 0.5, 0.98):
        assert float(fast.quantile(part)) == pytest.approx(float(slow.quantile(part)), abs=8 * error)
    assert float(fast.max()) <= float(population["high"].max())
    assert float(fast.min()) >= float(population["low"].min())


@pytest.mark.parametrize("multiplicative", [False, True], ids=["additive", "multiplicative"])
def test_pulses_that_are_added_at_once_have_the_mean_and_variance_of_single_ones(multiplicative):
    """The recursion of the moments, pulse by pulse in order, against 90,000 cells far from their bounds."""
    flat = {**SAME, "slope_spread": 0.0}
    cell = cells.LinearStep(step=0.004, noise=0.1, slope_up=0.5, slope_down=0.85, multiplicative=multiplicative, **flat)
    side = 300
    generator = torch.Generator().manual_seed(5)
    population = cell.draw((side, side), generator)
    trains = torch.ones(12, 2 * side + 1)
    trains[:, -1] = torch.tensor([7.0, 1, 31, 4, 12, 2, 25, 9, 3, 18, 6, 11])
    trains[[2, 6, 9], :side] = -1
    columns, rows = compiled.fired(trains, side, generator)
    w, touched = compiled.moved(cell, torch.full((side, side), 0.1), columns, rows, population, generator)
    mean, variance = 0.1, 0.0
    for sign, n in zip(trains[:, 0].tolist(), trains[:, -1].tolist(), strict=True):
        for _ in range(int(n)):
            slope = -0.5 * 0.004 / 0.6 if sign > 0 else -0.85 * 0.004 / 0.6
            step = 0.004 + slope * sign * mean
            noise = 0.1 * (step if multiplicative else 0.004)
            extra = (0.1 * slope) ** 2 * variance if multiplicative else 0.0
            mean, variance = mean + sign * step, variance * (1 + slope) ** 2 + noise**2 + extra
    assert bool(touched.all())
    z = (w.double() - mean) / variance**0.5
    assert abs(float(z.mean())) < 5 / side
    assert float(z.var()) == pytest.approx(1, abs=5 * math.sqrt(2) / side)
    assert abs(float(z.pow(3).mean())) < 0.02 + 5 * math.sqrt(15) / side


def test_lines_at_rest_and_trains_of_the_other_sign():
    cell = cells.ConstantStep(step=1e-3, noise=0.0, **SAME)
    device = PulsedCrossbar(256, 256, cell, initial=0.0)
    device.program(torch.ones(1))
    x, d = torch.zeros(1, 256), torch.ones(1, 256)
    x[0, 3], x[0, 5] = 1.0, -1.0
    d[0, 7], d[0, 9] = -1.0, 0.0
    trains = device.declaration.capability(Pulse).single(x, d).repeat(3, 1)
    assert compiled.serves(cell, 256 * 256, trains)
    device.pulse(trains)
    torch.testing.assert_close(device.read(torch.eye(256)).mT, 3e-3 * d.mT @ x)


@pytest.mark.parametrize("cell", [cells.RERAM_SB, cells.RERAM_ES, cells.ECRAM], ids=["affine", "exponential", "linear"])
def test_a_restored_crossbar_continues_bit_for_bit(cell):
    device, other = (PulsedCrossbar(64, 64, cell, gains=(1.0, -0.5), seed=1) for _ in range(2))
    trains = device.declaration.capability(Pulse).trains(draw(32, 64), 0.003 * draw(32, 64))
    assert compiled.serves(cell, 64 * 64, trains)
    for each in (device, other):
        each.program(torch.tensor([1.0, -0.5]))
    device.pulse(trains)
    other.load_state_dict(device.state_dict())
    for each in (device, other):
        each.pulse(trains)
    mine, others = (each.state_dict() for each in (device, other))
    assert all(torch.equal(mine[name], others[name]) for name in mine)


def test_small_arrays_and_foreign_cells_take_the_plain_path():
    trains = torch.ones(8, 9)
    assert not compiled.serves(cells.SoftBounds(), 16, trains)
    long = torch.ones(32, 129)
    assert compiled.serves(cells.SoftBounds(), 4096, long)
    long[0, -1] = 64
    assert not compiled.serves(cells.SoftBounds(), 4096, long)

    class Own(cells.Cell):
        law = mean_step = None  # pyright: ignore[reportAssignmentType]

    assert not compiled.serves(Own, 4096, torch.ones(32, 129))  # pyright: ignore[reportArgumentType]


def test_without_numba_the_plain_path_serves():
    code = (
        "import sys; sys.modules['numba'] = None\n"
        "import torch, blackprop as bp\n"
        "from blackprop.devices.electronic.pulsed import _compiled\n"
        "assert _compiled.loops() is None\n"
        "device = bp.devices.PulsedCrossbar(64, 64); device.program(torch.ones(1))\n"
        "device.pulse(torch.ones(16, 129))\n"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)
