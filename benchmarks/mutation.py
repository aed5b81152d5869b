"""Do the tests bite? The core is damaged in one place at a time, and the tests that run that place must notice.

    .venv/bin/python benchmarks/mutation.py --count 200 --seed 1 --output mutation.json

All mutants of the files in `FILES` are listed (`mutation_operators.py`), and `--count` of them are drawn from `--seed`,
in proportion to the number of each file. The checkout is not changed: source and tests are copied to a temporary
folder, and the copy is damaged. One process imports PyTorch and pytest once; each mutant is a fork of it, which imports
the damaged package.

Tracing finds once which test runs which line (kept in `--traces`, and found again for a test file or a source that has
changed). A mutant meets the tests that run its lines, the shortest first, until one fails or `--seconds` of them are
done. A test that fails kills it, and so does `--limit` times the time that its tests should take.

Mutants that no test can tell, since they do the same, are named with a reason in `mutation_equivalent.txt`.
"""

from __future__ import annotations

import argparse
import contextlib
import difflib
import hashlib
import json
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import threading
import time
import traceback
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from mutation_operators import Mutant, mutants

ROOT = Path(__file__).resolve().parents[1]
EQUIVALENT = Path(__file__).with_name("mutation_equivalent.txt")
COPIED = ("src", "tests", "examples", "benchmarks", "pyproject.toml")
OFTEN = 30  # calls of a function in a test, after which it has been seen
WARM = (
    "numpy",
    "torch",
    "torch.func",
    "torch.utils.checkpoint",
    "hypothesis",
    "msgpack",
    "zmq",
    "multiprocessing.pool",
)
WARM += ("accelerate", "rich.console", "tyro", "sklearn.datasets")

CURVES = ("_calibration", "_spectra", "_sweep", "_trust", "_curves", "_range", "_displacement", "_drift")

# The files that are damaged, and the test files that are about each; of two patterns the later holds.
FILES = {
    "estimators/**/_*.py": "estimators* contractions layer_order invariants",
    "estimators/memory/_directional_memory.py": "directional_memory* estimators_asking",
    "estimators/memory/_hadamard.py": "directional_memory*",
    "estimators/_equilibrium.py": "resistive estimators*",
    "estimators/_euler.py": "euler",
    "surrogates/**/_*.py": "surrogates* contracts_surrogates layer_order invariants",
    "surrogates/least_squares/_streaming.py": "streaming surrogates* invariants",
    "surrogates/least_squares/_rules.py": "streaming surrogates*",
    "surrogates/_euler.py": "euler surrogates*",
    "surrogates/_monitor.py": "watching drift surrogates* checked*",
    "surrogates/_watch.py": "watching drift surrogates* twins",
    "surrogates/_model.py": "twins surrogates*",
    "surrogates/_twin.py": "twin* drift layer_order surrogates*",
    **{
        f"surrogates/calibration/{name}.py": "spectra curves trust displacements calibrat* checked* drift"
        for name in CURVES
    },
    "surrogates/calibration/_calibrated_response.py": "calibrat* checked* drift layer_order",
    "core/_ledger.py": "ledger* query layer layer_state handing_over",
    "core/_query.py": "query ledger* layer layer_order invariants",
    "nn/_*layer.py": "layer* checkpoints diagnostics converting ledger* drift",
    "nn/_state.py": "layer* checkpoints",
    "nn/_autograd.py": "layer*",
    "lab/remote/shared/_rounds.py": "lab_rounds lab_long_rounds lab_wire lab_server",
    "lab/remote/server/_journal.py": "lab_journal lab_sessions lab_server lab_faults",
    "lab/remote/server/_entry.py": "lab_journal lab_sessions lab_server lab_faults",
    "experiments/records/_run_folder.py": "run_folder* interrupted_runs trials",
}


class Chosen:
    """Runs these tests alone, in this order, and says which one failed."""

    def __init__(self, tests: list[str]) -> None:
        self.places = {test: i for i, test in enumerate(tests)}
        self.failed = ""

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        items[:] = sorted((i for i in items if i.nodeid in self.places), key=lambda i: self.places[i.nodeid])

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self.failed = report.nodeid


