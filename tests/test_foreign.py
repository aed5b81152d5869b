"""Foreign simulators as devices: each fulfils its declaration, ends cleanly, and survives the end of the other side."""

from __future__ import annotations

import gc
import math
import os
import shutil
import signal
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import blackprop as bp
from blackprop.errors import ArgumentError, DeviceError, InDoubtError, ReadingError, UnreachableError
from blackprop.foreign import from_module, from_qnode, from_spice, from_subprocess

ECHO = """
import sys
for line in sys.stdin:
    numbers = [float(word) for word in line.split()]
    theta, x = numbers[:6], numbers[6:]
    print(*(sum(theta[3 * i + j] * x[j] for j in range(3)) for i in range(2)), flush=True)
"""
SIZES = {"in_shape": 3, "out_shape": 2, "theta_size": 6}


def program(text: str = ECHO) -> list[str]:
    return [sys.executable, "-c", text]


def child(device: bp.foreign.ProcessDevice) -> int:
    process = device._program._process
    assert process is not None
    return process.pid


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_a_module_is_a_black_box_of_its_parameters():
    module = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3))
    device = from_module(module, in_shape=4)
    assert device.theta.size == 43
    bp.testing.check_device(device)
    x = torch.randn(7, 4)
    device.program(device.theta.draw(torch.Generator()))
    assert torch.equal(device.read(x), module(x).detach())
    before = [p.clone() for p in module.parameters()]
    device.program(torch.zeros(43))
    assert not device.read(x).any()
    assert all(torch.equal(a, b) for a, b in zip(before, module.parameters(), strict=True))


def test_parameters_of_a_module_are_chosen_by_name():
    module = nn.Linear(4, 3)
    device = from_module(module, in_shape=4, parameters=["weight"], linear=False)
    assert device.theta.size == 12
    device.program(torch.zeros(12))
    assert torch.allclose(device.read(torch.randn(2, 4)), module.bias.detach().expand(2, 3))
    with pytest.raises(ArgumentError, match="weight, bias"):
        from_module(module, in_shape=4, parameters=["wieght"])
    with pytest.raises(ArgumentError, match="with parameters"):
        from_module(nn.Tanh(), in_shape=4)


def test_the_gradient_of_a_module_is_found_without_autograd():
    module = nn.Linear(4, 3, bias=False)
    device = from_module(module, in_shape=4, linear=True)
    layer = bp.PhysicalLayer(device, bp.estimators.Coordinate(1e-2), bp.surrogates.Streaming())
    x = torch.randn(6, 4)
    layer(x).square().sum().backward()
    module(x).square().sum().backward()
    assert layer.theta.grad is not None
    assert module.weight.grad is not None
    torch.testing.assert_close(layer.theta.grad, module.weight.grad.flatten(), rtol=1e-2, atol=1e-2)


def test_a_program_that_reads_lines_of_numbers_is_a_device():
    with from_subprocess(program(), **SIZES, linear=True) as device:
        bp.testing.check_device(device)
        theta = torch.randn(6)
        device.program(theta)
        x = torch.randn(500, 3)
        assert torch.allclose(device.read(x), x @ theta.view(2, 3).mT, atol=1e-6)
        assert device.read(x[:0]).shape == (0, 2)
        pid = child(device)
    assert not alive(pid)


def test_a_program_ends_with_its_device():
    device = from_subprocess(program(), **SIZES)
    device.program(torch.zeros(6))
    device.read(torch.zeros(1, 3))
    pid = child(device)
    del device
    gc.collect()
    assert not alive(pid)


def test_a_program_that_dies_is_told_and_started_again():
    with from_subprocess(program(), **SIZES) as device:
        device.program(torch.ones(6))
        first = device.read(torch.ones(1, 3))
        os.kill(child(device), signal.SIGKILL)
        with pytest.raises(InDoubtError, match="ended with code -9"):
            for _ in range(2):  # the death may be seen at once, and the program is then started again before
                device.read(torch.ones(20_000, 3))
                os.kill(child(device), signal.SIGKILL)
        assert torch.equal(device.read(torch.ones(1, 3)), first)


def test_the_words_of_a_program_that_fails_are_in_the_error():
    with (
        from_subprocess(program("import sys; input(); sys.exit('the laser is off')"), **SIZES) as device,
        pytest.raises(InDoubtError, match=r"code 1 .*the laser is off"),
    ):
        device.program(torch.zeros(6))
        device.read(torch.zeros(1, 3))


