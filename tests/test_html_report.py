"""The report's page: its figures are those of the run folder, and a browser draws all of it without a network."""

from __future__ import annotations

import base64
import json
import math
import re
import shutil
import time

import numpy as np
import pytest

import blackprop as bp
from blackprop.errors import RunFolderError
from blackprop.experiments.records import _portrait as portrait
from blackprop.experiments.report import write_report
from blackprop.experiments.report._charts import POINTS

METHODS = {"oracle": "Oracle", "frozen": "Frozen", "paper": "Paper", "default": "Default"}
SCORES = {"oracle": 0.95, "frozen": 0.35, "paper": 0.9, "default": 0.94}
OVERHEAD = {"oracle": 0.0, "frozen": 0.0, "paper": 59.6, "default": 0.25}
SEEDS = (0, 1, 2)
SPREAD = 0.02  # accuracies of the seeds: the score, and this above and below


def make_run(folder, devices=("light-modulator", "microring"), methods=METHODS, steps=(10, 20, 30), **summary):
    metric = summary.get("metric", "accuracy")
    cells = [(d, m, s) for d in devices for m in methods for s in SEEDS]
    config = {
        "format": "blackprop run 1",
        "task": "digits",
        "settings": {"network": "physical", "epochs": 3},
        "methods": {name: {"class": kind, "name": name} for name, kind in methods.items()},
        "devices": list(devices),
        "seeds": list(SEEDS),
        "imperfections": {"read_noise": 0.02, "drift": 0.0},
    }
    results = [{**key(*cell), **result(*cell, metric)} for cell in cells]
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "summary.json").write_text(
        json.dumps({"task": "digits", "network": "physical", **summary, "results": results})
    )
    lines = [{**key(*cell), **line(*cell, step, max(steps), metric)} for cell in cells for step in steps]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(each) + "\n" for each in lines))
    return folder


def key(device, method, seed):
    return {"device": device, "method": method, "seed": seed}


def result(device, method, seed, metric):
    score = SCORES.get(method, 0.5) + SPREAD * (seed - 1)
    over = OVERHEAD.get(method, 1.0)
    gap = {"gap_closed": (score - SCORES["frozen"]) / (SCORES["oracle"] - SCORES["frozen"])}
    cost = {"row_overhead": over, "programming_overhead": 2 * over, "lab_seconds": 90.0 + over}
    return {metric: score, "f1": score - 0.01, **gap, **cost}


def line(device, method, seed, step, last, metric):
    score = SCORES.get(method, 0.5) * step / last + SPREAD * (seed - 1)
    layer = {"signal": 0.1, "snr": 0.11, "oracle_cosine": 0.3 + 0.1 * seed, "oracle_cosine_x": None, "residual": 0.01}
    return {
        metric: score,
        "step": step,
        "epoch": step // 10,
        "loss": 2.0 / step,
        "rows": {"forward": 100 * step, "parameter": 1000 * step, "evaluate": 7},
        "lab_seconds": 0.5 * step,
        "rates": {"digital": 1e-3, "theta": 1e-2},
        "layers": {"0": layer},
    }


def keep_portraits(folder, *cells, size=(6, 8)):
    generator = np.random.default_rng(0)
    for device, method, seed in cells:
        before, after = ({f"0/{what}": generator.normal(size=size) for what in ("theta", "matrix")} for _ in range(2))
        after["0/surrogate"] = 1.1 * after["0/matrix"]
        confusion = np.array([[9, 1], [2, 8]])
        portrait.save(
            folder / "portraits" / f"{method}.{device}.{seed}.npz",
            before,
            after,
            confusion,
            ["a cat, or the like", "dog"],
        )
    return after


def page_of(*folders):
    output = write_report(folders, folders[0].parent / "out" / "report.html")
    html = output.read_text()
    (data,) = re.findall(r'<script type="application/json" id="report">(.*?)</script>', html)
    return html, json.loads(data)


def rows_of(html):
    """The cells of each row of the tables, without markup."""
    bodies = "".join(re.findall(r"<tbody>(.*?)</tbody>", html))
    rows = re.findall(r"<tr>(.*?)</tr>", bodies)
    return [[re.sub(r"<[^>]*>", "", cell) for cell in re.findall(r"<td[^>]*>(.*?)</td>", row)] for row in rows]


def find(entries, **wanted):
    (found,) = [entry for entry in entries if all(entry[name] == value for name, value in wanted.items())]
    return found


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
        "the portrait oracle.microring.0.npz is damaged, and is left out",
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
        ("summary.json", "[]", "holds no object"),
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


EVIL = "</script><b><img src=x onerror='throw 1'>"


def test_names_from_files_are_text(tmp_path):
    html, data = page_of(make_run(tmp_path / "run", devices=(EVIL,), methods={**METHODS, EVIL: "Paper"}))
    assert "<img" not in re.sub(r"<script>.*?</script>", "", html, flags=re.DOTALL)
    assert data["curves"][-1]["method"] == EVIL


# From here on in a browser.


