"""Equilibrium propagation for digital models that settle: the gradient of a loss from two relaxations."""

from __future__ import annotations

import abc
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from blackprop.errors import ArgumentError, ReadingError

States = list[Tensor]  # (B, ...) each
Loss = Callable[[Tensor, Tensor], Tensor]  # prediction and target to (B,)


def hard_sigmoid(s: Tensor) -> Tensor:
    """Return σ(s) = s clipped to [0, 1]."""
    return s.clamp(0, 1)


def steep_sigmoid(s: Tensor) -> Tensor:
    """Return σ(s) = 1 / (1 + exp(−4 (s − 1/2))), with slope 1 at 1/2."""
    return torch.sigmoid(4 * (s - 0.5))


def squared_error(prediction: Tensor, target: Tensor) -> Tensor:
    """Return `½ Σ (s − t)²` (B,) for targets (B, n), or for the one-hot code of class numbers (B,)."""
    if not target.is_floating_point():
        target = F.one_hot(target, prediction.shape[1])
    return 0.5 * (prediction - target).square().sum(1)


def cross_entropy(prediction: Tensor, target: Tensor) -> Tensor:
    """Return `−log softmax(prediction)_t` (B,), for class numbers (B,)."""
    return F.cross_entropy(prediction, target, reduction="none")


class Energy(nn.Module, abc.ABC):
    """A model that settles where `E(θ, x, s)` is least in its states s.

    Subclasses write `rest`, the start of every relaxation, and `energy`, per row and differentiable in the parameters
    and the states. The part that depends on the rows alone belongs in `drive`, which a relaxation calls once.
    """

    def drive(self, x: Tensor) -> Tensor:
        return x

    @abc.abstractmethod
    def rest(self, drive: Tensor) -> States:
        """Return the states before the first step."""

    @abc.abstractmethod
    def energy(self, drive: Tensor, states: States) -> Tensor:
        """Return E (B,)."""

    def predict(self, states: States) -> Tensor:
        """Return the input of the loss: by default the last state."""
        return states[-1].flatten(1)


@final
class Layered(Energy):
    """`E = Σ_l ½ |s_l|² − Σ_l ⟨s_{l+1}, W_l(s_l)⟩`, with the rows as s_0.

    The states are pulled to `∂Φ/∂s`, Φ the second sum: from below by W_l and from above by its transpose, which
    autograd computes.

    **Arguments:**

    - `synapses`: the W_l, each a module: a `Linear`, or a convolution with its max-pooling.
    - `readout` (default None): the prediction is `readout(s_last)`, outside the dynamics, as the softmax of a
      cross-entropy must be. The nudge reaches the last state through it.
    """

    def __init__(self, synapses: Sequence[nn.Module], readout: nn.Module | None = None) -> None:
        super().__init__()
        if not synapses:
            raise ArgumentError("`Layered(synapses=...)` needs at least one module")
        self.synapses: nn.ModuleList = nn.ModuleList(synapses)
        self.readout = readout

    def drive(self, x: Tensor) -> Tensor:
        return self.synapses[0](x)

    @torch.no_grad()
    def rest(self, drive: Tensor) -> States:
        states = [torch.zeros_like(drive)]
        for synapse in list(self.synapses)[1:]:
            states.append(torch.zeros_like(synapse(states[-1])))
        return states

    def energy(self, drive: Tensor, states: States) -> Tensor:
        pulls = [drive, *(synapse(s) for synapse, s in zip(list(self.synapses)[1:], states, strict=False))]
        terms = [s * (0.5 * s - pull) for s, pull in zip(states, pulls, strict=True)]
        return torch.stack([term.flatten(1).sum(1) for term in terms]).sum(0)

    def predict(self, states: States) -> Tensor:
        return super().predict(states) if self.readout is None else self.readout(states[-1].flatten(1))


@dataclass(frozen=True)
class Relaxation:
    """`s ← σ(s − ε ∂F/∂s)`, all states at once, with F the energy and its nudge.

    With the hard sigmoid it is the projected gradient flow of a continuous energy for a small `rate` ε. At ε = 1 and
    for `Layered` it is the discrete form `s ← σ(∂Φ/∂s − β ∂L/∂s)`, with any σ.

    **Arguments:**

    - `free` (default 30), `nudged` (default 10): steps of the two phases. A short nudged phase is allowed: k steps give
      the gradient of backpropagation through the last k steps.
    - `rate` (default 1): ε in (0, 1].
    - `activation` (default `hard_sigmoid`): σ.
    - `tolerance` (default 0.01): the largest change of a state in the last step of the free phase.
    """

    free: int = 30
    nudged: int = 10
    rate: float = 1.0
    activation: Callable[[Tensor], Tensor] = hard_sigmoid
    tolerance: float = 0.01

    def __post_init__(self) -> None:
        for name in ("free", "nudged"):
            if not (isinstance(getattr(self, name), int) and getattr(self, name) >= 1):
                raise ArgumentError(f"`Relaxation({name}=...)` must be a whole number of at least 1")
        if not (0 < self.rate <= 1 and 0 < self.tolerance < math.inf):
            raise ArgumentError(f"`Relaxation` needs a rate in (0, 1] and a positive tolerance, got {self}")
        if self.rate != 1 and self.activation is not hard_sigmoid:
            raise ArgumentError(
                "`Relaxation(rate=...)` below 1 moves along a projected gradient: with hard_sigmoid alone"
            )

    def run(self, function: Callable[[States], Tensor], states: States, steps: int) -> tuple[States, float]:
        """Return the states after this many steps down `function`, and the largest change in the last step."""
        change = math.inf
        for step in range(steps):
            with torch.enable_grad():
                leaves = [s.detach().requires_grad_() for s in states]
                slopes = torch.autograd.grad(function(leaves).sum(), leaves)
            moved = [self.activation(s.detach() - self.rate * slope) for s, slope in zip(leaves, slopes, strict=True)]
            if step == steps - 1:
                change = max(float((new - old).abs().max()) for new, old in zip(moved, states, strict=True))
            states = moved
        return states, change


