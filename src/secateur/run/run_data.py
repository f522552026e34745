"""The data of a run: the task, the tokenizer, and the tokenized rows."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor
from transformers import DataCollatorWithPadding, PreTrainedModel, PreTrainedTokenizerBase

from secateur.measure.evaluation import Scored, batches, encoded, scored_with_error, scores_with_error, shuffled
from secateur.run.recipe import Recipe
from secateur.run.recipe_data import DataRecipe
from secateur.structure.encoded_rows import UNLABELLED
from secateur.structure.vocabulary import Vocabulary
from secateur.surgery.opening import open_tokenizer
from secateur.surgery.vocabulary.counting import Coverage
from secateur.system.errors import UserError
from secateur.tasks.fingerprints import of_rows
from secateur.tasks.only_answer import check_scored_answers, check_training_answers
from secateur.tasks.rows import identity_of
from secateur.tasks.task import Task, examples, of_all_examples, open_task
from secateur.training.augment import augmented
from secateur.training.step import INDEX

log = logging.getLogger(__name__)

LENGTH_MULTIPLE, LENGTH_MULTIPLE_ON_GPU = 4, 8
"""Batches are padded to multiples of this: fewer shapes to compile and to cache (RESULTS.md), or to record."""

Rows = list[dict[str, Any]]


def length_multiple() -> int:
    """The number of tokens of which the lengths of batches are multiples on this machine."""
    return LENGTH_MULTIPLE_ON_GPU if torch.cuda.is_available() else LENGTH_MULTIPLE


def open_data(data: DataRecipe, seed: int) -> Task:
    """The task on the data of a recipe; columns that the recipe does not name are recognised.

    Raises:
        UserError: the data cannot be read, or does not fit the task.
    """
    named = {name: getattr(data, name) for name in ("text", "label", "labels", "evaluation", "pooling")}
    given = {name: value for name, value in named.items() if value is not None}
    return open_task(data.task, data.source, data.options, metric=data.metric, seed=seed, rows=data.rows, **given)


def recipe_model(recipe: Recipe, task: Task, **options: Any) -> PreTrainedModel:
    """The recipe's model with a head for the task. Where a teacher is named, a head for other labels is replaced.

    Args:
        options: as of `Task.load_model`.
    """
    return task.load_model(recipe.model, ignore_mismatched_sizes=recipe.teacher is not None, **options)


@dataclass(frozen=True)
class RunData:
    """The data of a recipe; each part is read when it is first used, and kept in memory."""

    recipe: Recipe

    @cached_property
    def task_as_read(self) -> Task:
        """The task, with its splits and the labels as the data has them."""
        return open_data(self.recipe.data, self.recipe.seed)

    @cached_property
    def task(self) -> Task:
        """The task, with its labels as the head of the teacher has them, if it has a head for them already."""
        recipe = self.recipe
        return self.task_as_read.fitted(recipe.teacher or recipe.model, "teacher" if recipe.teacher else "model")

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The tokenizer of the model."""
        return open_tokenizer(self.recipe.model)

    # The vocabulary, which `vocabulary_data.VocabularyData` cuts

    @property
    def whole(self) -> RunData:
        """The same data, as the tokenizer of the teacher encodes them."""
        return self

    @property
    def vocabulary(self) -> Vocabulary | None:
        """The pieces that the models of the run keep; None for all."""
        return None

    @property
    def coverage(self) -> Coverage | None:
        """How many of the scored rows keep their tokens; None where the vocabulary is not cut."""
        return None

    def with_kept_rows(self, model: PreTrainedModel) -> PreTrainedModel:
        """A model that reads the tokens of this data: of a dense one with all rows of the vocabulary, those kept.

        Raises:
            UserError: the model has another number of rows than the tokenizer that was cut.
        """
        return model

    def check(self) -> None:
        """Check that the data suits the recipe.

        Raises:
            UserError: too many rows are held out, all training rows or all scored rows have the same answer, or the
                texts of the task cannot be augmented.
        """
        select, count = self.recipe.training.select, len(self.task.splits["train"])
        if self.recipe.reserved >= count:
            keys = {"training.select": select, "data.tuning_rows": self.recipe.data.tuning_rows}
            named = " and ".join(f"{key}: {number}" for key, number in keys.items() if number)
            raise UserError(f"{named} of the {count} training rows cannot be held out: hold out fewer")
        check_training_answers(self.task)
        check_scored_answers(self.task)
        if self.recipe.training.augment and not self.task.augmentable:
            raise UserError(
                f"the texts of the task {self.recipe.data.task!r} cannot be augmented: set training.augment to 0"
            )

    # Rows

    @cached_property
    def train_rows(self) -> Rows:
        """The training rows, without those that are held out."""
        return numbered(self.train_parts[1])

    @cached_property
    def distillation_rows(self) -> Rows:
        """The training rows for distillation: those of the data, and augmented copies of them without labels."""
        copies = self.recipe.training.augment
        if not copies:
            return self.train_rows
        return numbered(augmented(self.train_rows, self.tokenizer, copies, self.recipe.seed))

    @cached_property
    def train_parts(self) -> tuple[Rows, Rows]:
        """Tokenized training rows: those held out for selection, sampled by the seed, and those to train on."""
        rows = partial(encoded, self.task, "train", self.tokenizer, self.recipe.data.max_length)
        selected = self.shuffled[self.recipe.data.tuning_rows : self.recipe.reserved]
        return _learnable(rows(selected)) if selected else [], _learnable(rows(trained_on(self)))

    @cached_property
    def held_out_rows(self) -> Rows:
        """Training rows that are held out of short trials and scored, sampled by the seed."""
        chosen = sorted(self.shuffled[self.recipe.reserved : self.recipe.reserved + self.trial_count])
        return encoded(self.task, "train", self.tokenizer, self.recipe.data.max_length, chosen)

    def without_held_out(self, rows: Rows) -> Rows:
        """Rows to train a trial on: those whose text is not held out; all of them if no other text is left.

        Args:
            rows: the training rows, or those for distillation.
        """
        return without(rows, self.held_out_rows, len(self.train_rows))

    @property
    def trial_count(self) -> int:
        """The number of training rows that are held out of trials."""
        left = len(self.task.splits["train"]) - self.recipe.reserved
        return min(self.recipe.method.trial_rows, left // 4)

    @cached_property
    def shuffled(self) -> list[int]:
        """The indices of the training rows in a random order, by the seed."""
        return shuffled(len(self.task.splits["train"]), self.recipe.seed)

    @cached_property
    def validation_rows(self) -> Rows:
        """All tokenized validation rows."""
        return encoded(self.task, "validation", self.tokenizer, self.recipe.data.max_length)

    @cached_property
    def eval_rows(self) -> Rows:
        """The rows of evaluations within a stage: those held out for the selection, those to tune by, or validation."""
        if self.recipe.training.select:
            return numbered(self.train_parts[0])
        rows = tuning_rows(self) if self.recipe.data.tuning_rows else self.validation_rows
        most, grouped = self.recipe.training.evaluation_rows, examples(rows)
        if most is None or most >= len(grouped):
            return numbered(rows)
        chosen = [number for example in grouped[:most] for number in example]
        chosen += of_all_examples(rows)
        return numbered([rows[number] for number in chosen])

    def collator(self) -> DataCollatorWithPadding:
        """The task's collator, padding to multiples of `length_multiple` unless these can pass the model's maximum."""
        collate = self.task.collator(self.tokenizer)
        if self.tokenizer.model_max_length % length_multiple() == 0:
            collate.pad_to_multiple_of = length_multiple()
        return collate

    def batches(self) -> list[dict[str, Tensor]]:
        """Batches of some validation rows, on which models are compared."""
        return batches(self.task, self.validation_rows, self.tokenizer)

    # Scores

    def scored_with_error(self, model: PreTrainedModel) -> tuple[Scored, float | None]:
        """The scores of a model, and the standard error of the main one."""
        return scored_with_error(model, self.task, self.validation_rows, self.tokenizer)


def training_fingerprint(data: RunData) -> str:
    """Of the training split as read, whatever the order of its rows, before the seed samples some of them."""
    recipe, whole = data.recipe.data, data.task_as_read
    if recipe.rows is not None:
        whole = open_data(recipe.model_copy(update={"rows": None}), data.recipe.seed)
    return of_rows(whole.labels, whole.splits["train"])


def trained_on(data: RunData) -> list[int] | None:
    """The indices of the training rows without those that are held out of all training; None for all of them."""
    return sorted(data.shuffled[data.recipe.reserved :]) if data.recipe.reserved else None


def tuning_rows(data: RunData) -> Rows:
    """Training rows that are held out of all training to choose settings by, sampled by the seed.

    They are the first of those held out: the same ones whatever number the selection takes, which is such a setting.
    """
    chosen = sorted(data.shuffled[: data.recipe.data.tuning_rows])
    return encoded(data.task, "train", data.tokenizer, data.recipe.data.max_length, chosen)


def tuning_score(data: RunData, model: PreTrainedModel) -> dict[str, Any] | None:
    """The main score of the rows to tune by, its standard error and their number; None where there are none."""
    if not data.recipe.data.tuning_rows:
        return None
    task = data.task.of_training_rows()
    scored, error = scores_with_error(model, task, tuning_rows(data), data.tokenizer)
    return {"rows": data.recipe.data.tuning_rows, "score": scored[task.metric], "standard_error": error}


def evaluation_task(data: RunData) -> Task:
    """The task that scores the rows of evaluations within a stage."""
    return data.task.of_training_rows() if data.recipe.reserved else data.task


def without(rows: Rows, held_out: Rows, originals: int) -> Rows:
    """The rows whose text is not held out, and is no copy of one that is; all of them if no other text is left.

    They keep their numbers, by which a cached teacher knows them.

    Args:
        rows: as many originals, and copies of all of them, one copy after the other, if any (`augmented`).
    """
    texts = {identity_of(row) for row in held_out}
    gone = [identity_of(row) in texts for row in rows]
    return [row for number, row in enumerate(rows) if not (gone[number] or gone[number % originals])] or rows


def _learnable(rows: Rows) -> Rows:
    """The rows without those all of whose tokens are unlabelled: alone in a batch, such a row has no loss.

    Raises:
        UserError: no row is left.
    """
    kept = [row for row in rows if not isinstance(own := row.get("labels"), list) or {*own} - {UNLABELLED}]
    if len(kept) < len(rows):
        log.info(
            "%d of the %d training rows have no token with a label: they are left out", len(rows) - len(kept), len(rows)
        )
    if rows and not kept:
        raise UserError(f"none of the {len(rows)} training rows has a token with a label: raise data.max_length")
    return kept


def numbered(rows: Rows) -> Rows:
    """The rows with their numbers, by which a cached teacher and the evaluation identify them."""
    return [{**row, INDEX: number} for number, row in enumerate(rows)]
