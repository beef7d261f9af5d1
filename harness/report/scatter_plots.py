"""Page content -> scatter plots, whose points have names that do not cover one another."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from harness.report.content import PageContent, Patterns
from harness.report.figures import (
    ACCENT,
    MUTED,
    SECOND,
    SHOWN,
    Figure,
    all_models,
    altair,
    domain,
    finish,
    source_colour,
    tooltip,
)

# The plot in pixels on a phone, where names are closest, and the sizes of a letter and a point.
_WIDTH, _HEIGHT = 320.0, 240.0
_CHARACTER, _LINE, _POINT = 6.3, 12.0, 7.0


@dataclass(frozen=True)
class LabelPlace:
    """Offset of a name from its point in pixels, and its alignment there."""

    dx: float
    dy: float
    align: str


def place_labels(x: Sequence[float], y: Sequence[float], names: Sequence[str], *, gap: float = 9) -> list[LabelPlace]:
    """Choose one of eight places around each point: the one that covers least of the points and the other names.

    The search is greedy, from right to left. ``gap`` is the distance of a name from its point in pixels.
    """
    px = _pixels(x, _WIDTH)
    py = [_HEIGHT - value for value in _pixels(y, _HEIGHT)]
    boxes = [(a - _POINT, b - _POINT, a + _POINT, b + _POINT) for a, b in zip(px, py, strict=True)]
    points = len(boxes)
    found: dict[int, LabelPlace] = {}
    for at in sorted(range(points), key=lambda i: -px[i]):
        best: tuple[float, LabelPlace, tuple[float, float, float, float]] | None = None
        for rank, place in enumerate(_places(gap)):
            box = _box(px[at], py[at], len(names[at]) * _CHARACTER, place)
            cost = sum(_overlap(box, other) for i, other in enumerate(boxes) if i != at) + 0.5 * rank
            cost += 40 * (max(0.0, -20 - box[0]) + max(0.0, box[2] - _WIDTH - 20))
            if best is None or cost < best[0]:
                best = cost, place, box
        assert best is not None
        found[at] = best[1]
        boxes.append(best[2])
    return [found[at] for at in range(points)]


def _places(gap: float) -> list[LabelPlace]:
    near, above = gap * 0.7, gap + 3
    return [
        LabelPlace(0, -above, "center"),
        LabelPlace(gap, 0, "left"),
        LabelPlace(-gap, 0, "right"),
        LabelPlace(0, above, "center"),
        LabelPlace(near, -near, "left"),
        LabelPlace(-near, -near, "right"),
        LabelPlace(near, near, "left"),
        LabelPlace(-near, near, "right"),
    ]


def _pixels(values: Sequence[float], length: float) -> list[float]:
    low, high = min(values), max(values)
    span = (high - low) or 1.0
    return [length * (0.04 + 0.92 * (value - low) / span) for value in values]


def _box(x: float, y: float, width: float, place: LabelPlace) -> tuple[float, float, float, float]:
    left = x + place.dx - {"left": 0.0, "center": width / 2, "right": width}[place.align]
    top = y + place.dy - _LINE / 2
    return left, top, left + width, top + _LINE


def _overlap(a: tuple[float, float, float, float], b: tuple[float, float, float, float]) -> float:
    wide = min(a[2], b[2]) - max(a[0], b[0])
    high = min(a[3], b[3]) - max(a[1], b[1])
    return wide * high if wide > 0 and high > 0 else 0.0


def proxy_against_score(content: PageContent) -> Figure:
    """Draw the paper's Figure 1: accuracy on the proxy for ImageNet against the score."""
    alt = altair()
    import numpy as np
    from scipy import stats

    data: list[dict[str, Any]] = [
        {"model": row.model, "xscore": row.xscore, "accuracy": row.accuracy[content.proxy],
         "source": row.published.source}
        for row in content.published_models
        if row.published and row.xscore is not None and row.accuracy.get(content.proxy) is not None
    ]  # fmt: skip
    x, y = (np.array([row[key] for row in data], dtype=np.float64) for key in ("accuracy", "xscore"))
    r, rho = float(np.corrcoef(x, y)[0, 1]), float(stats.spearmanr(x, y).statistic)
    data = _placed(data, "accuracy", "xscore")
    base = alt.Chart(alt.Data(values=data)).encode(
        x=_axis("X", "accuracy", f"{content.proxy} accuracy, %", data),
        y=_axis("Y", "xscore", "xScore", data),
        tooltip=["model:N", tooltip("accuracy", ".2f"), tooltip("xscore"), "source:N"],
    )
    line = base.transform_regression("accuracy", "xscore").mark_line(color=MUTED, strokeDash=[5, 4])
    points = base.mark_point(filled=True, size=110, opacity=0.9).encode(color=source_colour(data))
    caption = (
        f"r = {r:.2f}, rho = {rho:.2f} over {len(data)} models. The paper calls this relation loose and partly "
        "inverted; measured, it is a fairly strong correlation with exceptions. The proxy is itself one of the "
        "data sets in the score, which raises it."
    )
    spec = finish([line.encode(tooltip=alt.value(None)), points, _names(base)], all_models(content), 360)
    return Figure("figure_1", f"Figure 1: does {content.proxy} predict the score?", caption, spec)


