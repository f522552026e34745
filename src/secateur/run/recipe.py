"""A recipe: everything that determines a run, in one small, strict YAML file.

    model: bert-base-uncased
    data: glue/sst2
    method: grain
    target: {density: 0.05}

A key that a recipe leaves out has the default of its task, otherwise of its method (`defaults` of either), otherwise
of its group (`recipe_groups`). The run folder keeps the resolved recipe.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, ValidationError

from secateur.methods import METHODS
from secateur.methods.options import SEEDS
from secateur.report.recipe_keys import FLAT, dotted, grouped, upgrade
from secateur.run import recipe_rules
from secateur.run.recipe_card import CardRecipe
from secateur.run.recipe_data import DataRecipe
from secateur.run.recipe_errors import sentence
from secateur.run.recipe_groups import (
    DistillationRecipe,
    MethodRecipe,
    TrainingRecipe,
)
from secateur.run.recipe_measurement import MeasurementRecipe
from secateur.run.recipe_schema import Flag, Strict
from secateur.run.recipe_storage import StorageRecipe
from secateur.run.recipe_target import AUTO, TargetRecipe
from secateur.run.recipe_vocabulary import VocabularyRecipe
from secateur.run.recipe_yaml import dump, parse
from secateur.structure.unit_names import kind_of
from secateur.system import processes
from secateur.system.errors import InRecipe, UserError
from secateur.system.file_format import FileFormat
from secateur.tasks import TASKS

__all__ = ["KEYS", "Recipe", "make", "make_group", "read", "upgrade"]

FORMAT = FileFormat(2)
"""Version 1, of secateur 0.1.0, had flat keys. They are read in a file of any version, because people write recipes."""
LENGTHS = tuple(f"training.{name}" for name in recipe_rules.LENGTHS)
SWEEP = "sweep"
"""The block of a recipe file that `secateur sweep` reads; a recipe itself has none."""
COMMAND_LINE = "the command line"
"""The source of values whose errors speak of options, and name no source."""
PLACES = ("model", "teacher", "data.source", "data.evaluation", "vocabulary.texts", "target.latency_table")
"""Dotted keys that name files and folders, or something on the hub, as options of the data may do."""
AMOUNTS = tuple(f"target.{name}" for name in recipe_rules.AMOUNTS)


class Recipe(Strict):
    """A run: the model, its teacher, and groups of keys."""

    model: str = Field(
        description="model to prune, a hub name or a folder; if it is not fine-tuned for the task, a teacher is "
        "trained from it first"
    )
    teacher: Annotated[str | None, Flag("--teacher")] = Field(
        None,
        description="fine-tuned teacher, a hub name or a folder; by default the model itself, or the teacher that "
        "is trained from it",
    )
    seed: Annotated[int, Flag("--seed")] = Field(0, ge=0, lt=SEEDS, description="seed of every random choice")
    data: DataRecipe
    target: TargetRecipe = TargetRecipe()
    vocabulary: VocabularyRecipe = VocabularyRecipe()
    method: MethodRecipe = MethodRecipe()
    distillation: DistillationRecipe = DistillationRecipe()
    training: TrainingRecipe = TrainingRecipe()
    storage: StorageRecipe = StorageRecipe()
    measurement: MeasurementRecipe = MeasurementRecipe()
    card: CardRecipe = CardRecipe()

    def model_post_init(self, context: Any) -> None:
        recipe_rules.check(self)

    @property
    def reserved(self) -> int:
        """The number of training rows that nothing is trained on: those to tune by, then those of the selection."""
        return self.training.select + self.data.tuning_rows

    def each(self) -> tuple[Recipe, ...]:
        """A recipe of one density for each of several, the largest first; all prune toward the last."""
        last = self.target.densities[-1]
        return tuple(self._at(density, None if density == last else last) for density in self.target.densities)

    def _at(self, density: float, toward: float | None) -> Recipe:
        target = self.target.model_copy(update={"density": density, "toward": toward})
        return self.model_copy(update={"target": target})

    def to_dict(self) -> dict[str, Any]:
        """The resolved recipe as plain values in groups, every key."""
        return self.model_dump(mode="json")

    def to_yaml(self) -> str:
        """The resolved recipe as YAML: the version of the file, and every key."""
        return dump(FORMAT.stamped(self.to_dict()))


def _keys() -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, field in Recipe.model_fields.items():
        if isinstance(kind := field.annotation, type) and issubclass(kind, Strict):
            found |= {f"{name}.{key}": inner for key, inner in kind.model_fields.items()}
        else:
            found[name] = field
    return found


KEYS = _keys()
"""Dotted key -> its field, with the default, the description and, for an option of its own, a `Flag`."""


def make(values: Mapping[str, Any], source: str = "the recipe", options: Collection[str] = ()) -> Recipe:
    """A recipe from plain values.

    Args:
        values: in groups, by dotted keys or by the flat keys of version 0.1.0; of two values for one key, the later
            is taken.
        source: what the recipe is called in an error.
        options: keys whose values are not those of the source, but of the command line.

    Raises:
        UserError: an unknown key (naming the nearest), a missing one, or a value that does not fit.
    """
    return _resolved(known(values, source), source, options)


def read(path: Path | str, overrides: Mapping[str, Any]) -> Recipe:
    """A recipe file, with values of the command line that override it.

    Raises:
        UserError: the file cannot be read, is not YAML, or does not hold a recipe.
    """
    return _overridden(read_values(path), str(path), overrides)


def changed(values: Mapping[str, Any], overrides: Mapping[str, Any]) -> Recipe:
    """A recipe of plain values, such as a file holds, with values of the command line that override it.

    Raises:
        UserError: as `read`, of what a file may not hold.
    """
    return _overridden(_values_of(dict(values), "the recipe"), "the recipe", overrides)


def _overridden(values: Mapping[str, Any], source: str, overrides: Mapping[str, Any]) -> Recipe:
    theirs = known(overrides, COMMAND_LINE)
    return _resolved(with_values(known(values, source), theirs), source, theirs)


def read_values(path: Path | str) -> dict[str, Any]:
    """What a recipe file holds, in any of the spellings; its keys are not checked.

    Raises:
        UserError: as `read`, of the file.
    """
    source = f"the recipe {path}"
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{source} cannot be read: {error}") from error
    return _values_of(parse(text, source), source)


def _values_of(values: Any, source: str) -> dict[str, Any]:
    """The values of a recipe without its version, each of which has one spelling."""
    if not isinstance(values, dict):
        raise UserError(f"{source} holds {type(values).__name__}: expected keys and values")
    values = FORMAT.current(values, source)
    _refuse_duplicates(values, source)
    return values


def with_values(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> dict[str, Any]:
    """Values by dotted keys with others in their place, which also replace their alternatives, as epochs do steps."""
    kept = dict(ours)
    for alternatives in (AMOUNTS, LENGTHS):
        if any(theirs.get(name) is not None for name in alternatives):
            kept = {name: value for name, value in kept.items() if name not in alternatives}
    return kept | dict(theirs)


def keys_of(text: str, source: str) -> Any:
    """What the YAML of a recipe holds, without its version.

    Raises:
        UserError: it is not YAML, or a later version wrote it.
    """
    values = parse(text, source)
    return FORMAT.current(values, source) if isinstance(values, dict) else values


def places_of(values: Mapping[str, Any]) -> list[str]:
    """The files and folders, or names on the hub, in values by dotted keys; each text in data.options may be one."""
    named = [*(values.get(key) or () for key in PLACES), *_texts_in((values.get("data.options") or {}).values())]
    return [place for value in named for place in ((value,) if isinstance(value, str) else value)]


def _texts_in(values: Iterable[Any]) -> list[str]:
    flat = [item for value in values for item in (value if isinstance(value, (list, tuple)) else (value,))]
    return [item for item in flat if isinstance(item, str)]


def _refuse_duplicates(values: Mapping[str, Any], source: str) -> None:
    """Refuse one key in two spellings, such as `epochs` and `training.epochs`."""
    keys = [key for name, value in values.items() for key in dotted({name: value})]
    if twice := next((key for key in keys if keys.count(key) > 1), None):
        raise UserError(f"{source} has the key {twice!r} twice, in two spellings: keep one of them")


def known(values: Mapping[str, Any], source: str) -> dict[str, Any]:
    """The values by dotted keys, each of which a recipe has; flat keys of version 0.1.0 are noticed once.

    Raises:
        UserError: a recipe has no such key.
    """
    found = dotted(values)
    for key in found:
        if key not in KEYS:
            _refuse_unknown(key, found[key], source)
    old = [f"{key} is now {FLAT[key]}" for key in values if key in FLAT]
    if old and processes.is_main():
        logging.getLogger(__name__).warning("%s has keys of version 0.1.0: %s", source, ", ".join(old))
    return found


def _refuse_unknown(key: Any, value: Any, source: str) -> None:
    if key == SWEEP:
        raise UserError(f"{source} is of a sweep: run it by `secateur sweep`, or take its block {SWEEP!r} out")
    if key in Recipe.model_fields:
        raise UserError(f"{source}: {key}: expected keys and values, not {value!r}")
    spellings = {name.rpartition(".")[2]: name for name in KEYS} | FLAT
    spellings |= {name: name for name in (*KEYS, *Recipe.model_fields)}
    last = str(key).rpartition(".")[2]
    near = [last] if last in spellings else get_close_matches(str(key), spellings, n=1)
    hint = f"did you mean {spellings[near[0]]!r}?" if near else f"known are {', '.join(Recipe.model_fields)}"
    raise UserError(f"{source} has the unknown key {key!r}: {hint}")


def _resolved(values: dict[str, Any], source: str, options: Collection[str] = ()) -> Recipe:
    """The recipe of values by dotted keys, with the defaults of its method and its task.

    Args:
        options: keys whose values are not those of the source, but of the command line.
    """
    with _one_sentence(source, options=options):
        return Recipe(**grouped(_defaults(values) | values))


def make_group(name: str, values: Mapping[str, Any], source: str = COMMAND_LINE) -> Any:
    """One group of a recipe, such as `data`, from values by dotted keys, of which those of other groups may be missing.

    The defaults of the method and the task count as in `make`.

    Raises:
        UserError: as `make`.
    """
    named = known(values, source)
    kind: Any = Recipe.model_fields[name].annotation
    with _one_sentence(source, name):
        return kind(**grouped(_defaults(named) | named).get(name, {}))


@contextmanager
def _one_sentence(source: str, *place: str, options: Collection[str] = ()) -> Iterator[None]:
    """Report the first value that does not fit; `place` is the group that is made, if it is not the whole recipe."""
    try:
        yield
    except ValidationError as error:
        text = sentence(error, place)
        if source == COMMAND_LINE or text.partition(":")[0] in options:
            raise UserError(text) from error
        raise InRecipe(f"{source}: {text}") from error


def _defaults(values: Mapping[str, Any]) -> dict[str, Any]:
    """What the method and the task of a recipe prefer to the defaults of the groups; the task goes first.

    A task that is not named is the only one that the data can be of, if there is one.
    """
    task, options = values.get("data.task"), values.get("method.options")
    found = dotted(METHODS.get(_method(values)).defaults_for(options if isinstance(options, dict) else {}))
    source = values.get("data.source")
    if task is None and isinstance(source, str) and (only := _recognised(source)) is not None:
        task = found["data.task"] = only
    if isinstance(task, str):
        found |= dotted(TASKS.get(task).defaults)
    for alternatives in (AMOUNTS, LENGTHS):
        found |= _one_of(alternatives, values, found)
    return {"target.layers": AUTO, **found} if _has_rounds({**found, **values}) else found


def _recognised(data: str) -> str | None:
    """The name of the task that a file or a folder can only be data of; None if there is none, or several."""
    path = Path(data).expanduser()
    if not path.exists():
        return None
    names = [name for name, kind in TASKS.all().items() if kind.recognises and kind.recognises(path)]
    return names[0] if len(names) == 1 else None


def _one_of(alternatives: Sequence[str], *sources: Mapping[str, Any]) -> dict[str, Any]:
    """Keys of which a recipe sets one: their values in the first source that sets any, None for the others."""
    for values in sources:
        if any(values.get(key) is not None for key in alternatives):
            return {key: values.get(key) for key in alternatives}
    return {}


def _has_rounds(values: Mapping[str, Any]) -> bool:
    """Whether these values ask for layers beside finer units, by a method that prunes them in rounds of their own.

    Uniform sizes have no rounds: their units are checked when the model is known (`UniformParameters.check`).
    """
    units = values.get("target.units")
    kinds = {kind_of(str(name)) for name in units} if isinstance(units, list | tuple) else set()
    beside = "layer" in kinds and len(kinds) > 1 and not values.get("target.uniform")
    return beside and values.get("target.keep") is None and METHODS.get(_method(values)).in_rounds


def _method(values: Mapping[str, Any]) -> str:
    """The name of the method, if that is a name."""
    name = values.get("method.name")
    return name if isinstance(name, str) else str(MethodRecipe.model_fields["name"].default)
