"""The time that a RunMonitor takes of a training: 10,000 steps with 3 physical layers, against the same steps without.

    python benchmarks/watching.py [STEPS]

Both trainings run in this process on one thread, in alternate blocks of steps, so that other work on the machine meets
both.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

import torch

import blackprop as bp
from blackprop.monitoring import RunMonitor

BLOCK = 100  # steps
BATCH = 64


def build() -> torch.nn.Module:
    torch.manual_seed(0)
    devices = [bp.devices.Noisy(bp.devices.LightModulator(a, b), read=0.01) for a, b in ((32, 32), (32, 32), (32, 10))]
    layers = [bp.PhysicalLayer(device) for device in devices]
    first, second, third = layers
    return torch.nn.Sequential(torch.nn.Linear(64, 32), torch.nn.ReLU(), first, torch.nn.ReLU(), second, third)


class Loop:
    def __init__(self) -> None:
        self.model = build()
        self.optimizer = torch.optim.Adam(bp.param_groups(self.model, lr=1e-3, device_lr=1e-3))
        self.x, self.y = torch.randn(BATCH, 64), torch.randint(0, 10, (BATCH,))
        self.seconds = 0.0

    def run(self, steps: int, monitor: RunMonitor | None) -> None:
        start = time.perf_counter()
        for _ in range(steps):
            self.optimizer.zero_grad()
            loss = torch.nn.functional.cross_entropy(self.model(self.x), self.y)
            loss.backward()
            self.optimizer.step()
            if monitor is not None and monitor.step(loss):
                break
        self.seconds += time.perf_counter() - start


def main(steps: int) -> None:
    torch.set_num_threads(1)
    alone, watched = Loop(), Loop()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "run"
        monitor = RunMonitor(path, budget=bp.Budget(rows=10**9, seconds=1e9))
        calls = 0.0
        with monitor.follow(watched.model, steps=steps):
            follow = monitor.step

            def timed(loss: torch.Tensor) -> bool:
                nonlocal calls
                start = time.perf_counter()
                stop = follow(loss)
                calls += time.perf_counter() - start
                return stop

            monitor.step = timed  # pyright: ignore[reportAttributeAccessIssue]
            for block in range(steps // BLOCK):
                pairs = ((alone, None), (watched, monitor))
                for loop, follower in pairs if block % 2 else pairs[::-1]:
                    loop.run(BLOCK, follower)
        size = sum(file.stat().st_size for file in path.iterdir())
    print(f"{steps:,} steps of 3 layers: {alone.seconds:.1f} s without, {watched.seconds:.1f} s with a RunMonitor")
    print(
        f"time in the monitor: {calls:.2f} s, {calls / (watched.seconds - calls):.2%} of the training; "
        f"{size / 1e3:.0f} kB"
    )


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 10_000)
