"""Deployment: measure the latency of a model, export it, and verify that the result computes the same."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from secateur.cli.benchmark_output import show_latencies, show_results
from secateur.cli.deploy_output import show_export, show_scores, show_verification
from secateur.cli.options import (
    Data,
    Folder,
    Json,
    Label,
    MaxLength,
    Metric,
    ModelName,
    Task,
    TaskOptions,
    Text,
    Units,
    fitting_tokenizer,
    length_of,
    names_of,
    open_model,
    pairs_of,
    place_of,
    shape_of,
    task_of,
    tokenizer_of,
)
from secateur.cli.output import show_json, show_lines
from secateur.deploy.export import export, opened
from secateur.deploy.formats import check_request
from secateur.deploy.graph import Batch
from secateur.deploy.runtime import DTYPES, Runner
from secateur.deploy.runtimes import RUNTIMES
from secateur.deploy.verify import verify
from secateur.measure.benchmark import benchmark
from secateur.measure.evaluation import BATCH, batches, encoded, runner_scores, scores
from secateur.measure.latency_sweep import measure_latency
from secateur.measure.random_inputs import with_target
from secateur.structure.plan import Plan
from secateur.surgery import checkpoint
from secateur.surgery.cut import cut
from secateur.surgery.uncut import uncut
from secateur.system.errors import UserError
from secateur.tasks import task as tasks


def measure_latencies(
    model: ModelName,
    output: Annotated[Path, typer.Option("--output", "-o", help="File to write; a new one.")],
    shape: Annotated[str, typer.Option(help="batch x tokens, such as 8x128.")] = "8x128",
    units: Units = "ffn,qk,vo",
    runtime: Annotated[str, typer.Option(help=", ".join(RUNTIMES.all()))] = "pytorch",
    dtype: Annotated[str | None, typer.Option(help=", ".join(DTYPES), show_default="the weights' own")] = None,
    threads: Annotated[int | None, typer.Option(help="Threads.", show_default="as many as PyTorch takes")] = None,
    repeats: Annotated[int, typer.Option(help="Forwards per latency.")] = 10,
    as_json: Json = False,
) -> None:
    """Measure the latency table that --latency and --speedup need."""
    if output.exists():
        raise UserError(f"{output} is there already: choose a new file")
    batch, tokens = shape_of(shape)
    protocol: dict[str, Any] = {"runtime": runtime, "dtype": dtype, "threads": threads}
    dense = open_model(model)
    table = measure_latency(dense, *(names_of(units) or ()), batch=batch, tokens=tokens, repeats=repeats, **protocol)
    table.save(output)
    if as_json:
        show_json({"file": str(output), **table.to_dict()})
    else:
        show_latencies(table)
        show_lines(f"The table is in {output}.")


def bench_model(
    folder: Annotated[str, typer.Argument(help="A model folder, the folder of a finished run, or an exported file.")],
    against: Annotated[
        list[str] | None,
        typer.Option(help="A folder or file measured in turn; repeatable. The first is the dense model."),
    ] = None,
    runtime: Annotated[
        list[str] | None,
        typer.Option(help=f"{', '.join(RUNTIMES.all())}, or with cuda cudagraph; repeatable.", show_default="pytorch"),
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
    """Benchmark models: latency, speed-up, size and peak memory.

    All models are measured in turn, in one or several runtimes, and compared with the roofline of the machine.
    """
    names = _labels([folder, *(against or [])])
    shapes = [shape_of(text) for text in shape or ("1x32", "8x128")]
    dense = names[1] if against else None
    found = benchmark(
        {name: _model_or_file(one) for name, one in zip(names, [folder, *(against or [])], strict=True)},
        dense=dense,
        runtimes=runtime or ("pytorch",),
        dtypes=dtype or ("fp32",),
        shapes=shapes,
        repeats=repeats,
        threads=threads,
        device=device,
        peak_memory=memory,
    )
    if as_json:
        show_json([one.to_dict() for one in found])
    else:
        show_results(found, dense)


def _model_or_file(name: str) -> PreTrainedModel | Path:
    return Path(name) if Path(name).is_file() else open_model(name)


def _labels(places: list[str]) -> list[str]:
    """What the models of a table are called: their folders' own names, or all that was typed where these are the same.

    Raises:
        UserError: one place is given twice.
    """
    if twice := next((place for place in places if places.count(place) > 1), None):
        raise UserError(f"expected models that differ, got {twice} twice: name each once")
    names = [path.parent.name if path.name == "model" else path.name for path in map(Path, places)]
    return [place if names.count(name) > 1 or not name else name for place, name in zip(places, names, strict=True)]


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
    max_length: MaxLength = None,
    task_option: TaskOptions = None,
    seed: Annotated[int, typer.Option(help="that split off the validation rows, if the data has none")] = 0,
    as_json: Json = False,
) -> None:
    """Export a model to another runtime and compare it with its source.

    With --data, both are scored, and int8 is calibrated on training rows.
    """
    if output.exists():
        raise UserError(f"{output} is there already: choose a new name")
    model, length = open_model(folder), length_of(max_length, task)
    columns: dict[str, Any] = {
        "options": pairs_of("--task-option", task_option),
        "text": text,
        "label": label,
        "metric": metric,
    }
    wanted = None if data is None else task_of(task, data, seed, rows=rows or None, **columns)
    inputs = _calibration(wanted, folder, length, rows) if dtype == "int8" and rows else None
    check_request(output, dtype, inputs, opset)
    tokenizer = None if wanted is None else fitting_tokenizer(wanted, model, folder)  # refuses before it writes
    found = export(model, output, dtype=dtype, calibration=inputs, opset=opset)
    told = found.to_dict()
    if wanted is not None and tokenizer is not None:
        told["scores"] = _both_scores(model, opened(output), wanted, tokenizer, length)
    if as_json:
        show_json(told)
    else:
        show_export(told)


def _calibration(task: tasks.Task | None, folder: str, max_length: int, rows: int) -> list[Batch] | None:
    """Inputs of training rows alone: scores on the rows that ranges were chosen on would flatter."""
    if task is None:
        return None
    tokenizer = tokenizer_of(folder)
    return list(batches(task, encoded(task, "train", tokenizer, max_length), tokenizer, limit=rows))


def _both_scores(
    model: PreTrainedModel, run: Runner, task: tasks.Task, tokenizer: PreTrainedTokenizerBase, max_length: int
) -> dict[str, Any]:
    """Scores on the validation rows of a model and of its export, and how they were taken."""
    rows = encoded(task, "validation", tokenizer, max_length)
    return {
        "source": scores(model, task, rows, tokenizer),
        "exported": runner_scores(run, task, rows, tokenizer),
        "metric": task.metric,
        "rows": len(task.splits["validation"]),
        "batch": BATCH,
    }


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
    max_length: MaxLength = None,
    task_option: TaskOptions = None,
    seed: Annotated[int, typer.Option(help="that split off the validation rows, if the data has none")] = 0,
    as_json: Json = False,
) -> None:
    """Verify that the masked, the compact and the loaded model agree.

    With --exported, an exported file and its source are compared instead. The inputs are random, or rows of --data.
    """
    if dtype is not None and exported is None:
        raise UserError("--dtype is what an exported file runs in: give --exported with it")
    columns: dict[str, Any] = {
        "options": pairs_of("--task-option", task_option),
        "text": text,
        "label": label,
        "metric": metric,
    }
    wanted, length = None if data is None else task_of(task, data, seed, **columns), length_of(max_length, task)
    if exported is not None:
        if dense is not None:
            raise UserError("--exported is compared with the folder's model alone: leave --dense out")
        _verify_export(folder, exported, dtype, wanted, length, as_json)
        return
    place = place_of(folder)
    small = checkpoint.load(place)
    inputs = _inputs(small, wanted, folder, length)
    model, plan = uncut(small)
    whole = cut(model, plan)
    if dense is not None:
        model = open_model(dense)
        plan = Plan.load(place / "plan.json", model)
    found = verify(inputs, compact=whole, folder=place, dense=model, plan=plan)
    if as_json:
        show_json(found.to_dict())
    else:
        show_verification(found, "random inputs" if data is None else f"inputs of {data}")
    if not found.passed:
        raise typer.Exit(1)


def _inputs(model: PreTrainedModel, task: tasks.Task | None, folder: str, max_length: int) -> list[dict[str, Tensor]]:
    """Validation rows of the task, or random ids without one."""
    if task is None:
        return _random_inputs(model)
    tokenizer = tokenizer_of(folder)
    return batches(task, encoded(task, "validation", tokenizer, max_length), tokenizer)


def _verify_export(
    folder: str, file: Path, dtype: str | None, task: tasks.Task | None, max_length: int, as_json: bool
) -> None:
    """Compare an exported file with the model that it was made from; with data the scores of both."""
    model = open_model(folder)
    tokenizer = None if task is None else fitting_tokenizer(task, model, folder)
    found = verify(_inputs(model, task, folder, max_length), compact=model, exported=file, dtype=dtype)
    told = found.to_dict()
    if task is not None and tokenizer is not None:
        told["scores"] = _both_scores(model, opened(file, dtype=dtype), task, tokenizer, max_length)
    if as_json:
        show_json(told)
    else:
        show_verification(found, "random inputs" if task is None else "validation rows")
        if "scores" in told:
            show_scores(told["scores"])
    if not found.passed:
        raise typer.Exit(1)


def _random_inputs(model: PreTrainedModel, *, rows: int = 16, tokens: int = 24) -> list[dict[str, Tensor]]:
    """One batch of random ids, the rows of different lengths, so that padding is part of the proof."""
    noise = torch.Generator().manual_seed(0)
    ids = torch.randint(model.config.vocab_size, (rows, tokens), generator=noise)
    lengths = torch.randint(1, tokens + 1, (rows, 1), generator=noise)
    mask = (torch.arange(tokens) < lengths).long()
    batch = {"input_ids": torch.where(mask > 0, ids, model.config.pad_token_id or 0), "attention_mask": mask}
    return [with_target(model, batch)]
