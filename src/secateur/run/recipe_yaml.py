"""The YAML of recipes: plain values, no duplicate keys, and numbers such as 1e-3."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, TypeAlias

import yaml

from secateur.system.errors import UserError

MERGE, VALUE, TEXT = (f"tag:yaml.org,2002:{kind}" for kind in ("merge", "value", "str"))
"""Tags of the keys `<<` and `=`, and of a text."""

Pair: TypeAlias = "tuple[yaml.Node, yaml.Node]"


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
    """Refuses a duplicate key, where PyYAML would silently take the last, and merges alike in any version."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        seen = set()
        for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
            if (key.tag, key.value) in seen:
                line = key.start_mark.line + 1
                raise _DuplicateKeyError(f"the key {key.value!r} twice, the second time in line {line}")
            seen.add((key.tag, key.value))
        return node

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        """Replace a merge key `<<` by the pairs that it merges: a mapping's own keys win, then the first mapping's.

        PyYAML 6.0.4 takes the value of a mapping before that of one that overrides it, where both were merged.
        """
        merged = [value for key, value in node.value if key.tag == MERGE]
        own: list[Pair] = [(key, value) for key, value in node.value if key.tag != MERGE]
        for key, _ in own:
            key.tag = TEXT if key.tag == VALUE else key.tag
        node.value = own  # before what is merged: that may be this very mapping
        pairs: dict[Any, Pair] = {}
        for mapping in (one for value in merged for one in _mappings(value)):
            self.flatten_mapping(mapping)
            for pair in mapping.value:
                pairs.setdefault(_identity(pair), pair)
        node.value = [*(pairs | {_identity(pair): pair for pair in own}).values()] if merged else own


def _mappings(value: yaml.Node) -> Iterator[yaml.MappingNode]:
    """The mappings that a merge key names: one, or a list of them."""
    for one in value.value if isinstance(value, yaml.SequenceNode) else [value]:
        if not isinstance(one, yaml.MappingNode):
            line = one.start_mark.line + 1
            raise yaml.YAMLError(f"expected a mapping for merging in line {line}, but found a {one.id}")
        yield one


def _identity(pair: Pair) -> Any:
    key = pair[0]
    return (key.tag, key.value) if isinstance(key, yaml.ScalarNode) else id(key)


class _Dumper(yaml.SafeDumper):
    """Quotes a text that `_Loader` would read as a number."""


# YAML 1.1 requires a point in a number with an exponent and reads 1e-3 as text; YAML 1.2 reads it as a number.
for _kind in (_Loader, _Dumper):
    _kind.add_implicit_resolver(
        "tag:yaml.org,2002:float", re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"), list("-+.0123456789")
    )
