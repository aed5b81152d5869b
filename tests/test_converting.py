"""Programming a device to trained weights and back: what each way reaches, what it books, and what it refuses."""

from __future__ import annotations

import copy
import warnings

import pytest
import torch
from torch import nn

import blackprop as bp
from blackprop import twins
from blackprop.conversion import ByModel, ByQueries, ByResponse, choose
from blackprop.conversion import _decomposition as taking
from blackprop.core import Purpose
from blackprop.devices import (
    Declared,
    ImperfectMZIMesh,
    LightModulator,
    Matrix,
    Microring,
    Monarch,
    MZIMesh,
    Noisy,
    Quantised,
    ThreeSplitterMesh,
)
from blackprop.errors import ArgumentError, BlackpropWarning, BudgetExhausted, IncompatibleError, ShapeError
from blackprop.estimators import FromSurrogate
from blackprop.nn._sparse_weights import SparseWeights
from blackprop.planning._methods import remembered
from blackprop.surrogates import CalibratedResponse, Streaming, Twin
from support import Opaque, draw


def linear(d_in: int = 16, d_out: int = 6, *, bias: bool = True, seed: int = 0) -> nn.Linear:
    made = nn.Linear(d_in, d_out, bias)
    with torch.no_grad():
        made.weight.copy_(draw(d_out, d_in, seed=seed) / d_in**0.5)
        if bias:
            made.bias.copy_(draw(d_out, seed=seed + 1))
    return made


def convert(old: nn.Linear, device: bp.Device, *method, **options) -> bp.PhysicalLayer:
    return bp.PhysicalLayer.from_linear(old, device, *method, generator=torch.Generator().manual_seed(1), **options)


def truth(layer: bp.PhysicalLayer) -> torch.Tensor:
    """The weights that the layer truly has, past noise and converters."""
    device = layer.device
    while not isinstance(device, bp.Simulator):
        device = device.device if hasattr(device, "device") else device.inner
    unit = torch.eye(*device.in_shape, dtype=layer.theta.dtype)
    return layer.gain.detach() * device.transfer(unit, layer.theta.detach()).mT


def off(found: torch.Tensor, wanted: torch.Tensor) -> float:
    return float((found - wanted).detach().norm() / wanted.detach().norm())


def with_twin(device: bp.Device, **options) -> tuple[FromSurrogate, Twin]:
    twin = Twin(twins.MeshTwin(device), **{"fit_steps": 800, **options})
    return FromSurrogate(twin), twin


# The outputs of these rings where training goes on; what a calibration reads first may be larger.
SCALE = 1.35

# What is reached. Gaussian weights: noise in place of them has an error of 1, at its best gain.


@pytest.mark.parametrize(
    ("device", "most"),
    [
        (Matrix(16, 6), 1e-4),
        (LightModulator(16, 6), 1e-3),
        (Microring(16, 6), 0.01),
        (Noisy(LightModulator(16, 6), read=0.02), 0.02),
        (Noisy(Microring(16, 6), read=0.02, scale=SCALE), 0.03),
        (Quantised(LightModulator(16, 6), input_bits=8, theta_bits=8, output_bits=8), 0.03),
        (MZIMesh(16, 3), 0.03),
        (ThreeSplitterMesh(16, 3), 0.03),
        (Noisy(MZIMesh(16, 3), read=0.02), 0.04),
    ],
    ids=str,
)
def test_a_device_becomes_the_trained_layer(device, most):
    old = linear(*device.in_shape, *device.out_shape)
    layer = convert(old, device)
    assert off(truth(layer), old.weight) < most
    assert torch.equal(layer.bias, old.bias)
    assert layer.conversion.error == pytest.approx(off(truth(layer), old.weight), abs=0.03)
    assert layer.ledger.rows[Purpose.CALIBRATE] == layer.ledger.total_rows
    x = draw(40, 16, seed=7)
    assert off(layer.eval()(x), old(x)) < 0.1


def test_an_imperfect_mesh_is_programmed_through_its_twin():
    old = linear(4, 2)
    ideal, real = MZIMesh(4, 2), ImperfectMZIMesh(4, 2, phase=0.3)
    layer = convert(old, real, *with_twin(real, settings=64, fit_steps=300))
    as_designed = convert(old, ideal)
    believed = as_designed.gain.detach() * real.transfer(torch.eye(4), as_designed.theta.detach()).mT
    assert off(truth(layer), old.weight) < 0.05
    assert off(believed, old.weight) > 0.2  # the design alone misleads
    assert layer.ledger.programmings[Purpose.CALIBRATE] <= 64 + 4
    assert bool(layer.started)


