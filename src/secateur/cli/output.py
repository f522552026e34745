"""What the command line shows: tables on stdout, progress and errors on stderr."""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import datasets
import huggingface_hub.utils
import transformers
from rich import box
from rich.columns import Columns
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.progress import TimeRemainingColumn as TimeLeftColumn
from rich.table import Table
from rich.text import Text as RichText
from transformers import TrainerCallback

from secateur.budget.latency import LatencyTable
from secateur.deploy.verify import Verification
from secateur.measure.benchmark_result import BenchmarkResult
from secateur.measure.inspected_model import Inspection
from secateur.measure.prepared_models import BASELINE
from secateur.measure.sensitivity_result import Sensitivity
from secateur.report import comparison_text, inspection_text, sensitivity_page
from secateur.report.comparison import Comparison
from secateur.report.report import Report
from secateur.report.report_text import footnotes, score_table, score_text, subject, title
from secateur.report.sensitivity_page import ScoreTable
from secateur.system import processes

PIPED_WIDTH = 200
"""Columns that a table may take where there is no terminal: a folded row is hard to search."""

OUT = Console(highlight=False, markup=False, width=None if sys.stdout.isatty() else PIPED_WIDTH)
ERR = Console(stderr=True, highlight=False, markup=False)

# The stages by the name of their folder, and what follows each.
STAGES = {"teacher-training": "teacher", "prune": "prune", "recover": "recover"}
NEXT = {"teacher": "reading the teacher's outputs", "prune": "cutting", "recover": "measuring"}


def quiet() -> None:
    """Let the libraries below say nothing but errors, and draw no bars of their own."""
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    datasets.logging.set_verbosity_error()
    datasets.disable_progress_bars()
    huggingface_hub.utils.disable_progress_bars()


class ConsoleHandler(logging.Handler):
    """Prints the records of the `secateur` logger on stderr, a line each."""

    def emit(self, record: logging.LogRecord) -> None:
        ERR.print(self.format(record), soft_wrap=True)


def show_progress() -> None:
    """Print what the library logs; called once a process, however often the command line is."""
    logger = logging.getLogger("secateur")
    if not any(isinstance(handler, ConsoleHandler) for handler in logger.handlers):
        logger.addHandler(ConsoleHandler())
        logger.setLevel(logging.INFO)


# Answers


def show_json(values: Any) -> None:
    """The one thing on stdout under `--json`."""
    OUT.print(json.dumps(values, indent=1), soft_wrap=True)


def show_table(head: Sequence[str], rows: Sequence[Sequence[str]], title: str | None = None) -> None:
    """A table whose first column is what the row is about, and whose other columns are values."""
    if title:
        OUT.print(title, style="bold", soft_wrap=True)
    table = Table(box=box.SIMPLE_HEAD)
    for number, name in enumerate(head):
        table.add_column(name, justify="right" if number else "left", overflow="fold")
    for row in rows:
        table.add_row(*row)
    OUT.print(table)


def show_lines(*lines: str) -> None:
    """Lines as they are, so that a path or a command can be copied whole."""
    for line in lines:
        OUT.print(line, soft_wrap=True)


def show_names(kinds: Mapping[str, Mapping[str, str]]) -> None:
    """Everything that is registered: kind -> name -> one line about it."""
    for kind, entries in kinds.items():
        table = Table(kind, "", box=box.SIMPLE_HEAD)
        for name, about in entries.items():
            table.add_row(name, about)
        OUT.print(table)


def show_report(report: Report, folder: Path) -> None:
    """The last table of a run, its protocol, and how to use what it made."""
    show_table(("", "teacher", "pruned"), score_table(report), f"{subject(report)}: {title(report)}")
    for note in footnotes(report):
        OUT.print(f"- {note}", style="dim")
    show_lines("", f"The model is in {folder / 'model'}, the report in {folder / 'report.html'}. To load it:", "")
    show_lines("    import secateur", f'    model = secateur.load("{folder / "model"}")')


