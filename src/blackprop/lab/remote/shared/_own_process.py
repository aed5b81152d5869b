"""Settings of a process that only serves."""

from __future__ import annotations

import contextlib
import ctypes
import gc

_M_MMAP_THRESHOLD = -3  # of malloc.h
THRESHOLD = 128 * 2**10  # bytes, glibc's own first value


def settle() -> None:
    """Return freed memory to the system, and limit garbage collection to objects made since this call.

    glibc raises the size from which a freed block goes back at once to that of the largest block freed so far, up to
    32 MiB, and then keeps hundreds of MiB of freed messages: it is fixed at 128 KiB. Other C libraries are left as they
    are. Python's collector looks through all objects of PyTorch, for some 30 ms: those that exist now are left out.
    """
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, THRESHOLD)
    gc.collect()
    gc.freeze()
