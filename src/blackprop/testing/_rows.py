"""Whether a device accepts rows at the limits of its inputs, and rows in any memory layout."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from blackprop.testing._probe import Probe


def check_rows(probe: Probe) -> None:
    """Check the limits of the inputs, hint at undeclared ones, and check memory layouts."""
    if probe.spec.x_limited:
        _at_limits(probe)
    else:
        _seems_clipped(probe)
    _layouts(probe)


def _at_limits(probe: Probe) -> None:
    """A device answers rows at the limits; a linear one answers them as predicted from rows inside."""
    claim, hints = "takes rows at the limits of its inputs", []
    for limit in (probe.spec.x_low, probe.spec.x_high):
        if limit is None:
            continue
        inner, end = _inner(probe, limit), torch.full_like(probe.x, limit)
        half = (inner + end) / 2
        (first, bound), (last, more) = (
            probe.difference(
                lambda b=b: probe.read(b, probe.theta, claim), lambda a=a: probe.read(a, probe.theta, claim)
            )
            for a, b in ((inner, half), (half, end))
        )
        bend = float((last - first).abs().max())
        if probe.spec.linear:
            said = f"a bend of {bend:.3g} on the way to {limit:g} (allowed {bound + more:.2g}): does it clip before?"
            probe.bench.require(bend <= bound + more, claim, said, "linear up to its limits")
        elif float(last.abs().max()) <= more < float(first.abs().max()):
            hints.append(f"nothing changes between {float(half.flatten()[0]):.3g} and {limit:g}: is that limit right?")
    probe.bench.note(claim, "; ".join(hints) or "yes")


def _inner(probe: Probe, limit: float) -> Tensor:
    """Return rows at the other limit or, if there is none, well away from this one."""
    low, high = probe.spec.x_range
    if math.isfinite(low) and math.isfinite(high):
        return torch.full_like(probe.x, low if limit == high else high)
    away = max(float(probe.x.abs().max()), abs(limit), 1.0)
    return torch.full_like(probe.x, limit + away if limit == low else limit - away)


def _seems_clipped(probe: Probe) -> None:
    """Hint at inputs below 0 that are answered like 0."""
    claim, clipped = "inputs of either sign", probe.x.clamp_min(0)
    change, bound = probe.difference(
        lambda: probe.read(probe.x, probe.theta, claim), lambda: probe.read(clipped, probe.theta, claim)
    )
    lit = bool(probe.read(clipped, probe.theta, claim).any())
    if lit and float(change.abs().max()) <= bound:
        hint = "those below 0 are answered as 0 is: where the device clips them, declare `x_low=0`"
        probe.bench.note(claim, hint)
    else:
        probe.bench.note(claim, "are told apart")


def _layouts(probe: Probe) -> None:
    """The same rows, in another memory layout, have the same answers."""
    claim, x = "rows in any layout", probe.x
    pending = torch.complex(torch.zeros_like(x), -x).conj().imag  # a lazy conjugate
    turned = x.transpose(0, -1).contiguous().transpose(0, -1)
    spread = torch.stack((x, x), -1)[..., 0]
    kinds = {"transposed": turned, "with gaps": spread, "conjugated": pending}
    if x.dim() in {4, 5}:
        format_ = torch.channels_last if x.dim() == 4 else torch.channels_last_3d
        kinds["channels last"] = x.to(memory_format=format_)
    for kind, rows in kinds.items():
        probe.alike(
            claim,
            lambda rows=rows: probe.read(rows, probe.theta, claim),
            lambda: probe.read(x, probe.theta, claim),
            f"the answer to rows that are {kind}",
        )
    probe.bench.note(claim, ", ".join(kinds))