def show_walk(reports: Sequence[Report], folder: Path) -> None:
    """A row for each density of one walk, under the teacher's, then the last report's protocol."""
    first = reports[0]
    recipe, metric = first.recipe, first.metric
    shapes = [f"{one['protocol']['batch']} x {one['protocol']['tokens']}" for one in first.latency]
    columns = ("", metric, "retention", "parameters", *(f"speed-up {shape}" for shape in shapes), "model")
    teacher = (score_text(first.teacher_scores[metric]), "100%", f"{first.parameters['teacher']:,}")
    rows: list[Sequence[str]] = [("teacher", *teacher)]
    rows += [
        (
            report.aim,
            score_text(report.scores[metric]),
            "-" if report.retention is None else f"{report.retention:.1%}",
            f"{report.parameters['model']:,}",
            *(f"{one['speed_up']:.1f}x" for one in report.latency),
            str(folder / str(report.recipe["target"]["density"]) / "model"),
        )
        for report in reports
    ]
    show_table(columns, rows, f"{recipe['model']} on {recipe['data']['source']}: {recipe['method']['name']}")
    for note in footnotes(reports[-1]):
        OUT.print(f"- {note}", style="dim")
    show_lines("", "To see them side by side:", "", f"    secateur compare {folder} --output comparison")


def show_inspection(found: Inspection) -> None:
    """What each layer keeps, the counts, the possible savings, and the kinds of units of a dense model."""
    ascii_only = OUT.options.ascii_only
    show_table(*inspection_text.layer_table(found, ascii_only), inspection_text.title(found))
    for line in inspection_text.captions(found, ascii_only):
        OUT.print(line, style="dim")
    show_table(*inspection_text.count_table(found))
    show_lines(inspection_text.storage(found), "")
    show_table(*inspection_text.saving_table(found), inspection_text.SAVINGS_TITLE)
    if found.units:
        show_table(*inspection_text.unit_table(found))


def show_comparison(found: Comparison) -> None:
    """A row a point, and what the numbers mean."""
    show_table(*comparison_text.table(found), comparison_text.title(found))
    for note in comparison_text.notes(found):
        OUT.print(f"- {note}", style="dim", soft_wrap=True)


def show_sensitivity(found: Sensitivity, name: str) -> None:
    """Side by side a table for each kind of groups; scores stand out by how many standard errors they have lost."""
    OUT.print(f"{name}: {found.metric} with one group at a time cut to a density", style="bold", soft_wrap=True)
    OUT.print(Columns([_score_table(found, table) for table in sensitivity_page.score_tables(found)]))
    for note in (f"{ALARMS[0]} standard error lost: yellow, {ALARMS[1]}: red", *sensitivity_page.notes(found)):
        OUT.print(f"- {note}", style="dim", soft_wrap=True)


ALARMS = (1, 3)
"""Standard errors lost from which on a score is yellow, and red."""


def _score_table(found: Sensitivity, scores_by_layer: ScoreTable) -> Table:
    table = Table("layer", title=scores_by_layer.caption, title_justify="left", box=box.SIMPLE_HEAD)
    for name in scores_by_layer.head:
        table.add_column(name, justify="right")
    for name, scores in scores_by_layer.rows:
        table.add_row(name, *(RichText(f"{score:.3f}", _alarm(found, score)) for score in scores))
    return table


def _alarm(found: Sensitivity, score: float) -> str:
    few, many = (found.drop(score) > count * found.standard_error for count in ALARMS)
    return "bold red" if many else "yellow" if few else ""


def show_results(found: Sequence[BenchmarkResult], dense: str | None) -> None:
    """Latency by row and shape, what each row takes, and the protocol; `dense` is what the ratios are to."""
    labels = ("speed-up", f"on {' '.join(BASELINE)}") if dense is not None else ()
    columns = ("model", "runtime", "dtype", "batch x tokens", "median, ms", "quartiles, ms")
    rows = []
    for one in found:
        first, third = one.quartiles_ms
        row = [one.model, one.runtime, one.dtype, f"{one.batch} x {one.tokens}", f"{one.latency_ms:.2f}"]
        ratios = (one.speed_up, one.speed_up_baseline) if labels else ()
        row += [f"{first:.2f}-{third:.2f}", *(_times(ratio, 2) for ratio in ratios), _times(one.over_floor, 1)]
        rows.append(row)
    show_table((*columns, *labels, "roofline"), rows)
    _show_sizes(found)
    _show_protocol(found, dense)


def _times(ratio: float | None, digits: int) -> str:
    return "-" if ratio is None else f"{ratio:.{digits}f}x"


