"""A folder that servers take as it is: ONNX files under the names that they look for, and what they read beside them.

onnx/model.onnx                     fp32: text-embeddings-inference, fastembed, transformers.js with dtype "fp32"
onnx/model_quantized.onnx           int8: transformers.js by default ("q8"), fastembed
config.json                         stock keys, `server_config`
tokenizer.json and others           `server_tokenizer`
modules.json, 1_Pooling and others  of a model for sentence embeddings, whose vectors the file computes itself

The folder has no code and no weights besides the files: transformers cannot load it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from secateur.deploy.export import Exported, export
from secateur.deploy.formats import check_model, check_request
from secateur.deploy.graph import Batch
from secateur.deploy.server_config import server_config
from secateur.deploy.server_tokenizer import check_tokenizer, length_limit, write_length, write_tokenizer
from secateur.structure.images import image_shape
from secateur.surgery.sentence.attach import head_of
from secateur.surgery.sentence.folder import write_head
from secateur.surgery.sentence.head import SentenceHead
from secateur.system.errors import UserError
from secateur.system.files import atomic_folder, refuse_occupied, refuse_other_than_model

FILES = {"fp32": "onnx/model.onnx", "int8": "onnx/model_quantized.onnx"}
"""dtype -> the file that servers look for."""


@dataclass(frozen=True)
class ExportedFolder:
    """A folder that was written for servers, each of its files compared with the model.

    Attributes:
        path: the folder.
        files: what was exported, with paths in the folder.
        max_length: the longest text that is served, in tokens.
        unstated: keys of `config.json` that have no single true value in the model, and are left out.
    """

    path: Path
    files: tuple[Exported, ...]
    max_length: int
    unstated: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        return {
            "path": str(self.path),
            "files": [file.to_dict() for file in self.files],
            "max_length": self.max_length,
            "unstated": list(self.unstated),
        }


def export_folder(
    model: PreTrainedModel,
    folder: Path | str,
    *,
    tokenizer: PreTrainedTokenizerBase,
    dtypes: Sequence[str] = tuple(FILES),
    calibration: Sequence[Batch] | None = None,
    opset: int | None = None,
    overwrite: bool = False,
) -> ExportedFolder:
    """Write a model as a folder for text-embeddings-inference, fastembed, transformers.js and ONNX Runtime.

    The files take what the tokenizer gives, and return `sentence_embedding` of a model with a sentence head, `logits`
    of one with another head, in float32. They are compared with the model as `export` does, and the folder is there
    only when all of it has succeeded.

    Args:
        model: a text encoder with any head, dense or cut; it is left unchanged.
        folder: new or empty.
        tokenizer: with a `tokenizer.json`, which servers read; the length of texts is limited to what the model takes.
        dtypes: fp32, int8 or both.
        calibration: inputs from which int8 takes the ranges of activations; without them each batch gives its own.
        opset: as of `export`.
        overwrite: whether a folder with a model is replaced, once the new one is complete.

    Raises:
        UserError: before any work: the folder is not empty, the model is an encoder-decoder or more than a file of
            ONNX holds, the tokenizer has no `tokenizer.json` or states no length, a package is not installed. After
            it: a file differs from the model, or the folder cannot be written.
    """
    folder, head = Path(folder), head_of(model)
    check_folder(folder, dtypes, calibration, opset, overwrite=overwrite)
    for dtype in dtypes:
        check_model(model, folder / FILES[dtype], dtype)
    if image_shape(model) is not None:
        raise UserError(
            f"a folder is for servers of texts, and {type(model).__name__} reads images: name a file, as model.onnx"
        )
    check_tokenizer(tokenizer)
    length = length_limit(model, tokenizer, None if head is None else head.settings.max_length)
    config, unstated = server_config(model)
    with atomic_folder(folder) as partial:
        (partial / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        if head is not None:
            write_head(_without_layers(head), partial)
        write_length(partial, length)
        write_tokenizer(tokenizer, partial, length, lower_case=head is not None and head.settings.lower_case)
        files = [
            export(
                model,
                partial / FILES[dtype],
                dtype=dtype,
                calibration=calibration if dtype == "int8" else None,
                opset=opset,
                inputs=tokenizer.model_input_names,
            )
            for dtype in dtypes
        ]
    found = tuple(replace(file, path=folder / file.path.relative_to(partial)) for file in files)
    return ExportedFolder(folder, found, length, unstated)


def check_folder(
    folder: Path,
    dtypes: Sequence[str],
    calibration: Sequence[Batch] | None = None,
    opset: int | None = None,
    *,
    overwrite: bool = False,
) -> None:
    """Refuse a folder that cannot be written, before a model is opened.

    Raises:
        UserError: it is not empty, a dtype has no place in it, calibration has no int8 to use it, or a package is not
            installed.
    """
    if not dtypes or not set(dtypes) <= set(FILES):
        came = ", ".join(dtypes) or "none"
        raise UserError(f"expected a dtype of {', '.join(FILES)} for the layout hub, got {came}: leave it out")
    (refuse_other_than_model if overwrite else refuse_occupied)(folder)
    for dtype in dtypes:
        own = calibration if dtype == "int8" or "int8" not in dtypes else None
        check_request(folder / FILES[dtype], dtype, own, opset)


def _without_layers(head: SentenceHead) -> SentenceHead:
    """The head as a server sees it: what the file does, with vectors of the size that the file returns."""
    width = head.size // len(head.poolings)
    return SentenceHead(head.poolings, (), head.normalise, width=width, settings=head.settings)
