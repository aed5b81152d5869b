"""An integrated mesh as it was built: its hidden parameters are drawn from a seed and not declared."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from blackprop.core._declaration import Cost
from blackprop.core._theta import ThetaSpec
from blackprop.core.capabilities._read_back import ReadBack, ReadBackField
from blackprop.devices._simulator import Simulator
from blackprop.devices.photonic.chips._design import Design, Layout
from blackprop.devices.photonic.chips._heaters import Heaters, warmth
from blackprop.devices.photonic.chips._losses import Losses, amplitudes, no_losses
from blackprop.devices.photonic.chips._propagation import propagated
from blackprop.devices.photonic.chips._readout import Field, Readout
from blackprop.devices.photonic.chips._taps import PowerTaps, block_factors, through
from blackprop.errors import ArgumentError


@dataclass(frozen=True, eq=False)
class Build:
    """The hidden parameters of a chip, in the order of θ.

    Phases and splitter errors in rad, losses in nepers of amplitude.
    """

    offset: Tensor  # (P,)
    splitters: Tensor  # (blocks, splitters a block)
    slopes: Tensor  # (P,), h of each heater; −1 for one that does not answer to its setting
    loss: Tensor  # (blocks,)
    loss_in: Tensor  # (n_in,)
    loss_out: Tensor  # (ports read,)
    responsivity: Tensor  # (ports read,), 1 + r
    dark: Tensor  # (ports read,)
    crosstalk: Tensor  # ()

    def to(self, like: Tensor) -> Build:
        return Build(**{each.name: getattr(self, each.name).to(like) for each in fields(self)})


class Chip(Simulator):
    """`y = readout(T_out U(phases) T_in x)`: an integrated mesh of interferometers as a laboratory has it.

    U is the product of the design's columns. Each block has phases of its own, hidden offsets included, splitters that
    err, and a loss; T_in and T_out are the losses of the ports. The first n_in modes are driven, and the first n_out
    (twice as many of balanced pairs) are read; the other ports are dark. The hidden
    parameters are not declared; `oracle` knows them.

    Settings are phases in rad of period 2π, or, with `heaters`, voltages within limits. Without errors
    `Chip(Rectangular(), ...)` is `MZIMesh`, and `Chip(Rectangular(splitters=3), ...)` is `ThreeSplitterMesh`.

    **Arguments:**

    - `design`: `chips.Rectangular`, `chips.Triangular` or `chips.Butterfly`.
    - `n_in`, `n_out`: ports that are wired.
    - `modes`: of the mesh, at least as many; by default as few as the design has.
    - `offset`: rad; the phases' offsets are uniform within ±offset. By default anywhere on the circle.
    - `splitter`: rad; the standard deviation of the splitters' errors ε.
    - `heaters`: a `chips.Heaters`, None for plain phases.
    - `losses`: a `chips.Losses`, None for none.
    - `readout`: `chips.Field()`, `chips.Power()` or `chips.Balanced()`.
    - `taps`: a `chips.PowerTaps`, for in-situ backpropagation; None for none. All inputs are wired then, and with them
      `ReadBack`, `ReadBackField` and `Taps` are declared. The readout must be `Field()`.
    - `seed`: of all that is hidden.
    - `cost`: by default 0.1 ms a programming, as long as a heater takes to settle, and 1 µs a row.

    Raises `ArgumentError` where the design has no mesh of so many modes, or the ports do not fit.
    """

    design: Design
    modes: int
    heaters: Heaters | None
    readout: Readout | Field
    losses: Losses
    taps: PowerTaps | None
    build: Build
    entrances: Tensor

    stacks = True

    def __init__(
        self,
        design: Design,
        n_in: int,
        n_out: int,
        *,
        modes: int | None = None,
        offset: float = math.pi,
        splitter: float = 0.05,
        heaters: Heaters | None = None,
        losses: Losses | None = None,
        readout: Readout | None = None,
        taps: PowerTaps | None = None,
        seed: int = 0,
        cost: Cost | None = None,
    ) -> None:
        readout = readout if readout is not None else Field()
        _check_parts(design, heaters, losses, readout, taps)
        for name, value in (("offset", offset), ("splitter", splitter)):
            if not 0 <= value < math.inf:
                raise ArgumentError(f"`Chip({name}=...)` must be finite and not negative, got {value}")
        ports = readout.ports_each * n_out
        modes = design.fitting(max(n_in, ports)) if modes is None else modes
        if modes < max(n_in, ports):
            raise ArgumentError(f"`Chip(modes={modes})` has too few for {n_in} inputs and {ports} ports that are read")
        self.layout: Layout = design.layout(modes)
        if heaters is not None and heaters.dead > 2 * self.layout.blocks:
            raise ArgumentError(f"`Heaters(dead={heaters.dead})` are more than the chip's {2 * self.layout.blocks}")
        size = 2 * self.layout.blocks
        spec = ThetaSpec(size, period=2 * math.pi) if heaters is None else heaters.spec(size)
        cost = cost if cost is not None else Cost(programming=1e-4, row=1e-6)
        losses = losses if losses is not None else no_losses()
        capabilities = []
        if taps is not None:
            law = heaters.law if heaters is not None else ()
            declared = taps.declared(self.layout, design.splitters, losses, law)
            capabilities = [ReadBack(), ReadBackField(modes), declared]
        super().__init__(n_in, n_out, spec, linear=readout.linear, cost=cost, capabilities=capabilities)
        self.kept_from: int | None = modes if readout.linear else None
        self.design, self.modes = design, modes
        self.heaters, self.readout, self.losses, self.taps = heaters, readout, losses, taps
        self.build, self.entrances = _drawn(
            self.layout, n_in, ports, design.splitters, offset, splitter, heaters, losses, readout, seed
        )
        self._noise = torch.Generator().manual_seed(seed)
        self.gains: Tensor | None = taps.drawn(self.layout, design.splitters, self._noise) if taps is not None else None
        self._warmth = warmth(self.layout, heaters.reach) if heaters is not None else None

    def transfer(self, x: Tensor, theta: Tensor, /) -> Tensor:
        return self.transfer_with(x, theta, self.build.to(theta))

    def transfer_with(self, x: Tensor, theta: Tensor, build: Build) -> Tensor:
        """The same chip with other hidden parts, differentiable in them too."""
        field = self.field_with(x, theta, build)[..., : len(build.loss_out), :]
        field = amplitudes(build.loss_out).unsqueeze(-1) * field
        return self.readout.detect(field, build.responsivity, build.dark).mT.contiguous()

    def field_with(self, x: Tensor, theta: Tensor, build: Build) -> Tensor:
        """The complex field (..., modes, rows) of all modes behind the mesh."""
        return self._behind(pad(x * amplitudes(build.loss_in), (0, self.modes - x.shape[-1])), theta, build)

    def _behind(self, driven: Tensor, theta: Tensor, build: Build) -> Tensor:
        """The complex field (..., modes, rows) behind the mesh, of that (..., rows, modes) in front of it."""
        field = driven.mT.contiguous().to(theta.dtype.to_complex())
        stack = theta.shape[:-1]
        if len(stack) > field.dim() - 2:
            field = field.expand(*stack, *field.shape)
        first, second = self.phases_with(theta, build).unflatten(-1, (-1, 2)).unbind(-1)
        left = amplitudes(build.loss)
        blocks = self.design.block(first, second, build.splitters)
        a, b, c, d = (left * element for element in blocks)
        return propagated(self.layout, (a, b, c, d), field)

    def tap_powers(self, x: Tensor, /) -> Tensor:
        """The powers (rows, K) that the taps read, for fields x (rows, 2, N) at the inputs."""
        return self.tap_powers_at(x, self._held())

    def read_back_field(self, g: Tensor, /) -> Tensor:
        """`z = Uᵀ g` (rows, 2, N) for rows g (rows, n_out) sent into the outputs."""
        return self.read_back_field_at(g, self._held())

    def tap_powers_at(self, x: Tensor, theta: Tensor) -> Tensor:
        """`tap_powers` at the setting theta (P,)."""
        if self.taps is None or self.gains is None:
            raise ArgumentError(f"{self} has no taps: it takes `Chip(taps=chips.PowerTaps())`")
        with torch.no_grad():
            build = self.build.to(theta)
            factors = block_factors(self.phases_with(theta, build), build.splitters, build.loss)
            light = torch.complex(x[:, 0], x[:, 1]).to(factors[0]) * amplitudes(self.entrances.to(theta))
            fields = through(self.layout, factors, light)
            return self.taps.read(fields, self.design.splitters, self.gains.to(theta), self._noise).to(x)

    def read_back_field_at(self, g: Tensor, theta: Tensor) -> Tensor:
        """`read_back_field` at the setting theta (P,)."""
        build = self.build.to(theta)
        with torch.enable_grad():
            x = torch.zeros(len(g), self.modes, dtype=theta.dtype.to_complex(), device=g.device, requires_grad=True)
            field = self._behind(x * amplitudes(self.entrances.to(theta)), theta, build)[: len(build.loss_out)]
            out = (amplitudes(build.loss_out).unsqueeze(-1) * field).real.mT
            (back,) = torch.autograd.grad(out, x, g.detach().to(theta))
        return torch.stack((back.real, -back.imag), 1).to(g)  # autograd returns the conjugate

    def state_dict(self) -> dict[str, Any]:
        return {} if self.taps is None else {"noise": self._noise.get_state()}

    def load_state_dict(self, state: Mapping[str, Any], /) -> None:
        if self.taps is None:
            super().load_state_dict(state)
        else:
            self._noise.set_state(state["noise"].cpu())

    def _held(self) -> Tensor:
        if self._programmed is None:
            raise ArgumentError(f"{self} must be programmed before it is read")
        return self._programmed

    def drawing(self) -> Chip:
        """The chip as designed: nominal losses, heaters and readout, without errors."""
        heaters = self.heaters and replace(self.heaters, spread=0.0, crosstalk=0.0, dead=0)
        parts = {"heaters": heaters, "losses": replace(self.losses, spread=0.0), "readout": type(self.readout)()}
        parts["taps"] = self.taps and PowerTaps()
        ports = *self.in_shape, *self.out_shape
        return Chip(self.design, *ports, modes=self.modes, offset=0, splitter=0, cost=self.cost, **parts)

    def phases_with(self, theta: Tensor, build: Build) -> Tensor:
        """The phases (..., P) in rad at the setting theta."""
        if self.heaters is None or self._warmth is None:
            return (1 + build.slopes) * theta + build.offset
        heat = (1 + build.slopes) * self.heaters.nominal(theta)
        return build.offset + heat + build.crosstalk * self._warmth.spilt(heat)

    def setting_bytes(self, rows: int) -> int:
        # A setting and its phases; the elements of the blocks and the columns' factors; the field, thrice.
        columns = len(self.layout.columns)
        return 40 * self.theta.size + 16 * columns * self.modes + 24 * (rows + 1) * self.modes


def _check_parts(design: object, heaters: object, losses: object, readout: object, taps: object) -> None:
    for name, value, kind in (
        ("design", design, Design),
        ("heaters", heaters, Heaters | None),
        ("losses", losses, Losses | None),
        ("readout", readout, Readout),
        ("taps", taps, PowerTaps | None),
    ):
        if not isinstance(value, kind):
            raise ArgumentError(f"`Chip({name}=...)` takes one of the parts in `bp.devices.chips`, got {value!r}")
    if taps is not None and not isinstance(readout, Field):
        raise ArgumentError(
            f"`Chip(taps=...)` needs `readout=chips.Field()`, homodyne detectors: in-situ backpropagation sends errors "
            f"backwards with the phase of the reading, and {readout!r} reads powers, which have none"
        )


def _drawn(
    layout: Layout,
    n_in: int,
    ports: int,
    splitters: int,
    offset: float,
    splitter: float,
    heaters: Heaters | None,
    losses: Losses,
    readout: Readout,
    seed: int,
) -> tuple[Build, Tensor]:
    """All hidden parameters, and the losses (modes,) of all inputs, the unwired ones too.

    Each part is drawn in every case, also where its size is 0, so that a chip with one error more keeps the rest.
    """
    generator = torch.Generator().manual_seed(seed)
    blocks, phases = layout.blocks, 2 * layout.blocks

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    def uniform(*shape: int) -> Tensor:
        return torch.rand(shape, generator=generator, dtype=torch.float64)

    offsets, errors = offset * (2 * uniform(phases) - 1), splitter * normal(blocks, 3)
    slopes, lost, order = normal(phases), losses.draw(losses.interferometer, normal(blocks)), uniform(phases).argsort()
    ends = losses.draw(losses.port, normal(2 * layout.modes))
    relative, dark = normal(layout.modes), 0.5 + uniform(layout.modes)
    slopes = slopes * (heaters.spread if heaters is not None else 0.0)
    if heaters is not None:
        slopes[order[: heaters.dead]] = -1.0
    spread, level = getattr(readout, "responsivity", 0.0), getattr(readout, "dark", 0.0)
    build = Build(
        offset=offsets,
        splitters=errors[:, :splitters],
        slopes=slopes,
        loss=lost,
        loss_in=ends[:n_in],
        loss_out=ends[layout.modes :][:ports],
        responsivity=(1 + spread * relative[:ports]).clamp_min(0.0),
        dark=level * dark[:ports],
        crosstalk=torch.tensor(heaters.crosstalk if heaters is not None else 0.0, dtype=torch.float64),
    )
    return build, ends[: layout.modes]
