"""`python tests/make_golden.py` writes tests/data/golden.npz: inputs drawn by NumPy, outputs computed in float64."""

from functools import partial
from pathlib import Path

import numpy as np
import torch

from blackprop import devices

ROWS = 3
SIZES = [(8, 8), (12, 7), (7, 12)]
DEVICES = {
    "Matrix": devices.Matrix,
    "LowRank": partial(devices.LowRank, rank=3),
    "LightModulator": devices.LightModulator,
    "Microring": devices.Microring,
    "MZIMesh": devices.MZIMesh,
    "ThreeSplitterMesh": devices.ThreeSplitterMesh,
    "Monarch": devices.Monarch,
    "Resampling": devices.Resampling,
}


def main() -> None:
    rng = np.random.default_rng(0)
    vectors: dict[str, np.ndarray] = {}

    def record(name: str, device: devices.Device, x: np.ndarray, theta: np.ndarray) -> None:
        x, theta = x.astype(np.float32), theta.astype(np.float32)
        transfer = device.oracle()
        assert transfer is not None
        y = transfer(torch.tensor(x).double(), torch.tensor(theta).double())
        vectors.update({f"{name}.x": x, f"{name}.theta": theta, f"{name}.y": y.numpy().astype(np.float32)})

    for name, make in DEVICES.items():
        for d_in, d_out in SIZES:
            device = make(d_in, d_out)
            theta = rng.normal(0.8, 1.0, device.theta.size)
            record(f"{name}.{d_in}x{d_out}", device, rng.normal(size=(ROWS, d_in)), theta)
    vectors["diffuser"] = rng.uniform(0, 2 * np.pi, 16).astype(np.float32)
    for double in (False, True):
        for encoding in devices.Diffraction.Encoding:
            diffuser = torch.tensor(vectors["diffuser"])
            device = devices.Diffraction(16, 9, encoding=encoding, double=double, diffuser=diffuser)
            name = f"Diffraction.{'double' if double else 'single'}.{encoding.value}.16x9"
            record(name, device, rng.uniform(size=(ROWS, 16)), rng.uniform(size=device.theta.size))
    np.savez_compressed(Path(__file__).parent / "data" / "golden.npz", **vectors)


if __name__ == "__main__":
    main()
