"""Twins: what a calibration recovers of a device's hidden errors, and what the online fit follows."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import Tensor, nn

import blackprop as bp
from blackprop import twins
from blackprop.core import Purpose, metered, run
from blackprop.devices import Drifting, ImperfectMicroring, ImperfectMZIMesh, ImperfectThreeSplitterMesh, Noisy
from blackprop.errors import ArgumentError, BudgetExhausted, CalibrationWarning, IncompatibleError
from blackprop.estimators import FromSurrogate
from blackprop.surrogates import Twin
from support import draw

MESHES = [
    (bp.devices.MZIMesh, ImperfectMZIMesh),
    (bp.devices.ThreeSplitterMesh, ImperfectThreeSplitterMesh),
]
meshes = pytest.mark.parametrize("true", [imperfect for _, imperfect in MESHES])


class BentModulator(bp.devices.LightModulator):
    """A modulator whose phase curve is not straight."""

    def transfer(self, x: Tensor, theta: Tensor, /) -> Tensor:
        return super().transfer(x, theta + 0.4 * theta.sin() + 0.1 * (2 * theta).sin() + 0.3)


def started(device: bp.Device, model: nn.Module, generator, **options) -> tuple[Twin, Tensor, bp.Ledger]:
    twin, ledger = Twin(model, **{"fit_steps": 800, **options}), bp.Ledger()  # enough for so few modes
    twin.bind(device.declaration)
    theta = device.theta.draw(generator)
    with torch.no_grad():
        run(twin.start(theta, generator), metered(device, ledger))
    return twin, theta, ledger


def cosines(twin: Twin, device: bp.Device, theta: Tensor) -> tuple[float, float]:
    """Of the twin's two gradients at theta to those through the device."""
    twin.theta.copy_(theta)
    x, g = draw(32, *device.in_shape, seed=3).requires_grad_(), draw(32, *device.out_shape, seed=4)
    leaf = theta.clone().requires_grad_()
    truth = torch.autograd.grad(device.oracle()(x, leaf), (x, leaf), g)
    found = twin.grad_x(x, g), twin.grad_theta(x, g)
    return tuple(float(torch.cosine_similarity(a.flatten(), b.flatten(), 0)) for a, b in zip(found, truth, strict=True))


def off(found: Tensor, truth: Tensor) -> float:
    return float((found - truth).norm() / truth.norm())


