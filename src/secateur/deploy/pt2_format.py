"""Files of `torch.export` (.pt2)."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from zipfile import ZipFile

import torch
from torch import nn

from secateur.deploy.export_facts import KEY, ExportFacts
from secateur.deploy.graph import Signature
from secateur.deploy.pt2_archive import plain_archive


def write(graph: nn.Module, signature: Signature, path: Path, facts: ExportFacts) -> None:
    """Write a graph to a file; the free axes of its signature stay free."""
    free = tuple(dict.fromkeys(signature.free[name], torch.export.Dim.DYNAMIC) for name in signature.inputs)
    program: Any = torch.export.export(graph, tuple(signature.inputs.values()), dynamic_shapes=free)
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
