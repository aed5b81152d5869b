"""Trained on the design, written to other chips: plain, sampled and sharpness-aware training, and bp.deploy.

Handwritten digits, reduced to 16 pixels or with all 64, through two meshes. The chips have phases that are known to 0.1
rad, splitters that err by 0.05, and 1 % noise. Rates and radius are chosen on seed 11 (`--seeds 11`).
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
import time
from pathlib import Path

import torch
from sklearn.datasets import load_digits
from torch.nn import functional as F

import blackprop as bp

PHASE, SPLITTER, NOISE = 0.1, 0.05, 0.01
TRAIN, VALIDATE = 1200, 200  # the others are the test


def digits(modes: int) -> tuple[torch.Tensor, torch.Tensor]:
    x, y = (torch.as_tensor(each) for each in load_digits(return_X_y=True))
    x = x.float()
    if modes == 16:
        x = F.avg_pool2d(x.view(-1, 1, 8, 8), 2).flatten(1)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    x, y = x[order], y[order]
    mean, std = x[:TRAIN].mean(0), x[:TRAIN].std(0)
    return (x - mean) / std.clamp_min(0.1), y


def family(modes: int, outputs: int):
    return lambda seed: bp.devices.ImperfectMZIMesh(modes, outputs, phase=PHASE, splitter=SPLITTER, seed=seed)


def network(modes: int, seed: int, sampled: bool) -> torch.nn.Sequential:
    generator = torch.Generator().manual_seed(seed)

    def layer(outputs: int, gain: float) -> bp.PhysicalLayer:
        device: bp.Device = bp.devices.MZIMesh(modes, outputs)
        if sampled:
            device = bp.deployment.SampledChips(device, family(modes, outputs), seed=seed + outputs)
            device = bp.devices.Noisy(device, read=NOISE, seed=seed)
        oracles = bp.estimators.Oracle(), bp.surrogates.Oracle()
        made = bp.PhysicalLayer(device, *oracles, bias=True, generator=generator)
        made.gain.data.fill_(gain)
        made.theta.data = 2 * math.pi * torch.rand(made.theta.shape, generator=generator)
        return made

    return torch.nn.Sequential(layer(modes, 2.0), torch.nn.ReLU(), layer(10, 6.0))


def trained(method: str, modes: int, seed: int, epochs: int, radius: float) -> torch.nn.Sequential:
    torch.manual_seed(seed)
    model, (x, y) = network(modes, seed, method.startswith("sampled")), digits(modes)
    steps = epochs * (TRAIN // 50)
    inner = torch.optim.Adam(bp.param_groups(model, lr=1e-2, device_lr=2e-2))
    aware = method.endswith("sharpness-aware")
    optimizer = bp.optim.SharpnessAware(inner, model, radius) if aware else inner
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(inner, steps)
    for _ in range(epochs):
        for rows in torch.randperm(TRAIN).split(50):

            def closure(rows: torch.Tensor = rows) -> torch.Tensor:
                inner.zero_grad()
                loss = F.cross_entropy(model(x[rows]), y[rows])
                loss.backward()
                return loss

            optimizer.step(closure)
            schedule.step()
    return model.eval()


def chips(modes: int, number: int) -> list[bp.Device]:
    return [
        bp.devices.Noisy(family(modes, outputs)(10_000 + 10 * number + k), read=NOISE, seed=number)
        for k, outputs in enumerate((modes, 10))
    ]


def as_written(model: torch.nn.Sequential, devices: list[bp.Device]) -> torch.nn.Module:
    first, last = (bp.PhysicalLayer(device, bias=True) for device in devices)
    made = torch.nn.Sequential(first, torch.nn.ReLU(), last)
    made.load_state_dict(bp.for_another_device(model.state_dict()))
    return made.eval()


@torch.no_grad()
def accuracy(model: torch.nn.Module, x: torch.Tensor, y: torch.Tensor) -> float:
    return 100 * float((model(x).argmax(1) == y).double().mean())


def in_place(modes: int, epochs: int) -> dict[str, int]:
    """The queries of training a chip in place for as many steps by the plan's method, with power taps and without."""
    found = {}
    for taps in (True, False):
        rows, programmings, method = 0, 0, ""
        for chip in chips(modes, 0):
            ones = torch.ones(chip.in_shape), torch.ones(chip.out_shape)
            built = chip if taps else bp.deployment.PortGains(chip, *ones)  # which hands no capability on
            plan = bp.plan(built, batch_size=50)
            method = plan.name
            spent = plan.price.after(epochs * TRAIN // 50)
            rows, programmings = rows + spent.total_rows, programmings + spent.total_programmings
        name = f"{method}, {'with' if taps else 'without'} taps"
        found |= {f"{name}, rows": rows, f"{name}, programmings": programmings}
    return found


def run(method: str, modes: int, seed: int, count: int, epochs: int, radius: float, deploy: int) -> dict[str, object]:
    began = time.process_time()
    model, (x, y) = trained(method, modes, seed, epochs, radius), digits(modes)
    held, test = slice(TRAIN, TRAIN + VALIDATE), slice(TRAIN + VALIDATE, None)
    clean = accuracy(model, x[test], y[test])
    took = time.process_time() - began
    written, corrected, deployed, rows, programmings, made = [], [], [], [], [], []
    for number in range(count):
        written.append(accuracy(as_written(model, chips(modes, number)), x[test], y[test]))
        ports = bp.deploy(model, chips(modes, number), (x[held], y[held]), steps=0, calibrate=False)
        corrected.append(accuracy(ports.model.eval(), x[test], y[test]))
        if number < deploy:
            report = bp.deploy(model, chips(modes, number), (x[held], y[held]), steps=10)
            deployed.append(accuracy(report.model.eval(), x[test], y[test]))
            rows.append(report.ledger.total_rows)
            programmings.append(report.ledger.total_programmings)
            made.append(report.stages[-1].note)
    found = {"method": method, "modes": modes, "seed": seed, "epochs": epochs, "radius": radius, "clean": clean}
    found |= {"written": written, "corrected": corrected, "deployed": deployed}
    cost = {"rows": rows, "programmings": programmings, "steps": made, "training_s": took}
    return {**found, **cost, "total_s": time.process_time() - began}


def mean(values: list[float]) -> str:
    error = statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else 0.0
    return f"{statistics.mean(values):.1f} ± {error:.1f}"


def table(results: list[dict]) -> str:
    lines = [
        "| training | on the design | lost as written | with ports and scales | with steps | rows | programmings |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for method in dict.fromkeys(each["method"] for each in results):
        some = [each for each in results if each["method"] == method]
        lost = [each["clean"] - statistics.mean(each["written"]) for each in some]
        ports = [each["clean"] - statistics.mean(each["corrected"]) for each in some]
        left = [each["clean"] - statistics.mean(each["deployed"]) for each in some if each["deployed"]]
        rows = [n for each in some for n in each["rows"]]
        programmings = [n for each in some for n in each["programmings"]]
        counts = (f"{statistics.mean(rows):,.0f}", f"{statistics.mean(programmings):.0f}") if left else ("", "")
        after = (mean(left) if left else "", *counts)
        clean = mean([each["clean"] for each in some])
        lines.append(f"| {method} | {clean} | {mean(lost)} | {mean(ports)} | {' | '.join(after)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--methods", nargs="+", default=["plain", "sampled", "sharpness-aware"])
    parser.add_argument("--modes", type=int, default=16, choices=(16, 64))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--chips", type=int, default=10)
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--radius", type=float, default=0.3)
    parser.add_argument("--deploy", type=int, default=10, help="chips that get steps in place, too")
    parser.add_argument("--price", action="store_true", help="the queries of training in place, and end")
    parser.add_argument("--results", type=Path, help="a file of JSON lines, which is added to and read")
    parser.add_argument("--table", action="store_true", help="the table of --results alone")
    options = parser.parse_args()
    if options.price:
        print(in_place(options.modes, options.epochs))
        return
    results = []
    for seed in () if options.table else options.seeds:
        for method in options.methods:
            found = run(method, options.modes, seed, options.chips, options.epochs, options.radius, options.deploy)
            results.append(found)
            print(json.dumps(found), file=sys.stderr, flush=True)
            if options.results is not None:
                with options.results.open("a") as file:
                    file.write(json.dumps(found) + "\n")
    if options.results is not None and options.results.exists():
        results = [json.loads(line) for line in options.results.read_text().splitlines()]
    print(table(results))


if __name__ == "__main__":
    main()
