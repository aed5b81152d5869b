"""Whether a device fulfils its declaration."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor

from blackprop.core._declaration import Declaration
from blackprop.core._probes import within
from blackprop.core._procedure import ask
from blackprop.core._query import Count, Purpose, Query, same_setting
from blackprop.devices import Device, Simulator, Wrapper
from blackprop.errors import ArgumentError, ContractError, LimitError, ShapeError
from blackprop.testing._bench import (
    Bench,
    Report,
    fork,
    generator_or_default,
    global_streams,
    moved_since,
    normal,
    seeded,
)
from blackprop.testing._capabilities import (
    check_capabilities,
    check_cells,
    check_fields,
    check_gains,
    check_reciprocity,
    check_taps,
)
from blackprop.testing._coupling import check_coupling
from blackprop.testing._linearity import check_linearity, check_period
from blackprop.testing._probe import SIGMAS, Probe
from blackprop.testing._rows import check_rows


def check_device(
    device: Device,
    *,
    rows: int = 8,
    scale: float = 1.0,
    noise: float | None = None,
    tolerance: float = 1e-4,
    parameters: int = 6,
    subsets: int = 8,
    repeats: int = 16,
    generator: torch.Generator | None = None,
) -> Report:
    """Measure whether `device` fulfils its declaration.

    Checks shapes, limits of θ and of the inputs, period, linearity, coupling, capabilities, that θ and x alone
    determine the output, and that x may have any memory layout. Two readings count as equal within `tolerance` of the
    largest output and 6 standard deviations of the device's own noise, which is measured first. On a noisy device,
    compared values are read `repeats` times, alternating.

    **Arguments:**

    - `device`: the device.
    - `rows` (default 8): rows of a query, random.
    - `scale` (units of x, default 1): the largest entry of a row.
    - `noise` (default None): the largest allowed noise, relative to the root mean square of the outputs. None: 0 for a
      `Simulator`, which is a pure function, and any for another device; the report gives the value.
    - `tolerance` (default 1e-4): raise it to the resolution of a device that rounds.
    - `parameters` (default 6): parameters that are moved one at a time.
    - `subsets` (default 8): random halves that are moved at once.
    - `repeats` (default 16): readings of each compared value, on a noisy device.
    - `generator` (default: seed 0): also determines the place of the test (CPU or GPU).

    **Raises** `ContractError` for the first claim that does not hold.

    >>> import blackprop as bp
    >>> report = bp.testing.check_device(bp.devices.LightModulator(4, 3))
    >>> report.claims[0]
    ('initial setting', 'repeats, within limits')
    """
    if rows < 2 or repeats < 2:
        raise ArgumentError(f"`check_device` needs at least 2 rows and 2 repeats, got {rows} and {repeats}")
    generator = generator_or_default(generator)
    bench = Bench(str(device))
    before = global_streams()
    theta = _initial(bench, device.declaration, generator)
    x = normal((rows, *device.in_shape), generator)
    x = within(device.declaration, x * (scale / float(x.abs().max())))
    probe = Probe(device, bench, theta, x, tolerance, generator)
    first = probe.read(probe.x, theta, "readings")
    kept = first.clone()
    bench.note("readings", f"{tuple(first.shape)}, {first.dtype}, finite, no autograd")
    _noise(probe, repeats, 0.0 if noise is None and isinstance(device, Simulator) else noise)
    _purity(probe)
    _batching(probe)
    _verbs(probe)
    _state(probe)
    _limits(probe)
    check_rows(probe)
    check_period(probe, parameters)
    check_linearity(probe)
    check_coupling(probe, parameters, subsets)
    _influence(probe)
    _precision(probe)
    check_capabilities(probe)
    check_reciprocity(probe)
    check_taps(probe)
    check_fields(probe)
    check_gains(probe)
    check_cells(probe)
    stays = torch.equal(first, kept)
    bench.settle(stays, "readings stay", "yes" if stays else "one changed after it was returned", "yes")
    bench.note("global random streams", f"it moves {moved_since(before)}" if moved_since(before) else "untouched")
    return bench.report()


def _initial(bench: Bench, spec: Declaration, generator: torch.Generator) -> Tensor:
    claim, seed = "initial setting", fork(generator)
    try:
        theta, again = (spec.theta.draw(seeded(seed, generator)) for _ in range(2))
    except (LimitError, ShapeError) as error:
        raise ContractError(f"{spec.name}: {claim}: {error}") from error
    default = torch.get_default_dtype()
    bench.require(theta.dtype == default, claim, str(theta.dtype), str(default))
    alike = torch.equal(theta, again)
    bench.settle(alike, claim, "repeats, within limits" if alike else "another one at the same seed", "it repeats")
    return theta


def _noise(probe: Probe, repeats: int, allowed: float | None) -> None:
    """Repeat the same two queries, so that their history is always the same."""
    rounds = [probe.ask("noise", (probe.x, probe.other), (probe.x, probe.theta)) for _ in range(repeats)]
    noise, drifts = 0.0, False
    for readings in zip(*rounds, strict=True):
        y = torch.stack(readings)
        spread = y.std(0)
        variance, size = float(spread.square().mean()), float(y.square().mean().sqrt())
        probe.sigma = max(probe.sigma, float(spread.max()))
        noise = max(noise, variance**0.5 / size if size else 0.0)
        # Independent readings differ from their neighbours by √2 of their spread, those of a drift by far less.
        drifts |= float(y.diff(dim=0).square().mean()) < variance / 2
    if allowed is not None:
        holds = noise <= allowed + probe.tolerance / 100
        probe.bench.require(holds, "noise", f"{noise:.3g} of the output", f"at most {allowed:g}")
    if noise <= probe.tolerance / 100:
        probe.bench.note("noise", "none")
        return
    probe.repeats = repeats
    probe.bench.note("noise", f"{noise:.2g} of the output" + (", and it drifts" if drifts else ""))


def _purity(probe: Probe) -> None:
    """`f(x; θ)`, independent of earlier settings and rows."""
    claim = "answers do not depend on history"
    x, theta, third = probe.x, probe.theta, probe.moved(probe.all())
    other_rows = within(probe.spec, x.flip(0) / 2)
    text = ""
    for before in ((x, third), (other_rows, theta), (other_rows, third)):
        text = probe.alike(
            claim,
            lambda: probe.ask(claim, (x, probe.other), (x, theta))[-1],
            lambda before=before: probe.ask(claim, before, (x, theta))[-1],
            "f(x; θ) after another query",
        )
    probe.bench.note(claim, text)


def _batching(probe: Probe) -> None:
    """A round equals its queries one at a time, and rows together equal rows alone."""
    claim, alone = "a round equals its queries one at a time", "rows together equal rows alone"
    x, theta, other, half = probe.x, probe.theta, probe.other, len(probe.x) // 2
    pairs = [(x, theta), (x, other), (x[:half], theta), (x[half:], theta), (x[:1], other), (x.flip(0), other)]
    text = probe.alike(
        claim,
        lambda: torch.cat(probe.ask(claim, *pairs)),
        lambda: torch.cat([probe.read(*pair, claim) for pair in pairs]),
        "a reading",
    )
    probe.bench.note(claim, text)
    text = probe.alike(
        alone,
        lambda: probe.read(x, theta, alone),
        lambda: torch.cat([probe.read(row.unsqueeze(0), theta, alone) for row in x]),
        "a row",
    )
    probe.bench.note(alone, text)


def _verbs(probe: Probe) -> None:
    """`program` and `read` agree with `measure`."""
    claim, verbs = "program and read agree with measure", _Verbs(probe.device)

    def by_verbs() -> Tensor:
        # Ends at θ, where `measure` ended too: it may take the device to be there still.
        queries = [Query(probe.x, theta, Purpose.CALIBRATE) for theta in (probe.other, probe.theta)]
        return torch.cat(probe.bench.run(claim, ask(*queries), verbs))

    def by_measure() -> Tensor:
        return torch.cat(probe.ask(claim, (probe.x, probe.other), (probe.x, probe.theta)))

    by_measure()
    probe.bench.note(claim, probe.alike(claim, by_verbs, by_measure, "a reading"))


def _state(probe: Probe) -> None:
    """`programmed` is the setting written last, and `state_dict` restores the next answers."""
    last = probe.theta.clone()
    probe.ask("programmed", (probe.x, probe.other), (probe.x, last))
    last += 1  # the device must hold its own copy
    holds = same_setting(probe.device.programmed, probe.theta)
    probe.bench.settle(holds, "programmed", "the last setting" if holds else "another setting", "the last setting")

    def answers() -> Tensor:
        return torch.cat(probe.ask("state_dict", (probe.x, probe.other), (probe.x, probe.theta)))

    state = copy.deepcopy(probe.device.state_dict())
    first = answers()
    probe.device.load_state_dict(state)
    again = answers()
    worst = float((again - first).abs().max())
    bound = probe.tolerance * float(first.abs().max()) + 2 * SIGMAS * probe.sigma
    text = "exactly" if worst == 0 else f"within {worst:.2g}"
    probe.bench.settle(worst <= bound, "state_dict brings back the next answers", text, f"within {bound:.2g}")


def _limits(probe: Probe) -> None:
    claim = "takes settings at its limits"
    if not probe.spec.theta.limited:
        return
    for limit in probe.spec.theta.bounds(probe.theta):
        at = torch.where(limit.isfinite(), limit, probe.theta).expand_as(probe.theta).clone()
        probe.read(probe.x, at, claim)
    probe.bench.note(claim, "yes")


def _influence(probe: Probe) -> None:
    """Some parameter moves some output: otherwise the device cannot be trained."""
    claim = "parameters move outputs"
    change, bound = probe.difference(
        lambda: probe.read(probe.x, probe.other, claim), lambda: probe.read(probe.x, probe.theta, claim)
    )
    # All outputs together are a better test than the largest, whose noise sets the bound.
    size, least = float(change.square().mean().sqrt()), bound / 3
    probe.bench.settle(size > least, claim, f"by {size:.3g}", f"by more than {least:.2g}")


def _precision(probe: Probe) -> None:
    claim = "float64 rows are answered in float64"
    if not isinstance(probe.device, (Simulator, Wrapper)):
        return  # instruments have a precision of their own, and layers are in float32 by default
    probe.read(probe.x.double(), probe.other.double(), claim)  # θ itself may be held already, and not be written
    probe.bench.note(claim, "yes")


class _Verbs:
    """A device through `program` and `read` alone."""

    def __init__(self, device: Device) -> None:
        self._device = device

    @property
    def declaration(self) -> Declaration:
        return self._device.declaration

    @property
    def programmed(self) -> Tensor | None:
        return self._device.programmed

    def repeated(self) -> Count:
        return self._device.repeated()

    def measure(self, queries: Sequence[Query], /) -> list[Tensor]:
        readings = []
        for query in queries:
            self._device.program(query.theta)
            readings.append(self._device.read(query.x).clone())
        return readings
