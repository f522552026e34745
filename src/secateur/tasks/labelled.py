"""Tasks whose data has a column of labels, each of which is an output of the model's head."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from inspect import signature
from pathlib import Path
from typing import Any, TypeVar, cast

from datasets import ClassLabel, DatasetDict
from transformers import EvalPrediction, PreTrainedModel

from secateur.tasks.checkpoint_labels import config_of, head_labels
from secateur.tasks.class_scores import ClassScore
from secateur.tasks.columns import listed
from secateur.tasks.labels import (
    OUTPUTS_HINT,
    SCORES_HINT,
    Labels,
    Order,
    element_of,
    names_of_outputs,
    outputs_of,
)
from secateur.tasks.origin import Splits
from secateur.tasks.splits import first_rows
from secateur.tasks.task import Task

Self = TypeVar("Self", bound="LabelledTask")

log = logging.getLogger(__name__)


class LabelledTask(Task):
    """A dataclass of a task with labels.

    Attributes:
        label: the column of labels, by their index in `labels`, or of lists of them; the last column of the splits.
    """

    label: str

    def head(self) -> dict[str, Any]:
        names = self.labels or ()
        return {
            "num_labels": len(names),
            "id2label": dict(enumerate(names)),
            "label2id": {name: index for index, name in enumerate(names)},
        }

    def only_answer(self, split: str) -> str | None:
        """As of `Answered`; here of a task that does not say it."""
        return None

    def with_first_rows(self: Self, rows: int | None, seed: int) -> Self:
        """The task with that many training rows, sampled by the seed; with all by default.

        Raises:
            UserError: `rows` < 1.
        """
        if rows is None:
            return self
        splits: DatasetDict = Splits(self.splits | {"train": first_rows(self.splits["train"], rows, seed)}, self.origin)
        own: Self = replace(cast(Any, self), splits=splits)
        return own

    def described(self) -> dict[str, str]:
        """The columns of texts and of labels, and the labels in the order of the outputs."""
        texts = [name for name in self.splits["train"].column_names if name != self.label]
        what = "numbers" if self.labels is None else f"{len(self.labels)} labels"
        named = "" if self.labels is None else f": {listed(self.labels)}"
        return {"texts": ", ".join(texts), "labels": f"{self.label}, {what}{named}"}

    def texts_with_class(self, split: str) -> tuple[list[str], list[int]] | None:
        """The text of each row of a split, and its class; None for a task whose rows have no class each."""
        return None

    def class_scores(self, prediction: EvalPrediction, rows: Sequence[Mapping[str, Any]]) -> list[ClassScore]:
        """The scores of each class by itself, arguments as of `score`; none for a task whose labels are no classes."""
        return []

    def fitted(self, model_or_folder: PreTrainedModel | str | Path, role: str) -> Task:
        """The task with its labels in the order of a checkpoint's head, and by its names if it has any.

        A checkpoint without a head for this kind of task leaves the labels as they are.

        Raises:
            UserError: the labels do not fit the head, or their order would be a guess (see `labels.outputs_of`); `role`
                ("teacher") says in the message whose head it is.
        """
        config = config_of(model_or_folder)
        if self.labels is None or not self._has_head(config):
            return self
        head = head_labels(config)
        outputs = outputs_of(self.labels, self._order(), head, f"the {role}", self._hint_of_one_output())
        names = names_of_outputs(self.labels, outputs, head)
        if names == self.labels:
            return self
        matched = [f"{name} is {names[output]}" for name, output in zip(self.labels, outputs, strict=True)]
        log.info("labels of the data as outputs of the %s: %s", role, listed(matched))
        labels = Labels(names, "data", dict(zip(self.labels, outputs, strict=True)))
        moved = {"splits": labels.indexed(self.splits, self.label), "labels": names, **self._moved(outputs)}
        task: Task = replace(cast(Any, self), **moved)
        return task

    def _hint_of_one_output(self) -> str:
        """What to do with a head that has one output: let labels be scores, where the task takes scores too."""
        return SCORES_HINT if "scores" in signature(type(self).from_data).parameters else OUTPUTS_HINT

    def _moved(self, outputs: Sequence[int]) -> dict[str, Any]:
        """Own attributes that name a label by its index, after label i of the data has become output outputs[i]."""
        return {}

    def in_order_of(self, folder: str | Path, role: str) -> Task:
        """As `fitted`, for models that have the outputs of a checkpoint's head and may have other names for them.

        Raises:
            UserError: as `fitted`.
        """
        task = cast(LabelledTask, self.fitted(folder, role))
        if task.labels is None or not self._has_head(config_of(folder)):
            return task
        labels = Labels(task.labels, "asked", {name: index for index, name in enumerate(task.labels)})
        return cast(Task, replace(cast(Any, task), splits=labels.indexed(task.splits, task.label)))

    def _order(self) -> Order:
        feature = element_of(self.splits["train"].features[self.label])
        order = feature.id if isinstance(feature, ClassLabel) else None
        return order if order in ("asked", "sorted") else "data"
