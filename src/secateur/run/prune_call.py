"""`secateur.prune`: the whole job as one call, which does what the command of that name does."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from html import escape
from os import PathLike
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from secateur.report.report import Report
from secateur.report.report_text import score_table
from secateur.report.verdict import Verdict, result_line, verdict
from secateur.run.job import run_job
from secateur.run.progress_bars import ProgressBars
from secateur.run.recipe import COMMAND_LINE, KEYS, Recipe, changed, make, read
from secateur.run.recipe_schema import Flag
from secateur.surgery.opening import open_model
from secateur.system.errors import UserError


@dataclass(frozen=True, repr=False)
class PruneResult:
    """A finished run, which shows itself, in a notebook as a table.

    Attributes:
        folder: of the run; the model is in `folder / "model"`, the page in `folder / "report.html"`.
        report: all numbers, with how they were measured.
    """

    folder: Path
    report: Report

    @property
    def model(self) -> PreTrainedModel:
        """The model, read from its folder."""
        return open_model(self.folder)

    @property
    def scores(self) -> Mapping[str, float]:
        """Name -> score, on rows that it was not trained on."""
        return self.report.scores

    @property
    def verdict(self) -> Verdict:
        """Whether it worked (`verdict.worked`), in words, and what to try if it did not; `str` gives it all."""
        return verdict(self.report)

    def __repr__(self) -> str:
        return f"PruneResult({result_line(self.report)}; {self.folder})"

    def _repr_html_(self) -> str:
        """The outcome, the numbers beside those of the teacher, and the verdict."""
        head = "".join(f"<th>{name}</th>" for name in ("", "teacher", "pruned"))
        cells = [[f"<td>{escape(cell)}</td>" for cell in row] for row in score_table(self.report)]
        rows = "".join(f"<tr>{''.join(row)}</tr>" for row in cells)
        lines = f"<p>{escape(str(self.verdict))}</p><p><code>{escape(str(self.folder))}</code></p>"
        return f"<h4>{escape(result_line(self.report))}</h4><table><tr>{head}</tr>{rows}</table>{lines}"


def prune(
    model: str | Path,
    data: str | Path,
    *,
    output: str | Path,
    recipe: Mapping[str, Any] | str | Path | None = None,
    overwrite: bool = False,
    progress: bool = True,
    **options: Any,
) -> PruneResult:
    """Prune a model for data: train a teacher if needed, prune, cut, recover, measure, report.

    The same call continues an interrupted run, and returns the result of a finished one.

    Args:
        model: a name on the hub or a folder, fine-tuned or not.
        data: a name on the hub, a folder or a file.
        output: the folder of the run.
        recipe: further keys of a recipe, such as `{"training.select": 500}`, or the path of a recipe file; the other
            arguments go before what it says, as those of the command do.
        overwrite: whether a run that is in the folder is replaced, once the new one is finished. An unfinished one of
            the same recipe is continued.
        progress: whether each stage shows a bar.
        options: those of `secateur prune`, with underscores: `density=0.2`, `method="grain"`, `label="stars"`, ...

    Examples:
        >>> result = secateur.prune("bert-base-uncased", "reviews.csv", density=0.2, output="runs/reviews")
        >>> result.model, result.scores

    Raises:
        UserError: an option is not known, or anything else that the user can fix; several densities are given, of which
            the command makes a model each.
        NothingToKeep: a teacher that is trained here is no better than a constant prediction; it is a `UserError`.
    """
    values = {"model": _place("model", model), "data.source": _place("data", data)}
    wanted = _recipe(recipe, values | {_key(name): value for name, value in options.items()})
    if len(wanted.target.densities) > 1:
        raise UserError("this call makes one model: give one density, or several to the command `secateur prune`")
    (report,) = run_job(wanted, Path(output), [ProgressBars()] if progress else [], overwrite=overwrite)
    return PruneResult(Path(output), report)


ADVICE = {
    "model": "save it by save_pretrained, with its tokenizer, and give the folder",
    "data": "write it to a file (.csv, .jsonl, .parquet) and give its path",
}


def _place(name: str, given: str | Path) -> str:
    """Where the model or the data lie: a stage of a run, which may be continued, reads them from there."""
    if not isinstance(given, str | PathLike):
        raise UserError(
            f"{name} is a {type(given).__name__}: expected a path, or a name on the hub, from which a run that is "
            f"continued can read it again; {ADVICE[name]}"
        )
    return str(given)


def _recipe(given: Mapping[str, Any] | str | Path | None, values: Mapping[str, Any]) -> Recipe:
    """The recipe that is given, if any, with the values of a call in place of its own."""
    if given is None:
        return make(values, COMMAND_LINE)
    if isinstance(given, Mapping):
        return changed(given, values)
    if isinstance(given, str | PathLike):
        return read(given, values)
    raise UserError(f"recipe is a {type(given).__name__}: give keys with their values, or the path of a recipe file")


def _key(option: str) -> str:
    """The key of a recipe that an option of the command sets."""
    keys = {
        mark.name.removeprefix("--").replace("-", "_"): key
        for key, field in KEYS.items()
        for mark in field.metadata
        if isinstance(mark, Flag)
    }
    if option not in keys:
        near = get_close_matches(option, keys, n=1)
        hint = f"did you mean {near[0]!r}?" if near else "options are those of `secateur prune`, with underscores"
        raise UserError(f"prune has no option {option!r}: {hint}")
    return keys[option]
