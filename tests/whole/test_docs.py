"""The documentation site builds without a warning, needs no network, and documents everything that there is."""

from __future__ import annotations

import ast
import inspect
import re
import shutil
import subprocess
import sys
import threading
import unicodedata
from collections.abc import Iterator
from functools import partial
from html.parser import HTMLParser
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import click
import pytest

from harness import api, hookspecs
from harness.cli import cli
from tests.support import ROOT

pytestmark = pytest.mark.portable

DOCS = ROOT / "docs"
HAND_WRITTEN = sorted(path for path in DOCS.rglob("*.md"))
OUTSIDE = sorted([*ROOT.glob("*.md"), *ROOT.glob("examples/*/README.md"), *ROOT.glob("benchmarks/*.md")])


def _commands(command: click.Command = cli, path: str = "harness") -> Iterator[tuple[str, click.Command]]:
    yield path, command
    if isinstance(command, click.Group):
        for name, one in command.commands.items():
            yield from _commands(one, f"{path} {name}")


COMMANDS = dict(_commands())
HOOKS = {name: one for name, one in vars(hookspecs).items() if hasattr(one, f"{api.PROJECT}_spec")}


class _Page(HTMLParser):
    """The anchors of a page, and what it makes a browser fetch."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.ids: set[str] = set()
        self.fetched: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.ids.add(found.get("id") or "")
        if tag != "a":
            self.fetched += [found[key] or "" for key in ("src", "href", "srcset", "poster") if key in found]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("the site")
    program = [sys.executable, "-m", "mkdocs", "build", "--strict", "-f", str(DOCS / "site" / "mkdocs.yml")]
    ran = subprocess.run([*program, "-d", str(folder)], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    return folder


def _page(site: Path, name: str) -> _Page:
    return _Page((site / name / "index.html").read_text(encoding="utf-8"))


def test_every_command_is_in_the_reference_with_every_option(site: Path) -> None:
    page = _page(site, "reference/cli")
    assert {name.replace(" ", "-") for name in COMMANDS} <= page.ids
    text = (site / "reference/cli/index.html").read_text(encoding="utf-8")
    options = {
        option for command in COMMANDS.values() for one in command.params for option in one.opts if "-" in option
    }
    assert {option for option in options if option not in text} == set()


def test_every_hook_and_api_name_is_in_the_reference(site: Path) -> None:
    assert len(HOOKS) >= 8
    assert set(HOOKS) <= _page(site, "reference/hooks").ids
    assert {name.lower() for name in api.__all__} <= _page(site, "reference/api").ids
    text = (site / "reference/hooks/index.html").read_text(encoding="utf-8")
    words = re.sub(r"<[^>]+>", "", text)
    for name, hook in HOOKS.items():
        signature = re.search(rf"def {name}\(([^)]*)\)", words)
        assert signature, name
        assert [one.split(":")[0] for one in signature[1].split(", ") if one] == [*inspect.signature(hook).parameters]
        assert inspect.getdoc(hook)


def test_every_hook_and_every_command_is_explained_by_hand() -> None:
    pages = "\n".join(path.read_text(encoding="utf-8") for path in HAND_WRITTEN)
    assert [name for name in HOOKS if name not in pages] == []
    leaves = [name for name, command in COMMANDS.items() if not isinstance(command, click.Group)]
    assert [name for name in leaves if not re.search(rf"\b{name}\b", pages)] == []


def test_a_browser_fetches_nothing_from_elsewhere(site: Path) -> None:
    pages = list(site.rglob("*.html"))
    assert len(pages) > 15
    foreign = {
        address
        for path in pages
        for address in _Page(path.read_text(encoding="utf-8")).fetched
        if re.match(r"(https?:)?//", address)
    }
    assert foreign == set()
    styles = "\n".join(path.read_text(encoding="utf-8") for path in site.rglob("*.css"))
    assert re.findall(r"url\(['\"]?(?:https?:)?//[^)]*", styles) == []


def test_addresses_outside_are_listed_and_encrypted(site: Path) -> None:
    """Nothing here asks whether they answer: CI must not depend on other people's servers."""
    listed = {line.split(" ")[1] for line in (site / "external-links.txt").read_text(encoding="utf-8").splitlines()}
    pages = "\n".join(path.read_text(encoding="utf-8") for path in [*HAND_WRITTEN, ROOT / "CHANGELOG.md"])
    assert {address.rstrip("/") for address in listed} == set(re.findall(r"\]\((https?://[^)\s]+?)/?\)", pages))
    assert [address for address in listed if not address.startswith("https://")] == []


