"""Models by their names on the hub: the folder in the hub's cache that holds the files of one."""

from __future__ import annotations

from glob import escape
from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError
from huggingface_hub.utils import validate_repo_id

from secateur.surgery.compact import hub_files
from secateur.surgery.compact.integrity import DamagedError, listed_files
from secateur.system.errors import UserError, reason_of

LEFT_OUT = ("*.bin", "*.h5", "*.msgpack", "*.ot", "*.onnx", "*.pt2", "*.xml", "*/*")
"""Files of a model on the hub that are not downloaded at first: weights in other formats, exports, and folders."""
HEAD, HEAD_FILES = "modules.json", ("?_*/config.json", "?_*/model.safetensors")
"""The file that lists the modules of sentence-transformers, and those of the modules after the encoder."""


def local_folder(name: str | Path) -> Path:
    """A folder as it is, or that of a model on the hub, whose files are downloaded unless they are cached.

    Args:
        name: a path; as text it may also be a name on the hub, `owner/name`.

    Raises:
        UserError: no folder and no model on the hub has that name, or its `SHA256SUMS` is damaged.
    """
    folder = Path(name)
    if isinstance(name, Path) or folder.exists() or not may_be_on_hub(name):
        return folder
    try:
        place = Path(snapshot_download(name, ignore_patterns=list(LEFT_OUT)))
        if patterns := _in_folders(place):
            snapshot_download(name, allow_patterns=patterns)
        return place
    except DamagedError as error:
        raise UserError(str(error)) from error
    except (HfHubHTTPError, OSError, ValueError) as error:
        raise UserError(
            f"{name} is not a folder, and not a model on the hub or in its cache ({reason_of(error)}): give the path "
            "of a saved model, or a name on the hub"
        ) from error


def _in_folders(place: Path) -> list[str]:
    """The files in folders of a model that are read: those of a sentence head, and those that `SHA256SUMS` lists."""
    listed = [escape(file.name) for file in listed_files(place) if "/" in file.name]
    return [*(HEAD_FILES if (place / HEAD).is_file() else ()), *listed]


def file_of(name: str | Path, file: str) -> Path | None:
    """A file of a folder, or of a model on the hub, which downloads it; None if there is none.

    A file that is not in the cache while the hub is out of reach counts as none, with a warning for each model.
    """
    return hub_files.file_of(name, file, {})


def may_be_on_hub(name: str) -> bool:
    """Whether a name has the form of one on the hub."""
    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return True
