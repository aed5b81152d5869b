"""What every simulator promises: stacked settings, linearity, precision, gradients, period, initial values."""

import math
from functools import partial

import pytest
import torch
from torch import Tensor

from blackprop import devices
from blackprop.core import Purpose, Query
from blackprop.devices import _simulator as simulator
from blackprop.devices.photonic import _mzi as mzi
from blackprop.errors import ArgumentError, LimitError

Encoding = devices.Diffraction.Encoding
LINEAR = {
    "Matrix": devices.Matrix,
    "LowRank": partial(devices.LowRank, rank=2),
    "LightModulator": devices.LightModulator,
    "Microring": devices.Microring,
    "MZIMesh": devices.MZIMesh,
    "ThreeSplitterMesh": devices.ThreeSplitterMesh,
    "Monarch": devices.Monarch,
    "Resampling": devices.Resampling,
}
DIFFRACTION = {
    f"Diffraction.{encoding.value}{'.double' if double else ''}": partial(
        # Long hops, so that a grid of few pixels diffracts in earnest.
        devices.Diffraction,
        encoding=encoding,
        double=double,
        distance=20.0,
    )
    for encoding in Encoding
    for double in (False, True)
}
MESHES = [devices.MZIMesh, devices.ThreeSplitterMesh]
every = pytest.mark.parametrize("make", [*LINEAR.values(), *DIFFRACTION.values()], ids=[*LINEAR, *DIFFRACTION])
linear = pytest.mark.parametrize("make", LINEAR.values(), ids=LINEAR)
diffraction = pytest.mark.parametrize("make", DIFFRACTION.values(), ids=DIFFRACTION)
PERIODIC = {name: make for name, make in {**LINEAR, **DIFFRACTION}.items() if make(4, 4).theta.period is not None}
sizes = pytest.mark.parametrize(("d_in", "d_out"), [(6, 5), (5, 9), (4, 4)])


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def rows(n: int, d: int, seed: int = 1) -> Tensor:
    return torch.randn(n, d, generator=generator(seed))


def settings(device: devices.Device, n: int) -> Tensor:
    g = generator(2)
    return torch.stack([device.theta.draw(g) for _ in range(n)])


def close(a: Tensor, b: Tensor, rtol: float = 1e-5) -> bool:
    return a.shape == b.shape and float((a - b).norm()) <= rtol * float(b.norm())


@every
@sizes
@pytest.mark.parametrize("batch_bytes", [simulator.BATCH_BYTES, 1])
def test_a_round_is_its_queries_one_at_a_time(make, d_in, d_out, batch_bytes, monkeypatch):
    monkeypatch.setattr(simulator, "BATCH_BYTES", batch_bytes)
    device = make(d_in, d_out)
    thetas, shared = settings(device, 6), rows(3, d_in)
    asked = [(shared, thetas[i]) for i in range(4)]  # one x, many settings
    asked += [(rows(3, d_in, seed), thetas[i]) for seed, i in ((5, 4), (6, 5), (7, 0))]  # an x for each
    asked += [(rows(n, d_in, n), thetas[1].clone()) for n in (1, 4, 2)]  # rows joined: equal settings
    asked += [(rows(n, d_in, n), thetas[i]) for n, i in ((2, 2), (5, 3), (1, 4))]
    together = device.measure([Query(x, theta, Purpose.PARAMETER) for x, theta in asked])
    for (x, theta), y in zip(asked, together, strict=True):
        alone = make(d_in, d_out)
        alone.program(theta)
        assert close(y, alone.read(x))
    assert torch.equal(device.programmed, thetas[4])


@every
def test_transfer_stacks_rows_and_settings(make):
    device = make(6, 5)
    thetas, x = settings(device, 3), torch.stack([rows(4, 6, seed) for seed in range(3)])
    one = [[device.transfer(x[i], thetas[j]) for j in range(3)] for i in range(3)]
    assert close(device.transfer(x[0], thetas), torch.stack([one[0][j] for j in range(3)]))
    assert close(device.transfer(x, thetas), torch.stack([one[i][i] for i in range(3)]))
    assert close(device.transfer(x, thetas[0]), torch.stack([one[i][0] for i in range(3)]))


@linear
@sizes
def test_linear_devices_are_linear(make, d_in, d_out):
    device = make(d_in, d_out)
    theta, a, b = device.theta.draw(generator()), rows(3, d_in, 1), rows(3, d_in, 2)
    assert device.linear
    mixed = 2.5 * device.transfer(a, theta) - 0.7 * device.transfer(b, theta)
    assert close(device.transfer(2.5 * a - 0.7 * b, theta), mixed)


