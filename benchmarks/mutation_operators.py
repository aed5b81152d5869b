"""The ways in which `mutation.py` damages a source file, one place at a time.

Types, texts (messages, `repr`, docstrings), assertions and decorators are left alone: tests are not about them.
"""

from __future__ import annotations

import ast
import copy
from collections.abc import Iterator
from dataclasses import dataclass

BINARY = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.Mult,
    ast.Pow: ast.Mult,
    ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
    ast.BitXor: ast.BitOr,
    ast.LShift: ast.RShift,
    ast.RShift: ast.LShift,
}
COMPARED = {
    ast.Lt: (ast.LtE, ast.GtE),
    ast.LtE: (ast.Lt, ast.Gt),
    ast.Gt: (ast.GtE, ast.LtE),
    ast.GtE: (ast.Gt, ast.Lt),
    ast.Eq: (ast.NotEq,),
    ast.NotEq: (ast.Eq,),
    ast.Is: (ast.IsNot,),
    ast.IsNot: (ast.Is,),
    ast.In: (ast.NotIn,),
    ast.NotIn: (ast.In,),
}
NAMES = {"min": "max", "any": "all", "sum": "mean", "clamp_min": "clamp_max", "zeros": "ones", "floor": "ceil"}
NAMES |= {other: name for name, other in NAMES.items()}
BUILT_IN = ("min", "max", "any", "all")
ALIKE = ("min", "max", "equal")  # whose arguments may be swapped
LABELS = ("strict", "stacklevel")  # arguments that assert something, or say where a warning comes from
TEXTS = ("__repr__", "extra_repr", "__str__")
SAID = ("warn", "info", "cast", "TypeVar")  # calls whose arguments are texts and types
UNSEEN = ("annotation", "returns", "decorator_list", "bases", "keywords")  # fields of definitions


@dataclass(frozen=True)
class Mutant:
    """The bytes `start` to `end` of a file replaced by `text`; `first` to `last` are the lines whose tests may tell."""

    path: str
    kind: str
    line: int
    start: int
    end: int
    text: str
    first: int
    last: int

    def applied(self, source: bytes) -> bytes:
        return source[: self.start] + self.text.encode() + source[self.end :]


def mutants(path: str, source: bytes) -> list[Mutant]:
    """All of them, in the order of the file."""
    starts = [0]
    for line in source.splitlines(keepends=True):
        starts.append(starts[-1] + len(line))

    def place(node: ast.stmt | ast.expr) -> tuple[int, int]:
        assert node.end_lineno is not None
        assert node.end_col_offset is not None
        return starts[node.lineno - 1] + node.col_offset, starts[node.end_lineno - 1] + node.end_col_offset

    found: dict[tuple[int, int, str], Mutant] = {}
    for node, kind, new, lines in _changes(ast.parse(source), (1, len(starts))):
        text = new if isinstance(new, str) else f"({ast.unparse(new)})"
        start, end = place(node)
        if text.encode() not in (source[start:end], b"(" + source[start:end] + b")"):
            found.setdefault((start, end, text), Mutant(path, kind, node.lineno, start, end, text, *lines))
    return sorted(found.values(), key=lambda m: (m.start, m.end, m.text))


Change = tuple[ast.stmt | ast.expr, str, ast.expr | str, tuple[int, int]]


def _changes(node: ast.AST, lines: tuple[int, int]) -> Iterator[Change]:
    if isinstance(node, ast.Assert | ast.Import | ast.ImportFrom | ast.JoinedStr):
        return
    if isinstance(node, ast.keyword) and node.arg in LABELS:
        return
    if isinstance(node, ast.FunctionDef):
        if node.name in TEXTS:
            return
        lines = (node.lineno, node.end_lineno or node.lineno)
    elif isinstance(node, ast.stmt) and not isinstance(node, ast.ClassDef):
        body = getattr(node, "body", None)
        if _runs(lines) and not _yields(node):
            lines = (node.lineno, body[0].lineno - 1 if body else node.end_lineno or node.lineno)
            lines = (lines[0], max(lines))
        yield from ((node, kind, text, lines) for kind, text in _statement(node))
    elif isinstance(node, ast.expr):
        yield from ((node, kind, new, lines) for kind, new in _expression(node))
    if isinstance(node, ast.Raise) or (isinstance(node, ast.Call) and _name(node) in SAID):
        return
    whole = lines
    for field, value in ast.iter_fields(node):
        if field in UNSEEN and isinstance(node, ast.stmt | ast.arg):
            continue
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.AST) and not _is_text(child):
                yield from _changes(child, whole)


