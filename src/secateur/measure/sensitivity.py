"""Sensitivity: the score of a model with one group at a time cut to several densities, without training.

Masks are attached to the model and nothing is trained, so that each score is the one of the model that `cut` would
return. Which units of a group are kept is decided by first-order importance, the sum over batches of |dL/dmask| of the
task's own loss (Molchanov et al., ICLR 2017; Michel et al., NeurIPS 2019), or by any method that needs no training.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import EvalPrediction, PreTrainedModel, PreTrainedTokenizerBase

from secateur.budget.space import Space
from secateur.measure.evaluation import BATCH, Row, encoded
from secateur.measure.group_cuts import GroupCut, group_cuts, kept_units, layer_of, on_device, outputs_of_cuts
from secateur.measure.progress import accepts_say
from secateur.measure.timing import evaluating
from secateur.methods import METHODS
from secateur.structure.space import Group
from secateur.surgery.masking import attached
from secateur.system.errors import UserError
from secateur.tasks.task import EXAMPLE, Task, examples

log = logging.getLogger(__name__)

UNITS = ("ffn", "qk", "vo", "head", "sublayer")
DENSITIES = (0.75, 0.5, 0.25, 0.1)
ROWS = 256
GRADIENT = "gradient"
SPLITS = ("train", "validation")
RESAMPLES = 200
"""Resamples of the bootstrap for the standard error."""


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
        standard_error: of that score, by the bootstrap over examples (for an accuracy the binomial one).
        densities: fractions of a group's units kept, rounded down to whole units.
        by: what decided which units are kept.
        rows: number of examples that were scored; `evidence` is the number of other examples that decided which units
            are kept. Both are sampled with `seed`.
        split: the split of the scored rows; the evidence is always of the training split.
        forwards: the number of cuts that were scored.
        seconds: the time that all of it took.
    """

    metric: str
    greater_is_better: bool
    dense: float
    standard_error: float
    densities: tuple[float, ...]
    reactions: tuple[Reaction, ...]
    by: str
    rows: int
    evidence: int
    split: str
    seed: int
    forwards: int
    seconds: float

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


@accepts_say
def sensitivity(
    model: PreTrainedModel,
    task: Task,
    tokenizer: PreTrainedTokenizerBase,
    *,
    units: Sequence[str] = UNITS,
    densities: Sequence[float] = DENSITIES,
    rows: int = ROWS,
    split: str = "train",
    by: str = GRADIENT,
    max_length: int = 128,
    seed: int = 0,
) -> Sensitivity:
    """Score a fine-tuned, dense model with each group alone cut to each density; the model is left unchanged.

    Args:
        model: dense, with the task's head.
        task: its loss gives the importance of units, and its metric the scores.
        tokenizer: the model's.
        units: kinds of units; each group of each kind (`3.ffn`, `3.head`, `3.attention`) is cut alone.
        densities: fractions in [0, 1] of a group's units to keep. A group of one unit is kept or removed.
        rows: number of examples to score on, and of other training examples that decide which units are kept; a
            training split with fewer than both together is halved.
        split: "train" or "validation": the split to score on. The evidence never includes a scored row.
        by: "gradient", or the name of a method that needs no training.
        max_length: tokens that a text is truncated to.
        seed: for the sampling of the rows and the bootstrap.

    Raises:
        UserError: a number out of range, an unknown name, or a model that `Space` refuses.
    """
    _check(densities, rows, split, by)
    started, space = time.monotonic(), Space(model, *units)
    space.table.one_stack("the sensitivity")
    scored, evidence = _sampled_rows(task, tokenizer, split, rows, max_length, seed)
    collate = task.collator(tokenizer)
    scored.sort(key=lambda row: len(row["input_ids"]))  # rows of one length need no padding
    with evaluating([model]):
        log.info("choosing units by %s", by)
        cuts = group_cuts(
            space, _importance_by(model, space, by, [dict(collate(b)) for b in _batches(evidence)]), densities
        )
        log.info("scoring %d cuts on %d rows", len(cuts), len(examples(scored)))
        batches = [collate(rows_of_batch) for rows_of_batch in _batches(scored)]
        outputs, labels = outputs_of_cuts(model, space, list(cuts.values()), batches, task.label_names)
    dense, *scores = [_score(task, output, labels, scored) for output in outputs]
    by_cut = dict(zip(cuts, scores, strict=True))
    return Sensitivity(
        metric=task.metric,
        greater_is_better=task.greater_is_better,
        dense=dense,
        standard_error=_standard_error(task, outputs[0], labels, scored, seed),
        densities=tuple(densities),
        reactions=tuple(_reaction(space, group, densities, cuts, by_cut) for group in space.groups),
        by=by,
        rows=len(examples(scored)),
        evidence=len(examples(evidence)) if by == GRADIENT else 0,
        split=split,
        seed=seed,
        forwards=len(cuts),
        seconds=time.monotonic() - started,
    )


