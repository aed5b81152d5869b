"""The settling of a resistive network with diodes: ideal ones by coordinate descent, exponential ones by Newton."""

from __future__ import annotations

import abc
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from blackprop.errors import ArgumentError, ReadingError

Volts = list[Tensor]  # of each layer of nodes, (..., rows, n)


@dataclass(frozen=True, eq=False)
class Circuit:
    """The linear part of a layered network at its setting: Kirchhoff's current law at each node.

    Layer l is fed by `conductances[l]` (..., n before, n) from the layer before it. Its input voltages are multiplied
    by `gain`, and the layer before sees its currents multiplied by `1/gain`. `given[l]` (..., rows, n) are the currents
    that do not depend on the voltages, `total[l]` (..., 1, n) the sum of conductances at a node. Layer 0 is fed by the
    sources, which are `given`.
    """

    conductances: Sequence[Tensor]
    total: Sequence[Tensor]
    given: Sequence[Tensor]
    gain: float

    def inflow(self, layer: int, volts: Sequence[Tensor | None]) -> Tensor:
        """Return the current into the nodes of a layer at 0 V; layers that are None are at 0 V too."""
        current = self.given[layer]
        if layer and (before := volts[layer - 1]) is not None:
            current = current + self.gain * (before @ self.conductances[layer])
        if layer + 1 < len(volts) and (after := volts[layer + 1]) is not None:
            current = current + (after @ self.conductances[layer + 1].mT) / self.gain
        return current

    def matrix(self) -> Tensor:
        """Return the matrix from all voltages to their currents, (..., n, n), layers in order."""
        sizes = [total.shape[-1] for total in self.total]
        starts = [sum(sizes[:layer]) for layer in range(len(sizes))]
        matrix = torch.diag_embed(torch.cat(list(self.total), -1).squeeze(-2))
        for layer in range(1, len(sizes)):
            before = slice(starts[layer - 1], starts[layer])
            here = slice(starts[layer], starts[layer] + sizes[layer])
            matrix[..., here, before] = -self.gain * self.conductances[layer].mT
            matrix[..., before, here] = -self.conductances[layer] / self.gain
        return matrix


class Diodes(abc.ABC):
    """The element between each hidden node and ground.

    On the first half of a layer it prevents a voltage below 0, on the second half a voltage above 0. Subclasses are
    frozen dataclasses.
    """

    @abc.abstractmethod
    def settle(self, circuit: Circuit) -> Volts:
        """Return the voltages at which all currents balance, differentiable; raise `ReadingError` if they are not
        found.
        """


@dataclass(frozen=True)
class IdealDiodes(Diodes):
    """Conducting at 0 V without loss, blocking otherwise: the minimum of a quadratic function under `±V ≥ 0`.

    Found by exact block coordinate descent. Given its neighbours, a layer's best voltages are known in closed form,

    `V_j = Σ g V / Σ g`, clamped to its side of 0.

    Layer follows layer, sweep after sweep, until the largest change in a sweep is at most `tolerance` of the largest
    voltage. Layers of many inputs and few outputs take 4 to 6 sweeps.

    **Arguments:**

    - `tolerance` (default 1e-6).
    - `sweeps` (default 200): at most.

    Source: Scellier, arXiv 2402.11674.
    """

    tolerance: float = 1e-6
    sweeps: int = 200

    def __post_init__(self) -> None:
        _check(self, self.tolerance, "sweeps", self.sweeps)

    def settle(self, circuit: Circuit) -> Volts:
        volts, residual = self.sweep(circuit, self.sweeps)
        if residual > self.tolerance:
            raise unsettled(self, self.sweeps, "sweeps", residual, self.tolerance)
        return volts

    def sweep(self, circuit: Circuit, most: int) -> tuple[Volts, float]:
        """Return the voltages after at most this many sweeps, and the relative change in the last."""
        limits = [_sides(total) for total in circuit.total[:-1]]
        held: list[Tensor | None] = [None] * len(circuit.total)
        residual = math.inf
        for _ in range(most):
            changes: list[Tensor] = []
            for layer, total in enumerate(circuit.total):
                new = circuit.inflow(layer, held) / total
                if layer < len(limits):
                    new = torch.clamp(new, *limits[layer])
                old, held[layer] = held[layer], new
                changes.append(new.detach() if old is None else (new - old).detach())
            residual = _relative(changes, held)
            if residual <= self.tolerance:
                break
        return [volts for volts in held if volts is not None], residual


@dataclass(frozen=True)
class ExponentialDiodes(Diodes):
    """`I = I_s (exp(∓V / V_t) − 1)` into a node, which lets it fall a few V_t below (rise above) 0.

    Solved by Newton's method from the solution with ideal diodes; a step is halved while the network's convex
    pseudo-power would not fall. Settled when a whole step is at most `tolerance` of the largest voltage.

    **Costs** a solution of n equations for n nodes, row and step, where ideal diodes take products of matrices: for
    networks of some hundred nodes.

    **Arguments:**

    - `saturation` (units of the rows, default 1e-6): I_s.
    - `thermal` (units of the rows, default 0.025): V_t.
    - `tolerance` (default 1e-6).
    - `steps` (default 100): at most.
    """

    saturation: float = 1e-6
    thermal: float = 0.025
    tolerance: float = 1e-6
    steps: int = 100

    def __post_init__(self) -> None:
        _check(self, self.tolerance, "steps", self.steps)
        for name in ("saturation", "thermal"):
            if not 0 < getattr(self, name) < math.inf:
                raise ArgumentError(f"`ExponentialDiodes({name}=...)` must be positive and finite")

    def settle(self, circuit: Circuit) -> Volts:
        sizes = [total.shape[-1] for total in circuit.total]
        given, matrix = torch.cat(list(circuit.given), -1), circuit.matrix()
        bank = _Bank.of(self, sizes, circuit.gain, given)
        with torch.no_grad():
            start, _ = IdealDiodes(self.tolerance).sweep(circuit, 50)
            volts = bank.solve(self, torch.cat(start, -1), given, matrix)
        if torch.is_grad_enabled() and (given.requires_grad or matrix.requires_grad):
            # One more step, differentiated at the solution, has the derivative of the solution.
            left = given - _times(matrix, volts) + bank.current(volts)
            volts = volts + torch.linalg.solve(bank.slope(volts, matrix.detach()), left.unsqueeze(-1)).squeeze(-1)
        return list(volts.split(sizes, -1))


