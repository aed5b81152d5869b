"""The equations of the reservoirs against independent forms, the order of their steps, thresholds, what they forget."""

from __future__ import annotations

import cmath
import math
from itertools import pairwise

import pytest
import torch

from blackprop.devices import ActiveRing, EchoState, Ikeda, Reservoir, SpinWaveScatterer
from support import draw

MEGA = 2 * math.pi * 1e6  # rad/s


def ring_of(time: int, nodes: int, **options) -> ActiveRing:
    plain = {"damping": MEGA, "shift": -3 * MEGA, "nonlinear_damping": 0.1, "injection": 2 * MEGA}
    return ActiveRing(time, nodes=nodes, **{**plain, **options})


def setting(device: Reservoir, *first: float) -> torch.Tensor:
    """The initial setting, in float64, with its first numbers replaced."""
    theta = device.theta.draw(torch.Generator().manual_seed(1)).double()
    theta[: len(first)] = torch.tensor(first, dtype=torch.float64)
    return theta


# -- the equations -----------------------------------------------------------------------------------------------------


def plainly(slope, start, steps: int, h: float, delay: int) -> list[complex]:
    """Heun's method, written down plainly: `slope(state, state one delay ago, step)`; the state after each step."""
    path = [start] * (delay + 1)
    for n in range(steps):
        now, then, later = path[-1], path[-1 - delay], path[-delay]
        first = slope(now, then, n)
        path.append(now + h / 2 * (first + slope(now + h * first, later, n)))
    return path[delay + 1 :]


