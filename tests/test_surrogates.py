"""The integrator's exactness, how it tracks, how its sketch errs; rebuilding and freezing."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
import torch

import blackprop as bp
from blackprop.core import Purpose, metered, run
from blackprop.directions import Orthogonal
from blackprop.surrogates import BasisUpdate, ProjectorSplitting, Reconstruction, projector_splitting_step
from support import draw


def _bound(surrogate, device):
    surrogate.bind(device.declaration)
    return surrogate, metered(device, bp.Ledger())


def _low_rank(rank: int, d_out: int = 9, d_in: int = 12, seed: int = 0) -> torch.Tensor:
    return draw(d_out, rank, seed=seed) @ draw(rank, d_in, seed=seed + 1)


def _error(surrogate, matrix) -> float:
    return float((surrogate.matrix() - matrix).norm() / matrix.norm())


def test_exact_for_rank_r_and_a_spanning_probe_set(generator):
    """Any two matrices of rank r: one step lands on the second, however far."""
    rank, device = 3, bp.devices.Matrix(12, 9)
    surrogate, measure = _bound(ProjectorSplitting(rank, samples=12, probes=Orthogonal()), device)
    A0, A1 = _low_rank(rank), _low_rank(rank, seed=5)
    run(surrogate.start(A0.flatten(), generator), measure)
    assert _error(surrogate, A0) <= 1e-5
    run(surrogate.track(A0.flatten(), A1.flatten(), generator), measure)
    assert _error(surrogate, A1) <= 1e-5


def test_tracks_a_slow_rank_r_device_within_twice_the_best(generator):
    """200 steps along a smooth path of rank 3 seen through small full-rank clutter: the best rank-3 error is its
    floor.
    """
    rank, device = 3, bp.devices.Matrix(12, 9)
    left, right = (draw(200, 9, 3, seed=1).cumsum(0) / 100 + draw(9, 3)), (draw(200, 3, 12, seed=2).cumsum(0) / 100)
    path = left @ (right + draw(3, 12, seed=3)) + 0.01 * draw(9, 12, seed=4)
    surrogate, measure = _bound(ProjectorSplitting(rank, samples=12, probes=Orthogonal()), device)
    run(surrogate.start(path[0].flatten(), generator), measure)
    ratios = []
    for old, new in pairwise(path):
        run(surrogate.track(old.flatten(), new.flatten(), generator), measure)
        best = torch.linalg.svdvals(new)[rank:].norm() / new.norm()
        ratios.append(_error(surrogate, new) / float(best))
    assert max(ratios) <= 2


def test_reading_anew_errs_less_than_carrying_along(generator):
    """I-PSI and the basis update at equal rank and samples, 200 steps of a rank-3 path with few Gaussian probes."""
    rank, device = 3, bp.devices.Matrix(12, 9)
    left, right = (draw(200, 9, 3, seed=1).cumsum(0) / 100 + draw(9, 3)), (draw(200, 3, 12, seed=2).cumsum(0) / 100)
    path = left @ (right + draw(3, 12, seed=3))
    errors = []
    for make in (ProjectorSplitting, BasisUpdate):
        surrogate, measure = _bound(make(rank, samples=4), device)
        run(surrogate.start(path[0].flatten(), generator), measure)
        for old, new in pairwise(path):
            run(surrogate.track(old.flatten(), new.flatten(), generator), measure)
        errors.append(_error(surrogate, path[-1]))
    assert errors[1] < 0.05
    assert errors[1] < errors[0] / 5


def test_the_basis_update_is_exact_for_rank_r_and_a_spanning_probe_set(generator):
    rank, device, ledger = 3, bp.devices.Matrix(12, 9), bp.Ledger()
    surrogate = BasisUpdate(rank, samples=12, probes=Orthogonal())
    surrogate.bind(device.declaration)
    A0 = _low_rank(rank)
    A1 = A0 + 0.1 * (draw(9, 3, seed=8) @ draw(3, 3, seed=9) @ torch.linalg.svd(A0)[2][:rank])
    run(surrogate.start(A0.flatten(), generator), metered(device, ledger))
    run(surrogate.track(A0.flatten(), A1.flatten(), generator), metered(device, ledger))
    assert _error(surrogate, A1) <= 1e-5
    assert ledger.rows[Purpose.SURROGATE] == 12 + 2 * (3 + 12) + 2 * 3
    assert ledger.programmings[Purpose.SURROGATE] == 2


def test_the_sketch_errs_as_one_over_root_samples(generator):
    """Step 4, the left basis from Gaussian probes, through the library's step: relative standard deviation
    √((d_in + 1)/M), fitted slope −1/2 within 20 %.
    """
    d_in, rank = 12, 3
    change, V = draw(9, d_in), torch.linalg.qr(draw(d_in, rank, seed=1))[0].mT
    U, S = torch.linalg.qr(draw(9, rank, seed=2))[0], torch.zeros(rank, rank)
    every = math.sqrt(d_in) * torch.eye(d_in)

    def stepped(Z):
        """`U₁ᵀ change` as the step finds it: from a matrix of nothing, so that its product is that and no more."""
        U1, S1, V1 = projector_splitting_step(U, S, V, change @ V.mT, Z, Z @ change.mT)
        return U1 @ S1 @ V1, U1

    exact, U1 = stepped(every)
    torch.testing.assert_close(exact, U1 @ U1.mT @ change)
    counts, errors = [4, 16, 64, 256], []
    for count in counts:
        drawn = (torch.randn(count, d_in, generator=generator) for _ in range(400))
        squares = [float((stepped(Z)[0] - exact).square().sum()) for Z in drawn]
        errors.append(math.sqrt(np.mean(squares)) / float(exact.norm()))
    slope = np.polyfit(np.log(counts), np.log(errors), 1)[0]
    assert -0.6 < slope < -0.4
    for count, error in zip(counts, errors, strict=True):
        assert error == pytest.approx(math.sqrt((d_in + 1) / count), rel=0.2)


def test_the_whole_step_errs_as_one_over_root_samples(generator):
    """The same through the surrogate itself, asking a device."""
    device, rank, errors, counts = bp.devices.Matrix(12, 9), 3, [], [8, 32, 128, 512]
    A0 = _low_rank(rank)
    A1 = A0 + 0.01 * _low_rank(rank, seed=5)
    for count in counts:
        squares = []
        for _ in range(60):
            surrogate, measure = _bound(ProjectorSplitting(rank, count), device)
            run(surrogate.start(A0.flatten(), generator), measure)
            run(surrogate.track(A0.flatten(), A1.flatten(), generator), measure)
            exact = projector_splitting_step(
                *(
                    torch.linalg.svd(A0)[0][:, :rank],
                    torch.linalg.svd(A0)[1][:rank].diag(),
                    torch.linalg.svd(A0)[2][:rank],
                ),
                (A1 - A0) @ torch.linalg.svd(A0)[2][:rank].mT,
                math.sqrt(12) * torch.eye(12),
                math.sqrt(12) * (A1 - A0).mT,
            )
            limit = exact[0] @ exact[1] @ exact[2]
            squares.append(float((surrogate.matrix() - limit).square().sum()))
        errors.append(math.sqrt(np.mean(squares)))
    slope = np.polyfit(np.log(counts), np.log(errors), 1)[0]
    assert -0.6 < slope < -0.4


def test_a_rebuild_replaces_every_kth_step(generator):
    device = bp.devices.LightModulator(6, 4)
    ledger = bp.Ledger()
    surrogate = ProjectorSplitting(4, samples=1, rebuild_every=3)
    surrogate.bind(device.declaration)
    theta = device.theta.draw(generator)
    run(surrogate.start(theta, generator), metered(device, ledger))
    rows = []
    for step in range(1, 7):
        new = theta + 0.3 * draw(24, seed=step)
        before = ledger.rows[Purpose.SURROGATE]
        run(surrogate.track(theta, new, generator), metered(device, ledger))
        rows.append(ledger.rows[Purpose.SURROGATE] - before)
        theta = new
        truth = theta.cos().view(4, 6) / math.sqrt(6)
        assert (_error(surrogate, truth) < 1e-5) == (step % 3 == 0)
    assert rows == [10, 10, 6, 10, 10, 6]


def test_reconstruction_is_the_best_rank_r_matrix_at_every_kth_change(generator):
    device = bp.devices.LightModulator(6, 4)
    surrogate, measure = _bound(Reconstruction(2, every=2), device)
    theta = device.theta.draw(generator)
    run(surrogate.start(theta, generator), measure)
    for step in range(1, 5):
        new = theta + draw(24, seed=step)
        run(surrogate.track(theta, new, generator), measure)
        truth = new.cos().view(4, 6) / math.sqrt(6)
        best = float(torch.linalg.svdvals(truth)[2:].norm() / truth.norm())
        assert (abs(_error(surrogate, truth) - best) < 1e-5) == (step % 2 == 0)
        theta = new


def test_frozen_holds_the_first_matrix(generator):
    device = bp.devices.Microring(6, 4)
    surrogate, measure = _bound(bp.surrogates.Frozen(), device)
    theta = device.theta.draw(generator)
    run(surrogate.start(theta, generator), measure)
    run(surrogate.track(theta, theta + 1, generator), measure)
    x, g = draw(3, 6), draw(3, 4)
    _, expected = torch.func.vjp(lambda x: device.transfer(x, theta), x)
    torch.testing.assert_close(surrogate.grad_x(x, g), expected(g)[0])


@pytest.mark.parametrize("failing", [1, 2])
def test_a_procedure_that_is_cut_short_leaves_the_surrogate(generator, failing):
    device = bp.devices.LightModulator(6, 4)
    surrogate, measure = _bound(ProjectorSplitting(2, 3, rebuild_every=failing), device)
    theta = device.theta.draw(generator)
    run(surrogate.start(theta, generator), measure)
    before = {k: v.clone() for k, v in surrogate.state_dict().items()}

    def broken(queries):
        raise OSError

    with pytest.raises(OSError):  # noqa: PT011
        run(surrogate.track(theta, theta + 1, generator), broken)
    for name, value in surrogate.state_dict().items():
        assert torch.equal(value, before[name])
