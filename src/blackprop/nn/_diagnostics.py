"""Diagnosis of the training of devices, from the readings of training, without further queries."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from blackprop.core._packing import pack, unpack
from blackprop.errors import NoisyGradientWarning

SEEN = 2**18  # entries of a gradient that are looked at, evenly spread; more make the share no sharper than is of use
MEMORY = 50  # gradients that an average reaches back
ENOUGH = 100  # gradients before anything is said about noise
HOPELESS = 1e-3  # of a gradient's power: a share of signal too small to outweigh the effect of the noise


@dataclass(slots=True)
class _Stream:
    """The norm of the latest gradient, their number, and the sums of the weighted cosines, of the weights and of their
    squares. Apart from the module, whose attributes are slow to set.
    """

    norm: float = 0.0
    count: int = 0
    sums: tuple[float, float, float] = (0.0, 0.0, 0.0)


class SignalMeter(nn.Module):
    """The share of signal in a stream of gradients g_t (n,), `ρ = |E g|² / E|g|²`, from the stream alone:

    `ρ̂ = ⟨cos(g_t, g_{t−1})⟩`, averaged over the last `MEMORY` or so.

    Consecutive gradients at nearly the same setting share the signal and have independent noise. One cosine of pure
    noise scatters by `1/√n` (n counts the independent ones), so that ρ̂ is sharp where there are many parameters; its
    scale does not matter. Variation with the batch counts as noise. A systematic error of an estimator, as that of a
    surrogate or a memory, counts as signal.

    - `size`: n. Of more than 262,144 entries, about so many are looked at, and these count.

    Keeps them of the latest gradient.
    """

    stream: _Stream
    told: bool

    latest: Tensor

    def __init__(self, size: int) -> None:
        super().__init__()
        # An odd stride meets every column of a matrix whose width is a power of two.
        self.stride: int = 1 if size <= SEEN else -(-size // SEEN) | 1
        self.register_buffer("latest", torch.zeros(-(-size // self.stride)))
        self.stream = _Stream()
        self.told = False
        """Whether their noise was warned of."""

    @property
    def count(self) -> int:
        """How many gradients it has seen."""
        return self.stream.count

    @torch.no_grad()
    def add(self, grad: Tensor) -> None:
        """Add the next gradient of the stream; skip one that is zero or not finite."""
        stream, latest = self.stream, self.latest
        grad = grad[:: self.stride].to(latest)
        norm = float(torch.linalg.vector_norm(grad))
        if not 0 < norm < math.inf:
            return
        if stream.count:
            kept = 1 - 1 / MEMORY
            total, weight, squares = stream.sums
            cosine = float(grad @ latest) / norm / stream.norm
            stream.sums = kept * total + cosine, kept * weight + 1, kept**2 * squares + 1
        stream.norm, stream.count = norm, stream.count + 1
        latest.copy_(grad)

    @property
    def share(self) -> float | None:
        """ρ̂, which noise may carry below 0; None before the second gradient."""
        total, weight, _ = self.stream.sums
        return total / weight if weight else None

    @property
    def error(self) -> float:
        """The standard deviation of ρ̂ were there no signal, `√(Σw² / n) / Σw`; infinite before the second gradient."""
        _, weight, squares = self.stream.sums
        return math.sqrt(squares / max(1, self.latest.numel())) / weight if weight else math.inf

    def thin(self, state: dict[str, Any], prefix: str) -> None:
        """Turn a state that holds a whole gradient into one of the entries that are looked at."""
        saved = state.get(f"{prefix}latest")
        if (
            isinstance(saved, Tensor)
            and saved.dim() == 1
            and len(saved) > len(self.latest) == len(saved[:: self.stride])
        ):
            state[f"{prefix}latest"] = saved[:: self.stride].clone()

    def get_extra_state(self) -> Tensor:
        stream = self.stream
        return pack({"norm": stream.norm, "count": stream.count, "sums": list(stream.sums), "told": self.told})

    def set_extra_state(self, state: object) -> None:
        saved = unpack(state)
        total, weight, squares = saved["sums"]
        sums = float(total), float(weight), float(squares)
        self.stream, self.told = _Stream(float(saved["norm"]), int(saved["count"]), sums), bool(saved["told"])


@dataclass(frozen=True)
class Diagnosis:
    """How the training of one layer's device stands. None: not measured (yet)."""

    signal: float | None
    """ρ, the part of one θ-gradient's power that is the same from step to step; what changes with the batch, the
    directions or the read noise is the rest."""
    gradients: int
    """How many gradients that was measured on; it reaches back over the last 50."""
    error: float
    """The standard deviation that `signal` would have were there none."""
    residual: float | None
    """‖y − ŷ‖/‖y‖ of 16 rows of the latest batch, ŷ as the surrogate expected it before it learnt from it: how stale it
    is, how noisy the readings, how far from a matrix the device."""
    at_limit: float
    """The part of θ that stands at a limit of the device."""
    details: Mapping[str, float] = field(default_factory=dict)
    """The quality measures of estimator and surrogate."""

    @property
    def cosine(self) -> float | None:
        """√ρ, the expected cosine of one θ-gradient to the mean one; that to the true one where there is no bias."""
        return None if self.signal is None else math.sqrt(max(0.0, self.signal))

    @property
    def snr(self) -> float | None:
        """`ρ/(1 − ρ)`, the signal's power over the noise's."""
        return None if self.signal is None else max(0.0, self.signal) / max(1e-12, 1 - self.signal)

    @property
    def hopeless(self) -> bool:
        """Whether it is sure, within two standard deviations, that ρ is below 1/1000."""
        known = self.signal is not None and self.gradients >= ENOUGH
        return known and (self.signal or 0.0) + 2 * self.error < HOPELESS

    def plain(self) -> dict[str, float | None]:
        """As JSON takes it."""
        measured = {"signal": self.signal, "cosine": self.cosine, "snr": self.snr, "residual": self.residual}
        return {**measured, "at_limit": self.at_limit, **self.details}


