"""The live page: states of runs as found, costs against limits, advice, and a server for this machine alone."""

from __future__ import annotations

import http.client
import json
import math
import threading
import time
from pathlib import Path

import pytest

from blackprop.errors import ArgumentError, BlackpropError
from blackprop.experiments.engine._live import LiveCallback
from blackprop.experiments.report._advice import advice
from blackprop.experiments.report._now import now, state_of, stored
from blackprop.experiments.report._watch import Watch
from blackprop.monitoring._process import this_process
from report_runs import METHODS, make_run

GONE = {"pid": 2**22 + 1, "began": 1}  # a number that no process has

STATUS = {
    "format": "blackprop live 1",
    "state": "running",
    "begun": 1000.0,
    "updated": 1100.0,
    "every": 1.0,
    "trial": {"method": "paper", "device": "microring", "seed": 0},
    "step": 200,
    "steps": 1000,
    "from_step": 0,
    "loss": 0.5,
    "scores": {"accuracy": 0.875},
    "rows": 20_000,
    "programmings": 400,
    "lab_seconds": 50.0,
    "limits": {"rows": [20_000, 50_000]},
    "layers": {"2": {"signal": 0.1, "residual": 0.02, "noise": 0.01, "at_limit": 0.0}},
}


NOW = math.inf  # the time when a test runs, which may be long after it was collected


def write(folder: Path, **changes) -> Path:
    status = {**STATUS, "process": this_process(), **changes}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "status.json").write_text(json.dumps(status))
    return folder


@pytest.mark.parametrize(
    ("changes", "state"),
    [
        ({}, "running"),
        ({"process": {**this_process(), **GONE}}, "killed"),
        ({"process": {**GONE, "place": "elsewhere"}, "updated": NOW}, "running"),
        ({"process": {**GONE, "place": "elsewhere"}}, "silent"),
        ({"process": None, "updated": NOW}, "running"),
        ({"state": "finished", "process": GONE}, "finished"),
        ({"state": "stopped"}, "stopped"),
        ({"state": "failed"}, "failed"),
    ],
)
def test_the_state_is_the_one_found(changes, state):
    now = {"updated": time.time()} if changes.get("updated") == NOW else {}
    assert state_of({**STATUS, "process": this_process(), **changes, **now}) == state


def tiles(entry: dict) -> dict[str, tuple[str, str]]:
    return {tile["label"]: (tile["value"], tile["note"]) for tile in entry["tiles"]}


def test_a_card_tells_costs_against_limits_and_the_time_left(tmp_path):
    run = make_run(tmp_path / "run")
    shown = now(write(run), "run", stored(run, "run"))
    told = tiles(shown)
    assert shown["state"] == "running"
    assert shown["trials"] == [24, 24]
    assert told["rows"] == ("20,000 of 50,000", "30,000 left, 300 steps")
    assert told["lab time"] == ("50 s", "about 3.3 min left")  # 800 of 200 steps at 50 s
    assert told["time"] == ("1.7 min", "about 6.7 min left")
    assert told["accuracy"][0] == "87.5 %"
    assert any("end at step 500 of 1,000" in each["told"] for each in shown["advice"])


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"layers": {"2": {"at_limit": 0.5}}}, "50% of θ stand at a limit"),
        ({"layers": {"2": {"residual": 0.9}}}, "leaves 90% of the readings"),
        ({"layers": {"2": {"hopeless": 1.0}}}, "is noise"),
        ({"layers": {"2": {"moved_rows": 95, "moved_allowance": 100}}}, "drifts"),
        ({"loss": None}, "not a finite"),
        ({"limits": {"rows": [48_000, 50_000]}, "steps": 0}, "96% of the rows"),
    ],
)
def test_trouble_is_told_with_a_way_out(changes, words):
    (found,) = advice({**STATUS, "limits": {}, **changes}, "running")
    assert words in found["told"]
    assert len(found["todo"]) > 20


def test_a_run_without_trouble_gets_no_advice():
    assert advice({**STATUS, "limits": {}}, "running") == []


