"""How a server is doing, asked over the connection that its clients use, and shown."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.table import Table

from blackprop.errors import ProtocolError
from blackprop.lab.remote.client._connection import Connection
from blackprop.lab.remote.shared import _messages as say
from blackprop.lab.wrappers._printable import printable

REFRESH = 1.0  # s
DEADLINE = 5.0  # s


def ask_status(connection: Connection, deadline: float = DEADLINE) -> dict[str, Any]:
    """Return the report of the server at the other end."""
    return connection.request(say.STATUS, say.REPORT, deadline)["report"]


def show_status(address: str, keys: Path | None, console: Console, *, once: bool) -> None:
    """Print the status once, or keep it on the screen until the user has seen enough."""
    connection = Connection(address, keys)
    try:
        status = render(ask_status(connection))
        if once:
            console.print(status)
            return
        with Live(status, console=console, auto_refresh=False) as live:
            while True:
                time.sleep(REFRESH)
                live.update(render(ask_status(connection)), refresh=True)
    except KeyboardInterrupt:
        return
    finally:
        connection.close()


def render(report: Mapping[str, Any]) -> RenderableType:
    """Return the report as tables: the server, its clients, its last faults.

    Raises `ProtocolError` for a report with missing or wrong fields. Text in it comes from another machine: control
    codes are escaped.
    """
    try:
        return _tables(report)
    except (AttributeError, IndexError, KeyError, OverflowError, TypeError, ValueError) as error:
        raise ProtocolError(f"the report of the server cannot be read: {type(error).__name__}") from error


def _tables(report: Mapping[str, Any]) -> RenderableType:
    server = Table.grid(padding=(0, 2))
    lease, queue = report.get("lease"), report.get("queue", [])
    held = "nobody" if not lease else f"{lease[0]}, for {_ago(lease[1])}{', measuring' if report['measuring'] else ''}"
    lines = {
        "device": f"{report.get('device')} at {report.get('address')}",
        "up for": _ago(report.get("uptime", 0.0)),
        "measured": f"{report['rounds']:,} rounds, {report['rows']:,} rows, {report['programmings']:,} programmings",
        "rate": f"{report['rows_per_second']:,.1f} rows/s, {report['programmings_per_second']:,.1f} programmings/s",
        "lease": held,
        "queue": ", ".join(map(str, queue)) or "empty",
        "faults": f"{report['faults']:,}, and {report['refused']:,} messages refused",
    }
    for name, text in lines.items():
        server.add_row(name, _text(text))
    clients = Table("key", "last heard", "rounds", "rows", title="clients", title_justify="left")
    for client in report.get("clients", []):
        rounds, rows = f"{client['rounds']:,}", f"{client['rows']:,}"
        clients.add_row(_text(client["key"]), f"{_ago(client['seen'])} ago", rounds, rows)
    faults = [_text(f"{_ago(at)} ago: {text}") for at, text in report.get("last_faults", [])]
    return Group(server, clients, *faults)


def _text(text: str) -> str:
    return escape(printable(text))


def _ago(seconds: float) -> str:
    for unit, size in (("d", 86400.0), ("h", 3600.0), ("min", 60.0)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"
