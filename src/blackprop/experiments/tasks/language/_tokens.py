"""Text as tokens: how it is cut into them, and files of more of them than memory holds."""

from __future__ import annotations

import codecs
import enum
import functools
import json
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from blackprop.errors import BlackpropWarning, DataError

try:
    import fcntl
except ImportError:  # where a system has no such locks, two runs must not prepare the same file at once
    fcntl = None

ROUND = 256  # documents cut into tokens at a time, on all cores
COMMIT = 2**22  # tokens, after which those written so far are there for good


class Tokens(enum.Enum):
    """`BYTES`: each byte of the text is a token. `GPT2`: the 50,257 byte pairs of GPT-2."""

    BYTES = "bytes"
    GPT2 = "gpt2"

    @property
    def vocabulary(self) -> int:
        """Rows of the embedding: for GPT-2 a multiple of 128, of which the last 47 are never met."""
        return 256 if self is Tokens.BYTES else 50_304

    def of_file(self, path: Path) -> np.ndarray:
        """The tokens of a plain text file, uint16."""
        try:
            content = path.read_bytes().removeprefix(codecs.BOM_UTF8)
            return self._cut([content if self is Tokens.BYTES else content.decode()])[0]
        except OSError as error:
            raise DataError(f"{path} cannot be read: {error.strerror or error}") from error
        except UnicodeDecodeError as error:
            raise DataError(f"{path} is not UTF-8 text: byte {error.start} cannot be decoded") from error

    def of_documents(self, texts: list[str]) -> np.ndarray:
        """The tokens of many texts, uint16, each followed by the end-of-text token; among bytes by a zero."""
        end = np.array([0 if self is Tokens.BYTES else gpt2().eot_token], np.uint16)
        return np.concatenate([part for text in self._cut(texts) for part in (text, end)])

    def _cut(self, texts: list[Any]) -> list[np.ndarray]:
        if self is Tokens.BYTES:
            raw = [text if isinstance(text, bytes) else text.encode() for text in texts]
            return [np.frombuffer(text, np.uint8).astype(np.uint16) for text in raw]
        return [np.array(tokens, np.uint16) for tokens in gpt2().encode_ordinary_batch(texts)]


@functools.cache
def gpt2() -> Any:
    """The encoding of GPT-2 that tiktoken has, from its file in tiktoken's cache or from the network."""
    try:
        import tiktoken  # noqa: PLC0415  # an extra

        return tiktoken.get_encoding("gpt2")
    except ImportError as error:
        raise DataError("GPT-2's tokens need tiktoken: pip install tiktoken") from error
    except (OSError, ValueError) as error:  # no network; another checksum
        raise DataError(
            f"tiktoken has no file of GPT-2's tokens and cannot get it ({type(error).__name__}); run `python -c "
            "'import tiktoken; tiktoken.get_encoding(\"gpt2\")'` where there is a network, and name the folder that "
            "then holds the file in TIKTOKEN_CACHE_DIR"
        ) from error


@functools.cache
def preferred() -> Tokens:
    """GPT-2's, or bytes where those cannot be had, which is said once."""
    try:
        gpt2()
    except DataError as error:
        warnings.warn(f"{error}; until then the text is taken byte by byte", BlackpropWarning, stacklevel=2)
        return Tokens.BYTES
    return Tokens.GPT2


def windows(tokens: np.ndarray, context: int) -> tuple[Tensor, Tensor]:
    """Windows one after another, (N, context), and for each token in them the next: the windows a token later.

    They share the memory of `tokens`, which may be a file's.
    """
    count = max(0, (len(tokens) - 1) // context)
    x, y = tokens[: count * context], tokens[1 : count * context + 1]
    return torch.from_numpy(x).view(count, context), torch.from_numpy(y).view(count, context)


class TextStream(Protocol):
    """Documents, each with its "text", as Hugging Face `datasets` streams them; its state is plain JSON."""

    def __iter__(self) -> Iterator[dict[str, Any]]: ...
    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state_dict: dict[str, Any]) -> Any: ...


