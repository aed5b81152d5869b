"""Audio: clips are read as they were recorded, refused for what is wrong with them, and trained on."""

from __future__ import annotations

import csv
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from blackprop import errors
from blackprop.experiments import FrozenReference, Hardware, OracleReference
from blackprop.experiments.tasks._task import Size
from blackprop.experiments.tasks.audio import _clips as clips
from blackprop.experiments.tasks.audio._ecapa import Ecapa
from blackprop.experiments.tasks.audio._tasks import Esc10, Esc50, SpeechDigits, UrbanSound8K
from blackprop.nn import PhysicalLayer
from sounds import ALL, RATE, TINY, seeded, soundfile, table, tone, write
from support import DATA, draw


@pytest.fixture(scope="module")
def tones(tmp_path_factory):
    """A file's content for each of 50 classes, the class told by the tone."""
    path = tmp_path_factory.mktemp("tones") / "tone.wav"
    content = []
    for target in range(50):
        write(path, tone(100 + 10 * target, 0.05, 16_000), 16_000)
        content.append(path.read_bytes())
    return content


@pytest.fixture
def esc(tmp_path, tones):
    """ESC-50 in one clip a class and fold; every fifth class is of ESC-10."""
    (tmp_path / "ESC-50" / "audio").mkdir(parents=True)
    rows = []
    for fold in range(1, 6):
        for target in range(50):
            name = f"{fold}-{target}.wav"
            (tmp_path / "ESC-50" / "audio" / name).write_bytes(tones[target])
            place = {"filename": name, "fold": fold, "target": target, "category": f"class {target}"}
            rows.append({**place, "esc10": target % 5 == 0, "src_file": 1, "take": "A"})
    table(tmp_path / "ESC-50" / "meta" / "esc50.csv", rows)
    return tmp_path


@pytest.fixture
def urban(tmp_path):
    rows = []
    for fold in range(1, 11):
        for label in range(10):
            name = f"{fold}-{label}.wav"
            write(tmp_path / "audio" / f"fold{fold}" / name, np.full(500, label / 100 + 0.01))
            rows.append({"slice_file_name": name, "fold": fold, "classID": label, "class": f"street {label}"})
    table(tmp_path / "metadata" / "UrbanSound8K.csv", rows)
    return tmp_path


@pytest.fixture
def digits(tmp_path):
    for digit in range(10):
        for take in range(7):
            write(
                tmp_path / "fsdd" / "recordings" / f"{digit}_ann_{take}.wav",
                np.full(400, 0.1 + digit / 100 + take / 1000),
            )
    return tmp_path


# What is read.


def test_esc_is_split_by_folds_and_its_ten_classes_are_numbered_anew(esc):
    ten, fifty = Esc10(data_dir=esc, batch_size=8).data(), Esc50(fold=2, data_dir=esc / "ESC-50", batch_size=8).data()
    assert (len(ten.x_train), len(ten.x_test), len(fifty.x_train), len(fifty.x_test)) == (40, 10, 200, 50)
    assert ten.classes == tuple(f"class {5 * i}" for i in range(10))
    assert fifty.classes[49] == "class 49"
    for found, step in ((ten, 50), (fifty, 10)):
        assert found.x_train.dtype == torch.int16
        assert found.x_train.shape[1] == 80_000
        spectrum = torch.fft.rfft(found.x_train[:, :800].float()).abs().argmax(1) * 20
        assert (spectrum - (100 + step * found.y_train)).abs().max() <= 20


def test_urban_sound_leaves_fold_nine_alone(urban):
    (urban / "audio" / "fold9" / "9-3.wav").unlink()
    found = UrbanSound8K(data_dir=urban).data()
    assert (len(found.x_train), len(found.x_test)) == (80, 10)
    assert found.x_test.shape == (10, 64_000)
    assert torch.equal(found.y_test, torch.arange(10))
    assert found.classes[3] == "street 3"


