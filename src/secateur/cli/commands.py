"""The commands by name, each of which is imported when it is used, so that `secateur --help` imports none of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib import import_module
from typing import Any, NamedTuple

import typer
from typer.core import TyperCommand

from secateur.cli.output import show_message

USAGE_ERROR: Any = typer.BadParameter.__bases__[0]
"""The error of words that a command does not understand, which typer reports with the command's usage."""


class Entry(NamedTuple):
    """Where a command is, and its line in the list of commands.

    Attributes:
        module: the module of `secateur.cli` that has its function.
        summary: the first line of the function's docstring, which a test compares.
        example: what a user types first, of a command that needs something.
        needs: options that are needed unless a recipe file says the same.
    """

    module: str
    function: str
    summary: str
    example: str = ""
    needs: tuple[str, ...] = ()


COMMANDS: Mapping[str, Entry] = {
    "prune": Entry(
        "prune_commands",
        "prune",
        "Run the whole job: train a teacher if needed, prune, cut, recover, measure, report.",
        example="secateur prune bert-base-uncased --data reviews.csv --density 0.2 --output runs/reviews",
        needs=("--data",),
    ),
    "demo": Entry(
        "prune_commands",
        "demo",
        "Prune the MiniLM-L6 of a package on BBC news, in minutes: to 5%, or as an embedding model.",
    ),
    "list": Entry("model_commands", "list_names", "List what can be named in a recipe or an option."),
    "inspect": Entry(
        "model_commands",
        "inspect_model",
        "Show the layers, parameters, operations and prunable units of a model.",
        example="secateur inspect runs/reviews",
    ),
    "new": Entry(
        "model_commands",
        "make_model",
        "Make an untrained model and its tokenizer from data alone.",
        example="secateur new --data pairs.csv --output models/mine",
    ),
    "cut": Entry(
        "cut_commands",
        "cut_model",
        "Cut a model without training, by a method, by a plan, or to the pieces of texts.",
        example="secateur cut models/mine --data reviews.csv --density 0.6 --output compact/mine",
    ),
    "eval": Entry(
        "model_commands",
        "evaluate",
        "Score a fine-tuned model, dense or compact, on rows it was not trained on.",
        example="secateur eval runs/reviews",
    ),
    "predict": Entry(
        "predict_commands",
        "predict",
        "Show what a model says of texts: classes, tags, answers, vectors, scores or texts, as its task has it.",
        example="secateur predict runs/reviews 'a film that I would see again'",
    ),
    "latency": Entry(
        "deploy_commands",
        "measure_latencies",
        "Measure the latency table that --latency and --speedup need.",
        example="secateur latency models/mine --output latency.json",
    ),
    "bench": Entry(
        "deploy_commands",
        "bench_model",
        "Benchmark models: latency, speed-up, size and peak memory.",
        example="secateur bench runs/reviews --runtime pytorch --runtime onnxruntime",
    ),
    "export": Entry(
        "deploy_commands",
        "export_model",
        "Export a model to another runtime and compare it with its source.",
        example="secateur export runs/reviews --output served/reviews",
    ),
    "verify": Entry(
        "deploy_commands",
        "verify_model",
        "Verify that the masked, the compact and the loaded model agree.",
        example="secateur verify runs/reviews",
    ),
    "publish": Entry(
        "publish_commands",
        "publish_model",
        "Put a model on the hub, in one commit: all of it or nothing.",
        example="secateur publish runs/reviews ORG/NAME --dry-run",
    ),
    "report": Entry(
        "study_commands",
        "report_run",
        "Write the report pages of a finished run again.",
        example="secateur report runs/reviews",
    ),
    "compare": Entry(
        "study_commands",
        "compare_runs",
        "Compare finished runs: score against density, size and speed.",
        example="secateur compare runs/one runs/other --output comparison",
    ),
    "sweep": Entry(
        "sweep_commands",
        "sweep",
        "Search the best values of a recipe's keys by trials, in several workers.",
        example="secateur sweep sweep.yaml --trials 20 --output sweeps/reviews",
    ),
    "doctor": Entry(
        "doctor_commands", "doctor", "Show what this machine and this environment can do, for a report of a bug."
    ),
    "sensitivity": Entry(
        "study_commands",
        "study_sensitivity",
        "Score a model with one group at a time cut.",
        example="secateur sensitivity models/mine --data reviews.csv --output maps",
    ),
}


class Commands(Mapping[str, Any]):
    """The command objects by name; a look-up imports the command's module."""

    def __getitem__(self, name: str) -> Any:
        entry = COMMANDS[name]
        function = getattr(import_module(f"secateur.cli.{entry.module}"), entry.function)
        single = typer.Typer(add_completion=False, rich_markup_mode=None)
        single.command(name, cls=Command)(function)
        made: Any = typer.main.get_command(single)
        made.entry = entry
        return made

    def __iter__(self) -> Iterator[str]:
        return iter(COMMANDS)

    def __len__(self) -> int:
        return len(COMMANDS)

    def __contains__(self, name: object) -> bool:
        return name in COMMANDS


class Command(TyperCommand):
    """A command whose help lists its options by panels, and which explains itself where it is given nothing."""

    entry: Entry

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if not args and not ctx.resilient_parsing and any(parameter.required for parameter in self.get_params(ctx)):
            show_message(self._explanation(ctx))
            raise typer.Exit(2)
        try:
            return super().parse_args(ctx, args)
        except typer.BadParameter as error:
            if error.message or error.param is None:  # the error of what is missing has no message of its own
                raise
            raise USAGE_ERROR(self._missing(error.param), ctx=ctx) from None

    def _missing(self, parameter: Any) -> str:
        """The sentence on what a command was not given."""
        example = f", as in `{self.entry.example}`" if self.entry.example else ""
        return f"{parameter.opts[0]} is missing: give it{example} ({parameter.help.rstrip('.')})"

    def _explanation(self, ctx: Any) -> str:
        """What the command does, an example, what it must be given, and where all options are."""
        needed: list[Any] = [one for one in self.get_params(ctx) if self._is_needed(one)]
        lines = [f"  {', '.join(one.opts)}: {one.help}" for one in needed]
        example = f"    {self.entry.example}"
        command = f"secateur {ctx.info_name}"
        return "\n".join(
            [self.entry.summary, "", example, "", "It needs:", *lines, "", f"All options: {command} --help"]
        )

    def _is_needed(self, parameter: Any) -> bool:
        needed = parameter.required or parameter.param_type_name == "argument"
        return bool(needed or set(parameter.opts) & set(self.entry.needs))

    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        if self.entry.example:
            formatter.write(f"\nExample:\n  {self.entry.example}\n")

    def format_options(self, ctx: Any, formatter: Any) -> None:
        panels: dict[str, list[tuple[str, str]]] = {"Arguments": [], "Options": []}  # these come first
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is not None:
                panels.setdefault(_panel(parameter), []).append(record)
        for title, records in ((title, records) for title, records in panels.items() if records):
            with formatter.section(title):
                formatter.write_dl(records)


def _panel(parameter: Any) -> str:
    if parameter.param_type_name == "argument":
        return "Arguments"
    return getattr(parameter, "rich_help_panel", None) or "Options"
