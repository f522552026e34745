"""Deployment: measure the latency of a model, export it, and verify that the result computes the same."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch
import typer
from torch import Tensor
from transformers import PreTrainedModel

from secateur.budget.amounts import batch_and_tokens
from secateur.cli.benchmark_output import show_latencies, show_results
from secateur.cli.deploy_output import show_export, show_folder, show_scores, show_verification
from secateur.cli.given_data import OpenedData, data_if_known, refuse_existing
from secateur.cli.options import SHAPES
from secateur.cli.output import show_json, show_lines
from secateur.cli.recipe_options import names_of
from secateur.deploy.compared_pieces import ComparedPieces, compared_pieces
from secateur.deploy.export import export, opened
from secateur.deploy.formats import check_packages, check_request, known_format
from secateur.deploy.hub_layout import FILES, check_folder, export_folder
from secateur.deploy.verify import Verification, verify, verify_folder
from secateur.measure.benchmark import benchmark
from secateur.measure.evaluation import batches, encoded, fitted_to, piece_rows, scores_beside_export
from secateur.measure.export_times import latencies
from secateur.measure.latency_sweep import measure_latency
from secateur.measure.random_inputs import padded_inputs
from secateur.report.report import Report
from secateur.run.finished_run import FinishedRun
from secateur.structure.plan_file import vocabulary_of
from secateur.structure.vocabulary import Vocabulary
from secateur.surgery.opening import local_model_folder, open_encoder, open_model, open_tokenizer, tokenizer_if_any
from secateur.system.errors import UserError

log = logging.getLogger(__name__)


def measure_latencies(
    *,
    overwrite: bool,
    model: str,
    output: Path,
    shape: str,
    units: str,
    runtime: str,
    dtype: str | None,
    threads: int | None,
    repeats: int,
    as_json: bool,
) -> None:
    """What `secateur latency` does; the options are described where it is declared."""
    refuse_existing(output, overwrite)
    batch, tokens = batch_and_tokens(shape)
    protocol: dict[str, Any] = {"runtime": runtime, "dtype": dtype, "threads": threads, "repeats": repeats}
    table = measure_latency(open_encoder(model), *names_of(units), batch=batch, tokens=tokens, **protocol)
    table.save(output)
    if as_json:
        show_json({"file": str(output), **table.to_dict()})
    else:
        show_latencies(table)
        show_lines(f"The table is in {output}.")


def bench_model(
    *,
    folder: str,
    against: list[str] | None,
    runtime: list[str] | None,
    dtype: list[str] | None,
    shape: list[str] | None,
    repeats: int,
    threads: int | None,
    device: str,
    memory: bool,
    as_json: bool,
) -> None:
    """What `secateur bench` does; the options are described where it is declared."""
    places = [folder, *(against or teacher_of(folder))]
    names = _labels(places)
    dense = names[1] if len(names) > 1 else None
    results = benchmark(
        {name: _model_or_file(place) for name, place in zip(names, places, strict=True)},
        dense=dense,
        runtimes=runtime or ("pytorch",),
        dtypes=dtype or ("fp32",),
        shapes=[batch_and_tokens(text) for text in shape or SHAPES],
        repeats=repeats,
        threads=threads,
        device=device,
        peak_memory=memory,
    )
    if as_json:
        show_json([result.to_dict() for result in results])
    else:
        show_results(results, dense)


def _model_or_file(place: str) -> PreTrainedModel | Path:
    return Path(place) if Path(place).is_file() else open_model(place)


def teacher_of(folder: str) -> list[str]:
    """The dense teacher of a finished run, which its model is compared with; nothing where it cannot be opened here."""
    if not (Path(folder) / "report.json").is_file():
        return []
    place = FinishedRun(Path(folder), Report.load(folder)).teacher
    try:
        open_model(place)
    except UserError as error:
        log.info("the run's teacher is not measured: %s", error)
        return []
    return [place]


def _labels(places: list[str]) -> list[str]:
    """The names of models in a table: those of their folders, or the whole paths where these are the same.

    Raises:
        UserError: one place is given twice.
    """
    if twice := next((place for place in places if places.count(place) > 1), None):
        raise UserError(f"expected models that differ, got {twice} twice: name each once")
    names = [path.parent.name if path.name == "model" else path.name for path in map(Path, places)]
    return [place if names.count(name) > 1 or not name else name for place, name in zip(places, names, strict=True)]


def export_model(
    *,
    folder: str,
    output: Path,
    given: dict[str, Any],
    layout: Literal["file", "hub"] | None,
    dtype: str | None,
    rows: int,
    opset: int | None,
    overwrite: bool,
    as_json: bool,
) -> None:
    """What `secateur export` does; the options are described where it is declared."""
    layout = layout or ("file" if output.suffix else "hub")
    dtypes = (dtype,) if dtype else tuple(FILES) if layout == "hub" else ("fp32",)
    if layout == "hub":
        check_folder(output, dtypes, overwrite=overwrite)
    else:
        refuse_existing(output, overwrite)
        check_packages(output, dtypes[0])
    data = data_if_known({**given, "data.rows": rows or None}, folder)
    rows = rows if "data.source" in given or (layout == "file" and known_format(output).calibrated) else 0
    if layout == "hub":
        values = _export_folder(folder, output, dtypes, data, rows, opset, overwrite)
    else:
        values = _export_file(folder, output, dtypes[0], data, rows, opset)
    if as_json:
        show_json(values)
    else:
        (show_folder if layout == "hub" else show_export)(values)


def _export_file(
    folder: str, output: Path, dtype: str, data: OpenedData | None, rows: int, opset: int | None
) -> dict[str, Any]:
    """One file, and both scores."""
    model, calibration = open_model(folder), _calibration(data, (dtype,), folder, rows)
    check_request(output, dtype, calibration, opset)
    data = _fitted(data, model, folder)
    inputs = _tokenizer_inputs(folder)
    values = export(model, output, dtype=dtype, calibration=calibration, opset=opset, inputs=inputs).to_dict()
    return values | _scores(model, folder, output, None, data)


def _export_folder(
    folder: str,
    output: Path,
    dtypes: tuple[str, ...],
    data: OpenedData | None,
    rows: int,
    opset: int | None,
    overwrite: bool,
) -> dict[str, Any]:
    """A folder for servers, the scores of the model and of each of its files, and the latencies of these."""
    model, tokenizer = open_model(folder), open_tokenizer(folder)
    calibration, data = _calibration(data, dtypes, folder, rows), _fitted(data, model, folder)
    options: dict[str, Any] = {"dtypes": dtypes, "calibration": calibration, "opset": opset, "overwrite": overwrite}
    written = export_folder(model, output, tokenizer=tokenizer, **options)
    files = [file.to_dict() | _scores(model, folder, file.path, None, data) for file in written.files]
    times = latencies([file.path for file in written.files], written.max_length) if len(written.files) > 1 else []
    return written.to_dict() | {"files": files, "latency": times}


def _calibration(
    data: OpenedData | None, dtypes: tuple[str, ...], folder: str, rows: int
) -> list[dict[str, Tensor]] | None:
    """Training rows for the ranges of int8; None where each batch gives its own."""
    return _batches(data, "train", folder, rows) if data is not None and "int8" in dtypes and rows else None


def _fitted(data: OpenedData | None, model: PreTrainedModel, folder: str) -> OpenedData | None:
    """The data for a model's own labels.

    Raises:
        UserError: the model does not fit the data, before anything is written.
    """
    return None if data is None else (data[0], fitted_to(data[1], model, folder)[0])


def _tokenizer_inputs(folder: str) -> list[str] | None:
    """The names of what the tokenizer of a model gives; None if there is no tokenizer."""
    tokenizer = tokenizer_if_any(folder)
    return None if tokenizer is None else tokenizer.model_input_names


def verify_model(
    *,
    folder: str,
    given: dict[str, Any],
    dense: str | None,
    exported: Path | None,
    dtype: str | None,
    as_json: bool,
) -> None:
    """What `secateur verify` does; the options are described where it is declared."""
    if dtype is not None and exported is None:
        raise UserError("--dtype is what an exported file runs in: give --exported with it")
    if dense is not None and exported is not None:
        raise UserError("--exported is compared with the folder's model alone: leave --dense out")
    data = data_if_known(given, folder)
    if exported is None:
        verification, values = _verify_compact(folder, dense, data)
    else:
        verification, values = _verify_export(folder, exported, dtype, data)
    if as_json:
        show_json(values)
    else:
        show_verification(
            verification, "random inputs" if data is None else f"{data[1].origin.rows} of {data[0].source}"
        )
        if "scores" in values:
            show_scores(values["scores"])
    if not verification.passed:
        raise typer.Exit(1)


def _verify_compact(folder: str, dense: str | None, data: OpenedData | None) -> tuple[Verification, dict[str, Any]]:
    place = local_model_folder(folder)
    small, whole = open_model(place), None if dense is None else open_model(dense)
    verification = verify_folder(place, _validation_inputs(small, folder, data), whole)
    if dense is not None and whole is not None:
        vocabulary = vocabulary_of(place / "plan.json")
        if vocabulary is not None and vocabulary.size == whole.config.vocab_size != small.config.vocab_size:
            verification = replace(verification, pieces=_compared_pieces(vocabulary, small, folder, dense, data))
    return verification, verification.to_dict()


def _compared_pieces(
    vocabulary: Vocabulary, small: PreTrainedModel, folder: str, dense: str, data: OpenedData | None
) -> ComparedPieces | None:
    """How the tokenizers of a folder and of the dense model split rows of data, or texts of random pieces without data.

    None if one of them has no tokenizer.
    """
    before, after = tokenizer_if_any(dense), tokenizer_if_any(folder)
    if before is None or after is None:
        return None
    if data is not None:
        rows = [piece_rows(data[1], "validation", one, data[0].max_length) for one in (before, after)]
    else:
        pieces = torch.tensor(vocabulary.kept)[padded_inputs(small)["input_ids"]]
        texts = before.batch_decode(pieces, skip_special_tokens=True)
        rows = [one(texts)["input_ids"] for one in (before, after)]
    return compared_pieces(vocabulary, *rows)


def _verify_export(
    folder: str, exported: Path, dtype: str | None, data: OpenedData | None
) -> tuple[Verification, dict[str, Any]]:
    model = open_model(folder)
    data = _fitted(data, model, folder)
    verification = verify(_validation_inputs(model, folder, data), compact=model, exported=exported, dtype=dtype)
    return verification, verification.to_dict() | _scores(model, folder, exported, dtype, data)


def _validation_inputs(model: PreTrainedModel, folder: str, data: OpenedData | None) -> list[dict[str, Tensor]]:
    """Validation rows; random inputs without data."""
    return [padded_inputs(model)] if data is None else _batches(data, "validation", folder)


def _batches(data: OpenedData, split: str, folder: str, limit: int = 64) -> list[dict[str, Tensor]]:
    """The first rows of a split as inputs. Validation rows, on which int8 is scored, never calibrate it."""
    recipe, task = data
    tokenizer = open_tokenizer(folder)
    return batches(task, encoded(task, split, tokenizer, recipe.max_length), tokenizer, limit=limit)


def _scores(
    model: PreTrainedModel, folder: str, exported: Path, dtype: str | None, data: OpenedData | None
) -> dict[str, Any]:
    """The scores of a model and of its export under the key `scores`; nothing without data."""
    if data is None:
        return {}
    recipe, task = data
    tokenizer = open_tokenizer(folder)
    runner = opened(exported, dtype=dtype)
    return {"scores": scores_beside_export(model, runner, task, tokenizer, recipe.max_length)}
