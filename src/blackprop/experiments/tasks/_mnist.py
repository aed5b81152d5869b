"""MNIST, handwritten digits of 28×28 pixels: the main task for measuring methods."""

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

TRAIN = 60_000  # published training images
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
    """Handwritten digits: 12,000 of the 60,000 training images and all 10,000 test images, pixels in [0, 1]."""

    network: DigitNetwork = DigitNetwork.PHYSICAL
    """physical: device 784→128, BatchNorm, ReLU, device 128→10, BatchNorm. hybrid: Linear 784→256, ReLU,
    device 256→256, BatchNorm, ReLU, Linear 256→10. perceptron: devices 784→256→128→10 with sigmoids. lenet: two
    convolutions and two matrices, all devices."""
    train_images: int = 12_000
    """Number of training images: the first ones after a fixed permutation, the same for every seed."""
    epochs: int = 5
    """Passes over the training images."""
    batch_size: int = 128
    """Rows per step. Images that do not fill a batch are left out of the epoch."""
    lr: float = 3e-2
    """Adam's rate for the digital parameters, with cosine decay to zero over the run."""
    device_lr: float = 1e-2
    """Adam's rate for the settings of the devices, with the same decay."""
    # Not a field: the folder does not affect results, so a run can be resumed with the files in another folder.
    data_dir: InitVar[Path | None] = None
    """Folder of the four published files, compressed or not, or a folder with mnist/. By default, files are downloaded
    to a cache."""

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
        """Return the images, the same for every seed. Raises `DataError` if files are missing or damaged."""
        train_x, train_y, test_x, test_y = PUBLISHED.files(settings.folder(self)).values()
        images, labels = _pair(train_x, train_y)
        if len(images) < self.train_images:
            raise DataError(f"{train_x} holds {len(images)} images, but `--train-images` is {self.train_images}")
        kept = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))[: self.train_images].numpy()
        return Data(*_tensors(images[kept], labels[kept]), *_tensors(*_pair(test_x, test_y)))


def _pair(images_path: Path, labels_path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return images (N, 28, 28) and labels (N,), checked for consistency."""
    images, labels = read_idx(images_path, 3), read_idx(labels_path, 1)
    if images.shape[1:] != (SIDE, SIDE) or not len(images):
        found = "×".join(map(str, images.shape))
        raise DataError(f"{images_path} holds {found} values, not images of {SIDE}×{SIDE} pixels")
    if len(labels) != len(images):
        raise DataError(f"{labels_path} holds {len(labels)} labels for the {len(images)} images of {images_path}")
    if labels.max() >= CLASSES:
        raise DataError(f"{labels_path} holds the label {labels.max()}, but the largest digit is {CLASSES - 1}")
    return images, labels


def _tensors(images: np.ndarray, labels: np.ndarray) -> tuple[Tensor, Tensor]:
    pixels = torch.from_numpy(images.reshape(len(images), SIDE * SIDE)).float() / 255
    return pixels, torch.from_numpy(labels.astype(np.int64))


def read_idx(path: Path, dimensions: int) -> np.ndarray:
    """Return the unsigned bytes of an idx file, compressed or not, as an array with `dimensions` dimensions.

    The format is: two zero bytes, the type (8, unsigned byte), the number of dimensions, each dimension as a big-endian
    32-bit integer, and the values with the last dimension fastest. Raises `DataError` for other files.
    """
    try:
        content = path.read_bytes()
        if content.startswith(b"\x1f\x8b"):
            content = gzip.decompress(content)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path} cannot be read; it is damaged or cut short: {' '.join(str(error).split())}") from error
    magic, start = bytes((0, 0, 8, dimensions)), 4 + 4 * dimensions
    if content[:4] != magic:
        raise DataError(
            f"{path} is not an idx file of bytes in {dimensions} dimension(s): it begins with "
            f"{content[:4].hex() or 'no byte'}, not {magic.hex()}"
        )
    if len(content) < start:
        raise DataError(f"{path} is cut short: it ends within its header of {start} bytes")
    shape = tuple(np.frombuffer(content, ">u4", dimensions, 4).tolist())
    if len(content) - start != math.prod(shape):
        raise DataError(
            f"{path} is damaged or cut short: it holds {len(content) - start} values, but its header specifies "
            f"{'×'.join(map(str, shape))}"
        )
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape).copy()  # torch needs a writable array
