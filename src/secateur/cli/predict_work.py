"""What a model says of texts."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from secateur.cli.output import show_json, show_text_table
from secateur.run.recipe import make_group
from secateur.run.run_values import asked_as, with_run_values
from secateur.surgery.opening import auto_class_opened, open_model, open_tokenizer
from secateur.system.errors import UserError
from secateur.system.quantities import quantity
from secateur.tasks import TASKS
from secateur.tasks.predictors import Asked, Prediction, Texts
from secateur.tasks.rows import check_length

WIDTH = 60
"""Characters of a text in the table."""
NUMBERS = 4
"""Numbers of a vector in the table."""


def predict(
    *,
    folder: str,
    given: dict[str, Any],
    texts: list[str] | None,
    file: Path | None,
    pairs: bool,
    as_json: bool,
) -> None:
    """What `secateur predict` does; the options are described where it is declared."""
    known = with_run_values(given, folder)
    task = {} if "data.task" in known else _task_of_head(folder)
    data = make_group("data", {"data.source": "", **task, **known})
    predictor = TASKS.get(data.task).predictor
    if predictor is None:
        raise UserError(f"task {data.task!r} does not say how it predicts: set its class attribute predictor")
    predictor.check_options(given.get("data.options", {}), data.task)
    if pairs and predictor.single:
        raise UserError(f"an input of the task {data.task!r} is one {predictor.parts[0]}: leave out --pairs")
    told = asked_as(folder, data.task)
    pairs = told.pop("pairs", False) or pairs
    inputs = _inputs(texts or [], file, max(len(predictor.parts), 2 if pairs else 1))
    model, tokenizer = open_model(folder), open_tokenizer(folder)
    if "data.max_length" in given:
        check_length(data.max_length, tokenizer, model)
    predictions = predictor(Asked(model, tokenizer, data.max_length, told | data.options), inputs)
    if as_json:
        show_json([_named(own) | prediction for own, prediction in zip(inputs, predictions, strict=True)])
    else:
        _show(inputs, predictions)


def _task_of_head(folder: str) -> dict[str, str]:
    """The task of a model's head, if only one task has such a head."""
    try:
        auto = auto_class_opened(folder)
    except ValueError:  # a head that no task has
        return {}
    names = [name for name, kind in TASKS.all().items() if kind.model_class.__name__ == auto]
    return {"data.task": names[0]} if len(names) == 1 else {}


def _inputs(texts: Sequence[str], file: Path | None, size: int) -> list[Texts]:
    """The texts of each input, of the command line or of a file.

    Raises:
        UserError: there are both or none, the file cannot be read, or an input does not have `size` texts.
    """
    if texts and file is not None:
        raise UserError("texts are given, and a file of texts too: give one of them")
    if not texts:
        return [_parts(number, line, size) for number, line in _lines(file)]
    if len(texts) % size:
        raise UserError(f"every {size} texts are one input, and {len(texts)} are given: give {size} for each")
    return [texts[first : first + size] for first in range(0, len(texts), size)]


def _parts(number: int, line: str, size: int) -> Texts:
    """The texts of a line, between tabs where an input has several."""
    texts = line.split("\t") if size > 1 else [line]
    if len(texts) != size:
        raise UserError(
            f"line {number} has {quantity(len(texts), 'text')}, and an input has {size}: write {size} into each line, "
            "with a tab between them"
        )
    return texts


def _lines(file: Path | None) -> list[tuple[int, str]]:
    """The lines of a file or of stdin that are not empty, with their numbers from 1.

    Only a line feed ends one, as in files of data.
    """
    if file is None and sys.stdin.isatty():
        raise UserError("no text is given: write it behind the model, name a file by --file, or pipe texts in")
    try:
        content = sys.stdin.read() if file is None or str(file) == "-" else file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{file} cannot be read ({error}): give a file of text in UTF-8") from error
    lines = enumerate(content.split("\n"), 1)
    return [(number, line.removesuffix("\r")) for number, line in lines if line.strip()]


def _named(texts: Texts) -> dict[str, Any]:
    return {"input": texts[0] if len(texts) == 1 else list(texts)}


def _show(inputs: Sequence[Texts], predictions: Sequence[Prediction]) -> None:
    """A row for each input; what is longer than a cell is in the JSON."""
    columns = [name for name in predictions[0] if name != "scores"]
    rows = [
        (_shortened(" | ".join(own)), *(_cell(prediction[name]) for name in columns))
        for own, prediction in zip(inputs, predictions, strict=True)
    ]
    show_text_table(("input", *columns), rows)


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4f}"
    if isinstance(value, list) and value and isinstance(value[0], float):
        return f"{len(value)} numbers: {', '.join(f'{number:.3f}' for number in value[:NUMBERS])}, ..."
    return " ".join("-" if part is None else str(part) for part in value) if isinstance(value, list) else str(value)


def _shortened(text: str) -> str:
    return text if len(text) <= WIDTH else f"{text[: WIDTH - 3]}..."
