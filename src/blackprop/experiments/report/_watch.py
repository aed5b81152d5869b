"""The live page of runs, served on this machine: one page, its scripts, and its data, which the page asks for again."""

from __future__ import annotations

import hashlib
import ipaddress
import json
import secrets
import socket
import sys
import threading
import time
from collections.abc import Sequence
from html import escape
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.resources import files
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import parse_qs, urlsplit

from blackprop.characterisation._page import DRAW, STYLE
from blackprop.errors import ArgumentError, BlackpropError
from blackprop.experiments.report import _parts as parts
from blackprop.experiments.report._html import document, names
from blackprop.experiments.report._now import now, stored
from blackprop.experiments.report._parts import Chart, Section
from blackprop.monitoring._record import finite

PORT = 8642
FRESH = 1.0  # s for which the data of one request serve others
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
SECTIONS = (
    Section(
        "learning",
        "Learning",
        {
            "across": ("against", {"steps": "steps", "rows": "rows", "lab": "estimated lab time"}),
            "scale": ("on an axis that is", parts.SCALES),
            "loss": ("loss axis", parts.SCALES),
        },
        (Chart("loss", "Training loss"), Chart("metric", "Evaluation")),
    ),
    Section(
        "health",
        "Health of the devices",
        {"layer": ("layer", {})},
        (
            Chart("signal", "Share of signal in the θ-gradient", "ρ: the part that is the same from step to step."),
            Chart("residual", "Residual of the surrogate", "Its prediction of a batch against the readings."),
            Chart("noise", "Noise of the readings", "Relative, as declared or found."),
            Chart("drift", "Drift", "Root mean square displacement of θ that was found, in units of θ."),
            Chart("recalibrations", "Recalibrations", "How often a displacement was found and corrected."),
            Chart("at_limit", "Parameters at a limit", "The share of θ at a limit of the device."),
        ),
    ),
)


class Watch:
    """A server of one page that follows run folders.

    - `runs`: the folders. A folder that does not exist yet is shown as not begun.
    - `host` (default `"127.0.0.1"`): the address. At one that other machines reach, a key in the link is required.
    - `port`: of the address; 0 takes a free one.

    **Raises** `ArgumentError` without a folder, and `BlackpropError` if the address cannot be used.
    """

    def __init__(self, runs: Sequence[Path], host: str = "127.0.0.1", port: int = PORT) -> None:
        folders = list({Path(path).resolve(): Path(path) for path in runs}.values())
        if not folders:
            raise ArgumentError("`watch` needs at least one run folder")
        if not 0 <= port < 2**16:
            raise ArgumentError(f"`--port` must be between 0 and 65535, got {port}")
        self._runs = list(zip(folders, names(folders), strict=True))
        self._lock, self._known, self._at = threading.Lock(), b"", -1.0
        try:
            self._server = _Server((host, port), _Handler)
        except OSError as error:
            raise BlackpropError(f"the page cannot be served at {host}:{port}: {error.strerror or error}") from error
        at, port = self._server.server_address[:2]
        named = f"[{host}]" if ":" in host else host
        self._server.page = self
        alone = ipaddress.ip_address(str(at)).is_loopback
        self.key: str = "" if alone else secrets.token_urlsafe(16)
        self.hosts: set[str] | None = (
            {f"{name}:{port}" for name in (named, "localhost", "127.0.0.1")} if alone else None
        )
        self.address: str = f"http://{named}:{port}/" + (f"?key={self.key}" if self.key else "")
        """The link to the page."""

    def serve(self) -> None:
        """Answer until `close` is called in another thread, or until an exception such as `KeyboardInterrupt`."""
        self._server.serve_forever(poll_interval=0.1)

    def close(self) -> None:
        """Stop to serve, and free the address."""
        self._server.shutdown_soon()
        self._server.server_close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def data(self) -> bytes:
        """Return the present data of the page as JSON."""
        with self._lock:
            if time.monotonic() - self._at > FRESH:
                found = [(path, name, stored(path, name)) for path, name in self._runs]
                runs = [run for _, _, run in found if run is not None]
                told = {**document(runs, portraits=False), "now": [now(*each) for each in found]}
                self._known = json.dumps(finite(told), separators=(",", ":")).encode()
                self._at = time.monotonic()
            return self._known

    def page(self) -> bytes:
        """Return the page, which is the same for all runs."""
        title = escape(", ".join(name for _, name in self._runs))
        query = f"?key={self.key}" if self.key else ""
        places = "".join(map(parts.section, SECTIONS))
        return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="icon" href="data:,"><title>{title}</title><link rel="stylesheet" href="page.css{query}"></head>
