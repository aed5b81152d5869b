"""How a run is carried out: precision, parts of a batch, processes; what Accelerate does for the loop, and no more."""

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
    """Of the digital layers; devices are asked in float32 whatever it is."""

    FULL = "full"
    BFLOAT16 = "bf16"
    FLOAT16 = "fp16"


@dataclass(frozen=True)
class Execution:
    """How a run is carried out, as far as that decides its results."""

    precision: FloatPrecision = FloatPrecision.FULL
    """Of the digital layers, by autocast; devices are asked in float32 whatever it is. fp16 needs an accelerator."""
    accumulate: int = 1
    """Parts that a process takes its share of a batch in, one after another; θ moves once for all of them."""
    clip: float | None = None
    """Largest norm of the digital gradients; longer ones are shortened to it. (θ's optimizer does not mind length.)"""
    patience: int | None = None
    """Evaluations without a better score after which a run ends; by default it goes on to its last step."""
    cpu: bool = False
    """Train on the CPU, even where there is an accelerator."""

    def __post_init__(self) -> None:
        if self.accumulate < 1:
            raise ArgumentError(f"`Execution(accumulate=...)` must be at least 1, got {self.accumulate}")
        if self.clip is not None and not self.clip > 0:
            raise ArgumentError(f"`Execution(clip=...)` must be positive, got {self.clip}")
        if self.patience is not None and self.patience < 1:
            raise ArgumentError(f"`Execution(patience=...)` must be at least 1, got {self.patience}")


ORDINARY = Execution()


class Workers:
    """The processes that share a run, of which this is one: `accelerate launch` and `torchrun` start several.

    Each holds a device of its own, perturbs it in directions of its own, and takes its share of every batch; gradients
    are averaged. Before every forward pass all take over the surrogates of the first process; what an estimator
    remembers stays with the directions that it is of, in its own process.
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
        AcceleratorState._reset_state()  # of an earlier run in this process, perhaps of another precision
        precision = "no" if execution.precision is FloatPrecision.FULL else execution.precision.value
        self._accelerator: Any = Accelerator(mixed_precision=precision, cpu=cpu)
        self.count: int = self._accelerator.num_processes
        if self.count > 1:
            atexit.register(_leave)
        self.rank: int = self._accelerator.process_index
        self.device: torch.device = self._accelerator.device

    @property
    def first(self) -> bool:
        """Whether this process writes and speaks for all."""
        return self.rank == 0

    def share(self, rows: Tensor) -> Tensor:
        """This process's part of a batch or a data set."""
        return rows.tensor_split(self.count)[self.rank]

    def prepare(self, model: nn.Module, optimizers: list[Optimizer]) -> tuple[nn.Module, list[Optimizer]]:
        """The model in its place, its gradients averaged over the processes."""
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
        """Around the forward and backward pass of one part of a batch; gradients are averaged with the last."""
        return contextlib.nullcontext() if last else self._accelerator.no_sync(model)

    def backward(self, loss: Tensor) -> None:
        self._accelerator.backward(loss)

    def clip(self, parameters: list[nn.Parameter], norm: float) -> None:
        self._accelerator.clip_grad_norm_(parameters, norm)

    @torch.no_grad()
    def agree(self, parameter: nn.Parameter) -> None:
        """Take the mean over the processes: each may trust its own measurements differently (`optim.SignalScaled`)."""
        if self.count > 1 and parameter.requires_grad:
            parameter.copy_(self._accelerator.reduce(parameter.detach(), reduction="mean"))

    def sum(self, value: Tensor) -> Tensor:
        """Over the processes."""
        return self._accelerator.reduce(value, reduction="sum")

    def meet(self) -> None:
        """Wait for all: the first process keeps the meeting place, and must not leave before the others have done."""
        self._accelerator.wait_for_everyone()

    def gather(self, value: T) -> list[T]:
        """The values of all processes, by rank."""
        if self.count == 1:
            return [value]
        from accelerate.utils import gather_object  # noqa: PLC0415

        return gather_object([value])

    def in_turn(self, work: Callable[[], T]) -> T:
        """Done by all, the first process before the others: what it downloads is there for them."""
        with self._accelerator.main_process_first():
            return work()

    def once(self, work: Callable[[], T]) -> T:
        """Done by the first process alone; its result, or its error, is that of all."""
        if self.count == 1:
            return work()
        from accelerate.utils import broadcast_object_list  # noqa: PLC0415

        told: list[Any] = [None, None]
        if self.first:
            try:
                told[0] = work()
            except Exception as error:  # the others would wait for ever
                told[1] = error
        broadcast_object_list(told)
        if told[1] is not None:
            raise told[1]
        return told[0]


@contextlib.contextmanager
def lent_generators() -> Iterator[None]:
    """The global generators, which dropout draws from, are lent to a run and put back."""
    devices = range(torch.cuda.device_count()) if torch.cuda.is_available() else []
    with torch.random.fork_rng(devices=devices):
        yield


def _leave() -> None:
    """Take the process group down while the interpreter still stands; its threads abort a process that ends before."""
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def first_process() -> bool:
    """Whether this process speaks for all that share a run."""
    started = torch.distributed.is_available() and torch.distributed.is_initialized()
    return not started or torch.distributed.get_rank() == 0
