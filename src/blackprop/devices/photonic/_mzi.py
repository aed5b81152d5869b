"""Meshes of interferometers: a matrix as a brick wall of 2×2 blocks."""

from __future__ import annotations

import abc
import math
from collections.abc import Callable
from functools import partial
from typing import ClassVar, final

import torch
from torch import Tensor
from torch.nn.functional import pad

from blackprop.core._declaration import Cost
from blackprop.core._theta import ThetaSpec
from blackprop.core.capabilities._read_back import ReadBack, ReadBackField
from blackprop.core.capabilities._taps import Taps
from blackprop.devices._matrix import normal
from blackprop.devices._simulator import Simulator, apply_matrix
from blackprop.devices.photonic._blocks import Blocks
from blackprop.devices.photonic._light import Factors, arms, inside, powers, splitter, turned
from blackprop.devices.photonic.compiled._mesh import Light, readings
from blackprop.errors import ArgumentError

CHUNK_BYTES = 2 * 2**20  # coefficients held at a time: they stay in the cache, and a large mesh stays out of memory
MANY = 2  # times the inputs: so many rows cost more than the matrix

Place = tuple[int, int]  # a factor of a block, and one of its two arms
PUSH_PULL = ((0.0, 0.0, 1.0), (1.0, -1.0, 0.0))  # taps: φ upper, φ lower, θ
SEPARATE = ((0.0, 1.0), (1.0, 0.0))  # taps: φ, θ


