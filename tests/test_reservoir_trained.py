"""Trained around a reservoir: the benchmarks come out as the field knows them, methods keep within their allowance."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from blackprop import errors
from blackprop.experiments import Allowance, FrozenReference, OracleReference, Perturbative
from blackprop.experiments.methods._by_loss import Homodyne, Multiplexed
from blackprop.experiments.reservoirs import ReadoutAlone
from blackprop.experiments.tasks.sequences._tasks import (
    ChannelEqualisation,
    MackeyGlass,
    Narma10,
    ParityCheck,
    SantaFe,
    ShortTermMemory,
)
from echo import Ring, by_ridge, echo_state, run
from support import DATA

# What an echo state makes of the benchmarks.


def test_an_echo_state_of_200_nodes_predicts_narma_as_the_field_knows_it():
    task = Narma10(nodes=200, train_sequences=12)
    found = by_ridge(task)
    assert 0.2 < found["nrmse"] < 0.35
    assert (found["rows"], found["programmings"]) == (12, 1)
    assert by_ridge(task, radius=1e-6)["nrmse"] > 0.6  # without a memory


def test_an_echo_state_remembers_computes_and_equalises():
    recalled = by_ridge(ShortTermMemory(nodes=100, train_sequences=24), scale=0.1)
    assert 11 < recalled["capacity"] <= 15
    assert by_ridge(ParityCheck(nodes=100, train_sequences=24))["capacity"] > 2
    channel = by_ridge(ChannelEqualisation(nodes=100, train_sequences=24), scale=0.3)
    assert channel["ser"] < 0.01
    assert by_ridge(ChannelEqualisation(nodes=100, train_sequences=24, snr=12), scale=0.3)["ser"] > 0.01


def test_the_error_of_a_prediction_grows_with_its_horizon():
    found = by_ridge(MackeyGlass(nodes=100))
    near, *_, far = (found[f"nrmse_{h}"] for h in (1, 6, 21, 84))
    assert near < 0.002
    assert 20 * near < far < 0.5


# Methods at an equal allowance.

RECALL = ShortTermMemory(
    nodes=12, length=30, washout=8, delays=8, train_sequences=16, test_sequences=16, device_lr=3e-2
)


def ring(in_shape, out_shape, seed):
    del seed
    return Ring(*in_shape, out_shape[1])


def test_training_the_reservoir_pays_at_equal_rows():
    found = {
        m.name: run(RECALL, ring, m, 0, Allowance(800)) for m in (OracleReference(), FrozenReference(), ReadoutAlone())
    }
    assert found["oracle"]["capacity"] > found["frozen"]["capacity"] + 0.4
    assert found["oracle"]["rows"] == found["frozen"]["rows"] == 800
    assert found["frozen"]["programmings"] == found["ridge"]["programmings"] == 1
    assert found["ridge"]["rows"] == 16
    assert run(RECALL, ring, OracleReference(), 0, Allowance(800)) == found["oracle"]


def test_a_readout_fitted_in_the_end_is_worth_more_than_one_trained_step_by_step():
    untrained, trained, step_by_step = (
        run(RECALL, ring, method, 0, Allowance(400), refit=refit)
        for method, refit in ((ReadoutAlone(), False), (FrozenReference(), True), (FrozenReference(), False))
    )
    assert trained["capacity"] > max(untrained["capacity"], step_by_step["capacity"]) + 0.7
    assert trained["rows"] == 400
    assert trained["steps"] == step_by_step["steps"] - 2  # the 16 rows that the fit takes


def test_no_method_passes_its_allowance():
    by_rows = run(RECALL, ring, Perturbative(directions=2), 0, Allowance(200))
    assert (by_rows["steps"], by_rows["rows"]) == (6, 192)  # two directions, two passes each, eight rows
    with pytest.raises(errors.BudgetExhausted):  # 4 passes for each of its 200 parameters
        run(RECALL, ring, Homodyne(), 0, Allowance(1000))
    by_settings = run(RECALL, ring, OracleReference(), 0, Allowance(10_000, programmings=7))
    assert by_settings["steps"] == by_settings["programmings"] == 7
    with pytest.raises(errors.ArgumentError, match=r"`Allowance\(rows=...\)` must be at least 1"):
        Allowance(0)


@pytest.mark.parametrize("method", [Perturbative(), Multiplexed()], ids=lambda method: method.name)
def test_a_black_box_is_trained_by_its_loss_alone(method):
    task = replace(RECALL, lr=3e-2)
    short, long = (
        run(task, lambda i, o, _: echo_state(*i, o[1]), method, 0, Allowance(rows))["capacity"] for rows in (16, 4000)
    )
    assert long > short + 0.5


# Real series.


@pytest.mark.skipif(not (DATA / "santafe_laser.npz").exists(), reason="needs the series in the folder of real data")
def test_on_real_series_the_errors_are_those_known(tmp_path):
    for name in ("santafe_laser", "mackey_glass_t17"):
        np.savetxt(tmp_path / f"{name}.csv", np.load(DATA / f"{name}.npz")["x"], fmt="%.10g")
    laser = by_ridge(SantaFe(nodes=200, data_dir=tmp_path), scale=0.3)
    assert laser["nrmse_1"] < 0.15
    assert laser["nrmse_1"] < laser["nrmse_10"] < 0.7
    assert by_ridge(MackeyGlass(nodes=100, from_file=True, data_dir=tmp_path))["nrmse_1"] < 0.01
    drawn, read = MackeyGlass().data().x_train, MackeyGlass(from_file=True, data_dir=tmp_path).data().x_train
    assert float(drawn.mean()) == pytest.approx(float(read.mean()), abs=0.01)
    assert float(drawn.std()) == pytest.approx(float(read.std()), abs=0.01)