def test_the_first_five_takes_of_a_digit_are_for_testing(digits):
    found = SpeechDigits(data_dir=digits, batch_size=4).data()
    level = (found.x_test[:, 0] / 2**15 * 1000).round().long()
    assert torch.equal(level, (100 + torch.arange(10)[:, None] * 10 + torch.arange(5)).flatten())
    assert torch.equal(found.y_test, torch.arange(10).repeat_interleave(5))
    assert torch.equal(found.y_train, torch.arange(10).repeat_interleave(2))
    assert SpeechDigits(size=Size.PUBLISHED, data_dir=digits, batch_size=4).data().x_train.shape == (20, 10_240)


def test_channels_are_averaged_a_long_clip_is_cut_and_a_short_one_continued_by_silence(tmp_path):
    stereo = np.stack((np.full(1000, 0.5), np.full(1000, -0.25)), 1)
    write(tmp_path / "long.wav", stereo)
    write(tmp_path / "short.wav", stereo[:300])
    x = clips.waveforms([tmp_path / "long.wav", tmp_path / "short.wav"], RATE, 500)
    assert torch.equal(x[0], torch.full((500,), 4096).short())
    assert torch.equal(x[1], torch.cat((torch.full((300,), 4096), torch.zeros(200))).short())


def test_a_clip_is_resampled_without_moving_it(tmp_path):
    write(tmp_path / "clip.wav", tone(440, 0.5, 44_100), 44_100)
    x = clips.waveforms([tmp_path / "clip.wav"], 16_000, 8000)[0] / 2**15
    error = (x - torch.tensor(tone(440, 0.5, 16_000)))[200:-200]
    assert error.abs().max() < 2e-3


def test_silent_clips_are_warned_of_by_name(tmp_path):
    for name in ("a.wav", "b.wav", "c.wav"):
        write(tmp_path / name, np.zeros(400) if name < "c" else np.ones(400))
    with pytest.warns(errors.BlackpropWarning, match=r"a\.wav is silent, and 1 other clips too"):
        clips.waveforms([tmp_path / name for name in ("a.wav", "b.wav", "c.wav")], RATE, 400)


# What is refused: the file is named, and what is wrong with it.


def _edit(change):
    def edit(path):
        with path.open(newline="") as file:
            rows = list(csv.DictReader(file))
        table(path, change(rows))

    return edit


def _without(**values):
    return _edit(lambda rows: [row for row in rows if any(row[name] != value for name, value in values.items())])


def _short(path):
    write(path, np.ones(100))


def _endless(path):
    soundfile.write(path, np.full(400, np.inf), RATE, subtype="FLOAT")


@pytest.mark.parametrize(
    ("damage", "name", "what"),
    [
        (Path.unlink, "meta/esc50.csv", "there is no meta/esc50.csv in"),
        (lambda path: path.write_text(""), "meta/esc50.csv", "lists no clip"),
        (lambda path: path.write_bytes(b"\xff\xfe\xff"), "meta/esc50.csv", "cannot be read"),
        (lambda path: path.write_text(path.read_text()[:-30]), "meta/esc50.csv", "damaged in line 251"),
        (
            _edit(lambda rows: [{k: v for k, v in r.items() if k != "fold"} for r in rows]),
            "meta/esc50.csv",
            "column fold",
        ),
        (_edit(lambda rows: [{**r, "target": "x"} for r in rows]), "meta/esc50.csv", "'x'"),
        (_edit(lambda rows: [{**r, "fold": "1_0"} for r in rows]), "meta/esc50.csv", "'1_0'"),
        (_without(fold="3"), "meta/esc50.csv", "no clip of fold 3"),
        (_without(fold="5", category="class 7"), "meta/esc50.csv", "no clip of the class class 7 in fold 5"),
        (_edit(lambda rows: [r for r in rows if r["target"] != "7"]), "meta/esc50.csv", "holds 49 classes"),
        (Path.unlink, "audio/2-30.wav", "is missing"),
        (lambda path: path.write_bytes(b""), "audio/2-30.wav", "cannot be read as sound"),
        (lambda path: path.write_bytes(path.read_bytes()[:-100]), "audio/2-30.wav", "is cut short"),
        (lambda path: path.write_text("<html>404</html>"), "audio/5-30.wav", "cannot be read as sound"),
        (lambda path: write(path, np.zeros(0)), "audio/5-30.wav", "lasts 0 ms"),
        (_short, "audio/5-30.wav", "lasts 12.5 ms, less than the 25 of a frame"),
        (_endless, "audio/1-3.wav", "not finite"),
    ],
)
def test_damaged_and_missing_files_folds_clips_classes_and_columns_are_named(damage, name, what, esc):
    damage(esc / "ESC-50" / name)
    with pytest.raises(errors.DataError, match=re.escape(what)) as refusal:
        Esc50(data_dir=esc).data()
    assert Path(name).name in str(refusal.value)
    assert "\n" not in str(refusal.value)


