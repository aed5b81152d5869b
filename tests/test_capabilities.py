"""Capabilities: declared by type, counted by name, priced, budgeted, and stated for every wrapper."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

import blackprop as bp
from blackprop.core import Capability, Ledger, Purpose, Query, Round, ask, metered, run
from blackprop.errors import ArgumentError, BudgetExhausted, IncompatibleError, LimitError, ShapeError
from blackprop.lab.remote.shared._keys import make_keys
from serving import served
from support import draw


@dataclass(frozen=True)
class Powers(Capability):
    """The power of each input inside the device: one number an input, whatever the outputs are."""

    name: ClassVar[str] = "powers"
    gain: float = 1.0

    def reading_shape(self, spec: bp.Declaration) -> tuple[int, ...]:
        return spec.in_shape

    def perform(self, device: Any, x: Tensor, /) -> Tensor:
        return self.gain * x.square() * device.programmed.mean().cos().square()


@dataclass(frozen=True)
class Kick(Capability):
    """Moves the setting by the mean of its rows, and reads nothing."""

    name: ClassVar[str] = "kicks"
    unit: ClassVar[str] = "kicks"
    writes: ClassVar[bool] = True

    def reading_shape(self, spec: bp.Declaration) -> tuple[int, ...]:
        del spec
        return (0,)

    def perform(self, device: Any, x: Tensor, /) -> Tensor:
        device.program(device.programmed + x.mean())
        return x.new_zeros(len(x), 0)

    def amount(self, x: Tensor) -> int:
        return 3 * len(x)

    def check_rows(self, x: Tensor, spec: bp.Declaration) -> None:
        if float(x.abs().max()) > 100:
            raise LimitError(f"a kick to {spec.name} is at most 100")


class Matrix(bp.devices.LightModulator):
    def __init__(self, cost: bp.Cost | None = None) -> None:
        super().__init__(6, 4, cost=cost)
        self.capabilities = (Powers(2.0), Kick())


def both(device: bp.Device, x: Tensor) -> list[Query]:
    theta = device.theta.draw(torch.Generator().manual_seed(0))
    return [Query(x, theta, Purpose.FORWARD), Query(x, theta, Purpose.PARAMETER, Powers)]


def test_a_capability_shares_the_setting_of_its_round_and_is_counted_by_name():
    device, x, ledger = Matrix(), draw(5, 6), Ledger()
    price = bp.price(lambda: ask(*both(device, x)), device)
    y, powers = run(ask(*both(device, x)), metered(device, ledger))
    assert (y.shape, powers.shape) == ((5, 4), (5, 6))
    assert ledger.programmings == {Purpose.FORWARD: 1}
    assert ledger.rows == {Purpose.FORWARD: 5, Purpose.PARAMETER: 5}
    assert ledger.actions == {"powers": 5}
    assert "powers" in repr(ledger)
    assert price == ledger
    again = Ledger()
    again.load_state_dict(ledger.state_dict())
    assert again == ledger


def test_its_units_are_priced_and_budgeted_in_their_own_currency():
    cost = bp.Cost(programming=1.0, row=0.1, actions={"kicks": 2.0})
    device, x = Matrix(cost), draw(5, 6)
    theta = device.theta.draw(torch.Generator().manual_seed(0))
    ledger, budget = Ledger(), bp.Budget(kicks=20)
    kick = Query(x, theta, Purpose.PARAMETER, Kick)
    run(ask(kick), metered(device, ledger, budget))
    assert (ledger.total_rows, ledger.actions["kicks"], budget.spent["kicks"]) == (0, 15, 15)
    assert ledger.lab_seconds == 1.0 + 15 * 2.0
    with pytest.raises(BudgetExhausted, match="15 of 20 kicks are spent and the next round of queries wants 15"):
        run(ask(kick), metered(device, ledger, budget))
    assert device.programmed is None  # the kick has moved it, so the next query writes again


@pytest.mark.parametrize(
    ("query", "error", "words"),
    [
        (lambda x, t: Query(draw(5, 7), t, Purpose.FORWARD, Powers), ShapeError, r"`powers` of .* takes rows .*\(6,\)"),
        (lambda x, t: Query(x * torch.nan, t, Purpose.FORWARD, Powers), LimitError, "row 0 of the forward query"),
        (lambda x, t: Query(x + 1000, t, Purpose.FORWARD, Kick), LimitError, "a kick to .* is at most 100"),
        (lambda x, t: Query(x, t, Purpose.FORWARD, bp.core.Nudges), IncompatibleError, "`nudges`; it declares: powers"),
    ],
)
def test_what_cannot_be_asked_is_refused_before_anything_is_spent(query, error, words):
    device, ledger = Matrix(), Ledger()
    theta = device.theta.draw(torch.Generator().manual_seed(0))
    with pytest.raises(error, match=words):
        run(ask(query(draw(5, 6), theta)), metered(device, ledger))
    assert ledger == Ledger()


def test_a_declaration_names_each_capability_once():
    for wrong in ([Powers(), Powers(3.0)], [Powers], ["powers"]):
        with pytest.raises(ArgumentError, match="capabilities"):
            bp.Declaration("it", (1,), (1,), bp.ThetaSpec(1), False, bp.Coupling.NONE, bp.Cost(), capabilities=wrong)


PARK = torch.zeros(24)
# What survives each wrapper: all, all but those that write, or none. docs/extending/capability.md says why.
SURVIVES = {
    "noisy": (bp.devices.Noisy, {"powers", "kicks"}),
    "coarse settings": (lambda d: bp.devices.Quantised(d, theta_bits=20), {"powers", "kicks"}),
    "coarse inputs": (lambda d: bp.devices.Quantised(d, input_bits=8, input_range=(-4, 4)), set()),
    "drifting": (bp.devices.Drifting, {"powers", "kicks"}),
    "declared": (bp.devices.Declared, {"powers", "kicks"}),
    "differential": (bp.devices.Differential, set()),
    "chain": (lambda d: bp.devices.Chain(d, torch.tanh), set()),
    "guarded": (lambda d: bp.lab.Guarded(d, park=PARK), {"powers", "kicks"}),
    "checked": (bp.lab.Checked, {"powers", "kicks"}),
    "retrying": (bp.lab.Retrying, {"powers", "kicks"}),
    "faulty": (bp.lab.Faulty, {"powers", "kicks"}),
    "farm": (lambda d: bp.lab.Farm([d, Matrix()]), {"powers"}),
}


@pytest.mark.parametrize("name", SURVIVES)
def test_every_wrapper_states_what_survives_it(name):
    wrap, survives = SURVIVES[name]
    device = wrap(Matrix())
    assert {each.name for each in device.declaration.capabilities} == survives
    x = draw(5, 6)
    if "powers" not in survives:
        with pytest.raises(IncompatibleError, match="powers"):
            run(ask(*both(device, x)), metered(device, Ledger()))
        return
    y, powers = run(ask(*both(device, x)), metered(device, Ledger()))
    expected = run(ask(*both(Matrix(), x)), metered(Matrix(), Ledger()))
    torch.testing.assert_close([y, powers], expected, rtol=1e-4, atol=1e-4)


def mirrored() -> bp.devices.MirroredDiffraction:
    return bp.devices.MirroredDiffraction(4, 4, planes=12)


@pytest.mark.parametrize("name", SURVIVES)
def test_fields_survive_where_an_action_that_does_not_write_survives(name):
    wrap, survives = SURVIVES[name]
    device = bp.lab.Farm([mirrored(), mirrored()]) if name == "farm" else wrap(mirrored())
    names = {each.name for each in device.declaration.capabilities}
    assert names == ({"fields", "read_back"} if "powers" in survives else set())


def test_a_recording_plays_a_capability_again(tmp_path):
    x = draw(5, 6)
    with bp.lab.Recorded(Matrix(), tmp_path / "run") as device:
        expected = run(ask(*both(device, x)), metered(device, Ledger()))
    replayed = bp.lab.Replayed(tmp_path / "run", capabilities=[Powers])
    assert replayed.declaration.capabilities == (Powers(2.0),)
    found = run(ask(*both(replayed, x)), metered(replayed, Ledger()))
    assert all(map(torch.equal, found, expected))
    assert bp.lab.Replayed(tmp_path / "run").declaration.capabilities == ()


def test_a_remote_device_serves_a_capability(tmp_path):
    make_keys(keys := tmp_path / "keys")
    with served(Matrix, keys) as server:
        with bp.lab.RemoteDevice(server.address, keys=keys, capabilities=[Powers, Kick]) as device:
            assert device.declaration.capabilities == (Powers(2.0), Kick())
            ledger = Ledger()
            found = run(ask(*both(Matrix(), x := draw(5, 6))), metered(device, ledger))
            expected = run(ask(*both(Matrix(), x)), metered(Matrix(), Ledger()))
            assert all(map(torch.equal, found, expected))
            assert ledger.actions == {"powers": 5}
        with bp.lab.RemoteDevice(server.address, keys=keys) as device:
            assert device.declaration.capabilities == ()


@pytest.mark.parametrize("wrap", [lambda d: d, bp.devices.Drifting, lambda d: bp.devices.Noisy(d, read=0.01)])
def test_the_contract_is_checked(wrap):
    report = bp.testing.check_device(wrap(Matrix()), noise=0.1)
    assert {"capability powers", "capability kicks"} <= dict(report.claims).keys()


@dataclass(frozen=True)
class Moving(Powers):
    """Moves the device, and does not say so."""

    def perform(self, device: Any, x: Tensor, /) -> Tensor:
        device.program(device.programmed + 1.0)
        return super().perform(device, x)


@dataclass(frozen=True)
class Narrow(Powers):
    def perform(self, device: Any, x: Tensor, /) -> Tensor:
        return super().perform(device, x)[:, :3]


@pytest.mark.parametrize("liar", [Moving(), Narrow()], ids=lambda liar: type(liar).__name__)
def test_a_capability_that_does_something_else_is_found_out(liar):
    device = Matrix()
    device.capabilities = (liar,)
    with pytest.raises((bp.errors.ContractError, bp.errors.ReadingError), match=r"powers|returned shape"):
        bp.testing.check_device(device)


def test_a_round_is_its_queries():
    device, x = Matrix(), draw(5, 6)
    queries = both(device, x)
    asked = Round.of(queries)
    assert len(asked) == 2
    assert asked.settings.shape == (1, 24)
    assert [q.capability for q in asked] == [None, Powers]
    assert all(torch.equal(q.x, x) and torch.equal(q.theta, queries[0].theta) for q in asked)


def test_a_part_of_a_round_is_served_as_that_part_alone():
    device = bp.devices.LightModulator(6, 4)
    thetas = [device.theta.draw(torch.Generator().manual_seed(seed)) for seed in range(3)]
    asked = Round.of([Query(draw(2 + i, 6, seed=i), theta, Purpose.FORWARD) for i, theta in enumerate(thetas)])
    whole = device.measure(asked)
    for first in range(3):
        (part,) = device.measure(asked.only(first, first + 1))
        torch.testing.assert_close(part, whole[first])
        assert torch.equal(device.programmed, thetas[first])


def test_a_device_that_renumbers_its_parameters_drops_what_goes_by_their_order():
    mesh = bp.devices.MZIMesh(4, 4)
    order = torch.randperm(mesh.theta.size, generator=torch.Generator().manual_seed(0))
    names = [
        {each.name for each in bp.devices.Declared(mesh, linear=True, order=given).capabilities}
        for given in (None, torch.arange(mesh.theta.size), order)
    ]
    assert names[0] == names[1] == names[2] | {"taps"}
    bp.testing.check_device(bp.devices.Declared(mesh, linear=True, order=order))
    assert not bp.devices.Declared(mirrored(), order=torch.arange(24).flip(0)).declaration.has(bp.core.Fields)
