"""A sweep: runs of one recipe with other values of some keys, of which the best are searched."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from secateur.cli.output import show_json, show_lines, show_message, show_notes, show_table
from secateur.cli.recipe_options import pairs_of
from secateur.report import sweep_text
from secateur.report.sweep import SweepResult
from secateur.run.sweep.block import read_sweep
from secateur.run.sweep.folder import PAGE
from secateur.run.sweep.workers import run_workers
from secateur.system.errors import UserError
from secateur.system.packages import require
from secateur.system.registry import extensions


def sweep(
    *,
    file: Path,
    output: Path,
    trials: int | None,
    workers: int,
    storage: str | None,
    study: str | None,
    others: list[str] | None,
    as_json: bool,
) -> None:
    """What `secateur sweep` does; the options are described where it is declared."""
    require(("optuna",), "sweep")
    from secateur.run.sweep.worker import Worker  # which needs it

    asked = read_sweep(file, pairs_of("--set", others or []))
    with _trials_alone():
        worker = Worker.joined(asked, output, trials, storage, study)
        if workers == 1:
            result = worker.work()
    if workers > 1:
        named = {"--trials": trials, "--output": output, "--storage": storage, "--study": study}
        options = [str(word) for pair in named.items() if pair[1] is not None for word in pair]
        settings = [word for entry in others or [] for word in ("--set", entry)]
        imports = [word for module in extensions for word in ("--import", module)]
        codes = run_workers([*imports, "sweep", str(file), *options, *settings], workers, show_message)
        result = worker.result()
        _check_workers(codes, result)
    _show(result, output, as_json)


@contextmanager
def _trials_alone() -> Iterator[None]:
    """Inside, of what runs log warnings alone are shown: a line for each trial is enough."""
    levels = {"secateur.run": logging.WARNING, "secateur.run.sweep": logging.INFO}
    before = {name: logging.getLogger(name).level for name in levels}
    try:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)
        yield
    finally:
        for name, level in before.items():
            logging.getLogger(name).setLevel(level)


def _check_workers(codes: Sequence[int], result: SweepResult) -> None:
    """Refuse to call a sweep complete whose workers have ended before their work was."""
    if len(result.trials) < result.asked or result.unfinished:
        ended = ", ".join(f"worker {number} with exit code {code}" for number, code in enumerate(codes, 1) if code)
        raise UserError(
            f"the sweep is not complete, because {ended or 'its workers'} ended: repeat the command to go on"
        )


def _show(result: SweepResult, folder: Path, as_json: bool) -> None:
    if as_json:
        show_json(result.to_dict())
        return
    show_table(*sweep_text.table(result), sweep_text.title(result))
    show_notes(sweep_text.notes(result))
    show_lines("", f"The page is {folder / PAGE}. To repeat the best:", "")
    show_lines(*(f"    {sweep_text.command(trial, folder.as_posix())}" for trial in result.best))
