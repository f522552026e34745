"""Options that are keys of a recipe: made from the marks on the fields of `run/recipe_groups.py`.

A field that is marked `Flag("--name")` is an option of every command that takes its group; its description is the
help text, its group the panel in which the help shows it, and its type says what the option takes:

    number, text    one value                          dict            key=value, repeatable
    bool            --name or --no-name                tuple of str    names with commas between them

Values that come as text otherwise (`Flag(..., text=True)`) or as a bool (`Flag(..., switch=True)`) are converted by the
recipe.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from inspect import Parameter, Signature, signature
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import typer
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from secateur.run.recipe import KEYS
from secateur.run.recipe_schema import Flag
from secateur.run.recipe_yaml import parse
from secateur.system.errors import UserError

GENERAL = "Run"
"""The panel of the keys that are in no group."""


def recipe_options(
    *parts: str,
    without: Collection[str] = (),
    required: Collection[str] = (),
    defaults: Mapping[str, Any] | None = None,
    shown: Mapping[str, str] | None = None,
    described_as: Mapping[str, str] | None = None,
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Decorator: give a command the options of the marked keys of a recipe.

    The command takes them as the keyword `given`: dotted key -> value, of the options that were given.

    Args:
        parts: groups (`data`) and single keys (`target.units`) to take; all where none is named.
        without: keys that are left out.
        required: keys that must be given.
        defaults: values of keys that are not given, which the help shows.
        shown: what the help shows as the default of a key, where the command has another than the recipe.
        described_as: the help text of a key, where the command takes less than the recipe.
    """

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        keys = [key for key in marked() if _wanted(key, parts) and key not in without]

        def with_given(**values: Any) -> None:
            texts = {key: values.pop(_name(key)) for key in keys}
            given = {key: _converted(key, value) for key, value in texts.items() if value not in (None, [])}
            command(given=given, **values)

        hints = get_type_hints(command, include_extras=True)
        own = [
            each.replace(annotation=hints[name], kind=Parameter.KEYWORD_ONLY)
            for name, each in signature(command).parameters.items()
            if name != "given"
        ]
        texts_of_defaults = {key: default_text(key) for key in keys} | dict(shown or {})
        helps = {key: described(key) for key in keys} | dict(described_as or {})
        options = [
            _option(key, key in required, (defaults or {}).get(key), texts_of_defaults[key], helps[key]) for key in keys
        ]
        with_given.__name__, with_given.__doc__ = command.__name__, command.__doc__
        with_given.__signature__ = Signature([*own, *options])  # type: ignore[attr-defined]  # what typer reads
        with_given.__annotations__ = {each.name: each.annotation for each in (*own, *options)}
        return with_given

    return decorate


def marked() -> dict[str, Flag]:
    """Dotted key -> its mark, of the keys that have an option."""
    return {key: mark for key, field in KEYS.items() for mark in field.metadata if isinstance(mark, Flag)}


def _wanted(key: str, parts: Collection[str]) -> bool:
    return not parts or key in parts or key.partition(".")[0] in parts


def _name(key: str) -> str:
    return key.replace(".", "_")


def _option(key: str, required: bool, default: Any, shown: str, text: str) -> Parameter:
    """A parameter of a command, as typer reads it; `shown` is what its help says of the default, if anything."""
    mark, panel = marked()[key], key.rpartition(".")[0].capitalize() or GENERAL
    kind = _kind(key)
    flags = f"{mark.name}/--no-{mark.name.removeprefix('--')}" if kind is bool else mark.name
    info = typer.Option(flags, help=text, show_default=default is not None or shown or False, rich_help_panel=panel)
    if required:
        return Parameter(_name(key), Parameter.KEYWORD_ONLY, annotation=Annotated[kind, info])
    return Parameter(_name(key), Parameter.KEYWORD_ONLY, annotation=Annotated[kind | None, info], default=default)


def default_text(key: str) -> str:
    """The default of a key as the help shows it; empty where there is none, or where the description tells it."""
    value = KEYS[key].default
    if value is PydanticUndefined or value is None or isinstance(value, bool):
        return ""
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


def described(key: str) -> str:
    """The help text of a key: its description as a sentence, and how to write what is no single value."""
    text = str(KEYS[key].description)
    forms = {dict: " (key=value, repeatable)", tuple: " (with commas between them)"}
    mark = marked().get(key)
    form = "" if mark is not None and mark.switch else forms.get(_container(KEYS[key]), "")
    return f"{text[:1].upper()}{text[1:]}{form}."


def _kind(key: str) -> Any:
    """What typer converts the option to."""
    field, parts = KEYS[key], set(_parts(KEYS[key].annotation))
    if marked()[key].switch:
        return bool
    if marked()[key].text or _container(field) is tuple:
        return str
    if _container(field) is dict:
        return list[str]
    return next((kind for kind in (bool, int, float) if kind in parts), str)


def _container(field: FieldInfo) -> Any:
    """Dict, or tuple where the field is a tuple of names; None for anything else."""
    kinds = [get_origin(part) for part in (field.annotation, *get_args(field.annotation))]
    if dict in kinds:
        return dict
    return tuple if tuple in kinds and str in _parts(field.annotation) else None


def _parts(kind: Any) -> Iterator[Any]:
    """The type and all types within it."""
    yield kind
    for part in get_args(kind):
        yield from _parts(part)


def _converted(key: str, value: Any) -> Any:
    container = _container(KEYS[key])
    if isinstance(value, bool):
        return value
    if container is dict:
        return pairs_of(marked()[key].name, value)
    return names_of(value) if container is tuple else value


def names_of(text: str) -> tuple[str, ...]:
    """Names with commas between them."""
    return tuple(name.strip() for name in text.split(","))


def pairs_of(flag: str, entries: list[str]) -> dict[str, Any]:
    """`key=value` entries, the values read as YAML: 3, 0.5, true, null, [2, 4], text.

    Raises:
        UserError: an entry is none.
    """
    pairs = {}
    for entry in entries:
        key, equals, value = entry.partition("=")
        if not (key and equals):
            raise UserError(f"{flag} {entry!r} is not key=value: write it like rows=100")
        pairs[key.strip()] = parse(value, f"{flag} {entry!r}")
    return pairs