def _sizes(path: Path, riff: int, samples: int) -> None:
    content = bytearray(path.read_bytes())
    at = content.index(b"data")
    content[4:8], content[at + 4 : at + 8] = riff.to_bytes(4, "little"), samples.to_bytes(4, "little")
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("riff", "samples"),
    [
        (0xFFFFFFFF, 0xFFFFFFFF),  # ffmpeg into a pipe
        (0x7FFFFFFF, 0x7FFFFFDB),  # sox into a pipe
        (0x7FFFF024, 0x7FFFF000),
        (0x80000024, 0x80000000),  # arecord without an end
        (0, 0),
        (36, 0),
        (0xFFFFFFFF, None),
        (8 + 36, None),  # as some programs count it
        (0, None),
    ],
)
def test_a_whole_recording_is_read_whatever_its_header_says_of_its_size(tmp_path, riff, samples):
    path = tmp_path / "a.wav"
    write(path, tone(440, 0.2))
    whole = clips.waveforms([path], RATE, 1600)
    held = len(path.read_bytes()) - path.read_bytes().index(b"data") - 8
    assert held == 3200
    _sizes(path, riff + held if riff == 44 else riff, held if samples is None else samples)
    assert torch.equal(clips.waveforms([path], RATE, 1600), whole)
    if samples is None:  # the header tells how much there is to be
        path.write_bytes(path.read_bytes()[:-2])
        with pytest.raises(errors.DataError, match=r"cut short: it holds 3,198 bytes of samples, .* 3,200"):
            clips.waveforms([path], RATE, 1600)


def test_chunks_before_and_after_the_samples_are_no_samples(tmp_path):
    path = tmp_path / "a.wav"
    write(path, tone(440, 0.2))
    whole, content = clips.waveforms([path], RATE, 1600), path.read_bytes()
    at = content.index(b"data")
    note = b"LIST\x03\x00\x00\x00abc\x00"  # of odd length, padded
    path.write_bytes(content[:at] + note + content[at:] + note)
    assert torch.equal(clips.waveforms([path], RATE, 1600), whole)


def test_companion_files_and_a_byte_order_mark_are_passed_over(esc, tmp_path):
    expected = Esc50(data_dir=esc).data()
    path = esc / "ESC-50" / "meta" / "esc50.csv"
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert torch.equal(Esc50(data_dir=esc).data().x_train, expected.x_train)
    folder = tmp_path / "spoken"
    for digit in range(10):
        write(folder / "recordings" / f"{digit}_eve_0.wav", tone(100 + 10 * digit, 0.1))
        (folder / "recordings" / f"._{digit}_eve_0.wav").write_bytes(b"\0\5\x16\7")
    assert len(clips.spoken_digits(folder).clips) == 10


def test_ten_classes_are_asked_of_esc10(esc):
    _edit(lambda rows: [row for row in rows if row["target"] != "45"])(esc / "ESC-50" / "meta" / "esc50.csv")
    with pytest.raises(errors.DataError, match=r"esc50\.csv holds 9 classes \(class 0, .*of 10"):
        Esc10(data_dir=esc).data()


