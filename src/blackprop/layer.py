"""The layer: a device in a model, with the two gradients that autograd cannot find and the ledger of what they cost."""

from __future__ import annotations

import copy
import math
import warnings
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from blackprop import layer_state, programming
from blackprop._autograd import BlackBox
from blackprop.answers import AnswerMemory
from blackprop.devices import Device
from blackprop.diagnostics import Diagnosis, SignalMeter
from blackprop.errors import (
    ArgumentError,
    BudgetExhausted,
    CheckpointError,
    DeviceChangedWarning,
    IncompatibleError,
    ShapeError,
    SurrogateError,
)
from blackprop.estimators import Estimator
from blackprop.ledger import Budget, Ledger, metered
from blackprop.output_scale import OutputScale
from blackprop.packing import pack
from blackprop.planning import complete
from blackprop.programming import Programmed, Programmer
from blackprop.query import Procedure, Purpose, Query, read, reading_first, run, same_setting
from blackprop.refusals import NO_GRAPH, NO_WEIGHT, check_execution, check_rows, off_meta
from blackprop.sparse_weights import SparseWeights
from blackprop.surrogates import Surrogate

T = TypeVar("T")


class PhysicalLayer(nn.Module):
    """A layer whose transfer is measured: `y = gain · f(x; θ) + bias`, x `(..., *in_shape)`, y `(..., *out_shape)`;
    plus `x Sᵀ`, where a few weights S are kept `digital`.

    θ is an ordinary parameter `(P,)`: any optimizer, scheduler, `state_dict` and clipping works on it. Forward sends
    the rows through the device. Backward asks the `estimator` for `∂L/∂θ` and the `surrogate` for `∂L/∂x`, each only
    where it is required: with `theta.requires_grad_(False)` no parameter query is made, and no surrogate query where
    the input needs no gradient. `ledger` counts everything.

    In `train()` a differentiable forward pass first brings the surrogate to the present θ, once a change of θ, however
    many backward passes accumulate. In `eval()` nothing changes: rows are booked as `EVALUATE`, and a gradient can be
    had only at a θ that the surrogate knows. Within limits, the device is sent the nearest setting inside them, and
    training moves θ there, as projected gradient descent does; where the surrogate finds that settings have drifted, it
    moves θ against that. Where the first readings in training are far from 1 (under 0.01 or over 100 on average), the
    gain is set to bring them there, see `OutputScale`. Activation checkpointing measures twice, and is counted twice.

    **Arguments:** `device`; `estimator`, `surrogate`, by default those of `bp.plan`; `budget`, which layers
    may share; `bias`, a trainable offset `out_shape`; `generator`, the source of the initial θ and of every random
    direction (by default seeded once, here, from torch's global stream, as the weights of a digital layer are);
    `digital`, the weights beside the device.
    """

    theta_tracked: Tensor

    def __init__(
        self,
        device: Device,
        estimator: Estimator | None = None,
        surrogate: Surrogate | None = None,
        budget: Budget | None = None,
        bias: bool = False,
        generator: torch.Generator | None = None,
        *,
        digital: SparseWeights | None = None,
    ) -> None:
        super().__init__()
        _check_kinds(device, estimator, surrogate, budget)
        with off_meta():  # frameworks build models on `meta` before they load weights, and a device needs numbers
            self._assemble(device, estimator, surrogate, budget, bias, generator, digital)

    def _assemble(
        self,
        device: Device,
        estimator: Estimator | None,
        surrogate: Surrogate | None,
        budget: Budget | None,
        bias: bool,
        generator: torch.Generator | None,
        digital: SparseWeights | None,
    ) -> None:
        spec = device.declaration
        if digital is not None and (spec.in_shape, spec.out_shape) != ((digital.d_in,), (digital.d_out,)):
            raise ShapeError(f"the digital weights map {digital.d_in} to {digital.d_out}, and this is {spec.name}")
        self.device = device
        self.estimator, self.surrogate, self.reason = complete(spec, estimator, surrogate)
        self.estimator.bind(spec)
        if self.estimator.reads is not None and self.estimator.reads is not self.surrogate:
            raise IncompatibleError(f"{self.estimator} reads another surrogate than the layer is given")
        self.ledger = Ledger()
        self.budget = budget
        if generator is None:
            generator = torch.Generator().manual_seed(int(torch.randint(2**62, (), device="cpu")))
        self.generator = generator
        self.theta = nn.Parameter(spec.theta.draw(generator))
        self.surrogate.bind(spec)
        self.gain = nn.Parameter(torch.ones(()))
        self.bias = nn.Parameter(torch.zeros(spec.out_shape)) if bias else None
        self.digital = digital
        self.conversion: Programmed | None = None  # what `approximate` reached last
        # The setting that the surrogate stands for, once it has started.
        self.register_buffer("theta_tracked", torch.zeros_like(self.theta, requires_grad=False))
        self.started = False
        self._sent: Tensor | None = None  # θ as it is sent to the device; the same object as long as θ stays
        self._known: Tensor | None = None  # the setting that the surrogate stands for, where it is such an object
        self._observed = 0  # batches that the surrogate has seen
        # What `diagnose` tells: the gradients for θ, and what the surrogate last expected wrongly.
        self.signal = SignalMeter(self.theta.numel())
        self._residual: Tensor | None = None
        self.answers = AnswerMemory()
        self.scale = OutputScale()

    @property
    def in_shape(self) -> tuple[int, ...]:
        return self.device.in_shape

    @property
    def out_shape(self) -> tuple[int, ...]:
        return self.device.out_shape

    # torch.compile runs this as it is. (Unlike the public name, this one imports the compiler only when it is used.)
    @torch._disable_dynamo  # pyright: ignore[reportPrivateImportUsage]
    def forward(self, x: Tensor) -> Tensor:
        theta = self.theta
        check_execution(x, theta)
        check_rows(x, self.in_shape, theta.dtype, str(self.device))
        lead = x.shape[: x.dim() - len(self.in_shape)]
        with torch.autocast(x.device.type, enabled=False):
            x = x.to(theta.dtype)
            rows = x.reshape(-1, *self.in_shape)
            y = BlackBox.apply(rows, theta, self, self._setting(theta), torch.is_grad_enabled())
            y = self.gain * y.reshape(*lead, *self.out_shape)  # pyright: ignore[reportOptionalMemberAccess]
            if self.digital is not None:
                y = y + self.digital(x)
            return y if self.bias is None else y + self.bias

    @classmethod
    def from_linear(
        cls,
        linear: nn.Linear,
        device: Device,
        estimator: Estimator | None = None,
        surrogate: Surrogate | None = None,
        budget: Budget | None = None,
        generator: torch.Generator | None = None,
        *,
        programmer: Programmer | None = None,
        digital: float = 0.0,
    ) -> PhysicalLayer:
        """A layer whose device is programmed to the trained weights: `gain · A(θ) + S ≈ W`, bias as it is.

        S are the largest weights by magnitude, the fraction `digital` of all: they stay digital and trainable, and the
        device approximates what is left. The rest is as in `PhysicalLayer(...)` and `approximate`; `conversion` tells
        how near the device came.
        """
        programming.check_linear(linear)
        _check_kinds(device, estimator, surrogate, budget, programmer=programmer)
        programming.check_wanted(linear.weight, device.declaration)
        kept = SparseWeights.largest(linear.weight, digital) if digital else None
        layer = cls(device, estimator, surrogate, budget, linear.bias is not None, generator, digital=kept)
        layer.to(linear.weight.device, linear.weight.dtype)
        if layer.bias is not None:
            layer.bias.data.copy_(linear.bias)
        layer.approximate(linear.weight, programmer)
        return layer

    @torch.no_grad()
    def approximate(self, weight: Tensor, programmer: Programmer | None = None) -> Programmed:
        """Program the device to `gain · A(θ) + S ≈ weight` (d_out, d_in): sets θ and the gain.

        By default the `programmer` is the one that suits what is known of the device (`bp.programming.choose`). What it
        asks is booked as `CALIBRATE`, in this layer's ledger and budget. The surrogate stands at the new θ afterwards
        where what was read is enough for it. Warns where more than half of the weights' norm is out of reach.
        """
        spec, weight = self.device.declaration, weight.detach().to(self.theta)
        wanted = weight if self.digital is None else weight - self.digital.matrix()
        programming.check_wanted(wanted, spec)
        if programmer is None:
            programmer = programming.choose(self.device, self.estimator, self.surrogate)
        generator = self._generator_beside(self.theta)
        found = self._run(programmer.program(wanted, spec.theta.clamp(self.theta.clone()), spec, generator))
        self.theta.copy_(found.theta)
        self.gain.fill_(found.gain)
        stands = programmer.surrogate is self.surrogate
        self.started = stands or programming.start_from(self.surrogate, found, generator)
        self.theta_tracked.copy_(found.theta)
        self._known = None
        self.conversion = found
        programming.warn_if_poor(self.device, found, stacklevel=2)
        return found

    @torch.no_grad()
    def to_linear(self) -> nn.Linear:
        """A digital layer that does what this one does: `W = gain · A(θ) + S`, A read now and booked as `EVALUATE`.

        **Costs** the power of two rows that is at least d_in, of ±1.
        """
        spec = self.device.declaration
        programming.require_matrix(spec, "a device can be read as weights")
        theta = spec.theta.clamp(self.theta.detach().clone())
        weight = self.gain * self._run(programming.read_matrix(spec, theta, Purpose.EVALUATE))[0]
        # Without weights of its own, which would be drawn from the global generator.
        linear = nn.Linear(spec.d_in, spec.d_out, self.bias is not None, device="meta", dtype=weight.dtype)
        linear = linear.to_empty(device=weight.device)
        linear.weight.copy_(weight if self.digital is None else weight + self.digital.matrix())
        if self.bias is not None:
            linear.bias.copy_(self.bias)
        return linear.train(self.training)

    # What _autograd.Rules asks of a layer. `setting` is θ as it was sent, and the same object as long as θ stays.

    def measure_rows(self, x: Tensor, setting: Tensor, wants_x: bool, wants_theta: bool) -> tuple[Tensor, int]:
        if not len(x):
            return x.new_zeros(0, *self.out_shape), self._observed
        query = Query(x, setting, Purpose.FORWARD if self.training else Purpose.EVALUATE)
        follows = self.training and (wants_x or (wants_theta and self.estimator.reads is not None))
        if follows:
            self.surrogate.drive = math.sqrt(float(x.square().sum()) / len(x))
        y = self._run(self._read_and_follow(query) if follows else read(query))
        if self.answers.unconfirmed:
            self._confirm_device(x, y)
        if follows:
            if (residual := self._unexpected(x, y)) is not None:
                self._residual = residual
                self.answers.saw(residual)
            self.surrogate.observe(x, y)
            self._observed += 1
        if self.training:
            self.answers.keep(x, y, setting)
            self.scale.see(y, self.gain, str(self.device))
        return y, self._observed

    def grad_rows(self, x: Tensor, setting: Tensor, y: Tensor, grad_y: Tensor, observed: int) -> Tensor:
        self._require_surrogate_at(setting)
        if observed == self._observed:
            return self.surrogate.vjp(x, grad_y)
        return self.surrogate.vjp_recalled(x, y, grad_y)  # other batches have been seen since

    def grad_theta(self, x: Tensor, setting: Tensor, y: Tensor, grad_y: Tensor) -> Tensor:
        if self.estimator.reads is not None:
            self._require_surrogate_at(setting)
        generator = self._generator_beside(setting)
        grad = self._run(self.estimator.vjp(x, setting, y, grad_y, self.device.declaration, generator))
        if self.training:
            self.signal.add(grad)
        return grad

    @torch.no_grad()
    def _setting(self, theta: Tensor) -> Tensor:
        """The setting to send for θ: the nearest within the limits.

        In `train()` θ itself is moved there, and against the drift that the surrogate has found. The latter waits until
        the optimizer has moved θ, when it costs no programming.
        """
        limits, wanted = self.device.theta, theta.detach()
        if self.training:
            if theta.requires_grad and self.started and not self._stands_at(limits.clamp(wanted)):
                wanted = self.surrogate.counter(wanted)
            wanted = limits.clamp(wanted)
            if not (wanted is theta or torch.equal(wanted, theta)):
                theta.copy_(wanted)
        wanted = limits.clamp(wanted)
        if self._sent is None or not same_setting(self._sent, wanted):
            self._sent = wanted.clone()
        return self._sent

    def _read_and_follow(self, query: Query) -> Procedure[Tensor]:
        """Read the batch, and bring the surrogate to its setting: at the start after it, so that instruments which set
        their own range see the data first; later on the way, where one programming serves both.
        """
        if self.started:
            return (yield from reading_first(query, self._follow(query.theta)))
        (y,) = yield [query]
        yield from self._follow(query.theta)
        return y

    def _follow(self, setting: Tensor) -> Procedure[None]:
        """Bring the surrogate to the setting, if it is not there yet."""
        if self._stands_at(setting):
            return
        generator = self._generator_beside(setting)
        if self.started:
            yield from self.surrogate.track(self.theta_tracked.clone(), setting, generator)
        else:
            yield from self.surrogate.start(setting, generator)
            self.started = True
        self.theta_tracked.copy_(setting)
        self._known = setting

    def _stands_at(self, setting: Tensor) -> bool:
        return self.started and (self._known is setting or same_setting(self.theta_tracked, setting))

    def _require_surrogate_at(self, setting: Tensor) -> None:
        if not self._stands_at(setting):
            raise SurrogateError(
                "the surrogate does not know the device at this theta: it follows in `train()`, in a forward pass "
                "that needs it for a gradient; call `train()` on the layer, or run that pass, before this backward"
            )

    def _run(self, procedure: Procedure[T]) -> T:
        with torch.no_grad():
            return run(procedure, metered(self.device, self.ledger, self.budget))

    def _generator_beside(self, theta: Tensor) -> torch.Generator:
        """The source of random directions where θ lives: in `train()` this layer's own, which is replaced by one seeded
        from it where θ lives elsewhere; in `eval()` a copy, so that nothing changes.
        """
        generator = self.generator
        if not self.training:
            generator = torch.Generator(generator.device)
            generator.set_state(self.generator.get_state())
        if generator.device.type != theta.device.type:
            seed = torch.randint(2**62, (), generator=generator, device=generator.device)
            generator = torch.Generator(theta.device).manual_seed(int(seed))
        if self.training:
            self.generator = generator
        return generator

    def _unexpected(self, x: Tensor, y: Tensor) -> Tensor | None:
        """`‖y − ŷ‖/‖y‖` of 16 rows, ŷ being the surrogate's prediction; None where it makes none."""
        expected = self.surrogate.predict(x[:16])  # enough rows to tell
        return None if expected is None else (y[:16] - expected).norm() / y[:16].norm()

    @property
    def residual(self) -> float | None:
        """The latest batch's `‖y − ŷ‖/‖y‖`, ŷ being the surrogate's prediction before it saw the batch."""
        return None if self._residual is None else float(self._residual)

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

    def _confirm_device(self, x: Tensor, y: Tensor) -> None:
        """Warn where the first batch after loading a checkpoint shows, beyond doubt, a device that answers otherwise.

        The batch alone raises the doubt, so a device that is as it was is asked nothing more.
        """
        self.answers.unconfirmed = False
        residual = self._unexpected(x, y) if self.started else None
        if residual is None or not self.answers.doubts(residual):
            return
        try:
            difference = self.verify()
        except BudgetExhausted:
            difference = float(residual)
        if difference is not None:
            warnings.warn(
                f"{self.device} answers otherwise than when this checkpoint was written: its readings differ by "
                f"{difference:.0%}. It has moved, or it is another device, and what the surrogate and the estimator "
                "have learnt may not hold. To learn it from the start, load `bp.for_another_device(state)`",
                DeviceChangedWarning,
                stacklevel=2,
            )

    @torch.no_grad()
    def diagnose(self) -> Diagnosis:
        """How the training of the device stands, from what was measured anyway."""
        low, high = self.device.theta.bounds(self.theta)
        return Diagnosis(
            signal=self.signal.share,
            gradients=self.signal.count,
            error=self.signal.error,
            residual=self.residual,
            at_limit=float(((self.theta <= low) | (self.theta >= high)).double().mean()),
            details={**self.surrogate.diagnosis(), **self.estimator.diagnosis()},
        )

    def __prepare_scriptable__(self) -> PhysicalLayer:
        raise IncompatibleError(f"`torch.jit.script`: {NO_GRAPH}")

    def __getattr__(self, name: str) -> Any:
        if name == "weight":
            raise AttributeError(NO_WEIGHT)
        return super().__getattr__(name)

    def __deepcopy__(self, memo: dict[int, Any]) -> PhysicalLayer:
        """A copy speaks to the same device, spends from the same budget, and counts from zero what it asks itself."""
        memo[id(self.ledger)] = Ledger()
        copied = memo[id(self)] = type(self).__new__(type(self))
        copied.__dict__ = copy.deepcopy(self.__dict__, memo)
        return copied

    # Saved beside the parameters and the surrogate's buffers: what the next step also depends on.

    def get_extra_state(self) -> Tensor:
        return pack(
            {
                "version": layer_state.VERSION,
                "facts": layer_state.facts(self.device),
                "started": self.started,
                "residual": self.residual,
                "answers": self.answers.state_dict(self.theta_tracked if self.started else None),
                "scale": self.scale.state_dict(),
                "ledger": self.ledger.state_dict(),
                "budget": self.budget.state_dict() if self.budget is not None else None,
                "generator": layer_state.saved_generator(self.generator),
                "device": self.device.state_dict(),
            }
        )

    def set_extra_state(self, state: object) -> None:
        self._take(layer_state.parsed(state, self.device))

    def _take(self, state: dict[str, Any]) -> None:
        self.generator = layer_state.restored_generator(**state["generator"])
        self._sent = self._known = None
        if "another_device" in state:
            self.started = False
            return
        layer_state.restore_device(self.device, state["device"])
        self.ledger.load_state_dict(state["ledger"])
        if self.budget is not None and state["budget"] is not None:
            self.budget.load_state_dict(state["budget"])
        self.scale.load_state_dict(state.get("scale", {"decided": True, "rms": None}))  # older ones kept their gain
        self.started = state["started"]
        self._residual = None if state["residual"] is None else torch.tensor(state["residual"])
        if "answers" in state:
            self.answers.load_state_dict(state["answers"])

    def _load_from_state_dict(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, state_dict: dict[str, Any], prefix: str, *args: Any
    ) -> None:
        """Refuse what is foreign before anything of this layer is changed; then load as every module does."""
        layer_state.prepare(self, state_dict, prefix)
        for name, value in self.named_buffers(prefix.removesuffix(".")):
            other = state_dict.get(name)
            if isinstance(other, Tensor) and other.shape != value.shape:
                raise CheckpointError(f"{name} has shape {tuple(other.shape)}, and here {tuple(value.shape)}")
        super()._load_from_state_dict(state_dict, prefix, *args)

    def extra_repr(self) -> str:
        estimator = "the surrogate" if self.estimator.reads is not None else self.estimator
        parts = [f"{self.device}", f"gradient of theta: {estimator}"]
        parts += [f"chosen for: {self.reason}"] if self.reason else []
        parts += [f"{self.scale}"] if f"{self.scale}" else []
        return ",\n".join([*parts, *([f"{self.budget}"] if self.budget is not None else [])])


def _check_kinds(
    device: object, estimator: object, surrogate: object, budget: object, programmer: object = None
) -> None:
    for name, value, kind in (
        ("device", device, Device),
        ("estimator", estimator, Estimator),
        ("surrogate", surrogate, Surrogate),
        ("budget", budget, Budget),
        ("programmer", programmer, Programmer),
    ):
        if not isinstance(value, kind) and (value is not None or name == "device"):
            hint = "; give an object and not its class" if isinstance(value, type) else ""
            raise ArgumentError(f"`PhysicalLayer({name}=...)` takes a {kind.__name__}, got {value!r}{hint}")