def test_corrections_find_what_the_model_lacks():
    old, real = linear(10, 3), ImperfectMZIMesh(10, 3, phase=0.05, splitter=0.02)
    model = twins.MeshTwin(real)  # of which the offsets are not known
    once, often = (convert(old, real, programmer=ByModel(model, corrections=n)) for n in (0, 3))
    assert often.conversion.error < 0.7 * once.conversion.error
    assert off(truth(often), old.weight) < 0.7 * off(truth(once), old.weight)


def test_queries_alone_come_near_where_there_are_parameters_enough():
    old = linear(8, 4)
    device = Declared(LightModulator(8, 4), linear=True)  # nothing else is known of it
    layer = convert(old, device, programmer=ByQueries(steps=100))
    assert off(truth(layer), old.weight) < 0.1
    with pytest.warns(BlackpropWarning, match=r"the weights only within a relative error of 0\.\d+"):
        short = convert(old, device, programmer=ByQueries(steps=1))
    assert short.conversion.error > 0.5


def test_the_best_setting_that_queries_have_seen_is_kept():
    old, device = linear(8, 4), Declared(Noisy(LightModulator(8, 4), read=0.05), linear=True, noise=0.05)
    layer = convert(old, device, programmer=ByQueries(steps=60, rate=0.5))
    assert layer.conversion.error == pytest.approx(off(truth(layer), old.weight), abs=0.1)
    assert layer.conversion.error < 0.4


def test_a_range_that_does_not_reach_is_told_with_the_best_that_it_does():
    def positive(x, theta):
        return x @ theta.view(4, 8).mT

    device = bp.devices.from_callable(positive, in_shape=8, out_shape=4, theta_size=32, low=0.5, high=1.0, linear=True)
    device.coupling = bp.Coupling.ELEMENT
    device.theta = bp.ThetaSpec(32, lambda g: 0.5 + 0.5 * torch.rand(32, generator=g), low=0.5, high=1.0)
    with pytest.warns(BlackpropWarning, match=r"relative error of 0\.9\d, at its best gain.*digital"):
        layer = convert(linear(8, 4), device)
    assert bool(((layer.theta >= 0.5) & (layer.theta <= 1)).all())


def test_the_gain_covers_an_asymmetric_range():
    """Microrings reach from −0.29 to 0.98: weights whose largest are negative take a negative gain."""
    old = linear(16, 8)
    with torch.no_grad():
        old.weight.copy_(-old.weight.abs() + 0.02)
    layer = convert(old, Microring(16, 8))
    assert layer.conversion.gain < 0
    assert layer.conversion.error < 0.01


@pytest.mark.parametrize("kind", [MZIMesh, ThreeSplitterMesh])
def test_a_unitary_is_taken_apart_exactly(kind):
    for modes in (2, 4, 10):
        z = torch.complex(draw(modes, modes, dtype=torch.float64), draw(modes, modes, seed=1, dtype=torch.float64))
        unitary = torch.linalg.qr(z)[0]
        theta, diagonal = taking.take_apart(unitary.numpy(), *taking.blocks_of(kind is ThreeSplitterMesh))
        rows = torch.diag(torch.tensor(diagonal))
        real = kind(modes, modes).transfer(rows, torch.tensor(theta)).mT
        torch.testing.assert_close(real, unitary.real)


def test_a_mesh_starts_from_the_decomposition_and_not_from_where_it_stands():
    old, device = linear(16, 3), MZIMesh(16, 3)
    taken = convert(old, device, programmer=ByModel(twins.MeshTwin(device), iterations=60))

    class Plain(nn.Module):
        def forward(self, x, theta):
            return device.transfer(x, theta)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", BlackpropWarning)
        found = convert(old, device, programmer=ByModel(Plain(), iterations=60))
    assert taken.conversion.error < 0.5 * found.conversion.error


# Back again, and on from there.


@pytest.mark.parametrize("bias", [True, False])
def test_to_linear_gives_back_what_the_layer_computes(bias):
    layer = bp.PhysicalLayer(Microring(6, 4), bias=bias).eval()
    with torch.no_grad():
        layer.gain.fill_(-1.7)
    back = layer.to_linear()
    x = draw(5, 6)
    torch.testing.assert_close(back(x), layer(x).detach(), rtol=1e-4, atol=1e-5)
    assert (back.bias is None) is not bias
    assert not back.training
    assert layer.ledger.rows == {Purpose.EVALUATE: 8 + 5}
    assert layer.ledger.programmings == {Purpose.EVALUATE: 1}


def test_there_and_back_is_the_layer_that_was():
    old = linear().double()
    layer = convert(old, LightModulator(16, 6))
    back = layer.to_linear()
    assert back.weight.dtype == layer.theta.dtype == torch.float64
    assert off(back.weight, old.weight) < 1e-3
    assert torch.equal(back.bias, old.bias)


