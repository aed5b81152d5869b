"""Language: texts are cut, kept or refused for what is wrong with them, and the transformer is the published one."""

from __future__ import annotations

import gzip
import json
import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import blackprop as bp
from blackprop import errors
from blackprop.experiments import FrozenReference, Hardware, OracleReference
from blackprop.experiments.tasks._task import Size
from blackprop.experiments.tasks.language import _gpt as gpt
from blackprop.experiments.tasks.language import _tasks as language
from blackprop.experiments.tasks.language import _tokens as tokens
from blackprop.experiments.tasks.language._gpt import GPT, DevicePlace
from blackprop.experiments.tasks.language._tasks import FineWeb, Text
from blackprop.experiments.tasks.language._tokens import Tokens
from blackprop.optim import SignalScaled
from support import DATA, draw

SMALL = Text(iterations=20, batch_size=4, replaced=1)
TRAINED = replace(SMALL, place=DevicePlace.FIRST_OF_MLP, trained_matrices=True)  # as published, but small
CONTEXT = 32  # of the small size


def linear(d_in, d_out):
    return nn.Linear(d_in, d_out, bias=False)


def tiny(place=DevicePlace.FIRST_OF_MLP, replaced=1, layer=linear, **kwargs):
    return GPT(
        **{"vocabulary": 11, "width": 8, "blocks": 2, "heads": 2, "context": 6, **kwargs},
        place=place,
        replaced=replaced,
        layer=layer,
    )


def letters(count, seed=0):
    """A text of so many bytes, the letters of which follow no rule."""
    return bytes(np.random.default_rng(seed).integers(97, 123, count, dtype=np.uint8))


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "some.txt"
    path.write_bytes(letters(5000))
    return path


@pytest.fixture(autouse=True)
def _forget():
    """What is found out once a process is found out anew by each test."""
    tokens.gpt2.cache_clear()
    tokens.preferred.cache_clear()
    yield
    tokens.gpt2.cache_clear()
    tokens.preferred.cache_clear()


class Words:
    """An encoding in place of GPT-2's, which needs a file: a token for each letter, and an end of text."""

    eot_token = 50_256

    def encode_ordinary_batch(self, texts):
        return [[ord(letter) + 1000 for letter in text] for text in texts]


def _no_network(name):
    raise ConnectionError("no route")


@pytest.fixture
def encoding(monkeypatch):
    tiktoken = pytest.importorskip("tiktoken")
    monkeypatch.setattr(tiktoken, "get_encoding", lambda name: Words())


@pytest.fixture
def offline(monkeypatch):
    tiktoken = pytest.importorskip("tiktoken")
    monkeypatch.setattr(tiktoken, "get_encoding", _no_network)


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


# Text.


def test_windows_follow_one_another_and_their_targets_are_the_next_tokens(text):
    found = replace(SMALL, data_dir=text).data()
    content = torch.tensor(list(text.read_bytes()))
    for x, y, part in ((found.x_train, found.y_train, content[:4500]), (found.x_test, found.y_test, content[4500:])):
        count = (len(part) - 1) // CONTEXT
        assert x.dtype is y.dtype is torch.uint16
        assert torch.equal(x.long(), part[: count * CONTEXT].view(count, CONTEXT))
        assert torch.equal(y.long(), part[1 : count * CONTEXT + 1].view(count, CONTEXT))
    batch = torch.tensor([7, 3, 7])
    assert torch.equal(found.x_train[batch].long(), found.x_train.long()[batch])
    x, y = replace(SMALL, data_dir=text).augment(found.x_train[batch], found.y_train[batch], torch.Generator())
    assert torch.equal(x.long(), found.x_train.long()[batch])
    assert SMALL.objective.loss(SMALL.build(linear, 0)(x), y).isfinite()


def test_a_folder_is_read_in_the_order_of_names(tmp_path):
    (tmp_path / "text").mkdir()
    for name, part in (("b.txt", letters(2000, 1)), ("a.txt", letters(2000, 2)), ("c.md", letters(2000, 3))):
        (tmp_path / "text" / name).write_bytes(part)
    whole = tmp_path / "whole"
    whole.write_bytes(letters(2000, 2) + letters(2000, 1))
    (tmp_path / "text" / "._a.txt").write_bytes(b"\0\5\x16\7")  # macOS keeps attributes there
    (tmp_path / "text" / "b.txt").write_bytes(b"\xef\xbb\xbf" + letters(2000, 1))  # a byte-order mark is no text
    expected = replace(SMALL, data_dir=whole).data()
    for folder in (tmp_path / "text", tmp_path):
        found = replace(SMALL, data_dir=folder).data()
        assert torch.equal(found.x_train, expected.x_train)
        assert torch.equal(found.y_test, expected.y_test)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"some\.txt: there is no text in it"),
        (letters(30), r"some\.txt holds 30 tokens \(bytes\), which make 0 windows of 32"),
        (letters(140), r"140 tokens .* 3 windows of 32 to train on and 0 to validate on; a batch is 4"),
        (letters(330), r"9 windows of 32 to train on and 1 to validate on; a batch is 10"),
    ],
)
def test_a_text_that_is_too_short_is_refused(content, message, text):
    text.write_bytes(content)
    with pytest.raises(errors.DataError, match=message):
        replace(SMALL, batch_size=10 if len(content) == 330 else 4, data_dir=text).data()