def test_a_silent_program_is_stopped():
    with (
        from_subprocess(program("import time; time.sleep(60)"), **SIZES, timeout=0.3) as device,
        pytest.raises(InDoubtError, match=r"within 0.3 s"),
    ):
        device.program(torch.zeros(6))
        device.read(torch.zeros(50_000, 3))  # more than the pipe holds, so that the writing waits, too


@pytest.mark.parametrize("answer", ["1.0", "1 2 3", "one two", ""])
def test_lines_that_are_not_the_numbers_are_refused(answer: str):
    with from_subprocess(program(f"for _ in iter(input, None): print({answer!r}, flush=True)"), **SIZES) as device:
        device.program(torch.zeros(6))
        with pytest.raises(ReadingError, match="2 numbers"):
            device.read(torch.zeros(2, 3))


def test_a_missing_program_and_wrong_arguments_are_named():
    device = from_subprocess(["/nowhere/simulate"], **SIZES)
    device.program(torch.zeros(6))
    with pytest.raises(UnreachableError, match="/nowhere/simulate"):
        device.read(torch.zeros(1, 3))
    with pytest.raises(ArgumentError, match="its arguments"):
        from_subprocess("simulate", **SIZES)
    with pytest.raises(ArgumentError, match="timeout"):
        from_subprocess(program(), **SIZES, timeout=0)


def test_a_circuit_row_by_row():
    """A function with the interface of a QNode: one qubit an input, whose weights are angles."""

    def circuit(x: np.ndarray, weights: np.ndarray) -> list[float]:
        assert x.shape == (2,)
        assert weights.shape == (2, 1)
        return [math.cos(x[k] + weights[k, 0]) for k in range(2)]

    device = from_qnode(circuit, in_shape=2, weights_shape=(2, 1), out_shape=2)
    assert math.isclose(device.theta.period or 0, 2 * math.pi)
    bp.testing.check_device(device)
    with pytest.raises(ArgumentError, match="circuit"):
        from_qnode(3, in_shape=2, weights_shape=2, out_shape=2)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(
    ("circuit", "error", "words"),
    [
        (lambda x: [x[0]], ArgumentError, "a row and weights"),
        (lambda weights, x: [x[0] + weights[0]], ArgumentError, "lambda x, weights"),
        (lambda x, w: [x[5]], DeviceError, r"row of shape \(1,\) and weights of shape \(2,\)"),
        (lambda x, w: [x[0] + 1j * w[0]], ReadingError, "real numbers"),
        (lambda x, w: [x[0], w], ReadingError, "unlike shapes"),
    ],
    ids=["one argument", "swapped", "fails", "complex", "ragged"],
)
def test_circuits_that_do_not_fit_are_told(circuit, error: type, words: str):
    with pytest.raises(error, match=words):
        device = from_qnode(circuit, in_shape=1, weights_shape=2, out_shape=1)
        device.program(torch.zeros(2))
        device.read(torch.zeros(1, 1))


def test_rows_of_a_circuit_are_broadcast():
    def circuit(x, weights):
        return [np.cos(x[..., k] + weights[k]) for k in range(2)]

    sizes = {"in_shape": 2, "weights_shape": 2, "out_shape": 2}
    one, all_rows = from_qnode(circuit, **sizes), from_qnode(circuit, **sizes, broadcast=True)
    bp.testing.check_device(all_rows)
    x, theta = torch.rand(5, 2), torch.rand(2)
    for device in (one, all_rows):
        device.program(theta)
    for rows in (5, 2, 1, 0):
        assert torch.equal(one.read(x[:rows]), all_rows.read(x[:rows]))
    single = from_qnode(lambda x, w: x[..., 0] * w[0], in_shape=2, weights_shape=1, out_shape=1, broadcast=True)
    single.program(torch.ones(1))
    assert torch.equal(single.read(x), x[:, :1])
    with pytest.raises(ArgumentError, match=r"x\[\.\.\., k\]"):
        from_qnode(lambda x, w: np.cos(x[0] + w[0]), in_shape=2, weights_shape=2, out_shape=1, broadcast=True)


