"""Light through a rectangular mesh in compiled code, with a gradient by walking back through its unitary blocks."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.autograd import forward_ad

from blackprop.core._compiling import or_none
from blackprop.devices.photonic._blocks import Blocks

TILE, LARGE = 16, 64  # rows at a time: few keep the field in the cache, many share the numbers of a large mesh
CROWDED = 512  # modes from which on the numbers of a mesh exceed the cache


class Light(NamedTuple):
    """A mesh of N `modes`, of which the first `d_out` are read.

    - `blocks`: the elements of the blocks for their numbers (..., blocks, numbers); None for two phases as `MZIMesh`.
    - `plain`: the readings of rows and numbers, differentiable any number of times.
    """

    modes: int
    d_out: int
    blocks: Callable[[Tensor], Blocks] | None
    plain: Callable[[Tensor, Tensor], Tensor]


def readings(light: Light, x: Tensor, numbers: Tensor) -> Tensor:
    """The readings (..., rows, d_out) of the rows (..., rows, d_in) for numbers (..., blocks, numbers).

    Compiled code serves float32 on the CPU. The plain path serves the rest: transforms of `torch.func`, derivatives in
    forward mode, traces, and where Numba is not installed.
    """
    if not _serves(x, numbers) or _passes(_tile(light, x), light.blocks is not None) is None:
        return light.plain(x, numbers)
    if numbers.dim() == 3:
        return _Compiled.apply(x if x.dim() == 3 else x[None], numbers, light)  # pyright: ignore[reportReturnType]
    return _Compiled.apply(x[None], numbers[None], light)[0]  # pyright: ignore[reportOptionalSubscript]


def _serves(x: Tensor, numbers: Tensor) -> bool:
    plain = x.dtype == numbers.dtype == torch.float32 and x.device.type == numbers.device.type == "cpu"
    if not plain or (x.dim(), numbers.dim()) not in {(2, 2), (2, 3), (3, 3)} or not x.numel():
        return False
    transformed = torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0
    return not transformed and not torch.compiler.is_compiling()


class _Compiled(torch.autograd.Function):
    """Of rows (1 or S, rows, d_in) and numbers (S, blocks, numbers)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, numbers: Tensor, light: Light) -> Tensor:
        p, q = _tables(light, numbers)
        rows, keep, tile = x.shape[1], any(ctx.needs_input_grad), _tile(light, x)
        y = x.new_empty(len(p), rows, light.d_out)
        fields = x.new_empty(*((len(p), -(-rows // tile)) if keep else (1, 1)), 2 * tile * light.modes)
        _call(tile, light, 0, x.contiguous(), p, q, fields, y, keep)
        if keep:
            ctx.save_for_backward(x, numbers, p, q, fields)
            ctx.light = light
        return y

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, Tensor | None, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        x, numbers, p, q, fields = ctx.saved_tensors
        light = ctx.light
        if torch.is_grad_enabled():  # for a second derivative
            wanted = [each for each, needed in zip((x, numbers), ctx.needs_input_grad, strict=False) if needed]
            y = light.plain(x if len(x) > 1 else x[0], numbers)
            found = iter(torch.autograd.grad(y, wanted, g, create_graph=True))
            return (*(next(found) if needed else None for needed in ctx.needs_input_grad[:2]), None)  # pyright: ignore[reportReturnType]
        gx, out = x.new_zeros(x.shape), p.new_zeros(*p.shape[:2], 2 if light.blocks is None else 8)
        _call(_tile(light, x), light, 1, fields, p, q, g.contiguous(), gx, out)
        if light.blocks is not None and ctx.needs_input_grad[1]:
            out = _through_blocks(light.blocks, numbers, out)
        return gx, out, None


def _tables(light: Light, numbers: Tensor) -> tuple[Tensor, Tensor]:
    """Cosines and sines of the phases (S, blocks, 2), or real and imaginary parts of the elements (S, blocks, 4)."""
    if light.blocks is None:
        return numbers.cos().contiguous(), numbers.sin().contiguous()
    blocks = light.blocks(numbers)
    return torch.stack([each.real for each in blocks], -1), torch.stack([each.imag for each in blocks], -1)


def _through_blocks(blocks: Callable[[Tensor], Blocks], numbers: Tensor, grad: Tensor) -> Tensor:
    """The gradient for the numbers of the blocks, from that for the parts of their elements (S, blocks, 8)."""
    with torch.enable_grad():
        numbers = numbers.detach().requires_grad_()
        elements = blocks(numbers)
    parts = [torch.complex(*each) for each in zip(*(half.unbind(-1) for half in grad.split(4, -1)), strict=True)]
    (found,) = torch.autograd.grad(elements, numbers, parts)
    return found


def _tile(light: Light, x: Tensor) -> int:
    return LARGE if light.modes >= CROWDED and x.shape[-2] >= LARGE else TILE


def _call(tile: int, light: Light, way: int, *args: Tensor | bool) -> None:
    passes = _passes(tile, light.blocks is not None)
    assert passes is not None
    passes[way](*(each.detach().numpy() if isinstance(each, Tensor) else each for each in args))


@cache
def _passes(tile: int, general: bool) -> tuple[Callable[..., None], Callable[..., None]] | None:
    """The passes forward and backward of so many rows at a time, compiled; None where Numba is absent or fails."""
    return or_none(partial(_build, tile, general), "meshes")


def _build(tile: int, general: bool) -> tuple[Callable[..., None], Callable[..., None]]:
    from blackprop.devices.photonic.compiled._loops import build  # noqa: PLC0415

    forward, backward = build(tile, general)
    one, table, out = np.zeros((1, 1, 2), np.float32), np.zeros((1, 1, 4 if general else 2), np.float32), (1, 1, 8)
    fields = np.zeros((1, 1, 4 * tile), np.float32)
    forward(one, table, table, fields, one.copy(), True)  # compiles, or fails here
    backward(fields, table, table, one, one.copy(), np.zeros(out, np.float32))
    return forward, backward
