"""CIFAR-10, colour images of 32×32 pixels in ten classes."""

from __future__ import annotations

import enum
import functools
from dataclasses import InitVar, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Adam
from torch.optim.lr_scheduler import CosineAnnealingLR, ReduceLROnPlateau

from blackprop.errors import DataError
from blackprop.experiments.records import _settings as settings
from blackprop.experiments.tasks._data import PublishedArchive
from blackprop.experiments.tasks._epochs import adam_with_cosine
from blackprop.experiments.tasks._objectives import Classification, Objective
from blackprop.experiments.tasks._task import Data, MakeLayer, Schedules, Size
from blackprop.experiments.tasks.vision._airbench import airbench, nesterov
from blackprop.experiments.tasks.vision._augmentation import cutout, flip, translate
from blackprop.experiments.tasks.vision._batches import read_batch, read_classes
from blackprop.experiments.tasks.vision._cnn import cnn
from blackprop.experiments.tasks.vision._physical import physical
from blackprop.experiments.tasks.vision._pixels import MEAN, Normalise
from blackprop.experiments.tasks.vision._whitening import whitening_filters
from blackprop.nn._layer import PhysicalLayer
from blackprop.nn._substitute import param_groups

TRAIN = 50_000  # published training images
CLASSES = 10
SEEN = 2000  # training images for the whitening: two million patches of 2×2, accurate to a few parts in a thousand