def test_what_cannot_be_read_is_named(tmp_path, encoding, text):
    with pytest.raises(errors.DataError, match=r"`--data-dir`.*`curl -fL"):
        SMALL.data()
    with pytest.raises(errors.DataError, match="nowhere` is no file"):
        replace(SMALL, data_dir=tmp_path / "nowhere").data()
    (tmp_path / "folder.txt").mkdir()
    with pytest.raises(errors.DataError, match=r"folder\.txt cannot be read: Is a directory"):
        replace(SMALL, data_dir=tmp_path).data()
    text.write_bytes(b"caf\xe9 " * 1000)
    with pytest.raises(errors.DataError, match=r"some\.txt is not UTF-8 text: byte 3"):
        replace(SMALL, tokens=Tokens.GPT2, data_dir=text).data()


def test_where_the_text_lies_is_no_setting(text):
    assert replace(SMALL, data_dir=text) == SMALL
    assert "data_dir" not in repr(SMALL)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"replaced": 0}, r"`Text\(replaced=...\)` must be between 1 and the 2 blocks, got 0"),
        ({"size": Size.PUBLISHED, "tokens": Tokens.GPT2, "replaced": 13}, "the 12 blocks, got 13"),
        ({"iterations": 0}, r"`Text\(iterations=...\)` must be at least 1"),
        ({"batch_size": 0}, r"`Text\(batch_size=...\)` must be at least 1"),
        ({"evaluate_every": 0}, r"`Text\(evaluate_every=...\)` must be at least 1"),
        ({"lr": 0.0}, r"`Text\(lr=...\)` must be positive and finite"),
        ({"muon_lr": math.inf}, r"`Text\(muon_lr=...\)` must be positive and finite"),
        ({"device_lr": math.nan}, r"`Text\(device_lr=...\)` must be positive and finite"),
    ],
)
def test_wrong_settings_are_refused_in_the_words_of_the_caller(change, message):
    with pytest.raises(errors.ArgumentError, match=message):
        Text(**change)


# Tokens.


def test_without_the_file_of_gpt2_bytes_are_taken_and_it_is_said_once(offline, recwarn):
    first, second = Text(size=Size.PUBLISHED), FineWeb(size=Size.PUBLISHED)
    assert first.tokens is second.tokens is Tokens.BYTES
    assert [warning.category for warning in recwarn.list] == [errors.BlackpropWarning]
    assert "TIKTOKEN_CACHE_DIR" in str(recwarn.pop().message)


def test_tokens_that_are_asked_for_are_not_replaced_by_others(offline, text):
    task = replace(SMALL, tokens=Tokens.GPT2, data_dir=text)
    with pytest.raises(errors.DataError, match="tiktoken has no file of GPT-2's tokens"):
        task.data()


def test_with_gpt2_a_text_is_cut_by_it_and_the_network_has_room_for_its_tokens(encoding, text):
    task = replace(SMALL, tokens=Tokens.GPT2, data_dir=text)
    assert Text(size=Size.PUBLISHED).tokens is Tokens.GPT2
    assert torch.equal(task.data().x_train.long(), replace(SMALL, data_dir=text).data().x_train.long() + 1000)
    with torch.device("meta"):
        assert task.build(linear, 0).embedding.weight.shape[0] == 50_304


def test_a_document_is_followed_by_its_end(encoding):
    assert Tokens.GPT2.of_documents(["ab", ""]).tolist() == [1097, 1098, 50_256, 50_256]
    assert Tokens.BYTES.of_documents(["é", "a"]).tolist() == [0xC3, 0xA9, 0, 97, 0]
    assert Tokens.GPT2.of_documents(["ab"]).dtype == np.uint16


# FineWeb.


class Documents:
    """A stream of a hundred documents, each of ten letters; it counts what is taken from it, and can break."""

    taken = 0

    def __init__(self, breaks=None, count=100):
        self.next, self.breaks, self.count = 0, breaks, count

    def __iter__(self):
        while self.next < self.count:
            if self.next == self.breaks:
                raise ConnectionError("the line\nis dead")
            self.next += 1
            Documents.taken += 1
            yield {"text": letters(10, self.next).decode()}

    def state_dict(self):
        return {"next": self.next}

    def load_state_dict(self, state_dict):
        self.next = state_dict["next"]


@pytest.fixture
def web(monkeypatch):
    """FineWeb in small portions, one document a round; `web.stream` is what is met in its place."""
    place = SimpleNamespace(stream=Documents)
    monkeypatch.setattr(language, "_fineweb", lambda: place.stream())  # noqa: PLW0108  # what `stream` is by then
    monkeypatch.setattr(tokens, "ROUND", 1)
    monkeypatch.setattr(tokens, "COMMIT", 50)
    Documents.taken = 0
    return place


def whole(count):
    content = b"".join(letters(10, number) + b"\0" for number in range(1, 101))
    return torch.tensor(list(content))[:count]


