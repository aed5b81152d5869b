"""The transformer is the published one, and so are its optimizers."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import blackprop as bp
from blackprop import errors
from blackprop.experiments import OracleReference
from blackprop.experiments.tasks._task import Size
from blackprop.experiments.tasks.language import _gpt as gpt
from blackprop.experiments.tasks.language import _tokens as tokens
from blackprop.experiments.tasks.language._gpt import DevicePlace
from blackprop.experiments.tasks.language._tasks import FineWeb
from blackprop.optim import SignalScaled
from support import draw
from texts import CONTEXT, SMALL, TRAINED, Words, linear, tiny


@pytest.fixture
def encoding(monkeypatch):
    """An encoding without its file, forgotten again by the process."""
    tiktoken = pytest.importorskip("tiktoken")
    monkeypatch.setattr(tiktoken, "get_encoding", lambda name: Words())
    for found_once in (tokens.gpt2, tokens.preferred):
        found_once.cache_clear()
    yield
    for found_once in (tokens.gpt2, tokens.preferred):
        found_once.cache_clear()


# The transformer.


def test_the_model_is_the_formula_it_is_described_by():
    model = tiny()
    for parameter in model.parameters():
        nn.init.normal_(parameter, generator=torch.Generator().manual_seed(parameter.numel()))
    found = model(torch.tensor([[3, 1, 4, 1, 5]], dtype=torch.uint16))
    weights = dict(model.named_parameters())
    embedding = weights["embedding.weight"]
    x = embedding[[3, 1, 4, 1, 5]]
    for block in range(2):
        at = {name.removeprefix(f"blocks.{block}."): w for name, w in weights.items() if f"blocks.{block}." in name}
        n = x / x.square().mean(1, keepdim=True).sqrt()
        heads = []
        for head in (slice(0, 4), slice(4, 8)):
            q, k = (_turned(n @ at[f"attention.{name}.weight"][head].T) for name in ("query", "key"))
            scores = (q @ k.T / 2).masked_fill(torch.ones(5, 5).triu(1).bool(), -torch.inf)
            heads.append(scores.softmax(1) @ n @ at["attention.value.weight"][head].T)
        x = x + torch.cat(heads, 1) @ at["attention.output.weight"].T
        n = x / x.square().mean(1, keepdim=True).sqrt()
        x = x + (n @ at["mlp.0.weight"].T).relu().square() @ at["mlp.2.weight"].T
    expected = x / x.square().mean(1, keepdim=True).sqrt() @ embedding.T
    torch.testing.assert_close(found[0], expected, rtol=1e-4, atol=1e-4)


def _turned(x):
    """Of width 4, normed, each pair (0, 2), (1, 3) as a complex number turned by −t and −t/100."""
    x = x / x.square().mean(1, keepdim=True).sqrt()
    angle = torch.outer(torch.arange(len(x)).float(), torch.tensor([1.0, 1 / 100]))
    z = torch.complex(x[:, :2], x[:, 2:]) * torch.polar(torch.ones_like(angle), -angle)
    return torch.cat((z.real, z.imag), 1)


def test_attention_depends_on_distances_and_never_on_what_follows():
    turns = gpt.rotary(9, 8, torch.zeros(1))
    q, k = (gpt.turned(draw(1, 8, seed=seed).expand(9, 8), turns) for seed in (1, 2))
    products = q @ k.T
    for distance in range(5):
        along = products.diagonal(-distance)
        torch.testing.assert_close(along, along[:1].expand_as(along))
    model = tiny()
    for parameter in model.parameters():
        nn.init.normal_(parameter)
    before = torch.randint(11, (2, 6))
    after = before.clone()
    after[:, 4:] = (after[:, 4:] + 1) % 11
    torch.testing.assert_close(model(before)[:, :4], model(after)[:, :4])
    assert not torch.allclose(model(before)[:, 4:], model(after)[:, 4:])


def test_output_projections_start_at_zero_and_the_embedding_is_the_head():
    model = tiny(replaced=0)
    x = torch.tensor([[3, 1, 4]])
    embedded = model.embedding.weight[x]
    torch.testing.assert_close(model(x), F.rms_norm(embedded, (8,)) @ model.embedding.weight.T)
    assert all(p.any() == ("output" not in name and "mlp.2" not in name) for name, p in model.named_parameters())


@pytest.mark.parametrize("tokens", [torch.zeros(1, 7, dtype=torch.long), torch.zeros(6, dtype=torch.long)])
def test_a_sequence_longer_than_the_context_is_refused(tokens):
    with pytest.raises(errors.ShapeError, match="T at most 6"):
        tiny()(tokens)


@pytest.mark.parametrize(
    ("place", "device"), [(DevicePlace.FIRST_OF_MLP, (1536, 6144)), (DevicePlace.MLP, (1536, 1536))], ids=str
)
@pytest.mark.parametrize("replaced", [1, 4, 8, 12])
def test_the_published_network_has_the_published_parameters(place, device, replaced, encoding):
    asked = []

    def layer(d_in, d_out):
        asked.append((d_in, d_out))
        return nn.Identity()

    task = FineWeb(size=Size.PUBLISHED, place=place, replaced=replaced)
    with torch.device("meta"):
        model = task.build(layer, seed=0)
    attention, first, second = 4 * 1536 * 1536, 1536 * 6144, 6144 * 1536
    left = second if place is DevicePlace.FIRST_OF_MLP else 0
    expected = 50_304 * 1536 + 12 * attention + (12 - replaced) * (first + second) + replaced * left
    assert sum(p.numel() for p in model.parameters()) == expected
    assert asked == [device] * replaced
    assert [len(list(block.mlp.parameters())) == 2 for block in model.blocks] == [True] * (12 - replaced) + [
        False
    ] * replaced
    assert (model.context, model.head) == (1024, 256)
    assert task.batch_size * model.context == 327_680
    assert (task.steps(0), task.segment(0), task.lr, task.muon_lr) == (5000, 125, 3.6e-3, 2e-2)


def test_a_published_network_without_devices_has_417_million_parameters(encoding):
    with torch.device("meta"):
        model = FineWeb(size=Size.PUBLISHED).build(linear, seed=0)
    assert sum(p.numel() for p in model.parameters()) == 50_304 * 1536 + 12 * 12 * 1536**2 == 417_005_568


def test_digital_weights_come_from_the_seed_alone():
    before = torch.get_rng_state()
    model, again, other = (SMALL.build(linear, seed) for seed in (1, 1, 2))
    assert torch.equal(before, torch.get_rng_state())
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))
    assert not torch.equal(model.embedding.weight, other.embedding.weight)


# The optimizers.


def physical(task=TRAINED):
    def layer(d_in, d_out):
        return OracleReference().layer(bp.devices.LightModulator(d_in, d_out), torch.Generator().manual_seed(0))

    return task.build(layer, 0)


def test_each_parameter_has_its_optimizer_and_theta_one_that_can_be_signal_scaled():
    model = physical()
    (adam, _), (muon, _) = TRAINED.optimizers(model, 20)
    names = {id(p): name for name, p in model.named_parameters()}
    held = [{names[id(p)] for p in group["params"]} for group in (*adam.param_groups, *muon.param_groups)]
    assert held[:3] == [{"embedding.weight"}, {"blocks.1.mlp.0.gain"}, {"blocks.1.mlp.0.theta"}]
    attention = {f"blocks.{i}.attention.{n}.weight" for i in (0, 1) for n in ("query", "key", "value", "output")}
    assert held[3] == attention | {f"blocks.{name}.weight" for name in ("0.mlp.0", "0.mlp.2", "1.mlp.2")}
    assert [(g["lr"], g["betas"], g["weight_decay"]) for g in adam.param_groups] == [
        (SMALL.lr, (0.9, 0.95), 0.0),
        (SMALL.lr, (0.9, 0.95), 0.0),
        (SMALL.device_lr, (0.9, 0.999), 0.0),
    ]
    assert SignalScaled(adam, model).digital


def test_matrices_that_are_not_trained_stay_as_drawn_and_reach_the_output():
    model = physical(SMALL)
    assert all(p.any() for p in model.parameters())
    ((adam, _),) = SMALL.optimizers(model, 20)
    held = {id(p) for group in adam.param_groups for p in group["params"]}
    assert {name for name, p in model.named_parameters() if id(p) in held} == {
        "embedding.weight",
        "blocks.1.mlp.gain",
        "blocks.1.mlp.theta",
    }
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    x = torch.randint(256, (2, CONTEXT))
    SMALL.objective.loss(model(x), x.roll(-1, 1)).backward()
    adam.step()
    moved = {name for name, p in model.named_parameters() if not torch.equal(p, before[name])}
    assert moved == {"embedding.weight", "blocks.1.mlp.gain", "blocks.1.mlp.theta"}


def test_the_rates_are_constant_and_fall_to_zero_over_the_last_1450_of_5000():
    schedules = TRAINED.optimizers(physical(), 5000)
    rates = []
    for _ in range(5001):
        rates.append([optimizer.param_groups[0]["lr"] / optimizer.defaults["lr"] for optimizer, _ in schedules[1:]])
        for optimizer, schedule in schedules:
            optimizer.step()
            schedule.step()
    found = torch.tensor(rates[:5000], dtype=torch.float64)[:, 0]
    expected = torch.tensor([1.0 if step < 3550 else (5000 - step) / 1450 for step in range(5000)], dtype=torch.float64)
    torch.testing.assert_close(found, expected)
    assert rates[5000] == [0.0]


def test_muon_makes_the_published_step():
    """Sums where torch averages, orthogonal by Newton and Schulz, by √(rows/columns) longer where a matrix is tall."""
    model = physical()
    (_, _), (muon, _) = TRAINED.optimizers(model, 20)
    weight = model.get_parameter("blocks.0.mlp.2.weight")
    wide, lr = weight.detach().clone(), muon.param_groups[0]["lr"]
    momentum = torch.zeros_like(wide)
    for seed in range(3):
        for p in muon.param_groups[0]["params"]:
            p.grad = draw(*p.shape, seed=seed)
        muon.step()
        momentum = 0.95 * momentum + weight.grad
        wide -= lr * max(1, wide.shape[0] / wide.shape[1]) ** 0.5 * _orthogonal(weight.grad + 0.95 * momentum)
    assert (weight.detach() - wide).norm() / wide.norm() < 0.02  # bfloat16


def _orthogonal(matrix):
    x = matrix / matrix.norm()
    for _ in range(5):
        gram = x @ x.T
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    return x


def test_without_muon_the_reason_is_told(monkeypatch):
    monkeypatch.delattr(torch.optim, "Muon")
    with pytest.raises(errors.IncompatibleError, match=r"torch\.optim\.Muon"):
        SMALL.optimizers(physical(), 20)
