"""Runs in a folder: an interruption or a full disk changes nothing, and what does not fit is refused."""

from __future__ import annotations

import errno
import json
import os
from dataclasses import replace

import pytest
import torch

from blackprop import errors
from blackprop.experiments import Digits, Existing, FittedTwin, Grid, Hardware, Imperfections, Paper, compare
from blackprop.experiments.records._run_folder import RunFolder, decoded, encoded
from blackprop.experiments.tasks._networks import DigitNetwork
from trials import QUICK, ROUGH, Quiet, assert_same_run, one

# Interruptions.


@pytest.mark.parametrize("imperfections", [Imperfections(), ROUGH], ids=["flawless", "rough"])
@pytest.mark.parametrize("network", [DigitNetwork.PHYSICAL, DigitNetwork.HYBRID])
def test_an_interrupted_run_ends_as_if_it_had_not_been(network, imperfections, tmp_path):
    grid = one(task=replace(QUICK, network=network), imperfections=imperfections, seeds=(0, 1))
    steps = 1437 // 128
    compare(grid, tmp_path / "whole", Quiet())
    for interrupt_at in (2, 2 * steps + 3):  # in the first epoch, in the last
        with pytest.raises(KeyboardInterrupt):
            compare(
                grid,
                tmp_path / "cut",
                Quiet(interrupt_at),
                Existing.RESUME if (tmp_path / "cut").exists() else Existing.REFUSE,
            )
        state = RunFolder(tmp_path / "cut").checkpoint()
        assert (0 if state is None else state["step"]) == interrupt_at // steps * steps
        assert RunFolder(tmp_path / "cut").summary()["results"] == []
    watch = Quiet()
    compare(grid, tmp_path / "cut", watch, Existing.RESUME)
    assert [result["seed"] for result in watch.results] == [0, 1]
    assert_same_run(tmp_path / "whole", tmp_path / "cut")


def test_what_is_finished_is_not_run_again(tmp_path):
    grid = one(seeds=(0, 1))
    with pytest.raises(KeyboardInterrupt):
        compare(grid, tmp_path / "run", _InterruptsAfterOne())
    watch = Quiet()
    summary = compare(grid, tmp_path / "run", watch, Existing.RESUME)
    assert [result["seed"] for result in watch.results] == [1]
    assert compare(grid, tmp_path / "run", Quiet(interrupt_at=1), Existing.RESUME) == summary


class _InterruptsAfterOne(Quiet):
    def finished(self, result):
        raise KeyboardInterrupt


@pytest.mark.parametrize("write", range(4, 9))  # after configuration, origin and metrics
def test_a_disk_that_is_full_for_a_while_costs_a_warning_and_nothing_else(write, tmp_path, monkeypatch):
    grid = one(task=replace(QUICK, batch_size=718))
    compare(grid, tmp_path / "whole", Quiet())
    count, fsync = 0, os.fsync

    def full(descriptor):
        nonlocal count
        count += 1
        if count == write:
            raise OSError(errno.ENOSPC, "No space left on device")
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.warns(errors.BlackpropWarning, match=r"No space left on device"):
        compare(grid, tmp_path / "full", Quiet())
    assert not list((tmp_path / "full").glob(".*"))
    assert_same_run(tmp_path / "whole", tmp_path / "full")


def test_a_disk_that_stays_full_leaves_the_checkpoint_before_good_and_is_told_of_at_the_end(tmp_path, monkeypatch):
    grid = one(task=replace(QUICK, batch_size=718))
    compare(grid, tmp_path / "whole", Quiet())
    count, fsync = 0, os.fsync

    def full(descriptor):
        nonlocal count
        count += 1
        if count > 5:  # configuration, origin, metrics, summary, a checkpoint
            raise OSError(errno.ENOSPC, "No space left on device")
        fsync(descriptor)

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        with (
            pytest.warns(errors.BlackpropWarning) as told,
            pytest.raises(errors.RunFolderError, match="No space left on device"),
        ):
            compare(grid, tmp_path / "cut", Quiet())
    assert any("the previous checkpoint is kept" in str(warning.message) for warning in told)
    state = RunFolder(tmp_path / "cut").checkpoint()
    assert state is not None
    assert state["step"] == 2
    with (tmp_path / "cut" / "metrics.jsonl").open("a") as file:
        file.write('{"method": "paper", "epo')  # what a full disk leaves of a line
    compare(grid, tmp_path / "cut", Quiet(), Existing.RESUME)
    assert_same_run(tmp_path / "whole", tmp_path / "cut")


