"""The fibre: its modes and their coupling, what an integrator owes, what power does, and training in front of it."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import blackprop as bp
from blackprop.core import Purpose, metered, run
from blackprop.devices import Drifting, GradedIndexFibre, MultimodeFibre
from blackprop.devices.photonic._graded_index import hermite
from blackprop.devices.photonic._multimode_fibre import LARGEST, unitary
from blackprop.errors import ArgumentError, IncompatibleError
from blackprop.experiments import Digits
from blackprop.surrogates import Oracle, Surrogate, Twin
from blackprop.twins import MultimodeFibreTwin
from support import draw

COMPLEX = torch.complex128


def amplitudes(fibre: MultimodeFibre, rows: int = 20) -> Tensor:
    """Launches of unit energy into all modes, and the one whose modes all add up on the axis."""
    parts = [draw(rows, fibre.fibre.modes, seed=seed, dtype=torch.float64) for seed in (1, 2)]
    centred = fibre.fibre.at(torch.zeros(1, dtype=torch.float64))
    a = torch.cat((torch.complex(*parts), centred.to(COMPLEX)))
    a = a / a.norm(dim=-1, keepdim=True)
    return a.unsqueeze(-2) * fibre._optics["pulse"]


def one() -> Tensor:
    return torch.ones((), dtype=torch.float64)


def test_the_modes_are_those_of_the_fibre():
    fibre = GradedIndexFibre(groups=4)
    points = torch.linspace(-7, 7, 281, dtype=torch.float64)
    values, area = fibre.at(points), float(points[1] - points[0]) ** 2
    torch.testing.assert_close(values.mT @ values * area, torch.eye(10, dtype=torch.float64), rtol=0, atol=1e-10)
    # −∇²F + (r² − 2g) F = 0 is the wave equation of the parabolic profile, r in 1/√α.
    grid = values.view(281, 281, 10)
    step = float(points[1] - points[0])
    inner = grid[1:-1, 1:-1]
    bent = grid[2:, 1:-1] + grid[:-2, 1:-1] + grid[1:-1, 2:] + grid[1:-1, :-2] - 4 * inner
    r2 = (points[1:-1, None].square() + points[1:-1].square()).unsqueeze(-1)
    g = torch.tensor([p + q + 1.0 for p, q in fibre.orders], dtype=torch.float64)
    assert float((-bent / step**2 + (r2 - 2 * g) * inner).abs().max()) < 0.01
    beta = fibre.constants()[0]
    kappa = fibre.alpha / fibre.wave_number
    torch.testing.assert_close(beta, -kappa * (g - 1), rtol=1e-3, atol=0)


def test_the_kerr_tensor_is_the_overlap_of_four_modes():
    fibre = GradedIndexFibre(groups=4)
    points = torch.linspace(-7, 7, 141, dtype=torch.float64)
    F_ = fibre.at(points)
    S = torch.einsum("xp,xl,xm,xn->plmn", F_, F_, F_, F_) * float(points[1] - points[0]) ** 2
    torch.testing.assert_close(fibre.kerr_tensor() / fibre.alpha, S, rtol=0, atol=1e-10)
    assert float(fibre.kerr_tensor()[0, 0, 0, 0]) == pytest.approx(fibre.alpha / (2 * math.pi))
    along = (hermite(4, points).square().sum(0)).max()
    assert fibre.steepest() <= fibre.nonlinearity() * float(along) ** 2


def test_pixels_take_their_part_of_each_mode():
    fibre = GradedIndexFibre()
    edges = np.linspace(-fibre.extent, fibre.extent, 5)
    fine = torch.as_tensor((np.arange(4000) + 0.5) / 4000 * 2 * fibre.extent - fibre.extent)
    phi = hermite(3, fine).view(3, 4, 1000).sum(-1) * float(fine[1] - fine[0]) / math.sqrt(edges[1] - edges[0])
    expected = torch.stack([torch.outer(phi[p], phi[q]).flatten() for p, q in fibre.orders], -1)
    torch.testing.assert_close(fibre.over(4), expected, rtol=0, atol=1e-6)
    assert float(torch.linalg.matrix_norm(fibre.over(4), 2)) < 1  # no pixels launch more than they are given


def test_it_keeps_the_contract():
    bp.testing.check_device(MultimodeFibre(9, 16, power=2e5, times=8, steps=8, mixing=0.3))


@pytest.mark.parametrize("delay", [0.0, 5e-13])
def test_without_power_the_reading_is_the_squared_transmission(delay):
    design = GradedIndexFibre(delay=delay)
    fibre = MultimodeFibre(16, 36, design, power=0, steps=3, mixing=0.4, seed=2)
    x, theta = draw(5, 16, dtype=torch.float64), 2 * draw(16, seed=1, dtype=torch.float64)
    at = torch.arange(4, dtype=torch.float64) - 1.5
    along = torch.exp(-2j * math.pi * torch.outer(at, at) / 4) / 2
    lens = torch.einsum("ac,bd->abcd", along, along).reshape(16, 16)
    spacing = 2 * design.extent / 6
    C = design.at((torch.arange(6, dtype=torch.float64) - 2.5) * spacing) * spacing * math.sqrt(36)
    entry, leaving = unitary(fibre.mixing.double())
    beta0, beta1, beta2 = design.constants()
    pulse = fibre._optics["pulse"][:, 0]
    spectrum = torch.fft.fft(pulse).abs().square() / len(pulse)
    y = torch.zeros(5, 36, dtype=torch.float64)
    for weight, w in zip(spectrum, 2 * math.pi * torch.fft.fftfreq(32, 8 * 25e-15 / 32).double(), strict=True):
        beta = torch.exp(1j * design.length * (beta0 - beta1 * w + beta2 * w**2 / 2))
        T = (
            C.to(COMPLEX)
            @ leaving
            @ torch.diag(beta)
            @ entry
            @ design.over(4).mT.to(COMPLEX)
            @ torch.diag(torch.exp(1j * theta))
        )
        y += weight * (torch.exp(1j * x) / 4 @ (T @ lens).mT).abs().square()
    torch.testing.assert_close(fibre.transfer(x, theta), y, rtol=1e-5, atol=1e-6)


def test_light_in_one_mode_turns_its_own_phase():
    design = GradedIndexFibre(groups=1, dispersion=0.0)
    fibre = MultimodeFibre(4, 4, design, power=2e6, steps=80)
    a = fibre._optics["pulse"]
    b = fibre.propagate(a, one())
    power = 2e6 * (a / a.abs().max()).abs().square()
    turned = design.kerr * 2 * math.pi / design.wavelength * design.alpha / (2 * math.pi) * power * design.length
    assert float(turned.max()) > 7
    torch.testing.assert_close(b, a * torch.exp(1j * turned), rtol=0, atol=5e-5)


def test_modes_run_apart_by_their_delay():
    design = GradedIndexFibre(delay=1e-12)
    fibre = MultimodeFibre(4, 4, design, power=0, times=64, pulse=40e-15)
    b = fibre.propagate(amplitudes(fibre), one())[0].abs().square()
    at = (torch.arange(64, dtype=torch.float64) - 31.5) * 8 * 40e-15 / 64
    when = (b * at[:, None]).sum(0) / b.sum(0)
    torch.testing.assert_close(when[3:] - when[0], torch.full((3,), 2 * 1e-12 * 0.02).double(), rtol=0.1, atol=0)


@pytest.mark.parametrize("groups", [1, 3, 4])
def test_energy_is_kept_even_by_the_longest_step(groups):
    design = GradedIndexFibre(groups=groups)
    steps = math.ceil(design.steepest() * 1.5e6 * design.length / LARGEST)
    fibre = MultimodeFibre(16, 16, design, power=1.5e6, times=16, steps=steps)
    assert fibre.phase_per_step > 0.9 * LARGEST
    a = amplitudes(fibre, rows=6)
    energy = fibre.propagate(a, one()).abs().square().sum((-2, -1))
    assert float((energy - 1).abs().max()) < 1e-6


def test_what_the_camera_sees_depends_on_the_power():
    x, theta = draw(8, 16), draw(16, seed=1)
    faint, *readings = (
        MultimodeFibre(16, 64, power=power, times=8, steps=40, mixing=0.3).transfer(x, theta)
        for power in (0.0, 1e4, 1e5, 1e6)
    )
    changes = [float((y - faint).norm() / faint.norm()) for y in readings]
    assert changes[0] < 0.005
    assert changes[2] > 0.1
    assert changes[1] / changes[0] == pytest.approx(10, rel=0.2)  # a small phase is in proportion to the power


def test_the_split_step_is_of_the_second_order():
    x, theta = draw(4, 16, dtype=torch.float64), draw(16, seed=1, dtype=torch.float64)

    def reading(steps: int) -> Tensor:
        return MultimodeFibre(16, 36, power=1e6, times=16, steps=steps, mixing=0.3).transfer(x, theta)

    counts, right = [40, 56, 80, 112], reading(640)
    errors = [float((reading(steps) - right).norm() / right.norm()) for steps in counts]
    slope = np.polyfit(np.log(counts), np.log(errors), 1)[0]
    assert -slope == pytest.approx(2, rel=0.1)


def test_hidden_mixing_is_unitary_and_its_own_for_each_seed():
    U = unitary(draw(2, 6, 6, dtype=torch.float64))
    torch.testing.assert_close(U @ U.mH, torch.eye(6, dtype=COMPLEX).expand(2, 6, 6))
    same, other = (MultimodeFibre(4, 4, power=1e5, steps=4, mixing=0.3, seed=seed) for seed in (0, 1))
    x, theta = draw(3, 4), draw(4, seed=1)
    unmixed = same.unmixed().transfer(x, theta)
    assert not torch.allclose(same.transfer(x, theta), other.transfer(x, theta), rtol=0.01)
    assert not torch.allclose(same.transfer(x, theta), unmixed, rtol=0.01)
    torch.testing.assert_close(unmixed, MultimodeFibre(4, 4, power=1e5, steps=4).transfer(x, theta))


def test_what_cannot_be_is_refused():
    with pytest.raises(ArgumentError, match=r"steps=4.*turns phases by up to 3.6 rad; more than 0.4.*37 steps"):
        MultimodeFibre(power=1e6, steps=4)
    with pytest.raises(ArgumentError, match="must be a square number of pixels, got 10"):
        MultimodeFibre(16, 10)
    with pytest.raises(ArgumentError, match=r"guides 4 groups at 1.03e-06 m, got 5"):
        GradedIndexFibre(groups=5)
    for wrong in ({"power": -1.0}, {"mixing": math.inf}, {"pulse": 0.0}, {"steps": 0}, {"times": 0}):
        with pytest.raises(ArgumentError, match=rf"MultimodeFibre\({next(iter(wrong))}=...\)"):
            MultimodeFibre(**wrong)
    with pytest.raises(ArgumentError, match=r"GradedIndexFibre\(radius=...\)` must be positive"):
        GradedIndexFibre(radius=-1.0)
    with pytest.raises(ArgumentError, match="takes a MultimodeFibre"):
        MultimodeFibreTwin(bp.devices.Matrix(4, 4))
    with pytest.raises(IncompatibleError, match="in_shape"):
        Twin(MultimodeFibreTwin(MultimodeFibre(4, 4))).bind(MultimodeFibre(9, 4).declaration)


def small(seed: int = 0) -> MultimodeFibre:
    return MultimodeFibre(16, 16, power=2e5, times=8, steps=8, mixing=0.2, seed=seed)


def test_a_twin_finds_what_was_hidden_and_follows_what_moves(generator):
    fibre = MultimodeFibre(4, 9, GradedIndexFibre(groups=2), power=3e5, times=8, steps=8, mixing=0.3)
    twin, ledger = (
        Twin(MultimodeFibreTwin(fibre), settings=16, rows=16, fit_steps=150, lr=0.03, online_steps=4),
        bp.Ledger(),
    )
    twin.bind(fibre.declaration)
    theta, x, g = fibre.theta.draw(generator), draw(32, 4).requires_grad_(), draw(32, 9, seed=1)

    def cosine(moved: Tensor | float = 0.0) -> float:
        twin.theta.copy_(theta)
        (true,) = torch.autograd.grad(fibre.transfer(x, theta + moved), x, g)
        return float(F.cosine_similarity(twin.grad_x(x, g).flatten(), true.flatten(), 0))

    before = cosine()
    with torch.no_grad():
        run(twin.start(theta, generator), metered(fibre, ledger))
    assert before < 0.9
    assert cosine() > 0.995
    assert float(twin.residual) < 0.02
    assert (ledger.rows, ledger.programmings) == ({Purpose.CALIBRATE: 256}, {Purpose.CALIBRATE: 16})
    away = 0.8 * draw(4, seed=5)
    left_behind = cosine(away)
    for batch in range(60):
        rows = draw(16, 4, seed=100 + batch)
        twin.observe(rows, fibre.transfer(rows, theta + away))
    assert left_behind < 0.9
    assert cosine(away) > 0.99


def accuracy(surrogate: Surrogate, trains: bool, walk: float, epochs: int = 2) -> float:
    """On digits, of a layer in front of the fibre and a readout behind it; the mask's phases walk by `walk` rad/√s."""
    torch.manual_seed(0)
    data, stream, now = Digits().data(), torch.Generator().manual_seed(0), [0.0]
    device = Drifting(small(), per_root_second=walk, clock=lambda: now[0])
    layer = bp.PhysicalLayer(device, bp.estimators.Oracle(), surrogate, generator=stream)
    layer.theta.requires_grad_(False)
    front = nn.Sequential(nn.Linear(64, 16), nn.BatchNorm1d(16, affine=False)).requires_grad_(trains)
    model = nn.Sequential(front, layer, nn.BatchNorm1d(16), nn.Linear(16, 10))
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=2e-2)
    for _ in range(epochs):
        for some in torch.randperm(len(data.x_train), generator=stream).split(64)[:22]:
            optimizer.zero_grad()
            F.cross_entropy(model(data.x_train[some]), data.y_train[some]).backward()
            optimizer.step()
            now[0] = layer.ledger.lab_seconds
    assert layer.ledger.rows == {Purpose.FORWARD: 64 * 22 * epochs}  # no query beyond those of training
    model.eval()
    with torch.no_grad():
        return float((model(data.x_test).argmax(1) == data.y_test).double().mean())


def test_an_online_twin_trains_what_stands_before_the_fibre_and_follows_its_drift():
    frozen = accuracy(Oracle(), False, 0.0)
    still, drifting = (accuracy(Twin(MultimodeFibreTwin(small()), fit_steps=0, lr=0.1), True, w) for w in (0.0, 0.02))
    assert still > frozen + 0.15
    assert drifting > still - 0.05
