"""What a surrogate owes: the gradient for a device's input, at no query, from what it has learnt of the device."""

from __future__ import annotations

import abc
import math
from typing import ClassVar

import torch
from torch import Tensor, nn

from blackprop.core._declaration import Declaration
from blackprop.core._probes import Probes, spanning
from blackprop.core._procedure import Procedure, in_rounds
from blackprop.core._query import Purpose, Query
from blackprop.errors import IncompatibleError


class Surrogate(nn.Module, abc.ABC):
    """A stand-in for the device in the backward pass: `∂L/∂x_b = (∂f(x_b; θ)/∂x_b)ᵀ ∂L/∂y_b`.

    Its state is in buffers, so it moves and is saved with the model. A layer binds it to its device once, starts it at
    the first setting, and tracks it whenever θ has moved and the gradient will be needed; each of these procedures
    changes the state at its very end, so that one that is cut short leaves the surrogate as it was.

    `drive` is the root mean square length of the rows that training sends; the layer sets it before it starts or tracks
    a surrogate: rows of another length meet more noise, or the end of a converter's range.
    """

    def __init__(self) -> None:
        super().__init__()
        self._spec: Declaration | None = None
        self.drive: float | None = None

    @property
    def spec(self) -> Declaration:
        """The declaration of the device it stands for."""
        if self._spec is None:
            raise IncompatibleError(f"{type(self).__name__} is bound to no device yet; give it to a `PhysicalLayer`")
        return self._spec

    def bind(self, spec: Declaration) -> None:
        """Take on a device: refuse one that cannot be served, make the buffers."""
        if self._spec is not None:
            raise IncompatibleError(
                f"this {type(self).__name__} already stands for {self._spec.name}; make one surrogate a layer"
            )
        self.check(spec)
        self._spec = spec
        self._allocate(spec)

    def check(self, spec: Declaration) -> None:
        """Raise `IncompatibleError` where this surrogate cannot serve the device."""
        del spec

    def _allocate(self, spec: Declaration) -> None:
        """Register the buffers for a device of this size."""
        del spec

    @abc.abstractmethod
    def start(self, theta: Tensor, generator: torch.Generator) -> Procedure[None]:
        """Learn the device at theta (P,) from nothing."""

    @abc.abstractmethod
    def track(self, theta_old: Tensor, theta_new: Tensor, generator: torch.Generator) -> Procedure[None]:
        """Follow the device from theta_old, which the surrogate stands for, to theta_new. Queries at the old come
        first.
        """

    @abc.abstractmethod
    def vjp(self, x: Tensor, grad_y: Tensor) -> Tensor:
        """`∂L/∂x` (B, *in_shape) for rows x (B, *in_shape) and cotangents grad_y (B, *out_shape). Asks nothing."""

    asks: ClassVar[bool] = False
    """Whether the gradient for the input is read from the device, by `read_vjp`, in place of `vjp`."""

    def read_vjp(self, x: Tensor, grad_y: Tensor, theta: Tensor) -> Procedure[Tensor]:
        """`∂L/∂x` at the setting theta (P,), by queries; by default `vjp`, which makes none."""
        del theta
        return self.vjp(x, grad_y)
        yield  # a procedure that asks no query

    def vjp_recalled(self, x: Tensor, y: Tensor, grad_y: Tensor) -> Tensor:
        """`∂L/∂x` for rows x whose readings were y, after other batches have been observed at the same setting.

        This happens where a layer is used several times before one backward pass. By default it is `vjp`. A surrogate
        that holds near the latest rows alone overrides it.
        """
        del y
        return self.vjp(x, grad_y)

    def _read_matrix(self, theta: Tensor) -> Procedure[Tensor]:  # (d_out, d_in)
        """A linear device's matrix at theta, from its answers to the d_in unit rows; where its inputs have limits, to
        `probes.spanning` ones.
        """
        unit = torch.eye(self.spec.d_in, dtype=theta.dtype, device=theta.device)
        probes = spanning(self.spec, unit, 1.0, self._amplitude) if self.spec.x_limited else Probes(unit)
        query = Query(probes.rows.unflatten(1, self.spec.in_shape), theta, Purpose.SURROGATE)
        (y,) = yield from in_rounds([query], self.spec.d_out)
        return probes.matrix(y.flatten(1))

    @property
    def _amplitude(self) -> float:
        """The root mean square of the entries of the rows that training sends; 1 before it has sent any."""
        return self.drive / math.sqrt(self.spec.d_in) if self.drive else 1.0

    def observe(self, x: Tensor, y: Tensor) -> None:
        """See rows and readings that training has made anyway."""
        del x, y

    def predict(self, x: Tensor) -> Tensor | None:
        """The readings (B, *out_shape) it expects of rows x; None where it cannot say, as here."""
        del x
        return None

    def _through(self, matrix: Tensor, x: Tensor, b: Tensor | float = 0.0) -> Tensor:
        """What a device of this matrix (d_out, d_in) and offset b (d_out,) answers."""
        return (x.flatten(1) @ matrix.mT + b).unflatten(1, self.spec.out_shape)

    def counter(self, theta: Tensor) -> Tensor:
        """θ (P,) less the displacement of the device that was found since this was last asked, so that it stands where
        it stood. Here θ: nothing is known of one.
        """
        return theta

    def diagnosis(self) -> dict[str, float]:
        """What it knows of how well it does, by name, for `bp.diagnose`; nothing where it knows nothing."""
        return {}
