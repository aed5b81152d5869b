"""The contract of surrogates holds for all of ours, and every liar is caught; the bench they are tried on."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

import blackprop as bp
from blackprop.core import Purpose, Query, run
from blackprop.devices import Diffraction, LightModulator
from blackprop.directions import Orthogonal, Rademacher
from blackprop.errors import ContractError
from blackprop.estimators import RandomDirections
from blackprop.surrogates import Frozen, LowRankRecursive, ProjectorSplitting, Reconstruction, Recursive, Streaming
from blackprop.testing import check_device, check_estimator, check_surrogate
from blackprop.testing._bench import together
from simulators import LINEAR


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
        (lambda: bp.surrogates.BasisUpdate(3, 6), {}),
        (Reconstruction, {}),
        (lambda: Reconstruction(3, every=7), {}),
        (lambda: Streaming(rule=Recursive()), {"batch": 8}),
        (lambda: Streaming(rule=Recursive(0.9)), {"device": LightModulator(16, 12), "batch": 8}),
        (lambda: Streaming(rule=LowRankRecursive(3)), {"batch": 8}),
        (lambda: Streaming(rule=LowRankRecursive(16)), {"device": LightModulator(16, 12), "batch": 8}),
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
    def grad_x(self, x, grad_y):
        noise = torch.randn(self.spec.d_out, self.spec.d_in, generator=torch.Generator().manual_seed(0))
        return (grad_y @ noise).reshape(x.shape)


class _Wrong(_Surrogate):
    def grad_x(self, x, grad_y):
        return 1.1 * super().grad_x(x, grad_y)


class _Sign(_Surrogate):
    def grad_x(self, x, grad_y):
        return super().grad_x(x, grad_y.sign())


class _WrongShape(_Surrogate):
    def grad_x(self, x, grad_y):
        return super().grad_x(x, grad_y)[:1]


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

    def grad_x(self, x, grad_y):
        return super().grad_x(x, grad_y) * self.gain


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
        self.__dict__.pop("spec", None)
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