<body><header><h1>{title}</h1><p id="link" role="status"></p></header>
<section><h2>Now</h2><div class="cards" id="now"></div></section>
<div class="controls top">{"".join(map(parts.select, ("task", "run", "device")))}
<div class="chips" id="chips" role="group" aria-label="methods shown"></div><span id="symbols"></span></div>
{places}<footer>Lines are means over the seeds; bands are one standard error of the mean.</footer>
<script src="page.js{query}"></script></body></html>
""".encode()


def _asset(name: str) -> str:
    return (files("blackprop.experiments.report") / name).read_text("utf-8")


def _script() -> bytes:
    texts = [DRAW, *(_asset(name) for name in ("charts.js", "page.js", "watch.js"))]
    return "\n".join(text.replace('"use strict";\n', "", 1) for text in texts).encode()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    page: Watch
    _served = False

    def __init__(self, address: tuple[str, int], handler: type[BaseHTTPRequestHandler]) -> None:
        if ":" in address[0]:
            self.address_family = socket.AF_INET6
        super().__init__(address, handler)

    def serve_forever(self, poll_interval: float = 0.5) -> None:
        self._served = True
        try:
            super().serve_forever(poll_interval)
        finally:
            self._served = False

    def shutdown_soon(self) -> None:
        if self._served:
            self.shutdown()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore a browser that has gone away, and report the rest."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    server: _Server  # pyright: ignore[reportIncompatibleVariableOverride]
    server_version, sys_version = "blackprop", ""
    timeout = 30  # s for which a connection may be idle

    def do_GET(self) -> None:
        page, asked = self.server.page, urlsplit(self.path)
        key = parse_qs(asked.query).get("key", [""])[0]
        if page.hosts is not None and self.headers.get("Host") not in page.hosts:
            self._answer(HTTPStatus.FORBIDDEN, "text/plain", b"open the page by the link that the command shows")
        elif page.key and not secrets.compare_digest(key.encode(), page.key.encode()):
            self._answer(HTTPStatus.FORBIDDEN, "text/plain", b"the key in the link is missing or wrong")
        elif asked.path == "/":
            self._answer(HTTPStatus.OK, "text/html", page.page())
        elif asked.path == "/page.css":
            self._answer(HTTPStatus.OK, "text/css", (STYLE + _asset("page.css") + _asset("watch.css")).encode())
        elif asked.path == "/page.js":
            self._answer(HTTPStatus.OK, "text/javascript", _script())
        elif asked.path == "/data.json":
            self._answer(HTTPStatus.OK, "application/json", page.data())
        else:
            self._answer(HTTPStatus.NOT_FOUND, "text/plain", b"there is one page, at /")

    def _answer(self, status: HTTPStatus, kind: str, content: bytes) -> None:
        tag = f'"{hashlib.sha256(content).hexdigest()[:32]}"'
        if status is HTTPStatus.OK and self.headers.get("If-None-Match") == tag:
            status, content = HTTPStatus.NOT_MODIFIED, b""
        self.send_response(status)
        for name, value in (
            ("Content-Type", f"{kind}; charset=utf-8"),
            ("Content-Length", str(len(content))),
            ("Content-Security-Policy", POLICY),
            ("X-Content-Type-Options", "nosniff"),
            ("Referrer-Policy", "no-referrer"),
            ("Cache-Control", "no-cache"),
            ("ETag", tag),
        ):
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *args: Any) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Keep silent: a line for each request would hide the others."""