class Mesh(Simulator):
    """The common part of the meshes, without their block."""

    stacks = True
    combination: ClassVar[tuple[tuple[float, ...], ...]]  # of the taps of a block, for its θ and φ
    tapped: ClassVar[tuple[Place, ...]]  # where the taps of a block sit

    def __init__(self, d_in: int, d_out: int, *, cost: Cost | None = None) -> None:
        self.modes: int = max(d_in, d_out) + max(d_in, d_out) % 2
        self.kept_from: int | None = self.modes  # so many rows cost less through the matrix, which is read from as many
        size = self.modes * (self.modes - 1)
        initial = partial(normal, size, math.pi / 2, 1 / math.sqrt(self.modes))
        cost = cost if cost is not None else Cost(programming=1e-4, row=1e-6)
        super().__init__(
            d_in,
            d_out,
            ThetaSpec(size, initial, period=2 * math.pi),
            linear=True,
            cost=cost,
            capabilities=[
                ReadBack(),
                ReadBackField(self.modes),
                Taps(self.modes, size // 2, self.combination),
            ],
        )

    @abc.abstractmethod
    def _blocks(self, theta_phi: Tensor) -> Blocks:
        """Return the elements a, b, c, d of the blocks `[[a, b], [c, d]]`, complex (...), of the phases (..., 2).

        An imperfect mesh passes more numbers than the two phases.
        """

    @abc.abstractmethod
    def factors(self, theta: Tensor) -> Factors:
        """Return the blocks of a setting (P,) as factors (blocks, 2, 2), in the order in which light meets them."""

    def tap_powers(self, x: Tensor, /) -> Tensor:
        """The powers (rows, K) at the taps, for fields x (rows, 2, N) at the inputs."""
        with torch.no_grad():
            _, fields = inside(torch.complex(x[:, 0], x[:, 1]), self.factors(self._held()), self.modes)
            taps = torch.stack([fields[factor][..., arm] for factor, arm in self.tapped], -1)
            return powers(taps).flatten(1).to(x)

    def read_back_field(self, g: Tensor, /) -> Tensor:
        """`z = Uᵀ g` (rows, 2, N) for rows g (rows, d_out) sent into the outputs."""
        theta = self._held()
        with torch.enable_grad():
            x = torch.zeros(len(g), self.modes, dtype=theta.dtype.to_complex(), device=g.device, requires_grad=True)
            (back,) = torch.autograd.grad(self._read_out(self._field(x, theta)), x, g.detach().to(theta))
        return torch.stack((back.real, -back.imag), 1).to(g)  # autograd returns the conjugate

    def _held(self) -> Tensor:
        if self._programmed is None:
            raise ArgumentError(f"{self} must be programmed before it is read")
        return self._programmed

    def transfer(self, x: Tensor, theta: Tensor, /) -> Tensor:
        return self._readings(x, self._numbers(theta))

    def setting_bytes(self, rows: int) -> int:
        # A setting twice; the field before and after a column; that column's coefficients.
        return 8 * self.theta.size + 40 * (rows + 2) * self.modes

    def _read_out(self, field: Tensor) -> Tensor:
        return field.real[..., : self.out_shape[0]].contiguous()

    def _field(self, x: Tensor, theta: Tensor) -> Tensor:
        return self._propagate(x, self._numbers(theta))

    def _numbers(self, theta: Tensor) -> Tensor:
        """Return the arguments of `_blocks` (..., blocks, numbers) at the setting theta."""
        return theta.unflatten(-1, (-1, 2))

    def _readings(self, x: Tensor, numbers: Tensor) -> Tensor:
        """Return `Re(U x)` (..., rows, d_out). Rows far more than the inputs meet the matrix, made from unit rows."""
        inputs = self.in_shape[0]
        light = Light(self.modes, self.out_shape[0], self._compiled_blocks(), self._plain)
        if x.dim() < 2 or x.shape[-2] < MANY * inputs or x.dtype != numbers.dtype:
            return readings(light, x, numbers)
        unit = torch.eye(inputs, dtype=x.dtype, device=x.device)
        return apply_matrix(readings(light, unit, numbers).mT, x)

    def _compiled_blocks(self) -> Callable[[Tensor], Blocks] | None:
        """Return the blocks for compiled code; None for those of `MZIMesh`, which has its own."""
        return self._blocks

    def _plain(self, x: Tensor, numbers: Tensor) -> Tensor:
        return self._read_out(self._propagate(x, numbers))

    def _propagate(self, x: Tensor, settings: Tensor) -> Tensor:
        """Return the amplitudes U x behind the mesh (..., rows, N), complex.

        `settings` (..., N(N−1)/2, numbers) are the arguments of `_blocks`. Rows pass column by column; U is never
        formed.
        """
        n, stack = self.modes // 2, settings.shape[:-2]  # columns of a parity, blocks in an even column; settings
        evens, odds = settings.split([n * n, n * (n - 1)], -2)
        evens, odds = evens.unflatten(-2, (n, n)), odds.unflatten(-2, (n, n - 1))
        # The state is (..., rows, 1, N): the odd modes, then the even ones, so that a column's inputs are its halves.
        modes = pad(x, (0, self.modes - x.shape[-1])).to(settings.dtype.to_complex()).unflatten(-1, (n, 2))
        state = torch.stack((modes[..., 1], modes[..., 0]), -2).flatten(-2).unsqueeze(-2)
        if len(stack) > x.dim() - 2:
            state = state.expand(*stack, *x.shape[:-1], 1, self.modes)
        half, wide = (*state.shape[:-2], 1, 2 * n), (*state.shape[:-2], 1, 2 * n + 2)
        step = max(1, CHUNK_BYTES // (64 * n * max(1, stack.numel())))  # 64 B: two blocks of complex64
        for start in range(0, n, step):
            chunk = slice(start, start + step)
            for even, odd in zip(
                self._columns(evens[..., chunk, :, :]), self._columns(odds[..., chunk, :, :], odd=True), strict=True
            ):
                second, first = state.chunk(2, -1)
                state = torch.addcmul(even[0] * first, even[1], second).reshape(half)
                # An odd column is widened by an unlit neighbour on either side: every mode then is in a block.
                first, second = pad(state, (1, 1)).chunk(2, -1)
                state = torch.addcmul(odd[0] * first, odd[1], second).reshape(wide)[..., 1:-1]
        odd_modes, even_modes = state.squeeze(-2).chunk(2, -1)
        return torch.stack((even_modes, odd_modes), -1).flatten(-2)

    def _columns(self, theta_phi: Tensor, *, odd: bool = False) -> list[tuple[Tensor, Tensor]]:
        """Return the factors of the first and the second inputs in each column, (..., 1, 2 outputs, blocks)."""
        a, b, c, d = self._blocks(theta_phi)
        outputs = ((a, b), (c, d)) if odd else ((c, d), (a, b))
        pairs = [torch.stack(elements, -2) for elements in zip(*outputs, strict=True)]
        if odd:  # the outermost modes pass: 1 × themselves + 1 × the unlit neighbour
            one = a.new_ones(*pairs[0].shape[:-1], 1)
            pairs = [torch.cat((one, pair, one), -1) for pair in pairs]
        firsts, seconds = (pair.unsqueeze(-3).unbind(-4) for pair in pairs)
        return list(zip(firsts, seconds, strict=True))


def mzi_factors(theta: Tensor, errors: Tensor) -> Factors:
    """`diag(e^{iφ}, e^{−iφ}) B(π/4 + ε₁)`, then `−i diag(e^{iθ}, 1) B(π/4 + ε₂)`, of ε (..., 2)."""
    outer, inner = turned(theta.unflatten(-1, (-1, 2))).unbind(-1)
    first, second = (math.pi / 4 + errors).expand(len(outer), 2).unbind(-1)
    half_turn = torch.full_like(outer, -1j)
    return [arms(inner, inner.conj(), splitter(first)), arms(-1j * outer, half_turn, splitter(second))]


def three_splitter_factors(theta: Tensor, errors: Tensor) -> Factors:
    """`diag(−i e^{iφ}, 1) B(π/4 + ε₁)`, `diag(i e^{iθ}, 1) B(π/4 + ε₂)`, then `B(π/4 + ε₃)`, of ε (..., 3)."""
    outer, inner = turned(theta.unflatten(-1, (-1, 2))).unbind(-1)
    first, second, third = (math.pi / 4 + errors).expand(len(outer), 3).unbind(-1)
    one = torch.ones_like(outer)
    return [arms(-1j * inner, one, splitter(first)), arms(1j * outer, one, splitter(second)), splitter(third)]


@final
class MZIMesh(Mesh):
    """A mesh of Mach–Zehnder interferometers: `y = Re(U x)`, cropped to d_out, with the blocks, θ and φ in rad,

    `[[e^{iθ} sin φ, e^{iθ} cos φ], [cos φ, −sin φ]]`.

    U has N modes, N even and at least d_in and d_out; x is padded with zeros. Light meets N/2 pairs of columns: an even
    one, blocks on the modes (0, 1), (2, 3), …, then an odd one, blocks on (1, 2), …, (N−3, N−2). A setting holds N(N−1)
    phases, (θ, φ) block by block: first all even columns, then all odd ones. Each starts from a normal distribution of
    mean π/2 and standard deviation 1/√N. A thermal phase shifter settles in 100 µs, a photodiode reads a row in 1 µs.
    Source: arXiv 2509.15113.
    """

    combination: ClassVar[tuple[tuple[float, ...], ...]] = PUSH_PULL
    tapped: ClassVar[tuple[Place, ...]] = ((0, 0), (0, 1), (1, 0))

    def factors(self, theta: Tensor) -> Factors:
        return mzi_factors(theta, theta.new_zeros(2))

    def _blocks(self, theta_phi: Tensor) -> Blocks:
        (ct, cp), (st, sp) = theta_phi.cos().unbind(-1), theta_phi.sin().unbind(-1)
        dark = torch.zeros_like(cp)
        a, b = torch.complex(ct * sp, st * sp), torch.complex(ct * cp, st * cp)
        return a, b, torch.complex(cp, dark), torch.complex(-sp, dark)

    def _compiled_blocks(self) -> None:
        return None


@final
class ThreeSplitterMesh(Mesh):
    """The mesh of `MZIMesh` with a third splitter in each block: for `p = (θ − φ)/2` and `q = (θ + φ)/2`, in rad,

    `e^{iq}/√2 · [[sin p + i sin q, −cos p + i cos q], [cos p + i cos q, sin p − i sin q]]`.

    Layout, initial values and cost are those of `MZIMesh`. Source: arXiv 2509.15113.
    """

    combination: ClassVar[tuple[tuple[float, ...], ...]] = SEPARATE
    tapped: ClassVar[tuple[Place, ...]] = ((0, 0), (1, 0))

    def factors(self, theta: Tensor) -> Factors:
        return three_splitter_factors(theta, theta.new_zeros(3))

    def _blocks(self, theta_phi: Tensor) -> Blocks:
        # Written in t = e^{iθ} and f = e^{iφ} no half angle is left: θ and φ have the period 2π, each by itself.
        t, f = torch.complex(theta_phi.cos(), theta_phi.sin()).unbind(-1)
        both = t * f
        phase, total = 1j * (f - t), t + f
        bar, cross = both - 1, 1j * (both + 1)
        scale = math.sqrt(1 / 8)
        return scale * (phase + bar), scale * (cross - total), scale * (cross + total), scale * (phase - bar)
