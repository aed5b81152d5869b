"""Run trials in parallel, each in a process of this machine."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Generator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool

import torch

from blackprop.errors import BlackpropError
from blackprop.experiments.comparison._apart import Job, run_alone


def in_processes(jobs: int, todo: Sequence[Job]) -> Generator[int]:
    """Run `todo`, `jobs` at a time, and yield the number of each when it is done."""
    if not todo:
        return
    context = multiprocessing.get_context("spawn")  # a fork of a process with threads may hang
    setting = (os.getpid(), torch.get_num_threads())
    pool = ProcessPoolExecutor(min(jobs, len(todo)), context, _begin, setting)
    running = {pool.submit(run_alone, *job): number for number, job in enumerate(todo)}
    try:
        for done in as_completed(running):
            done.result()
            yield running[done]
    except BrokenProcessPool as error:
        raise BlackpropError("a process that trained a trial was killed; use `--resume` to continue") from error
    finally:
        workers = list((pool._processes or {}).values())
        pool.shutdown(wait=False, cancel_futures=True)
        if any(not each.done() for each in running):
            for worker in workers:
                worker.terminate()
        for worker in workers:
            worker.join()


def _begin(parent: int, threads: int) -> None:
    """Set up a process of the pool: it ignores Ctrl-C, which the parent handles, and ends with the parent."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(threads)
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)
