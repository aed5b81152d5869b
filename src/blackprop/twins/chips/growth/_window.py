"""Several layers fitted jointly: the readings of later ones tell more of the first."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from blackprop.twins.chips.growth._step import SPREAD, LayerStep


class Window:
    """Consecutive layers, and the light (settings, modes, rows) that enters them at the settings `drives`."""

    def __init__(self, steps: Sequence[LayerStep], field: Tensor, drives: Tensor) -> None:
        self.steps, self.entering, self.drives = steps, field, drives
        self.sizes = [each.count for each in steps]
        #: Of the prior of the splitters' errors, for each unknown.
        self.prior = torch.cat([_prior(each) for each in steps])

    def through(self, unknowns: Tensor) -> Tensor:
        """The fields (m, modes) behind the layers."""
        field = self.entering
        for step, some in zip(self.steps, unknowns.split(self.sizes), strict=True):
            field = step.shifters.through(step.through(field, some), self.drives)
        return field.mT.flatten(0, 1)

    def slopes(self, unknowns: Tensor, weight: Tensor) -> Tensor:
        """The derivatives (outputs, m, unknowns) of `Re(weight · field)`, the weight being (outputs, m or 1, modes)."""
        settings, _, rows = self.entering.shape
        weight = weight.expand(-1, settings * rows, -1).unflatten(1, (settings, rows)).mT  # (o, settings, modes, rows)
        fields = [self.entering]
        parts = list(zip(self.steps, unknowns.split(self.sizes), strict=True))
        for step, some in parts:
            fields.append(step.shifters.through(step.through(fields[-1], some), self.drives))
        found = []
        # Backwards, so that the weights are carried through the layers and not the derivatives of every unknown.
        for (step, some), field in zip(reversed(parts), reversed(fields[:-1]), strict=True):
            weight = step.shifters.through(weight, self.drives)
            by = [(weight * each).sum(-2).real for each in step.tangents(field, some)]
            found.append(
                torch.stack(by, -1).flatten(1, 2) if by else weight.real[..., 0, :, None][..., :0].flatten(1, 2)
            )
            weight = step.transposed(weight, some)
        return torch.cat(found[::-1], -1)


def _prior(step: LayerStep) -> Tensor:
    prior = torch.zeros(step.count, dtype=torch.float64)
    prior[len(step.numbers) :] = SPREAD**-2
    return prior
