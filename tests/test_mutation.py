"""The mutation run: what is damaged, and that a test which notices is told from one that does not."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"

SOURCE = '''"""A text: 1 + 1."""

from __future__ import annotations

LIMIT = 3


class Thing:
    """Another."""

    def __repr__(self) -> str:
        return "Thing" + 1 * "x"

    def grow(self, by: int = 2) -> int:
        if not by < LIMIT and self.alive:
            raise ValueError(f"{by + 1} is too much")
        self.size = max(self.size, by)
        self.told(self.size, 1.5, loud=True)
        return -self.size if by else self.size @ by
'''


@pytest.fixture
def operators(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import mutation_operators

    yield mutation_operators
    sys.modules.pop("mutation_operators")


def test_each_kind_of_damage_is_done_in_one_place_and_leaves_a_program(operators):
    found = operators.mutants("thing.py", SOURCE.encode())
    kinds = {mutant.kind for mutant in found}
    assert kinds >= {
        *("comparison", "not dropped", "and, or", "condition dropped", "constant", "statement removed", "early return"),
        *("arguments swapped", "argument dropped", "condition negated", "sign dropped", "operands swapped", "name"),
    }
    whole = ast.dump(ast.parse(SOURCE))
    for mutant in found:
        damaged = mutant.applied(SOURCE.encode())
        assert ast.dump(ast.parse(damaged)) != whole
        lines = [(a, b) for a, b in zip(SOURCE.splitlines(), damaged.decode().splitlines(), strict=True) if a != b]
        assert len(lines) == 1
        assert "repr" not in lines[0][0]
        assert "text" not in lines[0][0]
        assert "Thing" not in lines[0][0]
    assert any(b"if by < LIMIT" in m.applied(SOURCE.encode()).replace(b"(by < LIMIT)", b"by < LIMIT") for m in found)
    assert not any(b"{by - 1}" in mutant.applied(SOURCE.encode()) for mutant in found)


def test_a_mutant_is_met_by_the_tests_that_run_its_lines(operators):
    found = operators.mutants("thing.py", SOURCE.encode())
    removed = next(m for m in found if m.kind == "statement removed" and "told" in SOURCE.splitlines()[m.line - 1])
    assert (removed.first, removed.last) == (18, 18)
    default = next(m for m in found if m.kind == "constant" and "grow" in SOURCE.splitlines()[m.line - 1])
    assert (default.first, default.last) == (14, 19)  # whoever calls the function may depend on it
    module = next(m for m in found if m.line == 5)
    assert module.last >= 19


def test_a_yield_that_never_runs_is_met_by_the_tests_of_its_function(operators):
    """It makes a procedure of the function, and another thing without it."""
    source = "LIMIT = 3\n\n\ndef ask(x):\n    del x\n    return\n    yield\n"
    (removed,) = (m for m in operators.mutants("thing.py", source.encode()) if m.line == 7)
    assert removed.kind == "statement removed"
    assert (removed.first, removed.last) == (4, 7)


def test_places_are_counted_in_bytes(operators):
    source = 'a = "θσ"; b = 1\n'.encode()
    assert {mutant.applied(source).decode() for mutant in operators.mutants("a.py", source)} == {
        'a = "θσ"; b = (2)\n',
        'a = "θσ"; b = (0)\n',
    }