@dataclass(frozen=True)
class EquilibriumPropagation:
    """`∂L/∂θ ≈ (1/2β) [∂F/∂θ(s^{+β}) − ∂F/∂θ(s^{−β})]`, `F = E + (±β) ℓ`.

    The model relaxes freely, then, twice from there, with its loss as a part of the energy. The gradient of a parameter
    is local to it: for a weight, the product of the states at its two ends. Centred, the error is O(β²); one-sided
    (`centred=False`), against the free state, O(β), without the third relaxation.

    `backward(x, target)` adds the gradient of the batch's mean loss to `.grad`, as autograd does; any optimizer makes
    the step.

    **Costs** `free + 2 nudged` steps, each a pass through the model and back.

    **Arguments:**

    - `model`: an `Energy`.
    - `beta` (default 0.1): β, for the loss of one row.
    - `centred` (default True).
    - `loss` (default `squared_error`): per row.
    - `relaxation` (default `Relaxation()`).

    **Raises** `ReadingError` if the free phase does not converge, or a nudged one diverges.

    Sources: Scellier and Bengio, arXiv 1602.05179; Ernoult et al., arXiv 1905.13633; Laborieux et al., arXiv
    2006.03824.
    """

    model: Energy
    beta: float = 0.1
    centred: bool = True
    loss: Loss = squared_error
    relaxation: Relaxation = field(default_factory=Relaxation)

    def __post_init__(self) -> None:
        if not isinstance(self.model, Energy):
            raise ArgumentError(
                f"`EquilibriumPropagation(model=...)` trains a model that settles, an `Energy`; "
                f"{type(self.model).__name__} is not one"
            )
        if not 0 < self.beta < math.inf:
            raise ArgumentError(f"`EquilibriumPropagation(beta=...)` must be positive and finite, got {self.beta}")

    @property
    def bias_order(self) -> int:
        return 2 if self.centred else 1

    def settle(self, x: Tensor) -> States:
        """Return the free states of the rows x (B, ...)."""
        with torch.no_grad():
            drive = self.model.drive(x)
        states, change = self.relaxation.run(
            lambda s: self.model.energy(drive, s), self.model.rest(drive), self.relaxation.free
        )
        if not change <= self.relaxation.tolerance:
            raise ReadingError(
                f"the relaxation did not converge: after {self.relaxation.free} steps a state still moves by "
                f"{change:.2g} a step, wanted {self.relaxation.tolerance:g}; allow more steps, a smaller rate, or "
                "smaller weights"
            )
        return states

    @torch.no_grad()
    def predict(self, x: Tensor) -> Tensor:
        return self.model.predict(self.settle(x))

    def backward(self, x: Tensor, target: Tensor) -> Tensor:
        """Add the gradient to `.grad`; return the loss of the free states, the mean over the batch."""
        free = self.settle(x)
        with torch.no_grad():
            drive = self.model.drive(x)
            loss = self.loss(self.model.predict(free), target).mean()
        ends = [self._nudged(drive, free, target, self.beta)]
        ends.append(self._nudged(drive, free, target, -self.beta) if self.centred else (free, 0.0))
        span = ends[0][1] - ends[1][1]
        with torch.enable_grad():
            drive = self.model.drive(x)
            high, low = (self._function(drive, target, beta)(states).mean() for states, beta in ends)
            ((high - low) / span).backward()
        return loss

    def _nudged(self, drive: Tensor, free: States, target: Tensor, beta: float) -> tuple[States, float]:
        states, _ = self.relaxation.run(self._function(drive, target, beta), free, self.relaxation.nudged)
        if not all(bool(s.isfinite().all()) for s in states):
            raise ReadingError(f"the relaxation diverged under a nudge of {beta:g}; take a smaller beta or rate")
        return states, beta

    def _function(self, drive: Tensor, target: Tensor, beta: float) -> Callable[[States], Tensor]:
        def function(states: States) -> Tensor:
            energy = self.model.energy(drive, states)
            return energy + beta * self.loss(self.model.predict(states), target) if beta else energy

        return function
