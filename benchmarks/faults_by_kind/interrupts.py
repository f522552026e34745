"""Calls of the Python API that Ctrl-C interrupts: the caller's models are afterwards what they were.

A model that was trained has its shapes and is that of the method's masks. Calls are interrupted in place of a tensor
operation, attaching masks also at each line, and an export, which traces operations, after a random time.
"""

from __future__ import annotations

import random
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from time import monotonic
from types import FrameType
from typing import Any

import torch
from small_world import tokenizer, write_data, write_model
from tiny_models import inputs, random_masks
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import PreTrainedModel

import secateur as sec
from faults_by_kind.endings import Outcome, ending
from faults_by_kind.small_trainer import small_trainer, student
from secateur.deploy.export import opened
from secateur.surgery.masking import Attachment
from secateur.surgery.opening import open_model
from secateur.tasks import TASKS


@dataclass
class Scene:
    """A call, the models that must be afterwards what they were, and what else must hold: "" or what does not."""

    call: Callable[[], object]
    models: tuple[PreTrainedModel, ...] = ()
    holds: Callable[[], str] = field(default=lambda: "")


# Ways to interrupt


class Operations(TorchDispatchMode):
    """Counts tensor operations, and raises in place of one of them; of none if `at` is 0."""

    def __init__(self, at: int = 0) -> None:
        super().__init__()
        self.at, self.count = at, 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += 1
        if self.count == self.at:
            raise KeyboardInterrupt
        return function(*args, **(kwargs or {}))


class Lines:
    """Counts the lines that attaching masks runs, and raises before one of them."""

    def __init__(self, at: int = 0) -> None:
        self.at, self.count = at, 0
        functions = (function for name, function in vars(Attachment).items() if name != "detach")
        self.codes = {function.__code__ for function in functions if hasattr(function, "__code__")}

    def __enter__(self) -> Lines:
        sys.settrace(self._trace)
        return self

    def __exit__(self, *error: object) -> None:
        sys.settrace(None)

    def _trace(self, frame: FrameType, event: str, value: Any) -> Any:
        if frame.f_code not in self.codes:
            return None
        self.count += event == "line"
        if event == "line" and self.count == self.at:
            raise KeyboardInterrupt
        return self._trace


@contextmanager
def _after(seconds: float) -> Iterator[None]:
    """Ctrl-C after some seconds."""
    before = signal.signal(signal.SIGALRM, signal.default_int_handler)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


# The state of a model

MARK = "_is_accelerate_prepared"
"""What accelerate leaves at a model that a trainer has used."""


def _state(model: PreTrainedModel) -> dict[str, Any]:
    """Everything of a model that a call could leave changed, by name."""
    state: dict[str, Any] = {f"weights {name}": value.clone() for name, value in model.state_dict().items()}
    state |= {f"gradient {name}": value.requires_grad for name, value in model.named_parameters()}
    for name, module in model.named_modules():
        state[f"module {name}"] = (type(module), module.training)
        state[f"attributes {name}"] = vars(module).keys() - vars(nn.Module()).keys() - {MARK}
        state[f"hooks {name}"] = (len(module._forward_hooks), len(module._forward_pre_hooks))
    state |= {f"config {key}": value for key, value in model.config.to_dict().items()}
    return state | {"threads": torch.get_num_threads()}


def _difference(before: Mapping[str, Any], after: Mapping[str, Any]) -> str:
    """The name of the first part of two states that differs, "" if none does."""
    for name in sorted({*before, *after}):
        one, other = before.get(name), after.get(name)
        same = torch.equal(one, other) if torch.is_tensor(one) and torch.is_tensor(other) else one == other
        if not same:
            return f"{name}: {_short(one, other)} was, {_short(other, one)} is"
    return ""


def _short(value: Any, other: Any) -> str:
    """A value, of a set what the other does not have."""
    return str(value - other if isinstance(value, set) and isinstance(other, set) else value)[:200]


# Calls


def _training(folder: Path, method: str | None, **options: Any) -> Scene:
    """Train a model: it keeps shapes and classes, is that of the masks, and can be trained again."""
    model = student()
    trainer = small_trainer(folder, method, model, **options)
    shapes = _shapes(model)

    def holds() -> str:
        if wrong := _difference(shapes, _shapes(model)) or _not_masked(trainer, model):
            return wrong
        trainer.train()
        again = _difference(shapes, _shapes(model)) or _not_masked(trainer, model)
        return f"after training again: {again}" if again else ""

    return Scene(trainer.train, holds=holds)


def _shapes(model: PreTrainedModel) -> dict[str, Any]:
    """The state of a model without its values and modes."""
    left_out = ("module ", "threads")
    state = {name: value for name, value in _state(model).items() if not name.startswith(left_out)}
    shapes = {name: tuple(value.shape) if torch.is_tensor(value) else value for name, value in state.items()}
    return shapes | {f"class {name}": type(module) for name, module in model.named_modules()}


def _not_masked(trainer: sec.PruningTrainer, model: PreTrainedModel) -> str:
    """What is wrong with a model that is pruned: it must be finite, and its cut by the masks the masked model."""
    batch = [inputs(model)]
    if not torch.isfinite(model(**batch[0]).logits).all():
        return "outputs are not finite"
    if trainer.method is None:
        return ""
    masks = trainer.method.eval().masks().detach()
    plan = sec.Plan.of(trainer.method.space, masks)
    verified = sec.verify(batch, dense=model, plan=plan)
    return "" if verified.passed else f"the cut differs from the masked model: {verified}"