@diffraction
def test_diffraction_is_even_and_homogeneous_but_not_additive(make):
    device = make(9, 9)
    theta, a, b = device.theta.draw(generator()), rows(3, 9, 1), rows(3, 9, 2)
    y = device.transfer(a, theta)
    assert not device.linear
    assert close(device.transfer(-a, theta), y)
    assert close(device.transfer(-3 * a, theta), 3 * y)
    assert not close(device.transfer(a + b, theta), y + device.transfer(b, theta), rtol=0.05)


@every
@sizes
def test_float64_agrees_with_float32(make, d_in, d_out):
    device = make(d_in, d_out)
    theta, x = device.theta.draw(generator()), rows(3, d_in)
    single, double = device.transfer(x, theta), device.transfer(x.double(), theta.double())
    assert (single.dtype, double.dtype) == (torch.float32, torch.float64)
    assert close(single.double(), double, rtol=2e-5)


@every
def test_autograd_passes_the_oracle(make):
    device = make(4, 3)
    theta = device.theta.draw(generator()).double().clamp(0.05, 0.95).requires_grad_()
    assert torch.autograd.gradcheck(device.oracle(), (rows(2, 4).double().requires_grad_(), theta))


@pytest.mark.parametrize("make", PERIODIC.values(), ids=PERIODIC)
@sizes
def test_the_declared_period_holds_for_each_parameter(make, d_in, d_out):
    device = make(d_in, d_out)
    theta, x = device.theta.draw(generator()).double(), rows(3, d_in).double()
    turns = torch.randint(-2, 3, theta.shape, generator=generator(3)).double()
    assert close(device.transfer(x, theta + turns * device.theta.period), device.transfer(x, theta), rtol=1e-9)
    assert not close(device.transfer(x, theta + turns * device.theta.period / 2), device.transfer(x, theta), rtol=1e-3)


def test_what_is_periodic():
    phases = {"Diffraction.phase", "Diffraction.phase.double"}
    assert set(PERIODIC) == {"LightModulator", "Microring", "MZIMesh", "ThreeSplitterMesh", "Monarch"} | phases


@pytest.mark.parametrize(
    ("make", "low", "high"),
    [
        (devices.Matrix, -1 / 8, 1 / 8),
        (devices.LightModulator, math.pi / 2 - 0.1, math.pi / 2 + 0.1),
        (devices.Microring, 0.01, math.pi / 4),
        (devices.Monarch, math.pi / 2 - 0.1, math.pi / 2 + 0.1),
        (partial(devices.Diffraction, encoding=Encoding.PHASE_AMPLITUDE), 0, 1),
    ],
)
def test_uniform_initial_values(make, low, high):
    device = make(64, 64)
    theta = torch.cat([device.theta.draw(generator(seed)) for seed in range(10)])
    assert float(theta.min()) >= low
    assert float(theta.max()) <= high
    assert float(theta.mean()) == pytest.approx((low + high) / 2, abs=0.05 * (high - low))
    assert float(theta.std()) == pytest.approx((high - low) / math.sqrt(12), rel=0.05)


@pytest.mark.parametrize(
    ("make", "mean", "std"),
    [
        (devices.MZIMesh, math.pi / 2, 1 / 8),
        (devices.ThreeSplitterMesh, math.pi / 2, 1 / 8),
        (partial(devices.LowRank, rank=10), 0, 0.1),
    ],
)
def test_normal_initial_values(make, mean, std):
    theta = make(60, 64).theta.draw(generator())
    assert float(theta.mean()) == pytest.approx(mean, abs=0.15 * std)
    assert float(theta.std()) == pytest.approx(std, rel=0.1)


@every
def test_the_global_generator_is_left_alone(make):
    before = torch.get_rng_state()
    device = make(6, 5)
    theta = device.theta.draw(generator())
    device.measure([Query(rows(2, 6), theta, Purpose.FORWARD)])
    assert torch.equal(torch.get_rng_state(), before)


