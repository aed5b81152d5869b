"""`blackprop sweep`: what `blackprop compare` does, its trials side by side in the workers of a Ray cluster."""

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

RETRIES = 3  # of a trial whose worker died under it; it goes on from its checkpoint


def sweep(
    grid: Grid,
    path: Path,
    callback: Callback = SILENT,
    existing: Existing = Existing.REFUSE,
    *,
    workers: int | None = None,
    gpus: float = 0.0,
) -> dict[str, Any]:
    """`compare` with every trial a task of Ray; the same files and figures.

    The cluster is the one this process has joined, or that `RAY_ADDRESS` names, or else one on this machine with
    `workers` CPUs, by default all. Every machine of it must see the run folder and the data at the same paths. A trial
    takes as many CPUs as it has threads, those of this process, and `gpus`. A worker that dies is replaced, and the
    trial goes on from its last checkpoint; an error of a trial ends the sweep, which can be resumed.
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
    """Raise what a trial has ended with, if that is an error."""
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
    """A trial, in a worker: as it would be carried out in `folder` with so many threads."""
    import fcntl  # noqa: PLC0415  # Windows lacks it

    os.chdir(folder)
    torch.set_num_threads(threads)
    grid, path = job
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_name(f"{path.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # the worker of a sweep that was killed may live a moment longer
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
    """The one this process has joined, or one that is left again."""
    if ray.is_initialized():
        yield
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # else Ray warns of what it will do one day
    here = {} if "RAY_ADDRESS" in os.environ else {"num_cpus": workers, "include_dashboard": False}
    on_sigterm = signal.getsignal(signal.SIGTERM)  # Ray takes it, and keeps it
    ray.init(logging_level=logging.ERROR, **here)
    try:
        yield
    finally:
        ray.shutdown()
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, on_sigterm)
