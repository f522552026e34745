"""Every private or undocumented name of transformers, accelerate and torch that the package depends on.

A new release may change or remove such a name without notice. Each one is listed in `NAMES` with its purpose and the
version on which it was checked; `tests/system/test_compat.py` checks that it still exists with the signature that the
package expects. All other modules call the functions of this package, and training subclasses
`compat.trainer.HookedTrainer`. The exception is `surgery/compact`, which is shipped with every compact model and cannot
import the rest of secateur.

Slow imports are inside the functions.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

CHECKED = {"transformers": "5.23.0", "accelerate": "1.15.0", "torch": "2.13.0"}
"""Library -> the version on which its names were checked last."""


@dataclass(frozen=True)
class Name:
    """A name that its library does not promise to keep.

    Attributes:
        path: its dotted path, which begins with the library.
        purpose: what this package uses it for.
        parameters: of a function or method, the parameters that the package relies on, in their order, without `self`;
            None if it is not called.
        instance: whether only instances have it, as an attribute that the class assigns.
        version: of its library, on which it was checked.
    """

    path: str
    purpose: str
    parameters: tuple[str, ...] | None = None
    instance: bool = False

    @property
    def version(self) -> str:
        return CHECKED[self.path.partition(".")[0]]


EPOCH = (
    "model", "epoch", "train_dataloader", "steps_in_epoch", "num_update_steps_per_epoch", "trial",
    "ignore_keys_for_eval", "start_time", "resume_from_checkpoint", "epochs_trained", "steps_trained_in_current_epoch",
)  # fmt: skip
AUTO_MAPPINGS = "transformers.models.auto.modeling_auto"
AUTO_TABLE = "transformers.models.auto.auto_factory._LazyAutoMapping"

NAMES = (
    # compat.trainer
    Name("transformers.Trainer._run_epoch", "to end a training that resumes at its last step", EPOCH),
    Name("transformers.Trainer._get_train_sampler", "to order rows reproducibly by length", ("train_dataset",)),
    Name("transformers.Trainer._get_eval_sampler", "to keep the order of rows of images", ("eval_dataset",)),
    Name("transformers.Trainer._get_grad_norm", "to check the gradient's norm", ("model", "grad_norm")),
    Name("transformers.Trainer._prepare_inputs", "to move a batch to the device", ("inputs",)),
    Name("transformers.Trainer._save_checkpoint", "to complete a checkpoint", ("model", "trial")),
    Name("transformers.Trainer._get_output_dir", "to find the folder of a checkpoint", ("trial",)),
    Name(
        "transformers.Trainer._load_from_checkpoint",
        "to restore what Trainer does not know",
        ("resume_from_checkpoint", "model"),
    ),
    Name(
        "transformers.Trainer.get_batch_samples",
        "to see all micro-batches of an optimizer step",
        ("epoch_iterator", "num_batches", "device"),
    ),
    Name("transformers.Trainer.is_fsdp_enabled", "to refuse models that accelerate splits", instance=True),
    Name("transformers.Trainer.is_deepspeed_enabled", "to refuse models that DeepSpeed splits", instance=True),
    Name("transformers.Trainer._created_lr_scheduler", "to give each training its schedule", instance=True),
    Name("transformers.Trainer.model_wrapped", "the model as DDP wraps it", instance=True),
    Name("accelerate.Accelerator.ddp_handler", "the options with which DDP wraps a model", instance=True),
    Name(
        "transformers.trainer_pt_utils.LengthGroupedSampler",
        "rows grouped by length",
        ("batch_size", "dataset", "lengths", "model_input_name", "generator"),
    ),
    Name("accelerate.data_loader.BatchSamplerShard", "to share batches among processes", ("batch_sampler",)),
    Name("accelerate.data_loader.BatchSamplerShard.num_processes", "the number of processes", instance=True),
    Name("accelerate.data_loader.BatchSamplerShard.split_batches", "whether batches are split already", instance=True),
    Name("accelerate.data_loader.DataLoaderShard.base_dataloader", "to take the batches of `row_order`", instance=True),
    Name("accelerate.data_loader.SeedableRandomSampler.set_epoch", "to resume within an epoch", ("epoch",)),
    # compat.sharding_trainer
    Name("transformers.Trainer.create_accelerator_and_postprocess", "to be told of whole models", ()),
    Name("transformers.Trainer._wrap_model", "to split a model", ("model", "training", "dataloader")),
    Name("transformers.Trainer._move_model_to_device", "to leave a model that is split", ("model", "device")),
    Name("transformers.Trainer._save_optimizer_and_scheduler", "to save whole moments", ("output_dir",)),
    Name("transformers.Trainer._load_optimizer_and_scheduler", "to read parts of moments", ("checkpoint",)),
    Name("transformers.TrainingArguments.fsdp_plugin_args", "the settings of FSDP", instance=True),
    Name("transformers.PreTrainedModel._no_split_modules", "the classes of a model's layers"),
    # compat.borrowed_model
    Name("accelerate.Accelerator._models", "to have a model prepared again", instance=True),
    Name("accelerate.Accelerator._is_accelerate_prepared", "to have a model prepared again", instance=True),
    Name("accelerate.Accelerator._original_forward", "to remove autocast from a model's forward", instance=True),
    # compat.published_options
    Name("transformers.GenerationConfig._original_object_hash", "to save options without effect", instance=True),
    # compat.auto_classes
    Name("transformers.AutoModelForSequenceClassification._model_mapping", "the table of an AutoModelFor*"),
    Name(f"{AUTO_TABLE}._extra_content", "to derive compact classes when they are looked up", instance=True),
    Name(f"{AUTO_TABLE}._model_mapping", "whether a table has a class for a model type", instance=True),
    Name(f"{AUTO_TABLE}._load_attr_from_module", "the stock class of a model type", ("model_type", "attr")),
    # the functions below
    Name(f"{AUTO_MAPPINGS}.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES", "which families generate from a source"),
    Name(
        "transformers.trainer_pt_utils.nested_concat",
        "to join the outputs of batches",
        ("tensors", "new_tensors", "padding_index"),
    ),
    Name(
        "transformers.data.data_collator.pad_without_fast_tokenizer_warning",
        "to pad rows that are tokenized already",
        ("tokenizer",),
    ),
    Name("transformers.integrations.get_reporting_integration_callbacks", "to check a tracker", ("report_to",)),
    Name("torch.ops.mkldnn._is_mkldnn_bf16_supported", "whether the CPU computes in bf16"),
    Name("torch._dynamo.config.recompile_limit", "how many shapes a module is compiled for"),
    Name("torch._dynamo.config.accumulated_recompile_limit", "how many shapes all modules are compiled for"),
    Name("torch._int_mm", "int8 products, to measure their speed"),
    Name("torch.Tensor._version", "whether a tensor has been changed in place"),
    Name("transformers.PreTrainedConfig._attn_implementation", "what computes attention"),
    Name("torch.nn.Module._parameters", "to read a parameter whose name is a property", instance=True),
    # surgery/compact
    Name("transformers.PreTrainedModel._from_config", "to build a compact model", ("config",)),
    Name("transformers.PreTrainedModel._keys_to_ignore_on_save", "to save sinusoids that were cut"),
    Name("transformers.PreTrainedModel._keys_to_ignore_on_load_missing", "to load folders without empty tensors"),
    Name("transformers.PreTrainedModel._tied_weights_keys", "to share embeddings that transformers does not tie"),
    Name("transformers.PreTrainedModel.all_tied_weights_keys", "the same, of a whole model", instance=True),
    Name(
        "transformers.PreTrainedModel._upload_modified_files",
        "to write all files before a model is uploaded",
        ("working_dir", "repo_id"),
    ),
    Name("torch.nn.Module._apply", "to keep scales in fp32 when a model is cast", ("fn", "recurse")),
    Name("torch.nn.Module._forward_hooks", "whether something acts on a projection", instance=True),
    Name("torch.nn.Module._forward_pre_hooks", "whether something acts on a projection", instance=True),
)


def sequence_to_sequence_heads() -> Mapping[str, str]:
    """`model_type` -> the name of the class with which the family generates a target from a source."""
    from transformers.models.auto import modeling_auto

    return modeling_auto.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES


def concatenate(first: Any, second: Any, padding: int) -> Any:
    """Outputs of two batches as one, padded where their rows differ in length; arrays, tensors or tuples of them."""
    from transformers.trainer_pt_utils import nested_concat

    return nested_concat(first, second, padding_index=padding)


def pad(tokenizer: Any, rows: Any, **options: Any) -> Any:
    """As `tokenizer.pad`, without its advice to tokenize and pad in one call."""
    from transformers.data.data_collator import pad_without_fast_tokenizer_warning

    return pad_without_fast_tokenizer_warning(tokenizer, rows, **options)


def tracker_callback(name: str) -> Any:
    """The callback class of an experiment tracker that Trainer can report to.

    Raises:
        ValueError: there is no tracker of that name.
        RuntimeError, ImportError: its package is not installed.
    """
    from transformers.integrations import get_reporting_integration_callbacks

    (callback,) = get_reporting_integration_callbacks([name])
    return callback


def cpu_computes_bf16() -> bool:
    """Whether this CPU has instructions for bf16, and this PyTorch the library that uses them."""
    return torch.backends.mkldnn.is_available() and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def compiled_shapes(limit: int) -> AbstractContextManager[None]:
    """Within the block, `torch.compile` compiles a module for up to `limit` shapes before it gives up.

    The limits have other names in PyTorch 2.6.
    """
    import torch._dynamo

    kind = "recompile" if hasattr(torch._dynamo.config, "recompile_limit") else "cache_size"
    limits = {f"{kind}_limit": limit, f"accumulated_{kind}_limit": limit}
    patch: AbstractContextManager[None] = torch._dynamo.config.patch(limits)  # type: ignore[attr-defined]  # untyped
    return patch


def layer_classes(model: PreTrainedModel) -> tuple[str, ...]:
    """The names of the classes of a model's layers, which libraries place on a device as a whole."""
    return tuple(model._no_split_modules or ())


def multiplies_int8() -> bool:
    """Whether this PyTorch has `int8_product`."""
    return hasattr(torch, "_int_mm")


def int8_product(left: Tensor, right: Tensor) -> Tensor:
    """`left @ right` of int8 matrices, in int32."""
    return torch._int_mm(left, right)


def version_of(tensor: Tensor) -> int:
    """A number that rises whenever the tensor is changed in place."""
    return tensor._version


def attention_of(config: PreTrainedConfig) -> str | None:
    """What computes the attention of a model with this config: eager, sdpa, ...; None if that is not chosen yet."""
    chosen: str | None = getattr(config, "_attn_implementation", None)
    return chosen


def set_attention(config: PreTrainedConfig, attention: str) -> None:
    """Choose what computes the attention of a model that is made from this config."""
    config._attn_implementation = attention


def stored_parameter(module: nn.Module, name: str) -> nn.Parameter:
    """The parameter of a module under a name that its class makes a property of."""
    parameter = module._parameters[name]
    assert parameter is not None
    return parameter
