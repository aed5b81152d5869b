"""Texts, and transformers small enough for the tests."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from torch import nn

from blackprop.experiments.tasks.language._gpt import GPT, DevicePlace
from blackprop.experiments.tasks.language._tasks import Text

SMALL = Text(iterations=20, batch_size=4, replaced=1)
TRAINED = replace(SMALL, place=DevicePlace.FIRST_OF_MLP, trained_matrices=True)  # as published, but small
CONTEXT = 32  # of the small size


def linear(d_in, d_out):
    return nn.Linear(d_in, d_out, bias=False)


def tiny(place=DevicePlace.FIRST_OF_MLP, replaced=1, layer=linear, **kwargs):
    return GPT(
        **{"vocabulary": 11, "width": 8, "blocks": 2, "heads": 2, "context": 6, **kwargs},
        place=place,
        replaced=replaced,
        layer=layer,
    )


def letters(count, seed=0):
    """A text of so many bytes, the letters of which follow no rule."""
    return bytes(np.random.default_rng(seed).integers(97, 123, count, dtype=np.uint8))


class Words:
    """An encoding in place of GPT-2's, which needs a file: a token for each letter, and an end of text."""

    eot_token = 50_256

    def encode_ordinary_batch(self, texts):
        return [[ord(letter) + 1000 for letter in text] for text in texts]
