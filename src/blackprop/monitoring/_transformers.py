"""`RunMonitor` as a callback of the Trainer of transformers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from blackprop.errors import ArgumentError

if TYPE_CHECKING:
    from blackprop.monitoring._monitor import RunMonitor


def callback(monitor: RunMonitor) -> Any:
    """Return a callback of the Trainer that calls the monitor.

    **Raises** `ArgumentError` if transformers is not installed.
    """
    try:
        from transformers import TrainerCallback  # noqa: PLC0415
    except ModuleNotFoundError as error:
        raise ArgumentError("`RunMonitor.transformers()` needs transformers: pip install transformers") from error

    class TrainerMonitor(TrainerCallback):
        """Calls a monitor at each step, log, evaluation and end."""

        def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            del args, control
            monitor.follow(kwargs["model"], step=state.global_step, steps=max(0, state.max_steps))

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            del args, state, kwargs
            if monitor.step():
                control.should_training_stop = True

        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
            del args, control, kwargs
            if not monitor.follows or not logs:
                return
            if "loss" in logs:
                monitor.loss = float(logs["loss"])
            monitor.evaluated()
            logs.update(monitor.numbers())
            state.log_history[-1].update(monitor.numbers())

        def on_evaluate(self, args: Any, state: Any, control: Any, metrics: Any = None, **kwargs: Any) -> None:
            del args, state, control, kwargs
            if monitor.follows and metrics:
                found = {name: value for name, value in metrics.items() if isinstance(value, int | float)}
                monitor.evaluated(**found)

        def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            del args, state, control, kwargs
            monitor.end()

    return TrainerMonitor()
