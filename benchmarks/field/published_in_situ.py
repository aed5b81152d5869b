"""The error of in-situ gradients under noise of the taps and loss, beside that of the published simulation.

    git clone https://github.com/solgaardlab/photonicbackprop
    python benchmarks/field/published_in_situ.py --data photonicbackprop/sim_data.nc

`photonicbackprop` (MIT) is the code and data of Pai et al., Science 380, 398 (2023). Its notebooks are not needed:
`sim_data.nc` holds what they found for MNIST on meshes of 64 modes, batches of 600 and 100 epochs: the error of the
gradient of a batch, taken here as 1 − cosine by its range, and the share of test images that is wrong. Its noise of a
tap of the power P is K √P where the input has the power 1: the published errors grow as K². Three runs a row: 1,800
for a gradient.

Here: one mesh of 64 modes, offsets anywhere, a batch of 600 digits of unit power and its cotangents by cross entropy
behind a fixed matrix 64→10, the same noise for each row of light that is sent. Printed is 1 − cosine to autograd, mean
and standard deviation of `--seeds` meshes, for 8 pairs (24 rows for a gradient) and for all that the batch has (30).
Without --data the published columns are empty.
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path

import torch
from scipy.io import netcdf_file
from sklearn.datasets import load_digits
from torch import Tensor

import blackprop as bp
from blackprop.core import Ledger, Query, ReadBack, ReadBackField, Taps, metered, run

MODES, BATCH = 64, 600
NOISES = (0.0, 0.005, 0.01, 0.02)  # K
LOSSES = (0.0, 0.05)  # dB; there the spread of an unknown mean, here the mean and the spread of an interferometer
PAIRS = (8, None)


class ShotNoise(bp.devices.Wrapper):
    """Taps whose reading P has noise of the size `K √(P S)`, with S the power of the row of light."""

    survives = (ReadBack, ReadBackField, Taps)

    def __init__(self, device: bp.Device, size: float, seed: int) -> None:
        super().__init__(device)
        self.size, self._generator = size, torch.Generator().manual_seed(seed)

    def _sense_action(self, y: Tensor, query: Query) -> Tensor:
        if query.capability is not Taps:
            return y
        power = query.x.square().sum((1, 2))[:, None]
        return y + self.size * (y * power).sqrt() * torch.randn(y.shape, generator=self._generator)


def error(noise: float, loss: float, pairs: int | None, seed: int) -> float:
    """1 − cosine of the estimate to autograd."""
    chip = bp.devices.ImperfectMZIMesh(MODES, MODES, phase=10.0, splitter=0.0, seed=seed)
    device = ShotNoise(bp.devices.TappedMesh(chip, loss=loss, spread=1.0, seed=seed), noise, seed)
    generator = torch.Generator().manual_seed(seed)
    images, labels = load_digits(return_X_y=True)
    chosen = torch.randperm(len(images), generator=generator)[:BATCH]
    x = torch.nn.functional.normalize(torch.tensor(images, dtype=torch.float32)[chosen])
    theta = 2 * torch.pi * torch.rand(device.theta.size, generator=generator)
    readout = torch.randn(MODES, 10, generator=generator)
    transfer = device.oracle()
    assert transfer is not None
    leaf = theta.clone().requires_grad_()
    y = transfer(x, leaf)
    y.retain_grad()
    torch.nn.functional.cross_entropy(y @ readout, torch.tensor(labels)[chosen]).backward()
    exact, g = leaf.grad, y.grad
    assert exact is not None
    assert g is not None
    procedure = bp.estimators.InSitu(pairs).grad_theta(x, theta, y.detach(), g, device.declaration, generator)
    found = run(procedure, metered(device, Ledger()))
    return 1 - float(torch.cosine_similarity(found, exact, dim=0))


def published(path: Path) -> dict[tuple[float, float], tuple[float, float]]:
    """The error of the gradient and of the test, in %, by (noise, loss), at the last epoch of Adam."""
    with netcdf_file(path, mmap=False) as file:
        table = file.variables["__xarray_dataarray_variable__"].data

        def names(axis: str) -> list[str]:
            return [bytes(b"".join(each)).decode().strip("\0") for each in file.variables[axis].data]

        what, adam = names("param"), names("optimizer").index("adam")
        noises, losses = (file.variables[axis].data.tolist() for axis in ("tap_pd_shot_noise", "loss_db_std"))
        gradient, test = what.index("grad/error_batch"), what.index("eval/error")
        return {
            (noise, loss): (
                float(table[0, 0, j, i, 0, adam, gradient, -1]),
                100 * float(table[0, 0, j, i, 0, adam, test, -1]),
            )
            for i, noise in enumerate(noises)
            for j, loss in enumerate(losses)
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="sim_data.nc of photonicbackprop")
    parser.add_argument("--seeds", type=int, default=3)
    args = parser.parse_args()
    torch.set_num_threads(1)
    theirs = {} if args.data is None else published(args.data)
    print(f"{'loss, dB':>9}{'K':>7}{'published':>11}{'test, %':>9}{'8 pairs':>19}{'all pairs':>19}")
    for loss in LOSSES:
        for noise in NOISES:
            known = theirs.get((noise, loss))
            line = f"{loss:9g}{noise:7g}" + (f"{known[0]:11.4f}{known[1]:9.1f}" if known else " " * 20)
            for pairs in PAIRS:
                found = [error(noise, loss, pairs, seed) for seed in range(args.seeds)]
                spread = statistics.stdev(found) if len(found) > 1 else 0.0
                line += f"{statistics.fmean(found):11.5f} ± {spread:.4f}"
            print(line, flush=True)


if __name__ == "__main__":
    main()
