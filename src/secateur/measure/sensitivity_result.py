"""The result of a sensitivity study: the model's score with each group alone cut to each density."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Reaction:
    """How the score changes when one group is cut.

    Attributes:
        group: its name, such as `3.ffn`.
        kind: the kind of its units.
        layer: None for the residual stream.
        size: the number of its units.
        kept: the number of units kept, at each density of the study.
        scores: the model's score, at each density.
        saved: fraction of the model's prunable parameters that the cut removes, at each density.
    """

    group: str
    kind: str
    layer: int | None
    size: int
    kept: tuple[int, ...]
    scores: tuple[float, ...]
    saved: tuple[float, ...]

    @property
    def suffix(self) -> str:
        """The group's name without its layer: `ffn` of `3.ffn`."""
        return self.group.rpartition(".")[2]


@dataclass(frozen=True)
class Sensitivity:
    """The scores of a model with each group alone cut to each density.

    Attributes:
        metric: the score's name; `greater_is_better` is its direction.
        dense: the score of the whole model on the same rows.
        standard_error: of that score, by the jackknife over groups of examples (for an accuracy about the binomial
            one); None where it is not known.
        densities: fractions of a group's units kept, rounded down to whole units.
        by: "gradient" or the name of the method that decided which units are kept.
        reactions: an entry for each group.
        rows: number of examples that were scored.
        evidence: number of other training examples that decided which units are kept; 0 if none were needed.
        split: the split of the scored rows, "train" or "validation"; `split_name` is its name in the data, None for
            rows that are split off the training rows.
        seed: of the sampling of both.
        forwards: the number of cuts that were scored.
        seconds: the time that the study took.
    """

    metric: str
    greater_is_better: bool
    dense: float
    standard_error: float | None
    densities: tuple[float, ...]
    reactions: tuple[Reaction, ...]
    by: str
    rows: int
    evidence: int
    split: str
    seed: int
    forwards: int
    seconds: float
    split_name: str | None = "train"

    def drop(self, score: float) -> float:
        """How much worse a score is than the whole model's."""
        return self.dense - score if self.greater_is_better else score - self.dense

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return asdict(self)

    def by_suffix(self) -> dict[str, list[Reaction]]:
        """The reactions of all layers under the suffix of their groups: `ffn` -> those of `0.ffn`, `1.ffn`, ..."""
        reactions: dict[str, list[Reaction]] = {}
        for reaction in self.reactions:
            reactions.setdefault(reaction.suffix, []).append(reaction)
        return reactions
