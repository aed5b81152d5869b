"""The training methods that experiments compare. A new one is one class that makes a layer of a device."""

from __future__ import annotations

import abc
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor, nn

from blackprop import devices, presets, surrogates, twins
from blackprop.characterisation import characterise
from blackprop.core._ledger import Ledger
from blackprop.devices import Device
from blackprop.devices._wrapper import unwrapped
from blackprop.directions import Rademacher
from blackprop.errors import ArgumentError, IncompatibleError
from blackprop.estimators import ByOutput, FromSurrogate, ProbeContraction, RandomDirections
from blackprop.experiments.methods._rule import Backward, Batch, GradientRule
from blackprop.nn._layer import PhysicalLayer
from blackprop.planning import CANDIDATES, remembered


class TrainingMethod(abc.ABC):
    """A way to train a device in a network. Subclasses are frozen dataclasses; their fields are the configuration.

    `name` tells methods apart in a run folder; give it to two of one class that stand in the same comparison.
    """

    name: str

    signal_scaled: ClassVar[bool] = True
    """Whether θ moves by its measured signal (`optim.SignalScaled`): but for the references, the published method, and
    what measures no gradient.
    """

    @abc.abstractmethod
    def layer(self, device: Device, generator: torch.Generator) -> PhysicalLayer:
        """`device` as a layer. The first draw from `generator` must be θ, so that all methods start alike."""

    rates: ClassVar[tuple[str, ...]] = ("lr", "device_lr")
    """The learning rates of a task that the method uses, so that a search can leave out the others."""

    def rule(self, model: nn.Module, generator: torch.Generator) -> GradientRule:
        """How the parameters of `model` come by their gradients: unless a method says otherwise, by backpropagation."""
        del model, generator
        return Backpropagation()

    def rows_kept_back(self, rows: int) -> int:
        """The rows of the allowance that `finish` takes, of as many training `rows`: unless it does something, none."""
        del rows
        return 0

    def finish(self, model: nn.Module, x: Tensor, y: Tensor) -> None:
        """Called once after the last step with the training rows `x` and targets `y`; does nothing by default."""
        del model, x, y


class TrialParts(Protocol):
    """The parts of a trial that a method of its own may use."""

    @property
    def task(self) -> Any: ...
    @property
    def seed(self) -> int: ...
    def layer(self, d_in: int, d_out: int, index: int) -> PhysicalLayer: ...
    def order(self, epoch: int) -> torch.Generator: ...


class SelfContained(TrainingMethod, abc.ABC):
    """A method with a training loop of its own, in place of the engine's steps; it takes place within an allowance."""

    @abc.abstractmethod
    def fit(self, trial: TrialParts, model: nn.Module, x: Tensor, y: Tensor, rows: int) -> tuple[nn.Module, int]:
        """The trained module and how many steps that took.

        - `trial`: the task with its rates, and the source of further layers and orders.
        - `model`: the network of the task, untrained.
        - `x`, `y`: the training rows and their targets.
        - `rows`: the rows that may be asked of the devices.
        """


class Backpropagation:
    """One call of the loss, and its gradient."""

    through_devices = True

    def add_gradients(self, batch: Batch, backward: Backward) -> float:
        value = batch.loss()
        backward(value)
        return value.item()

    def passes(self) -> int:
        return 1

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: Mapping[str, Any], /) -> None:
        del state


@dataclass(frozen=True)
class OracleReference(TrainingMethod):
    """Both gradients by autograd through the simulator, at no query: the upper reference."""

    signal_scaled: ClassVar[bool] = False

    name: str = "oracle"

    def layer(self, device: Device, generator: torch.Generator) -> PhysicalLayer:
        return PhysicalLayer(device, *presets.oracle(), generator=generator)


@dataclass(frozen=True)
class FrozenReference(TrainingMethod):
    """θ stays as it was drawn, the digital parameters are trained through it exactly, at no query: the lower
    reference.
    """

    signal_scaled: ClassVar[bool] = False
    rates: ClassVar[tuple[str, ...]] = ("lr",)

    name: str = "frozen"

    def layer(self, device: Device, generator: torch.Generator) -> PhysicalLayer:
        layer = PhysicalLayer(device, *presets.oracle(), generator=generator)
        layer.theta.requires_grad_(False)
        return layer


