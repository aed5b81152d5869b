"""How much longer plain forms of a device take than the device's own, in processor time of one process."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from functools import partial

from torch import Tensor

Forms = tuple[tuple[str, int, Callable[[Tensor], object]], ...]  # what it is, how many rows are enough, the form


def told(label: str, x: Tensor, together: Callable[[Tensor], object], forms: Forms, repeats: int = 7) -> None:
    """Print for each form the median ratio of its time a row to that of all rows of x together."""
    for name, rows, slow in forms:
        ratios = []
        for _ in range(repeats):
            batched, apart = seconds(partial(together, x)), seconds(partial(slow, x[:rows]))
            ratios.append(apart / rows / (batched / len(x)))
        print(f"{label}, {len(x)} rows, {name}: {statistics.median(ratios):.0f} times as long")


def seconds(work: Callable[[], object]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start
