"""Gradients from fields: scattering backpropagation and fully forward mode, their orders, errors and contracts."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn

import blackprop as bp
from blackprop.core import Fields, Ledger, metered, run
from blackprop.devices import CoupledModes, MirroredDiffraction
from blackprop.errors import ArgumentError, ContractError, IncompatibleError
from blackprop.estimators import Estimator, ForwardMode, Oracle, ScatteringBackprop, Still
from blackprop.experiments import Digits
from blackprop.surrogates import Reciprocal
from blackprop.testing import check_device, check_estimator
from support import draw

SEEDS = range(6)


def setting(device: bp.Device, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return device.theta.draw(torch.Generator().manual_seed(seed)).to(dtype)


def truth(device: bp.Device, x: Tensor, theta: Tensor, g: Tensor) -> tuple[Tensor, Tensor]:
    transfer = device.oracle()
    assert transfer is not None
    leaf, rows = theta.clone().requires_grad_(), x.clone().requires_grad_()
    by_theta, by_x = torch.autograd.grad(transfer(rows, leaf), (leaf, rows), g)
    return by_theta, by_x


def found_by(
    estimator: Estimator, device: bp.Device, x: Tensor, theta: Tensor, g: Tensor, ledger: Ledger | None = None
) -> Tensor:
    procedure = estimator.grad_theta(x, theta, x, g, device.declaration, torch.Generator())
    return run(procedure, metered(device, ledger if ledger is not None else Ledger()))


def compared(
    estimator: Estimator, device: bp.Device, rows: int = 5, seed: int = 0, dtype: torch.dtype = torch.float64
) -> tuple[float, float]:
    """Relative error and cosine."""
    x, g = (
        draw(rows, *device.in_shape, seed=seed, dtype=dtype),
        draw(rows, *device.out_shape, seed=seed + 1, dtype=dtype),
    )
    theta = setting(device, seed, dtype)
    exact, found = truth(device, x, theta, g)[0], found_by(estimator, device, x, theta, g)
    return float((found - exact).norm() / exact.norm()), float(torch.cosine_similarity(found, exact, 0))


# Scattering backpropagation.


@pytest.mark.parametrize(("kerr", "least"), [(0.0, 1 - 1e-9), (0.05, 0.982), (0.2, 0.88)])
@pytest.mark.parametrize("centred", [True, False])
def test_three_modes_reach_the_published_cosines(kerr, least, centred):
    device, estimator = CoupledModes(2, 1, kerr=kerr), ScatteringBackprop(0.01, centred)
    cosines = [compared(estimator, device, 1, seed)[1] for seed in SEEDS]
    assert min(cosines) >= least
    assert not kerr or min(cosines) < 0.9999  # the error is there


@pytest.mark.parametrize("kappa", [0.5, 1.0, 4.0])
def test_a_linear_device_has_the_exact_gradient_at_any_kappa_and_step(kappa):
    device = CoupledModes(4, 3, kappa=kappa)
    for step in (1e-3, 0.1, 10.0):
        assert compared(ScatteringBackprop(step), device)[0] < 1e-10
    assert compared(ScatteringBackprop(), device, dtype=torch.float32)[0] < 1e-3


def test_the_error_of_the_nonlinearity_is_proportional_to_it():
    for seed in SEEDS:
        kerrs = (1e-3, 4e-3)
        errors = [compared(ScatteringBackprop(1e-3), CoupledModes(3, 2, kerr=kerr), seed=seed)[0] for kerr in kerrs]
        assert math.log(errors[1] / errors[0], 4) == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize("sizes", [(2, 1), (3, 2), (8, 4)], ids=str)
@pytest.mark.parametrize(("kappa", "kerr"), [(1.0, 1e-3), (1.0, 0.02), (2.0, 0.05)])
def test_the_error_in_the_gradient_of_a_row_is_within_its_declaration(sizes, kappa, kerr):
    device = CoupledModes(*sizes, kerr=kerr, kappa=kappa)
    declared = device.declaration.capability(Fields).asymmetry
    errors = [compared(ScatteringBackprop(0.01), device, 1, seed)[0] for seed in range(20)]
    assert declared / 10 < max(errors) < declared


def test_it_costs_two_rows_for_each_row_with_a_cotangent_and_no_programming():
    device, ledger = CoupledModes(4, 3, kerr=0.05), Ledger()
    x, g, theta = draw(5, 4), draw(5, 3, seed=1), setting(device, dtype=torch.float32)
    g[2] = 0
    whole = found_by(ScatteringBackprop(), device, x, theta, g, ledger)
    assert (ledger.actions, ledger.rows) == ({"fields": 8}, {bp.Purpose.PARAMETER: 8})
    assert ledger.total_programmings == 1  # the forward pass has written it, in a layer
    kept = torch.tensor([0, 1, 3, 4])
    torch.testing.assert_close(whole, found_by(ScatteringBackprop(), device, x[kept], theta, g[kept]))
    nothing = Ledger()
    assert not found_by(ScatteringBackprop(), device, x, theta, 0 * g, nothing).any()
    assert not found_by(ForwardMode(), CoupledModes(4, 3), x, theta, 0 * g, nothing).any()
    assert nothing == Ledger()


def test_a_small_loss_has_the_same_gradient_scaled():
    device = CoupledModes(4, 3, kerr=0.05)
    x, g, theta = draw(5, 4), draw(5, 3, seed=1), setting(device, dtype=torch.float32)
    found = found_by(ScatteringBackprop(), device, x, theta, g)
    torch.testing.assert_close(found_by(ScatteringBackprop(), device, x, theta, 1e-6 * g), 1e-6 * found)


def test_the_error_of_read_noise_falls_with_the_step_and_averages_out():
    device, estimates = bp.devices.Noisy(CoupledModes(4, 3), read=0.01), {}
    x, g, theta = draw(8, 4), draw(8, 3, seed=1), setting(device, dtype=torch.float32)
    exact = truth(device, x, theta, g)[0]
    for step in (0.5, 2.0):
        estimates[step] = torch.stack([found_by(ScatteringBackprop(step), device, x, theta, g) for _ in range(64)])
    errors = {step: float((found - exact).square().sum(1).mean().sqrt()) for step, found in estimates.items()}
    assert errors[0.5] / errors[2.0] == pytest.approx(4, rel=0.2)
    assert float((estimates[0.5].mean(0) - exact).norm()) == pytest.approx(errors[0.5] / 8, rel=0.4)


@pytest.mark.parametrize(("kerr", "most"), [(0.0, 1e-9), (0.01, 0.05)])
@pytest.mark.parametrize("modes", [7, 4])
def test_the_same_readings_give_the_gradient_of_the_input(kerr, most, modes):
    device = CoupledModes(4, 3, modes=modes, kerr=kerr, kappa=1.6)
    x, g = draw(5, 4, dtype=torch.float64), draw(5, 3, seed=1, dtype=torch.float64)
    g[1] = 0
    theta, ledger = setting(device), Ledger()
    procedure = ScatteringBackprop().gradients(x, theta, g, device.declaration)
    by_theta, by_x = run(procedure, metered(device, ledger))
    exact = truth(device, x, theta, g)
    for found, right in zip((by_theta, by_x), exact, strict=True):
        assert float((found - right).norm() / right.norm()) < most
    assert ledger.actions == {"fields": 8}
    zeros = run(ScatteringBackprop().gradients(x, theta, 0 * g, device.declaration), metered(device, ledger))
    assert not any(each.any() for each in zeros)
    with pytest.raises(IncompatibleError, match="rate of its ports"):
        run(ScatteringBackprop().gradients(x[:, :4], theta, g, MirroredDiffraction(4, 3).declaration), None)


@pytest.mark.parametrize("kerr", [0.0, 0.01, 0.05])
@pytest.mark.parametrize("centred", [True, False])
def test_the_contract_holds_its_order_in_the_step_and_its_lasting_error(kerr, centred):
    claims = dict(
        check_estimator(ScatteringBackprop(centred=centred), device=(d := CoupledModes(3, 2, kerr=kerr))).claims
    )
    order = claims[f"bias order, {d}"]
    if kerr:
        assert float(order) == pytest.approx(2 if centred else 1, rel=0.02)
        assert "declared to last" in claims[f"mean, {d}"]
    else:
        assert "no bias" in order
        assert "to last" not in claims[f"mean, {d}"]
    assert claims[f"price, {d}"] == "10 rows, 0 programmings"


def test_an_average_of_estimates_keeps_the_contract_with_the_error_of_each():
    device = CoupledModes(3, 2, kerr=0.01)
    claims = dict(check_estimator(bp.estimators.Averaged(ScatteringBackprop()), device=device).claims)
    assert float(claims[f"exact once learnt, {device}"].split()[-1]) > 2e-3


def redeclared(device: bp.Device, **changes: object) -> bp.Device:
    """The same device with another description of its fields."""
    device.capabilities = tuple(replace(c, **changes) if isinstance(c, Fields) else c for c in device.capabilities)
    return device


def test_an_error_that_is_declared_too_small_is_found_out():
    with pytest.raises(ContractError, match="mean"):
        check_estimator(ScatteringBackprop(), device=redeclared(CoupledModes(3, 2, kerr=0.05), asymmetry=0.02))
    with pytest.raises(ContractError, match="the symmetry is broken"):
        check_device(redeclared(CoupledModes(3, 2, kerr=0.2), asymmetry=0.0))


class FirstOrder(ScatteringBackprop):
    """Declares the order of the centred form, and is not centred."""

    @property
    def bias_order(self) -> int:
        return 2


def test_an_order_that_is_declared_too_high_is_found_out():
    with pytest.raises(ContractError, match="bias order"):
        check_estimator(FirstOrder(centred=False), device=CoupledModes(3, 2, kerr=0.05))


# Fully forward mode.


@pytest.mark.parametrize("planes", [1, 2, 3, 6])
@pytest.mark.parametrize(("d_in", "d_out"), [(9, 9), (64, 10), (10, 30), (1, 1)])
def test_forward_mode_is_exact_on_a_mirrored_device(planes, d_in, d_out):
    device = MirroredDiffraction(d_in, d_out, planes=planes)
    assert compared(ForwardMode(), device, dtype=torch.float32)[0] < 1e-5
    assert compared(ForwardMode(), device)[0] < 1e-12
    assert compared(ScatteringBackprop(), device)[0] < 1e-10  # of the same fields, at the same price


def test_an_unknown_phase_of_the_masks_turns_the_products_of_the_fields():
    x, g = draw(5, 9, dtype=torch.float64), draw(5, 6, seed=1, dtype=torch.float64)

    def at(phase: float) -> Tensor:
        """By fields that are converted to the middle of the cells with this error of the phase."""
        device, half = MirroredDiffraction(9, 6), torch.tensor(phase / 2, dtype=torch.float64)
        turn = torch.stack((torch.stack((half.cos(), -half.sin())), torch.stack((half.sin(), half.cos()))))
        device.read_fields = lambda rows: turn @ MirroredDiffraction.read_fields(device, rows)
        return found_by(ForwardMode(), device, x, setting(device), g)

    torch.testing.assert_close(at(0.3), math.cos(0.3) * at(0.0) + math.sin(0.3) * at(math.pi / 2))


@pytest.mark.parametrize("planes", [1, 2, 3])
def test_forward_mode_is_wrong_once_the_tie_breaks(planes):
    errors = [
        compared(ForwardMode(), MirroredDiffraction(9, 6, planes=planes, mismatch=mismatch))[0]
        for mismatch in (1e-3, 1e-2, 1e-1)
    ]
    assert errors[0] > 1e-3
    assert errors[2] > 0.1
    for less, more in pairwise(errors):
        assert math.log10(more / less) == pytest.approx(1, abs=0.05)


def test_masks_that_are_not_images_of_each_other_are_found_out():
    device = MirroredDiffraction(9, 4, planes=2)
    offset = draw(9, seed=3)  # of the last mask, at every setting
    whole = MirroredDiffraction._propagate

    def broken(self: MirroredDiffraction, light: Tensor, theta: Tensor) -> tuple[Tensor, list[Tensor]]:
        first, last = self._beside(light)
        inside = []
        for shift in (0.0, offset.to(theta)):
            half = (theta.unsqueeze(-2) + shift) / 2
            inside.append(self._hop(light, first) * torch.polar(torch.ones_like(half), half))
            light = inside[-1] * torch.polar(torch.ones_like(half), half)
        return self._hop(light, last), inside

    try:
        MirroredDiffraction._propagate = broken  # pyright: ignore[reportAttributeAccessIssue]
        assert compared(ForwardMode(), device)[0] > 0.1
        with pytest.raises(ContractError, match="the symmetry is broken"):
            check_device(device)
    finally:
        MirroredDiffraction._propagate = whole
    check_device(device)


def test_forward_mode_sends_singular_pairs_in_place_of_many_rows():
    device, ledger = MirroredDiffraction(16, 3), Ledger()
    x, g, theta = draw(40, 16), draw(40, 3, seed=1), setting(device, dtype=torch.float32)
    found = found_by(ForwardMode(), device, x, theta, g, ledger)
    torch.testing.assert_close(found, truth(device, x, theta, g)[0], rtol=1e-4, atol=1e-4)
    assert ledger.actions == {"fields": 6}
    assert ledger.total_programmings == 1


def test_with_reciprocal_rows_it_trains_layers_in_front():
    torch.manual_seed(0)
    device = MirroredDiffraction(9, 4, planes=3)
    grads = []
    for method in ((ForwardMode(), Reciprocal()), bp.presets.oracle()):
        layer = bp.PhysicalLayer(device, *method, generator=torch.Generator().manual_seed(0))
        before = nn.Linear(5, 9)
        nn.init.constant_(before.weight, 0.3)
        nn.init.zeros_(before.bias)
        layer(before(draw(6, 5))).square().sum().backward()
        assert layer.theta.grad is not None
        assert before.weight.grad is not None
        grads.append((layer.theta.grad, before.weight.grad))
    torch.testing.assert_close(*grads, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("device", [MirroredDiffraction(6, 5, planes=2), CoupledModes(3, 2)], ids=str)
def test_forward_mode_keeps_its_contract(device):
    claims = dict(check_estimator(ForwardMode(), device=device).claims)
    pairs = min(5, *device.in_shape, *device.out_shape)
    assert claims[f"price, {device}"] == f"{2 * pairs} rows, 0 programmings"


def test_forward_mode_needs_a_linear_device():
    with pytest.raises(IncompatibleError, match="needs a linear device"):
        bp.PhysicalLayer(CoupledModes(3, 2, kerr=0.1), ForwardMode())


@pytest.mark.parametrize("estimator", [ForwardMode(), ScatteringBackprop()], ids=str)
def test_a_device_without_fields_is_refused(estimator):
    for device in (bp.devices.MZIMesh(4, 4), bp.devices.Chain(MirroredDiffraction(4, 4), torch.tanh)):
        with pytest.raises(IncompatibleError, match=r"does not declare the capability `fields`|is not declared linear"):
            estimator.check(device.declaration)


# The capability.


@pytest.mark.parametrize("planes", [1, 2, 3])
def test_mirrored_devices_keep_their_contract(planes):
    claims = dict(check_device(MirroredDiffraction(9, 4, planes=planes)).claims)
    assert float(claims["fields give the gradient"].split()[-1]) < 0.01
    with pytest.raises(ContractError, match="the symmetry is broken"):
        check_device(MirroredDiffraction(9, 4, planes=planes, mismatch=0.2))


@pytest.mark.parametrize(
    ("device", "changes"),
    [
        (CoupledModes(3, 2), {"outputs": (4, 3)}),
        (CoupledModes(3, 2), {"outputs": (0, 1)}),
        (CoupledModes(3, 2), {"bonds": tuple(reversed(CoupledModes(3, 2).edges))}),
        (CoupledModes(3, 2), {"bonds": CoupledModes(3, 2).edges[:-1]}),
        (MirroredDiffraction(9, 4, planes=2), {"bonds": ((9, 0, 1, 0, 1),)}),
        (MirroredDiffraction(9, 4), {"outputs": (5, 6, 7, 8)}),
    ],
    ids=str,
)
def test_fields_that_are_described_wrongly_are_found_out(device, changes):
    with pytest.raises(ContractError, match=r"the symmetry is broken|needs the bond of every parameter"):
        check_device(redeclared(device, **changes))


def test_fields_whose_phase_is_wrong_are_found_out():
    device = CoupledModes(3, 2, kerr=0.01)
    device.read_fields = lambda x: CoupledModes.read_fields(device, x).flip(1)
    with pytest.raises(ContractError, match="fields give the gradient"):
        check_device(device)


def test_noisy_fields_keep_the_contract_within_their_noise():
    for inner in (CoupledModes(3, 2), MirroredDiffraction(9, 4)):
        check_device(bp.devices.Noisy(inner, read=0.02), noise=0.1)


WRAPPED = {
    "noisy": bp.devices.Noisy,
    "coarse settings": lambda d: bp.devices.Quantised(d, theta_bits=20, theta_range=(-4.0, 4.0)),
    "declared": bp.devices.Declared,
    "guarded": lambda d: bp.lab.Guarded(d, park=torch.zeros(28)),
    "checked": bp.lab.Checked,
    "retrying": bp.lab.Retrying,
    "faulty": bp.lab.Faulty,
    "farm": lambda d: bp.lab.Farm([d, CoupledModes(4, 3, kerr=0.05)]),
}


@pytest.mark.parametrize("name", WRAPPED)
def test_it_works_through_each_wrapper_that_hands_fields_on(name):
    inner = CoupledModes(4, 3, kerr=0.05)
    x, g, theta, ledger = draw(5, 4), draw(5, 3, seed=1), setting(inner, dtype=torch.float32), Ledger()
    expected = found_by(ScatteringBackprop(), inner, x, theta, g)
    found = found_by(ScatteringBackprop(), WRAPPED[name](inner), x, theta, g, ledger)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)
    assert ledger.actions == {"fields": 10}


def test_over_the_network_and_from_a_recording_it_is_the_same(tmp_path):
    from blackprop.lab.remote.shared._keys import make_keys
    from serving import served

    make_keys(keys := tmp_path / "keys")

    def make() -> CoupledModes:
        return CoupledModes(64, 10, kerr=0.01)  # 2,775 bonds

    x, g, theta = 0.3 * draw(3, 64), draw(3, 10, seed=1), setting(make(), dtype=torch.float32)
    expected = found_by(ScatteringBackprop(), make(), x, theta, g)
    with (
        served(make, keys) as server,
        bp.lab.RemoteDevice(server.address, keys=keys, capabilities=[Fields]) as device,
    ):
        assert device.declaration.capability(Fields) == make().declaration.capability(Fields)
        assert torch.equal(found_by(ScatteringBackprop(), device, x, theta, g), expected)
    with bp.lab.Recorded(make(), tmp_path / "run") as device:
        found_by(ScatteringBackprop(), device, x, theta, g)
    replayed = bp.lab.Replayed(tmp_path / "run", capabilities=[Fields])
    assert torch.equal(found_by(ScatteringBackprop(), replayed, x, theta, g), expected)


def test_a_description_is_a_value_travels_as_json_and_is_short_for_many_bonds():
    device = MirroredDiffraction(400, 10, planes=4)
    fields = device.declaration.capability(Fields)
    assert Fields(**json.loads(json.dumps(fields.fields()))) == fields
    assert len(fields.bonds) == 2
    assert fields.parameters == device.theta.size == 800
    edges = CoupledModes(30, 10).edges
    described = CoupledModes(30, 10).declaration.capability(Fields)
    assert list(zip(*(places.tolist() for places in described.pairs), strict=True)) == list(edges)
    assert len(described.bonds) < 60
    assert hash(described) == hash(CoupledModes(30, 10).declaration.capability(Fields))
    scattered = torch.randint(0, 40, (500, 2), generator=torch.Generator().manual_seed(0))
    again = Fields(ports=40, places=40, outputs=(0,), bonds=tuple(map(tuple, scattered.tolist())))
    assert torch.equal(torch.stack(again.pairs, 1), scattered)


@pytest.mark.parametrize(
    "wrong",
    [
        {"ports": 0},
        {"places": 0},
        {"outputs": ()},
        {"outputs": (1, 1)},
        {"outputs": (4,)},
        {"bonds": ()},
        {"bonds": ((0, 4),)},
        {"bonds": ((0, 1, 2),)},
        {"bonds": ((5, 0, 1, 0, 1),)},
        {"bonds": ((0, 0, 1, 0, 1),)},
        {"asymmetry": -1.0},
        {"asymmetry": math.inf},
        {"rate": math.nan},
    ],
    ids=str,
)
def test_a_description_that_does_not_fit_together_is_refused(wrong):
    with pytest.raises(ArgumentError, match="Fields"):
        Fields(**{"ports": 4, "places": 4, "outputs": (3,), "bonds": ((0, 1), (1, 1)), **wrong})


@pytest.mark.parametrize(
    "wrong",
    [{"planes": 0}, {"wavelength": 0.0}, {"pitch": 1e-7}, {"distance": math.inf}, {"mismatch": -1.0}],
    ids=str,
)
def test_wrong_arguments_of_a_mirrored_device_are_refused(wrong):
    with pytest.raises(ArgumentError, match=next(iter(wrong))):
        MirroredDiffraction(4, 4, **wrong)
    with pytest.raises(ArgumentError, match="step"):
        ScatteringBackprop(step=0.0)
    with pytest.raises(ArgumentError, match="programmed before it is read"):
        MirroredDiffraction(4, 4).read_fields(torch.zeros(1, 2, 4))


# Training.


def trained(device: bp.Device, estimator: Estimator, rate: float, epochs: int) -> float:
    """Test accuracy in % of digits of 4 × 4 pixels, the device the whole of the model."""
    data = Digits().data()
    train, test = (nn.functional.avg_pool2d(x.view(-1, 1, 8, 8), 2).flatten(1) for x in (data.x_train, data.x_test))
    layer = bp.PhysicalLayer(device, estimator, generator=torch.Generator().manual_seed(0))
    optimizer, generator = torch.optim.Adam([layer.theta], rate), torch.Generator().manual_seed(0)
    for _ in range(epochs):
        for rows in torch.randperm(len(train), generator=generator).split(32):
            optimizer.zero_grad()
            nn.functional.cross_entropy(10 * layer(train[rows]), data.y_train[rows]).backward()
            optimizer.step()
    layer.eval()
    with torch.no_grad():
        return 100 * float((layer(test).argmax(1) == data.y_test).float().mean())


@pytest.mark.parametrize(
    ("make", "estimator", "rate", "epochs"),
    [
        (lambda: CoupledModes(16, 10, kerr=0.05), ScatteringBackprop(), 0.03, 1),
        (lambda: MirroredDiffraction(16, 10, planes=6), ForwardMode(), 0.1, 2),
    ],
    ids=["coupled modes", "mirrored"],
)
def test_digits_are_learnt_as_with_the_exact_gradient(make, estimator, rate, epochs):
    oracle, found = (trained(make(), each, rate, epochs) for each in (Oracle(), estimator))
    frozen = trained(make(), Still(), rate, epochs=0)  # the device is the whole of the model
    assert found > oracle - 4
    assert found > frozen + 30
