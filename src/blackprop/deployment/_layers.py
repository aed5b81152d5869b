"""The layers of a deployed model: their devices in place, and the readings that a layer should give."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from blackprop.core._budget import Budget
from blackprop.core._procedure import read
from blackprop.core._query import Purpose, Query
from blackprop.deployment._model import CopyModel, Reading, model_of
from blackprop.deployment._ports import PortGains
from blackprop.devices import Device
from blackprop.errors import ArgumentError, IncompatibleError
from blackprop.nn import PhysicalLayer, substitute
from blackprop.nn._state import facts
from blackprop.planning._methods import radian

MUST_FIT, IF_TOLD = ("in_shape", "out_shape", "parameters"), ("period", "limits")


@dataclass(eq=False)
class Placed:
    """A layer on its new device, the rows it met in the trained model, and the outputs that it gave there.

    `wanted` are outputs of the layer without its bias and its digital weights, which are the same on both.
    """

    name: str
    source: PhysicalLayer
    layer: PhysicalLayer
    x: Tensor  # (R, *in_shape)
    wanted: Tensor  # (R, *out_shape)
    x_check: Tensor
    wanted_check: Tensor
    model: CopyModel | None = None
    last: Reading | None = None

    def read(self) -> Reading:
        """Read the fitted rows and the check rows at the present setting, in one programming."""
        layer = self.layer
        theta = layer.device.theta.clamp(layer.theta.detach().clone())
        rows = torch.cat((self.x, self.x_check))
        y = layer._run(read(Query(rows, theta, Purpose.CALIBRATE)))
        self.last = rows, theta, y
        return self.last

    def fitted(self, reading: Reading) -> Tensor:
        """The readings of the rows that a stage may fit."""
        return reading[2][: len(self.x)]

    def misfit(self, reading: Reading) -> float:
        """`|gain · y − wanted| / |wanted|` over the check rows."""
        size = self.wanted_check.norm().clamp_min(torch.finfo(self.wanted_check.dtype).tiny)
        return float((self.layer.gain.detach() * reading[2][len(self.x) :] - self.wanted_check).norm() / size)

    def fit_gain(self, reading: Reading) -> None:
        """Scale the gain so that the fitted rows are closest to the wanted outputs."""
        y = self.layer.gain.detach() * self.fitted(reading)
        power, shared = float(y.square().sum()), float((self.wanted * y).sum())
        if power > 0 and shared > 0:
            self.layer.gain.data.mul_(shared / power)

    def learn(self) -> CopyModel | None:
        """The model of copies of the trained model's device, None where there is none."""
        if self.model is None:
            found = model_of(self.source.device, self.source.surrogate)
            if found is None:
                return None
            try:
                self.take(found)
            except IncompatibleError:
                return None
        return self.model

    def take(self, model: nn.Module) -> CopyModel:
        """Believe in this model of the device."""
        self.model = CopyModel(model, self.layer.device.declaration, radian(self.source.device.declaration))
        self.model.to(self.layer.theta)
        return self.model


def placed_on(model: nn.Module, devices: Mapping[str, Device], budget: Budget | None) -> nn.Module:
    """Return a copy of the model with its physical layers, by name, on the devices, at the same settings and gains."""
    layers = dict(physical_layers(model))
    for name, device in devices.items():
        check_device(name, layers[name].device, device)
    made: nn.Module = copy.deepcopy(model)
    return substitute(
        made, {name: lambda old, device=device: moved(old, device, budget) for name, device in devices.items()}
    )


def moved(old: nn.Module, device: Device, budget: Budget | None) -> PhysicalLayer:
    """A layer with the settings, gain, bias and digital weights of `old`, around another device."""
    assert isinstance(old, PhysicalLayer)
    generator = torch.Generator()
    generator.set_state(old.generator.get_state()) if old.generator.device.type == "cpu" else None
    layer = PhysicalLayer(device, budget=budget, bias=old.bias is not None, generator=generator, digital=old.digital)
    theta = old.theta.detach()
    layer.to(theta.device, theta.dtype)
    layer.theta.data.copy_(device.theta.clamp(theta))
    layer.gain = nn.Parameter(old.gain.detach().clone())
    if layer.bias is not None and old.bias is not None:
        layer.bias.data.copy_(old.bias.detach())
    layer.scale.decided = True  # the gain is that of the trained model
    return layer


def check_device(name: str, trained: Device, device: object) -> None:
    """Raise unless settings of `trained` mean the same on the device."""
    if not isinstance(device, Device):
        raise ArgumentError(f"`deploy(devices=...)`: {name!r} takes a Device, got {device!r}")
    if told := differing(facts(trained), facts(device)):
        raise IncompatibleError(f"the settings of {name!r} do not fit {device}: {told}")


