"""Page content -> one self-contained HTML page, and its figures as PNG, SVG and PDF."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib import resources
from pathlib import Path
from typing import Any

from harness import __version__
from harness.files import write_atomically, write_text_atomically, writing_to
from harness.report.content import PageContent, as_json
from harness.report.figures import Figure, altair, effects, heat_map, learning_curves, profiles, scores
from harness.report.page_tables import Table, page_tables
from harness.report.scatter_plots import (
    against_compute,
    against_parameters,
    predicted_against_full,
    proxy_against_score,
    subsets,
)

FIGURE_FORMATS = ("png", "svg", "pdf")
_WIDTH = 640

_LIGHT: dict[str, Any] = {
    "background": "#ffffff",
    "view": {"stroke": None},
    "axis": {"gridColor": "#e4e9ed", "labelColor": "#17212b", "titleColor": "#56606b", "titleFontWeight": 500},
    "text": {"color": "#17212b"},
}


@dataclass(frozen=True)
class _Card:
    name: str
    value: str
    more: str


def build_figures(content: PageContent) -> dict[str, Figure]:
    """Draw every figure that the content suffices for; return them by name."""
    patterns = content.patterns
    figures = [scores(content), heat_map(content), profiles(content)]
    if content.published is not None and content.proxy:
        figures.append(proxy_against_score(content))
    if content.published is not None:
        figures.append(predicted_against_full(content))
    if any(row.training and row.training.parameters for row in content.models):
        figures.append(against_parameters(content))
    if patterns is not None and patterns.cost is not None:
        figures.append(against_compute(patterns))
    if content.histories:
        figures.append(learning_curves(content))
    if content.search is not None:
        figures.append(subsets(content))
    if patterns is not None and patterns.associations:
        figures.append(effects(patterns))
    return {figure.name: figure for figure in figures}


def render_page(content: PageContent, figures: Mapping[str, Figure]) -> str:
    """Return the page, which contains everything it needs, scripts and data included.

    Raises CannotContinueError where the libraries of the extra ``report`` are missing.
    """
    library = altair()
    import jinja2
    import vl_convert

    assets = resources.files("harness.report") / "assets"
    tables = page_tables(content)
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    template = environment.from_string((assets / "page.html.j2").read_text(encoding="utf-8"))
    version = (
        "v" + library.SCHEMA_VERSION.lstrip("v").rpartition(".")[0] if library.SCHEMA_VERSION.count(".") > 1 else None
    )
    confusions = _confusions(content)
    return template.render(
        content=content,
        figures=figures,
        tables=tables,
        sections=_sections(content, figures, tables),
        cards=[(card.name, card.value, card.more) for card in _cards(content)],
        confusions=confusions,
        confusions_json=as_json(confusions),
        any_measured=any(row.is_measured for row in content.published_models),
        best_q2=_best_q2(content),
        specs=as_json({name: figure.spec for name, figure in figures.items()}),
        css=(assets / "page.css").read_text(encoding="utf-8"),
        js=(assets / "page.js").read_text(encoding="utf-8"),
        bundle=_bundle(vl_convert, version),
        version=__version__,
        made=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    )


def write_page(path: Path, content: PageContent, figures: Mapping[str, Figure]) -> None:
    """Write the page, atomically. Raises StoreError where that is impossible."""
    page = render_page(content, figures)
    with writing_to(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
    write_text_atomically(path, page)


def write_figures(folder: Path, figures: Mapping[str, Figure]) -> list[Path]:
    """Write every figure as PNG, SVG and PDF; return the paths. Raises StoreError where that is impossible."""
    altair()
    import vl_convert

    with writing_to(folder):
        folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for name, figure in figures.items():
        spec = dict(figure.spec) | {"width": _WIDTH, "title": figure.title}
        spec["config"] = {**spec.get("config", {}), **_LIGHT}
        made = {
            "png": vl_convert.vegalite_to_png(spec, scale=2),
            "svg": vl_convert.vegalite_to_svg(spec).encode(),
            "pdf": vl_convert.vegalite_to_pdf(spec),
        }
        for ending in FIGURE_FORMATS:
            path = folder / f"{name}.{ending}"
            content = made[ending]
            write_atomically(path, lambda file, content=content: file.write(content))  # type: ignore[misc]
            paths.append(path)
    return paths


def _bundle(vl_convert: Any, version: str | None) -> str:
    # The text of a closing tag would end the script.
    text: str = vl_convert.javascript_bundle() if version is None else vl_convert.javascript_bundle(vl_version=version)
    return text.replace("</script", "<\\/script")


def _sections(
    content: PageContent, figures: Mapping[str, Figure], tables: Mapping[str, Table | None]
) -> list[tuple[str, str]]:
    found = [("leaderboard", "Leaderboard"), ("domains", "Data sets"), ("cost", "Cost")]
    if "learning_curves" in figures or content.confusions:
        found.append(("training", "Training and mistakes"))
    if tables["published"] or tables["subsets"]:
        found.append(("published", "Published benchmark"))
    if tables["elements"]:
        found.append(("patterns", "Patterns"))
    return [*found, ("methods", "Methods")]


def _cards(content: PageContent) -> list[_Card]:
    ranked = [row for row in content.models if row.rank is not None]
    if not ranked:
        return []
    best = ranked[0]
    tied = [row.model for row in ranked if row.uncertainty and row.uncertainty.rank_lower == 1]
    incomplete = len(content.models) - len(ranked)
    cards = [_Card("Best model", best.model, f"xScore {best.xscore:.3f}")]
    if tied:
        more = "could be first" if len(tied) > 1 else "only one can be first, at 95 %"
        cards.append(_Card("Models that could lead", str(len(tied)), more))
    cards.append(_Card("Models ranked", str(len(ranked)), f"{incomplete} incomplete" if incomplete else "all complete"))
    if content.measured:
        runs = len(content.board.runs)
        cards.append(_Card("Runs", str(runs), f"on {len(content.titles)} data sets"))
    return cards


def _best_q2(content: PageContent) -> str:
    if content.search is None:
        return ""
    table = content.search.table
    first, q2 = table.iloc[0], table["q2"].fillna(-9)
    best = table.iloc[int(q2.to_numpy().argmax())]
    return (
        f"the best by R² ({', '.join(first['datasets'])}; R² {first['r2']:.3f}) has Q² {first['q2']:.2f}, "
        f"and {', '.join(best['datasets'])} has the best Q², {best['q2']:.2f}."
    )


def _confusions(content: PageContent) -> dict[str, Any]:
    return {
        name: {"title": content.titles.get(name, name), "models": sorted(one.matrices or one.worst), **asdict(one)}
        for name, one in content.confusions.items()
    }


def page_size(page: str) -> str:
    """Return the size of a page for people: ``2.1 MB``."""
    return f"{len(page.encode()) / 1e6:.1f} MB"