def _evaluation(folder: Path, way: str) -> Scene:
    model = student()
    trainer = small_trainer(folder, "grain", model)
    model.eval()
    call: Any = getattr(trainer, way)
    return Scene(partial(call, trainer.eval_dataset), (model,))


def _attaching(root: Path, way: str) -> Scene:
    model = student().train()
    space = sec.Space(model, "ffn", "qk", "vo", "head", "sublayer", "hidden")
    masks = random_masks(space)

    def attach_alone() -> None:
        sec.attach(model, space, masks).detach()

    def forwards() -> None:
        with sec.attached(model, space, masks):
            for _ in range(3):
                model(**inputs(model)).logits.sum().backward()
                model.zero_grad()

    return Scene(attach_alone if way == "attach" else forwards, (model,))


def _cut(root: Path, folder: Path | None = None) -> tuple[PreTrainedModel, sec.Plan, PreTrainedModel]:
    """A model in training mode, a plan, and its cut, which is saved to `folder`."""
    model = student().train()
    space = sec.Space(model, "ffn", "qk", "vo", "hidden")
    plan = sec.Plan.of(space, random_masks(space))
    small = sec.cut(model, plan)
    if folder is not None:
        sec.save(small, folder)
    return model, plan, small


def _verifying(root: Path) -> Scene:
    model, plan, small = _cut(root, root / "small")
    small.train()
    call = partial(sec.verify, [inputs(model)], dense=model, plan=plan, compact=small, folder=root / "small")
    return Scene(call, (model, small))


def _cutting(root: Path) -> Scene:
    model, plan, _ = _cut(root)
    return Scene(partial(sec.cut, model, plan), (model,))


def _measuring(root: Path) -> Scene:
    model, _, small = _cut(root)
    call = partial(sec.measure, model, small, batch=2, tokens=8, repeats=2, warmup=1, threads=2)
    return Scene(call, (model, small))


def _reacting(root: Path) -> Scene:
    name, data = write_model(root / "labelled", ("bad", "good")), write_data(root / "data.csv")
    model = open_model(name).train()
    model.config.problem_type = "single_label_classification"
    task = TASKS.get("classification").from_data(data, metric=None, seed=0, rows=None)
    options: dict[str, Any] = {"units": ("ffn", "head"), "densities": (0.5,), "rows": 8, "max_length": 16}
    return Scene(partial(sec.sensitivity, model, task, tokenizer(), **options), (model,))


def _exporting(root: Path, suffix: str) -> Scene:
    """Export a model: an older file stays as it is, and nothing lies beside it."""
    _, _, small = _cut(root)
    path = root / suffix / f"model.{suffix}"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"an older file")

    def holds() -> str:
        beside = [place.name for place in path.parent.iterdir() if place != path]
        if not beside and path.read_bytes() != b"an older file":
            opened(path)
        return f"left {beside}" if beside else ""

    return Scene(partial(sec.export, small.train(), path), (small,), holds)


BY_OPERATION: dict[str, Callable[[Path], Scene]] = {
    "PruningTrainer.train, no method": partial(_training, method=None),
    "PruningTrainer.train, grain, shrink": partial(_training, method="grain", shrink=True),
    "PruningTrainer.train, magnitude, shrink": partial(_training, method="magnitude", shrink=True),
    "PruningTrainer.train, cofi": partial(_training, method="cofi"),
    "PruningTrainer.train, movement, bf16": partial(_training, method="movement", bf16=True),
    "PruningTrainer.evaluate": partial(_evaluation, way="evaluate"),
    "PruningTrainer.predict": partial(_evaluation, way="predict"),
    "attached": partial(_attaching, way="attached"),
    "cut": _cutting,
    "verify": _verifying,
    "measure": _measuring,
    "sensitivity": _reacting,
}


def interrupts(root: Path, scale: float) -> Iterator[Outcome]:
    """Every call, interrupted at random."""
    draw, each = random.Random(0), max(1, round(20 * scale))
    for name, make in BY_OPERATION.items():
        for at in _places(make(root), Operations(), draw, each):
            verdict, said = _judged(make(root), Operations(at))
            yield f"interrupt: {name.partition(',')[0]}", verdict, f"{name}, operation {at}", said
    attach = partial(_attaching, root, "attach")
    for at in _places(attach(), Lines(), draw, 2 * each):
        verdict, said = _judged(attach(), Lines(at))
        yield "interrupt: attach", verdict, f"line {at}", said
    for suffix in ("pt2", "onnx"):
        export = partial(_exporting, root, suffix)
        for moment in _moments(export, draw, each):
            verdict, said = _judged(export(), _after(moment))
            yield "interrupt: export", verdict, f"{suffix} after {moment:.3f} s", said


def _places(scene: Scene, counter: Operations | Lines, draw: random.Random, count: int) -> list[int]:
    """Different numbers of what a call runs through, in order."""
    with counter:
        scene.call()
    return sorted(draw.sample(range(1, counter.count + 1), min(count, counter.count)))


def _moments(make: Callable[[], Scene], draw: random.Random, count: int) -> list[float]:
    """Times within a call, in seconds; the first call, which also imports, is not timed."""
    make().call()
    scene, started = make(), monotonic()
    scene.call()
    seconds = monotonic() - started
    return sorted(draw.uniform(0, seconds) for _ in range(count))


def _judged(scene: Scene, interruption: AbstractContextManager[Any]) -> tuple[str, str]:
    """(verdict, message) of a call that is interrupted."""
    before = [_state(model) for model in scene.models]

    def call() -> str:
        with suppress(KeyboardInterrupt), interruption:
            scene.call()
        changed = (_difference(state, _state(model)) for state, model in zip(before, scene.models, strict=True))
        return next(filter(None, changed), "") or scene.holds()

    return ending(call)
