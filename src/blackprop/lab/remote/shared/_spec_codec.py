"""A device's declaration as it travels."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from blackprop.core._declaration import Coupling, Declaration
from blackprop.core._theta import ThetaSpec
from blackprop.core.capabilities._capability import Capability, Shape, restored
from blackprop.core.costs._cost import Cost, EnergyCost
from blackprop.errors import BlackpropError, ProtocolError
from blackprop.lab.remote.shared._wire import MESSAGE_BYTES
from blackprop.lab.wrappers._printable import printable

_NAME = 200
Draw = Callable[[torch.Generator], Tensor]


def describe(spec: Declaration) -> tuple[dict[str, Any], list[np.ndarray]]:
    """The declaration as small fields, and the limits that there are as arrays: () for one number, or (P,)."""
    limits = {name: limit for name in ("low", "high") if (limit := getattr(spec.theta, name)) is not None}
    fields = {
        "name": printable(spec.name, _NAME),
        "in_shape": list(spec.in_shape),
        "out_shape": list(spec.out_shape),
        "parameters": spec.theta.size,
        "limits": list(limits),
        "period": None if spec.theta.period is None else float(spec.theta.period),
        "harmonics": spec.theta.harmonics,
        "draws": spec.theta.initial is not None,
        "linear": spec.linear,
        "coupling": spec.coupling.value,
        "programming_seconds": float(spec.cost.programming),
        "row_seconds": float(spec.cost.row),
        "noise": float(spec.noise),
        "rows_each": spec.rows_each,
        "input_limits": [spec.x_low, spec.x_high],
        "capabilities": {each.name: each.fields() for each in spec.capabilities},
        "action_seconds": {name: float(seconds) for name, seconds in spec.cost.actions.items()},
        "energy": None if spec.cost.energy is None else spec.cost.energy.plain(),
    }
    return fields, [_limit(limit) for limit in limits.values()]


def understand(
    fields: Mapping[str, Any], arrays: Sequence[np.ndarray], draw: Draw, kinds: Iterable[type[Capability]] = ()
) -> Declaration:
    """The declaration again; `draw` asks for initial values where the device has some of its own.

    Capabilities of other types than `kinds` are left out.
    """
    try:
        limits = dict(zip(fields["limits"], map(_number, arrays), strict=True))
        spec = ThetaSpec(
            _whole(fields["parameters"]),
            draw if fields["draws"] is True else None,
            limits.pop("low", None),
            limits.pop("high", None),
            None if fields["period"] is None else float(fields["period"]),
            None if (harmonics := fields.get("harmonics")) is None else _whole(harmonics),
        )
        if limits:
            raise ProtocolError(f"limits of the unknown names {', '.join(map(str, limits))}")
        x_low, x_high = fields.get("input_limits", (None, None))  # a server of an older version does not send them
        return Declaration(
            name=printable(fields["name"], _NAME),
            in_shape=_shape(fields["in_shape"]),
            out_shape=_shape(fields["out_shape"]),
            theta=spec,
            linear=fields["linear"] is True,
            coupling=Coupling(fields["coupling"]),
            cost=Cost(
                float(fields["programming_seconds"]),
                float(fields["row_seconds"]),
                dict(fields["action_seconds"]),
                energy=None if (energy := fields.get("energy")) is None else EnergyCost(**energy),  # as for rows_each
            ),
            noise=float(fields["noise"]),
            x_low=x_low,
            x_high=x_high,
            rows_each=_whole(fields.get("rows_each", 1)),  # as an older server does not send it
            capabilities=restored(fields["capabilities"], kinds),
        )
    except ProtocolError:
        raise
    except (BlackpropError, KeyError, TypeError, ValueError, OverflowError) as error:
        raise ProtocolError(f"the server's declaration of its device cannot be used: {error!r}") from None


def _limit(limit: float | Tensor) -> np.ndarray:
    if isinstance(limit, Tensor):
        limit = limit.detach().cpu()
        return (limit if limit.dtype in {torch.float32, torch.float64} else limit.float()).contiguous().numpy()
    return np.asarray(float(limit))


def _number(array: np.ndarray) -> float | Tensor:
    return float(array) if array.ndim == 0 else torch.from_numpy(array.copy())


def _whole(value: Any) -> int:
    if type(value) is not int or not 0 < value <= MESSAGE_BYTES:
        raise ValueError(f"{value!r} is not a number of parameters")
    return value


def _shape(value: Any) -> Shape:
    if not isinstance(value, list) or not value or len(value) > 7:
        raise ValueError(f"{value!r} is not the shape of one row")
    shape = tuple(_whole(n) for n in value)
    if math.prod(shape) > MESSAGE_BYTES:
        raise ValueError(f"{value!r} is a row that no message holds")
    return shape
