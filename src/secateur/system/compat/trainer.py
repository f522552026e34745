"""`transformers.Trainer` with hooks of stable names, in place of overrides of its private methods.

Checked on transformers 5.23.0 and accelerate 1.15.0; the names are listed in `secateur.system.compat.NAMES`.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import torch
from accelerate.data_loader import BatchSamplerShard, DataLoaderShard, SeedableRandomSampler
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import BatchSampler, DataLoader
from transformers import PreTrainedModel

from secateur.system.compat.borrowed_model import Settings, set_settings, settings_of, unwrap_forward
from secateur.system.compat.ordered_trainer import LengthGroupedSampler, OrderedTrainer, RowOrder
from secateur.system.compat.sharding_trainer import ShardingTrainer
from secateur.system.model_state import without_weights
from secateur.system.parts import whole

__all__ = ["HookedTrainer", "LengthGroupedSampler", "RowOrder", "SeedableRandomSampler"]

Batch = dict[str, Tensor]


class Checkpointing(Protocol):
    """Saves with each checkpoint, and restores, the state that Trainer does not handle."""

    def before_saving(self) -> None:
        """Called before a checkpoint is written."""

    def saved(self, checkpoint: Path, limit: int | None) -> None:
        """Called in every process when Trainer has written its files; it has removed no older checkpoint.

        Args:
            limit: `save_total_limit`.
        """

    def before_loading(self, checkpoint: Path) -> None:
        """Called before Trainer loads the model's weights from a checkpoint."""