def test_a_line_that_a_full_disk_held_back_is_written_with_the_next(tmp_path):
    folder = RunFolder.open(tmp_path / "run", {})
    path = tmp_path / "run" / "metrics.jsonl"
    path.unlink()
    path.mkdir()  # cannot be written to, even by root
    with pytest.warns(errors.BlackpropWarning, match="written when there is space"):
        folder.append_metrics({"step": 1})
    path.rmdir()
    folder.append_metrics({"step": 2})
    assert folder.metrics() == [{"step": 1}, {"step": 2}]


def test_a_line_after_one_that_was_cut_short_is_whole(tmp_path):
    folder, path = RunFolder.open(tmp_path / "run", {}), tmp_path / "run" / "metrics.jsonl"
    folder.append_metrics({"step": 1})
    with path.open("a") as file:
        file.write('{"step": 2, "lo')  # the process was killed, or the disk was full
    RunFolder(tmp_path / "run").append_metrics({"step": 3})
    folder.append_metrics({"step": 4})
    assert folder.metrics() == [{"step": 1}, {"step": 3}, {"step": 4}]
    assert path.read_text().splitlines() == ['{"step": 1}', '{"step": 2, "lo', '{"step": 3}', '{"step": 4}']


JUNK = [
    b"\xff\xfe\x00 junk",
    b"[" * 100_000,
    b'{"step": ' + b"[" * 100_000,
    b"null\n3\n[]\n{}",
    b'{"step": 1}',
    b'{"step": 1, "method": ["paper"], "device": {}, "seed": [0]}',
    b'{"step": 1, "method": "paper", "device": "light-modulator", "seed": 0}',
    b'{"step": 1, "method": "paper", "device": "light-modulator", "seed": 0, "accuracy": [1]}',
    b"9" * 10_000,
    "\u2028{\u2029".encode(),
]


@pytest.mark.parametrize("junk", JUNK, ids=range(len(JUNK)))
def test_junk_among_the_metrics_is_passed_over_on_resume(junk, finished):
    grid = one(task=Digits(epochs=1, batch_size=718))
    lines = RunFolder(finished).metrics()
    with (finished / "metrics.jsonl").open("ab") as file:
        file.write(junk)
    compare(grid, finished, Quiet(), Existing.RESUME)
    assert RunFolder(finished).metrics() == lines


