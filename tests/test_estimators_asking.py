"""How estimators ask: in rounds that are bounded and no smaller than need be, at shifts of their step, of the rows that
they say; and what stateful ones keep in eval.
"""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from torch import Tensor

import blackprop as bp
from blackprop.core import Nudges, Purpose, Query, metered, run
from blackprop.directions import Orthogonal, Rademacher
from blackprop.errors import ArgumentError, IncompatibleError
from blackprop.estimators import (
    Averaged,
    BatchContraction,
    ByOutput,
    Central,
    Coordinate,
    DirectionalMemory,
    ElementShift,
    EquilibriumPropagation,
    Forward,
    GuidedDirections,
    Oracle,
    ParameterShift,
    ProbeContraction,
    RandomDirections,
)
from support import draw

P, D_IN, D_OUT = 96, 12, 8


class Asked:
    """A problem on a light modulator, and the rounds that an estimator asked for it."""

    def __init__(self, device=None, rows: int = 20, dtype=torch.float64) -> None:
        self.device = device if device is not None else bp.devices.LightModulator(D_IN, D_OUT)
        self.spec = self.device.declaration
        self.theta = self.device.theta.draw(torch.Generator().manual_seed(0)).to(dtype)
        self.x = draw(rows, self.spec.d_in, dtype=dtype)
        self.grad_y = draw(rows, self.spec.d_out, seed=1, dtype=dtype)
        self.rounds: list[list[Query]] = []
        self.ledger = bp.Ledger()

    def of(self, estimator, seed: int = 0) -> Tensor:
        self.rounds, measure = [], metered(self.device, self.ledger)

        def kept(queries: list[Query]) -> list[Tensor]:
            self.rounds.append(queries)
            return measure(queries)

        y, generator = self.device.transfer(self.x, self.theta), torch.Generator().manual_seed(seed)
        with torch.no_grad():
            return run(estimator.grad_theta(self.x, self.theta, y, self.grad_y, self.spec, generator), kept)

    def truth(self) -> Tensor:
        return self.of(Oracle())

    @property
    def queries(self) -> list[Query]:
        return [query for round_ in self.rounds for query in round_]

    def bytes(self, round_: list[Query]) -> int:
        """Settings and readings."""
        size = self.theta.element_size()
        return size * sum(q.theta.numel() + len(q.x) * self.spec.d_out for q in round_)


EVERY = [
    RandomDirections(200, 1e-4),
    RandomDirections(200, 1e-4, difference=Central()),
    RandomDirections(200, 1e-4, contraction=BatchContraction()),
    RandomDirections(200, 1e-4, directions=Orthogonal()),
    RandomDirections(200, 1e-4, fraction=0.5),
    Coordinate(1e-4),
    Coordinate(1e-4, Forward()),
    Coordinate(1e-4, contraction=ProbeContraction(4)),
]


@pytest.mark.parametrize("estimator", EVERY, ids=str)
@pytest.mark.parametrize("limit", [1, 20_000, 100_000])
def test_rounds_hold_what_they_may_and_no_less_than_a_quarter_of_it(estimator, limit, monkeypatch):
    for module in ("random_directions", "coordinate"):
        monkeypatch.setattr(f"blackprop.estimators._{module}.ROUND_BYTES", limit)
    problem = Asked()
    problem.of(estimator)
    sizes = [problem.bytes(round_) for round_ in problem.rounds]
    ends = 1 if isinstance(getattr(estimator, "difference", None), Forward) else 2
    if limit == 1:  # a direction at a time is the least
        assert {len(round_) for round_ in problem.rounds[1:]} == {ends}
    else:
        assert max(sizes) <= limit
        assert len(sizes) <= 1 + math.ceil(4 * sum(sizes) / limit)


@pytest.mark.parametrize("limit", [1, 100_000])
def test_a_gradient_is_the_same_however_its_rounds_are_cut(limit, monkeypatch):
    for estimator in (
        RandomDirections(40, 1e-4, directions=Orthogonal()),
        Coordinate(1e-4),
        Coordinate(1e-4, Forward()),
    ):
        whole = Asked().of(estimator)
        for module in ("random_directions", "coordinate"):
            monkeypatch.setattr(f"blackprop.estimators._{module}.ROUND_BYTES", limit)
        torch.testing.assert_close(Asked().of(estimator), whole)
        monkeypatch.undo()


