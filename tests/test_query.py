"""The driver, the lists it serves, and the price known beforehand."""

from __future__ import annotations

from collections import Counter

import pytest
import torch

import blackprop as bp
from blackprop.core import Count, Purpose, Query, ask, metered, run
from blackprop.core._procedure import reading_first
from blackprop.core._round import Round
from blackprop.errors import LimitError, ReadingError, ShapeError
from support import Opaque, draw


def test_run_serves_rounds_and_returns_the_result():
    def procedure():
        first = yield [1, 2]
        second = yield [3]
        return first + second

    rounds = []

    def measure(queries):
        rounds.append(queries)
        return [10 * q for q in queries]

    assert run(procedure(), measure) == [10, 20, 30]
    assert rounds == [[1, 2], [3]]


def test_consecutive_queries_at_one_setting_are_one_programming():
    a, b, x = draw(3, seed=1), draw(3, seed=2), draw(5, 2)
    queries = [
        Query(x, a, Purpose.FORWARD),
        Query(x, a.clone(), Purpose.SURROGATE),
        Query(x[:2], b, Purpose.PARAMETER),
        Query(x, a, Purpose.PARAMETER),
    ]
    spent = Round.of(queries).spending(programmed=None)
    assert dict(spent.rows) == {Purpose.FORWARD: 5, Purpose.SURROGATE: 5, Purpose.PARAMETER: 7}
    assert dict(spent.programmings) == {Purpose.FORWARD: 1, Purpose.PARAMETER: 2}
    assert dict(Round.of(queries[:2]).spending(programmed=a.clone()).programmings) == {}


def test_a_row_read_on_the_way_shares_the_procedures_programming(opaque, generator):
    old, new = opaque.theta.draw(generator), opaque.theta.draw(generator)
    x, probe = draw(3, 6), draw(2, 6, seed=1)

    def follow():
        readings = yield [Query(probe, old, Purpose.SURROGATE), Query(probe, new, Purpose.SURROGATE)]
        assert [len(r) for r in readings] == [2, 2]

    ledger = bp.Ledger()
    y = run(reading_first(Query(x, new, Purpose.FORWARD), follow()), metered(opaque, ledger))
    assert len(y) == 3
    assert len(opaque.written) == 2
    assert ledger.programmings == {Purpose.SURROGATE: 1, Purpose.FORWARD: 1}
    opaque.inner.program(new)
    torch.testing.assert_close(y, opaque.inner.read(x))


def test_a_row_is_read_even_where_the_procedure_asks_nothing(opaque, generator):
    def nothing():
        return
        yield

    theta = opaque.theta.draw(generator)
    y = run(reading_first(Query(draw(3, 6), theta, Purpose.FORWARD), nothing()), metered(opaque, bp.Ledger()))
    assert y.shape == (3, 4)


def test_price_equals_what_a_run_books_and_measures_nothing(opaque, generator):
    estimator = bp.estimators.RandomDirections(7, contraction=bp.estimators.BatchContraction())
    theta, x, g = opaque.theta.draw(generator), draw(9, 6), draw(9, 4)

    def procedure():
        return estimator.grad_theta(x, theta, draw(9, 4), g, opaque.declaration, torch.Generator().manual_seed(3))

    price = bp.price(procedure, opaque)
    assert not opaque.rows
    assert not opaque.written
    ledger = bp.Ledger()
    run(procedure(), metered(opaque, ledger))
    assert price == ledger
    assert ledger.rows[Purpose.PARAMETER] == 8 * 4
    assert ledger.programmings[Purpose.PARAMETER] == 8


