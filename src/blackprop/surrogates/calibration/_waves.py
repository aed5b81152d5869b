"""Fourier series in turns of a range: the columns that curves are made of."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def waves(turns: Tensor, harmonics: int, even: bool) -> Tensor:
    """`1, √2 cos 2πt, √2 sin 2πt, √2 cos 4πt, …` (*t, n); without sines where the curves are even."""
    angle = turns[..., None] * (2 * math.pi * torch.arange(1, harmonics + 1, device=turns.device, dtype=turns.dtype))
    pair = angle.cos() if even else torch.stack((angle.cos(), angle.sin()), -1).flatten(-2)
    return torch.cat((torch.ones_like(turns)[..., None], math.sqrt(2) * pair), -1)


def slopes(turns: Tensor, harmonics: int, even: bool) -> Tensor:
    """The derivatives of `waves`, per turn."""
    order = 2 * math.pi * torch.arange(1, harmonics + 1, device=turns.device, dtype=turns.dtype)
    angle = turns[..., None] * order
    pair = -order * angle.sin()
    if not even:
        pair = torch.stack((pair, order * angle.cos()), -1).flatten(-2)
    return torch.cat((torch.zeros_like(turns)[..., None], math.sqrt(2) * pair), -1)


def orders(harmonics: int, even: bool, like: Tensor) -> Tensor:
    """The order of each column of `waves`."""
    every = torch.arange(harmonics + 1, device=like.device)
    return every if even else every.repeat_interleave(2)[1:]


def complex_orders(coefficients: Tensor, even: bool = False) -> Tensor:
    """c_h (*e, H + 1) of coefficients (*e, n), with which a curve is `Re Σ_h c_h exp(2πi h t)`."""
    wave = coefficients[..., 1:]
    pair = torch.complex(wave, torch.zeros_like(wave)) if even else torch.complex(wave[..., 0::2], -wave[..., 1::2])
    return torch.cat((coefficients[..., :1].to(pair.dtype), math.sqrt(2) * pair), -1)


def tabulated(coefficients: Tensor, even: bool, points: int) -> Tensor:
    """Curves (f, n) at `points` places of the turn (points, f), and their derivatives per turn."""
    orders = complex_orders(coefficients, even)
    order = torch.arange(orders.shape[1], device=orders.device, dtype=coefficients.dtype)
    both = torch.stack((orders, 2j * math.pi * order * orders))
    padded = torch.zeros(*both.shape[:2], points // 2 + 1, dtype=both.dtype, device=both.device)
    padded[..., 0], padded[..., 1 : len(order)] = both[..., 0], both[..., 1:] / 2
    return torch.fft.irfft(padded, points, norm="forward").mT


def advanced(coefficients: Tensor, turns: Tensor) -> Tensor:
    """The coefficients (E, n) of `curve(t + turns)`, of curves that are not even: turns (E,)."""
    order = torch.arange(1, coefficients.shape[1] // 2 + 1, device=turns.device, dtype=turns.dtype)
    angle = 2 * math.pi * turns[:, None] * order
    cosine, sine = coefficients[:, 1::2], coefficients[:, 2::2]
    pair = (cosine * angle.cos() + sine * angle.sin(), sine * angle.cos() - cosine * angle.sin())
    return torch.cat((coefficients[:, :1], torch.stack(pair, -1).flatten(1)), 1)


def derivative(coefficients: Tensor) -> Tensor:
    """The coefficients (*e, n) of the derivative per turn, of curves that are not even."""
    order = torch.arange(1, coefficients.shape[-1] // 2 + 1, device=coefficients.device, dtype=coefficients.dtype)
    cosine, sine = coefficients[..., 1::2], coefficients[..., 2::2]
    pair = torch.stack((2 * math.pi * order * sine, -2 * math.pi * order * cosine), -1).flatten(-2)
    return torch.cat((torch.zeros_like(coefficients[..., :1]), pair), -1)
