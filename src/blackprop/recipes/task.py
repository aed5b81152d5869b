"""What a recipe's task owes the shared loop."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor, nn

MakeLayer = Callable[[int, int], nn.Module]  # (d_in, d_out) -> the layer that stands there


@dataclass(frozen=True, eq=False)
class Data:
    """A classification data set, split: the same split for every seed."""

    x_train: Tensor  # (N, *in_shape)
    y_train: Tensor  # (N,), class numbers
    x_test: Tensor  # (N_test, *in_shape)
    y_test: Tensor  # (N_test,)


class Task(Protocol):
    """A frozen dataclass whose fields are its settings: data, a network with places for devices, and how it is
    trained.
    """

    @property
    def name(self) -> str: ...
    @property
    def epochs(self) -> int: ...
    @property
    def batch_size(self) -> int: ...
    @property
    def lr(self) -> float: ...
    @property
    def device_lr(self) -> float: ...

    def data(self) -> Data: ...

    def build(self, layer: MakeLayer, seed: int) -> nn.Module:
        """The network, its digital weights drawn from `seed` alone, with `layer(d_in, d_out)` wherever a device
        stands.
        """
        ...
