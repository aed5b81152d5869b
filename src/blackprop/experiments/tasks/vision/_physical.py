"""A network of fixed features and a classifier of two devices."""

from __future__ import annotations

from torch import Tensor, nn

from blackprop.experiments.tasks._task import MakeLayer
from blackprop.experiments.tasks.vision._pixels import Normalise
from blackprop.experiments.tasks.vision._whitening import Whitening

CLASSES = 10
STRIDE = 2
CELLS = 2  # per side, over which features are averaged


def physical(layer: MakeLayer, filters: Tensor, hidden: int) -> nn.Sequential:
    """Build the network: whitening by `filters` (K, 3, 6, 6) at every second pixel, ReLU, the mean over each quarter of
    the image, BatchNorm, `layer(4 K, hidden)`, BatchNorm, ReLU, `layer(hidden, 10)`, BatchNorm.

    The features are fixed, and the only trained digital parameters are scales and offsets, so the score depends on the
    devices.
    """
    features = CELLS**2 * len(filters)
    return nn.Sequential(
        Normalise(),
        Whitening(filters, STRIDE, bias=False),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(CELLS),
        nn.Flatten(),
        nn.BatchNorm1d(features),
        layer(features, hidden),
        nn.BatchNorm1d(hidden),
        nn.ReLU(),
        layer(hidden, CLASSES),
        nn.BatchNorm1d(CLASSES),
    )
