"""A run's folder: one recipe's, and written file by file, each whole or not at all."""

from __future__ import annotations

import json
import os
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from secateur.report.recipe_keys import dotted, upgrade
from secateur.run.recipe import Recipe, make
from secateur.run.recipe_yaml import parse
from secateur.system.errors import UserError

UNCLAIMED = {"versions.json", "recipe.partial"}  # all that a run leaves that is killed before the folder is its own


def claim(folder: Path, recipe: Recipe) -> None:
    """Take a folder for a recipe: an unfinished run goes on.

    Raises:
        UserError: it holds a run of another recipe, or something else; it is left as it was.
    """
    mine = folder / "recipe.yaml"
    if mine.is_file():
        if changed := _differences(mine, recipe):
            raise UserError(
                f"{folder} holds a run of another recipe (it differs in {', '.join(changed)}): "
                "choose another output folder, or repeat its command to go on"
            )
        return
    if folder.exists() and (not folder.is_dir() or {path.name for path in folder.iterdir()} - UNCLAIMED):
        raise UserError(f"{folder} exists and is no run of secateur: choose an empty or new folder")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "versions.json").write_text(json.dumps(versions(), indent=1) + "\n", encoding="utf-8")
        write_whole(mine, recipe.to_yaml())
    except OSError as error:
        raise UserError(f"cannot write to {folder} ({error.strerror}): choose a folder that can be written") from error


def _differences(path: Path, recipe: Recipe) -> list[str]:
    """Dotted keys in which the recipe of a run's folder, of this version or an older one, differs from `recipe`.

    A key that the older version did not have has its default.
    """
    values = parse(path.read_text(encoding="utf-8"), str(path))
    try:
        old = dotted(make(upgrade(values), str(path)).to_dict())
    except (UserError, AttributeError):  # AttributeError: the file does not hold keys and values
        return ["its keys"]
    return [key for key, value in dotted(recipe.to_dict()).items() if old[key] != value]


def versions() -> dict[str, str]:
    """What a number depends on besides the recipe: libraries and machine."""
    libraries = {name: version(name) for name in ("secateur", "torch", "transformers", "accelerate", "datasets")}
    machine = {
        "python": platform.python_version(),
        "machine": platform.platform(),
        "cores": str(os.cpu_count()),
    }
    return {**libraries, **machine, "threads": str(torch.get_num_threads())}


def write_whole(path: Path, text: str) -> None:
    """Write a file that is there whole or not at all."""
    partial = path.with_suffix(".partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)


def read_json(path: Path) -> Any:
    """What a JSON file holds."""
    return json.loads(path.read_text(encoding="utf-8"))


def note(path: Path, values: dict[str, Any]) -> None:
    """Merge into a small JSON file, whose folder is made if it is not there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    merged = (read_json(path) if path.is_file() else {}) | values
    write_whole(path, json.dumps(merged, indent=1) + "\n")


def append(path: Path, line: dict[str, Any]) -> None:
    """Add a line of JSON."""
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")
