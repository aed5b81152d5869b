"""How fast the analogue devices answer, beside a plain form of the same equations that takes row after row.

    python benchmarks/field/analog.py

One thread; each figure is the median over some rounds of one batch, and both forms must agree. With wires the plain
form assembles and solves the whole network for every row, which ours does once a setting.
"""

from __future__ import annotations

import argparse
import math
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor

from blackprop.core import Purpose, Query
from blackprop.devices import PCM, Crossbar, InMemoryODE, Memristive, Simulator, SpikingNeurons
from blackprop.devices.electronic._spiking_neuron import DARK, time_constant

PlainForm = Callable[[Tensor, Tensor], Tensor]


def crossbar_row(device: Crossbar) -> PlainForm:
    """Both conductances of every weight, and the currents of one row."""

    def answer(row: Tensor, theta: Tensor) -> Tensor:
        weights = theta.view(*device.out_shape, -1)
        return (weights.clamp_min(0) @ row - (-weights).clamp_min(0) @ row) / math.sqrt(len(row))

    return answer


def wired_row(device: Crossbar) -> PlainForm:
    """The full admittance matrix of all nodes, for the row that is sent."""
    rho, words = device.array.line, device.in_shape[0]
    bits = device.array.bit_lines

    def answer(row: Tensor, theta: Tensor) -> Tensor:
        g = device.conductances(theta).view(bits, words).double()
        admittance, drive = (
            torch.zeros(2 * bits * words, 2 * bits * words).double(),
            torch.zeros(2 * bits * words).double(),
        )
        for i in range(bits):
            for j in range(words):
                word, bit = i * words + j, (bits + i) * words + j
                beside = {word: word - words if i else None, bit: bit + 1 if j + 1 < words else None}
                for here, there, value in [(word, bit, g[i, j]), *((a, b, 1 / rho) for a, b in beside.items())]:
                    admittance[here, here] += value
                    if there is not None:
                        admittance[there, there] += value
                        admittance[here, there] -= value
                        admittance[there, here] -= value
                if not i:
                    drive[word] = row[j] / rho
        v = torch.linalg.solve(admittance, drive).view(2, bits, words)[1, :, -1] / rho
        return (device.array.scale * (v[::2] - v[1::2])).float()

    return answer


def in_memory_row(device: InMemoryODE) -> PlainForm:
    """Event by event."""
    above, below = device.reversal

    def answer(row: Tensor, theta: Tensor) -> Tensor:
        w = theta.view(*device.out_shape, -1)
        leaks = torch.where(w > 0, w / above, w / below)
        v, f, g, now = (torch.zeros(device.out_shape) for _ in range(4))
        for j in (1 - row.clamp(0, 1)).argsort():
            at = 1 - row[j].clamp(0, 1)
            end = g / f.clamp_min(1e-12)
            v = end + (v - end) * (-f * (at - now)).exp()
            f, g, now = f + leaks[:, j], g + w[:, j], at
        end = g / f.clamp_min(1e-12)
        return (end + (v - end) * (-f * (1 - now)).exp()).clamp(0, 1)

    return answer


def spiking_row(device: SpikingNeurons) -> PlainForm:
    """Step by step, all neurons at once."""
    b, h = device.biases, device.step
    kept = [(-h / time_constant(leak, b.synapse_capacitance)).exp() for leak in device.synapse_leak]
    strength = [gain / leak for gain, leak in zip(device.synapse_gain, device.synapse_leak, strict=True)]
    leak, gain = device.membrane_leak, device.membrane_gain
    tau = time_constant(leak, b.membrane_capacitance)

    def answer(row: Tensor, theta: Tensor) -> Tensor:
        w = theta.double().view(*device.out_shape, -1) * device.synapse_weight
        cycles = row.double().clamp_min(0) * device.peak * h / 1000
        synapses = [torch.zeros(device.out_shape).double() for _ in range(2)]
        current = torch.full_like(synapses[0], DARK)
        rest, spikes = torch.zeros_like(current), torch.zeros_like(current)
        for k in range(device.steps):
            n = (cycles * (k + 1) + device._phases).floor() - (cycles * k + device._phases).floor()
            for s, sign in enumerate((1, -1)):
                synapses[s] = synapses[s] * kept[s] + strength[s] * ((sign * w).clamp_min(0) @ n)
            entering = (synapses[0] - synapses[1]).clamp_min(DARK)
            feedback = b.feedback / leak / (1 + (-(current - b.onset) / b.width).exp())
            slope = gain / leak * (entering - leak) + feedback * (current + gain) - current
            moved = (current + h / tau * slope / (1 + gain / current)).clamp_min(DARK)
            current = torch.where(rest > 0, DARK, moved)
            fired = current >= device.threshold
            rest = torch.where(fired, round(b.refractory / h), (rest - 1).clamp_min(0))
            spikes, current = spikes + fired, torch.where(fired, DARK, current)
        return spikes.float()

    return answer


def median(call: Callable[[], object], rounds: int) -> float:
    seconds = []
    for _ in range(rounds):
        start = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


def compare(name: str, device: Simulator, plain: PlainForm, rows: int, settings: int, some: int) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(rows, *device.in_shape, generator=generator)
    thetas = [device.theta.draw(generator) for _ in range(settings)]
    queries = [Query(x, theta, Purpose.EVALUATE) for theta in thetas]
    ours = median(lambda: device.measure(queries), 5) / (rows * settings)
    theirs = median(lambda: [plain(row, thetas[0]) for row in x[:some]], 3) / some
    apart = torch.stack([plain(row, thetas[0]) for row in x[:some]]) - device.measure(queries)[0][:some]
    print(
        f"{name:34} {rows:>5} × {settings:<3} {1e6 * ours:>10.2f} µs {1e6 * theirs:>12.1f} µs "
        f"{theirs / ours:>10.0f} × {float(apart.abs().max()):>10.1e}"
    )


def main() -> None:
    argparse.ArgumentParser(description=__doc__).parse_args()
    torch.set_num_threads(1)
    print(f"{'device':34} {'rows × settings':>11} {'ours, a row':>11} {'row by row':>13} {'ratio':>14} {'apart':>10}")
    crossbar, wired = Crossbar(64, 64), Crossbar(16, 8, line=20.0, memristor=PCM)
    line, neurons = InMemoryODE(64, 64), SpikingNeurons(64, 64)
    compare("Crossbar 64 → 64", crossbar, crossbar_row(crossbar), 256, 8, 32)
    compare("Crossbar 16 → 8, wires", wired, wired_row(wired), 256, 8, 2)
    compare("InMemoryODE 64 → 64", line, in_memory_row(line), 64, 4, 16)
    compare("SpikingNeurons 64 → 64", neurons, spiking_row(neurons), 64, 2, 4)
    theta = crossbar.theta.draw(torch.Generator().manual_seed(0))
    x = torch.rand(256, 64, generator=torch.Generator().manual_seed(1))
    cells = Memristive(Crossbar(64, 64, memristor=PCM))
    once = median(lambda: cells.measure([Query(x, theta + 0.0, Purpose.EVALUATE)]), 20)
    print(f"Memristive, 256 rows at a setting that is held: {1e6 * once / 256:.2f} µs a row")
    exact, grid = (
        median(lambda call=call: call(), 5)
        for call in (lambda: line.potential(x, theta), lambda: line.on_grid(x, theta, 3))
    )
    print(f"InMemoryODE, exactly and on 3 points: {1e3 * exact:.1f} ms and {1e3 * grid:.2f} ms ({exact / grid:.0f} ×)")


if __name__ == "__main__":
    main()
