"""The whole job of a recipe, of one density or several, in a folder that may hold a run to replace."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

from transformers import TrainerCallback

from secateur.report.recipe_keys import dotted
from secateur.report.report import Report
from secateur.run import density_sweep, pipeline
from secateur.run.outlook import Outlook
from secateur.run.recipe import Recipe, places_of
from secateur.run.run_folder import check_claim, holds_unfinished, locked, refuse_foreign
from secateur.system import processes
from secateur.system.errors import UserError
from secateur.system.files import refuse_fixed, refuse_lost, replace_folder, restore_replaced

UNFINISHED = ".new"
"""What follows the name of a folder while the run that replaces the one in it is not finished."""


def run_job(
    recipe: Recipe, output: Path, callbacks: Sequence[TrainerCallback] = (), *, overwrite: bool = False
) -> list[Report]:
    """The reports of a recipe, the largest density first; the same call continues an interrupted job.

    Args:
        recipe: of one density, or of several.
        output: the folder of the run, or of one for each density.
        callbacks: for every training.
        overwrite: whether a run that is in the folder is replaced: the new one is made beside it, in the folder of that
            name and `.new`, and takes its place when it is finished, so that nothing is lost if it fails. An unfinished
            run of this recipe is continued. One that is running in the folder is not replaced.

    Raises:
        UserError: anything that the user can fix; nothing half-written is left.
    """
    folder = processes.on_main(partial(folder_of_job, recipe, output, overwrite))
    if folder == output:
        return _run(recipe, folder, callbacks)
    with _held(output):
        reports = _run(recipe, folder, callbacks)
        processes.on_main(partial(replace_folder, folder, output))
    return reports


def _run(recipe: Recipe, folder: Path, callbacks: Sequence[TrainerCallback]) -> list[Report]:
    if len(recipe.target.densities) > 1:
        return density_sweep.sweep(recipe, folder, callbacks)
    return [pipeline.run(recipe, folder, callbacks)]


@contextmanager
def _held(output: Path) -> Iterator[None]:
    """The folder of a run that is replaced, and those of the densities in it: nothing may write to them meanwhile."""
    densities = processes.on_main(lambda: sorted(path.parent for path in output.glob("*/recipe.yaml")))
    with ExitStack() as locks:
        for folder in (output, *densities):
            locks.enter_context(locked(folder))
        yield


def dry_run_job(recipe: Recipe, output: Path, *, overwrite: bool = False) -> Outlook:
    """What `run_job` has understood and is going to do, after all checks; nothing is written or trained.

    Raises:
        UserError: as `run_job`, or the job is finished.
    """
    folder = processes.on_main(partial(folder_of_job, recipe, output, overwrite))
    several = len(recipe.target.densities) > 1
    return density_sweep.dry_run(recipe, folder) if several else pipeline.dry_run(recipe, folder)


def folder_of_job(recipe: Recipe, output: Path, overwrite: bool) -> Path:
    """Where a job is done: in its folder, or beside a run that it replaces. Its own unfinished run is continued.

    Raises:
        UserError: what would be replaced is no run, or is the current folder, or holds what the job reads; or the
            folder beside it has something else than this job.
    """
    restore_replaced(output)
    if not overwrite or not output.exists() or holds_unfinished(output, recipe):
        return output
    refuse_foreign(output)
    refuse_fixed(output)
    refuse_lost(output, places_of(dotted(recipe.to_dict())))
    beside = output.with_name(f"{output.name}{UNFINISHED}")
    try:
        check_claim(beside, recipe)
    except UserError as error:
        raise UserError(
            f"{beside} is where the run that replaces {output} is made, and has something else, such as an interrupted "
            "one of another recipe: repeat its command, or remove that folder"
        ) from error
    return beside