class HookedTrainer(OrderedTrainer, ShardingTrainer):
    """A Trainer that calls the hooks below, `row_order` and `checkpointing`; a subclass names nothing private.

    A subclass writes `new_schedule`, and sets `row_order` and `checkpointing` before it trains. Once a training or an
    evaluation has ended, the model has its own forward and settings again.
    """

    model: PreTrainedModel
    checkpointing: Checkpointing
    micro_batch_count = 1
    """The number of micro-batches of the present optimizer step."""
    _settings: Settings | None = None
    """The settings with which the model came, while it is trained or evaluated."""

    def __init__(self, model: PreTrainedModel, *args: Any, **kwargs: Any) -> None:
        settings = settings_of(model)
        super().__init__(model, *args, **kwargs)
        self._use_cache = vars(model.config)["use_cache"]
        set_settings(model, settings)

    def micro_batches_collected(self, batches: list[Batch]) -> None:
        """Called with all micro-batches of an optimizer step before the first is used; may change them."""

    def gradient_norm_known(self, norm: Tensor) -> None:
        """Called once an optimizer step with the norm `()` of the model's gradient before clipping."""

    @abstractmethod
    def new_schedule(self, optimizer: torch.optim.Optimizer, steps: int) -> LambdaLR:
        """The schedule of the learning rates of a training of this many optimizer steps, where none was passed in."""

    def finished(self) -> bool:
        """Whether training has taken all its steps, or a callback has stopped it."""
        return self.control.should_training_stop or self.state.global_step >= self.state.max_steps

    @property
    def sharded_elsewhere(self) -> bool:
        """Whether accelerate itself, or DeepSpeed, splits the model."""
        return bool(self.is_fsdp_enabled or self.is_deepspeed_enabled)

    def on_device(self, batch: Batch) -> Batch:
        """The batch with its tensors on the device."""
        return self._prepare_inputs(batch)

    def unwrap_forward(self) -> None:
        """Remove accelerate's autocast and DDP from the model; the next training or evaluation prepares it again."""
        unwrap_forward(self.model)
        self.accelerator._models.clear()
        self.model_wrapped = self.model

    @contextmanager
    def _borrowed(self) -> Iterator[None]:
        """Within the block the model is prepared and set for training. Blocks may be nested; the outermost ends it.

        A model in parts is whole again afterwards, but for an error.
        """
        if self._settings is not None:
            yield
            return
        self._settings = settings = settings_of(self.model)
        try:
            self.unwrap_forward()
            vars(self.model.config)["use_cache"] = self._use_cache
            yield
            self.gather()  # not after an error: other processes may not answer
        finally:
            self.unwrap_forward()
            set_settings(self.model, settings)
            self._settings = None

    def rewrap(self) -> None:
        """Initialise the wrapper again, in place because Trainer's loop refers to it, after parameters changed."""
        if self.in_parts is not None:
            self.split(trained=True)
        wrapper, handler = self.model_wrapped, self.accelerator.ddp_handler
        if not isinstance(wrapper, DistributedDataParallel):
            return
        devices: dict[str, Any] = {"device_ids": wrapper.device_ids, "output_device": wrapper.output_device}
        DistributedDataParallel.__init__(wrapper, self.model, **devices, **(handler.to_kwargs() if handler else {}))
        if handler:
            handler.register_comm_hook(wrapper)

    # Overrides

    def train(self, *args: Any, **kwargs: Any) -> Any:
        with self._borrowed():
            return super().train(*args, **kwargs)

    def create_scheduler(self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None) -> Any:
        """As in Trainer, of `new_schedule`; a later training has one of its own."""
        if self.lr_scheduler is None:
            self.lr_scheduler = self.new_schedule(optimizer or self.create_optimizer(), num_training_steps)
            self._created_lr_scheduler = True
        return self.lr_scheduler

    def evaluation_loop(self, *args: Any, **kwargs: Any) -> Any:
        with self._borrowed():
            return super().evaluation_loop(*args, **kwargs)

    def save_model(self, *args: Any, **kwargs: Any) -> None:
        """As in Trainer, with the settings with which the model came and its own names of weights.

        Trainer writes the names of an older format where the family has one, and does not know them when it resumes.
        """
        settings, own = settings_of(self.model), vars(self.model).get("save_pretrained")
        try:
            set_settings(self.model, settings if self._settings is None else self._settings)
            vars(self.model)["save_pretrained"] = partial(self.model.save_pretrained, save_original_format=False)
            super().save_model(*args, **kwargs)
        finally:
            vars(self.model).pop("save_pretrained", None)
            vars(self.model).update({} if own is None else {"save_pretrained": own})
            set_settings(self.model, settings)

    def get_batch_samples(self, epoch_iterator: Iterator[Batch], num_batches: int, device: torch.device) -> Any:
        batches, items = super().get_batch_samples(epoch_iterator, num_batches, device)
        self.micro_batch_count = len(batches)
        self.micro_batches_collected(batches)
        return batches, items

    def get_train_dataloader(self) -> DataLoader:
        """As in Trainer, but in the batches of `row_order`, which several processes divide among them."""
        loader = super().get_train_dataloader()
        batches = loader.batch_sampler
        if isinstance(batches, BatchSamplerShard) and not batches.split_batches:
            batches.batch_sampler = self.row_order.split(batches.batch_sampler, batches.num_processes)
            batches.batch_size = None  # the parts may differ in size
        elif type(batches) is BatchSampler and isinstance(loader, DataLoaderShard):
            own = self.row_order.split(batches, 1)
            object.__setattr__(loader.base_dataloader, "batch_sampler", own)  # its own way refuses another one
        return loader

    def _run_epoch(self, *args: Any, **kwargs: Any) -> None:
        """As in Trainer, which would take one step too many if it resumed at its last step."""
        if self.finished():
            self.control.should_training_stop = True
            return
        self.row_order.begin_epoch(kwargs["epoch"])  # Trainer does not set the epoch if it resumes within one
        super()._run_epoch(*args, **kwargs)

    def _get_grad_norm(self, model: nn.Module, grad_norm: Any = None) -> Any:
        norm = whole(torch.as_tensor(super()._get_grad_norm(model, grad_norm=grad_norm)))
        self.gradient_norm_known(norm)
        return norm

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        self.checkpointing.before_saving()
        limit, self.args.save_total_limit = self.args.save_total_limit, None
        try:
            super()._save_checkpoint(model, trial)
        finally:
            self.args.save_total_limit = limit
        folder = Path(self._get_output_dir(trial))
        self.checkpointing.saved(folder / f"checkpoint-{self.state.global_step}", limit)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        self.checkpointing.before_loading(Path(resume_from_checkpoint))
        if not without_weights(self.model):  # else the main process reads them, and hands out the parts
            super()._load_from_checkpoint(resume_from_checkpoint, model)
