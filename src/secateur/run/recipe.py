"""A recipe: everything that a run is made of, in one small, flat, strict YAML file.

    model: bert-base-uncased
    data: glue/sst2
    method: grain
    density: 0.05

What a recipe does not say has the default of its task, or else of its method (`defaults` of either), or that below; the
run folder keeps the resolved recipe.
"""

from __future__ import annotations

import re
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal, get_args

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PositiveInt,
    ValidationError,
    ValidationInfo,
    field_validator,
)
from pydantic_core import PydanticCustomError

from secateur.measure.latency import milliseconds
from secateur.methods import METHODS
from secateur.system.errors import UserError
from secateur.tasks import TASKS

AMOUNTS = ("density", "latency", "speedup", "keep")
"""Keys that say how much is to be left: one of them decides, and one that is given goes before a default."""


class Recipe(BaseModel):
    """The whole of a run. Fractions of the run are in [0, 1]; densities are fractions of parameters kept."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    model: str = Field(description="model to prune: a hub name or a folder; fine-tuned already, or not yet")
    data: str = Field(description="data: a hub name (glue/sst2), a folder, a file, or bbc for the embedded corpus")
    teacher: str | None = Field(
        None, description="fine-tuned teacher; by default the model itself, or one trained first"
    )

    task: str = "classification"
    text: tuple[str, ...] | None = Field(None, description="columns of text; recognised by default")
    label: str | None = Field(None, description="column of labels; recognised by default")
    metric: str | None = Field(None, description="main score; by default the task's")
    rows: int | None = Field(None, gt=0, description="train on this many rows only")
    task_options: dict[str, Any] = Field(default_factory=dict, description="the task's own arguments")
    max_length: int = Field(128, gt=1, description="tokens a text is cut to, or a window of it has")

    method: str = "grain"
    options: dict[str, Any] = Field(default_factory=dict, description="the method's own arguments")
    units: tuple[str, ...] = Field(("ffn", "qk", "vo"), min_length=1)
    density: float | tuple[float, ...] | None = Field(
        0.05,
        description="fraction of the encoder's prunable parameters to keep; several, as in 0.4,0.2,0.1, give as many "
        "models from one pruning; null where a time is asked for",
    )
    toward: float | None = Field(
        None,
        description="density that the pruning is on its way to when it passes the one to keep, where the model is cut",
    )
    latency: float | None = Field(None, gt=0, description="time to come down to, in place of a density: 5ms, or 5")
    speedup: float | None = Field(
        None, gt=1, description="how many times as fast as the dense model to become, in place of a density"
    )
    keep: int | None = Field(
        None, gt=0, description="number of units to keep, exactly, in place of a density: 12 heads of 144"
    )
    target_shape: tuple[PositiveInt, PositiveInt] | None = Field(
        None, description="(batch, tokens) of that time; by default the first of shapes, or the table's"
    )
    latency_table: str | None = Field(
        None, description="what `secateur latency` measured; by default measured when the run starts"
    )
    round_to: PositiveInt = Field(1, description="sizes become multiples of this by keeping the best pruned units")
    embedding_rank: int | None = Field(None, gt=0, description="factorise the word embeddings to this rank")
    start: Literal["teacher", "model"] = Field("teacher", description="whose weights the student starts from")

    temperature: float = Field(8.0, gt=0, description="of the distilled logits")
    divergence: bool = Field(False, description="distil logits by temperature^2 x KL instead of cross-entropy")
    logits_weight: float = Field(1.0, ge=0)
    hidden: str | tuple[int, ...] | None = Field(
        "every 2", description="the teacher's layers whose hidden states are distilled; null for none"
    )
    match: Literal["same", "nearest", "nearest-ordered", "sampled", "windows"] = Field(
        "same", description="which of the student's layers answers for each of them"
    )
    hidden_projection: bool = Field(True, description="compare hidden states through trained projections")
    hidden_weight: float = Field(1.0, ge=0)
    hidden_of: Literal["both", "encoder", "decoder"] = Field(
        "both", description="whose hidden states are distilled, where a model has an encoder and a decoder"
    )
    labels_weight: float = Field(0.0, ge=0, description="of the task's own loss beside distillation")
    label_smoothing: float = Field(
        0.0, ge=0, lt=1, description="part of each label that all classes share, in the task's own loss"
    )

    epochs: float = Field(6.0, gt=0, description="of the whole run, pruning and recovery")
    begin: float = Field(0.02, ge=0, le=1, description="part of the run after which pruning starts")
    end: float = Field(0.15, gt=0, le=1, description="part of the run after which the model is cut and recovers")
    ramp: float = Field(1.0, gt=0, le=1, description="part of the way from begin to end over which the density falls")
    train: Literal["all", "scores"] = Field(
        "all", description="what pruning trains: the weights and what the method learns, or the latter alone"
    )
    batch_size: int = Field(32, gt=0)
    accumulate: int = Field(1, gt=0, description="micro-batches per optimizer step")
    learning_rate: float = Field(3e-4, gt=0)
    decay: Literal["run", "stage"] = Field(
        "run", description="the learning rate falls to 0 over the whole run, or over the pruning alone"
    )
    recover_learning_rate: float | None = Field(
        None, gt=0, description="constant, for the recovery, where the learning rate falls over the pruning alone"
    )
    warmup: float = Field(0.1, ge=0, lt=1, description="part of the run over which the learning rate rises")
    weight_decay: float = Field(0.01, ge=0)
    augment: int = Field(
        0,
        ge=0,
        description="changed copies of each training text, for the teacher to label: words dropped, swapped or cropped",
    )
    average: float = Field(
        0.0,
        ge=0,
        le=1,
        description="last part of the recovery over which the weights are averaged; 0: the last weights",
    )
    freeze_embeddings: bool | Literal["all"] = Field(
        True, description="leave the word embeddings as they are; all: positions, types and their norm too"
    )
    dropout: float | None = Field(0.0, ge=0, lt=1, description="of the student; null leaves the model's own")
    bf16: bool | None = Field(None, description="bf16 autocast; by default where the hardware has it")
    shrink: bool = Field(True, description="cut the model while it is pruned, where the method lets units go for good")
    cache: bool = Field(True, description="compute the teacher's outputs once and read them back")
    cache_gb: float = Field(8.0, gt=0, description="largest size of all that is kept there, in GB")
    evaluations: int = Field(4, ge=0, description="how often a stage scores where it is")
    evaluation_rows: int | None = Field(
        None, gt=0, description="validation rows that a stage is scored on while it trains, the first; all by default"
    )
    select: int = Field(
        0, ge=0, description="training rows held out, on which the best evaluation of a stage is chosen; 0: the last"
    )
    checkpoints: int = Field(4, ge=0, description="how often a stage saves where it is")

    report_to: tuple[str, ...] = Field(
        (), description="trackers that get what is logged, as Trainer names them: tensorboard, wandb, mlflow, ..."
    )

    teacher_epochs: float = Field(3.0, gt=0)
    teacher_learning_rate: float = Field(5e-5, gt=0)

    shapes: tuple[tuple[PositiveInt, PositiveInt], ...] = Field(
        ((1, 32), (8, 128)), description="(batch, tokens) at which latency is measured"
    )
    repeats: int = Field(50, gt=0, description="forwards per latency")
    seed: int = Field(0, ge=0)

    @field_validator("*", mode="before")
    @classmethod
    def _no_bool_for_a_number(cls, value: Any, info: ValidationInfo) -> Any:
        """Pydantic follows Python, to which True is 1; in a recipe it is a slip."""
        if _bool_for_number(value, cls.model_fields[info.field_name or ""].annotation):
            raise PydanticCustomError("number", "input should be a number")
        return value

    @field_validator("density", mode="before")
    @classmethod
    def _several(cls, value: Any) -> Any:
        """Text with commas, as the command line has it, is several; one alone is a number."""
        parts = value.split(",") if isinstance(value, str) else value
        return parts[0] if isinstance(parts, list | tuple) and len(parts) == 1 else parts

    @field_validator("density")
    @classmethod
    def _falling(cls, value: Any) -> Any:
        return tuple(sorted(value, reverse=True)) if isinstance(value, tuple) else value

    @field_validator("latency", mode="before")
    @classmethod
    def _time(cls, value: Any) -> Any:
        return milliseconds(value) if isinstance(value, str) else value

    def model_post_init(self, context: Any) -> None:
        if not self.begin < self.end:
            raise UserError(f"begin {self.begin} must be smaller than end {self.end}: pruning needs a part of the run")
        if self.select and not self.evaluations:
            raise UserError(
                "select: without evaluations there is nothing to choose from; set evaluations, or select: 0"
            )
        if self.select and self.average:
            raise UserError("select and average exclude each other: each says which weights are the result; drop one")
        if self.augment and self.labels_weight:
            raise UserError("augment: a changed text has no label of its own; set labels_weight: 0, or augment: 0")
        if (self.decay == "stage") != (self.recover_learning_rate is not None):
            raise UserError("decay: stage and recover_learning_rate go together: set both or neither")
        if self.end == 1 and (self.average or self.recover_learning_rate is not None):
            raise UserError("end: 1 leaves no recovery: drop average and recover_learning_rate, or lower end")
        if [getattr(self, name) for name in AMOUNTS].count(None) != len(AMOUNTS) - 1:
            raise UserError("density, latency, speedup and keep exclude each other: ask for one of them")
        if self.latency is None and self.speedup is None and (self.target_shape or self.latency_table):
            raise UserError("target_shape and latency_table go with a latency or a speedup: ask for one, or drop them")
        for density in self.densities:
            if not 0 < density <= 1:
                raise UserError(f"density {density} is not in (0, 1]: it is the fraction of parameters to keep")
        if len(set(self.densities)) < len(self.densities):
            raise UserError(f"density {', '.join(f'{d:g}' for d in self.densities)} has one twice: name each once")
        if self.toward is not None and not (isinstance(self.density, float) and 0 < self.toward < self.density):
            raise UserError(
                f"toward {self.toward:g} is no density below the one to keep, {self.density}: pruning passes "
                "the one on its way to the other"
            )

    @property
    def densities(self) -> tuple[float, ...]:
        """The densities asked for, falling; none where a time or a number of units is."""
        if self.density is None:
            return ()
        return self.density if isinstance(self.density, tuple) else (self.density,)

    def each(self) -> tuple[Recipe, ...]:
        """A recipe of one density for each of several, falling, that share the way to the last one."""
        last = self.densities[-1]
        return tuple(
            self.model_copy(update={"density": density, "toward": None if density == last else last})
            for density in self.densities
        )

    def to_yaml(self) -> str:
        """The resolved recipe, every key."""
        return yaml.dump(self.model_dump(mode="json"), Dumper=_Dumper, sort_keys=False)


def _bool_for_number(value: Any, kind: Any) -> bool:
    """Whether `value` is, or holds, True or False where the type `kind`, or a type in it, is a number's."""
    within = get_args(kind)
    if isinstance(value, list | tuple):
        return any(_bool_for_number(item, part) for item in value for part in within)
    return isinstance(value, bool) and not {int, float}.isdisjoint((kind, *within))


