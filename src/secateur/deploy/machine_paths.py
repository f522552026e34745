"""Paths of this machine in texts that leave it: they say who made something and where, and lead nowhere elsewhere."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path, PurePath

HOMES = ("/home/", "/Users/", "/root/")
"""The beginnings of paths into somebody's home, on Linux and macOS, which no published text may have."""
SYSTEM = ("bin", "boot", "dev", "etc", "lib", "lib64", "proc", "run", "sbin", "sys", "usr")
"""Folders that every machine has: a path in them tells nothing."""
POSIX = re.compile(r"(?<![\w/.:~\\-])(?:file://)?(/[\w.@+-]+/[^\s`'\"<>|;,()\[\]{}]+)")
WINDOWS = re.compile(r"(?<!\w)[A-Za-z]:\\{1,2}\w[^\s`'\"<>|;,()\[\]{}]*")
SUFFIXES = (".md", ".txt", ".json", ".jsonl", ".yaml", ".yml", ".html", ".csv", ".py")
VOCABULARY = ("tokenizer.json", "vocab.json", "vocab.txt", "merges.txt", "added_tokens.json")
"""Files of pieces of words, any of which may look like a part of a path."""


def paths_in(file: str, text: str) -> Iterator[tuple[int, str]]:
    """The paths of this machine in the text of a file, each with the number of its line, from 1.

    A path is one of this machine if it leads into somebody's home, or its first two folders exist here; any path with
    a drive counts.
    """
    if PurePath(file).suffix not in SUFFIXES or PurePath(file).name in VOCABULARY:
        return
    for number, line in enumerate(text.splitlines(), start=1):
        yield from ((number, found[1]) for found in POSIX.finditer(line) if _is_here(found[1]))
        yield from ((number, found[0]) for found in WINDOWS.finditer(line))


def _is_here(path: str) -> bool:
    parts = PurePath(path).parts
    return path.startswith(HOMES) or (parts[1] not in SYSTEM and Path(*parts[:3]).exists())
