"""Methods that send the error back by fixed random weights, in the loop that all recipes share."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from blackprop import errors
from blackprop.experiments import (
    Digits,
    DirectFeedbackAlignment,
    FeedbackAlignment,
    FrozenReference,
    Hardware,
    TrainingMethod,
    Trial,
    price,
)
from blackprop.experiments.engine._callbacks import Callbacks
from blackprop.experiments.engine._training import Training
from blackprop.experiments.methods._rule import Batch
from blackprop.experiments.tasks._networks import DigitNetwork

TASK = Digits(epochs=2, batch_size=256)


def trained(method: TrainingMethod, task: Digits, hardware: Hardware = Hardware.LIGHT_MODULATOR) -> Training:
    training = Training(Trial(task, method, hardware), task.data())
    while not training.done:
        training.run_segment(Callbacks(()))
    return training


@pytest.mark.parametrize("hardware", [Hardware.LIGHT_MODULATOR, Hardware.THREE_SPLITTER_MESH])
@pytest.mark.parametrize("method", [FeedbackAlignment(), DirectFeedbackAlignment()], ids=lambda method: method.name)
def test_its_price_is_what_it_asks(method, hardware):
    expected = price(Trial(TASK, method, hardware), TASK.data()).plain()
    result = trained(method, TASK, hardware).result()
    assert result["rows"] == expected["rows"]
    for purpose, count in expected["programmings"].items():
        assert 0 <= count - result["programmings"][purpose] <= 2  # a step that moves θ by nothing is spared one
    assert not result["rows"]["surrogate"]  # no error passes a device


def test_both_train_devices_beyond_frozen_ones():
    task = Digits(epochs=5)
    scores = {
        m.name: trained(m, task).score for m in (FrozenReference(), FeedbackAlignment(), DirectFeedbackAlignment())
    }
    assert scores["direct-feedback"] > scores["frozen"] + 0.3
    assert scores["random-feedback"] > scores["frozen"] + 0.1


def test_what_stands_before_a_device_learns_by_the_matrix_and_not_by_chance():
    """The rule's gradients are those of the errors sent back: other matrices, other gradients before the last layer."""
    task = Digits(network=DigitNetwork.HYBRID)
    data = task.data()
    batch = {}
    for seed in (0, 0, 1):
        model = Trial(task, DirectFeedbackAlignment(), Hardware.MATRIX).model()
        rule = DirectFeedbackAlignment().rule(model, torch.Generator().manual_seed(seed))
        rule.add_gradients(
            Batch(data.x_train[:64], data.y_train[:64], model, task.objective.loss), torch.Tensor.backward
        )
        batch.setdefault(seed, []).append([p.grad for p in model.parameters() if p.grad is not None])
    first, again, other = *batch[0], *batch[1]
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[0], other[0])
    assert torch.equal(first[-1], other[-1])  # the last layer has its true gradient


def test_only_chains_are_trained_so():
    class Branches(nn.Module):
        pass

    with pytest.raises(errors.IncompatibleError, match="chains"):
        DirectFeedbackAlignment().rule(Branches(), torch.Generator())
