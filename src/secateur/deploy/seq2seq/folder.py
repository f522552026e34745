"""A folder with an exported encoder-decoder: its files, config and tokenizer, each file compared with the model.

onnx/encoder_model.onnx, onnx/decoder_model.onnx         ONNX in fp32; `_fp16` or `_quantized` (int8) before the ending
openvino/encoder_model.xml, openvino/decoder_model.xml   OpenVINO's IR, each with its weights in a .bin
config.json, generation_config.json                      the keys by which texts are generated
tokenizer.json and others                                of the tokenizer; of an opus-mt model vocab.json and .spm files

What the files take and return is in `graphs`. Other programs that generate expect another division of the work (with
caches of equal heads in each layer, which a cut model does not have), so they do not read this folder.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from secateur.deploy.export import tolerance
from secateur.deploy.formats import (
    check_dtype,
    check_made_from,
    check_opset,
    check_packages,
    facts_for,
    files_of,
    write_traced,
)
from secateur.deploy.graph import inference_copy
from secateur.deploy.onnx_limit import before_quantisation, check_weights
from secateur.deploy.runtime import positive_threads
from secateur.deploy.runtimes import RUNTIMES
from secateur.deploy.seq2seq.agreement import Agreement, agreement, check_agreement
from secateur.deploy.seq2seq.graphs import CacheLayout, DecoderGraph, EncoderGraph, example_step
from secateur.deploy.seq2seq.model import ExportedSeq2Seq, Part, as_tensors
from secateur.system.errors import UserError, as_user_error
from secateur.system.files import atomic_folder, refuse_occupied, refuse_other_than_model

log = logging.getLogger(__name__)

ENDINGS = {"fp32": "", "fp16": "_fp16", "int8": "_quantized"}
"""dtype -> what the names of its files have before the ending."""
PARTS = ("encoder", "decoder")
TOKENIZER = "tokenizer.json"
"""The file of the library tokenizers, which tokenizers in Python, such as that of a published Marian, do not write."""

KEPT = re.compile(r"model_type|is_encoder_decoder|vocab_size|max_position_embeddings|\w+_token_id")
"""Keys of `config.json` by which texts are generated. Others size layers, which may differ in a cut model."""


@dataclass(frozen=True)
class Seq2SeqFiles:
    """Encoder and decoder for one runtime in one dtype, compared with the model.

    Attributes:
        runtime: the runtime that they are for.
        dtype: of their weights.
        encoder, decoder: the files.
        bytes: the size of both.
        agreement: how far they compute the same.
    """

    runtime: str
    dtype: str
    encoder: Path
    decoder: Path
    bytes: int
    agreement: Agreement

    def to_dict(self) -> dict[str, Any]:
        paths = {"encoder": str(self.encoder), "decoder": str(self.decoder)}
        return {**asdict(self), **paths, "tolerance": tolerance(self.dtype)}


@dataclass(frozen=True)
class Seq2SeqFolder:
    """A folder that was written, and its files."""

    path: Path
    files: tuple[Seq2SeqFiles, ...]

    def to_dict(self) -> dict[str, Any]:
        return {"path": str(self.path), "files": [one.to_dict() for one in self.files]}


def export_seq2seq(
    model: PreTrainedModel,
    folder: Path | str,
    *,
    tokenizer: PreTrainedTokenizerBase | None = None,
    runtimes: Sequence[str] = ("onnxruntime",),
    dtypes: Sequence[str] = ("fp32",),
    opset: int | None = None,
    overwrite: bool = False,
) -> Seq2SeqFolder:
    """Write an encoder-decoder for other runtimes: a file of its encoder and one of its decoder with a cache.

    Batch and lengths stay free. The files are opened in their runtime and compared with the model: logits of steps of
    several tokens and of one, and texts that are generated greedily and with beams. The folder is there only when all
    of it has succeeded. int8 has weights in 8 bits; ONNX Runtime takes the ranges of activations from each batch, and
    OpenVINO computes in fp32.

    Args:
        model: an encoder-decoder with a head that writes texts, dense or cut; it is left unchanged.
        folder: new or empty.
        tokenizer: saved beside the files.
        runtimes: onnxruntime, openvino or both.
        dtypes: of fp32, fp16 and int8.
        opset: version of ONNX's operators, 17 to 20; None takes 17. For ONNX Runtime alone.
        overwrite: whether a folder with a model is replaced, once the new one is complete.

    Raises:
        UserError: before any work: the folder is not empty, the model writes no texts, its generation config is
            invalid, a runtime or dtype is unknown, a package is not installed, encoder or decoder is more than a file
            of ONNX holds. After it: an fp32 file differs from the model by more than 1e-4 of the largest logit or
            writes another text, or the folder cannot be written.
    """
    folder = Path(folder)
    check_seq2seq_folder(folder, runtimes, dtypes, opset, overwrite=overwrite)
    check_writes_texts(model)
    _check_sizes(model, runtimes, dtypes)
    twin = inference_copy(model, "fp32").cpu()
    layout = CacheLayout.of(twin)
    with atomic_folder(folder) as partial:
        write_config(model, partial)
        if tokenizer is not None:
            _write_tokenizer(tokenizer, partial)
        files = [_written(twin, layout, partial, runtime, dtype, opset) for runtime in runtimes for dtype in dtypes]
    found = tuple(
        replace(one, **{part: folder / getattr(one, part).relative_to(partial) for part in PARTS}) for one in files
    )
    return Seq2SeqFolder(folder, found)


def open_seq2seq(
    folder: Path | str, runtime: str = "onnxruntime", dtype: str = "fp32", *, threads: int | None = None
) -> ExportedSeq2Seq:
    """The files of a folder in their runtime, as a model that `generate` can be called on.

    Args:
        folder: of `export_seq2seq`.
        runtime: onnxruntime or openvino.
        dtype: a dtype of which the folder has files; of OpenVINO also bf16, which runs from those of fp32.
        threads: intra-op threads; None takes PyTorch's present number.

    Raises:
        UserError: the folder has no such files, they cannot be opened, or threads are not positive.
    """
    folder = Path(folder)
    with as_user_error(f"{folder} cannot be read", "export the model again"):
        config = AutoConfig.for_model(**json.loads((folder / "config.json").read_text(encoding="utf-8")))
        generation = GenerationConfig.from_pretrained(folder)
    encoder, decoder = (_opened(folder, part, runtime, dtype, threads) for part in PARTS)
    return ExportedSeq2Seq(config, generation, encoder, decoder)


@torch.inference_mode()
def verify_seq2seq(model: PreTrainedModel, folder: Path, runtime: str, dtype: str) -> tuple[ExportedSeq2Seq, Agreement]:
    """The files of a runtime and dtype, and how far they compute the same as the model that they were made from.

    Raises:
        UserError: they were made from other weights, or cannot be opened.
    """
    for part in PARTS:
        check_made_from(file_of(folder, part, runtime, dtype), model)
    exported = open_seq2seq(folder, runtime, dtype)
    return exported, agreement(model, exported)


def serving() -> dict[str, str]:
    """Each runtime that runs encoder-decoders -> the folder of its files."""
    return {name: kind.folder for name, kind in RUNTIMES.all().items() if kind.folder}


def files_in(folder: Path) -> list[tuple[str, str]]:
    """The (runtime, dtype) of the files in a folder.

    Raises:
        UserError: there are none.
    """
    pairs = ((runtime, dtype) for runtime in serving() for dtype in ENDINGS)
    found = [pair for pair in pairs if file_of(folder, "decoder", *pair).is_file()]
    if not found:
        raise UserError(f"expected a folder of secateur export with an encoder-decoder, got {folder}: give one")
    return found


def check_seq2seq_folder(
    folder: Path, runtimes: Sequence[str], dtypes: Sequence[str], opset: int | None = None, *, overwrite: bool = False
) -> None:
    """Refuse a folder that cannot be written, before a model is opened.

    Raises:
        UserError: it is not empty, a runtime or dtype has no files, an opset is for another, or a package is missing.
    """
    for kind, known, given in (("runtime", serving(), runtimes), ("dtype", ENDINGS, dtypes)):
        if not given or not set(given) <= set(known):
            came = ", ".join(given) or "none"
            raise UserError(
                f"expected a {kind} of {', '.join(known)} for an encoder-decoder, got {came}: choose others"
            )
    (refuse_other_than_model if overwrite else refuse_occupied)(folder)
    check_opset(opset)
    if opset is not None and not any(RUNTIMES.get(runtime).suffix == ".onnx" for runtime in runtimes):
        raise UserError(f"expected an opset for ONNX alone, got {opset} for {', '.join(runtimes)}: leave it out")
    for runtime in runtimes:
        for dtype in dtypes:
            path = file_of(folder, "encoder", runtime, dtype)
            check_dtype(path, dtype)
            check_packages(path, dtype)


def check_writes_texts(model: PreTrainedModel) -> None:
    """Refuse a model that has no encoder, no head that writes texts, or options of which `generate` writes none.

    Raises:
        UserError: naming its class, or the option of its generation config.
    """
    if not getattr(model.config, "is_encoder_decoder", False) or not model.can_generate():
        raise UserError(
            f"expected an encoder-decoder with a head that writes texts, got {type(model).__name__}: give such a model"
        )
    generation: Any = model.generation_config
    with as_user_error("the generation config of the model is invalid", "change it in generation_config.json"):
        generation.validate()


def _check_sizes(model: PreTrainedModel, runtimes: Sequence[str], dtypes: Sequence[str]) -> None:
    """Refuse an encoder or a decoder that is more than a file of ONNX holds.

    Raises:
        UserError: naming its size.
    """
    decoder = [*model.get_decoder().modules(), model.get_output_embeddings()]
    for runtime in runtimes:
        for dtype in dtypes if RUNTIMES.get(runtime).suffix == ".onnx" else ():
            for modules in (model.get_encoder().modules(), decoder):
                check_weights(modules, dtype, fold=_folds(dtype), others="OpenVINO")


def _folds(dtype: str) -> bool:
    """Whether what depends on weights alone is computed for a file, which quantisation needs."""
    return dtype == "int8"


def file_of(folder: Path, part: str, runtime: str, dtype: str) -> Path:
    """The file of a part of the model for a runtime in a dtype."""
    kind = RUNTIMES.get(runtime)
    return folder / kind.folder / f"{part}_model{ENDINGS[dtype]}{kind.suffix}"


def _write_tokenizer(tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Save a tokenizer; log where programs without transformers cannot read it as one file."""
    before = set(folder.iterdir())
    tokenizer.save_pretrained(folder)
    if not (folder / TOKENIZER).is_file():
        own = ", ".join(sorted(path.name for path in set(folder.iterdir()) - before))
        log.warning(
            "a %s writes no %s: without transformers, texts become tokens by its own files (%s)",
            type(tokenizer).__name__, TOKENIZER, own,
        )  # fmt: skip


