"""Handwritten digits of 8×8 pixels, a data set included in scikit-learn: the smallest task for comparisons."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from blackprop._extras import install
from blackprop.errors import ArgumentError, DataError
from blackprop.experiments.records import _settings as settings
from blackprop.experiments.tasks._digit_task import DigitTask
from blackprop.experiments.tasks._networks import DigitNetwork
from blackprop.experiments.tasks._task import Data

TRAIN, TEST = 1437, 360  # images


@dataclass(frozen=True)
class Digits(DigitTask):
    """Handwritten digits in ten classes: 1,437 training images and 360 test images, pixels in [0, 1]."""

    network: DigitNetwork = DigitNetwork.PHYSICAL
    """physical: two devices with batch norms. hybrid: one device between two digital layers. perceptron: three devices
    with sigmoids. lenet needs larger images."""
    epochs: int = 20
    """Passes over the training images."""
    batch_size: int = 64
    """Rows per step. Images that do not fill a batch are left out of the epoch."""
    lr: float = 3e-3
    """Adam's rate for the digital parameters, with cosine decay to zero over the run."""
    device_lr: float = 2e-2
    """Adam's rate for the settings of the devices, with the same decay."""

    widths: ClassVar[tuple[int, int, int]] = (64, 64, 128)

    def __post_init__(self) -> None:
        if self.network is DigitNetwork.LENET:
            raise ArgumentError("the network lenet needs images of 28×28 pixels, and digits has 8×8: choose mnist")
        settings.at_least(self, epochs=1)
        settings.between(self, "batch_size", 2, TRAIN)  # batch norm needs two rows
        settings.rates(self, "lr", "device_lr")

    @property
    def name(self) -> str:
        return "digits"

    def data(self) -> Data:
        """Return the data in one stratified split, the same for every seed."""
        try:
            from sklearn.datasets import load_digits  # noqa: PLC0415  # an extra, and slow to import
            from sklearn.model_selection import train_test_split  # noqa: PLC0415
        except ImportError as error:
            raise DataError(f"the digits are part of scikit-learn: {install('recipes')}") from error
        images, labels = load_digits(return_X_y=True)
        parts = train_test_split(images / 16, labels, train_size=TRAIN, test_size=TEST, stratify=labels, random_state=0)
        x_train, x_test = (torch.tensor(part, dtype=torch.float32) for part in parts[:2])
        y_train, y_test = (torch.tensor(part, dtype=torch.int64) for part in parts[2:])
        return Data(x_train, y_train, x_test, y_test)
