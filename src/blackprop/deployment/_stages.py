"""The stages of a deployment: each changes settings, gains or statistics, and says on which it could not work."""

from __future__ import annotations

import abc
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from blackprop.conversion import ByResponse, choose
from blackprop.core._declaration import Coupling
from blackprop.deployment._layers import Placed, evaluating
from blackprop.deployment._model import CopyModel, Reading, model_of
from blackprop.deployment._ports import PortGains, port_gains
from blackprop.devices import Device
from blackprop.errors import ArgumentError, IncompatibleError
from blackprop.optim import RecentNorms
from blackprop.twins import CalibratedChip

FAR = 0.5  # misfit, from which on the trained model's device says too little about this one, and a calibration pays
AT_NOISE = 1.5  # times the noise: a misfit that no step improves
FADING = 2  # steps in a row that did not improve, after which a layer is left
REMEMBERED = 6  # readings that the errors of a copy are fitted to


class NotTriedError(Exception):
    """A stage that no layer is served by, with the reason."""


@dataclass(frozen=True)
class Work:
    """The deployed model, its layers, and the rows of data that may be fitted, if there are any."""

    model: nn.Module
    layers: Sequence[Placed]
    rows: Tensor | None
    steps: int
    calibrate: bool | None


class StageOfDeployment(abc.ABC):
    """One stage; the driver measures the model before and after it, and undoes it where it does not help."""

    name: ClassVar[str]

    @abc.abstractmethod
    def carry_out(self, work: Work) -> str:
        """Change the model; return a note for the report. Raises `NotTriedError` where it serves no layer."""


class Ports(StageOfDeployment):
    """Digital gains of the inputs and outputs of every device, from one reading."""

    name = "ports"

    def carry_out(self, work: Work) -> str:
        told = []
        for each in work.layers:
            device = each.layer.device
            if len(device.in_shape) != 1 or len(device.out_shape) != 1:
                continue
            told.append("inputs and outputs" if _with_ports(each, each.last or each.read()) else "outputs")
        if not told:
            raise NotTriedError("no device has vectors at both ends")
        return ", ".join(dict.fromkeys(told))


class Scales(StageOfDeployment):
    """The gain of every layer, and the statistics of batch norms."""

    name = "scales"

    def carry_out(self, work: Work) -> str:
        for each in work.layers:
            each.fit_gain(each.last or each.read())
        norms = [module for module in work.model.modules() if isinstance(module, _BatchNorm)]
        if work.rows is None or not any(norm.running_mean is not None for norm in norms):
            return "gains"
        with evaluating(work.model), RecentNorms(work.model):
            for norm in norms:
                norm.train()
            work.model(work.rows)
        return "gains and batch norms"


class Calibrating(StageOfDeployment):
    """The response curves of independent elements, or the design of a chip, where its settings say too little."""

    name = "calibration"

    def carry_out(self, work: Work) -> str:
        if work.calibrate is False:
            raise NotTriedError("`calibrate=False`")
        told = []
        for each in work.layers:
            misfit = each.misfit(each.last or each.read())
            if work.calibrate is None and misfit <= FAR:
                continue
            if (how := _calibrated(each)) is not None:
                told.append(f"{each.name}: {how}")
        if not told:
            near = work.calibrate is None and all(each.misfit(each.last or each.read()) <= FAR for each in work.layers)
            raise NotTriedError(
                f"readings are within {FAR:.0%} of the trained model's, from where steps cost less"
                if near
                else "devices declare neither independent elements nor a design"
            )
        return "; ".join(told)


class InPlace(StageOfDeployment):
    """Steps in place: fit the errors of the copy to its readings, move to the setting that the model then proposes."""

    name = "steps"

    def carry_out(self, work: Work) -> str:
        if not work.steps:
            raise NotTriedError("`steps=0`")
        told = []
        for each in work.layers:
            if (model := each.learn()) is None:
                continue
            before, count, after = _stepped(each, model, work.steps)
            told.append(f"{each.name}: {count}, misfit {before:.1%} to {after:.1%}")
        if not told:
            raise NotTriedError("the trained model's devices have no differentiable model: train in place")
        return "; ".join(told)


