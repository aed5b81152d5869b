"""Text from drivers and from other machines, made fit to be sent, logged and printed."""

from __future__ import annotations


def printable(text: object, most: int = 1000) -> str:
    """Return `text` on one line, at most `most` characters long, with control codes escaped.

    White space becomes single spaces. Characters that are not printable (terminal control codes, marks that reverse
    the direction of writing, lone surrogates) become backslash escapes, so the result can be encoded in UTF-8 and
    does not act on a terminal. Never raises an exception of `text.__str__`: the result then names that exception.
    """
    try:
        words = " ".join(str(text)[: 4 * most].split())
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # a driver's class may raise anything here
        words = f"(no text: its __str__ raised {type(error).__name__})"
    escaped = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in words[:most])
    return escaped[:most]


def error_text(error: BaseException, most: int = 1000) -> str:
    """Return the class and the text of an exception, as `ValueError: too hot`."""
    return printable(f"{type(error).__name__}: {printable(error, most)}", most)
