"""The report's page: its figures are those of the run folder, and junk is refused or left out."""

from __future__ import annotations

import base64
import json
import math
import re

import numpy as np
import pytest

import blackprop as bp
from blackprop.errors import RunFolderError
from blackprop.experiments.report import write_report
from blackprop.experiments.report._charts import POINTS
from report_runs import (
    EVIL,
    METHODS,
    find,
    keep_portraits,
    make_run,
    page_of,
    rows_of,
)


def test_the_table_tells_means_and_standard_errors(tmp_path):
    html, data = page_of(make_run(tmp_path / "run"))
    rows = rows_of(html)
    assert len(rows) == 8
    # Three seeds at 0.88, 0.90, 0.92: s = 0.02, s/√3 = 0.0115.
    assert ["microring", "paper", "90.0 ± 1.2", "89.0 ± 1.2", "0.92 ± 0.02", "59.6", "119", "2.5 min", "3"] in rows
    mean, error = find(data["results"], device="microring", method="paper")["figures"]["metric"]
    assert mean == pytest.approx(0.9)
    assert error == pytest.approx(0.02 / math.sqrt(3))
    assert 'data-sort="0.9' in html


def test_devices_that_were_asked_first_are_listed(tmp_path):
    run = make_run(tmp_path / "run")
    assert "asked first" not in write_report([run], tmp_path / "without.html").read_text()
    summary = json.loads((run / "summary.json").read_text())
    summary["results"][0]["found"] = {"3": "element: <hidden wiring>; chosen: calibrated-16"}
    (run / "summary.json").write_text(json.dumps(summary))
    page = write_report([run], tmp_path / "with.html").read_text()
    assert "<b>light-modulator, 3</b>: element: &lt;hidden wiring&gt;; chosen: calibrated-16" in page


def test_curves_are_means_over_the_seeds_against_steps_rows_and_lab_time(tmp_path):
    _, data = page_of(make_run(tmp_path / "run"))
    curve = find(data["curves"], device="microring", method="paper")
    assert curve["steps"] == [10, 20, 30]
    assert curve["rows"] == [11_000, 22_000, 33_000]  # evaluation is no part of training
    assert curve["lab"] == [5, 10, 15]
    assert curve["series"]["metric"]["mean"] == pytest.approx([0.3, 0.6, 0.9])
    assert curve["series"]["metric"]["error"] == pytest.approx([0.02 / math.sqrt(3)] * 3)
    assert curve["series"]["loss"]["mean"] == pytest.approx([0.2, 0.1, 2 / 30])
    cosines = curve["series"]["layer/oracle_cosine/0"]
    assert cosines["mean"] == pytest.approx([0.4] * 3)
    assert cosines["error"] == pytest.approx([0.1 / math.sqrt(3)] * 3)
    assert "layer/oracle_cosine_x/0" not in curve["series"]  # never known
    assert curve["series"]["rate/theta"]["mean"] == pytest.approx([0.01] * 3)


def test_long_curves_are_thinned_and_keep_their_ends(tmp_path):
    run = make_run(tmp_path / "run", devices=("microring",), steps=range(1, 1001))
    steps = page_of(run)[1]["curves"][0]["steps"]
    assert len(steps) == POINTS
    assert (steps[0], steps[-1]) == (1, 1000)


def test_portraits_hold_matrices_histograms_and_the_confusion(tmp_path):
    run = make_run(tmp_path / "run")
    after = keep_portraits(run, ("microring", "paper", 1))
    shown = find(page_of(run)[1]["portraits"], method="paper", device="microring", seed=1)
    assert shown["confusion"] == [[9, 1], [2, 8]]
    assert shown["classes"] == ["a cat, or the like", "dog"]
    layer = shown["layers"]["0"]
    packed = layer["matrices"]["after"]
    values = np.frombuffer(base64.b64decode(packed["bytes"]), np.int8).reshape(packed["shape"])
    np.testing.assert_allclose(values * layer["largest"] / 127, after["0/matrix"], atol=layer["largest"] / 254)
    assert layer["difference"] == pytest.approx(0.1)
    assert sum(layer["theta"]["before"]) == pytest.approx(1, abs=1e-4)


