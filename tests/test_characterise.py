"""What `characterise` finds of devices that declare nothing, what it costs, and that it leaves them as they were."""

from __future__ import annotations

import json
import math
import re

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

import blackprop as bp
from blackprop import Budget, Coupling, Purpose
from blackprop.cli import _main as cli
from blackprop.devices import Declared, Drifting, Noisy
from blackprop.errors import ArgumentError, LimitError
from blackprop.planning.inquiry._codes import decode, draw_codes, few, settings_needed
from blackprop.testing import check_device
from support import Opaque, draw
from test_characterise_faults import D_IN, D_OUT, SIZE, device, matrix

PUBLISHED = [
    bp.devices.Matrix(6, 4),
    bp.devices.LightModulator(6, 4),
    bp.devices.Microring(6, 4),
    bp.devices.MZIMesh(6, 4),
    bp.devices.ThreeSplitterMesh(6, 4),
    bp.devices.Monarch(9, 6),
    bp.devices.LowRank(6, 4, rank=2),
    bp.devices.Resampling(6, 4),
    bp.devices.Diffraction(9, 4),
]
CONDITIONS = {
    "plain": (lambda inner: inner, 0.0),
    "noisy": (lambda inner: Noisy(inner, read=0.02), 0.02),
    "drifting": (lambda inner: Noisy(Drifting(inner, per_programming=1e-3), read=0.02), 0.02),
}


def wired(inner: bp.Device, seed: int = 0) -> Declared:
    """A device that declares nothing, its parameters in a hidden order."""
    return Declared(inner, order=torch.randperm(inner.theta.size, generator=torch.Generator().manual_seed(seed)))


@pytest.mark.parametrize("condition", CONDITIONS)
@pytest.mark.parametrize("inner", PUBLISHED, ids=lambda d: type(d).__name__)
def test_published_devices_are_found_as_they_are(inner: bp.Simulator, condition: str):
    wrap, noise = CONDITIONS[condition]
    for hide in (Declared, wired):
        found = bp.characterise(wrap(hide(inner)))
        spec = found.declaration
        assert found.diagnoses == ()
        assert (spec.linear, spec.coupling) == (inner.linear, inner.coupling), found
        assert spec.noise == pytest.approx(noise, rel=0.2)
        period = inner.theta.period
        assert spec.theta.period is None if period is None else spec.theta.period == pytest.approx(period, rel=1e-4)
        assert found["period"].known
        assert found.ledger.total_rows == found.ledger.rows[Purpose.CALIBRATE]


@pytest.mark.parametrize("condition", CONDITIONS)
def test_what_was_found_passes_the_contract_test(condition: str):
    wrap, _ = CONDITIONS[condition]
    for inner in (bp.devices.Microring(6, 4), bp.devices.MZIMesh(4, 4)):
        found = bp.characterise(wrap(wired(inner)))
        # The walk of a drifting device is slow beside the few per cent that a wrong declaration would show as.
        report = check_device(found.device, tolerance=0.02 if condition == "drifting" else 1e-4)
        assert "coupling ELEMENT" in str(report) or inner.coupling is Coupling.NONE


@pytest.mark.parametrize("kind", ["read", "proportional"])
def test_noise_is_told_by_its_kind(kind: str):
    found = bp.characterise(Noisy(Declared(bp.devices.MZIMesh(8, 8)), **{kind: 0.03}))
    assert found["noise kind"].value == kind
    assert found["noise"].value == pytest.approx(0.03, rel=0.2)


@pytest.mark.parametrize("period", [3.3, 1.0, 360.0, math.pi])
def test_a_period_is_found_whatever_its_unit(period: float):
    def fn(x: Tensor, theta: Tensor) -> Tensor:
        turn = 2 * math.pi * theta / period
        return x @ (turn.cos() + 0.3 * (2 * turn).sin()).view(D_OUT, D_IN).mT

    found = bp.characterise(device(fn))
    assert found.declaration.theta.period == pytest.approx(period, rel=1e-3)
    assert found.declaration.coupling is Coupling.ELEMENT


