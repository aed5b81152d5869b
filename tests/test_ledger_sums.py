"""What is spent is what was asked: repeats, budgets to the last row, multiples of a ledger."""

from __future__ import annotations

from collections import Counter

import pytest
import torch

import blackprop as bp
from blackprop.core import Count, Ledger, Purpose, Query, ask, metered, run
from blackprop.errors import ArgumentError, BudgetExhausted
from blackprop.planning import Price
from support import Opaque, draw

COST = bp.Cost(programming=2.0, row=0.5)


class Repeating(Opaque):
    """Every round is asked twice over, as after a lost answer; the second time beside the queries."""

    def __init__(self) -> None:
        super().__init__(bp.devices.LightModulator(6, 4, cost=COST))
        self.again = Count()

    def measure(self, queries, /):
        for query in queries:
            self.again.rows[query.purpose] += len(query.x)
            self.again.programmings[query.purpose] += 1
        return super().measure(queries)

    def repeated(self):
        again, self.again = self.again, Count()
        return again


def test_what_a_device_was_asked_again_is_spent_from_the_budget_too():
    device, ledger, budget = Repeating(), Ledger(), bp.Budget(rows=13, programmings=100, seconds=100.0)
    theta = device.theta.draw(torch.Generator().manual_seed(0))
    measure = metered(device, ledger, budget)
    run(ask(Query(draw(5, 6), theta, Purpose.FORWARD)), measure)
    assert ledger.rows == {Purpose.FORWARD: 10}
    assert ledger.programmings == {Purpose.FORWARD: 2}
    assert ledger.lab_seconds == 10 * 0.5 + 2 * 2.0
    assert budget.spent == {"rows": 10, "programmings": 2, "seconds": 9.0, "joules": 0.0}
    # What it is asked again is booked even where the budget does not hold it, and nothing is measured after that.
    run(ask(Query(draw(3, 6), theta, Purpose.PARAMETER)), measure)
    assert budget.spent["rows"] == 16
    with pytest.raises(BudgetExhausted):
        run(ask(Query(draw(1, 6), theta, Purpose.PARAMETER)), measure)
    assert len(device.rows) == 2


def test_repeats_are_booked_where_the_device_fails():
    class Failing(Repeating):
        def read(self, x, /):
            raise OSError("link down")

    device, ledger, budget = Failing(), Ledger(), bp.Budget()
    with pytest.raises(OSError, match="link down"):
        run(ask(Query(draw(5, 6), torch.zeros(24), Purpose.FORWARD)), metered(device, ledger, budget))
    assert ledger.rows == {Purpose.FORWARD: 10}
    assert budget.spent["rows"] == 10


@pytest.mark.parametrize(
    ("seconds", "cost", "rows"),
    [(0.3, 0.1, 3), (0.7, 0.1, 7), (1.1, 0.1, 11), (1.0, 1 / 3, 3), (0.3, 0.2, 1), (0.0, 0.1, 0), (2.9, 0.1, 29)],
)
@pytest.mark.parametrize("together", [True, False])
def test_a_budget_of_seconds_holds_as_many_rows_as_divide_it(seconds, cost, rows, together):
    """Three rows of 0.1 s are 0.3 s, whatever their sum in floating point."""
    device = bp.devices.LightModulator(6, 4, cost=bp.Cost(row=cost))
    budget = bp.Budget(seconds=seconds)
    measure = metered(device, Ledger(), budget)
    for part in [rows] if together else [1] * rows:
        run(ask(Query(draw(part, 6), torch.zeros(24), Purpose.FORWARD)), measure)
    with pytest.raises(BudgetExhausted):
        run(ask(Query(draw(1, 6), torch.zeros(24), Purpose.FORWARD)), measure)


def spent(rows=0, programmings=0):
    return Count(Counter({Purpose.FORWARD: rows}), Counter({Purpose.FORWARD: programmings}))


@pytest.mark.parametrize("name", ["rows", "programmings"])
def test_a_budget_of_whole_numbers_is_exact_however_large(name):
    """One more than ten billion is more than ten billion."""
    budget = bp.Budget(**{name: 10**10})
    budget.reserve(spent(**{name: 10**10}), {})
    with pytest.raises(BudgetExhausted):
        budget.reserve(spent(**{name: 1}), {})
    assert budget.spent[name] == 10**10


def test_a_budget_of_nothing_is_one_and_none_is_no_limit():
    with pytest.raises(BudgetExhausted):
        bp.Budget(rows=0).reserve(spent(1, 0), {})
    bp.Budget(rows=0).reserve(spent(0, 5), {"seconds": 5.0})
    bp.Budget().reserve(spent(10**12, 10**12), {"seconds": 1e12})
    with pytest.raises(ArgumentError):
        bp.Budget(seconds=-1e-9)


def test_the_price_of_many_steps_is_the_first_and_the_later_ones_times_their_number():
    first, step = Ledger(), Ledger()
    step.add(Count({Purpose.FORWARD: 7, Purpose.PARAMETER: 5}, {Purpose.FORWARD: 1}), {"seconds": 0.25})
    first.add(Count(step.rows, step.programmings), {"seconds": 0.25})
    first.add(Count({Purpose.CALIBRATE: 96}, {Purpose.CALIBRATE: 16}), {"seconds": 3.0})
    price = Price(first, step)
    assert price.after(12) == Ledger.sum([first, *[step] * 11])
    assert price.start.rows == {Purpose.CALIBRATE: 96}
    assert price.after(0) == Ledger()
    many = price.after(10**9)  # at once, and not in a billion sums
    assert many.rows[Purpose.PARAMETER] == 5 * 10**9
    assert many.lab_seconds == 3.0 + 0.25e9
    assert step.rows[Purpose.FORWARD] == 7
