"""A run that is killed again and again, and resumed, against the same run left alone: `summary.json`, byte for byte.

    python benchmarks/resume.py --kills 20
    python benchmarks/resume.py --kills 20 -- text --data-dir DIR --method twin --device imperfect-three-splitter

The kills are SIGKILL, at moments drawn anew each time: some fall into a checkpoint. What follows `--` is given to
`blackprop train`.
"""

from __future__ import annotations

import argparse
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

DEFAULT = (
    "digits",
    "--network",
    "hybrid",
    "--method",
    "memory",
    "--epochs",
    "60",
    "--read-noise",
    "0.02",
    "--drift",
    "1e-3",
)


def started(options: Sequence[str], folder: Path, resume: bool) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "blackprop.cli._main", "train", *options, "--run-dir", str(folder)]
    return subprocess.Popen([*command, *(["--resume"] if resume else [])], stdout=subprocess.DEVNULL)


def lines(folder: Path) -> int:
    metrics = folder / "metrics.jsonl"
    return metrics.read_bytes().count(b"\n") if metrics.exists() else 0


def killed(options: Sequence[str], folder: Path, kills: int, draws: random.Random) -> int:
    """Run to the end, killed so many times on the way; how many times it was."""
    done = 0
    while True:
        process = started(options, folder, resume=(folder / "summary.json").exists())
        goal = lines(folder) + draws.randint(1, 2)
        while process.poll() is None and (done == kills or lines(folder) < goal):
            time.sleep(0.005)
        time.sleep(draws.uniform(0, 0.3))
        if process.poll() is None and done < kills:
            process.send_signal(signal.SIGKILL)
            process.wait()
            done += 1
        elif process.wait():
            raise SystemExit(f"the run failed with {process.returncode}")
        else:
            return done


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("options", nargs="*", default=DEFAULT, help="of `blackprop train`, after --")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        whole, cut = Path(folder) / "whole", Path(folder) / "cut"
        if started(arguments.options, whole, resume=False).wait():
            raise SystemExit("the run failed when left alone")
        done = killed(arguments.options, cut, arguments.kills, random.Random(arguments.seed))
        same = (whole / "summary.json").read_bytes() == (cut / "summary.json").read_bytes()
        print(f"{done} kills in {lines(whole)} evaluations: summary.json is {'the same' if same else 'ANOTHER'}")
    sys.exit(0 if same and done == arguments.kills else 1)


if __name__ == "__main__":
    main()