def test_a_circuit_of_pennylane():
    qml = pytest.importorskip("pennylane", reason="PennyLane is not installed")

    @qml.qnode(qml.device("default.qubit", wires=2))
    def circuit(x, weights):
        for wire in range(2):
            qml.RY(x[..., wire], wires=wire)
        for layer in weights:
            for wire in range(2):
                qml.RY(layer[wire], wires=wire)
            qml.CNOT(wires=[0, 1])
        return [qml.expval(qml.PauliZ(wire)) for wire in range(2)]

    sizes = {"in_shape": 2, "weights_shape": (2, 2), "out_shape": 2}
    device = from_qnode(circuit, **sizes, broadcast=True)
    bp.testing.check_device(device, rows=3, parameters=2, subsets=2, repeats=2)
    layer = bp.PhysicalLayer(device, bp.estimators.ParameterShift())
    x = torch.rand(3, 2)
    layer(x).square().sum().backward()
    weights = layer.theta.detach().double()
    step = 1e-4 * torch.eye(4, dtype=torch.float64)

    def loss(at: torch.Tensor) -> float:
        return sum(float(np.square(circuit(row.double().numpy(), at.view(2, 2).numpy())).sum()) for row in x)

    slopes = [(loss(weights + h) - loss(weights - h)) / 2e-4 for h in step]
    assert layer.theta.grad is not None
    assert np.allclose(layer.theta.grad.numpy(), slopes, atol=1e-3)
    by_row = from_qnode(circuit, **sizes)
    for each in (device, by_row):
        each.program(layer.theta.detach())
    assert torch.allclose(device.read(x), by_row.read(x), atol=1e-6)


spice = pytest.mark.skipif(shutil.which("ngspice") is None, reason="ngspice is not installed: apt-get install ngspice")

NETWORK = """two inputs, six resistors, two loads
va a 0 0
vb b 0 0
r1 a p 1k
r2 a q 1k
r3 b p 1k
r4 b q 1k
r5 p 0 1k
r6 q 0 1k
.end
"""
NETWORK_NAMES = {
    "parameters": [f"r{k}" for k in range(1, 7)],
    "inputs": ["va", "vb"],
    "outputs": ["v(p)", "v(q)"],
    "low": 100.0,
    "high": 10_000.0,
}


def by_hand(theta: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    g = 1 / theta.double()
    p = (g[0] * x[:, 0] + g[2] * x[:, 1]) / (g[0] + g[2] + g[4])
    q = (g[1] * x[:, 0] + g[3] * x[:, 1]) / (g[1] + g[3] + g[5])
    return torch.stack([p, q], 1)


@spice
def test_a_netlist_is_a_device():
    with from_spice(NETWORK, **NETWORK_NAMES, linear=True) as device:
        bp.testing.check_device(device)
        theta, x = 100 + 9900 * torch.rand(6), torch.randn(300, 2)
        device.program(theta)
        assert torch.allclose(device.read(x).double(), by_hand(theta, x.double()), atol=1e-6)
        pid = child(device)
    assert not alive(pid)


@spice
def test_a_netlist_with_diodes_and_shared_parameters(tmp_path: Path):
    text = """a rectifier
.param load=1k gain=2
vin in 0 0
r1 in out {load}
r2 out 0 {load * gain}
d1 out 0 diode
.model diode d(is=1e-12)
.options reltol=1e-6
.end
"""
    (tmp_path / "rectifier.cir").write_text(text)
    low, high = torch.tensor([500.0, 0.5]), torch.tensor([2000.0, 3.0])
    names = {"parameters": ["load", "gain"], "inputs": ["vin"], "outputs": ["v(out)", "i(vin) * 1000"]}
    with from_spice(tmp_path / "rectifier.cir", **names, low=low, high=high) as device:
        device.program(torch.tensor([1000.0, 2.0]))
        y = device.read(torch.tensor([[-1.0], [0.1], [5.0]]))
        assert torch.allclose(y[:, 0], torch.tensor([-2 / 3, 0.0667, 0.5726]), atol=2e-3), y
        assert torch.allclose(y[:, 1], (y[:, 0] - torch.tensor([-1.0, 0.1, 5.0])), atol=1e-4)
        bp.testing.check_device(device)


@spice
def test_a_pool_of_processes_reads_as_one_does():
    theta, x = 100 + 9900 * torch.rand(6), torch.randn(50, 2)
    with from_spice(NETWORK, **NETWORK_NAMES, linear=True, processes=3) as device:
        bp.testing.check_device(device)
        for rows in (50, 7, 0):
            device.program(theta)
            assert torch.allclose(device.read(x[:rows]).double(), by_hand(theta, x[:rows].double()), atol=1e-6)
        pids = [child(member) for member in device._members]  # pyright: ignore[reportAttributeAccessIssue]
        assert len(set(pids)) == 3
        first = device.read(x)
        os.kill(pids[1], signal.SIGKILL)
        device._members[1]._program._process.wait()  # pyright: ignore[reportAttributeAccessIssue]
        assert torch.equal(device.read(x), first)
    assert not any(alive(pid) for pid in pids)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("blackprop-ngspice")]
    with pytest.raises(ArgumentError, match="processes"):
        from_spice(NETWORK, **NETWORK_NAMES, processes=0)


