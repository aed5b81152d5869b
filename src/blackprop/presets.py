"""Ready pairs of estimator and surrogate: `bp.PhysicalLayer(device, *bp.presets.paper(rank=10, samples=100))`."""

from __future__ import annotations

from typing import NamedTuple

from torch import nn

from blackprop.estimators import BatchContraction, Estimator, EulerGradient, Modelled, RandomDirections
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
    """The published method of arXiv 2509.15113, to the letter, for one layer.

    θ-gradient: forward differences along `samples` Gaussian directions at the published step (1e-4; use 1 for the plain
    matrix), contracted to d_out rows where the batch is larger. Input gradient: I-PSI of that `rank` with
    `surrogate_samples` probes (as many as `samples` where None), rebuilt every `rebuild_every` changes (published: 100
    for the meshes). **Costs** a layer and step: `M·min(B, d_out)` rows and M programmings for the parameters, d_out
    rows more where contracted, and `2(r + M)` rows and one programming for the input gradient, after d_in rows to
    start.

    `linear=False` is what the published code does on a device that is not linear: no contraction, and the surrogate
    answers as if the device were a matrix.

    Not taken over are the faults of that code: its backward pass uses factors one step old, its noise spares the
    gradient queries, its quantisation rounds θ in the forward pass alone. Here every query meets the same device.
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
    """Output-only error: the error of the physical output goes back through the Jacobians of `model` at its own,
    digital activations, and nothing is asked beyond the forward pass. For a `devices.Chain`, give a `twins.ChainTwin`:
    physical intermediates are then never read, whatever the depth. With one layer it is physics-aware training.
    """
    twin = Twin(model, fit_steps=0, online_steps=0)
    return Method(Modelled(twin), twin)


def euler(model: nn.Module, h: float, members: int | None = None) -> Method:
    """The Euler gradient approximation for a `devices.Rollout` around `model`, with the solver's step `h`: the static
    form, or with an ensemble of `members`, which asks members − 1 rows a sample.
    """
    return Method(EulerGradient(model, h, members), Euler())