def test_the_surrogate_stands_at_the_new_setting_for_nothing():
    x, g = draw(12, 16, seed=3), draw(12, 2, seed=4)
    for device in (LightModulator(16, 2), MZIMesh(16, 2)):
        old = linear(16, 2)
        layer = convert(old, device)
        asked = layer.ledger.total_rows
        leaf = x.clone().requires_grad_()
        layer.theta.requires_grad_(False)
        (layer(leaf) * g).sum().backward()
        backwards = layer.ledger.actions["read_back"]
        assert backwards == (0 if device.coupling is bp.Coupling.ELEMENT else 2)  # no more than outputs
        assert layer.ledger.total_rows == asked + 12 + backwards  # the batch itself
        assert off(leaf.grad, g @ old.weight) < 0.05


def test_fine_tuning_goes_on_from_there():
    old = linear()
    layer = convert(old, Noisy(Microring(16, 6), read=0.02, scale=SCALE))
    x = draw(256, 16, seed=5)
    goal = linear(seed=9)
    with torch.no_grad():
        goal.weight.copy_(old.weight + 0.1 * goal.weight)
        goal.bias.copy_(old.bias)
        y = goal(x)
    optimizer = torch.optim.Adam(bp.param_groups(layer, lr=1e-3, device_lr=5e-3))
    before = float((layer(x) - y).detach().square().mean())
    for _ in range(60):
        optimizer.zero_grad()
        (layer(x) - y).square().mean().backward()
        optimizer.step()
    assert float((layer(x) - y).detach().square().mean()) < 0.5 * before
    assert layer.ledger.rows[Purpose.CALIBRATE] == layer.ledger.total_rows - 62 * 256  # calibrated once


def test_a_trained_model_keeps_its_answers_when_its_head_is_substituted():
    model = nn.Sequential(nn.Linear(5, 16), nn.ReLU(), linear()).eval()
    x = draw(50, 5)
    answers = model(x).detach()
    made = bp.substitute(
        model, {"2": lambda old: bp.PhysicalLayer.from_linear(old, LightModulator(old.in_features, old.out_features))}
    )
    assert isinstance(made[2], bp.PhysicalLayer)
    assert off(made(x), answers) < 0.01


def test_a_device_whose_backward_raises_is_programmed():
    old, opaque = linear(8, 4), Opaque(LightModulator(8, 4))
    opaque.coupling = bp.Coupling.ELEMENT
    assert convert(old, opaque).conversion.error < 0.01


# A few weights stay digital.


def test_the_largest_weights_stay_digital_and_train():
    old = linear()
    with torch.no_grad():
        old.weight[0, 0], old.weight[3, 5] = 5.0, -7.0
    layer = convert(old, LightModulator(16, 6), digital=2 / 96)
    kept = layer.digital.matrix().detach()
    assert kept.nonzero().tolist() == [[0, 0], [3, 5]]
    assert off(truth(layer) + kept, old.weight) < 1e-3
    x = draw(20, 16)
    assert off(layer(x), old(x)) < 1e-3
    assert off(layer.to_linear().weight, old.weight) < 1e-3
    leaf = x.clone().requires_grad_()
    layer(leaf).sum().backward()
    assert off(layer.digital.values.grad, x.sum(0)[[0, 5]]) < 1e-5
    assert off(leaf.grad, old.weight.sum(0).expand(20, 16)) < 0.01


def test_kept_weights_lighten_what_the_device_must_be():
    old, device = linear(16, 16), Monarch(16, 16)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", BlackpropWarning)
        errors = [
            off(truth(layer) + (layer.digital.matrix() if layer.digital is not None else 0), old.weight)
            for layer in (convert(old, device, programmer=ByQueries(steps=40), digital=p) for p in (0.0, 0.3))
        ]
    assert errors[1] < 0.7 * errors[0]


def test_a_checkpoint_brings_the_kept_weights_and_their_places():
    layer = convert(linear(), LightModulator(16, 6), digital=0.1)
    other = bp.PhysicalLayer(LightModulator(16, 6), bias=True, digital=SparseWeights(16, 6, 10))
    other.load_state_dict(layer.state_dict())
    x = draw(4, 16)
    torch.testing.assert_close(other.eval()(x), copy.deepcopy(layer).eval()(x))


# Which way is taken, and what is refused.


