"""Rows and settings put together, and one look at whether their numbers are finite."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor

from blackprop.errors import ShapeError

MANY = 2**14  # numbers, from which NumPy compares faster
COMPARED = {torch.float32, torch.float64}  # dtypes that NumPy compares
PLAIN = {Tensor, torch.nn.Parameter}  # no subclass, whose numbers may not be at hand


def all_finite(tensors: Iterable[Tensor]) -> bool:
    """Whether every number is finite, at one look: a sum is finite only if every term is.

    False also where a sum of finite numbers overflows.
    """
    beyond: list[Tensor] = []
    for tensor in tensors:
        total = tensor.sum()
        if not total.is_cpu:
            beyond.append(total.isfinite())  # an accelerator is synchronised once, for all of them
        elif not math.isfinite(total.item()):
            return False
    return not beyond or bool(torch.stack(beyond).all())


def equal(a: Tensor, b: Tensor) -> bool:
    """`torch.equal` of tensors of one dtype and device, in a seventh of its time at 10^6 numbers on the CPU."""
    if a.numel() < MANY or a.shape != b.shape:
        return torch.equal(a, b)
    if a.dtype not in COMPARED or type(a) not in PLAIN or type(b) not in PLAIN or not (a.is_cpu and b.is_cpu):
        return torch.equal(a, b)
    return bool((a.detach().numpy() == b.detach().numpy()).all())


def joined(blocks: list[Tensor]) -> Tensor:
    if len(blocks) == 1:
        return blocks[0].detach()
    _check_alike("rows", blocks)
    return torch.cat([block.detach() for block in blocks])


def stacked(thetas: list[Tensor]) -> Tensor:
    if not thetas:
        return torch.zeros(0, 0)
    if len(thetas) == 1:
        return thetas[0].detach()[None]
    _check_alike("settings", thetas)
    return torch.stack([theta.detach() for theta in thetas])


def _check_alike(what: str, tensors: list[Tensor]) -> None:
    first = tensors[0]
    for other in tensors:
        skip = 1 if what == "rows" else 0
        if (other.shape[skip:], other.dtype, other.device) != (first.shape[skip:], first.dtype, first.device):
            raise ShapeError(
                f"the {what} of a round have one shape, dtype and device, got {tuple(first.shape)} {first.dtype} on "
                f"{first.device} and {tuple(other.shape)} {other.dtype} on {other.device}"
            )
