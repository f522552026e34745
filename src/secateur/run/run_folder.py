"""The folder of a run belongs to one recipe, with which an interrupted run is continued."""

from __future__ import annotations

import os
import platform
from importlib.metadata import version
from pathlib import Path

import torch

from secateur.report.recipe_keys import dotted, upgrade
from secateur.run.recipe import Recipe, make
from secateur.run.recipe_yaml import parse
from secateur.system.errors import UserError
from secateur.system.files import atomic_write, write_json
from secateur.system.version import VERSION

UNCLAIMED = {"versions.json", "versions.json.partial", "recipe.yaml.partial", "recipe.partial"}
"""Files that a run of this version or of 0.1.0 may leave if it is killed before it has claimed its folder."""


def claim(folder: Path, recipe: Recipe) -> None:
    """Claim a folder for the run of a recipe; if it holds that run already, the run can be resumed.

    Raises:
        UserError: it holds a run of another recipe, or something else, and is unchanged; or it cannot be written.
    """
    path = folder / "recipe.yaml"
    if path.is_file():
        if changed := _differences(path, recipe):
            raise UserError(
                f"{folder} holds a run of another recipe (it differs in {', '.join(changed)}): "
                "choose another output folder, or repeat its command to go on"
            )
        return
    if folder.exists() and (not folder.is_dir() or {entry.name for entry in folder.iterdir()} - UNCLAIMED):
        raise UserError(f"{folder} exists and is no run of secateur: choose an empty or new folder")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / "versions.json", versions())
        atomic_write(path, recipe.to_yaml())
    except OSError as error:
        raise UserError(f"cannot write to {folder} ({error.strerror}): choose a folder that can be written") from error


def _differences(path: Path, recipe: Recipe) -> list[str]:
    """Dotted keys in which the recipe of a run's folder, of this version or an older one, differs from `recipe`.

    A key that the older version did not have has its default.
    """
    values = parse(path.read_text(encoding="utf-8"), str(path))
    try:
        old = dotted(make(upgrade(dict(values)), str(path)).to_dict())
    except (TypeError, ValueError):  # it holds no keys and values, or they are not a recipe
        return ["its keys"]
    return [key for key, value in dotted(recipe.to_dict()).items() if old[key] != value]


def versions() -> dict[str, str]:
    """The libraries and the machine, on which the numbers of a run depend besides the recipe."""
    libraries = {name: version(name) for name in ("torch", "transformers", "accelerate", "datasets")}
    machine = {
        "python": platform.python_version(),
        "machine": platform.platform(),
        "cores": str(os.cpu_count()),
    }
    return {"secateur": VERSION, **libraries, **machine, "threads": str(torch.get_num_threads())}
