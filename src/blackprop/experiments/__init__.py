"""Recipes: experiments that can be run, priced and compared, with the training loop and the run folders they share."""

from blackprop.experiments.engine._allowance import Allowance, asked, evaluate, train_within
from blackprop.experiments.engine._bill import Bill
from blackprop.experiments.engine._callbacks import Watch, Watches
from blackprop.experiments.engine._compare import Grid, carry_out, gap_closed, with_references
from blackprop.experiments.engine._execution import ORDINARY, Execution, Precision, Workers, first_process
from blackprop.experiments.engine._hardware import FLAWLESS, NOWHERE, REMOTE, Hardware, Imperfections, Kind, Remote
from blackprop.experiments.engine._loop import Training, train
from blackprop.experiments.engine._price import price
from blackprop.experiments.engine._side_by_side import carry_out_side_by_side
from blackprop.experiments.engine._trial import Cell
from blackprop.experiments.methods._by_feedback import DirectFeedbackAlignment, FeedbackAlignment
from blackprop.experiments.methods._by_loss import ByLoss, Homodyne, Mixed, Multiplexed, Perturbative, Spsa
from blackprop.experiments.methods._methods import (
    Characterised,
    Default,
    Frozen,
    Memory,
    Method,
    Oracle,
    Paper,
    Row,
    Twin,
)
from blackprop.experiments.methods._rule import Batch, Rule
from blackprop.experiments.records._run_folder import Existing, RunFolder
from blackprop.experiments.tasks._digits import Digits
from blackprop.experiments.tasks._mnist import Mnist
from blackprop.experiments.tasks._networks import Network
from blackprop.experiments.tasks._objectives import Classification, NextToken, Objective
from blackprop.experiments.tasks._task import Data, Size, Task
from blackprop.experiments.tasks.audio._tasks import Esc10, Esc50, SpeechDigits, UrbanSound8K
from blackprop.experiments.tasks.language._tasks import FineWeb, Text
from blackprop.experiments.tasks.vision._cifar10 import Cifar10, Vision

__all__ = [
    "FLAWLESS",
    "NOWHERE",
    "ORDINARY",
    "REMOTE",
    "Allowance",
    "Batch",
    "Bill",
    "ByLoss",
    "Cell",
    "Characterised",
    "Cifar10",
    "Classification",
    "Data",
    "Default",
    "Digits",
    "DirectFeedbackAlignment",
    "Esc10",
    "Esc50",
    "Execution",
    "Existing",
    "FeedbackAlignment",
    "FineWeb",
    "Frozen",
    "Grid",
    "Hardware",
    "Homodyne",
    "Imperfections",
    "Kind",
    "Memory",
    "Method",
    "Mixed",
    "Mnist",
    "Multiplexed",
    "Network",
    "NextToken",
    "Objective",
    "Oracle",
    "Paper",
    "Perturbative",
    "Precision",
    "Remote",
    "Row",
    "Rule",
    "RunFolder",
    "Size",
    "SpeechDigits",
    "Spsa",
    "Task",
    "Text",
    "Training",
    "Twin",
    "UrbanSound8K",
    "Vision",
    "Watch",
    "Watches",
    "Workers",
    "asked",
    "carry_out",
    "carry_out_side_by_side",
    "evaluate",
    "first_process",
    "gap_closed",
    "price",
    "train",
    "train_within",
    "with_references",
]
