"""The parts of the job that handle one model: list what can be named, inspect, make and score."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from secateur.cli.given_data import opened_data, refuse_taken, scored_source
from secateur.cli.model_output import show_inspection, show_names
from secateur.cli.output import show_json, show_lines, show_table
from secateur.deploy.export import opened
from secateur.deploy.runtimes import RUNTIMES
from secateur.deploy.served_model import described_model, folder_of
from secateur.measure.evaluation import check_rows, encoded, fitted_to, runner_scores, scores
from secateur.measure.inspection import inspect, with_stored_bytes
from secateur.methods import METHODS
from secateur.report.report_text import score_text
from secateur.run import new_model
from secateur.run.baselines import BASELINES
from secateur.run.recipe import places_of
from secateur.structure.architectures import ARCHITECTURES
from secateur.structure.groups import UNITS
from secateur.structure.tiles import EXAMPLES
from secateur.surgery.opening import local_model_folder, open_encoder, open_model
from secateur.tasks import TASKS
from secateur.training.terms import TERMS


def list_names(*, as_json: bool) -> None:
    """What `secateur list` does; the options are described where it is declared."""
    names = {
        "architecture": {name: ", ".join(family.heads) for name, family in ARCHITECTURES.all().items()},
        "method": _first_lines(METHODS.all()),
        "task": _first_lines(TASKS.all()),
        "term": _first_lines(TERMS.all()),
        "runtime": _first_lines(RUNTIMES.all()),
        "baseline": _first_lines(BASELINES.all()),
        "unit": _first_lines(UNITS) | dict(EXAMPLES),
    }
    if as_json:
        show_json(names)
    else:
        show_names(names)


def _first_lines(items: Any) -> dict[str, str]:
    """Name -> the first line of the docstring."""
    return {name: (item.__doc__ or "").strip().partition("\n")[0] for name, item in items.items()}


def inspect_model(*, model: str, tokens: int, as_json: bool) -> None:
    """What `secateur inspect` does; the options are described where it is declared."""
    opened = open_encoder(model)
    inspection = inspect(opened, tokens)
    if inspection.compact:
        inspection = with_stored_bytes(inspection, opened, local_model_folder(model))
    if as_json:
        show_json(inspection.to_dict())
    else:
        show_inspection(inspection)


def make_model(
    *,
    output: Path,
    given: dict[str, Any],
    architecture: str,
    layers: int,
    decoder_layers: int | None,
    heads: int,
    width: int,
    ffn: int,
    dropout: float,
    vocabulary: int,
    tokenizer: str,
    max_length: int,
    overwrite: bool,
    as_json: bool,
) -> None:
    """What `secateur new` does; the options are described where it is declared."""
    refuse_taken(output, overwrite, places_of(given))
    _, task = opened_data(given)
    model = new_model.new_model(
        task,
        output,
        architecture=architecture,
        layers=layers,
        decoder_layers=decoder_layers,
        heads=heads,
        width=width,
        ffn=ffn,
        dropout=dropout,
        vocabulary=vocabulary,
        tokenizer=tokenizer,
        max_length=max_length,
        seed=given.get("seed", 0),
    )
    sizes = {"parameters": model.num_parameters(), "vocabulary": model.config.vocab_size}
    if as_json:
        show_json({"folder": str(output), **sizes})
    else:
        show_table(("", "untrained"), [(name, f"{size:,}") for name, size in sizes.items()])
        show_lines(f"The model is in {output}.")


def evaluate(*, folder: str, given: dict[str, Any], as_json: bool) -> None:
    """What `secateur eval` does; the options are described where it is declared."""
    file = Path(folder) if Path(folder).is_file() else None
    place = folder if file is None else str(folder_of(file))
    data, read = opened_data(given, place)
    model = open_model(place) if file is None else described_model(Path(place))
    task, tokenizer = fitted_to(read, model, place)
    encodings = encoded(task, "validation", tokenizer, data.max_length)
    check_rows(encodings, model)
    if file is None:
        computed = scores(model, task, encodings, tokenizer)
    else:
        computed = runner_scores(opened(file), task, encodings, tokenizer)
    rows, origin = len(task.splits["validation"]), task.origin
    if as_json:
        show_json({"metric": task.metric, "scores": computed, "rows": rows, "split": origin.scored})
    else:
        show_table(("", "score"), [(name, score_text(score)) for name, score in computed.items()])
        show_lines(f"on {rows:,} {origin.rows} of {scored_source(data, task)}")
