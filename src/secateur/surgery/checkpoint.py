"""Compact folders: written atomically, loaded in three ways, safetensors and JSON only.

1. `secateur.load(folder)`
2. `AutoModelFor*.from_pretrained(folder)` after `import secateur`
3. `AutoModelFor*.from_pretrained(folder, trust_remote_code=True)` where secateur is not installed: the folder carries
   its own code. With neither, transformers refuses the tensors' shapes loudly.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import transformers
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError, safe_open
from transformers import AutoConfig, PreTrainedModel, PreTrainedTokenizerBase

from secateur.structure.binding import check_family
from secateur.surgery import compact
from secateur.surgery.auto_classes import auto_class_of
from secateur.surgery.cross_encoders import write_prompts
from secateur.surgery.hub import local_folder
from secateur.surgery.model_files import copy_card, copy_tokenizer, is_kept, weight_files
from secateur.surgery.schema import Structure
from secateur.surgery.sentence.attach import attach_head, head_of, of_head, without_head
from secateur.surgery.sentence.folder import read_head, write_head
from secateur.surgery.storage import stored_state
from secateur.surgery.uncut import planned_structure
from secateur.system.errors import UserError, reason_of
from secateur.system.file_format import NewerVersion
from secateur.system.files import atomic_folder, read_json
from secateur.system.load_report import without_load_report

# What transformers and torch raise when they build a model from a damaged config or the wrong weights.
DAMAGE = (
    OSError, ValueError, RuntimeError, LookupError, TypeError,
    AttributeError, ArithmeticError, StrictDataclassError,
)  # fmt: skip


def save(
    model: PreTrainedModel,
    folder: Path | str,
    *,
    tokenizer: PreTrainedTokenizerBase | None = None,
    card: str | None = None,
    plan: Mapping[str, Any] | None = None,
    store: str | None = None,
    replace: bool = False,
) -> None:
    """Write a model (cut or not), its tokenizer and its card to a folder, atomically.

    Like `save_pretrained` it adds to a folder that is there: the files of a model in it are replaced, shards of other
    numbers and the files of a sentence head too; everything else stays as it is, also in a folder that holds no model.
    Without a tokenizer or a card the one that is there stays, and `SHA256SUMS` of a cut model lists that tokenizer.

    Args:
        plan: content of plan.json beside an ordinary model of which only the vocabulary was cut. A compact model has
            its own.
        store: type of the weights in the file, fp32, bf16 or fp16; None for the model's own. The config keeps the
            model's own type, in which the weights are loaded.
        replace: whether all that is in the folder is removed, in place of the files of a model alone.

    Raises:
        UserError: the folder cannot be written; its previous content is unchanged.
    """
    folder, head = Path(folder), head_of(model)
    state = model.state_dict() if store is None else stored_state(model, store)
    keep = None if replace else is_kept(folder, new_tokenizer=tokenizer is not None)
    with atomic_folder(folder, SafetensorError, keep=keep) as partial:
        if card is None and not replace:
            copy_card(folder, partial)
        # The method of a model with a head writes the head too.
        type(model).save_pretrained(model, partial, state_dict=without_head(state))
        own = {path.name for path in partial.iterdir()}
        if head is not None:
            write_head(head, partial, of_head(state))
        write_prompts(model, partial)
        if tokenizer is not None:
            tokenizer.save_pretrained(partial)
        elif not replace:
            copy_tokenizer(folder, partial)
        if isinstance(model, compact.Pruned):
            _list_beside(own, partial)
        if plan is not None:
            (partial / compact.PLAN).write_text(json.dumps(plan, indent=1) + "\n", encoding="utf-8")
        if card is not None:
            (partial / "README.md").write_text(card, encoding="utf-8")


def _list_beside(listed: set[str], folder: Path) -> None:
    """Add the files that were written beside a cut model to `SHA256SUMS`, which lists its own."""
    files = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]
    with (folder / compact.SUMS).open("a", encoding="utf-8") as file:
        file.write(compact.sums(folder, [name for name in files if name not in listed]))


def load(folder: Path | str) -> PreTrainedModel:
    """Load a compact folder, or a compact model on the hub, in evaluation mode, with its plan.

    A folder of sentence-transformers gives the encoder with its sentence head: it returns `sentence_embedding`.

    Args:
        folder: a path; as text it may also be a name on the hub, `owner/name`.

    Raises:
        UserError: the folder is missing, is not a compact folder, or is damaged. Its config, plan and weights must
            agree, also in what the shapes of the weights do not show (the softmax scale, the sizes of heads), and every
            file must have the digest that `SHA256SUMS` lists.
    """
    folder = local_folder(folder)
    try:
        compact.check_places(folder)
    except compact.DamagedError as error:
        raise UserError(str(error)) from error
    config = read_config(folder)
    if not getattr(config, "secateur", None):
        raise UserError(
            f"{folder} is not a compact folder: its config.json has no secateur key; load it with transformers"
        )
    check_weights(folder, config.num_hidden_layers)
    _read_json(folder / "plan.json", f"{folder} cannot be loaded")
    try:
        auto = getattr(transformers, auto_class_of(config))
        options = {"trust_remote_code": False, "use_safetensors": True, "output_loading_info": True}
        with without_load_report():
            model, found = auto.from_pretrained(folder, config=config, **options)
    except compact.DamagedError as error:
        raise UserError(str(error)) from error
    except DAMAGE as error:
        raise UserError(f"{folder} cannot be loaded, its files do not belong together: {reason_of(error)}") from error
    if odd := sorted({*found["missing_keys"], *found["unexpected_keys"]}):
        raise UserError(
            f"{folder} cannot be loaded, its files do not belong together: {odd[0]!r} is in the weights or in the "
            "model that config.json describes, not in both"
        )
    check_structure(model, folder)
    return with_head(model, folder).eval()


def with_head(model: PreTrainedModel, name: str | Path) -> PreTrainedModel:
    """A bare encoder with the sentence head of its folder; any other model as it is.

    Raises:
        UserError: the head is not supported, cannot be read, or is that of an encoder of another width.
    """
    head = read_head(name) if model.base_model is model and not model.config.is_encoder_decoder else None
    if head is None:
        return model
    if head.width != stream_width(model):
        raise UserError(
            f"{name} pools states of {head.width} dims, and its encoder has {stream_width(model)}: copy or save the "
            "model again"
        )
    return attach_head(model, head)


def stream_width(model: PreTrainedModel) -> int:
    """The width of the states that an encoder returns, in dims; less than its config's where dims were cut."""
    norms = (getattr(model.config, "secateur", None) or {}).get("norm", {})
    return int([model.config.hidden_size, *norms.values()][-1])


