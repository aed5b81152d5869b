"""A sweep that is killed again and again, and begun again, against `compare` left alone: `summary.json`, byte for byte.

    python benchmarks/lab/sweep.py --kills 5

The kills are SIGKILL of the process that was started, at moments drawn anew each time; its Ray cluster dies with it.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from blackprop.experiments import Digits, Existing, Grid, Hardware, Imperfections, Paper, compare
from blackprop.experiments.comparison._grid import with_references
from blackprop.experiments.comparison._sweep import sweep
from blackprop.experiments.engine._callbacks import Callbacks

GRID = Grid(
    Digits(epochs=12),
    with_references([Paper(rank=4, samples=10)]),
    (Hardware.LIGHT_MODULATOR, Hardware.MICRORING),
    (0, 1),
    Imperfections(read_noise=0.02, drift=1e-3),
)


def swept(folder: Path, workers: int) -> None:
    existing = Existing.RESUME if (folder / "summary.json").exists() else Existing.REFUSE
    sweep(GRID, folder, Callbacks(), existing, workers=workers)


def killed(folder: Path, workers: int, kills: int, draws: random.Random) -> int:
    """Sweep to the end, killed so many times on the way; how many times it was."""
    done = 0
    while True:
        command = [sys.executable, __file__, "--sweep", str(folder), "--workers", str(workers)]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        goal = _segments(folder) + draws.randint(1, 8)
        while process.poll() is None and (done == kills or _segments(folder) < goal):
            time.sleep(0.005)
        time.sleep(draws.uniform(0, 0.3))
        if process.poll() is None and done < kills:
            process.send_signal(signal.SIGKILL)
            process.wait()
            done += 1
        elif process.wait():
            raise SystemExit(f"the sweep failed with {process.returncode}")
        else:
            return done


def _segments(folder: Path) -> int:
    """Evaluations so far, of finished trials and of those at work."""
    return sum(path.read_bytes().count(b"\n") for path in folder.rglob("metrics.jsonl"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=5)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--sweep", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    torch.set_num_threads(1)
    if options.sweep is not None:
        swept(options.sweep, options.workers)
        return
    with tempfile.TemporaryDirectory() as name:
        whole, cut = Path(name) / "whole", Path(name) / "cut"
        began = time.perf_counter()
        compare(GRID, whole, Callbacks())
        between = time.perf_counter()
        done = killed(cut, options.workers, options.kills, random.Random(options.seed))
        seconds = between - began, time.perf_counter() - between
        same = (whole / "summary.json").read_bytes() == (cut / "summary.json").read_bytes()
        print(f"{done} kills in {len(GRID.trials())} trials: summary.json is {'the same' if same else 'ANOTHER'}")
        print(f"compare took {seconds[0]:.0f} s, the sweep with its {done + 1} beginnings {seconds[1]:.0f} s")
    sys.exit(0 if same and done == options.kills else 1)


if __name__ == "__main__":
    main()
