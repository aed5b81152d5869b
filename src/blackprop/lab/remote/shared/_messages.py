"""The kinds of messages, and the fields of each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from blackprop import errors
from blackprop.core._query import Count, Purpose
from blackprop.errors import BlackpropError, DeviceError, ProtocolError
from blackprop.lab.remote.shared import _wire as wire
from blackprop.lab.remote.shared._wire import Message
from blackprop.lab.wrappers._printable import printable

# Asked by a client.
HELLO, ROUND, ASK, CANCEL, DRAW, STATUS, BYE = "hello", "round", "ask", "cancel", "draw", "status", "bye"
# Answered by a server.
WELCOME, ANSWER, ERROR, STATE, AGAIN, INITIAL, REPORT = (
    *("welcome", "answer", "error", "state", "again"),
    *("initial", "report"),
)
# The states of a round.
QUEUED, RUNNING, LOST, CANCELLED, DOUBT = "queued", "running", "lost", "cancelled", "doubt"

_FIELDS: dict[str, dict[str, type]] = {
    HELLO: {"resume": str},
    ROUND: {"session": str, "boot": str, "fresh": bool, "kinds": list},
    ASK: {"session": str, "boot": str},
    CANCEL: {"session": str, "boot": str},
    DRAW: {"seed": int},
    STATUS: {},
    BYE: {"session": str},
    WELCOME: {"session": str, "boot": str, "resumed": bool, "lease_milliseconds": int, "device": dict},
    ANSWER: {"joined": bool, "rows": dict, "programmings": dict, "actions": dict},
    ERROR: {"error": str, "text": str, "rows": dict, "programmings": dict, "actions": dict},
    STATE: {"state": str, "place": int},
    AGAIN: {},
    INITIAL: {},
    REPORT: {"report": dict},
}
_WANTED = {kind: (("id", int), *fields.items()) for kind, fields in _FIELDS.items()}
_COUNTED = {kind: ("rows", "programmings") if "rows" in fields else () for kind, fields in _FIELDS.items()}
_NAMES = {purpose.value: purpose for purpose in Purpose}
# Those that come back as they are; any other comes back as a `DeviceError` that names it.
_TRAVELLING = {
    name: kind
    for name, kind in vars(errors).items()
    if isinstance(kind, type)
    and issubclass(kind, (DeviceError, errors.ReadingError, errors.LimitError, errors.ShapeError))
}
TEXT = 1000


def read(frames: Sequence[wire.Buffer]) -> Message:
    """The message in `frames`, of a known kind and with its fields, or `ProtocolError`."""
    message = wire.decode(frames)
    wanted, fields = _WANTED.get(message.kind), message.fields
    if wanted is None:
        raise ProtocolError(f"a message of the unknown kind {message.kind[:40]!r}")
    for name, kind in wanted:
        value = fields.get(name)
        if type(value) is not kind or (isinstance(value, int) and not 0 <= value < 2**63):
            raise ProtocolError(f"the message {message.kind!r} has no field {name!r} of the type {kind.__name__}")
    for name in _COUNTED[message.kind]:
        for purpose, n in fields[name].items():
            if purpose not in _NAMES or type(n) is not int or not 0 <= n < 2**63:
                raise ProtocolError(f"the message {message.kind!r} counts {name} by something that is not a purpose")
    for name, n in fields["actions"].items() if "actions" in _FIELDS[message.kind] else ():
        if type(name) is not str or type(n) is not int or not 0 <= n < 2**63:
            raise ProtocolError(f"the message {message.kind!r} counts actions by something that is not a name")
    return message


def spent_fields(spent: Count) -> dict[str, dict[str, int]]:
    return {
        "rows": {purpose.value: n for purpose, n in spent.rows.items()},
        "programmings": {purpose.value: n for purpose, n in spent.programmings.items()},
        "actions": dict(spent.actions),
    }


def spent_of(message: Message) -> Count:
    return Count(_counter(message["rows"]), _counter(message["programmings"]), Counter(message["actions"]))


def _counter(numbers: Mapping[str, int]) -> Counter[Purpose]:
    return Counter({_NAMES[name]: n for name, n in numbers.items()})


def error_fields(error: BaseException, spent: Count) -> dict[str, Any]:
    """Return an error as it travels: its class where the receiver has it too, and its text.

    A driver's exceptions may hold any text, or none that can be read; the result can always be encoded.
    """
    name, text = printable(type(error).__name__, 100), printable(error, TEXT) or "it said nothing more"
    if name not in _TRAVELLING or not isinstance(error, _TRAVELLING[name]):
        name, text = DeviceError.__name__, f"{name}: {text}"
    return {"error": name, "text": text[:TEXT], **spent_fields(spent)}


def error_of(message: Message) -> BlackpropError:
    """Return the error that a message tells of; its text comes from another machine, and acts on no terminal."""
    return _TRAVELLING.get(message["error"], DeviceError)(printable(message["text"], TEXT))
