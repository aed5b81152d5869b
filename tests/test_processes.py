"""Several processes that share a run: what they agree on, what they pay, and that an interruption changes nothing."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from blackprop.experiments import Existing
from blackprop.experiments.records._run_folder import RunFolder

pytest.importorskip("accelerate")
pytestmark = pytest.mark.skipif(not torch.distributed.is_gloo_available(), reason="this torch lacks gloo")


def launch(folder: Path, existing: Existing, stop: int) -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", str(port)]
    script = [str(Path(__file__).with_name("processes.py")), str(folder), existing.value, str(stop)]
    done = subprocess.run(
        [*command, *script],
        check=False,
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
    )
    assert not done.returncode or stop > 0, done.stderr[-3000:]
    return done.returncode


def test_two_processes_agree_pay_for_two_devices_and_resume_exactly(tmp_path):
    assert launch(tmp_path / "whole", Existing.REFUSE, 0) == 0
    assert launch(tmp_path / "cut", Existing.REFUSE, 15) != 0
    assert launch(tmp_path / "cut", Existing.RESUME, -1) == 0
    whole, cut = (RunFolder(tmp_path / name).summary() for name in ("whole", "cut"))
    assert whole == cut
    (result,) = whole["results"]
    assert result["accuracy"] > 0.5  # 0.1 by chance
    steps = 3 * (1437 // 128)
    assert result["rows"]["forward"] == 128 * steps  # each process its share
    assert result["rows"]["evaluate"] == 3 * 360
    assert result["programmings"]["forward"] == 2 * steps  # each a device of its own
    config = json.loads((tmp_path / "whole" / "config.json").read_text())
    assert config["processes"] == 2
