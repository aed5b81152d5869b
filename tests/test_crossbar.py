"""Memristive crossbars: the matrix in the conductances, the wires exactly, and what comes with time and programming."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import Tensor

import blackprop as bp
from blackprop.core import Coupling, Purpose, Query, metered, run
from blackprop.devices import PCM, RERAM, ConductanceArray, Crossbar, Memristive, Memristor
from blackprop.errors import ArgumentError, LimitError
from blackprop.surrogates import Twin
from blackprop.testing import check_device
from blackprop.twins import CrossbarTwin
from support import draw


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def matrix(device: bp.Device, theta: Tensor) -> Tensor:
    query = Query(torch.eye(device.in_shape[0], dtype=theta.dtype), theta, Purpose.EVALUATE)
    return device.measure([query])[0].mT


def nodal(g: Tensor, rho: float) -> Tensor:
    """The transfer conductances of g (bit lines, word lines) from the full admittance matrix of the wires' nodes."""
    bits, words = g.shape
    places = [(kind, i, j) for kind in "wb" for i in range(bits) for j in range(words)]
    node = {place: n for n, place in enumerate(places)}
    admittance = torch.zeros(len(node), len(node), dtype=torch.float64)
    drive = torch.zeros(len(node), words, dtype=torch.float64)

    def join(a: int, b: int | None, conductance: float) -> None:
        admittance[a, a] += conductance
        if b is not None:
            admittance[b, b] += conductance
            admittance[a, b] -= conductance
            admittance[b, a] -= conductance

    for i in range(bits):
        for j in range(words):
            word, bit = node["w", i, j], node["b", i, j]
            join(word, bit, float(g[i, j]))
            join(word, node["w", i - 1, j] if i else None, 1 / rho)
            join(bit, node["b", i, j + 1] if j + 1 < words else None, 1 / rho)
            if i == 0:
                drive[word, j] = 1 / rho
    v = torch.linalg.solve(admittance, drive)
    return torch.stack([v[node["b", i, words - 1]] / rho for i in range(bits)])


DEVICES = [
    ConductanceArray(5, 4),
    ConductanceArray(5, 4, reference=True, line=0.01),
    Crossbar(5, 4),
    Crossbar(5, 4, memristor=PCM, reference=True, stuck=(0.1, 0.1)),
    Crossbar(5, 4, memristor=RERAM, line=100.0),
    Memristive(Crossbar(5, 4)),
    Memristive(Crossbar(5, 4, memristor=PCM, stuck=(0.05, 0.05))),
    Memristive(Crossbar(4, 5, memristor=RERAM, reference=True)),
]


@pytest.mark.parametrize("device", DEVICES, ids=str)
def test_keeps_the_contract(device):
    check_device(device)


@pytest.mark.parametrize("reference", [False, True])
@pytest.mark.parametrize("g_min", [0.0, 0.1])
def test_without_faults_it_is_the_wanted_matrix(reference, g_min):
    device = Crossbar(6, 3, memristor=Memristor(g_min=g_min), reference=reference)
    theta = draw(18, dtype=torch.float64).clamp(-1, 1)
    assert torch.allclose(matrix(device, theta), theta.view(3, 6) / math.sqrt(6), atol=1e-12)
    assert device.coupling is Coupling.ELEMENT


@pytest.mark.parametrize(("bits", "words"), [(6, 5), (4, 7), (1, 3), (3, 1), (5, 5)])
def test_wires_are_solved_exactly(bits, words):
    g = draw(2 * bits * words, dtype=torch.float64).abs()
    array = ConductanceArray(words, bits, line=0.03)
    both = nodal(g.view(2 * bits, words), 0.03)
    assert torch.allclose(matrix(array, g), both[::2] - both[1::2], atol=1e-12)