@pytest.mark.parametrize(
    ("damage", "what"),
    [
        (lambda folder: (folder / "3_ann_6.wav").unlink(), "lacks 3_ann_6.wav"),
        (lambda folder: [p.unlink() for p in folder.glob("8_*")], "lacks 8_ann_0.wav, and 6 other recordings too"),
        (lambda folder: [p.unlink() for p in folder.glob("*_[56].wav")], "no clip of fold 1"),
        (lambda folder: [p.unlink() for p in folder.iterdir()], "no clip of fold 1"),
        (lambda folder: write(folder / "three.wav", np.ones(400)), "three.wav is not named"),
    ],
)
def test_missing_and_foreign_recordings_are_named(damage, what, digits):
    damage(digits / "fsdd" / "recordings")
    with pytest.raises(errors.DataError, match=re.escape(what)):
        SpeechDigits(data_dir=digits, batch_size=4).data()


@pytest.mark.parametrize(
    ("task", "place"),
    [
        (Esc10, "ESC-50"),
        (Esc50, "ESC-50"),
        (UrbanSound8K, "records/1203745"),
        (SpeechDigits, "free-spoken-digit-dataset"),
    ],
)
def test_without_the_data_the_error_tells_how_to_get_them(task, place, tmp_path):
    for given in (None, tmp_path, tmp_path / "nowhere"):
        with pytest.raises(errors.DataError, match=rf"get the archive from https://\S+{place}, unpack .*`--data-dir`"):
            task(data_dir=given).data()


# Tasks.


@pytest.mark.parametrize("task", ALL)
def test_settings_are_those_of_the_size_unless_given(task):
    small, published = task(), task(size=Size.PUBLISHED)
    assert (published.epochs, published.batch_size, published.lr, published.device_lr) == (50, 64, 1e-3, 1e-2)
    assert (published.augmented, published.trained_convolutions) == (True, True)
    assert (small.augmented, small.trained_convolutions) == (False, False)
    assert replace(published, epochs=3).epochs == 3
    assert task(epochs=small.epochs) == small
    assert small.steps(200) == small.epochs * small.segment(200) == small.epochs * (200 // small.batch_size)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"epochs": 0}, r"`Esc10\(epochs=...\)` must be at least 1, got 0"),
        ({"batch_size": 1}, r"`Esc10\(batch_size=...\)` must be at least 2, got 1"),
        ({"lr": float("inf")}, r"`Esc10\(lr=...\)`"),
        ({"device_lr": 0.0}, r"`Esc10\(device_lr=...\)`"),
        ({"fold": 6}, r"`Esc10\(fold=...\)` must be between 1 and 5, got 6"),
    ],
)
def test_wrong_settings_are_refused_in_the_words_of_the_caller(change, message):
    with pytest.raises(errors.ArgumentError, match=message):
        Esc10(**change)


def test_a_batch_larger_than_the_clips_is_refused(esc):
    with pytest.raises(errors.ArgumentError, match=r"`Esc10\(batch_size=...\)` must be at most the 40 training clips"):
        Esc10(data_dir=esc, batch_size=41).data()


def test_the_network_is_drawn_from_the_seed_alone_whatever_stands_in_the_place():
    before = torch.get_rng_state()
    models = [SpeechDigits().build(place, seed) for place, seed in ((nn.Linear, 1), (lambda *_: nn.Identity(), 1))]
    other = SpeechDigits().build(nn.Linear, 2)
    assert torch.equal(before, torch.get_rng_state())
    first, again = ({n: p for n, p in m.named_parameters() if "embedding" not in n} for m in models)
    assert first.keys() == again.keys()
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["classifier.weight"], other.classifier.weight)
    trained = {name.split(".")[0] for name, p in models[0].named_parameters() if p.requires_grad}
    assert trained == {"norm", "embedding", "classifier"}
    assert all(p.requires_grad for p in SpeechDigits(trained_convolutions=True).build(nn.Linear, 1).parameters())


