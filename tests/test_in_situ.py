"""In-situ backpropagation: exact from taps, its cost, its errors by loss and noise, and every way to the device."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

import blackprop as bp
from blackprop.core import Ledger, Query, ReadBackField, Taps, metered, run
from blackprop.devices import (
    ImperfectMZIMesh,
    ImperfectThreeSplitterMesh,
    MZIMesh,
    TappedMesh,
    ThreeSplitterMesh,
)
from blackprop.errors import ArgumentError, ContractError, IncompatibleError, ReadingError
from blackprop.estimators import InSitu
from blackprop.experiments import Digits
from blackprop.surrogates import Reciprocal
from blackprop.testing import check_device, check_estimator
from support import draw

ERRING = [ImperfectMZIMesh, ImperfectThreeSplitterMesh]
ANYWHERE = {"phase": 10.0, "splitter": 0.05}  # offsets uniform on the circle


def meshes(d_in: int, d_out: int) -> list[bp.devices.Simulator]:
    return [
        MZIMesh(d_in, d_out),
        ThreeSplitterMesh(d_in, d_out),
        *(mesh(d_in, d_out, **ANYWHERE) for mesh in ERRING),
    ]


def setting(device: bp.Device, seed: int = 0) -> Tensor:
    return 2 * math.pi * torch.rand(device.theta.size, generator=torch.Generator().manual_seed(seed))


def truth(device: bp.Device, x: Tensor, theta: Tensor, g: Tensor) -> Tensor:
    transfer = device.oracle()
    assert transfer is not None
    leaf = theta.clone().requires_grad_()
    return torch.autograd.grad(transfer(x, leaf), leaf, g)[0]


def in_situ(
    device: bp.Device, x: Tensor, theta: Tensor, g: Tensor, pairs: int | None = None, ledger: Ledger | None = None
) -> Tensor:
    procedure = InSitu(pairs).grad_theta(x, theta, x, g, device.declaration, torch.Generator())
    return run(procedure, metered(device, ledger if ledger is not None else Ledger()))


def off(found: Tensor, exact: Tensor) -> float:
    return float((found - exact).norm() / exact.norm())


def cosine(found: Tensor, exact: Tensor) -> float:
    return float(found @ exact / (found.norm() * exact.norm()))


@pytest.mark.parametrize(
    "device", [d for sizes in ((8, 8), (16, 10), (2, 2), (5, 7), (64, 64)) for d in meshes(*sizes)], ids=str
)
def test_the_gradient_is_the_oracles_at_three_rows_a_pair_and_no_programming(device):
    x, g, theta = draw(12, *device.in_shape), draw(12, *device.out_shape, seed=1), setting(device)
    ledger, pairs = Ledger(), min(12, *device.in_shape, *device.out_shape)
    assert off(in_situ(device, x, theta, g, ledger=ledger), truth(device, x, theta, g)) < 1e-5
    assert ledger.actions == {"read_back_field": pairs, "taps": 2 * pairs}
    assert ledger.rows == {bp.Purpose.PARAMETER: 3 * pairs}
    assert ledger.total_programmings == 1  # the forward pass has written it, in a layer
    x, g, theta = x.double(), g.double(), theta.double()
    assert off(in_situ(device, x, theta, g), truth(device, x, theta, g)) < 1e-12


@pytest.mark.parametrize("device", meshes(6, 5), ids=str)
@pytest.mark.parametrize("pairs", [2, 8, None])
def test_the_contract_holds_and_the_bias_of_few_pairs_is_reported(device, pairs):
    claims = dict(check_estimator(InSitu(pairs), device=device).claims)
    bias = float(claims[f"bias by the batch left out, {device}"].split()[0])
    assert (bias > 0.05) == (pairs == 2)
    assert claims[f"price, {device}"] == f"{3 * min(pairs or 5, 5)} rows, 0 programmings"


class Shortened(InSitu):
    """Keeps fewer pairs than it says."""

    def kept(self, x: Tensor, grad_y: Tensor) -> tuple[Tensor, Tensor]:
        return InSitu(None).kept(x, grad_y)


def test_an_estimator_that_leaves_out_more_than_it_says_is_found_out():
    with pytest.raises(ContractError, match="mean"):
        check_estimator(Shortened(2), device=MZIMesh(6, 5))


def trained(device: bp.Device, method: tuple, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Ledger]:
    """Gradients for θ and a layer before the device."""
    torch.manual_seed(0)
    layer = bp.PhysicalLayer(device, *method, generator=torch.Generator().manual_seed(0))
    before = nn.Linear(64, 64)
    model = nn.Sequential(before, layer, nn.BatchNorm1d(64), nn.ReLU(), nn.Linear(64, 10))
    nn.functional.cross_entropy(model(x), y).backward()
    assert layer.theta.grad is not None
    assert before.weight.grad is not None
    return layer.theta.grad, before.weight.grad, layer.ledger


@pytest.mark.parametrize("mesh", ERRING)
def test_eight_pairs_give_the_gradient_of_a_batch_of_digits(mesh):
    data = Digits().data()
    device, x, y = mesh(64, 64, **ANYWHERE), data.x_train[:64], data.y_train[:64]
    theta, weights, _ = trained(device, bp.presets.oracle(), x, y)
    device.forget()
    found, through, ledger = trained(device, (InSitu(), Reciprocal()), x, y)
    assert cosine(found, theta) > 0.95
    assert off(through, weights) < 1e-4
    assert ledger.rows[bp.Purpose.PARAMETER] == 24
    assert ledger.total_programmings == 1
    cosines = [cosine(trained(device, (InSitu(k), Reciprocal()), x, y)[0], theta) for k in (1, 4, 16)]
    assert cosines == sorted(cosines)
    assert cosines[-1] > 0.995


@pytest.mark.parametrize("mesh", ERRING)
def test_the_nominal_loss_is_divided_out(mesh):
    x, g = draw(16, 64), draw(16, 64, seed=1)
    even = TappedMesh(mesh(64, 64, **ANYWHERE), loss=0.3)
    theta = setting(even)
    exact = truth(even, x, theta, g)
    assert off(in_situ(even, x, theta, g), exact) < 1e-4
    spread = TappedMesh(mesh(64, 64, **ANYWHERE), loss=0.3, spread=0.3)
    exact = truth(spread, x, theta, g)
    assert 0.99 < cosine(in_situ(spread, x, theta, g), exact) < 0.9999
    spread.capabilities = tuple(
        replace(each, transmission=()) if isinstance(each, Taps) else each for each in spread.capabilities
    )
    assert cosine(in_situ(spread, x, theta, g), exact) < 0.8


def predicted(device: bp.Device, noise: float, x: Tensor, theta: Tensor, g: Tensor) -> float:
    """The error by the docstring's law, from the powers of noise-free taps."""
    read: dict[type, Tensor] = {}

    def measure(queries) -> list[Tensor]:
        readings = device.measure(queries)
        read.update({q.capability: y for q, y in zip(queries, readings, strict=True)})
        return readings

    estimator = InSitu(None)
    exact = run(estimator.grad_theta(x, theta, x, g, device.declaration, torch.Generator()), measure)
    v, _, weights = estimator._pairs(x, g)
    s = v.norm(dim=1) / read[ReadBackField].flatten(1).norm(dim=1)
    squares = sum(p.square() for p in read[Taps].chunk(2))
    variance = ((noise * weights / s)[:, None].square() * squares).sum(0) / 16
    taps = device.declaration.capability(Taps)
    spread = variance.view(taps.units, -1) @ torch.tensor(taps.combination).square().mT
    return float(spread.sum().sqrt() / exact.norm())


