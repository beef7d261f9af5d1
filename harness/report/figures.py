"""Page content -> figures as Vega-Lite specifications, which serve the interactive page and the printed files alike.

Every figure filters on the parameter ``shown``, a list of models, which the page sets when models are chosen. The
theme colours axes and text.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from harness.errors import CannotContinueError, PluginError
from harness.guard import guarded
from harness.report.content import PageContent, Patterns
from harness.report.rows import MEASURED

# Each has a contrast of at least 3 on white and on the dark theme's background.
ACCENT, SECOND, THIRD, MUTED = "#128ab5", "#d9640f", "#9b6dd6", "#8b919a"
SHOWN = "indexof(shown, datum.model) >= 0"


@dataclass(frozen=True)
class Figure:
    """A figure.

    Attributes:
        name: Name for files.
        title: Its heading.
        caption: How to read it.
        spec: The Vega-Lite specification.
    """

    name: str
    title: str
    caption: str
    spec: Mapping[str, Any]


def altair() -> Any:
    """Return the plotting library.

    Raises:
        CannotContinueError: it is missing, or fails here, as altair does for a user without a home folder.
    """
    try:
        with guarded():
            import altair
            import vl_convert  # noqa: F401
    except PluginError as error:
        if isinstance(error.__cause__, ImportError):
            missing = f"The report needs {error.__cause__.name}. Install it with: pip install 'xscore-harness[report]'"
            raise CannotContinueError(missing) from error
        raise CannotContinueError(f"The report's library altair can't be imported: {error}.") from error
    return altair


def domain(values: Iterable[float | None], *, log: bool = False) -> list[float]:
    """Return fixed ends of an axis, a little beyond the values, which stay when models are left out."""
    known = [float(value) for value in values if value is not None]
    low, high = min(known), max(known)
    if log:
        return [low / 1.15, high * 1.15]
    edge = 0.09 * ((high - low) or 1.0)
    return [low - edge, high + edge]


def tooltip(name: str, form: str = ".3f") -> Any:
    """Return the tooltip of a number."""
    return altair().Tooltip(f"{name}:Q", format=form)


def source_colour(data: Sequence[Mapping[str, Any]]) -> Any:
    """Colour published and measured models apart, where there are both."""
    alt = altair()
    kinds = sorted({row["source"] for row in data}, reverse=True)
    if len(kinds) == 1:
        return alt.value(ACCENT)
    scale = alt.Scale(domain=kinds, range=[ACCENT, SECOND])
    return alt.Color("source:N", scale=scale, legend=alt.Legend(title=None, orient="top"))


def all_models(content: PageContent) -> list[str]:
    """Return the models that can be chosen on the page."""
    return list(dict.fromkeys(row.model for row in (*content.models, *content.published_models)))


def finish(
    layers: Sequence[Any], models: Sequence[str], height: int, *, filtered: bool = True, params: Sequence[Any] = ()
) -> dict[str, Any]:
    """Layer, add the parameter of chosen models, fit the width to the page, and return the specification."""
    alt = altair()
    chart = alt.layer(*layers).properties(width="container", height=height)
    if filtered:
        chart = chart.transform_filter(SHOWN)
    chart = chart.add_params(alt.param(name="shown", value=list(models)), *params)
    spec: dict[str, Any] = chart.to_dict()
    return spec


def scores(content: PageContent) -> Figure:
    """Draw the scores with their intervals, best first."""
    alt = altair()
    rows = [row for row in content.models if row.xscore is not None]
    keys = ("model", "rank", "xscore", "lower", "upper", "rank_lower", "rank_upper", "groups")
    data: list[dict[str, Any]] = []
    for row in rows:
        values = row.as_row()
        data.append({key: values.get(key) for key in keys} | {"source": values.get("source", MEASURED)})
    ends = domain(row[key] for row in data for key in ("xscore", "lower", "upper"))
    base = alt.Chart(alt.Data(values=data)).encode(
        y=alt.Y("model:N", sort=[row.model for row in rows], title=None),
        color=source_colour(data),
        tooltip=["model:N", "rank:Q", tooltip("xscore"), tooltip("lower"), tooltip("upper"), "rank_lower:Q",
                 "rank_upper:Q", "groups:N", "source:N"],
    )  # fmt: skip
    bars = base.mark_rule(strokeWidth=6, opacity=0.45, strokeCap="round").encode(
        x=alt.X("lower:Q", title="xScore with 95 % interval", scale=alt.Scale(domain=ends, nice=False)), x2="upper:Q"
    )
    dots = base.mark_point(filled=True, size=90, opacity=1).encode(x="xscore:Q")
    caption = (
        "Dots are scores, bars 95 % intervals of one model by itself. Bars that overlap do not yet make a tie: the "
        "letters in the table do, as they allow for all comparisons at once."
        if any(row["lower"] is not None for row in data)
        else "Dots are scores. This metric has no known sampling noise, so there are no intervals."
    )
    spec = finish([bars, dots], all_models(content), 30 * len(rows) + 40)
    return Figure("scores", "Scores and their uncertainty", caption, spec)


def heat_map(content: PageContent) -> Figure:
    """Draw the accuracy on every data set, coloured by its normalised value."""
    alt = altair()
    data = [
        {"model": row.model, "dataset": content.titles[name], "accuracy": value, "normalized": row.normalized[name]}
        for row in content.models
        for name, value in row.accuracy.items()
        if value is not None
    ]
    order = [row.model for row in content.models]
    base = alt.Chart(alt.Data(values=data)).encode(
        y=alt.Y("model:N", sort=order, title=None),
        x=alt.X("dataset:N", sort=list(content.titles.values()), title=None,
                axis=alt.Axis(orient="top", labelAngle=-35, labelLimit=120)),
        tooltip=["model:N", "dataset:N", tooltip("accuracy", ".2f"), tooltip("normalized")],
    )  # fmt: skip
    scale = alt.Scale(scheme="blues", domain=[0, 1], clamp=True)
    cells = base.mark_rect(cornerRadius=2).encode(
        color=alt.Color("normalized:Q", scale=scale, legend=alt.Legend(title="normalised", orient="bottom"))
    )
    text = base.mark_text(fontSize=11).encode(
        text=alt.Text("accuracy:Q", format=".1f"),
        color=alt.condition("datum.normalized > 0.55", alt.value("#ffffff"), alt.value("#10202c")),
    )
    caption = (
        "Numbers are accuracies in percent, colours normalised values: 0 is the anchors' worst and 1 their best, so "
        "that data sets of different difficulty can be compared. The colour stops at both ends, the numbers do not."
    )
    spec = finish([cells, text], all_models(content), 26 * len(order) + 90)
    return Figure("heat_map", "Accuracy on every data set", caption, spec)


def profiles(content: PageContent) -> Figure:
    """Draw one line per model over the data sets, which shows even and uneven models."""
    alt = altair()
    top = [row.model for row in content.models[:3]]
    data: list[dict[str, Any]] = [
        {"model": row.model, "dataset": content.titles[name], "normalized": value,
         "line": row.model if row.model in top else "others"}
        for row in content.models
        for name, value in row.normalized.items()
        if value is not None
    ]  # fmt: skip
    ends = domain(row["normalized"] for row in data)
    hover = alt.selection_point(name="near", fields=["model"], on="pointerover", empty=False, clear="pointerout")
    colour = alt.Color(
        "line:N", scale=alt.Scale(domain=[*top, "others"], range=[*(ACCENT, SECOND, THIRD)[: len(top)], MUTED]),
        legend=alt.Legend(title=None, orient="top"),
    )  # fmt: skip
    base = alt.Chart(alt.Data(values=data)).encode(
        x=alt.X("dataset:N", sort=list(content.titles.values()), title=None,
                axis=alt.Axis(labelAngle=-35, labelLimit=120)),
        y=alt.Y("normalized:Q", title="normalised accuracy", scale=alt.Scale(domain=ends, nice=False)),
        detail="model:N",
        color=colour,
        tooltip=["model:N", "dataset:N", tooltip("normalized")],
    )  # fmt: skip
    lines = base.mark_line(strokeWidth=2).encode(
        opacity=alt.condition(hover, alt.value(1), alt.value(0.65)),
        size=alt.condition(hover, alt.value(5), alt.value(2)),
    )
    points = base.mark_point(filled=True, size=45).add_params(hover)
    caption = "The score rewards a line that stays high, and punishes one that falls on one data set."
    return Figure("profiles", "Profiles over domains", caption, finish([lines, points], all_models(content), 320))


def learning_curves(content: PageContent) -> Figure:
    """Draw the training loss by epoch, one data set at a time."""
    alt = altair()
    names = list(dict.fromkeys(str(row["dataset"]) for row in content.histories))
    # Seeds are averaged: a page must stay small, and the curves of seeds lie on one another.
    sums: dict[tuple[str, str, int], list[float]] = {}
    for row in content.histories:
        sums.setdefault((row["model"], row["dataset"], row["epoch"]), []).append(row["loss"])
    data = [
        {
            "model": model,
            "dataset": content.titles.get(dataset, dataset),
            "epoch": epoch,
            "loss": round(sum(v) / len(v), 4),
        }
        for (model, dataset, epoch), v in sums.items()
    ]
    options = [content.titles.get(name, name) for name in names]
    chosen = alt.param(name="curve", value=options[0], bind=alt.binding_select(options=options, name="Data set: "))
    hover = alt.selection_point(name="near", fields=["model"], on="pointerover", empty=False, clear="pointerout")
    base = alt.Chart(alt.Data(values=data)).transform_filter("datum.dataset == curve").encode(
        x=alt.X("epoch:Q", title="epoch", axis=alt.Axis(tickMinStep=1)),
        y=alt.Y("loss:Q", title="training loss", scale=alt.Scale(zero=False)),
        color=alt.Color("model:N", legend=alt.Legend(title=None, orient="bottom", columns=4),
                        scale=alt.Scale(scheme="tableau20")),
        tooltip=["model:N", "epoch:Q", tooltip("loss")],
    )  # fmt: skip
    lines = base.mark_line().encode(size=alt.condition(hover, alt.value(4), alt.value(1.8)))
    points = base.mark_point(filled=True, size=30).add_params(hover)
    caption = (
        "Loss under augmentation, mean over seeds. Augmentation keeps it high, and it says little about the test split."
    )
    spec = finish([lines, points], all_models(content), 320, params=[chosen])
    return Figure("learning_curves", "Learning curves", caption, spec)


def effects(patterns: Patterns) -> Figure:
    """Draw the difference in score with and without each element, with its interval."""
    alt = altair()
    titles = patterns.titles
    data = [
        {"element": titles[row.element], "effect": row.effect, "lower": row.lower, "upper": row.upper, "p": row.p_value,
         "with": row.models_with, "without": row.models_without}
        for row in patterns.associations
        if row.effect is not None
    ]  # fmt: skip
    base = alt.Chart(alt.Data(values=data)).encode(
        y=alt.Y("element:N", title=None, sort=[row["element"] for row in data], axis=alt.Axis(labelLimit=210)),
        tooltip=[
            "element:N",
            tooltip("effect"),
            tooltip("lower"),
            tooltip("upper"),
            tooltip("p"),
            "with:Q",
            "without:Q",
        ],
    )
    bars = base.mark_rule(strokeWidth=6, opacity=0.45, color=ACCENT, strokeCap="round").transform_filter(
        "isValid(datum.lower)"
    ).encode(x=alt.X("lower:Q", title="difference in xScore, with minus without"), x2="upper:Q")  # fmt: skip
    dots = base.mark_point(filled=True, size=90, color=ACCENT, opacity=1).encode(x="effect:Q")
    zero = alt.Chart(alt.Data(values=[{"zero": 0}])).mark_rule(color=MUTED, strokeDash=[5, 4]).encode(x="zero:Q")
    caption = (
        "Bars are 95 % intervals by inverting the permutation test. A dot without a bar compares too few models for an "
        "interval. An interval that covers 0 is compatible with no difference."
    )
    models = [one.model for one in patterns.described]
    spec = finish([zero, bars, dots], models, 28 * len(data) + 40, filtered=False)
    return Figure("effects", "Elements and the score", caption, spec)
