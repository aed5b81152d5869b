"""Ready pairs of estimator and surrogate: `bp.PhysicalLayer(device, *bp.presets.paper(rank=10, samples=100))`."""

from __future__ import annotations

from typing import NamedTuple

from torch import nn

from blackprop.estimators import BatchContraction, Estimator, EulerGradient, FromSurrogate, RandomDirections
from blackprop.estimators import Oracle as OracleEstimator
from blackprop.surrogates import Euler, ProjectorSplitting, Surrogate, Twin
from blackprop.surrogates import Oracle as OracleSurrogate


class Method(NamedTuple):
    """The two gradients of a physical layer: for the device's parameters and for its input."""

    estimator: Estimator
    surrogate: Surrogate


def paper(
    rank: int = 10,
    samples: int = 10,
    *,
    surrogate_samples: int | None = None,
    step: float = 1e-4,
    rebuild_every: int | None = None,
    linear: bool = True,
) -> Method:
    """The published method of arXiv 2509.15113, for one layer.

    - θ-gradient: forward differences along `samples` Gaussian directions, contracted to d_out rows where the batch is
      larger.
    - Input gradient: I-PSI of rank `rank` with `surrogate_samples` probes.

    **Costs** a step: `M·min(B, d_out)` rows and M programmings for the parameters, d_out rows more where contracted;
    `2(r + M)` rows and one programming for the input gradient, after d_in rows to start.

    **Arguments:**

    - `rank` (default 10): r of the surrogate.
    - `samples` (default 10): M, directions a step.
    - `surrogate_samples` (default None, as many as `samples`): probes a step of the surrogate.
    - `step` (units of θ, default 1e-4 as published): μ; use 1 for the plain matrix.
    - `rebuild_every` (default None, never): changes of θ between two rebuilds of the surrogate; published: 100 for the
      meshes.
    - `linear` (default True): False reproduces the published code on a device that is not linear, without contraction
      and with a surrogate that treats the device as a matrix.

    Three faults of the published code are corrected: its backward pass uses factors one step old, its noise does not
    affect the gradient queries, and its quantisation rounds θ in the forward pass alone. Here, every query meets the
    same device.

    >>> import blackprop as bp
    >>> bp.PhysicalLayer(bp.devices.LightModulator(8, 4), *bp.presets.paper(rank=4)).surrogate.rank
    4
    """
    return Method(
        RandomDirections(samples, step, contraction=BatchContraction() if linear else None),
        ProjectorSplitting(
            rank,
            surrogate_samples if surrogate_samples is not None else samples,
            rebuild_every=rebuild_every,
            treat_as_linear=not linear,
        ),
    )


def oracle() -> Method:
    """Both gradients by autograd through a simulator: the upper reference of every comparison."""
    return Method(OracleEstimator(), OracleSurrogate())


def output_only(model: nn.Module) -> Method:
    """Output-only error: pull the error of the physical output back through a digital model of the device.

    The Jacobians of `model` are taken at its own, digital activations. There are no queries beyond the forward pass.
    With one device this is physics-aware training.

    **Arguments:**

    - `model`: a differentiable model `(x, theta) -> y`. For a `devices.Chain`, pass a `twins.ChainTwin`: intermediate
      signals are then never read, whatever the depth.
    """
    twin = Twin(model, fit_steps=0, online_steps=0)
    return Method(FromSurrogate(twin), twin)


def euler(model: nn.Module, h: float, members: int | None = None) -> Method:
    """The Euler gradient approximation for a `devices.Rollout`.

    **Arguments:**

    - `model`: the module inside the rollout.
    - `h` (time units of the solver): its step.
    - `members` (default None, the static form): members of the ensemble; it adds `members − 1` rows a sample.
    """
    return Method(EulerGradient(model, h, members), Euler())
