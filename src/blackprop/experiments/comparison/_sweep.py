"""`blackprop sweep`: the trials of `blackprop compare`, in parallel on the workers of a Ray cluster."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import threading
from collections.abc import Generator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from blackprop._extras import install
from blackprop.errors import ArgumentError, BlackpropError
from blackprop.experiments.comparison._apart import Job, compare_apart, run_alone
from blackprop.experiments.comparison._grid import Grid
from blackprop.experiments.engine._callbacks import SILENT, Callback
from blackprop.experiments.records._run_folder import Existing

RETRIES = 3  # restarts of a trial whose worker died; it resumes from its checkpoint


def sweep(
    grid: Grid,
    path: Path,
    callback: Callback = SILENT,
    existing: Existing = Existing.REFUSE,
    *,
    workers: int | None = None,
    gpus: float = 0.0,
) -> dict[str, Any]:
    """Run `compare` with every trial as a Ray task. Files and numbers are the same.

    - `grid`, `path`, `callback`, `existing`: as in `compare`.
    - `workers` (default None, all): the CPUs of a cluster that is started on this machine.
    - `gpus` (default 0): the GPUs of each trial. A trial also takes as many CPUs as this process has threads.

    The cluster is the one that this process has joined or that `RAY_ADDRESS` names. Otherwise one is started on this
    machine. All its machines must see the run folder and the data at the same paths. A worker that dies is replaced,
    and its trial resumes from its last checkpoint. An error in a trial ends the sweep, which can be resumed.
    """
    if workers is not None and workers < 1:
        raise ArgumentError(f"`workers` must be at least 1, got {workers}")
    if not gpus >= 0:
        raise ArgumentError(f"`gpus` must not be negative, got {gpus}")
    apart = partial(_through_ray, _imported(), workers, gpus)
    return compare_apart(grid, path.resolve(), callback, existing, apart)


def _through_ray(ray: Any, workers: int | None, gpus: float, jobs: Sequence[Job]) -> Generator[int]:
    if not jobs:
        return
    threads = torch.get_num_threads()
    with _cluster(ray, workers):
        task = ray.remote(_work).options(num_cpus=threads, num_gpus=gpus, max_retries=RETRIES)
        running = {task.remote(job, Path.cwd(), threads): number for number, job in enumerate(jobs)}
        try:
            while running:
                (done,), _ = ray.wait(list(running), num_returns=1)
                number = running.pop(done)
                _finish(ray, done, jobs[number][1].name)
                yield number
        finally:
            for left in running:
                ray.cancel(left, force=True)


def _finish(ray: Any, done: Any, trial: str) -> None:
    """Raise the error of a trial, if it ended with one."""
    try:
        ray.get(done)
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, BlackpropError):
            raise error.cause from None
        raise BlackpropError(f"{trial} failed: {error.cause!r}") from error
    except ray.exceptions.RayError as error:
        reason = str(error).strip().splitlines()[0]
        raise BlackpropError(f"the worker of {trial} died {RETRIES + 1} times: {reason}") from error


def _work(job: Job, folder: Path, threads: int) -> None:
    """Run a trial in a worker, in the working directory `folder` and with `threads` threads."""
    import fcntl  # noqa: PLC0415  # Windows lacks it

    os.chdir(folder)
    torch.set_num_threads(threads)
    grid, path = job
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_name(f"{path.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # a worker of a killed sweep may still be running
        run_alone(grid, path)


def _imported() -> Any:
    try:
        import ray  # noqa: PLC0415  # an extra, and slow to import
        import ray.exceptions  # noqa: PLC0415
    except ModuleNotFoundError as error:
        raise BlackpropError(f"a sweep needs Ray: {install('ray')}") from error
    return ray


@contextlib.contextmanager
def _cluster(ray: Any, workers: int | None) -> Generator[None]:
    """Use the cluster that this process has joined, or connect to one and leave it afterwards."""
    if ray.is_initialized():
        yield
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # otherwise Ray warns of a future change
    here = {} if "RAY_ADDRESS" in os.environ else {"num_cpus": workers, "include_dashboard": False}
    on_sigterm = signal.getsignal(signal.SIGTERM)  # Ray replaces the handler and does not restore it
    ray.init(logging_level=logging.ERROR, **here)
    try:
        yield
    finally:
        ray.shutdown()
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, on_sigterm)