def importance(model: PreTrainedModel, space: Space, batches: Sequence[Any]) -> Tensor:
    """`(N,)` first-order importance of every unit: the sum over labelled batches of |d(task's loss)/d(mask)|."""
    total = torch.zeros(len(space), device=model.device)
    with torch.enable_grad(), attached(model, space, space.ones()) as attachment:
        for batch in batches:
            loss = model(**on_device(batch, model)).loss
            total += torch.autograd.grad(loss, attachment.masks)[0].abs()
    return total


def _check(densities: Sequence[float], rows: int, split: str, by: str) -> None:
    """Refuse arguments out of range before any row is read."""
    if not densities or len(set(densities)) < len(densities) or not all(0.0 <= d <= 1.0 for d in densities):
        came = ", ".join(f"{density:g}" for density in densities) or "none"
        raise UserError(f"expected densities in [0, 1], each once, got {came}: fractions of a group's units to keep")
    if rows < 1:
        raise UserError(f"expected rows of at least 1, got {rows}: score some hundreds")
    if split not in SPLITS:
        raise UserError(f"expected split {' or '.join(SPLITS)}, got {split!r}: the rows to score on")
    if by != GRADIENT and by not in METHODS.all():
        raise UserError(f"expected by {GRADIENT}, or a method that needs no training, got {by!r}: see `secateur list`")


def _sampled_rows(
    task: Task, tokenizer: PreTrainedTokenizerBase, split: str, rows: int, max_length: int, seed: int
) -> tuple[list[Row], list[Row]]:
    """Rows to score on, and other rows of the training split as evidence; both sampled with the seed."""
    train = _shuffled(len(task.splits["train"]), seed)
    scored, evidence = _shuffled(len(task.splits[split]), seed)[:rows], train[:rows]
    if split == "train":
        count = min(rows, len(train) // 2)
        if not count:
            raise UserError(
                f"expected a training split of at least 2 rows, one to score and one as evidence, got {len(train)}: "
                "add rows"
            )
        scored, evidence = train[:count], train[count : 2 * count]
    return encoded(task, split, tokenizer, max_length, scored), encoded(task, "train", tokenizer, max_length, evidence)


def _shuffled(count: int, seed: int) -> list[int]:
    return torch.randperm(count, generator=torch.Generator().manual_seed(seed)).tolist()


def _batches(rows: list[Row]) -> list[list[Row]]:
    return [rows[first : first + BATCH] for first in range(0, len(rows), BATCH)]


def _importance_by(model: PreTrainedModel, space: Space, by: str, batches: Sequence[Any]) -> Tensor:
    """`(N,)` importance of each unit, to be compared with the others of its group."""
    if by == GRADIENT:
        return importance(model, space, batches)
    method = METHODS.get(by)(space)
    if method.listens_to or method.param_groups():
        raise UserError(f"{by!r} learns its choice in training: choose by {GRADIENT}, or by magnitude")
    return method.scores()


def _reaction(
    space: Space,
    group: Group,
    densities: Sequence[float],
    cuts: Mapping[tuple[str, int], GroupCut],
    scores: Mapping[tuple[str, int], float],
) -> Reaction:
    kept = tuple(kept_units(group, density) for density in densities)
    return Reaction(
        group=group.name,
        kind=group.kind,
        layer=layer_of(group),
        size=group.size,
        kept=kept,
        scores=tuple(scores[group.name, count] for count in kept),
        saved=tuple(1.0 - space.density(cuts[group.name, count].masks) for count in kept),
    )


# Scores


def _score(task: Task, outputs: Any, labels: Any, rows: Sequence[Row]) -> float:
    return task.score(EvalPrediction(outputs, labels), rows)[task.metric]


def _standard_error(task: Task, outputs: Any, labels: Any, rows: Sequence[Row], seed: int) -> float:
    """Standard deviation of the score over resamples of the examples with replacement (Efron, 1979)."""
    own = examples(rows)
    samples = np.random.default_rng(seed).integers(len(own), size=(RESAMPLES, len(own)))
    scores = [_resampled_score(task, outputs, labels, rows, [own[n] for n in sample]) for sample in samples]
    return float(np.std(scores, ddof=1))


def _resampled_score(
    task: Task, outputs: Any, labels: Any, rows: Sequence[Row], sample: Sequence[Sequence[int]]
) -> float:
    """The score of a sample of examples, each given by the indices of its rows; one sampled twice counts as two."""
    indices = [index for example in sample for index in example]
    resampled = [{**rows[index], EXAMPLE: number} for number, example in enumerate(sample) for index in example]
    return _score(task, _at(outputs, indices), _at(labels, indices), resampled)


def _at(values: Any, indices: Sequence[int]) -> Any:
    return tuple(value[indices] for value in values) if isinstance(values, tuple) else values[indices]
