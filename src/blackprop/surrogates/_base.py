"""The base class of surrogates: the gradient for a device's input, without queries, from a model of the device."""

from __future__ import annotations

import abc
import math
from functools import cached_property
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from blackprop.core._declaration import Declaration
from blackprop.core._probes import Probes, spanning
from blackprop.core._procedure import Procedure, in_rounds
from blackprop.core._query import Purpose, Query
from blackprop.errors import IncompatibleError


class Surrogate(nn.Module, abc.ABC):
    """Replaces the device in the backward pass: `∂L/∂x_b = (∂f(x_b; θ)/∂x_b)ᵀ ∂L/∂y_b`.

    Its state is in buffers, so it moves and is saved with the model. A layer binds it to its device once, starts it at
    the first setting, and tracks it when θ has moved and a gradient is needed. These procedures write their state at
    their end; an interrupted one leaves the surrogate unchanged.

    `input_rms` is the root mean square length of the rows of training. The layer sets it before it starts or tracks a
    surrogate: rows of another length meet more noise, or the end of a converter's range.
    """

    GROWING: ClassVar[frozenset[str]] = frozenset()
    """The buffers whose first size depends on what has been learnt: they take that of a state that is loaded."""

    def __init__(self) -> None:
        super().__init__()
        self.input_rms: float | None = None

    @cached_property
    def spec(self) -> Declaration:
        """The declaration of the bound device; `bind` sets it."""
        raise IncompatibleError(f"{type(self).__name__} is not bound to a device yet; give it to a `PhysicalLayer`")

    def bind(self, spec: Declaration) -> None:
        """Bind to a device: check it and make the buffers.

        **Raises** `IncompatibleError` if the device cannot be served, or the surrogate is bound already.
        """
        if "spec" in self.__dict__:
            raise IncompatibleError(
                f"this {type(self).__name__} already stands for {self.spec.name}; make one surrogate a layer"
            )
        self.check(spec)
        self.spec = spec
        self._allocate(spec)

    def _load_from_state_dict(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, state_dict: dict[str, Any], prefix: str, *args: Any
    ) -> None:
        for name in self.GROWING & self._buffers.keys():
            mine, saved = self.get_buffer(name), state_dict.get(prefix + name)
            if isinstance(saved, Tensor) and saved.shape[1:] == mine.shape[1:]:
                self.register_buffer(name, mine.new_zeros(saved.shape))
        super()._load_from_state_dict(state_dict, prefix, *args)

    def check(self, spec: Declaration) -> None:
        """Raise `IncompatibleError` if this surrogate cannot serve the device."""
        del spec

    def _allocate(self, spec: Declaration) -> None:
        """Register the buffers for a device of this size."""
        del spec

    @abc.abstractmethod
    def start(self, theta: Tensor, generator: torch.Generator) -> Procedure[None]:
        """Return the procedure that learns the device at theta (P,), without prior knowledge."""

    @abc.abstractmethod
    def track(self, theta_old: Tensor, theta_new: Tensor, generator: torch.Generator) -> Procedure[None]:
        """Return the procedure that follows the device from theta_old, the surrogate's present setting, to theta_new.

        Queries at theta_old come first.
        """

    @abc.abstractmethod
    def grad_x(self, x: Tensor, grad_y: Tensor) -> Tensor:
        """Return `∂L/∂x` (B, *in_shape) for rows x and cotangents grad_y (B, *out_shape), without queries."""

    asks: ClassVar[bool] = False
    """Whether the gradient for the input is read from the device, by `read_grad_x`, in place of `grad_x`."""

    def read_grad_x(self, x: Tensor, grad_y: Tensor, theta: Tensor) -> Procedure[Tensor]:
        """`∂L/∂x` at the setting theta (P,), by queries; by default `grad_x`, which makes none."""
        del theta
        return self.grad_x(x, grad_y)
        yield  # a procedure that makes no queries

    def grad_x_recalled(self, x: Tensor, y: Tensor, grad_y: Tensor) -> Tensor:
        """Return `∂L/∂x` for rows x with readings y, after other batches have been observed at the same setting.

        This happens if a layer is used several times before one backward pass. By default it is `grad_x`. A surrogate
        that holds only near the latest rows overrides it.
        """
        del y
        return self.grad_x(x, grad_y)

    def _read_matrix(self, theta: Tensor) -> Procedure[Tensor]:  # (d_out, d_in)
        """Read a linear device's matrix at theta from the d_in unit rows; with limited inputs, from `spanning` rows."""
        unit = torch.eye(self.spec.d_in, dtype=theta.dtype, device=theta.device)
        probes = spanning(self.spec, unit, 1.0, self._amplitude) if self.spec.x_limited else Probes(unit)
        query = Query(probes.rows.unflatten(1, self.spec.in_shape), theta, Purpose.SURROGATE)
        (y,) = yield from in_rounds([query], self.spec.d_out)
        return probes.matrix(y.flatten(1))

    @property
    def _amplitude(self) -> float:
        """The root mean square of the entries of the rows of training; 1 before the first of them."""
        return self.input_rms / math.sqrt(self.spec.d_in) if self.input_rms else 1.0

    def observe(self, x: Tensor, y: Tensor) -> None:
        """Receive rows and readings of training."""
        del x, y

    def assimilate(self, x: Tensor, y: Tensor) -> float | None:
        """Compare rows and readings of training with the prediction, then `observe` them.

        Returns `‖y − ŷ‖/‖y‖` of the first rows, ŷ being the prediction of before; None where there is none.
        """
        residual = self.misfit(x, y)
        self.observe(x, y)
        return residual

    def misfit(self, x: Tensor, y: Tensor) -> float | None:
        """Return `‖y − ŷ‖/‖y‖` of 16 rows, ŷ being the prediction; None where there is none."""
        expected = self.predict(x[:16])  # enough rows to tell
        if expected is None:
            return None
        left, whole = map(float, map(torch.linalg.vector_norm, (y[:16] - expected, y[:16])))
        return left / whole if whole else math.nan

    def predict(self, x: Tensor) -> Tensor | None:
        """Return the expected readings (B, *out_shape) of rows x; None, the default, if there is no prediction."""
        del x
        return None

    def _through(self, matrix: Tensor, x: Tensor, b: Tensor | float = 0.0) -> Tensor:
        """Return the answer of a device with this matrix (d_out, d_in) and offset b (d_out,)."""
        return (x.flatten(1) @ matrix.mT + b).unflatten(1, self.spec.out_shape)

    def compensate_drift(self, theta: Tensor) -> Tensor:
        """Return θ (P,) less the displacement of the device found since the last call. By default θ itself."""
        return theta

    def diagnosis(self) -> dict[str, float]:
        """Return the surrogate's own quality measures by name, for `bp.diagnose`; empty by default."""
        return {}
