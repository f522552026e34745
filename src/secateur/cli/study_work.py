"""Studies: the report of a finished run, a comparison of runs, and the sensitivity of a model to cuts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from secateur.budget.amounts import batch_and_tokens, fractions
from secateur.cli.given_data import opened_data
from secateur.cli.options import SHAPES
from secateur.cli.output import show_json, show_lines
from secateur.cli.progress import watching
from secateur.cli.recipe_options import names_of
from secateur.cli.study_output import show_comparison, show_sensitivity
from secateur.measure.evaluation import fitted_to
from secateur.measure.random_inputs import check_counts
from secateur.measure.sensitivity import sensitivity
from secateur.report import comparison_page, comparison_text, run_page, sensitivity_page
from secateur.report.report import Report
from secateur.run.compared_models import check_measurable, measure_models, score_models
from secateur.run.finished_baselines import with_baselines
from secateur.run.finished_runs import read
from secateur.run.run_comparison import compare
from secateur.surgery.opening import open_model
from secateur.system.errors import UserError
from secateur.system.file_format import FileFormat
from secateur.system.files import refuse_unwritable_file

FORMAT = FileFormat()
"""Of the JSON beside a page."""
PAGE, TEXT, VALUES = "html", "md", "json"
"""Suffixes of what is written to a folder."""
REPEATS = 20
"""Forwards per latency of a comparison, by default."""


def report_run(*, folder: Path, as_json: bool) -> None:
    """What `secateur report` does; the options are described where it is declared."""
    report = Report.load(folder)
    run_page.write(report, folder)
    if as_json:
        show_json(report.to_dict())
    else:
        show_lines(f"The report is in {folder / 'report.html'}, and as text in {folder / 'report.md'}.")


def compare_runs(
    *,
    runs: list[Path],
    against: list[str] | None,
    data: str | None,
    measure: bool,
    baselines: bool,
    shape: list[str] | None,
    repeats: int | None,
    threads: int | None,
    output: Path | None,
    as_json: bool,
) -> None:
    """What `secateur compare` does; the options are described where it is declared."""
    if not measure and any(option is not None for option in (shape, repeats, threads)):
        raise UserError("--shape, --repeats and --threads are of a measurement made now: give --measure with them")
    check_counts(repeats=repeats, threads=threads)
    shapes = [batch_and_tokens(text) for text in shape or SHAPES]
    finished = read(runs)
    if measure:
        check_measurable(finished, against or [], shapes)
    _make_folder(output, "compare", PAGE, TEXT, VALUES)
    others = score_models(against or [], finished, data)
    if baselines:
        with watching() as watch:
            finished = with_baselines(finished, data, [watch])
    how: dict[str, Any] = {"repeats": REPEATS if repeats is None else repeats, "threads": threads}
    times = measure_models(finished, others, shapes, **how) if measure else None
    comparison = compare(finished, others, times, baselines=baselines)
    values = comparison_text.to_dict(comparison)
    pages = {PAGE: comparison_page.to_html(comparison), TEXT: comparison_text.to_markdown(comparison)}
    _write_pages(output, "compare", values, pages)
    if as_json:
        show_json(values)
    else:
        show_comparison(comparison)
        _show_page(output, "compare")


def study_sensitivity(
    *,
    model: str,
    given: dict[str, Any],
    units: str,
    densities: str,
    by: str,
    rows: int,
    split: str,
    output: Path | None,
    as_json: bool,
) -> None:
    """What `secateur sensitivity` does; the options are described where it is declared."""
    data, read = opened_data({**given, "data.rows": 2 * rows}, model)
    dense, kept = open_model(model), list(fractions(densities))
    task, tokenizer = fitted_to(read, dense, model, own_reference=True)
    _make_folder(output, "sensitivity", PAGE, VALUES)
    result = sensitivity(
        dense,
        task,
        tokenizer,
        units=names_of(units),
        densities=kept,
        rows=rows,
        split=split,
        by=by,
        max_length=data.max_length,
        seed=given.get("seed", 0),
    )
    name = Path(model).name
    _write_pages(output, "sensitivity", result.to_dict(), {PAGE: sensitivity_page.to_html(result, name)})
    if as_json:
        show_json(result.to_dict())
    else:
        show_sensitivity(result, name)
        _show_page(output, "sensitivity")


def _make_folder(folder: Path | None, name: str, *suffixes: str) -> None:
    """Make the folder of the pages, if they are wanted, before anything that takes long; it may exist.

    Args:
        suffixes: of the files of that name that will be written.

    Raises:
        UserError: it cannot be written.
    """
    if folder is not None:
        with _writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
        for suffix in suffixes:
            refuse_unwritable_file(folder / f"{name}.{suffix}")


def _write_pages(folder: Path | None, name: str, values: Mapping[str, Any], pages: Mapping[str, str]) -> None:
    """Write the values as JSON and the pages by their suffixes, if they are wanted; those of before are replaced."""
    if folder is None:
        return
    with _writing(folder):
        for suffix, text in pages.items():
            (folder / f"{name}.{suffix}").write_text(text, encoding="utf-8", errors="replace")
        FORMAT.write(folder / f"{name}.{VALUES}", values)


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(f"cannot write to {folder} ({error.strerror}): choose a folder that can be written") from error


def _show_page(folder: Path | None, name: str) -> None:
    if folder is not None:
        show_lines("", f"The page is {folder / f'{name}.html'}.")