@pytest.mark.parametrize(
    "content", [b"", b"[1]", b'{"format": "blackprop live 1", "layers": 3, "limits": {"rows": 3}}', b"\xff"]
)
def test_a_damaged_status_does_not_stop_the_page(content, tmp_path):
    run = make_run(tmp_path / "run")
    (run / "status.json").write_bytes(content)
    (run / "live.jsonl").write_bytes(b'{"cut sho')
    with Watch([run, tmp_path / "later"], port=0) as page:
        told = json.loads(page.data())
    assert [each["name"] for each in told["now"]] == ["run", "later"]
    assert told["now"][1]["state"] == "not begun"
    assert told["curves"]


def test_trials_in_processes_of_their_own_are_followed(tmp_path):
    run = make_run(tmp_path / "run", methods={"oracle": "Oracle"})
    apart = make_run(run / "trials" / "paper.microring.0", devices=("microring",), methods={"paper": "Paper"})
    write(apart, step=7)
    shown = now(run, "run", found := stored(run, "run"))
    assert (shown["state"], shown["step"], shown["trial"]) == ("running", 7, "paper on microring")
    assert found is not None
    assert {line["method"] for line in found.lines} == {"oracle", "paper"}


def test_a_callback_records_trials_and_their_end(tmp_path):
    progress = {"method": "paper", "device": "microring", "seed": 0, "step": 1, "steps": 9, "loss": 1.0, "scores": {}}
    spent = {"rows": {"forward": 8}, "programmings": {"forward": 1}, "lab_seconds": 0.5}
    with pytest.raises(ZeroDivisionError), LiveCallback(tmp_path, every=1e-9) as live:
        live.step({**progress, "rows": 8, "programmings": 1, "spent": spent})
        assert state_of(json.loads((tmp_path / "status.json").read_text())) == "running"
        1 / 0  # noqa: B018
    assert json.loads((tmp_path / "status.json").read_text())["state"] == "failed"


def ask(page: Watch, path: str, **headers: str) -> tuple[int, bytes, http.client.HTTPMessage]:
    host, _, port = page.address.removeprefix("http://").partition("/")[0].rpartition(":")
    link = http.client.HTTPConnection(host.strip("[]") if host != "0.0.0.0" else "127.0.0.1", int(port), timeout=10)
    link.request("GET", path, headers=headers)
    answer = link.getresponse()
    found = answer.status, answer.read(), answer.headers
    link.close()
    return found


@pytest.fixture
def served(tmp_path):
    opened = []

    def serve(*given, **more) -> Watch:
        page = Watch([make_run(tmp_path / "run", methods=METHODS)], *given, port=0, **more)
        threading.Thread(target=page.serve, daemon=True).start()
        opened.append(page)
        return page

    yield serve
    for page in opened:
        page.close()


def test_the_page_is_served_to_this_machine_alone(served):
    page = served()
    status, content, headers = ask(page, "/")
    assert status == 200
    assert b"<script src=" in content
    assert "default-src 'none'" in headers["Content-Security-Policy"]
    for path in ("/page.js", "/page.css", "/data.json"):
        assert ask(page, path)[0] == 200
    assert ask(page, "/../pyproject.toml")[0] == 404
    assert ask(page, "/config.json")[0] == 404
    assert ask(page, "/data.json", Host="evil.example")[0] == 403  # a name of another host that leads here
    assert page.address.startswith("http://127.0.0.1:")


def test_unchanged_data_are_not_sent_again(served):
    page = served()
    _, content, headers = ask(page, "/data.json")
    assert len(json.loads(content)["curves"]) == 8
    assert ask(page, "/data.json", **{"If-None-Match": headers["ETag"]})[:2] == (304, b"")


def test_an_address_that_others_reach_needs_the_key(served):
    page = served("0.0.0.0")
    assert page.key
    assert ask(page, "/data.json")[0] == 403
    assert ask(page, "/data.json?key=wrong")[0] == 403
    assert ask(page, f"/data.json?key={page.key}")[0] == 200


def test_wrong_addresses_are_refused(tmp_path):
    with pytest.raises(ArgumentError, match="folder"):
        Watch([])
    with pytest.raises(ArgumentError, match="port"):
        Watch([tmp_path], port=70_000)
    with pytest.raises(BlackpropError, match=r"192\.0\.2\.1"):
        Watch([tmp_path], "192.0.2.1", 0)