@pytest.mark.parametrize("step", [1e-4, 0.3])
def test_coordinates_are_shifted_one_at_a_time_by_the_step(step):
    problem = Asked()
    problem.of(Coordinate(step))
    shifts = torch.stack([query.theta - problem.theta for query in problem.queries])
    assert shifts.shape == (2 * P, P)
    assert int((shifts.abs() > 1e-12).sum(1).max()) == 1
    torch.testing.assert_close(shifts.abs().sum(0), torch.full((P,), 2 * step, dtype=torch.float64))
    torch.testing.assert_close(shifts.sum(0), torch.zeros(P, dtype=torch.float64), atol=1e-12, rtol=0)
    assert {query.purpose for query in problem.queries} == {Purpose.PARAMETER}


@pytest.mark.parametrize(("difference", "signs"), [(Forward(), [1]), (Central(), [1, -1])])
def test_random_directions_are_shifts_of_the_step_along_them(difference, signs):
    problem = Asked()
    problem.of(RandomDirections(5, 0.25, Rademacher(), difference))
    shifts = torch.stack([query.theta - problem.theta for query in problem.queries])
    assert len(shifts) == 5 * len(signs)
    torch.testing.assert_close(shifts.abs(), torch.full_like(shifts, 0.25))
    if len(signs) == 2:
        torch.testing.assert_close(shifts[:5], -shifts[5:])
    assert len({tuple(row.tolist()) for row in shifts.sign()}) == len(shifts)


@pytest.mark.parametrize(("fraction", "rows"), [(1.0, 20), (0.5, 10), (0.26, 5), (0.01, 1)])
def test_a_fraction_is_so_many_rows_drawn_anew_for_each_direction(fraction, rows):
    problem = Asked()
    problem.of(RandomDirections(6, 1e-4, fraction=fraction))
    assert [len(query.x) for query in problem.queries] == [rows] * 6
    whole = {tuple(row.tolist()) for row in problem.x}
    picked = [{tuple(row.tolist()) for row in query.x} for query in problem.queries]
    assert all(len(some) == rows and some <= whole for some in picked)  # none twice
    assert fraction == 1 or len({frozenset(some) for some in picked}) > 1


def test_each_output_is_credited_with_its_own_parameters():
    """So one direction a parameter of an output is enough: 12 in place of 96."""
    problem = Asked()
    truth = problem.truth()
    estimator = RandomDirections(D_IN, 1e-6, Orthogonal(D_OUT), Central(), credit=ByOutput(D_OUT))
    torch.testing.assert_close(problem.of(estimator), truth, rtol=1e-5, atol=1e-7)
    assert estimator.credit.relative_variance(Rademacher(), 4, P) == Rademacher().relative_variance(4, P, part=D_IN)


def test_wrong_credits_are_refused():
    for device, words in (
        (bp.devices.MZIMesh(8, 8), "row or element coupling and .* declares none"),
        (bp.devices.LightModulator(12, 6), "is for 8 outputs and .* has 6"),
    ):
        with pytest.raises(IncompatibleError, match=words):
            RandomDirections(credit=ByOutput(8)).check(device.declaration)


def test_a_device_that_answers_to_no_light_has_no_slope():
    problem = Asked()
    problem.x = torch.zeros_like(problem.x)
    assert not problem.of(ElementShift()).any()
    assert problem.queries == []


@pytest.mark.parametrize("difference", [Forward(), Central()], ids=str)
@pytest.mark.parametrize("size", [1.0, 1e-3, 1e3])
def test_all_elements_at_once_are_read_at_the_amplitude_of_the_data(difference, size):
    problem = Asked()
    problem.x = size * problem.x
    found = problem.of(ElementShift(1e-5, difference))
    torch.testing.assert_close(found, problem.truth(), rtol=1e-3, atol=1e-4 * size)
    problem.of(ElementShift(1e-5, difference))
    length = float(problem.x.square().sum(1).mean().sqrt())
    for query in problem.queries:
        torch.testing.assert_close(query.x.norm(dim=1), torch.full((D_IN,), length, dtype=torch.float64))
    shifts = [float((query.theta - problem.theta).mean()) for query in problem.queries]
    assert shifts == pytest.approx([0, 1e-5] if difference.based else [1e-5, -1e-5], rel=1e-6)


