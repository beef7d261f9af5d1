"""The code -> the pages of the reference: command line, hooks, plugin API and registry, nothing by hand."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import itertools
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import click
from docstrings import Docstring, paragraphs, parse, plain

from harness import api, hookspecs
from harness.cli import cli
from harness.registry import load_benchmark

_WIDTH = 80
_HOOKS_LEAD = """# Hooks

A plugin implements any of these functions and marks them with `harness.api.hookimpl`.
[Writing plugins](../plugins.md) explains how; this page is made from `harness/hookspecs.py`.
An implementation may leave out parameters that it does not need.
"""
_API_LEAD = f"""# Plugin API

All that a plugin imports, from `harness.api`. Importing it costs milliseconds and never loads torch. The version of
this interface is **{api.HOOK_API_VERSION}**; a plugin module may state the one that it was written for as
`HARNESS_API = {api.HOOK_API_VERSION}`.
"""
_CLI_LEAD = """# Command line

Every command explains itself with `--help`; this page is made from the same texts. Data goes to stdout in the
`--format` that you choose, progress and messages go to stderr. The [exit codes](../results.md#exit-codes) are the same
for all commands.
"""


def commands(command: click.Command = cli, parent: click.Context | None = None) -> Iterator[click.Context]:
    """Walk the tree of commands, groups before their members, in the order of a user's work."""
    context = click.Context(command, info_name="harness" if parent is None else command.name, parent=parent)
    yield context
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            found = command.get_command(context, name)
            if found is not None and not found.hidden:
                yield from commands(found, context)


def hooks() -> dict[str, Callable[..., Any]]:
    """Return the hook specifications by name, in the order of the file."""
    marker = f"{api.PROJECT}_spec"
    return {name: one for name, one in vars(hookspecs).items() if hasattr(one, marker)}


def command_line_page() -> str:
    """Return the page of all commands with every option."""
    return _CLI_LEAD + "".join(_command(context) for context in commands())


def _command(context: click.Context) -> str:
    command = context.command
    level = "##" if context.parent is None or context.parent.parent is None else "###"
    usage = " ".join(" ".join(command.collect_usage_pieces(context)).split())
    parts = [
        f"{level} {context.command_path}",
        paragraphs(command.help or ""),
        f'```text title="Usage"\n{context.command_path} {usage}\n```',
    ]
    options = [record for parameter in command.get_params(context) if (record := _option(parameter, context))]
    parts += options
    if command.epilog:
        parts.append(paragraphs(command.epilog))
    return "\n" + "\n\n".join(parts) + "\n"


def _option(parameter: click.Parameter, context: click.Context) -> str:
    record = parameter.get_help_record(context)
    if record is None:
        return ""
    names, text = record
    text, _, extra = text.partition("  [")
    if not text:
        return ""
    default = f" *{plain(extra.removesuffix(']').replace('default', 'Default', 1))}.*" if extra else ""
    return f"`{names}`\n:   {plain(text)}{default}"


def hooks_page() -> str:
    """Return the page of all hooks with their exact signatures."""
    parts = [_HOOKS_LEAD]
    for name, hook in hooks().items():
        found = parse(hook)
        types = sorted({word for word in re.findall(r"\w+", _signature(name, hook)) if word in _documented_types()})
        links = ", ".join(f"[`{one}`](api.md#{one.lower()})" for one in types)
        parts.append(f"## {name}\n\n```python\n{_signature(name, hook)}\n```\n\n{found.text}\n\nSee {links}.\n")
    return "\n".join(parts)


def _signature(name: str, function: Callable[..., Any]) -> str:
    signature = inspect.signature(function)
    line = f"def {name}{signature}".replace("'", "")
    if len(line) <= _WIDTH:
        return line
    parameters = "".join(f"    {one},\n" for one in signature.parameters.values())
    returns = "" if signature.return_annotation is signature.empty else f" -> {signature.return_annotation}"
    return f"def {name}(\n{parameters}){returns}".replace("'", "")


def _documented_types() -> list[str]:
    return [name for name in api.__all__ if inspect.isclass(getattr(api, name))]


def api_page() -> str:
    """Return the page of everything in ``harness.api.__all__``."""
    comments = _comments_under_constants()
    parts = [_API_LEAD]
    for name in sorted(api.__all__, key=lambda one: (not inspect.isclass(getattr(api, one)), one.lower())):
        value = getattr(api, name)
        if dataclasses.is_dataclass(value) and isinstance(value, type):
            body = _dataclass(value)
        elif inspect.isclass(value):
            body = _class(value)
        elif inspect.isfunction(value):
            body = _function(name, value)
        else:
            body = comments.get(name, "") or _alias(name, value)
        parts.append(f"## {name}\n\n{body}\n")
    return "\n".join(parts)


def _alias(name: str, value: object) -> str:
    if name == "hookimpl":
        return "The marker of a plugin's implementations: `@hookimpl` above a function with a hook's name."
    return f"```python\n{name} = {str(value).replace('typing.', '')}\n```"


def _dataclass(kind: type) -> str:
    found = parse(kind)
    documented = found.items.get("Attributes", {})
    texts = {name.strip(): text for names, text in documented.items() for name in names.split(",")}
    rows = []
    for one in dataclasses.fields(kind):
        default = _default(one)
        shown = f" *Default: `{default}`.*" if default else ""
        annotation = one.type if isinstance(one.type, str) else getattr(one.type, "__name__", str(one.type))
        rows.append(f"`{one.name}: {annotation}`\n:   {texts.get(one.name) or 'See above.'}{shown}")
    return found.text + "\n\n" + "\n\n".join(rows)


def _default(one: dataclasses.Field[Any]) -> str:
    if one.default is not dataclasses.MISSING:
        return repr(one.default)
    if one.default_factory is not dataclasses.MISSING:
        made = one.default_factory()
        return repr(dict(made) if isinstance(made, MappingProxyType) else made)
    return ""


def _class(kind: type) -> str:
    parts = [parse(kind).text]
    call = vars(kind).get("__call__")
    if call is not None:
        parts.append(_function("__call__", call))
    return "\n\n".join(parts)


def _function(name: str, function: Callable[..., Any]) -> str:
    found: Docstring = parse(function)
    parts = [f"```python\n{_signature(name, function)}\n```", found.text]
    for section, items in found.items.items():
        listed = "\n\n".join(f"`{item}`\n:   {text}" for item, text in items.items())
        parts.append(f"**{section}:** {found.prose.get(section, '')}\n\n{listed}")
    return "\n\n".join(part.rstrip() for part in parts)


def _comments_under_constants() -> dict[str, str]:
    """Read the texts that stand under module constants, which do not exist when the program runs."""
    body = ast.parse(Path(api.__file__).read_text(encoding="utf-8")).body
    texts = {}
    for before, after in itertools.pairwise(body):
        named = isinstance(before, ast.Assign) and isinstance(before.targets[0], ast.Name)
        if named and isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant):
            texts[before.targets[0].id] = inspect.cleandoc(str(after.value.value))  # type: ignore[attr-defined]
    return texts


