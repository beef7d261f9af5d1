"""Facts -> figures as Vega-Lite specifications: one serves both the interactive page and the files for paper.

Every figure filters on the parameter ``shown``, a list of models, which the page sets when models are chosen. Colours
of axes and text are left to the theme.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from harness.errors import CannotContinueError
from harness.report.facts import Facts, Patterns
from harness.report.labels import place_labels

# Each has a contrast of at least 3 on white and on the dark theme's background.
ACCENT, SECOND, THIRD, MUTED = "#128ab5", "#d9640f", "#9b6dd6", "#8b919a"
_SHOWN = "indexof(shown, datum.model) >= 0"


@dataclass(frozen=True)
class Figure:
    """One figure: its name for files, title, a caption that says what to see, and its specification."""

    name: str
    title: str
    caption: str
    spec: Mapping[str, Any]


def altair() -> Any:
    """Return the plotting library. Raises CannotContinueError with the command that installs it, if it is missing."""
    try:
        import altair
        import vl_convert  # noqa: F401
    except ImportError as error:
        raise CannotContinueError(
            f"The report needs {error.name}. Install it with: pip install 'xscore-harness[report]'"
        ) from error
    return altair


def build_figures(facts: Facts) -> dict[str, Figure]:
    """Draw every figure that the facts suffice for, by name."""
    figures = [scores(facts), heat_map(facts), profiles(facts)]
    if facts.published is not None and facts.proxy:
        figures.append(proxy_against_score(facts))
    if facts.published is not None and facts.predicted:
        figures.append(predicted_against_full(facts))
    if any(row.get("parameters") for row in facts.models):
        figures.append(against_parameters(facts))
    if facts.patterns is not None and facts.patterns.cost is not None:
        figures.append(against_compute(facts.patterns))
    if facts.histories:
        figures.append(learning_curves(facts))
    if facts.search is not None:
        figures.append(subsets(facts))
    if facts.patterns is not None and facts.patterns.associations:
        figures.append(effects(facts.patterns))
    return {figure.name: figure for figure in figures}


def scores(facts: Facts) -> Figure:
    """Scores with their intervals, best first."""
    alt = altair()
    rows = [row for row in facts.models if row["xscore"] is not None]
    data = [
        {
            key: row.get(key)
            for key in ("model", "rank", "xscore", "lower", "upper", "rank_lower", "rank_upper", "groups")
        }
        | {"source": row.get("source", "measured")}
        for row in rows
    ]
    order = [row["model"] for row in rows]
    ends = _domain(row[key] for row in data for key in ("xscore", "lower", "upper"))
    base = alt.Chart(alt.Data(values=data)).encode(y=alt.Y("model:N", sort=order, title=None))
    tooltip = ["model:N", "rank:Q", _num("xscore"), _num("lower"), _num("upper"), "rank_lower:Q", "rank_upper:Q",
               "groups:N", "source:N"]  # fmt: skip
    layers = [
        base.mark_rule(strokeWidth=6, opacity=0.45, strokeCap="round").encode(
            x=alt.X("lower:Q", title="xScore with 95 % interval", scale=alt.Scale(domain=ends, nice=False)),
            x2="upper:Q", color=_source(alt, data), tooltip=tooltip,
        ),
        base.mark_point(filled=True, size=90, opacity=1).encode(
            x="xscore:Q", color=_source(alt, data), tooltip=tooltip
        ),
    ]  # fmt: skip
    known = any(row["lower"] is not None for row in data)
    caption = (
        "Dots are scores, bars 95 % intervals of one model by itself. Bars that overlap do not yet make a tie: the "
        "letters in the table do, as they allow for all comparisons at once."
        if known
        else "Dots are scores. This metric has no known sampling noise, so there are no intervals."
    )
    return Figure("scores", "Scores and their uncertainty", caption, _finish(alt, layers, facts, 30 * len(rows) + 40))


def heat_map(facts: Facts) -> Figure:
    """Accuracy on every data set, coloured by its normalised value."""
    alt = altair()
    data = [
        {"model": row["model"], "dataset": facts.titles[name], "accuracy": value, "normalized": row["normalized"][name]}
        for row in facts.models
        for name, value in row["accuracy"].items()
        if value is not None
    ]
    order = [row["model"] for row in facts.models]
    base = alt.Chart(alt.Data(values=data)).encode(
        y=alt.Y("model:N", sort=order, title=None),
        x=alt.X("dataset:N", sort=list(facts.titles.values()), title=None,
                axis=alt.Axis(orient="top", labelAngle=-35, labelLimit=120)),
        tooltip=["model:N", "dataset:N", _num("accuracy", ".2f"), _num("normalized")],
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
    return Figure(
        "heat_map", "Accuracy on every data set", caption, _finish(alt, [cells, text], facts, 26 * len(order) + 90)
    )


def profiles(facts: Facts) -> Figure:
    """One line a model over the data sets: who is even, who is not."""
    alt = altair()
    ranked = [row["model"] for row in facts.models]
    top = ranked[:3]
    data = [
        {"model": row["model"], "dataset": facts.titles[name], "normalized": value,
         "who": row["model"] if row["model"] in top else "others"}
        for row in facts.models
        for name, value in row["normalized"].items()
        if value is not None
    ]  # fmt: skip
    ends = _domain(row["normalized"] for row in data)
    hover = alt.selection_point(name="near", fields=["model"], on="pointerover", empty=False, clear="pointerout")
    colour = alt.Color(
        "who:N", scale=alt.Scale(domain=[*top, "others"], range=[*(ACCENT, SECOND, THIRD)[: len(top)], MUTED]),
        legend=alt.Legend(title=None, orient="top"),
    )  # fmt: skip
    base = alt.Chart(alt.Data(values=data)).encode(
        x=alt.X("dataset:N", sort=list(facts.titles.values()), title=None,
                axis=alt.Axis(labelAngle=-35, labelLimit=120)),
        y=alt.Y("normalized:Q", title="normalised accuracy", scale=alt.Scale(domain=ends, nice=False)),
        detail="model:N",
        color=colour,
        tooltip=["model:N", "dataset:N", _num("normalized")],
    )  # fmt: skip
    lines = base.mark_line(strokeWidth=2).encode(
        opacity=alt.condition(hover, alt.value(1), alt.value(0.65)),
        size=alt.condition(hover, alt.value(5), alt.value(2)),
    )
    points = base.mark_point(filled=True, size=45).add_params(hover)
    caption = "A line that stays high is what the score rewards; one that falls on one data set is what it punishes."
    return Figure("profiles", "Profiles over domains", caption, _finish(alt, [lines, points], facts, 320))


def proxy_against_score(facts: Facts) -> Figure:
    """The paper's Figure 1: accuracy on the proxy for ImageNet against the score."""
    alt = altair()
    import numpy as np
    from scipy import stats

    assert facts.published is not None
    data = [
        {
            "model": row["model"],
            "xscore": row["xscore"],
            "accuracy": row["accuracy"][facts.proxy],
            "source": row["source"],
        }
        for row in facts.published.rows
        if row["kind"] == "model" and row["xscore"] is not None and row["accuracy"].get(facts.proxy) is not None
    ]
    x, y = (np.array([row[key] for row in data], dtype=np.float64) for key in ("accuracy", "xscore"))
    r, rho = float(np.corrcoef(x, y)[0, 1]), float(stats.spearmanr(x, y).statistic)
    data = _placed(data, "accuracy", "xscore")
    base = alt.Chart(alt.Data(values=data)).encode(
        x=alt.X(
            "accuracy:Q",
            title=f"{facts.proxy} accuracy, %",
            scale=alt.Scale(domain=_domain(row["accuracy"] for row in data), nice=False),
        ),
        y=alt.Y("xscore:Q", title="xScore", scale=alt.Scale(domain=_domain(row["xscore"] for row in data), nice=False)),
        tooltip=["model:N", _num("accuracy", ".2f"), _num("xscore"), "source:N"],
    )
    line = base.transform_regression("accuracy", "xscore").mark_line(color=MUTED, strokeDash=[5, 4]).encode(
        tooltip=alt.value(None)
    )  # fmt: skip
    layers = [line, base.mark_point(filled=True, size=110, opacity=0.9).encode(color=_source(alt, data)), _names(base)]
    caption = (
        f"r = {r:.2f}, rho = {rho:.2f} over {len(data)} models. The paper calls this relation loose and partly "
        "inverted; measured, it is a fairly strong correlation with exceptions. The proxy is itself one of the "
        "data sets in the score, which raises it."
    )
    return Figure(
        "figure_1", f"Figure 1: does {facts.proxy} predict the score?", caption, _finish(alt, layers, facts, 360)
    )


