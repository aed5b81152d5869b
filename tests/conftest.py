"""What the tests share: one thread, one seed, a generator, an opaque device."""

from __future__ import annotations

import pytest
import torch

import blackprop as bp
from support import Opaque


@pytest.fixture(autouse=True)
def _repeatable():
    torch.set_num_threads(1)
    torch.manual_seed(0)


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@pytest.fixture
def opaque() -> Opaque:
    return Opaque(bp.devices.LightModulator(6, 4))
