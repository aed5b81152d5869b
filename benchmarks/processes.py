"""Two processes against one at the same global batch: the loss after 200 steps, and rows a second.

    python benchmarks/processes.py --data-dir DIR

Each process on one core. The loss is that of the validation text, since both see other rows at each step; the speed is
that of the wider convolutional network, where a step is long enough to share.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

LOSS = ("text", "--iterations", "200", "--evaluate-every", "200")
SPEED = ("cifar10", "--network", "cnn", "--train-images", "5000", "--epochs", "2", "--batch-size", "256")


def run(options: tuple[str, ...], data: Path, processes: int, folder: Path) -> dict[str, Any]:
    """The last line of metrics of a run of the default method on a light modulator."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    launch = ["-m", "torch.distributed.run", "--nproc-per-node", str(processes), "--master-port", port]
    start = [*(launch if processes > 1 else []), "-m", "blackprop.cli._main"]
    command = ["train", *options, "--data-dir", str(data), "--run-dir", str(folder)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    subprocess.run([sys.executable, *start, *command], check=True, stdout=subprocess.DEVNULL, env=environment)
    return json.loads((folder / "metrics.jsonl").read_text().splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-dir", type=Path, required=True)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        one, two = (run(LOSS, options.data_dir, n, folder / f"loss-{n}") for n in (1, 2))
        losses = [line["validation_loss"] for line in (one, two)]
        print(f"validation loss after 200 steps: {losses[0]:.4f} and {losses[1]:.4f}, {losses[1] / losses[0]:.3f}")
        one, two = (run(SPEED, options.data_dir, n, folder / f"speed-{n}") for n in (1, 2))
        print(f"speed: {one['seconds'] / two['seconds']:.2f} times, {one['seconds']:.1f} s and {two['seconds']:.1f} s")


if __name__ == "__main__":
    main()