def test_wires_cost_most_far_from_the_driver_and_vanish_to_first_order():
    ideal = Crossbar(8, 8)
    theta = torch.full((64,), 0.8, dtype=torch.float64)
    lost = [matrix(ideal, theta) - matrix(Crossbar(8, 8, line=r), theta) for r in (1.0, 2.0)]
    assert bool((lost[0] > 0).all())
    assert lost[0][7, 0] > 5 * lost[0][0, 7]  # the far corner, against the one beside driver and sense amplifier
    assert torch.allclose(lost[1], 2 * lost[0], rtol=0.01)
    assert Crossbar(8, 8, line=1.0).coupling is Coupling.NONE


def test_the_oracle_sees_the_wires():
    device = Crossbar(3, 2, line=2000.0)
    theta = (0.3 * draw(6, dtype=torch.float64)).requires_grad_()
    x = draw(4, 3, seed=1, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda t: device.oracle()(x, t), theta)


def test_stuck_cells_stay():
    device = Crossbar(40, 50, stuck=(0.05, 0.2), seed=3)
    assert abs(float(device.stuck.double().mean()) - 0.25) < 0.03
    low, high = (device.conductances(torch.full((2000,), w)) for w in (-1.0, 1.0))
    assert torch.equal(low == high, device.stuck)
    at_top = float((low[device.stuck] == 1).double().mean())
    assert abs(at_top - 0.8) < 0.05
    again, other = Crossbar(40, 50, stuck=(0.05, 0.2), seed=3), Crossbar(40, 50, stuck=(0.05, 0.2), seed=4)
    assert torch.equal(device.stuck, again.stuck)
    assert not torch.equal(device.stuck, other.stuck)


def test_programming_noise_is_new_at_every_programming_and_of_the_declared_size():
    cell = Memristor(programming=(0.02, 0.05))
    device = Memristive(Crossbar(30, 40, memristor=cell))
    theta = torch.full((1200,), 0.5)
    other = torch.zeros(1200)
    first = matrix(device, theta)
    assert torch.equal(first, matrix(device, theta))  # the same programming
    matrix(device, other)
    second = matrix(device, theta)
    off = (torch.stack((first, second)) * math.sqrt(30) - 0.5).flatten(1)
    # Two cells a weight: one at half the range, one at zero, where half of the normal numbers are cut off.
    cut = 0.02**2 * (0.5 - 0.5 / math.pi)
    assert torch.allclose(off.std(1), torch.full((2,), math.sqrt(0.045**2 + cut)), rtol=0.06)
    assert abs(float(torch.corrcoef(off)[0, 1])) < 0.1


def test_read_noise_is_new_at_every_row_and_of_the_declared_size():
    device = Memristive(Crossbar(16, 3, memristor=Memristor(read=0.05), reference=True))
    theta, x = 0.3 * draw(48), draw(16, seed=2)
    y = device.measure([Query(x.expand(4000, 16), theta, Purpose.EVALUATE)])[0]
    g = device._crossbar.wanted(theta).view(4, 16)
    expected = 2 / math.sqrt(16) * (0.05**2 * ((g[:3] ** 2 + g[3:] ** 2) @ x**2)).sqrt()
    assert torch.allclose(y.std(0), expected, rtol=0.06)


def test_conductances_drift_as_a_power_of_time_since_their_programming():
    clock, cell = Clock(), Memristor(drift=0.05, settled=10.0)
    device = Memristive(Crossbar(4, 3, memristor=cell), clock=clock)
    theta = (0.5 * draw(12)).clamp(-1, 1)
    fresh = matrix(device, theta)
    for age in (5.0, 10.0, 1e3, 1e5):
        clock.now = age
        assert torch.allclose(matrix(device, theta), fresh * max(1, age / 10) ** -0.05)
    matrix(device, torch.zeros(12))
    assert torch.allclose(matrix(device, theta), fresh)  # written anew, it starts anew
    assert torch.allclose(device.oracle()(torch.eye(4), theta).mT, fresh)


