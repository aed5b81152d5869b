"""A quantum circuit of PennyLane as a device."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from blackprop.core.capabilities._capability import Shape
from blackprop.devices import Device, from_callable
from blackprop.errors import ArgumentError


def from_qnode(
    qnode: Callable[..., Any],
    *,
    in_shape: int | Shape,
    weights_shape: int | Shape,
    out_shape: int | Shape,
    **declared: Any,
) -> Device:
    """Make a device of a quantum circuit: `y = qnode(x, weights)`, a row and the weights in, expectation values out.

    The circuit is run without differentiation, row by row, with the shots of its own device. Weights that are angles of
    rotations give sinusoids of period 2π, which is declared; with `estimators.ParameterShift` they need two readings
    each.

    **Costs** one execution of the circuit for each row. With shots, each execution is a sample of the noise.

    **Arguments:**

    - `qnode`: a `pennylane.QNode`, or a function that takes two NumPy arrays, the row and the weights.
    - `in_shape`, `weights_shape`, `out_shape`: the shapes of a row, of the weights and of the result. A circuit that
      returns several expectation values returns them as a list.
    - `declared`: further arguments of `devices.from_callable`. By default `period=2π` and `harmonics=1`, which holds
      where each weight is the angle of one rotation; pass `harmonics=2` for a weight that two rotations share, and
      `period=None` for others.

    **Raises** `ArgumentError` for a circuit that cannot be called.

    Source: Bergholm et al., arXiv 1811.04968.
    """
    if not callable(qnode):
        raise ArgumentError(f"`from_qnode(qnode)` takes a circuit, got {qnode!r}")
    shape = (weights_shape,) if isinstance(weights_shape, int) else tuple(weights_shape)
    declared = {"period": 2 * math.pi, "harmonics": 1, **declared}
    if declared["period"] is None:
        declared["harmonics"] = None

    def circuit(x: np.ndarray, theta: np.ndarray) -> np.ndarray:
        return np.asarray(qnode(x, theta.reshape(shape)), dtype=np.float64)

    circuit.__name__ = getattr(qnode, "__name__", type(qnode).__name__)
    return from_callable(
        circuit,
        in_shape=in_shape,
        out_shape=out_shape,
        theta_size=math.prod(shape),
        takes=lambda tensor: tensor.double().numpy(),
        per_row=True,
        **declared,
    )
