"""Instruments whose inputs have unlike limits declare the range that all share, and probes keep to it."""

from __future__ import annotations

import pytest
import torch

import blackprop as bp
from blackprop.core import Ledger, Purpose, Query, metered
from blackprop.errors import LimitError
from blackprop.lab.instruments._instrument import Instrument
from blackprop.testing import check_device
from support import draw


class Board(Instrument):
    """y = A(θ) x of converters with limits of their own; refuses what they would clip."""

    def __init__(self, low, high):
        super().__init__(3, 2, bp.ThetaSpec(6, low=-1.0, high=1.0), low=low, high=high, linear=True)
        self.limits, self.driven = list(zip(low, high, strict=True)), 0

    def _set(self, values, /):
        self.matrix = torch.tensor(values, dtype=torch.float64).view(2, 3)

    def _drive(self, values, /):
        assert all(low <= value <= high for value, (low, high) in zip(values, self.limits, strict=True))
        self.row, self.driven = torch.tensor(values, dtype=torch.float64), self.driven + 1

    def _sense(self):
        return (self.matrix @ self.row).tolist()


@pytest.mark.parametrize(
    ("low", "high", "shared"),
    [
        ([0.0, -1.0, -5.0], [1.0, 5.0, 2.0], (0.0, 1.0)),
        ([-2.0, -3.0, -1.0], [3.0, float("inf"), 0.5], (-1.0, 0.5)),
        ([float("-inf")] * 3, [1.0, 2.0, 3.0], (None, 1.0)),
        ([float("-inf")] * 3, [float("inf")] * 3, (None, None)),
        ([0.0, 2.0, 0.0], [1.0, 3.0, 1.0], (None, None)),  # they share none
    ],
)
def test_the_range_that_all_inputs_share_is_declared(low, high, shared):
    board = Board(low, high)
    assert (board.x_low, board.x_high) == shared
    assert (board.declaration.x_low, board.declaration.x_high) == shared


def test_probes_of_every_part_keep_to_it():
    board = Board([0.0, -1.0, -5.0], [1.0, 5.0, 2.0])
    check_device(board)
    layer = bp.PhysicalLayer(board)
    before = layer.theta.detach().clone()
    optimizer = torch.optim.Adam(layer.parameters(), 0.05)
    for step in range(3):
        optimizer.zero_grad()
        layer(draw(4, 3, seed=step).sigmoid().requires_grad_()).square().sum().backward()
        optimizer.step()
    assert board.driven
    assert not torch.equal(before, layer.theta)


def test_rows_beyond_it_are_refused_before_one_is_sent():
    board, ledger = Board([0.0, -1.0, -5.0], [1.0, 5.0, 2.0]), Ledger()
    x = torch.tensor([[0.5, 0.5, 0.5], [0.5, 3.0, 0.5]])
    with pytest.raises(LimitError, match=r"row 1, input 1 = 3.* outside the limits .* \[0, 1\]"):
        metered(board, ledger)([Query(x, torch.zeros(6), Purpose.FORWARD)])
    assert (board.driven, ledger.total_rows) == (0, 0)