STAGES = (Ports(), Scales(), Calibrating(), InPlace())


def _calibrated(each: Placed) -> str | None:
    """Calibrate the device and program it anew; return how, None where no calibration serves it."""
    layer = each.layer
    _without_ports(each)
    spec = layer.device.declaration
    if spec.linear and spec.coupling is Coupling.ELEMENT and each.source.device.linear:
        programmer = choose(layer.device, layer.estimator, layer.surrogate)
        if not isinstance(programmer, ByResponse):
            programmer = ByResponse()
        layer.approximate(each.source.to_linear().weight.detach(), programmer)
        each.last = None
        return "response curves"
    if not isinstance(spec.drawing, Device):
        return None
    try:
        chip = CalibratedChip(spec.drawing)
        chip.bind(spec)
    except (ArgumentError, IncompatibleError):
        return None
    chip.to(layer.theta)
    theta = layer.device.theta.clamp(layer.theta.detach().clone())
    layer._run(chip.start(theta, layer._generator_beside(theta)))
    if not bool(chip.accepted):
        return None
    found = model_of(spec.drawing, chip)
    assert found is not None
    model = each.take(found)
    layer.theta.data.copy_(model.propose(each.x, each.wanted, theta, layer.gain.detach()))
    each.fit_gain(each.read())
    return "design of the chip"


def _stepped(each: Placed, model: CopyModel, steps: int) -> tuple[float, int, float]:
    """Make up to `steps` steps; return the misfit before, the number of steps, and the misfit after."""
    layer = each.layer
    _without_ports(each)
    first, again = each.read(), each.read()  # at one programming: their difference is the noise
    noise = _noise(first, again, layer.device.noise)
    readings: list[Reading] = [(first[0], first[1], (first[2] + again[2]) / 2)]
    before = best = each.misfit(again)
    kept, count, worse = (layer.theta.detach().clone(), layer.gain.detach().clone(), again), 0, 0
    while count < steps and best > AT_NOISE * noise and worse < FADING:
        model.learn(readings[-REMEMBERED:], noise)
        layer.theta.data.copy_(model.propose(each.x, each.wanted, layer.theta.detach(), layer.gain.detach()))
        readings.append(each.read())
        each.fit_gain(readings[-1])
        count += 1
        misfit = each.misfit(readings[-1])
        worse = 0 if misfit < best else worse + 1
        if misfit < best:
            best, kept = misfit, (layer.theta.detach().clone(), layer.gain.detach().clone(), readings[-1])
    layer.theta.data.copy_(kept[0])
    layer.gain.data.copy_(kept[1])
    device, each.last = layer.device, kept[2]
    if count and best > AT_NOISE * noise and len(device.in_shape) == len(device.out_shape) == 1:
        _with_ports(each, kept[2])
        if (misfit := each.misfit(each.read())) < best:
            best = misfit
        else:
            layer.device, each.last = device, kept[2]
    return before, count, best


def _with_ports(each: Placed, reading: Reading) -> bool:
    """Put the gains at the ports that this reading of the bare device asks for; return whether inputs have them."""
    device = each.layer.device
    both = device.linear and not device.declaration.x_limited and len(each.x) >= 2 * device.in_shape[0]
    y = each.layer.gain.detach() * each.fitted(reading)
    each.layer.device = PortGains(device, *port_gains(each.x, y, each.wanted, inputs=both))
    each.last = None
    return both


def _without_ports(each: Placed) -> None:
    """Take the gains at the ports off: they were those of another setting."""
    if isinstance(each.layer.device, PortGains):
        each.layer.device, each.last = each.layer.device.device, None


def _noise(first: Reading, again: Reading, declared: float) -> float:
    """The noise of a reading, relative to its root mean square: as declared, or as two readings differ."""
    size = float(first[2].norm())
    found = float((first[2] - again[2]).norm()) / math.sqrt(2) / size if size else 0.0
    return max(declared, found)
