"""The capability of a factored device whose field is read at the gains between its factors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from torch import Tensor

from blackprop.core.capabilities._capability import Capability, Shape
from blackprop.core.capabilities._drives import check_backward, check_limit
from blackprop.errors import ArgumentError, IncompatibleError

if TYPE_CHECKING:
    from blackprop.core._declaration import Declaration


@dataclass(frozen=True)
class Gains(Capability):
    """Rows that drive the inputs and the outputs (d_in + d_out,); read is the field at K gains inside (2, K).

    The device is `y = Re(L diag(s) R x)` with complex matrices L and R and real gains s, which are the parameters
    `first` to `first + count` of θ. A row x alone is read as `R x`, the light that arrives at the gains from the
    inputs; a row g alone as `Lᵀ g`, the light that arrives from the outputs; both as their sum. Each reading is a real
    and an imaginary part. The device class has a method `read_at_gains(x)`, which sends the rows at the setting that
    the device holds. `testing.check_device` compares the gradient with slopes of the readings.

    **Arguments:**

    - `first`: the first parameter that is a gain.
    - `count`: K.
    - `limit` (default None, no limit): the largest entry of a row that the sources at the outputs send.

    **Raises** `ArgumentError` for numbers out of range.
    """

    name: ClassVar[str] = "gains"
    per_parameter: ClassVar[bool] = True

    first: int
    count: int
    limit: float | None = None

    def __post_init__(self) -> None:
        if self.first < 0 or self.count < 1:
            raise ArgumentError(f"`Gains` begins at a parameter from 0 and has at least one, got {self}")
        check_limit(self, self.limit)

    @property
    def parameters(self) -> slice:
        """The parameters that are gains."""
        return slice(self.first, self.first + self.count)

    def row_shape(self, spec: Declaration) -> Shape:
        return (spec.d_in + spec.d_out,)

    def reading_shape(self, spec: Declaration) -> Shape:
        del spec
        return (2, self.count)

    def perform(self, device: Any, x: Tensor, /) -> Tensor:
        return device.read_at_gains(x)

    def check_rows(self, x: Tensor, spec: Declaration) -> None:
        ahead, back = x.split([spec.d_in, spec.d_out], 1)
        spec.check_rows(ahead[ahead.any(1)].unflatten(1, spec.in_shape))  # the others are dark
        check_backward(self.name, back, self.limit, spec)

    def check(self, owner: str, spec: Declaration) -> None:
        """Raise `IncompatibleError` unless the gains are parameters of the device, for the method `owner`."""
        if self.first + self.count > spec.theta.size:
            raise IncompatibleError(
                f"`{owner}` needs gains among the parameters: {spec.name} declares {self.first} to "
                f"{self.first + self.count - 1} of its {spec.theta.size}"
            )
