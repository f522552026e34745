"""What a recipe gives a run to work on: the task, the tokenizer, and the rows as tokens."""

from __future__ import annotations

import hashlib
import json
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock
from torch import Tensor
from transformers import AutoTokenizer, DataCollatorWithPadding, PreTrainedModel, PreTrainedTokenizerBase

from secateur.measure.evaluation import batches, encoded, scores
from secateur.run.recipe import Recipe
from secateur.run.run_folder import read_json, write_whole
from secateur.system import processes
from secateur.system.errors import UserError
from secateur.tasks.task import Task, open_task
from secateur.training.augment import augmented
from secateur.training.teacher_cache import INDEX, fingerprint

LENGTHS = 4  # batches are padded to multiples of this: fewer shapes to compile and to remember (RESULTS.md)

Rows = list[dict[str, Any]]


@dataclass(frozen=True)
class Given:
    """The material of a recipe, each part made once, when first needed."""

    recipe: Recipe

    @cached_property
    def task(self) -> Task:
        d, seed = self.recipe.data, self.recipe.seed
        extra = {name: value for name, value in (("text", d.text), ("label", d.label)) if value is not None}
        return open_task(d.task, d.source, d.options, metric=d.metric, seed=seed, rows=d.rows, **extra)

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        try:
            return AutoTokenizer.from_pretrained(self.recipe.model)
        except (OSError, ValueError, KeyError) as error:
            raise UserError(
                f"{self.recipe.model} has no tokenizer that loads: give a model folder that holds one"
            ) from error

    def check(self) -> None:
        """Refuse what the recipe asks of rows that are not there, or not of texts.

        Raises:
            UserError: more rows are to be held out than there are, or copies are asked of a task that takes none.
        """
        select, count = self.recipe.training.select, len(self.task.splits["train"])
        if select >= count:
            raise UserError(
                f"training.select: {select} of the {count} training rows cannot be held out: hold out fewer"
            )
        if self.recipe.training.augment and not self.task.augmentable:
            raise UserError(
                f"the task {self.recipe.data.task!r} takes no changed copies of its texts: set training.augment to 0"
            )

    @cached_property
    def train_rows(self) -> Rows:
        return _numbered(self.train_parts[1])

    @cached_property
    def taught_rows(self) -> Rows:
        """What the student learns from its teacher: the training rows, and changed copies of them without labels."""
        r = self.recipe
        if not r.training.augment:
            return self.train_rows
        return _numbered(augmented(self.train_rows, self.tokenizer, r.training.augment, r.seed))

    @cached_property
    def train_parts(self) -> tuple[Rows, Rows]:
        """Encoded training rows: those held out to select on, drawn by the seed, and those to train on."""
        rows = partial(encoded, self.task, "train", self.tokenizer, self.recipe.data.max_length)
        count, held_out = len(self.task.splits["train"]), self.recipe.training.select
        if not held_out:
            return [], rows()
        order = torch.randperm(count, generator=torch.Generator().manual_seed(self.recipe.seed)).tolist()
        return rows(order[:held_out]), rows(sorted(order[held_out:]))

    @cached_property
    def validation_rows(self) -> Rows:
        return encoded(self.task, "validation", self.tokenizer, self.recipe.data.max_length)

    @cached_property
    def scored_rows(self) -> Rows:
        """What a stage is scored on while it trains: rows held out of the training set where something is chosen."""
        if self.recipe.training.select:
            return _numbered(self.train_parts[0])
        most, count = self.recipe.training.evaluation_rows, len(self.task.splits["validation"])
        if most is None or most >= count:
            return _numbered(self.validation_rows)
        return _numbered(encoded(self.task, "validation", self.tokenizer, self.recipe.data.max_length, range(most)))

    def collator(self) -> DataCollatorWithPadding:
        """As the task's, in multiples of `LENGTHS`, unless these may pass the longest that the model takes."""
        collate = self.task.collator(self.tokenizer)
        if self.tokenizer.model_max_length % LENGTHS == 0:
            collate.pad_to_multiple_of = LENGTHS
        return collate

    def batches(self) -> list[dict[str, Tensor]]:
        """Some validation rows, to prove on them that models are the same."""
        return batches(self.task, self.validation_rows, self.tokenizer)

    def scores(self, model: PreTrainedModel) -> dict[str, float]:
        """Every metric of the task, on all validation rows."""
        return scores(model, self.task, self.validation_rows, self.tokenizer)

    def teacher_scores(self, teacher: PreTrainedModel, folder: Path) -> dict[str, float]:
        """As `scores`, of a teacher that other runs have too: taken once, and kept in `folder` for them."""
        path = folder / f"scores-{self._key(teacher)}.json"
        found: dict[str, float] | None = processes.on_main(partial(_kept, path))
        if found is None:
            found = self.scores(teacher)
            processes.on_main(partial(_keep, path, found))
        return found

    def _key(self, model: PreTrainedModel) -> str:
        """16 hex digits that change with whatever its scores depend on: the model, the task and its rows."""
        d = self.recipe.data
        asked = [d.task, d.metric, d.source, d.text, d.label, d.options, self.validation_rows]
        said = json.dumps([fingerprint(model), *asked], sort_keys=True, default=str)
        return hashlib.sha256(said.encode()).hexdigest()[:16]


def _kept(path: Path) -> dict[str, float] | None:
    """Scores that a run left; None where there are none, or none that can be read."""
    with suppress(OSError, ValueError):
        return dict(read_json(path))
    return None


def _keep(path: Path, found: dict[str, float]) -> None:
    """Leave scores for other runs, of which some may be at the same point."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_suffix(".lock")):
        write_whole(path, json.dumps(found))


def _numbered(rows: Rows) -> Rows:
    """The rows with their numbers, by which a cached teacher and the scores find them again."""
    return [{**row, INDEX: number} for number, row in enumerate(rows)]
