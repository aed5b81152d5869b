"""Contrastive-signal-dependent plasticity: spiking layers that learn, step by step, to be active for true labels."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from typing import final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from blackprop.errors import ArgumentError, IncompatibleError, ShapeError
from blackprop.nn._layer import PhysicalLayer


@dataclass(frozen=True)
class Spiking:
    """The parameters of a spiking layer: times in ms, the rest in units of the published script.

    **Arguments:**

    - `steps` (default 40), `step` (ms, default 3): time steps of a showing, and their length.
    - `membrane` (ms, default 100), `trace` (ms, default 13): time constants.
    - `resistance` (default 0.1): of the synapses' currents.
    - `inhibition` (default 0.005): subtracted by each spike from every other neuron of its layer.
    - `threshold` (default 0.055): of the membrane.
    - `goodness` (default 10): threshold of Σz².
    """

    steps: int = 40
    step: float = 3.0
    membrane: float = 100.0
    trace: float = 13.0
    resistance: float = 0.1
    inhibition: float = 0.005
    threshold: float = 0.055
    goodness: float = 10.0

    def __post_init__(self) -> None:
        for field in fields(self):
            value, may_be_zero = getattr(self, field.name), field.name == "inhibition"
            if not (0 < value < math.inf or (may_be_zero and value == 0)):
                raise ArgumentError(f"`Spiking({field.name}=...)` must be positive and finite, got {value}")
        if self.step > min(self.trace, self.membrane):
            raise ArgumentError(f"`Spiking(step=...)` must not pass a time constant, got {self.step}")


def modulator(z: Tensor, positive: Tensor, threshold: float) -> tuple[Tensor, Tensor]:
    """Return the loss of traces z (N, n) and its gradient, `d = 2 z (σ(Σz² − threshold) − positive) / N`.

    The loss is the binary cross-entropy of σ(Σz² − threshold) with `positive` (N,), 1 for a true label.
    """
    logits = z.square().sum(-1) - threshold
    loss = F.binary_cross_entropy_with_logits(logits, positive)
    return loss, 2 * z * (logits.sigmoid() - positive).unsqueeze(-1) / len(z)


@final
class ContrastivePlasticity(nn.Module):
    """A stack of leaky integrate-and-fire layers, each of which learns from its own spikes and its input:

    `v += (Δt/τ_m)(R·(layer([s_below ‖ label])) − inhibition · Σ_{k≠i} s_k − v)`, a spike s and v = 0 at the threshold;

    the trace z is 1 at a spike and loses the part Δt/τ_z a step. Rows are rates in [0, 1], from which spikes are drawn;
    the label's neuron spikes at every step; all spikes arrive a step later. A row with its true label is positive, the
    same row with a wrong one negative, and at every step the gradient of the weights is

    `∂L/∂W ← dᵀ [s_below ‖ label] + λ s_postᵀ (1 − [s_below ‖ label]) / N`, with d of `modulator`.

    There is no derivative of a spike, none through time and none between layers. The prediction is the label with the
    largest Σz², summed over layers and steps. Digital weights are kept within [−1, 1], those of a device within its
    limits.

    A layer is a bias-free `Linear`, as `synapses` draws, or a `PhysicalLayer`, whose estimator gets d at every step.

    **Costs** 2 rows a layer, step and sample (`FORWARD`), a row a step more with λ > 0, and the queries of the
    estimators; to predict, `classes` rows a layer, step and sample.

    **Arguments:**

    - `layers`: the stack.
    - `classes`: number of labels, at least 2.
    - `generator`: draws spikes and wrong labels.
    - `spiking` (default `Spiking()`).
    - `decay` (default 0): λ.

    Source: Ororbia, Sci. Adv. 10, eadn6076 (2024). There, lateral inhibition is learnt, thresholds adapt, and context
    also comes from the layer above.
    """

    classes: int
    decay: float

    def __init__(
        self,
        layers: Sequence[nn.Linear | PhysicalLayer],
        classes: int,
        *,
        generator: torch.Generator,
        spiking: Spiking | None = None,
        decay: float = 0.0,
    ) -> None:
        super().__init__()
        if not layers or not all(isinstance(layer, (nn.Linear, PhysicalLayer)) for layer in layers):
            raise ArgumentError(f"`ContrastivePlasticity(layers, ...)` takes Linear and PhysicalLayer, got {layers!r}")
        if not 0 <= decay < math.inf:
            raise ArgumentError(f"`ContrastivePlasticity(decay=...)` must be finite and not negative, got {decay}")
        self.sizes: list[tuple[int, int]] = _sizes(layers, classes)
        self._synapses = tuple(layers)
        self.layers: nn.ModuleList = nn.ModuleList(layers)
        self.classes, self.decay, self._generator = classes, decay, generator
        self.spiking: Spiking = spiking if spiking is not None else Spiking()
        # Evaluation draws its spikes from a stream of its own, always the same: it must not move the training's.
        self._evaluation = int(torch.randint(2**62, (), generator=generator, device=generator.device))

    def visit(self, x: Tensor, labels: Tensor) -> Iterator[Tensor]:
        """Show a batch once: at every step fill `.grad` and yield the mean loss of the layers.

        `for _ in rule.visit(x, y): optimizer.step(); optimizer.zero_grad()` learns as published, at every step.
        """
        self._check(x, labels)
        drawn = torch.randint(1, self.classes, labels.shape, generator=self._generator, device=self._generator.device)
        shift = drawn.to(labels)
        both = torch.cat((labels, (labels + shift) % self.classes))
        positive = torch.cat((torch.ones_like(x[:, 0]), torch.zeros_like(x[:, 0])))
        context = F.one_hot(both, self.classes).to(x)
        state = self._rest(len(both), x)
        self._keep_bounds()
        for spikes in self._encoded(x, self._generator):
            losses = []
            for number, pre in enumerate(self._arriving(state, spikes.repeat(2, 1), context)):
                with torch.enable_grad():
                    current = self._synapses[number](pre)
                state[number] = self._next(state[number], current.detach())
                loss, d = modulator(state[number][2], positive, self.spiking.goodness)
                self._learn(number, current, d, state[number][1])
                losses.append(loss)
            yield torch.stack(losses).mean()
            self._keep_bounds()

    def backward(self, x: Tensor, labels: Tensor) -> Tensor:
        """Add the gradients of all steps of one showing to `.grad`; return the mean loss."""
        return torch.stack(list(self.visit(x, labels))).mean()

    @torch.no_grad()
    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        """Return the goodness (B,) of these labels: the mean over steps of Σz², summed over the layers."""
        self._check(x, labels)
        return self._goodness(x, F.one_hot(labels, self.classes).to(x), self._shown(x))

    @torch.no_grad()
    def predict(self, x: Tensor) -> Tensor:
        """Return the labels (B,) with the largest goodness; all labels see the same spikes."""
        self._check(x, torch.zeros(len(x), dtype=torch.int64))
        spikes, codes = self._shown(x), torch.eye(self.classes).to(x)
        return torch.stack([self._goodness(x, code.expand(len(x), -1), spikes) for code in codes], -1).argmax(-1)

    def _goodness(self, x: Tensor, context: Tensor, spikes: list[Tensor]) -> Tensor:
        state, total = self._rest(len(x), x), torch.zeros_like(x[:, 0])
        for shown in spikes:
            for number, pre in enumerate(self._arriving(state, shown, context)):
                state[number] = self._next(state[number], self._synapses[number](pre))
                total = total + state[number][2].square().sum(-1)
        return total / len(spikes)

    def _encoded(self, x: Tensor, generator: torch.Generator) -> Iterator[Tensor]:
        for _ in range(self.spiking.steps):
            yield (torch.rand(x.shape, generator=generator, device=generator.device).to(x) < x).to(x)

    def _shown(self, x: Tensor) -> list[Tensor]:
        return list(self._encoded(x, torch.Generator().manual_seed(self._evaluation)))

    def _rest(self, rows: int, like: Tensor) -> list[tuple[Tensor, Tensor, Tensor]]:
        """Membrane, spikes and trace of every layer, (rows, n) each."""
        return [(zero, zero, zero) for zero in (like.new_zeros(rows, n) for _, n in self.sizes)]

    def _arriving(self, state: list[tuple[Tensor, Tensor, Tensor]], shown: Tensor, context: Tensor) -> list[Tensor]:
        """The input of every layer: the spikes of the step before from below, and the label's."""
        below = [shown, *(spikes for _, spikes, _ in state[:-1])]
        return [torch.cat((each, context), -1) for each in below]

    def _next(self, state: tuple[Tensor, Tensor, Tensor], current: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        v, spikes, z = state
        how = self.spiking
        held = how.inhibition * (spikes.sum(-1, keepdim=True) - spikes)
        v = v + how.step / how.membrane * (how.resistance * current - held - v)
        fired = v > how.threshold
        z = torch.where(fired, 1.0, z * (1 - how.step / how.trace))
        return v.masked_fill(fired, 0.0), fired.to(v), z

    def _learn(self, number: int, current: Tensor, d: Tensor, post: Tensor) -> None:
        if not current.requires_grad:
            return
        if not self.decay:
            current.backward(d)
            return
        # λ s_postᵀ (1 − pre) = λ s_postᵀ 1 − λ s_postᵀ pre: the first is one row of ones.
        lost = self.decay * post / len(post)
        current.backward(d - lost)
        with torch.enable_grad():
            ones = self._synapses[number](current.new_ones(1, self.sizes[number][0] + self.classes))
        ones.backward(lost.sum(0, keepdim=True))

    @torch.no_grad()
    def _keep_bounds(self) -> None:
        for layer in self._synapses:
            if isinstance(layer, nn.Linear):
                layer.weight.clamp_(-1, 1)

    def _check(self, x: Tensor, labels: Tensor) -> None:
        if x.dim() != 2 or x.shape[1] != self.sizes[0][0] or labels.shape != x.shape[:1]:
            raise ShapeError(
                f"rows (B, {self.sizes[0][0]}) with as many labels are taken, got {tuple(x.shape)} and "
                f"{tuple(labels.shape)}"
            )
        whole = not (labels.is_floating_point() or labels.dtype == torch.bool)
        if not whole or (len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < self.classes):
            raise ShapeError(f"labels are whole numbers from 0 to {self.classes - 1}")


def synapses(below: int, classes: int, neurons: int, generator: torch.Generator) -> nn.Linear:
    """Draw the digital weights of a layer, U(−1, 1), from `below` neurons and the labels."""
    # The global stream is not used.
    linear = nn.Linear(below + classes, neurons, bias=False, device="meta").to_empty(device="cpu")
    with torch.no_grad():
        drawn = torch.rand(linear.weight.shape, generator=generator, device=generator.device)
        linear.weight.copy_(2 * drawn - 1)
    return linear


def _sizes(layers: Sequence[nn.Linear | PhysicalLayer], classes: int) -> list[tuple[int, int]]:
    """Return (neurons below, neurons) of every layer, without the labels."""
    if classes < 2:
        raise ArgumentError(f"`ContrastivePlasticity(classes=...)` must be at least 2, got {classes}")
    sizes: list[tuple[int, int]] = []
    for number, layer in enumerate(layers):
        if isinstance(layer, nn.Linear):
            inputs, outputs = layer.in_features, layer.out_features
        elif len(layer.in_shape) == len(layer.out_shape) == 1:
            (inputs,), (outputs,) = layer.in_shape, layer.out_shape
        else:
            raise IncompatibleError(f"spiking layers go from vectors to vectors; layer {number} does not")
        below = inputs - classes
        if below < 1 or (sizes and below != sizes[-1][1]):
            wanted = f"{sizes[-1][1]} neurons below it" if sizes else "at least one input"
            raise IncompatibleError(
                f"{classes} labels do not fit: layer {number} takes {inputs} spikes, and needs room for {wanted} and "
                f"{classes} labels"
            )
        sizes.append((below, outputs))
    return sizes
