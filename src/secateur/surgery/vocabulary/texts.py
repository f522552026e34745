"""Plain text files whose pieces a vocabulary keeps."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from secateur.system.errors import UserError


def read_texts(files: Iterable[str | Path]) -> list[str]:
    """The texts of some files, one a line; empty lines are left out.

    Raises:
        UserError: a file cannot be read, is not UTF-8, or holds no text.
    """
    return [text for file in files for text in _lines(Path(file))]


def _lines(path: Path) -> list[str]:
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise UserError(
            f"the texts {path} cannot be read ({reason}): give a file of plain text, one text a line"
        ) from error
    texts = [line.strip() for line in lines if line.strip()]
    if not texts:
        raise UserError(f"{path} holds no text: give a file of plain text, one text a line")
    return texts