@dataclass(frozen=True)
class Paper(TrainingMethod):
    """`presets.paper` at its published settings: step 1 for the plain matrix and 1e-4 for all others, meshes rebuilt
    every 100 steps, devices that are not linear treated as if they were. The rank is cut to what a device allows.
    """

    rank: int = 10
    samples: int = 100
    name: str = "paper"

    signal_scaled: ClassVar[bool] = False
    matrix_step: ClassVar[float] = 1.0
    mesh_rebuild: ClassVar[int] = 100

    def __post_init__(self) -> None:
        for field in ("rank", "samples"):
            if getattr(self, field) < 1:
                raise ArgumentError(f"`Paper({field}=...)` must be at least 1, got {getattr(self, field)}")

    def layer(self, device: Device, generator: torch.Generator) -> PhysicalLayer:
        spec, kind = device.declaration, unwrapped(device)
        is_mesh = isinstance(kind, (devices.MZIMesh, devices.ThreeSplitterMesh, devices.ImperfectMesh))
        method = presets.paper(
            min(self.rank, spec.d_in, spec.d_out),
            self.samples,
            step=self.matrix_step if isinstance(kind, devices.Matrix) else 1e-4,
            rebuild_every=self.mesh_rebuild if is_mesh else None,
            linear=spec.linear,
        )
        return PhysicalLayer(device, *method, generator=generator)


@dataclass(frozen=True)
class Default(TrainingMethod):
    """The pair that `blackprop.plan` chooses from the device's declaration, as a layer does by default."""

    name: str = "default"

    def layer(self, device: Device, generator: torch.Generator) -> PhysicalLayer:
        return PhysicalLayer(device, generator=generator)


@dataclass(frozen=True)
class Planned(TrainingMethod):
    """One row of the plan's table, `bp.planning.CANDIDATES`, by the name of its `candidate`."""

    candidate: str

    @property
    def name(self) -> str:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.candidate

    def __post_init__(self) -> None:
        names = [candidate.name for candidate in CANDIDATES]
        if self.candidate not in names:
            raise ArgumentError(f"`Planned(candidate=...)` must be one of {', '.join(names)}; got {self.candidate!r}")

    def layer(self, device: Device, generator: torch.Generator) -> PhysicalLayer:
        found = next(candidate for candidate in CANDIDATES if candidate.name == self.candidate)
        if why := found.why_not(device.declaration):
            raise IncompatibleError(f"`{self.candidate}` does not suit {device.declaration.name}: it {why}")
        return PhysicalLayer(device, *found.method(device.declaration), generator=generator)


@dataclass(frozen=True)
class Row(TrainingMethod):
    """Random perturbations credited by output, as for a device that declares row coupling and no more."""

    count: int = 8
    probes: int = 15
    step: float = 0.01  # of the noise-free optimum of microrings; ten times that suits 2 % read noise
    name: str = "row"

    def layer(self, device: Device, generator: torch.Generator) -> PhysicalLayer:
        estimator = RandomDirections(
            self.count,
            self.step,
            Rademacher(),
            contraction=ProbeContraction(self.probes),
            credit=ByOutput(device.declaration.d_out),
        )
        return PhysicalLayer(device, estimator, surrogates.Streaming(), generator=generator)


@dataclass(frozen=True)
class FittedTwin(TrainingMethod):
    """The ideal model of a mesh or ring bank, calibrated to the device once and fitted to it while it trains."""

    name: str = "twin"

    def layer(self, device: Device, generator: torch.Generator) -> PhysicalLayer:
        kind = unwrapped(device)
        match kind:
            case devices.MZIMesh() | devices.ThreeSplitterMesh() | devices.ImperfectMesh():
                surrogate = surrogates.Twin(twins.MeshTwin(kind))
            case devices.Microring():
                surrogate = surrogates.Twin(twins.MicroringTwin(kind), settings=64, rows=40, lr=0.05)
            case devices.LightModulator():
                surrogate = surrogates.Twin(twins.LightModulatorTwin(kind), settings=64, rows=40, lr=0.05)
            case _:
                raise IncompatibleError(f"there is no physical twin of {kind} among the methods")
        return PhysicalLayer(device, FromSurrogate(surrogate), surrogate, generator=generator)


@dataclass(frozen=True)
class Memory(TrainingMethod):
    """Remembered perturbations, as the plan has them for a linear device that declares no coupling; with `row`, for one
    that declares row coupling and no more. Numbers that are given replace the plan's.
    """

    count: int | None = None
    rank: int | None = None
    start: int | None = None
    row: bool = False
    name: str = "memory"

    def layer(self, device: Device, generator: torch.Generator) -> PhysicalLayer:
        given = {"count": self.count, "rank": self.rank, "start": self.start}
        settings = {name: value for name, value in given.items() if value is not None}
        estimator = remembered(device.declaration, self.row, **settings)
        return PhysicalLayer(device, estimator, surrogates.Streaming(), generator=generator)


@dataclass(frozen=True)
class Characterised(TrainingMethod):
    """A device that declares nothing, with its parameters in a hidden order, trained as `characterise` finds it.

    What that asks is booked as `CALIBRATE`.
    """

    name: str = "characterised"

    def layer(self, device: Device, generator: torch.Generator) -> PhysicalLayer:
        order = torch.randperm(device.theta.size, generator=torch.Generator().manual_seed(device.theta.size))
        found = characterise(devices.Declared(device, order=order))
        layer = PhysicalLayer(found.device, generator=generator)  # draws the θ of the device's own order
        layer.ledger = Ledger.sum([found.ledger, layer.ledger])
        return layer
