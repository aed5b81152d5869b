"""Resistors, diodes and amplifiers: a nonlinear resistive network, which settles where its pseudo-power is least."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import final

import torch
from torch import Tensor

from blackprop.core._declaration import Cost
from blackprop.core._theta import ThetaSpec
from blackprop.core.capabilities._nudges import Nudges
from blackprop.devices._simulator import Simulator
from blackprop.devices.electronic._diodes import Circuit, Diodes, IdealDiodes
from blackprop.errors import ArgumentError, ShapeError


@dataclass(frozen=True)
class Branches(Nudges):
    """The nodes that the resistors of a layered network join: the knowledge that equilibrium propagation needs.

    `sizes` are the numbers of sources, of nodes in each hidden layer, and of outputs. Every node of a layer is joined
    to every node of the next. Conductances are ordered layer by layer, `(before, after)` row-major. A reading has the
    outputs first and then the hidden nodes, layer by layer. A row has the voltages of the sources, and then a current
    into each node, in the order of the reading.

    With bidirectional amplifiers of gain A behind each hidden layer, the network minimises `E = Σ A^{2k} ½ g (A V −
    V')² − Σ A^{2k} I V` in place of the plain pseudo-power, k the amplifiers between a branch (or node) and the
    outputs. Its local rule is therefore multiplied by `A^{2k}`, and a nudge divided by it.
    """

    sizes: tuple[int, ...]
    amplification: float = 1.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "sizes", tuple(self.sizes))
        if len(self.sizes) < 2 or not all(isinstance(n, int) and n >= 1 for n in self.sizes):
            raise ArgumentError(f"`Branches(sizes=...)`: sources, hidden layers, outputs, all positive; {self.sizes}")
        if not 0 < self.amplification < math.inf:
            raise ArgumentError(f"`amplification` must be positive and finite, got {self.amplification}")

    @property
    def nodes(self) -> int:
        """Voltages in a reading, and currents in a row."""
        return sum(self.sizes[1:])

    @property
    def row(self) -> int:
        return self.sizes[0] + self.nodes

    @property
    def count(self) -> int:
        """P, the number of resistors."""
        return sum(a * b for a, b in pairwise(self.sizes))

    def weights(self) -> list[float]:
        """`A^{2k}` of each layer's branches and nodes."""
        layers = len(self.sizes) - 1
        return [self.amplification ** (2 * (layers - 1 - layer)) for layer in range(layers)]

    def conductances(self, theta: Tensor) -> list[Tensor]:  # (..., before, after) each
        parts = theta.split([a * b for a, b in pairwise(self.sizes)], -1)
        return [part.unflatten(-1, pair) for part, pair in zip(parts, pairwise(self.sizes), strict=True)]

    def layers(self, reading: Tensor) -> list[Tensor]:
        """Split a reading, or the currents of a row, into layers of nodes, from the inputs' side."""
        outputs, *hidden = reading.split([self.sizes[-1], *self.sizes[1:-1]], -1)
        return [*hidden, outputs]

    def reading(self, layers: list[Tensor]) -> Tensor:
        """Join `layers` to a reading, the inverse of `layers`."""
        return torch.cat([layers[-1], *layers[:-1]], -1)

    def rows(self, voltages: Tensor) -> Tensor:
        """Return rows (..., row) with these voltages (..., sources) and without currents."""
        if voltages.shape[-1] != self.sizes[0]:
            raise ShapeError(f"these branches begin at {self.sizes[0]} sources, got {voltages.shape[-1]} voltages")
        return torch.cat([voltages, voltages.new_zeros(*voltages.shape[:-1], self.nodes)], -1)

    def outputs(self, reading: Tensor) -> Tensor:
        """Return the voltages (..., outputs) of a reading."""
        return reading[..., : self.sizes[-1]]

    # The interface that equilibrium propagation uses.

    def nudged(self, x: Tensor, grad_y: Tensor, step: float) -> Tensor:
        """Return the rows x with the currents `−step · ∂ℓ/∂V` added."""
        parts = zip(self.layers(grad_y), self.weights(), strict=True)
        currents = self.reading([part * (-step / weight) for part, weight in parts])
        return torch.cat([x[..., : self.sizes[0]], x[..., self.sizes[0] :] + currents], -1)

    def contrast(self, x: Tensor, plus: Tensor, minus: Tensor, span: float) -> Tensor:  # (P,)
        """Return `Σ_b [∂E/∂g(plus) − ∂E/∂g(minus)] / span`, with `∂E/∂g = A^{2k} ½ (A V − V')²` of each branch."""
        grad = plus.new_empty(self.count)
        high, low = self.layers(plus), self.layers(minus)
        source = x[..., : self.sizes[0]]
        gain = self.amplification
        for layer, (out, weight) in enumerate(zip(self.conductances(grad), self.weights(), strict=True)):
            factor = weight / span
            change = high[layer] - low[layer]
            square = (change * (high[layer] + low[layer])).sum(0) * (factor / 2)
            if not layer:  # the sources stay
                torch.addmm(square, source.mT, change, alpha=-factor, out=out)
                continue
            before = high[layer - 1] - low[layer - 1]
            left, right = torch.cat([high[layer - 1], before]), torch.cat([change, low[layer]])
            torch.addmm(square, left.mT, right, alpha=-factor * gain, out=out)
            out.add_((before * (high[layer - 1] + low[layer - 1])).sum(0).unsqueeze(1), alpha=factor / 2 * gain**2)
        return grad

    def contrast_rows(self, theta: Tensor, plus: Tensor, minus: Tensor, span: float) -> Tensor:  # (rows, row)
        """Return `[∂E/∂x(plus) − ∂E/∂x(minus)] / span`: the currents of the sources, and the voltages of the nodes."""
        change = self.layers(plus - minus)
        parts = zip(change, self.weights(), strict=True)
        sources = change[0] @ self.conductances(theta)[0].mT * -self.weights()[0]
        return torch.cat([sources, self.reading([part * -weight for part, weight in parts])], -1) / span


