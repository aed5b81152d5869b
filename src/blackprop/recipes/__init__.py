"""Recipes: experiments that can be run, priced and compared, with the training loop and the run folders they share."""

from blackprop.recipes.allowance import Allowance, asked, evaluate, train_within
from blackprop.recipes.audio.tasks import Esc10, Esc50, SpeechDigits, UrbanSound8K
from blackprop.recipes.bill import Bill
from blackprop.recipes.by_feedback import DirectFeedbackAlignment, FeedbackAlignment
from blackprop.recipes.by_loss import ByLoss, Homodyne, Mixed, Multiplexed, Perturbative, Spsa
from blackprop.recipes.cell import Cell
from blackprop.recipes.compare import Grid, carry_out, gap_closed, with_references
from blackprop.recipes.digits import Digits
from blackprop.recipes.execution import ORDINARY, Execution, Precision, Workers, first_process
from blackprop.recipes.hardware import FLAWLESS, NOWHERE, REMOTE, Hardware, Imperfections, Kind, Remote
from blackprop.recipes.language.tasks import FineWeb, Text
from blackprop.recipes.loop import Training, train
from blackprop.recipes.methods import Characterised, Default, Frozen, Memory, Method, Oracle, Paper, Row, Twin
from blackprop.recipes.mnist import Mnist
from blackprop.recipes.networks import Network
from blackprop.recipes.objectives import Classification, NextToken, Objective
from blackprop.recipes.price import price
from blackprop.recipes.rule import Batch, Rule
from blackprop.recipes.run_folder import Existing, RunFolder
from blackprop.recipes.side_by_side import carry_out_side_by_side
from blackprop.recipes.task import Data, Size, Task
from blackprop.recipes.vision.cifar10 import Cifar10, Vision
from blackprop.recipes.watch import Watch, Watches

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
