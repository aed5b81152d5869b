"""What the driver hands to a device, and how it times one that declares no cost."""

from __future__ import annotations

import copy
import time

import numpy as np
import pytest
import torch
from torch import Tensor

import blackprop as bp
from blackprop.core import Purpose, Query, ask, metered, run


class Picky(bp.Device):
    """A driver that reads rows as drivers do: by views and through NumPy."""

    def __init__(self, shape: int | tuple[int, ...] = 6, cost: bp.Cost | None = None) -> None:
        super().__init__(shape, 6, bp.ThetaSpec(6, lambda g: torch.zeros(6)), linear=True, cost=cost)

    def program(self, theta: Tensor, /) -> None:
        self.gains = theta.numpy().copy()

    def read(self, x: Tensor, /) -> Tensor:
        return torch.from_numpy(x.view(len(x), 6).numpy() * (1 + self.gains).astype(x.numpy().dtype))


def layouts() -> dict[str, Tensor]:
    z = torch.complex(torch.rand(5, 6), torch.rand(5, 6))
    return {
        "transposed": torch.rand(6, 5).T,
        "strided": torch.rand(5, 12)[:, ::2],
        "expanded": torch.rand(1, 6).expand(5, 6),
        "negated": z.conj().imag,
        "requires grad": torch.rand(5, 6, requires_grad=True),
        "reversed": torch.rand(5, 6).flip(1),
    }


@pytest.mark.parametrize("layout", layouts())
def test_any_layout_of_rows_reaches_a_driver_plain(layout):
    x = layouts()[layout]
    layer = bp.PhysicalLayer(Picky())
    torch.testing.assert_close(layer(x), x, check_stride=False)


def test_channels_last_rows_reach_a_driver_plain():
    x = torch.rand(5, 3, 2, 1).to(memory_format=torch.channels_last)
    torch.testing.assert_close(bp.PhysicalLayer(Picky((3, 2, 1)))(x), x.reshape(5, 6))


@pytest.mark.parametrize("write", [lambda x: x.mul_(2), lambda x: x.numpy().__imul__(2)])
def test_a_device_that_writes_into_its_rows_is_found_and_harms_nothing(write):
    class Writing(Picky):
        def read(self, x: Tensor, /) -> Tensor:
            write(x)
            return x.clone()

    x = torch.rand(3, 6)
    kept = x.clone()
    with pytest.raises(bp.errors.ReadingError, match=r"has written into them.*x\.clone"):
        bp.PhysicalLayer(Writing())(x)
    assert torch.equal(x, kept)
    with pytest.raises(bp.errors.ContractError, match="leaves the rows as sent"):
        bp.testing.check_device(Writing())


def test_rows_that_queries_share_stay_shared():
    seen: list[int] = []

    class Watching(Picky):
        def measure(self, queries: list[Query], /) -> list[Tensor]:
            seen.append(len({id(query.x) for query in queries}))
            return super().measure(queries)

    x, settings = torch.rand(3, 6), torch.rand(4, 6)
    run(ask(*[Query(x, theta, Purpose.PARAMETER) for theta in settings]), metered(Watching(), bp.Ledger()))
    assert seen == [1]


class Slow(Picky):
    def read(self, x: Tensor, /) -> Tensor:
        time.sleep(0.02)
        return super().read(x)


def test_the_ledger_times_a_device_that_declares_no_cost():
    layer = bp.PhysicalLayer(Slow())
    layer(torch.rand(2, 6))
    assert 0.02 <= layer.ledger.measured_seconds < 2
    assert layer.ledger.lab_seconds == 0
    assert "measured lab time 0." in repr(layer.ledger)
    assert "estimated" not in repr(layer.ledger)
    priced = bp.PhysicalLayer(Slow(cost=bp.Cost(row=1.0)))
    with torch.no_grad():
        priced(torch.rand(2, 6))
    assert priced.ledger.measured_seconds == 0
    assert "estimated lab time 2 s" in repr(priced.ledger)
    assert "measured" not in repr(priced.ledger)
    assert bp.Ledger.sum([layer.ledger, layer.ledger]).measured_seconds == 2 * layer.ledger.measured_seconds


def test_measured_time_is_no_part_of_what_is_saved_or_compared():
    layer = bp.PhysicalLayer(Slow())
    layer(torch.rand(2, 6))
    again = copy.deepcopy(layer.ledger)
    again.measured_seconds += 1
    assert again == layer.ledger
    assert "measured_seconds" not in layer.ledger.state_dict()


def test_a_budget_of_seconds_stops_a_device_that_declares_no_cost():
    layer = bp.PhysicalLayer(Slow(), budget=bp.Budget(seconds=0.01))
    layer(torch.rand(2, 6))
    with pytest.raises(bp.errors.BudgetExhausted, match="seconds are spent"):
        layer(torch.rand(2, 6))


def test_a_budget_of_seconds_allows_what_fits_exactly():
    layer = bp.PhysicalLayer(Picky(cost=bp.Cost(row=0.1)), budget=bp.Budget(seconds=0.3))
    for _ in range(3):
        layer(torch.rand(1, 6))
    with pytest.raises(bp.errors.BudgetExhausted):
        layer(torch.rand(1, 6))


def test_default_dtype_of_double():
    torch.set_default_dtype(torch.float64)
    try:
        bp.testing.check_device(Picky())
        bp.testing.check_device(bp.devices.LightModulator(3, 2))
        bp.testing.check_surrogate(bp.surrogates.Streaming, device=bp.devices.LightModulator(3, 2))
        bp.testing.check_estimator(bp.estimators.RandomDirections(4, step=0.01))
    finally:
        torch.set_default_dtype(torch.float32)


def test_a_numpy_shape_is_a_shape():
    assert Picky((np.int64(6),)).in_shape == (6,)
