"""The labels in the config of a checkpoint, to be compared with those of the data."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from transformers import AutoConfig, PreTrainedConfig, PreTrainedModel

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
        UserError: there is no such checkpoint, or its config cannot be read.
    """
    source = f"model {str(name_or_path)!r}"
    if is_path(name_or_path) and not Path(name_or_path).exists():
        raise UserError(f"{source} does not exist: give an existing folder, or a name on the hub")
    with as_user_error(f"{source} cannot be read", "give a checkpoint's folder or a name on the hub"):
        return AutoConfig.from_pretrained(name_or_path, **kwargs)


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
