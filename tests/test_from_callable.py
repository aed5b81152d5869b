"""Foreign functions as devices: arrays, lists, any precision, row by row, pools and coroutines."""

from __future__ import annotations

import asyncio
import multiprocessing
import threading
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor

import numpy as np
import pytest
import torch
from torch import Tensor

import blackprop as bp
import foreign
from blackprop.devices import from_callable
from blackprop.errors import ArgumentError, DeviceError, ReadingError

SIZES = {"in_shape": 4, "out_shape": 3, "theta_size": 12, "linear": True}


def reference(x: Tensor, theta: Tensor) -> Tensor:
    return x @ theta.view(3, 4).cos().mT


def same(device: bp.Device) -> None:
    """Forward, gradients and ledger are those of the plain function."""
    layers = [
        bp.PhysicalLayer(each, bp.estimators.RandomDirections(6, step=0.1), generator=torch.Generator().manual_seed(1))
        for each in (device, from_callable(reference, **SIZES))
    ]
    grads = []
    for layer in layers:
        x = torch.rand(5, 4, generator=torch.Generator().manual_seed(0)).requires_grad_()
        layer(x).square().sum().backward()
        grads.append((layer.theta.grad, x.grad))
    for ours, theirs in zip(*grads, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4)
    assert layers[0].ledger == layers[1].ledger
    bp.testing.check_device(device)


async def late(x: Tensor, theta: Tensor) -> Tensor:
    await asyncio.sleep(0)
    return reference(x, theta)


FOREIGN = {
    "NumPy": (lambda x, theta: x @ np.cos(theta.reshape(3, 4)).T, {"takes": torch.Tensor.numpy}),
    "float64": (lambda x, t: x @ np.cos(t.reshape(3, 4)).T, {"takes": lambda t: t.double().numpy()}),
    "float16 out": (lambda x, t: reference(x, t).double(), {}),
    "lists": (lambda x, t: reference(torch.tensor(x), torch.tensor(t)).tolist(), {"takes": torch.Tensor.tolist}),
    "row by row": (lambda x, t: foreign.row_by_row(x.numpy(), t.numpy()), {"per_row": True}),
    "a reading that has a graph": (lambda x, t: reference(x, t.requires_grad_()), {}),
    "coroutines": (late, {}),
}


@pytest.mark.parametrize("kind", FOREIGN)
def test_foreign_functions_are_devices(kind):
    fn, options = FOREIGN[kind]
    same(from_callable(fn, **SIZES, **options))


@pytest.mark.parametrize("per_row", [True, False])
def test_a_pool_of_threads_serves_a_round_side_by_side(per_row):
    barrier = threading.Barrier(2, timeout=10)

    def meets(x: Tensor, theta: Tensor) -> Tensor:
        barrier.wait()  # needs two at a time
        return reference(x, theta)

    with ThreadPoolExecutor(2) as pool:
        device = from_callable(meets, **SIZES, per_row=per_row, pool=pool)
        x, settings = torch.rand(2, 4), torch.rand(2, 12)
        queries = [bp.Query(x, theta, bp.Purpose.FORWARD) for theta in settings]
        found = device.measure(queries)
        for y, theta in zip(found, settings, strict=True):
            torch.testing.assert_close(y, reference(x, theta))
        assert torch.equal(device.programmed, settings[-1])


def test_a_pool_of_processes():
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as pool:
        same(from_callable(foreign.row_by_row, **SIZES, takes=torch.Tensor.numpy, per_row=True, pool=pool))
        dying = from_callable(foreign.die, **SIZES, takes=torch.Tensor.numpy, per_row=True, pool=pool)
        with pytest.raises(DeviceError, match=r"the pool of die.* broke"):
            bp.PhysicalLayer(dying)(torch.rand(2, 4))
        with pytest.raises(ArgumentError, match="cannot be sent to another process"):
            from_callable(lambda x, theta: x, **SIZES, pool=pool)