def predicted_against_full(facts: Facts) -> Figure:
    """The paper's Figure 2: the score predicted from a subset against the full one."""
    alt = altair()
    assert facts.published is not None
    data = [
        {"model": row["model"], "xscore": row["xscore"], "predicted": row[facts.predicted], "mean": row["mean"],
         "variance": row["variance"], "source": row["source"]}
        for row in facts.published.rows
        if row["kind"] == "model" and row["xscore"] is not None and row[facts.predicted] is not None
    ]  # fmt: skip
    # Large ones first, so that no small one hides under them.
    data = sorted(_placed(data, "xscore", "predicted", gap=13), key=lambda row: -row["variance"])
    ends = [value for row in data for value in (row["xscore"], row["predicted"])]
    span = [min(ends) - 0.05, max(ends) + 0.05]
    identity = (
        alt.Chart(alt.Data(values=[{"x": v, "y": v} for v in span]))
        .mark_line(color=MUTED, strokeDash=[5, 4])
        .encode(x="x:Q", y="y:Q")
    )
    base = alt.Chart(alt.Data(values=data)).transform_filter(_SHOWN).encode(
        x=alt.X("xscore:Q", title="full xScore", scale=alt.Scale(domain=span, nice=False)),
        y=alt.Y("predicted:Q", title="predicted from the subset", scale=alt.Scale(domain=span, nice=False)),
        tooltip=["model:N", _num("xscore"), _num("predicted"), _num("mean"), _num("variance"), "source:N"],
    )  # fmt: skip
    points = base.mark_point(filled=True, opacity=0.9, stroke=MUTED, strokeWidth=1).encode(
        color=alt.Color("mean:Q", scale=alt.Scale(scheme="viridis"), legend=alt.Legend(title="mean", orient="top")),
        size=alt.Size(
            "variance:Q",
            scale=alt.Scale(range=[50, 420]),
            legend=alt.Legend(title="variance", orient="bottom", symbolFillColor=MUTED),
        ),
    )
    caption = (
        "Colour is the mean, size the variance, the dashed line is equality. The prediction was fitted to these very "
        "models: see Q² below for how it does on a model that it has not seen."
    )
    spec = _finish(alt, [identity, points, _names(base)], facts, 400, filtered=False)
    return Figure("figure_2", "Figure 2: predicted against full score", caption, spec)


