"""The cases of each peer: run by bench.py in the environment of that peer."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import sys
import types
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

import blackprop as bp
from speed import draw, ratio

Case = dict[str, object]


def case(
    what: str,
    size: str,
    peer: str,
    ours: Callable[[], Any],
    theirs: Callable[[], Any],
    seconds: float,
    same: bool = True,
) -> Case:
    difference = None
    if same:
        found, other = (torch.as_tensor(np.asarray(each())).double() for each in (ours, theirs))
        difference = float((found - other).abs().max() / other.abs().max())
    slow, fast, times = ratio(theirs, ours, seconds)
    return {
        "what": what,
        "size": size,
        "peer": peer,
        "ours": 1e3 * fast,
        "theirs": 1e3 * slow,
        "ratio": times,
        "difference": difference,
    }


@torch.no_grad()
def meshes(seconds: float) -> Iterator[Case]:
    """The naive way, in PyTorch: the matrix of each column, multiplied to the ones before."""
    for modes, rows in ((64, 8), (64, 1024), (256, 128), (256, 1024)):
        device, x = bp.devices.MZIMesh(modes, modes), draw(rows, modes)
        theta = device.theta.draw(torch.Generator().manual_seed(0))

        def naive(modes: int = modes, x: Tensor = x, theta: Tensor = theta) -> Tensor:
            n, U = modes // 2, torch.eye(modes, dtype=torch.complex64)
            evens, odds = theta.view(-1, 2).split([n * n, n * (n - 1)])
            for even, odd in zip(evens.view(n, n, 2), odds.view(n, n - 1, 2), strict=True):
                for at, (t, f) in ((0, even.unbind(-1)), (1, odd.unbind(-1))):
                    first, second = U[at : at + 2 * len(t) : 2].clone(), U[at + 1 : at + 2 * len(t) : 2].clone()
                    s, c = f.sin()[:, None], f.cos()[:, None]
                    U[at : at + 2 * len(t) : 2] = torch.polar(torch.ones_like(t), t)[:, None] * (s * first + c * second)
                    U[at + 1 : at + 2 * len(t) : 2] = c * first - s * second
            return x @ U.real.mT

        yield case(
            "mesh",
            f"{modes} modes, {rows} rows",
            "naive matrix",
            lambda device=device, x=x, theta=theta: device.transfer(x, theta),
            naive,
            seconds,
        )


@torch.no_grad()
def reservoirpy(seconds: float) -> Iterator[Case]:
    from reservoirpy.nodes import Reservoir  # noqa: PLC0415  # pyright: ignore[reportMissingImports]

    nodes, time = 200, 1000
    device = bp.devices.EchoState(time, 1, nodes)
    theta = device.theta.draw(torch.Generator().manual_seed(0))
    series = torch.rand(8, time, 1, generator=torch.Generator().manual_seed(1)) / 2
    peer = Reservoir(
        units=nodes,
        lr=1.0,
        W=(float(theta[0]) * device.weights).float().numpy(),
        Win=theta[3:].view(nodes, 1).numpy(),
        bias=(float(theta[2]) * device.offsets).float().numpy(),
        dtype=np.float32,
    )

    def run() -> np.ndarray:
        with contextlib.suppress(AttributeError):
            peer.reset()
        return np.asarray(peer.run(series[0].numpy()))

    yield case(
        "echo state",
        "200 nodes, 1,000 steps, 1 row",
        "reservoirpy",
        lambda: device.transfer(series[:1], theta)[0],
        run,
        seconds,
    )


@torch.no_grad()
def snntorch(seconds: float) -> Iterator[Case]:
    import snntorch as snn  # noqa: PLC0415  # pyright: ignore[reportMissingImports]

    for d_in, d_out, rows in ((64, 64, 32), (256, 256, 32), (784, 128, 64)):
        device = bp.devices.SpikingNeurons(d_in, d_out)
        theta = device.theta.draw(torch.Generator().manual_seed(0))
        x = torch.rand(rows, d_in, generator=torch.Generator().manual_seed(1))
        counts, weights, peer = (
            device._arriving(x.double()).float(),
            theta.view(d_out, d_in) / d_in**0.5,
            snn.Synaptic(0.9, 0.8),
        )

        def run(counts: Tensor = counts, weights: Tensor = weights, peer: Any = peer) -> Tensor:
            total, (synapse, membrane) = torch.zeros(()), peer.reset_mem()
            for driven in (counts @ weights.mT).unbind(1):
                spikes, synapse, membrane = peer(driven, synapse, membrane)
                total = total + spikes
            return total

        yield case(
            "spiking neurons",
            f"{d_in} to {d_out}, {rows} rows",
            "snntorch",
            lambda device=device, x=x, theta=theta: device.transfer(x, theta),
            run,
            seconds,
            same=False,
        )


@torch.no_grad()
def badcrossbar(seconds: float) -> Iterator[Case]:
    cairo: Any = types.ModuleType("cairo")  # draws its charts, which are not made here
    cairo.__getattr__ = lambda name: type(name, (), {})
    sys.modules["cairo"] = cairo
    import badcrossbar as peer  # noqa: PLC0415  # pyright: ignore[reportMissingImports]

    logging.disable(logging.CRITICAL)
    for side in (64, 128, 256):
        # As many bit lines as word lines: each output has a pair of them.
        device = bp.devices.ConductanceArray(side, side // 2, line=2.5 * 25e-6)
        g = torch.rand(side, side, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 0.99 + 0.01
        x, theta = torch.rand(8, side, generator=torch.Generator().manual_seed(1), dtype=torch.float64), g.flatten()

        def run(g: Tensor = g, x: Tensor = x) -> np.ndarray:
            with contextlib.redirect_stdout(io.StringIO()):
                found = peer.compute(x.mT.numpy(), (1 / (25e-6 * g.mT)).numpy(), r_i=2.5).currents.output
            lines = np.asarray(found) / 25e-6
            return lines[:, ::2] - lines[:, 1::2]

        yield case(
            "crossbar with wires",
            f"{side} × {side} cells",
            "badcrossbar",
            lambda device=device, x=x, theta=theta: device.transfer(x, theta),
            run,
            seconds,
        )


def lightning(seconds: float) -> Iterator[Case]:
    """Training steps: a calibrated layer beside a crossbar layer with noise-aware training, which differentiates."""
    from aihwkit_lightning.nn import AnalogLinear  # noqa: PLC0415  # pyright: ignore[reportMissingImports]
    from aihwkit_lightning.simulator.configs import (  # noqa: PLC0415  # pyright: ignore[reportMissingImports]
        TorchInferenceRPUConfig,
    )

    for d, rows in ((64, 32), (256, 32), (256, 512), (1024, 512)):
        config = TorchInferenceRPUConfig()
        config.forward.inp_res, config.forward.out_res, config.forward.out_noise = 254, -1, 0.04
        config.forward.is_perfect, config.pre_post.input_range.enable = False, True
        quantised = bp.devices.Quantised(bp.devices.Crossbar(d, d), input_bits=8, output_bits=8)
        ours = bp.PhysicalLayer(bp.devices.Noisy(quantised, read=0.04))
        theirs = AnalogLinear(d, d, bias=False, rpu_config=config)
        x, g = draw(rows, d).clamp(-1, 1).requires_grad_(), draw(rows, d, seed=1)

        def step(layer: torch.nn.Module, x: Tensor = x, g: Tensor = g) -> Callable[[], None]:
            optimizer = torch.optim.SGD(layer.parameters(), 1e-4)

            def run() -> None:
                optimizer.zero_grad()
                layer(x).backward(g)
                optimizer.step()

            return run

        yield case(
            "crossbar, training step",
            f"{d} × {d}, {rows} rows",
            "aihwkit-lightning",
            step(ours),
            step(theirs),
            seconds,
            same=False,
        )


CASES = {
    "aihwkit-lightning": lightning,
    "meshes": meshes,
    "reservoirpy": reservoirpy,
    "snntorch": snntorch,
    "badcrossbar": badcrossbar,
}

if __name__ == "__main__":
    torch.set_num_threads(1)
    name = sys.argv[1]
    print(json.dumps(list(CASES[name](float(sys.argv[2])))))
