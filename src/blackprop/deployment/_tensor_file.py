"""The safetensors format: a header in JSON with names, types, shapes and places, then the bytes of the tensors.

Its length stands first, in 8 bytes, little endian. https://huggingface.co/docs/safetensors
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from blackprop.errors import CheckpointError

TYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
DTYPES = {name: dtype for dtype, name in TYPES.items()}
LONGEST = 100_000_000  # bytes of a header, as the format has it


def written(tensors: Mapping[str, Tensor]) -> bytes:
    """Return the bytes of a file with these tensors; equal tensors give equal bytes."""
    header: dict[str, Any] = {}
    parts, at = [], 0
    for name, tensor in sorted(tensors.items()):
        if tensor.dtype not in TYPES:
            raise CheckpointError(f"{name} is {tensor.dtype}, which a file of safetensors cannot hold")
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        content = flat.view(torch.uint8).numpy().tobytes() if flat.numel() else b""
        header[name] = {
            "dtype": TYPES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [at, at + len(content)],
        }
        parts.append(content)
        at += len(content)
    head = json.dumps(header, separators=(",", ":")).encode()
    head += b" " * (-len(head) % 8)
    return b"".join([len(head).to_bytes(8, "little"), head, *parts])


def parsed(content: bytes) -> dict[str, Tensor]:
    """Return the tensors of a file. Raises `CheckpointError` for bytes that are damaged."""
    length = int.from_bytes(content[:8], "little")
    if len(content) < 8 or not 0 < length <= min(LONGEST, len(content) - 8):
        raise CheckpointError("this is not a file of safetensors, or it was cut short")
    data = content[8 + length :]
    try:
        header = json.loads(content[8 : 8 + length])
        return {name: _tensor(entry, data) for name, entry in header.items() if name != "__metadata__"}
    except (ValueError, KeyError, TypeError, AttributeError, RuntimeError) as error:
        raise CheckpointError(f"this file of safetensors is damaged: {error!r:.200}") from error


def _tensor(entry: Mapping[str, Any], data: bytes) -> Tensor:
    dtype, shape, (first, last) = DTYPES[entry["dtype"]], entry["shape"], entry["data_offsets"]
    if not 0 <= first <= last <= len(data) or last - first != math.prod(shape) * dtype.itemsize:
        raise ValueError(f"{last - first} bytes for {shape}")
    part = bytearray(data[first:last])
    flat = torch.frombuffer(part, dtype=dtype) if part else torch.zeros(0, dtype=dtype)
    return flat.reshape(shape)
