"""Functions of a module of their own, so that a pool of processes can be sent them."""

from __future__ import annotations

import os

import numpy as np


def row_by_row(x: np.ndarray, theta: np.ndarray) -> list[float]:
    assert x.shape == (4,)
    return (np.cos(theta.reshape(3, 4)) @ x).tolist()


def die(x: np.ndarray, theta: np.ndarray) -> None:
    del x, theta
    os._exit(1)
