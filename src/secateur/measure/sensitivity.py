"""How much each group matters: the score of a model with one group at a time cut to several densities, untrained.

Masks are put on the model and nothing is trained, so a cell of the study is the score of the model that `cut` would
make of it. Which units of a group go first is told by first-order importance, the sum over batches of |dL/dmask| of the
task's own loss (Molchanov et al., ICLR 2017; Michel et al., NeurIPS 2019), or by any method that needs no training.
What lies in front of a group does not change with it, so its output is computed once a batch and handed on.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial, reduce
from itertools import takewhile
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import EvalPrediction, PreTrainedModel, PreTrainedTokenizerBase
from transformers.trainer_pt_utils import nested_concat

from secateur.measure.bench import evaluating
from secateur.measure.evaluation import BATCH, Row, alone, encoded
from secateur.methods.method import named, registered
from secateur.report import html, svg
from secateur.structure.space import Group, Space
from secateur.surgery.masking import attached
from secateur.system.errors import UserError
from secateur.tasks.task import EXAMPLE, UNLABELLED, Task, examples

UNITS = ("ffn", "qk", "vo", "head", "sublayer")
DENSITIES = (0.75, 0.5, 0.25, 0.1)
ROWS = 256
GRADIENT = "gradient"
Say = Callable[[str], None]
DRAWS = 200
"""Draws of the bootstrap for the standard error."""

WARNINGS = {
    "train": "these are training rows, which the model may know by heart: they rank groups, and flatter every score",
    "validation": "these are validation rows: do not report on them what was chosen by this study",
}
"""What to say of the rows of each split."""


@dataclass(frozen=True)
class Reaction:
    """How the score reacts when one group is cut.

    Attributes:
        group: its name, such as `3.ffn`.
        kind: what its units are.
        layer: None of the residual stream.
        size: how many units it has.
        kept: of these, at each density of the study.
        scores: the model's, at each.
        saved: fraction of the model's prunable parameters that goes, at each.
    """

    group: str
    kind: str
    layer: int | None
    size: int
    kept: tuple[int, ...]
    scores: tuple[float, ...]
    saved: tuple[float, ...]

    @property
    def part(self) -> str:
        """What such groups of all layers share: `ffn` of `3.ffn`."""
        return self.group.rpartition(".")[2]


@dataclass(frozen=True)
class Sensitivity:
    """The scores of a model with each group alone cut to each density.

    Attributes:
        metric: the score's name; `greater_is_better` says which way it is read.
        dense: the score of the whole model on the same rows.
        standard_error: of that score, by the bootstrap over rows (for an accuracy the binomial one).
        densities: fractions of a group's units kept, rounded down to whole units.
        by: what chose the units that are kept.
        rows: how many were scored, `evidence` how many others the choice was made on, all drawn by `seed`.
        split: what the scored rows are of; the evidence is always of the training rows.
        forwards: how often a cell's model read the rows, and `seconds` how long all of it took.
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
        """How much worse than the whole model's a score is."""
        return self.dense - score if self.greater_is_better else score - self.dense

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return asdict(self)

    def parts(self) -> dict[str, list[Reaction]]:
        """The reactions by what their groups are of: `ffn` -> those of `0.ffn`, `1.ffn` and so on."""
        kinds: dict[str, list[Reaction]] = {}
        for reaction in self.reactions:
            kinds.setdefault(reaction.part, []).append(reaction)
        return kinds

    def notes(self) -> list[str]:
        """What the numbers mean, and how little a small difference does."""
        chosen = "no rows" if not self.evidence else f"{self.evidence:,} other training rows"
        worst = [self.drop(reaction.scores[-1]) for reaction in self.reactions]
        within = sum(drop <= self.standard_error for drop in worst)
        return [
            f"{self.metric} of the whole model {self.dense:.4f}, standard error {self.standard_error:.4f} (bootstrap): "
            f"on {self.rows:,} rows of the {self.split} split drawn by seed {self.seed}, a smaller drop tells nothing",
            WARNINGS[self.split],
            f"units were kept by {self.by}, chosen on {chosen}; nothing was trained, and each group was cut alone",
            f"at density {self.densities[-1]:g}, {within} of {len(worst)} groups stay within one standard error",
            f"{self.forwards} cells in {self.seconds:.0f} s",
        ]


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
    say: Say = lambda line: None,
) -> Sensitivity:
    """Score a fine-tuned, dense model with each group alone cut to each density; the model stays as it is.

    Args:
        model: with the task's head; it was not cut.
        task: whose loss chooses and whose metric scores.
        tokenizer: the model's.
        units: kinds of units; each group of each (`3.ffn`, `3.head`, `3.attention`) is cut alone.
        densities: fractions in [0, 1] of a group's units to keep. A group of one unit is whole or gone.
        rows: rows to score on, and as many others of the training split to choose on; where that has fewer than
            both, half of them each.
        split: "train", or "validation": the evidence is never of the rows that are scored.
        by: "gradient", or the name of a method that needs no training.
        max_length: tokens that a text is cut to.
        seed: draws the rows.
        say: told in a line what is being done.

    Raises:
        UserError: a number out of range, an unknown name, or a model that `Space` refuses.
    """
    _check(densities, rows, split, by)
    started, space = time.monotonic(), Space(model, *units)
    space.table.one_stack("the sensitivity")
    scored, evidence = _drawn_rows(task, tokenizer, split, rows, max_length, seed)
    collate = task.collator(tokenizer)
    scored.sort(key=lambda row: len(row["input_ids"]))  # rows of one length need no padding
    with evaluating([model]):
        say(f"choosing units by {by}")
        worth = _worth(model, space, by, [dict(collate(part)) for part in _parts(evidence)])
        cells = _cells(space, worth, densities)
        say(f"scoring {len(cells)} cells on {len(examples(scored))} rows")
        parts = [collate(part) for part in _parts(scored)]
        said, wanted = _answers(model, space, list(cells.values()), parts, task.label_names, say)
    scores = [_score(task, answer, wanted, scored) for answer in said]
    found = dict(zip(cells, scores[1:], strict=True))
    return Sensitivity(
        metric=task.metric,
        greater_is_better=task.greater_is_better,
        dense=scores[0],
        standard_error=_standard_error(task, said[0], wanted, scored, seed),
        densities=tuple(densities),
        reactions=tuple(_reaction(space, group, densities, cells, found) for group in space.groups),
        by=by,
        rows=len(examples(scored)),
        evidence=len(examples(evidence)) if by == GRADIENT else 0,
        split=split,
        seed=seed,
        forwards=len(cells),
        seconds=time.monotonic() - started,
    )


