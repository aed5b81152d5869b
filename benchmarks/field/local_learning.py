"""Rules that learn from their own layer alone on the handwritten digits, beside backpropagation and random features.

    python benchmarks/field/local_learning.py
    python benchmarks/field/local_learning.py --only spiking --epochs 6 --depth 1 --width 128

Every figure is the mean over the seeds, in per cent, with the standard deviation. *Backpropagation* trains the same
matrices with a readout, through the simulator; *random features* leaves the matrices as they are drawn and trains the
readout alone; *last layer* is the rule with all but its last layer left as drawn. Devices keep their first setting.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import blackprop as bp
from blackprop.devices import PCM, Crossbar, InMemoryODE, Memristive, SpikingNeurons
from blackprop.experiments import Digits
from blackprop.learning_rules import ContrastivePlasticity, PhysicalLocalLearning, synapses

CLASSES, BATCH = 10, 64
MakeDevice = Callable[[int, int], bp.Device]
DEVICES: dict[str, MakeDevice] = {
    "LightModulator": bp.devices.LightModulator,
    "Memristive(Crossbar), PCM": lambda a, b: Memristive(Crossbar(a, b, memristor=PCM)),
    "InMemoryODE": InMemoryODE,
    "SpikingNeurons": lambda a, b: SpikingNeurons(a, b, duration=50.0, step=1.0),
}


class Task:
    """The digits, with room for the labels before the pixels."""

    def __init__(self, room: bool) -> None:
        data = Digits().data()
        self.y, self.y_test = data.y_train, data.y_test
        self.x, self.x_test = (F.pad(x, (CLASSES if room else 0, 0)) for x in (data.x_train, data.x_test))

    def batches(self, epochs: int, generator: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
        for _ in range(epochs):
            for some in torch.randperm(len(self.x), generator=generator).split(BATCH):
                yield self.x[some], self.y[some]

    def score(self, predict: Callable[[Tensor], Tensor]) -> float:
        return 100 * float((predict(self.x_test) == self.y_test).double().mean())


def local(make: MakeDevice, args: argparse.Namespace, generator: torch.Generator) -> PhysicalLocalLearning:
    sizes = itertools.pairwise([64 + CLASSES, *[args.width] * args.depth])
    layers = [bp.PhysicalLayer(make(a, b), generator=generator) for a, b in sizes]
    return PhysicalLocalLearning(layers, CLASSES, args.width, generator=generator)


def by_rule(make: MakeDevice, seed: int, args: argparse.Namespace, last_only: bool) -> float:
    task, generator = Task(room=True), torch.Generator().manual_seed(seed)
    rule = local(make, args, generator)
    trained = rule.digital[-1:] if last_only else rule.digital
    optimizer = torch.optim.Adam(trained.parameters(), 1e-3)
    for x, y in task.batches(args.epochs, generator):
        for _ in rule.visit(x, y):
            optimizer.step()
            rule.zero_grad()
    return task.score(rule.eval().predict)


def by_readout(make: MakeDevice, seed: int, args: argparse.Namespace, features_too: bool) -> float | None:
    """Softmax regression on what the stack passes on, with the matrices trained through the simulators or as drawn."""
    task, generator = Task(room=True), torch.Generator().manual_seed(seed)
    rule = local(make, args, generator)
    if features_too and any(layer.device.oracle() is None for layer in rule.stack):
        return None
    readout = nn.Linear(args.width, CLASSES)
    nn.init.zeros_(readout.weight)
    nn.init.zeros_(readout.bias)

    def logits(x: Tensor) -> Tensor:
        for layer, matrix in zip(rule.stack, rule.digital, strict=True):
            reading, simulated = layer(x.detach()).detach(), layer.device.oracle()
            if features_too and simulated is not None:
                ideal = simulated(x, layer.theta.detach())
                reading = ideal + (reading - ideal.detach())  # the value is measured, the derivative simulated
            h = matrix(torch.cat((reading, x), -1)).abs()
            x = h / h.square().mean(-1, keepdim=True).sqrt().clamp_min(1e-8)
        return readout(x)

    trained = [*readout.parameters(), *(rule.digital.parameters() if features_too else ())]
    optimizer = torch.optim.Adam(trained, 1e-3 if features_too else 1e-2)
    rule.eval()
    for x, y in task.batches(args.epochs, generator):
        optimizer.zero_grad()
        F.cross_entropy(logits(x), y).backward()
        optimizer.step()
    with torch.no_grad():
        return task.score(lambda x: logits(x).argmax(-1))


def spiking_rule(seed: int, args: argparse.Namespace, shuffled: bool) -> float:
    task, generator = Task(room=False), torch.Generator().manual_seed(seed)
    if shuffled:
        task.y = task.y[torch.randperm(len(task.y), generator=generator)]
    widths = itertools.pairwise([64, *[args.width] * args.depth])
    rule = ContrastivePlasticity([synapses(a, CLASSES, b, generator) for a, b in widths], CLASSES, generator=generator)
    optimizer = torch.optim.Adam(rule.parameters(), 2e-3)
    for x, y in task.batches(args.epochs, generator):
        for _ in rule.visit(x, y):
            optimizer.step()
            optimizer.zero_grad()
    return task.score(rule.predict)


def perceptron(seed: int, args: argparse.Namespace, features_too: bool) -> float:
    """Ordinary layers of the same widths."""
    task, generator = Task(room=False), torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    widths = [64, *[args.width] * args.depth]
    hidden = [m for a, b in itertools.pairwise(widths) for m in (nn.Linear(a, b), nn.ReLU())]
    model = nn.Sequential(*hidden, nn.Linear(args.width, CLASSES))
    optimizer = torch.optim.Adam((model if features_too else model[-1:]).parameters(), 1e-3 if features_too else 1e-2)
    for x, y in task.batches(args.epochs, generator):
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
    with torch.no_grad():
        return task.score(lambda x: model(x).argmax(-1))


def line(name: str, runs: list[float | None]) -> None:
    known = [run for run in runs if run is not None]
    text = f"{statistics.mean(known):5.1f} ± {statistics.stdev(known):.1f}" if known else "no derivative"
    print(f"  {name:44} {text}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=["physical", "spiking"])
    parser.add_argument("--devices", nargs="+", choices=list(DEVICES), default=list(DEVICES))
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--depth", type=int, default=2, help="layers")
    parser.add_argument("--width", type=int, default=32, help="of every layer")
    parser.add_argument("--seeds", type=int, default=3, help="at least 2")
    args = parser.parse_args()
    torch.set_num_threads(1)
    seeds = range(args.seeds)
    for name in args.devices if args.only != "spiking" else ():
        make = DEVICES[name]
        print(f"{name}, {args.depth} layer(s) of {args.width}, {args.epochs} epochs")
        line("physical local learning", [by_rule(make, s, args, last_only=False) for s in seeds])
        line("last layer", [by_rule(make, s, args, last_only=True) for s in seeds])
        line("random features", [by_readout(make, s, args, features_too=False) for s in seeds])
        line("backpropagation", [by_readout(make, s, args, features_too=True) for s in seeds])
    if args.only != "physical":
        print(f"spiking, {args.depth} layer(s) of {args.width}, {args.epochs} epochs")
        line("contrastive-signal-dependent plasticity", [spiking_rule(s, args, shuffled=False) for s in seeds])
        line("the same, labels shuffled", [spiking_rule(s, args, shuffled=True) for s in seeds])
        line("random features (ReLU)", [perceptron(s, args, features_too=False) for s in seeds])
        line("backpropagation (ReLU)", [perceptron(s, args, features_too=True) for s in seeds])


if __name__ == "__main__":
    main()
