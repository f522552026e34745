"""The page of a sweep: the Pareto front, the table of trials, the importance of keys, and how to repeat the best."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import TYPE_CHECKING

from secateur.report import html, svg
from secateur.report.point_numbers import number_points
from secateur.report.sweep import FAILED, FINISHED, STOPPED, SweepResult, SweepTrial
from secateur.report.sweep_text import (
    command,
    label,
    notes,
    scored_label,
    setting,
    short_keys,
    table,
    title,
    value_text,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LOGARITHMIC = ("mb", "parameters", "ms", "speedup")


def to_html(result: SweepResult) -> str:
    """A standalone page; of a sweep without a finished trial the table alone."""
    sections = [html.Section("Best", _best(result))] if result.best else []
    pictures = [*_pictures(result), *_importances(result)]
    if pictures:
        sections.append(html.Section("Trials against each other", [html.Gallery(pictures), html.Notes(notes(result))]))
    caption = "Best first; *: the best, or on the Pareto front"
    sections.append(html.Section("Trials", [html.DataTable(caption, *table(result), sortable=True)]))
    if not pictures:
        sections.append(html.Section("Notes", [html.Notes(notes(result))]))
    done = f"{result.count(FINISHED)} finished, {result.count(STOPPED)} stopped early, {result.count(FAILED)} failed"
    return html.render(f"{result.name}: {title(result)}", sections, f"{result.subject}; {done}")


def _best(result: SweepResult) -> list[html.Content]:
    """The best trial in large numbers, and the command that repeats each of the best."""
    first = result.best[0]
    numbers = [
        (label(result, name), value_text(name, value), f"trial {first.number}")
        for name, value in zip(result.objectives, first.values or (), strict=True)
    ]
    if result.judged != result.scored:
        teacher = "" if result.teacher is None else f"teacher {result.teacher:.4f}"
        numbers.append((scored_label(result), value_text("score", first.result.get("score")), teacher))
    rows = [[str(trial.number), *_settings(result, trial)] for trial in result.best]
    keys = list(first.point)
    held_out = " with the rows that were held out among the training rows" if result.judged != result.scored else ""
    lines = "\n".join(command(trial) for trial in result.best)
    return [
        html.KeyNumbers(numbers),
        html.DataTable("Values of the best trials", ["trial", *short_keys(keys)], rows),
        html.Text(f"To repeat them{held_out}, where the sweep was started (SWEEP is its folder):"),
        html.Preformatted(lines),
    ]


def _settings(result: SweepResult, trial: SweepTrial) -> list[str]:
    return [setting(value) for value in trial.point.values()]


def _pictures(result: SweepResult) -> list[html.Picture]:
    """Each pair of objectives with its Pareto front; of one objective, its values in the order of the trials."""
    if not result.finished:
        return []
    pairs = list(combinations(result.objectives, 2))
    if not pairs:
        return [html.Picture(_history(result), _history_caption(result))]
    return [html.Picture(_front(result, y, x), _front_caption(result, y, x)) for y, x in pairs]


def _front_caption(result: SweepResult, y: str, x: str) -> str:
    return f"{label(result, y)} against {label(result, x)}"


def _history_caption(result: SweepResult) -> str:
    return f"{label(result, next(iter(result.objectives)))} by trial"


def _front(result: SweepResult, y: str, x: str) -> str:
    """A dot for each finished trial; those on the Pareto front of all objectives are joined, with their numbers."""
    with svg.style():
        figure = svg.figure(height=300)
        axes = figure.add_subplot()
        front = result.best
        others = [trial for trial in result.finished if trial not in front]
        _dots(axes, result, others, (y, x), "other trials", svg.COLOURS["muted"])
        best = sorted(front, key=lambda trial: _value(result, trial, x))
        if len(result.objectives) == 2:
            axes.plot(*_coordinates(result, best, (y, x)), color=svg.SERIES[0], linewidth=1.0, zorder=1)
        _dots(axes, result, best, (y, x), "Pareto front", svg.SERIES[0])
        if x in LOGARITHMIC and _spread(result, x) > 3:
            axes.set_xscale("log")
            svg.plain_powers(axes.xaxis)
        axes.set_xlabel(label(result, x))
        axes.margins(y=0.12)
        axes.grid(True, axis="y")
        figure.legend(loc="outside lower center", ncols=2, columnspacing=1.0, handletextpad=0.2)
        number_points(axes, {str(one.number): (_value(result, one, x), _value(result, one, y)) for one in best})
        words = ", ".join(f"trial {trial.number}" for trial in best)
        return svg.svg(figure, _front_caption(result, y, x), f"On the Pareto front: {words}.")


def _history(result: SweepResult) -> str:
    """A dot for each finished trial, and the best value so far as a line."""
    from matplotlib.ticker import MaxNLocator

    ((name, less),) = result.objectives.items()
    with svg.style():
        figure = svg.figure(height=260)
        axes = figure.add_subplot()
        numbers = [trial.number for trial in result.finished]
        values = [_value(result, trial, name) for trial in result.finished]
        best = [min(values[: n + 1]) if less else max(values[: n + 1]) for n in range(len(values))]
        axes.plot(numbers, values, "o", color=svg.COLOURS["muted"], label="trials")
        axes.plot(numbers, best, color=svg.SERIES[0], drawstyle="steps-post", label="best so far")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_xlabel("trial")
        axes.grid(True, axis="y")
        figure.legend(loc="outside lower center", ncols=2, columnspacing=1.0, handletextpad=0.4)
        return svg.svg(figure, _history_caption(result), f"Best: {value_text(name, best[-1])}.")


def _importances(result: SweepResult) -> list[html.Picture]:
    """For each objective, the part of the variance of the trials that each key explains, as bars."""
    pictures = []
    for name, parts in result.importance.items():
        caption = f"What {label(result, name)} depends on"
        pictures.append(
            html.Picture(_bars(parts, caption), f"{caption}: part of its variance over the trials, by fANOVA")
        )
    return pictures


def _bars(shares: Mapping[str, float], caption: str) -> str:
    with svg.style():
        figure = svg.figure(height=50 + 28 * len(shares))
        axes = figure.add_subplot()
        places, values = range(len(shares)), list(shares.values())[::-1]
        axes.barh(places, values, color=svg.SERIES[0], height=0.6)
        axes.set_yticks(places, short_keys(shares)[::-1])
        for place, value in enumerate(values):
            axes.annotate(f"{value:.0%}", (value, place), (4, 0), textcoords="offset points", va="center", fontsize=10)
        axes.set_xlim(0, 1.15)
        axes.set_xticks([])
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
        words = ", ".join(f"{key} {value:.0%}" for key, value in shares.items())
        return svg.svg(figure, caption, f"{words}.")


def _dots(
    axes: Axes, result: SweepResult, trials: Sequence[SweepTrial], names: tuple[str, str], text: str, colour: str
) -> None:
    if trials:
        axes.plot(*_coordinates(result, trials, names), "o", color=colour, label=text)


def _coordinates(
    result: SweepResult, trials: Sequence[SweepTrial], names: tuple[str, str]
) -> tuple[list[float], list[float]]:
    """The values across and up."""
    y, x = names
    return [_value(result, trial, x) for trial in trials], [_value(result, trial, y) for trial in trials]


def _value(result: SweepResult, trial: SweepTrial, name: str) -> float:
    assert trial.values is not None
    return trial.values[list(result.objectives).index(name)]


def _spread(result: SweepResult, name: str) -> float:
    """The largest value over the smallest."""
    values = [_value(result, trial, name) for trial in result.finished]
    return max(values) / min(values) if min(values) > 0 else 0.0
