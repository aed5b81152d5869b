"""What the tests share: one thread, one seed, a generator, an opaque device, keys."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import blackprop as bp
from support import Opaque

#: Tests of more than ten seconds whose claims others hold in part: `make test-long` runs them, `make test` does not.
LONG = (
    "test_chip_dead_heaters.py::test_dead_shifters_are_named_and_the_rest_is_calibrated[design0",
    "test_chip_dead_heaters.py::test_dead_shifters_are_named_and_the_rest_is_calibrated[design2",
    "test_chip_faults.py::test_dead_shifters_in_front_of_powers_are_named_and_the_rest_is_calibrated[balanced",
    "test_chip_growth.py::test_another_design_is_not_believed",
    "test_chip_growth.py::test_few_outputs_of_a_rectangular_mesh_for_less_than_twice_the_programmings",
    "test_chip_growth.py::test_the_price_is_known_before[3",
    "test_chip_moves.py::test_a_chip_that_stands_is_not_suspected[2-0.1]",
    "test_gallery.py::test_scripts_of_the_gallery[plot_10_pulses]",
    "test_lab_ray.py::test_a_farm_of_actors_answers_as_one_device_and_goes_on_when_one_dies",
    "test_lab_under_attack.py::test_honest_clients_are_served_beside_an_attacker",
    "test_multimode_fibre.py::test_a_twin_finds_what_was_hidden_and_follows_what_moves",
    "test_multimode_fibre.py::test_an_online_twin_trains_what_stands_before_the_fibre_and_follows_its_drift",
    "test_outer.py::test_a_network_of_crossbars_with_wires_and_drift_trains_as_well_as_with_the_oracle",
    "test_pulsed_methods.py::test_a_followed_reference_halves_the_drag_of_an_offset",
    "test_pulsed_methods.py::test_residual_learning_comes_near_to_the_minimum",
    "test_sweep.py::test_a_sweep_through_ray_goes_on_and_ends_as_a_comparison",
    "test_sweep.py::test_an_interrupted_or_killed_comparison_side_by_side_leaves_no_process_and_goes_on[9]",
)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.nodeid.rpartition("/")[2].startswith(LONG):
            item.add_marker("long")


@pytest.fixture(autouse=True)
def _repeatable():
    torch.set_num_threads(1)
    torch.manual_seed(0)


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@pytest.fixture
def opaque() -> Opaque:
    return Opaque(bp.devices.LightModulator(6, 4))


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    """The keys of a server and of one client who may speak to it."""
    pytest.importorskip("zmq")
    from blackprop.lab.remote.shared._keys import make_keys

    make_keys(tmp_path / "keys")
    return tmp_path / "keys"


@pytest.fixture
def record(tmp_path: Path) -> Path:
    """The file of a device that writes down its settings and rows."""
    return tmp_path / "record"
