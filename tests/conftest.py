"""What the tests share: one thread, one seed, a generator, an opaque device, keys."""

from __future__ import annotations

from pathlib import Path

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


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    """The keys of a server and of one client who may speak to it."""
    pytest.importorskip("zmq")
    from blackprop.lab.remote.shared._keys import make_keys

    make_keys(tmp_path / "keys")
    return tmp_path / "keys"


@pytest.fixture
def record(tmp_path: Path) -> Path:
    """The file of a device that writes down its settings and rows."""
    return tmp_path / "record"
