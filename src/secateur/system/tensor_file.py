"""Files of tensors: safetensors that are written atomically, with the version of their content in the metadata."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from secateur.system.file_format import VERSION, FileFormat
from secateur.system.files import atomic_path


def save_tensors(
    path: Path | str, tensors: Mapping[str, Tensor], file_format: FileFormat, notes: Mapping[str, str] | None = None
) -> None:
    """Write tensors atomically, and notes beside them."""
    metadata = {name: str(value) for name, value in file_format.stamped(notes or {}).items()}
    with atomic_path(path) as temporary:
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, temporary, metadata)


def load_tensors(path: Path | str, file_format: FileFormat) -> dict[str, Tensor]:
    """The tensors of a file, on the CPU.

    Raises:
        UserError: a later version wrote the file.
    """
    with safe_open(path, "pt") as file:
        _notes(file.metadata(), path, file_format)
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping


def load_into(module: nn.Module, path: Path | str, file_format: FileFormat, prefix: str = "") -> None:
    """Load a module's state from a file. What the module has on `meta` is not read: another process has it.

    Args:
        prefix: of the names of its tensors in the file; others are left out.

    Raises:
        UserError: a later version wrote the file.
    """
    elsewhere = {name: own for name, own in module.state_dict().items() if own.is_meta}
    with safe_open(path, "pt") as file:
        _notes(file.metadata(), path, file_format)
        names = [name.removeprefix(prefix) for name in file.keys() if name.startswith(prefix)]  # noqa: SIM118
        state = {name: file.get_tensor(prefix + name) for name in names if name not in elsewhere}
    module.load_state_dict(state | elsewhere)


def read_notes(path: Path | str, file_format: FileFormat) -> dict[str, str]:
    """The notes of a file; its tensors are not read.

    Raises:
        UserError: a later version wrote the file.
    """
    with safe_open(path, "pt") as file:
        return _notes(file.metadata(), path, file_format)


def _notes(metadata: Mapping[str, str] | None, path: Path | str, file_format: FileFormat) -> dict[str, str]:
    """The notes without the version, which metadata holds as text; metadata are missing in files of 0.1.0."""
    notes = dict(metadata or {})
    version = notes.get(VERSION, "1")
    return file_format.current(notes | {VERSION: int(version) if version.isdecimal() else version}, path)
