"""Tasks of sentence-transformers: their models' folders say more than a config, and a model can be the standard."""

from __future__ import annotations

from abc import abstractmethod

from transformers import PreTrainedModel

from secateur.tasks.task import Task


class ComparedTask(Task):
    """A task whose outputs are scored against those of a reference where the data does not say what is right.

    The reference is the option `reference` of `from_data`.
    """

    @abstractmethod
    def adapt(self, model: PreTrainedModel, name: str, *, asked: bool = True) -> None:
        """Give a model, in place, what the options of the data say that its folder does not.

        Args:
            model: as `open_model` opens it.
            name: where it was opened.
            asked: whether the options were given for this model; otherwise it has its own way where it has one.

        Raises:
            UserError: the task cannot use the model, or the options contradict its folder.
        """

    @abstractmethod
    def with_reference(self, name: str) -> ComparedTask:
        """The task with a model as its reference, unless the user has named one.

        Args:
            name: a model folder, or a name on the hub.
        """

    @abstractmethod
    def check_scored(self) -> None:
        """Refuse a task that scores nothing.

        Raises:
            UserError: the data does not say what is right, and there is no reference.
        """