@pytest.mark.parametrize("mesh", ERRING)
def test_tap_noise_adds_the_error_of_its_law_and_averages_out(mesh):
    x, g, chip = draw(16, 32), draw(16, 32, seed=1), mesh(32, 32, **ANYWHERE)
    theta = setting(chip)
    exact = truth(chip, x, theta, g)
    for noise, least in ((0.01, 0.9995), (0.05, 0.99)):
        device = TappedMesh(chip, noise=noise, seed=3)
        found = torch.stack([in_situ(device, x, theta, g) for _ in range(16)])
        error = float((found - exact).square().sum(1).mean().sqrt() / exact.norm())
        assert error == pytest.approx(predicted(chip, noise, x, theta, g), rel=0.05)
        assert off(found.mean(0), exact) == pytest.approx(error / 4, rel=0.2)
        assert min(cosine(each, exact) for each in found) > least


def test_unequal_tap_gains_scale_each_derivative():
    x, g, chip = draw(16, 32), draw(16, 32, seed=1), ThreeSplitterMesh(32, 32)
    theta = setting(chip)
    device = TappedMesh(chip, gain=0.05)
    exact = truth(chip, x, theta, g)
    gains = device.gains.view(-1, 2).flip(1).flatten()  # the taps of a block are those of φ and θ
    torch.testing.assert_close(in_situ(device, x, theta, g), gains * exact, rtol=1e-3, atol=1e-5 * float(exact.norm()))