def make(values: dict[str, Any], source: str = "the recipe") -> Recipe:
    """A recipe from plain values.

    Raises:
        UserError: an unknown key (naming the nearest), a missing one, or a value that does not fit.
    """
    for key in values:
        if key not in Recipe.model_fields:
            near = get_close_matches(str(key), Recipe.model_fields, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(Recipe.model_fields)}"
            raise UserError(f"{source} has the unknown key {key!r}: {hint}")
    options: Any = values.get("options") if isinstance(values.get("options"), dict) else {}
    defaults = (
        dict(METHODS.get(values["method"]).defaults_for(options)) if isinstance(values.get("method"), str) else {}
    )
    defaults |= TASKS.get(values["task"]).defaults if isinstance(values.get("task"), str) else {}
    if any(values.get(name) is not None for name in AMOUNTS):
        defaults |= dict.fromkeys(AMOUNTS)
    try:
        return Recipe(**{**defaults, **values})
    except ValidationError as error:
        first = error.errors()[0]
        if isinstance(cause := first.get("ctx", {}).get("error"), UserError):  # of `model_post_init`
            raise UserError(f"{source}: {cause}") from error
        where = ".".join(str(part) for part in first["loc"])
        came = "" if first["type"] == "missing" else f", not {first['input']!r}"
        raise UserError(f"{source}: {where}: {first['msg'].lower()}{came}") from error


