"""Reading finished runs that are to be compared, and refusing those that cannot be."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from secateur.report import comparison_text
from secateur.report.report import Report
from secateur.run.finished_run import FinishedRun
from secateur.run.run_comparison import compare
from secateur.system.errors import UserError, as_user_error


def read(folders: Iterable[Path | str]) -> list[FinishedRun]:
    """The runs in these folders; a folder that holds runs, such as that of a density sweep, stands for all of them.

    That of a sweep stands for those of its trials that are finished.

    Raises:
        UserError: a folder holds no run, or its run is unfinished, damaged or named twice; or the runs were scored on
            different rows or by different metrics.
    """
    places = [place for folder in folders for place in _runs_in(Path(folder))]
    if twice := next((place for place in places if places.count(place) > 1), None):
        raise UserError(f"expected runs that differ, got {twice} twice: name each once")
    runs = [_finished(place) for place in places]
    for other in runs[1:]:
        _check_same(runs[0], other)
    return runs


def _runs_in(folder: Path) -> list[Path]:
    """The folder itself if it is that of a run, or those of the runs in it, also within density sweeps and sweeps."""
    if (folder / "report.json").is_file():
        return [folder]
    if (folder / "sweep.yaml").is_file():
        return [place.parent for place in sorted(folder.glob("trials/*/report.json"))]
    held = [path.parent for name in ("recipe.yaml", "sweep.yaml") for path in folder.glob(f"*/{name}")]
    if held:
        return [run for place in sorted(held) for run in _runs_in(place)]
    if (folder / "recipe.yaml").is_file():
        return [folder]
    raise UserError(
        f"{folder} is no run of secateur: give the folder of a finished run, or one that holds such folders"
    )


def _finished(folder: Path) -> FinishedRun:
    """A run whose report has what a comparison needs."""
    if not (folder / "report.json").is_file():
        raise UserError(f"the run in {folder} is not finished: repeat its command to finish it, or leave it out")
    run = FinishedRun(folder, Report.load(folder))
    with as_user_error(f"{folder / 'report.json'} is damaged", "repeat the run, or leave it out"):
        comparison_text.to_markdown(compare([run]))  # fails if a value is missing or not a number
    return run


def _check_same(one: FinishedRun, other: FinishedRun) -> None:
    """Refuse to compare scores on different rows or by different metrics.

    The rows for training may differ. A run of an older version recorded only that of all its data.
    """
    both = (one.report, other.report)
    recorded = all(report.scored is not None for report in both)
    scored_on = [
        (report.scored if recorded else report.data, report.rows["validation"], report.metric) for report in both
    ]
    if scored_on[0] != scored_on[1]:
        described = [
            f"{run.folder} by {metric} on {run.report.scored_rows} of {run.report.recipe['data']['source']} ({data})"
            for run, (data, _, metric) in zip((one, other), scored_on, strict=True)
        ]
        raise UserError(
            f"these runs were scored differently, {described[0]} and {described[1]}: compare runs of one metric and "
            "one data set with the same scored rows (sampled rows depend on the seed)"
        )
