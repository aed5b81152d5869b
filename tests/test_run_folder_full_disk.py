"""A run on a full disk: what is held back, and written when there is room."""

from __future__ import annotations

import errno
import json
import os

import pytest

from blackprop.errors import BlackpropWarning, RunFolderError
from blackprop.experiments.records._run_folder import RunFolder, encoded


@pytest.fixture
def path(tmp_path):
    return tmp_path / "deep" / "run"


def begun(path) -> RunFolder:
    return RunFolder.open(path, {"task": "digits"})


class Full:
    """A disk on which nothing can be made final for as long as it is `full`."""

    def __init__(self, monkeypatch) -> None:
        self.full, self.synced, fsync = False, 0, os.fsync

        def fill(descriptor):
            if self.full:
                raise OSError(errno.ENOSPC, "No space left on device")
            self.synced += 1
            fsync(descriptor)

        monkeypatch.setattr(os, "fsync", fill)


@pytest.fixture
def disk(monkeypatch) -> Full:
    return Full(monkeypatch)


def test_a_checkpoint_that_a_full_disk_refused_is_written_at_the_end(path, disk):
    folder = begun(path)
    folder.save_checkpoint(encoded({"step": 1}))
    disk.full = True
    with pytest.warns(BlackpropWarning, match="No space left on device.*the previous checkpoint is kept"):
        folder.save_checkpoint(encoded({"step": 2}))
    assert folder.checkpoint() == {"step": 1}
    assert not list(path.glob(".*"))
    with pytest.raises(RunFolderError, match="No space left on device"):
        folder.complete()
    disk.full = False
    folder.complete()
    assert folder.checkpoint() == {"step": 2}
    written = disk.synced
    folder.complete()  # nothing is left to write
    assert disk.synced == written


def test_a_summary_that_a_full_disk_refused_is_written_at_the_end(path, disk):
    folder = begun(path)
    assert folder.summary() is None
    folder.save_summary({"results": []})
    disk.full = True
    later = {"results": [], "ended": True}
    with pytest.warns(BlackpropWarning, match="the summary is written when there is space"):
        folder.save_summary(later)
    assert json.loads((path / "summary.json").read_text()) == {"results": []}
    with pytest.raises(RunFolderError):
        folder.complete()
    disk.full = False
    folder.complete()
    assert json.loads((path / "summary.json").read_text()) == later
    folder.save_summary({"results": []})
    folder.complete()
    assert json.loads((path / "summary.json").read_text()) == {"results": []}


def test_a_disk_that_filled_up_is_left_without_half_files(path, disk):
    folder = begun(path)
    disk.full = True
    with pytest.warns(BlackpropWarning, match="No space left on device"):
        folder.save_checkpoint(encoded({"step": 1}))
    with pytest.warns(BlackpropWarning, match="No space left on device"):
        folder.save_summary({"results": []})
    assert {file.name for file in path.iterdir()} == {"config.json", "origin.json", "metrics.jsonl"}
