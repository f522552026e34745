"""The words of errors on the command line: options where the library says keys, and no types of a parser."""

from __future__ import annotations

import re
from typing import TypeVar

VALUES = r"auto|run|stage|round|all|task|true|false|\d[\d.]*\b"
KEY = re.compile(rf"(?P<verb>\bset )?(?<!['\"])\b(?P<key>[a-z]+(?:\.[a-z_]+)?)\b(?:: (?P<value>{VALUES}))?")
"""A dotted key that is not quoted, perhaps with its value as in a recipe."""
BEHIND = re.compile(r"(?<= )(?P<option>--[a-z-]+) \([a-z]+\.[a-z_]+\)")
"""An option with its key in brackets behind it."""
ARGUMENT = re.compile(
    r"(?:(?<= by )|^)`(?P<first>[a-z_]+)`(?: (?P<word>and|or) `(?P<second>[a-z_]+)`)?|^(?P<alone>max_length)\b"
)
"""An argument of a task that a sentence tells to give, or begins with, in backticks or as the length."""
PARSED = {
    "valid integer": "expected a whole number",
    "valid number": "expected a number",
    "valid boolean": "expected true or false",
}
"""What the parser says that a value should be -> the same in plain words."""

Error = TypeVar("Error", bound=BaseException)


def in_options(sentence: str) -> str:
    """A sentence in which keys that have an option are named by it: `--label`, and not `data.label`.

    Another key that is to get a value is named by the option that sets any: `--set training.select=0`.
    """
    from secateur.cli.recipe_options import marked
    from secateur.run.recipe import KEYS

    flags = {key: mark.name for key, mark in marked().items()}

    def option(found: re.Match[str]) -> str:
        flag, value = flags.get(found["key"]), found["value"]
        if flag is None and value and found["key"] in KEYS:
            return f"{'give ' if found['verb'] else ''}--set {found['key']}={value}"
        if flag is None or ("." not in found["key"] and found.start() > 0):  # a word such as seed is one elsewhere
            return found[0]
        return " ".join(filter(None, (found["verb"] and "set", flag, value)))

    def argument(found: re.Match[str]) -> str:
        names = [found[name] for name in ("first", "second", "alone") if found[name]]
        options = [flags.get(f"data.{name}") for name in names]
        return found[0] if None in options else f" {found['word']} ".join(filter(None, options))

    return KEY.sub(option, ARGUMENT.sub(argument, BEHIND.sub(r"\g<option>", sentence)))


def in_plain_words(error: Error) -> Error:
    """An error of the parser of the command line, without the words of the library that converts its values."""
    message = getattr(error, "message", None)
    if isinstance(message, str):
        words = next((words for said, words in PARSED.items() if f"should be a {said}" in message), message)
        error.message = words  # type: ignore[attr-defined]
    return error