def _runs(lines: tuple[int, int]) -> bool:
    """Whether these are the lines of a function, in which a statement's own lines tell who runs it."""
    return lines[0] > 1 or lines[1] == 0


def _yields(node: ast.stmt) -> bool:
    """Whether the function may be a generator by this statement, though it never runs."""
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Yield | ast.YieldFrom)


def _is_text(node: ast.AST) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def _name(call: ast.Call) -> str:
    return getattr(call.func, "attr", getattr(call.func, "id", ""))


def _statement(node: ast.stmt) -> Iterator[tuple[str, str]]:
    """Removed; or with a return in its place, so that what follows is not done."""
    targets = getattr(node, "targets", [getattr(node, "target", None)])
    if isinstance(node, ast.Expr):
        yield "statement removed", "pass"
        if not isinstance(node.value, ast.Yield | ast.YieldFrom):
            yield "early return", "return"
    written = isinstance(node, ast.Assign | ast.AugAssign) and not all(isinstance(t, ast.Name) for t in targets)
    if written or isinstance(node, ast.Raise | ast.Continue | ast.Break):
        yield "statement removed", "pass"
    elif isinstance(node, ast.Return) and node.value is None:
        yield "return removed", "pass"
    if isinstance(node, ast.AugAssign):
        yield "operator", f"{ast.unparse(node.target)} = {ast.unparse(node.value)}"
        if other := BINARY.get(type(node.op)):
            yield "operator", ast.unparse(ast.AugAssign(node.target, other(), node.value))


def _expression(node: ast.expr) -> Iterator[tuple[str, ast.expr]]:
    if isinstance(node, ast.BinOp):
        if isinstance(node.op, ast.MatMult):
            yield "operands swapped", ast.BinOp(node.right, node.op, node.left)
        elif other := BINARY.get(type(node.op)):
            yield "operator", ast.BinOp(node.left, other(), node.right)
    elif isinstance(node, ast.Compare):
        for i, op in enumerate(node.ops):
            for other in COMPARED[type(op)]:
                yield (
                    "comparison",
                    ast.Compare(node.left, [*node.ops[:i], other(), *node.ops[i + 1 :]], node.comparators),
                )
    elif isinstance(node, ast.BoolOp):
        yield "and, or", ast.BoolOp(ast.Or() if isinstance(node.op, ast.And) else ast.And(), node.values)
        for i in range(len(node.values)):
            rest = [*node.values[:i], *node.values[i + 1 :]]
            yield "condition dropped", rest[0] if len(rest) == 1 else ast.BoolOp(node.op, rest)
    elif isinstance(node, ast.UnaryOp):
        yield ("not dropped" if isinstance(node.op, ast.Not) else "sign dropped"), node.operand
    elif isinstance(node, ast.IfExp):
        yield "condition negated", ast.IfExp(ast.UnaryOp(ast.Not(), node.test), node.body, node.orelse)
    elif isinstance(node, ast.Constant):
        yield from (("constant", ast.Constant(value)) for value in _others(node.value))
    elif isinstance(node, ast.Call):
        yield from _call(node)


def _others(value: object) -> tuple[bool | float, ...]:
    if isinstance(value, bool):
        return (not value,)
    if isinstance(value, int):
        return value + 1, value - 1
    return (2 * value if value else 1.0,) if isinstance(value, float) else ()


def _call(node: ast.Call) -> Iterator[tuple[str, ast.expr]]:
    if _name(node) in SAID:
        return
    if len(node.args) > 1 and _name(node) not in ALIKE and not any(isinstance(a, ast.Starred) for a in node.args[:2]):
        yield "arguments swapped", ast.Call(node.func, [node.args[1], node.args[0], *node.args[2:]], node.keywords)
    for i, keyword in enumerate(node.keywords):
        if keyword.arg not in LABELS:
            yield "argument dropped", ast.Call(node.func, node.args, [*node.keywords[:i], *node.keywords[i + 1 :]])
    if (other := NAMES.get(_name(node))) and (isinstance(node.func, ast.Attribute) or _name(node) in BUILT_IN):
        func = copy.copy(node.func)
        setattr(func, "attr" if isinstance(func, ast.Attribute) else "id", other)
        yield "name", ast.Call(func, node.args, node.keywords)