@spice
def test_a_netlist_trains():
    torch.manual_seed(0)
    with from_spice(NETWORK, **NETWORK_NAMES, linear=True) as device:
        layer = bp.PhysicalLayer(device, bp.estimators.Coordinate(20.0), bp.surrogates.Streaming())
        layer.gain.requires_grad_(False)
        optimizer = torch.optim.Adam([layer.theta], lr=200.0)
        x = torch.randn(8, 2)
        target = x @ torch.tensor([[0.7, 0.1], [0.1, 0.5]])
        losses = []
        for _ in range(60):
            optimizer.zero_grad()
            loss = (layer(x) - target).square().mean()
            loss.backward()
            optimizer.step()
            losses.append(float(loss.detach()))
    assert losses[-1] < 0.2 * losses[0]


@spice
@pytest.mark.parametrize(
    ("change", "names", "error", "words"),
    [
        ("", {"parameters": ["r1", "r9"]}, DeviceError, "r9"),
        ("", {"outputs": ["v(p)", "v(nowhere)"]}, ReadingError, "v.nowhere"),
        ("x1 a b nothing\n", {}, DeviceError, "nothing"),
        ("", {"inputs": ["va", "vc"]}, DeviceError, "vc"),
        ("", {"outputs": ["v(p) * i"]}, ReadingError, "real"),
    ],
)
def test_names_that_ngspice_does_not_know_are_told(change: str, names: dict, error: type, words: str):
    text = NETWORK.replace(".end\n", f"{change}.end\n")
    given = {**NETWORK_NAMES, **names}
    with from_spice(text, **given) as device:
        device.program(torch.full((len(given["parameters"]),), 1000.0))
        with pytest.raises(error, match=words):
            device.read(torch.zeros(1, 2))


@spice
def test_ngspice_that_dies_is_started_again_at_the_setting():
    with from_spice(NETWORK, **NETWORK_NAMES) as device:
        theta = torch.tensor([500.0, 600.0, 700.0, 800.0, 900.0, 1000.0])
        device.program(theta)
        first = device.read(torch.ones(1, 2))
        os.kill(child(device), signal.SIGKILL)
        device._program._process.wait()  # pyright: ignore[reportOptionalMemberAccess]
        assert torch.equal(device.read(torch.ones(1, 2)), first)


def test_lists_of_names_are_checked():
    for name in ("parameters", "inputs", "outputs"):
        with pytest.raises(ArgumentError, match=name):
            from_spice(NETWORK, **{**NETWORK_NAMES, name: "r1"})
        with pytest.raises(ArgumentError, match="one line"):
            from_spice(NETWORK, **{**NETWORK_NAMES, name: ["r1\nshell rm"]})
    for wrong, words in (({"inputs": ["va", "r3"]}, "r3"), ({"parameters": ["r1", "VA"]}, "VA")):
        with pytest.raises(ArgumentError, match=words):
            from_spice(NETWORK, **{**NETWORK_NAMES, **wrong})
    for netlist, words in (("", "empty"), ("away.cir", "no file"), (f"{NETWORK}.control\nrun\n.endc\n", "control")):
        with pytest.raises(ArgumentError, match=words):
            from_spice(netlist, **NETWORK_NAMES)
    with pytest.raises(ArgumentError, match="list"):
        from_spice(NETWORK, **NETWORK_NAMES, command="ngspice")
    device = from_spice(NETWORK, **NETWORK_NAMES, command=["/nowhere/ngspice"])
    device.program(torch.full((6,), 1000.0))
    with pytest.raises(UnreachableError, match="ngspice"):
        device.read(torch.zeros(1, 2))