def _show_sizes(found: Sequence[BenchmarkResult]) -> None:
    """What each model takes in each runtime and dtype; of its peaks the one at the largest shape."""
    largest: dict[tuple[str, str, str], BenchmarkResult] = {}
    for one in sorted(found, key=lambda one: one.batch * one.tokens):
        largest[one.model, one.runtime, one.dtype] = one
    rows = []
    for one in (largest[key] for key in dict.fromkeys((one.model, one.runtime, one.dtype) for one in found)):
        row = [one.model, one.runtime, one.dtype, "-" if one.parameters is None else f"{one.parameters:,}"]
        peak = ("-", "-") if one.peak is None else (f"{one.peak.process / 1e6:.0f}", f"{one.peak.model / 1e6:.0f}")
        rows.append([*row, f"{one.bytes / 1e6:.1f}", *peak])
    show_table(("model", "runtime", "dtype", "parameters", "weights, MB", "peak memory, MB", "the model's, MB"), rows)


def _show_protocol(found: Sequence[BenchmarkResult], dense: str | None) -> None:
    """How the numbers were made, and what the columns mean."""
    p = found[0].protocol
    versions = ", ".join(dict.fromkeys(str(one.protocol["runtime"]) for one in found))
    notes = [
        f"median of {p['repeats']} forwards after {p['warmup']} to warm up, {p['settle']} untimed before each, rows "
        f"{p['order']}, threads {p['threads']}, {p['device']}, {versions}, {p['machine']}"
    ]
    if dense is not None:
        notes.append(f"speed-up: on {dense} in the same runtime and dtype, then on {dense} in {' '.join(BASELINE)}")
    floors = {one.dtype: one.floor.rates for one in found if one.floor is not None}
    notes += [
        f"roofline: median over max(FLOPs / rate, bytes / bandwidth); {dtype}: {rates.flops / 1e9:,.1f} GFLOP/s "
        f"({rates.product}), {rates.bandwidth / 1e9:,.1f} GB/s (copy, read and write)"
        for dtype, rates in floors.items()
    ]
    ranges = {f"{one.model} in {one.runtime}": one.protocol["int8_ranges"] for one in found if one.dtype == "int8"}
    notes += [f"int8 of {row}: ranges of activations from {where}" for row, where in ranges.items()]
    measured = f"{p['memory']}; the model's is above what was there before it" if "memory" in p else "not asked for"
    notes.append(f"memory: {measured}")
    for note in notes:
        OUT.print(f"- {note}", style="dim", soft_wrap=True)


def show_latencies(table: LatencyTable) -> None:
    """What the whole sizes cost, each layer's and all the rest, and the model itself beside their sum."""
    prices, layers = table.costs(table.grid["hidden"][-1]), int(table.shape["layers"])
    attention, mlp = float(prices.attention[-1, -1, -1]), float(prices.mlp[-1])
    rows = {
        "attention, a layer's": attention,
        "bias of an attention alone": prices.bare_attention,
        "network, a layer's": mlp,
        "bias of a network alone": prices.bare_mlp,
        "all but the layers": prices.rest,
        "the model, by these": prices.rest + layers * (attention + mlp),
        "the model, measured": table.dense_ms,
    }
    show_table(("", "ms"), [(name, f"{ms:.3f}") for name, ms in rows.items()])
    p = table.protocol
    OUT.print(
        f"- {p['batch']} x {p['tokens']} tokens, median of {p['repeats']} forwards, {p['order']}, {p['threads']} "
        f"threads, {p['dtype']}, {p['device']}, {p['runtime']}, {p['machine']}",
        style="dim",
    )


def show_verification(found: Verification, inputs: str) -> None:
    """The largest differences and the verdict."""
    rows = [
        (what, f"{difference:.2e}")
        for what, difference in (
            ("masked - compact", found.masked_compact),
            ("compact - loaded", found.compact_loaded),
            (f"source - exported, {found.dtype}", found.compact_exported),
        )
        if difference is not None
    ]
    show_table(("", "largest difference"), rows)
    verdict = "the same model" if found.passed else "NOT the same model"
    if found.passed and found.dtype not in (None, "fp32"):
        verdict = f"finite in {found.dtype}, of which only the score tells"
    show_lines(f"{verdict}: {found.examples} {inputs}, largest output {found.scale:.3g}")


