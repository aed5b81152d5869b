"""Portraits of a model's devices before and after training: thumbnails of θ, the transfer matrix and the surrogate's.

Portraits make no queries. The matrix comes from the simulator without its noise; hardware has none.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn
from torch.nn import functional as F

from blackprop import surrogates
from blackprop.core._procedure import run
from blackprop.core._query import Query
from blackprop.errors import RunFolderError, SurrogateError
from blackprop.nn._layer import PhysicalLayer
from blackprop.surrogates import Surrogate

SIDE = 128  # the largest side of a thumbnail
VALUES = 20_000  # the largest number of values of θ
_TOGETHER = 256  # rows of a matrix computed at once

Portrait = dict[str, np.ndarray]


@torch.no_grad()
def snapshot(model: nn.Module) -> Portrait:
    """Return thumbnails of the physical layers of `model`. Makes no queries and changes no state.

    For a layer `n`: `n/theta` is every k-th value of θ, at most 20,000. For linear devices there are also `n/matrix`
    (of simulators) and `n/surrogate` (of surrogates that have started), `(d_out, d_in)`. Larger matrices are averaged
    in blocks to at most (128, 128).
    """
    found: Portrait = {}
    for name, layer in model.named_modules():
        if isinstance(layer, PhysicalLayer):
            found |= {f"{name}/{what}": _numpy(value) for what, value in _parts(layer)}
    return found


def save(
    path: Path,
    before: Mapping[str, np.ndarray],
    after: Mapping[str, np.ndarray],
    confusion: ArrayLike | None = None,
    classes: Sequence[str] = (),
) -> None:
    """Save two snapshots in one .npz file: `n/theta_before`, `n/theta_after`, `n/matrix_before`, `n/matrix_after`, and
    `n/surrogate` after training. `confusion` (C, C), whose rows are the true classes, and the class names are added.

    The file is written under another name and then renamed. Raises `RunFolderError` if it cannot be written.
    """
    arrays = {f"{name}_before": value for name, value in before.items() if not name.endswith("/surrogate")}
    arrays |= {name if name.endswith("/surrogate") else f"{name}_after": value for name, value in after.items()}
    if confusion is not None:
        arrays |= {"confusion": np.asarray(confusion), "classes": np.array(classes, dtype=np.str_)}
    buffer, aside = io.BytesIO(), path.with_name(f".{path.name}.part")
    np.savez_compressed(buffer, **arrays)  # pyright: ignore[reportArgumentType]  # its second parameter is a flag
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        aside.write_bytes(buffer.getvalue())
        aside.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            aside.unlink(missing_ok=True)
        raise RunFolderError(f"{path}: {error.strerror or error}") from error


def load(path: Path) -> Portrait:
    """Return the arrays of a file written by `save`. Raises `RunFolderError` if it is damaged."""
    try:
        with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except Exception as error:  # a damaged archive raises many kinds of error
        raise RunFolderError(f"{path} is damaged, or not a portrait") from error


def _parts(layer: PhysicalLayer) -> Iterator[tuple[str, Tensor]]:
    spec = layer.device.declaration
    theta = layer.device.theta.clamp(layer.theta.detach())
    yield "theta", theta[:: -(-len(theta) // VALUES)]
    if not spec.linear:
        return
    if spec.oracle is not None:
        truth = surrogates.Oracle()
        truth.bind(spec)
        truth.to(theta)
        run(truth.start(theta.clone(), torch.Generator()), _asks_nothing)
        yield "matrix", _thumbnail(_matrix(truth, theta))
    if layer.started and not layer.surrogate.asks:  # one that reads the device has no model to draw
        with contextlib.suppress(SurrogateError):
            yield "surrogate", _thumbnail(_matrix(layer.surrogate, theta))


def _matrix(surrogate: Surrogate, like: Tensor) -> Tensor:  # (d_out, d_in)
    """Compute the surrogate's matrix from its vector-Jacobian products with the unit vectors of the output."""
    spec = surrogate.spec
    unit = torch.eye(spec.d_out, dtype=like.dtype, device=like.device).unflatten(1, spec.out_shape)
    rows = [surrogate.grad_x(like.new_zeros(len(some), *spec.in_shape), some) for some in unit.split(_TOGETHER)]
    return torch.cat(rows).flatten(1)


def _thumbnail(matrix: Tensor) -> Tensor:
    height, width = matrix.shape
    return F.adaptive_avg_pool2d(matrix[None], (min(height, SIDE), min(width, SIDE)))[0]


def _numpy(values: Tensor) -> np.ndarray:
    return values.detach().float().cpu().numpy().copy()


def _asks_nothing(queries: Sequence[Query]) -> list[Tensor]:
    raise AssertionError(f"a portrait made {len(queries)} queries")