def against_parameters(facts: Facts) -> Figure:
    """Mean normalised accuracy against trainable parameters."""
    alt = altair()
    data = [
        {"model": row["model"], "parameters": row["parameters"] / 1e6, "mean": row["mean"]}
        for row in facts.models
        if row.get("parameters") and row["mean"] is not None
    ]
    data = _placed(data, "parameters", "mean")
    base = alt.Chart(alt.Data(values=data)).encode(
        x=alt.X(
            "parameters:Q",
            title="trainable parameters, millions",
            scale=alt.Scale(domain=_domain(row["parameters"] for row in data), nice=False),
        ),
        y=alt.Y(
            "mean:Q",
            title="mean normalised accuracy",
            scale=alt.Scale(domain=_domain(row["mean"] for row in data), nice=False),
        ),
        tooltip=["model:N", _num("parameters"), _num("mean")],
    )
    points = base.mark_point(filled=True, size=110, color=ACCENT, opacity=0.9)
    caption = "All models share one budget of parameters, so this figure should show no trend; what differs is compute."
    return Figure(
        "parameters", "Accuracy against parameters", caption, _finish(alt, [points, _names(base)], facts, 300)
    )


def against_compute(patterns: Patterns) -> Figure:
    """Score against multiply-adds, with the Pareto front."""
    alt = altair()
    assert patterns.cost is not None
    front = patterns.cost.pareto
    data: list[dict[str, Any]] = [
        {
            "model": model,
            "macs": patterns.macs[model] / 1e6,
            "xscore": value,
            "pareto": "on the front" if model in front else "beaten",
        }
        for model, value in patterns.scores.items()
        if model in patterns.macs
    ]
    data = _placed(data, "macs", "xscore", log=True)
    base = alt.Chart(alt.Data(values=data)).encode(
        x=alt.X(
            "macs:Q",
            title="million MACs an image (log scale)",
            scale=alt.Scale(type="log", domain=_domain((row["macs"] for row in data), log=True), nice=False),
            axis=alt.Axis(labelOverlap="greedy", tickCount=6, format=",.0f"),
        ),
        y=alt.Y("xscore:Q", title="xScore", scale=alt.Scale(domain=_domain(row["xscore"] for row in data), nice=False)),
        tooltip=["model:N", _num("macs", ",.0f"), _num("xscore"), "pareto:N"],
    )
    steps = base.transform_filter("datum.pareto == 'on the front'").mark_line(
        interpolate="step-after", color=SECOND, strokeDash=[5, 4]
    )
    points = base.mark_point(filled=True, size=110, opacity=0.9).encode(
        color=alt.Color("pareto:N", scale=alt.Scale(domain=["on the front", "beaten"], range=[SECOND, ACCENT]),
                        legend=alt.Legend(title="Pareto front", orient="top"))
    )  # fmt: skip
    cost = patterns.cost
    caption = (
        f"At about equal parameters the models differ {cost.spread:.0f}-fold in multiply-adds. Score against log MACs: "
        f"r = {cost.pearson:.2f} (permutation p = {cost.pearson_p:.3f}), rho = {cost.spearman:.2f}. The dashed steps "
        "join the models that nothing as cheap beats."
    )
    layers = [steps, points, _names(base)]
    return Figure(
        "compute", "Score against compute", caption, _finish(alt, layers, [str(row["model"]) for row in data], 340)
    )


