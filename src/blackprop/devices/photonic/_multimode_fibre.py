"""An image in a beam, sent through a multimode fibre at a power at which light acts on itself."""

from __future__ import annotations

import math
from functools import partial
from typing import final

import torch
from torch import Tensor

from blackprop.core._declaration import Cost
from blackprop.core._theta import ThetaSpec
from blackprop.devices._matrix import normal, uniform
from blackprop.devices._simulator import Simulator
from blackprop.devices.photonic._graded_index import GradedIndexFibre
from blackprop.devices.photonic._light_modulator import FRAME
from blackprop.errors import ArgumentError

LARGEST = 0.4  # rad, the most that the Kerr effect may turn a phase in one step
WINDOW = 8.0  # pulse lengths that the simulated time spans


@final
class MultimodeFibre(Simulator):
    """A pulse with the image x as phases of its beam, then a lens, the mask θ, a fibre and a camera (x, θ in rad):

    `y_j = d_out Σ_t |Σ_p C_jp (V a(t, L))_p|²`, `a(t, 0) = U M (e^{iθ} ⊙ W e^{ix}) s(t) / √d_in`, and in the fibre

    `∂a_p/∂z = i β₀ a_p − β₁ ∂a_p/∂t − i β₂/2 ∂²a_p/∂t² + i n₂ ω/c Σ_lmn S_plmn a_l a_m a_n*`.

    W is the lens, a unitary Fourier transform; M the overlap of the mask's pixels with the modes: light outside the
    guided modes is lost. C are the modes at the camera's pixels, each times the root of a pixel's area. The pulse is
    s(t) = sech(t/τ), and the camera integrates over it, so y is the energy on a pixel, relative to that of an evenly
    spread beam. **Not linear** in x even at low power, where `y = |T e^{ix}|²` and T is the transmission matrix; at
    higher power T depends on the light itself. Both x and θ have the period 2π. The masks and the camera are square,
    row-major, and as wide as the modes; β and S are those of `GradedIndexFibre`, minus β of the first mode.

    **Integration** by symmetric split steps, error O(h²) for h = length / steps: dispersion exactly, in frequency; the
    Kerr effect by a Runge–Kutta step of the fourth order, S summed by exact quadrature. A step that turns a phase by
    more than 0.4 rad, at the peak power and where the modes add up, is refused. The energy is then conserved to 1e-6
    (in double precision).

    **Arguments:**

    - `d_in` (default 16), `d_out` (default 64): pixels of mask and camera, square numbers.
    - `fibre` (default `GradedIndexFibre()`).
    - `power` (W, default 8e5): peak power of the launched beam.
    - `pulse` (s, default 25e-15): τ.
    - `times` (default 32): samples over 8 τ, periodic.
    - `steps` (default 32): along the fibre.
    - `mixing` (default 0): standard deviation of hidden Hermitian matrices K₁ and K₂ with `U = e^{iK₁}`, `V = e^{iK₂}`:
      misplaced launch and camera, bends.
    - `seed` (default 0): draws them.
    - `cost` (default: a frame takes 1/60 s, for the mask and for an image alike).

    Source: the generalised equation is that of Poletti and Horak, J. Opt. Soc. Am. B 25, 1645 (2008), here with one
    polarisation and without Raman effect.
    """

    power: float
    pulse: float
    times: int
    steps: int

    stacks = True

    def __init__(
        self,
        d_in: int = 16,
        d_out: int = 64,
        fibre: GradedIndexFibre | None = None,
        *,
        power: float = 8e5,
        pulse: float = 25e-15,
        times: int = 32,
        steps: int = 32,
        mixing: float = 0.0,
        seed: int = 0,
        cost: Cost | None = None,
    ) -> None:
        fibre = fibre if fibre is not None else GradedIndexFibre()
        self.fibre: GradedIndexFibre = fibre
        self.power, self.pulse, self.times, self.steps = power, pulse, times, steps
        sides = (_side("d_in", d_in), _side("d_out", d_out))
        self._check(mixing)
        generator = torch.Generator().manual_seed(seed)
        shape = (2, fibre.modes, fibre.modes)
        self.mixing: Tensor = normal(math.prod(shape), 0.0, mixing, generator).view(shape)
        h = fibre.length / steps
        reach = torch.arange(times, dtype=torch.float64) - (times - 1) / 2
        shape_t = 1 / torch.cosh(reach * WINDOW / times)
        beta0, beta1, beta2 = (part[None] for part in fibre.constants())
        w = -2 * math.pi * torch.fft.fftfreq(times, WINDOW * pulse / times, dtype=torch.float64)[:, None]
        phase = h * (beta0 + beta1 * w + beta2 * w.square() / 2)
        spacing = 2 * fibre.extent / sides[1]
        middles = (torch.arange(sides[1], dtype=torch.float64) + 0.5) * spacing - fibre.extent
        self._optics = {
            "lens": _lens(sides[0]) / math.sqrt(d_in),
            "launch": fibre.over(sides[0]) + 0j,  # (d_in, modes)
            "pulse": shape_t[:, None] / shape_t.norm() + 0j,  # unit energy
            "half": torch.polar(torch.ones_like(phase), phase / 2),
            "whole": torch.polar(torch.ones_like(phase), phase),
            "kerr": fibre.kerr_points() + 0j,  # (points, modes)
            "camera": fibre.at(middles).mT * spacing * math.sqrt(d_out) + 0j,  # (modes, d_out)
        }
        # The amplitude that the pulse's peak has at unit energy counts as the peak power.
        self._turn = fibre.nonlinearity() * power * h * float((shape_t.norm() / shape_t.max()) ** 2)
        self._placed: dict[tuple[torch.device, torch.dtype], dict[str, Tensor]] = {}
        theta = ThetaSpec(d_in, partial(uniform, d_in, 0.0, 2 * math.pi), period=2 * math.pi)
        super().__init__(d_in, d_out, theta, cost=cost if cost is not None else Cost(programming=FRAME, row=FRAME))

    def _check(self, mixing: float) -> None:
        for name, value in (("power", self.power), ("mixing", mixing)):
            if not 0 <= value < math.inf:
                raise ArgumentError(f"`MultimodeFibre({name}=...)` must be finite and not negative, got {value}")
        if not 0 < self.pulse < math.inf:
            raise ArgumentError(f"`MultimodeFibre(pulse=...)` must be positive and finite, got {self.pulse}")
        for name, value in (("times", self.times), ("steps", self.steps)):
            if value < 1:
                raise ArgumentError(f"`MultimodeFibre({name}=...)` must be at least 1, got {value}")
        if self.phase_per_step > LARGEST:
            raise ArgumentError(
                f"`MultimodeFibre(steps={self.steps})`: at {self.power:g} W a step of "
                f"{self.fibre.length / self.steps:.3g} m turns phases by up to {self.phase_per_step:.2g} rad; more "
                f"than {LARGEST:g} is not resolved; take {math.ceil(self.steps * self.phase_per_step / LARGEST)} steps "
                "or less power"
            )

    @property
    def phase_per_step(self) -> float:
        """The largest phase rotation by the Kerr effect in one step, in rad."""
        return abs(self.fibre.steepest()) * self.power * self.fibre.length / self.steps

    def unmixed(self) -> MultimodeFibre:
        """Return the same fibre without its hidden errors."""
        return MultimodeFibre(
            self.in_shape[0],
            self.out_shape[0],
            self.fibre,
            power=self.power,
            pulse=self.pulse,
            times=self.times,
            steps=self.steps,
            cost=self.cost,
        )

    def transfer(self, x: Tensor, theta: Tensor, /) -> Tensor:
        return self.transfer_with(x, theta, self.mixing.to(theta), theta.new_ones(()))

    def transfer_with(self, x: Tensor, theta: Tensor, mixing: Tensor, strength: Tensor) -> Tensor:
        """The same fibre with other hidden matrices and another strength of the Kerr effect; differentiable in both.

        `mixing` is G (2, modes, modes), `K = (G + Gᵀ)/2 + i (G − Gᵀ)/2`; `strength` () multiplies the Kerr effect.
        """
        optics = self._beside(x)
        entry, leaving = unitary(mixing)
        start = self.launched(x, theta) @ entry.mT
        end = self.propagate(start.unsqueeze(-2) * optics["pulse"], strength)
        field = end @ (leaving.mT @ optics["camera"])
        return (field.real.square() + field.imag.square()).sum(-2)

    def launched(self, x: Tensor, theta: Tensor) -> Tensor:  # (..., rows, modes)
        """Return the modes that an ideal launch excites, for a beam of unit power."""
        optics = self._beside(x)
        shown = torch.complex(x.cos(), x.sin()) @ optics["lens"]
        return (shown * torch.complex(theta.cos(), theta.sin()).unsqueeze(-2)) @ optics["launch"]

    def propagate(self, a: Tensor, strength: Tensor) -> Tensor:
        """Return the modes' amplitudes a (..., times, modes) at the end of the fibre, for those at its start."""
        optics = self._beside(a.real)
        turn, points = strength * self._turn, optics["kerr"].real
        a = _dispersed(a, optics["half"])
        for step in range(self.steps):
            if self._turn:
                a = torch.complex(*_kerr(torch.stack((a.real, a.imag)), turn, points))
            a = _dispersed(a, optics["half" if step == self.steps - 1 else "whole"])
        return a

    def setting_bytes(self, rows: int) -> int:
        wide = 3 * len(self._optics["kerr"]) + 8 * self.fibre.modes + 2 * self.out_shape[0]
        return 8 * self.theta.size + 8 * rows * (self.times * wide + 4 * self.in_shape[0])

    def _beside(self, x: Tensor) -> dict[str, Tensor]:
        """The optics in x's precision, where x is."""
        key = (x.device, x.dtype)
        if key not in self._placed:
            with torch.inference_mode(False):  # kept for training, too
                self._placed[key] = {k: v.to(x.device, x.dtype.to_complex()) for k, v in self._optics.items()}
        return self._placed[key]


