"""Methods compared on sequences at an equal allowance of rows and programmings."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from typing import Any

import torch
from torch.nn import functional as F

from blackprop.devices import Device
from blackprop.experiments.engine._allowance import EVALUATED, Allowance, asked, evaluate, physical_layers, train_within
from blackprop.experiments.engine._trial import Stream, stream_seed
from blackprop.experiments.methods._methods import Method
from blackprop.experiments.tasks._task import Data
from blackprop.experiments.tasks.sequences import _ridge as ridge
from blackprop.experiments.tasks.sequences._base import SequenceTask
from blackprop.experiments.tasks.sequences._networks import Network
from blackprop.nn._layer import PhysicalLayer

# ((time, drives), (time, nodes), the seed of its hidden errors and fixed weights) -> the device
MakeDevice = Callable[[tuple[int, int], tuple[int, int], int], Device]


@dataclass(frozen=True)
class Readout(Method):
    """Classical reservoir computing: reservoir and drive stay as they were drawn, the readout is ridge regression on
    one pass over the sequences. No gradient, one programming.
    """

    name: str = "ridge"

    def layer(self, device: Device, generator: torch.Generator) -> PhysicalLayer:
        layer = PhysicalLayer(device, generator=generator)
        layer.theta.requires_grad_(False)
        return layer


def run(
    task: SequenceTask, make: MakeDevice, method: Method, seed: int, allowance: Allowance, *, refit: bool = False
) -> dict[str, Any]:
    """Train the task's network by `method` until the next step would pass the allowance; its scores, what it spent.

    With `refit`, the readout is fitted anew by ridge regression in the end, from rows that are kept back for it: what
    the reservoir has become is then told from how well a readout is trained step by step.

    At one seed all methods start from the same θ and weights and see the sequences in the same order. Rates fall as a
    cosine of the share of the allowance that is spent, so every method has come to rest when it ends.
    """
    data, places = task.data(), count()

    def layer(in_shape: tuple[int, int], out_shape: tuple[int, int]) -> PhysicalLayer:
        index = next(places)
        device = make(in_shape, out_shape, stream_seed(seed, Stream.IMPERFECTIONS, index))
        return method.layer(device, torch.Generator().manual_seed(stream_seed(seed, Stream.LAYER, index)))

    model, start = task.build(layer, stream_seed(seed, Stream.WEIGHTS)), time.perf_counter()
    assert isinstance(model, Network)
    refit = refit or isinstance(method, Readout)
    steps = 0
    if not isinstance(method, Readout):
        steps = train_within(task, model, method, data, seed, allowance.less(len(data.x_train)) if refit else allowance)
    if refit:
        _fit(model, data, allowance)
    rows, programmings = asked(model)
    return {
        "task": task.name,
        "method": method.name,
        "seed": seed,
        **evaluate(task.objective, model, data),
        "steps": steps,
        "rows": rows,
        "programmings": programmings,
        "seconds": time.perf_counter() - start,
    }


@torch.no_grad()
def _fit(model: Network, data: Data, allowance: Allowance) -> None:
    """The readout by ridge regression, on as many sequences as may be sent."""
    model.eval()
    for layer in physical_layers(model):
        layer.train()  # so that its rows are booked as those of training
    x, y = data.x_train[: allowance.rows], data.y_train[: allowance.rows]
    targets = y if y.is_floating_point() else F.one_hot(y, model.sizes.outputs)
    features = torch.cat([model.features(part) for part in x.split(EVALUATED)])
    ridge.fit(features, targets).write(model.readout)