def test_a_loss_is_no_percentage(tmp_path):
    html, data = page_of(make_run(tmp_path / "run", metric="validation_loss", higher_is_better=False))
    assert data["tasks"]["digits · physical"] == {"metric": "validation_loss", "higher": False}
    assert ["microring", "paper", "0.900 ± 0.012"] in [row[:3] for row in rows_of(html)]
    assert "validation loss</button>" in html


def test_several_runs_stand_side_by_side_under_names_that_differ(tmp_path):
    runs = [make_run(tmp_path / name / "0", devices=("microring",)) for name in ("a", "b")]
    html, data = page_of(*runs)
    assert data["runs"] == ["a/0", "b/0"]
    assert [row[:3] for row in rows_of(html)][::4] == [["a/0", "microring", "oracle"], ["b/0", "microring", "oracle"]]
    assert page_of(runs[0], runs[0])[1]["runs"] == ["0"]  # given twice


def test_what_is_missing_or_damaged_is_told(tmp_path):
    run = make_run(tmp_path / "run")
    summary = json.loads((run / "summary.json").read_text())
    summary["results"] = [r for r in summary["results"] if r["method"] != "paper" or r["seed"] == 0][1:]
    summary["results"][0]["accuracy"] = "much"
    (run / "summary.json").write_text(json.dumps(summary))
    with (run / "metrics.jsonl").open("a") as file:
        file.write('\n{"method": "paper", "device": "micr')
    keep_portraits(run, ("microring", "default", 0))
    (run / "portraits" / "oracle.microring.0.npz").write_bytes(b"PK\x03\x04 cut short")
    html, data = page_of(run)
    for said in (
        "oracle on light-modulator, seeds 0, 1; paper on light-modulator, seeds 1, 2; paper on microring, seeds 1, 2",
        "1 of the results in summary.json could not be read and is left out",
        "1 of the lines of metrics.jsonl could not be read and is left out",
        "the portrait oracle.microring.0.npz is damaged and left out",
    ):
        assert said in html
    assert [entry["method"] for entry in data["portraits"]] == ["default"]
    assert find(data["curves"], device="microring", method="paper")["steps"] == [10, 20, 30]


def test_a_run_without_results_is_drawn_as_far_as_it_went(tmp_path):
    run = make_run(tmp_path / "run", devices=("microring",))
    (run / "summary.json").unlink()
    html, data = page_of(run)
    assert "No result of digits · physical is finished" in html
    assert len(data["curves"]) == len(METHODS)


def test_numbers_that_json_does_not_have_are_gaps(tmp_path):
    run = make_run(tmp_path / "run", devices=("microring",))
    text = (run / "metrics.jsonl").read_text()
    (run / "metrics.jsonl").write_text(text.replace('"loss": 0.1', '"loss": NaN'))
    assert page_of(run)[1]["curves"][0]["series"]["loss"]["mean"][1] is None


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("config.json", None, "is not a run folder"),
        ("config.json", "{", "cannot be read"),
        ("config.json", '{"format": "another"}', "not the configuration of a blackprop run"),
        ("summary.json", "[]", "does not hold a JSON object"),
        ("summary.json", "{}", "not the summary of a blackprop run"),
    ],
)
def test_what_is_no_run_is_refused_and_nothing_written(tmp_path, name, content, reason):
    run = make_run(tmp_path / "run")
    (run / name).unlink() if content is None else (run / name).write_text(content)
    with pytest.raises(RunFolderError, match=reason):
        page_of(run)
    assert not (tmp_path / "out").exists()


DEEP = "[" * 100_000
JUNK = [
    *("", DEEP, '{"format": "blackprop run 2", "task": ' + DEEP, "9" * 10_000, '"\udcff"'),
    *("[3, null, {}]", '{"results": [3, null, [], {"method": []}]}', '{"format": "blackprop run 2", "methods": [1]}'),
    '{"format": "blackprop run 2", "task": {"a": [1]}, "settings": 3, "methods": {"x": 1}, '
    '"devices": [{}], "seeds": [[]]}',
    '{"results": [{"method": "\\ud800", "device": "d", "seed": 0, "accuracy": 1e999}], "metric": []}',
    '{"results": [{"method": "m", "device": "d", "seed": 0, "accuracy": 1HUGE}]}'.replace("HUGE", "0" * 400),
    '{"step": 1, "method": "m", "device": "d", "seed": 0, "rows": 3, "rates": [], "layers": {"0": 1}, "accuracy": "x"}',
    '{"step": 1HUGE, "method": "m/../x", "device": "d", "seed": 0}'.replace("HUGE", "0" * 400),
    '{"step": 1, "method": "LONG", "device": "d\\u0000", "seed": 0}'.replace("LONG", "m" * 3000),
]