@pytest.mark.parametrize(
    ("x", "theta", "error", "words"),
    [
        (draw(3, 5), draw(24), ShapeError, r"rows of shape \(6,\), got \(3, 5\)"),
        (draw(3, 6), draw(23), ShapeError, r"\(24,\), got \(23,\)"),
        (draw(3, 6), draw(24).index_fill(0, torch.tensor(5), torch.nan), LimitError, r"theta\[5\] is nan"),
        (draw(3, 6).index_fill(0, torch.tensor(2), torch.inf), draw(24), LimitError, "row 2 of the evaluate query"),
    ],
)
def test_bad_queries_are_refused_before_anything_is_spent(opaque, x, theta, error, words):
    ledger = bp.Ledger()
    with pytest.raises(error, match=words):
        run(ask(Query(x, theta, Purpose.EVALUATE)), metered(opaque, ledger))
    assert not opaque.rows
    assert ledger.total_rows == 0


def test_theta_outside_the_limits_never_reaches_the_device():
    device = bp.devices.from_callable(lambda x, theta: x * theta, in_shape=2, out_shape=2, theta_size=2, low=0, high=1)
    with pytest.raises(LimitError, match=r"theta\[1\] = 1.5 is outside the device's limits \[0, 1\]"):
        run(ask(Query(draw(1, 2), torch.tensor([0.5, 1.5]), Purpose.FORWARD)), metered(device, bp.Ledger()))


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (lambda x, theta: x[:, :3], r"returned shape \(4, 3\), expected \(4, 5\)"),
        (lambda x, theta: x.double(), "float64"),
        (lambda x, theta: x.numpy(), "ndarray"),
        (lambda x, theta: x.to("meta"), "meta"),
        (lambda x, theta: x.index_fill(0, torch.tensor([2, 3]), torch.nan), "parameter query to Answering.*row 2 of 4"),
        (lambda x, theta: x.index_fill(0, torch.tensor([1]), torch.inf), "row 1 of 4"),
    ],
)
def test_unusable_readings_are_named_and_stay_counted(answer, words):
    class Answering(bp.Device):
        def program(self, theta: torch.Tensor, /) -> None:
            pass

        def read(self, x: torch.Tensor, /) -> torch.Tensor:
            return answer(x, None)

    device = Answering(5, 5, 1)
    ledger = bp.Ledger()
    with pytest.raises(ReadingError, match=words):
        run(ask(Query(draw(4, 5), torch.zeros(1), Purpose.PARAMETER)), metered(device, ledger))
    assert ledger.rows[Purpose.PARAMETER] == 4


def test_large_finite_readings_are_not_taken_for_infinite_ones():
    device = bp.devices.from_callable(lambda x, theta: x + 3e38, in_shape=5, out_shape=5, theta_size=1)
    (y,) = run(ask(Query(torch.zeros(4, 5), torch.zeros(1), Purpose.FORWARD)), metered(device, bp.Ledger()))
    assert bool(y.isfinite().all())


def test_a_device_that_fails_is_programmed_anew(generator):
    class Fragile(Opaque):
        broken = False

        def program(self, theta, /):
            super().program(theta)
            if self.broken:
                raise OSError("link down")

    device = Fragile(bp.devices.LightModulator(6, 4))
    a, b, x = device.theta.draw(generator), device.theta.draw(generator), draw(2, 6)
    device.measure([Query(x, a, Purpose.FORWARD)])
    device.broken = True
    with pytest.raises(OSError, match="link down"):
        device.measure([Query(x, b, Purpose.FORWARD)])
    assert device.programmed is None
    device.broken = False
    device.measure([Query(x, a, Purpose.FORWARD)])
    assert len(device.written) == 3


def test_counts_are_added_and_taken_away_by_purpose_and_name():
    one = Count(Counter({Purpose.FORWARD: 5, Purpose.PARAMETER: 2}), Counter({Purpose.FORWARD: 3}), Counter(taps=4))
    other = Count(Counter({Purpose.FORWARD: 2}), Counter({Purpose.FORWARD: 3}), Counter(taps=1))
    one.subtract(other)
    assert one.entries() == Count(Counter({Purpose.FORWARD: 3, Purpose.PARAMETER: 2}), Counter(), Counter(taps=3))
    one.add(other)
    assert (one.rows[Purpose.FORWARD], one.programmings[Purpose.FORWARD], one.actions["taps"]) == (5, 3, 4)
