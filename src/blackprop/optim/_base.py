"""Training by the loss alone: displace the parameters, evaluate the loss, restore the parameters, move them."""

from __future__ import annotations

import abc
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from blackprop.core._theta import ThetaSpec
from blackprop.errors import ArgumentError, CheckpointError
from blackprop.nn._layer import PhysicalLayer
from blackprop.optim._displacement import Place, centred, displaced, one_number

Closure = Callable[[], Any]
Slope = tuple[int, float]  # a direction's key, and half the change of the loss from one of its ends to the other


class ForwardOnly(torch.optim.Optimizer, abc.ABC):
    """Base class of optimizers that need only a loss to call: gradients are taken neither by autograd nor by an
    estimator.

    `step(closure)` evaluates the loss at displaced parameters θ + δ u and moves θ by the changes along the directions
    u. The closure returns the loss (a tensor of one element or a number), runs under `torch.no_grad()`, needs no
    backward pass, and is called `passes` times a step, on the same batch and with the same dropout. Each call is an
    ordinary training pass for the model's buffers, such as batch statistics.

    A step is all or nothing. If the closure raises an exception, if its loss is not one finite number, or if the loss
    has never changed with the parameters, the parameters and the random numbers are restored bit for bit. Directions
    are regenerated from their keys and never stored. While the loss is evaluated, a copy of the parameters is stored,
    since θ + δ − δ is not θ in floating point (`in_place` does without); momentum or Adam's averages are stored where
    requested.

    All given parameters are trained, including those that require no gradient. A `PhysicalLayer` in `train()` books its
    rows as `FORWARD`, with one programming for each displaced setting, and its surrogate does not track. With `model`,
    the limits of its devices are kept: a θ within a step of a limit is displaced about the nearest setting that leaves
    room, and moves no further than the limit.
    """

    steps: int

    in_place: bool = False
    """Whether parameters are put back by subtracting what was added, and not from a copy."""

    integration: int = 1
    """How many steps are averaged before the parameters move."""

    def __init__(
        self,
        params: Any,
        defaults: dict[str, Any],
        generator: torch.Generator | None,
        model: nn.Module | None,
    ) -> None:
        layers = [m for m in model.modules() if isinstance(m, PhysicalLayer)] if model is not None else []
        self._limits: dict[int, ThetaSpec] = {id(m.theta): m.device.theta for m in layers if m.device.theta.limited}
        if generator is None:
            generator = torch.Generator().manual_seed(int(torch.randint(2**62, ())))
        self.generator = generator
        self.steps = 0
        self._depends = False  # whether the loss has been seen to change with the parameters
        self._pending: list[Slope] = []
        self._built = False
        super().__init__(params, defaults)
        self._check_size()
        self._built = True

    @property
    @abc.abstractmethod
    def passes(self) -> int:
        """Evaluations of the loss in a step."""

    @property
    @abc.abstractmethod
    def bias_order(self) -> int:
        """q: the mean of the estimate is the gradient within O(δ^q)."""

    @abc.abstractmethod
    def relative_variance(self, size: int) -> float:
        """Return `E|ĝ − g|²/|g|²` of the estimate that moves the parameters, for `size` of them in one group."""

    @abc.abstractmethod
    def _direction(self, p: Tensor, group: dict[str, Any], place: Place) -> Tensor:
        """Return the part of a direction for `p`, in its shape and dtype."""

    @abc.abstractmethod
    def _second_moment(self, group: dict[str, Any]) -> float:
        """Return `E u_i²`."""

    @abc.abstractmethod
    def _probe(self, loss_at: Callable[..., float], tick: int) -> tuple[list[Slope], float]:
        """Return the slopes of one step, and the loss.

        `loss_at(key, sign)` is the loss at θ + sign δ u, without a key at θ; `tick` counts the steps.
        """

    def _reach(self, group: dict[str, Any]) -> float:
        """Return the largest displacement of a parameter."""
        return self._delta(group)

    def _delta(self, group: dict[str, Any]) -> float:
        return group["delta"]

    def _rate(self, group: dict[str, Any]) -> float:
        return group["lr"]

    def _shaped(self, grad: Tensor, group: dict[str, Any]) -> Tensor:
        return grad

    def _check_size(self) -> None:
        """Raise an error if the number of parameters does not suit the method."""

    # Shared by all methods.

    @property
    def size(self) -> int:
        """P, over all groups."""
        return sum(p.numel() for _, p in self._parameters())

    @torch.no_grad()
    def step(self, closure: Closure | None = None) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Make one step; return the loss at θ, or its mean over the pairs of ends, which equals it within O(δ²)."""
        slopes, loss = self._measure(closure, self.steps)
        self._pending += slopes
        if (self.steps + 1) % self.integration == 0:
            for group, p, grad in self._gradients(self._pending):
                self._move(p, grad, group)
            self._pending = []
        self.steps += 1
        return torch.tensor(loss)

    @torch.no_grad()
    def estimate(self, closure: Closure) -> list[Tensor]:
        """Return the gradient that `integration` steps would find here, tensor by tensor, without moving parameters.

        Draws random numbers as the steps would.
        """
        slopes = [s for tick in range(self.integration) for s in self._measure(closure, self.steps + tick)[0]]
        return [grad for _, _, grad in self._gradients(slopes)]

    @contextmanager
    def hidden(self) -> Iterator[None]:
        """Context manager that hides the parameters of this optimizer from autograd, estimators and surrogates.

        For mixed training, in which the layers after the black box are trained by backpropagation:

        ```
        before.step(lambda: loss_of(model(x)))
        with before.hidden():
            loss_of(model(x)).backward()
        after.step()
        ```
        """
        wanted = [p for _, p in self._parameters() if p.requires_grad]
        for p in wanted:
            p.requires_grad_(False)
        try:
            yield
        finally:
            for p in wanted:
                p.requires_grad_()

    def state_dict(self) -> dict[str, Any]:
        """Return the state of a torch optimizer, and the state of the perturbations."""
        own = {"generator": self.generator.get_state(), "steps": self.steps, "depends": self._depends}
        return {**super().state_dict(), "perturbations": {**own, "pending": list(self._pending)}}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        try:
            own = state_dict["perturbations"]
            generator = torch.Generator(self.generator.device)
            generator.set_state(own["generator"].cpu())
            steps, depends = int(own["steps"]), bool(own["depends"])
            pending = [(int(key), float(slope)) for key, slope in own["pending"]]
        except (KeyError, TypeError, ValueError, RuntimeError, AttributeError) as error:
            raise CheckpointError(f"this is not the state of a `{type(self).__name__}`: {error!r}") from error
        super().load_state_dict(state_dict)
        self.generator.set_state(generator.get_state())
        self.steps, self._depends, self._pending = steps, depends, pending

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        self._check_group({**self.defaults, **param_group})
        super().add_param_group(param_group)
        group = self.param_groups[-1]
        try:
            for spec in (self._limits[id(p)] for p in group["params"] if id(p) in self._limits):
                spec.check_reach(self._reach(group))
            if self._built:
                self._check_size()
        except Exception:
            self.param_groups.pop()
            raise

    def _check_group(self, group: dict[str, Any]) -> None:
        """Raise `ArgumentError` for unusable options, in the words of the caller."""
        name = type(self).__name__
        for option in ("lr", "delta"):
            if not 0 < group[option] < math.inf:
                raise ArgumentError(f"`{name}({option}=...)` must be positive and finite, got {group[option]}")
        if group.get("weight_decay"):
            raise ArgumentError(f"`{name}` has no weight decay, got {group['weight_decay']}; add it to the loss")
        momentum, betas = group.get("momentum", 0.0), group.get("betas")
        if not 0 <= momentum < 1:
            raise ArgumentError(f"`{name}(momentum=...)` must be in [0, 1), got {momentum}")
        if betas is not None and not (len(betas) == 2 and all(0 <= beta < 1 for beta in betas)):
            raise ArgumentError(f"`{name}(betas=...)` takes two numbers in [0, 1), got {betas}")
        if betas is not None and momentum:
            raise ArgumentError(f"`{name}` takes `momentum` or `betas`, whose first is a momentum, not both")

    def _parameters(self) -> Iterator[tuple[dict[str, Any], Tensor]]:
        for group in self.param_groups:
            for p in group["params"]:
                yield group, p

    def _draw_keys(self, count: int) -> list[int]:
        place = self.generator.device
        return torch.randint(2**62, (count,), generator=self.generator, device=place).tolist()

    def _along(self, key: int) -> Iterator[tuple[dict[str, Any], Tensor, Tensor]]:
        """Return a direction, tensor by tensor; the same at each call."""
        offset, sources = 0, {}
        for group, p in self._parameters():
            yield group, p, self._direction(p, group, Place(key, offset, sources))
            offset += p.numel()

    def _measure(self, closure: Closure | None, tick: int) -> tuple[list[Slope], float]:
        if closure is None:
            raise ArgumentError(f"`{type(self).__name__}.step(closure)` needs a closure that returns the loss")
        seen: list[float] = []

        def loss_at(key: int | None = None, sign: float = 1.0) -> float:
            with displaced(lambda: self._shifts(key, sign), self.in_place):
                seen.append(one_number(closure()))
            return seen[-1]

        before = self.generator.get_state()
        try:
            with centred(self._confined()):
                slopes, loss = self._probe(loss_at, tick)
                if not self._depends:
                    self._require_dependence(slopes, seen, loss_at)
        except BaseException:
            self.generator.set_state(before)
            raise
        return slopes, loss

    def _require_dependence(self, slopes: list[Slope], seen: list[float], loss_at: Callable[[], float]) -> None:
        """Check once that the loss depends on the parameters: later, a constant loss is a minimum or a plateau."""
        self._depends = max(seen) > min(seen)
        if self._depends or not any(bool(u.any()) for key, _ in slopes for _, _, u in self._along(key)):
            return
        self._depends = loss_at() != seen[0]  # the two ends of a direction may be equal by symmetry
        if not self._depends:
            raise ArgumentError(
                f"the loss does not depend on the parameters: it is {seen[0]:g} at all {len(seen)} settings; give "
                "those that the closure uses, or, where it answers in steps or in low precision, a larger `delta`"
            )

    def _shifts(self, key: int | None, sign: float) -> Iterator[tuple[Tensor, Tensor]]:
        if key is not None:
            for group, p, u in self._along(key):
                yield p, u.mul_(sign * self._delta(group))

    def _confined(self) -> Iterator[tuple[Tensor, ThetaSpec, float]]:
        for group, p in self._parameters():
            if id(p) in self._limits:
                yield p, self._limits[id(p)], self._reach(group)

    def _gradients(self, slopes: list[Slope]) -> Iterator[tuple[dict[str, Any], Tensor, Tensor]]:
        """`ĝ = (1/M) Σ_m slope_m u_m / (δ E u²)`, tensor by tensor."""
        walks = [(self._along(key), slope) for key, slope in slopes]
        for group, p in self._parameters():
            grad = torch.zeros_like(p)
            for walk, slope in walks:
                grad.add_(next(walk)[2], alpha=slope)
            grad.mul_(1 / (len(slopes) * self._delta(group) * self._second_moment(group)))
            yield group, p, self._shaped(grad, group)

    def _move(self, p: Tensor, grad: Tensor, group: dict[str, Any]) -> None:
        """Move θ ← θ − lr ĝ, with momentum as in `torch.optim.SGD`, or scaled as in `torch.optim.Adam`."""
        state, momentum, betas = self.state[p], group.get("momentum", 0.0), group.get("betas")
        if (betas is not None or momentum) and not state:
            state["mean"] = torch.zeros_like(p)
        if betas is not None:
            if "square" not in state:
                state["square"], state["count"] = torch.zeros_like(p), 0
            state["count"] += 1
            mean = state["mean"].lerp_(grad, 1 - betas[0])
            square = state["square"].mul_(betas[1]).addcmul_(grad, grad, value=1 - betas[1])
            scale = square.div(1 - betas[1] ** state["count"]).sqrt_().add_(1e-8)
            grad = mean.div(1 - betas[0] ** state["count"]).div_(scale)
        elif momentum:
            grad = state["mean"].mul_(momentum).add_(grad)
        p.add_(grad, alpha=-self._rate(group))
        if id(p) in self._limits:
            p.copy_(self._limits[id(p)].clamp(p))