def check_structure(model: PreTrainedModel, folder: Path) -> None:
    """Refuse a config whose `secateur` key is not the one that cutting by the folder's plan writes.

    Raises:
        UserError: they differ, or the plan does not fit the config.
    """
    try:
        planned = planned_structure(model).to_dict()
    except NewerVersion as error:
        raise UserError(f"{folder}/plan.json cannot be read: {error}") from error
    except DAMAGE as error:
        raise UserError(f"{folder}/plan.json does not fit its config.json: {reason_of(error)}") from error
    path, by_plan, by_config = _first_difference(planned, model.config.secateur)
    if path:
        raise UserError(
            f"{folder} cannot be loaded, its files do not belong together: by plan.json {path} is {_shown(by_plan)}, "
            f"in config.json it is {_shown(by_config)}; save or copy the model again"
        )


def _first_difference(left: Any, right: Any, path: str = "secateur") -> tuple[str, Any, Any]:
    """The path at which two values of JSON differ, and both values there, None if missing; an empty path if equal."""
    if isinstance(left, dict) and isinstance(right, dict):
        pairs = ((f"{path}.{key}", left.get(key), right.get(key)) for key in sorted({*left, *right}))
        differences = (_first_difference(a, b, name) for name, a, b in pairs)
        return next((one for one in differences if one[0]), ("", None, None))
    if isinstance(left, float) and isinstance(right, float) and math.isclose(left, right, rel_tol=1e-12):
        return "", None, None  # the softmax scale is a power: its last bit depends on the platform
    return ("", None, None) if left == right else (path, left, right)


def _shown(value: Any) -> str:
    text = "nothing" if value is None else json.dumps(value)
    return text if len(text) <= 120 else f"{text[:120]}..."


def read_config(folder: Path) -> Any:
    """The configuration of a local checkpoint.

    Raises:
        UserError: the folder or its config.json is missing, the config is damaged, or its family is not supported.
    """
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder: give the path of a saved model")
    data = _read_json(folder / "config.json", f"{folder} is not a model folder")
    if not isinstance(data, dict):
        raise UserError(f"{folder}/config.json is damaged: expected keys with values, got {_shown(data)}")
    check_family(data.get("model_type"), str(folder))
    if data.get("secateur") is not None:
        try:
            Structure.from_dict(data["secateur"])
        except ValueError as error:
            raise UserError(f"{folder}/config.json cannot be read: {error}") from error
    try:
        return AutoConfig.from_pretrained(folder, trust_remote_code=False)
    except DAMAGE as error:
        raise UserError(f"{folder}/config.json is damaged: {reason_of(error)}") from error


def check_weights(folder: Path, layers: Any) -> None:
    """Refuse a folder without readable safetensors before a model is built from it.

    Raises:
        UserError: no weights, a damaged file, or a config with more layers than tensors, which would take too long to
            build.
    """
    files, tensor_count = weight_files(folder), 0
    if not files:
        raise UserError(f"{folder} has no model.safetensors: expected a folder written by save_pretrained")
    for file in files:
        try:
            with safe_open(file, "pt") as tensors:
                for name in tensors.keys():  # noqa: SIM118 - not a mapping
                    tensor_count += 1
                    if not torch.isfinite(tensors.get_tensor(name).float()).all():
                        raise UserError(f"{file} is damaged: {name} holds values that are not finite")
        except (SafetensorError, OSError) as error:
            raise UserError(f"{file} is damaged ({reason_of(error)}): copy or save the model again") from error
    if not isinstance(layers, int) or layers > tensor_count:
        raise UserError(
            f"{folder}/config.json is damaged: it has {layers!r:.40} layers, and the weights {tensor_count} tensors"
        )


def _read_json(path: Path, failure: str) -> Any:
    """The content of a JSON file; if it cannot be opened, an error that begins with `failure`."""
    try:
        return read_json(path)
    except OSError as error:
        raise UserError(f"{failure}: {path.name} cannot be read ({error.strerror})") from error
