"""The network of airbench and its optimizer, as in the published experiment on CIFAR-10."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor, nn
from torch.optim import SGD
from torch.optim.lr_scheduler import LambdaLR

from blackprop.experiments.tasks._task import MakeLayer
from blackprop.experiments.tasks.vision._pixels import Normalise
from blackprop.experiments.tasks.vision._whitening import Whitening
from blackprop.nn._layer import PhysicalLayer

CLASSES = 10
SCALE = 1 / 9  # factor of the output
MOMENTUM = 0.85
EXAMPLES = 1024 * (1 + 1 / (1 - MOMENTUM))  # the rate and the weight decay refer to this number of examples
WEIGHT_DECAY = 0.012
NORM_BIAS = 64  # times the rate
BIAS_EPOCHS = 3  # epochs in which the bias of the whitening is trained
WARM_UP, START = 0.1, 0.2  # share of the steps, share of the rate


class Group(nn.Module):
    """Convolution, max-pool 2, norm, GELU, and `depth − 1` times [convolution, norm, GELU]. At a depth of 3, the output
    of the first GELU is added before the last one.
    """

    def __init__(self, channels_in: int, channels_out: int, depth: int) -> None:
        super().__init__()
        self.first = nn.Sequential(
            _convolution(channels_in, channels_out), nn.MaxPool2d(2), _norm(channels_out), nn.GELU()
        )
        following: list[nn.Module] = []
        for _ in range(depth - 1):
            following += [_convolution(channels_out, channels_out), _norm(channels_out), nn.GELU()]
        self.following = nn.Sequential(*following[:-1])
        self.residual = depth == 3
        self.last = nn.GELU()

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        return self.last(self.following(x) + x if self.residual else self.following(x))


class Scale(nn.Module):
    """`factor · x`."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        return self.factor * x


def airbench(layer: MakeLayer, filters: Tensor, widths: tuple[int, ...], depth: int, hidden: int) -> nn.Sequential:
    """Build the network: whitening by `filters` (24, 3, 2, 2), GELU, three groups of `widths` channels, max-pool 3,
    `layer(widths[2], hidden)`, BatchNorm, ReLU, Linear hidden→10 without bias, factor 1/9.

    Convolutions start with an identity from their inputs to the first outputs. Draws from torch's global generator.
    Source: arXiv 2404.00498, with the layer of arXiv 2509.15113.
    """
    channels = (len(filters), *widths)
    groups = [Group(a, b, depth) for a, b in itertools.pairwise(channels)]
    return nn.Sequential(
        Normalise(),
        Whitening(filters),
        nn.GELU(),
        *groups,
        nn.MaxPool2d(3),
        nn.Flatten(),
        layer(widths[-1], hidden),
        nn.BatchNorm1d(hidden),
        nn.ReLU(),
        nn.Linear(hidden, CLASSES, bias=False),
        Scale(SCALE),
    )


def nesterov(model: nn.Module, lr: float, batch_size: int, steps: int, epochs: int) -> tuple[SGD, LambdaLR]:
    """Return Nesterov SGD for all parameters except the θ of devices, with its schedule. The loss is a batch mean.

    `lr` and the weight decay refer to `E = 1,024 (1 + 1/(1 − momentum))` examples and to the sum over the batch: the
    step is `lr' · mean gradient + decay' · weight`, with `lr' = lr · batch_size / E` and `decay' = 0.012 · batch_size /
    E`. The biases of norms have 64 times the rate and the same decay a step. The bias of the whitening is fixed after 3
    epochs. The gain of a device has no decay, because the norm behind it removes any scale.
    """
    rate, decay = lr * batch_size / EXAMPLES, WEIGHT_DECAY * batch_size / EXAMPLES
    modules = list(model.modules())
    devices = [m for m in modules if isinstance(m, PhysicalLayer)]
    whitening = [m.bias for m in modules if isinstance(m, Whitening)]
    norm_biases = [m.bias for m in modules if isinstance(m, (nn.BatchNorm1d, nn.BatchNorm2d))]
    gains = [m.gain for m in devices]
    elsewhere = {id(p) for p in (*whitening, *norm_biases, *gains, *(m.theta for m in devices))}
    others = [p for p in model.parameters() if p.requires_grad and id(p) not in elsewhere]
    groups = [
        {"params": others, "lr": rate, "weight_decay": decay / rate},
        {"params": norm_biases, "lr": NORM_BIAS * rate, "weight_decay": decay / (NORM_BIAS * rate)},
        {"params": whitening, "lr": rate, "weight_decay": decay / rate},
        {"params": gains, "lr": rate, "weight_decay": 0.0},
    ]
    sgd = SGD(groups, lr=rate, momentum=MOMENTUM, nesterov=True)
    until = BIAS_EPOCHS * steps / epochs

    def share(step: int) -> float:
        return triangle(step / steps)

    def at_first(step: int) -> float:
        return share(step) if step < until else 0.0

    return sgd, LambdaLR(sgd, [share, share, at_first, share])


def triangle(done: float) -> float:
    """Return the share of the rate after the share `done` of the run: 0.2 to 1 in the first tenth, then to 0."""
    if done < WARM_UP:
        return START + (1 - START) * done / WARM_UP
    return max(0.0, (1 - done) / (1 - WARM_UP))


def _convolution(channels_in: int, channels_out: int) -> nn.Conv2d:
    convolution = nn.Conv2d(channels_in, channels_out, 3, padding="same", bias=False)
    with torch.no_grad():
        nn.init.dirac_(convolution.weight[:channels_in])
    return convolution


def _norm(channels: int) -> nn.BatchNorm2d:
    norm = nn.BatchNorm2d(channels, eps=1e-12)
    norm.weight.requires_grad_(False)
    return norm
