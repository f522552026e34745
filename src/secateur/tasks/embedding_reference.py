"""The model with whose vectors others are compared: it runs over each text once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from secateur.surgery.opening import model_folder, open_tokenizer
from secateur.system import devices
from secateur.system.model_state import evaluating
from secateur.tasks.checkpoint_labels import read_config
from secateur.tasks.embedding_data import TEXT
from secateur.tasks.rows import most_tokens
from secateur.tasks.tokenizer_settings import kept_settings

if TYPE_CHECKING:
    from secateur.tasks.embedding import SentenceEmbedding

BATCH = 32
"""Texts of a batch."""
MOST_TOKENS = "most_tokens"
"""Column of encoded texts: the tokens to which they were cut."""


class Reference:
    """Vectors of a model, which is loaded when a text is asked for that it has not seen.

    Args:
        name: a model folder, that of a run, or a name on the hub.
    """

    def __init__(self, name: str) -> None:
        self.name = str(model_folder(name))
        self._known: dict[tuple[str, int], NDArray[np.float32]] = {}

    def check(self, task: SentenceEmbedding) -> None:
        """Refuse a model that gives no vectors, before anything is compared with it.

        Raises:
            UserError: it does not exist, has no pooling, or no tokenizer.
        """
        read_config(self.name)
        task.check_head(self.name, "reference")
        open_tokenizer(self.name)

    def vectors(self, task: SentenceEmbedding, rows: Sequence[Mapping[str, Any]]) -> NDArray[np.float32]:
        """`(texts, dims)`: of the texts of encoded rows, whose tokens may be those of another tokenizer.

        Args:
            task: loads the model and pads batches.
        """
        texts = [(row[TEXT], row[MOST_TOKENS]) for row in rows]
        new = [text for text in dict.fromkeys(texts) if text not in self._known]
        if new:
            self._add(task, new)
        return np.stack([self._known[text] for text in texts])

    @torch.inference_mode()
    def _add(self, task: SentenceEmbedding, texts: Sequence[tuple[str, int]]) -> None:
        """Compute vectors of texts, the longest first, on the accelerator if there is one."""
        model, tokenizer = task.load_reference(self.name), open_tokenizer(self.name)
        torch.nn.Module.to(model, devices.accelerator() or torch.device("cpu"))
        collate = task.collator(tokenizer)
        limit = most_tokens(tokenizer, model)
        with kept_settings(tokenizer):
            rows = [
                (dict(tokenizer(text, truncation=True, max_length=min(most, limit or most))), (text, most))
                for text, most in texts
            ]
        rows.sort(key=lambda row: -len(row[0]["input_ids"]))
        with evaluating([model]):
            for first in range(0, len(rows), BATCH):
                batch = rows[first : first + BATCH]
                inputs = {name: value.to(model.device) for name, value in collate([row for row, _ in batch]).items()}
                computed = model(**inputs).sentence_embedding.float().cpu().numpy()
                self._known |= {text: vector for (_, text), vector in zip(batch, computed, strict=True)}