class Tracer:
    """Which lines of the damaged files each test runs, and for how many seconds of the processor."""

    def __init__(self, copy: Path, files: Iterable[str]) -> None:
        self.names = {str(copy / "src/blackprop" / file): file for file in files}
        self.found: dict[str, dict[str, Any]] = {}
        self.lines: dict[str, set[int]] = {}
        self.calls: Counter[Any] = Counter()

    def _call(self, frame: Any, event: str, argument: Any) -> Any:
        del event, argument
        file = self.names.get(frame.f_code.co_filename)
        if file is None:
            return None
        self.calls[frame.f_code] += 1
        if self.calls[frame.f_code] > OFTEN:
            return None
        lines = self.lines.setdefault(file, set())

        def line(frame: Any, event: str, argument: Any) -> Any:
            del event, argument
            lines.add(frame.f_lineno)
            return line

        return line(frame, "", None)

    @pytest.hookimpl(hookwrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterable[None]:
        self.lines, start = {}, time.process_time()
        self.calls.clear()
        threading.settrace(self._call)
        sys.settrace(self._call)
        yield
        sys.settrace(None)
        threading.settrace(None)  # pyright: ignore[reportArgumentType]
        lines = {file: sorted(lines) for file, lines in self.lines.items()}
        self.found[item.nodeid] = {"seconds": time.process_time() - start, "lines": lines}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed or report.skipped:  # neither tells anything of a mutant
            self.found.pop(report.nodeid, None)
            self.lines = {}


def forked(copy: Path, work: Callable[[], dict[str, Any]], processor: float, patience: float) -> dict[str, Any]:
    """What `work` returns in a fork of this process, with the package of `copy`; `timed out` past so many seconds."""
    answer, log = copy / "answer.json", copy / "log.txt"
    answer.unlink(missing_ok=True)
    child = os.fork()
    if not child:
        os.setsid()
        with log.open("w") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
        try:
            resource.setrlimit(resource.RLIMIT_CPU, (int(processor) + 1, int(processor) + 5))
            os.chdir(copy)
            os.environ["PYTHONPATH"] = str(copy / "src")
            sys.path[:] = [str(copy / "src"), *(p for p in sys.path if not p.endswith("/src"))]
            answer.write_text(json.dumps(work()))
        except BaseException:  # a fork must not go on as its parent does
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(0)
    end = time.monotonic() + patience
    while os.waitpid(child, os.WNOHANG)[0] == 0:
        if time.monotonic() > end:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child, signal.SIGKILL)
            os.waitpid(child, 0)
            break
        time.sleep(0.02)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)  # servers and workers that a test has left
    return json.loads(answer.read_text()) if answer.exists() else {"by": "timed out"}


def tested(files: list[str], plugin: object, *options: str) -> int:
    quiet = ["-q", "-p", "no:cacheprovider", "-W", "ignore::pytest.PytestAssertRewriteWarning"]
    return int(pytest.main([*quiet, *options, *files], plugins=[plugin]))


def traced(copy: Path, files: list[str], tests: list[str], store: Path | None) -> dict[str, dict[str, Any]]:
    """For each test: its seconds, and the lines of each file that it runs."""

    def digest(path: Path) -> str:
        return hashlib.sha256(path.read_bytes()).hexdigest() if path.exists() else ""

    kept = json.loads(store.read_text()) if store is not None and store.exists() else {}
    found: dict[str, dict[str, Any]] = {}
    for test in tests:
        if any(digest(copy / path) != was for path, was in kept.get(test, {"of": {test: ""}})["of"].items()):
            tracer = Tracer(copy, files)

            def work(test: str = test, tracer: Tracer = tracer) -> dict[str, Any]:
                return {"code": tested([test], tracer, "--tb=short"), "tests": tracer.found}

            answer = forked(copy, work, 1800, 3600)
            if answer.get("code") != 0:
                raise SystemExit(f"{test} fails without a mutant:\n{(copy / 'log.txt').read_text()[-3000:]}")
            run = {file for trace in answer["tests"].values() for file in trace["lines"]}
            of = [test, *(f"src/blackprop/{file}" for file in sorted(run))]
            kept[test] = {"of": {path: digest(copy / path) for path in of}, "tests": answer["tests"]}
            print(f"traced {test}: {len(answer['tests'])} tests", file=sys.stderr, flush=True)
            if store is not None:
                store.write_text(json.dumps(kept))
        found |= kept[test]["tests"]
    return found