def show_export(told: Mapping[str, Any]) -> None:
    """What was written, how far it is from its source, and the scores of both."""
    facts = told["facts"]
    rows = [("format", facts["format"]), ("dtype", facts["dtype"]), ("opset", str(facts["opset"] or "-"))]
    if facts["dtype"] == "int8":
        rows.append(("ranges from", f"{facts['calibration']} examples" if facts["calibration"] else "each batch"))
    rows += [("size, MB", f"{told['bytes'] / 1e6:.1f}"), ("largest difference", f"{told['difference']:.2e}")]
    show_table(("", "exported"), rows)
    show_scores(told.get("scores"))
    show_lines(
        f"{told['path']} was compared with its source on {told['examples']} random inputs of several shapes, largest "
        f"output {told['scale']:.3g}."
    )


def show_scores(told: Mapping[str, Any] | None) -> None:
    """The scores of a model and of its export, if they were taken, and how."""
    if told is None:
        return
    both = [(name, score_text(score), score_text(told["exported"][name])) for name, score in told["source"].items()]
    show_table(("", "source", "exported"), both)
    show_lines(f"on {told['rows']:,} validation rows, {told['batch']} to a batch")


# Progress


class Watch(TrainerCallback):
    """Follows training: which stage, which step, and the last figures. A subclass shows them."""

    stage = ""

    def __init__(self) -> None:
        self.figures: dict[str, str] = {}

    def begin(self, step: int, total: int) -> None:
        """A stage starts, at `step` if it goes on from a checkpoint."""

    def draw(self, step: int, total: int) -> None:
        """A step is done."""

    def end(self) -> None:
        """The stage is over."""

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        folder = Path(args.output_dir).name
        self.stage, self.figures = STAGES.get(folder, folder), {}
        self.begin(state.global_step, state.max_steps)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.draw(state.global_step, state.max_steps)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.end()

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **kwargs: Any) -> None:
        for name in ("density", "density_expected", "loss"):
            if logs and name in logs:
                self.figures[name] = f"{name.removeprefix('density_')} {logs[name]:.3f}"

    def on_evaluate(
        self, args: Any, state: Any, control: Any, metrics: dict[str, float] | None = None, **kwargs: Any
    ) -> None:
        speed = ("eval_loss", "eval_runtime", "eval_samples_per_second", "eval_steps_per_second")
        name = next((name for name in metrics or {} if name.startswith("eval_") and name not in speed), None)
        if metrics and name:
            self.figures["score"] = f"{name.removeprefix('eval_')} {metrics[name]:.4f}"


class Bars(Watch):
    """A bar for every stage, and a line that says what happens between them."""

    def __init__(self, progress: Progress) -> None:
        super().__init__()
        self.progress = progress
        self.between = progress.add_task("reading data and model", total=None, figures="")
        self.bar = self.between

    def begin(self, step: int, total: int) -> None:
        self.progress.update(self.between, visible=False)
        self.bar = self.progress.add_task(self.stage, total=total, completed=step, figures="")

    def draw(self, step: int, total: int) -> None:
        figures = "  ".join([f"{step}/{total}", *self.figures.values()])
        self.progress.update(self.bar, completed=step, figures=figures)

    def end(self) -> None:
        self.progress.update(self.between, visible=True, description=NEXT.get(self.stage, "working"))


class Lines(Watch):
    """A plain line for every tenth of a stage: for logs, where a bar would be noise."""

    def begin(self, step: int, total: int) -> None:
        self.first, self.started = step, time.monotonic()
        going_on = f", going on from step {step}" if step else ""
        ERR.print(f"{self.stage}: {total} steps{going_on}", soft_wrap=True)

    def draw(self, step: int, total: int) -> None:
        if 10 * step // total == 10 * (step - 1) // total:
            return
        elapsed = time.monotonic() - self.started
        left = elapsed / (step - self.first) * (total - step)
        figures = "".join(f"  {figure}" for figure in self.figures.values())
        ERR.print(
            f"{self.stage} {step}/{total}{figures}  {_clock(elapsed)} elapsed, {_clock(left)} left",
            soft_wrap=True,
        )


def _clock(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))


@contextmanager
def watching() -> Iterator[Watch]:
    """A callback that shows how far training is, on stderr: bars on a terminal, lines elsewhere.

    Of several processes the main one shows it.
    """
    if not processes.is_main():
        yield Watch()
        return
    if not ERR.is_terminal:
        yield Lines()
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=20),
        TextColumn("{task.fields[figures]}"),
        TimeElapsedColumn(),
        TimeLeftColumn(),
    )
    with Progress(*columns, console=ERR) as progress:
        bars = Bars(progress)
        yield bars
        progress.update(bars.between, visible=False)
