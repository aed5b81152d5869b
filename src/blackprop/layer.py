"""The layer: a device in a model, with the two gradients that autograd cannot find and the ledger of what they cost."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from blackprop import programming
from blackprop._autograd import BlackBox
from blackprop.devices import Device
from blackprop.diagnostics import Diagnosis, SignalMeter
from blackprop.errors import ArgumentError, CheckpointError, IncompatibleError, ShapeError, SurrogateError
from blackprop.estimators import Estimator
from blackprop.ledger import Budget, Ledger, metered
from blackprop.planning import complete
from blackprop.programming import Programmed, Programmer
from blackprop.query import Procedure, Purpose, Query, ask, reading_first, run, same_setting
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
    moves θ against that. Activation checkpointing measures twice, and is counted twice.

    **Arguments:** `device`; `estimator`, `surrogate`, by default those of `bp.plan`; `budget`, which layers
    may share; `bias`, a trainable offset `out_shape`; `generator`, the source of the initial θ and of every random
    direction (by default seeded once, here, from torch's global stream, as the weights of a digital layer are);
    `digital`, the weights beside the device.
    """

    theta_tracked: Tensor
    started: Tensor
    residual: Tensor

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
            generator = torch.Generator().manual_seed(int(torch.randint(2**62, ())))
        self.generator = generator
        self.theta = nn.Parameter(spec.theta.draw(generator))
        self.surrogate.bind(spec)
        self.gain = nn.Parameter(torch.ones(()))
        self.bias = nn.Parameter(torch.zeros(spec.out_shape)) if bias else None
        self.digital = digital
        self.conversion: Programmed | None = None  # what `approximate` reached last
        # The setting that the surrogate stands for, once it has started.
        self.register_buffer("theta_tracked", torch.zeros_like(self.theta, requires_grad=False))
        self.register_buffer("started", torch.tensor(False))
        # What `diagnose` tells: the gradients for θ, and what the surrogate last expected wrongly (negative: nothing).
        self.signal = SignalMeter(self.theta.numel())
        self.register_buffer("residual", torch.tensor(-1.0))

    @property
    def in_shape(self) -> tuple[int, ...]:
        return self.device.in_shape

    @property
    def out_shape(self) -> tuple[int, ...]:
        return self.device.out_shape

    # A device cannot be traced, so torch.compile runs this layer as it is. (Unlike the public name, this one is lazy.)
    @torch._disable_dynamo  # pyright: ignore[reportPrivateImportUsage]
    def forward(self, x: Tensor) -> Tensor:
        kept = x.dim() - len(self.in_shape)
        if kept < 0 or tuple(x.shape[kept:]) != self.in_shape:
            raise ShapeError(f"{self.device} takes rows of shape {self.in_shape}, got an input of {tuple(x.shape)}")
        if self.theta.dtype not in (torch.float32, torch.float64):
            raise ArgumentError(
                f"a device works in float32 or float64 and this layer was cast to {self.theta.dtype}; for mixed "
                "precision leave the model in float32 and use autocast"
            )
        with torch.autocast(x.device.type, enabled=False):
            rows = x.to(self.theta.dtype).reshape(-1, *self.in_shape)
            self._put_back()
            self._stay_within_limits()
            y = BlackBox.apply(rows, self.theta, self, torch.is_grad_enabled())
            y = self.gain * y.reshape(*x.shape[:kept], *self.out_shape)  # pyright: ignore[reportOptionalMemberAccess]
            if self.digital is not None:
                y = y + self.digital(x.to(self.theta.dtype))
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
        self._keep_generator_with(self.theta)
        found = self._run(programmer.program(wanted, spec.theta.clamp(self.theta.clone()), spec, self.generator))
        self.theta.copy_(found.theta)
        self.gain.fill_(found.gain)
        stands = programmer.surrogate is self.surrogate
        self.started.fill_(stands or programming.start_from(self.surrogate, found, self.generator))
        self.theta_tracked.copy_(found.theta)
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
        linear = nn.Linear(spec.d_in, spec.d_out, self.bias is not None).to(weight)
        linear.weight.copy_(weight if self.digital is None else weight + self.digital.matrix())
        if self.bias is not None:
            linear.bias.copy_(self.bias)
        return linear.train(self.training)

    # What _autograd.Rules asks of a layer.

    def measure_rows(self, x: Tensor, theta: Tensor, wants_x: bool, wants_theta: bool) -> Tensor:
        if not len(x):
            return x.new_zeros(0, *self.out_shape)
        theta = self.device.theta.clamp(theta)
        query = Query(x, theta, Purpose.FORWARD if self.training else Purpose.EVALUATE)
        follows = wants_x or (wants_theta and self.estimator.reads is not None)
        if not (self.training and follows):
            return self._run(ask(query))[0]
        self.surrogate.drive = math.sqrt(float(x.square().sum()) / len(x))
        y = self._run(self._read_and_follow(query))
        if (expected := self.surrogate.predict(x[:16])) is not None:  # enough rows to tell
            self.residual.copy_((y[:16] - expected).norm() / y[:16].norm())
        self.surrogate.observe(x, y)
        return y

    def grad_rows(self, x: Tensor, theta: Tensor, grad_y: Tensor) -> Tensor:
        self._require_surrogate_at(theta)
        return self.surrogate.vjp(x, grad_y)

    def grad_theta(self, x: Tensor, theta: Tensor, y: Tensor, grad_y: Tensor) -> Tensor:
        if self.estimator.reads is not None:
            self._require_surrogate_at(theta)
        theta = self.device.theta.clamp(theta)
        self._keep_generator_with(theta)
        grad = self._run(self.estimator.vjp(x, theta, y, grad_y, self.device.declaration, self.generator))
        self.signal.add(grad)
        return grad

    def _read_and_follow(self, query: Query) -> Procedure[Tensor]:
        """Read the batch, and bring the surrogate to its setting: at the start after it, so that instruments which set
        their own range see the data first; later on the way, where one programming serves both.
        """
        if bool(self.started):
            return (yield from reading_first(query, self._follow(query.theta)))
        (y,) = yield [query]
        yield from self._follow(query.theta)
        return y

    def _follow(self, theta: Tensor) -> Procedure[None]:
        """Bring the surrogate to theta, if it is not there yet."""
        if self._stands_at(theta):
            return
        self._keep_generator_with(theta)
        if bool(self.started):
            yield from self.surrogate.track(self.theta_tracked.clone(), theta, self.generator)
        else:
            yield from self.surrogate.start(theta, self.generator)
            self.started.fill_(True)
        self.theta_tracked.copy_(theta)

    def _stands_at(self, theta: Tensor) -> bool:
        return bool(self.started) and same_setting(self.theta_tracked, theta)

    def _require_surrogate_at(self, theta: Tensor) -> None:
        if not self._stands_at(self.device.theta.clamp(theta)):
            raise SurrogateError(
                "the surrogate does not know the device at this theta: it follows in `train()`, in a forward pass "
                "that needs it for a gradient; call `train()` on the layer, or run that pass, before this backward"
            )

    def _run(self, procedure: Procedure[T]) -> T:
        with torch.no_grad():
            return run(procedure, metered(self.device, self.ledger, self.budget))

    @torch.no_grad()
    def _put_back(self) -> None:
        """Move θ against the drift that the surrogate has found; only where the optimizer has moved it anyway, so that
        it costs no programming, and no backward pass finds another θ.
        """
        if not (self.training and self.theta.requires_grad and bool(self.started)):
            return
        if not self._stands_at(self.device.theta.clamp(self.theta)):
            self.theta.copy_(self.surrogate.counter(self.theta))

    @torch.no_grad()
    def _stay_within_limits(self) -> None:
        if self.training and self.device.theta.limited:
            inside = self.device.theta.clamp(self.theta)
            if not torch.equal(inside, self.theta):
                self.theta.copy_(inside)

    def _keep_generator_with(self, theta: Tensor) -> None:
        """Draw where θ lives: a generator on another torch device is replaced by one seeded from it."""
        if self.generator.device.type != theta.device.type:
            seed = torch.randint(2**62, (), generator=self.generator, device=self.generator.device)
            self.generator = torch.Generator(theta.device).manual_seed(int(seed))

    @torch.no_grad()
    def diagnose(self) -> Diagnosis:
        """How the training of the device stands, from what was measured anyway."""
        spec, residual = self.device.theta, float(self.residual)
        low, high = spec.bounds(self.theta)
        return Diagnosis(
            signal=self.signal.share,
            gradients=self.signal.count,
            error=self.signal.error,
            residual=residual if residual >= 0 else None,
            at_limit=float(((self.theta <= low) | (self.theta >= high)).double().mean()),
            details={**self.surrogate.diagnosis(), **self.estimator.diagnosis()},
        )

    # Saved beside the parameters and the surrogate's buffers: what the next step also depends on.

    def get_extra_state(self) -> dict[str, Any]:
        return {
            "ledger": self.ledger.state_dict(),
            "budget": self.budget.state_dict() if self.budget is not None else None,
            "generator": {"device": self.generator.device.type, "state": self.generator.get_state()},
            "device": self.device.state_dict(),
        }

    def set_extra_state(self, state: Mapping[str, Any]) -> None:
        self.ledger, self.generator = self._parsed(state)
        self._restore_device(state["device"])
        if self.budget is not None and state["budget"] is not None:
            self.budget.load_state_dict(state["budget"])

    def _restore_device(self, state: Mapping[str, Any]) -> None:
        try:
            self.device.load_state_dict(state)
        except (KeyError, TypeError, ValueError, RuntimeError, AttributeError) as error:
            raise CheckpointError(f"this is not the state of {self.device}: {error!r}") from error

    def _parsed(self, state: Mapping[str, Any]) -> tuple[Ledger, torch.Generator]:
        try:
            ledger, generator = Ledger(), _restored(**state["generator"])
            ledger.load_state_dict(state["ledger"])
            if state["budget"] is not None:
                Budget().load_state_dict(state["budget"])
            state["device"].keys()
        except (KeyError, TypeError, ValueError, RuntimeError, AttributeError) as error:
            raise CheckpointError(f"this is not the state of a layer around {self.device}: {error!r}") from error
        return ledger, generator

    def _load_from_state_dict(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, state_dict: Mapping[str, Any], prefix: str, *args: Any
    ) -> None:
        """Refuse what is foreign before anything of this layer is changed; then load as every module does."""
        if (extra := state_dict.get(f"{prefix}_extra_state")) is not None:
            self._parsed(extra)
            self._restore_device(extra["device"])
        for name, value in self.named_buffers(prefix.removesuffix(".")):
            other = state_dict.get(name)
            if isinstance(other, Tensor) and other.shape != value.shape:
                raise CheckpointError(f"{name} has shape {tuple(other.shape)}, and here {tuple(value.shape)}")
        super()._load_from_state_dict(state_dict, prefix, *args)

    def extra_repr(self) -> str:
        estimator = "the surrogate" if self.estimator.reads is not None else self.estimator
        parts = [f"{self.device}", f"gradient of theta: {estimator}"]
        parts += [f"chosen for: {self.reason}"] if self.reason else []
        return ",\n".join([*parts, *([f"{self.budget}"] if self.budget is not None else [])])


def _restored(device: str, state: Tensor) -> torch.Generator:
    """The saved generator; on a machine that lacks its torch device, one seeded from it."""
    try:
        generator = torch.Generator(device)
    except RuntimeError:
        return torch.Generator().manual_seed(int.from_bytes(hashlib.sha256(state.numpy().tobytes()).digest()[:7]))
    generator.set_state(state.cpu())
    return generator


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
