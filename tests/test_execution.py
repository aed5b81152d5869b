"""How runs are carried out: precision, and the torch device; what several processes do is in test_processes.py."""

from __future__ import annotations

import pytest
import torch

from blackprop import errors
from blackprop.experiments import (
    Default,
    Digits,
    Execution,
    FittedTwin,
    Hardware,
    Memory,
    OracleReference,
    Paper,
    Row,
    Trial,
)
from blackprop.experiments.engine._callbacks import Callbacks
from blackprop.experiments.engine._execution import FloatPrecision, Workers
from blackprop.experiments.engine._training import Training
from blackprop.experiments.tasks._networks import DigitNetwork

TASK = Digits(network=DigitNetwork.HYBRID, epochs=4, batch_size=128)
PLACES = ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA"))]


@pytest.fixture(scope="module")
def data():
    return TASK.data()


def trained(method, data, execution, hardware=Hardware.LIGHT_MODULATOR, task=TASK):
    cell = Trial(task, method, hardware, execution=execution)
    workers = Workers(execution)
    training = Training(cell, data, workers)
    while not training.done:
        training.run_segment(Callbacks())
        training = Training(cell, data, workers, training.state())
    return training


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize(
    ("method", "hardware"),
    [
        (OracleReference(), Hardware.MICRORING),
        (Default(), Hardware.LIGHT_MODULATOR),
        (Row(count=2), Hardware.MICRORING),
        (Memory(count=2), Hardware.MATRIX),
        (Paper(rank=4, samples=4), Hardware.LIGHT_MODULATOR),
        (FittedTwin(), Hardware.IMPERFECT_MICRORING),
    ],
    ids=lambda part: getattr(part, "name", part),
)
def test_every_kind_of_method_trains_where_it_is_put(method, hardware, place, data):
    training = trained(method, data, Execution(cpu=place == "cpu"), hardware)
    assert next(training.model.parameters()).device.type == place
    assert training.score > 0.6  # 0.1 by chance


@pytest.mark.parametrize("place", PLACES)
def test_digital_layers_in_bfloat16_learn_as_well_and_the_device_stays_in_float32(place, data):
    full, mixed = (
        trained(Default(), data, Execution(precision, cpu=place == "cpu"))
        for precision in (FloatPrecision.FULL, FloatPrecision.BFLOAT16)
    )
    assert mixed.score > full.score - 0.03
    assert not torch.equal(mixed.model[0].weight, full.model[0].weight)
    assert mixed.model[2].theta.dtype == torch.float32


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is an accelerator")
def test_float16_is_refused_where_there_is_no_accelerator():
    with pytest.raises(errors.ArgumentError, match="needs an accelerator"):
        Workers(Execution(FloatPrecision.FLOAT16))


@pytest.mark.parametrize("given", [{"accumulate": 0}, {"clip": 0.0}, {"clip": float("nan")}, {"patience": 0}])
def test_an_execution_that_makes_no_sense_is_refused(given):
    with pytest.raises(errors.ArgumentError, match=next(iter(given))):
        Execution(**given)
