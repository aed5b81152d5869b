"""ngspice kept running against a process for each reading: seconds a reading, in one process and on one thread.

python benchmarks/foreign.py --rows 2000 --processes 20
"""

from __future__ import annotations

import argparse
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

import blackprop as bp

NETLIST = """a ladder of resistors and diodes
vin in 0 {vin}
r1 in a {r1}
d1 a 0 diode
r2 a b {r2}
d2 b 0 diode
r3 b 0 {r3}
.model diode d(is=1e-12)
"""


def kept(rows: int, processes: int = 1) -> float:
    names: dict[str, Any] = {"parameters": ["r1", "r2", "r3"], "inputs": ["vin"], "outputs": ["v(a)", "v(b)"]}
    text = NETLIST.format(vin=0, r1=1000, r2=1000, r3=1000)
    with bp.foreign.from_spice(text, **names, low=100.0, high=10_000.0, processes=processes) as device:
        device.program(torch.full((3,), 1000.0))
        device.read(torch.zeros(8 * processes, 1))  # starts the programs
        begun = time.perf_counter()
        device.read(torch.linspace(-1, 1, rows)[:, None])
        return (time.perf_counter() - begun) / rows


def process_each(count: int) -> float:
    seconds = 0.0
    with tempfile.TemporaryDirectory() as folder:
        for k in range(count):
            file = Path(folder) / f"{k}.cir"
            file.write_text(
                NETLIST.format(vin=k / count, r1=1000, r2=1000, r3=1000) + ".op\n.print op v(a) v(b)\n.end\n"
            )
            begun = time.perf_counter()
            subprocess.run(["ngspice", "-b", "-n", str(file)], capture_output=True, check=True)
            seconds += time.perf_counter() - begun
    return seconds / count


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rows", type=int, default=2000)
    parser.add_argument("--processes", type=int, default=20)
    parser.add_argument("--pool", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    given = parser.parse_args()
    for _ in range(given.repeats):
        one, other = kept(given.rows), process_each(given.processes)
        pool = kept(given.rows, given.pool)
        print(f"kept {1e3 * one:.3f} ms, {given.pool} kept {1e3 * pool:.3f} ms, a process each {1e3 * other:.1f} ms")
        print(f"ratio {other / one:.0f}, of the pool {other / pool:.0f}")


if __name__ == "__main__":
    main()
