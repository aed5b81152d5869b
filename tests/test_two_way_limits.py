"""Limits of what is sent both ways: fields of any phase, rows of sources at the outputs; methods keep within them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import blackprop as bp
from blackprop.core import Fields, Gains, Ledger, Query, ReadBack, ReadBackField, Taps, metered, run
from blackprop.devices import Chip, MirroredDiffraction, MZIMesh, SVDMesh, chips
from blackprop.errors import ArgumentError, IncompatibleError, LimitError
from blackprop.estimators import Estimator, ForwardMode, InSitu, Subspace
from blackprop.surrogates import Reciprocal
from support import draw


def limited(device: bp.devices.Simulator, low: float | None, high: float | None) -> bp.devices.Simulator:
    device.x_low, device.x_high = low, high
    return device


def bounded(device: bp.devices.Simulator, limit: float) -> bp.devices.Simulator:
    """The device with weak sources at its outputs."""
    weak = (ReadBack, ReadBackField, Gains)
    device.capabilities = tuple(
        type(each)(**{**each.fields(), "limit": limit}) if isinstance(each, weak) else each
        for each in device.capabilities
    )
    return device


def factored() -> SVDMesh:
    return SVDMesh(Chip(chips.Rectangular(), 6, 4, seed=1), Chip(chips.Rectangular(), 4, 5, seed=2))


METHODS: list[tuple[type[bp.devices.Simulator], Estimator]] = [
    (lambda: MZIMesh(6, 5), InSitu(None)),
    (lambda: MirroredDiffraction(9, 4, planes=2), ForwardMode()),
    (factored, Subspace()),
]


def gradient(device: bp.devices.Simulator, estimator: Estimator, sent: list[Tensor] | None = None) -> Tensor:
    """The estimate for rows in [−0.1, 0.1]; the rows that it sends."""
    x, g = draw(12, *device.in_shape).clamp(-1, 1).double() / 10, 5 * draw(12, *device.out_shape, seed=1).double()
    theta = device.theta.draw(torch.Generator().manual_seed(0)).double()
    ask = metered(device, Ledger())

    def measure(queries):
        if sent is not None:
            sent.extend(query.x for query in queries)
        return ask(queries)

    return run(estimator.grad_theta(x, theta, x, g, device.declaration, torch.Generator()), measure)


@pytest.mark.parametrize(("make", "estimator"), METHODS, ids=lambda each: type(each).__name__)
def test_methods_send_weaker_rows_where_limits_ask_for_it_and_find_the_same(make, estimator):
    free, sent = gradient(make(), estimator), []
    found = gradient(bounded(limited(make(), -0.05, 0.05), 0.02), estimator, sent)
    torch.testing.assert_close(found, free, rtol=1e-9, atol=1e-12)
    assert max(float(each.abs().max()) for each in sent) < 0.0501
    stronger = []
    gradient(make(), estimator, stronger)
    assert max(float(each.abs().max()) for each in stronger) > 0.1  # without limits they send more


def test_gains_are_learnt_through_inputs_of_one_sign():
    free, device = gradient(factored(), Subspace()), limited(factored(), 0.0, 1.0)
    sent: list[Tensor] = []
    torch.testing.assert_close(gradient(device, Subspace(), sent), free, rtol=1e-9, atol=1e-12)
    assert float(sent[0][:, :6].min()) >= 0


def test_reading_back_sends_no_more_than_the_sources_do():
    device = bounded(MZIMesh(6, 5), 0.01)
    layer = bp.PhysicalLayer(device, InSitu(), Reciprocal(), generator=torch.Generator().manual_seed(0))
    x = draw(8, 6).requires_grad_()
    layer(x).square().sum().backward()
    leaf = x.detach().clone().requires_grad_()
    (layer.gain.detach() * MZIMesh(6, 5).transfer(leaf, layer.theta.detach())).square().sum().backward()
    torch.testing.assert_close(x.grad, leaf.grad, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("device", "rows", "capability", "words"),
    [
        (limited(MZIMesh(4, 4), -1, 1), (0.9, 0.9), Taps, "amplitude 1.273 to input 2.*up to 1"),
        (limited(MZIMesh(4, 4), 0, 1), (0.5, 0.1), Taps, "take real rows within .0, 1. alone"),
        (limited(MZIMesh(4, 4), 0, 1), (-0.5, 0.0), Taps, "real one of one sign"),
        (limited(MirroredDiffraction(4, 4), -1, 1), (2.0, 0.0), Fields, "amplitude 2 to input 2"),
    ],
    ids=str,
)
def test_fields_beyond_the_limits_of_the_inputs_are_refused(device, rows, capability, words):
    fields = torch.zeros(3, *device.declaration.row_shape(capability))
    fields[1, 0, 2], fields[1, 1, 2] = rows
    theta = device.theta.draw(torch.Generator().manual_seed(0))
    with pytest.raises(LimitError, match=rf"row 1 of.*{words}"):
        metered(device, Ledger())([Query(fields, theta, bp.Purpose.PARAMETER, capability)])
    fields[1, 0, 2], fields[1, 1, 2] = 0.5, 0.0  # a real row is sent
    metered(device, Ledger())([Query(fields, theta, bp.Purpose.PARAMETER, capability)])


@pytest.mark.parametrize("capability", [ReadBack, ReadBackField, Gains])
def test_backward_rows_beyond_the_limit_of_the_outputs_are_refused(capability):
    device = bounded(factored() if capability is Gains else MZIMesh(6, 5), 0.5)
    rows = torch.zeros(3, *device.declaration.row_shape(capability))
    rows[2, -1] = -0.6
    theta = device.theta.draw(torch.Generator().manual_seed(0))
    ledger = Ledger()
    with pytest.raises(LimitError, match=r"row 2 of .* sends -0.6 into output 4, .* at most 0.5"):
        metered(device, ledger)([Query(rows, theta, bp.Purpose.PARAMETER, capability)])
    assert ledger.total_rows == 0
    metered(device, ledger)([Query(rows / 2, theta, bp.Purpose.PARAMETER, capability)])


def test_a_row_of_gains_is_within_the_limits_of_the_inputs_too():
    device = limited(factored(), 0.0, 1.0)
    theta = device.theta.draw(torch.Generator().manual_seed(0))
    rows = torch.zeros(2, 11)
    rows[1, 3] = -0.5
    with pytest.raises(LimitError, match="outside the limits of the inputs"):
        metered(device, Ledger())([Query(rows, theta, bp.Purpose.PARAMETER, Gains)])


@pytest.mark.parametrize(
    ("device", "estimator"),
    [(limited(MZIMesh(4, 4), 0, 1), InSitu()), (limited(MirroredDiffraction(4, 4), 0, None), ForwardMode())],
    ids=str,
)
def test_methods_that_send_any_phase_are_refused_where_inputs_take_one_sign(device, estimator):
    with pytest.raises(IncompatibleError, match="real rows of one sign"):
        bp.PhysicalLayer(device, estimator, Reciprocal())
    assert bp.plan(device, 16).name not in {"in-situ", "forward-mode"}


@pytest.mark.parametrize("make", [lambda: MZIMesh(4, 4), lambda: MirroredDiffraction(4, 4), factored])
def test_complex_rows_are_refused_where_real_parts_are_sent(make):
    device, ledger = make(), Ledger()
    theta = device.theta.draw(torch.Generator().manual_seed(0))
    for kind in (None, *map(type, device.capabilities)):
        shape = device.in_shape if kind is None else device.declaration.row_shape(kind)
        query = Query(torch.zeros(2, *shape, dtype=torch.complex64), theta, bp.Purpose.PARAMETER, kind)
        with pytest.raises(ArgumentError, match=r"takes real rows, got torch\.complex64: a field is sent as its real"):
            metered(device, ledger)([query])
    assert ledger == Ledger()
    with pytest.raises(ArgumentError, match="takes real rows"):
        bp.PhysicalLayer(device, *bp.presets.oracle())(torch.zeros(2, *device.in_shape, dtype=torch.complex64))


def test_a_device_that_reads_powers_is_refused_by_every_method_with_what_it_needs():
    device = Chip(chips.Rectangular(), 4, 4, readout=chips.Power())
    for estimator in (InSitu(), Subspace(), ForwardMode()):
        with pytest.raises(IncompatibleError, match=f"`{type(estimator).__name__}` needs a linear.*homodyne detectors"):
            estimator.check(device.declaration)


@pytest.mark.parametrize("limit", [0.0, -1.0, float("inf"), float("nan")])
@pytest.mark.parametrize("make", [ReadBack, lambda limit: ReadBackField(4, limit), lambda limit: Gains(0, 4, limit)])
def test_a_limit_is_positive_and_finite(make, limit):
    with pytest.raises(ArgumentError, match="limit"):
        make(limit)