def predicted_against_full(content: PageContent) -> Figure:
    """Draw the paper's Figure 2: the score predicted from a subset against the full one."""
    alt = altair()
    data: list[dict[str, Any]] = [
        {"model": row.model, "xscore": row.xscore, "predicted": row.published.predicted, "mean": row.mean,
         "variance": row.variance, "source": row.published.source}
        for row in content.published_models
        if row.published and row.xscore is not None and row.published.predicted is not None
    ]  # fmt: skip
    # Large points first, so that they hide no small one.
    data = sorted(_placed(data, "xscore", "predicted", gap=13), key=lambda row: -row["variance"])
    ends = [value for row in data for value in (row["xscore"], row["predicted"])]
    span = [min(ends) - 0.05, max(ends) + 0.05]
    identity = (
        alt.Chart(alt.Data(values=[{"x": v, "y": v} for v in span]))
        .mark_line(color=MUTED, strokeDash=[5, 4])
        .encode(x="x:Q", y="y:Q")
    )
    base = alt.Chart(alt.Data(values=data)).transform_filter(SHOWN).encode(
        x=alt.X("xscore:Q", title="full xScore", scale=alt.Scale(domain=span, nice=False)),
        y=alt.Y("predicted:Q", title="predicted from the subset", scale=alt.Scale(domain=span, nice=False)),
        tooltip=["model:N", tooltip("xscore"), tooltip("predicted"), tooltip("mean"), tooltip("variance"), "source:N"],
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
        "models; Q² below is about models that a fit has not seen."
    )
    spec = finish([identity, points, _names(base)], all_models(content), 400, filtered=False)
    return Figure("figure_2", "Figure 2: predicted against full score", caption, spec)


def against_parameters(content: PageContent) -> Figure:
    """Draw the mean normalised accuracy against trainable parameters."""
    alt = altair()
    data: list[dict[str, Any]] = [
        {"model": row.model, "parameters": row.training.parameters / 1e6, "mean": row.mean}
        for row in content.models
        if row.training and row.training.parameters and row.mean is not None
    ]
    data = _placed(data, "parameters", "mean")
    base = alt.Chart(alt.Data(values=data)).encode(
        x=_axis("X", "parameters", "trainable parameters, millions", data),
        y=_axis("Y", "mean", "mean normalised accuracy", data),
        tooltip=["model:N", tooltip("parameters"), tooltip("mean")],
    )
    points = base.mark_point(filled=True, size=110, color=ACCENT, opacity=0.9)
    caption = "All models share one budget of parameters, so this figure should show no trend; they differ in compute."
    spec = finish([points, _names(base)], all_models(content), 300)
    return Figure("parameters", "Accuracy against parameters", caption, spec)