@pytest.mark.parametrize("name", ["config.json", "summary.json", "metrics.jsonl"])
@pytest.mark.parametrize("junk", JUNK, ids=range(len(JUNK)))
def test_junk_is_refused_or_left_out_in_a_sentence(tmp_path, name, junk):
    run = make_run(tmp_path / "run", devices=("microring",))
    content = junk.encode(errors="surrogateescape")
    (run / name).write_bytes((run / name).read_bytes() + b"\n" + content if name == "metrics.jsonl" else content)
    try:
        html, _ = page_of(run)
    except RunFolderError as error:
        html, refused = "", str(error)
        assert name != "metrics.jsonl"
        assert name in refused
        assert "\n" not in refused
    if html:
        assert "left out" in html or "not finished" in html or name == "config.json" or "method" in junk or not junk


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"\x93NUMPY\x01\x00" + b"\xff" * 200, b"junk" * 100])
def test_a_damaged_portrait_is_left_out(tmp_path, content):
    run = make_run(tmp_path / "run", devices=("microring",))
    keep_portraits(run, ("microring", "paper", 0))
    (run / "portraits" / "oracle.microring.0.npz").write_bytes(content)
    html, data = page_of(run)
    assert "the portrait oracle.microring.0.npz is damaged" in html
    assert [entry["method"] for entry in data["portraits"]] == ["paper"]


def test_a_page_that_cannot_be_written_is_refused_in_a_sentence(tmp_path):
    run = make_run(tmp_path / "run")
    with pytest.raises(RunFolderError, match="cannot be written"):
        write_report([run], run / "config.json" / "report.html")


def test_the_page_says_what_was_run_when_and_by_which_version(tmp_path):
    run = make_run(tmp_path / "run")
    (run / "origin.json").write_text(
        json.dumps({"begun": "2026-11-30 12:00 +0000", "version": "9.8.7", "commit": "abc123"})
    )
    config = json.loads((run / "config.json").read_text())
    config["methods"]["paper"]["rank"] = 10
    config["execution"] = {"precision": "full", "accumulate": 2, "clip": None, "cpu": False}
    (run / "config.json").write_text(json.dumps(config))
    html, _ = page_of(run)
    said = dict(re.findall(r"<dt>(.*?)</dt><dd>(.*?)</dd>", html))
    assert said["methods"] == "oracle, frozen, paper (rank 10), default"
    assert said["execution"] == "precision full, accumulate 2"
    assert (said["begun"], said["version"], said["commit"]) == ("2026-11-30 12:00 +0000", "9.8.7", "abc123")
    assert re.search(rf"Written by blackprop {re.escape(bp.__version__)}.*\d{{4}}-\d\d-\d\d \d\d:\d\d", html)
    assert "class Oracle" not in html
    for damaged in ("[", '{"begun": 3, "version": []}'):
        (run / "origin.json").write_text(damaged)
        assert "<dt>begun</dt>" not in page_of(run)[0]


def test_the_page_is_small_and_holds_all_it_needs(tmp_path):
    html, data = page_of(make_run(tmp_path / "run"))
    assert len(html) - len(json.dumps(data)) < 70_000
    assert not re.search(r'(src|href)="(?!data:)', html)


def test_names_from_files_are_text(tmp_path):
    html, data = page_of(make_run(tmp_path / "run", devices=(EVIL,), methods={**METHODS, EVIL: "Paper"}))
    assert "<img" not in re.sub(r"<script>.*?</script>", "", html, flags=re.DOTALL)
    assert data["curves"][-1]["method"] == EVIL
