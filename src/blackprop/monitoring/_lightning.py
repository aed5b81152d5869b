"""`RunMonitor` as a callback of Lightning."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from blackprop.errors import ArgumentError

if TYPE_CHECKING:
    from blackprop.monitoring._monitor import RunMonitor


def callback(monitor: RunMonitor) -> Any:
    """Return a Lightning callback that calls the monitor.

    **Raises** `ArgumentError` if neither `lightning` nor `pytorch_lightning` is installed.
    """
    base = _base()

    def log(trainer: Any) -> None:
        for logger in trainer.loggers:
            logger.log_metrics(monitor.numbers(), step=trainer.global_step)

    class LightningMonitor(base):
        """Calls a monitor at each batch, evaluation and end."""

        def on_train_start(self, trainer: Any, pl_module: Any) -> None:
            steps = trainer.estimated_stepping_batches
            known = 0 if steps == float("inf") or steps < 0 else int(steps)
            monitor.follow(pl_module, step=trainer.global_step, steps=known)

        def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, *batch: Any) -> None:
            del pl_module, batch
            before = monitor.recorded
            loss = outputs.get("loss") if isinstance(outputs, dict) else outputs
            if monitor.step(loss):
                trainer.should_stop = True
            if monitor.recorded != before:
                log(trainer)

        def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
            del pl_module
            if not trainer.sanity_checking and monitor.follows:
                found = {name: float(value) for name, value in trainer.callback_metrics.items()}
                monitor.evaluated(**found)
                log(trainer)

        def on_train_end(self, trainer: Any, pl_module: Any) -> None:
            del pl_module
            monitor.end()
            log(trainer)

        def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
            del trainer, pl_module
            monitor.end(exception)

    return LightningMonitor()


def _base() -> Any:
    for name in ("lightning.pytorch.callbacks", "pytorch_lightning.callbacks"):
        try:
            return import_module(name).Callback
        except ModuleNotFoundError:
            continue
    raise ArgumentError("`RunMonitor.lightning()` needs Lightning: pip install lightning")
