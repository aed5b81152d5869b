"""The files of CIFAR-10: pickled arrays, read as data and not as the programs that pickles are."""

from __future__ import annotations

import codecs
import pickle
from pathlib import Path
from typing import Any

import numpy as np

from blackprop.errors import DataError

SHAPE = (3, 32, 32)


def read_batch(path: Path, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Images (N, 3, 32, 32) of unsigned bytes and their class numbers (N,)."""
    batch = _unpickled(path)
    images, labels = batch.get(b"data"), batch.get(b"labels")
    if not isinstance(images, np.ndarray) or images.dtype != np.uint8 or images.ndim != 2:
        raise DataError(f"{path} holds no images: its `data` is no table of unsigned bytes")
    if images.shape[1] != np.prod(SHAPE) or not len(images):
        raise DataError(
            f"{path} holds {len(images)} images of {images.shape[1]} values, and images of 32×32 pixels in 3 colours "
            f"have {np.prod(SHAPE)}"
        )
    if not isinstance(labels, list) or not all(type(label) is int for label in labels):
        raise DataError(f"{path} holds no `labels`, a list of class numbers")
    if len(labels) != len(images):
        raise DataError(f"{path} holds {len(labels)} labels for its {len(images)} images")
    if not 0 <= min(labels) <= max(labels) < classes:
        worst = min(labels) if min(labels) < 0 else max(labels)
        raise DataError(f"{path} holds the label {worst}, and classes are numbered from 0 to {classes - 1}")
    return images.reshape(-1, *SHAPE), np.array(labels, np.int64)


def read_classes(path: Path) -> tuple[str, ...]:
    """The names of the classes, by number."""
    names = _unpickled(path).get(b"label_names")
    if not isinstance(names, list) or not names or not all(isinstance(name, bytes) for name in names):
        raise DataError(f"{path} holds no `label_names`, a list of the classes")
    return tuple(name.decode(errors="replace") for name in names)


def _unpickled(path: Path) -> dict[Any, Any]:
    try:
        with path.open("rb") as file:
            content = _Arrays(file, encoding="bytes").load()
    except Exception as error:  # a damaged pickle raises anything
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DataError(f"{path} cannot be read, damaged or cut short: {reason}") from error
    if not isinstance(content, dict):
        raise DataError(f"{path} holds a {type(content).__name__}, and no batch of CIFAR-10")
    return content


class _Arrays(pickle.Unpickler):
    """Makes arrays and plain values, and calls nothing else."""

    def find_class(self, module: str, name: str, /) -> Any:
        match module, name:
            case "numpy", "ndarray":
                return np.ndarray
            case "numpy", "dtype":
                return _dtype
            case (("numpy.core.multiarray" | "numpy._core.multiarray"), "_reconstruct"):
                return np.empty(0).__reduce__()[0]
            case "_codecs", "encode":  # bytes, as Python 3 writes them for Python 2
                return codecs.encode
        raise pickle.UnpicklingError(f"it asks for {module}.{name}, which no array needs")


def _dtype(name: str | bytes, *_: object) -> np.dtype:
    """A copy, whose byte order is set next; Python 2 wrote the other arguments as numbers, which NumPy warns of."""
    return np.dtype(name.decode() if isinstance(name, bytes) else name, False, True)