def test_from_a_damaged_checkpoint_the_one_before_is_taken(tmp_path):
    grid = one()
    compare(grid, tmp_path / "whole", Quiet())
    with pytest.raises(KeyboardInterrupt):
        compare(grid, tmp_path / "cut", Quiet(interrupt_at=2 * (1437 // 128) + 3))
    damaged = tmp_path / "cut" / "checkpoint.bin"
    content = bytearray(damaged.read_bytes())
    content[len(content) // 2] ^= 1  # one bit
    damaged.write_bytes(content)
    with pytest.warns(errors.BlackpropWarning, match="does not match its checksum; the previous one is used"):
        compare(grid, tmp_path / "cut", Quiet(), Existing.RESUME)
    assert_same_run(tmp_path / "whole", tmp_path / "cut")


# Refusals: before anything is spent or changed.


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


@pytest.fixture
def finished(tmp_path):
    compare(one(task=Digits(epochs=1, batch_size=718)), tmp_path / "run", Quiet())
    return tmp_path / "run"


def refused(grid, path, existing, error, match):
    before = contents(path) if path.is_dir() else None
    with pytest.raises(error, match=match):
        compare(grid, path, Quiet(), existing)
    assert (contents(path) if path.is_dir() else None) == before


def test_a_folder_that_exists_is_refused_unless_told(finished):
    grid = one(task=Digits(epochs=1, batch_size=718))
    refused(grid, finished, Existing.REFUSE, errors.RunFolderError, "already exists.*--resume.*--overwrite.*--run-dir")
    (finished / "notes.txt").write_text("mine")
    watch = Quiet()
    compare(replace(grid, seeds=(5,)), finished, watch, Existing.OVERWRITE)
    assert [result["seed"] for result in watch.results] == [5]
    assert (finished / "notes.txt").read_text() == "mine"
    assert [line["seed"] for line in RunFolder(finished).metrics()] == [5]


def test_the_run_of_another_configuration_is_not_resumed_and_the_difference_is_shown(finished):
    other = Grid(Digits(epochs=2, batch_size=718), (Paper(rank=4, samples=7),), (Hardware.LIGHT_MODULATOR,))
    refused(other, finished, Existing.RESUME, errors.RunFolderError, r"epochs was 1 and is 2.*samples was 3 and is 7")


def test_a_setting_that_the_run_did_not_have_is_a_difference_too(finished):
    config = json.loads((finished / "config.json").read_text())
    del config["settings"]["epochs"], config["execution"]["clip"]  # as an earlier version wrote it
    (finished / "config.json").write_text(json.dumps(config))
    grid = one(task=Digits(epochs=1, batch_size=718))
    refused(grid, finished, Existing.RESUME, errors.RunFolderError, r"settings\.epochs was null and is 1")
    config["settings"]["epochs"], config["settings"]["warm_up"] = 1, 3  # as a later one may
    (finished / "config.json").write_text(json.dumps(config))
    refused(grid, finished, Existing.RESUME, errors.RunFolderError, r"settings\.warm_up was 3 and is null")


@pytest.mark.parametrize("existing", Existing)
def test_a_foreign_folder_is_never_touched(existing, tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    refused(one(), tmp_path, existing, errors.RunFolderError, "already exists|no file was changed")
    (tmp_path / "config.json").write_text('{"model": "someone else\'s"}')
    refused(one(), tmp_path, existing, errors.RunFolderError, "already exists|no file was changed")
    refused(one(), tmp_path / "thesis.tex", existing, errors.RunFolderError, "already exists|no file was changed")


def test_there_must_be_something_to_resume(tmp_path):
    refused(one(), tmp_path / "none", Existing.RESUME, errors.RunFolderError, "no run in")
    assert not (tmp_path / "none").exists()


def test_parts_that_do_not_fit_are_refused_before_the_folder_is_made(tmp_path):
    unfit = one(method=FittedTwin(), hardware=Hardware.MONARCH)
    refused(unfit, tmp_path / "run", Existing.REFUSE, errors.IncompatibleError, "no physical twin")
    assert not (tmp_path / "run").exists()


def _empty(path):
    path.write_bytes(b"")


def _text(path):
    path.write_text("not a checkpoint")


def _truncated(path):
    path.write_bytes(path.read_bytes()[:1000])


def _foreign(path):
    torch.save({"weights": torch.zeros(3)}, path)


def _code(path):
    path.write_bytes(encoded({"trial": Existing.RESUME}))


def _another_trial(path):
    path.write_bytes(encoded({**decoded(path.read_bytes()), "trial": {"method": "x", "device": "y", "seed": 0}}))


def _another_network(path):
    path.write_bytes(encoded({**decoded(path.read_bytes()), "model": {"weight": torch.zeros(3)}}))


@pytest.mark.parametrize(
    "damage",
    [_empty, _text, _truncated, _foreign, _code, _another_trial, _another_network],
)
def test_a_damaged_or_foreign_checkpoint_is_refused(damage, tmp_path):
    grid = one()
    with pytest.raises(KeyboardInterrupt):
        compare(grid, tmp_path / "run", Quiet(interrupt_at=15))
    damage(tmp_path / "run" / "checkpoint.bin")
    refused(grid, tmp_path / "run", Existing.RESUME, errors.CheckpointError, "checkpoint")


RESULT = '{"method": "paper", "device": "light-modulator", "seed": 0'


@pytest.mark.parametrize(
    "content",
    [
        *("", "[]", '{"results": 3}', '{"results": [3]}', '{"results": [{"method": []}]}', "[" * 100_000, "\udcff"),
        f'{{"results": [{RESULT}}}]}}',  # without its score
        f'{{"results": [{RESULT}, "accuracy": "high"}}]}}',
        f'{{"results": [{RESULT.replace("0", "7")}, "accuracy": 0.9}}]}}',  # of another seed
    ],
)
def test_a_damaged_summary_is_refused(content, finished):
    (finished / "summary.json").write_bytes(content.encode(errors="surrogateescape"))
    grid = one(task=Digits(epochs=1, batch_size=718))
    refused(grid, finished, Existing.RESUME, errors.RunFolderError, r"summary\.json")
