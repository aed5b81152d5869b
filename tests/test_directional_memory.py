"""The memory of directions: what it knows, for how long, at what price, and what it refuses."""

from __future__ import annotations

import copy
import functools
import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

import blackprop as bp
from blackprop.core import Purpose, metered, price, run
from blackprop.devices import LightModulator, Microring
from blackprop.directions import Rademacher
from blackprop.errors import ArgumentError, BudgetExhausted, IncompatibleError
from blackprop.estimators import ByOutput, DirectionalMemory, Oracle, ProbeContraction, RandomDirections
from blackprop.estimators.memory._correlation import fitted, kept
from blackprop.estimators.memory._hadamard import HadamardFamily, family_size, shuffled_columns
from support import Opaque, backward, behind_a_linear, draw, make_layer

D_IN, D_OUT, P = 16, 8, 128
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA"))]
# Until its first step is done it does not know its family, and it writes that down when it asks.


class Bench:
    """One batch and its cotangents, at a θ that may move, on a device whose true gradient is known."""

    def __init__(self, device=None, seed=0, rows=64, dtype=torch.float64, place="cpu", x=None):
        self.device = device if device is not None else LightModulator(D_IN, D_OUT)
        self.ideal = self.device if isinstance(self.device, bp.Simulator) else self.device.device
        self.spec = self.device.declaration
        self.x = (x if x is not None else draw(rows, self.spec.d_in, seed=seed, dtype=dtype)).to(place)
        self.grad_y = draw(len(self.x), self.spec.d_out, seed=seed + 1, dtype=dtype).to(place)
        self.theta = 2 * math.pi * draw(self.spec.theta.size, seed=seed + 2, dtype=dtype).sigmoid().to(place)
        self.stream = torch.Generator().manual_seed(seed)
        self.ledger = bp.Ledger()

    def of(self, **settings) -> DirectionalMemory:
        memory = DirectionalMemory(**{"count": 8, "size": P, "rank": D_IN, "step": 1e-5, "refresh": 10_000, **settings})
        memory.bind(self.spec)
        return memory.to(self.theta)

    def procedure(self, estimator):
        y = self.ideal.transfer(self.x, self.theta)
        return estimator.grad_theta(self.x, self.theta, y, self.grad_y, self.spec, self.stream)

    def estimate(self, estimator) -> Tensor:
        with torch.no_grad():
            return run(self.procedure(estimator), metered(self.device, self.ledger))

    def truth(self) -> Tensor:
        x, theta, g = self.x, self.theta, self.grad_y
        y = self.ideal.transfer(x, theta)
        return run(
            Oracle().grad_theta(x, theta, y, g, self.ideal.declaration, self.stream), metered(self.ideal, bp.Ledger())
        )

    def cosine(self, found: Tensor) -> float:
        return float(torch.cosine_similarity(found, self.truth(), dim=0))

    def error(self, found: Tensor) -> float:
        return float((found - self.truth()).norm() / self.truth().norm())

    def wander(self, size: float) -> None:
        self.theta = self.theta + size * torch.randn(len(self.theta), generator=self.stream, dtype=self.theta.dtype)


def _state(module: torch.nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items() if isinstance(value, Tensor)}


def _same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


# The family of directions.


def _family(parameters: int, blocks: int = 1, seed: int = 0) -> tuple[HadamardFamily, Tensor]:
    """And all its directions, blocks apart: (n, blocks, P)."""
    generator = torch.Generator().manual_seed(seed)
    columns, signs = (
        shuffled_columns(parameters, generator),
        Rademacher().sample(blocks, parameters, generator, torch.zeros((), dtype=torch.int8)),
    )
    family = HadamardFamily(columns, signs)
    rows = family.directions(list(range(family.size)), torch.zeros((), dtype=torch.float64))
    return family, rows.view(family.size, blocks, parameters)


@pytest.mark.parametrize("parameters", [1, 2, 11, 16, 33, 128])
def test_the_family_is_a_tight_frame_of_signs(parameters):
    family, u = _family(parameters)
    n, u = family.size, u[:, 0]
    assert n == family_size(parameters)
    assert n // 2 < parameters <= n
    assert torch.equal(u.abs(), torch.ones_like(u))
    assert torch.equal(u.mT @ u, n * torch.eye(parameters, dtype=u.dtype))
    if parameters == n:
        assert torch.equal(u @ u.mT, n * torch.eye(n, dtype=u.dtype))