def registry_page() -> str:
    """Return the page of the frozen benchmark's numbers, which code reads from ``registry.toml``."""
    benchmark = load_benchmark()
    parts = [
        "# The registry\n",
        "What the shipped [`registry.toml`](../../registry.toml) says; "
        "[the protocol](../protocol.md) gives the reasons.\n",
        "## Budgets\n\n| budget | trainable parameters | least | most |\n|---|---|---|---|",
        *(
            f"| `{name}` | {budget.parameters:,} | {budget.bounds[0]:,} | {budget.bounds[1]:,} |"
            for name, budget in benchmark.budgets.items()
        ),
        "\n## Suites\n\n| suite | title | protocol | budget | data sets | anchors |\n|---|---|---|---|---|---|",
    ]
    for name, suite in benchmark.suites.items():
        mark = " (default)" if name == benchmark.default_suite else ""
        sets = ", ".join(f"`{one}`" for one in suite.datasets)
        ruled = f"`{suite.protocol}` | `{suite.budget}`"
        parts.append(f"| `{name}`{mark} | {suite.title} | {ruled} | {sets} | {suite.anchors or 'its own'} |")
    parts.append("\n## Protocols\n")
    for name, protocol in benchmark.protocols.items():
        parts.append(
            f"### {name}\n\n{protocol.title}.\n\n| setting | value |\n|---|---|\n| digest | `{protocol.digest}` |"
        )
        parts += [
            f"| {key.replace('_', ' ')} | {_value(getattr(protocol, key))} |"
            for key in protocol.__struct_fields__
            if key not in ("name", "title", "augmentations") and getattr(protocol, key) not in (None, {})
        ]
        parts += [f"| augmentation, {use.at} | {use.name}: {_value(use.strengths)} |" for use in protocol.augmentations]
        parts.append("")
    return "\n".join(parts)


def _value(value: object) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_value(one)}" for key, one in value.items())
    if isinstance(value, tuple | list):
        return ", ".join(_value(one) for one in value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:g}" if isinstance(value, float) else str(value)


PAGES: Mapping[str, Callable[[], str]] = {
    "reference/cli.md": command_line_page,
    "reference/hooks.md": hooks_page,
    "reference/api.md": api_page,
    "reference/registry.md": registry_page,
}
"""Generated pages by their place in the site."""

__all__ = ["PAGES", "commands", "hooks"]
