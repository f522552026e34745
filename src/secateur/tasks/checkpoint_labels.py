"""The labels in the config of a checkpoint, to be compared with those of the data."""

from __future__ import annotations

from collections import Counter
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from transformers import CONFIG_MAPPING, AutoConfig, PreTrainedConfig, PreTrainedModel

from secateur.system.errors import UserError, as_user_error
from secateur.tasks.labels import described
from secateur.tasks.splits import is_path


def config_of(model_or_folder: PreTrainedModel | str | Path) -> PreTrainedConfig:
    """The config of a model, or of a checkpoint.

    Raises:
        UserError: the folder holds no checkpoint.
    """
    return model_or_folder.config if isinstance(model_or_folder, PreTrainedModel) else read_config(model_or_folder)


def read_config(name_or_path: str | Path, **kwargs: Any) -> PreTrainedConfig:
    """The config of a checkpoint; `kwargs` are those of `from_pretrained`.

    Raises:
        UserError: there is no such checkpoint, its config cannot be read, or transformers needs code of it for that.
    """
    values = _values(name_or_path, **kwargs)
    if "auto_map" in values and values.get("model_type") not in CONFIG_MAPPING:
        raise UserError(
            f"model {str(name_or_path)!r} is of the architecture {values.get('model_type')!r}, which only code in its "
            "own repository can build, and such code is not run: give a model of an architecture that transformers has"
        )
    with _as_unreadable(name_or_path):
        return AutoConfig.from_pretrained(name_or_path, trust_remote_code=False, **kwargs)


def model_type_of(name_or_path: str | Path) -> object:
    """The family that the config of a checkpoint names, which transformers need not know; None if it names none.

    Raises:
        UserError: there is no such checkpoint, or its config cannot be read.
    """
    return _values(name_or_path).get("model_type")


def _values(name_or_path: str | Path, **kwargs: Any) -> dict[str, Any]:
    """The content of a config.json."""
    if is_path(name_or_path) and not Path(name_or_path).exists():
        raise UserError(f"model {str(name_or_path)!r} does not exist: give an existing folder, or a name on the hub")
    with _as_unreadable(name_or_path):
        return PreTrainedConfig.get_config_dict(name_or_path, **kwargs)[0]


def _as_unreadable(name_or_path: str | Path) -> AbstractContextManager[None]:
    advice = "give a checkpoint's folder or a name on the hub"
    return as_user_error(f"model {str(name_or_path)!r} cannot be read", advice)


def check_count(config: PreTrainedConfig, expected: PreTrainedConfig, owner: str) -> None:
    """Refuse a head whose number of labels differs from that of the data.

    Args:
        config: of the checkpoint.
        expected: a config with the labels of the data.
        owner: the checkpoint, as the message calls it.

    Raises:
        UserError: the numbers differ.
    """
    if config.num_labels != expected.num_labels:
        raise UserError(
            f"{owner} has {described(head_labels(config))}, and the data has {described(head_labels(expected))}: "
            "give a model made for the data's labels, or one without a head"
        )


def head_labels(config: PreTrainedConfig) -> tuple[str, ...]:
    """The names of the labels, in the order of the outputs; a name of several outputs is followed by their numbers.

    ImageNet has two classes "crane": they are "crane (134)" and "crane (517)" here.
    """
    names = [name for _, name in sorted((config.id2label or {}).items())]
    outputs = Counter(names)
    return tuple(name if outputs[name] == 1 else f"{name} ({number})" for number, name in enumerate(names))