def _check(densities: Sequence[float], rows: int, split: str, by: str) -> None:
    """Refuse what cannot be asked for, before a row is read."""
    if not densities or len(set(densities)) < len(densities) or not all(0.0 <= d <= 1.0 for d in densities):
        told = ", ".join(f"{density:g}" for density in densities) or "none"
        raise UserError(f"expected densities in [0, 1], each once, got {told}: fractions of a group's units to keep")
    if rows < 1:
        raise UserError(f"expected rows of at least 1, got {rows}: score some hundreds")
    if split not in WARNINGS:
        raise UserError(f"expected split train or validation, got {split!r}: the rows to score on")
    if by != GRADIENT and by not in registered():
        raise UserError(f"expected by {GRADIENT}, or a method that needs no training, got {by!r}: see `secateur list`")


def _drawn_rows(
    task: Task, tokenizer: PreTrainedTokenizerBase, split: str, rows: int, max_length: int, seed: int
) -> tuple[list[Row], list[Row]]:
    """Rows to score on, and other rows, of the training split, to choose on; drawn by the seed."""
    train = _shuffled(len(task.splits["train"]), seed)
    scored, chosen_on = _shuffled(len(task.splits[split]), seed)[:rows], train[:rows]
    if split == "train":
        count = min(rows, len(train) // 2)
        if not count:
            raise UserError(f"the training split has {len(train)} row: give at least 2, to choose on and to score on")
        scored, chosen_on = train[:count], train[count : 2 * count]
    return encoded(task, split, tokenizer, max_length, scored), encoded(task, "train", tokenizer, max_length, chosen_on)


def _shuffled(count: int, seed: int) -> list[int]:
    return torch.randperm(count, generator=torch.Generator().manual_seed(seed)).tolist()


def _parts(rows: list[Row]) -> list[list[Row]]:
    return [rows[first : first + BATCH] for first in range(0, len(rows), BATCH)]


# What goes first


def _worth(model: PreTrainedModel, space: Space, by: str, batches: Sequence[Any]) -> Tensor:
    """`(N,)` what each unit is worth beside the others of its group."""
    if by == GRADIENT:
        return importance(model, space, batches)
    method = named(by)(space)
    if method.listens_to or method.param_groups():
        raise UserError(f"{by!r} learns its choice in training: choose by {GRADIENT}, or by magnitude")
    return method.scores()


def importance(model: PreTrainedModel, space: Space, batches: Sequence[Any]) -> Tensor:
    """`(N,)` first-order importance of every unit: the sum over batches, with labels, of |d(task's loss)/d(mask)|."""
    found = torch.zeros(len(space), device=model.device)
    with torch.enable_grad(), attached(model, space, space.ones()) as attachment:
        for batch in batches:
            loss = model(**_placed(batch, model)).loss
            found += torch.autograd.grad(loss, attachment.masks)[0].abs()
    return found


def _placed(batch: Any, model: PreTrainedModel) -> dict[str, Tensor]:
    return {name: value.to(model.device) for name, value in batch.items()}


# Cells


@dataclass(frozen=True)
class Cell:
    """One group cut to some units: `masks` is `(N,)` of 0 and 1, and `first` the layer that feels it first."""

    masks: Tensor
    first: int


def _cells(space: Space, worth: Tensor, densities: Sequence[float]) -> dict[tuple[str, int], Cell]:
    """By group and units kept, each once: densities of a small group may come to the same units."""
    return {
        (group.name, count): Cell(cut_to(space, worth, group, count), _layer(group) or 0)
        for group in space.groups
        for count in (_count(group, density) for density in densities)
    }


def _count(group: Group, density: float) -> int:
    """Whole units that fit into a density; of the stream one at least."""
    return max(int(density * group.size + 1e-9), 1 if group.kind == "hidden" else 0)


def _layer(group: Group) -> int | None:
    """The layer that a group lies in; None of the stream, which all layers share."""
    layer, dot, _ = group.name.partition(".")
    return int(layer) if dot else None


def cut_to(space: Space, worth: Tensor, group: Group, count: int) -> Tensor:
    """`(N,)` masks that keep everything but, of one group, all beside its `count` units of most worth."""
    masks, own = space.ones(), space.slices[group.name]
    masks[own] = 0.0
    masks[own.start + worth[own].argsort(descending=True, stable=True)[:count]] = 1.0
    return masks


def _reaction(
    space: Space,
    group: Group,
    densities: Sequence[float],
    cells: Mapping[tuple[str, int], Cell],
    found: Mapping[tuple[str, int], float],
) -> Reaction:
    kept = tuple(_count(group, density) for density in densities)
    return Reaction(
        group=group.name,
        kind=group.kind,
        layer=_layer(group),
        size=group.size,
        kept=kept,
        scores=tuple(found[group.name, count] for count in kept),
        saved=tuple(1.0 - space.density(cells[group.name, count].masks) for count in kept),
    )


# Answers


@torch.inference_mode()
def _answers(
    model: PreTrainedModel,
    space: Space,
    cells: Sequence[Cell],
    batches: Sequence[Any],
    labels: Sequence[str],
    say: Say,
) -> tuple[list[Any], Any]:
    """Outputs `(rows, ...)` of the whole model and of each cell's, on all batches, and the labels, by these names."""
    said: list[list[Any]] = [[] for _ in range(len(cells) + 1)]
    wanted = []
    for number, batch in enumerate(batches, 1):
        inputs = _placed(batch, model)
        wanted.append(alone([inputs.pop(name).cpu().numpy() for name in labels]))
        for own, answer in zip(said, _in_turn(model, space, cells, inputs), strict=True):
            own.append(alone([value.float().cpu().numpy() for value in answer.values() if isinstance(value, Tensor)]))
        say(f"batch {number} of {len(batches)}")
    return [_joined(own) for own in said], _joined(wanted)


def _in_turn(
    model: PreTrainedModel, space: Space, cells: Sequence[Cell], inputs: dict[str, Tensor]
) -> Iterator[Mapping[str, Any]]:
    """What is said of one batch: by the whole model, then by each cell's."""
    layers = _layers(model, space)
    with _heard(layers) as heard:
        yield model(**inputs)
    masks = space.ones()
    with attached(model, space, masks):
        for cell in cells:
            masks.copy_(cell.masks)
            with _handed_on(layers[: cell.first], heard):
                yield model(**inputs)


def _joined(arrays: Sequence[np.ndarray]) -> Any:
    """End to end; of tokens, where batches differ in length, padded as Trainer pads them."""
    return reduce(partial(nested_concat, padding_index=UNLABELLED), arrays)


def _layers(model: PreTrainedModel, space: Space) -> list[nn.Module]:
    """The module of each layer: the innermost that holds all of the layer's parameters."""
    paths: dict[str, list[list[str]]] = {layer: [] for layer in space.table.layers}
    for parameter in space.table.parameters:
        if parameter.layer is not None:
            paths[parameter.layer].append(parameter.name.split("."))
    shared = ([names[0] for names in takewhile(_one, zip(*own, strict=False))] for own in paths.values())
    return [model.get_submodule(".".join(path)) for path in shared]


def _one(names: Sequence[str]) -> bool:
    return len(set(names)) == 1


@contextmanager
def _heard(layers: Sequence[nn.Module]) -> Iterator[list[Any]]:
    """What each layer says inside, in order."""
    said: list[Any] = []
    handles = [layer.register_forward_hook(lambda module, args, output: said.append(output)) for layer in layers]
    try:
        yield said
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def _handed_on(layers: Sequence[nn.Module], said: Sequence[Any]) -> Iterator[None]:
    """Inside, these layers compute nothing and say what they have said before."""
    before = [vars(layer).get("forward") for layer in layers]
    try:
        for layer, answer in zip(layers, said, strict=False):
            vars(layer)["forward"] = partial(_again, answer)
        yield
    finally:
        for layer, forward in zip(layers, before, strict=True):
            vars(layer).pop("forward", None)
            if forward is not None:
                vars(layer)["forward"] = forward


def _again(answer: Any, *args: Any, **kwargs: Any) -> Any:
    return answer


# Scores


def _score(task: Task, said: Any, wanted: Any, rows: Sequence[Row]) -> float:
    return task.score(EvalPrediction(said, wanted), rows)[task.metric]


def _standard_error(task: Task, said: Any, wanted: Any, rows: Sequence[Row], seed: int) -> float:
    """Standard deviation of the score over draws of as many examples with replacement (Efron, 1979)."""
    own = examples(rows)
    draws = np.random.default_rng(seed).integers(len(own), size=(DRAWS, len(own)))
    return float(np.std([_drawn_score(task, said, wanted, rows, [own[n] for n in draw]) for draw in draws], ddof=1))


def _drawn_score(task: Task, said: Any, wanted: Any, rows: Sequence[Row], drawn: Sequence[Sequence[int]]) -> float:
    """The score of examples, by the places of their rows; one that was drawn twice counts as two."""
    places = [place for own in drawn for place in own]
    again = [{**rows[place], EXAMPLE: number} for number, own in enumerate(drawn) for place in own]
    return _score(task, _at(said, places), _at(wanted, places), again)


def _at(values: Any, places: Sequence[int]) -> Any:
    return tuple(value[places] for value in values) if isinstance(values, tuple) else values[places]


# Shown


@dataclass(frozen=True)
class Sheet:
    """Scores as a table: a row a layer, its name first; columns are densities, or kinds of groups that are gone."""

    caption: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, tuple[float, ...]], ...]