def read(path: Path | str, overrides: dict[str, Any]) -> Recipe:
    """A recipe file, with values that override it.

    Raises:
        UserError: the file cannot be read, is not YAML, or does not hold a recipe.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"the recipe {path} cannot be read: {error}") from error
    values = parse(text, f"the recipe {path}")
    if not isinstance(values, dict):
        raise UserError(f"the recipe {path} holds {type(values).__name__}: expected keys and values")
    if any(overrides.get(name) is not None for name in AMOUNTS):
        values = {name: value for name, value in values.items() if name not in AMOUNTS}
    return make(values | overrides, str(path))


def parse(text: str, source: str) -> Any:
    """The value that a YAML text holds; `source` says in a refusal whose text it is.

    Raises:
        UserError: it is not YAML, or a key is there twice.
    """
    try:
        return yaml.load(text, _Loader)
    except _TwiceError as error:
        raise UserError(f"{source} has {error}: keep one of them") from error
    except (yaml.YAMLError, ValueError) as error:  # ValueError: a date that is none
        raise UserError(f"{source} is not YAML: {' '.join(str(error).split())}") from error


class _TwiceError(yaml.YAMLError):
    pass


class _Loader(yaml.SafeLoader):
    """Plain values only; a key that is there twice is an error, of which PyYAML would silently take the last."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        seen = set()
        for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
            if (key.tag, key.value) in seen:
                raise _TwiceError(f"the key {key.value!r} twice, the second time in line {key.start_mark.line + 1}")
            seen.add((key.tag, key.value))
        return node


class _Dumper(yaml.SafeDumper):
    """Quotes what `_Loader` would read as a number."""


# YAML 1.1 wants a point in a number with an exponent, and reads 1e-3 as text; YAML 1.2 and people do not.
for _kind in (_Loader, _Dumper):
    _kind.add_implicit_resolver(
        "tag:yaml.org,2002:float", re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"), list("-+.0123456789")
    )
