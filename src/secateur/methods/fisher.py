"""Pruning by the diagonal of the Fisher information of the masks (Kwon et al., NeurIPS 2022, arXiv 2204.09656).

From its sections on the Fisher information and on the mask search:
    the Fisher information of the masks, the mean over batches of `(dL/dm) (dL/dm)^T` at m = 1              `observe`
    its diagonal: what the loss grows by when a unit is removed alone, up to a factor                       `observe`
    the units of the lowest growth per cost are removed first                                               `scores`

Like other methods it also works along a schedule, under training. The paper goes on without training: it rearranges
masks within layers by the block diagonal, and tunes them by least squares. Here the refit of the weights at the cut has
that part (`surgery/compensation.py`). The published code takes the gradient of a batch of 32 rows where the
definition has that of one row. So does a cut here, of fewer rows for a language model (`evaluation.rows_of_batch`),
and a run that of its own batches.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from secateur.budget.space import Space
from secateur.methods import register
from secateur.methods.method import Amount, finite
from secateur.methods.rounds import CoarseRound
from secateur.methods.scheduled import Scheduled


@register("fisher")
class Fisher(Scheduled):
    """Removes the units with the smallest mean squared gradient of the loss with respect to their mask, per parameter.

    Args:
        space: usually `Space(model, "head", "ffn")`; any units work.
        density: the schedule.
        rounds: as of `Scheduled`.

    Attributes:
        importance: `(N,)`, the sum of squared gradients since the beginning, or since the recovery from coarse rounds.
    """

    importance: Tensor
    defaults = {"target.units": ("head", "ffn")}

    def __init__(
        self,
        space: Space,
        share: Amount | None = None,
        density: Amount | None = None,
        rounds: Sequence[CoarseRound] = (),
    ) -> None:
        super().__init__(space, share, density, rounds)
        self.register_buffer("importance", torch.zeros_like(self.alive, dtype=torch.float))

    @property
    def listens_to(self) -> Mapping[str, float]:
        return {} if self.reached_target() or self.recovering else {"labels": 1.0, "logits": 1.0}

    def observe(self, gradient: Tensor) -> None:
        self.importance += finite(gradient).square()

    def forget_evidence(self) -> None:
        self.importance.zero_()

    def scores(self) -> Tensor:
        """`(N,)`: the importance per parameter."""
        return self.importance / self.space.unit_cost()