@pytest.mark.parametrize("drive", list(ActiveRing.Drive))
def test_the_ring_obeys_its_equation(drive):
    ring = ring_of(
        3,
        3,
        drive=drive,
        substeps=100,
        delay=480e-9,
        period=450e-9,
        initial=0.3 + 0.2j,
        nonlinear_damping=0.4,
    )
    theta, x = setting(ring, 1.3, 0.25, 0.6), draw(1, 3, 1, dtype=torch.float64)
    gain, bias, phase, *mask = theta.tolist()
    gamma, shift, kappa = MEGA, -3 * MEGA, 2 * MEGA
    fine = 6  # times finer than the ring's own step

    def slope(c: complex, back: complex, n: int) -> complex:
        node = n // (100 * fine)
        u = mask[node % 3] * float(x[0, node // 3, 0])
        injected = drive is ActiveRing.Drive.INJECTED
        g, inside = (gain, u + bias) if injected else (gain * (1 + u), bias)
        local = -1j * shift * abs(c) ** 2 * c - gamma * (1 + 0.4 * abs(c) ** 2) * c
        return local + gamma * g * cmath.exp(1j * phase) * back / (1 + abs(back) ** 2) + kappa * inside

    delay = ring.delay_steps * fine
    assert delay * ring.step / fine == pytest.approx(480e-9)
    path = plainly(slope, 0.3 + 0.2j, 900 * fine, ring.step / fine, delay)
    wanted = torch.tensor([abs(c) ** 2 for c in path[100 * fine - 1 :: 100 * fine]], dtype=torch.float64)
    torch.testing.assert_close(ring.transfer(x, theta).flatten(), wanted, rtol=1e-3, atol=1e-4)


def test_the_fibre_obeys_its_equation():
    fibre = Ikeda(3, nodes=3, delay=2e-6, period=1.8e-6, response=0.5e-6, substeps=30, initial=0.2)
    theta, x = setting(fibre, 1.7), draw(1, 3, 1, dtype=torch.float64)
    gain, phase, *mask = theta.tolist()
    fine = 20

    def slope(light: float, back: float, n: int) -> float:
        node = n // (30 * fine)
        return (gain * math.sin(back + mask[node % 3] * float(x[0, node // 3, 0]) + phase) ** 2 - light) / 0.5e-6

    path = plainly(slope, 0.2, 270 * fine, fibre.step / fine, fibre.delay_steps * fine)
    wanted = torch.tensor(path[30 * fine - 1 :: 30 * fine], dtype=torch.float64)
    torch.testing.assert_close(fibre.transfer(x, theta).flatten(), wanted, rtol=1e-3, atol=1e-4)


def test_the_waveguide_obeys_its_equation():
    guide = SpinWaveScatterer(3, 2, nodes=3, substeps=100, pump=0.4, shift=-5 * MEGA, initial=0.3)
    theta, x = setting(guide), draw(1, 3, 2, dtype=torch.float64)
    pump, mask, detuning = theta.split([1, 6, 3])

    def slope(a: torch.Tensor, back: torch.Tensor, n: int) -> torch.Tensor:
        del back
        drive = mask.view(3, 2) @ x[0, n // 500] + pump
        local = -(MEGA * (1 + 1j * detuning) - 5j * MEGA * a.abs().square()) * a
        return local - 1j * (guide.couplings.to(a) @ a) + MEGA * drive

    path = plainly(slope, torch.full((3,), 0.3, dtype=torch.complex128), 1500, 100e-9 / 500, 1)
    wanted = torch.stack(path[499::500]).abs().square()
    torch.testing.assert_close(guide.transfer(x, theta)[0], wanted, rtol=1e-3, atol=1e-5)


def test_the_echo_state_obeys_its_equation():
    device = EchoState(4, 2, nodes=3, leak=0.6, radius=0.8, bias=0.5, initial=0.1)
    theta, x = setting(device), draw(1, 4, 2, dtype=torch.float64)
    inputs, state, wanted = theta[3:].view(3, 2), torch.full((3,), 0.1, dtype=torch.float64), []
    for u in x[0]:
        inside = theta[0] * (device.weights @ state) + inputs @ u + theta[2] * device.offsets
        state = 0.4 * state + 0.6 * torch.tanh(inside)
        wanted.append(state)
    torch.testing.assert_close(device.transfer(x, theta)[0], torch.stack(wanted), rtol=1e-6, atol=1e-7)


def test_the_waveguide_scatters_as_its_matrix_says():
    """Without the power's shift the cells are linear: every sample is one exponential of their generator."""
    guide = SpinWaveScatterer(4, nodes=5, shift=0.0, substeps=100, pump=0.4)
    theta, x = setting(guide), draw(1, 4, 1, dtype=torch.float64)
    pump, mask, detuning = theta.split([1, 5, 5])
    generator = -MEGA * torch.diag(1 + 1j * detuning) - 1j * guide.couplings
    step = torch.linalg.matrix_exp(generator * 100e-9)
    state, wanted = torch.zeros(5, dtype=torch.complex128), []
    for u in x.flatten():
        settled = torch.linalg.solve(generator, -MEGA * (mask * u + pump).to(generator))
        state = settled + step @ (state - settled)
        wanted.append(state.abs().square())
    torch.testing.assert_close(guide.transfer(x, theta)[0], torch.stack(wanted), rtol=1e-3, atol=1e-5)


def test_waves_keep_to_their_speed():
    """A front from the first cell of an even waveguide travels at 2J cells a second."""
    guide = SpinWaveScatterer(100, nodes=40, period=10e-9, disorder=0.0, damping=1e4, shift=0.0, pump=0.0)
    theta = torch.zeros(guide.theta.size)
    theta[1] = 1.0
    x = torch.zeros(1, 100, 1)
    x[0, 0] = 1.0
    power = guide.transfer(x, theta)[0]
    arrives = [float((power[:, n] > 0.3 * power[:, n].max()).nonzero()[0]) for n in (8, 28)]
    assert 20 / (arrives[1] - arrives[0]) == pytest.approx(2 * 3 * MEGA * 10e-9, rel=0.1)


@pytest.mark.parametrize("shift", [0.0, -20.0])
def test_the_waveguide_passes_power_on_and_loses_it_at_its_linewidth(shift):
    guide = SpinWaveScatterer(5, nodes=6, initial=0.7, shift=shift * MEGA, pump=0.0)
    power = guide.transfer(torch.zeros(1, 5, 1, dtype=torch.float64), setting(guide)).sum(-1)[0]
    wanted = 6 * 0.49 * (-2 * MEGA * 100e-9 * torch.arange(1, 6, dtype=torch.float64)).exp()
    torch.testing.assert_close(power, wanted)


@pytest.mark.parametrize(
    ("make", "start"),
    [
        (lambda n: ring_of(5, 4, substeps=n, gain=1.4, period=400e-9, nonlinear_damping=0.5), 16),
        (lambda n: ring_of(5, 4, substeps=n, gain=1.4, drive=ActiveRing.Drive.GAIN, scale=0.5), 16),
        (lambda n: Ikeda(5, nodes=4, substeps=n, response=5e-6, gain=2.0), 8),
        (lambda n: SpinWaveScatterer(5, nodes=4, substeps=n, pump=1.0, shift=-10 * MEGA), 8),
    ],
    ids=["ring, injected", "ring, gain", "fibre", "waveguide"],
)
def test_the_error_falls_with_the_square_of_the_step(make, start):
    x = draw(3, 5, 1, dtype=torch.float64)
    runs = [make(n * start).transfer(x, setting(make(1))) for n in (1, 2, 4, 32)]
    errors = [float((run - runs[-1]).abs().max()) for run in runs[:-1]]
    orders = [math.log2(coarse / fine) for coarse, fine in pairwise(errors)]
    assert errors[0] < 0.05 * float(runs[-1].abs().max())
    assert orders == pytest.approx([2.0, 2.0], abs=0.2)


def test_a_coarse_step_stays_bounded():
    """Far beyond saturation, hundreds of turns a step: an explicit step of damping and shift would run away."""
    ring = ring_of(20, 2, gain=50.0, nonlinear_damping=10.0, shift=-1e3 * MEGA)
    y = ring.transfer(100 * draw(4, 20, 1), setting(ring).float())
    assert bool(y.isfinite().all())
    assert float(y.max()) < (100 * 4 * 2 * MEGA * ring.step) ** 2


# -- threshold, frequency, memory --------------------------------------------------------------------------------------


def pulled(phase: float, loop: float) -> float:
    """Ω/Γ of `tan(φ − Ωτ) = Ω/Γ`, for `loop` Γτ, by bisection."""
    low, high = -100.0, 100.0
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if phase - middle * loop > math.atan(middle) else (low, middle)
    return low


@pytest.mark.parametrize("phase", [0.0, 1.2, -2.0])
def test_the_ring_oscillates_from_its_threshold_on_at_the_pulled_frequency(phase):
    """Free-running from a whisper: growth and frequency are those of `mode`, which change sign at √(1 + (Ω/Γ)²)."""
    omega = pulled(phase, MEGA * 500e-9)
    threshold = math.sqrt(1 + omega**2)
    ring = ring_of(40, 10, substeps=8, initial=1e-9)
    gains = torch.tensor([0.6, 0.97, 1.0, 1.03, 1.4], dtype=torch.float64) * threshold
    theta = torch.zeros(5, ring.theta.size, dtype=torch.float64)
    theta[:, 0], theta[:, 2] = gains, phase
    x = torch.zeros(1, 40, 1, dtype=torch.float64)
    y, state = ring.evolve(x, theta, ring.rest(x, theta))
    growth = (y[:, 0, -1, -1] / y[:, 0, 19, -1]).log() / (2 * 20 * 500e-9)
    frequency = (state[:, 0, 1:] / state[:, 0, :-1]).angle().mean(-1) / ring.step
    modes = [ring.mode(setting) for setting in theta]
    assert growth.tolist() == pytest.approx([mode.real for mode in modes], abs=0.01 * MEGA)
    assert frequency.tolist() == pytest.approx([mode.imag for mode in modes], abs=0.01 * MEGA)
    assert growth[0] < growth[1] < 0 < growth[3] < growth[4]
    assert abs(modes[2].real) < 1e-6 * MEGA
    assert modes[2].imag == pytest.approx(omega * MEGA, abs=1e-6 * MEGA)


@pytest.mark.parametrize("start", [0.01, 3.0])
def test_above_threshold_saturation_holds_the_ring_on_its_limit_cycle(start):
    """Power and frequency solve `i(Ω + N A²) + Γ(1 + Q A²) = Γ g e^{i(φ − Ωτ)} / (1 + A²)`, wherever it began."""
    ring = ring_of(80, 10, substeps=10, initial=start, shift=-0.5 * MEGA, nonlinear_damping=0.2)
    theta = torch.zeros(ring.theta.size, dtype=torch.float64)
    theta[0], theta[2] = 1.6, 0.7
    x = torch.zeros(1, 80, 1, dtype=torch.float64)
    y, state = ring.evolve(x, theta, ring.rest(x, theta))
    power = float(y[0, -1, -1])
    omega = float((state[0, 1:] / state[0, :-1]).angle().mean()) / ring.step
    assert float(y[0, -10:].std()) < 1e-3 * power
    left = 1j * (omega / MEGA - 0.5 * power) + 1 + 0.2 * power
    right = 1.6 * cmath.exp(1j * (0.7 - omega * 500e-9)) / (1 + power)
    assert abs(left - right) < 3e-3
    assert power > 0.1


@pytest.mark.parametrize(("gain", "forgets"), [(0.8, True), (1.5, False)])
def test_memory_fades_below_threshold_and_not_above(gain, forgets):
    """A pulse of two heights, then silence: below, its trace goes as e^{λt}; above, it starts what never ends."""
    ring = ring_of(60, 10, substeps=8, gain=gain, bias=0.0)
    x = torch.zeros(2, 60, 1, dtype=torch.float64)
    x[:, 0] = torch.tensor([[0.3], [0.0]])
    y = ring.transfer(x, theta := setting(ring))
    assert float(y[1].max()) == 0  # nothing came: it stays at rest
    traces = y[0, :, -1]
    if forgets:
        rate = float((traces[-1] / traces[30]).log()) / (29 * 500e-9)
        assert rate == pytest.approx(2 * ring.mode(theta).real, rel=0.02)
        assert traces[-1] < 1e-4 * traces[0]
    else:
        assert traces[-1] > 0.1


@pytest.mark.parametrize(("gain", "stable"), [(1.0, True), (2.3, False)])
def test_the_fibre_rests_until_its_slope_passes_one(gain, stable):
    fibre = Ikeda(80, nodes=10, gain=gain, phase=0.8, initial=0.5)
    y = fibre.transfer(torch.zeros(1, 80, 1, dtype=torch.float64), setting(fibre))[0, -10:]
    fixed = 0.0
    for _ in range(10_000):
        fixed += 0.1 * (gain * math.sin(fixed + 0.8) ** 2 - fixed)
    assert (abs(gain * math.sin(2 * (fixed + 0.8))) < 1) == stable
    assert (float((y - fixed).abs().max()) < 1e-4) == stable


@pytest.mark.parametrize(("radius", "forgets"), [(0.7, True), (1.6, False)])
def test_an_echo_state_forgets_below_the_spectral_radius_one(radius, forgets):
    device = EchoState(150, nodes=100, radius=radius, bias=0.0, scale=0.01)
    x = draw(1, 150, 1, dtype=torch.float64).repeat(2, 1, 1)
    x[1, :5] += 1.0
    y = device.transfer(x, setting(device))
    apart = (y[0] - y[1]).norm(dim=-1)
    assert float(torch.linalg.eigvals(device.weights).abs().max()) == pytest.approx(1)
    assert (apart[-1] < 1e-6 * apart[4]) == forgets
