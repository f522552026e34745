"""Terms of the loss: small callables that a list composes. A method never knows of them, nor they of it.

    objective = [Logits(temperature=8.0), Hidden(layers="every 2")]

Each term takes a `Step` and returns a scalar. Terms are modules, because some have weights of their own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedModel

from secateur.system.errors import UserError

DECODED = "decoder_input_ids"
"""What a batch has for a decoder to read; its logits and states are of these tokens, of which the labels come next."""
UNLABELLED = -100
"""The label of a token that does not count."""
PADDED = -1e9
"""A logit that no softmax sees, at any temperature; finite, for 0 times it must be 0."""


@dataclass(frozen=True)
class Step:
    """What a term may look at: one forward of student and teacher over one batch.

    Attributes:
        batch: the model's inputs and `labels`; of a model with a decoder `decoder_input_ids` too, the same for student
            and teacher.
        student, teacher: model outputs with `logits`, or `start_logits` and `end_logits`, and `hidden_states` (with a
            decoder `encoder_hidden_states` and `decoder_hidden_states`) when a term asks for them; no teacher, None.
        masks: `(N,)` masks of this forward, None when nothing is being pruned.
        sites: the same masks where they act: axis or sublayer's gate -> values; empty when nothing is being pruned.
        progress: part of the whole run that is done, in [0, 1].
    """

    batch: Mapping[str, Tensor]
    student: Any
    teacher: Any = None
    masks: Tensor | None = None
    sites: Mapping[str, Tensor] = field(default_factory=dict)
    progress: float = 0.0


class Term(nn.Module):
    """One summand of the loss. `name` is what methods listen to and logs show; `weight` multiplies the value."""

    name: str
    needs_teacher = False
    needs_hidden = False

    def __init__(self, weight: float = 1.0) -> None:
        super().__init__()
        self.weight = weight

    def bind(self, student: PreTrainedModel, teacher: Any) -> None:
        """Build what depends on the models, before the optimizer is made. A term that is bound stays as it is.

        `teacher` is a model, or whatever answers like one and has its `config`; None when there is none.
        """

    def restrict(self, stream: Tensor, layers: Tensor) -> None:
        """The student was cut: `stream` are the dims left of its stream (indices), `layers` which layers are left.

        `layers` is `(depth,)` bool; a layer that is gone is the identity and keeps its number.
        """

    def over(self, step: Step) -> str:
        """What the value is a mean over: `rows`, real `tokens`, or the `labels` that count (not -100).

        An optimizer step over several micro-batches and processes is the mean over all of theirs.
        """
        return "rows"

    def forward(self, step: Step) -> Tensor:
        """`()`, a mean over the batch."""
        raise NotImplementedError(f"{type(self).__name__} must compute its loss: write forward(step)")


class Labels(Term):
    """The task's own loss, as the model computes it from `labels`.

    With `smoothing` it is the cross-entropy with labels of which this part is spread evenly over all classes (Szegedy
    et al., 2016; fairseq spreads it over the others alone, which is `smoothing` (V - 1) / V here, of V classes).

    Raises:
        UserError: `smoothing` is not in [0, 1), or the model has no classes to spread it over.
    """

    name = "labels"

    def __init__(self, weight: float = 1.0, smoothing: float = 0.0) -> None:
        super().__init__(weight)
        if not 0 <= smoothing < 1:
            raise UserError(f"smoothing {smoothing} is not in [0, 1): it is the part of a label that all classes share")
        self.smoothing = smoothing

    def over(self, step: Step) -> str:
        return "labels" if "labels" in step.batch else "rows"

    def forward(self, step: Step) -> Tensor:
        if not self.smoothing:
            return step.student.loss
        logits, labels = getattr(step.student, "logits", None), step.batch["labels"]
        if logits is None or logits.shape[-1] == 1:
            raise UserError("label_smoothing spreads a label over classes, and this model has none: set it to 0")
        classes = logits.float().flatten(0, -2)
        return functional.cross_entropy(classes, labels.flatten(), label_smoothing=self.smoothing)


class Logits(Term):
    """Soft cross-entropy of the student's logits with the teacher's at a temperature, mean over what is classified.

    That is an example, with logits `(batch, labels)`, or a real token, with logits `(batch, tokens, labels)`, of the
    target where there is a decoder: one whose label is not -100. Start and
    end of an answer each classify an example into one of its real tokens, with logits `(batch, tokens)`: of the two the
    mean is taken, as in CoFi's code (GRAIN's takes the sum, and padding for tokens).

    `-sum softmax(t / tau) log_softmax(s / tau)` (GRAIN section 5; no factor tau^2, which the published code has not).
    With `divergence` it is `tau^2 KL(softmax(t / tau) || softmax(s / tau))` (CoFi eq. 7; Hinton et al., 2015): 0 where
    the logits agree, and with gradients that do not fade as the temperature rises.
    A model with one output is a regression: mean squared error of the outputs, at no temperature.
    """

    name = "logits"
    needs_teacher = True

    def __init__(self, temperature: float = 8.0, weight: float = 1.0, divergence: bool = False) -> None:
        super().__init__(weight)
        if temperature <= 0:
            raise UserError(f"temperature {temperature} is not positive")
        self.temperature, self.divergence = temperature, divergence

    def over(self, step: Step) -> str:
        said = getattr(step.student, "logits", None)
        if said is None or said.dim() < 3:
            return "rows"
        return "labels" if DECODED in step.batch else "tokens"

    def forward(self, step: Step) -> Tensor:
        if not hasattr(step.student, "logits"):
            return (self._distilled_end("start_logits", step) + self._distilled_end("end_logits", step)) / 2
        student, teacher = step.student.logits.float(), step.teacher.logits.float()
        if student.shape[-1] == 1:
            return functional.mse_loss(student, teacher)
        return self._distilled(student, teacher, step)

    def _distilled_end(self, name: str, step: Step) -> Tensor:
        mine, theirs = (_among_tokens(getattr(said, name), step) for said in (step.student, step.teacher))
        return self._distilled(mine, theirs, step)

    def _distilled(self, student: Tensor, teacher: Tensor, step: Step) -> Tensor:
        """`()` of logits in float32, classes last."""
        mine = functional.log_softmax(student / self.temperature, dim=-1)
        theirs = functional.log_softmax(teacher / self.temperature, dim=-1)
        if self.divergence:
            return self.temperature**2 * _mean((theirs.exp() * (theirs - mine)).sum(-1), step)
        return -_mean((theirs.exp() * mine).sum(-1), step)


def _among_tokens(logits: Tensor, step: Step) -> Tensor:
    """Logits `(batch, tokens)` in float32, padding far below all: out of the sum, and without a gradient."""
    return logits.float().masked_fill(step.batch["attention_mask"] == 0, PADDED)


def _mean(values: Tensor, step: Step) -> Tensor:
    """`()`: of examples `(batch,)`, or of real tokens `(batch, tokens)`, special ones included."""
    if values.dim() == 1:
        return values.mean()
    real = _real(step, DECODED in step.batch)
    return (values * real).sum() / real.sum()


def _real(step: Step, decoded: bool) -> Tensor:
    """`(batch, tokens)`, 1 for a real token and 0 for padding: of what a decoder reads, or of the model's input."""
    return (step.batch["labels"] != UNLABELLED).int() if decoded else step.batch["attention_mask"]


