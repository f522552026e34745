"""The scores of a reference, such as the teacher, for pairs without labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from datasets import Dataset, DatasetDict
from numpy.typing import NDArray
from transformers import PreTrainedConfig

from secateur.surgery.cross_encoders import settings
from secateur.surgery.opening import model_folder, open_model, open_tokenizer
from secateur.system import devices
from secateur.system.errors import UserError
from secateur.tasks.checkpoint_labels import check_count, config_of
from secateur.tasks.reranking_data import LISTED, QUERY
from secateur.tasks.rows import most_tokens
from secateur.tasks.tokenizer_settings import check_padded, kept_settings

if TYPE_CHECKING:
    from secateur.tasks.task import Task

NUMBER, PAIR = "number", "pair"
"""The column of splits with the number of a query, and that of encoded rows with a `Pair`."""
BATCH = 32
"""Pairs of a batch when the reference scores them."""

Pair = tuple[int, int, int]
"""The number of a query, the place of a passage of its, and the tokens to which both were cut."""


def numbered(splits: DatasetDict) -> None:
    """Give all queries of the splits numbers, in place."""
    first = 0
    for key, split in list(splits.items()):
        numbers: Any = list(range(first, first + len(split)))
        splits[key] = split.add_column(NUMBER, numbers)  # type: ignore[call-arg]
        first += len(split)


@dataclass(frozen=True, eq=False)
class Reference:
    """A model whose scores of pairs count as right; it is opened and run when pairs are new.

    Attributes:
        name: a folder, that of a run, or a name on the hub.
        splits: which are `numbered`.
    """

    name: str
    splits: Mapping[str, Dataset]
    known: dict[Pair, float] = field(default_factory=dict)

    def scores(self, pairs: Sequence[Pair]) -> NDArray[Any]:
        """`(pairs,)`, of pairs that are cut to their tokens, or to fewer if the model takes fewer.

        Raises:
            UserError: the model cannot be opened, or has no tokenizer with a padding token.
        """
        missing = [pair for pair in dict.fromkeys(pairs) if pair not in self.known]
        for most in sorted({most for _, _, most in missing}):
            own = [pair for pair in missing if pair[2] == most]
            self.known.update(zip(own, self._run(own, most), strict=True))
        return np.array([self.known[pair] for pair in pairs])

    @torch.inference_mode()
    def _run(self, pairs: Sequence[Pair], longest: int) -> list[float]:
        texts = {
            number: (query, passages)
            for split in self.splits.values()
            for number, query, passages in zip(split[NUMBER], split[QUERY], split[LISTED], strict=True)
        }
        chosen = [(texts[number][0], texts[number][1][place]) for number, place, _ in pairs]
        model, tokenizer = open_model(self.name), open_tokenizer(self.name)
        check_padded(tokenizer)
        torch.nn.Module.to(model, devices.accelerator() or torch.device("cpu"))
        longest = min(longest, most_tokens(tokenizer, model) or longest)
        scores = np.zeros(len(pairs))
        order = sorted(range(len(pairs)), key=lambda place: -len(chosen[place][1]))
        for first in range(0, len(order), BATCH):
            places = order[first : first + BATCH]
            sides = zip(*(chosen[place] for place in places), strict=True)
            with kept_settings(tokenizer):
                batch = tokenizer(
                    *map(list, sides), truncation=True, max_length=longest, padding=True, return_tensors="pt"
                )
            scores[places] = model(**batch.to(model.device)).logits.float().flatten().cpu().numpy()
        return scores.tolist()


def check_reference(task: Task, name: str) -> None:
    """Refuse a model that does not score pairs, before anything is compared with it.

    Raises:
        UserError: it does not exist, has no head with one output, puts a prompt before its texts, or has no tokenizer.
    """
    folder = str(model_folder(name))
    task.check_head(folder, "reference")
    check_count(config_of(folder), PreTrainedConfig(**task.head()), "the reference")
    check_prompt(folder)
    open_tokenizer(folder)


def check_prompt(name: str) -> None:
    """Refuse a cross-encoder that puts a prompt before its texts.

    Raises:
        UserError: naming the prompt.
    """
    prompt = settings(name).get("default_prompt_name")
    if prompt:
        raise UserError(
            f"model {name!r} puts the prompt {prompt!r} before its texts, which the task reranking does not: give a "
            "cross-encoder without a default prompt"
        )