def learning_curves(facts: Facts) -> Figure:
    """Training loss by epoch, one data set at a time."""
    alt = altair()
    names = list(dict.fromkeys(str(row["dataset"]) for row in facts.histories))
    # Seeds are averaged: a page must stay small, and the curves of seeds lie on one another.
    sums: dict[tuple[str, str, int], list[float]] = {}
    for row in facts.histories:
        sums.setdefault((row["model"], row["dataset"], row["epoch"]), []).append(row["loss"])
    data = [
        {
            "model": model,
            "dataset": facts.titles.get(dataset, dataset),
            "epoch": epoch,
            "loss": round(sum(v) / len(v), 4),
        }
        for (model, dataset, epoch), v in sums.items()
    ]
    options = [facts.titles.get(name, name) for name in names]
    chosen = alt.param(name="curve", value=options[0], bind=alt.binding_select(options=options, name="Data set: "))
    hover = alt.selection_point(name="near", fields=["model"], on="pointerover", empty=False, clear="pointerout")
    base = alt.Chart(alt.Data(values=data)).transform_filter("datum.dataset == curve").encode(
        x=alt.X("epoch:Q", title="epoch", axis=alt.Axis(tickMinStep=1)),
        y=alt.Y("loss:Q", title="training loss", scale=alt.Scale(zero=False)),
        color=alt.Color("model:N", legend=alt.Legend(title=None, orient="bottom", columns=4),
                        scale=alt.Scale(scheme="tableau20")),
        tooltip=["model:N", "epoch:Q", _num("loss")],
    )  # fmt: skip
    lines = base.mark_line().encode(size=alt.condition(hover, alt.value(4), alt.value(1.8)))
    points = base.mark_point(filled=True, size=30).add_params(hover)
    caption = "Loss under augmentation, mean over seeds: it is meant to be high, and says little about the test split."
    spec = _finish(alt, [lines, points], facts, 320, params=[chosen])
    return Figure("learning_curves", "Learning curves", caption, spec)


def subsets(facts: Facts) -> Figure:
    """R^2 against Q^2 of every subset."""
    alt = altair()
    assert facts.search is not None
    table = facts.search.table
    data = [
        {"subset": " + ".join(names), "r2": r2, "q2": max(q2, -1.0), "paper": at == 0}
        for at, (names, r2, q2) in enumerate(zip(table["datasets"], table["r2"], table["q2"], strict=True))
        if q2 == q2
    ]
    chart = alt.Chart(alt.Data(values=data)).mark_point(filled=True, size=80, opacity=0.85).encode(
        x=alt.X("r2:Q", title="R² in the sample", scale=alt.Scale(zero=False, padding=12)),
        y=alt.Y("q2:Q", title="Q² with each model left out", scale=alt.Scale(zero=False, padding=12)),
        color=alt.condition("datum.paper", alt.value(SECOND), alt.value(ACCENT)),
        tooltip=["subset:N", _num("r2"), _num("q2")],
    )  # fmt: skip
    caption = (
        f"Every subset of {facts.search.size} of the published data sets; the best by R² in the other colour. "
        "A subset far below the diagonal owes its R² to fitting few models with many coefficients. Q² below -1 is "
        "drawn at -1."
    )
    return Figure("subsets", "Subset search", caption, _finish(alt, [chart], facts, 320, filtered=False))