def covering(mutant: Mutant, tests: list[str], traces: dict[str, dict[str, Any]], seconds: float) -> list[str]:
    """The tests that run the mutant's lines, the shortest first, for so many seconds."""
    near = [
        (trace["seconds"], name)
        for name, trace in traces.items()
        if name.split("::")[0] in tests
        and any(mutant.first <= line <= mutant.last for line in trace["lines"].get(mutant.path, ()))
    ]
    chosen, spent = [], 0.0
    for cost, name in sorted(near):
        spent += cost
        if chosen and spent > seconds:
            break
        chosen.append(name)
    return chosen


def drawn(found: dict[str, list[Mutant]], count: int, seed: int) -> list[Mutant]:
    """So many of them, of each file in proportion."""
    total, chosen = sum(map(len, found.values())), []
    for file, some in sorted(found.items()):
        stream = random.Random(f"{seed} {file}")
        chosen += stream.sample(some, min(len(some), round(count * len(some) / total)))
    return chosen


def diff(source: bytes, mutant: Mutant) -> str:
    """The lines that differ."""
    old, new = (text.decode().splitlines() for text in (source, mutant.applied(source)))
    lines = difflib.unified_diff(old, new, lineterm="", n=0)
    return "\n".join(line for line in lines if line[0] in "+-" and line[:3] not in ("+++", "---"))


def equivalents() -> dict[str, str]:
    """The reason of each mutant that does the same, by its file and difference."""
    lines = EQUIVALENT.read_text().splitlines() if EQUIVALENT.exists() else []
    parts = [line.split(" | ") for line in lines if line and not line.startswith("#")]
    return {" | ".join(part[:3]): part[3] for part in parts}


def label(path: str, difference: str) -> str:
    """The beginning of a line in the file of equivalents: the file, the lines before, the lines after."""
    old, new = (" ".join(ln[1:].strip() for ln in difference.splitlines() if ln[0] == sign) for sign in "-+")
    return f"{path} | {old} | {new}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=200, help="mutants, about (default 200)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="*", default=[""], help="files whose path contains one of these")
    parser.add_argument("--seconds", type=float, default=30, help="of tests for one mutant (default 30)")
    parser.add_argument("--limit", type=float, default=5, help="times the time of its tests (default 5)")
    parser.add_argument("--traces", type=Path, help="file in which to keep which test runs which line")
    parser.add_argument("--again", type=Path, nargs="*", default=[], help="only what survived in these results")
    parser.add_argument("--output", type=Path, help="JSON file of the results; what stands there is not run again")
    asked = parser.parse_args()
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"  # none is needed, and they take time to load
    for name in WARM:
        with contextlib.suppress(ImportError):
            __import__(name)
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder)
        for name in COPIED:
            (shutil.copytree if (ROOT / name).is_dir() else shutil.copy)(ROOT / name, copy / name)
        report(copy, asked)


