"""Deployment: measure the latency of a model, export it, and verify that the result computes the same."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from secateur.cli.done_by import done_by
from secateur.cli.options import OF_RUN, Folder, Json, ModelName, Shapes, Threads, Units
from secateur.cli.recipe_options import recipe_options


@done_by("deploy_work")
def measure_latencies(
    model: ModelName,
    output: Annotated[Path, typer.Option("--output", "-o", help="File to write; a new one.")],
    shape: Annotated[str, typer.Option(help="batch x tokens, such as 8x128.")] = "8x128",
    units: Units = "ffn,qk,vo",
    runtime: Annotated[str, typer.Option(help="A runtime; see `secateur list`.")] = "pytorch",
    dtype: Annotated[str | None, typer.Option(help="fp32, bf16, fp16 or int8.", show_default="as the weights")] = None,
    threads: Threads = None,
    repeats: Annotated[int, typer.Option(help="Forwards per latency.")] = 10,
    as_json: Json = False,
) -> None:
    """Measure the latency table that --latency and --speedup need."""


@done_by("deploy_work")
def bench_model(
    folder: Annotated[str, typer.Argument(help="A model folder, the folder of a finished run, or an exported file.")],
    against: Annotated[
        list[str] | None,
        typer.Option(help="Another folder or file to measure; repeatable. The first is the dense model."),
    ] = None,
    runtime: Annotated[
        list[str] | None,
        typer.Option(help="A runtime of `secateur list`, or cudagraph with cuda; repeatable.", show_default="pytorch"),
    ] = None,
    dtype: Annotated[
        list[str] | None, typer.Option(help="fp32, bf16, fp16 or int8; repeatable.", show_default="fp32")
    ] = None,
    shape: Shapes = None,
    repeats: Annotated[int, typer.Option(help="Forwards per latency.")] = 50,
    threads: Threads = None,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    memory: Annotated[
        bool, typer.Option("--memory/--no-memory", help="Measure peak memory, which takes some seconds per row.")
    ] = True,
    as_json: Json = False,
) -> None:
    """Benchmark models: latency, speed-up, size and peak memory.

    All models are measured in turn, in one or several runtimes, and compared with the roofline of the machine.
    """


@recipe_options("data", "seed", without=("data.rows",), shown=OF_RUN)
@done_by("deploy_work")
def export_model(
    folder: Folder,
    output: Annotated[
        Path, typer.Option("--output", "-o", help="File to write: .onnx, .xml (OpenVINO IR) or .pt2 (torch.export).")
    ],
    given: dict[str, Any],
    layout: Annotated[
        Literal["file", "hub"], typer.Option(help="hub: the output is a folder that servers take, with ONNX files.")
    ] = "file",
    dtype: Annotated[
        str | None,
        typer.Option(
            help="fp32, fp16, bf16 (.pt2 only) or int8 (.onnx and .xml).",
            show_default="fp32; with --layout hub fp32 and int8",
        ),
    ] = None,
    rows: Annotated[
        int,
        typer.Option(help="Training rows to calibrate int8 on; 0 computes the ranges from each batch.", min=0),
    ] = 256,
    opset: Annotated[int | None, typer.Option(help="Opset of ONNX, 17 to 20.", show_default="17")] = None,
    as_json: Json = False,
) -> None:
    """Export a model to another runtime and compare it with its source.

    With --data, both are scored, and int8 is calibrated on training rows.
    """


@recipe_options("data", "seed", without=("data.rows",), shown=OF_RUN)
@done_by("deploy_work")
def verify_model(
    folder: Folder,
    given: dict[str, Any],
    dense: Annotated[
        str | None, typer.Option(help="Also mask and cut this dense model by the folder's plan, and compare both.")
    ] = None,
    exported: Annotated[
        Path | None, typer.Option(help="Compare this file with the folder's model instead; with --data also scores.")
    ] = None,
    dtype: Annotated[
        str | None,
        typer.Option(help="Dtype in which the file runs: bf16 for an OpenVINO file in fp32.", show_default="its own"),
    ] = None,
    as_json: Json = False,
) -> None:
    """Verify that the masked, the compact and the loaded model agree.

    With --exported, an exported file and its source are compared instead. The inputs are random, or rows of --data.
    """