@final
class ResistiveNetwork(Simulator):
    """Layers of nodes joined by resistors of conductance `g = θ ≥ 0`, with diodes at the hidden nodes.

    Every node is joined to every node of the next layer; diodes hold half of each hidden layer above 0 V and half
    below. The network settles where the currents at each node balance,

    `Σ_i g_ij (A V_i − V_j) + (1/A) Σ_k g_jk (V_k − A V_j) + I_j + I_diode(V_j) = 0`,

    which is where its pseudo-power is least. A row is the voltages of the sources and then a current into every node
    (zeros, unless the network is nudged); the reading is the voltages of all nodes, outputs first. `branches.rows` and
    `branches.outputs` convert both; `doubled` and `paired` give weights of both signs. Conductances start from U(−1,
    1)/√before, the negative ones at 0.

    **Arguments:**

    - `sizes`: of sources, hidden layers, outputs.
    - `diodes` (default `IdealDiodes()`).
    - `amplification` (default 1): A of the bidirectional amplifiers behind each hidden layer (voltages A times forward,
      currents 1/A times back).
    - `leak` (default 1e-6): a conductance from every node to ground, as of the input of a voltmeter, so that nodes do
      not float.
    - `cost` (default None).

    Sources: Kendall et al., arXiv 2006.01981; Scellier, arXiv 2402.11674.
    """

    stacks = True

    def __init__(
        self,
        *sizes: int,
        diodes: Diodes | None = None,
        amplification: float = 1.0,
        leak: float = 1e-6,
        cost: Cost | None = None,
    ) -> None:
        self.branches: Branches = Branches(sizes, amplification)
        self.diodes: Diodes | IdealDiodes = diodes if diodes is not None else IdealDiodes()
        if not isinstance(self.diodes, Diodes):
            raise ArgumentError(
                f"`ResistiveNetwork(diodes=...)` takes IdealDiodes or ExponentialDiodes, got {diodes!r}"
            )
        if not 0 < leak < math.inf:
            raise ArgumentError(f"`ResistiveNetwork(leak=...)` must be positive and finite, got {leak}")
        self.leak = leak
        theta = ThetaSpec(self.branches.count, self._initial, low=0.0)
        super().__init__(self.branches.row, self.branches.nodes, theta, cost=cost, capabilities=[self.branches])

    def transfer(self, x: Tensor, theta: Tensor, /) -> Tensor:
        return self.branches.reading(self.diodes.settle(self._circuit(x, theta)))

    def setting_bytes(self, rows: int) -> int:
        return 8 * self.theta.size + 16 * rows * self.branches.row

    def _circuit(self, x: Tensor, theta: Tensor) -> Circuit:
        branches = self.branches
        conductances = branches.conductances(theta)
        total = [g.sum(-2).unsqueeze(-2) + self.leak for g in conductances]
        for layer, behind in enumerate(conductances[1:]):
            total[layer] = total[layer] + behind.sum(-1).unsqueeze(-2)
        sources = branches.sizes[0]
        currents = branches.layers(x[..., sources:])
        fed = currents[0] + x[..., :sources] @ conductances[0]
        given = [fed, *(part.expand(*fed.shape[:-1], -1) for part in currents[1:])]
        return Circuit(conductances, total, given, branches.amplification)

    def _initial(self, generator: torch.Generator) -> Tensor:
        pairs = pairwise(self.branches.sizes)
        drawn = [(2 * torch.rand(a * b, generator=generator, device=generator.device) - 1) / a**0.5 for a, b in pairs]
        return torch.cat(drawn).clamp_min(0)


def doubled(x: Tensor, gain: float = 1.0) -> Tensor:
    """Return `gain · (x ‖ −x)` (..., 2 n): each input and its inverted copy, since conductances are not negative."""
    return torch.cat([gain * x, -gain * x], -1)


def paired(voltages: Tensor) -> Tensor:
    """Return `V_+ − V_−` (..., n/2) of outputs in pairs: the first half of them against the second."""
    if voltages.shape[-1] % 2:
        raise ShapeError(f"outputs in pairs are an even number, got {voltages.shape[-1]}")
    plus, minus = voltages.chunk(2, -1)
    return plus - minus
