"""Deployment: measure the latency of a model, export it, and verify that the result computes the same."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from secateur.cli.done_by import done_by
from secateur.cli.options import OF_RUN, Folder, Json, ModelName, Overwrite, Shapes, Threads, Units
from secateur.cli.recipe_options import recipe_options


@done_by("deploy_work")
def measure_latencies(
    model: ModelName,
    output: Annotated[Path, typer.Option("--output", "-o", help="File to write; a new one.")],
    shape: Annotated[str, typer.Option(help="batch x tokens, such as 8x128.")] = "8x128",
    units: Units = "ffn,qk,vo",
    timed: Annotated[
        Literal["forward", "generation"] | None,
        typer.Option(
            help="A forward, or the generation of as many tokens with the cache.", show_default="as the model is used"
        ),
    ] = None,
    beams: Annotated[int, typer.Option(help="Beams of a generation; 1 is greedy.")] = 1,
    runtime: Annotated[str, typer.Option(help="A runtime; see `secateur list`.")] = "pytorch",
    dtype: Annotated[str | None, typer.Option(help="fp32, bf16, fp16 or int8.", show_default="as the weights")] = None,
    threads: Threads = None,
    repeats: Annotated[int, typer.Option(help="Forwards per latency; of generations half as many.")] = 10,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Measure the latency table that --latency and --speedup need."""


@done_by("deploy_work")
def bench_model(
    folder: Annotated[str, typer.Argument(help="A model folder, the folder of a finished run, or an exported file.")],
    against: Annotated[
        list[str] | None,
        typer.Option(
            help="Another folder or file to measure; repeatable. The first is the dense model.",
            show_default="the teacher of the run",
        ),
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
@done_by("export_work")
def export_model(
    folder: Folder,
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Folder to write, or a file: .onnx, .xml (OpenVINO IR), .pt2.")
    ],
    given: dict[str, Any],
    layout: Annotated[
        Literal["file", "hub"] | None,
        typer.Option(
            help="hub: the output is a folder that servers take, with ONNX files, tokenizer and config.",
            show_default="hub where the output has no ending, else file",
        ),
    ] = None,
    runtime: Annotated[
        list[str] | None,
        typer.Option(
            help="Of an encoder-decoder: onnxruntime or openvino; repeatable.",
            show_default="onnxruntime",
        ),
    ] = None,
    dtype: Annotated[
        str | None,
        typer.Option(
            help="fp32, fp16, bf16 (.pt2 only) or int8 (.onnx and .xml).",
            show_default="fp32; with --layout hub fp32 and int8",
        ),
    ] = None,
    rows: Annotated[
        int | None,
        typer.Option(
            help="Training rows to calibrate int8 on, which .xml needs; 0 computes the ranges from each batch.",
            show_default="256 with --data, and for OpenVINO",
            min=0,
        ),
    ] = None,
    opset: Annotated[int | None, typer.Option(help="Opset of ONNX, 17 to 20.", show_default="17")] = None,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Export a model to another runtime and compare it with its source.

    Without an ending of a file the output is a folder with tokenizer and config beside the files of the model, fp32
    and int8. Of an encoder-decoder the folder has an encoder and a decoder with its cache. Both
    models are scored on the data of the run, or on --data, whose training rows also calibrate int8.
    """


@recipe_options("data", "seed", without=("data.rows",), shown=OF_RUN)
@done_by("deploy_work")
def verify_model(
    folder: Folder,
    given: dict[str, Any],
    dense: Annotated[
        str | None,
        typer.Option(
            help="Mask and cut this dense model by the folder's plan too, and say whether the folder has its weights."
        ),
    ] = None,
    exported: Annotated[
        Path | None,
        typer.Option(
            help="Compare this file, or folder of an encoder-decoder, with the model; with data their scores too."
        ),
    ] = None,
    dtype: Annotated[
        str | None,
        typer.Option(help="Dtype in which the file runs: bf16 for an OpenVINO file in fp32.", show_default="its own"),
    ] = None,
    as_json: Json = False,
) -> None:
    """Verify that the masked, the compact and the loaded model agree.

    With --exported, an exported file and its source are compared instead. The inputs are rows of --data, else
    of the data of the run that made the model, else random.
    """