def kept(folder: Path, tokens: Tokens, wanted: int, stream: Callable[[], TextStream]) -> np.ndarray:
    """The first `wanted` tokens of a stream's documents, uint16, mapped from a file in `folder`.

    Documents that are not yet in the file are streamed and added, so each is cut into tokens once. The file is written
    under another name, beside a record of how far it is good and where the stream goes on, from which an interrupted
    preparation continues.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{tokens.value}.bin"
        with _alone(folder / f"{tokens.value}.lock"):
            if _size(path) < wanted:
                _extend(path, tokens, wanted, stream)
    except OSError as error:
        raise DataError(f"the tokens cannot be kept in {folder}: {error.strerror or error}") from error
    # Copy-on-write, as torch takes no array that is read-only; nothing writes to it.
    return np.memmap(path, np.uint16, "c", shape=(wanted,))


def _extend(path: Path, tokens: Tokens, wanted: int, stream: Callable[[], TextStream]) -> None:
    part, record = path.with_suffix(".part"), path.with_suffix(".json")
    if path.exists():
        path.replace(part)
    count, state = _recorded(part, record)
    if count < wanted:
        count = _append(part, record, (count, state), wanted, tokens, stream)
    if count < wanted:
        raise DataError(f"the stream ended after {count} tokens, of which the run wants {wanted}")
    part.replace(path)


def _append(
    part: Path,
    record: Path,
    good: tuple[int, dict[str, Any] | None],
    wanted: int,
    tokens: Tokens,
    stream: Callable[[], TextStream],
) -> int:
    """Write on behind what is good, until it is enough or the stream ends; returns how many tokens there are."""
    count, state = good
    committed = count
    with part.open("r+b" if part.exists() else "wb") as file, _progress(tokens.value, wanted) as show:
        file.truncate(2 * count)
        file.seek(2 * count)
        for found, behind in _found(tokens, wanted - count, state, stream, part):
            file.write(found.tobytes())
            count += len(found)
            show(count)
            if count - committed >= COMMIT or count >= wanted:
                file.flush()
                _write_record(record, count, behind)
                committed = count
    return count


def _found(
    tokens: Tokens, missing: int, state: dict[str, Any] | None, stream: Callable[[], TextStream], part: Path
) -> Iterator[tuple[np.ndarray, dict[str, Any]]]:
    """Tokens of the next documents, until none are missing, each with the stream's state behind them."""
    try:
        source = stream()
        if state is not None:
            source.load_state_dict(state)
        documents = iter(source)
        while missing > 0 and (texts := [document["text"] for document in islice(documents, ROUND)]):
            found = tokens.of_documents(texts)
            missing -= len(found)
            yield found, source.state_dict()
    except DataError:
        raise
    except Exception as error:  # each layer of the network has exceptions of its own
        raise DataError(
            f"the documents cannot be streamed ({type(error).__name__}: {_line(error)}); what is in {part} is kept, "
            "and the next run goes on from there"
        ) from error


def _recorded(part: Path, record: Path) -> tuple[int, dict[str, Any] | None]:
    """How many tokens of the file are good, and where the stream goes on."""
    if not record.exists():
        return 0, None
    try:
        found = json.loads(record.read_text())
        count, state = int(found["tokens"]), found["stream"]
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{record} is damaged: delete it, and the tokens are prepared anew") from error
    if _size(part) < count:
        raise DataError(
            f"{part} holds {_size(part)} tokens, and by its record {count}: delete {record}, and they are prepared anew"
        )
    return count, state


def _write_record(record: Path, count: int, state: dict[str, Any]) -> None:
    aside = record.with_suffix(".json.part")
    aside.write_text(json.dumps({"tokens": count, "stream": state}))
    aside.replace(record)


def _size(path: Path) -> int:
    return path.stat().st_size // 2 if path.exists() else 0


@contextmanager
def _alone(lock: Path) -> Iterator[None]:
    """Waits for whoever prepares the same file, and keeps others waiting."""
    with lock.open("w") as file:
        if fcntl is not None:
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextmanager
def _progress(name: str, total: int) -> Iterator[Callable[[int], None]]:
    """Shows on a terminal how many tokens there are."""
    from rich.console import Console  # noqa: PLC0415  # an extra
    from rich.progress import Progress  # noqa: PLC0415

    with Progress(console=Console(stderr=True), disable=not sys.stderr.isatty()) as progress:
        task = progress.add_task(f"{name} tokens", total=total)
        yield lambda done: progress.update(task, completed=done)


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200] or "no reason given"
