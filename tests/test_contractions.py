"""Which rows stand for a batch on a linear device: how many, how long, and what they leave out."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from blackprop.estimators import BatchContraction, ProbeContraction
from support import draw

B, D_IN, D_OUT = 40, 12, 8


def batch(*sigma: float, d_in: int = D_IN, d_out: int = D_OUT, dtype: torch.dtype = torch.float32):
    """Rows and cotangents with these singular values of `GᵀX`, and what else is in the rows."""
    k = len(sigma)
    left = torch.linalg.qr(draw(B, B, dtype=torch.float64)).Q
    q = torch.linalg.qr(draw(d_in, d_in, seed=1, dtype=torch.float64)).Q
    p = torch.linalg.qr(draw(d_out, d_out, seed=2, dtype=torch.float64)).Q
    x = 3 * left[:, :k] @ q[:, :k].mT + left[:, k + 1 : k + 3] @ q[:, -2:].mT  # the last two meet no cotangent
    grad_y = left[:, :k] * torch.tensor(sigma, dtype=torch.float64) / 3 @ p[:, :k].mT
    return x.to(dtype), grad_y.to(dtype)


def product(rows: Tensor, cotangents: Tensor) -> Tensor:
    return cotangents.mT @ rows


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("shape", [(12, 8), (8, 12), (8, 8)])
def test_probes_stand_for_the_batch_and_are_as_long_as_its_rows(shape, dtype):
    x, grad_y = batch(4, 2, 1, d_in=shape[0], d_out=shape[1], dtype=dtype)
    rows, cotangents = ProbeContraction(3).rows(x, grad_y, B)
    torch.testing.assert_close(product(rows, cotangents), product(x, grad_y), rtol=1e-4, atol=1e-5)
    amplitude = float(x.square().sum(1).mean().sqrt())
    torch.testing.assert_close(rows @ rows.mT, amplitude**2 * torch.eye(3, dtype=dtype), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(amplitude * cotangents.norm(dim=1), torch.tensor([4, 2, 1], dtype=dtype))


def test_fewer_probes_are_the_best_of_that_number():
    x, grad_y = batch(4, 2, 1)
    rows, cotangents = ProbeContraction(2).rows(x, grad_y, B)
    left = product(x, grad_y) - product(rows, cotangents)
    assert float(torch.linalg.matrix_norm(left)) == pytest.approx(1, rel=1e-3)


@pytest.mark.parametrize("small", [0.0, 1e-8])
@pytest.mark.parametrize("shape", [(12, 8), (8, 12)])
def test_directions_that_are_rounding_are_not_asked(small, shape):
    """A batch of rank 2 costs two rows, whatever the rank that is allowed: the rest is what float32 cannot resolve."""
    x, grad_y = batch(4, 2, small, small, d_in=shape[0], d_out=shape[1])
    rows, cotangents = ProbeContraction(6).rows(x, grad_y, B)
    assert rows.shape == (2, shape[0])
    assert cotangents.shape == (2, shape[1])
    torch.testing.assert_close(product(rows, cotangents), product(x, grad_y), rtol=1e-4, atol=1e-5)


def test_directions_that_are_small_but_no_rounding_are_asked():
    x, grad_y = batch(4, 2, 1e-4, dtype=torch.float64)
    assert len(ProbeContraction(6).rows(x, grad_y, B)[0]) == 3


@pytest.mark.parametrize(("energy", "kept"), [(0.0, 3), (0.01, 3), (0.04, 3), (0.05, 2), (0.2, 2), (0.25, 1), (0.9, 1)])
def test_no_more_probes_than_the_energy_needs(energy, kept):
    """Squares 16, 4, 1 of 21: one leaves 5/21 = 0.238 out, two 1/21 = 0.048, three nothing."""
    x, grad_y = batch(4, 2, 1, dtype=torch.float64)
    assert len(ProbeContraction(3, energy).rows(x, grad_y, B)[0]) == kept


def test_the_energy_that_may_be_left_out_is_of_the_whole_batch():
    """And not of the probes that the rank allows: 21 of 22 is in three of four."""
    x, grad_y = batch(4, 2, 1, 1, dtype=torch.float64)
    assert [len(ProbeContraction(k, 0.08).rows(x, grad_y, B)[0]) for k in (1, 2, 3, 4)] == [1, 2, 3, 3]


@pytest.mark.parametrize(
    ("contraction", "asked", "rows"),
    [
        (ProbeContraction(3), 4, 3),
        (ProbeContraction(3), 3, None),
        (ProbeContraction(3), 2, None),
        (ProbeContraction(3), 1, None),
        (ProbeContraction(1), 2, 1),
        (BatchContraction(), 9, 8),
        (BatchContraction(), 8, None),
        (BatchContraction(), 7, None),
    ],
)
def test_a_batch_is_contracted_where_that_saves_rows_and_not_otherwise(contraction, asked, rows):
    x, grad_y = batch(4, 2, 1, 0.5)
    found = contraction.rows(x, grad_y, asked)
    assert (None if found is None else len(found[0])) == rows


def test_one_output_is_one_row_already():
    """A device with one output needs one row, which is no direction of many: the batch stays."""
    x, grad_y = draw(B, D_IN), draw(B, 1)
    assert ProbeContraction(3).rows(x, grad_y, B) is None


def test_a_dark_batch_asks_nothing():
    rows, cotangents = ProbeContraction(3).rows(torch.zeros(B, D_IN), draw(B, D_OUT), B)
    assert rows.shape == (0, D_IN)
    assert cotangents.shape == (0, D_OUT)


def test_the_published_rows_are_the_product_itself():
    x, grad_y = batch(4, 2, 1)
    rows, cotangents = BatchContraction().rows(x, grad_y, B)
    assert rows.shape == (D_OUT, D_IN)
    torch.testing.assert_close(product(rows, cotangents), product(x, grad_y))
    assert torch.equal(cotangents, torch.eye(D_OUT))


def test_gradients_of_any_size_are_contracted():
    """Squares of small gradients underflow float32."""
    x, grad_y = batch(4, 2, 1)
    for scale in (1e-20, 1e15):
        rows, cotangents = ProbeContraction(3).rows(x, scale * grad_y, B)
        assert bool(rows.isfinite().all())
        torch.testing.assert_close(product(rows, cotangents / scale), product(x, grad_y), rtol=1e-4, atol=1e-4)
