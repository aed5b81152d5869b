"""A deployment on disk: tensors, and a description with versions and checksums."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from blackprop._origin import origin
from blackprop.core._budget import Budget
from blackprop.deployment._layers import differing, named, own_tensors, physical_layers, placed_on
from blackprop.deployment._ports import PortGains
from blackprop.deployment._tensor_file import parsed, written
from blackprop.devices import Device
from blackprop.errors import CheckpointError, ShapeError
from blackprop.nn._state import facts

FORMAT = 1
TENSORS, DESCRIPTION = "settings.safetensors", "deployment.json"
PORTS = ("inputs", "outputs")  # digital gains of a device


def save(model: nn.Module, report: Mapping[str, object], folder: Path) -> Path:
    """Write the tensors, then the description that vouches for them; each replaces its file in one step."""
    tensors = {name: value.detach() for name, value in own_tensors(model).items()}
    layers: dict[str, Any] = {}
    for name, layer in physical_layers(model):
        layers[name] = {"device": str(layer.device), "facts": _plain_facts(layer.device)}
        layers[name]["ports"] = isinstance(layer.device, PortGains)
        if isinstance(layer.device, PortGains):
            tensors |= {_key(name, end): getattr(layer.device, end) for end in PORTS}
    content = written(tensors)
    shapes = {name: [str(value.dtype).removeprefix("torch."), *value.shape] for name, value in tensors.items()}
    description = {
        "format": FORMAT,
        "origin": {**origin(), "torch": str(torch.__version__)},
        "layers": layers,
        "tensors": dict(sorted(shapes.items())),
        "sha256": hashlib.sha256(content).hexdigest(),
        "report": report,
    }
    description["checksum"] = _checksum(description)
    folder.mkdir(parents=True, exist_ok=True)
    _replace(folder / TENSORS, content)
    _replace(folder / DESCRIPTION, json.dumps(description, indent=1).encode())
    return folder


def load(
    folder: str | Path,
    model: nn.Module,
    devices: Device | Sequence[Device] | Mapping[str, Device],
    *,
    budget: Budget | None = None,
) -> nn.Module:
    """Return a copy of the model on the devices, with the settings and gains of a saved deployment. Makes no queries.

    **Arguments:**

    - `folder`: that `Deployment.save` wrote.
    - `model`: of the same structure as the one that was deployed; its own values do not matter.
    - `devices`, `budget`: as for `bp.deploy`.

    **Raises** `CheckpointError` where a file is missing or damaged, where a checksum differs, or where names, shapes,
    limits or periods are not those of the file. The model is not changed.
    """
    description, tensors = _read(Path(folder))
    placed = named(model, devices)
    told: Mapping[str, Any] = description["layers"]
    if set(placed) != set(told):
        raise CheckpointError(
            f"this deployment has the layers {sorted(told)}, and the devices are for {sorted(placed)}"
        )
    for name, device in placed.items():
        if differ := differing(told[name]["facts"], _plain_facts(device)):
            raise CheckpointError(f"this deployment does not fit {device} at {name!r}: {differ}")
    ports = {name for name, each in told.items() if each["ports"]}
    try:
        wrapped = {
            name: PortGains(device, *(tensors.pop(_key(name, end)) for end in PORTS)) if name in ports else device
            for name, device in placed.items()
        }
    except (KeyError, ShapeError) as error:
        raise CheckpointError(f"the gains at the ports do not fit: {error}") from error
    made = placed_on(model, wrapped, budget)
    own = own_tensors(made)
    wrong = [name for name, value in own.items() if name not in tensors or tensors[name].shape != value.shape]
    wrong += [name for name in tensors if name not in own]
    if wrong:
        raise CheckpointError(f"this deployment is of another model: {', '.join(sorted(wrong)[:6])} do not fit")
    with torch.no_grad():
        for name, value in own.items():
            value.copy_(tensors[name])
    return made


def _read(folder: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The description and the tensors, after their checksums."""
    try:
        text, content = (folder / DESCRIPTION).read_bytes(), (folder / TENSORS).read_bytes()
    except OSError as error:
        raise CheckpointError(f"{folder} does not hold a deployment: {error}") from error
    try:
        description = json.loads(text)
        found, checksum = description["format"], description.pop("checksum")
        ours = _checksum(description)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{folder / DESCRIPTION} is damaged: {error!r:.200}") from error
    if found != FORMAT:
        raise CheckpointError(f"this deployment has format {found}, and this library reads {FORMAT}")
    if checksum != ours:
        raise CheckpointError(f"{folder / DESCRIPTION} was changed: its checksum does not fit")
    if description["sha256"] != hashlib.sha256(content).hexdigest():
        raise CheckpointError(f"{folder / TENSORS} is not the file that was described: its checksum does not fit")
    tensors = parsed(content)
    shapes = {name: [str(value.dtype).removeprefix("torch."), *value.shape] for name, value in tensors.items()}
    if shapes != description["tensors"]:
        raise CheckpointError(f"{folder / TENSORS} does not hold the tensors that were described")
    return description, tensors


def _checksum(description: Mapping[str, Any]) -> str:
    rest = {name: value for name, value in description.items() if name != "checksum"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def _plain_facts(device: Device) -> dict[str, Any]:
    """The facts as JSON gives them back."""
    return json.loads(json.dumps(facts(device)))


def _key(name: str, end: str) -> str:
    return f"{name}.ports.{end}" if name else f"ports.{end}"


def _replace(path: Path, content: bytes) -> None:
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    beside.write_bytes(content)
    beside.replace(path)
