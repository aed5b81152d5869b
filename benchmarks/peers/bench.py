"""Beside its peers: the same work by this library and by the specialist of each device, in an environment for each.

    python benchmarks/peers/bench.py
    python benchmarks/peers/bench.py --peers reservoirpy --fresh

Makes an environment for each peer below `--folder`, runs its cases there in one process on one thread, the two in turn,
and writes the table and the chart of `docs/peers.md`. Peers that cannot be installed are named with the reason.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import sysconfig
import venv
from importlib.metadata import version
from pathlib import Path

HERE, ROOT = Path(__file__).parent, Path(__file__).parents[2]
# The packages of each peer. Its cases are a function of its name in cases.py.
PEERS = {
    "meshes": ["numba"],  # the naive way, and the floor, in PyTorch
    "reservoirpy": ["reservoirpy"],
    "snntorch": ["snntorch"],
    "badcrossbar": ["scipy", "sigfig", "pathvalidate"],
    "aihwkit-lightning": ["aihwkit-lightning"],
}
ALONE = {"badcrossbar": ["badcrossbar"]}  # installed without what it needs for its charts


def installed(peer: str, folder: Path, fresh: bool, limit: float) -> str | None:
    """Make the environment of a peer where it is not there; the reason where that fails."""
    mark, python = folder / peer / "ready", folder / peer / "bin" / "python"
    if mark.exists() and not fresh:
        return None
    venv.create(folder / peer, with_pip=True, clear=True)
    # PyTorch and Numba are those of this interpreter: pip finds them there, and installs what is missing.
    paths = sysconfig.get_paths(vars={"base": str(folder / peer), "platbase": str(folder / peer)})
    Path(paths["purelib"], "beside.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    pip = [python, "-m", "pip", "install", "--quiet", "-c", ROOT / "constraints.txt"]
    commands = [[*pip, f"torch=={version('torch').partition('+')[0]}", *PEERS[peer]]]
    commands += [[*pip, "--no-deps", *ALONE[peer]]] if peer in ALONE else []
    for command in commands:
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=limit, check=False)
        except subprocess.TimeoutExpired:
            return f"not installed within {limit:g} s"
        if done.returncode:
            lines = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
            return (lines or done.stderr.splitlines() or ["pip failed"])[-1].removeprefix("ERROR: ")
    mark.touch()
    return None


def measured(peer: str, folder: Path, seconds: float) -> list[dict[str, object]] | str:
    paths = os.pathsep.join(map(str, (ROOT / "src", ROOT / "benchmarks", HERE)))
    environment = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    command = [folder / peer / "bin" / "python", HERE / "cases.py", peer, str(seconds)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if done.returncode:
        return (done.stderr.strip().splitlines() or ["no reason given"])[-1]
    return json.loads(done.stdout.splitlines()[-1])


def table(rows: list[dict[str, object]], missing: dict[str, str]) -> str:
    lines = [
        "# Beside its peers",
        "",
        "The same work by this library and by the specialist of each device. Times in ms are medians of runs in turn,",
        "in one process on one thread. *Ratio* is the median of theirs ÷ ours: above 1 this library is faster.",
        "*Difference* is the greatest between the two answers, relative to the greatest answer. Made by",
        "`python benchmarks/peers/bench.py`.",
        "",
        "![Ratio of times, theirs over ours](peers.svg)",
        "",
        "| device | size | beside | ours, ms | theirs, ms | ratio | difference |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        difference = row["difference"]
        lines.append(
            f"| {row['what']} | {row['size']} | {row['peer']} "
            f"| {row['ours']:.3g} | {row['theirs']:.3g} | {row['ratio']:.2f} | "
            + ("another model" if difference is None else f"{difference:.0e}")
            + " |"
        )
    if missing:
        lines += ["", "Not measured:", ""] + [f"- {peer}: {reason}" for peer, reason in missing.items()]
    return "\n".join(lines) + "\n"


def chart(rows: list[dict[str, object]], path: Path) -> None:
    """Bars of the ratios on a logarithmic scale, in plain SVG."""
    import math  # noqa: PLC0415

    longest = max(len(f"{row['what']} {row['size']}: {row['peer']}") for row in rows)
    left, width, step = 20 + 7 * longest, 420, 20  # 7 px a letter at most
    most = max([10.0, *(float(str(row["ratio"])) for row in rows)])
    least = min([0.1, *(float(str(row["ratio"])) for row in rows)])

    def at(ratio: float) -> float:
        return left + width * math.log(ratio / least) / math.log(most / least)

    height = step * len(rows) + 40
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{left + width + 60}" height="{height}" '
        'font-family="sans-serif" font-size="12">',
        f'<rect width="100%" height="100%" fill="white"/><line x1="{at(1):.1f}" x2="{at(1):.1f}" y1="5" '
        f'y2="{height - 25}" stroke="black"/>',
    ]
    for n, row in enumerate(rows):
        ratio, y = float(str(row["ratio"])), 10 + step * n
        begin, end = sorted((at(1), at(ratio)))
        colour = "#2a7" if ratio >= 1 else "#c44"
        parts.append(
            f'<text x="{left - 8}" y="{y + 11}" text-anchor="end">{row["what"]} {row["size"]}: {row["peer"]}</text>'
        )
        parts.append(f'<rect x="{begin:.1f}" y="{y}" width="{max(1, end - begin):.1f}" height="14" fill="{colour}"/>')
        parts.append(f'<text x="{end + 4:.1f}" y="{y + 11}">{ratio:.2f}</text>')
    parts.append(f'<text x="{at(1):.1f}" y="{height - 8}" text-anchor="middle">theirs ÷ ours</text></svg>')
    path.write_text("\n".join(parts) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", nargs="+", choices=PEERS, default=list(PEERS))
    parser.add_argument("--folder", type=Path, default=ROOT / "runs" / "peers")
    parser.add_argument("--seconds", type=float, default=2.0, help="for each case")
    parser.add_argument("--limit", type=float, default=600.0, help="seconds for an installation")
    parser.add_argument("--fresh", action="store_true", help="make the environments again")
    parser.add_argument("--output", type=Path, default=ROOT / "docs" / "peers.md")
    args = parser.parse_args()
    rows: list[dict[str, object]] = []
    missing: dict[str, str] = {}
    for peer in args.peers:
        reason = installed(peer, args.folder, args.fresh, args.limit)
        found = reason if reason is not None else measured(peer, args.folder, args.seconds)
        if isinstance(found, str):
            missing[peer] = found
        else:
            rows += found
        print(peer, missing.get(peer, f"{len(found)} cases"), file=sys.stderr, flush=True)
    args.output.write_text(table(rows, missing))
    chart(rows, args.output.with_suffix(".svg"))


if __name__ == "__main__":
    main()
