"""What a folder that was exported for servers adds to a model that is published, so that they find all in one place.

A server reads its texts by the tokenizer's files, not by the graph alone: these are those of the export, in place of
the model's own. PyTorch reads the same vectors by them, because transformers sets truncation and padding at each call.
"""

from __future__ import annotations

import json
from pathlib import Path

from tokenizers import Tokenizer
from transformers import PreTrainedModel

from secateur.deploy.formats import read_facts
from secateur.deploy.graph import weights_hash
from secateur.deploy.server_tokenizer import CONFIG, LENGTH, SPECIAL, TOKENIZER
from secateur.surgery.opening import tokenizer_if_any
from secateur.system.errors import UserError
from secateur.system.files import read_json

BESIDE = (TOKENIZER, CONFIG, SPECIAL, LENGTH)
"""What servers read of texts beside the graphs; `config.json` and the modules stay those by which PyTorch loads."""


def served_files(export: Path, folder: Path, model: PreTrainedModel) -> dict[str, Path | bytes]:
    """Path in the repository -> what an export adds there: the graphs, and what servers read beside them.

    Args:
        export: a folder of `export_folder`.
        folder: of the model that is published.
        model: which was opened from it.

    Raises:
        UserError: it is no such folder, or is of other weights or of another tokenizer.
    """
    graphs = {f"onnx/{path.name}": path for path in sorted((export / "onnx").glob("*")) if path.is_file()}
    beside = {name: export / name for name in BESIDE}
    absent = [name for name, path in beside.items() if not path.is_file()]
    if not any(name.endswith(".onnx") for name in graphs) or absent:
        what = absent[0] if absent else "onnx/*.onnx"
        raise UserError(f"{export} has no {what}: give a folder that secateur export --layout hub has written")
    here = weights_hash(model)
    for path in graphs.values():
        if path.suffix == ".onnx" and read_facts(path).source != here:
            raise UserError(f"{path} was made from other weights than those that are published: export the model again")
    own = tokenizer_if_any(folder)
    if own is not None and own.get_vocab() != Tokenizer.from_file(str(beside[TOKENIZER])).get_vocab():
        raise UserError(f"{export} has another tokenizer than {folder}, which is published: export the model again")
    return {**graphs, **beside, LENGTH: _with_length(folder, beside[LENGTH])}


def _with_length(folder: Path, served: Path) -> bytes:
    """The settings of the encoder with the length of the export; sentence-transformers needs what else is in them."""
    own = read_json(folder / LENGTH) if (folder / LENGTH).is_file() else {}
    return f"{json.dumps({**own, **read_json(served)}, indent=2)}\n".encode()
