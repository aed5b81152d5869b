"""Checks the packages in a folder: their contents, their metadata, and a wheel that runs in an empty environment."""

from __future__ import annotations

import subprocess
import sys
import tarfile
import tempfile
import zipfile
from email.message import Message
from email.parser import Parser
from pathlib import Path

ROOT = Path(__file__).parents[1]
CORE = {"torch", "numpy"}
TRY = """
import torch, blackprop as bp
layer = bp.PhysicalLayer(bp.devices.LightModulator(8, 4))
layer(torch.randn(5, 8)).square().mean().backward()
assert layer.theta.grad is not None and bp.ledger(layer).total_rows > 0
print("trained a step with blackprop", bp.__version__)
"""


def main(folder: Path) -> None:
    (wheel,), (source,) = folder.glob("*.whl"), folder.glob("*.tar.gz")
    check_wheel(wheel)
    check_source(source)
    try_out(wheel)
    print(f"{wheel.name} ({wheel.stat().st_size:,} bytes) and {source.name} ({source.stat().st_size:,} bytes) hold")


def check_wheel(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        information = next(name for name in names if name.endswith(".dist-info/METADATA"))
        metadata = Parser().parsestr(archive.read(information).decode())
    files = {path for path in (ROOT / "src").rglob("*") if path.is_file() and "__pycache__" not in path.parts}
    kept = {str(path.relative_to(ROOT / "src")) for path in files if "egg-info" not in str(path)}
    packed = {name for name in names if ".dist-info/" not in name}
    assert packed == kept, packed ^ kept
    assert "blackprop/py.typed" in packed
    assert any(name.endswith("licenses/LICENSE") for name in names)
    check_metadata(metadata)


def check_metadata(metadata: Message) -> None:
    needed = {line.partition(">")[0] for line in metadata.get_all("Requires-Dist", []) if "extra ==" not in line}
    assert needed == CORE, needed
    version = metadata["Version"]
    assert f'__version__ = "{version}"' in (ROOT / "src/blackprop/__init__.py").read_text()
    assert f"version: {version}\n" in (ROOT / "CITATION.cff").read_text()
    text = metadata.get_payload()
    assert isinstance(text, str)
    assert text.lstrip().startswith("# blackprop")
    if metadata.get_all("Project-URL"):
        assert "](docs/" not in text


def check_source(source: Path) -> None:
    with tarfile.open(source) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    for needed in ("README.md", "LICENSE", "CHANGELOG.md", "CITATION.cff", "constraints.txt", "Makefile"):
        assert needed in names, needed
    for folder in ("src/blackprop/", "tests/", "docs/", "examples/gallery/", "benchmarks/"):
        assert any(name.startswith(folder) for name in names), folder
    left = [name for name in names if name.startswith(("runs/", "dist/", ".venv", "docs/_build", "docs/gallery/"))]
    assert not left, left


def try_out(wheel: Path) -> None:
    """Install the wheel without extras into an empty environment, and train a step outside the checkout."""
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        python = f"{folder}/bin/python"
        quiet = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([python, *quiet, "-c", str(ROOT / "constraints.txt"), str(wheel)], check=True)
        subprocess.run([python, "-W", "error", "-c", TRY], check=True, cwd=folder)
        told = subprocess.run([f"{folder}/bin/blackprop", "--version"], check=True, capture_output=True, text=True)
        assert told.stdout.startswith("blackprop "), told


if __name__ == "__main__":
    main(Path(sys.argv[1]))
