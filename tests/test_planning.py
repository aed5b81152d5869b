"""What the plan chooses for which declaration, that its reasons are true, and that it costs what it says."""

from __future__ import annotations

import itertools
import math
import re
from collections import Counter

import pytest
import torch
from torch import Tensor

import blackprop as bp
from blackprop import Budget, Cost, Coupling
from blackprop.devices import ConductanceArray, Declared, LightModulator, Microring, MZIMesh
from blackprop.errors import ArgumentError, BudgetExhausted, IncompatibleError
from blackprop.estimators import ByOutput, DirectionalMemory, FromSurrogate, ParameterShift, RandomDirections, Whole
from blackprop.planning import CANDIDATES, Candidate, Quality
from blackprop.planning._methods import step_size
from blackprop.planning._pulses import PULSED
from support import draw

D_IN, D_OUT = 6, 4


class Bench(bp.Device):
    """A matrix of cosines, bent where it is not linear: whatever is declared here of coupling, it is true."""

    def __init__(
        self,
        *,
        linear=True,
        coupling=Coupling.ELEMENT,
        images=False,
        d_in=D_IN,
        d_out=D_OUT,
        cost=None,
        noise=0.0,
        **theta,
    ) -> None:
        size = d_in * d_out
        spec = bp.ThetaSpec(size, lambda g: 1 + torch.rand(size, generator=g), **theta)
        shapes = ((d_in // 2, 2), (d_out // 2, 2)) if images else (d_in, d_out)
        super().__init__(*shapes, spec, linear=linear, coupling=coupling, cost=cost, noise=noise)

    def program(self, theta: Tensor, /) -> None:
        self.matrix = theta.cos().view(self.declaration.d_out, -1)

    def read(self, x: Tensor, /) -> Tensor:
        y = x.flatten(1) @ self.matrix.mT
        return (y if self.linear else y.tanh()).unflatten(1, self.out_shape)


COMBINATIONS = list(
    itertools.product(
        (True, False),  # linear
        Coupling,
        (None, {"period": 2 * math.pi}, {"period": 2 * math.pi, "harmonics": 1}),
        (None, {"low": 0.0, "high": 7.0}),
        (0.0, 0.02),  # noise
        ((False, (6, 4)), (True, (6, 4)), (False, (2, 2)), (False, (12, 8))),  # images, sizes
    )
)


def credit(estimator: bp.estimators.Estimator) -> object:
    return getattr(estimator, "credit", None) or Whole()


def test_every_reason_is_true_of_its_device_and_of_its_method():
    seen = set()
    for linear, coupling, periodic, limits, noise, (images, (d_in, d_out)) in COMBINATIONS:
        theta = {**(periodic or {}), **(limits or {})}
        device = Bench(linear=linear, coupling=coupling, images=images, d_in=d_in, d_out=d_out, noise=noise, **theta)
        plan = bp.plan(device, batch_size=5)
        said, estimator = plan.reason, plan.estimator
        seen.add(plan.name)
        if plan.name == "ask-first":  # what it then does is found out: see test_ask_first
            assert coupling is not Coupling.ELEMENT
            assert f"{'no' if coupling is Coupling.NONE else 'row'} coupling declared" in said, said
            assert ("not declared linear" in said) is (not linear)
            assert noise == 0 or (not images and device.theta.size > 32)
            assert ("for its noise" in said) is images
            assert bp.PhysicalLayer(device).reason == said
            continue
        matrix = linear and not images
        case = (linear, coupling, theta, noise, images, d_in, said)
        assert ("no coupling declared" in said) is (coupling is Coupling.NONE), case
        assert ("row coupling" in said) is (coupling is Coupling.ROW), case
        assert ("element coupling" in said) is (coupling is Coupling.ELEMENT), case
        assert ("not declared linear" in said) is (not linear), case
        assert ("linear but not of vectors" in said) is (linear and images), case
        assert (
            ("calibrate" in said) is isinstance(estimator, FromSurrogate) is (matrix and coupling is Coupling.ELEMENT)
        ), case
        # Coupling is used wherever it is declared: by calibration, or by credit.
        uses = isinstance(estimator, FromSurrogate) or isinstance(credit(estimator), ByOutput)
        assert uses is (coupling is not Coupling.NONE), case
        assert ("credited" in said) is isinstance(credit(estimator), ByOutput), case
        assert ("remembered" in said) is isinstance(estimator, DirectionalMemory), case
        assert ("one harmonic" in said) is isinstance(estimator, ParameterShift), case
        if isinstance(estimator, RandomDirections):
            assert ("on the whole batch" in said) is (estimator.contraction is None), case
            number = re.search(r"(\d+) random perturbation", said)
            assert number is None or int(number[1]) == estimator.count, case
        if isinstance(estimator, DirectionalMemory):
            assert f"{estimator.count} new a step" in said, case
        assert plan.surrogate.bias is not linear if isinstance(plan.surrogate, bp.surrogates.Streaming) else matrix, (
            case
        )
        layer = bp.PhysicalLayer(device, generator=torch.Generator().manual_seed(0))
        assert layer.reason == said, case
        if d_in != D_IN:
            continue
        layer(draw(5, *device.in_shape).requires_grad_()).square().sum().backward()
        assert bool(layer.theta.grad.isfinite().all()), case
    expected = {candidate.name for candidate in CANDIDATES if candidate.quality > Quality.SINGLE}
    assert "ask-first" in seen
    by_pulses = {each.name for each in PULSED}  # tests/test_pulsed_methods.py
    assert (
        seen
        == expected - {"calibrated-8", "calibrated-4", "remembered-4", "perturbed-by-output", *PHYSICAL} - by_pulses
    )
    assert (
        bp.plan(Bench(linear=False, coupling=Coupling.ROW, images=True, d_in=64), batch_size=5).name
        == "perturbed-by-output"
    )


# A device for each candidate that needs more than a law, and one that lacks a part of that.
def chip(d_out: int) -> bp.Device:
    return bp.devices.Chip(bp.devices.chips.Rectangular(), 8, d_out, modes=8, seed=1)


def array() -> bp.Device:
    return ConductanceArray(6, 4, reference=True)


PHYSICAL = {
    "in-situ": lambda: (MZIMesh(8, 6), Declared(MZIMesh(8, 6), linear=True, order=torch.arange(56).flip(0))),
    "calibrated-chip": lambda: (chip(8), chip(4)),
    "reciprocal": lambda: (array(), Declared(array())),
    "outer": lambda: (array(), Declared(array(), linear=True, order=torch.arange(30).flip(0))),
    "forward-mode": lambda: (bp.devices.MirroredDiffraction(9, 4, planes=2), bp.devices.CoupledModes(4, 3, kerr=0.01)),
    "scattering": lambda: (bp.devices.CoupledModes(4, 3, kerr=0.001), bp.devices.CoupledModes(4, 3)),
    "subspace": lambda: (factored(), Declared(factored())),
}
# Relative errors of the gradients of θ and of the rows: few perturbations, gains alone, and a local linear fit.
ROUGH = {"reciprocal": (None, 1e-3), "subspace": (None, 1e-3), "scattering": (0.02, None)}


def factored() -> bp.devices.SVDMesh:
    parts = (bp.devices.Chip(bp.devices.chips.Rectangular(), *ports, seed=1) for ports in ((6, 4), (4, 5)))
    return bp.devices.SVDMesh(*parts)


@pytest.mark.parametrize("name", PHYSICAL)
def test_more_than_a_law_is_used_where_it_is_declared(name: str):
    suited, lacking = PHYSICAL[name]()
    candidate = next(each for each in CANDIDATES if each.name == name)
    assert candidate.why_not(lacking.declaration).startswith("needs ")
    plan = bp.plan(suited, 16, candidates=[candidate])
    layer = bp.PhysicalLayer(suited, *plan.method, generator=torch.Generator().manual_seed(0))
    x = draw(64, *suited.in_shape).requires_grad_()
    (layer(x) * draw(64, *suited.out_shape, seed=1)).sum().backward()
    leaf, theta = x.detach().clone().requires_grad_(), layer.theta.detach().clone().requires_grad_()
    y = layer.gain.detach() * suited.oracle()(leaf, theta)
    (y * draw(64, *suited.out_shape, seed=1)).sum().backward()
    by_theta, by_x = ROUGH.get(name, (1e-3, 1e-3))
    if by_x is not None:
        assert (x.grad - leaf.grad).norm() < by_x * leaf.grad.norm()
    if by_theta is not None:
        assert (layer.theta.grad - theta.grad).norm() < by_theta * theta.grad.norm()
    said = {
        "in-situ": ("power taps at all 56 parameters", "3 rows for each of 8 pairs", "read backwards"),
        "calibrated-chip": ("a declared mesh design", "35 programmings", "1,056 rows"),
        "reciprocal": ("no coupling declared", "8 new a step", "read backwards"),
        "outer": ("each of 30 cells", "without a query", "read backwards"),
        "forward-mode": ("all 9 parameters", "rows and errors", "read backwards"),
        "scattering": ("all 28 parameters", "two drives a row"),
        "subspace": ("gains between two fixed matrices", "2 rows for each of 8 pairs", "read backwards"),
    }[name]
    assert all(words in plan.reason for words in said), plan.reason
    if name == "in-situ":
        assert layer.ledger.actions["taps"] == 2 * 6  # no more pairs than outputs
        assert layer.ledger.total_programmings == 1
    if name == "calibrated-chip":
        assert layer.ledger.programmings[bp.Purpose.CALIBRATE] == 35
        assert layer.ledger.rows[bp.Purpose.CALIBRATE] == 1056
        assert layer.surrogate.chosen == name
    if name == "reciprocal":
        assert layer.estimator.count == 8


def test_taps_stand_before_a_twin_and_a_twin_before_memory_unless_the_price_says_otherwise():
    names = [each.name for each in CANDIDATES]
    assert names.index("in-situ") < names.index("calibrated-chip") < names.index("remembered")
    assert bp.plan(MZIMesh(8, 6), 64).name == "in-situ"
    assert bp.plan(chip(8), 64).name == "calibrated-chip"
    assert bp.plan(chip(8), 64, {"rows": 1000}, steps=5).name != "calibrated-chip"


def test_coupling_that_the_sizes_contradict_is_not_used_and_that_is_said():
    device = bp.devices.from_callable(
        lambda x, t: x[:, :3] * t.sum(), in_shape=4, out_shape=3, theta_size=10, coupling=Coupling.ROW
    )
    plan = bp.plan(device, 4)
    assert "do not divide" in plan.reason
    assert isinstance(plan.estimator.credit, Whole)


def transistors(d_in: int = 64, d_out: int = 10) -> bp.Device:
    """Currents of cells between a gate θ and a drain x (EKV), less references: not linear, coupled by row."""

    def current(v: Tensor) -> Tensor:
        return 0.01 * torch.nn.functional.softplus(10 * v).square()

    def fn(x: Tensor, theta: Tensor) -> Tensor:
        gate = theta.view(d_out, d_in) - 0.5
        cells = current(gate) - current(gate - x[:, None]) - current(torch.zeros(())) + current(-x[:, None])
        return 4 / math.sqrt(d_in) * cells.sum(2)

    return bp.devices.from_callable(
        fn,
        in_shape=d_in,
        out_shape=d_out,
        theta_size=d_in * d_out,
        initial=lambda g: torch.rand(d_in * d_out, generator=g),
        low=0.0,
        high=1.5,
        coupling=Coupling.ROW,
    )


def trained(layer: bp.PhysicalLayer, steps: int) -> float:
    """The final loss of a layer that learns to answer as another setting of its device does."""
    device = layer.device
    x = draw(64, *device.in_shape).abs()
    goal = device.theta.draw(torch.Generator().manual_seed(5))
    (target,) = device.measure([bp.Query(x, goal, bp.Purpose.EVALUATE)])
    optimizer = torch.optim.Adam([layer.theta], lr=2e-2)
    loss = torch.zeros(())
    for _ in range(steps):
        optimizer.zero_grad()
        loss = (layer(x) - target).square().mean() / target.square().mean()
        loss.backward()
        optimizer.step()
    return float(loss.detach())


def test_row_coupling_serves_a_device_that_is_not_linear_and_trains_it_better_at_equal_rows():
    device = transistors()
    plan = bp.plan(device, 64)
    credited = bp.PhysicalLayer(device, *plan.method, generator=torch.Generator().manual_seed(0))
    before = RandomDirections(16, step_size(device.declaration), bp.directions.Rademacher())
    surrogate = bp.surrogates.Streaming(bias=True, exact_start=False)
    whole = bp.PhysicalLayer(device, before, surrogate, generator=torch.Generator().manual_seed(0))
    assert trained(credited, 71) < 0.7 * trained(whole, 40)
    assert credited.surrogate.chosen == "perturbed-by-output"
    assert isinstance(credited.surrogate.estimator.credit, ByOutput)
    assert credited.ledger.total_rows <= whole.ledger.total_rows
    assert credited.ledger.total_programmings <= whole.ledger.total_programmings


# What it costs


# Left out: one whose price is the most that it may cost, and those whose pulses an optimizer sends.
ALWAYS = [candidate for candidate in CANDIDATES if candidate.name != "ask-first" and candidate not in PULSED]


@pytest.mark.parametrize("candidate", ALWAYS, ids=lambda candidate: candidate.name)
def test_a_plan_costs_what_it_says(candidate: Candidate):
    """The start and each step, whatever is measured ahead or follows the device."""
    devices = [
        Bench(linear=linear, coupling=coupling, d_in=d_in, period=2 * math.pi, harmonics=1, d_out=d_out)
        for linear, coupling, (d_in, d_out) in itertools.product((True, False), Coupling, ((6, 4), (3, 4), (70, 4)))
    ] + [suited for suited, _ in (pair() for pair in PHYSICAL.values())]
    device = next(device for device in devices if candidate.applies(device.declaration))
    plan = bp.plan(device, 16, candidates=[candidate])
    layer = bp.PhysicalLayer(device, *plan.method, generator=torch.Generator().manual_seed(0))
    weights = draw(16, *device.out_shape, seed=3)
    for step in range(1, 5):
        layer.theta.grad = None
        (layer(draw(16, *device.in_shape, seed=step).requires_grad_()) * weights).sum().backward()
        with torch.no_grad():
            layer.theta += 1e-3 * bool(layer.theta.grad.any()) * draw(layer.theta.numel(), seed=step)
        price = plan.price.after(step)
        assert (layer.ledger.rows, layer.ledger.programmings) == (price.rows, price.programmings)
        assert layer.ledger.actions == price.actions
        assert layer.ledger.lab_seconds == pytest.approx(price.lab_seconds)


def test_what_the_surrogate_asks_at_every_step_is_in_the_price():
    paper = Candidate("paper", 0, lambda s: True, lambda s: bp.presets.paper(rank=2, samples=3), lambda s: "published")
    price = bp.plan(MZIMesh(8, 6), 16, candidates=[paper]).price
    assert price.step.rows[bp.Purpose.SURROGATE] == 2 * (2 + 3)


def test_the_cost_of_the_device_decides_between_plans_that_train_alike():
    def chosen(**cost: float) -> bp.planning.Plan:
        return bp.plan(Bench(coupling=Coupling.NONE, d_in=64, cost=Cost(**cost)), 32, candidates=alike)

    alike = [each for each in CANDIDATES if each.name in ("remembered", "remembered-4")]

    dear_programmings, dear_rows = chosen(programming=1e3), chosen(row=1e3)
    assert dear_programmings.name != dear_rows.name
    assert dear_programmings.price.step.total_programmings < dear_rows.price.step.total_programmings
    assert dear_programmings.price.step.total_rows > dear_rows.price.step.total_rows
    device = Bench(coupling=Coupling.NONE, d_in=64, cost=Cost(programming=1e3))
    # And where the user says which unit counts, that counts.
    by_programmings = bp.plan(device, 32, objective=bp.planning.programmings, candidates=alike)
    assert by_programmings.name == dear_programmings.name
    assert bp.plan(device, 32, objective=bp.planning.rows, candidates=alike).name == dear_rows.name


def test_a_cheaper_plan_that_trains_worse_is_not_chosen_unless_the_budget_forces_it():
    device = Microring(784, 128)
    best = bp.plan(device, 128, steps=10)
    assert best.name == "calibrated-16"
    free = best.price.after(10)
    assert bp.plan(device, 128, Budget(rows=free.total_rows), steps=10).name == best.name
    forced = bp.plan(device, 128, {"rows": free.total_rows - 1}, steps=10)
    assert forced.name == "calibrated-8"
    assert f"{free.total_rows:,} rows of {free.total_rows - 1:,} left" in forced.reason
    assert "train worse" in forced.reason
    assert forced.price.after(10).total_rows < free.total_rows
    smallest = bp.plan(device, 128, Budget(rows=2000))
    assert "row" not in smallest.name
    assert smallest.price.after(1).total_rows <= 2000


def test_what_is_spent_of_a_budget_is_gone():
    device, budget = Microring(16, 8), Budget(rows=600)
    assert bp.plan(device, 32, budget).name == "calibrated-16"
    budget.spend(bp.core.Count(Counter({bp.Purpose.FORWARD: 400})), {})
    assert bp.plan(device, 32, budget).name == "calibrated-8"


def test_no_plan_that_fits_names_the_nearest_and_what_it_lacks():
    device = Microring(784, 128)
    with pytest.raises(BudgetExhausted, match=r"nearest, .*rows of 100 left"):
        bp.plan(device, 128, Budget(rows=100))
    with pytest.raises(BudgetExhausted, match=r"1,000 steps of 128 rows .*; \d+ of the steps would fit"):
        bp.plan(device, 128, Budget(rows=30_000), steps=1000)
    with pytest.raises(BudgetExhausted, match=r"seconds of 1e-07 left"):
        bp.plan(device, 128, Budget(seconds=1e-7))


def test_a_circuit_is_shifted_where_that_is_declared_and_affordable():
    def circuit(**theta) -> bp.Device:
        return bp.devices.from_callable(
            lambda x, t: (x + t[:4]).cos() * (2 * t[4:8]).cos(), in_shape=4, out_shape=4, theta_size=24, **theta
        )

    plan = bp.plan(circuit(period=2 * math.pi, harmonics=1), 32)
    assert isinstance(plan.estimator, ParameterShift)
    assert plan.price.step.total_programmings == 49
    assert bp.plan(circuit(period=2 * math.pi), 32).name == "ask-first"
    assert isinstance(bp.plan(circuit(period=2 * math.pi, noise=0.01), 32).estimator, RandomDirections)
    forced = bp.plan(circuit(period=2 * math.pi, harmonics=1, noise=0.01), 32, {"programmings": 2000}, steps=100)
    assert forced.name == "perturbed"
    assert "parameter-shift, which does not fit" in forced.reason


# The table


def test_users_append_candidates_of_their_own():
    chip = bp.devices.ImperfectMZIMesh(8, 4)

    def make(spec: bp.Declaration) -> bp.presets.Method:
        twin = bp.surrogates.Twin(bp.twins.MeshTwin(chip), settings=12, rows=5, fit_steps=3, online_steps=0)
        return bp.presets.Method(FromSurrogate(twin), twin)

    mine = Candidate(
        "twin", Quality.EXACT, lambda s: "ImperfectMZIMesh" in s.name, make, lambda s: "we have a model of this chip"
    )
    plan = bp.plan(chip, 16, candidates=[mine, *CANDIDATES])
    assert (plan.name, plan.reason) == ("twin", "we have a model of this chip")
    assert plan.price.start.total_rows == 12 * 5
    assert bp.plan(LightModulator(8, 4), 16, candidates=[mine, *CANDIDATES]).name == "calibrated-16"
    priced = Candidate(
        "free",
        Quality.EXACT,
        mine.applies,
        make,
        mine.reason,
        price=lambda *_: bp.planning.Price(bp.Ledger(), bp.Ledger()),
    )
    assert bp.plan(chip, 16, candidates=[mine, priced]).name == "free"


def test_wrong_arguments_are_refused():
    device = Microring(8, 4)
    for arguments, words in (
        ({"batch_size": 0}, "at least 1"),
        ({"batch_size": 4, "steps": 0}, "at least 1"),
        ({"batch_size": 4, "budget": {"euros": 3}}, "rows, programmings, seconds and joules"),
        ({"batch_size": 4, "candidates": [CANDIDATES[0]] * 2}, "different names"),
    ):
        with pytest.raises(ArgumentError, match=words):
            bp.plan(device, **arguments)
    with pytest.raises(IncompatibleError, match="none of the candidates"):
        bp.plan(MZIMesh(4, 4), 4, candidates=[CANDIDATES[0]])
    for wrong in ({"harmonics": 1}, {"period": 1.0, "harmonics": 0}):
        with pytest.raises(ArgumentError, match="harmonics"):
            bp.ThetaSpec(3, **wrong)


def test_beside_a_named_surrogate_stands_the_best_estimator_that_needs_no_other():
    layer = bp.PhysicalLayer(LightModulator(6, 4), surrogate=bp.surrogates.Streaming())
    assert isinstance(layer.estimator, DirectionalMemory)
    assert "estimator by element coupling: each output is credited" in layer.reason


# The declaration that parameter shift needs


def test_declared_harmonics_are_held_to_the_device():
    def device(harmonics: int) -> bp.Device:
        return bp.devices.from_callable(
            lambda x, t: x @ (t.cos() + 0.2 * (2 * t).sin()).view(3, 4).mT,
            in_shape=4,
            out_shape=3,
            theta_size=12,
            initial=lambda g: torch.rand(12, generator=g),
            period=2 * math.pi,
            harmonics=harmonics,
        )

    assert "harmonics 2" in str(bp.testing.check_device(device(2)))
    with pytest.raises(bp.errors.ContractError, match="harmonics 1"):
        bp.testing.check_device(device(1))


def test_parameter_shift_refuses_a_device_that_declares_more_than_one_harmonic():
    with pytest.raises(IncompatibleError, match="one harmonic"):
        bp.PhysicalLayer(Bench(period=2 * math.pi, harmonics=2), ParameterShift())


def test_declared_harmonics_travel_with_the_declaration(tmp_path):
    from blackprop.lab.remote.shared._spec_codec import describe, understand

    device = Bench(period=2 * math.pi, harmonics=1)
    fields, arrays = describe(device.declaration)
    assert understand(fields, arrays, lambda g: torch.zeros(24)).theta.harmonics == 1
    del fields["harmonics"]  # a server of before
    assert understand(fields, arrays, lambda g: torch.zeros(24)).theta.harmonics is None
    with bp.lab.Recorded(device, tmp_path / "recording") as recorded:
        recorded.measure([bp.Query(draw(2, D_IN), torch.ones(24), bp.Purpose.CALIBRATE)])
    assert bp.lab.Replayed(tmp_path / "recording").theta.harmonics == 1
    assert bp.devices.Declared(device, period=1.0).theta.harmonics is None
