"""The outputs of a model for windows of a context: computing them, combining them, and scores of their tokens."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from secateur.system.model_state import evaluating
from secateur.tasks.answers import Spans, best_spans, merged
from secateur.tasks.windows import WindowCollator, unpacked

BATCH = 32
"""Windows in a batch when one question is answered."""
PADDING = -100.0
"""The value with which Trainer pads shorter batches of logits."""

WindowOutput: TypeAlias = tuple[Any, Any, Mapping[str, Any]]
"""Start logits `(tokens,)`, end logits `(tokens,)` and encoded row of one window."""


def outputs_of(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, rows: Sequence[dict[str, Any]]
) -> list[WindowOutput]:
    """The outputs of a model in evaluation mode, for encoded windows; its own mode is restored."""
    batches = (list(rows[first : first + BATCH]) for first in range(0, len(rows), BATCH))
    with evaluating([model]):
        return [output for batch in batches for output in _batch_outputs(model, tokenizer, batch)]


def _batch_outputs(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, rows: list[dict[str, Any]]
) -> Iterator[WindowOutput]:
    inputs = {name: value.to(model.device) for name, value in WindowCollator(tokenizer)(rows).items()}
    outputs = model(**inputs)
    start, end = (logits.float().cpu().numpy() for logits in (outputs.start_logits, outputs.end_logits))
    return zip(start, end, rows, strict=True)


def combined(outputs: Sequence[WindowOutput], most: int, longest: int) -> tuple[Spans, float]:
    """The best spans over all windows of a question, and the lowest score of "no answer" in any of them.

    Args:
        outputs: of the windows of one question.
        most: answers to keep of each window.
        longest: most tokens of an answer.
    """
    spans = merged(
        best_spans(start, end, unpacked(row["offsets"]), most=most, longest=longest) for start, end, row in outputs
    )
    return spans, min(float(start[row["nothing"]]) + float(end[row["nothing"]]) for start, end, row in outputs)


def token_scores(start: NDArray[Any], end: NDArray[Any], first: int, last: int, *, longest: int) -> tuple[float, float]:
    """f1 and exact match of the tokens of the best span of one window with those from `first` to `last`.

    Args:
        start, end: logits `(tokens,)`, padded with `PADDING`.
        first, last: labels.
        longest: most tokens of an answer.
    """
    count = int((start != PADDING).sum())
    tokens = np.stack([np.arange(count), np.arange(count) + 1], axis=1)
    ((begin, stop),) = best_spans(start, end, tokens, most=1, longest=longest) or {(0, 0): 0.0}
    shared = max(0, min(stop, last + 1) - max(begin, first))
    return 2 * shared / (stop - begin + last + 1 - first), float((begin, stop) == (first, last + 1))
