"""Sounds that the tests of audio are made of."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
import torch

from blackprop.experiments.tasks.audio._ecapa import Widths
from blackprop.experiments.tasks.audio._tasks import Esc10, Esc50, SpeechDigits, UrbanSound8K

RATE = 8000
TINY = Widths(bands=12, channels=16, aggregated=10, bottleneck=4, embedding=6)
ALL = [Esc10, Esc50, UrbanSound8K, SpeechDigits]
soundfile = pytest.importorskip("soundfile")


def tone(frequency: float, seconds: float, rate: int = RATE, amplitude: float = 0.5) -> np.ndarray:
    return amplitude * np.sin(2 * np.pi * frequency * np.arange(round(seconds * rate)) / rate)


def write(path: Path, clip: np.ndarray, rate: int = RATE) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, clip, rate, subtype="PCM_16")


def table(path: Path, rows: list[dict[str, object]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)