@pytest.mark.parametrize(("high", "found_at"), [(6.0, None), (3 * math.pi, 2 * math.pi)])
def test_a_period_within_limits_is_found_where_it_fits(high: float, found_at: float | None):
    found = bp.characterise(device(lambda x, theta: x @ matrix(theta).mT, low=0.0, high=high))
    period = found.declaration.theta.period
    assert period is None if found_at is None else period == pytest.approx(found_at)
    assert found.declaration.coupling is Coupling.ELEMENT


def test_a_hidden_order_is_found_in_a_number_of_settings_that_grows_as_a_logarithm():
    for d_in, d_out in ((8, 8), (32, 64)):
        hidden = wired(bp.devices.Microring(d_in, d_out))
        found = bp.characterise(hidden)
        assert found.device.order is not None
        assert torch.equal(hidden.order[found.device.order], torch.arange(d_in * d_out))
        bound = (2 * math.log2(d_in * d_out) + 4 + 33) * d_in
        assert found.ledger.total_rows < bound + 6000


def test_a_hidden_order_of_limited_parameters_is_found_within_the_limits():
    low, high = draw(SIZE, seed=1) - 2, draw(SIZE, seed=2) + 4
    hidden = torch.randperm(SIZE, generator=torch.Generator().manual_seed(1))
    written = []

    def fn(x: Tensor, theta: Tensor) -> Tensor:
        written.append(theta)
        if bool(((theta < low) | (theta > high)).any()):
            raise LimitError("outside")
        return x @ (theta / 8).sin()[hidden].view(D_OUT, D_IN).mT

    found = bp.characterise(device(fn, low=low, high=high))
    assert found.declaration.coupling is Coupling.ELEMENT
    assert torch.equal(found.device.order, hidden)
    assert torch.equal(found.declaration.theta.low, low[hidden])
    assert len(written) > 100


@pytest.mark.parametrize("each", [1, 2])
def test_outputs_with_parameters_of_their_own_are_found_in_a_hidden_order(each: int):
    hidden = torch.randperm(D_OUT * each, generator=torch.Generator().manual_seed(3)).view(D_OUT, each)
    mixing = draw(D_OUT, D_IN)

    def fn(x: Tensor, theta: Tensor) -> Tensor:
        return (x @ mixing.mT) * theta[hidden].sin().sum(1)

    found = bp.characterise(
        bp.devices.from_callable(
            fn,
            in_shape=D_IN,
            out_shape=D_OUT,
            theta_size=D_OUT * each,
            initial=lambda g: torch.rand(D_OUT * each, generator=g),
        )
    )
    assert found.declaration.coupling is Coupling.ROW, found["coupling"]
    order = found.device.order if found.device.order is not None else torch.arange(D_OUT * each)
    assert torch.equal(order.view(D_OUT, each).sort(1).values, hidden.sort(1).values)


def test_codes_name_what_blinks_with_them(generator: torch.Generator):
    codes = draw_codes(500, settings_needed(500), generator)
    assert len(codes.mT.unique(dim=0)) == 500
    hidden = torch.randperm(500, generator=generator)
    signal = torch.cat((torch.zeros(1, 500), codes[:, hidden].float()))
    readings = signal * (0.5 + torch.rand(500, generator=generator)) + 0.08 * draw(*signal.shape)
    found = decode(readings, codes, torch.arange(500))
    assert (found.owner == hidden).double().mean() > 0.97
    assert bool((found.owner[found.owner >= 0] == hidden[found.owner >= 0]).all())
    assert (decode(draw(*signal.shape), codes, torch.arange(500)).owner < 0).double().mean() > 0.98
    pair = signal[:, :1] + 0.5 * signal[:, 1:2]
    assert few(pair, codes, 0.01) == [{int(hidden[0]), int(hidden[1])}]


def test_the_smallest_device_and_one_of_images_are_found():
    def make(fn, shape, size: int) -> bp.Device:
        return bp.devices.from_callable(fn, in_shape=shape, out_shape=shape, theta_size=size)

    one = bp.characterise(make(lambda x, theta: x * theta.cos(), 1, 1)).declaration
    assert (one.linear, one.coupling) == (True, Coupling.ELEMENT)
    image = bp.characterise(make(lambda x, theta: x * theta.cos().view(3, 4), (3, 4), 12)).declaration
    assert (image.linear, image.coupling) == (True, Coupling.ROW)


