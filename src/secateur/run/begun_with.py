"""RUN/fingerprint.json: the data, the weights and the vocabulary with which a run began, so that it keeps to them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

from secateur.run.context import Context
from secateur.run.records import FINGERPRINT, FORMAT
from secateur.structure.vocabulary import Vocabulary
from secateur.surgery.model_files import WEIGHTS
from secateur.surgery.opening import model_folder
from secateur.system.errors import UserError
from secateur.system.files import fingerprint

NAMES = {
    "data": "the data",
    "model": "the weights of the model",
    "teacher": "the weights of the teacher",
    "reference": "the weights of the reference",
    "vocabulary": "the texts of the vocabulary, or the tokenizer,",
}
"""Key of a fingerprint -> of what it is. The last one follows from others as well."""
CHUNK = 2**24


def check(context: Context) -> None:
    """Check that an interrupted run has what it began with, of which one of an older version has no record, or a part.

    Raises:
        UserError: a row, a label or the order of rows has changed, or other rows are split off for validation, or a
            folder has other weights, or other pieces of the vocabulary are kept.
    """
    begun = FORMAT.read_if_any(context.folder / FINGERPRINT)
    if changed := differing(begun, fingerprints(context)) if begun else []:
        raise UserError(
            f"{' and '.join(changed)} changed since the run in {context.folder} began: restore what it began with to "
            "go on, or choose another output folder"
        )


def record(context: Context) -> None:
    """Write the fingerprints of a run that begins."""
    path = context.folder / FINGERPRINT
    if not path.is_file():
        FORMAT.write(path, fingerprints(context))


def differing(begun: Mapping[str, str | None], now: Mapping[str, str | None]) -> list[str]:
    """What has another fingerprint now, in words; of keys that an older version did not record nothing is known."""
    changed = [what for name, what in NAMES.items() if name in begun and begun[name] != now.get(name)]
    return [what for what in changed if what != NAMES["vocabulary"] or len(changed) == 1]


def fingerprints(context: Context) -> dict[str, str | None]:
    """By the keys of `NAMES`; None for a model that is not named, or on the hub, and for a vocabulary that is whole."""
    recipe = context.recipe
    models = {"model": recipe.model, "teacher": recipe.teacher, "reference": recipe.data.options.get("reference")}
    weights = {name: _of_weights(place) for name, place in models.items()}
    kept = {"vocabulary": _of_vocabulary(context.data.vocabulary)}
    return {"data": context.data.task_as_read.fingerprint(), **weights, **kept}


def _of_vocabulary(vocabulary: Vocabulary | None) -> str | None:
    return None if vocabulary is None else fingerprint([json.dumps(vocabulary.to_dict())])


def _of_weights(place: str | None) -> str | None:
    folder = None if place is None else model_folder(place)
    return None if folder is None or not folder.is_dir() else fingerprint(_bytes_of_weights(folder))


def _bytes_of_weights(folder: Path) -> Iterator[str | bytes]:
    for path in sorted(path for path in folder.iterdir() if WEIGHTS.fullmatch(path.name)):
        yield path.name
        with path.open("rb") as file:
            while chunk := file.read(CHUNK):
                yield chunk
