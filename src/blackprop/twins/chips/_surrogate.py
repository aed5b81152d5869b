"""A surrogate that calibrates a chip in closed form at its start, and is its twin from then on."""

from __future__ import annotations

import math
import warnings

import torch
from torch import Tensor

from blackprop.core._declaration import Declaration
from blackprop.core._procedure import Procedure
from blackprop.devices import Device
from blackprop.errors import ArgumentError, CalibrationWarning, IncompatibleError
from blackprop.surrogates import Surrogate, Twin
from blackprop.twins.chips._calibration import FAR, POOR, better, calibrate, check_design, costs, recalibrate, usual
from blackprop.twins.chips._precision import Precision
from blackprop.twins.chips._twin import ChipTwin
from blackprop.twins.chips.faults._ports import listed

ROUGH = (
    0.1  # the part of held-out readings that a calibration may leave unexplained, beyond the noise, without a warning
)


class CalibratedChip(Surrogate):
    """`∂L/∂x` and `∂L/∂θ` by autograd through a model of the chip, found at the first setting.

    The start reads the chip at settings that depend on no reading, solves one column after the other for its offsets
    and splitters by linear least squares, and fits all of them jointly. Offsets may be anything.
    Readings that the fit does not see check it; where they are explained to less than a half, `accepted` is False, a
    `CalibrationWarning` says so at the first batch, and another method should be taken. Where more than a tenth is
    left, a warning says that the gradients are approximate.

    - Rectangular meshes of two-splitter blocks whose fields are read at half of their outputs or more: the closed form,
      from the last column to the first, 2N + 19 programmings of N modes at least (`Precision.programmings`).
    - All other designs and readouts, and few outputs: layer by layer from the inputs (`programmings`), one programming
      a phase layer for fields, two for powers, and two or four where three-splitter blocks of two columns meet.

    Phase shifters that do not answer to their setting, such as dead or shorted heaters, are found: `dead` (P,) is True
    for them, and a `CalibrationWarning` names them at the first batch. Their gradient is zero, and the rest is
    calibrated and trained as usual. The closed form gives way to the growth layer by layer there, for one pass more.
    Where the held-out readings stay unexplained, the shifters around the layer from which on the calibration erred are
    turned one at a time, and the inputs lit one at a time: 2N + 5 programmings more, of N + 1 rows at most, each
    repetition of the first 2N + 1. A port that gives no light is named. Where fields are read, the rest is calibrated
    without it; where powers are read, the calibration is refused, as it is where rows overdrive a detector.

    One held-out setting is read at the first and at the last programming. Where the readings differ by more than noise,
    `moved` is True and a `CalibrationWarning` says that the chip moved meanwhile.

    Another `start` of a calibrated chip asks which parts have moved meanwhile. From 20 settings anywhere it finds the
    columns whose offsets differ, and fits those alone, or small changes of all; 8 more settings decide. Where that does
    not explain them, the chip is calibrated again as a whole, and the held calibration stays where it explains the new
    held-out readings at least as well. **Costs** 28 programmings and 20 max(N, 16) + 128 rows, and those of a whole
    calibration besides where it follows.

    After that every training batch refines the model by `online_steps` steps, as `Twin` does.

    **Costs** `programmings` programmings and `total_rows` rows once, booked as `CALIBRATE`, and no queries after that.

    **Arguments:**

    - `device`: the chip, or wrappers around one. Only its design, the nominal law of its heaters, its nominal losses
      and the kind of its readout are read. 4 modes or more, 2 outputs or more, all inputs driven where powers are read,
      heaters that reach a phase of 1.15π.
    - `precision`: rows, repeats and more programmings; by default one pass of N rows in closed form, at least 32, of 2N
      rows layer by layer, 1.5N for powers; with heaters more, `Precision.heated(N)`.
    - `online_steps`, `lr`: of the fit to the training batches, see `Twin`.

    Raises `ArgumentError` for a device that is not a mesh, and `IncompatibleError`, when it is bound, for one that no
    calibration serves.
    """

    held_out: Tensor
    fitted: Tensor
    noise: Tensor
    drift: Tensor
    moved: Tensor
    accepted: Tensor
    dead: Tensor
    said: Tensor

    def __init__(
        self, device: Device, *, precision: Precision | None = None, online_steps: int = 1, lr: float = 0.015
    ) -> None:
        super().__init__()
        if precision is not None and not isinstance(precision, Precision):
            raise ArgumentError(f"`CalibratedChip(precision=...)` takes a Precision, got {precision!r}")
        model = ChipTwin(device)
        self.precision: Precision = precision if precision is not None else usual(model.chip)
        self.twin: Twin = Twin(model, fit_steps=0, online_steps=online_steps, lr=lr, watch=None)
        self._model = [model]  # the twin owns it
        self._faults: list[str] = []
        self._refused = False

    @property
    def model(self) -> ChipTwin:
        """The chip as it is believed to be."""
        return self._model[0]

    @property
    def programmings(self) -> int:
        """How many the start takes."""
        return costs(self.model.chip, self.model.chip.declaration, self.precision)[0]

    @property
    def total_rows(self) -> int:
        """The rows that the start takes."""
        return costs(self.model.chip, self.model.chip.declaration, self.precision)[1]

    def check(self, spec: Declaration) -> None:
        if self.model.chip.readout.linear and not spec.linear:
            raise IncompatibleError(f"`CalibratedChip` needs a linear device, and {spec.name} is declared as none")
        check_design(self.model.chip, spec)
        self.twin.check(spec)

    def bind(self, spec: Declaration) -> None:
        super().bind(spec)
        self.twin.bind(spec)

    def _allocate(self, spec: Declaration) -> None:
        self.register_buffer("dead", torch.zeros(spec.theta.size, dtype=torch.bool))
        for name in ("held_out", "fitted", "noise", "drift"):
            self.register_buffer(name, torch.full((), math.inf))
        self.register_buffer("accepted", torch.tensor(False))
        self.register_buffer("moved", torch.tensor(False))
        self.register_buffer("said", torch.tensor(False))

    def start(self, theta: Tensor, generator: torch.Generator) -> Procedure[None]:
        self.twin.input_rms = self.input_rms
        chip, sent, found = self.model.chip, (self._amplitude, theta.detach(), generator), None
        held = self.model.build.to(torch.zeros((), dtype=torch.float64))
        known = bool(self.accepted) and not bool(self.moved)
        if known and float(self.held_out) < max(FAR * float(self.noise), POOR):
            found = yield from recalibrate(chip, self.spec, held, float(self.held_out), *sent)
        if found is None:
            found = yield from calibrate(chip, self.spec, self.precision, *sent)
            if self.held_out.isfinite():
                found = better(chip, held, found)
        yield from self.twin.start(theta, generator)
        if math.isfinite(found.held_out):
            self.model.take(found.build)
        for name in ("held_out", "fitted", "noise", "accepted", "drift", "moved"):
            getattr(self, name).fill_(getattr(found, name))
        self.dead.copy_(found.dead)
        self._faults, self._refused = found.faults(self.precision.rows), found.refused
        self.said.fill_(False)

    def track(self, theta_old: Tensor, theta_new: Tensor, generator: torch.Generator) -> Procedure[None]:
        yield from self.twin.track(theta_old, theta_new, generator)

    def observe(self, x: Tensor, y: Tensor) -> None:
        if not self.said:
            self.said.fill_(True)
            for text in self._doubts():
                warnings.warn(f"{self.spec.name}: {text}", CalibrationWarning, stacklevel=2)
        self.twin.observe(x, y)

    def _doubts(self) -> list[str]:
        """The faults that the calibration found, each with a remedy."""
        found, dead = [*self._faults], self.dead.nonzero().flatten().tolist()
        if dead:
            found.append(
                f"{len(dead)} of {len(self.dead)} phase shifters do not answer to their setting: {listed(dead)}. Their "
                "gradient is zero, and training goes around them; check their heaters and drivers"
            )
        if self.moved:
            found.append(
                f"the chip moves while it is calibrated: the reading of one setting changed by {float(self.drift):.1%} "
                "from the first programming to the last, beyond its noise. Steady the chip or let it warm up and start "
                "again, or calibrate in fewer programmings or rows, `CalibratedChip(precision=Precision(rows=...))`"
            )
        if not self.accepted and not self._refused:
            found.append(
                f"the calibration leaves {float(self.held_out):.0%} of the readings unexplained at settings that it "
                f"was not made from, so its gradients may be wrong. Give `Precision(rows=..., repeats=...)` more than "
                f"{self.precision.rows} and {self.precision.repeats}, or take a method that needs no design, such as "
                "`DirectionalMemory`"
            )
        elif self.accepted and not self.moved and float(self.held_out) > ROUGH + 3 * float(self.noise):
            found.append(
                f"the calibration leaves {float(self.held_out):.0%} of the readings unexplained at settings that it "
                "was not made from. Its gradients are approximate until training batches have refined it; "
                f"`Precision(rows=..., repeats=...)` above {self.precision.rows} and {self.precision.repeats} may help"
            )
        return found

    def grad_x(self, x: Tensor, grad_y: Tensor) -> Tensor:
        return self.twin.grad_x(x, grad_y)

    def grad_theta(self, x: Tensor, grad_y: Tensor) -> Tensor:
        """`(∂model(x; θ)/∂θ)ᵀ ∂L/∂y` (P,), at the θ that the surrogate stands at."""
        return self.twin.grad_theta(x, grad_y)

    def diagnosis(self) -> dict[str, float]:
        if not self.held_out.isfinite():
            return {}
        return {
            "check_residual": float(self.held_out),
            "noise": float(self.noise),
            "drift": float(self.drift),
            **self.twin.diagnosis(),
        }

    def extra_repr(self) -> str:
        dead = self.dead.nonzero().flatten().tolist() if "dead" in self._buffers else []
        return f"precision={self.precision}" + (f", dead={listed(dead)}" if dead else "")