def test_a_device_that_bends_is_not_called_linear_whatever_else_it_is():
    bends = {
        "offset": lambda y: y + 0.1,
        "intensity": lambda y: y.square(),
        "slightly": lambda y: y + 0.003 * y**3,
    }
    for name, bend in bends.items():
        for noise in (0.0, 0.02) if name != "slightly" else (0.0,):
            found = bp.characterise(Noisy(device(lambda x, theta, bend=bend: bend(x @ matrix(theta).mT)), read=noise))
            assert not found.declaration.linear, name


# What it costs, and how the device is left


def test_the_budget_is_kept_and_what_it_does_not_reach_stays_unknown():
    inner = Opaque(bp.devices.LightModulator(6, 4))
    whole = bp.characterise(inner)
    before = None
    for part in (0.0, 0.1, 0.3, 0.6, 1.0):
        budget = Budget(rows=int(part * whole.ledger.total_rows) + 1, programmings=whole.ledger.total_programmings + 1)
        found = bp.characterise(Opaque(bp.devices.LightModulator(6, 4)), budget)
        assert found.ledger.total_rows <= budget.limits["rows"]
        assert found.ledger.total_rows <= budget.spent["rows"]
        known = {name for name, finding in found.findings.items() if finding.known}
        assert before is None or before <= known
        before = known
        assert found["coupling"].known == (part == 1)
        assert found["coupling"].known or "budget" in found["coupling"].evidence
        assert found.declaration.coupling is (Coupling.ELEMENT if part == 1 else Coupling.NONE)


def test_theta_is_parked_where_it_was():
    inner = Opaque(bp.devices.LightModulator(6, 4))
    theta = draw(24)
    bp.run(bp.core.ask(bp.Query(draw(2, 6), theta, Purpose.EVALUATE)), inner.measure)
    bp.characterise(inner)
    assert torch.equal(inner.written[-1], theta)
    assert torch.equal(inner.programmed, theta)


def test_theta_is_parked_when_the_budget_ends_and_when_the_device_fails():
    inner = Opaque(bp.devices.LightModulator(6, 4))
    bp.characterise(inner, Budget(programmings=30))
    assert len(inner.written) <= 30
    assert torch.equal(inner.written[-1], inner.written[0])

    class Breaking(Opaque):
        def read(self, x: Tensor, /) -> Tensor:
            if len(self.written) > 40 and not torch.equal(self.written[-1], self.written[0]):
                raise OSError("the shutter is closed")
            return super().read(x)

    inner = Breaking(bp.devices.LightModulator(6, 4))
    with pytest.raises(OSError, match="shutter"):
        bp.characterise(inner)
    assert len(inner.written) < 50
    assert torch.equal(inner.written[-1], inner.written[0])


def test_wrong_arguments_are_refused():
    for arguments in ((object(),), (bp.devices.Matrix(2, 2), None)):
        with pytest.raises(ArgumentError):
            bp.characterise(*arguments, scale=0.0)


# What is done with it


def test_what_was_found_trains_as_the_oracle_does():
    hidden = torch.randperm(SIZE, generator=torch.Generator().manual_seed(5))

    def fn(x: Tensor, theta: Tensor) -> Tensor:
        return x @ theta[hidden].cos().view(D_OUT, D_IN).mT

    found = bp.characterise(device(fn))
    layer = bp.PhysicalLayer(found.device, generator=torch.Generator().manual_seed(0))
    assert isinstance(layer.surrogate, bp.surrogates.CalibratedResponse)
    x, target = draw(32, D_IN, seed=1).requires_grad_(), draw(32, D_OUT, seed=2)
    (layer(x) * target).sum().backward()
    theta = layer.theta.detach().clone().requires_grad_()
    true_x = x.detach().clone().requires_grad_()
    (true_x @ theta.cos().view(D_OUT, D_IN).mT * target).sum().backward()
    assert cosine_similarity(layer.theta.grad, theta.grad, 0) > 0.99
    assert cosine_similarity(x.grad.flatten(), true_x.grad.flatten(), 0) > 0.99


