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
    """σ(s) = s within [0, 1], and its ends beyond."""
    return s.clamp(0, 1)


def steep_sigmoid(s: Tensor) -> Tensor:
    """σ(s) = 1 / (1 + exp(−4 (s − 1/2))), of slope 1 at 1/2."""
    return torch.sigmoid(4 * (s - 0.5))


def squared_error(prediction: Tensor, target: Tensor) -> Tensor:
    """`½ Σ (s − t)²` (B,) to targets (B, n), or to the one-hot code of class numbers (B,)."""
    if not target.is_floating_point():
        target = F.one_hot(target, prediction.shape[1])
    return 0.5 * (prediction - target).square().sum(1)


def cross_entropy(prediction: Tensor, target: Tensor) -> Tensor:
    """`−log softmax(prediction)_t` (B,), of class numbers (B,)."""
    return F.cross_entropy(prediction, target, reduction="none")


class Energy(nn.Module, abc.ABC):
    """A model that answers by settling where `E(θ, x, s)` is least in its states s.

    Subclasses write `rest`, where every relaxation of new rows begins, and `energy`, per row and differentiable in the
    parameters and the states. What depends on the rows alone goes into `drive`, which a relaxation asks for once.
    """

    def drive(self, x: Tensor) -> Tensor:
        return x

    @abc.abstractmethod
    def rest(self, drive: Tensor) -> States:
        """The states before the first step."""

    @abc.abstractmethod
    def energy(self, drive: Tensor, states: States) -> Tensor:
        """E (B,)."""

    def predict(self, states: States) -> Tensor:
        """What the loss looks at: by default the last state."""
        return states[-1].flatten(1)


@final
class Layered(Energy):
    """`E = Σ_l ½ |s_l|² − Σ_l ⟨s_{l+1}, W_l(s_l)⟩`, s_0 the rows: each `W_l` any module, as a `Linear`, or a
    convolution with its max-pooling.

    The states are then pulled to `∂Φ/∂s`, Φ the second sum: from below by W_l and from above by its transpose, which
    autograd finds. With a `readout` the prediction is `readout(s_last)`, which stands outside the dynamics, as the
    softmax of a cross-entropy must: the nudge reaches the last state through it.
    """

    def __init__(self, synapses: Sequence[nn.Module], readout: nn.Module | None = None) -> None:
        super().__init__()
        if not synapses:
            raise ArgumentError("`Layered(synapses=...)` needs at least one module")
        self.synapses = nn.ModuleList(synapses)
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
    """`s ← σ(s − ε ∂F/∂s)`, all states at once, F the energy and what nudges it.

    With the hard sigmoid it is the projected gradient flow of a continuous energy for a small `rate` ε. At ε = 1 and
    for `Layered` it is the discrete form `s ← σ(∂Φ/∂s − β ∂L/∂s)`, with whatever σ.

    **Arguments:** `free`, `nudged`, the steps of the two phases; `tolerance`, how far a state may still move in the
    last step of the free phase. The nudged phase may be short on purpose: k steps of it give the gradient of
    backpropagation through the last k steps.
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
        """The states after so many steps down `function`, and the largest change in the last."""
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
    """`∂L/∂θ ≈ (1/2β) [∂F/∂θ(s^{+β}) − ∂F/∂θ(s^{−β})]`, `F = E + (±β) ℓ`: the model relaxes freely, then, twice from
    there, with its loss as a part of the energy. What is called F at a parameter is local to it: for a weight the
    product of the states at its two ends.

    `backward(x, target)` adds the gradient of the batch's mean loss to the `.grad` of the model's parameters, as
    autograd would, so any optimizer makes the step. Centred, its error is O(β²); one-sided (`centred=False`), against
    the free state, O(β), and the third relaxation is saved. A free phase that has not come to rest raises
    `ReadingError`. **Costs** `free + 2 nudged` steps, each a pass through the model and back.

    **Arguments:** `model`; `loss`, per row; `beta`, β, of one row's loss; `relaxation`. Sources: Scellier and Bengio,
    arXiv 1602.05179; Ernoult et al., arXiv 1905.13633; Laborieux et al., arXiv 2006.03824.
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
                f"{type(self.model).__name__} is none"
            )
        if not 0 < self.beta < math.inf:
            raise ArgumentError(f"`EquilibriumPropagation(beta=...)` must be positive and finite, got {self.beta}")

    @property
    def bias_order(self) -> int:
        return 2 if self.centred else 1

    def settle(self, x: Tensor) -> States:
        """The free states of the rows x (B, ...)."""
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
        """Add the gradient to `.grad`; returns the loss of the free states, the mean over the batch."""
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