@pytest.mark.parametrize("turns", [0.25, 0.1, 0.4])
def test_parameter_shift_is_exact_at_any_shift(turns):
    problem = Asked()
    torch.testing.assert_close(problem.of(ParameterShift(turns)), problem.truth())
    problem.of(ParameterShift(turns))
    shifts = torch.stack([query.theta - problem.theta for query in problem.queries])
    assert float(shifts.abs().max()) == pytest.approx(2 * math.pi * turns)


@pytest.mark.parametrize("turns", [0.0, 0.5, -0.1, 1.0])
def test_shifts_at_which_the_difference_vanishes_are_refused(turns):
    with pytest.raises(ArgumentError, match="between 0 and 1/2"):
        ParameterShift(turns)


@dataclasses.dataclass(frozen=True)
class Springs(Nudges):
    """`E = ½ |s − x W|²/θ̄`-like: rows push the nodes, and each parameter sees the square of its node."""

    def nudged(self, x: Tensor, grad_y: Tensor, step: float) -> Tensor:
        return x + step * grad_y

    def contrast(self, x: Tensor, plus: Tensor, minus: Tensor, span: float) -> Tensor:
        return (plus.square() - minus.square()).sum(0) / span

    def contrast_rows(self, theta: Tensor, plus: Tensor, minus: Tensor, span: float) -> Tensor:
        return theta * (plus - minus) / span


@pytest.mark.parametrize(("centred", "order"), [(True, 2), (False, 1)])
def test_equilibrium_propagation_nudges_the_rows_at_the_setting_of_the_forward_pass(centred, order):
    device = bp.devices.from_callable(lambda x, theta: x.sinh() * theta, in_shape=3, out_shape=3, theta_size=3)
    spec = dataclasses.replace(device.declaration, capabilities=(Springs(),))
    x, theta, grad_y = (draw(*shape, seed=s, dtype=torch.float64) for s, shape in enumerate([(4, 3), (3,), (4, 3)]))
    y, asked = x.sinh() * theta, []

    def measure(queries: list[Query]) -> list[Tensor]:
        asked.extend(queries)
        return device.measure([dataclasses.replace(query, capability=None) for query in queries])

    def found(step: float) -> tuple[Tensor, Tensor]:
        estimator = EquilibriumPropagation(step, centred)
        estimator.check(spec)
        assert estimator.bias_order == order
        both = run(estimator.gradients(x, theta, y, grad_y, spec), measure)
        alone = run(estimator.grad_theta(x, theta, y, grad_y, spec, torch.Generator()), measure)
        assert torch.equal(both[0], alone)
        return both

    exact = (2 * y * theta * x.cosh() * grad_y).sum(0), theta * theta * x.cosh() * grad_y  # slopes in the nudge
    errors = [[float((a - b).norm()) for a, b in zip(found(step), exact, strict=True)] for step in (1e-2, 1e-3)]
    for wide, narrow in zip(*errors, strict=True):
        assert math.log10(wide / narrow) == pytest.approx(order, abs=0.1)
    assert all(torch.equal(query.theta, theta) for query in asked)
    assert len(asked) == 4 * order
    torch.testing.assert_close(asked[0].x, x + 1e-2 * grad_y)
    if centred:
        torch.testing.assert_close(asked[1].x, x - 1e-2 * grad_y)


def test_two_sides_are_nudged_unless_told():
    assert EquilibriumPropagation().centred
    assert EquilibriumPropagation().step == 1.0
    with pytest.raises(IncompatibleError, match="does not declare the capability `nudges`"):
        EquilibriumPropagation().check(bp.devices.LightModulator(3, 3).declaration)


def test_estimators_that_draw_nothing_declare_no_variance_and_none_is_drawn():
    problem = Asked()
    exact = (Oracle(), Coordinate(1e-4), ElementShift(1e-4), ParameterShift(), EquilibriumPropagation())
    assert [estimator.relative_variance(P) for estimator in exact] == [0.0] * 5
    for estimator in exact[:4]:
        torch.testing.assert_close(problem.of(estimator, seed=0), problem.of(estimator, seed=1))


def test_a_device_without_a_period_has_no_parameter_shift():
    with pytest.raises(IncompatibleError, match=r"declares a period, and .* does not"):
        ParameterShift().check(bp.devices.Matrix(3, 2).declaration)