def against_compute(patterns: Patterns) -> Figure:
    """Draw the score against multiply-adds, with the Pareto front."""
    alt = altair()
    cost = patterns.cost
    assert cost is not None
    data: list[dict[str, Any]] = [
        {"model": model, "macs": patterns.macs[model] / 1e6, "xscore": value,
         "pareto": "on the front" if model in cost.pareto else "beaten"}
        for model, value in patterns.scores.items()
        if model in patterns.macs
    ]  # fmt: skip
    data = _placed(data, "macs", "xscore", log=True)
    base = alt.Chart(alt.Data(values=data)).encode(
        x=alt.X(
            "macs:Q",
            title="million MACs per image (log scale)",
            scale=alt.Scale(type="log", domain=domain((row["macs"] for row in data), log=True), nice=False),
            axis=alt.Axis(labelOverlap="greedy", tickCount=6, format=",.0f"),
        ),
        y=_axis("Y", "xscore", "xScore", data),
        tooltip=["model:N", tooltip("macs", ",.0f"), tooltip("xscore"), "pareto:N"],
    )
    steps = base.transform_filter("datum.pareto == 'on the front'").mark_line(
        interpolate="step-after", color=SECOND, strokeDash=[5, 4]
    )
    points = base.mark_point(filled=True, size=110, opacity=0.9).encode(
        color=alt.Color("pareto:N", scale=alt.Scale(domain=["on the front", "beaten"], range=[SECOND, ACCENT]),
                        legend=alt.Legend(title="Pareto front", orient="top"))
    )  # fmt: skip
    caption = (
        f"At about equal parameters the models differ {cost.spread:.0f}-fold in multiply-adds. Score against log MACs: "
        f"r = {cost.pearson:.2f} (permutation p = {cost.pearson_p:.3f}), rho = {cost.spearman:.2f}. The dashed steps "
        "join the models that no other model of at most the same cost beats."
    )
    spec = finish([steps, points, _names(base)], [row["model"] for row in data], 340)
    return Figure("compute", "Score against compute", caption, spec)


def subsets(content: PageContent) -> Figure:
    """Draw R^2 against Q^2 of every subset."""
    alt = altair()
    assert content.search is not None
    table = content.search.table
    data = [
        {"subset": " + ".join(names), "r2": r2, "q2": max(q2, -1.0), "best": at == 0}
        for at, (names, r2, q2) in enumerate(zip(table["datasets"], table["r2"], table["q2"], strict=True))
        if q2 == q2
    ]
    chart = alt.Chart(alt.Data(values=data)).mark_point(filled=True, size=80, opacity=0.85).encode(
        x=alt.X("r2:Q", title="R² in the sample", scale=alt.Scale(zero=False, padding=12)),
        y=alt.Y("q2:Q", title="Q² with each model left out", scale=alt.Scale(zero=False, padding=12)),
        color=alt.condition("datum.best", alt.value(SECOND), alt.value(ACCENT)),
        tooltip=["subset:N", tooltip("r2"), tooltip("q2")],
    )  # fmt: skip
    caption = (
        f"Every subset of {content.search.size} of the published data sets; the best by R² in the other colour. "
        "A subset far below the diagonal owes its R² to fitting few models with many coefficients. Q² below -1 is "
        "drawn at -1."
    )
    spec = finish([chart], all_models(content), 320, filtered=False)
    return Figure("subsets", "Subset search", caption, spec)


def _axis(channel: Literal["X", "Y"], name: str, title: str, data: Sequence[Mapping[str, Any]]) -> Any:
    alt = altair()
    scale = alt.Scale(domain=domain(row[name] for row in data), nice=False)
    return getattr(alt, channel)(f"{name}:Q", title=title, scale=scale)


def _placed(data: list[dict[str, Any]], x: str, y: str, *, log: bool = False, gap: float = 9) -> list[dict[str, Any]]:
    """Add to each row the place of its name."""
    if not data:
        return data
    across = [math.log(row[x]) if log else float(row[x]) for row in data]
    places = place_labels(across, [float(row[y]) for row in data], [str(row["model"]) for row in data], gap=gap)
    return [row | {"dx": p.dx, "dy": p.dy, "align": p.align} for row, p in zip(data, places, strict=True)]


def _names(base: Any) -> Any:
    alt = altair()
    where = {name: alt.expr(f"datum.{name}") for name in ("dx", "dy", "align")}
    return base.mark_text(fontSize=11, baseline="middle", **where).encode(text="model:N", tooltip=alt.value(None))
