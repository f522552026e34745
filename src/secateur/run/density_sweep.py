"""Several densities from one pruning: it walks through them, and a run that recovers branches off at each.

    RUN/recipe.yaml      the recipe, with all densities       RUN/0.4, RUN/0.2, ...   a finished run each
    RUN/teacher          the teacher, if trained here         RUN/cache               what it says, until all is done

The walk is the pruning of the last density. Where its schedule passes another one, the model is cut to that and
recovers from there to the end of the run, as if the run had been for it alone: a run with `toward` set to the last
density gives the same weights. So the dense model is trained once, and its teacher is asked once.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from transformers import TrainerCallback

from secateur.report.report import Report
from secateur.run.pipeline import Run
from secateur.run.recipe import Recipe
from secateur.run.run_folder import claim
from secateur.system import processes


def walk(recipe: Recipe, output: Path | str, callbacks: Sequence[TrainerCallback] = ()) -> list[Report]:
    """The reports of a recipe of several densities, the largest first; the same call goes on where it stopped.

    Raises:
        UserError: anything that the user can mend; nothing half-written is left.
    """
    folder = Path(output)
    runs = [Run(one, folder / str(one.target.density), tuple(callbacks), shared=folder) for one in recipe.each()]
    for run in runs:
        run.check()
    processes.on_main(partial(claim, folder, recipe))
    for run in runs:
        run.claim()
    last = replace(runs[-1], forks=tuple(runs[:-1])).report()
    early = [replace(run).report() for run in runs[:-1]]  # a fresh one each: it holds no other one's models and rows
    processes.on_main(partial(shutil.rmtree, folder / "cache", ignore_errors=True))
    return [*early, last]
