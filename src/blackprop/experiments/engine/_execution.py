"""How a run is executed: precision, gradient accumulation, processes. Only this module uses Accelerate."""

from __future__ import annotations

import atexit
import contextlib
import enum
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from blackprop._extras import install
from blackprop.errors import ArgumentError, BlackpropError
from blackprop.nn._layer import PhysicalLayer

T = TypeVar("T")


class FloatPrecision(enum.Enum):
    """The precision of the digital layers. Devices always use float32."""

    FULL = "full"
    BFLOAT16 = "bf16"
    FLOAT16 = "fp16"


@dataclass(frozen=True)
class Execution:
    """How a run is executed, as far as it affects the results."""

    precision: FloatPrecision = FloatPrecision.FULL
    """Precision of the digital layers, by autocast. Devices always use float32. fp16 needs an accelerator."""
    accumulate: int = 1
    """Number of parts in which a process handles its share of a batch, one after another. θ changes once per batch."""
    clip: float | None = None
    """Largest norm of the digital gradients; larger ones are scaled down to it. By default they are not clipped. The
    gradient of θ is never clipped, because the step of its optimizer does not depend on the norm."""
    patience: int | None = None
    """Number of evaluations without a better score after which a run ends. By default it makes all steps."""
    cpu: bool = False
    """Train on the CPU even if there is an accelerator."""

    def __post_init__(self) -> None:
        if self.accumulate < 1:
            raise ArgumentError(f"`Execution(accumulate=...)` must be at least 1, got {self.accumulate}")
        if self.clip is not None and not self.clip > 0:
            raise ArgumentError(f"`Execution(clip=...)` must be positive, got {self.clip}")
        if self.patience is not None and self.patience < 1:
            raise ArgumentError(f"`Execution(patience=...)` must be at least 1, got {self.patience}")


ORDINARY = Execution()


class Workers:
    """The processes that share a run, including this one: `accelerate launch` and `torchrun` start several.

    Each process has its own device, perturbs it in its own directions, and handles its share of every batch. Gradients
    are averaged. Before every forward pass, all processes copy the surrogates of the first one. The memory of an
    estimator belongs to its directions, so it stays in its own process.
    """

    def __init__(self, execution: Execution = ORDINARY) -> None:
        try:
            from accelerate import Accelerator  # noqa: PLC0415  # an extra, and slow to import
            from accelerate.state import AcceleratorState  # noqa: PLC0415
        except ImportError as error:
            raise BlackpropError(f"training needs accelerate: {install('recipes')}") from error
        cpu = execution.cpu or not torch.cuda.is_available()
        if cpu and execution.precision is FloatPrecision.FLOAT16:
            raise ArgumentError("`Execution(precision=fp16)` needs an accelerator; on the CPU there is bf16")
        AcceleratorState._reset_state()  # an earlier run in this process may have had another precision
        precision = "no" if execution.precision is FloatPrecision.FULL else execution.precision.value
        self._accelerator: Any = Accelerator(mixed_precision=precision, cpu=cpu)
        self.count: int = self._accelerator.num_processes
        if self.count > 1:
            atexit.register(_leave)
        self.rank: int = self._accelerator.process_index
        self.device: torch.device = self._accelerator.device

    @property
    def first(self) -> bool:
        """Whether this process writes files and reports for all."""
        return self.rank == 0

    def share(self, rows: Tensor) -> Tensor:
        """Return this process's part of a batch or a data set."""
        return rows.tensor_split(self.count)[self.rank]

    def prepare(self, model: nn.Module, optimizers: list[Optimizer]) -> tuple[nn.Module, list[Optimizer]]:
        """Move the model to this process's device and average its gradients over the processes."""
        own = [
            f"{name}.estimator.{buffer}"
            for name, layer in model.named_modules()
            if isinstance(layer, PhysicalLayer) and isinstance(layer.estimator, nn.Module)
            for buffer, _ in layer.estimator.named_buffers()
        ]
        model._ddp_params_and_buffers_to_ignore = own  # pyright: ignore[reportArgumentType]
        return self._accelerator.prepare(model), [self._accelerator.prepare(one) for one in optimizers]

    def autocast(self) -> AbstractContextManager[None]:
        return self._accelerator.autocast()

    def averaging(self, model: nn.Module, last: bool) -> AbstractContextManager[None]:
        """Wrap the forward and backward pass of one part of a batch. Gradients are averaged at the last part."""
        return contextlib.nullcontext() if last else self._accelerator.no_sync(model)

    def backward(self, loss: Tensor) -> None:
        self._accelerator.backward(loss)

    def clip(self, parameters: list[nn.Parameter], norm: float) -> None:
        self._accelerator.clip_grad_norm_(parameters, norm)

    @torch.no_grad()
    def agree(self, parameter: nn.Parameter) -> None:
        """Replace the parameter by its mean over the processes, where `optim.SignalScaled` may step differently."""
        if self.count > 1 and parameter.requires_grad:
            parameter.copy_(self._accelerator.reduce(parameter.detach(), reduction="mean"))

    def sum(self, value: Tensor) -> Tensor:
        """Sum over the processes."""
        return self._accelerator.reduce(value, reduction="sum")

    def meet(self) -> None:
        """Wait for all processes. The first one hosts the connection, so it must not end before the others."""
        self._accelerator.wait_for_everyone()

    def gather(self, value: T) -> list[T]:
        """Return the values of all processes, by rank."""
        if self.count == 1:
            return [value]
        from accelerate.utils import gather_object  # noqa: PLC0415

        return gather_object([value])

    def in_turn(self, work: Callable[[], T]) -> T:
        """Run `work` in all processes, first in the first one, so that the others find its downloads."""
        with self._accelerator.main_process_first():
            return work()

    def once(self, work: Callable[[], T]) -> T:
        """Run `work` in the first process only. All processes return its result or raise its error."""
        if self.count == 1:
            return work()
        from accelerate.utils import broadcast_object_list  # noqa: PLC0415

        told: list[Any] = [None, None]
        if self.first:
            try:
                told[0] = work()
            except Exception as error:  # the other processes would wait forever
                told[1] = error
        broadcast_object_list(told)
        if told[1] is not None:
            raise told[1]
        return told[0]


@contextlib.contextmanager
def lent_generators() -> Iterator[None]:
    """Restore the global generators, which dropout draws from, after a run."""
    devices = range(torch.cuda.device_count()) if torch.cuda.is_available() else []
    with torch.random.fork_rng(devices=devices):
        yield


def _leave() -> None:
    """Destroy the process group before the interpreter exits. Otherwise its threads abort the process."""
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def first_process() -> bool:
    """Return whether this process reports for all processes that share a run."""
    started = torch.distributed.is_available() and torch.distributed.is_initialized()
    return not started or torch.distributed.get_rank() == 0
