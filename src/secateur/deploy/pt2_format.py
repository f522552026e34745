"""Files of `torch.export` (.pt2)."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from zipfile import ZipFile

import torch
from torch import nn

from secateur.deploy.export_facts import KEY, ExportFacts
from secateur.deploy.graph import Graph, example_inputs
from secateur.deploy.pt2_archive import plain_archive


def write(graph: Graph, path: Path, facts: ExportFacts) -> None:
    """Write a graph to a file; batch and length stay free."""
    free = {0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC}
    example = example_inputs(facts.inputs)
    program: Any = torch.export.export(graph, example, dynamic_shapes=(free,) * len(example))
    program.example_inputs = None  # which would be pickled
    torch.export.save(program, path, extra_files={KEY: facts.to_json()})


def load(path: Path) -> nn.Module:
    """The program of a file, which runs nothing while it is read.

    Raises:
        UserError: the file has entries that PyTorch would unpickle or evaluate.
    """
    module: nn.Module = torch.export.load(plain_archive(path)).module()
    return module


def facts_of(path: Path) -> str:
    """The facts in a file, as JSON; "" if it has none. The archive is read: loading the program takes seconds."""
    with ZipFile(path) as archive:
        name = next((name for name in archive.namelist() if name.endswith(f"/extra/{KEY}")), None)
        return archive.read(name).decode() if name else ""
