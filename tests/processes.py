"""One of several processes that share a run; started by torchrun from test_processes.py."""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from blackprop.estimators import DirectionalMemory
from blackprop.experiments import Digits, Existing, Grid, Hardware, Imperfections, Memory, compare
from blackprop.experiments.engine._execution import Workers
from blackprop.experiments.engine._training import Training
from blackprop.experiments.tasks._networks import DigitNetwork
from blackprop.nn import PhysicalLayer

TASK = Digits(network=DigitNetwork.HYBRID, epochs=3, batch_size=128)
GRID = Grid(TASK, (Memory(count=2),), (Hardware.MICRORING,), imperfections=Imperfections(read_noise=0.02, drift=1e-3))


class Stops:
    """Interrupts at an optimizer step, if told to."""

    def __init__(self, at: int) -> None:
        self.at = at

    def step(self, progress) -> None:
        if progress["step"] == self.at:
            raise SystemExit(3)

    def evaluated(self, line) -> None:
        pass

    def finished(self, result) -> None:
        pass


def agree() -> None:
    """θ, and what is saved of a run, are the same in all processes; their noise and their directions are not."""
    workers = Workers()
    (cell,) = GRID.trials()
    training = Training(cell, TASK.data(), workers)
    layer = training.model.get_submodule("2")
    assert isinstance(layer, PhysicalLayer)
    assert isinstance(layer.estimator, DirectionalMemory)
    seen = []  # of the surrogate, as each forward pass begins

    def keep(*_) -> None:
        if layer.training:  # an evaluation changes nothing, and takes over nothing
            seen.append([buffer.clone() for buffer in layer.surrogate.buffers()])

    layer.register_forward_pre_hook(keep)
    training.run_segment(Stops(-1))
    own = [layer.theta.detach(), seen, layer.estimator.taken, layer.generator.get_state()]
    everyone = workers.gather(own)
    if workers.first:
        (theta, seen, taken, state), (theta_2, seen_2, taken_2, state_2) = everyone
        assert torch.equal(theta, theta_2)
        assert all(
            torch.equal(a, b) for one, two in zip(seen, seen_2, strict=True) for a, b in zip(one, two, strict=True)
        )
        assert any(not torch.equal(a, b) for a, b in zip(seen[1], seen[-1], strict=True))  # it moves
        assert not torch.equal(taken, taken_2)  # each perturbs in directions of its own
        assert not torch.equal(state, state_2)


if __name__ == "__main__":
    torch.set_num_threads(1)
    folder, existing, stop = Path(sys.argv[1]), Existing(sys.argv[2]), int(sys.argv[3])
    if stop == 0:
        agree()
    compare(GRID, folder, Stops(stop), existing)
