"""Tasks of sequences and their networks: targets stand where they should, networks see no future and no padding."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from blackprop import errors
from blackprop.experiments.reservoirs import suite
from blackprop.experiments.tasks._task import Size
from blackprop.experiments.tasks.audio._log_mel import LogMel
from blackprop.experiments.tasks.sequences import _archive as archive
from blackprop.experiments.tasks.sequences import _classification as classification
from blackprop.experiments.tasks.sequences import _networks as networks
from blackprop.experiments.tasks.sequences._classification import DigitRows, Sequences, SpokenDigits
from blackprop.experiments.tasks.sequences._networks import Architecture, Sizes, pad
from blackprop.experiments.tasks.sequences._tasks import (
    ChannelEqualisation,
    MackeyGlass,
    Narma10,
    ParityCheck,
    SantaFe,
    ShortTermMemory,
)
from echo import by_ridge
from support import draw

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
    with pytest.raises(errors.ShapeError, match="at least one step"):
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
        (HEADER + "1_0,2:low\n", "'1_0', which is not a finite number"),
        ("1,2:low\n", "no line @data"),
        ("@data\n1,2:low\n", "@classLabel true <names>"),
        (HEADER, "does not hold a sequence"),
        (HEADER + "1,2\n", "line 5 has no class"),
        (HEADER + "1,2:3:low\n", "channels of different lengths"),
        (HEADER + "1,?:low\n", "line 5 has a missing value"),
        (HEADER + "1,x:low\n", "'x', which is not a finite number"),
        (HEADER + "1,2:middle\n", "sequence 1 is of class middle"),
        (HEADER + "1,2:low\n1:2:low\n", "sequence 2 has 2 channels, but the first has 1"),
        (HEADER + "0,0:low\n", "only zeros"),
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
