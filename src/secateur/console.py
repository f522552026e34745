"""What the command line shows: tables on stdout, progress and errors on stderr."""

from __future__ import annotations

import json
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
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.progress import TimeRemainingColumn as TimeLeftColumn
from rich.table import Table
from transformers import TrainerCallback

from secateur.bench import Measurement
from secateur.report import Report
from secateur.verify import Verification

OUT = Console(highlight=False, markup=False)
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
    recipe = report.recipe
    title = f"{recipe['model']} on {recipe['data']}: {recipe['method']} at density {recipe['density']:g}"
    show_table(("", "teacher", "pruned"), report.table(), title)
    for note in report.footnotes():
        OUT.print(f"- {note}", style="dim")
    show_lines("", f"The model is in {folder / 'model'}, the report in {folder / 'report.md'}. To load it:", "")
    show_lines("    import secateur", f'    model = secateur.load("{folder / "model"}")')


def show_inspection(found: Mapping[str, Any]) -> None:
    """What survived in every layer, parameters by scope, and what a dense model offers to prune."""
    columns = ("layer", "heads", "qk", "vo", "ffn", "hidden")
    layers = [[str(row.get(column, "")) for column in columns] for row in found["layers"]]
    kind = f"compact, by {found['method']}" if found["compact"] else "dense"
    show_table(columns, layers, f"{found['model_class']}, {kind} (kept / total)")
    counts = [
        [f"parameters, {scope}", f"{n['kept']:,}", f"{n['total']:,}", f"{n['density']:.4f}"]
        for scope, n in found["parameters"].items()
    ]
    flops = found["flops"]
    kept, total = flops["kept"], flops["total"]
    counts.append(
        [
            f"MFLOP, {flops['tokens']} tokens",
            f"{kept / 1e6:,.1f}",
            f"{total / 1e6:,.1f}",
            f"{kept / total:.4f}",
        ]
    )
    show_table(("", "kept", "total", "density"), counts)
    show_lines(f"{found['stored']:,} numbers are stored, {found['padding']:,} of them padding.")
    if found["units"]:
        offers = [
            [u["unit"], f"{u['units']:,}", f"{u['parameters_each']:,}", f"{u['floor']:.4f}"] for u in found["units"]
        ]
        show_table(("unit", "units", "parameters each", "floor alone"), offers)


def show_measurements(found: Sequence[Measurement]) -> None:
    """Latency by shape, of the model and of the one it is compared with, and the protocol."""
    head = ["batch x tokens", "latency, ms", "quartiles, ms"]
    if found[0].against is not None:
        head += ["against, ms", "speed-up"]
    rows = []
    for one in found:
        p, (first, third) = one.protocol, one.quartiles_ms
        row = [f"{p['batch']} x {p['tokens']}", f"{one.latency_ms:.2f}", f"{first:.2f}-{third:.2f}"]
        if one.against is not None:
            row += [f"{one.against.latency_ms:.2f}", f"{one.speed_up:.2f}x"]
        rows.append(row)
    show_table(head, rows)
    p = found[0].protocol
    OUT.print(
        f"- median of {p['repeats']} forwards after {p['warmup']} to warm up, {p['order']}, "
        f"{p['threads']} threads, {p['dtype']}, attention {p['attention']}, {p['device']}, {p['runtime']}, "
        f"{p['machine']}",
        style="dim",
    )


def show_verification(found: Verification, inputs: str) -> None:
    """The largest differences and the verdict."""
    rows = [
        (what, f"{difference:.2e}")
        for what, difference in (
            ("masked - compact", found.masked_compact),
            ("compact - loaded", found.compact_loaded),
        )
        if difference is not None
    ]
    show_table(("", "largest difference"), rows)
    verdict = "the same model" if found.passed else "NOT the same model"
    show_lines(f"{verdict}: {found.examples} {inputs}, largest output {found.scale:.3g}")


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
    """A callback that shows how far training is, on stderr: bars on a terminal, lines elsewhere."""
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
