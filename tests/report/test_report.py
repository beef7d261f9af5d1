"""The report page: self-contained, small, readable without scripts; and alive in a real browser."""

from __future__ import annotations

import html.parser
import itertools
import json
import re
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from harness.report.scatter_plots import place_labels
from tests.support import Command

pytest.importorskip("altair")
pytest.importorskip("vl_convert")

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
DRIVER = shutil.which("chromedriver")


@pytest.fixture
def page(pocket_harness: Command, pocket_runs: Path, tmp_path: Path) -> Path:
    out = tmp_path / "report.html"
    ran = pocket_harness("report", out, "--suite", "pocket", "--runs", pocket_runs)
    assert ran.code == 0, ran.err
    return out


class Outline(html.parser.HTMLParser):
    """What a screen reader would list."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: dict[str, list[str]] = {}
        self.inside: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self.inside.append(tag)

    def handle_endtag(self, tag: str) -> None:
        while self.inside and self.inside.pop() != tag:
            pass

    def handle_data(self, data: str) -> None:
        if self.inside and data.strip():
            self.text.setdefault(self.inside[-1], []).append(data.strip())

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def outline(path: Path) -> Outline:
    parser = Outline()
    parser.feed(path.read_text(encoding="utf-8"))
    return parser


def test_the_page_needs_no_network_and_is_small(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert len(text.encode()) < 5_000_000
    found = outline(page)
    for tag, attributes in found.tags:
        for name in ("src", "href", "action", "data"):
            value = attributes.get(name)
            assert value is None or value.startswith(("#", "data:")), (tag, value)
    assert "default-src 'none'" in text
    css = "".join(found.text["style"])
    assert "@import" not in css
    assert "url(" not in css


def test_the_page_reads_without_figures(page: Path) -> None:
    found = outline(page)
    assert found.all("html")[0]["lang"] == "en"
    assert len(found.all("h1")) == 1
    levels = [int(tag[1]) for tag, _ in found.tags if re.fullmatch(r"h[1-6]", tag)]
    assert all(b - a <= 1 for a, b in itertools.pairwise(levels))
    assert len(found.all("table")) == len(found.all("caption"))
    assert all(attributes.get("scope") in ("col", "row") for attributes in found.all("th"))
    charts = [a for a in found.all("div") if "chart" in (a.get("class") or "").split()]
    assert len(charts) >= 8
    assert all(len(chart["aria-label"] or "") > 40 for chart in charts)
    ids = [attributes["id"] for _, attributes in found.tags if attributes.get("id")]
    assert len(ids) == len(set(ids))
    text = page.read_text(encoding="utf-8")
    for expected in (
        "digest",
        "seeds 0, 1",
        "once per run, after the last epoch",
        "comparing needs at least 4",
        "incomplete",
    ):
        assert expected in text


def test_names_from_plugins_cannot_break_the_page() -> None:
    from harness.report.content import as_json

    assert "</script" not in as_json({"model": "</script><script>alert(1)</script>"})


def test_the_published_page_needs_no_runs(pocket_harness: Command, tmp_path: Path) -> None:
    out, figures = tmp_path / "new/published.html", tmp_path / "figures"
    ran = pocket_harness("report", out, "--published", "--no-patterns", "--figures", figures)
    assert ran.code == 0, ran.err
    names = {path.name for path in figures.iterdir()}
    for name in ("scores", "heat_map", "profiles", "figure_1", "figure_2", "subsets"):
        assert {f"{name}.png", f"{name}.svg", f"{name}.pdf"} <= names
    assert (figures / "figure_1.png").read_bytes().startswith(b"\x89PNG")
    assert (figures / "figure_1.pdf").read_bytes().startswith(b"%PDF")
    assert "<svg" in (figures / "figure_1.svg").read_text()
    assert "0.962" in out.read_text()


def test_bad_requests_are_refused(pocket_harness: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    assert pocket_harness("report", tmp_path / "report.txt").code == 2
    ran = pocket_harness("report", tmp_path / "r.html", "--suite", "pocket", "--runs", tmp_path / "none")
    assert ran.code == 3
    assert "harness run --all --suite pocket" in ran.err
    monkeypatch.setitem(sys.modules, "altair", None)
    ran = pocket_harness("report", tmp_path / "r.html", "--published")
    assert ran.code == 3
    assert "pip install 'xscore-harness[report]'" in ran.err


def test_labels_do_not_cover_each_other() -> None:
    x, y = [0.0, 1.0, 1.02, 1.04, 2.0], [0.0, 1.0, 1.01, 0.99, 2.0]
    places = place_labels(x, y, ["one", "two", "three", "four", "five"])
    assert len({(p.dx, p.dy) for p in places[1:4]}) == 3
    assert place_labels([1.0], [1.0], ["alone"])[0].dy < 0


# ------------------------------------------------------------------------------------------------------------ browser


class Browser:
    """A headless Chromium with the page open."""

    def __init__(self, driver: Any, path: Path) -> None:
        self.driver = driver
        driver.get(path.as_uri())
        for _ in range(200):
            if self.js("return document.documentElement.dataset.drawn"):
                return
            time.sleep(0.05)
        raise AssertionError(f"the page was never drawn: {driver.get_log('browser')}")

    def js(self, script: str, *arguments: object) -> Any:
        return self.driver.execute_script(script, *arguments)

    def column(self, table: str, at: int) -> list[str]:
        rows: list[str] = self.js(
            "return [...document.getElementById(arguments[0]).tBodies[0].rows].filter(r => !r.hidden)"
            ".map(r => r.cells[arguments[1]].dataset.value)",
            table, at,
        )  # fmt: skip
        return rows

    def click(self, selector: str, at: int = 0) -> None:
        self.js("document.querySelectorAll(arguments[0])[arguments[1]].click()", selector, at)
        time.sleep(0.3)


@pytest.fixture
def driver(tmp_path: Path) -> Iterator[Any]:
    if not (CHROMIUM and DRIVER):
        pytest.skip("there is no chromium with its driver on this machine")
    webdriver = pytest.importorskip("selenium.webdriver")
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for argument in (
        "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run",
        f"--user-data-dir={tmp_path / 'profile'}", "--window-size=1280,900",
    ):  # fmt: skip
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    opened = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    yield opened
    opened.quit()


@pytest.mark.browser
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_the_page_lives_in_a_browser(driver: Any, page: Path) -> None:
    browser = Browser(driver, page)
    # The first drawing in a fresh browser, on any machine that tests run on; 0.7 s on a desktop.
    assert int(browser.js("return document.documentElement.dataset.drawn")) < 6000
    charts = browser.js(
        "return [...document.querySelectorAll('.chart')].map(c => c.querySelectorAll('svg path').length)"
    )
    assert len(charts) >= 8
    assert min(charts) > 0

    # Sorting: by score downwards and upwards; what is missing, and the baseline, stay at the end.
    heads = browser.js("return [...document.querySelectorAll('#board thead th')].map(h => h.textContent.trim())")
    score = heads.index("xScore")
    browser.click("#board thead button", score - 1)
    down = browser.column("board", score)
    assert down[:3] == sorted(down[:3], key=float, reverse=True)
    browser.click("#board thead button", score - 1)
    up = browser.column("board", score)
    assert up[:3] == down[:3][::-1]
    assert up[3] == ""
    assert browser.column("board", heads.index("model"))[-1] == "majority class"
    sort = "return document.querySelectorAll('#board thead th')[arguments[0]].getAttribute('aria-sort')"
    assert browser.js(sort, score) == "ascending"
    browser.click("#board thead button", 1)
    names = browser.column("board", heads.index("model"))
    assert names[:3] == sorted(names[:3])

    # Filtering hides rows; choosing models takes their marks out of the figures.
    browser.js(
        "const i = document.querySelector('[data-filter=board]'); i.value = 'star'; i.dispatchEvent(new Event('input'))"
    )
    assert browser.column("board", heads.index("model")) == ["starnet"]
    marks = "return document.querySelectorAll('#scores svg .mark-symbol path').length"
    assert browser.js(marks) == 3
    browser.click("#none")
    assert browser.js("return getComputedStyle(document.querySelector('#scores svg')).visibility") == "hidden"
    browser.click("input[data-model=starnet]")
    assert browser.js(marks) == 1
    assert "1 of 4 models" in browser.js("return document.getElementById('chosen').textContent")

    # Confusion matrices on demand are real tables whose rows add up.
    browser.click("#confusion-show")
    cells = browser.js("return [...document.querySelectorAll('#confusion td')].map(c => Number(c.textContent) || 0)")
    assert sum(cells) > 0
    assert browser.js("return document.querySelectorAll('#confusion th[scope=row]').length") == 10

    # Dark and light, and back.
    colour = "return getComputedStyle(document.body).backgroundColor"
    light = browser.js(colour)
    browser.click("#theme")
    assert browser.js(colour) != light
    assert browser.js("return document.getElementById('theme').textContent") == "Light mode"
    assert [entry for entry in driver.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")] == []


@pytest.mark.browser
@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_the_page_fits_a_phone(driver: Any, page: Path) -> None:
    metrics = {"width": 390, "height": 844, "deviceScaleFactor": 2, "mobile": True}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    browser = Browser(driver, page)
    assert browser.js("return document.documentElement.scrollWidth") <= 390
    wide = browser.js("return [...document.querySelectorAll('.chart svg')].map(s => s.getBoundingClientRect().right)")
    assert max(wide) <= 392
    assert driver.get_log("browser") == []


def test_the_specifications_hold_no_missing_values_as_nan(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    found = re.search(r'<script type="application/json" id="specs">(.*?)</script>', text, re.DOTALL)
    assert found
    specs = json.loads(found.group(1), parse_constant=lambda name: pytest.fail(f"{name} in the page"))
    assert {
        "scores",
        "heat_map",
        "profiles",
        "figure_1",
        "figure_2",
        "parameters",
        "learning_curves",
    } <= set(specs)