@dataclass(frozen=True, eq=False)
class _Bank:
    """The diodes of all nodes, layers in order; `side` (n,): 1 for a diode that keeps a voltage up, −1 down, 0 none."""

    side: Tensor
    saturation: Tensor  # (n,)
    thermal: float
    weight: Tensor  # (n,), weight of a node's power in the convex function

    @classmethod
    def of(cls, diodes: ExponentialDiodes, sizes: Sequence[int], gain: float, like: Tensor) -> _Bank:
        side, weight = [], []
        for layer, n in enumerate(sizes):
            last = layer == len(sizes) - 1
            side += [0.0] * n if last else [1.0] * (n // 2) + [-1.0] * (n - n // 2)
            weight += [gain ** (2 * (len(sizes) - 1 - layer))] * n
        place = {"dtype": like.dtype, "device": like.device}
        sides = torch.tensor(side, **place)
        return cls(sides, diodes.saturation * sides.abs(), diodes.thermal, torch.tensor(weight, **place))

    def current(self, volts: Tensor) -> Tensor:
        """Return the currents through the diodes into the nodes."""
        return self.side * self.saturation * torch.expm1(-self.side * volts / self.thermal)

    def slope(self, volts: Tensor, matrix: Tensor) -> Tensor:
        """Return the slope of the currents out of all nodes against the voltages, (..., rows, n, n)."""
        steep = self.saturation / self.thermal * torch.exp(-self.side * volts / self.thermal)
        return matrix.unsqueeze(-3) + torch.diag_embed(steep)

    def power(self, volts: Tensor, given: Tensor, matrix: Tensor) -> Tensor:
        """Return the convex function that the network minimises, (..., rows, 1)."""
        linear = volts * (_times(matrix, volts) / 2 - given)
        stored = torch.exp(-self.side * volts / self.thermal) * self.thermal + self.side * volts
        return (self.weight * (linear + self.saturation * stored)).sum(-1, keepdim=True)

    def solve(self, diodes: ExponentialDiodes, volts: Tensor, given: Tensor, matrix: Tensor) -> Tensor:
        pressed = (-self.side * (given - _times(matrix, volts))).clamp_min(0)  # the current of an ideal diode
        carried = torch.log1p(pressed / self.saturation.clamp_min(torch.finfo(volts.dtype).tiny))
        volts = volts - self.side * self.thermal * carried
        residual = math.inf
        for _ in range(diodes.steps):
            left = given - _times(matrix, volts) + self.current(volts)
            step = torch.linalg.solve(self.slope(volts, matrix), left.unsqueeze(-1)).squeeze(-1)
            residual = _relative([step], [volts])
            if not math.isfinite(residual):
                break
            volts = volts + self._damped(step, volts, given, matrix)
            if residual <= diodes.tolerance:
                return volts
        raise unsettled(diodes, diodes.steps, "steps", residual, diodes.tolerance)

    def _damped(self, step: Tensor, volts: Tensor, given: Tensor, matrix: Tensor) -> Tensor:
        """Halve the step, row by row, until the power no longer rises."""
        before = self.power(volts, given, matrix)
        most = before + 16 * torch.finfo(volts.dtype).eps * before.abs()
        for _ in range(60):
            falls = self.power(volts + step, given, matrix) <= most
            if bool(falls.all()):
                break
            step = torch.where(falls, step, step / 2)
        return step


def unsettled(owner: Diodes, passes: int, kind: str, residual: float, tolerance: float) -> ReadingError:
    return ReadingError(
        f"a resistive network with {type(owner).__name__} did not settle: after {passes} {kind} its voltages still "
        f"change by {residual:.2g} of the largest, wanted {tolerance:g}; allow more {kind} or a larger tolerance, or "
        "give its nodes more conductance to the inputs"
    )


def _sides(like: Tensor) -> tuple[Tensor, Tensor]:
    """Return the least and the largest voltage of a layer's nodes, (n,)."""
    low = like.new_full(like.shape[-1:], -math.inf)
    high, half = -low, len(low) // 2
    low[:half], high[half:] = 0.0, 0.0
    return low, high


def _times(matrix: Tensor, volts: Tensor) -> Tensor:
    return volts @ matrix.mT


def _relative(changes: Sequence[Tensor], volts: Sequence[Tensor | None]) -> float:
    """Return the largest change relative to the largest voltage; 0 without a voltage."""
    change = max(float(part.abs().max()) for part in changes)
    largest = max(float(part.detach().abs().max()) for part in volts if part is not None)
    return change / largest if largest else (0.0 if change == 0 else math.inf)


def _check(owner: Diodes, tolerance: float, name: str, passes: int) -> None:
    kind = type(owner).__name__
    if not 0 < tolerance < 1:
        raise ArgumentError(f"`{kind}(tolerance=...)` must be between 0 and 1, got {tolerance}")
    if not (isinstance(passes, int) and passes >= 1):
        raise ArgumentError(f"`{kind}({name}=...)` must be a whole number of at least 1, got {passes}")
