"""Opens the pages of the built site in Chromium, and checks that people can read and use them.

Run with the folder of the site; without Chromium, chromedriver or Selenium it says so and ends well. Of each page: text
has a contrast of 4.5 in light and in dark, form controls have names, there is one first heading, pictures have a text,
the console is empty, nothing is asked of another host, and at 390 px nothing scrolls sideways.
"""

from __future__ import annotations

import importlib.util
import json
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

LOOK = (Path(__file__).parent / "_extension/check_page.js").read_text()
OPTIONS = ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars")
NARROW, WIDE = 390, 1280  # px
SECONDS = 10.0  # that a page may take
# The listings of source files are made from one template: the longest of them is enough.
ONE_OF = ("_modules",)


def pages(site: Path) -> list[Path]:
    """The pages to open: all, but one of each folder of ONE_OF."""
    found = sorted(site.rglob("*.html"))
    inside = {name: [path for path in found if path.relative_to(site).parts[0] == name] for name in ONE_OF}
    left_out = {path for group in inside.values() for path in sorted(group, key=lambda p: p.stat().st_size)[:-1]}
    return [path for path in found if path not in left_out and "_static" not in path.parts]


def missing() -> str:
    """What is needed and is not here."""
    programs = {"chromium": browser(), "chromedriver": shutil.which("chromedriver")}
    lacking = [name for name, path in programs.items() if path is None]
    return ", ".join(lacking + ["selenium"] * (importlib.util.find_spec("selenium") is None))


def browser() -> str | None:
    return shutil.which("chromium") or shutil.which("google-chrome")


def opened() -> Any:
    from selenium import webdriver  # noqa: PLC0415  # an extra

    options = webdriver.ChromeOptions()
    options.binary_location = browser() or ""
    for argument in OPTIONS:
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    return webdriver.Chrome(options=options, service=webdriver.ChromeService(shutil.which("chromedriver")))


def faults(driver: Any, page: Path) -> Iterator[str]:
    """What is wrong with a page, in light and narrow, then in dark and wide."""
    for width, scheme in ((NARROW, "light"), (WIDE, "dark")):
        size = {"width": width, "height": 850, "deviceScaleFactor": 1, "mobile": width == NARROW}
        driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        feature = {"name": "prefers-color-scheme", "value": scheme}
        driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})
        driver.get_log("performance"), driver.get_log("browser")  # empties them
        driver.get(page.as_uri())
        _wait(driver)
        for found in driver.execute_script(LOOK, width):
            yield f"{scheme}, {width} px: {found}"
        for line in driver.get_log("browser"):
            yield f"console: {line['message']}"
        for entry in driver.get_log("performance"):
            message = json.loads(entry["message"])["message"]
            address = message.get("params", {}).get("request", {}).get("url", "")
            if message["method"] == "Network.requestWillBeSent" and not address.startswith(("file:", "data:", "blob:")):
                yield f"asks another host: {address}"


def _wait(driver: Any) -> None:
    end = time.monotonic() + SECONDS
    while driver.execute_script("return document.readyState") != "complete" and time.monotonic() < end:
        time.sleep(0.02)


def main(site: Path) -> int:
    if lacking := missing():
        print(f"the pages are not checked in a browser: {lacking} is not installed")
        return 0
    driver, wrong, count = opened(), 0, 0
    try:
        for page in pages(site):
            count += 1
            for fault in dict.fromkeys(faults(driver, page)):
                print(f"{page.relative_to(site)}: {fault}")
                wrong += 1
    finally:
        driver.quit()
    print(f"{count} pages checked in a browser, {wrong} faults")
    return int(wrong > 0 or count == 0)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]).resolve()))
