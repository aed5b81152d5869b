"""The layer: a device in a model, the two gradients that autograd cannot compute, and the ledger of their queries."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from blackprop.conversion import Programmed, Programmer, choose
from blackprop.conversion._base import read_matrix, start_from, warn_if_poor
from blackprop.conversion._choice import check_linear, check_wanted, require_matrix
from blackprop.core._budget import Budget
from blackprop.core._ledger import Ledger
from blackprop.core._packing import pack
from blackprop.core._query import Purpose
from blackprop.devices import Device
from blackprop.errors import ArgumentError, CheckpointError, IncompatibleError, ShapeError
from blackprop.estimators import Estimator
from blackprop.nn import _state
from blackprop.nn._autograd import BlackBox
from blackprop.nn._diagnostics import Diagnosis
from blackprop.nn._measured_layer import MeasuredLayer
from blackprop.nn._refusals import NO_GRAPH, NO_WEIGHT, check_execution, check_rows, off_meta, refuse_waiting_pulses
from blackprop.nn._sparse_weights import SparseWeights
from blackprop.nn._uncompiled import uncompiled
from blackprop.planning._plan import complete
from blackprop.surrogates import Surrogate


class PhysicalLayer(MeasuredLayer):
    """A layer whose transfer is measured: `y = gain · f(x; θ) + bias`, x `(..., *in_shape)`, y `(..., *out_shape)`;
    plus `x Sᵀ`, where a few weights S are kept `digital`.

    θ is an ordinary parameter `(P,)`: any optimizer, scheduler, `state_dict` and clipping works on it. Forward sends
    the rows through the device. Backward computes `∂L/∂θ` by the `estimator` and `∂L/∂x` by the `surrogate`, each only
    if required: with `theta.requires_grad_(False)` there are no parameter queries, and no surrogate queries if the
    input needs no gradient. `ledger` counts all queries.

    In `train()` a differentiable forward pass first brings the surrogate to the present θ, once for each change of θ,
    even if several backward passes accumulate. In `eval()` the state is unchanged: rows are booked as `EVALUATE`, and
    there is a gradient only at a θ that the surrogate knows. If θ has limits, the device is sent the nearest setting
    inside them, and training moves θ there (projected gradient descent). If the surrogate finds drift of the settings,
    training moves θ against it. If the first readings in training are far from 1 (under 0.01 or over 100 on average),
    the gain is set to bring them to 1, see `OutputScale`. Activation checkpointing measures and counts twice.

    **Arguments:**

    - `device`: a `Device`.
    - `estimator`, `surrogate` (default: chosen by `bp.plan`): the methods for the two gradients.
    - `budget` (default None, no limit): layers may share one.
    - `bias` (default False): add a trainable offset of shape `out_shape`.
    - `generator` (default: seeded here from torch's global stream): draws the initial θ and random directions.
    - `digital` (default None): the weights S beside the device.

    **Raises** `ArgumentError`, `IncompatibleError` or `ShapeError` for parts that do not fit.
    """

    estimator: Estimator
    surrogate: Surrogate
    reason: str

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
        self.ledger: Ledger = Ledger()
        self.budget = budget
        if generator is None:
            generator = torch.Generator().manual_seed(int(torch.randint(2**62, (), device="cpu")))
        self.generator: torch.Generator = generator
        self.theta: nn.Parameter = nn.Parameter(spec.theta.draw(generator))
        self.surrogate.bind(spec)
        self.gain: nn.Parameter = nn.Parameter(torch.ones(()))
        self.bias: nn.Parameter | None = nn.Parameter(torch.zeros(spec.out_shape)) if bias else None
        self.digital = digital
        self.conversion: Programmed | None = None  # the last result of `approximate`
        self._watch()

    @property
    def in_shape(self) -> tuple[int, ...]:
        return self.device.in_shape

    @uncompiled
    def forward(self, x: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        theta = self.theta
        check_execution(x, theta)
        shape = self.device.in_shape
        check_rows(x, shape, theta.dtype, self.device)
        lead = x.shape[: x.dim() - len(shape)]
        with torch.autocast(x.device.type, enabled=False):
            x = x.to(theta.dtype)
            rows = x.reshape(-1, *shape)
            y = BlackBox.apply(rows, theta, self, self._setting(theta), torch.is_grad_enabled())
            y = self.gain * y.reshape(*lead, *self.device.out_shape)
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
        device approximates the remainder. The rest is as in `PhysicalLayer(...)` and `approximate`; `conversion` tells
        how near the device came.
        """
        check_linear(linear)
        _check_kinds(device, estimator, surrogate, budget, programmer=programmer)
        check_wanted(linear.weight, device.declaration)
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

        By default `bp.conversion.choose` chooses the `programmer` by the declaration of the device. Its queries are
        booked as `CALIBRATE`, in this layer's ledger and budget. The surrogate is at the new θ afterwards if the
        readings suffice for it. Warns where more than half of the weights' norm is out of reach.
        """
        refuse_waiting_pulses(self.estimator, self.theta, "approximate")
        spec, weight = self.device.declaration, weight.detach().to(self.theta)
        check_wanted(wanted := weight if self.digital is None else weight - self.digital.matrix(), spec)
        programmer = programmer or choose(self.device, self.estimator, self.surrogate)
        generator = self._generator_beside(self.theta)
        found = self._run(programmer.program(wanted, spec.theta.clamp(self.theta.clone()), spec, generator))
        self.theta.copy_(found.theta)
        self.gain.fill_(found.gain)
        stands = programmer.surrogate is self.surrogate
        self.started = stands or start_from(self.surrogate, found, generator)
        self.theta_tracked = found.theta.to(self.theta, copy=True)
        self._now.sent = None  # the next pass compares θ with the setting of the surrogate
        self.conversion = found
        warn_if_poor(self.device, found, stacklevel=2)
        return found

    @torch.no_grad()
    def to_linear(self) -> nn.Linear:
        """Return an equivalent digital layer, `W = gain · A(θ) + S`; A is read now and booked as `EVALUATE`.

        **Costs** the power of two rows that is at least d_in, of ±1.
        """
        refuse_waiting_pulses(self.estimator, self.theta, "to_linear")
        spec = self.device.declaration
        require_matrix(spec, "a device can be read as weights")
        theta = spec.theta.clamp(self.theta.detach().clone())
        weight = self.gain * self._run(read_matrix(spec, theta, Purpose.EVALUATE))[0]
        # Without weights of its own, which would be drawn from the global generator.
        linear = nn.Linear(spec.d_in, spec.d_out, self.bias is not None, device="meta", dtype=weight.dtype)
        linear = linear.to_empty(device=weight.device)
        linear.weight.copy_(weight if self.digital is None else weight + self.digital.matrix())
        if self.bias is not None:
            linear.bias.copy_(self.bias)
        return linear.train(self.training)

    @torch.no_grad()
    def diagnose(self) -> Diagnosis:
        """Return the diagnosis of the training of the device, from readings of training."""
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
        """Copy the layer: the copy shares device and budget, and its ledger starts at zero."""
        memo[id(self.ledger)] = Ledger()
        copied = memo[id(self)] = type(self).__new__(type(self))
        copied.__dict__ = copy.deepcopy(self.__dict__, memo)
        return copied

    def get_extra_state(self) -> Tensor:  # further state on which the next step depends, beside parameters and buffers
        return pack(
            {
                "version": _state.VERSION,
                "facts": _state.facts(self.device),
                "started": self.started,
                "residual": self.residual,
                "answers": self.answers.state_dict(self.theta_tracked if self.started else None),
                "scale": self.scale.state_dict(),
                "ledger": self.ledger.state_dict(),
                "budget": self.budget.state_dict() if self.budget is not None else None,
                "generator": _state.saved_generator(self.generator),
                "device": self.device.state_dict(),
            }
        )

    def set_extra_state(self, state: object) -> None:
        self._take(_state.parsed(state, self.device))

    def _take(self, state: dict[str, Any]) -> None:
        self.generator = _state.restored_generator(**state["generator"])
        self._now.sent = None
        if "another_device" in state:
            self.started = False
            return
        _state.restore_device(self.device, state["device"])
        self.ledger.load_state_dict(state["ledger"])
        if self.budget is not None and state["budget"] is not None:
            self.budget.load_state_dict(state["budget"])
        self.scale.load_state_dict(state.get("scale", {"decided": True, "rms": None}))  # older ones kept their gain
        self.started: bool = state["started"]
        self._now.residual = state["residual"]
        if "answers" in state:
            self.answers.load_state_dict(state["answers"])

    def _load_from_state_dict(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, state_dict: dict[str, Any], prefix: str, *args: Any
    ) -> None:
        """Refuse a checkpoint of another device before this layer is changed; then load as other modules do."""
        _state.prepare(self, state_dict, prefix)
        self.theta_tracked: Tensor = self.theta_tracked.clone()  # perhaps the setting that was sent; written to here
        for name, value in self.named_buffers(prefix.removesuffix(".")):
            other, growing = state_dict.get(name), name.rsplit(".", 1)[-1] in self.surrogate.GROWING
            if isinstance(other, Tensor) and other.shape[growing:] != value.shape[growing:]:
                raise CheckpointError(f"{name} has shape {tuple(other.shape)}, and here {tuple(value.shape)}")
        super()._load_from_state_dict(state_dict, prefix, *args)

    def extra_repr(self) -> str:
        estimator = "the surrogate" if self.estimator.reads is not None else self.estimator
        chosen = f"chosen for: {self.reason}" if self.reason else ""
        budget = f"{self.budget}" if self.budget is not None else ""
        return ",\n".join(
            filter(None, (f"{self.device}", f"gradient of theta: {estimator}", chosen, f"{self.scale}", budget))
        )


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
