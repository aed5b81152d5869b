"""What ARCHITECTURE.md says does never happen, looked for in the source and tried."""

from __future__ import annotations

import ast
import copy
import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

import blackprop as bp
from blackprop.core import Purpose, Query, in_rounds, metered, run
from support import draw

PACKAGE = Path(bp.__file__).parent


def sources(*without: str) -> Iterator[tuple[str, ast.Module]]:
    """Every file of the library but those that begin so."""
    for path in sorted(PACKAGE.rglob("*.py")):
        name = str(path.relative_to(PACKAGE))
        if not name.startswith(without):
            yield name, ast.parse(path.read_text())


def called(tree: ast.AST) -> Iterator[tuple[str, ast.Call]]:
    """Every call by the last name of what is called."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield getattr(node.func, "attr", getattr(node.func, "id", "")), node


def owner(call: ast.Call) -> str:
    return ast.unparse(call.func.value) if isinstance(call.func, ast.Attribute) else ""


# Whoever wants a measurement asks for it.


def test_no_code_measures_but_the_driver_and_what_stands_for_a_device():
    """`measure`, `program` and `read` of a device are called by `metered` alone, and by devices around devices."""
    behind = ("devices/", "lab/", "testing/")  # devices, wrappers, the served device; the contract tests of devices
    found = {
        (name, ast.unparse(call.func))
        for name, tree in sources(*behind)
        for verb, call in called(tree)
        if verb in ("measure", "program", "read") and owner(call).split(".")[-1] in ("device", "_device", "inner")
    }
    timed = ("characterisation/_clock.py", "self.device.measure")  # a device around a device, whose rounds are timed
    # A capability is performed by the device that declares it.
    performed = {(f"core/capabilities/_{name}.py", "device.read") for name in ("nudges", "cells")}
    assert found == {("core/_metered.py", "device.measure"), timed, *performed}


def test_the_laboratory_asks_a_device_for_itself_only_to_park_it():
    """A wrapper passes on what it was asked. Only a guard and the server write a setting of their own, and book it."""
    found = {
        (name, function.name)
        for name, tree in sources()
        if name.startswith("lab/")
        for function in ast.walk(tree)
        if isinstance(function, ast.FunctionDef)
        for verb, call in called(function)
        if verb in ("program", "read") and owner(call) == "self.device"
        if function.name not in (verb, "_verb")
    }
    assert found <= {
        ("lab/wrappers/_setpoint.py", "write"),
        ("lab/wrappers/_setpoint.py", "_park"),
        ("lab/remote/server/_server.py", "_ask_device"),
    }


# Derivatives.


def test_no_derivative_of_a_device_is_taken_but_by_the_oracles():
    """The differentiable transfer is asked for by the two `Oracle`s; devices around devices hand it on."""
    wrappers = ("deployment/_ports.py", "deployment/_sampled.py")  # devices around devices that lie elsewhere
    allowed = ("devices/", "estimators/_oracle.py", "surrogates/_oracle.py", "testing/", *wrappers)
    found = {
        name
        for name, tree in sources(*allowed)
        for verb, call in called(tree)
        if verb == "oracle" and owner(call) not in ("presets", "bp.presets")
    }
    assert found == set()
    by_twins = {
        name
        for name, tree in sources("devices/", *wrappers)
        for verb, call in called(tree)
        if verb == "transfer" and owner(call)
    }
    assert all(name.startswith("twins/") for name in by_twins)  # of designs, which are theirs


DESIGNS = [
    (bp.devices.LightModulator(5, 3), bp.twins.OffsetTwin),
    (bp.devices.Microring(5, 3), bp.twins.OffsetTwin),
    (bp.devices.Diffraction(9, 4), bp.twins.DiffractionTwin),
]


@pytest.mark.parametrize(("device", "make"), DESIGNS, ids=str)
def test_a_twin_differentiates_a_drawing_of_its_own_and_never_the_device(device, make, monkeypatch):
    """A device that changes, or must not be called, after its twin was made: the twin goes by what it was given."""
    device = copy.copy(device)
    twin, x = make(device), draw(4, *device.in_shape)
    theta = device.theta.draw(torch.Generator().manual_seed(0))
    before = twin(x, theta)

    def refuse(*_: object) -> Tensor:
        raise AssertionError("the device was called by its twin")

    for value in vars(device).values():
        if isinstance(value, Tensor):
            value.zero_()
    monkeypatch.setattr(device, "transfer", refuse)
    monkeypatch.setattr(device, "program", refuse)
    torch.testing.assert_close(twin(x, theta), before)
    (twin(x, theta).abs().sum()).backward()
    assert bool(twin.offset.grad.any())
    assert twin.design is not device


# Sentinels.


def test_no_number_stands_for_nothing():
    """−1 is no default, no answer, no attribute and no buffer: None is."""
    found = []
    for name, tree in sources():
        for node in ast.walk(tree):
            values: list[ast.expr | None] = []
            if isinstance(node, ast.FunctionDef):
                values = [*node.args.defaults, *node.args.kw_defaults]
            elif isinstance(node, ast.Return) or (
                isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Attribute)
            ):
                values = [node.value]
            elif isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "register_buffer":
                values = [arg for call in ast.walk(node.args[1]) if isinstance(call, ast.Call) for arg in call.args]
            elif isinstance(node, ast.Call):
                values = [keyword.value for keyword in node.keywords if keyword.arg == "default"]
            found += [f"{name}:{node.lineno}" for v in values if v is not None and ast.unparse(v) in ("-1", "-1.0")]
    assert found == []


# Random numbers.


DRAWS = ("rand", "randn", "randint", "randperm", "normal", "bernoulli", "multinomial", "rand_like", "randn_like")
DRAWN = ("normal_", "uniform_", "random_", "bernoulli_", "exponential_", "log_normal_")


def test_nothing_is_drawn_from_the_global_generator_but_a_seed_at_construction():
    """One number for each layer, and each optimizer that draws, that is given no generator."""
    found = {}
    for name, tree in sources("experiments/"):
        for verb, call in called(tree):
            drawn = (verb in DRAWS and owner(call) == "torch") or verb in DRAWN or verb == "dropout"
            if drawn and not any(keyword.arg == "generator" for keyword in call.keywords):
                found.setdefault(name, []).append(ast.unparse(call))
    assert found.keys() == {"nn/_layer.py", "optim/_base.py"}
    assert all(len(calls) == 1 and calls[0].startswith("torch.randint(2 ** 62, ()") for calls in found.values())


def test_no_other_library_draws():
    """Neither the standard library's `random` nor NumPy's global state."""
    for name, tree in sources():
        for node in ast.walk(tree):
            assert not (isinstance(node, ast.ImportFrom) and node.module == "random"), name
            if isinstance(node, ast.Call) and ast.unparse(node.func).startswith("random."):
                assert ast.unparse(node.func) in ("random.Random", "random.getstate"), name
            if isinstance(node, ast.Call) and ast.unparse(node.func).startswith("np.random."):
                kinds = ("default_rng", "Generator", "SeedSequence", "PCG64", "get_state")
                assert ast.unparse(node.func).split(".")[2].split("(")[0] in kinds, name


def test_reading_a_layer_back_leaves_the_global_stream():
    layer = bp.PhysicalLayer(bp.devices.LightModulator(6, 4), generator=torch.Generator().manual_seed(0), bias=True)
    state = torch.get_rng_state()
    layer.to_linear()
    bp.PhysicalLayer.from_linear(layer.to_linear(), bp.devices.Matrix(6, 4), generator=torch.Generator())
    assert torch.equal(torch.get_rng_state(), state)


# Rounds.


@pytest.fixture
def small_rounds(monkeypatch) -> int:
    """The bytes of a round, here so few that the tests are quick."""
    monkeypatch.setattr("blackprop.core._procedure.ROUND_BYTES", 4000)
    return 4000


class Wide(bp.Device):
    """A linear device with more inputs than one round may send unit rows of."""

    def __init__(self, d_in: int, d_out: int) -> None:
        super().__init__(d_in, d_out, 4, linear=True)
        self.rounds: list[int] = []
        self.written = 0

    def matrix(self, theta: Tensor) -> Tensor:
        rows, columns = torch.arange(self.out_shape[0])[:, None], torch.arange(self.in_shape[0])
        return (rows * 31 + columns * 17 + theta.sum()).sin()

    def program(self, theta, /):
        self.theta_now, self.written = theta.clone(), self.written + 1

    def read(self, x, /):
        return x @ self.matrix(self.theta_now).mT

    def measure(self, queries, /):
        held = sum(q.x.numel() + q.theta.numel() + len(q.x) * self.out_shape[0] for q in queries)
        self.rounds.append(4 * held)
        return super().measure(queries)


@pytest.mark.parametrize(
    "make",
    [
        bp.surrogates.Frozen,
        bp.surrogates.Streaming,
        lambda: bp.surrogates.Reconstruction(2),
        lambda: bp.surrogates.ProjectorSplitting(2, 2),
        lambda: bp.surrogates.BasisUpdate(2, 2),
    ],
    ids=["frozen", "streaming", "reconstruction", "projector", "basis"],
)
def test_a_matrix_is_read_in_rounds_that_are_bounded(make, small_rounds):
    device, surrogate, theta = Wide(60, 3), make(), torch.ones(4)
    surrogate.bind(device.declaration)
    ledger = bp.Ledger()
    run(surrogate.start(theta, torch.Generator()), metered(device, ledger))
    assert len(device.rounds) > 1
    assert max(device.rounds) <= small_rounds
    assert ledger.rows == {Purpose.SURROGATE: 60}
    assert ledger.programmings == {Purpose.SURROGATE: 1}
    assert device.written == 1
    found = surrogate.grad_x(torch.zeros(3, 60), torch.eye(3))
    expected = device.matrix(theta)
    if isinstance(surrogate, (bp.surrogates.Frozen, bp.surrogates.Streaming)):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    else:  # sines of sums are of rank 2
        assert float((found - expected).norm() / expected.norm()) < 1e-3


def test_all_elements_at_once_are_read_in_rounds_that_are_bounded(small_rounds):
    plain = bp.devices.LightModulator(24, 3)
    x, g, theta = draw(9, 24), draw(9, 3), draw(72)
    found, sizes = [], []
    for measure in (metered(plain, bp.Ledger()), lambda queries: sizes.append(queries) or plain.measure(queries)):
        procedure = bp.estimators.ElementShift(1e-3).grad_theta(
            x, theta, plain.transfer(x, theta), g, plain.declaration, torch.Generator().manual_seed(0)
        )
        found.append(run(procedure, measure))
    assert torch.equal(*found)
    assert all(4 * sum(q.x.numel() + 72 + 3 * len(q.x) for q in round_) <= small_rounds for round_ in sizes)
    thetas = [query.theta for round_ in sizes for query in round_]
    assert sum(not torch.equal(a, b) for a, b in itertools.pairwise(thetas)) == 1  # two programmings


@pytest.mark.parametrize("limit", [1, 100, 1000, 10**6])
def test_a_question_in_rounds_has_the_answers_of_one(limit, monkeypatch):
    """In order, at the settings that were given, as few rounds as the limit allows."""
    monkeypatch.setattr("blackprop.core._procedure.ROUND_BYTES", limit)
    shared = draw(5, 6)
    queries = [
        Query(shared, draw(3, seed=1), Purpose.FORWARD),
        Query(draw(0, 6), draw(3, seed=2), Purpose.FORWARD),
        Query(draw(7, 6, seed=3), draw(3, seed=2), Purpose.PARAMETER),
        Query(shared, draw(3, seed=4), Purpose.CALIBRATE),
    ]
    rounds: list[list[Query]] = []

    def measure(asked: list[Query]) -> list[Tensor]:
        rounds.append(asked)
        return [q.x[:, :2] * q.theta[0] for q in asked]

    answers = run(in_rounds(queries, 2), measure)
    assert [len(y) for y in answers] == [5, 0, 7, 5]
    for query, y in zip(queries, answers, strict=True):
        assert torch.equal(y, query.x[:, :2] * query.theta[0])
    asked = [query for round_ in rounds for query in round_]
    assert sum(len(query.x) for query in asked) == 17
    assert {query.purpose for query in asked} == {Purpose.FORWARD, Purpose.PARAMETER, Purpose.CALIBRATE}
    sizes = [sum(4 * (8 * len(q.x) + 3) for q in round_) for round_ in rounds]
    assert all(size <= limit or len(round_[0].x) <= 1 for size, round_ in zip(sizes, rounds, strict=True))
    assert len(rounds) == {1: 18, 100: 10, 1000: 1, 10**6: 1}[limit]
    if limit == 10**6:
        assert [a is b for a, b in zip(rounds[0], queries, strict=True)] == [True] * 4


@pytest.mark.parametrize(("limit", "count"), [(2 * 76, 1), (2 * 76 - 1, 2)])
def test_a_round_may_be_full(limit, count, monkeypatch):
    """Two rows of 6 inputs and 2 outputs, and a setting of 3: 76 bytes."""
    monkeypatch.setattr("blackprop.core._procedure.ROUND_BYTES", limit)
    rounds = []
    queries = [Query(draw(2, 6, seed=seed), draw(3, seed=seed), Purpose.FORWARD) for seed in range(2)]
    run(in_rounds(queries, 2), lambda asked: rounds.append(asked) or [q.x[:, :2] for q in asked])
    assert len(rounds) == count


def test_nothing_is_asked_where_there_is_no_question():
    assert run(in_rounds([], 2), lambda queries: pytest.fail("asked")) == []


# Half-changed state.


@pytest.mark.parametrize("asked", [1, 2])
def test_a_matrix_that_is_read_half_way_changes_nothing(asked, small_rounds):
    assert small_rounds
    device, surrogate = Wide(60, 3), bp.surrogates.Frozen()
    surrogate.bind(device.declaration)
    before = surrogate.A.clone()
    procedure = surrogate.start(torch.ones(4), torch.Generator())
    queries = next(procedure)
    for _ in range(asked - 1):
        queries = procedure.send(device.measure(queries))
    assert isinstance(queries[0], Query)
    procedure.close()
    assert torch.equal(surrogate.A, before)