class Hidden(Term):
    """Masked mean squared error of hidden states, student through a projection, summed over the matched layers.

    Projections are Linear with bias, start as the identity, are trained, and are thrown away (GRAIN section 5: layers
    0, 2, 4, ... of student and teacher alike, 0 the embeddings' output; real tokens only; a sum, not a mean).

    Args:
        layers: the teacher's layers: `"every 2"`, `"last"`, `"quarters"` (CoFi: the last of each quarter of the
            layers), or their numbers, 0 the embeddings.
        project: False compares the states as they are, which needs streams of one width and saves the projections'
            time.
        match: which of the student's layers answers for each of them: `same`, the one of the same number, or one of
            `MATCHES`, which choose anew for each batch and share one projection.
        stack: of a model that has both, whose states: the "encoder"'s, or the "decoder"'s over the target; the term is
            then called `hidden_encoder` or `hidden_decoder`.
    """

    name = "hidden"
    needs_teacher = True
    needs_hidden = True

    def __init__(
        self,
        layers: str | Sequence[int] = "every 2",
        weight: float = 1.0,
        project: bool = True,
        match: str = "same",
        stack: str | None = None,
    ) -> None:
        super().__init__(weight)
        if stack is not None:
            if stack not in STACKS:
                raise UserError(f"stack {stack!r} is neither of {' and '.join(STACKS)}")
            self.name = f"hidden_{stack}"
        if match not in (SAME, *MATCHES):
            known = ", ".join((SAME, *MATCHES))
            raise UserError(f"match {match!r} is not a way to match layers: choose from {known}")
        self.layers, self.project, self.match, self.stack = layers, project, match, stack
        self.projections = nn.ModuleDict()
        self.width = self.depth = 0  # of the student's stream; of the teacher's layers
        self.own = slice(None)  # of the model's layers, those of the stack
        self.left: Tensor | None = None  # of these, which are left

    def matched(self, depth: int) -> list[int]:
        """The teacher's layers that may be compared, of `depth`: all of them where they are drawn for each batch.

        Raises:
            UserError: the argument is none of the accepted forms, or a layer does not exist.
        """
        lowest = 0 if self.match == SAME else 1  # what is matched anew for each batch are the layers' outputs
        if self.match in DRAWS:
            return list(range(1, depth + 1))
        if isinstance(self.layers, str):
            words = self.layers.split()
            if words == ["last"]:
                return [depth]
            if words == ["quarters"]:
                return quarters(depth)
            if len(words) == 2 and words[0] == "every" and words[1].isdigit() and int(words[1]) > 0:
                return list(range(lowest * int(words[1]), depth + 1, int(words[1])))
        elif self.layers and all(lowest <= layer <= depth for layer in self.layers):
            return list(self.layers)
        raise UserError(
            f'layers {self.layers!r} is not "every N", "last", "quarters" or numbers from {lowest} to {depth}'
        )

    def depth_of(self, config: Any) -> int:
        """The layers of the stack whose states are compared."""
        names = DECODER_LAYERS if self.stack == "decoder" else ()
        return next((getattr(config, name) for name in names if hasattr(config, name)), config.num_hidden_layers)

    def bind(self, student: PreTrainedModel, teacher: Any) -> None:
        """Make the projections.

        Raises:
            UserError: layers that do not exist, layers of the same number in models of different depths, or a stack
                that the model does not have or that has to be named.
        """
        if self.projections or teacher is None:
            return
        if bool(getattr(student.config, "is_encoder_decoder", False)) != (self.stack is not None):
            raise UserError(
                'hidden states of an encoder and a decoder are two terms, stack="encoder" and stack="decoder"; a model '
                "of one stack has none to name"
            )
        depths = self.depth_of(student.config), self.depth_of(teacher.config)
        if self.match == SAME and depths[0] != depths[1]:
            raise UserError(
                f"the teacher has {depths[1]} layers, the model {depths[0]}: hidden states match layer by layer, "
                "so take a teacher of the model's depth, another match, or set hidden: null"
            )
        self.depth, matched = depths[1], self.matched(depths[1])
        self.own = slice(-depths[0], None) if self.stack == "decoder" else slice(depths[0])
        self.width, target = student.config.hidden_size, teacher.config.hidden_size
        for name in map(str, matched) if self.match == SAME else [SHARED]:
            self.projections[name] = _identity(self.width, target).to(student.device) if self.project else nn.Identity()

    @torch.no_grad()
    def restrict(self, stream: Tensor, layers: Tensor) -> None:
        """Cut the projections' inputs to the dims left, and match no layer that is gone.

        Args:
            stream: numbers of the dims of the stream that are left.
            layers: `(layers,)` bool, of all stacks: which are left.

        Raises:
            UserError: the stream was cut and there is no projection that would take it back to the teacher's.
        """
        self.left = layers[self.own]
        if not self.project and len(stream) < self.width:
            raise UserError(
                "hidden states of a cut stream need projections: leave them on, or do not prune hidden dims"
            )
        for projection in self.projections.values():
            if isinstance(projection, nn.Linear):
                projection.weight = nn.Parameter(projection.weight[:, stream.to(projection.weight.device)].clone())
                projection.in_features = projection.weight.shape[1]

    def over(self, step: Step) -> str:
        return "labels" if self.stack == "decoder" else "tokens"

    def _states(self, outputs: Any) -> Any:
        """Hidden states `(batch, tokens, dims)` by number, 0 the embeddings."""
        return outputs.hidden_states if self.stack is None else getattr(outputs, f"{self.stack}_hidden_states")

    def forward(self, step: Step) -> Tensor:
        real = _real(step, self.stack == "decoder").unsqueeze(-1)
        if self.match != SAME:
            return self._nearest(step, real)
        total = torch.zeros((), device=real.device)
        for layer, projection in self.projections.items():
            mine = projection(self._states(step.student)[int(layer)]).float()
            total = total + masked_mse(mine, self._states(step.teacher)[int(layer)].float(), real)
        return total

    def _nearest(self, step: Step, real: Tensor) -> Tensor:
        """Every teacher's layer with the student's layer chosen for it; nothing here waits for the device."""
        states = torch.stack(self._states(step.student)[1:])  # (layers, batch, tokens, width)
        theirs = [self._states(step.teacher)[layer].float() for layer in self._asked()]
        with torch.no_grad():
            mine = self.projections[SHARED](states).float()
            costs = torch.stack([torch.stack([masked_mse(m, t, real) for m in mine]) for t in theirs])
            exists = self._exists(step, len(states), costs.device)
        chosen, found = MATCHES[self.match](costs, exists)
        projected = self.projections[SHARED](states[chosen]).float()
        errors = [masked_mse(mine, target, real) for mine, target in zip(projected, theirs, strict=True)]
        return (torch.stack(errors) * found).sum()

    def _asked(self) -> list[int]:
        """The teacher's layers for this batch.

        Draws come from torch's own generator on the host, which checkpoints keep.
        """
        return DRAWS[self.match](self.depth) if self.match in DRAWS else self.matched(self.depth)

    def _exists(self, step: Step, depth: int, device: torch.device) -> Tensor:
        """`(depth,)` bool: layers of which an attention or the feed-forward network is open in this forward."""
        if self.left is not None:
            return self.left.to(device)
        open_ = torch.ones(depth, dtype=torch.bool, device=device)
        within = f"{self.stack}." if self.stack else ""
        for layer in range(depth):
            ours = [n for n in step.sites if n.startswith(f"{within}{layer}.") and n.endswith(GATES)]
            if ours:
                open_[layer] = torch.stack([step.sites[name] != 0 for name in ours]).any()
        return open_


