"""The contract tests pass on every part of the library, and fail on every liar."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor

import blackprop as bp
from blackprop.devices import Diffraction
from blackprop.directions import Gaussian, Orthogonal, Rademacher, Sphere
from blackprop.errors import ArgumentError, ContractError, IncompatibleError
from blackprop.estimators import BatchContraction, Central, Coordinate, Forward, Oracle, RandomDirections
from blackprop.query import Purpose, Query, run
from blackprop.surrogates import Frozen, ProjectorSplitting, Reconstruction
from blackprop.testing import check_device, check_estimator, check_surrogate
from blackprop.testing.bench import together
from support import Opaque

SIMULATORS = [
    bp.devices.Matrix(5, 4),
    bp.devices.LightModulator(5, 4),
    bp.devices.Microring(5, 4),
    bp.devices.LowRank(5, 4, rank=2),
    bp.devices.Resampling(5, 4),
    bp.devices.MZIMesh(3, 4),
    bp.devices.ThreeSplitterMesh(4, 3),
    bp.devices.Monarch(4, 3),
    Diffraction(9, 4),
    Diffraction(4, 4, double=True),
    Diffraction(4, 4, encoding=Diffraction.Encoding.PHASE),
    Diffraction(4, 9, encoding=Diffraction.Encoding.PHASE_AMPLITUDE),
]
LINEAR = [device for device in SIMULATORS if device.linear]


def _id(value: object) -> str:
    return str(value).replace("RandomDirections", "")


# Devices.


@pytest.mark.parametrize("device", SIMULATORS, ids=str)
def test_simulators_keep_their_contract(device):
    report = check_device(device)
    claims = dict(report.claims)
    assert claims["noise"] == "none"
    assert device.linear == claims["linear"].startswith("within")
    assert report.rows > 100
    assert str(report).count("\n") == len(report.claims)


@pytest.mark.parametrize(
    ("device", "options"),
    [
        (bp.devices.Noisy(bp.devices.LightModulator(5, 4), read=0.02), {}),
        (bp.devices.Noisy(bp.devices.Microring(5, 4), read=0.01, proportional=0.1), {}),
        (bp.devices.Noisy(Diffraction(9, 4), read=0.02), {}),
        (bp.devices.Drifting(bp.devices.LightModulator(5, 4), per_programming=0.01, initial=0.1), {}),
        (bp.devices.Drifting(bp.devices.Matrix(5, 4), per_root_second=0.01), {}),
        (
            bp.devices.Quantised(bp.devices.LightModulator(5, 4), input_bits=12, theta_bits=6, output_bits=12),
            {"tolerance": 0.02},
        ),
        (bp.devices.Noisy(bp.devices.Drifting(bp.devices.MZIMesh(3, 4), per_programming=0.001), read=0.01), {}),
        (Opaque(bp.devices.LowRank(5, 4, rank=2)), {}),
        (
            bp.devices.from_callable(
                lambda x, theta: torch.tanh(x * theta),
                in_shape=(2, 3),
                out_shape=(2, 3),
                theta_size=1,
                initial=lambda g: torch.rand(1, generator=g),
                low=-1.0,
                high=torch.tensor([2.0]),
            ),
            {},
        ),
    ],
    ids=str,
)
def test_wrappers_and_hardware_keep_their_contract(device, options):
    claims = dict(check_device(device, **options).claims)
    noisy = isinstance(device, (bp.devices.Noisy, bp.devices.Drifting))
    assert (claims["noise"] != "none") == noisy


def test_noise_is_measured():
    device = bp.devices.Noisy(bp.devices.Matrix(20, 20), proportional=0.1)
    assert float(dict(check_device(device, noise=0.2).claims)["noise"].split()[0]) == pytest.approx(0.1, rel=0.2)
    with pytest.raises(ContractError, match=r"noise: measured 0\.\d+ of the output, declared at most 0\.05"):
        check_device(device, noise=0.05)


def test_a_row_coupled_device_keeps_its_contract():
    class Gains(bp.Device):
        """`y_i = sin(θ_{i0} + θ_{i1} ⟨w_i, x⟩)`, with its own two numbers for every output."""

        def __init__(self):
            initial = lambda g: torch.rand(6, generator=g)  # noqa: E731
            super().__init__(4, 3, bp.ThetaSpec(6, initial), coupling=bp.Coupling.ROW)

        def program(self, theta, /):
            self.pairs = theta.reshape(3, 2).clone()

        def read(self, x, /):
            mixed = x @ torch.eye(4, 3, dtype=x.dtype)
            return torch.sin(self.pairs[:, 0] + self.pairs[:, 1] * mixed)

    assert "coupling ROW" in dict(check_device(Gains()).claims)


class _Liar(bp.Device):
    """A matrix, 5 → 4, that lies as it is told to."""

    def __init__(self, spec=None, **declared):
        spec = spec or bp.devices.Matrix(5, 4).theta
        super().__init__(5, 4, spec, **declared)
        self.matrix = torch.zeros(4, 5)

    def program(self, theta, /):
        self.matrix = theta.reshape(4, 5).clone()

    def read(self, x, /):
        return x @ self.matrix.mT


class _Curved(_Liar):
    def read(self, x, /):
        return torch.tanh(super().read(x))


class _Offset(_Liar):
    def read(self, x, /):
        return super().read(x) + 0.1


class _Transposed(_Liar):
    def program(self, theta, /):
        self.matrix = theta.reshape(5, 4).mT.contiguous()


class _Crosstalk(_Liar):
    def program(self, theta, /):
        super().program(theta)
        self.matrix[2, 1] += 0.05 * theta[13] ** 2


class _Columns(_Liar):
    """Every parameter of a column moves every output of it."""

    def program(self, theta, /):
        self.matrix = theta.reshape(4, 5).cumsum(0)


class _Overwrites(_Liar):
    def read(self, x, /):
        y = super().read(x)
        x.mul_(2)
        return y


class _Wraps(_Liar):
    def program(self, theta, /):
        theta.remainder_(0.1)
        super().program(theta)


class _BatchMean(_Liar):
    def read(self, x, /):
        y = super().read(x)
        return y - y.mean(0)


class _FirstSettingOnly(_Liar):
    def measure(self, queries, /):
        return super().measure([replace(query, theta=queries[0].theta) for query in queries])


class _Hysteresis(_Liar):
    def program(self, theta, /):
        self.matrix = (0.95 * theta + 0.05 * self.matrix.flatten()).reshape(4, 5)


class _Afterglow(_Liar):
    last = 0.0

    def read(self, x, /):
        y = super().read(x) + 0.01 * self.last
        self.last = float(x.mean())
        return y


class _Buffer(_Liar):
    """Hands out the same memory at every reading of this size."""

    def __init__(self):
        super().__init__()
        self.buffers = {}

    def read(self, x, /):
        return self.buffers.setdefault((len(x), x.dtype), x.new_zeros(len(x), 4)).copy_(super().read(x))


class _Double(_Liar):
    def read(self, x, /):
        return super().read(x).double()


class _Single(_Liar):
    """An instrument with a precision of its own: no lie."""

    def read(self, x, /):
        return x.float() @ self.matrix.float().mT


class _Dark(bp.Device):
    """Not linear, and dark where it starts."""

    def __init__(self):
        super().__init__(5, 5, 5, linear=True)

    def program(self, theta, /):
        self.setting = theta.clone()

    def read(self, x, /):
        return (x * self.setting).abs()


class _Half(_Liar):
    def read(self, x, /):
        return super().read(x)[: len(x) // 2]


class _NaN(_Liar):
    def read(self, x, /):
        return super().read(x).sqrt()


class _Graph(_Liar):
    def read(self, x, /):
        with torch.enable_grad():
            return super().read(x)


class _Verbs(_Liar):
    def measure(self, queries, /):
        return [1.01 * y for y in super().measure(queries)]


class _Forgets(_Liar):
    @property
    def programmed(self):
        return None


class _Oversized(_Liar):
    def program(self, theta, /):
        super().program(theta[:20])


class _Dead(_Liar):
    def program(self, theta, /):
        self.matrix = torch.ones(4, 5, dtype=theta.dtype)


class _Counts(bp.devices.Matrix):
    reads = 0

    def transfer(self, x, theta, /):
        self.reads += 1
        return super().transfer(x, theta) * (1 + 0.001 * self.reads)


class _Fussy(_Liar):
    def program(self, theta, /):
        if bool((theta >= 1).any()):
            raise bp.errors.LimitError("the instrument refuses 1")
        super().program(theta)


ELEMENT = {"linear": True, "coupling": bp.Coupling.ELEMENT}
ROW = {"linear": True, "coupling": bp.Coupling.ROW}
SINE = bp.ThetaSpec(20, lambda g: torch.rand(20, generator=g), period=math.pi)


@pytest.mark.parametrize(
    ("device", "message"),
    [
        (_Curved(linear=True), "linear: measured off by"),
        (_Offset(linear=True), "linear: measured off by"),
        (_Transposed(**ELEMENT), r"coupling ELEMENT: measured that parameter \d+ moves A\[\d, \d\]"),
        (_Crosstalk(**ELEMENT), r"coupling ELEMENT: measured that parameter 13 moves A\[2, 1\] \(output 2\)"),
        (
            _Oversized(bp.ThetaSpec(40, lambda g: torch.rand(40, generator=g)), **ELEMENT),
            "coupling ELEMENT: measured linear=True, P = 40",
        ),
        (_Curved(coupling=bp.Coupling.ELEMENT), "coupling ELEMENT: measured linear=False"),
        (_Columns(**ROW), r"coupling ROW: measured that parameter \d+ moves output \d"),
        (_Transposed(**ROW), r"coupling ROW: measured that parameter \d+ moves output \d"),
        (_Liar(SINE), r"period 3\.142: measured the answer with parameter \d+"),
        (_Overwrites(), "leaves the rows as sent"),
        (_Wraps(), "leaves the setting as sent"),
        (_BatchMean(), "one at a time|rows alone"),
        (_FirstSettingOnly(), "history|one at a time|parameters"),
        (_Hysteresis(), "do not depend on history"),
        (_Afterglow(), "do not depend on history"),
        (_Double(), r"readings: the calibrate query .* returned torch\.float64"),
        (_Dark(), "linear: measured off by"),
        (_Half(), "returned shape"),
        (_NaN(), "not finite"),
        (_Verbs(), "program and read agree"),
        (_Forgets(), "programmed: measured another setting"),
        (_Dead(), "parameters move outputs"),
        (_Counts(5, 4), "noise: measured .* declared at most 0"),
        (_Liar(bp.ThetaSpec(20, lambda g: torch.rand(20, generator=g), low=0.5)), "initial setting: theta"),
        (_Liar(bp.ThetaSpec(20, lambda g: torch.rand(20))), "initial setting: measured another one"),
        (_Fussy(bp.ThetaSpec(20, lambda g: torch.rand(20, generator=g) / 2, low=0.0, high=1.0)), "at its limits"),
    ],
    ids=lambda value: type(value).__name__.strip("_") if isinstance(value, bp.Device) else "",
)
def test_lying_devices_are_caught(device, message):
    with pytest.raises(ContractError, match=message):
        check_device(device)


def test_an_honest_matrix_is_no_liar():
    check_device(_Liar(**ELEMENT))
    check_device(_Liar(**ROW))


def test_a_linear_device_that_says_nothing_gets_a_hint():
    assert "looks linear" in dict(check_device(_Liar()).claims)["linear"]
    assert "looks linear" not in dict(check_device(_Curved()).claims)["linear"]


# Estimators.

FAMILIES = [Gaussian(), Rademacher(), Sphere(), Orthogonal()]
RANDOM = [
    RandomDirections(directions=family, difference=difference, **more)
    for family in FAMILIES
    for difference in (Forward(), Central())
    for more in ({}, {"contraction": BatchContraction()}, {"fraction": 0.5})
]
EXACT = [
    Coordinate(),
    Coordinate(difference=Forward()),
    Coordinate(contraction=BatchContraction()),
    Oracle(),
]


@pytest.mark.parametrize("estimator", [*RANDOM, *EXACT], ids=_id)
def test_estimators_keep_their_contract(estimator):
    report = check_estimator(estimator)
    claims = dict(report.claims)
    orders = [text for claim, text in report.claims if claim.startswith("bias order") and "no bias" not in text]
    if estimator.bias_order is not None:
        assert orders
        assert all(float(text) == pytest.approx(estimator.bias_order, rel=0.1) for text in orders)
    if isinstance(estimator, RandomDirections):
        slope, _, law = claims["variance over count, slope"].strip(")").split()
        assert float(slope) == pytest.approx(float(law), rel=0.1)
        if not isinstance(estimator.directions, Orthogonal):
            assert float(law) == -1


@pytest.mark.parametrize("device", SIMULATORS, ids=str)
@pytest.mark.parametrize(
    "estimator",
    [
        RandomDirections(),
        RandomDirections(directions=Rademacher(), difference=Central()),
        Coordinate(),
        Coordinate(difference=Forward()),
        Oracle(),
    ],
    ids=_id,
)
def test_the_mean_is_the_gradient_on_every_simulator(estimator, device):
    check_estimator(estimator, device=device, samples=800)


@pytest.mark.parametrize("device", SIMULATORS, ids=str)
def test_a_spanning_set_is_the_gradient_on_every_simulator(device):
    estimator = RandomDirections(device.theta.size, directions=Orthogonal(), difference=Central())
    claims = dict(check_estimator(estimator, device=device, samples=20).claims)
    assert float(claims[f"mean, {device}"].split()[-1]) < 1e-6


@dataclass(frozen=True)
class _Changed(RandomDirections):
    """Random directions, changed on their way out."""

    def change(self, grad, generator):
        raise NotImplementedError

    def vjp(self, x, theta, y, grad_y, spec, generator):
        grad = yield from super().vjp(x, theta, y, grad_y, spec, generator)
        return self.change(grad, generator)


@dataclass(frozen=True)
class _Noise(_Changed):
    def change(self, grad, generator):
        return torch.randn(grad.shape, generator=generator, dtype=grad.dtype) * grad.norm()


@dataclass(frozen=True)
class _Scaled(_Changed):
    def change(self, grad, generator):
        return 1.2 * grad


@dataclass(frozen=True)
class _Biased(_Changed):
    def change(self, grad, generator):
        return grad + 0.3 * grad.norm() * torch.ones_like(grad) / math.sqrt(len(grad))


@dataclass(frozen=True)
class _Noisier(_Changed):
    def change(self, grad, generator):
        return grad * (1 + 0.7 * torch.randn((), generator=generator, dtype=grad.dtype))


@dataclass(frozen=True)
class _GlobalStream(_Changed):
    def change(self, grad, generator):
        return grad * (1 + 1e-9 * torch.rand((), dtype=grad.dtype))


@dataclass(frozen=True)
class _OwnStream(_Changed):
    def change(self, grad, generator):
        stream = torch.Generator()
        stream.seed()
        return grad * (1 + 1e-6 * torch.rand((), dtype=grad.dtype, generator=stream))


@dataclass(frozen=True)
class _Overwriting(_Changed):
    def vjp(self, x, theta, y, grad_y, spec, generator):
        grad_y.mul_(1.01)
        return (yield from super().vjp(x, theta, y, grad_y, spec, generator))

    def change(self, grad, generator):
        return grad


@dataclass(frozen=True)
class _WrongLaw(RandomDirections):
    """Claims the law of another family."""

    def relative_variance(self, size):
        return Rademacher().relative_variance(self.count, size)


@dataclass(frozen=True)
class _WrongRate(RandomDirections):
    """Claims that more directions help more than they do; true at 1."""

    def relative_variance(self, size):
        return super().relative_variance(size) / self.count**0.2


@dataclass(frozen=True)
class _WrongOrder(RandomDirections):
    @property
    def bias_order(self):
        return 2


@dataclass(frozen=True)
class _ClaimsNoBias(RandomDirections):
    """Differences with a coarse step of their own, and no bias declared."""

    @property
    def bias_order(self):
        return None

    def vjp(self, x, theta, y, grad_y, spec, generator):
        coarse = RandomDirections(self.count, 1.0, self.directions)
        return coarse.vjp(x, theta, y, grad_y, spec, generator)


@dataclass(frozen=True)
class _Peeks(RandomDirections):
    """Differentiates the simulator where it can."""

    def vjp(self, x, theta, y, grad_y, spec, generator):
        (base,) = yield [Query(x, theta, Purpose.PARAMETER)]
        if spec.oracle is None:
            return torch.zeros_like(theta) + base.sum()
        return (yield from Oracle().vjp(x, theta, y, grad_y, spec, generator))


@dataclass(frozen=True)
class _Trespasses(RandomDirections):
    """Knows no limits."""

    def vjp(self, x, theta, y, grad_y, spec, generator):
        free = replace(spec, theta=bp.ThetaSpec(spec.theta.size))
        return super().vjp(x, theta, y, grad_y, free, generator)


@dataclass(frozen=True)
class _Mislabels(RandomDirections):
    def vjp(self, x, theta, y, grad_y, spec, generator):
        yield [Query(x, theta, Purpose.EVALUATE)]
        return (yield from super().vjp(x, theta, y, grad_y, spec, generator))


@dataclass(frozen=True)
class _HidesItsPrice(RandomDirections):
    """Asks twice as much when the answers are not random."""

    def vjp(self, x, theta, y, grad_y, spec, generator):
        (base,) = yield [Query(x, theta, Purpose.PARAMETER)]
        if torch.allclose(base, y):
            yield [Query(x, theta, Purpose.PARAMETER)]
        return (yield from super().vjp(x, theta, y, grad_y, spec, generator))


@pytest.mark.parametrize(
    ("estimator", "message"),
    [
        (_Noise(), "mean, .* measured"),
        (_Scaled(), r"mean, .* measured 1\.\d+ of the true gradient"),
        (_Biased(), "mean, .* measured"),
        (_Noisier(), r"relative variance, count \d+: measured"),
        (_WrongLaw(), "relative variance, count 1: measured"),
        (_WrongRate(), "relative variance, count 1?[46]: measured"),
        (_WrongOrder(), r"bias order, .* measured (0\.9|1\.0)\d+, declared 2"),
        (_ClaimsNoBias(), "mean, .* measured|stays within limits"),
        (_GlobalStream(), "draws from the generator alone, .* it moved the global stream of torch"),
        (_OwnStream(), "repeats at the same seed"),
        (_Overwriting(), "leaves its arguments as given"),
        (_Peeks(), "needs queries alone"),
        (_Trespasses(), "within limits, .* outside the device's limits"),
        (_Mislabels(), "purpose of its queries: measured {'evaluate'}"),
        (_HidesItsPrice(), "price, .* measured 60 rows, .* declared 55 rows"),
    ],
    ids=lambda value: type(value).__name__.strip("_") if isinstance(value, RandomDirections) else "",
)
def test_lying_estimators_are_caught(estimator, message):
    with pytest.raises(ContractError, match=message):
        check_estimator(estimator)


def test_estimators_are_compared_on_simulators_they_take():
    with pytest.raises(ArgumentError, match="needs a simulator"):
        check_estimator(Coordinate(), device=Opaque(bp.devices.Matrix(3, 2)))
    with pytest.raises(IncompatibleError, match="linear"):
        check_estimator(Coordinate(contraction=BatchContraction()), device=Diffraction(4, 4))


# Surrogates.


def _span(device):
    """A rank that misses nothing of the device, and as many samples as make the integrator exact."""
    return {"rank": min(device.declaration.d_in, device.declaration.d_out), "samples": device.declaration.d_in}


@pytest.mark.parametrize(
    ("factory", "options"),
    [
        (ProjectorSplitting, {}),
        (lambda: ProjectorSplitting(3, 16, probes=Orthogonal()), {}),
        (lambda: ProjectorSplitting(1, 30, probes=Rademacher()), {}),
        (lambda: ProjectorSplitting(3, 1, rebuild_every=5), {}),
        (Reconstruction, {}),
        (lambda: Reconstruction(3, every=7), {}),
        (bp.surrogates.Oracle, {}),
        (Frozen, {"tracks": False}),
        (bp.surrogates.Oracle, {"device": Diffraction(9, 4)}),
        (lambda: ProjectorSplitting(2, 2, treat_as_linear=True), {"device": Diffraction(9, 4), "tracks": False}),
    ],
)
def test_surrogates_keep_their_contract(factory, options):
    check_surrogate(factory, **options)


@pytest.mark.parametrize("device", LINEAR, ids=str)
@pytest.mark.parametrize(
    "make",
    [
        lambda d: ProjectorSplitting(**_span(d), probes=Orthogonal()),
        lambda d: Reconstruction(_span(d)["rank"]),
        lambda d: bp.surrogates.Oracle(),
    ],
    ids=["ProjectorSplitting", "Reconstruction", "Oracle"],
)
def test_surrogates_follow_every_linear_simulator(make, device):
    check_surrogate(lambda: make(device), device=device)


class _Surrogate(Reconstruction):
    """Reads the device at both settings and rebuilds at the new one."""

    def __init__(self):
        super().__init__(3)

    def track(self, theta_old, theta_new, generator):
        unit = torch.eye(self.spec.d_in)
        (old,) = yield [self._query(unit, theta_old)]
        (new,) = yield [self._query(unit, theta_new)]
        self._learn(old, new)

    def _learn(self, old, new):
        u, s, v = torch.linalg.svd(new.mT, full_matrices=False)
        self._hold(u[:, : self.rank], s[: self.rank].diag(), v[: self.rank])


class _NoiseOut(_Surrogate):
    def vjp(self, x, grad_y):
        noise = torch.randn(self.spec.d_out, self.spec.d_in, generator=torch.Generator().manual_seed(0))
        return (grad_y @ noise).reshape(x.shape)


class _Wrong(_Surrogate):
    def vjp(self, x, grad_y):
        return 1.1 * super().vjp(x, grad_y)


class _Sign(_Surrogate):
    def vjp(self, x, grad_y):
        return super().vjp(x, grad_y.sign())


class _WrongShape(_Surrogate):
    def vjp(self, x, grad_y):
        return super().vjp(x, grad_y)[:1]


class _WrongOrderOfSettings(_Surrogate):
    def track(self, theta_old, theta_new, generator):
        return super().track(theta_new, theta_old, generator)


class _ThirdSetting(_Surrogate):
    def track(self, theta_old, theta_new, generator):
        yield [self._query(torch.eye(self.spec.d_in), (theta_old + theta_new) / 2)]
        yield from super().track(theta_old, theta_new, generator)


class _Torn(_Surrogate):
    def track(self, theta_old, theta_new, generator):
        unit = torch.eye(self.spec.d_in)
        (old,) = yield [self._query(unit, theta_old)]
        self.steps += 1
        (new,) = yield [self._query(unit, theta_new)]
        self._learn(old, new)


class _TornAtStart(_Surrogate):
    def start(self, theta, generator):
        self.S.fill_(1.0)
        yield from super().start(theta, generator)


class _Lags(_Surrogate):
    def _learn(self, old, new):
        del old, new


class _Attribute(_Surrogate):
    """Keeps a part of what it knows outside its buffers."""

    gain = 1.0

    def _learn(self, old, new):
        super()._learn(old, new)
        self.gain = 1 + float(new.norm())

    def vjp(self, x, grad_y):
        return super().vjp(x, grad_y) * self.gain


class _GlobalProbes(_Surrogate):
    def start(self, theta, generator):
        yield [self._query(torch.randn(1, self.spec.d_in), theta)]
        yield from super().start(theta, generator)


class _Unrepeatable(_Surrogate):
    def _learn(self, old, new):
        stream = torch.Generator()
        stream.seed()
        super()._learn(old, new + 1e-3 * torch.randn(new.shape, generator=stream))


class _PeekingSurrogate(_Surrogate):
    def _learn(self, old, new):
        super()._learn(old, new if self.spec.oracle is not None else 0 * new)


class _WrongPurpose(_Surrogate):
    def _query(self, x, theta):
        return replace(super()._query(x, theta), purpose=Purpose.FORWARD)


class _Promiscuous(_Surrogate):
    def bind(self, spec):
        self._spec = None
        super().bind(spec)


@pytest.mark.parametrize(
    ("factory", "message"),
    [
        (_NoiseOut, "right after start"),
        (_Wrong, "right after start: measured within 0.1"),
        (_Sign, "linear in the cotangent"),
        (_WrongShape, "gradient: measured"),
        (_WrongOrderOfSettings, "asks at the old setting first"),
        (_ThirdSetting, "third setting"),
        (_Torn, "track is all or nothing: measured another state when round 2 fails"),
        (_TornAtStart, "start is all or nothing: measured another state when round 1 fails"),
        (_Lags, "tracks over 50 changes: measured cosine"),
        (Frozen, "tracks over 50 changes: measured cosine"),
        (_Attribute, "state_dict is its whole state"),
        (_GlobalProbes, "start draws from the generator alone"),
        (_Unrepeatable, "repeats at the same seed"),
        (_PeekingSurrogate, "needs queries alone: measured another state"),
        (_WrongPurpose, "purpose of the queries"),
        (_Promiscuous, "binds once"),
    ],
    ids=lambda value: value.__name__.strip("_") if isinstance(value, type) else "",
)
def test_lying_surrogates_are_caught(factory, message):
    with pytest.raises(ContractError, match=message):
        check_surrogate(factory)


def test_an_honest_surrogate_is_no_liar():
    check_surrogate(_Surrogate)


# The bench.


def test_procedures_run_together_as_they_would_alone():
    def procedure(rounds: int):
        seen: list[Tensor] = []
        for i in range(rounds):
            seen += yield [Query(torch.full((1, 1), float(i)), torch.zeros(1), Purpose.CALIBRATE)] * (i + 1)
        return seen

    def measure(queries):
        sizes.append(len(queries))
        return [query.x + 1 for query in queries]

    sizes: list[int] = []
    assert run(together([procedure(n) for n in (2, 0, 3)]), measure) == [run(procedure(n), measure) for n in (2, 0, 3)]
    assert sizes[:3] == [2, 4, 3]


def test_checks_leave_the_global_streams_alone():
    before = torch.get_rng_state()
    check_device(bp.devices.LightModulator(5, 4))
    check_estimator(RandomDirections(), samples=50)
    check_surrogate(ProjectorSplitting)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_contract_error_is_an_assertion():
    with pytest.raises(AssertionError):
        check_device(_Curved(linear=True))
    assert issubclass(ContractError, bp.errors.BlackpropError)
    assert isinstance(check_device(_Liar()), bp.testing.Report)


@pytest.mark.parametrize("device", [_Buffer(), _Single(), _Graph()], ids=["buffer", "float32", "graph"])
def test_what_instruments_do_is_no_lie(device):
    """One acquisition buffer for every reading, a precision of one's own, a stray autograd graph."""
    assert "readings stay" in str(check_device(device))
