"""A design that is another chip of its family at every programming, for training on a model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, final

import torch
from torch import Tensor

from blackprop.core._query import Purpose, Query, same_setting
from blackprop.core._round import Round
from blackprop.core.capabilities._capability import Survives
from blackprop.devices import Device, Simulator
from blackprop.devices._imperfections import restored
from blackprop.devices._wrapper import Wrapper
from blackprop.errors import ArgumentError, IncompatibleError

FACTS = ("in_shape", "out_shape")


@final
class SampledChips(Wrapper):
    """Training rounds at a new setting meet a new chip, `draw(seed)`; evaluations meet the design.

    A network that is trained on it, with the two `Oracle`s or any other method, learns settings that serve the family:
    the loss is averaged over its spread. Add noise outside, `Noisy(SampledChips(...), read=0.01)`. `bp.deploy` takes
    the outputs of the design as those to reach.

    **Arguments:**

    - `design`: the device as designed, a simulator.
    - `draw`: a function of an integer that returns a simulator of the same shapes and parameters: another chip for
      another number.
    - `seed` (default 0): of the integers.

    **Raises** `ArgumentError` for a design that is not a simulator, `IncompatibleError` for chips that do not fit it.

    >>> import blackprop as bp
    >>> family = lambda seed: bp.devices.ImperfectMZIMesh(8, 4, phase=0.1, splitter=0.05, seed=seed)
    >>> bp.deployment.SampledChips(bp.devices.MZIMesh(8, 4), family)
    SampledChips(MZIMesh(8 -> 4, P = 56))
    """

    survives: ClassVar[Survives] = ()

    def __init__(self, design: Simulator, draw: Callable[[int], Simulator], *, seed: int = 0) -> None:
        if not isinstance(design, Simulator):
            raise ArgumentError(f"`SampledChips(design=...)` takes a Simulator, got {design!r}")
        super().__init__(design)
        self.draw = draw
        self._generator = torch.Generator().manual_seed(seed)
        self._number = 0
        self._chip: Simulator = design
        self._next()

    def _next(self) -> None:
        """Draw the next chip."""
        self._number = int(torch.randint(2**31, (), generator=self._generator))
        self._take(self._number)

    def _take(self, number: int) -> None:
        chip: Device = self.draw(number)
        if not isinstance(chip, Simulator):
            raise ArgumentError(f"`SampledChips(draw=...)` returns simulators, got {chip!r}")
        differ = [name for name in FACTS if getattr(chip, name) != getattr(self.device, name)]
        if differ or chip.theta.size != self.theta.size:
            raise IncompatibleError(f"`SampledChips(draw=...)`: {chip!r} does not fit the design {self.device!r}")
        self._chip = chip

    def program(self, theta: Tensor, /) -> None:
        self._next()
        self._chip.program(theta)

    def read(self, x: Tensor, /) -> Tensor:
        return self._chip.read(x)

    def measure(self, queries: Sequence[Query], /) -> list[Tensor]:
        asked = Round.of(queries)
        if not len(asked) or all(query.purpose is Purpose.EVALUATE for query in asked):
            return super().measure(asked)
        held, self._programmed = self._programmed, None
        if not same_setting(held, asked.settings[0]):
            self._next()
        readings = self._chip.measure(asked)
        self._programmed = asked.last_setting.clone()
        return readings

    def oracle(self) -> Callable[[Tensor, Tensor], Tensor]:
        def present(x: Tensor, theta: Tensor) -> Tensor:  # the chip of the last round, whenever it is called
            return self._chip.transfer(x, theta)

        return present

    def drawing(self) -> Device:
        return self.device

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "generator": self._generator.get_state(), "number": self._number}

    def load_state_dict(self, state: Mapping[str, Any], /) -> None:
        generator, number = restored(state["generator"]), int(state["number"])
        super().load_state_dict(state)
        self._generator, self._number = generator, number
        self._take(number)
