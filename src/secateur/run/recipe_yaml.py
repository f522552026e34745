"""The YAML of recipes: plain values, no duplicate keys, and numbers such as 1e-3."""

from __future__ import annotations

import re
from typing import Any

import yaml

from secateur.system.errors import UserError


def parse(text: str, source: str) -> Any:
    """The value that a YAML text holds.

    Args:
        text: the YAML.
        source: what the text is called in an error.

    Raises:
        UserError: it is not YAML, or it has a key twice.
    """
    try:
        return yaml.load(text, _Loader)
    except _DuplicateKeyError as error:
        raise UserError(f"{source} has {error}: keep one of them") from error
    except (yaml.YAMLError, ValueError) as error:  # ValueError: a date that does not exist
        raise UserError(f"{source} is not YAML: {' '.join(str(error).split())}") from error


def dump(values: Any) -> str:
    """Plain values as a YAML text that `parse` reads back as the same values."""
    return yaml.dump(values, Dumper=_Dumper, sort_keys=False)


class _DuplicateKeyError(yaml.YAMLError):
    pass


class _Loader(yaml.SafeLoader):
    """Refuses a duplicate key, where PyYAML would silently take the last value."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        seen = set()
        for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
            if (key.tag, key.value) in seen:
                line = key.start_mark.line + 1
                raise _DuplicateKeyError(f"the key {key.value!r} twice, the second time in line {line}")
            seen.add((key.tag, key.value))
        return node


class _Dumper(yaml.SafeDumper):
    """Quotes a text that `_Loader` would read as a number."""


# YAML 1.1 requires a point in a number with an exponent and reads 1e-3 as text; YAML 1.2 reads it as a number.
for _kind in (_Loader, _Dumper):
    _kind.add_implicit_resolver(
        "tag:yaml.org,2002:float", re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"), list("-+.0123456789")
    )