def test_a_device_declared_anew_answers_alike_in_another_order(generator: torch.Generator):
    inner = bp.devices.Microring(5, 3)
    order = torch.randperm(15, generator=generator)
    renamed = Declared(inner, linear=True, coupling=Coupling.NONE, noise=0.1, period=1.0, order=order)
    assert (renamed.declaration.noise, renamed.declaration.theta.period) == (0.1, 1.0)
    start, own = (d.theta.draw(torch.Generator().manual_seed(4)) for d in (renamed, inner))
    assert torch.equal(start, own[order])
    x = draw(4, 5)
    (y,) = renamed.measure([bp.Query(x, start, Purpose.CALIBRATE)])
    (expected,) = inner.measure([bp.Query(x, own, Purpose.CALIBRATE)])
    assert torch.equal(y, expected)
    assert torch.equal(renamed.oracle()(x, start), expected)
    for wrong in (torch.zeros(15, dtype=torch.long), torch.arange(14)):
        with pytest.raises(ArgumentError, match="permutation"):
            Declared(inner, order=wrong)


# How it is told


def test_the_report_is_written_in_three_forms(tmp_path):
    found = bp.characterise(Noisy(wired(bp.devices.LightModulator(6, 4)), read=0.02))
    assert "report.html" in found.save(tmp_path)
    written = json.loads((tmp_path / "report.json").read_text())
    assert written["declaration"]["coupling"] == "element"
    assert written["declaration"]["order"] == found.device.order.tolist()
    assert set(written["findings"]) == set(found.findings)
    assert (tmp_path / "report.txt").read_text() == f"{found}\n"
    page = (tmp_path / "report.html").read_text()
    assert "prefers-color-scheme: dark" in page
    assert 'name="viewport"' in page
    assert "<link" not in page.split("</script>")[-1]
    for curve in ("noise", "linearity", "response", "settling", "drift", "step", "coupling"):
        assert f'id="plot-{curve}"' in page


def test_the_page_leads_with_the_coupling_and_leaves_out_plots_of_nothing(tmp_path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(__import__("sys").modules, "plotly", None)  # it needs no other package
    bp.characterise(bp.devices.Microring(6, 4)).save(tmp_path)
    page = (tmp_path / "report.html").read_text()
    assert re.findall(r'<div class="card"><h2>(.*?)</h2>', page)[:2] == ["coupling", "linear"]
    assert 'id="plot-response"' in page
    for nothing in ("noise", "settling", "drift"):
        assert f'id="plot-{nothing}"' not in page
    assert len(page) < 60_000


MINE = """
import blackprop as bp

def modulator():
    return bp.devices.Declared(bp.devices.LightModulator(4, 3))
"""


def test_the_command_characterises_what_a_factory_makes(tmp_path, monkeypatch: pytest.MonkeyPatch, capsys):
    (tmp_path / "mine_to_find.py").write_text(MINE)
    monkeypatch.chdir(tmp_path)
    assert cli.main(["characterise", "mine_to_find:modulator", "--output", "out"]) == 0
    out = capsys.readouterr().out
    assert "Coupling.ELEMENT" in out
    assert (tmp_path / "out" / "report.html").exists()
    assert cli.main(["characterise", "mine_to_find:modulator", "--rows", "100", "--programmings", "5"]) == 0
    assert "Coupling.NONE" in capsys.readouterr().out


def test_the_recipe_counts_what_the_characterisation_costs(generator: torch.Generator):
    from blackprop.experiments.methods._methods import Characterised

    device = bp.devices.Microring(6, 4)
    start = device.theta.draw(torch.Generator().manual_seed(0))
    layer = Characterised().layer(device, generator)
    assert torch.equal(layer.theta, start)
    assert layer.ledger.rows[Purpose.CALIBRATE] > 1000
    assert layer.device.coupling is Coupling.ELEMENT
