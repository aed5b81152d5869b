"""The device asked for a round: a long one in parts, so that the server holds the objects of one part at a time."""

from __future__ import annotations

import numpy as np

from blackprop.core._declaration import Declaration
from blackprop.core._round import Round
from blackprop.devices import Device, Wrapper
from blackprop.errors import BusyError, InDoubtError, ReadingError, UnreachableError
from blackprop.lab.remote.shared import _rounds as rounds
from blackprop.lab.wrappers._guarded import Guarded

AT_A_TIME = 1024  # queries


def answered(device: Guarded, asked: Round, spec: Declaration) -> tuple[bool, list[np.ndarray]]:
    """Measure a round, and return its readings as `pack_readings` does.

    A device returns one tensor for each query, of some 600 bytes in small blocks, which the C library keeps after their
    release. The whole round is checked first. It is not divided for a device with an interlock further inside, which
    must agree to the whole round before a part of it is measured.
    """
    if len(asked) == 1 and asked.plain and not asked.sizes()[0]:
        device.program(asked.settings[0])  # a round of one query without rows is a programming by hand
        return rounds.pack_readings([asked.rows.new_zeros(0, *spec.out_shape)], asked)
    if len(asked) <= AT_A_TIME or any(guard.interlocked for guard in guards(device.device)):
        return rounds.pack_readings(device.measure(asked), asked)
    device.admit(asked.pieces(AT_A_TIME))
    answer: np.ndarray | None = None
    at = 0
    for piece in asked.pieces(AT_A_TIME):
        part = _part(device, piece, begun=answer is not None)
        if answer is None:
            answer = np.empty((sum(asked.sizes()), *part.shape[1:]), part.dtype)
        elif (part.shape[1:], part.dtype) != (answer.shape[1:], answer.dtype):
            raise ReadingError(f"the device returned readings of {answer.dtype} {answer.shape[1:]} and of {part.dtype}")
        answer[at : at + len(part)] = part
        at += len(part)
    assert answer is not None
    return True, [answer]


def _part(device: Guarded, piece: Round, *, begun: bool) -> np.ndarray:
    try:
        joined, arrays = rounds.pack_readings(device.measure(piece), piece)
    except (UnreachableError, BusyError) as error:  # this part was not measured, and earlier ones were
        if not begun:
            raise
        raise InDoubtError(f"{device} failed after a part of the round was measured: {error}") from error
    if not joined:
        raise ReadingError(f"the device answered a round of {len(piece)} queries with readings that do not fit to it")
    return arrays[0]


def guards(device: Device) -> list[Guarded]:
    """Every guard of a device behind several wrappers, the outermost first."""
    found = [device] if isinstance(device, Guarded) else []
    return found + guards(device.device) if isinstance(device, Wrapper) else found
