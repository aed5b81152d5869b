"""A quantum circuit of PennyLane as a device."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from blackprop.core.capabilities._capability import Shape
from blackprop.devices import Device, from_callable
from blackprop.errors import ArgumentError, BlackpropError, DeviceError, ReadingError

WEIGHTS = {"weights", "weight", "params", "parameters", "theta", "angles"}  # the usual names of the second argument


def from_qnode(
    qnode: Callable[..., Any],
    *,
    in_shape: int | Shape,
    weights_shape: int | Shape,
    out_shape: int | Shape,
    broadcast: bool = False,
    **declared: Any,
) -> Device:
    """Make a device of a quantum circuit: `y = qnode(x, weights)`, a row and the weights in, expectation values out.

    The circuit is run without differentiation, row by row, with the shots of its own device. Weights that are angles of
    rotations give sinusoids of period 2π, which is declared; with `estimators.ParameterShift` they need two readings
    each.

    **Costs** one execution of the circuit for each row, or one for all rows with `broadcast`; an execution of a small
    circuit on a simulator takes some 5 ms. With shots, each row is a sample of the noise.

    **Arguments:**

    - `qnode`: a `pennylane.QNode`, or a function that takes two NumPy arrays, the row and the weights, in this order.
      Swap them with `lambda x, weights: circuit(weights, x)`.
    - `in_shape`, `weights_shape`, `out_shape`: the shapes of a row, of the weights and of the result. A circuit that
      returns several expectation values returns them as a list.
    - `broadcast` (default False): execute all rows of a query at once. The first argument is then `(rows, *in_shape)`,
      so write `x[..., k]` for its entry k. The shape of the result is checked by one execution.
    - `declared`: further arguments of `devices.from_callable`. By default `period=2π` and `harmonics=1`, which holds
      where each weight is the angle of one rotation; pass `harmonics=2` for a weight that two rotations share, and
      `period=None` for others.

    **Raises** `ArgumentError` for a circuit that cannot be called with a row and weights, `DeviceError` if it fails,
    and `ReadingError` if its result is not an array of real numbers.

    Source: Bergholm et al., arXiv 1811.04968.
    """
    if not callable(qnode):
        raise ArgumentError(f"`from_qnode(qnode)` takes a circuit, got {qnode!r}")
    _check_order(qnode)
    shape = (weights_shape,) if isinstance(weights_shape, int) else tuple(weights_shape)
    declared = {"period": 2 * math.pi, "harmonics": 1, **declared}
    if declared["period"] is None:
        declared["harmonics"] = None

    def circuit(x: np.ndarray, theta: np.ndarray) -> np.ndarray:
        try:
            found = qnode(x, theta.reshape(shape))
            if broadcast and isinstance(found, list | tuple):  # one array of all rows for each expectation value
                found = np.stack([np.asarray(each) for each in found], 1)
        except BlackpropError:
            raise
        except Exception as error:
            given = f"{'rows' if broadcast else 'a row'} of shape {x.shape} and weights of shape {shape}"
            raise DeviceError(f"{name} failed with {given}: {type(error).__name__}: {error}") from error
        found = _real(found, name)
        return found[:, None] if broadcast and found.ndim == 1 and one else found

    circuit.__name__ = name = getattr(qnode, "__name__", type(qnode).__name__)
    one = out_shape in (1, (1,))
    if broadcast:
        _check_rows(circuit, (in_shape,) if isinstance(in_shape, int) else tuple(in_shape), math.prod(shape))
    return from_callable(
        circuit,
        in_shape=in_shape,
        out_shape=out_shape,
        theta_size=math.prod(shape),
        takes=lambda tensor: tensor.double().numpy(),
        per_row=not broadcast,
        **declared,
    )


def _check_rows(circuit: Callable[..., np.ndarray], row: tuple[int, ...], size: int) -> None:
    """Raise for a circuit that takes a feature where the rows are: its result has another length."""
    rows = max(row) + 1
    found = circuit(np.full((rows, *row), 0.5), np.zeros(size))
    if found.shape[:1] != (rows,):
        raise ArgumentError(
            f"`from_qnode(broadcast=True)`: {rows} rows gave a result of shape {found.shape}: write `x[..., k]` for "
            "entry k of the rows"
        )


def _check_order(qnode: Callable[..., Any]) -> None:
    """Raise for a circuit that does not take two arguments, or takes the weights first: the row would replace them."""
    try:
        signature = inspect.signature(getattr(qnode, "func", qnode))
        signature.bind(0, 0)
    except ValueError:  # a function without a signature
        return
    except TypeError as error:
        raise ArgumentError(f"`from_qnode(qnode)` takes a circuit of a row and weights: {error}") from error
    names = list(signature.parameters)
    if names[0].lower() in WEIGHTS and not (len(names) > 1 and names[1].lower() in WEIGHTS):
        raise ArgumentError(
            f"`from_qnode(qnode)` calls the circuit with the row first, and its first argument is `{names[0]}`: pass "
            f"`lambda x, {names[0]}: circuit({names[0]}, x)`"
        )


def _real(found: Any, name: str) -> np.ndarray:
    try:
        array = np.asarray(found)
    except ValueError as error:  # results of unlike shapes
        raise ReadingError(f"{name} returned results of unlike shapes: return one array, or numbers alone") from error
    if array.dtype.kind not in "buif":
        raise ReadingError(f"{name} returned {array.dtype}, expected real numbers, such as expectation values")
    return array.astype(np.float64)