def test_coroutines_wait_side_by_side_within_a_running_loop_too():
    here, most = 0, 0

    async def slow(x: Tensor, theta: Tensor) -> Tensor:
        nonlocal here, most
        here += 1
        most = max(most, here)
        await asyncio.sleep(0.01)
        here -= 1
        return reference(x, theta).squeeze(0)

    device = from_callable(slow, **SIZES, per_row=True, noise=1e-3)  # so that it is not asked for its noise

    async def user() -> Tensor:
        return bp.PhysicalLayer(device)(torch.rand(7, 4))

    assert asyncio.run(user()).shape == (7, 3)
    assert most == 7


def test_a_coroutine_that_fails_ends_the_others():
    ended: list[bool] = []

    async def fails(x: Tensor, theta: Tensor) -> Tensor:
        del theta
        if float(x.sum()) > 3:
            raise OSError("no link")
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            ended.append(True)
            raise
        return x

    with pytest.raises(OSError, match="no link"):
        bp.PhysicalLayer(from_callable(fails, **SIZES, per_row=True))(torch.tensor([[0.0] * 4, [1.0] * 4]))
    assert ended == [True]


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (None, r"returned NoneType that is not an array of numbers, for 2 rows"),
        ({"y": 1}, r"returned dict that is not an array of numbers"),
        ([[1.0], [1.0, 2.0]], r"returned list that is not an array of numbers"),
        (["a", "b"], r"returned list that is not an array of numbers"),
        (torch.zeros(2, 3, dtype=torch.complex64), r"returned complex numbers; .* real part or power"),
        ([0.0, 0.0, 0.0], r"returned shape \(3,\), expected \(2, 3\), for 2 rows; .*per_row=True"),
    ],
)
def test_what_cannot_be_used_is_said(answer, said):
    layer = bp.PhysicalLayer(from_callable(lambda x, theta: answer, **SIZES))
    with pytest.raises(ReadingError, match=said):
        layer(torch.rand(2, 4))


def test_wrong_arguments_are_refused():
    for wrong in ({"takes": 1}, {"pool": 2}):
        with pytest.raises(ArgumentError, match=r"`from_callable\("):
            from_callable(reference, **SIZES, **wrong)
    with pytest.raises(ArgumentError, match=r"fn=\.\.\."):
        from_callable(3, **SIZES)
    with ThreadPoolExecutor(1) as pool, pytest.raises(ArgumentError, match="coroutines wait side by side"):
        from_callable(late, **SIZES, pool=pool)


def test_one_output_may_be_a_number():
    device = from_callable(lambda x, theta: float(x.sum()), in_shape=4, out_shape=1, theta_size=1, per_row=True)
    assert bp.PhysicalLayer(device)(torch.ones(3, 4)).tolist() == [[4.0]] * 3


LIMITS = [
    ({}, -0.1, 0.1),
    ({"low": 0.0, "high": 5.0}, 0.05, 4.95),
    ({"period": 2.0}, 0.02, 1.98),
    ({"low": 1.0}, 1.002, 1.198),
    ({"high": 1.0}, 0.802, 0.998),
    ({"low": torch.tensor([0.0, 10.0] * 500), "high": torch.tensor([1.0, 11.0] * 500)}, 0.01, 10.99),
]


@pytest.mark.parametrize(("limits", "least", "most"), LIMITS)
def test_initial_values_that_are_not_given_lie_inside_the_limits(limits, least, most):
    spec = bp.ThetaSpec(1000, **limits)
    theta = spec.draw(torch.Generator().manual_seed(0))
    spec.check(theta)
    assert least <= float(theta.min()) < least + 0.05 * (most - least)
    assert most >= float(theta.max()) > most - 0.05 * (most - least)
    assert torch.equal(theta, spec.draw(torch.Generator().manual_seed(0)))
    low, high = spec.bounds(theta)
    assert bool(((theta > low) & (theta < high)).all())
