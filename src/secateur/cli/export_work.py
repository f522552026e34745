"""Export: a model for other runtimes, as a file or a folder, with the scores of both."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from torch import Tensor
from transformers import PreTrainedModel

from secateur.cli.deploy_output import show_export, show_folder, show_seq2seq
from secateur.cli.given_data import OpenedData, data_if_known, refuse_existing
from secateur.cli.output import show_json
from secateur.cli.scored_export import batches_of, fitted, scores, scores_of
from secateur.deploy.export import export
from secateur.deploy.formats import check_dtype, check_model, check_packages, check_request, files_of, known_format
from secateur.deploy.graph import is_encoder_decoder
from secateur.deploy.hub_layout import FILES, check_folder, export_folder
from secateur.deploy.runtimes import RUNTIMES
from secateur.deploy.seq2seq.folder import check_seq2seq_folder, export_seq2seq, open_seq2seq
from secateur.measure.export_times import generation_times, latencies
from secateur.run.recipe import places_of
from secateur.surgery.opening import config_of_model, open_model, open_tokenizer, tokenizer_if_any
from secateur.system.errors import UserError
from secateur.system.files import refuse_lost

ROWS = 256
"""Training rows that int8 is calibrated on by default."""


def export_model(
    *,
    folder: str,
    output: Path,
    given: dict[str, Any],
    layout: Literal["file", "hub"] | None,
    runtime: list[str] | None,
    dtype: str | None,
    rows: int | None,
    opset: int | None,
    overwrite: bool,
    as_json: bool,
) -> None:
    """What `secateur export` does; the options are described where it is declared."""
    refuse_lost(output, [folder, *places_of(given)])
    layout = layout or ("file" if output.suffix else "hub")
    runtimes = runtime or ["onnxruntime"]
    for name in runtimes if layout == "hub" else ():
        check_packages(Path(f"model{RUNTIMES.get(name).suffix}"), "fp32")
    if layout == "hub" and is_encoder_decoder(config_of_model(folder)):
        if rows:
            raise UserError("int8 of an encoder-decoder has the ranges of each batch: leave out --rows")
        values = _export_seq2seq(folder, output, runtimes, dtype, given, opset, overwrite)
        (show_json if as_json else show_seq2seq)(values)
        return
    if runtime and (layout == "file" or runtimes != ["onnxruntime"]):
        raise UserError(
            "--runtime is for encoder-decoders, which are exported to a folder: the ending of a file names its "
            "runtime, and a folder for servers has files for onnxruntime alone"
        )
    dtypes = (dtype,) if dtype else tuple(FILES) if layout == "hub" else ("fp32",)
    _check_output(output, layout, dtypes, overwrite)
    data = data_if_known(given, folder, ROWS if rows is None else rows or None)
    calibrated = "data.source" in given or (layout == "file" and known_format(output).calibrated)
    count = _rows(rows, data, dtypes, calibrated)
    if layout == "hub":
        values = _export_folder(folder, output, dtypes, data, count, opset, overwrite)
    else:
        values = _export_file(folder, output, dtypes[0], data, count, opset)
    if as_json:
        show_json(values)
    else:
        (show_folder if layout == "hub" else show_export)(values)


def _check_output(output: Path, layout: str, dtypes: tuple[str, ...], overwrite: bool) -> None:
    """Refuse what cannot be written, before a model is opened."""
    if layout == "hub":
        check_folder(output, dtypes, overwrite=overwrite)
        return
    for file in files_of(output):
        refuse_existing(file, overwrite)
    check_dtype(output, dtypes[0])
    check_packages(output, dtypes[0])


def _rows(asked: int | None, data: OpenedData | None, dtypes: tuple[str, ...], calibrated: bool) -> int:
    """The number of training rows that int8 is calibrated on; 0 where each batch has its own ranges.

    Args:
        calibrated: whether it is by default, where there is data.

    Raises:
        UserError: rows are asked for that cannot be read, or that no file needs.
    """
    if asked and "int8" not in dtypes:
        raise UserError(f"--rows are for the ranges of int8, and the dtype is {dtypes[0]}: leave it out")
    if asked and data is None:
        raise UserError("--rows are training rows, and no data can be read here: name it by --data")
    if asked is None:
        return ROWS if calibrated else 0
    return asked


def _check_ranges(output: Path, dtype: str, data: OpenedData | None, rows: int) -> None:
    """Refuse an int8 file whose format has the ranges of training rows, without these."""
    kind = known_format(output)
    if dtype == "int8" and kind.calibrated and (data is None or not rows):
        advice = "name data by --data" if data is None else "leave --rows 0 out"
        raise UserError(f"int8 for {kind.name} needs training rows for the ranges of activations: {advice}")


def _export_file(
    folder: str, output: Path, dtype: str, data: OpenedData | None, rows: int, opset: int | None
) -> dict[str, Any]:
    """One file, and both scores."""
    _check_ranges(output, dtype, data, rows)
    model = open_model(folder)
    check_model(model, output, dtype)
    calibration = _calibration(data, (dtype,), model, folder, rows)
    check_request(output, dtype, calibration, opset)
    data = fitted(data, model, folder)
    inputs = _tokenizer_inputs(folder)
    values = export(model, output, dtype=dtype, calibration=calibration, opset=opset, inputs=inputs).to_dict()
    return values | scores(model, folder, output, None, data)


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
    calibration, data = _calibration(data, dtypes, model, folder, rows), fitted(data, model, folder)
    options: dict[str, Any] = {"dtypes": dtypes, "calibration": calibration, "opset": opset, "overwrite": overwrite}
    written = export_folder(model, output, tokenizer=tokenizer, **options)
    files = [file.to_dict() | scores(model, folder, file.path, None, data) for file in written.files]
    times = latencies([file.path for file in written.files], written.max_length) if len(written.files) > 1 else []
    return written.to_dict() | {"files": files, "latency": times}


def _export_seq2seq(
    folder: str,
    output: Path,
    runtimes: list[str],
    dtype: str | None,
    given: dict[str, Any],
    opset: int | None,
    overwrite: bool,
) -> dict[str, Any]:
    """A folder with encoder and decoder for each runtime, their scores, and how long each takes to write a text."""
    dtypes = (dtype,) if dtype else ("fp32", "int8")
    check_seq2seq_folder(output, runtimes, dtypes, opset, overwrite=overwrite)
    data = data_if_known(given, folder)
    model, tokenizer = open_model(folder), tokenizer_if_any(folder)
    data = fitted(data, model, folder)
    options: dict[str, Any] = {"runtimes": runtimes, "dtypes": dtypes, "opset": opset, "overwrite": overwrite}
    written = export_seq2seq(model, output, tokenizer=tokenizer, **options)
    exported = {(one.runtime, one.dtype): open_seq2seq(output, one.runtime, one.dtype) for one in written.files}
    files = [one.to_dict() | scores_of(model, folder, exported[one.runtime, one.dtype], data) for one in written.files]
    return written.to_dict() | {"files": files, "latency": generation_times(model, exported)}


def _calibration(
    data: OpenedData | None, dtypes: tuple[str, ...], model: PreTrainedModel, folder: str, rows: int
) -> list[dict[str, Tensor]] | None:
    """Training rows for the ranges of int8; None where each batch gives its own."""
    if data is None or "int8" not in dtypes or not rows:
        return None
    return batches_of(data, "train", model, folder, rows)


def _tokenizer_inputs(folder: str) -> list[str] | None:
    """The names of what the tokenizer of a model gives; None if there is no tokenizer."""
    tokenizer = tokenizer_if_any(folder)
    return None if tokenizer is None else tokenizer.model_input_names
