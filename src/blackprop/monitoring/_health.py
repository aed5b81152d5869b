"""The health of the devices of a model, as JSON takes it."""

from __future__ import annotations

from collections.abc import Mapping

from blackprop.nn._layer import PhysicalLayer

Health = dict[str, float | None]
MEASURES = ("signal", "residual", "noise", "drift", "recalibrations", "at_limit")  # those that a page shows


def health(layers: Mapping[str, PhysicalLayer]) -> dict[str, Health]:
    """Return the diagnosis of each layer with its noise, drift and recalibrations, by name. Makes no queries.

    - `noise`: relative to the readings, as declared, or as found by the inquiry of a surrogate.
    - `drift`: the root mean square displacement of θ that the surrogate has found, in units of θ.
    - `hopeless`: 1 where the gradient for θ is surely noise, 0 elsewhere.
    - `recalibrations`: how often it found one.
    """
    return {name: _of(layer) for name, layer in layers.items()}


def _of(layer: PhysicalLayer) -> Health:
    diagnosis = layer.diagnose()
    found: Health = {**diagnosis.plain(), "hopeless": float(diagnosis.hopeless)}
    inner = getattr(layer.surrogate, "inner", None)  # of a device that was asked first
    spec = getattr(inner, "spec", None) or layer.device.declaration
    measured = {"noise": float(spec.noise), "drift": found.get("displacement"), "recalibrations": found.get("moved")}
    return {**found, **{name: value for name, value in measured.items() if value is not None}}
