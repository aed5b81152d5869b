"""A comparison whose cells are run side by side in processes of this machine; the same files, and the same figures."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Generator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from pathlib import Path
from typing import Any

import torch

from blackprop.errors import ArgumentError, BlackpropError
from blackprop.experiments.engine._callbacks import Watch
from blackprop.experiments.engine._compare import Grid
from blackprop.experiments.engine._spread import Job, carry_out_apart, carry_out_one
from blackprop.experiments.records._run_folder import Existing


def carry_out_side_by_side(
    grid: Grid, path: Path, watch: Watch, existing: Existing = Existing.REFUSE, *, jobs: int = 2
) -> dict[str, Any]:
    """`carry_out` with `jobs` cells at a time, each in a process of its own with as many threads as this one.

    An error of a cell ends the comparison, which can be resumed, as can one that was interrupted or killed.
    """
    if jobs < 1:
        raise ArgumentError(f"`jobs` must be at least 1, got {jobs}")
    return carry_out_apart(grid, path.resolve(), watch, existing, partial(_in_processes, jobs))


def _in_processes(jobs: int, todo: Sequence[Job]) -> Generator[int]:
    if not todo:
        return
    context = multiprocessing.get_context("spawn")  # a fork of a process with threads may hang
    setting = (os.getpid(), torch.get_num_threads())
    pool = ProcessPoolExecutor(min(jobs, len(todo)), context, _begin, setting)
    running = {pool.submit(carry_out_one, *job): number for number, job in enumerate(todo)}
    try:
        for done in as_completed(running):
            done.result()
            yield running[done]
    except BrokenProcessPool as error:
        raise BlackpropError("a process that trained a cell was killed; `--resume` goes on") from error
    finally:
        workers = list((pool._processes or {}).values())
        pool.shutdown(wait=False, cancel_futures=True)
        if any(not each.done() for each in running):
            for worker in workers:
                worker.terminate()
        for worker in workers:
            worker.join()


def _begin(parent: int, threads: int) -> None:
    """In a process of the pool: Ctrl-C is the parent's to answer, and without it there is nothing left to do."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(threads)
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)
