"""The words of the command line that several verbs take, and what they open: models, tokenizers, tasks."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import torch
import transformers
import typer
from transformers import AutoConfig, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from secateur.run.recipe import KEYS
from secateur.run.recipe_yaml import parse
from secateur.surgery import checkpoint
from secateur.surgery.auto_classes import auto_class
from secateur.system.errors import UserError
from secateur.tasks import TASKS
from secateur.tasks import task as tasks


def recipe_key(name: str, *flags: str) -> Any:
    """An option that is a key of the recipe, with the recipe's own words about it."""
    return typer.Option(*flags, help=KEYS[name].description, show_default=False)


Json = Annotated[bool, typer.Option("--json", help="Print JSON, and nothing else, on stdout.")]
ModelName = Annotated[str, typer.Argument(help="A hub name or a model folder, dense or compact.")]
Folder = Annotated[str, typer.Argument(help="A model folder, or the folder of a finished run.")]
Output = Annotated[Path, typer.Option("--output", "-o", help="Folder to write; new or empty.")]
Run = Annotated[Path, typer.Option("--output", "-o", help="Folder of the run.")]
Data = Annotated[str | None, recipe_key("data.source")]
Text = Annotated[str | None, recipe_key("data.text")]
Label = Annotated[str | None, recipe_key("data.label")]
Metric = Annotated[str | None, recipe_key("data.metric")]
Task = Annotated[str, typer.Option(help="Kind of task; see `secateur list`.")]
TaskOptions = Annotated[
    list[str] | None, typer.Option("--task-option", help="key=value: an argument of the task's own; repeatable.")
]
MaxLength = Annotated[int | None, recipe_key("data.max_length")]
Units = Annotated[str | None, typer.Option(help="What may be pruned, with commas: ffn,qk,vo.")]
Options = Annotated[
    list[str] | None, typer.Option("--option", help="key=value: an argument of the method's own; repeatable.")
]


def names_of(text: str | None) -> tuple[str, ...] | None:
    """Names with commas between them."""
    return None if text is None else tuple(name.strip() for name in text.split(","))


def pairs_of(flag: str, entries: list[str] | None) -> dict[str, Any]:
    """`key=value` entries, the values read as YAML: 3, 0.5, true, null, [2, 4], text."""
    pairs = {}
    for entry in entries or []:
        key, equals, value = entry.partition("=")
        if not (key and equals):
            raise UserError(f"{flag} {entry!r} is not key=value")
        pairs[key.strip()] = parse(value, f"{flag} {entry!r}")
    return pairs


def shape_of(text: str) -> tuple[int, int]:
    """`8x128` as (batch, tokens)."""
    try:
        batch, tokens = (int(number) for number in text.lower().split("x"))
    except ValueError as error:
        raise UserError(f"shape {text!r} is not batch x tokens: write it like 8x128") from error
    return batch, tokens


# What they open


def place_of(name: str) -> Path:
    """The folder of a model; for the folder of a finished run, the model in it."""
    inner = Path(name) / "model"
    return inner if inner.is_dir() and not (Path(name) / "config.json").is_file() else Path(name)


def open_model(name: str) -> PreTrainedModel:
    """A compact folder, or a dense checkpoint with the head that its config names; in evaluation mode."""
    place = place_of(name)
    if place.is_dir() and checkpoint.read_config(place).to_dict().get("secateur"):
        return checkpoint.load(place)
    source = place if place.is_dir() else name
    try:
        config = AutoConfig.from_pretrained(source)
        auto = getattr(transformers, _auto_class(config.architectures))
        model, loading = auto.from_pretrained(source, config=config, dtype=torch.float32, output_loading_info=True)
    except Exception as error:  # broken files, foreign folders and an absent hub raise all kinds
        raise UserError(
            f"model {name!r} cannot be loaded ({first_line(str(error))}): give a folder written by "
            "save_pretrained, or a name on the hub"
        ) from error
    lost = sorted(key for key in loading["missing_keys"] if "pooler." not in key)
    if lost:
        raise UserError(f"model {name!r} lacks {len(lost)} of its weights (the first is {lost[0]}): give a whole one")
    return model.eval()


def _auto_class(architectures: list[str] | None) -> str:
    """The class that loads a checkpoint with its own head; the bare encoder for an unsupported head."""
    try:
        return auto_class((architectures or [""])[0])
    except ValueError:
        return "AutoModel"


def tokenizer_of(name: str) -> PreTrainedTokenizerBase:
    """The tokenizer beside a model."""
    place = place_of(name)
    try:
        return AutoTokenizer.from_pretrained(place if place.is_dir() else name)
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{name} has no tokenizer that loads: give a model folder that holds one") from error


def task_of(
    name: str,
    data: str,
    seed: int = 0,
    rows: int | None = None,
    options: Mapping[str, Any] | None = None,
    **columns: Any,
) -> tasks.Task:
    """The task of that name on data, with options of its own; columns that are None are recognised."""
    given = {key: value for key, value in columns.items() if value is not None}
    if "text" in given:
        given["text"] = names_of(given["text"])
    given.setdefault("metric", None)
    return tasks.open_task(name, data, options or {}, seed=seed, rows=rows, **given)


def length_of(max_length: int | None, task: str) -> int:
    """Tokens of a row: as asked, or as a recipe of the task has it."""
    usual = TASKS.get(task).defaults.get("data.max_length", KEYS["data.max_length"].default)
    return usual if max_length is None else max_length


def fitting_tokenizer(task: tasks.Task, model: PreTrainedModel, folder: str) -> PreTrainedTokenizerBase:
    """The tokenizer of a model that is fine-tuned for a task; any other is refused."""
    if not task.is_finetuned(model):
        raise UserError(f"{folder} has no head for this data: give a model that is fine-tuned for it")
    task.check_labels(model, "model")
    return tokenizer_of(folder)


def first_line(text: str | None) -> str:
    """Of a docstring or a library's message."""
    return (text or "").strip().partition("\n")[0]
