"""The data of a run that cuts the vocabulary: which pieces are kept, and the rows in their new numbers.

Pieces are counted before anything is trained, so that the cached outputs of the teacher, the pruning and the recovery
all have the new numbers. The student and the model that teaches it have the same rows. The teacher itself, which is
trained and scored as a whole model, keeps its vocabulary and its tokenizer (`whole`). Everything follows from the
recipe, its texts and its model, so that a run which is resumed comes to the same pieces.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from secateur.measure.evaluation import encoded
from secateur.run.recipe import Recipe
from secateur.run.run_data import Rows, RunData, recipe_model, trained_on
from secateur.structure.encoded_rows import UNLABELLED
from secateur.structure.vocabulary import Vocabulary
from secateur.surgery.vocabulary.counting import Coverage, counts_of, kept_pieces, rows_coverage, text_counts
from secateur.surgery.vocabulary.rows import cut_rows, row_count
from secateur.surgery.vocabulary.texts import read_texts
from secateur.surgery.vocabulary.token_numbers import token_numbers
from secateur.surgery.vocabulary.tokenizer import cut_tokenizer
from secateur.tasks.task import Task, examples


def data_of(recipe: Recipe) -> RunData:
    """The data of a recipe."""
    return RunData(recipe) if recipe.vocabulary.pieces == "all" else VocabularyData(recipe)


def reported(data: RunData) -> dict[str, Any] | None:
    """The number of pieces before and after, and what that changes in the scored rows; None where all are kept."""
    if data.vocabulary is None or data.coverage is None:
        return None
    pieces = {"teacher": data.vocabulary.size, "model": len(data.vocabulary)}
    return {"pieces": pieces, "coverage": data.coverage.to_dict()}


@dataclass(frozen=True)
class VocabularyData(RunData):
    """The data of a recipe whose model keeps a part of its vocabulary."""

    @cached_property
    def whole(self) -> RunData:
        return RunData(self.recipe)

    @property
    def task_as_read(self) -> Task:
        return self.whole.task_as_read

    @property
    def task(self) -> Task:
        return self.whole.task

    @cached_property
    def vocabulary(self) -> Vocabulary:
        model = recipe_model(self.recipe, self.task, dtype="auto")  # weights that are not used stay in their file
        counts = self.counted_pieces(row_count(model))
        return kept_pieces(self.whole.tokenizer, counts, self.recipe.vocabulary.min_count, token_numbers(model))

    def counted_pieces(self, size: int) -> Tensor:
        """How often each piece occurs in the training rows, and in the further texts of the recipe, `(size,)`.

        Rows that are held out of all training, by which weights or settings are chosen, do not count: like those that
        are scored they may have pieces that go.

        Raises:
            UserError: a file of texts cannot be read.
        """
        texts, words = read_texts(self.recipe.vocabulary.texts), self.whole.tokenizer
        rows = encoded(self.task, "train", words, self.recipe.data.max_length, trained_on(self))
        return counts_of(_tokens(self.task, rows), size) + text_counts(words, texts, size)

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        return cut_tokenizer(self.whole.tokenizer, self.vocabulary)

    @cached_property
    def coverage(self) -> Coverage:
        before, after = (_by_example(self.task, data.validation_rows) for data in (self.whole, self))
        return rows_coverage(self.whole.tokenizer, self.vocabulary, before, after)

    def with_kept_rows(self, model: PreTrainedModel) -> PreTrainedModel:
        return cut_rows(model, self.vocabulary)


def piece_counts(task: Task, rows: Rows, tokenizer: PreTrainedTokenizerBase) -> Tensor | None:
    """How often each piece of a tokenizer occurs in rows that it has encoded, `(pieces,)`; None for images."""
    return counts_of(_tokens(task, rows), len(tokenizer)) if task.lengths else None


def counts_of_texts(data: RunData) -> Tensor | None:
    """How often each piece of a run's tokenizer occurs in the texts that its model is for, `(pieces,)`.

    They are the training rows, and the further texts of the recipe. None for images.

    Raises:
        UserError: a file of texts cannot be read.
    """
    counts = piece_counts(data.task, data.train_rows, data.tokenizer)
    texts = read_texts(data.recipe.vocabulary.texts)
    return counts + text_counts(data.tokenizer, texts, len(counts)) if counts is not None and texts else counts


def _tokens(task: Task, rows: Rows) -> Iterator[Sequence[int]]:
    """The tokens of rows; of a task that generates, those of the targets too."""
    for row in rows:
        yield row["input_ids"]
        if task.generates:
            yield [number for number in row["labels"] if number != UNLABELLED]


def _by_example(task: Task, rows: Rows) -> list[list[int]]:
    """The tokens of each example, of all its rows."""
    return [
        [number for index in own for tokens in _tokens(task, [rows[index]]) for number in tokens]
        for own in examples(rows)
    ]
