"""Messages read and checked, before anything is done about them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from blackprop.core._declaration import Declaration
from blackprop.core._round import Round
from blackprop.lab.remote.shared import _messages as say
from blackprop.lab.remote.shared import _rounds as rounds
from blackprop.lab.remote.shared import _wire as wire
from blackprop.lab.remote.shared._wire import Message


@dataclass(frozen=True)
class Heard:
    """A message (None if unreadable), its round if it is one, and its fault."""

    message: Message | None
    fault: Exception | None = None
    round: Round | None = None


def read(frames: Sequence[wire.Buffer], spec: Declaration) -> Heard:
    """Read a message, and check its round against the declaration. Never raises, and uses no shared object."""
    message = asked = None
    try:
        message = say.read(frames)
        if message.kind == say.ROUND:
            asked = rounds.unpack(message.arrays, spec, message["kinds"])
    except Exception as error:  # other clients are served after any message
        # Neither the arrays nor the frames of the traceback, which hold them, live any longer.
        kept = None if message is None else Message(message.kind, message.fields)
        return Heard(kept, error.with_traceback(None))
    return Heard(message, round=asked)
