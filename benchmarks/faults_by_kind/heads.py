"""Dense checkpoints of every model class of the supported families: the head is kept, or its class is refused.

What concerns the encoder alone (`inspect`) opens it, and says that the head is left out.
"""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import torch
import transformers
from faults_world import REFUSED, RIGHT, TRACEBACK, WRONG
from small_world import tokenizer
from tiny_models import inputs, random_masks, tiny
from transformers import PreTrainedModel
from typer.testing import CliRunner

import secateur as sec
from faults_by_kind.endings import Outcome, ending
from secateur.cli import app
from secateur.structure.architectures import ARCHITECTURES
from secateur.surgery.auto_classes import AUTO_CLASSES
from secateur.system.compat.auto_classes import stock_class

ENCODER_ALONE = "whose head is not supported: this is its encoder"
"""What is logged where an encoder is opened without its head."""
COMMANDS = ("cut", "export", "inspect")


def heads(root: Path, scale: float) -> Iterator[Outcome]:
    """Every class that is not supported, and a part of the others by the scale, in Python and by commands."""
    for number, (kind, stock, supported) in enumerate(_classes()):
        if supported and number % max(1, round(1 / scale)):
            continue
        row = "a supported head" if supported else "another head"
        model = _model(kind, stock)
        verdict, said = ending(partial(_cut, model, root / "small"))
        yield f"{row}: in Python", verdict, stock.__name__, said
        folder = root / stock.__name__
        model.save_pretrained(folder)
        tokenizer().save_pretrained(folder)
        for command in COMMANDS:
            if not (command == "export" and model.config.is_encoder_decoder):
                verdict, said = _called(command, folder, model, supported)
                yield f"{row}: secateur {command}", verdict, stock.__name__, said
        shutil.rmtree(folder)


def _classes() -> Iterator[tuple[str, type[PreTrainedModel], bool]]:
    """Family, stock class, and whether it is supported: each class that an `AutoModelFor*` builds, once."""
    autos = [getattr(transformers, name) for name in dir(transformers) if name.startswith("AutoModel")]
    for kind, architecture in ARCHITECTURES.all().items():
        config = type(transformers.AutoConfig.for_model(kind))
        supported = {stock_class(getattr(transformers, AUTO_CLASSES[head]), config) for head in architecture.heads}
        found: dict[type[PreTrainedModel], None] = {}
        for auto in autos:
            with suppress(AttributeError, KeyError):
                built: Any = stock_class(auto, config)
                found |= dict.fromkeys(built if isinstance(built, tuple) else (built,))
        for stock in found:
            yield kind, stock, stock in supported


def _model(kind: str, stock: type[PreTrainedModel]) -> PreTrainedModel:
    config = copy.deepcopy(tiny(kind).config)
    torch.manual_seed(0)
    return stock(config).eval()


def _cut(model: PreTrainedModel, folder: Path) -> str:
    """What is wrong with the cut of a model and its folder."""
    space = sec.Space(model, "ffn", "head")
    plan = sec.Plan.of(space, random_masks(space))
    small = sec.cut(model, plan)
    sec.save(small, folder)
    loaded = sec.load(folder)
    batch = [inputs(model)]
    if not isinstance(loaded, type(model)):
        return f"a {type(model).__name__} became a {type(loaded).__name__}"
    verified = sec.verify(batch, dense=model, plan=plan, compact=small, folder=folder)
    return "" if verified.passed else str(verified)


def _called(command: str, folder: Path, model: PreTrainedModel, supported: bool) -> tuple[str, str]:
    """(verdict, message) of a command."""
    output = folder.parent / f"{folder.name} {command}.pt2"
    words = {
        "cut": ["cut", folder, "--density", "0.7", "--output", output],
        "export": ["export", folder, "--output", output],
        "inspect": ["inspect", folder],
    }[command]
    done = CliRunner().invoke(app.app, [str(word) for word in words])
    if done.exit_code == 2 and done.stderr.startswith("error: ") and len(done.stderr.splitlines()) == 1:
        return (WRONG if supported else REFUSED), done.stderr
    if done.exit_code:
        return TRACEBACK, done.stderr + repr(done.exception)
    fault = _wrong(command, output, model, supported, done.stderr)
    return (WRONG if fault else RIGHT), fault


def _wrong(command: str, output: Path, model: PreTrainedModel, supported: bool, said: str) -> str:
    """What is wrong with the result of a command that has succeeded."""
    if command == "cut":
        (kept,) = json.loads((output / "config.json").read_text())["architectures"]
        return "" if kept.removeprefix("Pruned") == type(model).__name__ else f"became a {kept}"
    if command == "export":
        return "" if sec.verify([inputs(model)], compact=model, exported=output).passed else "another head"
    return "" if supported or ENCODER_ALONE in said else "no word of the head"
