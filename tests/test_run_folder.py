"""A run on disk, by itself: what is whole, and what is refused."""

from __future__ import annotations

import json
import os
import warnings

import numpy as np
import pytest
import torch

from blackprop.errors import BlackpropWarning, CheckpointError, RunFolderError
from blackprop.experiments import Existing
from blackprop.experiments.records import _portrait as portrait
from blackprop.experiments.records._run_folder import RunFolder, decoded, encoded

CONFIG = {"task": "digits", "settings": {"epochs": 3, "rates": [1, 2]}, "methods": {"paper": {"samples": 3}}}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "deep" / "run"


def begun(path) -> RunFolder:
    return RunFolder.open(path, CONFIG)


# Checkpoints.


def test_a_checkpoint_comes_back_as_it_was():
    state = {"a": torch.arange(5), "b": {"c": 1.5, "d": [None, "x"]}}
    back = decoded(encoded(state))
    assert torch.equal(back.pop("a"), state.pop("a"))
    assert back == state


@pytest.mark.parametrize("place", [0, 5, 30, 60, 100, -1])
def test_a_checkpoint_with_a_flipped_bit_is_refused_wherever_it_is(place):
    content = bytearray(encoded({"a": torch.arange(50)}))
    content[place] ^= 1
    with pytest.raises(ValueError, match=r"header of a blackprop checkpoint|does not match its checksum"):
        decoded(bytes(content))


def test_a_checkpoint_cut_short_or_of_nothing_is_refused():
    content = encoded({"a": torch.arange(50)})
    for part in (b"", content[:10], content[:-1], content + b"\0"):
        with pytest.raises(ValueError, match=r"header of a blackprop checkpoint|does not match its checksum"):
            decoded(part)


def test_what_is_no_state_is_refused(tmp_path):
    import hashlib
    import io

    buffer = io.BytesIO()
    torch.save([1, 2], buffer)
    content = buffer.getvalue()
    magic = encoded({}).split(b"\n")[0]
    with pytest.raises(TypeError, match="does not contain a state"):
        decoded(b"\n".join((magic, hashlib.sha256(content).hexdigest().encode(), content)))


def test_the_last_two_checkpoints_are_kept_and_the_last_is_taken(path):
    folder = begun(path)
    assert folder.checkpoint() is None
    for step in range(1, 4):
        folder.save_checkpoint(encoded({"step": step}))
        assert folder.checkpoint() == {"step": step}
    found = [decoded((path / name).read_bytes()) for name in ("checkpoint.bin", "checkpoint.previous.bin")]
    assert found == [{"step": 3}, {"step": 2}]
    assert not list(path.glob(".*"))


def test_from_a_damaged_checkpoint_the_one_before_is_taken_and_said(path):
    folder = begun(path)
    folder.save_checkpoint(encoded({"step": 1}))
    folder.save_checkpoint(encoded({"step": 2}))
    (path / "checkpoint.bin").write_bytes(b"junk")
    with pytest.warns(BlackpropWarning, match=r"checkpoint\.bin is damaged.*the previous one is used"):
        assert folder.checkpoint() == {"step": 1}
    (path / "checkpoint.bin").unlink()  # killed between the two renames
    assert folder.checkpoint() == {"step": 1}
    (path / "checkpoint.previous.bin").write_bytes(b"junk")
    with pytest.raises(CheckpointError, match="previous"):
        folder.checkpoint()
    (path / "checkpoint.bin").write_bytes(b"junk")
    with pytest.raises(CheckpointError, match=r"checkpoint\.bin.*; .*previous"):
        folder.checkpoint()
    with pytest.raises(CheckpointError):
        RunFolder.open(path, CONFIG, Existing.RESUME)


# Lines and summaries.


def test_lines_that_could_not_be_written_come_in_order_with_the_next_or_at_the_end(path):
    folder, file = begun(path), path / "metrics.jsonl"
    folder.append_metrics({"step": 1})
    kept = file.read_bytes()
    file.unlink()
    file.mkdir()  # cannot be written to, even by root
    for step in (2, 3):
        with pytest.warns(BlackpropWarning, match="the line is written when there is space"):
            folder.append_metrics({"step": step})
    file.rmdir()
    file.write_bytes(kept + b'{"step": 2, "lo')  # what a full disk left of the first
    folder.append_metrics({"step": 4})
    assert folder.metrics() == [{"step": step} for step in (1, 2, 3, 4)]
    file.unlink()
    file.mkdir()
    with pytest.warns(BlackpropWarning):
        folder.append_metrics({"step": 5})
    file.rmdir()
    file.write_bytes(kept)
    folder.complete()
    assert folder.metrics() == [{"step": 1}, {"step": 5}]
    assert file.read_text().splitlines() == ['{"step": 1}', '{"step": 5}']


def test_only_whole_lines_with_a_step_are_metrics(path):
    folder = begun(path)
    assert folder.metrics() == []
    (path / "metrics.jsonl").write_text('{"step": 1}\n[1]\n{"no": 2}\n{"step": 3, "lo\n\n{"step": 4}')
    assert folder.metrics() == [{"step": 1}, {"step": 4}]
    folder.replace_metrics([{"step": 7}])
    assert folder.metrics() == [{"step": 7}]
    (path / "metrics.jsonl").unlink()
    assert folder.metrics() == []


def test_a_file_is_whole_on_the_disk_before_it_takes_its_name(path, monkeypatch):
    """What is made final is the content, and not what a buffer has passed on of it; the name comes after."""
    folder, seen = begun(path), []
    content = encoded({"step": 1})
    monkeypatch.setattr(os, "fsync", lambda d: seen.append((os.fstat(d).st_size, (path / "checkpoint.bin").exists())))
    folder.save_checkpoint(content)
    assert seen == [(len(content), False)]
    assert (path / "checkpoint.bin").read_bytes() == content


