"""The lasso, solved exactly through its dual."""

from __future__ import annotations

import numpy as np

from blackprop._extras import install
from blackprop.errors import BlackpropError

ACCURATE = 1e-6  # of the penalty: the largest error of the optimality conditions


def lasso(columns: np.ndarray, y: np.ndarray, penalty: float) -> np.ndarray:
    """Return the minimiser w of `½|D w − y|² + β |w|₁`, for columns D (n, P), y (n,) and penalty β > 0.

    The dual problem is the point ν of the polytope `|Dᵀν| ≤ β` nearest to y, and `D w = y − ν`. It is a least-distance
    problem, which nonnegative least squares solve in a finite number of steps (Lawson and Hanson, Solving Least Squares
    Problems, ch. 23). w has at most n + 1 entries that are not 0.

    **Raises** `BlackpropError` if the result misses the optimality conditions by more than 10⁻⁶ β.
    """
    try:
        from scipy.optimize import nnls  # noqa: PLC0415  # an extra
    except ImportError as error:
        raise BlackpropError(f"the convex problem is solved by SciPy: {install('recipes')}") from error
    count = columns.shape[1]
    fitted = columns.T @ y
    constraints = np.hstack([-columns, columns])  # (n, 2P): -Dᵀx ≥ Dᵀy − β and Dᵀx ≥ −Dᵀy − β, with x = ν − y
    bounds = np.concatenate([fitted - penalty, -fitted - penalty])
    system = np.vstack([constraints, bounds])
    target = np.zeros(len(y) + 1)
    target[-1] = 1.0
    found, _ = nnls(system, target, maxiter=30 * system.shape[1])
    weights = found / (1.0 - bounds @ found)
    w = weights[:count] - weights[count:]
    if (miss := violation(columns, y, penalty, w)) > ACCURATE:
        raise BlackpropError(f"the convex problem was solved to {miss:.1e} of the penalty only; take a larger penalty")
    return w


def violation(columns: np.ndarray, y: np.ndarray, penalty: float, w: np.ndarray) -> float:
    """Return the largest error of the optimality conditions, in units of the penalty.

    They are `D_jᵀ(y − D w) = β sign w_j` where `w_j ≠ 0`, and `|D_jᵀ(y − D w)| ≤ β` where it is 0.
    """
    slopes = columns.T @ (y - columns @ w) / penalty
    used = w != 0
    errors = np.where(used, np.abs(slopes - np.sign(w)), np.maximum(np.abs(slopes) - 1, 0))
    return float(errors.max(initial=0.0))
