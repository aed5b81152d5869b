"""The simulators give the numbers they gave, and those of the published method's own program."""

from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from blackprop import devices
from blackprop.core import Purpose, Query
from support import DATA

OURS = Path(__file__).parent / "data" / "golden.npz"
AUTHORS = DATA / "golden" / "devices.npz"
SIZES = ["8x8", "12x7", "7x12"]
DEVICES = {  # the authors' name: ours
    "matrix": ("Matrix", devices.Matrix),
    "low_rank": ("LowRank", partial(devices.LowRank, rank=3)),
    "light_modulator": ("LightModulator", devices.LightModulator),
    "microring": ("Microring", devices.Microring),
    "mesh_classical": ("MZIMesh", devices.MZIMesh),
    "mesh_three_splitter": ("ThreeSplitterMesh", devices.ThreeSplitterMesh),
    "monarch": ("Monarch", devices.Monarch),
    "resampling": ("Resampling", devices.Resampling),
}
ENCODINGS = list(devices.Diffraction.Encoding)
BEAMS = {"single": False, "double": True}
needs_authors = pytest.mark.skipif(
    not AUTHORS.is_file(), reason="the authors' numbers are not at hand; BLACKPROP_DATA names their folder"
)


def relative(a: Tensor, b: Tensor) -> float:
    return float((a - b).norm() / b.norm())


def vectors(path: Path, prefix: str) -> tuple[Tensor, Tensor, Tensor]:
    with np.load(path) as stored:
        x, theta, y = (torch.tensor(stored[f"{prefix}.{key}"]) for key in ("x", "theta", "y"))
    return x, theta, y


def measured(device: devices.Device, x: Tensor, theta: Tensor) -> Tensor:
    device.theta.check(theta)
    return device.measure([Query(x, theta, Purpose.EVALUATE)])[0]


def stored_diffuser(path: Path, key: str) -> Tensor:
    with np.load(path) as stored:
        return torch.tensor(stored[key])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("name", "make"), DEVICES.values(), ids=DEVICES)
def test_matrix_devices_agree_with_our_vectors(name, make, size, dtype):
    x, theta, y = (v.to(dtype) for v in vectors(OURS, f"{name}.{size}"))
    assert relative(measured(make(*map(int, size.split("x"))), x, theta), y) < 1e-5


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("beams", BEAMS)
def test_diffraction_agrees_with_our_vectors(beams, encoding, dtype):
    x, theta, y = (v.to(dtype) for v in vectors(OURS, f"Diffraction.{beams}.{encoding.value}.16x9"))
    device = devices.Diffraction(
        16, 9, encoding=encoding, double=BEAMS[beams], diffuser=stored_diffuser(OURS, "diffuser")
    )
    # Two beams with masks that hardly matter: in float32 the difference of their magnitudes keeps fewer digits.
    cancels = BEAMS[beams] and encoding is devices.Diffraction.Encoding.PHASE and dtype is torch.float32
    assert relative(measured(device, x, theta), y) < (1e-4 if cancels else 1e-5)


@needs_authors
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", DEVICES)
def test_matrix_devices_agree_with_the_authors(name, size):
    x, theta, y = vectors(AUTHORS, f"{name}.{size}")
    if (name, size) == ("resampling", "8x8"):
        y = theta * y  # their program drops the gain where d_in = d_out; ours keeps the parameter it declares
    device = DEVICES[name][1](*map(int, size.split("x")))
    assert relative(measured(device, x, theta), y) < 1e-4


@needs_authors
@pytest.mark.parametrize("size", ["16x16", "16x9", "9x16"])
@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("beams", BEAMS)
def test_diffraction_agrees_with_the_authors(beams, encoding, size):
    prefix = f"diffraction.{beams}.{encoding.value}.{size}"
    x, theta, y = vectors(AUTHORS, prefix)
    device = devices.Diffraction(
        *map(int, size.split("x")),
        encoding=encoding,
        double=BEAMS[beams],
        diffuser=stored_diffuser(AUTHORS, f"{prefix}.diffuser_phase"),
        precision=torch.float32,  # theirs
    )
    out = measured(device, x, theta)
    if BEAMS[beams] and encoding is devices.Diffraction.Encoding.PHASE:
        # At their precision this grid does not diffract, both magnitudes are |x|, and all that is stored is rounding.
        assert float(y.abs().max()) < 1e-6
        assert float(out.abs().max()) < 1e-6
    else:
        assert relative(out, y) < 1e-4
