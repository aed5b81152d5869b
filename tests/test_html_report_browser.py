"""The report's page in a browser: all of it is drawn, without a network."""

from __future__ import annotations

import json
import re
import shutil
import time

import pytest

from blackprop.experiments.report import write_report
from report_runs import (
    EVIL,
    METHODS,
    SEEDS,
    keep_portraits,
    make_run,
)


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