def dense(device: devices.Device, theta: Tensor) -> Tensor:
    """The unitary of a mesh from its definition: one N × N matrix a column, multiplied."""
    n, U = device.modes, torch.eye(device.modes, dtype=torch.complex128)
    blocks = [_block(type(device), float(t), float(f)) for t, f in theta.view(-1, 2)]
    evens, odds = blocks[: n * n // 4], blocks[n * n // 4 :]
    for k in range(n // 2):
        for first, column in ((0, evens[k * n // 2 :][: n // 2]), (1, odds[k * (n // 2 - 1) :][: n // 2 - 1])):
            C = torch.eye(n, dtype=torch.complex128)
            for at, block in zip(range(first, n - 1, 2), column, strict=True):
                C[at : at + 2, at : at + 2] = torch.tensor(block, dtype=torch.complex128)
            U = C @ U
    return U


def _block(kind: type, t: float, f: float) -> list[list[complex]]:
    if kind is devices.MZIMesh:
        turn = complex(math.cos(t), math.sin(t))
        return [[turn * math.sin(f), turn * math.cos(f)], [math.cos(f), -math.sin(f)]]
    p, q = (t - f) / 2, (t + f) / 2
    turn = complex(math.cos(q), math.sin(q)) / math.sqrt(2)
    (sp, sq), (cp, cq) = (math.sin(p), math.sin(q)), (math.cos(p), math.cos(q))
    return [[turn * (sp + 1j * sq), turn * (-cp + 1j * cq)], [turn * (cp + 1j * cq), turn * (sp - 1j * sq)]]


@pytest.mark.parametrize("make", MESHES)
@pytest.mark.parametrize(("d_in", "d_out"), [(8, 8), (5, 3), (1, 2), (1, 1), (3, 12)])
@pytest.mark.parametrize("chunk_bytes", [mzi.CHUNK_BYTES, 1])
def test_mesh_columns_are_the_product_of_their_matrices(make, d_in, d_out, chunk_bytes, monkeypatch):
    monkeypatch.setattr(mzi, "CHUNK_BYTES", chunk_bytes)
    device = make(d_in, d_out)
    x, theta = rows(4, d_in).double(), 3 * torch.randn(device.theta.size, generator=generator()).double()
    U = dense(device, theta)
    assert close(device.transfer(x, theta), x @ U.real[:d_out, :d_in].mT, rtol=1e-12)


@pytest.mark.parametrize("make", MESHES)
def test_a_mesh_keeps_the_power(make):
    device = make(32, 32)
    x = rows(5, 32).double()
    field = device._field(x, settings(device, 3).double())
    assert torch.allclose(field.abs().square().sum(-1), x.square().sum(-1).expand(3, 5))


def test_diffraction_keeps_the_power_up_to_the_mask_and_the_detector():
    clear = devices.Diffraction(16, 16)
    x = rows(5, 16).double()
    y = clear.transfer(x, torch.ones(16).double())
    assert torch.allclose(y.square().sum(-1), x.square().sum(-1))


def test_the_diffuser_is_drawn_by_its_seed():
    theta, x = torch.ones(16), rows(2, 16)
    y, same, other = (devices.Diffraction(16, 16, seed=seed).transfer(x, theta) for seed in (0, 0, 1))
    assert torch.equal(y, same)
    assert not close(other, y, rtol=1e-3)


def test_single_precision_loses_the_diffraction_of_a_small_grid():
    """Why the published precision is not ours: at float32 a phase mask on 4 × 4 pixels does nothing at all."""
    x, thetas = rows(2, 16), torch.rand(2, 16, generator=generator())
    published = devices.Diffraction(16, 16, encoding=Encoding.PHASE, precision=torch.float32)
    ours = devices.Diffraction(16, 16, encoding=Encoding.PHASE)
    assert close(published.transfer(x, thetas[0]), x.abs())
    assert not close(ours.transfer(x, thetas[0]), ours.transfer(x, thetas[1]), rtol=1e-3)


def test_only_amplitudes_are_limited():
    device = devices.Diffraction(4, 4, encoding=Encoding.PHASE_AMPLITUDE, double=True)
    theta = torch.cat((torch.full((8,), 7.0), torch.full((8,), 0.5)))  # both beams' phases, then their amplitudes
    device.theta.check(theta)
    with pytest.raises(LimitError, match=r"theta\[8\]"):
        device.theta.check(theta + 1)


@pytest.mark.parametrize(
    "wrong",
    [{"encoding": "phase"}, {"distance": -1.0}, {"wavelength": 0.0}, {"aperture": 1e-6}, {"diffuser": torch.ones(3)}],
)
def test_what_diffraction_refuses(wrong):
    with pytest.raises(ArgumentError, match=f"Diffraction\\({next(iter(wrong))}="):
        devices.Diffraction(16, 16, **wrong)
