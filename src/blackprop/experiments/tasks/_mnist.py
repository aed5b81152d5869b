"""MNIST, handwritten digits of 28×28 pixels: the task that methods are measured on."""

from __future__ import annotations

import gzip
import math
import zlib
from dataclasses import InitVar, dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from blackprop.errors import DataError
from blackprop.experiments.records import _settings as settings
from blackprop.experiments.tasks._data import Published
from blackprop.experiments.tasks._digit_task import DigitTask
from blackprop.experiments.tasks._networks import DigitNetwork
from blackprop.experiments.tasks._task import Data

TRAIN = 60_000  # images published to train on
SIDE, CLASSES = 28, 10

PUBLISHED = Published(
    "mnist",
    "https://ossci-datasets.s3.amazonaws.com/mnist/",
    {
        "train-images-idx3-ubyte": "f68b3c2dcbeaaa9fbdd348bbdeb94873",
        "train-labels-idx1-ubyte": "d53e105ee54ea40749a09fcbcd1e9432",
        "t10k-images-idx3-ubyte": "9fb629c4189551a2d022fa330f9573f3",
        "t10k-labels-idx1-ubyte": "ec29112dd5afa0611ce80d1b7f02629c",
    },
)


@dataclass(frozen=True)
class Mnist(DigitTask):
    """Handwritten digits, 12,000 of the 60,000 images to train on and all 10,000 to test, pixels in [0, 1]."""

    network: DigitNetwork = DigitNetwork.PHYSICAL
    """physical: device 784→128, BatchNorm, ReLU, device 128→10, BatchNorm; hybrid: Linear 784→256, ReLU,
    device 256→256, BatchNorm, ReLU, Linear 256→10."""
    train_images: int = 12_000
    """The first so many of the training images after a fixed permutation, the same for every seed."""
    epochs: int = 5
    batch_size: int = 128
    """Rows a step; what is left over of an epoch's shuffled images is left out of it."""
    lr: float = 3e-2
    """Adam's rate for the digital parameters; cosine decay to zero over the run."""
    device_lr: float = 1e-2
    """Adam's rate for the devices' settings, likewise."""
    # No field: where the files lie decides no result, so a run can be resumed with them elsewhere.
    data_dir: InitVar[Path | None] = None
    """The folder of the four published files, gzipped or not, or of mnist/ with them; by default a download, kept."""

    widths: ClassVar[tuple[int, int, int]] = (784, 128, 256)

    def __post_init__(self, data_dir: Path | None) -> None:
        settings.keep_folder(self, data_dir)
        settings.between(self, "train_images", 2, TRAIN)
        settings.at_least(self, epochs=1)
        settings.between(self, "batch_size", 2, self.train_images, " training images")  # batch norm needs two rows
        settings.rates(self, "lr", "device_lr")

    @property
    def name(self) -> str:
        return "mnist"

    def data(self) -> Data:
        """The same images whatever the seed."""
        train_x, train_y, test_x, test_y = PUBLISHED.files(settings.folder(self)).values()
        images, labels = _pair(train_x, train_y)
        if len(images) < self.train_images:
            raise DataError(f"{train_x} holds {len(images)} images, of which `--train-images` asks {self.train_images}")
        kept = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))[: self.train_images].numpy()
        return Data(*_tensors(images[kept], labels[kept]), *_tensors(*_pair(test_x, test_y)))


def _pair(images_path: Path, labels_path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Images (N, 28, 28) and labels (N,), checked against each other."""
    images, labels = read_idx(images_path, 3), read_idx(labels_path, 1)
    if images.shape[1:] != (SIDE, SIDE) or not len(images):
        found = "×".join(map(str, images.shape))
        raise DataError(f"{images_path} holds {found} values, and not images of {SIDE}×{SIDE} pixels")
    if len(labels) != len(images):
        raise DataError(f"{labels_path} holds {len(labels)} labels for the {len(images)} images of {images_path}")
    if labels.max() >= CLASSES:
        raise DataError(f"{labels_path} holds the label {labels.max()}, and digits end at {CLASSES - 1}")
    return images, labels


def _tensors(images: np.ndarray, labels: np.ndarray) -> tuple[Tensor, Tensor]:
    pixels = torch.from_numpy(images.reshape(len(images), SIDE * SIDE)).float() / 255
    return pixels, torch.from_numpy(labels.astype(np.int64))


def read_idx(path: Path, dimensions: int) -> np.ndarray:
    """The unsigned bytes of an idx file, gzipped or not, in `dimensions` dimensions.

    The format: two zero bytes, the type (8, unsigned byte), the number of dimensions, each dimension as a big-endian
    32-bit integer, and the values, last dimension fastest.
    """
    try:
        content = path.read_bytes()
        if content.startswith(b"\x1f\x8b"):
            content = gzip.decompress(content)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path} cannot be read, damaged or cut short: {' '.join(str(error).split())}") from error
    magic, start = bytes((0, 0, 8, dimensions)), 4 + 4 * dimensions
    if content[:4] != magic:
        raise DataError(
            f"{path} is no idx file of bytes in {dimensions} dimension(s): it begins with "
            f"{content[:4].hex() or 'nothing'}, not {magic.hex()}"
        )
    if len(content) < start:
        raise DataError(f"{path} is cut short: it ends within its {start} bytes of header")
    shape = tuple(np.frombuffer(content, ">u4", dimensions, 4).tolist())
    if len(content) - start != math.prod(shape):
        raise DataError(
            f"{path} is damaged or cut short: it holds {len(content) - start} values, and its header tells of "
            f"{'×'.join(map(str, shape))}"
        )
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape).copy()  # torch wants it writable