def write_config(model: PreTrainedModel, folder: Path) -> None:
    """Write `config.json`, of which `KEPT` stays, and `generation_config.json`."""
    values = json.loads(model.config.to_json_string(use_diff=False))
    kept = {name: value for name, value in values.items() if KEPT.fullmatch(name) and value is not None}
    (folder / "config.json").write_text(json.dumps(kept, indent=2) + "\n", encoding="utf-8")
    generation: Any = model.generation_config
    # `save_pretrained` refuses options without effect (a temperature of beam search), which `generate` ignores
    generation.to_json_file(folder / "generation_config.json", keys_to_pop=["compile_config"])


def _written(
    model: PreTrainedModel, layout: CacheLayout, folder: Path, runtime: str, dtype: str, opset: int | None
) -> Seq2SeqFiles:
    """Both files of a runtime in a dtype, compared with the model."""
    traced = before_quantisation(dtype)
    encoder, decoder = EncoderGraph(model, layout, traced), DecoderGraph(model, layout, traced)
    signatures = encoder.signature(), decoder.signature(example_step(encoder, decoder))
    paths = file_of(folder, PARTS[0], runtime, dtype), file_of(folder, PARTS[1], runtime, dtype)
    for graph, signature, path in zip((encoder, decoder), signatures, paths, strict=True):
        path.parent.mkdir(exist_ok=True)
        facts = facts_for(model, signature, path, dtype, opset=opset)
        write_traced(graph, signature, path, facts, fold=_folds(dtype))
    with torch.inference_mode():
        found = agreement(model, open_seq2seq(folder, runtime, dtype))
    check_agreement(found, dtype, folder)
    size = sum(file.stat().st_size for path in paths for file in files_of(path))
    return Seq2SeqFiles(runtime, dtype, *paths, size, found)


def _opened(folder: Path, part: str, runtime: str, dtype: str, threads: int | None) -> Part:
    """A file of the folder, open in its runtime."""
    if runtime not in serving():
        raise UserError(f"expected a runtime of {', '.join(serving())}, got {runtime!r}: choose one of these")
    engine = RUNTIMES.get(runtime)()
    engine.check(dtype)
    path = file_of(folder, part, runtime, engine.stored[dtype])
    facts = engine.check_file(path, dtype)
    with as_user_error(f"{path} cannot be opened", "export the model again"):
        run = engine.open(path, dtype, positive_threads(threads), facts.inputs)
    return as_tensors(run, facts.outputs)
