"""Names as people type them: the one that is meant, or a sentence that lists what there is."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping


class UnknownName(ValueError):
    """A name of which there is none, with what may have been meant."""


def resolve(what: str, name: str, known: Iterable[str], others: Mapping[str, str] | None = None) -> str:
    """The one of `known` that `name` is, whatever its case, hyphens and underscores; `others` are further names.

    Raises `UnknownName`: that there is no such `what`, the names nearest to it, and all there are.
    """
    known = list(known)
    if name in known:
        return name
    plain = {
        **{_plain(each): each for each in known},
        **{_plain(k): v for k, v in (others or {}).items() if v in known},
    }
    if (found := plain.get(_plain(name))) is not None:
        return found
    near = list(dict.fromkeys(plain[each] for each in difflib.get_close_matches(_plain(name), plain, 3, 0.6)))
    meant = f"; did you mean {' or '.join(near)}?" if near else "."
    raise UnknownName(f"there is no {what} {name!r}{meant} There are: {', '.join(known)}")


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())