PUBLISHED = PublishedArchive(
    "cifar10",
    "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",
    "c58f30108f718f92721af3b95e74349a",
    "cifar-10-batches-py",
    (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch", "batches.meta"),
)


class Vision(enum.Enum):
    """The network.

    - `CNN`: six convolutions, with one device before the last Linear.
    - `AIRBENCH`: the network and the training of airbench, with one device before the last Linear.
    - `PHYSICAL`: fixed features, and a classifier of two devices.
    """

    CNN = "cnn"
    AIRBENCH = "airbench"
    PHYSICAL = "physical"


@dataclass(frozen=True)
class VisionPreset:
    """The default settings of a network and size."""

    widths: tuple[int, ...]  # channels of each block or group of convolutions, or the number of fixed components
    hidden: int  # outputs of the first device
    train_images: int
    epochs: int
    batch_size: int
    lr: float
    device_lr: float


_SETTINGS = ("train_images", "epochs", "batch_size", "lr", "device_lr")
_PRESETS = {
    (Vision.CNN, Size.PUBLISHED): VisionPreset((32, 64, 128), 1024, TRAIN, 50, 512, 1e-3, 1e-2),
    (Vision.AIRBENCH, Size.PUBLISHED): VisionPreset((128, 384, 512), 1024, TRAIN, 100, 1024, 18.0, 1e-2),
    (Vision.PHYSICAL, Size.PUBLISHED): VisionPreset((108,), 512, TRAIN, 30, 512, 1e-2, 1e-2),
    (Vision.CNN, Size.SMALL): VisionPreset((8, 16, 8), 64, 10_000, 8, 128, 3e-3, 1e-2),
    (Vision.AIRBENCH, Size.SMALL): VisionPreset((32, 64, 64), 128, 5000, 6, 128, 18.0, 1e-2),
    (Vision.PHYSICAL, Size.SMALL): VisionPreset((8,), 64, 10_000, 8, 128, 3e-2, 1e-2),
}


@dataclass(frozen=True)
class Cifar10:
    """Colour photographs in ten classes, with all 10,000 published test images, as bytes (3, 32, 32).

    At the small size, on light modulators and with one seed, training the devices raises the accuracy from 36 % (frozen
    devices) to 52 % in the physical network, from 37 % to 43 % in the CNN, and from 61 % to 62 % in airbench.
    """

    network: Vision = Vision.PHYSICAL
    """cnn: six convolutions, device 2048→1024, BatchNorm, ReLU, Linear 1024→10. airbench: whitening, nine
    convolutions, device 512→1024, BatchNorm, ReLU, Linear 1024→10. physical: whitened patches, device 864→512,
    BatchNorm, ReLU, device 512→10, BatchNorm. At the small size, devices are 128→64 (cnn), 64→128 (airbench), and
    64→64 with 64→10 (physical)."""
    size: Size = Size.SMALL
    """published: as in the publication, for a GPU. small: narrower, with fewer images, for two CPU cores."""
    train_images: int | None = None
    """Number of training images: the first ones after a fixed permutation, the same for every seed. By default all
    50,000, or 10,000 at the small size (5,000 with airbench)."""
    epochs: int | None = None
    """Passes over the training images. By default 50 (cnn), 100 (airbench), 30 (physical), or 8, 6, 8 at the small
    size."""
    batch_size: int | None = None
    """Rows per step. Images that do not fill a batch are left out of the epoch. By default 512 (1024 with airbench),
    or 128 at the small size."""
    lr: float | None = None
    """Adam's rate for the digital parameters. With airbench, the rate of Nesterov SGD per 1,024 images, before
    momentum."""
    device_lr: float | None = None
    """Adam's rate for the settings of the devices."""
    # Not a field: the folder does not affect results, so a run can be resumed with the files in another folder.
    data_dir: InitVar[Path | None] = None
    """Folder cifar-10-batches-py of the published archive, or a folder that contains it. By default, the archive is
    downloaded to a cache."""

    def __post_init__(self, data_dir: Path | None) -> None:
        settings.keep_folder(self, data_dir)
        settings.resolve(self, _PRESETS[self.network, self.size], _SETTINGS)
        settings.between(self, "train_images", 2, TRAIN)
        settings.at_least(self, epochs=1)
        images = self._settings.train_images
        settings.between(self, "batch_size", 2, images, " training images")  # batch norm needs two rows
        settings.rates(self, "lr", "device_lr")

    @property
    def name(self) -> str:
        return "cifar10"

    @property
    def objective(self) -> Objective:
        return Classification(label_smoothing=0.2 if self.network is Vision.AIRBENCH else 0.0)

    def steps(self, rows: int) -> int:
        return self._settings.epochs * self.segment(rows)

    def segment(self, rows: int) -> int:
        """Return the steps of one epoch."""
        return rows // self._settings.batch_size

    def data(self) -> Data:
        """Return the images, the same for every seed. Raises `DataError` if files are missing or damaged."""
        found = _published(self._data_dir)
        kept = _kept(found, self._settings.train_images)
        return replace(found, x_train=found.x_train[kept], y_train=found.y_train[kept])

    def build(self, layer: MakeLayer, seed: int) -> nn.Module:
        """Build the network with `layer(d_in, d_out)` for its devices. The digital weights depend only on `seed`, and
        the whitening filters on the training images.
        """
        widths, hidden = self._settings.widths, self._settings.hidden
        # The initialisers of torch draw from the global generator, which is restored afterwards.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            match self.network:
                case Vision.CNN:
                    return cnn(layer, widths, hidden)
                case Vision.AIRBENCH:
                    depth = 3 if self.size is Size.PUBLISHED else 2
                    return airbench(layer, self._filters(12, 2, 5e-4), widths, depth, hidden)
                case Vision.PHYSICAL:
                    return physical(layer, self._filters(widths[0], 6, 0.1), hidden)

    def augment(self, x: Tensor, y: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """With airbench, flip images, move them by up to 4 pixels, and cut out a square of 12 pixels. Otherwise return
        them unchanged.
        """
        if self.network is not Vision.AIRBENCH:
            return x, y
        grey = torch.tensor(MEAN).mul(255).round()
        return cutout(translate(flip(x, generator), 4, generator), 12, grey, generator), y

    def optimizers(self, model: nn.Module, steps: int) -> Schedules:
        """Return the optimizers of the network.

        CNN: Adam, with half the rate after 5 evaluations without a better accuracy (small: cosine decay). Airbench:
        Nesterov SGD, and Adam with cosine decay for θ. Physical: Adam with cosine decay.
        """
        given = self._settings
        if self.network is Vision.AIRBENCH:
            schedules: Schedules = [nesterov(model, given.lr, given.batch_size, steps, given.epochs)]
            thetas = [m.theta for m in model.modules() if isinstance(m, PhysicalLayer)]
            if thetas:
                adam = Adam(thetas, lr=given.device_lr)
                schedules.append((adam, CosineAnnealingLR(adam, T_max=steps)))
            return schedules
        if self.network is Vision.CNN and self.size is Size.PUBLISHED:
            adam = Adam(param_groups(model, lr=given.lr, device_lr=given.device_lr))
            return [(adam, ReduceLROnPlateau(adam, mode="max", factor=0.5, patience=5))]
        return adam_with_cosine(model, given.lr, given.device_lr, steps)

    @property
    def _settings(self) -> VisionPreset:
        """The preset, with the given settings in place of its own."""
        return replace(_PRESETS[self.network, self.size], **{name: getattr(self, name) for name in _SETTINGS})

    @property
    def _data_dir(self) -> Path | None:
        return settings.folder(self)

    def _filters(self, components: int, side: int, eps: float) -> Tensor:
        return _whitening(self._data_dir, self._settings.train_images, components, side, eps)


@functools.lru_cache(maxsize=1)
def _published(data_dir: Path | None) -> Data:
    """Return all images, in the order of the files."""
    *train, test, meta = PUBLISHED.files(data_dir).values()
    classes = read_classes(meta)
    if len(classes) != CLASSES:
        raise DataError(f"{meta} must name {CLASSES} classes, got {len(classes)}")
    images, labels = zip(*(read_batch(path, CLASSES) for path in train), strict=True)
    splits = (np.concatenate(images), np.concatenate(labels), *read_batch(test, CLASSES))
    return Data(*map(torch.from_numpy, splits), classes=classes)


def _kept(found: Data, train_images: int) -> Tensor:
    """Return the first `train_images` indices of a fixed permutation of the training images."""
    held = len(found.x_train)
    if held < train_images:
        raise DataError(
            f"{PUBLISHED.names[0]} to {PUBLISHED.names[4]} hold {held} images, but `--train-images` is {train_images}"
        )
    return torch.randperm(held, generator=torch.Generator().manual_seed(0))[:train_images]


@functools.lru_cache(maxsize=1)
def _whitening(data_dir: Path | None, train_images: int, components: int, side: int, eps: float) -> Tensor:
    """Return the whitening filters of the first 2,000 training images."""
    found = _published(data_dir)
    images = Normalise()(found.x_train[_kept(found, train_images)[:SEEN]])
    return whitening_filters(images, components, side, eps)