@pytest.mark.parametrize("harmonics", [None, 1, 2, 3])
def test_parameter_shift_is_for_one_harmonic_a_parameter(harmonics):
    """Of two, it would be wrong in silence."""
    spec = bp.ThetaSpec(4, period=2 * math.pi, harmonics=harmonics)
    device = bp.devices.from_callable(lambda x, theta: x, in_shape=4, out_shape=4, theta_size=4)
    declared = dataclasses.replace(device.declaration, theta=spec)
    if harmonics in {None, 1}:
        ParameterShift().check(declared)
    else:
        with pytest.raises(IncompatibleError, match=f"one harmonic a parameter and .* declares {harmonics}"):
            ParameterShift().check(declared)


# Estimators with state.


def _bound(estimator, problem: Asked):
    estimator.bind(problem.spec)
    return estimator.to(problem.theta)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Averaged(RandomDirections(3, 1e-4), 0.7),
        lambda: GuidedDirections(3, 1e-4, memory=2),
        lambda: DirectionalMemory(3, rank=4, step=1e-4),
    ],
    ids=["averaged", "guided", "memory"],
)
def test_nothing_is_kept_in_eval_and_the_estimate_is_that_of_training(make):
    problem = Asked()
    estimator = _bound(make(), problem)
    for seed in range(3):
        problem.of(estimator, seed)
    before = {name: value.clone() for name, value in estimator.state_dict().items()}
    quiet = problem.of(estimator.eval(), seed=7)
    assert all(torch.equal(value, before[name]) for name, value in estimator.state_dict().items())
    assert torch.equal(problem.of(estimator.train(), seed=7), quiet)
    assert any(not torch.equal(value, before[name]) for name, value in estimator.state_dict().items())


def test_a_narrow_guide_reaches_further_and_needs_more_room():
    """Of one past estimate, `u` may be √(P/2) times as long along it as plain directions are."""
    device = bp.devices.from_callable(
        lambda x, theta: x * theta, in_shape=24, out_shape=24, theta_size=24, low=0.0, high=1.0
    )
    GuidedDirections(3, 0.03, memory=24).check(device.declaration)
    GuidedDirections(3, 0.03, memory=1, alpha=1.0).check(device.declaration)
    with pytest.raises(IncompatibleError, match="use a smaller step"):
        GuidedDirections(3, 0.03, memory=1).bind(device.declaration)


def test_a_zero_gradient_guides_nowhere():
    problem = Asked()
    guided = _bound(GuidedDirections(3, 1e-4, memory=2), problem)
    problem.grad_y = torch.zeros_like(problem.grad_y)
    problem.of(guided)
    assert int(guided.steps) == 0
    assert not guided.past.any()


def test_the_newest_estimate_comes_first_and_the_oldest_goes():
    problem = Asked()
    guided = _bound(GuidedDirections(3, 1e-4, memory=2), problem)
    found = [problem.of(guided, seed) for seed in range(4)]
    for row, estimate in zip(guided.past, (found[3], found[2]), strict=True):
        torch.testing.assert_close(row, estimate / estimate.norm())


def test_guided_directions_are_as_long_as_plain_ones_on_average():
    """`E|u|² = P` for every alpha, which is what the step is chosen for."""
    from blackprop.estimators.memory._guided import Guided

    basis = torch.linalg.qr(draw(60, 3, dtype=torch.float64)).Q
    for alpha in (0.1, 0.5, 1.0):
        family = Guided(basis, alpha)
        u = family.sample(4000, 60, torch.Generator().manual_seed(0), basis)
        assert float(u.square().sum(1).mean()) == pytest.approx(60, rel=0.05)
        assert float((u @ basis).square().sum(1).mean()) == pytest.approx(3 * alpha + (1 - alpha) * 60, rel=0.07)
        assert float(u.abs().max()) < family.reach(60)
        across = torch.linalg.qr(torch.cat((basis, draw(60, 1, dtype=torch.float64)), 1)).Q[:, 3]
        terms = (u @ across)[:, None] * u
        spread = float((terms - alpha * across).square().sum(1).mean())
        assert spread == pytest.approx(alpha * (60 + alpha), rel=0.1)
        assert family.relative_variance(1, 60) == pytest.approx(alpha * (60 + alpha))
