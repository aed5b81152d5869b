"""Text as tokens: tokenisation, and files with more tokens than fit in memory."""

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
except ImportError:  # on systems without these locks, two runs must not prepare the same file at once
    fcntl = None

ROUND = 256  # documents tokenised at a time, on all cores
COMMIT = 2**22  # tokens between two commits, after which the written ones survive an interruption


class Tokens(enum.Enum):
    """`BYTES`: each byte of the text is a token. `GPT2`: the 50,257 byte-pair tokens of GPT-2."""

    BYTES = "bytes"
    GPT2 = "gpt2"

    @property
    def vocabulary(self) -> int:
        """The number of rows of the embedding: for GPT-2 a multiple of 128, whose last 47 rows are not used."""
        return 256 if self is Tokens.BYTES else 50_304

    def of_file(self, path: Path) -> np.ndarray:
        """Return the tokens of a plain text file, uint16. Raises `DataError` if it is not readable UTF-8."""
        try:
            content = path.read_bytes().removeprefix(codecs.BOM_UTF8)
            return self._cut([content if self is Tokens.BYTES else content.decode()])[0]
        except OSError as error:
            raise DataError(f"{path} cannot be read: {error.strerror or error}") from error
        except UnicodeDecodeError as error:
            raise DataError(f"{path} is not UTF-8 text: byte {error.start} cannot be decoded") from error

    def of_documents(self, texts: list[str]) -> np.ndarray:
        """Return the tokens of many texts, uint16, each followed by the end-of-text token (for bytes, a zero)."""
        end = np.array([0 if self is Tokens.BYTES else gpt2().eot_token], np.uint16)
        return np.concatenate([part for text in self._cut(texts) for part in (text, end)])

    def _cut(self, texts: list[Any]) -> list[np.ndarray]:
        if self is Tokens.BYTES:
            raw = [text if isinstance(text, bytes) else text.encode() for text in texts]
            return [np.frombuffer(text, np.uint8).astype(np.uint16) for text in raw]
        return [np.array(tokens, np.uint16) for tokens in gpt2().encode_ordinary_batch(texts)]


@functools.cache
def gpt2() -> Any:
    """Return tiktoken's encoding of GPT-2, from the cache of tiktoken or from the network."""
    try:
        import tiktoken  # noqa: PLC0415  # an extra

        return tiktoken.get_encoding("gpt2")
    except ImportError as error:
        raise DataError("the tokens of GPT-2 need tiktoken: pip install tiktoken") from error
    except (OSError, ValueError) as error:  # no network, or a wrong checksum
        raise DataError(
            f"tiktoken has no file of GPT-2's tokens and cannot download it ({type(error).__name__}); run `python -c "
            "'import tiktoken; tiktoken.get_encoding(\"gpt2\")'` on a machine with a network connection, and set "
            "TIKTOKEN_CACHE_DIR to the folder of the downloaded file"
        ) from error


@functools.cache
def preferred() -> Tokens:
    """Return the tokens of GPT-2 or, with a warning, bytes if they are not available."""
    try:
        gpt2()
    except DataError as error:
        warnings.warn(f"{error}; until then, the tokens are bytes", BlackpropWarning, stacklevel=2)
        return Tokens.BYTES
    return Tokens.GPT2


def windows(tokens: np.ndarray, context: int) -> tuple[Tensor, Tensor]:
    """Return consecutive windows (N, context), and the next token of each token: the windows shifted by one token.

    They share the memory of `tokens`, which may be memory-mapped.
    """
    count = max(0, (len(tokens) - 1) // context)
    x, y = tokens[: count * context], tokens[1 : count * context + 1]
    return torch.from_numpy(x).view(count, context), torch.from_numpy(y).view(count, context)


class TextStream(Protocol):
    """A stream of documents, each with a "text", as in Hugging Face `datasets`. Its state is plain JSON."""

    def __iter__(self) -> Iterator[dict[str, Any]]: ...
    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state_dict: dict[str, Any]) -> Any: ...


def kept(folder: Path, tokens: Tokens, wanted: int, stream: Callable[[], TextStream]) -> np.ndarray:
    """Return the first `wanted` tokens of a stream, uint16, memory-mapped from a file in `folder`.

    Documents that are not yet in the file are streamed, tokenised once and added. The file is first written under
    another name. A record beside it holds the number of complete tokens and the state of the stream, from which an
    interrupted preparation resumes. Raises `DataError` if the stream ends early or the folder cannot be used.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{tokens.value}.bin"
        with _alone(folder / f"{tokens.value}.lock"):
            if _size(path) < wanted:
                _extend(path, tokens, wanted, stream)
    except OSError as error:
        raise DataError(f"the tokens cannot be stored in {folder}: {error.strerror or error}") from error
    # Copy-on-write, because torch needs a writable array; it is never written to.
    return np.memmap(path, np.uint16, "c", shape=(wanted,))


def _extend(path: Path, tokens: Tokens, wanted: int, stream: Callable[[], TextStream]) -> None:
    part, record = path.with_suffix(".part"), path.with_suffix(".json")
    if path.exists():
        path.replace(part)
    count, state = _recorded(part, record)
    if count < wanted:
        count = _append(part, record, (count, state), wanted, tokens, stream)
    if count < wanted:
        raise DataError(f"the stream ended after {count} tokens, but the run needs {wanted}")
    part.replace(path)


def _append(
    part: Path,
    record: Path,
    good: tuple[int, dict[str, Any] | None],
    wanted: int,
    tokens: Tokens,
    stream: Callable[[], TextStream],
) -> int:
    """Append to the complete tokens until there are enough or the stream ends, and return their number."""
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
    """Yield tokens of the next documents until none are missing, each with the following state of the stream."""
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
    except Exception as error:  # each layer of the network has its own exceptions
        raise DataError(
            f"the documents cannot be streamed ({type(error).__name__}: {_line(error)}); the tokens in {part} are "
            "kept, and the next run continues from there"
        ) from error


def _recorded(part: Path, record: Path) -> tuple[int, dict[str, Any] | None]:
    """Return the number of complete tokens in the file and the state of the stream after them."""
    if not record.exists():
        return 0, None
    try:
        found = json.loads(record.read_text())
        count, state = int(found["tokens"]), found["stream"]
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{record} is damaged: delete it to prepare the tokens again") from error
    if _size(part) < count:
        raise DataError(
            f"{part} holds {_size(part)} tokens, but its record says {count}: delete {record} to prepare them again"
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
    """Hold the lock of a file, so that only one process prepares it."""
    with lock.open("w") as file:
        if fcntl is not None:
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextmanager
def _progress(name: str, total: int) -> Iterator[Callable[[int], None]]:
    """Show the number of tokens on a terminal."""
    from rich.console import Console  # noqa: PLC0415  # an extra
    from rich.progress import Progress  # noqa: PLC0415

    with Progress(console=Console(stderr=True), disable=not sys.stderr.isatty()) as progress:
        task = progress.add_task(f"{name} tokens", total=total)
        yield lambda done: progress.update(task, completed=done)


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200] or "no reason given"
