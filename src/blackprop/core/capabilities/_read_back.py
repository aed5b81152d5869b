"""The capabilities of a reciprocal device: it is read backwards."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from torch import Tensor

from blackprop.core.capabilities._capability import Capability, Shape
from blackprop.core.capabilities._drives import check_backward, check_limit

if TYPE_CHECKING:
    from blackprop.core._declaration import Declaration


@dataclass(frozen=True)
class ReadBack(Capability):
    """Rows g (B, *out_shape) sent into the outputs are read at the inputs as `A(θ)ᵀ g` (B, *in_shape).

    A linear device declares it where light or current runs both ways through the same matrix: passive optics without
    magnetic materials, and crossbars of resistors. The device class then has a method `read_back(g)`, which sends the
    rows at the setting that the device holds. `testing.check_device` compares `⟨g, A x⟩` with `⟨Aᵀ g, x⟩`.

    - `limit` (default None, no limit): the largest entry of a row that the sources at the outputs send. Larger ones are
      refused.
    """

    name: ClassVar[str] = "read_back"

    limit: float | None = None

    def __post_init__(self) -> None:
        check_limit(self, self.limit)

    def check_rows(self, x: Tensor, spec: Declaration) -> None:
        check_backward(self.name, x, self.limit, spec)

    def row_shape(self, spec: Declaration) -> Shape:
        return spec.out_shape

    def reading_shape(self, spec: Declaration) -> Shape:
        return spec.in_shape

    def perform(self, device: Any, x: Tensor, /) -> Tensor:
        return device.read_back(x)


@dataclass(frozen=True)
class ReadBackField(Capability):
    """Rows g (B, *out_shape) sent into the outputs are read as the field `z = Uᵀ g` at all N inputs.

    A reading (2, N) is its real and imaginary part, against the phase of the source. A device `y = Re(U x)` declares it
    where detectors at the inputs read amplitude and phase. The device class then has a method `read_back_field(g)`,
    which sends the rows at the setting that the device holds. A homodyne detector may need several exposures for both
    quadratures: `Cost(actions={"read_back_field": ...})` states their time.

    - `modes`: N, at least d_in.
    - `limit` (default None, no limit): the largest entry of a row that the sources at the outputs send.
    """

    name: ClassVar[str] = "read_back_field"

    modes: int
    limit: float | None = None

    def __post_init__(self) -> None:
        check_limit(self, self.limit)

    def check_rows(self, x: Tensor, spec: Declaration) -> None:
        check_backward(self.name, x, self.limit, spec)

    def row_shape(self, spec: Declaration) -> Shape:
        return spec.out_shape

    def reading_shape(self, spec: Declaration) -> Shape:
        del spec
        return (2, self.modes)

    def perform(self, device: Any, x: Tensor, /) -> Tensor:
        return device.read_back_field(x)
