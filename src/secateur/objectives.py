"""Terms of the loss: small callables that a list composes. A method never knows of them, nor they of it.

    objective = [Logits(temperature=8.0), Hidden(layers="every 2")]

Each term takes a `Step` and returns a scalar. Terms are modules, because some have weights of their own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedModel

from secateur.errors import UserError


@dataclass(frozen=True)
class Step:
    """What a term may look at: one forward of student and teacher over one batch.

    Attributes:
        batch: the model's inputs and `labels`.
        student, teacher: model outputs with `logits`, and `hidden_states` when a term asks for them; no teacher, None.
        masks: `(N,)` masks of this forward, None when nothing is being pruned.
        progress: part of the whole run that is done, in [0, 1].
    """

    batch: Mapping[str, Tensor]
    student: Any
    teacher: Any = None
    masks: Tensor | None = None
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

    def restrict(self, kept: Tensor) -> None:
        """The student's stream was cut to the dims `kept` (indices)."""

    def forward(self, step: Step) -> Tensor:
        """`()`, a mean over the batch."""
        raise NotImplementedError(f"{type(self).__name__} must compute its loss: write forward(step)")


class Labels(Term):
    """The task's own loss, as the model computes it from `labels`."""

    name = "labels"

    def forward(self, step: Step) -> Tensor:
        return step.student.loss


class Logits(Term):
    """Soft cross-entropy of the student's logits with the teacher's at a temperature, mean over examples.

    `-sum softmax(t / tau) log_softmax(s / tau)` (GRAIN section 5; no factor tau^2, which the published code has not).
    A model with one output is a regression: mean squared error of the outputs, at no temperature.
    """

    name = "logits"
    needs_teacher = True

    def __init__(self, temperature: float = 8.0, weight: float = 1.0) -> None:
        super().__init__(weight)
        if temperature <= 0:
            raise UserError(f"temperature {temperature} is not positive")
        self.temperature = temperature

    def forward(self, step: Step) -> Tensor:
        student, teacher = step.student.logits.float(), step.teacher.logits.float()
        if student.shape[-1] == 1:
            return functional.mse_loss(student, teacher)
        target = functional.softmax(teacher / self.temperature, dim=-1)
        return -(target * functional.log_softmax(student / self.temperature, dim=-1)).sum(-1).mean()


class Hidden(Term):
    """Masked mean squared error of hidden states, student through a projection, summed over the matched layers.

    Projections are Linear with bias, start as the identity, are trained, and are thrown away (GRAIN section 5: layers
    0, 2, 4, ... of student and teacher alike, 0 the embeddings' output; real tokens only; a sum, not a mean).

    Args:
        layers: `"every 2"`, `"last"`, or the layers' numbers.
        project: False compares the states as they are, which needs streams of one width and saves the projections'
            time.
    """

    name = "hidden"
    needs_teacher = True
    needs_hidden = True

    def __init__(self, layers: str | Sequence[int] = "every 2", weight: float = 1.0, project: bool = True) -> None:
        super().__init__(weight)
        self.layers, self.project = layers, project
        self.projections = nn.ModuleDict()

    def matched(self, depth: int) -> list[int]:
        """The layers compared in a model of `depth` layers.

        Raises:
            UserError: the argument is none of the accepted forms, or a layer does not exist.
        """
        if isinstance(self.layers, str):
            words = self.layers.split()
            if words == ["last"]:
                return [depth]
            if len(words) == 2 and words[0] == "every" and words[1].isdigit() and int(words[1]) > 0:
                return list(range(0, depth + 1, int(words[1])))
        elif self.layers and all(0 <= layer <= depth for layer in self.layers):
            return list(self.layers)
        raise UserError(f'layers {self.layers!r} is not "every N", "last" or numbers from 0 to {depth}')

    def bind(self, student: PreTrainedModel, teacher: Any) -> None:
        if self.projections or teacher is None:
            return
        width, target = student.config.hidden_size, teacher.config.hidden_size
        for layer in self.matched(student.config.num_hidden_layers):
            self.projections[str(layer)] = (
                _identity(width, target).to(student.device) if self.project else nn.Identity()
            )

    @torch.no_grad()
    def restrict(self, kept: Tensor) -> None:
        """The student's stream was cut to the dims `kept` (indices): so are the projections' inputs."""
        for projection in self.projections.values():
            if not isinstance(projection, nn.Linear):
                raise UserError(
                    "hidden states of a cut stream need projections: leave them on, or do not prune hidden dims"
                )
            projection.weight = nn.Parameter(projection.weight[:, kept.to(projection.weight.device)].clone())
            projection.in_features = projection.weight.shape[1]

    def forward(self, step: Step) -> Tensor:
        real = step.batch["attention_mask"].unsqueeze(-1)
        total = step.student.logits.new_zeros((), dtype=torch.float)
        for layer, projection in self.projections.items():
            mine = projection(step.student.hidden_states[int(layer)]).float()
            total = total + masked_mse(mine, step.teacher.hidden_states[int(layer)].float(), real)
        return total


def _identity(width: int, target: int) -> nn.Linear:
    projection = nn.Linear(width, target)
    nn.init.eye_(projection.weight)
    nn.init.zeros_(projection.bias)
    return projection


def masked_mse(student: Tensor, teacher: Tensor, real: Tensor) -> Tensor:
    """Squared error over real tokens, mean per entry, `()`.

    `student` and `teacher` are `(batch, tokens, dims)`, `real` is `(batch, tokens, 1)`.
    """
    error = (student - teacher).square() * real
    return error.sum() / (real.sum() * student.shape[-1])