def unitary(generators: Tensor) -> Tensor:
    """`e^{iK}` of real matrices G (..., n, n), `K = (G + Gᵀ)/2 + i (G − Gᵀ)/2`."""
    even, odd = (generators + generators.mT) / 2, (generators - generators.mT) / 2
    return torch.linalg.matrix_exp(torch.complex(-odd, even))


def _kerr(a: Tensor, turn: Tensor, points: Tensor) -> Tensor:
    """A step of `da/dz = i Σ S a a a*`, by Runge and Kutta; a in its real and imaginary parts (2, ..., modes)."""

    def slope(a: Tensor) -> Tensor:
        u = a @ points.mT
        real, imaginary = (u * (turn * u.square().sum(0))) @ points
        return torch.stack((-imaginary, real))

    k1 = slope(a)
    k2 = slope(a + k1 / 2)
    k3 = slope(a + k2 / 2)
    return a + (k1 + 2 * (k2 + k3) + slope(a + k3)) / 6


def _dispersed(a: Tensor, phases: Tensor) -> Tensor:
    return torch.fft.ifft(torch.fft.fft(a, dim=-2) * phases, dim=-2)


def _lens(side: int) -> Tensor:
    """The unitary Fourier transform of a square of `side` pixels a side, both sides centred, (side², side²)."""
    at = torch.arange(side, dtype=torch.float64) - (side - 1) / 2
    phase = -2 * math.pi * torch.outer(at, at) / side
    along = torch.polar(torch.full_like(phase, side**-0.5), phase)
    return torch.kron(along, along)


def _side(name: str, d: int) -> int:
    side = math.isqrt(d) if d > 0 else 0
    if side < 1 or side * side != d:
        raise ArgumentError(f"`MultimodeFibre({name}=...)` must be a square number of pixels, got {d}")
    return side
