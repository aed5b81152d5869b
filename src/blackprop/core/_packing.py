"""Nested state packed into one tensor of bytes, as the frameworks that save models expect it."""

from __future__ import annotations

import io
import pickle
import sys
from typing import Any

import torch
from torch import Tensor

from blackprop.errors import CheckpointError

# Sizes are powers of two from here on, so that two states of one model nearly always have one size:
# exponential moving averages copy entry by entry.
SMALLEST = 2**14
HEAD = 8  # bytes that hold the length of the content


def pack(state: dict[str, Any]) -> Tensor:
    """Return `state` as a tensor of bytes `(n,)`, uint8, on the CPU; equal states give equal bytes.

    - `state`: a dictionary of numbers, strings, None, tensors, lists and dictionaries of these.
    """
    file = io.BytesIO()
    torch.save(_canonical(state), file)
    content = file.getvalue()
    size = max(SMALLEST, 1 << (HEAD + len(content) - 1).bit_length())
    whole = bytearray(size)
    whole[:HEAD] = len(content).to_bytes(HEAD, "little")
    whole[HEAD : HEAD + len(content)] = content
    return torch.frombuffer(whole, dtype=torch.uint8)


def unpack(packed: object) -> dict[str, Any]:
    """Return the state that `pack` made a tensor of; a dictionary, which versions before 2 saved, as it is.

    Only tensors and plain values are read, never code. Raises `CheckpointError` for anything else.
    """
    if isinstance(packed, dict):
        return packed
    if not isinstance(packed, Tensor) or packed.dtype != torch.uint8 or packed.dim() != 1:
        raise CheckpointError(f"a packed state is a tensor of bytes, got {packed!r:.80}")
    whole = packed.cpu().numpy().tobytes()
    length = int.from_bytes(whole[:HEAD], "little")
    if not 0 < length <= len(whole) - HEAD:
        raise CheckpointError(f"a packed state of {len(whole)} bytes cannot hold {length}: it was cut short or changed")
    try:
        state = torch.load(io.BytesIO(whole[HEAD : HEAD + length]), weights_only=True)
    except (RuntimeError, ValueError, KeyError, EOFError, OSError, pickle.UnpicklingError) as error:
        raise CheckpointError(f"a packed state cannot be read: {error!r:.200}") from error
    if not isinstance(state, dict):
        raise CheckpointError(f"a packed state is a dictionary, got {type(state).__name__}")
    return state


def _canonical(value: Any) -> Any:
    """The value with strings that are one object where they are equal, since pickle writes those as references."""
    if isinstance(value, dict):
        return {_canonical(key): _canonical(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_canonical(part) for part in value)
    return sys.intern(value) if type(value) is str else value
