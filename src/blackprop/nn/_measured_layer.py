"""How a layer asks its device: the setting it sends, the two gradients, and a surrogate that follows."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from blackprop.core._budget import Budget
from blackprop.core._ledger import Ledger
from blackprop.core._metered import measure
from blackprop.core._procedure import Procedure, read, reading_first, run
from blackprop.core._query import Purpose, Query, same_setting
from blackprop.devices import Device
from blackprop.errors import BudgetExhausted, DeviceChangedWarning, SurrogateError
from blackprop.estimators import Estimator
from blackprop.nn._answers import AnswerMemory
from blackprop.nn._diagnostics import SignalMeter
from blackprop.nn._drift_watch import ReferenceReading, displacement
from blackprop.nn._output_scale import OutputScale
from blackprop.planning.asking._asked import share, tell_allowance
from blackprop.surrogates import Surrogate

T = TypeVar("T")


@dataclass(slots=True)
class Now:
    """The state that changes at every step, apart from the module, whose attributes are slow to set."""

    sent: Tensor | None = None
    """θ as it is sent to the device; the same object as long as θ stays. Nothing writes to it."""
    followed: bool = False
    """Whether the surrogate stands at that setting."""
    batch: int = 1
    """Rows of the latest training batch, per use."""
    observed: int = 0
    """Batches that the surrogate has seen."""
    residual: float | None = None
    """Of the latest of them."""


class MeasuredLayer(nn.Module):
    """The part of a `PhysicalLayer` that measures: the methods of `_autograd.Rules`, and the tracking of the surrogate.

    The layer gives it a device, an estimator, a surrogate, a ledger, a budget, a generator, θ and the gain.
    """

    device: Device
    estimator: Estimator
    surrogate: Surrogate
    ledger: Ledger
    budget: Budget | None
    generator: torch.Generator
    theta: nn.Parameter
    gain: nn.Parameter
    theta_tracked: Tensor
    # Looked up in these where every step does, which calls no `__getattr__`. (Parameters may be computed, by `prune`.)
    _modules: dict[str, Any]  # pyright: ignore[reportIncompatibleVariableOverride]
    _buffers: dict[str, Any]  # pyright: ignore[reportIncompatibleVariableOverride]

    def _watch(self) -> None:
        """Make the state of the methods below, after the parts are assigned."""
        # The setting that the surrogate stands for, once it has started.
        self.register_buffer("theta_tracked", torch.zeros_like(self.theta, requires_grad=False))
        self.started = False
        self._now = Now()
        self.signal: SignalMeter = SignalMeter(self.theta.numel())
        self.answers: AnswerMemory = AnswerMemory()
        self.scale: OutputScale = OutputScale()

    @property
    def out_shape(self) -> tuple[int, ...]:
        return self.device.out_shape

    # The methods of _autograd.Rules. `setting` is θ as it was sent, the same object as long as θ is unchanged.

    def measure_rows(self, x: Tensor, setting: Tensor, wants_x: bool, wants_theta: bool) -> tuple[Tensor, int]:
        now, training, answers = self._now, self.training, self.answers
        if not len(x):
            return x.new_zeros(0, *self.out_shape), now.observed
        query = Query(x, setting, Purpose.FORWARD if training else Purpose.EVALUATE)
        follows = training and (wants_x or (wants_theta and self.estimator.reads is not None))
        surrogate = self._modules["surrogate"]
        if follows:
            now.batch = len(x)
            surrogate.input_rms = float(torch.linalg.vector_norm(x)) / math.sqrt(len(x))
        if not follows or now.followed:
            y = self._run(read(query))
        else:
            track = self._follow(setting, surrogate)
            y = self._run(reading_first(query, track) if self.started else _read_then(query, track))
        if answers.unconfirmed:
            self._confirm_device(x, y)
        if follows:
            residual = surrogate.assimilate(x, y)
            if residual is not None:
                now.residual = residual
                answers.saw(residual)
            now.observed += 1
        if training:
            answers.keep(x, y, setting)
            if not self.scale.decided:
                self.scale.see(y, self.gain, self.device)
        return y, now.observed

    def grad_rows(self, x: Tensor, setting: Tensor, y: Tensor, grad_y: Tensor, observed: int) -> Tensor:
        surrogate, now = self._modules["surrogate"], self._now
        if surrogate.asks:
            return self._run(surrogate.read_grad_x(x, grad_y, setting))
        if not now.followed or setting is not now.sent:
            self._require_surrogate_at(setting)
        if observed == now.observed:
            return surrogate.grad_x(x, grad_y)
        return surrogate.grad_x_recalled(x, y, grad_y)  # other batches have been seen since

    def grad_theta(self, x: Tensor, setting: Tensor, y: Tensor, grad_y: Tensor) -> Tensor:
        now = self._now
        if self.estimator.reads is not None and not (now.followed and setting is now.sent):
            self._require_surrogate_at(setting)
        generator = self._generator_beside(setting)
        procedure = self.estimator.grad_theta(x, setting, y, grad_y, self.device.declaration, generator)
        grad = self._run(procedure)
        if self.training:
            self._modules["signal"].add(grad)
        return grad

    @torch.no_grad()
    def _setting(self, theta: Tensor) -> Tensor:
        """The setting to send for θ: the nearest within the limits.

        In `train()` θ itself is moved there, and against the drift that the surrogate has found. The latter waits until
        the optimizer has moved θ, when it costs no programming.
        """
        now, limits, wanted = self._now, self.device.theta, theta.detach()
        sent = now.sent
        if sent is not None and same_setting(sent, wanted):
            return sent  # it has not moved since, and was within the limits then
        clamped = limits.clamp(wanted)
        if sent is None or not limits.limited or not same_setting(sent, clamped):
            # A surrogate that stood at the setting sent before does not stand at another one.
            followed = (sent is None or not now.followed) and self._stands_at(clamped)
            if self.training and theta.requires_grad and self.started and not followed:
                moved = self._modules["surrogate"].compensate_drift(wanted)
                if moved is not wanted:
                    clamped = limits.clamp(moved)
                    followed = self._stands_at(clamped)
            now.sent = sent = clamped.clone()
            now.followed = followed
        if clamped is not wanted and self.training and not same_setting(sent, theta):
            theta.copy_(sent)
        return sent

    def _follow(self, setting: Tensor, surrogate: Surrogate) -> Procedure[None]:
        """Bring the surrogate to the setting."""
        generator = self._generator_beside(setting)
        if self.started:
            yield from surrogate.track(self._buffers["theta_tracked"], setting, generator)
        else:
            tell_allowance(surrogate, self._now.batch, self.budget)
            yield from surrogate.start(setting, generator)
            share(self.budget, surrogate, self.estimator)
            self.started: bool = True
        self._buffers["theta_tracked"] = setting  # not in place: rounds may hold the old one
        self._now.followed = True

    def _stands_at(self, setting: Tensor) -> bool:
        return self.started and same_setting(self.theta_tracked, setting)

    def _require_surrogate_at(self, setting: Tensor) -> None:
        if not self._stands_at(setting):
            raise SurrogateError(
                "the surrogate does not know the device at this theta: it follows in `train()`, in a forward pass "
                "that needs it for a gradient; call `train()` on the layer, or run that pass, before this backward"
            )

    def _run(self, procedure: Procedure[T]) -> T:
        with torch.no_grad():
            return run(procedure, partial(measure, self.device, self.ledger, self.budget))

    def _generator_beside(self, theta: Tensor) -> torch.Generator:
        """The source of random directions where θ lives: in `train()` this layer's own, which is replaced by one seeded
        from it where θ lives elsewhere; in `eval()` a copy, so that the state is unchanged.
        """
        generator = self.generator
        if not self.training:
            generator = torch.Generator(generator.device)
            generator.set_state(self.generator.get_state())
        if generator.device.type != theta.device.type:
            seed = torch.randint(2**62, (), generator=generator, device=generator.device)
            generator = torch.Generator(theta.device).manual_seed(int(seed))
        if self.training and generator is not self.generator:
            self.generator = generator
        return generator

    @property
    def residual(self) -> float | None:
        """The latest batch's `‖y − ŷ‖/‖y‖`, ŷ being the surrogate's prediction before it saw the batch."""
        return self._now.residual

    @torch.no_grad()
    def verify(self) -> float | None:
        """Ask the device again for up to 4 rows of the latest training batch, at their setting.

        Returns the relative difference `‖y − y₀‖/‖y₀‖` from the readings y₀ of then, which checkpoints hold; None where
        it is within `0.05 + 3 · noise`, or where the layer remembers no reading. A larger one says that the device has
        moved, or that another stands in its place. **Costs** these rows and at most one programming, booked as
        `EVALUATE`.
        """
        memory = self.answers
        if memory.x is None:
            return None
        setting = self.theta_tracked if memory.setting is None else memory.setting
        setting = self.device.theta.clamp(setting.to(self.theta, copy=True))
        again = self._run(read(Query(memory.x.to(self.theta), setting, Purpose.EVALUATE)))
        return memory.differs(again, self.device.declaration.noise)

    def reference(self) -> ReferenceReading | None:
        """Return up to 4 rows of the latest training batch, with their setting and readings; None before the first."""
        memory = self.answers
        if memory.x is None or memory.y is None or memory.setting is None:
            return None
        return ReferenceReading(memory.x, memory.setting.clone(), memory.y)

    def displacement(self, reference: ReferenceReading) -> float:
        """Measure how far the device has moved since `reference`: root mean square, in units of θ; 0 within the noise.

        **Costs** three times the rows of the reference and 2 programmings, booked as `SURROGATE`.
        """
        generator = self._generator_beside(reference.setting)
        return self._run(displacement(reference, self.device.declaration, generator))

    def _confirm_device(self, x: Tensor, y: Tensor) -> None:
        """Warn if the first batch after loading a checkpoint proves that the device gives other readings.

        The batch alone raises the doubt, so an unchanged device receives no further queries.
        """
        self.answers.unconfirmed = False
        residual = self.surrogate.misfit(x, y) if self.started else None
        if residual is None or not self.answers.doubts(residual):
            return
        try:
            difference = self.verify()
        except BudgetExhausted:
            difference = residual
        if difference is not None:
            warnings.warn(
                f"{self.device} does not give the readings it gave when this checkpoint was written; they differ by "
                f"{difference:.0%}. It has drifted, or it is another device; the state of surrogate and "
                "estimator may be wrong. To learn it from the start, load `bp.for_another_device(state)`",
                DeviceChangedWarning,
                stacklevel=2,
            )


def _read_then(query: Query, procedure: Procedure[None]) -> Procedure[Tensor]:
    """Read `query`, then run `procedure`: at the start, so that instruments that set their own range see data first."""
    (y,) = yield [query]
    yield from procedure
    return y