def test_the_way_follows_from_what_is_known():
    def way(device, *method):
        layer = bp.PhysicalLayer(device, *method)
        return choose(device, layer.estimator, layer.surrogate), layer

    taken, layer = way(LightModulator(6, 4))
    assert isinstance(taken, ByResponse)
    assert taken.surrogate is layer.surrogate
    taken, layer = way(LightModulator(6, 4), *bp.presets.paper(rank=2, samples=2))
    assert isinstance(taken, ByResponse)
    assert isinstance(way(Noisy(MZIMesh(6, 4), read=0.1))[0], ByModel)
    assert isinstance(way(Declared(MZIMesh(6, 4), linear=True))[0], ByQueries)
    assert isinstance(way(ImperfectMZIMesh(6, 4))[0], ByQueries)
    taken, layer = way(ImperfectMZIMesh(6, 4), *with_twin(ImperfectMZIMesh(6, 4)))
    assert taken.surrogate is layer.surrogate
    memory = remembered(Monarch(6, 4).declaration)
    taken, layer = way(Monarch(6, 4), memory, bp.surrogates.Streaming())
    assert isinstance(taken, ByQueries)
    assert taken.estimator is memory
    assert way(Monarch(6, 4))[0].estimator is None  # a method that asks first does not know the device yet


def test_a_conversion_counts_on_the_budget():
    with pytest.raises(BudgetExhausted):
        convert(linear(), LightModulator(16, 6), budget=bp.Budget(rows=100))
    budget = bp.Budget(rows=1000)
    layer = convert(linear(), LightModulator(16, 6), budget=budget)
    assert budget.spent["rows"] == layer.ledger.rows[Purpose.CALIBRATE] == layer.ledger.total_rows


def _with(value) -> nn.Linear:
    made = linear()
    with torch.no_grad():
        made.weight[2, 3] = value
    return made


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda: convert(linear(8, 6), LightModulator(16, 6)), ArgumentError, r"shape \(6, 8\).*\(6, 16\)"),
        (lambda: convert(_with(float("nan")), LightModulator(16, 6)), ArgumentError, r"weight\[2, 3\] is nan"),
        (lambda: convert(linear().half(), LightModulator(16, 6)), ArgumentError, "weights are torch.float16"),
        (
            lambda: convert(nn.Linear(16, 6, dtype=torch.complex64), LightModulator(16, 6)),
            ArgumentError,
            "torch.complex64",
        ),
        (lambda: convert(nn.Conv1d(16, 6, 1), LightModulator(16, 6)), ArgumentError, "takes a torch.nn.Linear"),
        (lambda: convert(nn.Linear, LightModulator(16, 6)), ArgumentError, "and not its class"),
        (lambda: convert(nn.LazyLinear(6), LightModulator(16, 6)), ArgumentError, "lazy"),
        (lambda: convert(linear(), LightModulator), ArgumentError, "takes a Device.*not its class"),
        (lambda: convert(linear(), LightModulator(16, 6), programmer=ByResponse), ArgumentError, "takes a Programmer"),
        (lambda: convert(linear(), LightModulator(16, 6), digital=1.0), ArgumentError, "between 0 and 1, got 1.0"),
        (lambda: convert(linear(), LightModulator(16, 6), digital=-0.1), ArgumentError, "between 0 and 1"),
        (lambda: convert(linear(9, 9), bp.devices.Diffraction(9, 9)), IncompatibleError, "is not declared linear"),
        (lambda: bp.PhysicalLayer(bp.devices.Diffraction(9, 9)).to_linear(), IncompatibleError, "read as weights"),
        (lambda: convert(linear(), MZIMesh(16, 6), programmer=ByResponse()), IncompatibleError, "element coupling"),
        (lambda: ByModel(twins.MeshTwin), ArgumentError, "takes a Twin or a Module"),
        (lambda: ByModel(twins.MeshTwin(MZIMesh(4, 4)), iterations=0), ArgumentError, "at least 1, got 0"),
        (lambda: ByQueries(steps=0), ArgumentError, "at least 1"),
        (lambda: ByQueries(rate=float("inf")), ArgumentError, "positive and finite"),
        (lambda: ByQueries(FromSurrogate(CalibratedResponse())), ArgumentError, "one that queries"),
        (lambda: ByResponse(corrections=-1), ArgumentError, "not be negative"),
        (lambda: SparseWeights(4, 3, 13), ArgumentError, "between 1 and 12, got 13"),
        (lambda: bp.PhysicalLayer(LightModulator(4, 3), digital=SparseWeights(3, 4, 1)), ShapeError, "map 3 to 4"),
    ],
)
def test_what_cannot_be_done_is_refused_before_anything_is_asked(make, error, words):
    with pytest.raises(error, match=words):
        make()


def test_nothing_is_asked_for_weights_that_are_all_zero():
    device = Opaque(LightModulator(16, 6))
    layer = bp.PhysicalLayer(device, None, Streaming())
    with pytest.raises(ArgumentError, match="all zero"):
        layer.approximate(torch.zeros(6, 16))
    assert not device.written
