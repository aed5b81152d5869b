"""Augmentation of clips: other speeds, noise, reverberation, missing parts."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from blackprop.experiments.tasks.audio._log_mel import FULL_SCALE

SPEEDS = (0.95, 1.0, 1.05)
NOISE = 0.0, 15.0  # signal to noise ratio in dB
REVERBERATION = 0.2, 0.6  # seconds in which the response falls by 60 dB
BANDS, BAND_WIDTH = 3, 0.05  # largest number, and width as a share of the spectrum
CHUNKS, CHUNK_LENGTH = 5, (0.0625, 0.125)  # largest number, and length in seconds


def corrupted(x: Tensor, rate: int, generator: torch.Generator) -> Tensor:
    """Return clips `(B, T)`, int16 or floats with full scale 1, with four corrupted copies of each: `(5B, T)`, floats.

    The order is: clean, at another speed, with noise, with reverberation, with dropped frequency bands and chunks.
    Random numbers are drawn on the CPU, also if `x` is on another device.
    """
    x = x if x.dtype.is_floating_point else x.float() / FULL_SCALE
    return torch.cat((x, *(way(x, rate, generator) for way in WAYS)))


def at_another_speed(x: Tensor, rate: int, generator: torch.Generator) -> Tensor:
    """Resample each clip to 95, 100 or 105 % of its speed and pitch, by its spectrum; cut it or append silence."""
    del rate
    drawn = torch.randint(len(SPEEDS), (len(x),), generator=generator)
    out, samples = torch.zeros_like(x), x.shape[-1]
    for number, speed in enumerate(SPEEDS):
        rows = (drawn == number).nonzero().squeeze(1).to(x.device)
        if not len(rows):  # some transforms refuse an empty batch
            continue
        length = round(samples / speed)
        heard = torch.fft.irfft(torch.fft.rfft(x[rows]), length) * (length / samples)
        out[rows, : min(length, samples)] = heard[:, :samples]
    return out


def with_noise(x: Tensor, rate: int, generator: torch.Generator) -> Tensor:
    """Add white noise, 0 to 15 dB below the mean power of the clip."""
    del rate
    low, high = NOISE
    ratio = low + (high - low) * torch.rand(len(x), 1, generator=generator)
    noise = torch.randn(x.shape, generator=generator) * 10 ** (-ratio / 20)
    return x + noise.to(x) * x.square().mean(-1, keepdim=True).sqrt()


def reverberant(x: Tensor, rate: int, generator: torch.Generator) -> Tensor:
    """Convolve clips with noise that decays exponentially, by 60 dB in 0.2 to 0.6 s. The power is unchanged."""
    low, high = REVERBERATION
    seconds = low + (high - low) * torch.rand(len(x), 1, generator=generator)
    samples = round(high * rate)
    decay = torch.exp(-math.log(1000) / seconds * torch.arange(samples) / rate)
    response = (torch.randn(len(x), samples, generator=generator) * decay).to(x)
    length = x.shape[-1] + samples
    heard = torch.fft.irfft(torch.fft.rfft(x, length) * torch.fft.rfft(response, length), length)[:, : x.shape[-1]]
    loudness = x.square().mean(-1, keepdim=True) / heard.square().mean(-1, keepdim=True).clamp(min=1e-20)
    return heard * loudness.sqrt()


def with_parts_dropped(x: Tensor, rate: int, generator: torch.Generator) -> Tensor:
    """Silence one to three bands of 5 % of the spectrum, and one to five chunks of 62.5 to 125 ms."""
    bins, samples = x.shape[-1] // 2 + 1, x.shape[-1]
    shortest, longest = (round(seconds * rate) for seconds in CHUNK_LENGTH)
    bands = _gaps(len(x), bins, BANDS, (BAND_WIDTH * bins, BAND_WIDTH * bins), generator)
    chunks = _gaps(len(x), samples, CHUNKS, (shortest, longest), generator)
    heard = torch.fft.irfft(torch.fft.rfft(x) * bands.to(x), samples)
    return heard * chunks.to(x)


def _gaps(rows: int, length: int, most: int, widths: tuple[float, float], generator: torch.Generator) -> Tensor:
    """Return ones (rows, length) with one to `most` gaps of zeros in each row. Gaps may overlap."""
    count = torch.randint(1, most + 1, (rows, 1), generator=generator)
    width = widths[0] + (widths[1] - widths[0]) * torch.rand(rows, most, generator=generator)
    start = torch.rand(rows, most, generator=generator) * (length - width).clamp(min=0)
    place = torch.arange(length)
    kept = torch.ones(rows, length)
    for gap in range(most):
        inside = (place >= start[:, gap, None]) & (place < start[:, gap, None] + width[:, gap, None])
        kept[inside & (gap < count)] = 0
    return kept


WAYS = (at_another_speed, with_noise, reverberant, with_parts_dropped)
COPIES = len(WAYS)
