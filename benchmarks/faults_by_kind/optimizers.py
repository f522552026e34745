"""Optimizers that are not the trainer's own: they train the model, gates and projections, or are refused.

The reference is the same training by the trainer's own optimizer: the same parameters move, and multipliers of a
constraint rise where they rise there.
"""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable, Iterator
from functools import cache, partial
from itertools import product
from pathlib import Path
from typing import Any

import torch
from torch import nn, optim
from torch.optim.lr_scheduler import LambdaLR
from transformers.optimization import Adafactor

import secateur as sec
from faults_by_kind.endings import Outcome, ending
from faults_by_kind.small_trainer import small_trainer, student


class Signs(optim.Optimizer):
    """Steps by the sign of the gradient, written by a user who has not heard of `maximize`."""

    def __init__(self, params: Any, lr: float) -> None:
        super().__init__(params, {"lr": lr})

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    parameter -= group["lr"] * parameter.grad.sign()


RATE = 1e-2
KINDS: dict[str, Callable[[Any], optim.Optimizer]] = {
    "SGD": partial(optim.SGD, lr=RATE),
    "SGD with momentum": partial(optim.SGD, lr=RATE, momentum=0.9),
    "AdamW": partial(optim.AdamW, lr=RATE),
    "AdamW with amsgrad": partial(optim.AdamW, lr=RATE, amsgrad=True),
    "RMSprop": partial(optim.RMSprop, lr=RATE, centered=True),
    "Adagrad": partial(optim.Adagrad, lr=RATE),
    "NAdam": partial(optim.NAdam, lr=RATE),
    "torch's Adafactor": partial(optim.Adafactor, lr=RATE),
    "transformers' Adafactor": partial(Adafactor, lr=RATE, relative_step=False, scale_parameter=False),
    "one of the user's own": partial(Signs, lr=RATE),
}
METHODS: tuple[tuple[str | None, bool], ...] = (
    (None, False), ("grain", False), ("grain", True), ("cofi", False), ("movement", False), ("subset", False),
    ("voita", False),
)  # fmt: skip
"""A method, and whether the model shrinks."""
WAYS = ("optimizers", "optimizers, groups", "optimizers, scheduler", "optimizers, all of it", "class")
OWN = ("", "")
UNMOVED = "key.bias"
"""The bias of keys changes no attention: its gradient is rounding, which only some optimizers enlarge to a step."""


def optimizers(root: Path, scale: float) -> Iterator[Outcome]:
    """Every kind of optimizer, method and way to pass the optimizer; a sample of them by the scale."""
    cases = [*product(KINDS, WAYS, METHODS, (False, True))]
    for kind, way, method, distilled in random.Random(0).sample(cases, min(len(cases), max(1, round(150 * scale)))):
        verdict, said = ending(partial(_trained, root / "run", kind, way, method, distilled))
        name = f"{kind} as {way}, {method[0]}{' shrinking' * method[1]}{', hidden states' * distilled}"
        yield "an optimizer that is passed in", verdict, name, said
        shutil.rmtree(root / "run", ignore_errors=True)
    for method, distilled in product(METHODS, (False, True)):
        verdict, said = ending(partial(_trained, root / "run", "AdamW", "another model", method, distilled))
        yield "an optimizer of another model", verdict, f"{method}, {distilled}", said


def _trained(folder: Path, kind: str, way: str, method: tuple[str | None, bool], distilled: bool) -> str:
    """What is wrong with a training by an optimizer, "" if nothing is."""
    moved, rises = _movement(_trainer(folder, kind, way, method, distilled))
    reference, risen = _reference(folder, method, distilled)
    if left := reference - moved:
        return f"{len(left)} parameters are not trained, the first is {min(left)}"
    return "" if risen == rises else "multipliers fall that rise with the trainer's own optimizer"


@cache
def _reference(folder: Path, method: tuple[str | None, bool], distilled: bool) -> tuple[set[str], list[bool]]:
    return _movement(_trainer(folder, *OWN, method, distilled))


def _movement(trainer: sec.PruningTrainer) -> tuple[set[str], list[bool]]:
    """Train: the names of the parameters that have moved, and which multipliers have risen."""
    for term in trainer.objective:
        term.bind(trainer.model, trainer.teacher)
    parts = nn.ModuleDict({"model": trainer.model, "own": trainer.own_state})
    before = {name: value.detach().clone() for name, value in parts.named_parameters()}
    trainer.train()
    after = dict(parts.named_parameters())
    changes = {name: after[name].detach() - value for name, value in before.items() if name in after}
    multipliers = [change for name, change in changes.items() if name.endswith("multipliers")]
    rises = [rise for change in multipliers for rise in (change > 0).flatten().tolist()]
    moved = {name for name, change in changes.items() if bool(change.any()) and not name.endswith(UNMOVED)}
    return moved, rises


def _trainer(folder: Path, kind: str, way: str, method: tuple[str | None, bool], distilled: bool) -> sec.PruningTrainer:
    """A trainer to which an optimizer is passed in some way; none if the kind is empty."""
    torch.manual_seed(0)
    model, name = student(), method[0]
    options: dict[str, Any] = {"shrink": method[1]}
    if distilled:
        options |= {"teacher": student(seed=1), "objective": [sec.Labels(), sec.Hidden(layers=[1, 2])]}
    if way == "class":
        made: Any = KINDS[kind]
        options["optimizer_cls_and_kwargs"] = (made.func, made.keywords)
    elif kind:
        options["optimizers"] = _passed(KINDS[kind], way, student() if way == "another model" else model)
    trainer = small_trainer(folder, name, model, **options)
    if way == "optimizers, all of it":
        _add_all(trainer)
    return trainer


def _passed(make: Callable[[Any], optim.Optimizer], way: str, model: nn.Module) -> tuple[Any, Any]:
    """An optimizer of a model's parameters, and a scheduler or None."""
    named = list(model.named_parameters())
    groups = [{"params": [value for name, value in named if name.endswith("bias") == bias]} for bias in (False, True)]
    optimizer = make(groups if way == "optimizers, groups" else model.parameters())
    return optimizer, LambdaLR(optimizer, lambda step: 0.9**step) if way == "optimizers, scheduler" else None


def _add_all(trainer: sec.PruningTrainer) -> None:
    """Add the groups of the method and the terms to the optimizer, as a user does who knows of them."""
    for term in trainer.objective:
        term.bind(trainer.model, trainer.teacher)
    groups = trainer.method.param_groups() if trainer.method is not None else []
    if projections := list(trainer.terms.parameters()):
        groups = [{"params": projections}, *groups]
    optimizer: Any = trainer.optimizer
    for group in groups:
        optimizer.add_param_group(group)
