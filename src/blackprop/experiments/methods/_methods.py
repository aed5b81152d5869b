"""The training methods that experiments compare. A new method is a class that makes a layer from a device."""

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
from blackprop.planning import CANDIDATES
from blackprop.planning._methods import remembered


class TrainingMethod(abc.ABC):
    """A way to train a device in a network. Subclasses are frozen dataclasses whose fields are the configuration.

    `name` identifies the method in a run folder, by default a name of its class. Two methods of one class in the same
    comparison need different names.

    ```python
    @dataclass(frozen=True)
    class TwoDirections(TrainingMethod):
        name: str = "two-directions"

        def layer(self, device, generator):
            estimator = bp.estimators.RandomDirections(2, 0.01)
            return bp.PhysicalLayer(device, estimator, bp.surrogates.Streaming(), generator=generator)
    ```
    """

    name: str

    signal_scaled: ClassVar[bool] = True
    """Whether steps of θ are scaled by the measured signal (`optim.SignalScaled`). False for the references, for the
    published method and for methods that do not measure a gradient.
    """

    pulse_rate: ClassVar[float] = 10.0
    """The learning rate of pulses, in units of the task's rate for θ: pulses follow the plain gradient, Adam does not.
    """

    def arranged(self, device: Device) -> Device:
        """Return the device as the method needs it, such as with more tiles. By default unchanged."""
        return device

    @abc.abstractmethod
    def layer(self, device: Device, generator: torch.Generator) -> PhysicalLayer:
        """Make a layer of `device`. Draw θ first from `generator`, so that all methods start from the same θ."""

    rates: ClassVar[tuple[str, ...]] = ("lr", "device_lr")
    """The learning rates of a task that the method uses. A search leaves out the others."""

    def rule(self, model: nn.Module, generator: torch.Generator) -> GradientRule:
        """Return the rule by which the parameters of `model` get their gradients. By default, backpropagation."""
        del model, generator
        return Backpropagation()

    def rows_kept_back(self, rows: int) -> int:
        """Return how many rows of the allowance `finish` needs, for `rows` training rows. By default 0."""
        del rows
        return 0

    def finish(self, model: nn.Module, x: Tensor, y: Tensor) -> None:
        """Complete the model after the last step, with the training rows `x` and targets `y`. Optional."""
        del model, x, y


class TrialParts(Protocol):
    """The parts of a trial that a `SelfContained` method may use."""

    @property
    def task(self) -> Any: ...
    @property
    def seed(self) -> int: ...
    def layer(self, d_in: int, d_out: int, index: int) -> PhysicalLayer: ...
    def order(self, epoch: int) -> torch.Generator: ...


class SelfContained(TrainingMethod, abc.ABC):
    """A method with its own training loop, in place of the engine's steps. It needs an allowance."""

    @abc.abstractmethod
    def fit(self, trial: TrialParts, model: nn.Module, x: Tensor, y: Tensor, rows: int) -> tuple[nn.Module, int]:
        """Return the trained module and the number of its steps.

        - `trial`: the task with its rates, and further layers and row orders.
        - `model`: the untrained network of the task.
        - `x`, `y`: the training rows and their targets.
        - `rows`: the number of rows that may be sent to the devices.
        """


class Backpropagation:
    """Compute the loss once, and its gradient by backpropagation."""

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
class Paper(TrainingMethod):
    """`presets.paper` with the published settings: step 1 for `Matrix` and 1e-4 for other devices, and a rebuild every
    100 steps for meshes.

    - `rank` (default 10): the rank of the surrogate, reduced to the rank of the device if that is lower.
    - `samples` (default 100): M, directions a step.

    **Raises** `ArgumentError` for a `rank` or `samples` below 1.
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
    """The pair of estimator and surrogate that `blackprop.plan` chooses for the device, the default of a layer."""

    name: str = "default"

    def layer(self, device: Device, generator: torch.Generator) -> PhysicalLayer:
        return PhysicalLayer(device, generator=generator)


@dataclass(frozen=True)
class Planned(TrainingMethod):
    """One method of the plan's table, `bp.planning.CANDIDATES`, selected by its name `candidate`."""

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
    """Random perturbations credited by output, for devices that declare row coupling.

    - `count` (default 8): directions a step.
    - `probes` (default 15): rows in place of a batch, at most.
    - `step` (units of θ, default 0.01): the size of a perturbation.
    """

    count: int = 8
    probes: int = 15
    step: float = 0.01  # best for microrings without noise; ten times larger suits 2 % read noise
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
    """A physical twin: the ideal model of a mesh, microring or light modulator, calibrated once, fitted in training."""

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
    """Remembered perturbations, with the settings of the plan for linear devices.

    - `count` (default: as in the plan): new directions a step.
    - `rank` (default: as in the plan): rows in place of a batch, at most.
    - `start` (default: as in the plan): directions measured before the first step.
    - `row` (default False): credit perturbations by output, for devices that declare row coupling.
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
    """Training of a device whose structure is hidden, with the structure that `characterise` finds.

    The device declares no structure, and its parameters are in a random order. The queries of `characterise` are booked
    as `CALIBRATE`.
    """

    name: str = "characterised"

    def layer(self, device: Device, generator: torch.Generator) -> PhysicalLayer:
        order = torch.randperm(device.theta.size, generator=torch.Generator().manual_seed(device.theta.size))
        found = characterise(devices.Declared(device, order=order))
        layer = PhysicalLayer(found.device, generator=generator)  # draws θ in the device's own order
        layer.ledger = Ledger.sum([found.ledger, layer.ledger])
        return layer
