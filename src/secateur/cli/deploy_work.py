"""Deployment: measure the latency of a model, export it, and verify that the result computes the same."""

from __future__ import annotations

import logging
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
import typer
from torch import Tensor
from transformers import PreTrainedModel

from secateur.budget.amounts import batch_and_tokens
from secateur.cli.benchmark_output import show_latencies, show_results
from secateur.cli.deploy_output import show_agreements, show_scores, show_verification
from secateur.cli.given_data import OpenedData, data_if_known, refuse_existing, scored_source
from secateur.cli.options import SHAPES
from secateur.cli.output import show_json, show_lines
from secateur.cli.recipe_options import names_of
from secateur.cli.scored_export import batches_of, fitted, scores, scores_of
from secateur.deploy.compared_pieces import ComparedPieces, compared_pieces
from secateur.deploy.seq2seq.folder import files_in, verify_seq2seq
from secateur.deploy.verification import Verification
from secateur.deploy.verify import verify, verify_folder
from secateur.measure.benchmark import benchmark
from secateur.measure.evaluation import piece_rows
from secateur.measure.generation import part_of
from secateur.measure.latency_sweep import measure_latency
from secateur.measure.random_inputs import padded_inputs
from secateur.report.report import Report
from secateur.run.finished_run import FinishedRun
from secateur.structure.plan_file import vocabulary_of
from secateur.structure.vocabulary import Vocabulary
from secateur.surgery.opening import local_model_folder, open_encoder, open_model, tokenizer_if_any
from secateur.system.errors import UserError

log = logging.getLogger(__name__)


def measure_latencies(
    *,
    overwrite: bool,
    model: str,
    output: Path,
    shape: str,
    units: str,
    timed: str | None,
    beams: int,
    runtime: str,
    dtype: str | None,
    threads: int | None,
    repeats: int,
    as_json: bool,
) -> None:
    """What `secateur latency` does; the options are described where it is declared."""
    refuse_existing(output, overwrite)
    batch, tokens = batch_and_tokens(shape)
    opened = open_encoder(model)
    protocol: dict[str, Any] = {"runtime": runtime, "dtype": dtype, "threads": threads, "repeats": repeats}
    protocol |= {"part": part_of(opened, timed, beams), "beams": beams}
    table = measure_latency(opened, *names_of(units), batch=batch, tokens=tokens, **protocol)
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
    if dtype is not None and (exported is None or exported.is_dir()):
        raise UserError("--dtype is what an exported file runs in: give --exported with a file, or leave it out")
    if dense is not None and exported is not None:
        raise UserError("--exported is compared with the folder's model alone: leave --dense out")
    data = data_if_known(given, folder)
    if exported is not None and exported.is_dir():
        _verify_seq2seq(folder, exported, data, as_json)
        return
    if exported is None:
        verification, values = _verify_compact(folder, dense, data)
    else:
        verification, values = _verify_export(folder, exported, dtype, data)
    if as_json:
        show_json(values)
    else:
        inputs = "random inputs" if data is None else f"{data[1].origin.rows} of {scored_source(*data)}"
        show_verification(verification, inputs, dense)
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
    data = fitted(data, model, folder)
    verification = verify(_validation_inputs(model, folder, data), compact=model, exported=exported, dtype=dtype)
    return verification, verification.to_dict() | scores(model, folder, exported, dtype, data)


def _verify_seq2seq(folder: str, exported: Path, data: OpenedData | None, as_json: bool) -> None:
    """The files of an exported encoder-decoder against the folder's model, and the scores of each."""
    model = open_model(folder)
    data, found = fitted(data, model, folder), []
    for runtime, dtype in files_in(exported):
        opened, compared = verify_seq2seq(model, exported, runtime, dtype)
        own = {"runtime": runtime, "dtype": dtype, "passed": compared.passes(dtype), "agreement": asdict(compared)}
        found.append(own | scores_of(model, folder, opened, data))
    (show_json if as_json else show_agreements)(found)
    if not all(one["passed"] for one in found):
        raise typer.Exit(1)


def _validation_inputs(model: PreTrainedModel, folder: str, data: OpenedData | None) -> list[dict[str, Tensor]]:
    """Validation rows; random inputs without data."""
    return [padded_inputs(model)] if data is None else batches_of(data, "validation", model, folder)
