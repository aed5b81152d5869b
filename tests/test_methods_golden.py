"""The zeroth-order gradient and the I-PSI step against the authors' numbers, and against our own copy of a few.

`data/golden_methods.npz` holds inputs of ours and what this library answered when it agreed with the authors' numbers.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

import blackprop as bp
from blackprop.core import metered, run
from blackprop.directions import Directions
from blackprop.surrogates import ProjectorSplitting
from support import DATA

AUTHORS = DATA / "golden"
OURS = Path(__file__).parent / "data" / "golden_methods.npz"
DEVICES = {
    "light_modulator": bp.devices.LightModulator,
    "mesh_three_splitter": bp.devices.ThreeSplitterMesh,
    "microring": bp.devices.Microring,
}


@dataclass(frozen=True)
class Given(Directions):
    """Directions, or probes, that are given."""

    rows: torch.Tensor

    def reach(self, size):
        return 6.0

    def sample(self, count, size, generator, like):
        return self.rows.to(like)

    def relative_variance(self, count, size):
        return float("nan")


def cases(path: Path, parts: int) -> dict[str, dict[str, torch.Tensor]]:
    """{case: {name: tensor}} of an archive whose keys are `case.name`; a case has so many dotted parts."""
    if not path.exists():
        return {}
    found: dict[str, dict[str, torch.Tensor]] = {}
    for key, value in np.load(path).items():
        pieces = key.split(".")
        found.setdefault(".".join(pieces[:parts]), {})[pieces[parts]] = torch.from_numpy(value)
    return found


def zeroth_order(name: str, case: dict[str, torch.Tensor]) -> torch.Tensor:
    x, theta, grad_y, u = (case[k] for k in ("x", "theta", "grad_y", "u"))
    device = DEVICES[name.split(".", maxsplit=1)[0]](x.shape[1], grad_y.shape[1])
    estimator = bp.estimators.RandomDirections(
        len(u), float(case["mu"]), Given(u), contraction=bp.estimators.BatchContraction()
    )
    y = device.transfer(x, theta)
    procedure = estimator.grad_theta(x, theta, y, grad_y, device.declaration, torch.Generator())
    return run(procedure, metered(device, bp.Ledger()))


def splitting(case: dict[str, torch.Tensor]) -> torch.Tensor:
    A0, A1, Z = case["A0"], case["A1"], case["Z"]
    device = bp.devices.Matrix(A0.shape[1], A0.shape[0])
    surrogate = ProjectorSplitting(len(case["S0"]), len(Z), probes=Given(Z))
    surrogate.bind(device.declaration)
    surrogate._hold(case["U0"], case["S0"], case["V0"])
    run(surrogate.track(A0.flatten(), A1.flatten(), torch.Generator()), metered(device, bp.Ledger()))
    return surrogate.matrix()


def relative(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a - b).norm() / b.norm())


@pytest.mark.skipif(
    not AUTHORS.exists(), reason="the authors' numbers are not at hand; BLACKPROP_DATA names their folder"
)
def test_the_gradient_is_the_published_one():
    found = cases(AUTHORS / "zeroth_order.npz", 3)
    assert len(found) == 4
    for name, case in found.items():
        assert relative(zeroth_order(name, case), case["grad_theta"]) <= 1e-4, name


@pytest.mark.skipif(
    not AUTHORS.exists(), reason="the authors' numbers are not at hand; BLACKPROP_DATA names their folder"
)
def test_the_integrator_step_is_the_published_one():
    found = cases(AUTHORS / "projector_splitting.npz", 3)
    assert len(found) == 2
    for name, case in found.items():
        assert relative(splitting(case), case["A1_approx"]) <= 1e-4, name


def test_the_gradient_stays_what_it_was():
    found = {name: case for name, case in cases(OURS, 3).items() if "grad_theta" in case}
    assert len(found) == 3
    for name, case in found.items():
        assert relative(zeroth_order(name, case), case["grad_theta"]) <= 1e-4, name


def test_the_integrator_step_stays_what_it_was():
    found = {name: case for name, case in cases(OURS, 3).items() if "A1_approx" in case}
    assert len(found) == 2
    for name, case in found.items():
        assert relative(splitting(case), case["A1_approx"]) <= 1e-4, name
