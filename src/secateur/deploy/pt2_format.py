"""Files of `torch.export` (.pt2)."""

from __future__ import annotations

from pathlib import Path
from zipfile import ZipFile

import torch

from secateur.deploy.export_facts import KEY, ExportFacts
from secateur.deploy.graph import Graph, example_inputs


def write(graph: Graph, path: Path, facts: ExportFacts) -> None:
    """Write a graph to a file; batch and length stay free."""
    free = {0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC}
    example = example_inputs(facts.inputs)
    program = torch.export.export(graph, example, dynamic_shapes=(free,) * len(example))
    torch.export.save(program, path, extra_files={KEY: facts.to_json()})


def facts_of(path: Path) -> str:
    """The facts in a file, as JSON; "" if it has none. The archive is read: loading the program takes seconds."""
    with ZipFile(path) as archive:
        name = next((name for name in archive.namelist() if name.endswith(f"/extra/{KEY}")), None)
        return archive.read(name).decode() if name else ""
