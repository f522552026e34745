"""Shows the report of a run, and those of a density sweep."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from shlex import quote

from secateur.cli.output import show_lines, show_notes, show_table
from secateur.deploy.runtimes import RUNTIMES
from secateur.report import baselines, other_densities_section
from secateur.report.report import Report
from secateur.report.report_text import footnotes, score_table, score_text, subject, target_text, title
from secateur.report.size_text import headline, megabytes
from secateur.report.verdict import verdict
from secateur.system.packages import absent
from secateur.tasks import TASKS


def show_report(report: Report, folder: Path) -> None:
    """The numbers of a run, how they were measured, how to load the model, and whether the run worked."""
    show_table(("", "teacher", "pruned"), score_table(report), f"{subject(report)}: {title(report)}")
    show_notes(footnotes(report))
    if report.baselines is not None:
        show_lines("")
        if baselines.others(report):
            show_table(*baselines.table(report), f"{baselines.HEADING}:")
        show_notes(baselines.notes(report))
    show_lines("", f"The model is in {folder / 'model'}, the report in {folder / 'report.html'}. To load it:", "")
    show_lines("    import secateur", f'    model = secateur.load("{folder / "model"}")', "")
    show_lines("Next:", "", *(f"    {line}" for line in next_commands(report, folder)), "")
    if (others := other_densities_section.sentence(report)) is not None:
        show_lines(others)
    show_lines(headline(report), str(verdict(report)))


def next_commands(report: Report, folder: Path) -> list[str]:
    """What to do with the result: ask it, see in which of the installed runtimes it is fastest, and export it."""
    kind = TASKS.get(report.recipe["data"].get("task", "classification"))
    parts = () if kind.predictor is None else kind.predictor.parts
    parts = (*parts, f"other {parts[0]}") if report.asked.get("pairs") else parts
    texts = " ".join(map(_shown, parts))
    run = quote(str(folder))
    asked = [f"secateur predict {run} {texts}"] if texts else []
    if not kind.exports:
        return [*asked, f"secateur bench {run}"]
    others = [name for name, one in RUNTIMES.all().items() if one.packages and not absent(one.packages)]
    fastest = "".join(f" --runtime {name}" for name in ("pytorch", *others))
    exported = f"{folder}-onnx" if kind.lengths else f"{folder}.onnx"  # a folder is for servers of texts
    return [*asked, f"secateur bench {run}{fastest}", f"secateur export {run} --output {quote(exported)}"]


def _shown(part: str) -> str:
    """A part of an input as a word of the command line: 'a text', 'another text'."""
    return f"'{'an' if part[0] in 'aeiou' else 'a'}{'' if part.startswith('other ') else ' '}{part}'"


def show_sweep(reports: Sequence[Report], folder: Path) -> None:
    """The teacher, a row for each density, how the last was measured, and whether each of them worked."""
    first = reports[0]
    recipe, metric = first.recipe, first.metric
    shapes = [f"{one['protocol']['batch']} x {one['protocol']['tokens']}" for one in first.latency]
    columns = (
        "",
        metric,
        "retention",
        "parameters",
        "weights, MB",
        *(f"speed-up {shape}" for shape in shapes),
        "model",
    )
    sizes = f"{first.parameters['teacher']:,}", megabytes(first.weight_bytes["teacher"])
    teacher = ("teacher", score_text(first.teacher_scores[metric]), "100%", *sizes)
    rows = [teacher, *(_density_row(report, folder) for report in reports)]
    show_table(columns, rows, f"{recipe['model']} on {recipe['data']['source']}: {recipe['method']['name']}")
    show_notes(footnotes(reports[-1]))
    show_lines("", "To compare them:", "", f"    secateur compare {quote(str(folder))} --output comparison", "")
    show_lines(*(f"{target_text(report)}: {verdict(report)}" for report in reports))


def _density_row(report: Report, folder: Path) -> tuple[str, ...]:
    return (
        target_text(report),
        score_text(report.scores[report.metric]),
        "-" if report.retention is None else f"{report.retention:.1%}",
        f"{report.parameters['model']:,}",
        megabytes(report.weight_bytes["model"]),
        *(f"{one['speed_up']:.1f}x" for one in report.latency),
        str(folder / str(report.recipe["target"]["density"]) / "model"),
    )
