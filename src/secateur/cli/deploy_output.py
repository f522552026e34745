"""Shows what was exported, and whether models compute the same."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from secateur.cli.output import show_lines, show_table
from secateur.deploy.verification import Verification
from secateur.report.report_text import score_text
from secateur.report.size_text import megabytes
from secateur.system.quantities import quantity
from secateur.tasks.origin import rows_of

NOISE = 0.05
"""The part by which two latencies differ without one being called slower."""


def show_verification(verification: Verification, inputs: str, dense: str | None = None) -> None:
    """The largest differences and the verdict; `dense` is what the dense model is called, if one was given."""
    differences = {
        "all pieces - kept pieces": verification.whole_kept,
        "masked - compact": verification.masked_compact,
        "compact - loaded": verification.compact_loaded,
        f"source - exported, {verification.dtype}": verification.compact_exported,
        f"{dense} masked - {dense} cut": verification.dense_masked,
        f"{dense} cut - compact": verification.dense_compact,
    }
    rows = [(pair, f"{largest:.2e}") for pair, largest in differences.items() if largest is not None]
    show_table(("", "largest difference"), rows)
    if (pieces := verification.pieces) is not None:
        equal = f"{pieces.equal:,} of these are split as before"
        show_lines(f"{pieces.kept:,} of {pieces.texts:,} texts have kept pieces alone, and {equal}")
    verdict = "the same model" if verification.passed else "NOT the same model"
    if verification.passed and verification.dtype not in (None, "fp32"):
        verdict = f"finite in {verification.dtype}, of which only the score tells"
    if verification.passed and verification.same_weights is False:
        verdict = f"masked, cut and loaded agree, with other weights than {dense}'s, as after training or a refit"
    show_lines(f"{verdict}: {verification.examples} {inputs}, largest output {verification.scale:.3g}")


def show_export(exported: Mapping[str, Any]) -> None:
    """What was written, its largest difference from the source, and the scores of both."""
    facts = exported["facts"]
    rows = [("format", facts["format"]), ("dtype", facts["dtype"]), ("opset", str(facts["opset"] or "-"))]
    if facts["dtype"] == "int8":
        rows.append(("ranges from", f"{facts['calibration']} examples" if facts["calibration"] else "each batch"))
    rows += [("size, MB", megabytes(exported["bytes"])), ("largest difference", f"{exported['difference']:.2e}")]
    show_table(("", "exported"), rows)
    if "scores" in exported:
        show_scores(exported["scores"])
    show_lines(
        f"{exported['path']} was compared with its source on {exported['examples']} random inputs of several shapes, "
        f"largest output {exported['scale']:.3g}."
    )


def show_folder(exported: Mapping[str, Any]) -> None:
    """The files of a folder for servers, each with its difference from the source and its scores."""
    rows = [
        (Path(file["path"]).name, file["facts"]["dtype"], megabytes(file["bytes"]), f"{file['difference']:.2e}")
        for file in exported["files"]
    ]
    show_table(("file", "dtype", "size, MB", "largest difference"), rows)
    for file in exported["files"]:
        if "scores" in file:
            show_scores(file["scores"], Path(file["path"]).name)
    if exported["latency"]:
        _show_times(exported["latency"])
    if exported["unstated"]:
        show_lines(
            f"config.json leaves out {', '.join(exported['unstated'])}, in which the layers differ: servers that run "
            "the file do not read it, and those that build the network from the config cannot serve this model."
        )
    show_lines(f"{exported['path']} takes texts of up to {exported['max_length']:,} tokens.")


def show_seq2seq(exported: Mapping[str, Any]) -> None:
    """The files of an encoder-decoder, each with its difference from the source, its scores and its times."""
    sizes = [f"{megabytes(file['bytes'])} MB" for file in exported["files"]]
    show_agreements(exported["files"], sizes)
    times = [
        (f"{quantity(one['tokens'], 'token')}, {quantity(one['beams'], 'beam')}", one["runtime"],
         one["dtype"], f"{one['latency_ms']:.1f}", f"{one['speed_up']:.1f}x")
        for one in exported["latency"]
    ]  # fmt: skip
    show_table(("on this machine", "runtime", "dtype", "ms a text", "speed-up"), times)
    show_lines(f"{exported['path']} has an encoder and a decoder with its cache for each.")


def show_agreements(files: Sequence[Mapping[str, Any]], sizes: Sequence[str] = ()) -> None:
    """How far encoders and decoders in other runtimes compute and write the same as their model, and their scores."""
    rows = []
    for number, file in enumerate(files):
        found = file["agreement"]
        texts = f"{found['equal']} of {found['texts']}"
        rows.append((file["runtime"], file["dtype"], *sizes[number : number + 1], f"{found['difference']:.2e}", texts))
    size = ("size",) if sizes else ()
    show_table(("runtime", "dtype", *size, "largest difference", "equal texts"), rows)
    for file in files:
        if "scores" in file:
            show_scores(file["scores"], f"{file['runtime']} {file['dtype']}")


def _show_times(latency: Sequence[Mapping[str, Any]]) -> None:
    """The latency of each file, and whether fewer bits are slower on this machine."""
    rows = [(f"{one['batch']} x {one['tokens']}", one["dtype"], f"{one['latency_ms']:.2f}") for one in latency]
    show_table(("on this machine", "dtype", "ms"), rows)
    slower = [one for one in latency if one["speed_up"] < 1 - NOISE]
    for dtype in dict.fromkeys(one["dtype"] for one in slower):
        where = " and ".join(
            f"{1 / one['speed_up']:.1f} times as long at {one['batch']} x {one['tokens']}"
            for one in slower
            if one["dtype"] == dtype
        )
        show_lines(f"{dtype} is slower than {latency[0]['dtype']} here: it takes {where}.")


def show_scores(scores: Mapping[str, Any], name: str = "exported") -> None:
    """The scores of a model and of its export, and the rows that they were computed on."""
    exported = scores["exported"]
    both = [(name, score_text(score), score_text(exported[name])) for name, score in scores["source"].items()]
    show_table(("", "source", name), both)
    rows = f"{scores['rows']:,} {rows_of(scores['split'])} of {scores['data']}"
    show_lines(f"on {rows}, {scores['batch']} to a batch")
