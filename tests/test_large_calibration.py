"""Calibrations of many elements: blocks give what the whole gives, and memory is that of the samples."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

import blackprop as bp
from blackprop.core._probes import spanning
from blackprop.surrogates.calibration import _calibration, _sweep
from blackprop.surrogates.calibration._calibration import BLOCK, spanning_probes
from blackprop.surrogates.calibration._curve_fit import CurveFit
from blackprop.surrogates.calibration._curves import own_harmonics
from blackprop.surrogates.calibration._spectra import Samples, estimate
from support import draw


def test_rows_in_blocks_are_decoded_block_by_block(monkeypatch):
    monkeypatch.setattr(_calibration, "BLOCK", 4)
    device = bp.devices.Matrix(10, 7)
    theta, generator = draw(70), torch.Generator().manual_seed(0)
    probes = spanning_probes(device.declaration, 2.0, theta, generator)
    assert probes.block == 4
    assert float(probes.rows[:4, 4:].abs().max()) == float(probes.rows[8:, :8].abs().max()) == 0
    torch.testing.assert_close(probes.matrix(device.transfer(probes.rows, theta)), theta.view(7, 10))
    whole = spanning(device.declaration, probes.rows, 4.0, 1.0)
    y = draw(10, 7, seed=1)
    torch.testing.assert_close(probes.matrix(y), whole.matrix(y))


@pytest.mark.parametrize("even", [False, True])
def test_sums_and_own_curves_in_blocks_are_those_of_the_whole(even, monkeypatch):
    P = 500
    sweep = _sweep.Sweep.draw(P, 16, even, torch.zeros(()), torch.Generator().manual_seed(0))
    assert sorted(torch.cat(sweep.groups).tolist()) == list(range(P))
    assert all(
        bool((sweep.group[some] == g).all()) and bool((some.diff() > 0).all()) for g, some in enumerate(sweep.groups)
    )
    turns = torch.cat(sweep.call(0))
    at = turns[:, sweep.group.long()]
    values = (
        (1 + 0.3 * draw(P)) * (2 * torch.pi * at).cos() + 0.2 * draw(P, seed=1) * (4 * torch.pi * at).cos()
    ).float()
    found = []
    for size in (P, 64, 33):
        monkeypatch.setattr(_sweep, "TOGETHER", size)
        samples = Samples.of(turns, sweep.groups, values, even)
        found.append((samples, own_harmonics(CurveFit(estimate(samples, 8), None, turns), sweep, values, 9)))
    for g, some in enumerate(sweep.groups):
        part = values[:, some.long()].double()
        torch.testing.assert_close(found[0][0].moments[g], part @ part.mT)
        torch.testing.assert_close(found[0][0].sums[g], part.sum(1))
    assert len(found[0][1]) > 1
    for samples, own in found[1:]:
        torch.testing.assert_close(samples.moments, found[0][0].moments)
        torch.testing.assert_close(own, found[0][1], rtol=1e-4, atol=1e-5)


def test_a_calibration_takes_little_more_memory_than_its_samples():
    if sys.platform != "linux":
        pytest.skip("reads the peak from /proc")
    code = """
import torch, blackprop as bp
from pathlib import Path
torch.set_num_threads(1)
def resident(field):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * float(line.split()[1]) for line in lines if line.startswith(field))
def step(d):
    layer = bp.PhysicalLayer(bp.devices.LightModulator(d, d))
    layer(torch.randn(4, d).requires_grad_()).sum().backward()
    return layer
step(160)  # loads compiled code
Path("/proc/self/clear_refs").write_text("5")
before = resident("VmRSS")
step(768)
print((resident("VmHWM") - before) / 768**2)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    bytes_each = float(done.stdout)
    assert 64 < bytes_each < 260  # 64 for the 16 samples; some 138 in all at 2048 × 2048


@pytest.mark.parametrize("d", [1025, 2048, 2500])
def test_many_inputs_are_spanned_by_rows_that_a_fast_transform_decodes(d):
    device = bp.devices.LightModulator(d, 6)
    drawn = [
        spanning_probes(device.declaration, 3.0, torch.zeros(1), torch.Generator().manual_seed(seed)) for seed in (0, 1)
    ]
    for probes in drawn:
        rows = probes.rows
        torch.testing.assert_close(rows.mT @ rows, 9.0 * torch.eye(d), atol=1e-4, rtol=0)
        matrix = draw(6, d)
        torch.testing.assert_close(probes.matrix(rows @ matrix.mT), matrix, atol=1e-5, rtol=0)
        assert float(rows.abs().max()) <= 1.01 * 3.0 * (2 / min(BLOCK, d % BLOCK or BLOCK)) ** 0.5
    assert not torch.equal(drawn[0].rows, drawn[1].rows)
