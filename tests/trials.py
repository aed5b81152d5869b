"""Small trials, how they are run without a folder, and how two runs are held against each other."""

from __future__ import annotations

import torch

from blackprop.experiments import Digits, Grid, Hardware, Imperfections, Paper
from blackprop.experiments.engine._hardware import FLAWLESS
from blackprop.experiments.engine._training import Training
from blackprop.experiments.records._run_folder import RunFolder

QUICK = Digits(epochs=3, batch_size=128)
SMALL = Paper(rank=4, samples=3)
ROUGH = Imperfections(read_noise=0.02, theta_bits=8, output_bits=8, drift=1e-3)


class Quiet:
    """Watches and says nothing; interrupts at an optimizer step, if told to."""

    def __init__(self, interrupt_at: int | None = None) -> None:
        self.interrupt_at = interrupt_at
        self.results: list[dict] = []

    def step(self, progress):
        if progress["step"] == self.interrupt_at:
            raise KeyboardInterrupt

    def evaluated(self, line):
        pass

    def finished(self, result):
        self.results.append(dict(result))


def one(method=SMALL, hardware=Hardware.LIGHT_MODULATOR, task=QUICK, imperfections=FLAWLESS, seeds=(0,)):
    return Grid(task, (method,), (hardware,), seeds, imperfections)


def run(trial, data):
    """A run without a folder: segments chained through their states, as the loop chains them through the checkpoint."""
    training = Training(trial, data)
    while not training.done:
        training.run_segment(Quiet())
        training = Training(trial, data, state=training.state())
    return training


def without_time(entry):
    return {name: value for name, value in entry.items() if name != "seconds"}


def assert_same(a, b):
    assert type(a) is type(b)
    if isinstance(a, torch.Tensor):
        assert torch.equal(torch.nan_to_num(a), torch.nan_to_num(b))
    elif isinstance(a, dict):
        assert a.keys() == b.keys()
        for name in a.keys() - {"seconds"}:
            assert_same(a[name], b[name])
    elif isinstance(a, list | tuple):
        assert len(a) == len(b)
        for left, right in zip(a, b, strict=True):
            assert_same(left, right)
    else:
        assert a == b


def assert_same_run(a, b):
    """Weights, optimizer, generators, ledger, metrics and summary, bit for bit; only the clock may differ."""
    folders = [RunFolder(path) for path in (a, b)]
    assert_same(*(folder.checkpoint() for folder in folders))
    assert_same(*([without_time(line) for line in folder.metrics()] for folder in folders))
    assert_same(*(folder.summary() for folder in folders))
