"""Batch norms get the statistics of the last training batches, exactly, and for no query."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import blackprop as bp
from blackprop.errors import ArgumentError
from blackprop.optim import RecentNorms
from support import draw


def test_statistics_are_those_of_all_values_of_the_last_batches():
    for norm, shape in (
        (nn.BatchNorm1d(5), (12, 5)),
        (nn.BatchNorm2d(5), (6, 5, 3, 4)),
        (nn.BatchNorm1d(5), (6, 5, 7)),
    ):
        recent = RecentNorms(nn.Sequential(norm), batches=3)
        batches = [1e3 + step * draw(*shape, seed=step) for step in range(1, 7)]
        for x in batches:
            norm(x)
        norm.eval()
        norm(100 * batches[0])  # evaluation counts for nothing
        recent.apply()
        last = torch.cat(batches[-3:]).double().transpose(0, 1).flatten(1)
        assert torch.allclose(norm.running_mean.double(), last.mean(1), rtol=1e-6)
        assert torch.allclose(norm.running_var.double(), last.var(1), rtol=1e-5)


def test_a_short_training_is_evaluated_as_it_was_trained():
    """A device whose output changes fast: running statistics lag, recent ones do not, and nothing is asked."""
    layer = bp.PhysicalLayer(bp.devices.Matrix(6, 4), generator=torch.Generator().manual_seed(0))
    model = nn.Sequential(layer, nn.BatchNorm1d(4))
    errors = []
    with RecentNorms(model, batches=4) as recent:
        for step in range(12):
            with torch.no_grad():
                layer.theta *= 1.5
            trained = model(draw(64, 6, seed=step))
        spent = layer.ledger.total_rows
        for apply in (lambda: None, recent.apply):
            apply()
            model.eval()
            errors.append(float((model(draw(64, 6, seed=11)) - trained).detach().square().mean()))
            model.train()
    assert layer.ledger.total_rows == spent + 2 * 64  # our own evaluations
    assert errors[1] < 0.5 * errors[0], errors


def test_what_raises_leaves_the_norms_alone_and_models_without_norms_are_refused():
    norm = nn.BatchNorm1d(3)
    before = norm.running_mean.clone()
    with pytest.raises(RuntimeError, match="ours"), RecentNorms(norm):
        raise RuntimeError("ours")
    assert torch.equal(norm.running_mean, before)
    assert not norm._forward_pre_hooks
    with RecentNorms(norm):
        pass  # nothing was seen
    assert torch.equal(norm.running_mean, before)
    for wrong in (nn.Linear(3, 3), nn.BatchNorm1d(3, track_running_stats=False)):
        with pytest.raises(ArgumentError, match="no batch norm"):
            RecentNorms(wrong)
    with pytest.raises(ArgumentError, match="at least 1"):
        RecentNorms(norm, batches=0)
