"""Pulses: the law of the trains, the cells, and the crossbar that keeps its own state."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from torch import Tensor

import blackprop as bp
from blackprop.core import Ledger, Pulse, Purpose, Query, ask, metered, run
from blackprop.devices import PulsedCrossbar, cells
from blackprop.devices.electronic.cells._measured import _hats
from blackprop.devices.electronic.pulsed._trains import drawn
from blackprop.errors import ArgumentError, BudgetExhausted, ContractError, IncompatibleError, LimitError
from blackprop.lab.remote.shared._keys import make_keys
from serving import served
from support import draw

IDEAL = {"step_spread": 0.0, "high_spread": 0.0, "low_spread": 0.0, "asymmetry_spread": 0.0}
QUIET = {**IDEAL, "noise": 0.0}
PRESETS = {name: cell for name in cells.__all__ if isinstance(cell := getattr(cells, name), cells.Cell)}
ONE = torch.ones(1)


def pulsed(device: bp.Device, trains: Tensor, theta: Tensor = ONE, **kwargs: object) -> Ledger:
    ledger = Ledger()
    run(ask(Query(trains, theta, Purpose.PARAMETER, Pulse)), metered(device, ledger, **kwargs))
    return ledger


def matrix(device: bp.Device, theta: Tensor = ONE) -> Tensor:
    query = Query(torch.eye(device.in_shape[0]), theta, Purpose.EVALUATE)
    return run(ask(query), metered(device, Ledger()))[0].mT


# The law of the trains.


def test_mean_and_variance_of_the_steps_are_those_of_the_law_over_200_000_trains():
    """`E Δ = d xᵀ`, `Var Δ = g |d x| (1 + s² − p)`; p = p_j q_i, s the relative noise of a pulse."""
    g, s, count = 1e-3, 0.5, 200_000
    pulse = Pulse(g, -1.0, 1.0)
    x, d = draw(1, 6, seed=1), 0.004 * draw(1, 5, seed=2)
    train = pulse.trains(x, d)
    generator = torch.Generator().manual_seed(0)
    xs, ds = drawn(train.expand(count, -1), 6, generator)
    n = (ds.mT @ xs).double()
    steps = g * (n + n.abs().sqrt() * s * torch.randn(n.shape, generator=generator))
    wanted = (d.mT @ x).double()
    shared = (train[0, 6:-1, None] * train[0, :6]).abs()
    # Four standard errors of the mean beside the half percent, for the cells that hardly move.
    slack = 4 * steps.std(0) / math.sqrt(count)
    assert bool(((steps.mean(0) - wanted).abs() <= 0.005 * wanted.abs() + slack).all())
    assert float((steps.mean(0) - wanted).norm() / wanted.norm()) < 0.005
    law = g * wanted.abs() * (1 + s**2 - shared)
    assert float((steps.var(0) / law - 1).abs().mean()) < 0.01
    assert float((steps.var(0) - law).norm() / law.norm()) < 0.01


def test_cells_of_one_line_vary_together_and_others_do_not():
    """`Cov = S p_j p_j' q_i (1 − q_i)` for two cells of the row i, 0 where no line is shared."""
    pulse, count = Pulse(1e-3, -1.0, 1.0), 200_000
    train = pulse.trains(torch.tensor([[1.0, 0.7]]), torch.tensor([[0.0042, 0.003]]))
    xs, ds = drawn(train.expand(count, -1), 2, torch.Generator().manual_seed(3))
    n = (ds.mT @ xs).flatten(1).double()
    covariance = torch.cov(n.mT)
    p, q, slots = train[0, :2].double(), train[0, 2:4].double(), float(train[0, 4])
    row = slots * p[0] * p[1] * q[0] * (1 - q[0])
    column = slots * q[0] * q[1] * p[0] * (1 - p[0])
    assert float(covariance[0, 1]) == pytest.approx(float(row), rel=0.05)
    assert float(covariance[0, 2]) == pytest.approx(float(column), rel=0.05)
    assert abs(float(covariance[0, 3])) < 0.02 * float(row.sqrt())


def test_beyond_the_longest_train_the_largest_input_fires_always_and_only_d_is_cut_off():
    pulse = Pulse(1e-3, -1.0, 1.0)
    x, d = torch.tensor([[2.0, -1.0]]), torch.tensor([[0.1, 0.01]])
    (train,) = pulse.trains(x, d)
    assert train.tolist() == pytest.approx([1.0, -0.5, 1.0, 0.01 * 2 / 1e-3 / 31, 31])
    with pytest.raises(IndexError):
        pulse.trains(torch.zeros(1, 2), d)[0]  # a vector of zeros makes no train


def test_counted_trains_give_every_cell_its_number():
    device = PulsedCrossbar(4, 3, cells.ConstantStep(**QUIET), initial=0.0)
    counts = torch.tensor([[0.0, 2, -1, 0], [3, 0, 0, 0], [-2, 1, 1, 0]])
    ledger = pulsed(device, device.declaration.capability(Pulse).counted(counts))
    torch.testing.assert_close(matrix(device), 1e-3 * counts)
    assert ledger.actions["pulse"] == 3 + 2 + 1  # column by column, the largest number of each


# The cells.


@pytest.mark.parametrize("name", PRESETS)
def test_a_crossbar_of_every_preset_fulfils_its_declaration(name):
    device = PulsedCrossbar(6, 4, PRESETS[name], gains=(0.0, 1.0))
    bp.testing.check_device(device)
    noisy, coarse = PRESETS[name].write_noise > 10, PRESETS[name].step > 0.05
    report = bp.testing.check_pulsed(device, pulses=64 if noisy else 2 if coarse else 16)
    assert dict(report.claims)["a saved state continues"] == "bit for bit"


LAWS = [
    cells.ConstantStep(step=0.02, noise=0.5, **IDEAL),
    cells.SoftBounds(step=0.02, noise=0.5, **IDEAL),
    cells.LinearStep(step=0.02, noise=0.5, slope_up=0.3, slope_down=0.6, multiplicative=False, **IDEAL),
    cells.SoftBoundsReference(step=0.02, noise=0.5, reference=0.1, **IDEAL),
]


@pytest.mark.parametrize("cell", LAWS, ids=lambda cell: type(cell).__name__)
def test_pulses_added_at_once_have_the_law_of_pulses_one_by_one(cell):
    """In the middle of the range, and where the bounds cut pulses off."""
    shape, generator = (200, 200), torch.Generator().manual_seed(0)
    drawn_cells = cell.draw(shape, generator)
    x = (torch.rand(6, 9, shape[1], generator=generator) < 0.5).float() * torch.tensor([1.0, -1, 1, -1, 1, 1])[
        :, None, None
    ]
    d = (torch.rand(6, 9, shape[0], generator=generator) < 0.5).float()
    for start in (0.0, 0.55):
        w = torch.full(shape, start)
        fast, _ = cell.moved(w, x, d, drawn_cells, generator)
        slow = w
        for xs, ds in zip(x, d, strict=True):
            slow = cell.one_by_one(slow, ds.mT @ xs, drawn_cells, generator)
        error = float(slow.std()) / 200
        assert abs(float(fast.mean() - slow.mean())) < 5 * error
        assert float(fast.std() / slow.std()) == pytest.approx(1, abs=0.03)
        assert float(fast.quantile(0.99)) == pytest.approx(float(slow.quantile(0.99)), abs=8 * error)
        assert float(fast.max()) <= float(drawn_cells["high"].max())


def test_random_pulses_lead_to_the_symmetric_point_at_the_rate_of_the_law():
    """Up and down in turn: the distance falls by `(U/b₊ − D/b₋)/2` of itself a pulse, to 0.316 after 100."""
    up, down, high, low = 0.013, 0.008, 1.0, -0.8
    rate = (up / high - down / low) / 2
    cell = cells.SoftBounds(step=0.0105, high=high, low=low, noise=0.0, **IDEAL)
    population = cell.draw((400, 500), torch.Generator().manual_seed(0))
    population |= {"up": population["up"] * 0 + up, "down": population["down"] * 0 + down}
    population |= {"slope_up": population["up"] / high, "slope_down": -population["down"] / low}
    point = cell.symmetric_point(population)
    torch.testing.assert_close(point, torch.full_like(point, (up - down) / (up / high - down / low)), atol=1e-5, rtol=0)
    generator = torch.Generator().manual_seed(1)
    w = torch.full((400, 500), 0.5)
    for _ in range(100):
        signs = torch.randint(0, 2, w.shape, generator=generator) * 2.0 - 1
        w = cell.one_by_one(w, signs, population, generator)
    left = float((w - point).mean() / (0.5 - point[0, 0]))
    assert left == pytest.approx((1 - rate) ** 100, abs=0.004)
    assert left == pytest.approx(0.316, abs=0.004)


def test_write_noise_never_adds_up():
    cell = cells.ConstantStep(write_noise=20.0, **QUIET)
    device = PulsedCrossbar(30, 30, cell, initial=0.0)
    pulse, read = device.declaration.capability(Pulse), []
    ones = torch.ones(1, 30)
    for _ in range(200):
        pulsed(device, torch.cat([pulse.single(ones, ones), pulse.single(ones, -ones)]))
        read.append(matrix(device))
    assert torch.equal(matrix(device), read[-1])  # reading does not draw it anew
    first, last = (torch.stack(some).std() for some in (read[:20], read[-20:]))
    assert float(first) == pytest.approx(0.02, rel=0.05)
    assert float(last) == pytest.approx(0.02, rel=0.05)


def test_stuck_cells_stay_and_weights_decay_and_diffuse_with_each_query():
    device = PulsedCrossbar(40, 40, cells.ConstantStep(stuck=0.25, **QUIET), initial=0.0)
    before = matrix(device)
    pulsed(device, device.declaration.capability(Pulse).single(torch.ones(1, 40), torch.ones(1, 40)))
    assert float((matrix(device) == before).double().mean()) == pytest.approx(0.25, abs=0.05)
    fading = PulsedCrossbar(40, 40, cells.ConstantStep(lifetime=10.0, reset_spread=0.0, **QUIET), initial=0.5)
    before = matrix(fading)
    pulsed(fading, torch.zeros(1, 81))
    torch.testing.assert_close(matrix(fading), 0.9 * before)
    walking = PulsedCrossbar(40, 40, cells.ConstantStep(diffusion=0.01, **QUIET), initial=0.0)
    for _ in range(9):
        pulsed(walking, torch.zeros(1, 81))
    assert float(matrix(walking).std()) == pytest.approx(0.03, rel=0.1)


def test_properties_of_cells_are_spread_as_given():
    cell = cells.ConstantStep(asymmetry=0.4)
    drawn_cells = cell.draw((300, 300), torch.Generator().manual_seed(0))
    assert float(drawn_cells["high"].std()) == pytest.approx(0.18, rel=0.02)
    assert float(drawn_cells["up"].mean()) == pytest.approx(1e-3, rel=0.02)
    assert float(drawn_cells["down"].mean()) == pytest.approx(0.6e-3, rel=0.03)  # one side alone is weakened
    assert bool((drawn_cells["high"] >= 0).all() and (drawn_cells["low"] <= 0).all())


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"low": 0.1, "high": 1.0}, r"must contain 0, where training starts, got 0.1 to 1; shift the weights"),
        ({"step": 0.0}, "step=...\\)` must be positive"),
        ({"noise": -0.1}, "noise=...\\)` must be finite and not negative"),
        ({"stuck": 1.5}, "part of the cells"),
        ({"lifetime": 0.5}, "more than one mini-batch"),
    ],
)
def test_cells_that_cannot_be_are_refused(change, words):
    with pytest.raises(ArgumentError, match=words):
        cells.SoftBounds(**change)


def test_a_cell_is_fitted_to_measured_curves(tmp_path):
    """The steps of a known cell, measured with noise, are found again over its range."""
    true = cells.PiecewiseStep(step=0.02, high=1, low=-1, nodes_up=(1.5, 1.0, 0.3), nodes_down=(0.2, 1.0, 1.8), **QUIET)
    population = true.draw((1,), torch.Generator())
    lines, w, generator = ["direction,conductance", ",6.8"], torch.full((1,), -0.8), torch.Generator().manual_seed(0)
    for sign, word in [(1.0, "up"), (-1.0, "down")] * 6:
        for _ in range(80):
            w = true.one_by_one(w, torch.tensor([sign]), population, generator)
            lines.append(f"{word},{10 + 4 * float(w)}")
    file = tmp_path / "curve.csv"
    file.write_text("\n".join(lines))
    fit = cells.from_measurements(file, nodes=3)
    found = fit.cell
    ends = [float(line.split(",")[1]) for line in lines[1:]]
    scale = (max(ends) - min(ends)) / 8  # weights of ±1 are the ends of the measured range
    inner = torch.linspace(-0.8, 0.8, 9)
    middle = (max(ends) + min(ends) - 20) / 8
    for up in (True, False):
        flags = torch.full((9,), up)
        wanted = true.mean_step(middle + scale * inner, true.law(flags, true.draw((9,), torch.Generator()))) / scale
        got = found.mean_step(inner, found.law(flags, found.draw((9,), torch.Generator())))
        torch.testing.assert_close(got, wanted, rtol=0.1, atol=1e-3)
    assert fit.residual_up < 0.1
    assert (fit.steps_up, fit.steps_down) == (480, 480)
    assert (fit.directions == 1).sum() == (fit.directions == -1).sum() == 480
    left = fit.directions * fit.steps / found.step - torch.where(
        fit.directions > 0, *(hat_sum(fit.weights, nodes) for nodes in (found.nodes_up, found.nodes_down))
    )
    assert float(left.square().mean().sqrt()) == pytest.approx(
        math.hypot(fit.residual_up, fit.residual_down) / math.sqrt(2), rel=0.02
    )
    pytest.importorskip("matplotlib")
    top, bottom = fit.plot().axes
    assert [line.get_label() for line in top.lines] == ["up, measured", "up, fit", "down, measured", "down, fit"]
    drawn_residual = torch.cat([torch.as_tensor(line.get_ydata()) for line in bottom.lines[:2]])
    torch.testing.assert_close(drawn_residual.sort().values, left.sort().values)


def hat_sum(w: Tensor, nodes: tuple[float, ...]) -> Tensor:
    return _hats(w, len(nodes)) @ torch.tensor(nodes, dtype=w.dtype)


def test_steps_that_a_bound_cuts_off_are_no_part_of_the_fit(tmp_path):
    """A constant step up to hard bounds, at which a cell is pulsed on: the fit is constant, and has no noise."""
    w, lines = 0.0, ["direction,conductance", ",5"]
    for word, sign in (("up", 1), ("down", -1)) * 3:
        for _ in range(60):
            w = min(max(w + 0.03 * sign, -0.6), 0.6)
            lines.append(f"{word},{5 + w}")
    (tmp_path / "curve.csv").write_text("\n".join(lines))
    fit = cells.from_measurements(tmp_path / "curve.csv")
    nodes = torch.tensor(fit.cell.nodes_up + fit.cell.nodes_down)
    torch.testing.assert_close(nodes, torch.ones_like(nodes), atol=1e-3, rtol=0)
    assert fit.residual_up < 1e-3
    assert fit.cell.step == pytest.approx(0.05, rel=1e-3)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a,b\n1,2", "needs the columns direction and conductance"),
        ("direction,conductance\nup,1\nup,1\n", "does not change"),
        ("direction,conductance\nup,1\nup,x\n", "cannot be read"),
        ("direction,conductance\nup,1\nup,2\nup,3\n", "2 steps up, and 5 nodes"),
        ("direction,conductance\n" + "up,3\nup,2\nup,1\ndown,2\ndown,3\n" * 9, "against their direction"),
    ],
)
def test_a_file_that_tells_no_cell_is_refused(text, words, tmp_path):
    (tmp_path / "curve.csv").write_text(text)
    with pytest.raises(ArgumentError, match=words):
        cells.from_measurements(tmp_path / "curve.csv")


# The device, its counts and its state.


def test_pulses_are_counted_priced_budgeted_and_take_lab_time():
    device = PulsedCrossbar(6, 4, cost=bp.Cost(row=1.0, pulse=0.01))
    trains = device.declaration.capability(Pulse).trains(draw(8, 6), 0.003 * draw(8, 4))
    slots = int(trains[:, -1].sum())
    query = Query(trains, ONE, Purpose.PARAMETER, Pulse)
    price = bp.price(lambda: ask(query), device)
    budget = bp.Budget(pulse=slots)
    assert pulsed(device, trains, budget=budget) == price
    assert (price.actions["pulse"], price.total_rows, price.lab_seconds) == (slots, 0, pytest.approx(0.01 * slots))
    before = matrix(device)
    with pytest.raises(BudgetExhausted, match=f"{slots} of {slots} pulse are spent"):
        pulsed(device, trains, budget=budget)
    assert torch.equal(matrix(device), before)


@pytest.mark.parametrize(
    ("device", "trains", "error", "words"),
    [
        (bp.devices.Matrix(6, 4), torch.zeros(1, 11), IncompatibleError, "does not declare the capability `pulse`"),
        (PulsedCrossbar(6, 4), torch.full((1, 11), 2.0), LimitError, "a probability of at most 1, got 2"),
        (PulsedCrossbar(6, 4), torch.full((1, 11), 0.5), LimitError, "whole number of slots from 0 to 31, got 0.5"),
    ],
)
def test_pulses_that_cannot_be_sent_are_refused_before_the_device(device, trains, error, words):
    theta = device.theta.draw(torch.Generator())
    with pytest.raises(error, match=words):
        run(ask(Query(trains, theta, Purpose.PARAMETER, Pulse)), metered(device, Ledger()))


@pytest.mark.parametrize(
    "arguments", [{"cell": "x"}, {"gains": ()}, {"gains": (0.0, 0.0)}, {"initial": -1.0}, {"longest": 0}]
)
def test_a_crossbar_that_cannot_be_is_refused(arguments):
    with pytest.raises(ArgumentError):
        PulsedCrossbar(3, 2, **arguments)


def test_a_negative_gain_turns_the_pulses():
    device = PulsedCrossbar(6, 4, cells.ConstantStep(**QUIET), gains=(0.5, -2.0), initial=0.0)
    trains = device.declaration.capability(Pulse).single(torch.ones(1, 6), torch.ones(1, 4))
    gains = torch.tensor([0.5, -2.0])
    pulsed(device, trains, gains)
    torch.testing.assert_close(matrix(device, gains), torch.full((4, 6), (0.5 + 2.0) * 1e-3))


@pytest.mark.parametrize(
    "cell", [cells.RERAM_SB, cells.RERAM_ES, cells.CAPACITOR], ids=["affine", "general", "decaying"]
)
def test_a_restored_crossbar_continues_bit_for_bit(cell):
    device, other = PulsedCrossbar(6, 4, cell, seed=1), PulsedCrossbar(6, 4, cell, seed=1)
    trains = device.declaration.capability(Pulse).trains(draw(8, 6), 0.003 * draw(8, 4))
    pulsed(device, trains)
    other.load_state_dict(device.state_dict())
    for each in (device, other):
        pulsed(each, trains)
    assert torch.equal(matrix(device), matrix(other))
    with pytest.raises(ValueError, match="weights of shape"):
        other.load_state_dict(PulsedCrossbar(5, 4, cell).state_dict())


# Wrappers and the network.


def moved_by(wrap) -> Tensor:
    device = PulsedCrossbar(6, 4, cells.ConstantStep(**QUIET), initial=0.0)
    trains = device.declaration.capability(Pulse).single(torch.ones(1, 6), torch.ones(1, 4))
    pulsed(wrap(device), trains)
    return matrix(device)


@pytest.mark.parametrize(
    "wrap",
    [bp.devices.Noisy, bp.devices.Declared, bp.lab.Guarded, bp.lab.Checked, bp.lab.Retrying, bp.lab.Faulty],
    ids=lambda wrap: wrap.__name__,
)
def test_wrappers_send_each_pulse_once(wrap):
    assert torch.equal(moved_by(wrap), torch.full((4, 6), 1e-3))


def test_a_lost_answer_never_sends_a_pulse_twice():
    """A retry is not made for pulses; and a served device answers a repeated message from its journal."""
    device = PulsedCrossbar(6, 4, cells.ConstantStep(**QUIET), initial=0.0)
    trains = device.declaration.capability(Pulse).single(torch.ones(1, 6), torch.ones(1, 4))

    class Forgetful(bp.devices.Wrapper):
        survives = (Pulse,)

        def measure(self, queries, /):
            super().measure(queries)
            raise TimeoutError("the answer was lost")

    with pytest.raises(TimeoutError):
        pulsed(bp.lab.Retrying(Forgetful(device), sleep=lambda _: None), trains)
    assert torch.equal(matrix(device), torch.full((4, 6), 1e-3))


def test_pulses_over_the_network_arrive_once_and_are_counted(tmp_path):
    device = PulsedCrossbar(6, 4, cells.ConstantStep(**QUIET), initial=0.0)
    trains = device.declaration.capability(Pulse).single(torch.ones(2, 6), torch.ones(2, 4))
    make_keys(keys := tmp_path / "keys")
    with (
        served(lambda: device, keys) as server,
        bp.lab.RemoteDevice(server.address, keys=keys, capabilities=[Pulse]) as remote,
    ):
        assert remote.declaration.capability(Pulse) == device.declaration.capability(Pulse)
        assert pulsed(remote, trains).actions["pulse"] == 2
        torch.testing.assert_close(matrix(remote), torch.full((4, 6), 2e-3))


# The contract test finds what it looks for.


@dataclasses.dataclass
class Fault:
    name: str
    words: str


class Wrong(bp.devices.Wrapper):
    """A pulsed device with one fault."""

    survives = (Pulse,)

    def __init__(self, device: bp.Device, fault: str) -> None:
        super().__init__(device)
        self.fault = fault

    def measure(self, queries, /):
        if self.fault == "reading moves":
            inner = self.device
            inner._weights = inner._weights + 0.1
            inner._matrix = None
        changed = [
            dataclasses.replace(
                q, x=self.trains(q.x), theta=torch.ones_like(q.theta) if self.fault == "all" else q.theta
            )
            if q.capability is Pulse
            else q
            for q in queries
        ]
        self._programmed = None
        return [y[: len(q.x)] for y, q in zip(self.device.measure(changed), queries, strict=True)]

    def trains(self, x: Tensor) -> Tensor:
        x = x.clone()
        if self.fault == "reversed":
            x[:, :6] *= -1
        if self.fault == "long":
            x = x.repeat(5, 1)
        if self.fault == "leaks" and len(x):
            x[:, :6] = 1.0
        if self.fault == "mixed":
            x[:, :6] = x[:, :6].flip(1)
        return x

    def state_dict(self):
        return {"device": self.device.state_dict(), "fault": self.fault} if self.fault != "forgets" else {"n": 1}

    def load_state_dict(self, state, /):
        if self.fault != "forgets":
            self.device.load_state_dict(state["device"])


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("reading moves", "a reading moves no cell"),
        ("reversed", "tile 0 moves up and down"),
        ("long", "tile 0 moves up and down"),
        ("leaks", "rest move no cell"),
        ("mixed", "outer product|rest move no cell"),
        ("all", "leave the others"),
        ("forgets", "a saved state continues"),
    ],
)
def test_check_pulsed_finds(fault, words):
    device = PulsedCrossbar(6, 4, cells.SoftBounds(**IDEAL), gains=(0.0, 1.0))
    with pytest.raises(ContractError, match=words):
        bp.testing.check_pulsed(Wrong(device, fault))