@runtime_checkable
class Diagnosable(Protocol):
    """The modules that `diagnose` finds in a model: `PhysicalLayer`."""

    theta: nn.Parameter
    signal: SignalMeter

    def diagnose(self) -> Diagnosis: ...


def diagnose(model: nn.Module) -> dict[str, Diagnosis]:
    """Return the diagnosis of each physical layer of `model`, by qualified name. Makes no queries.

    >>> import torch, blackprop as bp
    >>> model = torch.nn.Sequential(torch.nn.Linear(8, 6), bp.PhysicalLayer(bp.devices.LightModulator(6, 3)))
    >>> for _ in range(3):
    ...     model(torch.ones(4, 8)).square().sum().backward()
    >>> diagnosis = bp.diagnose(model)["1"]
    >>> diagnosis.gradients, round(diagnosis.signal, 3)
    (3, 1.0)
    """
    return {name: layer.diagnose() for name, layer in _layers(model).items()}


def among_digital(size: int, others: int) -> bool:
    """Whether devices of `size` parameters are trained among so many `others` that these can lose by it: a tenth."""
    return 10 * others >= size


def advise(model: nn.Module) -> list[str]:
    """Warn (`NoisyGradientWarning`), once a layer, where training the device does harm; returns the layers' names.

    That is where the share of signal in the θ-gradient is surely under 1/1000 and the digital layers have at least a
    tenth as many parameters as the devices: they then lose more by a device that wanders than its training can gain.
    There is no warning if nearly all trained parameters belong to devices, where even such a gradient is useful.
    """
    layers = _layers(model)
    thetas = {id(layer.theta): layer.theta.numel() for layer in layers.values()}
    others = sum(p.numel() for p in model.parameters() if p.requires_grad and id(p) not in thetas)
    if not among_digital(sum(thetas.values()), others):
        return []
    noisy = [name for name, layer in layers.items() if layer.theta.requires_grad and layer.diagnose().hopeless]
    for name in noisy:
        if layers[name].signal.told:
            continue
        layers[name].signal.told = True
        warnings.warn(
            f"layer {name!r}: the gradient for its theta is noise (less than {HOPELESS:.1%} of its power is signal), "
            "and training the device may do more harm than good: freeze it (`theta.requires_grad_(False)`), wrap the "
            "optimizer in `bp.optim.SignalScaled`, declare the device's coupling, take more directions, or, if the "
            "readings are noisy, a larger step",
            NoisyGradientWarning,
            stacklevel=2,
        )
    return noisy


def _layers(model: nn.Module) -> dict[str, Diagnosable]:
    modules: Iterable[tuple[str, object]] = model.named_modules()
    return {name: module for name, module in modules if isinstance(module, Diagnosable)}
