"""What a verification found: the largest differences of models that should give the same outputs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from secateur.deploy.compared_pieces import ComparedPieces
from secateur.deploy.export import TOLERANCE, within

SELDOM = ("whole_kept", "pieces", "dense_masked", "dense_compact", "same_weights")
"""Values of a verification that it only has where a dense model was given too."""


@dataclass(frozen=True)
class Verification:
    """Largest absolute differences of the logits over all inputs; None for a comparison that was not made.

    Attributes:
        masked_compact: dense model under the plan's masks, against the model cut by the plan; computed in float64 where
            the rounding of fp32 alone may exceed the tolerance. Of a folder: its own weights, in their old positions.
        compact_loaded: cut model in memory, against the folder loaded again.
        examples: number of inputs.
        scale: largest absolute logit of the last comparison.
        compact_exported: model in memory, all of its outputs, against an exported file in its own runtime.
        dtype: the dtype that the exported file runs in.
        tolerance: the largest allowed difference between models, relative to the largest logit: 1e-4 for rounding in
            another order of summation, 8 roundings of the weights' dtype if that is less precise than fp32.
        whole_kept: dense model with all pieces, against the one with the kept rows of its vocabulary, on kept pieces.
        pieces: whether texts are split as before, if both tokenizers were compared.
        dense_masked: as `masked_compact`, of a dense model that was given beside a folder.
        dense_compact: dense model cut by the plan, against the cut model, or the one of the folder. It is large after
            a training or a refit, and for any other model of the same shape.
        scales: name of a comparison -> largest absolute logit in it, to which its difference is relative; `scale` where
            it is not there.
    """

    masked_compact: float | None
    compact_loaded: float | None
    examples: int
    scale: float
    compact_exported: float | None = None
    dtype: str | None = None
    tolerance: float = TOLERANCE
    whole_kept: float | None = None
    pieces: ComparedPieces | None = None
    dense_masked: float | None = None
    dense_compact: float | None = None
    scales: Mapping[str, float] = field(default_factory=dict)

    @property
    def passed(self) -> bool:
        """Whether every difference of models is at most `tolerance` of the largest logit, and all pieces are equal.

        A file in another dtype than fp32 can only be judged by its scores: here its outputs must be finite. Other
        weights than those of a dense model are no failure, see `same_weights`.
        """
        exported, scale = self.compact_exported, self._scale("compact_exported")
        if exported is not None and self.dtype is not None and not within(exported, scale, self.dtype):
            return False
        if self.pieces is not None and not self.pieces.passed:
            return False
        return all(map(self._small, ("whole_kept", "masked_compact", "compact_loaded", "dense_masked")))

    @property
    def same_weights(self) -> bool | None:
        """Whether the cut model computes what the dense one does when it is cut; None if they were not compared."""
        return None if self.dense_compact is None else self._small("dense_compact")

    def _small(self, name: str) -> bool:
        """Whether a comparison was not made, or its difference is small."""
        difference = getattr(self, name)
        return difference is None or difference <= self.tolerance * max(1.0, self._scale(name))

    def _scale(self, name: str) -> float:
        return self.scales.get(name, self.scale)

    def to_dict(self) -> dict[str, Any]:
        """Plain values; those of a comparison with a dense model only if it was made."""
        values = {**asdict(self), "passed": self.passed, "same_weights": self.same_weights}
        return {name: one for name, one in values.items() if one is not None or name not in SELDOM}