@pytest.fixture(scope="module")
def browser():
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    driver = shutil.which("chromedriver")
    if chromium is None or driver is None:
        pytest.skip("there is no chromium, or no chromedriver")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    opened = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    yield opened
    opened.quit()


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    run = make_run(tmp_path_factory.mktemp("runs") / "run", methods={**METHODS, EVIL: "Paper"})
    keep_portraits(run, *((device, "paper", seed) for device in ("light-modulator", "microring") for seed in SEEDS))
    return write_report([run], run.parent / "report.html")


@pytest.fixture
def shown(browser, page):
    """The page in the browser: `shown(width, dark)`."""

    def show(width=1280, dark=False, path=page):
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        size = {"width": width, "height": 850, "deviceScaleFactor": 1, "mobile": width < 500}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})
        browser.get_log("performance"), browser.get_log("browser")
        browser.get(path.as_uri())
        return browser

    yield show
    assert browser.get_log("browser") == []  # no error in the console


def visible(browser, script):
    return browser.execute_script(
        f"const plots = [...document.querySelectorAll('.plot')].filter((p) => p.clientWidth); return {script}"
    )


def ink(browser, plot, name="paper"):
    return browser.execute_script(
        "return document.getElementById(arguments[0]).data.find((t) => (t.name || t.hovertemplate || '').includes("
        "arguments[1])).marker.color",
        plot,
        name,
    )


def choose(browser, name, value):
    script = (
        "const s = document.getElementById(arguments[0]); s.value = arguments[1]; s.dispatchEvent(new Event('change'))"
    )
    browser.execute_script(script, name, value)


