"""Farms of pulsed devices: read together, their trains divided; finer steps, and no member that is left out."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

import blackprop as bp
from blackprop import errors
from blackprop.core import Budget, Ledger, Pulse, Purpose, Query, ReadBack, ask, metered, price, run
from blackprop.devices import PulsedCrossbar, Wrapper, cells
from blackprop.lab import Farm, PulsedFarm
from farms import Ill
from support import draw

QUIET = {"step_spread": 0.0, "high_spread": 0.0, "low_spread": 0.0, "asymmetry_spread": 0.0, "noise": 0.0}
ONE = torch.ones(1)


def crossbars(count: int, cell: cells.Cell | None = None, **kwargs: object) -> list[PulsedCrossbar]:
    cell = cells.ConstantStep(step=0.1, **QUIET) if cell is None else cell
    return [PulsedCrossbar(6, 4, cell, seed=seed, **kwargs) for seed in range(count)]


def weights(device: bp.Device) -> Tensor:
    (y,) = run(ask(Query(torch.eye(6), ONE, Purpose.EVALUATE)), metered(device, Ledger()))
    return y.mT


def pulsed(device: bp.Device, trains: Tensor) -> Ledger:
    ledger = Ledger()
    run(ask(Query(trains, ONE, Purpose.PARAMETER, Pulse)), metered(device, ledger))
    return ledger


def test_weights_are_the_mean_of_the_members_and_a_pulse_moves_it_by_a_part_of_their_step():
    members = crossbars(4)
    with PulsedFarm(members) as farm:
        pulse = farm.declaration.capability(Pulse)
        assert pulse.granularity == pytest.approx(0.025)
        assert pulse.states == pytest.approx(4 * members[0].declaration.capability(Pulse).states)
        before = weights(farm)
        torch.testing.assert_close(before, torch.stack([weights(m) for m in members]).mean(0))
        counts = torch.randint(-3, 4, (4, 6), generator=torch.Generator().manual_seed(0)).float()
        ledger = pulsed(farm, pulse.counted(counts))
        torch.testing.assert_close(weights(farm) - before, 0.025 * counts)
        assert ledger.actions["pulse"] == int(counts.abs().amax(0).sum())
        g = draw(5, 4)
        farm.program(ONE)
        torch.testing.assert_close(farm.read_back(g), g @ weights(farm))


def test_an_update_has_the_mean_of_one_device_and_a_part_of_its_variance():
    wide = cells.ConstantStep(step=0.01, high=1e3, low=-1e3, **{**QUIET, "noise": 0.5})
    x, d = draw(1, 6).abs() + 0.2, 0.02 * (draw(1, 4, seed=1).abs() + 0.2)
    found = {}
    for count in (1, 4):
        with PulsedFarm(crossbars(count, wide, initial=0.0)) as farm:
            trains = farm.declaration.capability(Pulse).trains(x, d)
            steps, last = [], weights(farm)
            for _ in range(150):
                pulsed(farm, trains)
                steps.append((now := weights(farm)) - last)
                last = now
            steps = torch.stack(steps)
            found[count] = steps.var(0).mean()
            error = steps.std(0) / math.sqrt(150)
            assert bool(((steps.mean(0) - d.mT @ x).abs() < 4.5 * error).all())
    assert float(found[1] / found[4]) == pytest.approx(4, rel=0.25)


class Seen(Wrapper):
    """Keeps the trains and the rows that arrive."""

    survives = (Pulse, ReadBack)

    def __init__(self, device: bp.Device) -> None:
        super().__init__(device)
        self.trains: list[Tensor] = []
        self.rows = 0

    def measure(self, queries, /):
        for query in queries:
            if query.capability is Pulse:
                self.trains += list(query.x)
            else:
                self.rows += len(query.x)
        return super().measure(queries)


def test_each_train_reaches_one_member_in_order_and_each_row_reaches_all():
    members = [Seen(device) for device in crossbars(3)]
    trains = torch.ones(200, 11)
    trains[:, 0] = torch.arange(200) / 200  # tells them apart
    with PulsedFarm(members, seed=1) as farm:
        pulsed(farm, trains)
        ledger = Ledger()
        run(ask(Query(draw(7, 6), ONE, Purpose.FORWARD)), metered(farm, ledger))
    numbers = [[round(200 * float(train[0])) for train in member.trains] for member in members]
    assert all(own == sorted(own) for own in numbers)
    assert sorted(number for own in numbers for number in own) == list(range(200))
    assert all(40 < len(own) < 95 for own in numbers)
    assert [member.rows for member in members] == [7, 7, 7]
    assert ledger.total_rows == 21


def test_the_ledger_is_the_sum_over_the_members_and_rows_are_priced_so():
    with PulsedFarm(crossbars(3)) as farm:
        queries = [
            Query(draw(5, 6), ONE, Purpose.FORWARD),
            Query(torch.ones(9, 11), ONE, Purpose.PARAMETER, Pulse),
            Query(draw(2, 4), ONE, Purpose.SURROGATE, ReadBack),
        ]
        ledger, due = Ledger(), price(lambda: ask(*queries), farm)
        run(ask(*queries), metered(farm, ledger))
        assert due.rows[Purpose.FORWARD] == 15
        assert dict(ledger.rows) == {Purpose.FORWARD: 15, Purpose.SURROGATE: 6}
        assert ledger.actions == {"pulse": 9, "read back": 6} or ledger.actions["pulse"] == 9
        assert ledger.total_programmings == 3
        assert sum(member.rows for member in farm.members) == 21
        with pytest.raises(errors.BudgetExhausted):
            run(ask(queries[0]), metered(farm, Ledger(), Budget(rows=14)))


def regression(device: bp.Device, rate: float = 0.3) -> float:
    """The error of the weights that the device ends at, for a goal that its steps do not hit."""
    generator = torch.Generator().manual_seed(2)
    goal = 0.3 * torch.randn(4, 6, generator=generator)
    layer = bp.PhysicalLayer(device, bp.estimators.pulsed.MixedPrecision(), bp.surrogates.Reciprocal())
    layer.scale.decided = True
    optimizer = bp.optim.Pulsed(torch.optim.SGD(bp.param_groups(layer, lr=0.0, device_lr=rate)), layer)
    for _ in range(60):
        x = torch.randn(16, 6, generator=generator)
        optimizer.zero_grad()
        (layer(x) - x @ goal.mT).square().mean().backward()
        optimizer.step()
    return float((weights(device) - goal).square().mean().sqrt())


def test_a_farm_of_coarse_devices_is_trained_to_a_finer_result():
    coarse = cells.SoftBounds(step=0.12, **{**QUIET, "noise": 0.3})
    alone = sum(regression(device) for device in crossbars(4, coarse)) / 4
    with PulsedFarm(crossbars(6, coarse)) as farm:
        assert regression(farm) < alone / 2.5


def test_a_restored_farm_continues_bit_for_bit_and_refuses_a_foreign_state():
    noisy = cells.SoftBounds(step=0.01)
    trains = crossbars(1, noisy)[0].declaration.capability(Pulse).trains(draw(20, 6), 0.05 * draw(20, 4))
    with PulsedFarm(crossbars(3, noisy)) as farm, PulsedFarm(crossbars(3, noisy)) as other:
        pulsed(farm, trains)
        other.load_state_dict(farm.state_dict())
        for each in (farm, other):
            pulsed(each, trains)
        assert torch.equal(weights(farm), weights(other))
        kept = farm.state_dict()
        wrong = {**kept, "members": [*kept["members"][:2], {**kept["members"][2], "weights": torch.zeros(1)}]}
        with pytest.raises(ValueError, match="weights of shape"):
            farm.load_state_dict(wrong)
        assert torch.equal(weights(farm), weights(other))
        with pytest.raises(ValueError, match="state of 2 members, and here are 3"):
            farm.load_state_dict({**kept, "members": kept["members"][:2]})


class IllPulsed(Ill):
    survives = (Pulse, ReadBack)


def test_no_member_is_left_out_and_pulses_are_in_doubt():
    members = [IllPulsed(crossbars(1)[0]), IllPulsed(crossbars(2)[1], at=(1, 2))]
    with PulsedFarm(members) as farm:
        with pytest.raises(errors.DeviceError, match=r"member 1 of PulsedFarm.* none can be left out") as raised:
            weights(farm)
        assert not isinstance(raised.value, errors.InDoubtError)
        with pytest.raises(errors.InDoubtError, match="unknown which pulses of this round were sent"):
            pulsed(farm, torch.ones(4, 11))
        torch.testing.assert_close(weights(farm), (weights(members[0]) + weights(members[1])) / 2)
    with pytest.raises(errors.DeviceError, match="is closed"):
        farm.measure([Query(torch.eye(6), ONE, Purpose.EVALUATE)])


def test_a_farm_that_divides_rows_refuses_devices_that_keep_their_weights():
    with pytest.raises(
        errors.IncompatibleError, match=r"keeps a state that `pulse` moves.*`lab.PulsedFarm`.*core.Pulse"
    ):
        Farm(crossbars(2))
    with Farm([bp.devices.Declared(device, without=[Pulse]) for device in crossbars(2)]) as farm:
        assert not farm.declaration.has(Pulse)


def test_members_of_a_pulsed_farm_are_linear_alike_and_pulsed():
    with pytest.raises(errors.IncompatibleError, match="does not declare the capability `pulse`"):
        PulsedFarm([bp.devices.Matrix(6, 4)])
    with pytest.raises(errors.ArgumentError, match=r"pulse of device 0 is Pulse.*of device 1"):
        PulsedFarm([crossbars(1)[0], PulsedCrossbar(6, 4)])
    with pytest.raises(errors.ArgumentError, match=r"`PulsedFarm.devices.` takes each device once"):
        PulsedFarm(crossbars(1) * 2)
    with pytest.raises(errors.ArgumentError, match="must be programmed"), PulsedFarm(crossbars(2)) as farm:
        farm.read(torch.eye(6))
