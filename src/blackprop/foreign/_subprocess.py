"""A program that reads lines of numbers, as a device."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from blackprop.core._theta import ThetaSpec
from blackprop.core.capabilities._capability import Shape
from blackprop.errors import ReadingError
from blackprop.foreign._process import ProcessDevice, Program


def from_subprocess(
    command: Sequence[str],
    *,
    in_shape: int | Shape,
    out_shape: int | Shape,
    theta_size: int,
    initial: Callable[[torch.Generator], Tensor] | None = None,
    low: float | Tensor | None = None,
    high: float | Tensor | None = None,
    period: float | None = None,
    harmonics: int | None = None,
    timeout: float = 30.0,
    **declared: Any,
) -> ProcessDevice:
    '''Make a device of a program in any language: it reads lines of numbers and writes lines of numbers.

    The program gets one line for each row: the P numbers of θ, then the d_in numbers of the row, separated by spaces.
    It answers each line with one line of d_out numbers, in the order of the lines, and flushes it. It reads until its
    input ends. Its standard error is kept for messages.

    **Costs** two numbers of text a value, and the program's own time. The program is started once. All rows of a query
    are sent before the first answer is awaited.

    **Arguments:**

    - `command`: the program and its arguments.
    - `in_shape`, `out_shape`, `theta_size`: the sizes.
    - `timeout` (s, default 30): for the answers to one query; the program is then stopped.
    - The others are those of `ThetaSpec` and `Device`.

    **Raises** `UnreachableError` if the program cannot be started, `InDoubtError` if it ends or does not answer, and
    `ReadingError` for an answer that is not d_out numbers.

    >>> import sys, torch, blackprop as bp
    >>> program = """
    ... import sys
    ... for line in sys.stdin:
    ...     a, b, x = map(float, line.split())
    ...     print(a * x + b, flush=True)
    ... """
    >>> command = [sys.executable, "-c", program]
    >>> with bp.foreign.from_subprocess(command, in_shape=1, out_shape=1, theta_size=2) as device:
    ...     device.program(torch.tensor([2.0, 1.0]))
    ...     device.read(torch.tensor([[3.0], [4.0]]))
    tensor([[7.],
            [9.]])
    '''
    theta = ThetaSpec(theta_size, initial, low, high, period, harmonics)
    return _Subprocess(command, in_shape, out_shape, theta, timeout=timeout, **declared)


class _Subprocess(ProcessDevice):
    def _answer(self, program: Program, setting: Tensor, x: Tensor, fresh: bool) -> list[list[float]]:
        del fresh
        start = " ".join(map(repr, setting.tolist()))
        text = "".join(f"{start} {' '.join(map(repr, row))}\n" for row in x.tolist())
        left = len(x)

        def enough(line: str) -> bool:
            nonlocal left
            del line
            left -= 1
            return not left

        return [self._numbers(line) for line in program.exchange(text, enough)]

    def _numbers(self, line: str) -> list[float]:
        size = math.prod(self.out_shape)
        try:
            found = [float(word) for word in line.split()]
        except ValueError:
            found = []
        if len(found) != size:
            self.close()  # the answers that follow belong to earlier rows
            raise ReadingError(f"{self} answered {line[:200]!r}, expected a line of {size} numbers")
        return found
