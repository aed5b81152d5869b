"""Language: texts are cut, kept or refused for what is wrong with them."""

from __future__ import annotations

import gzip
import json
import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from blackprop import errors
from blackprop.experiments import FrozenReference, Hardware, OracleReference
from blackprop.experiments.tasks._task import Size
from blackprop.experiments.tasks.language import _tasks as language
from blackprop.experiments.tasks.language import _tokens as tokens
from blackprop.experiments.tasks.language._tasks import FineWeb, Text
from blackprop.experiments.tasks.language._tokens import Tokens
from support import DATA
from texts import CONTEXT, SMALL, Words, letters, linear


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
        (b"", r"some\.txt: there is no text in the file"),
        (letters(30), r"some\.txt holds 30 tokens \(bytes\), which make 0 windows of 32"),
        (letters(140), r"140 tokens .* 3 windows of 32 for training and 0 for validation; a batch needs 4"),
        (letters(330), r"9 windows of 32 for training and 1 for validation; a batch needs 10"),
    ],
)
def test_a_text_that_is_too_short_is_refused(content, message, text):
    text.write_bytes(content)
    with pytest.raises(errors.DataError, match=message):
        replace(SMALL, batch_size=10 if len(content) == 330 else 4, data_dir=text).data()


def test_what_cannot_be_read_is_named(tmp_path, encoding, text):
    with pytest.raises(errors.DataError, match=r"`--data-dir`.*`curl -fL"):
        SMALL.data()
    with pytest.raises(errors.DataError, match="nowhere` is not a file"):
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
    with pytest.raises(errors.DataError, match="ended after 220 tokens, but the run needs 427"):
        task.data()
    with (tmp_path / "bytes.part").open("r+b") as file:
        file.truncate(80)
    with pytest.raises(
        errors.DataError, match=r"bytes\.part holds 40 tokens, but its record says 220: delete .*bytes\.json"
    ):
        task.data()
    (tmp_path / "bytes.json").write_text("{")
    with pytest.raises(errors.DataError, match=r"bytes\.json is damaged: delete it"):
        task.data()
    (tmp_path / "file").write_text("")
    with pytest.raises(errors.DataError, match=r"cannot be stored in .*file"):
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