def test_every_chart_is_drawn_and_nothing_is_fetched(shown, page):
    browser = shown()
    # Three of comparison, three of learning, four of the gradients (no input gradient), five of the network.
    assert visible(browser, "plots.length") == 15
    assert visible(browser, "plots.every((p) => p.querySelector('svg.main-svg'))")
    assert visible(browser, "document.querySelector('#plot-side .ytick:last-of-type').textContent") == EVIL[:25] + "…"
    events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    asked = [e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"]
    assert page.as_uri() in asked
    assert all(url == page.as_uri() or url.startswith("data:") for url in asked)


def test_a_method_has_one_colour_in_all_charts(shown):
    browser = shown()
    inks = {ink(browser, f"plot-{name}") for name in ("side", "gap", "lab", "metric", "loss", "signal")}
    assert len(inks) == 1
    assert inks != {ink(browser, "plot-metric", "default")}
    chip = "document.querySelector('[data-method=paper] .swatch')"
    colour = browser.execute_script(f"return getComputedStyle({chip}).borderTopColor")
    assert "#{:02x}{:02x}{:02x}".format(*map(int, re.findall(r"\d+", colour))) in inks


def test_columns_are_sorted_by_mouse_and_by_key(shown):
    from selenium.webdriver.common.keys import Keys

    browser = shown()
    column = "return [...document.querySelectorAll('tbody tr')].map((row) => row.cells[arguments[0]].dataset.sort)"
    button = browser.find_elements("css selector", "thead button")[2]
    button.click()
    scores = [float(score) for score in browser.execute_script(column, 2)]
    assert scores == sorted(scores)
    assert len(set(scores)) > 2
    button.send_keys(Keys.ENTER)
    assert [float(score) for score in browser.execute_script(column, 2)] == sorted(scores, reverse=True)
    assert button.find_element("xpath", "..").get_attribute("aria-sort") == "descending"
    browser.find_elements("css selector", "thead button")[1].click()
    names = browser.execute_script(column, 1)
    assert names.index("default") < names.index("frozen") < names.index("oracle") < names.index("paper")


def test_selections_change_what_is_drawn(shown):
    browser = shown()
    traces = "return document.getElementById('plot-metric').data.filter((t) => t.name === 'paper')[0]"
    assert browser.execute_script(f"{traces}.x") == [10, 20, 30]
    choose(browser, "across", "rows")
    assert browser.execute_script(f"{traces}.x") == [11_000, 22_000, 33_000]
    choose(browser, "scale", "log")
    assert browser.execute_script("return document.getElementById('plot-metric').layout.xaxis.type") == "log"
    choose(browser, "overhead", "programming_overhead")
    assert browser.execute_script(
        "return document.getElementById('plot-gap').data.map((t) => t.x[0])"
    ) == pytest.approx([0.5, 2.0, 119.2])
    browser.find_element("css selector", "[data-method=paper]").click()
    names = browser.execute_script("return document.getElementById('plot-metric').data.map((t) => t.name)")
    assert "paper" not in names
    assert {"oracle", "frozen", "default"} <= set(names)
    for device in ("microring", "light-modulator") * 3:  # faster than they are drawn
        choose(browser, "device", device)
    time.sleep(0.5)


def test_the_dark_page_is_dark_its_charts_too(shown):
    browser = shown(dark=True)
    ground, text = browser.execute_script(
        "const s = getComputedStyle(document.body); return [s.backgroundColor, s.color]"
        ".map((c) => c.match(/\\d+/g).map(Number).reduce((a, b) => a + b))"
    )
    assert ground < 100
    assert text > 600
    label = "getComputedStyle(document.querySelector('#plot-metric .xtick text')).fill"
    assert sum(map(int, re.findall(r"\d+", browser.execute_script(f"return {label}")))) > 600
    was = ink(browser, "plot-metric")
    light = [{"name": "prefers-color-scheme", "value": "light"}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": light})
    until = time.monotonic() + 5
    while ink(browser, "plot-metric") == was and time.monotonic() < until:
        time.sleep(0.05)
    assert ink(browser, "plot-metric") != was  # painted anew, without a reload


def test_the_numbers_of_all_axes_are_of_one_font_and_have_no_prefixes(shown):
    browser = shown()
    choose(browser, "scale", "log")
    fonts = "new Set(texts.map((t) => [getComputedStyle(t).fontSize, getComputedStyle(t).fontFamily].join()))"
    texts = "const texts = [...document.querySelectorAll('.xtick text, .ytick text')]"
    assert browser.execute_script(f"{texts}; return [...{fonts}].length") == 1
    numbers = browser.execute_script(
        f"{texts}; return texts.map((t) => t.textContent).filter((t) => /^[−\\d]/.test(t))"
    )
    assert len(numbers) > 30
    assert all(re.fullmatch(r"−?[\d.,·⁻⁰¹²³⁴⁵⁶⁷⁸⁹]+( %)?", number) for number in numbers), numbers
    bold = "[...document.querySelectorAll('#plot-side .ytick text[font-weight]')].map((t) => t.textContent)"
    assert browser.execute_script(f"return {bold}") == ["light-modulator", "microring"]


def test_what_lies_under_the_pointer_is_told(shown):
    browser = shown()
    script = """
        const plot = document.getElementById(arguments[0]), at = plot.querySelector("svg").getBoundingClientRect();
        const marks = [...plot.querySelectorAll("path[transform]")].map((m) => m.getBoundingClientRect());
        const mark = marks[arguments[1]], clientX = mark.x + mark.width / 2, clientY = mark.y + mark.height / 2;
        plot.querySelector("svg").dispatchEvent(new PointerEvent("pointermove", { clientX, clientY }));
        return document.getElementById("tip").innerText;
    """
    assert "paper on light-modulator" in browser.execute_script(script, "plot-side", 2)
    assert "90.00 % ± 1.15 %" in browser.execute_script(script, "plot-side", 2)
    assert "gap closed 0.917 ± 0.019" in browser.execute_script(script, "plot-gap", 2)


def test_marks_stand_where_their_values_are(shown):
    browser = shown()
    places = browser.execute_script("""
        const plot = document.getElementById("plot-side"), of = (node) => node.getBoundingClientRect();
        const texts = [...plot.querySelectorAll(".xtick text")];
        const ticks = texts.map((t) => [parseFloat(t.textContent), of(t).x + of(t).width / 2]);
        return [ticks, [...plot.querySelectorAll("path[transform]")].map((m) => of(m).x + of(m).width / 2)];
    """)
    (low, x_low), *_, (high, x_high) = places[0]
    values = [low + (high - low) * (x - x_low) / (x_high - x_low) for x in places[1]]
    assert values[:4] == pytest.approx([95, 35, 90, 94], abs=0.3)


@pytest.mark.parametrize("width", [390, 320])
def test_a_phone_scrolls_tables_and_not_the_page(shown, width):
    browser = shown(width)
    assert browser.execute_script("return document.documentElement.scrollWidth") == width
    assert browser.execute_script("const t = document.querySelector('.scroll'); return t.scrollWidth > t.clientWidth")
    assert visible(browser, "plots.every((p) => p.querySelector('svg').clientWidth <= p.clientWidth)")
    told = "getComputedStyle(document.querySelector('caption span'), '::after').content"
    assert "scroll sideways" in browser.execute_script(f"return {told}")
    assert browser.execute_script("return getComputedStyle(document.querySelector('.scroll')).maskImage") != "none"
    chips = "[...document.querySelectorAll('.chip')].every((c) => c.getBoundingClientRect().right <= innerWidth)"
    assert browser.execute_script(f"return {chips}")
    browser.execute_script("const t = document.querySelector('.scroll'); t.scrollLeft = t.scrollWidth")
    time.sleep(0.2)
    assert browser.execute_script("return getComputedStyle(document.querySelector('.scroll')).maskImage") == "none"


def test_runs_without_a_reference_borrow_anothers(shown, tmp_path):
    runs = [
        make_run(tmp_path / name, devices=("microring",), methods=methods)
        for name, methods in (("references", {"oracle": "Oracle", "frozen": "Frozen"}), ("mine", {"paper": "Paper"}))
    ]
    browser = shown(path=write_report(runs, tmp_path / "report.html"))
    choose(browser, "run", "mine")
    names = browser.execute_script("return document.getElementById('plot-metric').data.map((t) => t.name)")
    assert {"oracle", "frozen", "paper"} <= set(names)