def test_the_exponents_spread_from_cell_to_cell():
    clock = Clock()
    device = Memristive(Crossbar(40, 30, memristor=PCM, reference=True), clock=clock, seed=5)
    device._cell = Memristor(drift=0.049, drift_spread=0.008, settled=20.0)
    theta = torch.ones(1200)
    matrix(device, theta)
    clock.now = 20e4
    standing = device._standing(theta, clock.now)[:1200]  # written at g_max
    exponents = -standing.log() / math.log(1e4)
    assert abs(float(exponents.mean()) - 0.049) < 0.001
    assert abs(float(exponents.std()) - 0.008) < 0.001


def test_a_state_brings_back_what_is_held():
    clock = Clock()
    device = Memristive(Crossbar(4, 3, memristor=PCM), clock=clock)
    theta = 0.3 * draw(12)
    matrix(device, theta)
    clock.now = 500.0
    state = copy.deepcopy(device.state_dict())
    expected = matrix(device, theta)
    resumed = Memristive(Crossbar(4, 3, memristor=PCM), clock=Clock())
    resumed.load_state_dict(state)
    assert torch.allclose(matrix(resumed, theta), expected)
    with pytest.raises(ValueError, match="errors"):
        Memristive(Crossbar(5, 3, memristor=PCM)).load_state_dict(state)


@pytest.mark.parametrize("line", [0.0, 50.0])
def test_a_twin_finds_the_cells(line):
    cell = Memristor(programming=(0.03,))
    device = Crossbar(5, 4, memristor=cell, line=line, stuck=(0.05, 0.05), seed=1)
    generator = torch.Generator().manual_seed(0)
    twin = Twin(CrossbarTwin(Memristive(device)), settings=32, rows=12, fit_steps=400, lr=0.05)
    twin.bind(device.declaration)
    theta = device.theta.draw(generator)
    with torch.no_grad():
        run(twin.start(theta, generator), metered(device, bp.Ledger()))
    ideal = Crossbar(5, 4, line=line)
    x, g = draw(20, 5, seed=3), draw(20, 4, seed=4)
    leaf = theta.clone().requires_grad_()
    truth, believed = (torch.autograd.grad(d.oracle()(x, leaf), leaf, g)[0] for d in (device, ideal))
    found = twin.grad_theta(x, g)
    assert float((found - truth).norm() / truth.norm()) < 0.05
    assert float((believed - truth).norm() / truth.norm()) > 0.15


def test_the_planned_method_trains_real_cells():
    pytest.importorskip("sklearn")
    from blackprop.experiments import Digits

    data, generator = Digits().data(), torch.Generator().manual_seed(0)
    device = Memristive(Crossbar(64, 10, memristor=RERAM, stuck=(0.05, 0.02)))
    layer = bp.PhysicalLayer(device, generator=generator)
    optimizer = torch.optim.Adam([{"params": [layer.theta], "lr": 2e-2}, {"params": [layer.gain], "lr": 0.1}])
    for _ in range(3):
        for some in torch.randperm(len(data.x_train), generator=generator).split(64):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(layer(data.x_train[some]), data.y_train[some]).backward()
            optimizer.step()
    right = layer.eval()(data.x_test).argmax(-1) == data.y_test
    assert float(right.double().mean()) > 0.88


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Memristor(g_max=0.0), "g_max"),
        (lambda: Memristor(g_min=1.0), "g_min"),
        (lambda: Memristor(g_min=-0.1), "g_min"),
        (lambda: Memristor(read=-1.0), "read"),
        (lambda: Memristor(programming=(math.nan,)), "programming"),
        (lambda: Crossbar(3, 2, line=-1.0), "line"),
        (lambda: Crossbar(3, 2, stuck=(0.6, 0.5)), "stuck"),
        (lambda: Memristive(bp.devices.Matrix(3, 2)), "wraps a Crossbar"),
        (lambda: CrossbarTwin(bp.devices.Matrix(3, 2)), "takes a Crossbar"),
    ],
)
def test_refuses(make, message):
    with pytest.raises(ArgumentError, match=message):
        make()


def test_refuses_a_negative_conductance():
    array = ConductanceArray(3, 2)
    with pytest.raises(LimitError, match=r"theta\[4\] = -0.1"):
        array.program(torch.tensor([0.1] * 4 + [-0.1] + [0.1] * 7))
