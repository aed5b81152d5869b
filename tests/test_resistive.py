"""The nonlinear resistive network: it settles where its currents balance, and learns from how it settles."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import blackprop as bp
from blackprop.core import Ledger, Purpose, Query, ask, metered, run
from blackprop.devices import Branches, ExponentialDiodes, IdealDiodes, ResistiveNetwork, doubled, paired
from blackprop.errors import ArgumentError, IncompatibleError, LimitError, ReadingError, ShapeError
from blackprop.estimators import EquilibriumPropagation
from support import draw, make_layer

EXACT = IdealDiodes(tolerance=1e-13, sweeps=2000)
SOFT = ExponentialDiodes(saturation=0.1, thermal=0.2, tolerance=1e-12)
NETWORKS = [
    ResistiveNetwork(5, 3),
    ResistiveNetwork(5, 6, 3),
    ResistiveNetwork(5, 6, 5, 4, amplification=3.0),
    ResistiveNetwork(4, 5, 2, diodes=ExponentialDiodes(1e-2, 0.1)),
    ResistiveNetwork(4, 5, 4, 2, diodes=ExponentialDiodes(1e-6, 0.025), amplification=2.0),
]


def setting(network: ResistiveNetwork, seed: int = 0) -> Tensor:
    return draw(network.theta.size, seed=seed, dtype=torch.float64).abs()


def rows(network: ResistiveNetwork, count: int = 6, seed: int = 1) -> Tensor:
    return 2 * draw(count, network.branches.row, seed=seed, dtype=torch.float64)


def surplus(network: ResistiveNetwork, x: Tensor, theta: Tensor, y: Tensor) -> list[Tensor]:
    """The current into each node that its resistors leave over, written out branch by branch."""
    branches, gain = network.branches, network.branches.amplification
    volts = [x[:, : branches.sizes[0]], *branches.layers(y)]
    currents, left = branches.layers(x[:, branches.sizes[0] :]), []
    conductances = branches.conductances(theta)
    for layer, v in enumerate(volts[1:], start=1):
        before = volts[layer - 1] * (gain if layer > 1 else 1)
        flow = ((before.unsqueeze(2) - v.unsqueeze(1)) * conductances[layer - 1]).sum(1)
        if layer < len(volts) - 1:
            drop = volts[layer + 1].unsqueeze(1) - gain * v.unsqueeze(2)
            flow = flow + (drop * conductances[layer]).sum(2) / gain
        left.append(flow + currents[layer - 1] - network.leak * v)
    return left


@pytest.mark.parametrize("network", NETWORKS, ids=str)
def test_the_network_keeps_the_contract_of_devices(network):
    bp.testing.check_device(network)


@pytest.mark.parametrize("amplification", [1.0, 3.0])
def test_ideal_diodes_are_at_the_optimum_of_the_quadratic_program(amplification):
    """Feasible, balanced where a diode blocks, and pressed against it where it conducts: the conditions of optimality
    of a convex function, so there is no other solution.
    """
    network = ResistiveNetwork(5, 8, 6, 4, diodes=EXACT, amplification=amplification)
    x, theta = rows(network, 50), setting(network)
    y = network.transfer(x, theta)
    *hidden, outputs = surplus(network, x, theta, y)
    assert float(outputs.abs().max()) < 1e-11
    held = 0
    for volts, left in zip(network.branches.layers(y), hidden, strict=False):
        side = torch.ones(volts.shape[1], dtype=volts.dtype)
        side[volts.shape[1] // 2 :] = -1
        assert bool((side * volts >= 0).all())
        assert float((volts * left).abs().max()) < 1e-11
        assert float((side * left).max()) < 1e-11
        held += int((volts == 0).sum())
    assert 0 < held < 50 * 14


@pytest.mark.parametrize("amplification", [1.0, 2.0])
def test_exponential_diodes_balance_all_currents(amplification):
    diodes = ExponentialDiodes(saturation=1e-6, thermal=0.025, tolerance=1e-10)
    network = ResistiveNetwork(5, 8, 6, 4, diodes=diodes, amplification=amplification)
    x, theta = rows(network, 50), setting(network)
    y = network.transfer(x, theta)
    *hidden, outputs = surplus(network, x, theta, y)
    assert float(outputs.abs().max()) < 1e-9
    carried = 0.0
    for volts, left in zip(network.branches.layers(y), hidden, strict=False):
        half = volts.shape[1] // 2
        up = 1e-6 * torch.expm1(-volts[:, :half] / 0.025)
        down = -1e-6 * torch.expm1(volts[:, half:] / 0.025)
        diode = torch.cat([up, down], 1)
        assert float((left + diode).abs().max()) < 1e-9
        carried = max(carried, float(diode.abs().max()))
    assert carried > 1  # they do conduct


def test_exponential_diodes_turn_ideal_as_the_thermal_voltage_falls():
    theta = setting(ResistiveNetwork(5, 8, 4))
    x = rows(ResistiveNetwork(5, 8, 4), 20)
    ideal = ResistiveNetwork(5, 8, 4, diodes=EXACT).transfer(x, theta)
    off = [
        float((ResistiveNetwork(5, 8, 4, diodes=ExponentialDiodes(1e-6, v, 1e-9)).transfer(x, theta) - ideal).norm())
        for v in (0.02, 0.01, 0.005)
    ]
    assert off[0] > 1.7 * off[1] > 1.7**2 * off[2] > 0


def test_a_divider_reads_the_weighted_mean():
    network = ResistiveNetwork(2, 1, leak=1e-12)
    y = network.transfer(torch.tensor([[1.0, -1.0, 0.0]]), torch.tensor([3.0, 1.0]))
    assert float(y) == pytest.approx(0.5)


def test_many_inputs_settle_in_a_few_sweeps():
    network = ResistiveNetwork(200, 30, 5)
    theta, x = network.theta.draw(torch.Generator().manual_seed(0)), rows(network).float()
    volts, residual = IdealDiodes(tolerance=1e-6).sweep(network._circuit(x, theta), 6)
    assert residual <= 1e-6
    assert len(volts) == 2


def test_settings_are_stacked():
    network = ResistiveNetwork(4, 5, 3, 2, diodes=EXACT)
    x, thetas = rows(network), torch.stack([setting(network, seed) for seed in range(3)])
    together = network.transfer(x, thetas)
    torch.testing.assert_close(together, torch.stack([network.transfer(x, theta) for theta in thetas]))
    soft = ResistiveNetwork(4, 5, 3, 2, diodes=SOFT)
    torch.testing.assert_close(
        soft.transfer(x.expand(3, -1, -1), thetas), torch.stack([soft.transfer(x, theta) for theta in thetas])
    )


@pytest.mark.parametrize(
    "diodes", [IdealDiodes(tolerance=1e-9, sweeps=3), ExponentialDiodes(1e-6, 1e-3, 1e-9, steps=1)]
)
def test_a_relaxation_that_does_not_converge_says_so(diodes):
    network = ResistiveNetwork(3, 6, 6, 4, diodes=diodes)
    with pytest.raises(ReadingError, match=r"did not settle: after \d+ (sweeps|steps) .* change by [\d.e-]+ of the"):
        run(ask(Query(rows(network), setting(network), Purpose.FORWARD)), metered(network, Ledger()))


def test_a_negative_conductance_is_refused_before_anything_is_asked():
    network, ledger = ResistiveNetwork(3, 4, 2), Ledger()
    theta = setting(network)
    theta[7] = -0.1
    with pytest.raises(LimitError, match=r"theta\[7\] = -0.1"):
        run(ask(Query(rows(network), theta, Purpose.FORWARD)), metered(network, ledger))
    assert ledger.total_rows == 0


def test_bad_arguments_are_refused():
    for make in (
        lambda: ResistiveNetwork(3),
        lambda: ResistiveNetwork(3, 0, 2),
        lambda: ResistiveNetwork(3, 2, amplification=0.0),
        lambda: ResistiveNetwork(3, 2, leak=0.0),
        lambda: ResistiveNetwork(3, 2, diodes=IdealDiodes),  # pyright: ignore[reportArgumentType]
        lambda: IdealDiodes(tolerance=0.0),
        lambda: IdealDiodes(sweeps=0),
        lambda: ExponentialDiodes(thermal=-1.0),
        lambda: EquilibriumPropagation(step=0.0),
    ):
        with pytest.raises(ArgumentError):
            make()
    with pytest.raises(ShapeError, match="3 sources, got 4"):
        Branches((3, 2)).rows(draw(5, 4))
    with pytest.raises(ShapeError, match="even"):
        paired(draw(5, 3))


def test_weights_of_both_signs():
    assert doubled(torch.tensor([[1.0, 2.0]]), 3.0).tolist() == [[3, 6, -3, -6]]
    assert paired(torch.tensor([[5.0, 7.0, 1.0, 2.0]])).tolist() == [[4, 5]]


def test_a_device_whose_nodes_cannot_be_read_is_refused():
    with pytest.raises(IncompatibleError, match="does not declare the capability `nudges`; it declares: read_back"):
        make_layer(bp.devices.LightModulator(6, 4), method=(EquilibriumPropagation(), bp.surrogates.Streaming()))


@pytest.mark.parametrize("wrap", [bp.devices.Noisy, bp.lab.Retrying, bp.lab.Checked], ids=lambda wrap: wrap.__name__)
def test_nudges_survive_a_wrapper_and_are_counted_by_name(wrap):
    network, x = ResistiveNetwork(4, 6, 3), draw(5, 13)
    layer, plain = (bp.PhysicalLayer(each, EquilibriumPropagation()) for each in (wrap(network), network))
    with torch.no_grad():
        plain.theta.copy_(layer.theta)
    for each in (layer, plain):
        each(x).square().sum().backward()
    torch.testing.assert_close(layer.theta.grad, plain.theta.grad)
    assert layer.ledger.actions == {"nudges": 10}
    assert layer.ledger.rows[bp.Purpose.PARAMETER] == 10


def test_nudges_do_not_survive_converters_of_the_inputs():
    device = bp.devices.Quantised(ResistiveNetwork(4, 6, 3), input_bits=8, input_range=(-1, 1))
    with pytest.raises(IncompatibleError, match="nudges"):
        bp.PhysicalLayer(device, EquilibriumPropagation(), bp.surrogates.Frozen())


@pytest.mark.parametrize("centred", [True, False])
@pytest.mark.parametrize(
    "network",
    [
        ResistiveNetwork(4, 6, 3, diodes=SOFT),
        ResistiveNetwork(4, 6, 5, 3, diodes=SOFT, amplification=2.0),
        ResistiveNetwork(4, 6, 3, diodes=EXACT),
    ],
    ids=str,
)
def test_the_estimator_keeps_its_declarations(network, centred):
    report = bp.testing.check_estimator(EquilibriumPropagation(centred=centred), device=network, step=0.1)
    slope = dict(report.claims)[f"bias order, {network}"]
    if centred and network.diodes is EXACT:
        assert "no bias" in slope  # voltages are linear in a current until a diode switches
    else:
        assert float(slope) == pytest.approx(2 if centred else 1, rel=0.1)


def estimate(network: ResistiveNetwork, estimator: EquilibriumPropagation, x: Tensor, theta: Tensor, target: Tensor):
    """Both gradients of ½ Σ (V_out − target)²."""
    (y,) = network.measure([Query(x, theta, Purpose.FORWARD)])
    grad_y = torch.zeros_like(y)
    grad_y[:, : target.shape[1]] = network.branches.outputs(y) - target
    return run(estimator.gradients(x, theta, y, grad_y, network.declaration), network.measure)


def loss(network: ResistiveNetwork, x: Tensor, theta: Tensor, target: Tensor) -> Tensor:
    return 0.5 * (network.branches.outputs(network.transfer(x, theta)) - target).square().sum()


@pytest.mark.parametrize("amplification", [1.0, 2.0])
@pytest.mark.parametrize("diodes", [EXACT, SOFT], ids=["ideal", "exponential"])
def test_both_gradients_equal_finite_differences_of_the_loss(diodes, amplification):
    network = ResistiveNetwork(4, 6, 5, 3, diodes=diodes, amplification=amplification)
    x, theta, target = rows(network), setting(network), draw(6, 3, seed=3, dtype=torch.float64)
    grad, grad_x = estimate(network, EquilibriumPropagation(1e-4), x, theta, target)
    h = 1e-6
    with torch.no_grad():
        for index in range(0, network.theta.size, 5):
            shift = torch.zeros_like(theta).index_fill(0, torch.tensor(index), h)
            slope = (loss(network, x, theta + shift, target) - loss(network, x, theta - shift, target)) / (2 * h)
            assert float(grad[index]) == pytest.approx(float(slope), rel=1e-5, abs=1e-6)
        for index in range(0, x.numel(), 7):
            shift = torch.zeros_like(x).flatten().index_fill(0, torch.tensor(index), h).view_as(x)
            slope = (loss(network, x + shift, theta, target) - loss(network, x - shift, theta, target)) / (2 * h)
            assert float(grad_x.flatten()[index]) == pytest.approx(float(slope), rel=1e-5, abs=1e-6)


def test_the_local_rule_before_k_amplifiers_is_too_small_by_the_gain_to_the_2k():
    network = ResistiveNetwork(4, 6, 5, 3, diodes=EXACT, amplification=4.0)
    x, theta, target = rows(network), setting(network), draw(6, 3, seed=3, dtype=torch.float64)
    grad, _ = estimate(network, EquilibriumPropagation(1e-4), x, theta, target)
    leaf = theta.clone().requires_grad_()
    (truth,) = torch.autograd.grad(loss(network, x, leaf, target), leaf)
    torch.testing.assert_close(grad, truth, rtol=1e-6, atol=1e-9)
    # The rule without the factor, from the voltage drops of the two nudged readings themselves.
    (y,) = network.measure([Query(x, theta, Purpose.FORWARD)])
    currents = torch.zeros_like(y)
    currents[:, :3] = -1e-4 * (network.branches.outputs(y) - target)
    sources = network.branches.sizes[0]
    readings = [
        network.transfer(torch.cat([x[:, :sources], x[:, sources:] + sign * currents], 1), theta) for sign in (1, -1)
    ]
    for layer, true in enumerate(network.branches.conductances(truth)):
        drops = []
        for reading in readings:
            volts = [x[:, :sources], *network.branches.layers(reading)]
            arriving = volts[layer] * (4.0 if layer else 1.0)
            drops.append((arriving.unsqueeze(2) - volts[layer + 1].unsqueeze(1)).square().sum(0))
        plain = (drops[0] - drops[1]) / (4 * 1e-4)
        torch.testing.assert_close(plain * 4.0 ** (2 * (2 - layer)), true, rtol=1e-5, atol=1e-8)


def test_a_layer_learns_by_nudges_and_pays_for_rows_alone():
    network = ResistiveNetwork(4, 12, 2)
    layer = bp.PhysicalLayer(network, EquilibriumPropagation(step=16.0), generator=torch.Generator().manual_seed(0))
    layer.gain.requires_grad_(False)
    optimizer = torch.optim.SGD([layer.theta], lr=0.05)
    x = torch.tensor([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]]).repeat(4, 1) * 2 - 1
    labels = (x[:, 0] * x[:, 1] > 0).long()
    sources = network.branches.rows(doubled(x, 4.0))

    def step() -> float:
        error = network.branches.outputs(layer(sources)) - torch.nn.functional.one_hot(labels, 2)
        optimizer.zero_grad()
        error.square().sum(1).mean().backward()
        optimizer.step()
        return float(error.detach().square().sum(1).mean())

    first = step()
    for _ in range(200):
        last = step()
    assert last < 0.1 * first  # XOR: no linear answer is better than half
    assert layer.ledger.rows[Purpose.PARAMETER] == 2 * layer.ledger.rows[Purpose.FORWARD]
    assert layer.ledger.programmings[Purpose.PARAMETER] == 0


def test_a_zero_gradient_asks_nothing():
    network = ResistiveNetwork(4, 6, 2)
    layer = bp.PhysicalLayer(network, EquilibriumPropagation())
    (0 * layer(network.branches.rows(draw(3, 4)))).sum().backward()
    assert layer.ledger.rows[Purpose.PARAMETER] == 0
