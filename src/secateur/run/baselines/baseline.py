"""The contract of a baseline, and the results of those that were made, which are kept on disk.

RUN/baselines/NAME/result.json    the rows of a baseline, written last: it is not made again
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

from secateur.run.baselines import BASELINES
from secateur.run.context import Context
from secateur.system import processes
from secateur.system.errors import UserError
from secateur.system.file_format import FileFormat

FOLDER = "baselines"
"""In a run's folder: the folders of its baselines."""
RESULT = "result.json"
FORMAT = FileFormat()
PYTORCH = "pytorch"


class LeftOut(UserError):
    """A baseline cannot be made of this run: the sentence says why, and what to install where that is missing."""


@dataclass(frozen=True)
class Row:
    """A model that was made and scored on the validation rows.

    Attributes:
        name: of the model, that of its baseline if it makes only one.
        what: the model in words, to stand in a table or at the beginning of a sentence.
        score: the task's metric.
        parameters: numbers that are stored; None for an exported file.
        bytes: of its weights, as they are stored.
        place: the folder or the exported file of the model, within the folder of the run.
        runtime: in which it is scored and timed.
        standard_error: of the score; None where it is not known.
        density: the fraction kept of the prunable parameters; None for a model that is no Transformer.
        trained: whether it was trained as the pruned model was.
        pruned: whether it is the pruned model, in the runtime of a baseline.
        latency: times that the baseline has measured itself: `batch`, `tokens` and `latency_ms` of each; None where it
            is timed in turn with the other models.
    """

    name: str
    what: str
    score: float
    parameters: int | None
    bytes: int
    place: str
    runtime: str = PYTORCH
    standard_error: float | None = None
    density: float | None = None
    trained: bool = False
    pruned: bool = False
    latency: Sequence[Mapping[str, Any]] | None = None


class Baseline(ABC):
    """What a user would otherwise take. A subclass makes it, and its docstring begins with what it is.

    Attributes:
        name: the name by which it is registered.
        trains: whether it is trained as the pruned model is, for as many steps.
    """

    name: ClassVar[str]
    trains: ClassVar[bool] = False

    @abstractmethod
    def make(self, context: Context, folder: Path) -> list[Row]:
        """Make the baseline of a run whose pruned model exists. All processes must call it.

        Args:
            folder: for its files.

        Raises:
            LeftOut: this run has no such baseline.
        """


def kept_or_made(context: Context, name: str) -> list[Row]:
    """The rows of a baseline: those on disk, or those that are made now. All processes must call it.

    Raises:
        LeftOut: this run has no such baseline.
    """
    folder = context.folder / FOLDER / name
    kept: list[Row] | None = processes.on_main(partial(_kept, folder))
    if kept is not None:
        return kept
    rows = BASELINES.get(name)().make(context, folder)
    processes.on_main(partial(_keep, folder, rows))
    return rows


def _kept(folder: Path) -> list[Row] | None:
    record = FORMAT.read_if_any(folder / RESULT)
    return [Row(**row) for row in record["rows"]] if record else None


def _keep(folder: Path, rows: Sequence[Row]) -> None:
    FORMAT.merge(folder / RESULT, {"rows": [asdict(row) for row in rows]})
