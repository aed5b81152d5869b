"""Settings of a process that only serves."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import sys

_M_MMAP_THRESHOLD = -3  # of malloc.h
SWITCH = 0.0005  # s
THRESHOLD = 128 * 2**10  # bytes, glibc's own first value


def settle() -> None:
    """Return freed memory to the system, hand the interpreter over soon, and collect only garbage made from now on.

    glibc raises the size from which a freed block goes back at once to that of the largest block freed so far, up to
    32 MiB, and then keeps hundreds of MiB of freed messages: it is fixed at 128 KiB. Other C libraries are left as they
    are. The serving thread waits at most `SWITCH`, in place of 5 ms, for the interpreter that another thread uses to
    read a message. Python's collector looks through all objects of PyTorch, for some 30 ms: those that
    exist now are left out.
    """
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, THRESHOLD)
    sys.setswitchinterval(SWITCH)
    gc.collect()
    gc.freeze()
