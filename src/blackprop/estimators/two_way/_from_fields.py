"""Gradients from complex fields inside a device: scattering backpropagation, and fully forward mode."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from blackprop.core._declaration import Declaration
from blackprop.core._procedure import Procedure, in_rounds
from blackprop.core._query import Purpose, Query
from blackprop.core.capabilities._drives import fitting, reach, require_any_phase, require_linear
from blackprop.core.capabilities._fields import Fields, as_complex
from blackprop.errors import IncompatibleError
from blackprop.estimators._base import Estimator, Nudged
from blackprop.estimators.two_way._in_situ import singular_pairs


@dataclass(frozen=True)
class ScatteringBackprop(Nudged):
    """`∂L/∂J_jl = −2 Re[a_l δa_j + a_j δa_l] / β`, half of it for j = l.

    The fields a of a row change by δa when a drive `−(iβ/2) ∂L/∂y` is added at the outputs. The factor does not depend
    on κ. The device must declare `Fields`. It may be nonlinear; its losses and couplings may be unknown.

    The added drive of a row has the size β/2, whatever the size of its ∂L/∂y is, and the estimate is scaled to match.
    Centred, the two experiments have half of it with either sign, `(a, δa) = ((a⁺ + a⁻)/2, a⁺ − a⁻)`: as many
    experiments, and an error of higher order.

    **Costs** 2 rows for each row of the batch whose ∂L/∂y is not 0, at the setting of the forward pass, so no
    programming.

    **Errors.** O(β²), one-sided O(β), and none for a linear device. A Kerr nonlinearity g breaks the reciprocity of the
    response: an error proportional to `g |a|²/κ` remains for small β, which repetition does not remove. The device
    declares its size in the gradient of a row (`Fields.asymmetry`). Read noise σ adds an error that falls as σ/β.

    **Arguments:**

    - `step` (units of the drive, default 1.0): β. At inputs of unit size its bias is far below the lasting error.
    - `centred` (default True): False for the published form, the free state and one with the whole added drive.

    **Raises** `IncompatibleError` for a device without the capability.

    Source: arXiv 2508.11750; centred, decision 33.
    """

    def lasting_error(self, spec: Declaration) -> float:
        return spec.capability(Fields).asymmetry

    def check(self, spec: Declaration) -> None:
        spec.capability(Fields).check("ScatteringBackprop", spec)

    def grad_theta(
        self, x: Tensor, theta: Tensor, y: Tensor, grad_y: Tensor, spec: Declaration, generator: torch.Generator
    ) -> Procedure[Tensor]:
        del y, generator
        if not bool(grad_y.any()):
            return torch.zeros_like(theta)
        fields = spec.capability(Fields)
        _, a, e = yield from self._experiments(fields, x, theta, grad_y)
        return fields.gradient(a, e).to(theta)

    def gradients(
        self, x: Tensor, theta: Tensor, grad_y: Tensor, spec: Declaration
    ) -> Procedure[tuple[Tensor, Tensor]]:
        """`∂L/∂θ` (P,) and, from the same readings, `∂L/∂x` (B, *in_shape), to train the layers before the device.

        **Raises** `IncompatibleError` if `Fields.rate` is not declared.
        """
        fields = spec.capability(Fields)
        if not fields.rate:
            raise IncompatibleError(f"{spec.name} does not declare the rate of its ports, `Fields(rate=...)`")
        back = torch.zeros_like(x).flatten(1)
        if not bool(grad_y.any()):
            return torch.zeros_like(theta), back.view_as(x)
        sent, a, e = yield from self._experiments(fields, x, theta, grad_y)
        # The outgoing field of the ports, driven by ∂L/∂y.
        out = fields.injected(grad_y[sent])[:, 0] + fields.rate**0.5 * e.real[:, : fields.ports]
        back[sent] = out[:, : back.shape[1]].to(x)
        return fields.gradient(a, e).to(theta), back.view_as(x)

    def _experiments(
        self, fields: Fields, x: Tensor, theta: Tensor, grad_y: Tensor
    ) -> Procedure[tuple[Tensor, Tensor, Tensor]]:
        """The rows that were sent (k,), their fields a (k, K), and those of their cotangents as a drive, e (k, K)."""
        sizes = grad_y.flatten(1).norm(dim=1).to(x)
        sent = sizes.nonzero().squeeze(1)
        scale = self.step / sizes[sent]
        row = fields.driven(x[sent])
        added = fields.injected(scale[:, None] * grad_y[sent].flatten(1).to(x), part=1) / 2
        pair = (row - added / 2, row + added / 2) if self.centred else (row - added, row)
        queries = [Query(torch.cat(pair), theta, Purpose.PARAMETER, Fields)]
        (read,) = yield from in_rounds(queries, 2 * fields.places)
        nudged, other = as_complex(read).chunk(2)
        a = (nudged + other) / 2 if self.centred else other
        return sent, a, 2j * (nudged - other) / scale[:, None]


@dataclass(frozen=True)
class ForwardMode(Estimator):
    """`∂L/∂θ_p = −Σ Im(a_j e_l + a_l e_j)`, half of it for j = l: a the field of a row, e that of its error ∂L/∂y.

    Both run forwards. For a device `y = Re(K x)` with `S Kᵀ S⁻¹ = K`, the field of S · error, sent into the inputs, is
    at each cell the backward field of the error at the mirror image of the cell. The device must be linear and declare
    `Fields`: the symmetry S, and the two cells j and l that each parameter acts on.

    The gradient of a linear device depends on its batch X (B, d_in) and cotangents G (B, d_out) through `GᵀX` alone,
    so its singular pairs are sent where they are fewer than the rows.

    **Costs** `2 min(B, d_in, d_out)` rows at the setting of the forward pass, so no programming.

    **Errors.** Exact as far as the symmetry is. An error of the symmetry (a distance, a mask that is not the image of
    the other) remains at every step, and is found by `testing.check_device`. A wrong phase of a mask's own, where the
    fields behind it are converted to its middle, mixes the real into the imaginary part: the phase must be as written.

    **Raises** `IncompatibleError` for a device that is not linear or has not the capability.

    Source: Xue et al., Nature 632, 280 (2024).
    """

    @property
    def bias_order(self) -> int | None:
        return None

    def lasting_error(self, spec: Declaration) -> float:
        return spec.capability(Fields).asymmetry

    def check(self, spec: Declaration) -> None:
        require_linear("ForwardMode", spec)
        spec.capability(Fields).check("ForwardMode", spec)
        require_any_phase("ForwardMode", spec)

    def grad_theta(
        self, x: Tensor, theta: Tensor, y: Tensor, grad_y: Tensor, spec: Declaration, generator: torch.Generator
    ) -> Procedure[Tensor]:
        del y, generator
        fields = spec.capability(Fields)
        rows, errors, weights = singular_pairs(x, grad_y)
        if not len(rows):
            return torch.zeros_like(theta)
        ahead, weaker = fitting(rows, reach(spec))
        back, shrunk = fitting(errors, reach(spec) if any(port < spec.d_in for port in fields.outputs) else math.inf)
        sent = torch.cat((fields.driven(ahead), fields.injected(back)))
        queries = [Query(sent, theta, Purpose.PARAMETER, Fields)]
        (read,) = yield from in_rounds(queries, 2 * fields.places)
        a, e = as_complex(read).chunk(2)
        return fields.gradient(a, (weights / weaker / shrunk)[:, None] * e).to(theta)