@pytest.mark.parametrize(("parameters", "blocks"), [(11, 1), (16, 3), (40, 2), (64, 1)])
def test_fast_sums_and_projections_are_the_explicit_ones(parameters, blocks):
    family, u = _family(parameters, blocks)
    a, theta = (draw(blocks, size, seed=size, dtype=torch.float64) for size in (family.size, parameters))
    torch.testing.assert_close(family.combine(a), torch.einsum("bn,nbp->bp", a, u).flatten())
    some = torch.tensor([0, 3, 7])
    found = family.project(theta.flatten(), some)
    torch.testing.assert_close(found, torch.einsum("bp,nbp->bn", theta, u)[:, some])


def test_families_differ_by_their_generator():
    assert not torch.equal(_family(16)[1], _family(16, seed=1)[1])


# What it knows at one setting.


def test_the_cosine_is_the_root_of_what_part_is_known():
    counts = [8, 16, 32, 64, 96, 128]
    parts = []
    for seed in range(20):
        bench = Bench(seed=10 * seed)
        memory = bench.of()
        found = [bench.cosine(bench.estimate(memory)) ** 2 for _ in range(16)]
        parts.append([found[count // 8 - 1] for count in counts])
    told = memory.diagnosis()
    assert (told["remembered"], told["known"]) == (P, pytest.approx(1))
    known = torch.tensor(parts, dtype=torch.float64).mean(0)
    K = torch.tensor(counts, dtype=torch.float64)
    u, v = K.log() - K.log().mean(), known.log() - known.log().mean()
    assert float(u @ v / (u @ u)) == pytest.approx(1, abs=0.1)
    spread = (2 * K * (P - K) / (P**2 * (P + 2)) / len(parts)).sqrt()  # as of a random subspace of K dimensions
    assert bool(((known - K / P).abs() <= 4 * spread + 1e-4).all())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("place", DEVICES)
def test_all_directions_are_the_gradient_in_size_too(dtype, place):
    bench = Bench(dtype=dtype, place=place)
    memory = bench.of(step=1e-5 if dtype == torch.float64 else 1e-3)
    errors = [bench.error(bench.estimate(memory)) for _ in range(17)]
    assert errors[-1] < (1e-4 if dtype == torch.float64 else 2e-2)
    assert errors[14] > 0.1  # 120 of 128 directions
    assert memory.D.dtype == dtype


def test_where_the_parameters_are_no_power_of_two_the_frame_is_exact_too():
    bench = Bench(LightModulator(7, 5))
    memory = bench.of(size=64, rank=7)
    found = [bench.error(bench.estimate(memory)) for _ in range(8)]
    assert found[-1] < 1e-4
    assert found[3] > 0.1


def test_each_output_credited_with_its_own_needs_only_its_block():
    bench = Bench()
    memory = bench.of(size=P // D_OUT, credit=ByOutput(D_OUT), count=4)
    found = [bench.error(bench.estimate(memory)) for _ in range(4)]
    assert found[-1] < 1e-4
    assert found[2] > 0.1


def test_it_knows_how_much_it_knows():
    bench = Bench()
    memory = bench.of()
    for calls in range(1, 5):
        bench.estimate(memory)
        assert memory.cosine == pytest.approx(math.sqrt(8 * calls / P))


def test_the_start_is_measured_before_the_first_step():
    bench = Bench()
    assert bench.error(bench.estimate(bench.of(start=P))) < 1e-4


def test_a_rank_of_the_data_suffices_and_less_is_the_best_of_that_rank():
    flat = draw(64, 3, dtype=torch.float64) @ draw(3, D_IN, seed=1, dtype=torch.float64)
    bench = Bench(x=flat)
    assert bench.error(bench.estimate(bench.of(start=P, rank=3))) < 1e-4
    missing = bench.error(bench.estimate(bench.of(start=P, rank=2)))
    _, _, v = torch.linalg.svd(flat, full_matrices=False)
    whole, bench.x = bench.truth(), flat @ v[:2].mT @ v[:2]
    assert missing == pytest.approx(float((bench.truth() - whole).norm() / whole.norm()), rel=1e-3)


def test_old_measurements_answer_for_another_batch():
    """The basis turns after the data, and what is remembered turns with it."""
    bench = Bench()
    memory = bench.of(start=P, rank=D_IN)
    bench.estimate(memory)
    bench.x, bench.grad_y = draw(64, D_IN, seed=7, dtype=torch.float64) ** 3, draw(64, D_OUT, seed=8).double()
    for _ in range(10):
        assert bench.error(bench.estimate(memory)) < 1e-3
    assert memory.counts.tolist() == [11, P + 80]


# For how long it is true.


class _Trusting(DirectionalMemory):
    def _weights(self, distances, length):
        del length
        return torch.ones_like(distances)


@functools.cache
def _moved(device, size, kind, seed) -> tuple[DirectionalMemory, float]:
    """Three directions of 256 a step, over 100 steps of a random walk of θ; the mean cosine over the last 40."""
    bench = Bench(device(16, 16), seed=seed)
    memory = kind(count=3, size=256, rank=16, step=1e-3, refresh=4)
    memory.bind(bench.spec)
    memory.to(bench.theta)
    cosines = []
    for step in range(100):
        found = bench.estimate(memory)
        cosines += [bench.cosine(found)] if step >= 60 else []
        bench.wander(size)
    return memory, sum(cosines) / len(cosines)


def _kept(memory: DirectionalMemory, distance: float) -> float:
    best, _ = fitted(memory.evidence)
    return float(kept(torch.tensor([distance], dtype=memory.D.dtype), memory.step)[best])


def _agreement(memory: DirectionalMemory) -> float:
    """What part of a reading holds at no distance."""
    return fitted(memory.evidence)[1]


def test_how_long_a_reading_holds_is_learnt():
    """`E sin θ sin θ' ∝ exp(−d²/2)` for a light modulator; a resonance is narrower, and a microring's trust shorter."""
    for seed in range(2):
        slow, _ = _moved(LightModulator, 0.3, DirectionalMemory, seed)
        fast, _ = _moved(Microring, 0.2, DirectionalMemory, seed)
        assert _kept(slow, 1.0) == pytest.approx(math.exp(-1 / 2), abs=0.15)
        assert _agreement(slow) == pytest.approx(1, abs=0.1)  # no noise
        assert _kept(fast, 1.0) < 0.45


@pytest.mark.parametrize(("device", "size"), [(LightModulator, 0.3), (Microring, 0.2)], ids=["slow", "fast"])
def test_learnt_trust_is_better_than_full_trust(device, size):
    learnt, blind = (
        sum(_moved(device, size, kind, seed)[1] for seed in range(2)) / 2 for kind in (DirectionalMemory, _Trusting)
    )
    assert learnt > 1.3 * blind
    assert learnt > math.sqrt(3 / (3 + 256))  # what three random directions know


def test_read_noise_shows_as_old_and_new_that_agree_less():
    bench = Bench(bp.devices.Noisy(LightModulator(D_IN, D_OUT), read=0.05))
    memory = bench.of(step=0.1, count=4, refresh=4)
    plain = RandomDirections(4, 0.1, contraction=ProbeContraction(D_IN))
    ours = [bench.cosine(bench.estimate(memory)) for _ in range(40)][-10:]
    theirs = [bench.cosine(bench.estimate(plain)) for _ in range(40)]
    assert 0.3 < _agreement(memory) < 0.9
    assert sum(ours) / len(ours) > max(0.5, 3 * sum(theirs) / len(theirs))


# What it costs and what it refuses.


def test_the_price_is_the_declared_one_and_known_beforehand():
    bench = Bench(rows=200)
    memory = bench.of(count=3, rank=5, start=10)
    for asked in (10, 3, 3):
        spent = bp.Ledger()
        quote = price(lambda: copy.deepcopy(bench).procedure(copy.deepcopy(memory)), bench.device)
        with torch.no_grad():
            run(bench.procedure(memory), metered(bench.device, spent))
        assert spent.rows == {Purpose.PARAMETER: (asked + 1) * 5}
        assert spent.programmings == {Purpose.PARAMETER: asked + 1}  # back to θ once
        assert quote == spent


def test_an_exhausted_budget_leaves_what_is_known():
    bench = Bench()
    memory, budget = bench.of(), bp.Budget(rows=2 * 9 * D_IN)
    for _ in range(2):
        run(bench.procedure(memory), metered(bench.device, bp.Ledger(), budget))
    before = _state(memory)
    with pytest.raises(BudgetExhausted):
        run(bench.procedure(memory), metered(bench.device, bp.Ledger(), budget))
    assert _same(_state(memory), before)


@pytest.mark.parametrize("calls", [0, 1, 3, 20])
@pytest.mark.parametrize("rounds", [1, 2])
def test_a_procedure_closed_half_way_leaves_the_state(calls, rounds, monkeypatch):
    monkeypatch.setattr("blackprop.estimators.memory._directional_memory.ROUND_BYTES", 4 * 8 * (3 * P + 2 * D_IN**2))
    bench = Bench()
    memory = bench.of(refresh=4)
    for _ in range(calls):
        bench.estimate(memory)
    before, procedure = _state(memory), bench.procedure(memory)
    queries = next(procedure)
    for _ in range(rounds - 1):
        queries = procedure.send(bench.device.measure(queries))
    procedure.close()
    assert _same(_state(memory), before)


def test_rounds_are_split_to_bound_memory_and_agree(monkeypatch):
    found = []
    for size in (64 * 2**20, 20_000):
        monkeypatch.setattr("blackprop.estimators.memory._directional_memory.ROUND_BYTES", size)
        bench = Bench()
        found.append(bench.estimate(bench.of(start=40)))
    torch.testing.assert_close(*found)


def test_nothing_is_learnt_in_eval():
    bench = Bench()
    memory = bench.of()
    for _ in range(3):
        bench.estimate(memory)
    before, stream = _state(memory), bench.stream.get_state()
    found = bench.estimate(memory.eval())
    assert _same(_state(memory), before)
    bench.stream.set_state(stream)
    assert torch.equal(bench.estimate(memory.train()), found)
    assert not _same(_state(memory), before)


def test_settings_stay_within_limits_and_the_gradient_is_right_at_one():
    bench = Bench()
    low = bench.theta - 0.01 * (torch.arange(P) % 2)  # every other parameter is at its limit
    bench.device.theta = replace(bench.spec.theta, low=low, high=bench.theta + 0.02)
    bench.spec = bench.device.declaration
    for start, near in ((P, 1e-2), (0, math.inf)):  # the driver refuses what is outside
        assert bench.error(bench.estimate(bench.of(start=start, step=1e-4))) < near
    with pytest.raises(IncompatibleError, match="use a smaller step"):
        bench.of(step=0.02)


def test_it_trains_a_layer_and_goes_on_bit_for_bit_from_a_state_dict():
    def build(seed):
        memory = DirectionalMemory(count=2, size=64, rank=4, step=1e-3, refresh=3)
        layer = make_layer(Opaque(LightModulator(6, 4)), method=(memory, bp.surrogates.Streaming()))
        model = behind_a_linear(layer)
        return layer, model, torch.optim.Adam(model.parameters(), lr=0.03)

    def train(model, optimizer, steps):
        for step in steps:
            optimizer.zero_grad()
            last = backward(model, draw(16, 5, seed=step % 4))
            optimizer.step()
        return last

    _, model, optimizer = build(0)
    first = train(model, optimizer, range(1))
    train(model, optimizer, range(1, 12))
    state, moments = copy.deepcopy(model.state_dict()), copy.deepcopy(optimizer.state_dict())
    last = train(model, optimizer, range(12, 25))
    assert last < 0.8 * first

    other, twin, twin_optimizer = build(1)
    train(twin, twin_optimizer, range(5))  # whatever it did before is forgotten
    twin.load_state_dict(state)
    twin_optimizer.load_state_dict(moments)
    other.device.inner._programmed = None
    assert torch.equal(train(twin, twin_optimizer, range(12, 25)), last)
    assert _same(_state(twin), _state(model))


def test_what_it_cannot_serve_is_refused(monkeypatch):
    with pytest.raises(IncompatibleError, match="needs a linear device"):
        bp.PhysicalLayer(bp.devices.Diffraction(4, 4), DirectionalMemory())
    with pytest.raises(IncompatibleError, match="coupling"):
        bp.PhysicalLayer(bp.devices.MZIMesh(4, 4), DirectionalMemory(credit=ByOutput(4)))
    memory = DirectionalMemory(size=100)
    bp.PhysicalLayer(LightModulator(6, 4), memory)
    with pytest.raises(IncompatibleError, match=r"already serves LightModulator.*one memory a layer"):
        bp.PhysicalLayer(LightModulator(6, 4), memory)
    for name, value in (("count", 0), ("size", 0), ("rank", 0), ("start", -1), ("refresh", 1), ("step", 0.0)):
        with pytest.raises(ArgumentError, match=rf"DirectionalMemory\({name}=...\)"):
            DirectionalMemory(**{name: value})
    monkeypatch.setattr("blackprop.estimators.memory._directional_memory._memory", lambda: 2 * 4 * D_OUT * D_IN * 50)
    with pytest.raises(IncompatibleError, match=r"DirectionalMemory\(size=50\)` would fit"):
        Bench().of()
    assert len(Bench().of(size=50).taken) == 50
