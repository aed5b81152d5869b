"""The candidate methods: the devices that each suits, its parts, its quality and the reason to choose it."""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass

from blackprop.core._declaration import Coupling, Declaration
from blackprop.core._metered import Measurable
from blackprop.errors import ArgumentError
from blackprop.planning import _methods as methods
from blackprop.planning import _physics as physics
from blackprop.planning._price import Price, dry_price
from blackprop.planning._workload import Workload
from blackprop.presets import Method
from blackprop.surrogates import Surrogate

FEW = 16  # parameters that as many perturbations tell apart
SMALL = 32  # parameters that are shifted one by one: at most four times the programmings of perturbations
WIDE = 64  # inputs from which half of the perturbations on twice the rows know as much

# The needs of candidates, in words.
MATRIX = "a linear device of vectors"
BLOCKS = "a block of parameters for each output"
OPAQUE = f"a device that is not both linear and of vectors, without {BLOCKS}"


class Quality(enum.IntEnum):
    """How well candidates train in equally many steps, by measurements (docs/queries.md, docs/field.md).

    Candidates of one quality train about equally well, and the plan chooses the cheapest of them. It chooses a lower
    quality only where the budget excludes the higher ones.
    """

    FROZEN = -1  # θ stays as it is
    SINGLE = 0  # one perturbation a step
    SAMPLED = 1  # 8 or 16 fresh perturbations a step: 0.7 to 0.93 of the gap where they are credited by output
    REMEMBERED = 2  # perturbations of a linear device, remembered
    HELD = 3  # derivatives of a linear device along directions that are held, as far as they are known to hold
    CREDITED = 4  # remembered, each output's own: 0.89 to 0.99 of the gap
    SPANNED = 5  # as many orthogonal perturbations as parameters: exact, where the noise is known
    ASKED = 6  # as good as the family of the device allows, or the subspace that is trained
    ROUGH = 7  # response curves of 4 settings: one harmonic
    COARSE = 8  # of 8 settings: three harmonics
    EXACT = 9  # gradients that are exact but for noise: 0.99 to 1.0 of the gap


@dataclass(frozen=True)
class Candidate:
    """One row of the table of methods.

    **Arguments:**

    - `name`: for messages, `blackprop compare --methods` and the tables of the documents.
    - `quality`: how well it trains; a `Quality`, or any integer beside them.
    - `applies`: whether it suits a device that declares this.
    - `make`: a new estimator and surrogate for such a device; called once for each layer.
    - `reason`: why it suits such a device, in words that are true of it.
    - `price`: its cost for a new method, a device and a batch size; by default found by dry runs.
    - `needs`: the words that follow "needs" where it does not apply; none by default.
    - `divide`: the method for a workload, in place of `make`, for candidates that divide an allowance
      between a start and its steps; None by default.

    >>> import blackprop as bp
    >>> frozen = bp.planning.Candidate(
    ...     "paper",
    ...     bp.planning.Quality.SAMPLED,
    ...     applies=lambda spec: spec.linear,
    ...     make=lambda spec: bp.presets.paper(rank=2, samples=4),
    ...     reason=lambda spec: "linear: the published method",
    ... )
    >>> bp.plan(bp.devices.MZIMesh(6, 4), 32, candidates=[frozen]).reason
    'linear: the published method'
    """

    name: str
    quality: int
    applies: Callable[[Declaration], bool]
    make: Callable[[Declaration], Method]
    reason: Callable[[Declaration], str]
    price: Callable[[Method, Measurable, int], Price] = dry_price
    needs: str = ""
    divide: Callable[[Declaration, Workload], Method] | None = None

    def why_not(self, spec: Declaration) -> str:
        """Why it does not apply to a device that declares this; empty where it applies."""
        if self.applies(spec):
            return ""
        return f"needs {self.needs}" if self.needs else "does not apply to such a device"

    def method(self, spec: Declaration, workload: Workload | None = None) -> Method:
        """A new estimator and surrogate, which one layer may have, for a `workload` where one is known."""
        made = self.make(spec) if self.divide is None or workload is None else self.divide(spec, workload)
        made = Method(*made)
        if not isinstance(made.surrogate, Surrogate):
            raise ArgumentError(f"`Candidate(make=...)` of {self.name!r} must make an estimator and a surrogate")
        return made


def _calibrated(settings: int, quality: Quality, *, more: bool = False) -> Candidate:
    added = ", or up to 48 where these do not explain the device," if more else ""
    return Candidate(
        f"calibrated-{settings}",
        quality,
        lambda spec: methods.is_matrix(spec) and spec.coupling is Coupling.ELEMENT,
        lambda spec: methods.calibrated(None if more else settings),
        lambda spec: (
            f"element coupling: {settings} settings{added} calibrate every response once, gradients then cost no query"
        ),
        needs=f"{MATRIX} with element coupling",
    )


def _remembered(
    name: str, quality: Quality, applies: Callable[[Declaration], bool], needs: str, **settings: int
) -> Candidate:
    def credited(spec: Declaration) -> bool:
        return quality is Quality.CREDITED

    def reason(spec: Declaration) -> str:
        count = methods.remembered(spec, credited(spec), **settings).count
        return (
            f"{_coupling(spec)}; perturbations are remembered, {count} new a step (best with `bp.optim.SignalScaled`)"
        )

    return Candidate(
        name,
        quality,
        applies,
        lambda spec: Method(methods.remembered(spec, credited(spec), **settings), methods.fitted(spec)),
        reason,
        needs=needs,
    )