def test_it_follows_a_device_that_drifts():
    device = bp.devices.Drifting(ImperfectMZIMesh(8, 8, **ANYWHERE), per_programming=0.3, seed=1)
    x, g = draw(5, 8), draw(5, 8, seed=1)
    for seed in range(3):
        theta = setting(device, seed)
        assert off(in_situ(device, x, theta, g), truth(device, x, theta, g)) < 1e-4


PARK = torch.zeros(56)
WRAPPED = {
    "noisy": bp.devices.Noisy,
    "coarse settings": lambda d: bp.devices.Quantised(d, theta_bits=20),
    "declared": bp.devices.Declared,
    "guarded": lambda d: bp.lab.Guarded(d, park=PARK),
    "checked": bp.lab.Checked,
    "retrying": bp.lab.Retrying,
    "faulty": bp.lab.Faulty,
    "farm": lambda d: bp.lab.Farm([d, MZIMesh(8, 8)]),
}


@pytest.mark.parametrize("name", WRAPPED)
def test_it_works_through_each_wrapper_that_hands_taps_on(name):
    inner = MZIMesh(8, 8)
    x, g, theta, ledger = draw(5, 8), draw(5, 8, seed=1), setting(inner), Ledger()
    assert off(in_situ(WRAPPED[name](inner), x, theta, g, ledger=ledger), truth(inner, x, theta, g)) < 1e-3
    assert ledger.actions == {"read_back_field": 5, "taps": 10}


def test_noise_of_the_detectors_costs_little():
    device = bp.devices.Noisy(MZIMesh(32, 32), read=0.02)
    x, g, theta = draw(16, 32), draw(16, 32, seed=1), setting(device)
    assert 0.98 < cosine(in_situ(device, x, theta, g), truth(device, x, theta, g)) < 0.99999


@pytest.mark.parametrize(
    "device",
    [
        bp.devices.Matrix(8, 8),
        bp.devices.Quantised(MZIMesh(8, 8), input_bits=8, input_range=(-4, 4)),
        bp.devices.Differential(MZIMesh(8, 8)),
        bp.devices.Chain(MZIMesh(8, 8), torch.tanh),
    ],
    ids=str,
)
def test_a_device_that_does_not_hand_taps_on_is_refused(device):
    with pytest.raises(IncompatibleError, match=r"does not declare the capability `taps`|not declared linear"):
        bp.PhysicalLayer(device, InSitu(), bp.surrogates.Frozen())


def redeclared(**changes: object) -> bp.Device:
    device = MZIMesh(8, 8)
    device.capabilities = tuple(
        replace(each, **changes) if isinstance(each, Taps) else each for each in device.capabilities
    )
    return device


def test_taps_that_do_not_serve_every_parameter_are_refused():
    with pytest.raises(IncompatibleError, match="declares them for 54 of its 56 parameters"):
        bp.PhysicalLayer(redeclared(units=27), InSitu(), Reciprocal())
    with pytest.raises(IncompatibleError, match="declares them for 58 of its 56 parameters"):
        bp.PhysicalLayer(redeclared(units=29), InSitu(), Reciprocal())
    with pytest.raises(IncompatibleError, match="reads the field at 8 and sends it at 10"):
        bp.PhysicalLayer(redeclared(modes=10), InSitu(), Reciprocal())
    device = MZIMesh(8, 8)
    device.linear = False
    with pytest.raises(IncompatibleError, match="needs a linear device"):
        InSitu().check(device.declaration)


@pytest.mark.parametrize("taps", [83, 85, 0])
def test_taps_that_answer_for_fewer_places_than_declared_or_for_more_are_refused(taps):
    device = MZIMesh(8, 8)  # with 28 × 3 taps
    device.tap_powers = lambda x: torch.ones(len(x), taps)
    layer = bp.PhysicalLayer(device, InSitu(), Reciprocal(), generator=torch.Generator().manual_seed(0))
    with pytest.raises(ReadingError, match="shape"):
        layer(draw(5, 8)).square().sum().backward()
    assert layer.theta.grad is None


@pytest.mark.parametrize("pairs", [0, -1, 1.5, True])
def test_a_number_of_pairs_is_a_whole_number(pairs):
    with pytest.raises(ArgumentError, match="pairs"):
        InSitu(pairs)


@pytest.mark.parametrize(
    "wrong",
    [
        {"modes": 0},
        {"combination": ((1.0,), (1.0, 0.0))},
        {"combination": ()},
        {"noise": -1.0},
        {"transmission": ((3, 1.0, 1.0),)},
        {"transmission": ((4, 1.0),)},
        {"transmission": ((4, 1.0, 0.0),)},
    ],
    ids=str,
)
def test_a_description_that_does_not_fit_together_is_refused(wrong):
    with pytest.raises(ArgumentError, match="Taps"):
        Taps(**{"modes": 4, "units": 4, "combination": ((1.0, 0.0), (0.0, 1.0)), **wrong})


