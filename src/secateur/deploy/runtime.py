"""The contract of a runtime: something that runs a model, or an exported file, behind one callable.

A further runtime is one subclass of `Runtime`, registered with `@register("name")` of `runtimes`, which holds those of
this package.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, ClassVar

import numpy as np
import torch
from transformers import PreTrainedModel

from secateur.deploy.export_facts import ExportFacts
from secateur.deploy.formats import check_model, files_of, read_facts, write
from secateur.deploy.graph import Batch, as_arrays
from secateur.system.errors import UserError, as_user_error
from secateur.system.packages import require

DTYPES = ("fp32", "bf16", "fp16", "int8")

Arrays = Mapping[str, np.ndarray]
Run = Callable[[Arrays], list[np.ndarray]]


@dataclass(frozen=True)
class Runner:
    """A model ready to run: named arrays `(batch, tokens)`, or images, in, all of its outputs as float32 arrays out.

    Attributes:
        runtime: the name of its runtime.
        dtype: one of `DTYPES`.
        version: of the runtime, such as "onnxruntime 1.31.1".
        threads: intra-op threads; PyTorch's number belongs to the process, is set at each call and stays set.
        inputs: the names of its inputs, such as ("input_ids", "attention_mask").
        bytes: of the weights as it runs them: exported files on disk, or the tensors of a PyTorch model.
        run: the call itself, with arrays for all of `inputs`: int64, but for images float32.
    """

    runtime: str
    dtype: str
    version: str
    threads: int
    inputs: tuple[str, ...]
    bytes: int
    run: Run

    def __call__(self, inputs: Mapping[str, Any]) -> list[np.ndarray]:
        """Run the model; a missing mask is all ones, missing token types are zeros.

        Raises:
            UserError: its first input is missing, or there is an input that the model does not take.
        """
        return self.run(as_arrays(inputs, self.inputs))


def positive_threads(threads: int | None) -> int:
    """A number of intra-op threads; None takes PyTorch's present one.

    Raises:
        UserError: it is not positive.
    """
    if threads is not None and threads < 1:
        raise UserError(f"expected threads of at least 1, got {threads}: raise it")
    return torch.get_num_threads() if threads is None else threads


class Runtime(ABC):
    """A way to run models. A subclass names the files that it opens, and opens them.

    Attributes:
        name: the name by which it is registered.
        suffix: the suffix of the exported files that it opens.
        stored: each dtype that it runs -> the dtype of the file from which it is run.
        packages: the packages that must be installed; `extra` is the optional extra of secateur that installs them.
        folder: where an exported encoder-decoder has its files for this runtime; empty if it runs none.
    """

    name: ClassVar[str]
    suffix: ClassVar[str]
    stored: ClassVar[Mapping[str, str]]
    packages: ClassVar[tuple[str, ...]] = ()
    extra: ClassVar[str] = ""
    folder: ClassVar[str] = ""

    @abstractmethod
    def open(self, path: Path, dtype: str, threads: int, inputs: tuple[str, ...]) -> Run:
        """An exported file with these inputs as a callable."""

    def version(self, dtype: str) -> str:
        """The name and the version of the runtime, and other settings that affect how it runs a dtype."""
        return f"{self.name} {metadata.version(self.name)}"

    def check(self, dtype: str) -> None:
        """Refuse a dtype that this runtime, or this machine, does not run.

        Raises:
            UserError: naming those that it runs, or the package to install.
        """
        if dtype not in self.stored:
            raise UserError(f"{self.name} runs {', '.join(self.stored)}, not {dtype!r}: choose one of these")
        require(self.packages, self.extra)

    def check_model(self, model: PreTrainedModel, dtype: str) -> None:
        """Refuse a model of which no file can be written; a runtime with its own `of_model` may need none.

        Raises:
            UserError: as `formats.check_model`.
        """
        if type(self).of_model is Runtime.of_model:
            check_model(model, self.file_in(Path(), dtype), self.stored[dtype])

    def of_model(
        self,
        model: PreTrainedModel,
        dtype: str,
        threads: int,
        *,
        workspace: Path | None = None,
        calibration: Sequence[Batch] | None = None,
    ) -> Runner:
        """A model ready to run; by default it is exported to the workspace, or to a temporary folder, and opened."""
        with TemporaryDirectory() if workspace is None else nullcontext(workspace) as folder:
            Path(folder).mkdir(parents=True, exist_ok=True)
            path = self.file_in(Path(folder), dtype)
            write(model, path, self.stored[dtype], calibration=calibration)
            return self.of_file(path, dtype, threads)

    def of_file(self, path: Path, dtype: str, threads: int) -> Runner:
        """An exported file of an encoder ready to run.

        Raises:
            UserError: it is another runtime's, holds another dtype, or cannot be opened and run.
        """
        facts = self.check_file(path, dtype)
        size = sum(file.stat().st_size for file in files_of(path))
        with as_user_error(f"{path} cannot be opened", "export the model again"):
            run = self.open(path, dtype, threads, facts.inputs)
            run(as_arrays(facts.example(), facts.inputs))  # a damaged program may fail in its first run alone
        return Runner(self.name, dtype, self.version(dtype), threads, facts.inputs, size, run)

    def check_file(self, path: Path, dtype: str) -> ExportFacts:
        """What a file says of itself, if it can be run in a dtype.

        Raises:
            UserError: it is another runtime's, holds another dtype, or was not written by secateur.
        """
        facts = read_facts(path)
        if path.suffix != self.suffix:
            raise UserError(
                f"{self.name} opens {self.suffix} files, not {path.name!r}: export the model as such a file"
            )
        if self.stored[dtype] != facts.dtype:
            raise UserError(f"{path} holds {facts.dtype}, from which {dtype} cannot be run: ask for {facts.dtype}")
        return facts

    def file_in(self, workspace: Path, dtype: str) -> Path:
        """Where `of_model` writes the file that a dtype is run from."""
        return workspace / f"{self.stored[dtype]}{self.suffix}"
