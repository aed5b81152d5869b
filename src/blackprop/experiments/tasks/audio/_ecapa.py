"""ECAPA-TDNN: convolutions over time that classify a sound. A device computes its embedding.

Source: Desplanques, Thienpondt, Demuynck, "ECAPA-TDNN", arXiv 2005.07143.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from blackprop.experiments.tasks._task import MakeLayer
from blackprop.experiments.tasks.audio._log_mel import LogMel

KERNELS, DILATIONS = (5, 3, 3, 3, 1), (1, 2, 3, 4, 1)
SCALE = 8  # groups of channels in a Res2 convolution
TINY = 1e-12


@dataclass(frozen=True)
class Widths:
    """The widths of a network. The defaults are the published ones."""

    bands: int = 80
    channels: int = 1024
    """Channels of the four convolutional blocks, a multiple of 8."""
    aggregated: int = 3072
    """Channels before pooling. The input of the device is twice as wide."""
    bottleneck: int = 128
    """Hidden width of the attention and of the squeeze-and-excitation blocks."""
    embedding: int = 192


class Ecapa(nn.Module):
    """Map waveforms `(B, T)`, int16 or floats, to cosines `(B, classes)` between the embedding of a clip and the
    embeddings of the classes.

    The layers are: log-mel features, a convolution, three `SERes2Block`s, a convolution of their three outputs,
    attentive statistics over time, batch norm, the device `layer(2 · aggregated, embedding)`, a cosine classifier.
    """

    def __init__(self, rate: int, classes: int, widths: Widths, layer: MakeLayer) -> None:
        super().__init__()
        channels, bottleneck = widths.channels, widths.bottleneck
        self.features = LogMel(rate, widths.bands)
        self.first = TimeConvolution(widths.bands, channels, KERNELS[0], DILATIONS[0])
        self.blocks = nn.ModuleList(
            SERes2Block(channels, bottleneck, kernel, dilation)
            for kernel, dilation in zip(KERNELS[1:4], DILATIONS[1:4], strict=True)
        )
        self.aggregate = TimeConvolution(3 * channels, widths.aggregated, KERNELS[4], DILATIONS[4])
        self.pool = AttentiveStatistics(widths.aggregated, bottleneck)
        self.norm = nn.BatchNorm1d(2 * widths.aggregated)
        self.classifier = CosineClassifier(widths.embedding, classes)
        self.embedding = layer(
            2 * widths.aggregated, widths.embedding
        )  # last, so that its random numbers do not affect other weights

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(self.features(x))
        outputs = []
        for block in self.blocks:
            x = block(x)
            outputs.append(x)
        pooled = self.pool(self.aggregate(torch.cat(outputs, 1)))
        return self.classifier(self.embedding(self.norm(pooled)))

    def freeze_convolutions(self) -> None:
        """Freeze the layers before the norm of the pooled statistics, except for running means."""
        for part in (self.first, self.blocks, self.aggregate, self.pool):
            part.requires_grad_(False)


class TimeConvolution(nn.Sequential):
    """Convolution over time, ReLU, batch norm: `(B, C_in, T)` to `(B, C_out, T)`, with reflection at the ends."""

    def __init__(self, c_in: int, c_out: int, kernel: int, dilation: int) -> None:
        mode = "reflect" if kernel > 1 else "zeros"
        convolution = nn.Conv1d(c_in, c_out, kernel, dilation=dilation, padding="same", padding_mode=mode)
        super().__init__(convolution, nn.ReLU(), nn.BatchNorm1d(c_out))


class SERes2Block(nn.Module):
    """`x + SE(conv(Res2(conv(x))))`, `(B, C, T)` to the same shape. Both convolutions have width 1."""

    def __init__(self, channels: int, squeezed: int, kernel: int, dilation: int) -> None:
        super().__init__()
        self.inner = nn.Sequential(
            TimeConvolution(channels, channels, 1, 1),
            Res2Convolution(channels, kernel, dilation),
            TimeConvolution(channels, channels, 1, 1),
            SqueezeExcitation(channels, squeezed),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.inner(x)


class Res2Convolution(nn.Module):
    """Convolutions of eight groups of channels: `y₀ = x₀`, `y₁ = conv₁(x₁)`, `y_i = conv_i(x_i + y_{i−1})`."""

    def __init__(self, channels: int, kernel: int, dilation: int) -> None:
        super().__init__()
        part = channels // SCALE
        self.convolutions = nn.ModuleList(TimeConvolution(part, part, kernel, dilation) for _ in range(SCALE - 1))

    def forward(self, x: Tensor) -> Tensor:
        first, second, *rest = x.chunk(SCALE, 1)
        outputs = [first, self.convolutions[0](second)]
        for part, convolution in zip(rest, list(self.convolutions)[1:], strict=True):
            outputs.append(convolution(part + outputs[-1]))
        return torch.cat(outputs, 1)


class SqueezeExcitation(nn.Module):
    """Multiply each channel by a gate in (0, 1), which two dense layers compute from all channels' means over time."""

    def __init__(self, channels: int, squeezed: int) -> None:
        super().__init__()
        self.gate = nn.Sequential(nn.Linear(channels, squeezed), nn.ReLU(), nn.Linear(squeezed, channels), nn.Sigmoid())

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gate(x.mean(-1)).unsqueeze(-1)


class AttentiveStatistics(nn.Module):
    """Mean and standard deviation over time, `(B, C, T)` to `(B, 2C)`. Attention weights the frames of each channel,
    from the frame and the unweighted mean and deviation of the clip.
    """

    def __init__(self, channels: int, bottleneck: int) -> None:
        super().__init__()
        self.attention = nn.Sequential(
            TimeConvolution(3 * channels, bottleneck, 1, 1), nn.Tanh(), nn.Conv1d(bottleneck, channels, 1)
        )

    def forward(self, x: Tensor) -> Tensor:
        whole = _statistics(x, torch.full_like(x[:, :1], 1 / x.shape[-1]))
        context = whole.unsqueeze(-1).expand(-1, -1, x.shape[-1])
        return _statistics(x, self.attention(torch.cat((x, context), 1)).softmax(-1))


def _statistics(x: Tensor, weights: Tensor) -> Tensor:
    mean = (weights * x).sum(-1)
    variance = (weights * (x - mean.unsqueeze(-1)).square()).sum(-1)
    return torch.cat((mean, variance.clamp(min=TINY).sqrt()), 1)


class CosineClassifier(nn.Module):
    """`cos(x, w_c)`: `(B, d)` to `(B, classes)`, in [−1, 1]."""

    def __init__(self, d: int, classes: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(nn.init.xavier_uniform_(torch.empty(classes, d)))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(F.normalize(x), F.normalize(self.weight))
