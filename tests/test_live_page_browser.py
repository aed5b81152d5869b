"""The live page in a browser: it follows a run, says that it was killed, and works in the dark and on a phone."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time

import pytest

from blackprop.experiments.report._watch import Watch
from test_html_report_browser import browser  # noqa: F401  # the fixture

TRAINING = """
    import sys, time
    import torch, blackprop as bp
    torch.manual_seed(0)
    device = bp.devices.Noisy(bp.devices.LightModulator(6, 4), read=0.02)
    model = torch.nn.Sequential(torch.nn.Linear(5, 6), bp.PhysicalLayer(device), torch.nn.Linear(4, 2))
    optimizer = torch.optim.Adam(bp.param_groups(model, lr=1e-2, device_lr=1e-2))
    monitor = bp.monitoring.RunMonitor(sys.argv[1], every=0.05, budget=bp.Budget(rows=10_000_000), name="<b>mine</b>")
    with monitor.follow(model, steps=100_000):
        for step in range(100_000):
            optimizer.zero_grad()
            loss = (model(torch.randn(8, 5)) - 1).square().mean()
            loss.backward()
            optimizer.step()
            monitor.step(loss, **({"accuracy": 0.5} if step % 10 == 0 else {}))
            time.sleep(0.01)
"""


def wait(condition, seconds=60):
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "it did not come"
        time.sleep(0.2)


@pytest.fixture(scope="module")
def training(tmp_path_factory):
    folder = tmp_path_factory.mktemp("live") / "run"
    process = subprocess.Popen([sys.executable, "-c", textwrap.dedent(TRAINING), str(folder)])
    yield folder, process
    process.kill()
    process.wait()


@pytest.mark.slow
def test_the_page_follows_a_run_and_tells_that_it_was_killed(browser, training):  # noqa: F811
    folder, process = training
    with Watch([folder], port=0) as page:
        threading.Thread(target=page.serve, daemon=True).start()

        def show(width, dark):
            scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
            size = {"width": width, "height": 850, "deviceScaleFactor": 1, "mobile": width < 500}
            browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
            browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})
            browser.get(page.address)

        def value(script):
            return browser.execute_script(f"return {script}")

        browser.get_log("performance"), browser.get_log("browser")
        wait(lambda: (folder / "metrics.jsonl").exists() and len((folder / "metrics.jsonl").read_text()) > 2000)
        show(1280, dark=False)
        state = "document.querySelector('.run')?.dataset.state"
        step = "Number(document.querySelector('.run')?.innerText.match(/step ([\\d,]+)/)?.[1].replaceAll(',', '') ?? 0)"
        wait(lambda: value(state) == "running")
        first = value(step)
        wait(lambda: value(step) > first)  # without a reload
        tiles = value("[...document.querySelectorAll('.tiles > div')].map((t) => t.innerText)")
        assert any("of 10,000,000" in tile and "left" in tile for tile in tiles)
        assert value("document.querySelectorAll('[role=progressbar]').length") == 2
        for name in ("loss", "metric", "signal", "residual", "noise", "at_limit"):
            wait(lambda name=name: value(f"!!document.querySelector('#plot-{name} svg path')"))
        assert value("document.querySelector('.run p').textContent") == "<b>mine</b> on Noisy"
        show(1280, dark=True)
        wait(lambda: value(state) == "running")
        ground = value("getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)[0]")
        assert ground < 40
        show(390, dark=False)
        wait(lambda: value(state) == "running" and value("!!document.querySelector('#plot-loss svg path')"))
        assert value("document.documentElement.scrollWidth") == 390
        os.kill(process.pid, signal.SIGKILL)
        wait(lambda: value(state) == "killed")
        assert "killed" in value("document.querySelector('.advice').innerText")
        assert browser.get_log("browser") == []
        events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
        asked = {e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"}
        assert page.address + "data.json" in asked
        assert all(url.startswith((page.address, "data:")) for url in asked)
    wait(lambda: "server has ended" in browser.execute_script("return document.getElementById('link').textContent"))