def test_a_description_is_a_value_and_travels_as_json():
    taps = TappedMesh(MZIMesh(8, 8), loss=0.2, noise=0.01).declaration.capability(Taps)
    again = Taps(**json.loads(json.dumps(taps.fields())))
    assert again == taps
    assert hash(again) == hash(taps)
    assert taps != MZIMesh(8, 8).declaration.capability(Taps)
    assert taps.shares(torch.ones(1)).shape == (taps.units * 3,)


def test_a_cotangent_of_zero_costs_no_row():
    device, ledger = MZIMesh(8, 8), Ledger()
    assert not in_situ(device, draw(5, 8), setting(device), torch.zeros(5, 8), ledger=ledger).any()
    assert ledger == Ledger()


def test_over_the_network_it_is_the_same(tmp_path):
    from blackprop.lab.remote.shared._keys import make_keys
    from serving import served

    make_keys(keys := tmp_path / "keys")

    def make() -> TappedMesh:
        return TappedMesh(ImperfectMZIMesh(16, 12, **ANYWHERE), loss=0.3, spread=0.1, gain=0.05)

    x, g, theta = draw(9, 16), draw(9, 12, seed=1), setting(make())
    with (
        served(make, keys) as server,
        bp.lab.RemoteDevice(server.address, keys=keys, capabilities=[Taps, ReadBackField]) as device,
    ):
        assert device.declaration.capability(Taps) == make().declaration.capability(Taps)
        ledger, here = Ledger(), Ledger()
        found = in_situ(device, x, theta, g, pairs=8, ledger=ledger)
        assert torch.equal(found, in_situ(make(), x, theta, g, pairs=8, ledger=here))
        assert ledger == here


def test_a_recording_plays_it_again(tmp_path):
    x, g, theta = draw(5, 8), draw(5, 8, seed=1), setting(MZIMesh(8, 8))
    with bp.lab.Recorded(TappedMesh(MZIMesh(8, 8), noise=0.05), tmp_path / "run") as device:
        expected = in_situ(device, x, theta, g)
    replayed = bp.lab.Replayed(tmp_path / "run", capabilities=[Taps, ReadBackField])
    assert torch.equal(in_situ(replayed, x, theta, g), expected)


@pytest.mark.parametrize(
    "device",
    [*meshes(6, 5), TappedMesh(MZIMesh(6, 5), loss=0.3, spread=0.3, noise=0.05, gain=0.05)],
    ids=str,
)
def test_devices_keep_their_contract(device):
    claims = dict(check_device(device).claims)
    assert "taps give the gradient" in claims
    assert "capability taps" in claims


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"combination": ((0.0, 0.0, 1.0), (1.0, 1.0, 0.0))}, "of another sign"),
        ({"combination": ((1.0, -1.0, 0.0), (0.0, 0.0, 1.0))}, "in another place"),
        ({"units": 27}, "taps for every parameter"),
    ],
    ids=str,
)
def test_taps_that_are_described_wrongly_are_found_out(changes, words):
    device = redeclared(**changes)
    if "units" in changes:
        device.tap_powers = lambda x: MZIMesh.tap_powers(device, x)[:, : 3 * 27]
    with pytest.raises(ContractError, match=words):
        check_device(device)


def test_a_tapped_mesh_without_flaws_is_its_mesh_and_restores_its_noise():
    for mesh in meshes(6, 5):
        device = TappedMesh(mesh)
        x, theta = draw(3, 6), setting(mesh)
        torch.testing.assert_close(device.transfer(x, theta), mesh.transfer(x, theta))
    device = TappedMesh(MZIMesh(6, 5), noise=0.1)
    rows = draw(3, 2, 6)
    query = Query(rows, setting(device), bp.Purpose.PARAMETER, Taps)
    state = device.state_dict()
    (first,) = device.measure([query])
    assert not torch.equal(first, device.measure([query])[0])
    device.load_state_dict(state)
    assert torch.equal(first, device.measure([query])[0])


@pytest.mark.parametrize("wrong", [{"loss": -1.0}, {"noise": math.inf}, {"gain": math.nan}], ids=str)
def test_flaws_of_a_tapped_mesh_are_finite_and_not_negative(wrong):
    with pytest.raises(ArgumentError, match="must be finite and not negative"):
        TappedMesh(MZIMesh(4, 4), **wrong)
    with pytest.raises(ArgumentError, match="takes a mesh"):
        TappedMesh(bp.devices.Matrix(4, 4))