def _perturbed(name: str, quality: Quality, count: int, *, credited: bool) -> Candidate:
    def reason(spec: Declaration) -> str:
        number = f"{count} random perturbation{'s' if count > 1 else ''} a step"
        return f"{_coupling(spec)}; {number}{_rows(spec)}"

    return Candidate(
        name,
        quality,
        lambda spec: methods.is_credited(spec) is credited,
        lambda spec: methods.perturbed(spec, count),
        reason,
        needs=f"{BLOCKS}" if credited else f"a device without {BLOCKS}",
    )


def _opaque(spec: Declaration) -> bool:
    """Whether the declaration has neither a linear law nor a coupling that can be used."""
    return not methods.is_matrix(spec) and not methods.is_credited(spec)


def _mixed(spec: Declaration) -> bool:
    """Whether the device is a matrix and any parameter may change any element."""
    return methods.is_matrix(spec) and not methods.is_credited(spec)


def _coupling(spec: Declaration) -> str:
    """The declared coupling and its use, in words."""
    if spec.coupling is Coupling.NONE:
        return "no coupling declared"
    kind = f"{spec.coupling.value} coupling"
    if not methods.is_credited(spec):
        return f"{kind}, but {spec.theta.size} parameters do not divide among {spec.d_out} outputs: not used"
    return f"{kind}: each output is credited to its own parameters"


def _rows(spec: Declaration) -> str:
    """The rows of the queries, where they are not a few probes in place of the batch."""
    if methods.is_matrix(spec):
        return ""
    if spec.linear:
        return ", linear but not of vectors: on the whole batch"
    return ", not declared linear: on the whole batch, and fitted locally"


DECLARED: tuple[Candidate, ...] = (
    _calibrated(16, Quality.EXACT, more=True),
    Candidate(
        "in-situ",
        Quality.EXACT,
        lambda spec: _mixed(spec) and physics.is_tapped(spec),
        physics.in_situ,
        lambda spec: (
            f"power taps at all {spec.theta.size} parameters: in-situ backpropagation, 3 rows for each of 8 pairs"
            + physics.backwards(spec)
        ),
        needs=f"{MATRIX} with power taps at its parameters, whose field is read backwards",
    ),
    Candidate(
        "parameter-shift",
        Quality.EXACT,
        lambda spec: _opaque(spec) and spec.theta.harmonics == 1 and spec.theta.size <= SMALL,
        methods.shifted,
        lambda spec: (
            f"{_coupling(spec)}, one harmonic a parameter: two shifts of each of {spec.theta.size} give the exact "
            f"gradient{_rows(spec)}"
        ),
        needs=f"{OPAQUE}, of one harmonic and at most {SMALL} parameters",
    ),
    Candidate(
        "complete-set",
        Quality.SPANNED,
        lambda spec: not methods.is_matrix(spec) and methods.each(spec) <= FEW,
        methods.complete_set,
        lambda spec: (
            f"{_coupling(spec)}, few parameters: orthogonal perturbations span all {methods.each(spec)} of "
            f"{'an output' if methods.is_credited(spec) else 'them'}{_rows(spec)}"
        ),
        needs=f"a device that is not both linear and of vectors, of at most {FEW} parameters, or {FEW} an output",
    ),
    _calibrated(8, Quality.COARSE),
    _calibrated(4, Quality.ROUGH),
    _remembered(
        "remembered-by-output",
        Quality.CREDITED,
        lambda spec: methods.is_matrix(spec) and methods.is_credited(spec),
        f"{MATRIX} with {BLOCKS}",
    ),
    _remembered("remembered", Quality.REMEMBERED, _mixed, f"{MATRIX} without {BLOCKS}"),
    _remembered(
        "remembered-4",
        Quality.REMEMBERED,
        lambda spec: _mixed(spec) and spec.d_in >= WIDE,
        f"{MATRIX} of at least {WIDE} inputs without {BLOCKS}",
        count=4,
        rank=64,
    ),
    Candidate(
        "reciprocal",
        Quality.REMEMBERED,
        lambda spec: _mixed(spec) and physics.reads_back(spec),
        physics.reciprocal,
        lambda spec: (
            f"{_coupling(spec)}; perturbations are remembered, {methods.remembered(spec).count} new a step; the input "
            "gradient is read backwards, exactly and without calibration"
        ),
        needs=f"{MATRIX} that is read backwards, without {BLOCKS}",
    ),
    _perturbed("perturbed-by-output", Quality.SAMPLED, 8, credited=True),
    _perturbed("perturbed", Quality.SAMPLED, 16, credited=False),
    _perturbed("perturbed-by-output-1", Quality.SINGLE, 1, credited=True),
    _perturbed("perturbed-1", Quality.SINGLE, 1, credited=False),
    Candidate(
        "frozen",
        Quality.FROZEN,
        lambda spec: True,
        methods.frozen,
        lambda spec: "theta stays as it is, and what surrounds the device is trained through it",
        divide=methods.frozen_within,
    ),
)
