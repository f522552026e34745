"""Heads with one output: whether its score is a number, or the logit of a probability as in a re-ranker.

transformers trains any head with one output as a regression, by the squared error of the output. A `CrossEncoder` of
sentence-transformers has the same head without a `problem_type`, and trains it by the binary cross-entropy of its
sigmoid; pipelines and `secateur predict` apply the sigmoid, too.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable

from transformers import PreTrainedConfig

from secateur.system.errors import UserError

log = logging.getLogger(__name__)

REGRESSION = "regression"
"""The `problem_type` by which transformers computes the squared error of the outputs."""
SIGMOID = "multi_label_classification"
"""The `problem_type` by which transformers computes the binary cross-entropy of each output, also of a single one."""


def has_sigmoid(config: PreTrainedConfig, scores: Iterable[float], column: str) -> bool:
    """Whether the one output of a checkpoint is the logit of a probability.

    It is if the checkpoint has no `problem_type` and all scores are in [0, 1], or if its `problem_type` is `SIGMOID`.

    Args:
        config: of a checkpoint whose head has one output.
        scores: of all rows.
        column: of the scores, for the message.

    Raises:
        UserError: the checkpoint states probabilities, and a score is none.
    """
    if config.problem_type not in (None, SIGMOID):
        return False
    odd = next((value for value in scores if not 0 <= value <= 1), None)
    if odd is not None and config.problem_type == SIGMOID:
        raise UserError(
            f"the model's output is a probability ({SIGMOID}), and column {column!r} holds {odd:g}: scale the scores "
            "to [0, 1]"
        )
    kind = "a regression" if odd is not None else "a sigmoid, because all scores are in [0, 1]"
    log.info("the one output of the model is trained as %s", kind)
    return odd is None


def are_probabilities(scores: Iterable[float]) -> bool:
    """Whether all scores are in [0, 1]."""
    return all(0 <= value <= 1 for value in scores)