@pytest.mark.parametrize(("ideal", "imperfect"), MESHES)
def test_a_mesh_without_errors_is_the_published_one(ideal, imperfect):
    device, true = ideal(7, 5), imperfect(7, 5, phase=0, splitter=0)
    theta, x = 3 * draw(device.theta.size).double(), draw(4, 7).double()
    torch.testing.assert_close(true.transfer(x, theta), device.transfer(x, theta), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(twins.MeshTwin(device)(x.float(), theta.float()), device.transfer(x, theta).float())


def splitter(angle: float) -> Tensor:
    c, s = math.cos(angle), 1j * math.sin(angle)
    return torch.tensor([[c, s], [s, c]], dtype=torch.complex128)


def turned(*angles: float) -> Tensor:
    return torch.diag(torch.exp(1j * torch.tensor(angles, dtype=torch.complex128)))


@meshes
def test_the_imperfect_block_is_the_product_of_its_parts(true):
    device = true(2, 2, phase=0.3, splitter=0.2)
    theta, phi = (device.offset + torch.tensor([0.7, -1.1])).tolist()
    B = [splitter(math.pi / 4 + e) for e in device.errors[0].tolist()]
    if true is ImperfectMZIMesh:
        block = -1j * turned(theta, 0) @ B[1] @ turned(phi, -phi) @ B[0]
    else:
        block = B[2] @ turned(theta + math.pi / 2, 0) @ B[1] @ turned(phi - math.pi / 2, 0) @ B[0]
    x = draw(5, 2).double()
    torch.testing.assert_close(
        device._field(x, torch.tensor([0.7, -1.1], dtype=torch.float64)), x.to(block.dtype) @ block.mT
    )


@meshes
def test_an_imperfect_mesh_keeps_the_power(true):
    device = true(16, 16)
    x, theta = draw(5, 16).double(), torch.stack([device.theta.draw(torch.Generator()) for _ in range(3)]).double()
    assert torch.allclose(device._field(x, theta).abs().square().sum(-1), x.square().sum(-1).expand(3, 5))


@pytest.mark.parametrize("true", [ImperfectMZIMesh, ImperfectThreeSplitterMesh, ImperfectMicroring])
def test_imperfect_devices_keep_the_contract(true):
    bp.testing.check_device(true(6, 5))
    same, other = true(6, 5, seed=0), true(6, 5, seed=1)
    x, theta = draw(3, 6), same.theta.draw(torch.Generator())
    assert torch.equal(true(6, 5).transfer(x, theta), same.transfer(x, theta))
    assert off(other.transfer(x, theta), same.transfer(x, theta)) > 0.01
    with pytest.raises(ArgumentError, match="must be finite and not negative"):
        true(6, 5, phase=-1.0)


@meshes
@pytest.mark.parametrize("modes", [8, 16])
def test_a_calibrated_mesh_gives_both_gradients_and_its_errors(true, modes, generator):
    device = true(modes, modes, seed=1)
    ideal, theta, ledger = started(device, twins.MeshTwin(device), generator, fit_steps=0)
    assert (ledger.total_rows, min(cosines(ideal, device, theta)) < 0.97) == (0, True)
    twin, theta, ledger = started(device, twins.MeshTwin(device), generator)
    far = theta + draw(*theta.shape, seed=6)
    assert min(cosines(twin, device, theta) + cosines(twin, device, far)) > 0.999
    assert ledger.rows == {Purpose.CALIBRATE: 128 * 20}
    assert ledger.programmings == {Purpose.CALIBRATE: 128}
    assert twin.residual < 0.01
    assert off(twin.model.offset, device.offset) < 0.1
    assert off(twin.model.errors, device.errors) < 0.1


def test_readings_of_noise_teach_nothing(generator, monkeypatch):
    device = ImperfectMZIMesh(8, 8, seed=1)
    monkeypatch.setattr(device, "measure", lambda queries: [draw(len(q.x), 8, seed=i) for i, q in enumerate(queries)])
    twin, theta, _ = started(device, twins.MeshTwin(device), generator, fit_steps=100)
    assert twin.residual > 0.5
    assert max(cosines(twin, device, theta)) < 0.9


def test_a_fit_of_noise_gives_no_gradient(generator, monkeypatch):
    device = ImperfectMZIMesh(8, 8, seed=1)
    monkeypatch.setattr(Twin, "_fit", lambda self, *_: self._fitted.weights() + 0.2 * draw(112, seed=7))
    twin, theta, _ = started(device, twins.MeshTwin(device), generator)
    assert min(cosines(twin, device, theta)) < 0.97


def online(twin: Twin, device: bp.Device, theta: Tensor, generator: torch.Generator, batches: int) -> Tensor:
    """As training does: move θ, track, show a batch; returns the last θ."""
    measure = metered(device, bp.Ledger())
    for step in range(batches):
        old, theta = theta, theta + 0.01 * draw(*theta.shape, seed=step)
        with torch.no_grad():
            run(twin.track(old, theta, generator), measure)
            (y,) = run(
                bp.core.ask(bp.Query(x := draw(16, *device.in_shape, seed=step), theta, Purpose.FORWARD)), measure
            )
            twin.observe(x, y)
    return theta


def test_fitted_only_online_it_stays_poor(generator):
    device = ImperfectThreeSplitterMesh(16, 16, seed=1)
    twin, theta, ledger = started(device, twins.MeshTwin(device), generator, fit_steps=0, online_steps=1)
    theta = online(twin, device, theta, generator, 100)
    assert ledger.total_rows == 0
    assert min(cosines(twin, device, theta)) < 0.97


@pytest.mark.parametrize("follows", [True, False])
def test_the_online_fit_follows_a_slow_drift(follows, generator):
    device = Drifting(ImperfectMZIMesh(8, 8, seed=1), per_programming=0.003)
    options = {"fit_steps": 200, "online_steps": 1 if follows else 0, "watch": None}
    twin, theta, _ = started(device, twins.MeshTwin(device), generator, **options)
    theta = online(twin, device, theta, generator, 400)
    assert (min(cosines(twin, device, theta)) > 0.99) is follows


def test_it_is_calibrated_again_when_the_device_has_moved(generator):
    device = ImperfectMZIMesh(8, 8, seed=1)
    twin, theta, _ = started(device, twins.MeshTwin(device), generator, fit_steps=300, online_steps=0)
    theta = online(twin, device, theta, generator, 25)
    assert not twin.moved
    device.offset += 0.3 * draw(*device.offset.shape)
    theta = online(twin, device, theta, generator, 10)
    assert min(cosines(twin, device, theta)) > 0.99


def residuals(twin: Twin, device: bp.Device, theta: Tensor, path: list[Tensor]) -> list[float]:
    """Relative, of batches at θ moved by each of the path in turn, before each is fitted."""
    found = []
    for seed, step in enumerate(path):
        theta = theta + step
        twin.theta.copy_(theta)
        x = draw(16, *device.in_shape, seed=seed)
        y = device.transfer(x, theta)
        found.append(off(twin.model(x, theta), y))
        twin.observe(x, y)
    return found


@torch.no_grad()
def test_the_online_fit_leaves_a_twin_that_is_right(generator):
    device = ImperfectMZIMesh(8, 8, seed=1)
    twin, theta, _ = started(device, twins.MeshTwin(device), generator)
    assert max(residuals(twin, device, theta, [torch.zeros_like(theta)] * 20)) < 5e-4


@torch.no_grad()
def test_settings_that_the_calibration_knows_less_are_no_drift(generator):
    """Close to where it was calibrated the twin is better than elsewhere; that the device has moved it must not say."""
    device = ImperfectMZIMesh(16, 4, seed=1)
    model = twins.MeshTwin(device)
    twin, theta, _ = started(device, model, generator, settings=64, rows=10, fit_steps=300, online_steps=0)
    far = 0.02 * draw(*theta.shape, seed=8)
    found = residuals(twin, device, theta, [torch.zeros_like(theta)] * 10 + [far] * 90)
    assert max(found) > 0.01
    assert max(found) > 4 * found[0]
    assert not twin.moved
    device.offset += 0.3 * draw(*device.offset.shape)
    residuals(twin, device, theta + 90 * far, [torch.zeros_like(theta)] * 10)
    assert twin.moved


def test_noise_does_not_spoil_it(generator):
    device = Noisy(ImperfectMZIMesh(8, 8, seed=1), read=0.02)
    twin, theta, _ = started(device, twins.MeshTwin(device), generator)
    theta = online(twin, device, theta, generator, 100)
    assert min(cosines(twin, device, theta)) > 0.995


def test_microrings(generator):
    device = ImperfectMicroring(12, 8, spread=0.05, phase=0.1, seed=1)
    twin, theta, _ = started(device, twins.MicroringTwin(device), generator, lr=0.05)
    assert min(cosines(twin, device, theta)) > 0.99
    # The response is symmetric in a and r: neither is told from the other, their pair is.
    found = torch.stack((twin.model.a, twin.model.r)).sort(0).values
    truth = torch.stack((device.amplitudes, device.couplings)).sort(0).values
    assert float((found - truth).abs().median()) < 1e-3
    assert float((twin.model.offset - device.offset).abs().median()) < 1e-3


def test_a_light_modulator_with_a_bent_curve(generator):
    device = BentModulator(12, 8)
    ideal, theta, _ = started(device, twins.LightModulatorTwin(device), generator, fit_steps=0)
    assert min(cosines(ideal, device, theta)) < 0.98
    twin, theta, _ = started(device, twins.LightModulatorTwin(device), generator, lr=0.05)
    assert min(cosines(twin, device, theta)) > 0.999
    turn = torch.linspace(0, 2 * math.pi, 50)[:, None].expand(50, 96)
    curve = turn + 0.4 * turn.sin() + 0.1 * (2 * turn).sin() + 0.3
    assert float((twin.model.phase(turn) - curve).abs().max()) < 0.03


def test_diffraction_with_a_diffuser_that_is_off(generator):
    diffuser = 2 * math.pi * torch.rand(16, generator=generator)
    device = bp.devices.Diffraction(16, 9, distance=20.0, diffuser=diffuser + 0.4 * draw(16))
    design = bp.devices.Diffraction(16, 9, distance=20.0, diffuser=diffuser)
    ideal, theta, _ = started(device, twins.DiffractionTwin(design), generator, fit_steps=0)
    assert min(cosines(ideal, device, theta)) < 0.98
    twin, theta, _ = started(device, twins.DiffractionTwin(design), generator)
    assert min(cosines(twin, device, theta)) > 0.99


def test_a_perceptron_learns_what_it_is_shown(generator):
    device = bp.devices.LightModulator(4, 3)
    model = twins.MLPTwin(4, 3, device.theta.size, hidden=(64, 64))
    twin, theta, _ = started(device, model, generator, settings=400, fit_steps=3000)
    assert twin.residual < 0.5
    assert min(cosines(twin, device, theta + draw(*theta.shape))) > 0.7  # away from quadrature, where it answers little
    again = twins.MLPTwin(4, 3, device.theta.size, hidden=(64, 64))
    assert not torch.equal(again.weights[0], model.weights[0])  # fitted in place
    assert torch.equal(again.weights[0], twins.MLPTwin(4, 3, 12, hidden=(64, 64)).weights[0])


class OneAtATime(nn.Module):
    """A model that knows of rows and one setting, with a weight that is not to be fitted."""

    def __init__(self) -> None:
        super().__init__()
        self.offset = nn.Parameter(torch.zeros(12))
        self.scale = nn.Parameter(torch.tensor(0.5), requires_grad=False)

    def forward(self, x: Tensor, theta: Tensor) -> Tensor:
        return self.scale * x @ (theta + self.offset).cos().view(3, 4).mT


def test_any_module_serves_and_its_parameters_are_taken_over(generator):
    device = Drifting(bp.devices.LightModulator(4, 3), initial=0.3)
    twin, theta, _ = started(device, OneAtATime(), generator)
    assert min(cosines(twin, device, theta)) > 0.999
    assert off(twin.model.offset, device.offset) < 0.02
    assert not list(twin.parameters())
    assert torch.equal(twin.model.scale, torch.tensor(0.5))


@pytest.mark.parametrize(
    ("model", "match"),
    [
        (lambda: twins.MeshTwin(bp.devices.MZIMesh(8, 8)), "out_shape"),
        (lambda: twins.MeshTwin(bp.devices.MZIMesh(6, 5)), "in_shape"),
        (lambda: twins.MicroringTwin(bp.devices.Microring(8, 6)), "size of theta"),
        (lambda: twins.MLPTwin(8, 6, 55), "raise"),
        (lambda: twins.MLPTwin(8, 5, 56), r"give \(2, 5\), expected \(2, 6\)"),
        (lambda: nn.Linear(8, 6), "raise"),
    ],
)
def test_a_model_that_does_not_fit_is_refused(model, match):
    with pytest.raises(IncompatibleError, match=match):
        bp.PhysicalLayer(bp.devices.MZIMesh(8, 6), bp.estimators.Oracle(), Twin(model()))


def test_a_model_with_other_limits_is_refused():
    class Wider(twins.PhysicalTwin):
        def forward(self, x, theta):
            return self.design.transfer(x, theta)

    device = bp.devices.from_callable(
        lambda x, theta: x @ theta.view(3, 4).mT, in_shape=4, out_shape=3, theta_size=12, low=0.0, high=1.0
    )
    with pytest.raises(IncompatibleError, match="limits"):
        Twin(Wider(bp.devices.Matrix(4, 3))).bind(device.declaration)


@pytest.mark.parametrize(
    "wrong", [{"settings": 0}, {"rows": 0}, {"fit_steps": -1}, {"online_steps": -1}, {"lr": 0.0}, {"watch": 1.0}]
)
def test_wrong_arguments_are_refused(wrong):
    with pytest.raises(ArgumentError, match=f"Twin\\({next(iter(wrong))}="):
        Twin(twins.MeshTwin(bp.devices.MZIMesh(4, 4)), **wrong)
    with pytest.raises(ArgumentError, match="Twin\\(model="):
        Twin(bp.devices.MZIMesh(4, 4))
    with pytest.raises(ArgumentError, match="MeshTwin"):
        twins.MeshTwin(bp.devices.Microring(4, 4))


def test_a_calibration_cut_short_changes_nothing(generator):
    device = ImperfectMZIMesh(6, 6)
    twin = Twin(twins.MeshTwin(device), fit_steps=20)
    twin.bind(device.declaration)
    before = copy.deepcopy(twin.state_dict())
    with pytest.raises(BudgetExhausted), torch.no_grad():
        run(
            twin.start(device.theta.draw(generator), generator),
            metered(device, bp.Ledger(), bp.Budget(rows=100)),
        )
    for name, value in twin.state_dict().items():
        torch.testing.assert_close(value, before[name], rtol=0, atol=0, equal_nan=True)


def network(seed: int = 0) -> nn.Sequential:
    def layer(index: int) -> bp.PhysicalLayer:
        device = ImperfectMZIMesh(6, 6, seed=index)
        twin = Twin(twins.MeshTwin(device), settings=16, fit_steps=20, online_steps=2)
        return bp.PhysicalLayer(
            device, FromSurrogate(twin), twin, generator=torch.Generator().manual_seed(seed + index)
        )

    return nn.Sequential(layer(0), nn.Tanh(), layer(1))


def trained(model: nn.Module, optimizer: torch.optim.Optimizer, steps: range) -> nn.Module:
    for step in steps:
        optimizer.zero_grad()
        model(draw(8, 6, seed=step)).square().mean().backward()
        optimizer.step()
    return model


def same(a: nn.Module, b: nn.Module) -> bool:
    return all(torch.equal(v, b.state_dict()[k]) for k, v in a.state_dict().items() if isinstance(v, Tensor))


def test_a_run_continues_from_its_state_bit_for_bit():
    whole = network()
    optimizer = torch.optim.SGD(whole.parameters(), lr=0.1)
    assert len(list(whole.parameters())) == 4  # θ and gain of each layer, nothing of the twins
    trained(whole, optimizer, range(3))
    saved = copy.deepcopy(whole.state_dict())
    trained(whole, optimizer, range(3, 6))
    resumed = network(seed=50)
    resumed.load_state_dict(saved)
    trained(resumed, torch.optim.SGD(resumed.parameters(), lr=0.1), range(3, 6))
    assert same(whole, resumed)
    again = network()
    trained(again, torch.optim.SGD(again.parameters(), lr=0.1), range(6))
    assert same(whole, again)


def test_a_twin_moves_to_double():
    model = network().double()
    model(draw(8, 6).double()).square().mean().backward()
    assert model[0].theta.grad.dtype == torch.float64
    assert bool(model[0].theta.grad.any())


@pytest.mark.parametrize(
    ("model", "options"),
    [
        (twins.MeshTwin, {"fit_steps": 300, "settings": 64, "rows": 10}),
        (twins.MeshTwin, {"fit_steps": 0, "online_steps": 0}),
    ],
    ids=["fitted", "physics-aware"],
)
def test_the_contract(model, options):
    imperfect = ImperfectMZIMesh(8, 6, seed=1) if options["fit_steps"] else bp.devices.MZIMesh(8, 6)
    bp.testing.check_surrogate(lambda: Twin(model(imperfect), **options), device=imperfect, tolerance=1e-2)


def test_a_twin_that_fits_its_readings_alone_is_said_to(generator):
    """More weights than readings: the fit is near where it was made, and wrong elsewhere."""
    device = bp.devices.LightModulator(6, 4)
    model = twins.MLPTwin(6, 4, 24, hidden=(128,))
    twin, theta, _ = started(device, model, generator, settings=16, rows=4, fit_steps=400)
    x = draw(8, 6)
    with pytest.warns(CalibrationWarning, match="at settings that it was not fitted to"):
        twin.observe(x, device.transfer(x, theta))
    twin.observe(x, device.transfer(x, theta))  # once
    assert twin.diagnosis()["check_residual"] > 3 * float(twin.residual)


def test_a_right_twin_passes_and_tells_a_displaced_device_at_the_first_batch(generator):
    device = ImperfectMZIMesh(6, 4)
    twin, theta, _ = started(device, twins.MeshTwin(device), generator)
    assert twin.diagnosis()["check_residual"] < 0.05
    other = Twin(twins.MeshTwin(device))
    other.bind(device.declaration)
    other.load_state_dict(twin.state_dict())
    x = draw(8, 6)
    twin.observe(x, device.transfer(x, theta))
    other.observe(x, device.transfer(x, theta + 1.0 * draw(theta.numel(), seed=1)))
    assert not twin.moved
    assert other.moved
