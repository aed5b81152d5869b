"""How the C library gives memory back to the system."""

from __future__ import annotations

import contextlib
import ctypes

_M_MMAP_THRESHOLD = -3  # of malloc.h
THRESHOLD = 128 * 2**10  # bytes, glibc's own first value


def return_large_blocks() -> None:
    """Let every block above 128 KiB go back to the system when it is freed.

    glibc raises this threshold to the largest block freed so far, up to 32 MiB, and then keeps hundreds of MiB of freed
    messages. This holds for the whole process; other C libraries are left as they are.
    """
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, THRESHOLD)
