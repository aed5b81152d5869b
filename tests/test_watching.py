"""Whether a device has moved, by the batches of training, and what may be spent on it: each rule by itself."""

from __future__ import annotations

import logging
import math

import pytest
import torch
from torch import Tensor

from blackprop.errors import BlackpropWarning
from blackprop.surrogates._monitor import AGAIN, FOUND, Monitor
from blackprop.surrogates._watch import CALM, excess, has_moved, watched

# What may be spent on a device that has moved.


def test_the_allowance_is_a_reserve_and_a_share_less_what_was_spent(caplog):
    monitor = Monitor(0.25)
    assert monitor.allowance == 0
    monitor.reserve(100)
    for _ in range(4):
        monitor.saw(20)
    assert monitor.allowance == 120
    assert monitor.covers(120, "bench")
    with caplog.at_level(logging.INFO, "blackprop"):
        monitor.spend("bench", FOUND, 4.5, 50, 1)
        monitor.spend("bench", AGAIN, 9.0, 70, 16)
    assert monitor.allowance == 0
    assert "bench after 4 batches: residual 4.5 times what is normal; displacement found for 50 rows" in caplog.text
    events = [(e.batch, e.what, e.residual, e.rows, e.programmings) for e in monitor.events]
    assert events == [(4, FOUND, 4.5, 50, 1), (4, AGAIN, 9.0, 70, 16)]
    assert monitor.diagnosis() == {"moved": 2, "moved_rows": 120, "moved_programmings": 17, "moved_allowance": 0}
    with pytest.warns(BlackpropWarning, match="the 1 rows to find its displacement are more than the 0"):
        assert not monitor.covers(1, "bench")
    assert not monitor.covers(1, "bench")  # told once
    assert monitor.covers(0, "bench")


def test_the_log_keeps_the_latest_and_sums_reach_back():
    monitor = Monitor(0.0)
    for number in range(103):
        monitor.saw(1)
        monitor.spend("bench", FOUND, 1.0, number, 1)
    assert [event.rows for event in monitor.events] == list(range(3, 103))
    assert monitor.diagnosis()["moved"] == 103
    other = Monitor(0.0)
    other.load_state_dict(monitor.state_dict())
    assert other.events == monitor.events


# Whether a device has moved.


def watch(errors: list[float], power: float = 1.0) -> Tensor:
    """Statistics after batches with these root mean square residuals, of outputs of this mean square."""
    statistics = torch.zeros(4)
    for error in errors:
        y = torch.full((8, 2), math.sqrt(power))
        statistics = watched(statistics, y + error, y)
    return statistics


def test_what_is_normal_is_the_mean_of_the_first_batches():
    statistics = watch([0.1, 0.3] * (CALM // 2) + [0.5])
    now, calm, size, seen = statistics.tolist()
    assert calm == pytest.approx((0.01 + 0.09) / 2)
    assert size == pytest.approx(1.0)
    assert seen == CALM + 1
    assert now == pytest.approx(0.09 + (0.25 - 0.09) / 5)  # a fifth of what is new
    assert excess(statistics) == pytest.approx(math.sqrt(now / calm))
    assert excess(torch.zeros(4)) == 0


@pytest.mark.parametrize(("error", "moved"), [(0.29, False), (0.31, True)])
def test_a_device_has_moved_where_the_residual_is_so_many_times_the_normal_one(error, moved):
    assert has_moved(watch([0.1] * (2 * CALM) + [error] * 60), 3.0) == moved
    assert not has_moved(watch([0.1] * (2 * CALM) + [error] * 60), None)


def test_so_early_nothing_has_moved():
    calm = [0.1] * CALM
    assert not has_moved(watch(calm + [5.0] * CALM), 3.0)
    assert has_moved(watch(calm + [5.0] * (CALM + 1)), 3.0)


@pytest.mark.parametrize(("error", "moved"), [(0.009, False), (0.011, True)])
def test_one_per_cent_of_the_output_spoils_no_gradient(error, moved):
    """However good the fit was."""
    assert has_moved(watch([1e-6] * (2 * CALM) + [error] * 80), 3.0) == moved
    assert has_moved(watch([1e-6] * (2 * CALM) + [10 * error] * 80, power=100.0), 3.0) == moved


@pytest.mark.parametrize(("error", "moved"), [(0.59, False), (0.62, True)])
def test_a_calibration_that_leaves_more_lets_more_pass(error, moved):
    statistics = watch([0.01] * (2 * CALM) + [error] * 80)
    assert has_moved(statistics, 3.0, left=0.2) == moved
    assert excess(statistics, left=0.2) == pytest.approx(error / 0.2, rel=0.01)


@pytest.mark.parametrize(
    ("left", "limit"),
    [(0.01, 0.09), (0.05, 0.45), (1e-5, 0.01)],  # 3 · 3 · left, and no less than 1 %
)
@pytest.mark.parametrize("batches", [1, CALM + 1, 2 * CALM])
def test_the_first_batches_are_judged_by_what_the_calibration_left(left, limit, batches):
    for power in (1.0, 100.0):
        size = math.sqrt(power)
        assert not has_moved(watch([0.95 * limit * size] * batches, power), 3.0, left)
        assert has_moved(watch([1.05 * limit * size] * batches, power), 3.0, left)
        assert not has_moved(watch([1.05 * limit * size] * batches, power), None, left)
        assert not has_moved(watch([5.0 * size] * batches, power), 3.0, left=0.0)


@pytest.mark.parametrize("batches", [1, CALM, 3 * CALM])
def test_a_device_that_answers_nothing_to_nothing_has_not_moved(batches):
    assert not has_moved(watch([0.0] * batches, power=0.0), 3.0, left=0.1)
