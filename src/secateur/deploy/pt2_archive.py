"""The archive of a `torch.export` file (.pt2), read so that nothing in it is run.

PyTorch's reader unpickles example inputs and other entries, loads compiled libraries and evaluates texts of the program
as Python. `plain_archive` therefore gives it another archive, made of those entries alone that cannot do any of that:
weights and constants as plain bytes, their descriptions, and the program, which `pt2_program` checks.
"""

from __future__ import annotations

import json
import re
from io import BytesIO
from pathlib import Path
from typing import Any
from zipfile import ZIP_STORED, ZipFile

from secateur.deploy.export_facts import KEY
from secateur.deploy.pt2_program import plain_program
from secateur.system.errors import UserError

PROGRAM, EXAMPLES = "models/model.json", "data/sample_inputs/model.pt"
CONFIGS = {
    "data/weights/model_weights_config.json": r"weight_\d+",
    "data/constants/model_constants_config.json": r"tensor_\d+",
}
"""Description of the tensors of a kind -> the names of their entries."""
PLAIN = re.compile(
    rf"data/weights/weight_\d+|data/constants/tensor_\d+|extra/{KEY}|archive_format|archive_version|byteorder"
    r"|\.data/(version|serialization_id)|\.format_version|\.storage_alignment"
)
"""Entries that PyTorch reads as bytes, numbers or words."""


def entries(path: Path) -> dict[str, bytes]:
    """Name within the archive's one folder -> content.

    Raises:
        UserError: an entry is compressed, occurs twice or lies outside of that folder.
    """
    with ZipFile(path) as archive:
        found: dict[str, bytes] = {}
        roots = set()
        for entry in archive.infolist():
            root, _, name = entry.filename.partition("/")
            roots.add(root)
            if entry.compress_type != ZIP_STORED or name in found or len(roots) > 1:
                raise UserError(f"the entry {entry.filename!r} is compressed, occurs twice or lies elsewhere")
            found[name] = archive.read(entry)
    return found


def plain_archive(path: Path) -> BytesIO:
    """The file without its example inputs, if every other entry is known to be read without running code.

    Raises:
        UserError: an entry is, or may be, a pickle, a compiled library or Python source.
    """
    rebuilt = BytesIO()
    with ZipFile(rebuilt, "w", ZIP_STORED) as archive:
        for name, content in entries(path).items():
            archive.writestr(f"program/{name}", _plain(name, content))
    rebuilt.seek(0)
    return rebuilt


def _plain(name: str, content: bytes) -> bytes:
    """The content of an entry as it is passed on."""
    if name == EXAMPLES:
        return b""  # which PyTorch reads as no examples
    if name == PROGRAM:
        return json.dumps(plain_program(json.loads(content))).encode()
    if name in CONFIGS:
        _check_payloads(json.loads(content), CONFIGS[name])
    elif not PLAIN.fullmatch(name):
        raise UserError(f"the entry {name!r} may be a pickle or code")
    return content


def _check_payloads(config: Any, names: str) -> None:
    """Refuse the description of a tensor that is pickled, or is not an entry of its kind."""
    for name, payload in config["config"].items():
        if payload["use_pickle"] is not False or not re.fullmatch(names, payload["path_name"]):
            raise UserError(f"the tensor {name!r} is pickled")
