"""The bytes of the protocol: a round and an answer are, byte for byte, those that docs/protocol.md describes."""

from __future__ import annotations

import numpy as np
import torch

import blackprop as bp
from blackprop.core import Count, Purpose, Query, Round
from blackprop.core._query import CODES
from blackprop.lab.remote.shared import _messages as say
from blackprop.lab.remote.shared import _rounds as rounds
from blackprop.lab.remote.shared import _wire as wire

ROUND = (
    "42504c3286221d78540000000000000087a46b696e64a5726f756e64a66172726179739392a33c663492030292a33c663492"
    "020192a33c6938920205a2696407a773657373696f6ea173a4626f6f74a162a56672657368c3a56b696e647391a472656164"
    "000000000000803f000000c00000003f000080400000803f000000c00000803e0000403f0000000000000000020000000000"
    "0000000000000000000000000000000000000000000000000000020000000000000001000000000000000100000000000000"
    "04000000000000000000000000000000"
)
ANSWER = (
    "42504c32f13e90805e0000000000000087a46b696e64a6616e73776572a66172726179739192a33c6634920201a2696407a6"
    "6a6f696e6564c3a4726f777381a7666f727761726402ac70726f6772616d6d696e677381a7666f727761726401a761637469"
    "6f6e7381a4746170730300000000c03f00002040"
)


def golden_round() -> bytes:
    x = torch.tensor([[1.0, -2.0], [0.5, 4.0]])
    asked = Round.of(
        [
            Query(x, torch.tensor([0.25]), Purpose.FORWARD),
            Query(x[:1], torch.tensor([0.75]), Purpose.CALIBRATE),
        ]
    )
    fields = {"id": 7, "session": "s", "boot": "b", "fresh": True, "kinds": rounds.names(asked)}
    return b"".join(bytes(part) for part in wire.encode(say.ROUND, fields, rounds.pack(asked)))


def golden_answer() -> bytes:
    spent = Count()
    spent.rows[Purpose.FORWARD], spent.programmings[Purpose.FORWARD], spent.actions["taps"] = 2, 1, 3
    fields = {"id": 7, "joined": True, **say.spent_fields(spent)}
    return b"".join(bytes(part) for part in wire.encode(say.ANSWER, fields, [np.array([[1.5], [2.5]], "<f4")]))


def test_a_round_and_an_answer_keep_their_bytes():
    assert golden_round().hex() == ROUND
    assert golden_answer().hex() == ANSWER


def test_the_golden_bytes_are_the_round_that_they_stand_for():
    message = say.read([bytes.fromhex(ROUND)])
    spec = bp.devices.from_callable(lambda x, theta: x, in_shape=2, out_shape=2, theta_size=1).declaration
    first, second = rounds.unpack(message.arrays, spec, message["kinds"])
    assert (first.x.tolist(), first.theta.tolist(), first.purpose) == ([[1, -2], [0.5, 4]], [0.25], Purpose.FORWARD)
    assert (second.x.tolist(), second.theta.tolist(), second.purpose) == ([[1, -2]], [0.75], Purpose.CALIBRATE)


def test_the_codes_of_purposes_never_change():
    assert {purpose.value: code for purpose, code in CODES.items()} == {
        "forward": 0,
        "parameter": 1,
        "surrogate": 2,
        "evaluate": 3,
        "calibrate": 4,
    }