def test_a_summary_of_which_one_result_is_damaged_is_refused(path):
    folder = begun(path)
    good = {"method": "paper", "device": "matrix", "seed": 0}
    for results in ([], [good], [good, {**good, "seed": 1}]):
        folder.save_summary({"results": results})
        assert folder.summary() == {"results": results}
    for results in ([good, {"method": "paper"}], [good, 3], [{}], None, {"a": good}):
        folder.save_summary({"results": results})
        with pytest.raises(RunFolderError, match=r"is damaged|is not the summary"):
            folder.summary()


# What is opened.


def test_a_run_is_begun_in_a_folder_that_is_made_or_empty(path):
    folder = begun(path)
    assert json.loads((path / "config.json").read_text()).items() >= CONFIG.items()
    assert (path / "metrics.jsonl").read_bytes() == b""
    assert (folder.checkpoint(), folder.summary(), folder.metrics()) == (None, None, [])
    empty = path.parent / "empty"
    empty.mkdir()
    begun(empty)


def test_what_exists_is_refused_unless_told(path):
    begun(path).save_checkpoint(encoded({"step": 1}))
    with pytest.raises(RunFolderError, match="already exists"):
        begun(path)
    assert RunFolder(path).checkpoint() == {"step": 1}
    with pytest.raises(RunFolderError, match=r"no run in .* to resume"):
        RunFolder.open(path.parent / "other", CONFIG, Existing.RESUME)
    (path.parent / "file").write_text("mine")
    for existing in Existing:
        with pytest.raises(RunFolderError):
            RunFolder.open(path.parent / "file", CONFIG, existing)
    assert (path.parent / "file").read_text() == "mine"


def test_a_run_that_is_begun_anew_keeps_nothing_of_the_old_one_and_all_that_is_not_its_own(path):
    folder = begun(path)
    for step in (1, 2):
        folder.save_checkpoint(encoded({"step": step}))
    folder.save_summary({"results": []})
    folder.append_metrics({"step": 1})
    (path / "portraits").mkdir()
    (path / "portraits" / "a.npz").write_bytes(b"")
    (path / "portraits" / "mine.txt").write_text("mine")
    (path / "notes.txt").write_text("mine")
    other = {**CONFIG, "task": "mnist"}
    anew = RunFolder.open(path, other, Existing.OVERWRITE)
    assert (anew.checkpoint(), anew.summary(), anew.metrics()) == (None, None, [])
    left = {str(file.relative_to(path)) for file in path.rglob("*") if file.is_file()}
    assert left == {"config.json", "origin.json", "metrics.jsonl", "notes.txt", "portraits/mine.txt"}
    with pytest.raises(RunFolderError, match='task was "mnist" and is "digits"'):
        RunFolder.open(path, CONFIG, Existing.RESUME)
    RunFolder.open(path, other, Existing.RESUME)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"task": "mnist"}, 'task was "digits" and is "mnist"'),
        ({"settings": {"epochs": 4, "rates": [1, 2]}}, "settings.epochs was 3 and is 4"),
        ({"settings": {"epochs": 3, "rates": [1, 3]}}, r"settings.rates was \[1, 2\] and is \[1, 3\]"),
        ({"settings": {"epochs": 3}}, r"settings.rates was \[1, 2\] and is null"),
        ({"settings": {"epochs": 3, "rates": [1, 2], "clip": 1}}, "settings.clip was null and is 1"),
        ({"settings": None}, r"settings was .*epochs.* and is null"),
        ({"new": 1}, "new was null and is 1"),
        ({"methods": {"paper": {"samples": 4}}}, "methods.paper.samples was 3 and is 4"),
    ],
)
def test_a_run_is_not_resumed_with_another_setting(path, change, said):
    begun(path)
    RunFolder.open(path, CONFIG, Existing.RESUME)
    with pytest.raises(RunFolderError, match=f"another configuration: {said}"):
        RunFolder.open(path, {**CONFIG, **change}, Existing.RESUME)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"format": "another"}', "{"])
def test_a_folder_whose_configuration_is_none_of_ours_is_left_alone(path, content):
    path.mkdir(parents=True)
    (path / "config.json").write_text(content)
    for existing in (Existing.RESUME, Existing.OVERWRITE):
        with pytest.raises(RunFolderError, match=r"config\.json"):
            RunFolder.open(path, CONFIG, existing)
    assert (path / "config.json").read_text() == content
    assert len(list(path.iterdir())) == 1


def test_a_portrait_that_cannot_be_kept_costs_a_warning(path):
    folder = begun(path)
    cell = {"method": "paper", "device": "matrix", "seed": 0}
    arrays = {"theta": np.zeros(3, np.float32)}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for tally, shown in ((torch.tensor([[3, 1], [0, 2]]), True), (torch.zeros(2), False)):
            folder.save_portrait(cell, arrays, arrays, tally, ("a", "b"))
            kept = portrait.load(path / "portraits" / "paper.matrix.0.npz")
            assert kept.keys() >= {"theta_before", "theta_after"}
            assert ("confusion" in kept) is ("classes" in kept) is shown
            if shown:
                assert kept["confusion"].tolist() == [[3, 1], [0, 2]]
                assert kept["classes"].tolist() == ["a", "b"]
    assert [file.name for file in (path / "portraits").iterdir()] == ["paper.matrix.0.npz"]
    begun(path.parent / "b")
    (path.parent / "b" / "portraits").write_text("in the way")
    with pytest.warns(BlackpropWarning, match="the report will not show this trial.s devices"):
        RunFolder(path.parent / "b").save_portrait(cell, arrays, arrays, torch.zeros(2), ())
