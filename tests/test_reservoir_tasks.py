"""Tasks of sequences: series are what their equations say, readouts and scores what theirs do, networks see no future
and no padding, and through an echo state the benchmarks come out as the field knows them.
"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import blackprop as bp
from blackprop import errors
from blackprop.experiments import Allowance, FrozenReference, Homodyne, Multiplexed, OracleReference, Perturbative, Size
from blackprop.experiments.reservoirs import (
    Architecture,
    Capacity,
    ChannelEqualisation,
    DigitRows,
    MackeyGlass,
    Narma10,
    ParityCheck,
    Readout,
    Regression,
    SantaFe,
    Sequences,
    ShortTermMemory,
    Sizes,
    SpokenDigits,
    Symbols,
    memory_capacity,
    pad,
    parity_capacity,
    run,
    suite,
)
from blackprop.experiments.tasks.audio._log_mel import LogMel
from blackprop.experiments.tasks.sequences import _archive as archive
from blackprop.experiments.tasks.sequences import _capacity as capacity
from blackprop.experiments.tasks.sequences import _classification as classification
from blackprop.experiments.tasks.sequences import _networks as networks
from blackprop.experiments.tasks.sequences import _ridge as ridge
from blackprop.experiments.tasks.sequences import _series as series
from support import DATA, draw


def echo_state(time, channels, nodes, *, radius=0.9, scale=1.0, seed=0) -> bp.Device:
    """`s ← tanh(W s + V u + 0.2 θ)` in NumPy: a black box."""
    drawn = np.random.default_rng(seed)
    inner = drawn.normal(size=(nodes, nodes)) * (drawn.random((nodes, nodes)) < 0.1)
    inner *= radius / np.abs(np.linalg.eigvals(inner)).max()
    inner, outer = inner.astype(np.float32), scale * drawn.uniform(-1, 1, (nodes, channels)).astype(np.float32)

    def echo(x, theta):
        pushed, bias = x.numpy() @ outer.T, 0.2 * theta.numpy()
        states = np.zeros((len(x), time + 1, nodes), np.float32)
        for t in range(time):
            states[:, t + 1] = np.tanh(states[:, t] @ inner.T + pushed[:, t] + bias)
        return torch.from_numpy(states[:, 1:].copy())

    def start(generator):
        return 2 * torch.rand(nodes, generator=generator) - 1

    return bp.devices.from_callable(
        echo, in_shape=(time, channels), out_shape=(time, nodes), theta_size=nodes, initial=start
    )


class Ring(bp.Simulator):
    """`s_i ← tanh(θ_i s_{i−1} + θ_{n+i} u)`, differentiable; untrained it forgets at once."""

    def __init__(self, time, channels, nodes):
        self.nodes = nodes
        super().__init__(
            (time, channels), (time, nodes), bp.ThetaSpec(2 * nodes, lambda g: torch.rand(2 * nodes, generator=g))
        )

    def transfer(self, x, theta):
        around, inward = theta[: self.nodes], theta[self.nodes :]
        state, states = torch.zeros_like(x[:, 0, :1] * inward), []
        for t in range(x.shape[1]):
            state = torch.tanh(around * state.roll(1, -1) + inward * x[:, t, :1])
            states.append(state)
        return torch.stack(states, 1)


class DelayLine(nn.Module):
    """Node k holds the input of k steps ago."""

    def __init__(self, nodes):
        super().__init__()
        self.nodes = nodes

    def forward(self, x):
        return torch.stack([nn.functional.pad(x[..., 0], (k, 0))[:, : x.shape[1]] for k in range(self.nodes)], -1)


def by_ridge(task, **settings):
    """The scores of a ridge readout of an echo state."""
    return run(task, lambda i, o, _: echo_state(*i, o[1], **settings), Readout(), 0, Allowance(10_000))


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
        (b"", "holds no number"),
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
        with pytest.raises(errors.ShapeError, match=r"\(3, 4, 1\) for targets of shape \(3, 4\)"):
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


# Networks.

SIZES = Sizes(time=12, channels=3, drives=2, nodes=5, outputs=4, washout=3)


def recurrent(in_shape, out_shape):
    """A causal layer with a memory."""

    class Layer(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.RNN(in_shape[1], out_shape[1], batch_first=True)

        def forward(self, x):
            return self.inner(x)[0]

    return Layer()


@pytest.mark.parametrize("architecture", Architecture)
@pytest.mark.parametrize("pooled", [False, True])
def test_networks_have_their_outputs_and_are_drawn_from_the_seed_alone(architecture, pooled):
    sizes, before = replace(SIZES, pooled=pooled), torch.get_rng_state()
    model, again, other = (networks.build(architecture, sizes, recurrent, seed) for seed in (1, 1, 2))
    assert torch.equal(before, torch.get_rng_state())
    assert model(draw(6, 12, 3)).shape == ((6, 4) if pooled else (6, 9, 4))
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))
    assert not torch.equal(model.readout.weight, other.readout.weight)
    torch.testing.assert_close(model.readout(model.features(draw(6, 12, 3))), model(draw(6, 12, 3)))


@pytest.mark.parametrize("architecture", Architecture)
def test_an_output_sees_no_future(architecture):
    model = networks.build(architecture, SIZES, recurrent, 0).eval()
    x = draw(4, 12, 3)
    changed = x.clone()
    changed[:, 8] += 1
    moved = (model(changed) - model(x)).detach().abs().amax((0, 2))
    assert bool((moved[:5] < 1e-6).all())  # steps 3 to 7
    assert float(moved[5]) > 1e-4


@pytest.mark.parametrize("architecture", Architecture)
@pytest.mark.parametrize("pooled", [False, True])
@pytest.mark.parametrize("training", [False, True])
def test_what_stands_where_there_is_no_step_changes_nothing(architecture, pooled, training):
    sequences = [draw(n, 3, seed=n) for n in (7, 12, 5)]
    x = pad(sequences, 12)
    assert x[..., -1].sum(1).tolist() == [7, 12, 5]
    garbage = torch.where(x[..., -1:] > 0, x, torch.cat((1e3 + x[..., :-1], x[..., -1:]), -1))
    results = []
    for given in (x, garbage):
        model = networks.build(architecture, replace(SIZES, pooled=pooled), recurrent, 0).train(training)
        results.append((model(given), model.norm.running_mean))
    torch.testing.assert_close(*(result[0] for result in results))
    torch.testing.assert_close(*(result[1] for result in results))
    output = results[0][0]
    whole = networks.build(architecture, replace(SIZES, pooled=pooled), recurrent, 0).eval()
    if not training:
        torch.testing.assert_close(output[1:2], whole(sequences[1][None]))
        if not pooled:
            assert not output[0, 4:].any()
            assert bool(output[0, :4].any())


def test_a_padded_sequence_is_classified_as_it_would_be_alone():
    short = networks.build(Architecture.DENSE, replace(SIZES, time=7, pooled=True), recurrent, 0).eval()
    long = networks.build(Architecture.DENSE, replace(SIZES, pooled=True), recurrent, 0).eval()
    sequence = draw(7, 3)
    torch.testing.assert_close(long(pad([sequence], 12)), short(sequence[None]))


def test_sequences_of_different_lengths_without_a_mask_are_refused():
    model = networks.build(Architecture.DENSE, SIZES, recurrent, 0)
    with pytest.raises(errors.ShapeError, match=r"sequences of 5, 7 and 12 steps came without a mask.*pad"):
        model([draw(n, 3) for n in (7, 12, 5)])
    with pytest.raises(errors.ShapeError, match=r"12 steps and 3 channels.*with a mask.*got \(2, 7, 3\)"):
        model(draw(2, 7, 3))
    with pytest.raises(errors.ShapeError, match="13 steps does not fit into 12"):
        pad([draw(13, 3)], 12)
    with pytest.raises(errors.ShapeError, match="a step at least"):
        pad([draw(4, 3), draw(0, 3)])
    with pytest.raises(errors.ShapeError, match="the same channels"):
        pad([draw(4, 3), draw(4, 2)])


# Tasks.

SMALL = {"nodes": 20, "length": 40, "washout": 10, "train_sequences": 12, "test_sequences": 4}


@pytest.mark.parametrize(
    ("task", "outputs"),
    [
        (Narma10(**SMALL), 1),
        (ShortTermMemory(**SMALL, delays=10), 10),
        (ParityCheck(**SMALL), 6),
        (ChannelEqualisation(**SMALL), 1),
        (MackeyGlass(**SMALL), 4),
    ],
    ids=lambda value: getattr(value, "name", value),
)
def test_drawn_tasks_are_the_same_each_time_and_fit_their_networks(task, outputs):
    data, again = task.data(), task.data()
    assert data.x_train.shape == (12, 40, 1)
    assert data.y_test.shape == (4, 30, outputs)
    assert torch.equal(data.x_train, again.x_train)
    assert not torch.equal(data.x_train[:4], data.x_test)
    shapes = []
    model = task.build(lambda i, o: shapes.append((i, o)) or recurrent(i, o), 0)
    assert shapes == [((40, 1), (40, 20))]
    output = model(data.x_test)
    assert task.objective.loss(output, data.y_test).isfinite()
    assert task.objective.metric in task.objective.scores(task.objective.tally(output, data.y_test))
    assert task.steps(12) == 20 * task.segment(12) == 20


def test_targets_stand_where_the_washout_has_ended():
    task = ShortTermMemory(**SMALL, delays=3)
    data = task.data()
    bits = data.x_train[..., 0]
    for k in (1, 2, 3):
        assert torch.equal(data.y_train[..., k - 1], bits[:, 10 - k : 40 - k])


def write_series(path: Path, values) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{value}\n" for value in values))
    return path.parent


def test_windows_of_a_file_are_read_once_and_split_in_time(tmp_path):
    task = SantaFe(**SMALL, horizons=(1, 5), data_dir=tmp_path)
    write_series(tmp_path / "series" / "A.dat", [i % 256 for i in range(100)])
    write_series(tmp_path / "series" / "A.cont", [i % 256 for i in range(100, 600)])
    data = task.data()
    x = (data.x_train[..., 0] * 255).round()
    assert x[1, 0] - x[0, 0] == 30  # a sequence less its washout
    assert torch.equal((data.y_train * 255).round()[..., 1] % 256, (x[:, 10:] + 5) % 256)
    first = (11 * 30 + 45) % 256  # what is tested on begins where what is trained on has ended
    assert float(data.x_test[0, 0, 0] * 255) == pytest.approx(first)
    whole = tmp_path / "one"
    write_series(whole / "santafe_laser.csv", [i % 256 for i in range(600)])
    moved = replace(task, data_dir=whole)
    assert torch.equal(moved.data().x_test, data.x_test)
    assert moved == task


def test_series_that_are_missing_short_or_foreign_are_refused(tmp_path):
    with pytest.raises(errors.DataError, match=r"A.dat and A.cont.*--data-dir"):
        SantaFe().data()
    with pytest.raises(errors.DataError, match=r"neither .* nor series in it holds santafe_laser.csv nor A.dat with"):
        SantaFe(data_dir=tmp_path).data()
    with pytest.raises(errors.DataError, match=r"--data-dir.*--from-file"):
        MackeyGlass(from_file=True).data()
    write_series(tmp_path / "mackey_glass_t17.csv", range(100))
    with pytest.raises(errors.DataError, match=r"mackey_glass_t17.csv holds 100 values.*take 502"):
        MackeyGlass(**SMALL, horizons=(1,), from_file=True, data_dir=tmp_path).data()
    write_series(tmp_path / "santafe_laser.csv", [300] * 1000)
    with pytest.raises(errors.DataError, match="outside 0 to 255"):
        SantaFe(**SMALL, data_dir=tmp_path).data()


@pytest.mark.parametrize(
    ("kind", "change", "message"),
    [
        (Narma10, {"nodes": 0}, r"`Narma10\(nodes=...\)` must be at least 1, got 0"),
        (Narma10, {"batch_size": 1}, "at least 2"),
        (Narma10, {"lr": 0.0}, "positive and finite"),
        (Narma10, {"washout": 200}, "less than the 200 steps"),
        (Narma10, {"train_sequences": 4}, "fill a batch of 8, got 4"),
        (Narma10, {"test_sequences": 0}, "at least 1"),
        (ShortTermMemory, {"delays": 51}, "the 50 steps of washout, got 51"),
        (ChannelEqualisation, {"snr": float("nan")}, "finite, in dB"),
        (MackeyGlass, {"horizons": (1, 1)}, "different steps"),
        (SantaFe, {"horizons": ()}, "different steps"),
        (SpokenDigits, {"train_takes": 0}, "at least 1"),
    ],
)
def test_wrong_settings_are_refused_in_the_words_of_the_caller(kind, change, message):
    with pytest.raises(errors.ArgumentError, match=message):
        kind(**change)


def test_a_suite_reads_files_only_where_there_are_some(tmp_path):
    assert [task.name for task in suite(Size.SMALL)] == [
        "narma10",
        "short-term-memory",
        "parity",
        "channel",
        "mackey-glass",
        "digit-rows",
    ]
    more = suite(Size.PUBLISHED, tmp_path)
    assert [task.name for task in more[6:]] == ["santa-fe", "spoken-digits"]
    assert {task.nodes for task in more} == {200}


# Sequences that are classified.

HEADER = "@problemName invented\n@timeStamps false\n@classLabel true low high\n@data\n"


def invented(count: int, seed: int) -> str:
    """Two channels, as many steps as the sequence has; of the class `high` if the second channel rises."""
    drawn, lines = np.random.default_rng(seed), []
    for number in range(count):
        steps, name = int(drawn.integers(5, 9)), ("low", "high")[number % 2]
        slope = (number % 2 - 0.5) * np.arange(1, steps + 1)
        channels = (drawn.normal(size=steps), slope + 0.1 * drawn.normal(size=steps))
        lines.append(":".join([*(",".join(f"{v:.4f}" for v in channel) for channel in channels), name]))
    return HEADER + "\n".join(lines) + "\n"


@pytest.fixture
def archived(tmp_path):
    (tmp_path / "Invented").mkdir()
    (tmp_path / "Invented" / "Invented_TRAIN.ts").write_text(invented(24, 0))
    (tmp_path / "Invented" / "Invented_TEST.ts").write_text(invented(12, 1))
    return Sequences(dataset="Invented", nodes=16, drives=2, batch_size=8, data_dir=tmp_path)


def test_sequences_of_an_archive_are_read_masked_and_learnt(archived):
    data = archived.data()
    assert archived.sizes == Sizes(8, 2, 2, 16, 2, pooled=True)
    assert data.classes == ("low", "high")
    assert data.x_train.shape == (24, 8, 3)
    lengths = data.x_train[..., -1].sum(1)
    assert 5 <= float(lengths.min()) < float(lengths.max()) == 8
    assert data.y_train.tolist() == [0, 1] * 12
    steps = data.x_train[data.x_train[..., -1] > 0][:, :2]
    torch.testing.assert_close(steps.mean(0), torch.zeros(2), atol=1e-5, rtol=0)
    assert by_ridge(archived)["accuracy"] > 0.9


def test_zeros_that_fill_a_sequence_are_taken_off(tmp_path):
    path = tmp_path / "a.ts"
    path.write_text(HEADER + "1,0,2,0,0:0,0,0,3,0:low\n1:2:high\n")
    found = archive.read_ts(path)
    assert [sequence.tolist() for sequence in found.sequences] == [[[1, 0], [0, 0], [2, 0], [0, 3]], [[1, 2]]]
    assert found.labels == ("low", "high")


def test_zeros_at_the_end_of_sequences_of_equal_length_are_values(tmp_path):
    for number, header in enumerate(("@equalLength true", "@EQUALLENGTH True", " @equalLength\ttrue ")):
        path = tmp_path / f"{number}.ts"
        path.write_text(f"{header}\n{HEADER}1,0:0,0:low\n0,0:0,0:high\n")
        assert [s.tolist() for s in archive.read_ts(path).sequences] == [[[1, 0], [0, 0]], [[0, 0], [0, 0]]]
    path = tmp_path / "false.ts"
    path.write_text(f"@equalLength false\n{HEADER}1,0:0,0:low\n")
    assert archive.read_ts(path).sequences[0].tolist() == [[1, 0]]


def test_an_archive_with_a_byte_order_mark_and_an_indented_header_is_read(tmp_path):
    path = tmp_path / "a.ts"
    header = "\r\n".join(f"  {line}" for line in ["@", *HEADER.splitlines()])
    path.write_bytes(b"\xef\xbb\xbf" + f"{header}\r\n 1,2:low \r\n".encode())
    found = archive.read_ts(path)
    assert (found.sequences[0].tolist(), found.labels, found.classes) == ([[1], [2]], ("low",), ("low", "high"))


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (HEADER + "1_0,2:low\n", "'1_0', which is no finite number"),
        ("1,2:low\n", "no line @data"),
        ("@data\n1,2:low\n", "@classLabel true <names>"),
        (HEADER, "holds no sequence"),
        (HEADER + "1,2\n", "line 5 has no class"),
        (HEADER + "1,2:3:low\n", "channels of different lengths"),
        (HEADER + "1,?:low\n", "line 5 has a missing value"),
        (HEADER + "1,x:low\n", "'x', which is no finite number"),
        (HEADER + "1,2:middle\n", "sequence 1 is of class middle"),
        (HEADER + "1,2:low\n1:2:low\n", "sequence 2 has 2 channels, and the first 1"),
        (HEADER + "0,0:low\n", "zeros alone"),
    ],
)
def test_a_damaged_archive_is_refused(tmp_path, content, what):
    path = tmp_path / "a.ts"
    path.write_text(content)
    with pytest.raises(errors.DataError, match=rf"{re.escape(str(path))}.*{what}"):
        archive.read_ts(path)


def test_archives_that_are_missing_or_do_not_fit_are_refused(archived, tmp_path):
    with pytest.raises(errors.DataError, match=r"Invented_TRAIN.ts and Invented_TEST.ts.*--data-dir"):
        replace(archived, data_dir=None).data()
    with pytest.raises(errors.DataError, match=r"neither .* holds Other_TRAIN.ts with Other_TEST.ts"):
        replace(archived, dataset="Other").data()
    with pytest.raises(errors.ArgumentError, match="at most the 24 sequences"):
        replace(archived, batch_size=25).data()
    (tmp_path / "Invented" / "Invented_TEST.ts").write_text(HEADER + "1,2:low\n")
    archive.read_ts.cache_clear()
    with pytest.raises(errors.DataError, match="different channels or classes"):
        archived.data()


def test_spoken_digits_keep_their_lengths(tmp_path):
    soundfile = pytest.importorskip("soundfile")
    drawn, features = np.random.default_rng(0), LogMel(classification.RATE, classification.BANDS)
    (tmp_path / "recordings").mkdir()
    for digit in range(10):
        for take in range(8):
            clip = (3000 * drawn.normal(size=1000 + 500 * digit)).astype(np.int16)
            soundfile.write(tmp_path / "recordings" / f"{digit}_eve_{take}.wav", clip, 8000, subtype="PCM_16")
    task = SpokenDigits(nodes=10, train_takes=2, batch_size=4, data_dir=tmp_path)
    data = task.data()
    frames = task.sizes.time
    assert data.x_train.shape == (20, frames, classification.BANDS + 1)
    assert data.x_test.shape[0] == 50
    there = data.x_train[..., -1].sum(1)
    for length, digit in zip(there.tolist(), data.y_train.tolist(), strict=True):
        assert abs(length - min(frames, (1000 + 500 * digit) / features.hop)) <= 1
    means = data.x_train[..., :-1].sum(1)
    torch.testing.assert_close(means, torch.zeros_like(means), atol=1e-3, rtol=0)
    with pytest.raises(errors.DataError, match=r"there is no recordings in .*--data-dir"):
        replace(task, data_dir=tmp_path / "recordings").data()


def test_digits_go_row_by_row():
    pytest.importorskip("sklearn")
    data = DigitRows().data()
    assert data.x_train.shape == (1437, 8, 8)
    assert by_ridge(DigitRows(nodes=60), scale=0.3)["accuracy"] > 0.9


# What an echo state makes of the benchmarks.


def test_an_echo_state_of_200_nodes_predicts_narma_as_the_field_knows_it():
    task = Narma10(nodes=200, train_sequences=12)
    found = by_ridge(task)
    assert 0.2 < found["nrmse"] < 0.35
    assert (found["rows"], found["programmings"]) == (12, 1)
    assert by_ridge(task, radius=1e-6)["nrmse"] > 0.6  # without a memory


def test_an_echo_state_remembers_computes_and_equalises():
    recalled = by_ridge(ShortTermMemory(nodes=100, train_sequences=24), scale=0.1)
    assert 11 < recalled["capacity"] <= 15
    assert by_ridge(ParityCheck(nodes=100, train_sequences=24))["capacity"] > 2
    channel = by_ridge(ChannelEqualisation(nodes=100, train_sequences=24), scale=0.3)
    assert channel["ser"] < 0.01
    assert by_ridge(ChannelEqualisation(nodes=100, train_sequences=24, snr=12), scale=0.3)["ser"] > 0.01


def test_the_error_of_a_prediction_grows_with_its_horizon():
    found = by_ridge(MackeyGlass(nodes=100))
    near, *_, far = (found[f"nrmse_{h}"] for h in (1, 6, 21, 84))
    assert near < 0.002
    assert 20 * near < far < 0.5


# Methods at an equal allowance.

RECALL = ShortTermMemory(
    nodes=12, length=30, washout=8, delays=8, train_sequences=16, test_sequences=16, device_lr=3e-2
)


def ring(in_shape, out_shape, seed):
    del seed
    return Ring(*in_shape, out_shape[1])


def test_training_the_reservoir_pays_at_equal_rows():
    found = {m.name: run(RECALL, ring, m, 0, Allowance(800)) for m in (OracleReference(), FrozenReference(), Readout())}
    assert found["oracle"]["capacity"] > found["frozen"]["capacity"] + 0.4
    assert found["oracle"]["rows"] == found["frozen"]["rows"] == 800
    assert found["frozen"]["programmings"] == found["ridge"]["programmings"] == 1
    assert found["ridge"]["rows"] == 16
    assert run(RECALL, ring, OracleReference(), 0, Allowance(800)) | {"seconds": 0} == found["oracle"] | {"seconds": 0}


def test_a_readout_fitted_in_the_end_is_worth_more_than_one_trained_step_by_step():
    untrained, trained, step_by_step = (
        run(RECALL, ring, method, 0, Allowance(400), refit=refit)
        for method, refit in ((Readout(), False), (FrozenReference(), True), (FrozenReference(), False))
    )
    assert trained["capacity"] > max(untrained["capacity"], step_by_step["capacity"]) + 0.7
    assert trained["rows"] == 400
    assert trained["steps"] == step_by_step["steps"] - 2  # the 16 rows that the fit takes


def test_no_method_passes_its_allowance():
    by_rows = run(RECALL, ring, Perturbative(directions=2), 0, Allowance(200))
    assert (by_rows["steps"], by_rows["rows"]) == (6, 192)  # two directions, two passes each, eight rows
    with pytest.raises(errors.BudgetExhausted):  # 4 passes for each of its 200 parameters
        run(RECALL, ring, Homodyne(), 0, Allowance(1000))
    by_settings = run(RECALL, ring, OracleReference(), 0, Allowance(10_000, programmings=7))
    assert by_settings["steps"] == by_settings["programmings"] == 7
    with pytest.raises(errors.ArgumentError, match=r"`Allowance\(rows=...\)` must be at least 1"):
        Allowance(0)


@pytest.mark.parametrize("method", [Perturbative(), Multiplexed()], ids=lambda method: method.name)
def test_a_black_box_is_trained_by_its_loss_alone(method):
    task = replace(RECALL, lr=3e-2)
    short, long = (
        run(task, lambda i, o, _: echo_state(*i, o[1]), method, 0, Allowance(rows))["capacity"] for rows in (16, 4000)
    )
    assert long > short + 0.5


# Real series.


@pytest.mark.skipif(not (DATA / "santafe_laser.npz").exists(), reason="needs the series in the folder of real data")
def test_on_real_series_the_errors_are_those_known(tmp_path):
    for name in ("santafe_laser", "mackey_glass_t17"):
        np.savetxt(tmp_path / f"{name}.csv", np.load(DATA / f"{name}.npz")["x"], fmt="%.10g")
    laser = by_ridge(SantaFe(nodes=200, data_dir=tmp_path), scale=0.3)
    assert laser["nrmse_1"] < 0.15
    assert laser["nrmse_1"] < laser["nrmse_10"] < 0.7
    assert by_ridge(MackeyGlass(nodes=100, from_file=True, data_dir=tmp_path))["nrmse_1"] < 0.01
    drawn, read = MackeyGlass().data().x_train, MackeyGlass(from_file=True, data_dir=tmp_path).data().x_train
    assert float(drawn.mean()) == pytest.approx(float(read.mean()), abs=0.01)
    assert float(drawn.std()) == pytest.approx(float(read.std()), abs=0.01)
