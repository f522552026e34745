"""`transformers.Trainer` for models in parts (`secateur.system.sharding`), as accelerate's configuration asks for them.

Trainer's own path for FSDP refuses parameters that are none of the model's, such as a method's, and leaves the model
in parts. Here Trainer is told of several processes with whole models, and the model is split where it would be
wrapped by DDP; only the main process needs its weights. Checkpoints are the same files as without FSDP, so that any
number of processes can resume from one.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn
from transformers import PreTrainedModel, Trainer, TrainingArguments

from secateur.system import processes
from secateur.system.errors import UserError
from secateur.system.optimizer_parts import gathered_state, split_loaded
from secateur.system.parts import gathered_parts
from secateur.system.sharding import ShardedModel, Sharding

OPTIMIZER, SCHEDULER = "optimizer.pt", "scheduler.pt"
"""Trainer's files of a checkpoint."""


class ShardingTrainer(Trainer):
    """A Trainer that splits its model among the processes for a training or an evaluation, if that is asked for.

    Attributes:
        sharding: how; None if each process has a whole model.
        in_parts: the model while it is split, else None.
    """

    model: PreTrainedModel
    sharding: Sharding | None
    in_parts: ShardedModel | None = None

    @property
    def plain_optimizer(self) -> torch.optim.Optimizer | None:
        """The optimizer without accelerate's wrapper; None before it is created, as when a checkpoint is loaded."""
        return getattr(self.optimizer, "optimizer", self.optimizer)

    def rebuilding(self) -> AbstractContextManager[Any]:
        """What the model's modules are exchanged in; a subclass takes away what holds them."""
        return nullcontext()

    def split(self, trained: bool) -> ShardedModel:
        """Split the model, for the first time or again after its modules were replaced by whole ones."""
        assert self.sharding is not None
        optimizer = self.plain_optimizer if trained else None
        with self.rebuilding():
            if self.in_parts is not None:
                self.in_parts.split(optimizer)
                return self.in_parts
            self.in_parts = ShardedModel(self.model, self.sharding, optimizer, trained=trained)
        if optimizer is not None:
            optimizer.register_load_state_dict_pre_hook(split_loaded)
        return self.in_parts

    def gather(self) -> None:
        """Make the model whole again, if it is split, where it was before; all processes must call it."""
        if self.in_parts is None:
            return
        with self.rebuilding():
            self.in_parts.gather(self.plain_optimizer if self.in_parts.trained else None)
        self.in_parts = None

    @contextmanager
    def whole_states(self) -> Iterator[None]:
        """Within the block the main process has the model's whole state dict; all processes must enter it."""
        if self.in_parts is None:
            yield
            return
        values = gathered_parts(self.model, keep=self.args.should_save)
        handle = self.model.register_state_dict_post_hook(lambda module, own, prefix, metadata: own.update(values))
        try:
            yield
        finally:
            handle.remove()

    # Overrides

    def create_accelerator_and_postprocess(self) -> None:
        self.sharding = sharding_of(self.args)
        with _whole_models(self.args):
            super().create_accelerator_and_postprocess()

    def save_model(self, *args: Any, **kwargs: Any) -> None:
        with self.whole_states():
            super().save_model(*args, **kwargs)

    def _move_model_to_device(self, model: nn.Module, device: torch.device) -> None:
        """As in Trainer, but a model that will be split stays where it is, because it may not fit the device."""
        if self.sharding is None:
            super()._move_model_to_device(model, device)

    def _wrap_model(self, model: nn.Module, training: bool = True, dataloader: Any = None) -> nn.Module:
        if self.sharding is None:
            return super()._wrap_model(model, training, dataloader)
        return self.in_parts or self.split(training)

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        optimizer = self.plain_optimizer
        if self.in_parts is None or optimizer is None:
            super()._save_optimizer_and_scheduler(output_dir)
            return
        state = gathered_state(optimizer, self.args.should_save)
        handle = optimizer.register_state_dict_post_hook(lambda own, parts: state)
        try:
            super()._save_optimizer_and_scheduler(output_dir)
        finally:
            handle.remove()

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        """As in Trainer, but each process reads only its parts, and not into the memory of its device."""
        if self.in_parts is None or checkpoint is None:
            super()._load_optimizer_and_scheduler(checkpoint)
            return
        files = [Path(checkpoint) / name for name in (OPTIMIZER, SCHEDULER)]
        if all(path.is_file() for path in files):
            states = [torch.load(path, map_location="cpu", weights_only=True, mmap=True) for path in files]
            cast(Any, self.optimizer).load_state_dict(states[0])
            cast(Any, self.lr_scheduler).load_state_dict(states[1])


def sharding_of(args: TrainingArguments) -> Sharding | None:
    """How the arguments, or else the launcher, ask to split models; None if they do not, or there is one process.

    Raises:
        UserError: they ask for something of FSDP that is not supported.
    """
    if args.fsdp_plugin_args is None and not processes.is_set(processes.FSDP):
        return None
    from accelerate.utils import FullyShardedDataParallelPlugin

    _check_version(args)
    plugin = FullyShardedDataParallelPlugin(**(args.fsdp_plugin_args or {}))
    _check(plugin, args)
    if args.world_size == 1:  # Trainer itself refuses `fsdp` of its arguments then
        return None
    names = plugin.transformer_cls_names_to_wrap or ()
    return Sharding(args.device, tuple(names), bool(plugin.reshard_after_forward), args.bf16)


def _check_version(args: TrainingArguments) -> None:
    version = (args.fsdp_plugin_args or {}).get("fsdp_version", os.environ.get("FSDP_VERSION", "1"))
    if str(version) != "2":
        raise UserError(f"FSDP with fsdp_version: {version} does not fit pruning: only 2 leaves modules their weights")


def _check(plugin: Any, args: TrainingArguments) -> None:
    """Refuse what is not supported of FSDP, by its key in accelerate's configuration."""
    policy = getattr(plugin.auto_wrap_policy, "__name__", plugin.auto_wrap_policy)
    refused = {
        "fsdp_cpu_ram_efficient_loading": (
            plugin.cpu_ram_efficient_loading,
            "the main process has the weights, and gives the others their parts: set it to false",
        ),
        "fsdp_offload_params": (
            type(plugin.cpu_offload).__name__ == "CPUOffloadPolicy",
            "masks are on the device: set it to false",
        ),
        "fsdp_activation_checkpointing": (
            plugin.activation_checkpointing,
            "it exchanges the modules that are masked: set it to false, and use gradient_checkpointing",
        ),
        "fsdp_auto_wrap_policy": (
            policy != "transformer_auto_wrap_policy",
            "models are gathered layer by layer: set it to TRANSFORMER_BASED_WRAP",
        ),
        "fp16": (args.fp16, "its scaled gradients are not supported in parts: use bf16"),
    }
    for key, (used, reason) in refused.items():
        if used:
            raise UserError(f"FSDP with {key} does not fit pruning: {reason}")


@contextmanager
def _whole_models(args: TrainingArguments) -> Iterator[None]:
    """Within the block an accelerator is made as for whole models, whatever the launcher and the arguments ask for."""
    asked, os.environ[processes.FSDP] = os.environ.get(processes.FSDP), "false"
    plugin, args.fsdp_plugin_args = args.fsdp_plugin_args, None
    try:
        yield
    finally:
        args.fsdp_plugin_args = plugin
        del os.environ[processes.FSDP]
        if asked is not None:
            os.environ[processes.FSDP] = asked
