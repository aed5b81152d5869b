"""Words that documents, docstrings, comments and messages avoid, so that readers of every country follow them.

Each ban is a pattern and its way out. Exceptions are listed one by one, each with its reason.
"""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# Folders and files of src/blackprop whose prose is still to be rewritten. Take a line away once its folder passes.
NOT_YET: tuple[str, ...] = ()
# Functions whose texts the user reads, besides `raise`.
SPEAKING = {"warn", "settle", "require", "note"}
BANS = {
    r"\bwhat\b(?![^.]*\?)": "name the thing: 'the reading', 'the rows that …'; or use which or how",
    r"\b(?:who|whom)ever\b|\bwhatever\b(?! the\b)": "name the person or the thing: 'the caller', 'any value'",
    r"(?<!\ball or )\b(?:nothing|nobody|no one)\b": "deny the verb: 'does not', 'makes no queries'",
    r"(?<!\bthere )\b(?:is|are|was|were) no\b(?! longer| more| less| larger| smaller| better)": "write 'is not a'",
    r"(?:^|[.:;] )Who\b|\b(?:those|one|him) who\b": "name the person",
    r"\bas if it had\b|\bis no matter\b|\botherwise than\b|\bnone the less\b": "use the usual words",
    r"\basks? (?:no|of)\b": "write 'makes no queries'",
}
# (where it stands, a part of the sentence): the reason.
EXCEPTIONS: dict[tuple[str, str], str] = {}


def without_code(text: str) -> str:
    """`text` without code blocks, quoted code, doctests and addresses."""
    text = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    text = re.sub(r"^\s*(?:>>>|\.\.\.) .*$", "", text, flags=re.MULTILINE)
    return re.sub(r"`[^`]*`", "`", text)


def sentences(text: str) -> Iterator[str]:
    for paragraph in re.split(r"\n\s*\n|\n\s*[-*|#] |\n\d+\. ", without_code(text)):
        yield from re.split(r"(?<=[.?!]) +(?=[A-Z*`])", " ".join(paragraph.split()))


def messages(tree: ast.AST) -> Iterator[str]:
    """The texts of errors, of warnings and of the contract tests' claims, a gap for each formatted value."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Raise) and not (
            isinstance(node, ast.Call) and ast.unparse(node.func).rpartition(".")[2] in SPEAKING
        ):
            continue
        for part in ast.walk(node):
            if isinstance(part, ast.JoinedStr):
                yield "".join(str(v.value) if isinstance(v, ast.Constant) else "`" for v in part.values)
            elif isinstance(part, ast.Constant) and isinstance(part.value, str):
                yield part.value


def prose(path: Path) -> Iterator[str]:
    """The docstrings, messages and comments of a module, or the text of a document."""
    text = path.read_text()
    if path.suffix == ".md":
        yield text
        return
    tree = ast.parse(text)
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield ast.get_docstring(node) or ""
    yield from messages(tree)
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            yield token.string.lstrip("# ")


def findings(path: Path) -> list[tuple[str, str]]:
    """(sentence, way out) for each banned word in `path`."""
    flags = re.IGNORECASE
    return [
        (sentence, way_out)
        for text in prose(path)
        for sentence in sentences(text)
        for ban, way_out in BANS.items()
        if re.search(ban, sentence, flags if "Who" not in ban else re.NOFLAG)
    ]


def places() -> list[str]:
    documents = [ROOT / name for name in ("README.md", "ARCHITECTURE.md", "CONTRIBUTING.md")]
    documents += [p for p in ROOT.glob("docs/**/*.md") if "decisions" not in p.parts]
    source = ROOT / "src/blackprop"
    modules = [p for p in source.glob("**/*.py") if not p.relative_to(source).as_posix().startswith(NOT_YET)]
    return sorted(p.relative_to(ROOT).as_posix() for p in [*documents, *modules])


@pytest.mark.parametrize("place", places())
def test_plain_words(place: str):
    allowed = [part for where, part in EXCEPTIONS if where == place]
    found = [f"{s}\n    → {w}" for s, w in findings(ROOT / place) if not any(part in s for part in allowed)]
    assert not found, "\n".join([f"{place}:", *found])


def test_exceptions_are_few_and_in_use():
    assert len(EXCEPTIONS) < 20
    for (place, part), reason in EXCEPTIONS.items():
        assert reason
        assert any(part in sentence for sentence, _ in findings(ROOT / place)), f"no longer needed: {place}, {part!r}"


@pytest.mark.parametrize(
    "text",
    [
        "What it declares counts.",
        "It finds what is declared.",
        "Whoever asks waits.",
        "It asks nothing.",
        "A switch is no gate.",
        "Who calls it pays.",
    ],
)
def test_bans_find_what_they_ban(text: str, tmp_path: Path):
    (tmp_path / "page.md").write_text(text)
    assert findings(tmp_path / "page.md")


@pytest.mark.parametrize(
    "text", ["There is no default.", "What does a step cost?", "Run `what is` here.", "It is no longer so."]
)
def test_bans_leave_plain_words_alone(text: str, tmp_path: Path):
    (tmp_path / "page.md").write_text(text)
    assert not findings(tmp_path / "page.md")
