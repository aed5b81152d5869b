"""Experiments: trials of a task, a method, a device and a seed; their training, comparison, price and report.

`Trial` combines the parts, `price` gives its cost in advance, and `train` runs it. `compare` runs a `Grid` in a run
folder and can resume it. `compare_within` runs an `AllowanceGrid`, in which every method has the same allowance of rows
and programmings. The command `blackprop` offers further tasks and methods.
"""

from blackprop.experiments.comparison._compare import compare
from blackprop.experiments.comparison._grid import Grid
from blackprop.experiments.comparison._within import AllowanceGrid, compare_within
from blackprop.experiments.engine._allowance import Allowance
from blackprop.experiments.engine._callbacks import Callback
from blackprop.experiments.engine._execution import Execution
from blackprop.experiments.engine._hardware import Hardware, Imperfections
from blackprop.experiments.engine._price import price
from blackprop.experiments.engine._train import train
from blackprop.experiments.engine._trial import Trial
from blackprop.experiments.methods._by_feedback import DirectFeedbackAlignment, FeedbackAlignment
from blackprop.experiments.methods._by_loss import Perturbative
from blackprop.experiments.methods._methods import (
    Default,
    FittedTwin,
    Memory,
    Paper,
    Row,
    TrainingMethod,
)
from blackprop.experiments.methods._references import FrozenReference, OracleReference
from blackprop.experiments.records._run_folder import Existing
from blackprop.experiments.tasks._digits import Digits
from blackprop.experiments.tasks._mnist import Mnist
from blackprop.experiments.tasks._objectives import Classification, Objective
from blackprop.experiments.tasks._task import Data, Task
from blackprop.experiments.tasks.vision._cifar10 import Cifar10

__all__ = [
    "Allowance",
    "AllowanceGrid",
    "Callback",
    "Cifar10",
    "Classification",
    "Data",
    "Default",
    "Digits",
    "DirectFeedbackAlignment",
    "Execution",
    "Existing",
    "FeedbackAlignment",
    "FittedTwin",
    "FrozenReference",
    "Grid",
    "Hardware",
    "Imperfections",
    "Memory",
    "Mnist",
    "Objective",
    "OracleReference",
    "Paper",
    "Perturbative",
    "Row",
    "Task",
    "TrainingMethod",
    "Trial",
    "compare",
    "compare_within",
    "price",
    "train",
]
