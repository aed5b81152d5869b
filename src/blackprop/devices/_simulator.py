"""Simulators: devices that are a pure function of rows and settings."""

from __future__ import annotations

import abc
import math
from collections.abc import Callable, Sequence
from functools import cache
from itertools import groupby
from typing import Any

import torch
from torch import Tensor

from blackprop.core._kept import Kept
from blackprop.core._query import Purpose, Query, same_setting
from blackprop.core._round import Round, Run
from blackprop.devices._base import Device
from blackprop.errors import ArgumentError

# Memory of one batched call of a simulator; settings and rows beyond it are served in several calls.
BATCH_BYTES = 64 * 2**20
EVALUATIONS = 16  # times at which a setting is evaluated, for the choice whether its coefficients pay


class Simulator(Device):
    """A device that is a pure function: subclasses write `transfer(x, theta)` in PyTorch.

    Settings are stacked: a round of queries is served in as few calls as memory allows. By default `torch.vmap` stacks
    them. A subclass whose `transfer` takes leading settings dimensions, x `(rows, *in_shape)` or `(S, rows, *in_shape)`
    with theta `(S, P)`, sets `stacks = True` and saves that overhead.
    """

    stacks: bool = False
    kept_from: int | None = None
    """The number of rows from which on a reading goes through `coefficients`, which are kept while the setting is held;
    None for a reading that never does. An evaluation goes through them from a sixteenth of that number on, since others
    follow at its setting. Rows and purpose alone decide, so that a reading does not depend on those before it.
    """
    __kept: Kept | None = None  # its name is mangled, so that subclasses may have a `_held` of their own
    __read: Tensor | None = None  # the setting whose coefficients were made last

    def coefficients(self, theta: Tensor, /) -> Tensor:
        """Return the part of `transfer` that depends on theta (P,) alone.

        By default the matrix (d_out, d_in) of a linear device of vectors, from its unit rows.
        """
        unit = torch.eye(math.prod(self.in_shape), dtype=theta.dtype, device=theta.device)
        return self.transfer(unit, theta).mT.contiguous()

    def answer(self, x: Tensor, coefficients: Tensor, /) -> Tensor:
        """Return `transfer(x, theta)` from the coefficients at theta."""
        return apply_matrix(coefficients, x)

    @abc.abstractmethod
    def transfer(self, x: Tensor, theta: Tensor, /) -> Tensor:
        """Return the readings (rows, *out_shape) of the rows (rows, *in_shape) at theta (P,). Pure, differentiable."""

    def program(self, theta: Tensor, /) -> None:
        self.theta.check(theta)
        self._programmed = theta.detach().clone()

    def read(self, x: Tensor, /) -> Tensor:
        if self._programmed is None:
            raise ArgumentError(f"{self} must be programmed before it is read")
        with torch.no_grad():
            return self._read_at(x, self._programmed, Purpose.FORWARD)

    def _read_at(self, x: Tensor, theta: Tensor, purpose: Purpose) -> Tensor:
        """Return the reading of x at theta, which is not written to later."""
        least = self.kept_from
        if least and purpose is Purpose.EVALUATE:
            least = max(1, least // EVALUATIONS)
        if least is None or len(x) < least or x.dtype != theta.dtype:
            return self.transfer(x, theta)
        if not _describes(type(self)) or "transfer" in vars(self):  # one that was set on this object
            return self.transfer(x, theta)
        kept = self.__kept
        if kept is not None and kept.serves(theta, vars(self)):
            return self.answer(x, kept.coefficients)
        kept = self.__kept = None  # not both at once
        coefficients = self.coefficients(theta)
        # Those that any number of rows goes through are cheap, and training mostly moves θ before it reads again: they
        # are kept from the second reading on, whose numbers are the same.
        if least or purpose is Purpose.EVALUATE or self.__read is theta:
            self.__kept = Kept.of(theta, coefficients, vars(self))
        self.__read = theta
        return self.answer(x, coefficients)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in super().__getstate__().items() if not name.startswith("_Simulator__")}

    def read_back(self, g: Tensor, /) -> Tensor:
        """`A(θ)ᵀ g` for rows g (rows, *out_shape) sent into the outputs, of a linear simulator: (rows, *in_shape)."""
        if self._programmed is None:
            raise ArgumentError(f"{self} must be programmed before it is read")
        with torch.enable_grad():  # the transposed map of one that is linear in x
            x = g.new_zeros(len(g), *self.in_shape, requires_grad=True)
            (back,) = torch.autograd.grad(self.transfer(x, self._programmed), x, g.detach())
        return back

    def measure(self, queries: Sequence[Query], /) -> list[Tensor]:
        asked = Round.of(queries)
        if not len(asked.table):
            return []
        if not asked.plain:
            return super().measure(asked)
        with torch.no_grad():
            single = len(asked.table) == 1
            if single or len(asked.runs) == 1:
                query, held = asked[0], self._programmed
                last = held if held is not None and same_setting(held, query.theta) else query.theta.detach().clone()
                y = self._read_at(query.x if single else asked.rows_of(asked.runs[0]), last, query.purpose)
                readings = [y] if single else list(y.split(asked.sizes()))
            else:
                readings = [y for stack in self._stacks(asked) for y in self._serve(asked, stack)]
                last = asked.last_setting.clone()
        self._programmed = last
        return readings

    def oracle(self) -> Callable[[Tensor, Tensor], Tensor] | None:
        return self.transfer

    def setting_bytes(self, rows: int) -> int:
        """Estimate the memory of one setting of a batched call, which bounds how many are served together."""
        return 4 * (2 * self.theta.size + rows * (math.prod(self.in_shape) + math.prod(self.out_shape)))

    def _stacks(self, asked: Round) -> list[list[Run]]:
        """Return consecutive runs that fit into one batched call: equally many rows, within the memory bound."""
        sizes = asked.sizes()
        stacks: list[list[Run]] = []
        for rows, same in groupby(asked.runs, key=lambda run: sum(sizes[run.first : run.last])):
            members = list(same)
            most = max(1, BATCH_BYTES // self.setting_bytes(max(1, rows)))
            stacks += [members[i : i + most] for i in range(0, len(members), most)]
        return stacks

    def _serve(self, asked: Round, runs: list[Run]) -> list[Tensor]:
        """Return the readings of the queries of these runs, in order."""
        blocks = [asked.rows_of(run) for run in runs]
        first = blocks[0]
        if len(runs) == 1:
            outputs = [self.transfer(first, asked.settings[runs[0].setting])]
        else:
            thetas = asked.settings_of(runs)
            shared = all(x is first for x in blocks)
            x = first if shared else torch.stack(blocks)
            if self.stacks:
                outputs = self.transfer(x, thetas).unbind()
            else:
                outputs = torch.vmap(self.transfer, in_dims=(None if shared else 0, 0))(x, thetas).unbind()
        sizes = asked.sizes()
        return [
            y
            for run, out in zip(runs, outputs, strict=True)
            for y in ([out] if run.last - run.first == 1 else out.split(sizes[run.first : run.last]))
        ]


def apply_matrix(matrix: Tensor, x: Tensor) -> Tensor:
    """`y = A x` for the rows of x `(..., rows, d_in)` and matrices `(..., d_out, d_in)`, settings stacked in front."""
    if matrix.dim() == 3 and x.dim() == 2:  # rows shared by all settings: one product in place of S
        return (matrix.flatten(0, 1) @ x.mT).unflatten(0, matrix.shape[:2]).mT
    return x @ matrix.mT


def keeps(device: Simulator) -> bool:
    """Whether `coefficients` of the device belong to its `transfer`."""
    return _describes(type(device)) and "transfer" not in vars(device)


@cache
def _describes(kind: type[Simulator]) -> bool:
    """Whether `coefficients` of this class belong to its `transfer`: they are made from it, as by default, or were
    written by the class that wrote it or by a subclass. A subclass with another `transfer` alone is served by that.
    """
    order = kind.__mro__
    owners = [next(base for base in order if name in vars(base)) for name in ("coefficients", "transfer")]
    return owners[0] is Simulator or order.index(owners[0]) <= order.index(owners[1])
