"""In-situ gradients of a mesh that another code simulates, beside that code's own.

    git clone https://github.com/fancompute/neuroptica && pip install numba tqdm
    PYTHONPATH=neuroptica python benchmarks/field/neuroptica_gradient.py

`neuroptica` (MIT) simulates Clements meshes, and computes `∂L/∂φ = −Im(a b)` from the complex fields at every shifter.
Here its mesh is the device: rows, fields that run backwards, and the powers at its shifters, as power taps read them.
`InSitu` sees those powers alone. Printed: modes, phases, relative difference of the two gradients, and rows of each:
two complex fields at each shifter a row there, 3 rows a pair here.
"""

from __future__ import annotations

import argparse

import numpy as np
import torch
from neuroptica.layers import ClementsLayer  # pyright: ignore[reportMissingImports]
from torch import Tensor

import blackprop as bp
from blackprop.core import Ledger, ReadBack, ReadBackField, Taps, metered, run


class NeuropticaMesh(bp.Device):
    """`y = Re(U x)` by a `ClementsLayer`; of each interferometer θ and then φ, both in the upper arm."""

    def __init__(self, modes: int) -> None:
        self.mesh = ClementsLayer(modes, include_phase_shifter_layer=False).mesh
        self.mzis = [mzi for layer in self.mesh.layers for mzi in layer.mzis]
        taps = Taps(modes, len(self.mzis), ((1.0, 0.0), (0.0, 1.0)))
        size = 2 * len(self.mzis)
        capabilities = [ReadBack(), ReadBackField(modes), taps]
        super().__init__(modes, modes, size, linear=True, capabilities=capabilities)

    def program(self, theta: Tensor, /) -> None:
        for mzi, (inner, outer) in zip(self.mzis, theta.view(-1, 2).tolist(), strict=True):
            mzi.theta, mzi.phi = inner, outer
        self.matrix = torch.from_numpy(self.mesh.get_transfer_matrix())

    def read(self, x: Tensor, /) -> Tensor:
        return (x.to(self.matrix) @ self.matrix.mT).real.to(x)

    def read_back(self, g: Tensor, /) -> Tensor:
        return (g.to(self.matrix) @ self.matrix).real.to(g)

    def read_back_field(self, g: Tensor, /) -> Tensor:
        z = g.to(self.matrix) @ self.matrix
        return torch.stack((z.real, z.imag), 1).to(g)

    def tap_powers(self, x: Tensor, /) -> Tensor:
        light = torch.complex(x[:, 0], x[:, 1]).mT.numpy()
        powers = []
        for layer, fields in zip(self.mesh.layers, self.mesh.compute_phase_shifter_fields(light), strict=True):
            powers += [np.abs(field[mzi.m]) ** 2 for mzi in layer.mzis for field in fields]
        return torch.from_numpy(np.stack(powers, 1)).to(x)


def compared(modes: int, rows: int, seed: int) -> tuple[float, int, int]:
    """The relative difference of the gradients, and the rows of either."""
    generator = torch.Generator().manual_seed(seed)
    device = NeuropticaMesh(modes)
    theta = 2 * np.pi * torch.rand(device.theta.size, generator=generator, dtype=torch.float64)
    x, g = (torch.randn(rows, modes, generator=generator, dtype=torch.float64) for _ in range(2))
    ledger = Ledger()
    procedure = bp.estimators.InSitu(None).grad_theta(x, theta, x, g, device.declaration, generator)
    found = run(procedure, metered(device, ledger))
    each = device.mesh.compute_gradients(x.mT.numpy().astype(complex), g.mT.numpy().astype(complex))
    theirs = torch.from_numpy(np.concatenate([each[mzi].sum(-1) for mzi in device.mzis]))
    return float((found - theirs).norm() / theirs.norm()), ledger.total_rows, 2 * rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--modes", nargs="+", type=int, default=[4, 8, 16])
    parser.add_argument("--rows", type=int, default=64)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(1)
    print(f"{'modes':>6}{'phases':>8}{'difference':>12}{'rows here':>11}{'there':>7}")
    for modes in args.modes:
        off, here, there = compared(modes, args.rows, args.seed)
        print(f"{modes:6}{modes * (modes - 1):8}{off:12.1e}{here:11}{there:7}")
    print(bp.testing.check_device(NeuropticaMesh(4)))


if __name__ == "__main__":
    main()
