"""Log-mel features of waveforms, the input of networks for sound."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

WINDOW, HOP = 0.025, 0.010  # seconds
FULL_SCALE = 1 << 15  # of int16
FLOOR, RANGE = 1e-10, 80.0  # lowest power; range of a clip in dB below its maximum


class LogMel(nn.Module):
    """Map waveforms `(B, T)`, int16 or floats with full scale 1, to log-mel features `(B, bands, frames)` in dB, minus
    their mean over time in each clip and band; `frames = 1 + T // hop`.

    The features are `10 log₁₀ max(F |STFT(x)|², 1e-10)`, clipped at 80 dB below the maximum of the clip. F are `bands`
    triangles of height 1, evenly spaced from 0 to half of `rate` (in Hz) on the scale `2595 log₁₀(1 + f/700)`. Windows
    are centred Hamming windows of 25 ms every 10 ms, with silence beyond the ends of the clip.
    """

    window: Tensor
    filters: Tensor

    def __init__(self, rate: int, bands: int) -> None:
        super().__init__()
        self.length, self.hop = round(WINDOW * rate), round(HOP * rate)
        self.register_buffer("window", torch.hamming_window(self.length), persistent=False)
        self.register_buffer("filters", mel_filters(rate, self.length, bands), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        decibels = self.decibels(x)
        return decibels - decibels.mean(-1, keepdim=True)

    def decibels(self, x: Tensor) -> Tensor:
        """Return the features before the mean is subtracted."""
        x = x.float() if x.dtype.is_floating_point else x.float() / FULL_SCALE
        spectrum = torch.stft(
            x, self.length, self.hop, window=self.window, center=True, pad_mode="constant", return_complex=True
        )
        power = self.filters @ (spectrum.real.square() + spectrum.imag.square())
        decibels = 10 * power.clamp(min=FLOOR).log10()
        return torch.maximum(decibels, decibels.amax((-2, -1), keepdim=True) - RANGE)


def mel_filters(rate: int, length: int, bands: int) -> Tensor:
    """Return F `(bands, length // 2 + 1)` for the frequencies of a transform of `length` samples."""
    frequencies = torch.linspace(0, rate / 2, length // 2 + 1, dtype=torch.float64)
    mels = torch.linspace(0, 2595 * math.log10(1 + rate / 1400), bands + 2, dtype=torch.float64)
    corners = 700 * (10 ** (mels / 2595) - 1)
    rising = (frequencies - corners[:-2, None]) / corners.diff()[:-1, None]
    falling = (corners[2:, None] - frequencies) / corners.diff()[1:, None]
    return torch.minimum(rising, falling).clamp(min=0).float()
