"""`{public-names} PACKAGE`: one entry for each public name of a package, and links to them from every page."""

from __future__ import annotations

import importlib
import inspect
import re
import typing
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

from docutils import nodes
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.errors import ExtensionError
from sphinx.transforms.post_transforms import SphinxPostTransform
from sphinx.util.docutils import SphinxDirective

PAGES = Path(__file__).parents[1] / "reference"
_DIRECTIVE = re.compile(r"^```\{public-names\} (\S+)$", re.MULTILINE)
_NAME = re.compile(r"(?:blackprop\.|bp\.)?([A-Za-z_][\w.]*)(?:\(.*\))?", re.DOTALL)


def setup(app: Sphinx) -> None:
    app.add_directive("public-names", PublicNames)
    app.add_post_transform(LinkedNames)
    app.connect("env-check-consistency", _check)


@cache
def packages() -> dict[str, str]:
    """Each package of the reference, nearest to the root first, and its page."""
    found = {name: page.stem for page in sorted(PAGES.glob("*.md")) for name in _DIRECTIVE.findall(page.read_text())}
    return dict(sorted(found.items(), key=lambda item: (item[0].count("."), item[0])))


def imported(package: str) -> ModuleType:
    """The module that users import as `package`, which may be an attribute of the package above it."""
    try:
        return importlib.import_module(package)
    except ModuleNotFoundError:
        head, _, last = package.rpartition(".")
        return getattr(imported(head), last)


def listed(module: ModuleType) -> list[str]:
    """The names that a module lists, or defines where it has no list."""
    own = [
        name
        for name, value in vars(module).items()
        if not name.startswith("_") and getattr(value, "__module__", None) == module.__name__
    ]
    return list(getattr(module, "__all__", own))


@cache
def homes() -> dict[int, str]:
    """Each public object by its id, with the name of its entry: in the package nearest to the root that lists it."""
    found: dict[int, str] = {}
    for package in packages():
        module = imported(package)
        for name in listed(module):
            found.setdefault(id(getattr(module, name)), f"{package}.{name}")
    return found


class PublicNames(SphinxDirective):
    """The docstring of a package, and one entry for each of its names; names with an entry elsewhere are linked."""

    required_arguments: ClassVar[int] = 1

    def run(self) -> list[nodes.Node]:
        package = self.arguments[0]
        module = imported(package)
        here, elsewhere = [], []
        for name in listed(module):
            home = homes()[id(getattr(module, name))]
            (here if home == f"{package}.{name}" else elsewhere).append(home)
        text = ["````{eval-rst}", f".. py:module:: {package}", ""]
        for home in here:
            text += _entry(home, getattr(module, home.rpartition(".")[2]))
        text += ["````", ""]
        text = _table(module, here) + text
        if elsewhere:
            links = ", ".join(f"{{py:obj}}`{home} <{home}>`" for home in elsewhere)
            text += [f"Also listed here: {links}.", ""]
        return self.parse_text_to_nodes("\n".join(text))


def _table(module: ModuleType, here: list[str]) -> list[str]:
    """The docstring of the package, and each name with the first sentence that is said of it."""
    rows = [
        f"| {{py:obj}}`{home.rpartition('.')[2]} <{home}>` | {_summary(getattr(module, home.rpartition('.')[2]))} |"
        for home in here
        if not inspect.ismodule(getattr(module, home.rpartition(".")[2]))
    ]
    said = (inspect.getdoc(module) or "").splitlines()
    return [*said, "", "| name | |", "| --- | --- |", *rows, ""] if rows else [*said, ""]


def _summary(value: Any) -> str:
    if not (inspect.isclass(value) or inspect.isroutine(value)):
        return "the alias of a type" if _is_alias(value) else f"a constant, `{type(value).__name__}`"
    text = " ".join((inspect.getdoc(value) or "").split("\n\n")[0].split())
    sentence = re.match(r"(?:`[^`]*`|[^`])*?[.:;](?=\s|$)", text)
    return (sentence[0] if sentence else text).rstrip(".:;").replace("|", "\\|")


def _entry(name: str, value: Any) -> list[str]:
    if inspect.ismodule(value):
        if name not in packages():
            raise ExtensionError(f"{name} is public and has no page: write one in docs/reference")
        return []
    if inspect.isclass(value):
        kind = "autoexception" if issubclass(value, BaseException) else "autoclass"
        return [f".. {kind}:: {name}", "   :members:", "   :show-inheritance:", ""]
    if inspect.isroutine(value):
        return [f".. autofunction:: {name}", ""]
    kind = [] if _is_alias(value) else [f"   :type: {type(value).__name__}"]
    told = repr(value).replace("collections.abc.", "").replace("torch.Tensor", "Tensor")
    shown = [f"   :value: {told}"] if len(told) < 300 else []
    return [f".. py:data:: {name.rpartition('.')[2]}", *kind, *shown, ""]


def _is_alias(value: Any) -> bool:
    return typing.get_origin(value) is not None


def _check(app: Sphinx, env: BuildEnvironment) -> None:
    """Every public name has its entry in the built reference."""
    del app
    entries = env.domains["py"].objects  # pyright: ignore[reportAttributeAccessIssue]
    missing = [name for name in homes().values() if name not in entries]
    if missing:
        raise ExtensionError(f"public names without an entry in the reference: {', '.join(missing)}")


class LinkedNames(SphinxPostTransform):
    """Code in a text that is the name of a public object becomes a link to its entry."""

    default_priority = 5  # before Sphinx resolves references

    def run(self, **kwargs: Any) -> None:
        del kwargs
        for literal in list(self.document.findall(nodes.literal)):
            target = _meant(literal.astext())
            inside = literal.parent
            if target is None or isinstance(inside, nodes.reference | nodes.title | pending_xref):
                continue
            link = pending_xref(
                "", refdomain="py", reftype="obj", reftarget=target, refdoc=self.env.docname, refwarn=False
            )
            literal.replace_self(link)
            link += literal


def _meant(text: str) -> str | None:
    match = _NAME.fullmatch(text)
    if match is None:
        return None
    written = match[1].rstrip(".")
    whole = f"blackprop.{written}"
    if whole in set(homes().values()):
        return whole if text.startswith(("bp.", "blackprop.")) or written[:1].isupper() else None
    return _by_last_part().get(written) if written[:1].isupper() and not written.isupper() else None


@cache
def _by_last_part() -> dict[str, str | None]:
    """Names of classes without their package, where one object alone has the name."""
    found: dict[str, str | None] = {}
    for home in homes().values():
        last = home.rpartition(".")[2]
        found[last] = None if last in found else home
    return found