def sheets(found: Sensitivity) -> list[Sheet]:
    """A sheet for each kind of groups, and one for all kinds whose groups are one unit, which is whole or gone."""
    several = {kind: own for kind, own in found.parts().items() if own[0].size > 1}
    whole = {kind: own for kind, own in found.parts().items() if own[0].size == 1}
    head = tuple(f"{density:g}" for density in found.densities)
    made = [
        Sheet(f"{kind}, {own[0].size:,} units", head, tuple((_row(one), one.scores) for one in own))
        for kind, own in several.items()
    ]
    if whole:
        layers = zip(*whole.values(), strict=True)
        rows = tuple((_row(row[0]), tuple(_gone(one) for one in row)) for row in layers)
        made.append(Sheet("whole groups gone", tuple(whole), rows))
    return made


def _row(reaction: Reaction) -> str:
    return "all" if reaction.layer is None else str(reaction.layer)


def _gone(reaction: Reaction) -> float:
    return min(zip(reaction.kept, reaction.scores, strict=True))[1]


def to_html(found: Sensitivity, name: str) -> str:
    """A page of its own: a heat map for each sheet, and the notes."""
    worst = max(found.drop(score) for reaction in found.reactions for score in reaction.scores)
    drawn = html.Gallery([html.Picture(_heat_map(found, sheet, worst), sheet.caption) for sheet in sheets(found)])
    said = (
        f"rows: layers; columns: the fraction of a group's units kept. The redder, the more the {found.metric} falls: "
        f"from 0 to {max(worst, 0.0):.3f} below the whole model's."
    )
    section = html.Section("One group cut at a time", [html.Text(said), drawn, html.Notes(found.notes())])
    lead = f"{found.metric} of the whole model {found.dense:.4f} on {found.rows:,} rows of the {found.split} split"
    return html.render(f"Sensitivity of {name}", [section], lead)


