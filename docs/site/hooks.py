"""What mkdocs calls while it builds: adds generated pages, unlisted pages, and linked files from outside docs/."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from reference import PAGES

ROOT = Path(__file__).parents[2]
_LINK = re.compile(r"(?<=\]\()([^)\s#]+)(#[^)\s]*)?(?=\))")
_LANGUAGES = {".py": "python", ".toml": "toml", ".md": "markdown", ".yml": "yaml", ".cff": "yaml", ".csv": "text"}
_LARGEST = 60_000
_addresses: dict[str, set[str]] = {}


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """List the pages that the navigation leaves out, so that a new page needs no second change."""
    folder = Path(config.docs_dir)
    found = [path.relative_to(folder).as_posix() for path in sorted(folder.rglob("*.md"))]
    nav = _with_folders(config.nav or [], found)
    listed = set(_leaves(nav))
    new = [name for name in found if name not in listed and not name.startswith("site/")]
    config.nav = [*nav, {"More": new}] if new else nav
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages made from code, the list of changes, and a page for each linked file outside docs/."""
    pages = {name: make() for name, make in PAGES.items()}
    changes = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    pages["changelog.md"] = _LINK.sub(lambda link: _from_root(link[0]), changes)
    texts = {file.src_uri: file.content_string for file in files.documentation_pages()} | pages
    outside = {path for name, text in texts.items() for path in _outside(name, text)}
    pages |= {f"repository/{path}.md": _source_page(path) for path in sorted(outside)}
    for name, text in pages.items():
        files.append(File.generated(config, name, content=text))
    for asset in ("site.css", "mark.svg"):
        files.append(File.generated(config, f"assets/{asset}", abs_src_path=str(Path(__file__).with_name(asset))))
    return files


def on_page_markdown(markdown: str, page: Page, **_: Any) -> str:
    """Turn links to files outside docs/, which work where the sources are browsed, to their pages in the site."""
    name = page.file.src_uri
    if name.startswith("repository/"):
        return markdown

    def lead(link: re.Match[str]) -> str:
        path = _repository_path(name, link[1])
        if path is None:
            return link[0]
        return posixpath.relpath(f"repository/{path}.md", posixpath.dirname(name) or ".")

    return _LINK.sub(lead, markdown)


def on_page_content(html: str, page: Page, **_: Any) -> None:
    """Note the addresses that a page leads to."""
    _addresses.setdefault(page.file.src_uri, set()).update(re.findall(r'<a [^>]*href="(https?://[^"]+)"', html))


def on_post_build(config: MkDocsConfig) -> None:
    """List the addresses outside the site, for whoever wants to try them: the build fetches nothing."""
    lines = [f"{name} {address}" for name, found in sorted(_addresses.items()) for address in sorted(found)]
    Path(config.site_dir, "external-links.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _with_folders(nav: Any, pages: Iterable[str]) -> Any:
    """Put the pages of a folder in the place of its name."""
    if isinstance(nav, dict):
        return {title: _with_folders(part, pages) for title, part in nav.items()}
    if not isinstance(nav, list):
        return nav
    placed: list[Any] = []
    for part in nav:
        is_folder = isinstance(part, str) and part.endswith("/")
        placed += [name for name in pages if name.startswith(part)] if is_folder else [_with_folders(part, pages)]
    return placed


def _leaves(nav: Any) -> Iterator[str]:
    if isinstance(nav, str):
        yield nav
    for part in nav.values() if isinstance(nav, dict) else nav if isinstance(nav, list) else ():
        yield from _leaves(part)


def _from_root(target: str) -> str:
    """Return a link of a file in the repository's root as it must be in docs/."""
    if not _is_local(target):
        return target
    return target.removeprefix("docs/") if target.startswith("docs/") else f"../{target}"


def _is_local(target: str) -> bool:
    return not re.match(r"[a-z]+:|/|#", target)


def _repository_path(page: str, target: str) -> str | None:
    """Return the path from the repository's root that a link means, if it leads out of docs/ and exists."""
    if not _is_local(target):
        return None
    path = posixpath.normpath(posixpath.join("docs", posixpath.dirname(page), target))
    within = path == "docs" or (path.startswith("docs/") and not path.startswith("docs/site/"))
    return None if within or path.startswith("..") or not (ROOT / path).exists() else path


def _outside(page: str, text: str) -> Iterable[str]:
    return filter(None, (_repository_path(page, link[1]) for link in _LINK.finditer(text)))


def _source_page(path: str) -> str:
    """Show a file, or every text file of a folder."""
    place = ROOT / path
    if place.is_file():
        return f"# {path}\n\n{_listing(place)}"
    parts = [f"# {path}\n"]
    for file in sorted(place.rglob("*")):
        if file.is_file() and file.suffix in {*_LANGUAGES, ".txt"} and "__pycache__" not in file.parts:
            parts.append(f"## {file.relative_to(place).as_posix()}\n\n{_listing(file)}")
    return "\n".join(parts)


def _listing(file: Path) -> str:
    text = file.read_text(encoding="utf-8")
    if len(text) > _LARGEST:
        text = text[:_LARGEST] + "\n[the rest is left out here]"
    return f"``````{_LANGUAGES.get(file.suffix, 'text')}\n{text.rstrip()}\n``````\n"