def test_a_page_that_nobody_listed_is_in_the_navigation(tmp_path: Path) -> None:
    unneeded = shutil.ignore_patterns(".git", ".venv", ".*_cache", "__pycache__", "build", "dist", "runs", "tests")
    copy = shutil.copytree(ROOT, tmp_path / "a copy", ignore=unneeded) / "docs"
    (copy / "brand-new.md").write_text("# Brand new\n\n[The registry](../registry.toml)\n", encoding="utf-8")
    (copy / "plugins").mkdir(exist_ok=True)
    (copy / "plugins" / "sampler.md").write_text("# A sampler\n", encoding="utf-8")
    program = [sys.executable, "-m", "mkdocs", "build", "--strict", "-f", str(copy / "site" / "mkdocs.yml")]
    ran = subprocess.run([*program, "-d", str(tmp_path / "out")], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    home = (tmp_path / "out" / "index.html").read_text(encoding="utf-8")
    # The one under its folder's heading, the other at the end.
    assert home.index("Writing plugins") < home.index("A sampler") < home.index("Background") < home.index("Brand new")
    new = (tmp_path / "out" / "brand-new" / "index.html").read_text(encoding="utf-8")
    assert 'href="../repository/registry.toml/"' in new


@pytest.mark.parametrize("path", OUTSIDE, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_relative_links_outside_the_site_lead_somewhere(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    links = re.findall(r"\]\(([^)\s]+)\)", text) + re.findall(r'(?:src|href)="([^"]+)"', text)
    dead = []
    for link in links:
        target, _, anchor = link.partition("#")
        if re.match(r"[a-z]+:", target):
            continue
        file = path.parent / target if target else path
        if not file.exists() or (anchor and anchor not in _anchors(file)):
            dead.append(link)
    assert dead == []


def _anchors(file: Path) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", file.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", unicodedata.normalize("NFC", one).lower()).replace(" ", "-") for one in headings}


def _messages() -> list[str]:
    """Return every text of the code, what is filled in written as an ellipsis."""
    found = []
    for path in [*ROOT.glob("harness/**/*.py"), *ROOT.glob("plugins/**/*.py")]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(node.value)
            elif isinstance(node, ast.JoinedStr):
                parts = [one.value if isinstance(one, ast.Constant) else "…" for one in node.values]
                found.append("".join(map(str, parts)))
    return found


def test_quoted_messages_are_those_of_the_code() -> None:
    headings = re.findall(r"^### (.+)$", (DOCS / "troubleshooting.md").read_text(encoding="utf-8"), re.MULTILINE)
    quoted = [quote for heading in headings for quote in re.findall(r"`([^`]+)`", heading)]
    assert len(quoted) >= 35
    messages = _messages()

    def is_there(quote: str) -> bool:
        pattern = re.compile(".*".join(re.escape(part.strip()) for part in quote.split("…")), re.DOTALL)
        return any(pattern.search(message) for message in messages)

    assert [quote for quote in quoted if not is_there(quote)] == []
    assert not is_there("a message that … nobody has written")


CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
DRIVER = shutil.which("chromedriver")


@pytest.fixture(scope="module")
def address(site: Path) -> Iterator[str]:
    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(site))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


@pytest.mark.browser
@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="there is no Chromium with its driver")
def test_site_works_and_searches_in_a_browser_of_any_width(address: str) -> None:
    from selenium import webdriver
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.ui import WebDriverWait

    options = webdriver.ChromeOptions()
    options.binary_location = str(CHROMIUM)
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-background-networking"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    try:
        for width in (1280, 390):
            size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
            driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
            for page in ("", "tutorial/", "protocol/", "reference/cli/", "troubleshooting/"):
                driver.get(address + page)
                wide = driver.execute_script("return document.documentElement.scrollWidth")
                assert wide <= width, f"{page or 'home'} is {wide} pixels wide on a screen of {width}"
        loaded = driver.execute_script("return performance.getEntriesByType('resource').map(one => one.name)")
        assert [name for name in loaded if not name.startswith(address)] == []
        driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
        driver.set_window_size(1280, 900)
        driver.get(address)
        box = driver.find_element(By.CSS_SELECTOR, "input.md-search__input")
        box.click()
        box.send_keys("jobs-per-gpu")
        titles = (
            "return [...document.querySelectorAll('.md-search-result__item h1')].map(one => one.textContent.trim())"
        )
        WebDriverWait(driver, 20).until(lambda one: "Running the full benchmark" in one.execute_script(titles))
        trouble = [entry["message"] for entry in driver.get_log("browser") if entry["level"] == "SEVERE"]
        assert [message for message in trouble if "favicon" not in message] == []
    finally:
        driver.quit()