def report(copy: Path, asked: argparse.Namespace) -> None:
    package = copy / "src/blackprop"
    sources: dict[str, list[str]] = {}
    for pattern, names in FILES.items():
        tests = sorted({str(t.relative_to(copy)) for n in names.split() for t in copy.glob(f"tests/test_{n}.py")})
        for path in sorted(package.glob(pattern)):
            sources[str(path.relative_to(package))] = tests
    files = sorted(sources)
    sources = {file: tests for file, tests in sources.items() if any(part in file for part in asked.only)}
    contents = {file: (package / file).read_bytes() for file in sources}
    found = {file: mutants(file, content) for file, content in contents.items()}
    tests = sorted({test for some in sources.values() for test in some})
    traces, same = traced(copy, files, tests, asked.traces), equivalents()
    results: list[dict[str, Any]] = []
    if asked.output is not None and asked.output.exists():
        results = json.loads(asked.output.read_text())["mutants"]
    done = {(one["file"], one["line"], one["diff"]) for one in results}
    before = [one for file in asked.again for one in json.loads(file.read_text())["mutants"]]
    alive = {label(one["file"], one["diff"]) for one in before if one["verdict"] == "survived"}
    chosen = [m for some in found.values() for m in some] if asked.again else drawn(found, asked.count, asked.seed)
    for mutant in chosen:
        difference = diff(contents[mutant.path], mutant)
        if asked.again and label(mutant.path, difference) not in alive:
            continue
        if (mutant.path, mutant.line, difference) in done:
            continue
        start, tests = time.monotonic(), covering(mutant, sources[mutant.path], traces, asked.seconds)
        reason = same.get(label(mutant.path, difference))
        by = "" if reason else killer(copy, mutant, contents[mutant.path], tests, traces, asked.limit)
        verdict = "equivalent" if reason else "killed" if by else "survived"
        line = {"file": mutant.path, "line": mutant.line, "kind": mutant.kind, "diff": difference, "verdict": verdict}
        results.append({**line, "by": by or reason, "tests": len(tests), "seconds": time.monotonic() - start})
        print(f"{verdict:10} {mutant.path}:{mutant.line} {mutant.kind} {by}", file=sys.stderr, flush=True)
        if asked.output is not None:
            asked.output.write_text(json.dumps({"seed": asked.seed, "mutants": results}, indent=1))
    show(results, {file: len(some) for file, some in found.items()})


def killer(copy: Path, mutant: Mutant, source: bytes, tests: list[str], traces: dict[str, Any], limit: float) -> str:
    """The test that notices; empty where none does. The file with the most of the short tests comes first, alone."""
    target = copy / "src/blackprop" / mutant.path
    first = Counter(test.split("::")[0] for test in tests[:5]).most_common(1)
    name = first[0][0] if first else ""
    stages = [[test for test in tests if test.startswith(f"{name}::") == now] for now in (True, False)]
    target.write_bytes(mutant.applied(source))
    try:
        for stage in filter(None, stages):
            chosen = Chosen(stage)
            patience = limit * sum(traces[test]["seconds"] for test in stage) + 20

            def work(stage: list[str] = stage, chosen: Chosen = chosen) -> dict[str, Any]:
                files = sorted({test.split("::")[0] for test in stage})
                code = tested(files, chosen, "-x", "--tb=line")
                return {"by": chosen.failed or ("" if code == 0 else f"pytest ended with {code}")}

            if by := forked(copy, work, patience, 10 * patience)["by"]:
                return by
        return ""
    finally:
        target.write_bytes(source)


def show(results: list[dict[str, Any]], sizes: dict[str, int]) -> None:
    table: dict[str, Counter[str]] = defaultdict(Counter)
    for result in results:
        for row in (result["file"], "all"):
            table[row][result["verdict"]] += 1
    print(f"{'file':40}{'possible':>10}{'drawn':>8}{'killed':>8}{'equivalent':>12}{'survived':>10}")
    for file, counts in sorted(table.items(), key=lambda row: (row[0] == "all", row[0])):
        numbers = f"{sizes.get(file, sum(sizes.values())):>10,}{counts.total():>8}{counts['killed']:>8}"
        print(f"{file:40}{numbers}{counts['equivalent']:>12}{counts['survived']:>10}")
    for result in results:
        if result["verdict"] != "killed":
            place = f"{result['file']}:{result['line']} ({result['tests']} tests)"
            print(f"\n{result['verdict']} {place} {result['by']}\n{result['diff']}")


if __name__ == "__main__":
    main()