def test_as_many_documents_are_kept_as_the_steps_take_and_each_is_taken_once(web, tmp_path):
    task = FineWeb(iterations=3, batch_size=4, data_dir=tmp_path / "new" / "web")
    found = task.data()
    assert len(found.x_train) == 12  # each window met once
    assert torch.equal(found.x_train.long().flatten(), whole(384))
    assert torch.equal(found.y_train.long().flatten(), whole(385)[1:])
    assert torch.equal(found.x_test.long().flatten(), whole(427)[385:][:32])
    assert Documents.taken == 39
    longer = replace(task, iterations=5).data()
    assert Documents.taken == 65
    assert torch.equal(longer.x_train.long().flatten(), whole(640))
    web.stream = _no_network
    assert torch.equal(task.data().x_train, found.x_train)
    assert sorted(path.name for path in (tmp_path / "new" / "web").iterdir()) == [
        "bytes.bin",
        "bytes.json",
        "bytes.lock",
    ]


def test_a_preparation_that_broke_off_goes_on_where_it_was(web, tmp_path):
    task = FineWeb(iterations=3, batch_size=4, data_dir=tmp_path)
    web.stream = lambda: Documents(breaks=17)
    with pytest.raises(
        errors.DataError, match=r"cannot be streamed \(ConnectionError: the line is dead\).*bytes\.part"
    ):
        task.data()
    assert not (tmp_path / "bytes.bin").exists()
    assert json.loads((tmp_path / "bytes.json").read_text()) == {"tokens": 165, "stream": {"next": 15}}
    web.stream, Documents.taken = Documents, 0
    assert torch.equal(task.data().x_train.long().flatten(), whole(384))
    assert Documents.taken == 39 - 15


def test_a_shorter_run_needs_no_network_after_a_longer_one_broke_off(web, tmp_path):
    task = FineWeb(iterations=3, batch_size=4, data_dir=tmp_path)
    found = task.data()
    web.stream = lambda: Documents(breaks=45)
    with pytest.raises(errors.DataError, match="cannot be streamed"):
        replace(task, iterations=6).data()
    web.stream = _no_network
    assert torch.equal(task.data().x_train, found.x_train)


def test_what_is_wrong_with_the_kept_tokens_or_the_stream_is_told(web, tmp_path, monkeypatch):
    task = FineWeb(iterations=3, batch_size=4, data_dir=tmp_path)
    web.stream = lambda: Documents(count=20)
    with pytest.raises(errors.DataError, match="ended after 220 tokens, of which the run wants 427"):
        task.data()
    with (tmp_path / "bytes.part").open("r+b") as file:
        file.truncate(80)
    with pytest.raises(
        errors.DataError, match=r"bytes\.part holds 40 tokens, and by its record 220: delete .*bytes\.json"
    ):
        task.data()
    (tmp_path / "bytes.json").write_text("{")
    with pytest.raises(errors.DataError, match=r"bytes\.json is damaged: delete it"):
        task.data()
    (tmp_path / "file").write_text("")
    with pytest.raises(errors.DataError, match=r"cannot be kept in .*file"):
        replace(task, data_dir=tmp_path / "file").data()


def test_by_default_the_tokens_are_in_the_users_cache(web, tmp_path, monkeypatch):
    pooch = pytest.importorskip("pooch")
    monkeypatch.setattr(pooch, "os_cache", lambda project: tmp_path / project)
    FineWeb(iterations=3, batch_size=4).data()
    assert (tmp_path / "blackprop" / "fineweb" / "bytes.bin").exists()


# The real one.


REAL = DATA / "tinyshakespeare.txt.gz"


@pytest.mark.skipif(not REAL.exists(), reason="needs tinyshakespeare.txt.gz in the folder of real data")
def test_on_a_real_text_the_oracle_is_well_below_frozen(tmp_path):
    (tmp_path / "tinyshakespeare.txt").write_bytes(gzip.decompress(REAL.read_bytes()))
    task = Text(iterations=150, data_dir=tmp_path)
    loss = {method.name: _trained(task, method) for method in (OracleReference(), FrozenReference())}
    assert loss["oracle"] < 2.9
    assert loss["frozen"] > loss["oracle"] + 0.1


def _trained(task, method):
    """Validation loss on a part of the text, behind a short run."""
    found = task.data()

    def layer(d_in, d_out):
        return method.layer(Hardware.LIGHT_MODULATOR.make(d_in, d_out), torch.Generator().manual_seed(0))

    model, order = task.build(layer, 0), torch.Generator().manual_seed(0)
    steps = task.steps(len(found.x_train))
    schedules = task.optimizers(model, steps)
    shuffled = torch.randperm(len(found.x_train), generator=order)
    for batch in shuffled.split(task.batch_size)[:steps]:
        model.zero_grad()
        task.objective.loss(model(found.x_train[batch]), found.y_train[batch]).backward()
        for optimizer, schedule in schedules:
            optimizer.step()
            schedule.step()
    with torch.no_grad():
        tally = task.objective.tally(model.eval()(found.x_test[:500]), found.y_test[:500])
    return task.objective.scores(tally)["validation_loss"]