def physical(d_in: int, d_out: int) -> PhysicalLayer:
    return OracleReference().layer(Hardware.LIGHT_MODULATOR.make(d_in, d_out), seeded())


def test_published_rates_follow_the_published_cycle_and_spare_theta_the_decay():
    task = UrbanSound8K(size=Size.PUBLISHED)
    model = SpeechDigits().build(physical, 0)
    (digital, cycle), (theta, cosine) = task.optimizers(model, 1000)
    assert [(g["weight_decay"], g["lr"]) for g in digital.param_groups] == [
        (2e-6, pytest.approx(1e-8)),
        (0.0, pytest.approx(1e-8)),  # the devices' gains
    ]
    assert [(g["weight_decay"], g["lr"]) for g in theta.param_groups] == [(0, task.device_lr)]
    assert [p is model.embedding.theta for p in theta.param_groups[0]["params"]] == [True]
    rate = cycle.lr_lambdas[0]
    assert [1e-3 * rate(step) for step in (0, 65_000, 130_000)] == pytest.approx([1e-8, 1e-3, 1e-8])
    assert 1e-3 * rate(32_500) == pytest.approx(5e-4, rel=1e-4)
    for _ in range(1000):
        digital.step()
        theta.step()
        cycle.step()
        cosine.step()
    assert theta.param_groups[0]["lr"] == pytest.approx(0, abs=1e-9)
    assert digital.param_groups[0]["lr"] == pytest.approx(1e-8 + 1e-3 / 65, rel=1e-2)


def test_a_published_step_reaches_everything(generator):
    """The published settings on a narrow network: a batch of five copies, the margin, both optimizers."""
    task = UrbanSound8K(size=Size.PUBLISHED)
    torch.manual_seed(0)
    model = Ecapa(16_000, 10, TINY, physical)
    schedules = task.optimizers(model, 10)
    theta = model.embedding.theta.clone()
    x, y = task.augment((draw(3, 10_000) * 1000).short(), torch.tensor([1, 2, 3]), generator)
    task.objective.loss(model(x), y).backward()
    for optimizer, schedule in schedules:
        optimizer.step()
        schedule.step()
    assert [name for name, p in model.named_parameters() if not p.grad.any() and "bias" not in name] == []
    assert not torch.equal(model.embedding.theta, theta)


# The real ones.


@pytest.mark.skipif(not (DATA / "fsdd.npz").exists(), reason="needs fsdd.npz in the folder of real data")
def test_on_real_digits_the_oracle_is_well_above_frozen(tmp_path):
    real = dict(np.load(DATA / "fsdd.npz"))
    for i in (real["index"] < 15).nonzero()[0]:
        name = f"{real['label'][i]}_{real['speaker_names'][real['speaker'][i]]}_{real['index'][i]}.wav"
        write(tmp_path / "recordings" / name, real["wave"][real["offset"][i] : real["offset"][i + 1]])
    task = SpeechDigits(epochs=4, batch_size=32, data_dir=tmp_path)
    found, accuracy = task.data(), {}
    assert (len(found.x_train), len(found.x_test)) == (600, 300)
    for method in (OracleReference(), FrozenReference()):

        def place(d_in, d_out, method=method):
            return method.layer(Hardware.LIGHT_MODULATOR.make(d_in, d_out), seeded())

        model, order = task.build(place, 0), seeded()
        ((optimizer, schedule),) = task.optimizers(model, task.steps(600))
        for _ in range(task.epochs):
            for batch in torch.randperm(600, generator=order).split(32)[: task.segment(600)]:
                optimizer.zero_grad()
                task.objective.loss(model(found.x_train[batch]), found.y_train[batch]).backward()
                optimizer.step()
                schedule.step()
        with torch.no_grad():
            tally = task.objective.tally(model.eval()(found.x_test), found.y_test)
        accuracy[method.name] = task.objective.scores(tally)["accuracy"]
    assert accuracy["oracle"] > 0.7
    assert accuracy["frozen"] < accuracy["oracle"] - 0.2
