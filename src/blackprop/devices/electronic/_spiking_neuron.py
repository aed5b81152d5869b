"""A layer of mixed-signal spiking neurons: subthreshold currents in differential-pair integrators."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from functools import partial
from typing import TypeVar, final

import torch
from torch import Tensor

from blackprop.core._declaration import Cost, Coupling
from blackprop.core._theta import ThetaSpec
from blackprop.devices._matrix import uniform
from blackprop.devices._simulator import Simulator, apply_matrix
from blackprop.devices.electronic.compiled import _neurons as compiled
from blackprop.errors import ArgumentError

T = TypeVar("T", float, Tensor)

THERMAL = 25.0  # U_t in mV
SLOPE = 0.705  # κ of a transistor below threshold
DARK = 0.05  # I₀ in pA: the current of a transistor that is off


def time_constant(current: T, capacitance: float) -> T:
    """Return τ = (U_t/κ) C / I_τ in ms, for I_τ in pA and C in pF."""
    return THERMAL / SLOPE * capacitance / current


@dataclass(frozen=True)
class Biases:
    """The currents (pA), capacitances (pF) and times (ms) of a neuron.

    **Arguments:**

    - `synapse_leak`, `membrane_leak`: I_τ, which set the time constants.
    - `synapse_gain`, `membrane_gain`: I_g.
    - `synapse_capacitance`, `membrane_capacitance`: C.
    - `weight`: I_w of a synapse of weight 1, in a layer of one input.
    - `feedback`: I_a at its maximum; it rises around `onset` over `width`.
    - `threshold`: of a spike.
    - `refractory`: time after a spike.
    """

    synapse_leak: float = 10.0
    synapse_gain: float = 40.0
    synapse_capacitance: float = 2.0
    membrane_leak: float = 5.0
    membrane_gain: float = 20.0
    membrane_capacitance: float = 3.0
    weight: float = 100.0
    feedback: float = 2.0
    onset: float = 200.0
    width: float = 40.0
    threshold: float = 400.0
    refractory: float = 2.0

    def __post_init__(self) -> None:
        for field in fields(self):
            value, least = getattr(self, field.name), field.name in {"feedback", "refractory"}
            if not (0 < value < math.inf or (least and value == 0)):
                what = "finite and not negative" if least else "positive and finite"
                raise ArgumentError(f"`Biases({field.name}=...)` must be {what}, got {value}")
        if self.threshold <= DARK:
            raise ArgumentError(f"`Biases(threshold=...)` must be above the dark current {DARK}, got {self.threshold}")


@final
class SpikingNeurons(Simulator):
    """d_out neurons, each with d_in synapses of weights θ = w in [−1, 1] (row-major), that answer in spikes.

    Synapse, excitatory for w > 0 and inhibitory for w < 0: `dI/dt = −I/τ_s`, and a spike adds `(I_g/I_τ) I_w |w| n`, n
    the count of spikes; solved exactly from step to step. Membrane, I_in = I_exc − I_inh, at least I₀:

    `τ (1 + I_g/I) dI/dt = (I_g/I_τ)(I_in − I_τ) + (I_a/I_τ)(I + I_g) − I`, with the positive feedback `I_a = feedback /
    (1 + e^{(onset − I)/width})`,

    by Euler's method in steps of `step`. At the threshold it spikes, falls to I₀ and rests for the refractory time. All
    τ = (U_t/κ) C / I_τ, U_t = 25 mV, κ = 0.705; I_w is `weight / √d_in`. A reading is the count of spikes. Counts have
    no derivative, so there is no oracle. Starts from U(−½, 1).

    **Arguments:**

    - `d_in`, `d_out`: numbers of inputs and neurons.
    - `biases` (default `Biases()`).
    - `duration` (ms, default 100), `step` (ms, default 0.5): of a row.
    - `peak` (Hz, default 100): rows are rates x ≥ 0 in units of it, sent as regular trains whose phases the seed draws,
      so that equal rows get equal answers. Rows below 0 are refused, see `Differential`.
    - `trains` (default False): rows are counts of spikes step by step, (steps, d_in), rounded, none below 0.
    - `mismatch` (default 0.2): relative standard deviation of every neuron's leaks, gains and threshold and of every
      synapse's I_w, log-normal of mean 1, hidden from all methods.
    - `seed` (default 0).
    - `cost` (default None).

    Source: ARCANA, arXiv 2409.14918 (the equations).
    """

    step: float
    peak: float
    trains: bool
    synapse_leak: Tensor
    synapse_gain: Tensor
    membrane_leak: Tensor
    membrane_gain: Tensor

    stacks = True

    def __init__(
        self,
        d_in: int,
        d_out: int,
        *,
        biases: Biases | None = None,
        duration: float = 100.0,
        step: float = 0.5,
        peak: float = 100.0,
        trains: bool = False,
        mismatch: float = 0.2,
        seed: int = 0,
        cost: Cost | None = None,
    ) -> None:
        for name, value in (("duration", duration), ("step", step), ("peak", peak)):
            if not 0 < value < math.inf:
                raise ArgumentError(f"`SpikingNeurons({name}=...)` must be positive and finite, got {value}")
        if not 0 <= mismatch < math.inf:
            raise ArgumentError(f"`SpikingNeurons(mismatch=...)` must be finite and not negative, got {mismatch}")
        self.biases: Biases = biases if biases is not None else Biases()
        self.steps: int = round(duration / step)
        fastest = min(
            time_constant(self.biases.synapse_leak, self.biases.synapse_capacitance),
            time_constant(self.biases.membrane_leak, self.biases.membrane_capacitance),
        )
        if self.steps < 1 or step > fastest / 4:
            limit = min(duration, fastest / 4)
            raise ArgumentError(
                f"`SpikingNeurons(step=...)` must be at most {limit:.3g} ms at these biases, got {step}"
            )
        self.step, self.peak, self.trains = step, peak, trains
        size = d_in * d_out
        theta = ThetaSpec(size, partial(uniform, size, -0.5, 1.0), low=-1.0, high=1.0)
        in_shape = (self.steps, d_in) if trains else d_in
        super().__init__(in_shape, d_out, theta, coupling=Coupling.ROW, cost=cost, x_low=0.0)
        self._build(d_in, d_out, mismatch, torch.Generator().manual_seed(seed))

    def _build(self, d_in: int, d_out: int, mismatch: float, generator: torch.Generator) -> None:
        sigma = math.sqrt(math.log1p(mismatch**2))

        def made(nominal: float, *shape: int) -> Tensor:
            normal = torch.randn(*shape, generator=generator, dtype=torch.float64)
            return nominal * (sigma * normal - sigma**2 / 2).exp()

        b = self.biases
        self.synapse_leak, self.synapse_gain = (made(each, 2, d_out) for each in (b.synapse_leak, b.synapse_gain))
        self.membrane_leak, self.membrane_gain = (made(each, d_out) for each in (b.membrane_leak, b.membrane_gain))
        self.threshold: Tensor = made(b.threshold, d_out)
        self.synapse_weight: Tensor = made(b.weight / math.sqrt(d_in), d_out, d_in)
        self._phases = torch.rand(d_in, generator=generator, dtype=torch.float64)

    def transfer(self, x: Tensor, theta: Tensor, /) -> Tensor:
        with torch.no_grad():
            rows, settings = x.detach().double(), theta.detach().double()
            alone = x.dim() == 1 + len(self.in_shape)
            each = (x if alone else x[0]).shape[0] * self.steps * self.out_shape[0]
            if compiled.serves(each * (len(theta) if theta.dim() > 1 else 1), x.device):
                return self._compiled(rows[None] if alone else rows, settings).to(x.dtype)
            return self.fire(*self.synaptic(self._arriving(rows), settings)).to(x.dtype)

    def _compiled(self, x: Tensor, theta: Tensor) -> Tensor:
        """The same by compiled code, of rows (1 or S, rows, *in_shape)."""
        self.declaration.check_rows(x.flatten(0, -1 - len(self.in_shape)))
        b = self.biases
        strength = torch.cat([each.mT for each in self._strengths(theta)], -1)  # (..., d_in, 2 d_out)
        leak, gain = self.membrane_leak, self.membrane_gain
        pace = self.step / time_constant(leak, b.membrane_capacitance)
        membranes = compiled.Membranes(
            torch.stack((leak, gain, gain / leak, pace, self.threshold)),
            (b.feedback, b.onset, b.width, DARK, self.steps),
            round(b.refractory / self.step),
        )
        found = compiled.fire(
            (x.round() if self.trains else x).contiguous(),
            self.trains,
            self._phases,
            self.peak * self.step / 1000,
            (strength if strength.dim() == 3 else strength[None]).contiguous(),
            torch.cat(list(self._kept())),
            membranes,
        )
        return found if theta.dim() > 1 else found[0]

    def _kept(self) -> list[Tensor]:
        """The part of the excitatory and of the inhibitory currents (d_out,) that a step leaves."""
        taus = (time_constant(leak, self.biases.synapse_capacitance) for leak in self.synapse_leak)
        return [(-self.step / tau).exp() for tau in taus]

    def _strengths(self, theta: Tensor) -> list[Tensor]:
        """The jumps of both currents (..., d_out, d_in) by a spike."""
        w = theta.unflatten(-1, (*self.out_shape, -1))
        return [
            (sign * w).relu() * (gain / leak)[:, None].to(theta) * self.synapse_weight.to(theta)
            for sign, leak, gain in zip((1, -1), self.synapse_leak, self.synapse_gain, strict=True)
        ]

    def synaptic(self, counts: Tensor, theta: Tensor) -> tuple[Tensor, Tensor]:
        """Return the excitatory and the inhibitory currents (..., rows, steps, d_out) in pA, after each step.

        `counts` (..., rows, steps, d_in) are the spikes.
        """
        currents = []
        for left, strength in zip(self._kept(), self._strengths(theta), strict=True):
            kept = left.to(theta.device)
            jumps = apply_matrix(strength, counts.flatten(-3, -2)).unflatten(-2, counts.shape[-3:-1])
            current, course = torch.zeros_like(jumps[..., 0, :]), []
            for jump in jumps.unbind(-2):
                current = current * kept + jump
                course.append(current)
            currents.append(torch.stack(course, -2))
        return currents[0], currents[1]

    def _arriving(self, x: Tensor) -> Tensor:
        """Return the spikes per step (..., rows, steps, d_in)."""
        self.declaration.check_rows(x.flatten(0, -1 - len(self.in_shape)))
        if self.trains:
            return x.round()
        cycles = x.unsqueeze(-2) * (self.peak * self.step / 1000)
        edges = torch.arange(self.steps + 1, dtype=x.dtype, device=x.device).unsqueeze(-1)
        return (cycles * edges + self._phases.to(x.device)).floor().diff(dim=-2)

    def fire(self, excitatory: Tensor, inhibitory: Tensor) -> Tensor:
        """Return counts (..., rows, d_out) of spikes under the currents (..., rows, steps, d_out) in pA."""
        b, place = self.biases, excitatory.device
        leak, gain, threshold = (e.to(place) for e in (self.membrane_leak, self.membrane_gain, self.threshold))
        pace = self.step / time_constant(leak, b.membrane_capacitance)
        entering = (excitatory - inhibitory).clamp_min(DARK)
        drive = (gain / leak) * (entering - leak)
        resting = round(b.refractory / self.step)
        current = torch.full_like(drive[..., 0, :], DARK)
        rest, spikes = torch.zeros_like(current), torch.zeros_like(current)
        for driven in drive.unbind(-2):
            feedback = b.feedback / leak * ((current - b.onset) / b.width).sigmoid()
            change = pace * (driven + feedback * (current + gain) - current) / (1 + gain / current)
            current = torch.where(rest > 0, DARK, (current + change).clamp_min(DARK))
            rest = (rest - 1).clamp_min(0)
            fired = current >= threshold
            spikes = spikes + fired
            current = current.masked_fill(fired, DARK)
            rest = rest.masked_fill(fired, resting)
        return spikes

    def oracle(self) -> None:
        return None

    def setting_bytes(self, rows: int) -> int:
        return super().setting_bytes(rows) + 32 * rows * self.steps * (self.out_shape[0] + self.in_shape[-1])
