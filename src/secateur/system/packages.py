"""Optional packages: whether they are installed, and the command that installs them."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from importlib.util import find_spec

from secateur.system.errors import MissingPackage

EXTRAS = {
    "onnx": ("onnx", "onnxruntime"),
    "openvino": ("onnx", "openvino", "nncf"),
    "texts": ("sacrebleu", "rouge-score"),
    "embeddings": ("sentence-transformers>=6",),
    "tokenizers": ("sentencepiece", "protobuf", "sacremoses", "tiktoken"),
    "sweep": ("optuna>=5",),
    "images": ("pillow",),
}
"""Extra of secateur -> what it installs, as in pyproject.toml."""


def installing(extra: str) -> str:
    """The command that installs the packages of an extra by their own names, which needs no release of secateur."""
    return " ".join(("pip install", *map(shlex.quote, EXTRAS.get(extra, (extra,)))))


def named_in(reason: str, extra: str) -> bool:
    """Whether what a library says of a missing package names one that an extra installs."""
    return any(name in reason.lower() for name in EXTRAS[extra])


def require(packages: Sequence[str], extra: str) -> None:
    """Check that packages of an optional extra are installed.

    Args:
        packages: by their names for import.
        extra: of secateur, which installs them.

    Raises:
        MissingPackage: with the command that installs them.
    """
    if missing := absent(packages):
        raise MissingPackage(f"{' and '.join(missing)} is not installed: run {installing(extra)}")


def absent(packages: Sequence[str]) -> list[str]:
    """Those of the packages that are not installed."""
    return [name for name in packages if find_spec(name) is None]