def _heat_map(found: Sensitivity, sheet: Sheet, worst: float) -> str:
    """A cell a score: the deeper its colour, the more is lost, up to the study's worst."""
    from matplotlib.patches import Rectangle

    with svg.style():
        figure = svg.figure(height=30 + 22 * len(sheet.rows))
        axes = figure.add_subplot(xlim=(0, len(sheet.head)), ylim=(len(sheet.rows), 0))
        for y, (_, scores) in enumerate(sheet.rows):
            for x, score in enumerate(scores):
                lost = max(found.drop(score), 0.0) / worst if worst > 0 else 0.0
                place = Rectangle((x + 0.03, y + 0.05), 0.94, 0.9, color=svg.SERIES[1], alpha=0.75 * lost)
                axes.add_patch(place)
                axes.text(x + 0.5, y + 0.5, f"{score:.3f}", ha="center", va="center", fontsize=10)
        axes.set_xticks([x + 0.5 for x in range(len(sheet.head))], sheet.head)
        axes.set_yticks([y + 0.5 for y in range(len(sheet.rows))], [name for name, _ in sheet.rows])
        axes.tick_params(length=0, top=False, labeltop=True, labelbottom=False)
        axes.spines[:].set_visible(False)
        return svg.svg(figure, sheet.caption, f"Scores of {found.metric}, whole model {found.dense:.4f}.")
