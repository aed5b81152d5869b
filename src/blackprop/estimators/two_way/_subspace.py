"""Subspace learning: the gains between two fixed matrices are trained, by light from both ends."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from blackprop.core._declaration import Declaration
from blackprop.core._probes import signed
from blackprop.core._procedure import Procedure, in_rounds
from blackprop.core._query import Purpose, Query
from blackprop.core.capabilities._drives import fitting, require_linear
from blackprop.core.capabilities._fields import as_complex
from blackprop.core.capabilities._gains import Gains
from blackprop.estimators._base import Estimator
from blackprop.estimators.two_way._in_situ import check_pairs, singular_pairs


@dataclass(frozen=True)
class Subspace(Estimator):
    """`∂L/∂s_k = Σ_b Re[(R x_b)_k (Lᵀ g_b)_k]` for the gains s of `y = Re(L diag(s) R x)`; 0 for all other parameters.

    A row x is read where it arrives at the gains from the inputs, its cotangent g where it arrives from the outputs.
    Light runs both ways through the matrices L and R, which may be unknown. The device must be linear and declare
    `Gains`. The phases of L and R stay as they are.

    The pairs (x, g) are the singular pairs of `GᵀX`, of the batch X (B, d_in) and its cotangents G (B, d_out): the
    gradient of a linear device depends on `GᵀX` alone.

    **Costs** 2 rows a pair, at most `2 min(B, d_in, d_out)`, at the setting of the forward pass, so no programming; one
    more where limits of the inputs exclude signed rows.

    **Errors.** Exact for the gains, at any losses, offsets and splitter errors of L and R. Fewer pairs than `GᵀX`
    has singular values give the gradient of the nearest `GᵀX` of that rank (`kept`). A detector with the gain 1 + ε
    scales the derivative of its s_k by (1 + ε)².

    **Arguments:**

    - `pairs` (default None, all): the most singular pairs that are sent.

    **Raises** `IncompatibleError` for a device that is not linear or has not the capability.

    Source: Gu et al., L2ight, NeurIPS 2021 (arXiv 2110.14807).
    """

    pairs: int | None = None

    def __post_init__(self) -> None:
        check_pairs(self, self.pairs)

    @property
    def bias_order(self) -> int | None:
        return None

    def check(self, spec: Declaration) -> None:
        require_linear("Subspace", spec)
        spec.capability(Gains).check("Subspace", spec)

    def trained(self, spec: Declaration) -> Tensor:
        mask = torch.zeros(spec.theta.size, dtype=torch.bool)
        mask[spec.capability(Gains).parameters] = True
        return mask

    def kept(self, x: Tensor, grad_y: Tensor) -> tuple[Tensor, Tensor]:
        v, u, weights = singular_pairs(x, grad_y, self.pairs)
        return v.reshape(-1, *x.shape[1:]), (weights[:, None] * u).reshape(-1, *grad_y.shape[1:])

    def grad_theta(
        self, x: Tensor, theta: Tensor, y: Tensor, grad_y: Tensor, spec: Declaration, generator: torch.Generator
    ) -> Procedure[Tensor]:
        del y, generator
        gains, gradient = spec.capability(Gains), torch.zeros_like(theta)
        v, u, weights = singular_pairs(x, grad_y, self.pairs)
        if not len(v):
            return gradient
        probes, (back, shrunk) = signed(spec, v), fitting(u, gains.limit or math.inf)
        sent = torch.block_diag(probes.rows, back)
        (read,) = yield from in_rounds([Query(sent, theta, Purpose.PARAMETER, Gains)], 2 * gains.count)
        forwards, backwards = read.split([len(probes.rows), len(u)])
        met = as_complex(probes.products(forwards.flatten(1)).view(-1, 2, gains.count)) * as_complex(backwards)
        gradient[gains.parameters] = ((weights / shrunk) @ met.real).to(theta)
        return gradient