def effects(patterns: Patterns) -> Figure:
    """Difference in score with and without each element, with its interval."""
    alt = altair()
    titles = {name: element.title for one in patterns.described for name, element in one.elements.items()}
    data = [
        {"element": titles[row.element], "effect": row.effect, "lower": row.lower, "upper": row.upper, "p": row.p_value,
         "with": row.models_with, "without": row.models_without}
        for row in patterns.associations
        if row.effect is not None
    ]  # fmt: skip
    base = alt.Chart(alt.Data(values=data)).encode(
        y=alt.Y("element:N", title=None, sort=[row["element"] for row in data], axis=alt.Axis(labelLimit=210)),
        tooltip=["element:N", _num("effect"), _num("lower"), _num("upper"), _num("p"), "with:Q", "without:Q"],
    )
    bars = base.mark_rule(strokeWidth=6, opacity=0.45, color=ACCENT, strokeCap="round").transform_filter(
        "isValid(datum.lower)"
    ).encode(x=alt.X("lower:Q", title="difference in xScore, with minus without"), x2="upper:Q")  # fmt: skip
    dots = base.mark_point(filled=True, size=90, color=ACCENT, opacity=1).encode(x="effect:Q")
    zero = alt.Chart(alt.Data(values=[{"zero": 0}])).mark_rule(color=MUTED, strokeDash=[5, 4]).encode(x="zero:Q")
    caption = (
        "Bars are 95 % intervals by inverting the permutation test. A dot without a bar is a comparison of too few "
        "models for any interval. An interval that covers 0 is compatible with no difference."
    )
    spec = _finish(
        alt, [zero, bars, dots], [one.model for one in patterns.described], 28 * len(data) + 40, filtered=False
    )
    return Figure("effects", "Elements and the score", caption, spec)


def _domain(values: Iterable[float | None], *, log: bool = False) -> list[float]:
    """Fixed ends of an axis, a little beyond the values, so that it stays when models are left out."""
    known = [float(value) for value in values if value is not None]
    low, high = min(known), max(known)
    if log:
        return [low / 1.15, high * 1.15]
    edge = 0.09 * ((high - low) or 1.0)
    return [low - edge, high + edge]


def _num(name: str, form: str = ".3f") -> Any:
    return altair().Tooltip(f"{name}:Q", format=form)


def _placed(data: list[dict[str, Any]], x: str, y: str, *, log: bool = False, gap: float = 9) -> list[dict[str, Any]]:
    """Add to each row where its name goes."""
    if not data:
        return data
    across = [math.log(row[x]) if log else float(row[x]) for row in data]
    places = place_labels(across, [float(row[y]) for row in data], [str(row["model"]) for row in data], gap=gap)
    return [row | {"dx": p.dx, "dy": p.dy, "align": p.align} for row, p in zip(data, places, strict=True)]


def _names(base: Any) -> Any:
    alt = altair()
    where = {name: alt.expr(f"datum.{name}") for name in ("dx", "dy", "align")}
    return base.mark_text(fontSize=11, baseline="middle", **where).encode(text="model:N", tooltip=alt.value(None))


def _source(alt: Any, data: Sequence[Mapping[str, Any]]) -> Any:
    kinds = sorted({row["source"] for row in data}, reverse=True)
    if len(kinds) == 1:
        return alt.value(ACCENT)
    scale = alt.Scale(domain=kinds, range=[ACCENT, SECOND])
    return alt.Color("source:N", scale=scale, legend=alt.Legend(title=None, orient="top"))


def _finish(
    alt: Any, layers: Sequence[Any], of: Facts | Sequence[str], height: int, *, filtered: bool = True,
    params: Sequence[Any] = (),
) -> dict[str, Any]:  # fmt: skip
    """Layer, add the parameter of chosen models, fit the width to the page, and return the specification."""
    if isinstance(of, Facts):
        rows = [*of.models, *(of.published.rows if of.published else ())]
        models = list(dict.fromkeys(str(row["model"]) for row in rows))
    else:
        models = list(of)
    chart = alt.layer(*layers).properties(width="container", height=height)
    if filtered:
        chart = chart.transform_filter(_SHOWN)
    chart = chart.add_params(alt.param(name="shown", value=models), *params)
    spec: dict[str, Any] = chart.to_dict()
    return spec
