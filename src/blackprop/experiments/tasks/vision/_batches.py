"""The files of CIFAR-10: pickled arrays, read without running code, although pickles are programs."""

from __future__ import annotations

import math
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from blackprop.errors import DataError

SHAPE = (3, 32, 32)


def read_batch(path: Path, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Return images (N, 3, 32, 32) of unsigned bytes and class numbers (N,). Raises `DataError` for other files."""
    batch = _unpickled(path)
    table, labels = batch.get(b"data"), batch.get(b"labels")
    images: np.ndarray | None = table.bytes if isinstance(table, _ImageTable) else None
    if images is None or images.ndim != 2:
        raise DataError(f"{path} holds no images: its `data` is not a table of unsigned bytes")
    if images.shape[1] != np.prod(SHAPE) or not len(images):
        raise DataError(
            f"{path} holds {len(images)} images of {images.shape[1]} values, but images of 32×32 pixels in 3 colours "
            f"have {np.prod(SHAPE)}"
        )
    if not isinstance(labels, list) or not all(type(label) is int for label in labels):
        raise DataError(f"{path} has no list of class numbers, `labels`")
    if len(labels) != len(images):
        raise DataError(f"{path} holds {len(labels)} labels for its {len(images)} images")
    if not 0 <= min(labels) <= max(labels) < classes:
        worst = min(labels) if min(labels) < 0 else max(labels)
        raise DataError(f"{path} holds the label {worst}, but classes are numbered from 0 to {classes - 1}")
    return images.reshape(-1, *SHAPE), np.array(labels, np.int64)


def read_classes(path: Path) -> tuple[str, ...]:
    """Return the names of the classes, by number."""
    names = _unpickled(path).get(b"label_names")
    if not isinstance(names, list) or not names or not all(isinstance(name, bytes) for name in names):
        raise DataError(f"{path} has no list of class names, `label_names`")
    return tuple(name.decode(errors="replace") for name in names)


def _unpickled(path: Path) -> dict[Any, Any]:
    try:
        with path.open("rb") as file:
            content = _Arrays(file, encoding="bytes").load()
    except Exception as error:  # a damaged pickle may raise any error
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DataError(f"{path} cannot be read; it is damaged or cut short: {reason}") from error
    if not isinstance(content, dict):
        raise DataError(f"{path} holds a {type(content).__name__}, not a batch of CIFAR-10")
    return content


class _Arrays(pickle.Unpickler):
    """An unpickler that creates only tables of unsigned bytes and plain values, and calls no other code.

    NumPy's `dtype` and `ndarray` are not safe to unpickle: NumPy trusts the flags and the memory in their states.
    These names in a file therefore refer to the classes below, which a pickle cannot change.
    """

    def find_class(self, module: str, name: str, /) -> Any:
        match module, name:
            case "numpy", "ndarray":
                return _NDARRAY
            case "numpy", "dtype":
                return _Function(_kind)
            case (("numpy.core.multiarray" | "numpy._core.multiarray"), "_reconstruct"):
                return _Function(_reconstruct)
            case "_codecs", "encode":  # how Python 3 writes bytes for Python 2
                return _Function(_latin1)
        raise pickle.UnpicklingError(f"it uses {module}.{name}, which a table of bytes does not need")


class _Closed:
    """An object without attributes, so that a pickle cannot set any, and without a state unless a subclass has one."""

    __slots__ = ()

    def __setstate__(self, state: object) -> None:
        raise pickle.UnpicklingError(f"it sets the state of a {type(self).__name__.strip('_').lower()}")


class _Function(_Closed):
    """A function that a pickle may call."""

    __slots__ = ("_call",)

    def __init__(self, call: Callable[..., Any]) -> None:
        object.__setattr__(self, "_call", call)

    def __call__(self, *arguments: Any) -> Any:
        return self._call(*arguments)

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"{name} cannot be set")


class _Kind(_Closed):
    """The type of an element, an unsigned byte. Its state, the byte order, has no effect."""

    __slots__ = ()

    def __setstate__(self, state: object) -> None:
        del state


class _ImageTable(_Closed):
    """An array of unsigned bytes. It is empty at first, and filled once."""

    __slots__ = ("bytes",)

    def __init__(self) -> None:
        self.bytes = np.empty(0, np.uint8)

    def __setstate__(self, state: object) -> None:
        match state:
            case (int(), tuple(shape), _Kind(), (bool() | 0 | 1) as by_columns, bytes(raw)) if _fits(shape, raw):
                # Copy, because the bytes of the file are read-only.
                self.bytes = np.frombuffer(raw, np.uint8).reshape(shape, order="F" if by_columns else "C").copy()
            case _:
                raise pickle.UnpicklingError("it holds an array that is not a table of unsigned bytes")


_NDARRAY = object()  # represents the class in the one call that needs it


def _reconstruct(kind: object, shape: object, code: object) -> _ImageTable:
    del shape, code  # these describe an empty array; the content comes as its state
    if kind is not _NDARRAY:
        raise pickle.UnpicklingError("it holds an array of another class")
    return _ImageTable()


def _kind(name: object, *_: object) -> _Kind:
    if name not in {"u1", b"u1", "|u1", b"|u1"}:
        raise pickle.UnpicklingError(f"it holds an array of {name!r}, but images are unsigned bytes")
    return _Kind()


def _latin1(text: object, encoding: object = "latin1") -> bytes:
    if not isinstance(text, str) or encoding not in {"latin1", "latin-1", "iso-8859-1"}:
        raise pickle.UnpicklingError(f"it encodes text as {encoding!r}, but bytes are written as latin1")
    return text.encode("latin1")


def _fits(shape: tuple[object, ...], raw: bytes) -> bool:
    sizes = [size for size in shape if type(size) is int and size >= 0]
    return len(sizes) == len(shape) <= 32 and math.prod(sizes) == len(raw)
