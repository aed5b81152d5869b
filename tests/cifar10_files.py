"""CIFAR-10 in the published layout, invented."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F

from support import draw

CLASSES = [b"plane", b"car", b"bird", b"cat", b"deer", b"dog", b"frog", b"horse", b"ship", b"truck"]
TRAINS = [f"data_batch_{i}" for i in range(1, 6)]
FEW = {"train_images": 40, "epochs": 1, "batch_size": 8}


def images(count: int, seed: int) -> np.ndarray:
    """Neighbouring pixels are alike, as in photographs; the first byte numbers the image."""
    x = F.interpolate(draw(count, 3, 8, 8, seed=seed), 32, mode="bilinear").mul(60).add(128).clamp(0, 255)
    x = x.to(torch.uint8).numpy().reshape(count, 3072)
    x[:, 0] = np.arange(count) + 10 * seed
    return x


def write(folder: Path) -> Path:
    """Ten images a file, one of each class, and test images."""
    folder.mkdir(parents=True)
    for number, name in enumerate([*TRAINS, "test_batch"]):
        batch = {b"data": images(10, number), b"labels": list(range(10))}
        (folder / name).write_bytes(pickle.dumps(batch, protocol=2))
    (folder / "batches.meta").write_bytes(pickle.dumps({b"label_names": CLASSES}, protocol=2))
    return folder