def quarters(depth: int) -> list[int]:
    """CoFi's layers of a teacher, the last of each quarter, `ceil(depth / 4) k`: 3, 6, 9, 12 of 12 and 2, 4, 6 of 6."""
    size = -(-depth // 4)
    return list(range(size, depth + 1, size))


def sampled(depth: int) -> list[int]:
    """As many layers as `quarters`, drawn from those not below the first of them, in order (CoFi, v5).

    The published code draws from all layers and then lifts the lowest alone, which can put it above the next.
    """
    first, *others = quarters(depth)
    return sorted((first + torch.randperm(depth - first + 1)[: 1 + len(others)]).tolist())


def windows(depth: int) -> list[int]:
    """One layer drawn from each quarter, of the first the last (CoFi, v6; Haidar et al., RAIL-KD, 2022)."""
    ends = quarters(depth)
    size = ends[0]
    return [ends[0], *(end - int(torch.randint(size, ())) for end in ends[1:])]


def nearest(costs: Tensor, exists: Tensor) -> tuple[Tensor, Tensor]:
    """For each teacher's layer the student's with the least error, in whatever order, gone or not (CoFi, v3)."""
    return costs.argmin(dim=1), torch.ones(len(costs), dtype=torch.bool, device=costs.device)


def nearest_ordered(costs: Tensor, exists: Tensor) -> tuple[Tensor, Tensor]:
    """From the top down, each below the one before and among the layers that exist (CoFi, v4).

    Where none is left below, the layer before serves again; where none exists at all, nothing is matched.

    Args:
        costs: `(teacher's layers, student's layers)`, the teacher's in rising order.
        exists: `(student's layers,)` bool.

    Returns:
        The student's layer for each of the teacher's, and whether there is one, `(teacher's layers,)` each.
    """
    numbers = torch.arange(costs.shape[1], device=costs.device)
    bound = torch.full((), costs.shape[1], device=costs.device)
    chosen: list[Tensor] = []
    for row in costs.flip(0):
        allowed = exists & (numbers < bound)
        best = row.masked_fill(~allowed, torch.inf).argmin()
        bound = torch.where(allowed.any(), best, bound)
        chosen.insert(0, bound)
    picked = torch.stack(chosen)
    return picked.clamp(max=costs.shape[1] - 1), picked < costs.shape[1]


Matching = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
SAME = "same"
MATCHES: Mapping[str, Matching] = {
    "nearest": nearest,
    "nearest-ordered": nearest_ordered,
    "sampled": nearest_ordered,
    "windows": nearest_ordered,
}
DRAWS: Mapping[str, Callable[[int], list[int]]] = {"sampled": sampled, "windows": windows}
SHARED = "shared"

STACKS = ("encoder", "decoder")
GATES = (".attention", ".mlp")
"""How the names of sublayers' gates end, of whatever layer and attention."""
DECODER_LAYERS = ("decoder_layers", "num_decoder_layers")
"""What a config may call the number of its decoder's layers; `num_hidden_layers` is its encoder's."""


def _identity(width: int, target: int) -> nn.Linear:
    projection = nn.Linear(width, target)
    nn.init.eye_(projection.weight)
    nn.init.zeros_(projection.bias)
    return projection


def masked_mse(student: Tensor, teacher: Tensor, real: Tensor) -> Tensor:
    """Squared error over real tokens, mean per entry, `()`.

    `student` and `teacher` are `(batch, tokens, dims)`, `real` is `(batch, tokens, 1)`, 0 or 1.
    """
    error = functional.mse_loss(student * real, teacher * real, reduction="sum")
    return error / (real.sum() * student.shape[-1])
