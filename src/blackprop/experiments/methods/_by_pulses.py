"""Methods that move the cells of pulsed crossbars."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch

from blackprop.core.capabilities._pulse import Pulse
from blackprop.devices import Device, PulsedCrossbar
from blackprop.errors import ArgumentError, IncompatibleError
from blackprop.estimators import pulsed
from blackprop.experiments.methods._methods import TrainingMethod
from blackprop.nn._layer import PhysicalLayer
from blackprop.planning._methods import fitted
from blackprop.planning._physics import reads_back
from blackprop.surrogates import Reciprocal

SWEEP = 8  # steps in which all columns of a fast tile are read once: its readings move a cell by one pulse, or a few
# A fast tile forgets in `τ/(α f Σ_b|x_b g_b|)` steps, for cells of the range ±τ: it must reach its mean in few sweeps.
FAST, TRANSFER = 10.0, 0.3
FINER = 1.25  # a tile's gain to the next, in ranges of a cell over its states
LEAST, MOST = 0.02, 0.4  # of that gain; the theory of residual learning has at most 1/√6


@dataclass(frozen=True)
class PulsedMethod:
    """How a method is made, from the columns that it reads in a step, and the gains of its tiles."""

    make: Callable[[int], pulsed.PulsedUpdate]
    gains: Callable[[Pulse], tuple[float, ...]]
    faster: float = 1.0
    """The factor of its rate: a tile of small gain that takes the gradient must move as fast as `FAST` says."""


def finer(pulse: Pulse) -> float:
    """The gain γ of a finer tile: its range then covers a little more than one step of the next."""
    return min(max(FINER / pulse.states, LEAST), MOST)


def _one(pulse: Pulse) -> tuple[float, ...]:
    del pulse
    return (1.0,)


def _beside(pulse: Pulse) -> tuple[float, ...]:
    del pulse
    return 0.0, 1.0


def _read_too(pulse: Pulse) -> tuple[float, ...]:
    return max(0.2, finer(pulse)), 1.0


def _three(pulse: Pulse) -> tuple[float, ...]:
    gain = finer(pulse)
    return gain**2, gain, 1.0


# Trainings of a few hundred steps: signs flip often.
PULSED_METHODS: dict[str, PulsedMethod] = {
    "analog-sgd": PulsedMethod(lambda _: pulsed.AnalogSGD(), _one),
    "mixed-precision": PulsedMethod(lambda _: pulsed.MixedPrecision(), _one),
    "tiki-taka": PulsedMethod(lambda columns: pulsed.TikiTaka(FAST, TRANSFER, columns=columns), _beside),
    "tiki-taka-v2": PulsedMethod(lambda columns: pulsed.TikiTakaV2(FAST, TRANSFER, columns=columns), _beside),
    "chopped-tiki-taka": PulsedMethod(lambda columns: pulsed.ChoppedTikiTaka(columns=columns), _beside),
    "agad": PulsedMethod(lambda columns: pulsed.AGAD(chop=0.5, columns=columns), _beside),
    "symmetric-point-tracking": PulsedMethod(lambda columns: pulsed.SymmetricPointTracking(columns=columns), _beside),
    "residual": PulsedMethod(lambda columns: pulsed.ResidualLearning(transfer=0.05, columns=columns), _read_too),
    "filtered-residual": PulsedMethod(lambda columns: pulsed.FilteredResidual(columns=columns), _read_too),
    "multi-tile": PulsedMethod(lambda columns: pulsed.MultiTile(columns=2 * columns), _three, FAST),
}


@dataclass(frozen=True)
class TrainedByPulses(TrainingMethod):
    """A method of `estimators.pulsed`, by its name in the plan's table, on a crossbar with the tiles that it needs.

    The learning rate of the pulses is `pulse_rate` times the task's rate for θ: 10, or 100 for several tiles.
    """

    candidate: str

    signal_scaled: ClassVar[bool] = False
    rates: ClassVar[tuple[str, ...]] = ("lr", "device_lr")

    @property
    def name(self) -> str:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.candidate

    @property
    def pulse_rate(self) -> float:  # pyright: ignore[reportIncompatibleVariableOverride]
        return TrainingMethod.pulse_rate * PULSED_METHODS[self.candidate].faster

    def __post_init__(self) -> None:
        if self.candidate not in PULSED_METHODS:
            raise ArgumentError(
                f"`TrainedByPulses(candidate=...)` must be one of {', '.join(PULSED_METHODS)}; got {self.candidate!r}"
            )

    def arranged(self, device: Device) -> Device:
        if not isinstance(device, PulsedCrossbar):
            return device
        return device.tiled(*PULSED_METHODS[self.candidate].gains(device.declaration.capability(Pulse)))

    def layer(self, device: Device, generator: torch.Generator) -> PhysicalLayer:
        spec = device.declaration
        if not spec.has(Pulse):
            raise IncompatibleError(
                f"`{self.candidate}` moves cells by pulses, and {spec.name} does not declare the capability `pulse`"
            )
        surrogate = Reciprocal() if reads_back(spec) else fitted(spec)
        method = PULSED_METHODS[self.candidate].make(max(1, spec.d_in // SWEEP))
        return PhysicalLayer(device, method, surrogate, generator=generator)
