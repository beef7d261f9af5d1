"""Docstrings -> Markdown: paragraphs, examples after a ``\\b``, and the sections of Google's style."""

from __future__ import annotations

import html
import inspect
import re
from dataclasses import dataclass, field

_SECTION = re.compile(r"^(Attributes|Args|Returns|Raises|Yields):$")
_ITEM = re.compile(r"^ {4}(\S[^:]*): (.*)$")


@dataclass
class Docstring:
    """A docstring in parts: the free text, and ``name -> text`` for each section that lists names."""

    text: str = ""
    items: dict[str, dict[str, str]] = field(default_factory=dict)
    prose: dict[str, str] = field(default_factory=dict)


def parse(documented: object) -> Docstring:
    """Take apart what ``inspect`` finds as the docstring of something."""
    free: list[str] = []
    found = Docstring()
    section = ""
    name = ""
    for line in inspect.cleandoc(inspect.getdoc(documented) or "").splitlines():
        if match := _SECTION.match(line):
            section, name = match[1], ""
            found.items.setdefault(section, {})
        elif not section:
            free.append(line)
        elif (match := _ITEM.match(line)) and section not in ("Returns", "Yields"):
            name = match[1]
            found.items[section][name] = match[2]
        elif name:
            found.items[section][name] += f" {line.strip()}"
        elif line.strip():
            found.prose[section] = f"{found.prose.get(section, '')} {line.strip()}".strip()
    found.text = "\n".join(free).strip()
    return found


def paragraphs(text: str) -> str:
    """Turn a command's help into Markdown; a paragraph after a ``\\b`` is an example to copy."""
    parts = []
    for block in re.split(r"\n\s*\n", inspect.cleandoc(text)):
        if block.startswith("\b"):
            parts.append(example(block.removeprefix("\b")))
        else:
            parts.append(plain(" ".join(block.split())))
    return "\n\n".join(parts)


def example(block: str) -> str:
    """Return a fenced block; a first line that ends in a colon is its caption."""
    lines = block.strip("\n").splitlines()
    caption = ""
    if lines and lines[0].rstrip().endswith(":") and not lines[0].lstrip().startswith("harness"):
        caption = f"{plain(lines[0].strip())}\n\n"
    body = inspect.cleandoc("\n".join(lines[1:] if caption else lines))
    body = re.sub(r"(?m)^(harness .*?\S) {2,}(\S.*)$", r"\1  # \2", body)
    return f"{caption}```bash\n{body}\n```"


def plain(text: str) -> str:
    """Escape a sentence so that Markdown shows it as it is."""
    return re.sub(r"([*_\[\]`|])", r"\\\1", html.escape(text, quote=False))