def differing(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> str:
    """The facts in which two devices differ, in words; a period or limits that one does not declare are unknown."""
    differ = [what for what in MUST_FIT if ours[what] != theirs[what]]
    for what in IF_TOLD:
        told = ours[what], theirs[what]
        if not any(each is None or each == [None, None] for each in told) and told[0] != told[1]:
            differ.append(what)
    return "; ".join(f"{what} {ours[what]}, there {theirs[what]}" for what in differ)


def physical_layers(model: nn.Module) -> Iterator[tuple[str, PhysicalLayer]]:
    for name, module in model.named_modules():
        if isinstance(module, PhysicalLayer):
            yield name, module


def named(model: nn.Module, devices: object) -> dict[str, Device]:
    """The devices by the names of their layers, from a mapping, a sequence in the order of the layers, or one."""
    names = [name for name, _ in physical_layers(model)]
    if not names:
        raise ArgumentError(
            "`deploy(model=...)`: the model has no PhysicalLayer; `PhysicalLayer.from_linear` makes one"
        )
    if isinstance(devices, Device):
        devices = [devices]
    if isinstance(devices, Mapping):
        wrong = [name for name in devices if name not in names]
        if wrong or not devices:
            raise ArgumentError(
                f"`deploy(devices=...)`: no physical layer is named {wrong or 'here'}; there are {names}"
            )
        return dict(devices)
    if not isinstance(devices, (list, tuple)) or len(devices) != len(names):
        raise ArgumentError(f"`deploy(devices=...)` takes one device for each of {names}, got {devices!r}")
    return dict(zip(names, devices, strict=True))


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """`eval()` and no gradients; the modes of all modules are restored."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, mode in modes.items():
            module.training = mode


def met(model: nn.Module, names: list[str], x: Tensor) -> tuple[Tensor, dict[str, tuple[Tensor, Tensor]]]:
    """The output of the model for rows x; by name, rows and outputs of layers, without bias and digital part."""
    found: dict[str, list[tuple[Tensor, Tensor]]] = {name: [] for name in names}

    def note(name: str) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
        return lambda layer, given, y: found[name].append(_without_digital(layer, given[0], y))

    hooks = [model.get_submodule(name).register_forward_hook(note(name)) for name in names]
    try:
        with evaluating(model):
            output = model(x)
    finally:
        for hook in hooks:
            hook.remove()
    silent = [name for name in names if not found[name]]
    if silent:
        raise ArgumentError(f"`deploy(data=...)`: the rows do not pass the layers {silent}")
    return output, {n: (torch.cat([x for x, _ in some]), torch.cat([y for _, y in some])) for n, some in found.items()}


def _without_digital(layer: nn.Module, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    assert isinstance(layer, PhysicalLayer)
    if layer.bias is not None:
        y = y - layer.bias
    if layer.digital is not None:
        y = y - layer.digital(x)
    x = x.to(layer.theta.dtype)
    return x.reshape(-1, *layer.device.in_shape).detach(), y.reshape(-1, *layer.device.out_shape).detach()


class Snapshot:
    """The state of a deployed model that a stage may change: parameters, buffers outside strategies, devices."""

    def __init__(self, model: nn.Module) -> None:
        self.tensors = {name: value.detach().clone() for name, value in own_tensors(model).items()}
        self.devices: dict[PhysicalLayer, Device] = {layer: layer.device for _, layer in physical_layers(model)}

    @torch.no_grad()
    def restore(self, model: nn.Module) -> None:
        for layer, device in self.devices.items():
            layer.device = device
        for name, value in own_tensors(model).items():
            value.copy_(self.tensors[name])


def own_tensors(model: nn.Module) -> dict[str, Tensor]:
    """The parameters and saved buffers of a model, without those of estimators and surrogates, by name."""
    inside = set[str]()
    for name, layer in physical_layers(model):
        head = f"{name}." if name else ""
        inside |= {f"{head}theta_tracked"}
        for part in ("surrogate", "estimator", "signal"):
            child: Any = getattr(layer, part)
            if isinstance(child, nn.Module):
                inside |= {f"{head}{part}.{key}" for key, _ in [*child.named_buffers(), *child.named_parameters()]}
    saved = model.state_dict(keep_vars=True)
    return {
        name: value
        for name, value in saved.items()
        if isinstance(value, Tensor) and name not in inside and not name.endswith("_extra_state")
    }


def with_own_methods(model: nn.Module) -> nn.Module:
    """Choose methods anew for layers whose devices got port gains; their ledgers and budgets stay."""

    def again(old: nn.Module) -> PhysicalLayer:
        assert isinstance(old, PhysicalLayer)
        made = moved(old, old.device, old.budget)
        made.ledger = old.ledger
        return made

    names = [name for name, layer in physical_layers(model) if isinstance(layer.device, PortGains)]
    return substitute(model, dict.fromkeys(names, again)) if names else model
