"""A photonic circuit of SAX as a device: parameters of its components are θ, ports are inputs and outputs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import Any

import numpy as np
import torch
from torch import Tensor

from blackprop.core._theta import ThetaSpec
from blackprop.devices import Device
from blackprop.errors import ArgumentError, DeviceError, ReadingError


def from_sax(
    circuit: Callable[..., Any],
    *,
    parameters: Sequence[str],
    inputs: Sequence[str],
    outputs: Sequence[str],
    fields: bool = False,
    settings: Mapping[str, Any] | None = None,
    initial: Callable[[torch.Generator], Tensor] | None = None,
    low: float | Tensor | None = None,
    high: float | Tensor | None = None,
    period: float | None = None,
    harmonics: int | None = None,
    **declared: Any,
) -> Device:
    """Make a device of a circuit of SAX: `y = |S x|²`, or `y = (Re S x, Im S x)` with `fields=True`.

    S `(outputs, inputs)` holds the scattering parameters of the circuit between the named ports. A row holds the real
    amplitudes of the light at the inputs. S is computed once for each setting, in double precision.

    **Costs** an evaluation of the circuit for each programming; rows cost a product with S. Pass `jax.jit(circuit)`: a
    small circuit is then evaluated some 40 times faster.

    **Arguments:**

    - `circuit`: a model of SAX, as `sax.circuit` returns it, or any function of keywords that returns scattering
      parameters. (`sax.circuit` returns it and a description: pass the first.)
    - `parameters`: the P settings that form θ, with dots between the levels, such as `"top.voltage"`.
    - `inputs`, `outputs`: names of ports, such as `"in0"`.
    - `fields` (default False): read both quadratures of the fields, the real parts of all outputs first, as a coherent
      receiver does. The device is then declared linear.
    - `settings` (default none): further keywords of the circuit, such as `{"wl": 1.55}`.
    - The others are those of `ThetaSpec` and `Device`.

    **Raises** `ArgumentError` for a parameter or a port that the circuit does not have, `DeviceError` if the circuit
    fails, and `ReadingError` if its result is not finite.

    ```python
    device = from_sax(mzi, parameters=["top.voltage"], inputs=["in0", "in1"], outputs=["out0", "out1"], high=2.0)
    ```

    Source: SAX, an open-source simulator of photonic circuits based on JAX.
    """
    if not callable(circuit):
        raise ArgumentError(
            "`from_sax(circuit)` takes a model, such as the first value that `sax.circuit` returns, got a "
            f"{type(circuit).__name__}"
        )
    for name, given in (("parameters", parameters), ("inputs", inputs), ("outputs", outputs)):
        if isinstance(given, str) or not given or len(set(given)) < len(given):
            raise ArgumentError(f"`from_sax({name}=...)` takes a list of different names, got {given!r}")
    theta = ThetaSpec(len(parameters), initial, low, high, period, harmonics)
    return _Sax(circuit, parameters, inputs, outputs, fields, dict(settings or {}), theta, **declared)


class _Sax(Device):
    def __init__(
        self,
        circuit: Callable[..., Any],
        parameters: Sequence[str],
        inputs: Sequence[str],
        outputs: Sequence[str],
        fields: bool,
        settings: dict[str, Any],
        theta: ThetaSpec,
        **declared: Any,
    ) -> None:
        super().__init__(len(inputs), (1 + fields) * len(outputs), theta, **{"linear": fields, **declared})
        self._circuit, self._parameters, self._fields, self._settings = circuit, list(parameters), fields, settings
        self._ports = [[(given, read) for given in inputs] for read in outputs]
        self._S: Tensor | None = None
        self._check_names()
        start = self._evaluated({})
        known = {port for pair in start for port in pair}
        if missing := [port for port in (*inputs, *outputs) if port not in known]:
            raise ArgumentError(f"`from_sax`: no port {missing[0]!r}; there are {', '.join(sorted(known))}")

    def program(self, theta: Tensor, /) -> None:
        values: dict[str, Any] = {}
        for name, value in zip(self._parameters, theta.detach().double().tolist(), strict=True):
            inner = values
            *path, last = name.split(".")
            for part in path:
                inner = inner.setdefault(part, {})
            inner[last] = value
        found = self._evaluated(values)
        S = np.array([[complex(found.get(pair, 0.0)) for pair in pairs] for pairs in self._ports])
        if not np.isfinite(S).all():
            raise ReadingError(f"{self}: the circuit has scattering parameters that are not finite at this setting")
        self._S = torch.from_numpy(S)

    def read(self, x: Tensor, /) -> Tensor:
        if self._S is None:
            raise ArgumentError(f"{self} must be programmed before it is read")
        out = x.detach().cpu().to(torch.complex128) @ self._S.mT
        y = torch.cat((out.real, out.imag), 1) if self._fields else out.abs().square()
        return y.to(x.device, x.dtype)

    def _evaluated(self, values: dict[str, Any]) -> dict[tuple[str, str], Any]:
        try:
            found = self._circuit(**_merged(self._settings, values))
            if not isinstance(found, Mapping):
                found = import_module("sax").sdict(found)  # an extra
            values_of = {pair: np.asarray(value) for pair, value in found.items()}
        except Exception as error:
            raise DeviceError(f"the circuit failed: {type(error).__name__}: {error}"[:500]) from error
        if several := [value.size for value in values_of.values() if value.size != 1]:
            raise ArgumentError(
                f"`from_sax`: the circuit returns {several[0]} values for a pair of ports: set one wavelength, as in "
                "`settings={'wl': 1.55}`"
            )
        return {pair: value.item() for pair, value in values_of.items()}

    def _check_names(self) -> None:
        """Raise for a parameter that the circuit would ignore: SAX passes over settings that it does not know."""
        try:
            known = import_module("sax").get_settings(self._circuit)  # an extra
        except Exception:  # a function that is not a model of SAX: it refuses keywords itself
            return
        names = set(_names(known))
        # A setting without a component, such as `wl`, goes to all components that know it.
        accepted = names | {name.rpartition(".")[2] for name in names}
        for group, given in (("parameters", self._parameters), ("settings", _names(self._settings))):
            if names and (missing := [name for name in given if name not in accepted]):
                raise ArgumentError(
                    f"`from_sax({group}=...)`: no parameter {missing[0]!r}; there are {', '.join(sorted(names))}"
                )


def _merged(base: Mapping[str, Any], more: Mapping[str, Any]) -> dict[str, Any]:
    found = dict(base)
    for name, value in more.items():
        inner = found.get(name)
        found[name] = _merged(inner, value) if isinstance(inner, Mapping) and isinstance(value, Mapping) else value
    return found


def _names(settings: Mapping[str, Any], above: str = "") -> list[str]:
    found: list[str] = []
    for name, value in settings.items():
        inner = isinstance(value, Mapping)
        found += _names(value, f"{above}{name}.") if inner else [f"{above}{name}"]
    return found
