"""Series of sequence tasks are what their equations say; readouts, scores and capacities what theirs do."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from torch import nn

from blackprop import errors
from blackprop.experiments.tasks.sequences import _capacity as capacity
from blackprop.experiments.tasks.sequences import _ridge as ridge
from blackprop.experiments.tasks.sequences import _series as series
from blackprop.experiments.tasks.sequences._capacity import memory_capacity, parity_capacity
from blackprop.experiments.tasks.sequences._objective import Capacity, Regression, Symbols
from support import draw


class DelayLine(nn.Module):
    """Node k holds the input of k steps ago."""

    def __init__(self, nodes):
        super().__init__()
        self.nodes = nodes

    def forward(self, x):
        return torch.stack([nn.functional.pad(x[..., 0], (k, 0))[:, : x.shape[1]] for k in range(self.nodes)], -1)


# Series.


def test_narma_follows_its_recurrence(generator):
    u, y = (values.double() for values in series.narma10(3, 80, generator))
    t = torch.arange(10, 80)  # y[t] is y(t + 1)
    sums = sum(y[:, t - i] for i in range(1, 11))
    expected = 0.3 * y[:, t - 1] + 0.05 * y[:, t - 1] * sums + 1.5 * u[:, t - 9] * u[:, t] + 0.1
    torch.testing.assert_close(y[:, t], expected, atol=1e-6, rtol=0)
    assert 0 <= float(u.min()) < 0.02
    assert 0.48 < float(u.max()) <= 0.5


def test_narma_sequences_that_diverge_are_drawn_anew_and_no_others():
    count, steps = 8000, 200
    seeded = [torch.Generator().manual_seed(0) for _ in range(2)]
    raw = torch.rand(count, steps + series.MEMORY, generator=seeded[0], dtype=torch.float64) / 2
    diverge = ~(series._narma10(raw).abs() <= 1).all(1)
    u, y = series.narma10(count, steps, seeded[1])
    assert 0 < int(diverge.sum()) < 40
    assert float(y.abs().max()) <= 1
    same = (u == raw[:, series.MEMORY :].float()).all(1)
    assert torch.equal(same, ~diverge)


def test_narma_that_always_diverges_is_refused(generator, monkeypatch):
    monkeypatch.setattr(series, "_narma10", lambda u: torch.full_like(u, float("nan")))
    with pytest.raises(errors.ArgumentError, match="shorter sequences"):
        series.narma10(2, 5, generator)


def test_mackey_glass_is_integrated_to_fourth_order():
    start = np.array([0.9, 1.2])
    exact = series.integrate_mackey_glass(start, 60, 64)
    steps = np.array([2, 4, 8])
    found = [np.abs(series.integrate_mackey_glass(start, 60, n) - exact).max() for n in steps]
    slope = -np.polyfit(np.log(steps), np.log(found), 1)[0]
    assert 3.6 < slope < 4.6


def test_mackey_glass_sequences_differ_and_keep_to_its_attractor(generator):
    x = series.mackey_glass(4, 300, generator)
    plain = x.atanh() + 1
    assert 0.35 < float(plain.min()) < 0.55
    assert 1.2 < float(plain.max()) < 1.4
    assert float((x[0] - x[1]).abs().mean()) > 0.05


def test_the_channel_distorts_as_published(generator):
    again = torch.Generator().manual_seed(0)
    clean, sent = series.channel(4, 400, 300.0, generator)
    d = {k: sent[:, 9 + 2 + k : 300 + 2 + k].double() for k in range(-7, 3)}  # d(t + k) at t = 9 … 299
    taps = dict(zip(range(2, -8, -1), (0.08, -0.12, 1, 0.18, -0.1, 0.091, -0.05, 0.04, 0.03, 0.01), strict=True))
    q = sum(taps[k] * d[k] for k in taps)
    torch.testing.assert_close(clean[:, 9:300].double(), q + 0.036 * q**2 - 0.011 * q**3, atol=1e-5, rtol=0)
    noisy, same = series.channel(4, 400, 20.0, again)
    assert torch.equal(same, sent)
    assert set(sent.unique().tolist()) == {-3.0, -1.0, 1.0, 3.0}
    power = float((noisy - clean).var() / clean.var())
    assert power == pytest.approx(0.01, rel=0.15)


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"", "does not hold a number"),
        (b"1\n2,3\n", "'2,3' in line 2"),
        (b"1\n\nnan\n", "'nan' in line 3"),
        (b"1_0\n", "'1_0' in line 1"),
        ("1\n٣\n".encode(), "'٣' in line 2"),
        (b"1\n\xff\n", "byte 2"),
    ],
)
def test_a_damaged_series_is_named(tmp_path, content, what):
    path = tmp_path / "santafe_laser.csv"
    path.write_bytes(content)
    with pytest.raises(errors.DataError, match=rf"{re.escape(str(path))}.*{what}"):
        series.read_series(path)


def test_a_series_with_a_byte_order_mark_and_other_ends_of_lines_is_read(tmp_path):
    path = tmp_path / "series.csv"
    path.write_bytes(b"\xef\xbb\xbf1.5\r\n -2e-1 \r\n\r\n3\r\n")
    torch.testing.assert_close(series.read_series(path), torch.tensor([1.5, -0.2, 3.0]))


def test_a_missing_series_is_named(tmp_path):
    with pytest.raises(errors.DataError, match="cannot be read: No such file"):
        series.read_series(tmp_path / "none.csv")


# Ridge regression.


def test_ridge_is_the_closed_form_at_its_penalty():
    x, y = draw(60, 5, dtype=torch.float64) + 3, draw(60, 2, seed=1, dtype=torch.float64)
    found = ridge.fit(x, y, (0.1,))
    centred = x - x.mean(0)
    penalty = 0.1 * float(centred.square().sum()) / 5
    weight = torch.linalg.solve(centred.mT @ centred + penalty * torch.eye(5), centred.mT @ (y - y.mean(0))).mT
    torch.testing.assert_close(found.weight, weight)
    torch.testing.assert_close(found(x).mean(0), y.mean(0))


def test_ridge_chooses_the_penalty_that_leave_one_out_would():
    x = draw(25, 8, dtype=torch.float64)
    y = x[:, :1] + 0.5 * x[:, 1:2] + draw(25, 1, seed=3, dtype=torch.float64)
    penalties = (1e-3, 1e-2, 0.1, 1.0, 10.0)
    unit = float((x - x.mean(0)).square().sum()) / 8

    def left_out(penalty):
        total = 0.0
        for i in range(25):
            rest = torch.arange(25) != i
            mean_x, mean_y = x[rest].mean(0), y[rest].mean(0)
            a, b = x[rest] - mean_x, y[rest] - mean_y
            weight = torch.linalg.solve(a.mT @ a + penalty * unit * torch.eye(8), a.mT @ b)
            total += float((y[i] - mean_y - (x[i] - mean_x) @ weight).square().sum())
        return total

    best = min(penalties, key=left_out)
    assert best not in (penalties[0], penalties[-1])
    assert ridge.fit(x, y, penalties).penalty == best


def test_a_readout_that_is_written_answers_as_the_ridge_does():
    x, y, readout = draw(40, 5), draw(40, 2, seed=1), nn.Linear(5, 2)
    found = ridge.fit(x, y)
    found.write(readout)
    torch.testing.assert_close(readout(x), found(x).float())


def test_ridge_refuses_what_it_cannot_fit():
    with pytest.raises(errors.ShapeError, match="features of shape"):
        ridge.fit(draw(4, 3), draw(5, 1))
    with pytest.raises(errors.ShapeError, match="two rows"):
        ridge.fit(draw(1, 3), draw(1, 1))
    with pytest.raises(errors.ArgumentError, match="penalties"):
        ridge.fit(draw(4, 3), draw(4, 1), ())


# Scores.


@pytest.mark.parametrize("objective", [Regression(("a", "b")), Capacity(("a", "b"))])
def test_tallies_add_up_to_the_scores_of_all(objective):
    y = draw(12, 7, 2)
    output = y + 0.5 * draw(12, 7, 2, seed=1)
    parts = sum(objective.tally(o, t) for o, t in zip(output.split(5), y.split(5), strict=True))
    whole, summed = objective.scores(objective.tally(output, y)), objective.scores(parts)
    assert summed == pytest.approx(whole, rel=1e-12)
    flat, wanted = output.flatten(0, 1).double(), y.flatten(0, 1).double()
    if isinstance(objective, Regression):
        each = ((flat - wanted).square().mean(0) / wanted.var(0, correction=0)).sqrt()
        assert whole == pytest.approx(
            {"nrmse": float(each.mean()), "nrmse_a": float(each[0]), "nrmse_b": float(each[1])}
        )
        mean = wanted.mean(0).expand_as(wanted)
        assert objective.scores(objective.tally(mean, wanted))["nrmse"] == pytest.approx(1)
    else:
        each = [np.corrcoef(flat[:, k], wanted[:, k])[0, 1] ** 2 for k in range(2)]
        assert whole == pytest.approx({"capacity": sum(each), "r2_a": each[0], "r2_b": each[1]})
        assert objective.scores(objective.tally(torch.ones_like(y), y))["capacity"] == 0


def test_symbols_are_wrong_where_another_is_nearer():
    y = torch.tensor([[-3.0], [-1.0], [1.0], [3.0]])
    objective, output = Symbols(), torch.tensor([[-9.0], [-2.1], [1.9], [2.1]])
    assert objective.scores(objective.tally(output, y))["ser"] == 0.25
    assert objective.scores(objective.tally(y, y)) == {"ser": 0, "nrmse": 0}


def test_outputs_of_another_shape_than_their_targets_are_refused():
    for objective in (Regression(), Capacity(), Symbols()):
        with pytest.raises(errors.ShapeError, match=r"\(3, 4, 1\) do not match targets of shape \(3, 4\)"):
            objective.loss(torch.zeros(3, 4, 1), torch.zeros(3, 4))


# Capacity.


def test_a_delay_line_remembers_what_it_holds_and_computes_no_parity(generator):
    found = memory_capacity(DelayLine(9), 150, generator, delays=12)
    assert found.total == pytest.approx(8, abs=0.1)
    assert all(r2 > 0.999 for r2 in found.r2[:8])
    assert (found.train_steps, found.test_steps, found.washout) == (1600, 800, 50)
    assert parity_capacity(DelayLine(9), 150, generator, delays=5).total < 0.1


def test_parities_are_of_the_last_bits_and_a_reservoir_that_holds_them_has_their_capacity(generator):
    bits = torch.tensor([[1.0, 1, 0, 1]])
    assert capacity.parity(bits, 2).tolist() == [[[1, 1], [0, 0], [1, 0], [1, 0]]]
    assert capacity.memory(bits, 2).tolist() == [[[0, 0], [1, 0], [1, 1], [0, 1]]]
    found = parity_capacity(lambda x: capacity.parity(x[..., 0], 3), 120, generator, delays=5)
    assert found.total == pytest.approx(3, abs=0.1)


def test_noise_has_no_capacity(generator):
    noise = torch.Generator().manual_seed(1)
    reservoir = lambda x: torch.randn(len(x), x.shape[1], 20, generator=noise)  # noqa: E731
    assert memory_capacity(reservoir, 200, generator).total < 0.15


def test_delays_beyond_the_washout_are_refused(generator):
    with pytest.raises(errors.ArgumentError, match="between the 15 delays and the 100 steps, got 10"):
        memory_capacity(DelayLine(3), 100, generator, washout=10)
