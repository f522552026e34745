"""Training with masks and distillation: `transformers.Trainer` with three things of our own.

The loss is a list of terms; while a method listens, the gradient of what it hears is taken with respect to the masks
(activation gradients only: no second backward through the weights); and the method's and terms' state is part of every
checkpoint. Everything else is Trainer's: devices, mixed precision, accumulation, logging, checkpoints, resuming.

A loss, gradient or weight that is not finite stops the training, and nothing is saved of it. What is watched stays on
the device until Trainer waits for it anyway, at a log or a checkpoint; its own filter, which hides such losses from the
logs and waits in every micro-batch, is off.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from accelerate.data_loader import BatchSamplerShard
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader
from transformers import PreTrainedModel, Trainer, TrainerCallback
from transformers.trainer_pt_utils import LengthGroupedSampler

from secateur.methods.method import Method
from secateur.surgery.masking import Attachment, attached
from secateur.surgery.optimizer_state import Moments, give_moments, moments_of
from secateur.surgery.shrinking import Shrinking
from secateur.system import process_memory
from secateur.system.errors import UserError
from secateur.training.averaging import Averaging
from secateur.training.checkpoints import STATE, Best, complete, rotate
from secateur.training.learning_rate import part_of_schedule
from secateur.training.nonfinite import Faults
from secateur.training.objectives import UNLABELLED, Labels, Step, Term
from secateur.training.samplers import ByLength, Parts
from secateur.training.teacher_cache import INDEX, CachedTeacher

SHARES = "secateur_shares"
"""The key under which a micro-batch carries what it is of its optimizer step (`_shares`)."""
BEST = "best.safetensors"
WORTH = 0.75  # of the density that the model has; each cut costs new code for new shapes (RESULTS.md)

# Batches of many lengths times layers of many widths are more shapes than oneDNN remembers code for by default (1,024),
# and each takes 0.3 MB. A BERT-base cut to as many widths as it has products, in 16 lengths, has 3,500 (RESULTS.md).
os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "4096")


class PruningTrainer(Trainer):
    """Trains a model under a method's masks, or a cut model without a method.

    Args:
        model: the student.
        method: gives the masks; None trains the model as it is (a teacher, or a cut model that recovers).
        teacher: frozen; needed by the terms that distil. A `CachedTeacher` needs batches that carry `index`.
        objective: terms of the loss, summed with their weights.
        begin, end: the part of the whole run that this stage is; progress goes from `begin` to `end`.
        decay: the part of the learning-rate schedule that this stage is; by default `(begin, end)`, so stages follow
            each other without a restart.
        shrink: cut the model in place as units are removed, where the method allows it; when `train` returns it is
            whole again, with zeros where it was cut. Same result, faster.
        moments: what an earlier stage's optimizer knew (`PruningTrainer.moments`), to go on with; by default nothing.
        rows_seen: training rows that earlier stages have taken: the order of the data goes on behind them, which needs
            rows grouped by length.
        select: the metric by which the best evaluation is chosen, once the method has settled: its weights are
            the result. By default the last weights are.
        generate: what a model in evaluation mode writes for a batch without labels, tokens `(batch, tokens)`: an
            evaluation then gives these in place of the outputs.
        average: the last part of the steps, after each of which the weights count in a mean that is the result; 0
            for none. Without a method, and without `select`.
        The rest is Trainer's.

    Raises:
        UserError: a term needs a teacher and there is none, fp16 is asked for with a method that listens, or an average
            where it cannot be; from `train`, a loss, gradient or weight is not finite.
    """

    loss_is_scaled_for_ga = False
    model: PreTrainedModel

    def __init__(
        self,
        model: PreTrainedModel,
        *,
        method: Method | None = None,
        teacher: PreTrainedModel | CachedTeacher | None = None,
        objective: Sequence[Term] = (),
        begin: float = 0.0,
        end: float = 1.0,
        decay: tuple[float, float] | None = None,
        shrink: bool = False,
        moments: Mapping[str, Moments] | None = None,
        rows_seen: int = 0,
        select: str | None = None,
        generate: Callable[[PreTrainedModel, Mapping[str, Tensor]], Tensor] | None = None,
        average: float = 0.0,
        **kwargs: Any,
    ) -> None:
        self.method, self.teacher = method, teacher
        self.objective: list[Term] = list(objective) or [Labels()]
        self.terms = nn.ModuleList(self.objective)
        self.window, self.decay, self.select = (begin, end), decay or (begin, end), select
        self.known, self.rows_seen, self.generate = moments or {}, rows_seen, generate
        self.attachment: Attachment | None = None
        self.shrinking: Shrinking | None = None
        if shrink and method is not None and method.shrinks:
            self.shrinking = Shrinking(model, method.space)
        self.evidence: Tensor | None = None
        self.parts: Parts | None = None
        self.drawn: Tensor | None = None
        self.seen: dict[str, Any] = defaultdict(float)
        self.faults = Faults()
        super().__init__(model, callbacks=[_Advance(self), *kwargs.pop("callbacks", [])], **kwargs)
        self.args.logging_nan_inf_filter = False
        self._check(average)
        self.averaging = Averaging(model, average) if average else None

    def _check(self, average: float) -> None:
        silent = [term.name for term in self.objective if term.needs_teacher and self.teacher is None]
        if silent:
            raise UserError(f"the terms {', '.join(silent)} need a teacher and none is given: pass teacher=")
        if self.is_fsdp_enabled or self.is_deepspeed_enabled:
            raise UserError(
                "masks, scores and cuts need the whole model in each process: train with DDP, not in shards (FSDP, "
                "DeepSpeed)"
            )
        if self.args.n_gpu > 1:
            raise UserError(
                f"one process sees {self.args.n_gpu} GPUs: start one for each (torchrun --nproc_per_node "
                f"{self.args.n_gpu}), or show it one (CUDA_VISIBLE_DEVICES)"
            )
        if self.args.fp16 and self.method is not None:
            raise UserError("fp16 scales the loss that the method listens to: use bf16 or fp32 for pruning")
        if not 0 <= average <= 1:
            raise UserError(f"average {average} is not in [0, 1]: it is the last part of the steps")
        if average and (self.method is not None or self.select is not None):
            raise UserError(
                "the mean of weights is no result where a method prunes or select chooses: set average to 0"
            )
        if self.rows_seen and self.args.train_sampling_strategy != "group_by_length":
            raise UserError("rows_seen goes on in an order by length: set train_sampling_strategy='group_by_length'")

    @property
    def progress(self) -> float:
        """Part of the whole run that is done, in [begin, end]."""
        begin, end = self.window
        return begin + (end - begin) * self.state.global_step / max(1, self.state.max_steps)

    @property
    def rows_taken(self) -> int:
        """Training rows that this stage and those before it have taken, the same row twice counted twice."""
        rows = self.args.train_batch_size * self.args.gradient_accumulation_steps * self.args.world_size
        return self.rows_seen + self.state.global_step * rows

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """As in Trainer, under the masks; they are taken off when it returns."""
        if isinstance(self.teacher, PreTrainedModel):
            _freeze(self.teacher, self.args.device)
        for term in self.objective:
            term.bind(self.model, self.teacher)
        self.terms.to(self.args.device)
        self.faults.clear()
        with self._masked(), _fast_attention(self.args.device), process_memory.pages_kept():
            try:
                result = super().train(*args, **kwargs)
            except Exception:
                if self.accelerator.num_processes == 1:  # others may be elsewhere, and would be waited for
                    self._refuse_faults()  # of which the error may be a consequence
                raise
            self._refuse_broken()
            self._take_best()
            if self.averaging is not None:
                self.averaging.take(self.state.global_step, self.state.max_steps)
            self._shrink(None)
        # Accelerate has wrapped the forward in autocast: what is measured and saved next must be the plain model.
        self.accelerator.unwrap_model(self.model_wrapped, keep_fp32_wrapper=False)
        self.model.__dict__.pop("forward", None)
        return result

    def _run_epoch(self, *args: Any, **kwargs: Any) -> None:
        """As in Trainer, which takes one step too many when it goes on from where it was to stop."""
        if self.control.should_training_stop or self.state.global_step >= self.state.max_steps:
            self.control.should_training_stop = True
            return
        if self.parts is not None:
            self.parts.set_epoch(kwargs["epoch"])  # what Trainer does not reach where it goes on within an epoch
        super()._run_epoch(*args, **kwargs)

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """As in Trainer, under the method's deterministic masks."""
        with self._masked():
            metrics = super().evaluate(*args, **kwargs)
        if self.select is not None and self.is_in_train and (self.method is None or self.method.settled()):
            self._keep_if_best(metrics[f"eval_{self.select}"])
        return metrics

    def prediction_step(
        self, model: nn.Module, inputs: dict[str, Any], prediction_loss_only: bool, ignore_keys: Any = None
    ) -> tuple[Any, Any, Any]:
        """As in Trainer; where the model writes, what it writes. The loss comes first: it draws the masks, too."""
        if self.generate is None or prediction_loss_only:
            return super().prediction_step(model, inputs, prediction_loss_only, ignore_keys)
        inputs = self._prepare_inputs(inputs)
        loss, _, _ = super().prediction_step(model, dict(inputs), True, ignore_keys)
        labels = tuple(inputs.pop(name) for name in self.label_names)
        with self.compute_loss_context_manager():
            written = self.generate(self.model, inputs)
        return loss, written, labels[0] if len(labels) == 1 else labels

    # The best evaluation, where one is chosen

    @property
    def _best(self) -> Best:
        return Best(Path(str(self.args.output_dir)) / BEST)

    @property
    def _chosen(self) -> dict[str, nn.Module]:
        """What an evaluation is kept of: the model, and the terms and the method."""
        return {"model": self.model, "own": self._own_state()}

    def _keep_if_best(self, score: float) -> None:
        """Keep what is chosen as it is if no earlier evaluation scored higher."""
        self._refuse_faults()
        if score >= self._best.score(self.state.global_step) and self.args.should_save:
            self._best.keep(score, self.state.global_step, self._chosen)

    def _take_best(self) -> None:
        """Go back to the best evaluation; without one that counts, the last weights stay."""
        self.accelerator.wait_for_everyone()
        if self.select is not None:
            self._best.take(self._chosen)

    @contextmanager
    def _masked(self) -> Iterator[None]:
        if self.method is None or self.attachment is not None:
            with nullcontext():
                yield
            return
        self.method.to(self.args.device)
        with attached(self.model, self.method.space, self._masks) as self.attachment:
            try:
                yield
            finally:
                self.attachment = None

    def _masks(self) -> Tensor:
        assert self.method is not None
        self.method.train(self.model.training)
        return self.method.masks()

    # The loss, every micro-batch

    def compute_loss(
        self, model: nn.Module, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """The sum of the terms and the method's penalty; in evaluation the task's own loss alone."""
        index, shares = inputs.pop(INDEX, None), inputs.pop(SHARES, None)
        if not model.training:
            outputs = model(**inputs)
            return (outputs.loss, outputs) if return_outputs else outputs.loss
        if self.method is not None and self.drawn is not None:
            self.method.set_extra_state(self.drawn)  # one noise in all micro-batches of a step, as in one batch
        step = self._step(model, inputs, index)
        values = {term.name: term.weight * term(step) for term in self.objective}
        if shares is not None:
            values = {term.name: values[term.name] * shares[term.over(step)] for term in self.objective}
        self._note(values)
        self._listen(values)
        penalty = self.method.penalty() if self.method is not None else 0.0
        self._watch("the method's penalty", torch.as_tensor(penalty))
        loss = sum(values.values()) + penalty
        return (loss, step.student) if return_outputs else loss

    def _step(self, model: nn.Module, inputs: dict[str, Tensor], index: Tensor | None) -> Step:
        hidden = any(term.needs_hidden for term in self.objective)
        inputs = self._with_decoder_inputs(inputs)
        student = model(**inputs, output_hidden_states=hidden)
        taught = self._teach(inputs, index, hidden)
        if self.attachment is None:
            return Step(inputs, student, taught, progress=self.progress)
        return Step(inputs, student, taught, self.attachment.masks, self.attachment.at_sites, self.progress)

    def _with_decoder_inputs(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        """A batch with what a decoder reads, the labels one to the right: the student and the teacher read the same."""
        shift: Any = getattr(self.model, "prepare_decoder_input_ids_from_labels", None)
        if shift is None or "decoder_input_ids" in inputs or "labels" not in inputs:
            return inputs
        return {**inputs, "decoder_input_ids": shift(inputs["labels"])}

    @torch.no_grad()
    def _teach(self, inputs: dict[str, Tensor], index: Tensor | None, hidden: bool) -> Any:
        if self.teacher is None or not any(term.needs_teacher for term in self.objective):
            return None
        given = {name: value for name, value in inputs.items() if name not in ("labels", *self.label_names)}
        if isinstance(self.teacher, CachedTeacher):
            if index is None:
                raise UserError(f"a cached teacher needs batches that carry {INDEX!r}, the numbers of their rows")
            given[INDEX] = index
        return self.teacher(**given, output_hidden_states=hidden)

    def _listen(self, values: dict[str, Tensor]) -> None:
        """Add the signed gradient of what the method hears to this optimizer step's evidence."""
        heard_terms = self.method.listens_to if self.method is not None else {}
        heard = [weight * values[name] for name, weight in heard_terms.items() if weight and name in values]
        if not heard or self.attachment is None:
            return
        loss, gone = sum(heard[1:], start=heard[0]), self.shrinking is not None  # all that is masked may be cut away
        gradient = torch.autograd.grad(
            loss, self.attachment.masks, retain_graph=True, allow_unused=gone, materialize_grads=gone
        )[0]
        gradient = gradient.float() / self.current_gradient_accumulation_steps
        self._watch("the gradient of the masks", gradient)
        self.evidence = gradient if self.evidence is None else self.evidence + gradient

    def get_batch_samples(self, *args: Any, **kwargs: Any) -> Any:
        """As in Trainer, one optimizer step's micro-batches; where there are several, each learns its shares."""
        found, items = super().get_batch_samples(*args, **kwargs)
        if found and (len(found) > 1 or self.accelerator.num_processes > 1):
            for batch, shares in zip(found, self._shares(found), strict=True):
                batch[SHARES] = shares
        if self.method is not None:
            self.drawn = self.method.get_extra_state() if len(found) > 1 else None
        return found, items

    def _shares(self, found: list[dict[str, Tensor]]) -> list[dict[str, Tensor]]:
        """Of rows, real tokens and labels: each micro-batch's number by the mean number of this optimizer step's.

        The mean over the micro-batches, of all processes, of the terms' values times these is the mean over all rows,
        tokens or labels of the step, as if they were one batch.
        """
        counts, device = [_counts(batch) for batch in found], self.args.device
        rows = [torch.stack([torch.as_tensor(number, device=device) for number in one.values()]) for one in counts]
        numbers = torch.stack(rows).to(torch.promote_types(self.model.dtype, torch.float))
        mean = self.accelerator.reduce(numbers.mean(dim=0), reduction="mean")
        return [dict(zip(counts[0], shares, strict=True)) for shares in numbers / mean]

    def before_step(self) -> None:
        """Before an optimizer step: average over devices, and clip, gradients that no wrapper of the model knows of."""
        if self.accelerator.num_processes > 1:
            for parameter in self._own_state().parameters():
                if parameter.grad is not None:
                    parameter.grad = self.accelerator.reduce(parameter.grad, reduction="mean")
        for group in self.method.param_groups() if self.method is not None else []:
            if limit := group.get("clip"):
                nn.utils.clip_grad_norm_(group["params"], limit)

    def step_taken(self) -> None:
        """After an optimizer step: the method observes the whole step's evidence, then moves on."""
        self._own_state().zero_grad()  # Trainer clears the model's gradients alone
        if self.averaging is not None:
            self.averaging.add(self.state.global_step, self.state.max_steps)
        if self.method is None:
            return
        if self.evidence is not None:
            self.method.observe(self.accelerator.reduce(self.evidence, reduction="mean"))
            self.evidence = None
        self.method.advance(self.progress)
        if self.shrinking is not None and self._worth_cutting(self.method):
            self._shrink(self.method.alive)

    # Shrinking

    def _worth_cutting(self, method: Method) -> bool:
        """Whether much less would be stored than the model still has; not while the best evaluation may be taken back.

        Tiles leave a weight with their row or column alone.
        """
        assert self.shrinking is not None
        if self.select is not None and method.settled():
            return False
        space, both = method.space, (method.alive, self.shrinking.kept)
        left, has = (space.density(space.filled(units) if space.tiled else units) for units in both)
        return left <= WORTH * has

    def whole_state(self) -> dict[str, Tensor]:
        """The model's state dict as if nothing had been cut away: with 0 in its place."""
        return self.model.state_dict() if self.shrinking is None else self.shrinking.whole()

    def moments(self) -> dict[str, Moments]:
        """What the optimizer knows: of the `model`, as if nothing had been cut away, and of the `terms`."""
        optimizer = self._plain_optimizer()
        assert optimizer is not None
        of_model = moments_of(optimizer, self.model)
        if self.shrinking is not None:
            of_model = self.shrinking.whole_moments(of_model)
        return {"model": of_model, "terms": moments_of(optimizer, self.terms)}

    def _plain_optimizer(self) -> torch.optim.Optimizer | None:
        """The optimizer without accelerate's wrapper; none where a checkpoint is read before there is one."""
        return getattr(self.optimizer, "optimizer", self.optimizer)

    def _shrink(self, kept: Tensor | None) -> None:
        """Leave `kept` `(N,)` bool of the model and of the optimizer's moments, or with None make both whole."""
        if self.shrinking is None:
            return
        optimizer = self._plain_optimizer()
        if self.attachment is not None:
            self.attachment.detach()
        if kept is None:
            self.shrinking.restore(optimizer)
        else:
            self.shrinking.cut(kept, optimizer)
        if self.attachment is not None:
            self.attachment.attach(self.shrinking.places)
        self._wrap_again()
        process_memory.give_back()

    def _wrap_again(self) -> None:
        """Let the wrapper that averages gradients find the model's new parameters; Trainer's loop holds it itself."""
        wrapper, handler = self.model_wrapped, self.accelerator.ddp_handler
        if isinstance(wrapper, DistributedDataParallel):
            own: dict[str, Any] = {"device_ids": wrapper.device_ids, "output_device": wrapper.output_device}
            DistributedDataParallel.__init__(wrapper, self.model, **own, **(handler.to_kwargs() if handler else {}))
            if handler:
                handler.register_comm_hook(wrapper)

    # What is not finite

    def _watch(self, name: str, value: Tensor) -> None:
        """Remember the first optimizer step at which the value is not finite, without waiting for the device."""
        step = min(self.state.global_step + 1, self.state.max_steps)
        self.faults.watch(name, value, step, self.args.device)

    def _refuse_broken(self) -> None:
        """As `_refuse_faults`, and of the weights themselves: before they are saved or are the result."""
        for weight in (*self.model.parameters(), *self._own_state().parameters()):
            self._watch("a weight", weight)
        self._refuse_faults()

    def _refuse_faults(self) -> None:
        """Wait for the device, and stop at what was not finite, in whatever process.

        Raises:
            UserError: naming it and the optimizer step.
        """
        found = self.faults.earliest(self.accelerator.gather)
        if found is not None:
            other = ", or fp32 in place of bf16" if self.args.bf16 else ""
            raise UserError(
                f"{found[0]} is not finite at step {found[1]} of {self.state.max_steps} ({self.args.output_dir}): "
                f"training stopped and saved nothing since; try a lower learning rate, a longer warmup{other}"
            )

    def _get_grad_norm(self, model: nn.Module, grad_norm: Any = None) -> Any:
        """As in Trainer, once a step. fp16's scaler leaves steps out whose gradients are not finite: no fault there."""
        norm = super()._get_grad_norm(model, grad_norm=grad_norm)
        if not self.args.fp16:
            self._watch("the norm of the gradient", torch.as_tensor(norm))
        return norm

    # Logs

    def _note(self, values: dict[str, Tensor]) -> None:
        for name, value in values.items():
            self._watch(f"the loss term {name!r}", value)
            self.seen[name] += value.detach().float()
        self.seen["_count"] += 1

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """As in Trainer, with each term's mean since the last log and what the method shows of itself."""
        if self.seen and "loss" in logs:
            self._refuse_faults()
            count = self.seen.pop("_count")
            means = self.accelerator.reduce(torch.stack([*self.seen.values()]) / count, reduction="mean")
            logs |= {f"loss_{name}": float(mean) for name, mean in zip(self.seen, means.cpu(), strict=True)}
            self.seen.clear()
        if self.method is not None:
            logs |= self.method.readings()
        logs["progress"] = self.progress
        super().log(logs, *args, **kwargs)

    # Data, optimizer, schedule and checkpoints

    def _get_train_sampler(self, *args: Any, **kwargs: Any) -> Any:
        """As in Trainer; rows grouped by length come in an order that a resumed run can repeat."""
        sampler = super()._get_train_sampler(*args, **kwargs)
        if not isinstance(sampler, LengthGroupedSampler):
            return sampler
        seed = self.args.seed if self.args.data_seed is None else self.args.data_seed
        return ByLength(sampler.batch_size * self.args.world_size, sampler.lengths, seed, self.rows_seen)

    def get_train_dataloader(self) -> DataLoader:
        """As in Trainer; several processes share the rows of each batch that one would take."""
        loader = super().get_train_dataloader()
        shard = loader.batch_sampler
        if isinstance(shard, BatchSamplerShard) and not shard.split_batches:
            self.parts = Parts(shard.batch_sampler, shard.num_processes)
            shard.batch_sampler, shard.batch_size = self.parts, None  # of parts that are not all of one size
        return loader

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """As in Trainer, and the parameters of the terms and of the method; before the scheduler is made."""
        fresh = self.optimizer is None
        optimizer = super().create_optimizer(model)
        if fresh:
            projections = [parameter for parameter in self.terms.parameters() if parameter.requires_grad]
            groups = [{"params": projections, "weight_decay": self.args.weight_decay}] if projections else []
            for group in groups + (self.method.param_groups() if self.method is not None else []):
                optimizer.add_param_group(group)
            for name, known in self.known.items():
                give_moments(known, optimizer, {"model": self.model, "terms": self.terms}[name])
        return optimizer

    def create_scheduler(self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None) -> Any:
        """Trainer's schedule over the whole run, of which this stage is the part `decay`."""
        if self.lr_scheduler is None:
            optimizer = optimizer or self.create_optimizer()
            self.lr_scheduler = part_of_schedule(self.args, optimizer, num_training_steps, self.decay)
        return self.lr_scheduler

    def _own_state(self) -> nn.ModuleDict:
        parts: dict[str, nn.Module] = {"terms": self.terms}
        if self.method is not None:
            parts["method"] = self.method
        if self.shrinking is not None:
            parts["shrinking"] = self.shrinking
        if self.averaging is not None:
            parts["averaging"] = self.averaging
        return nn.ModuleDict(parts)

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        """Trainer's checkpoint, then our state: the last file written, so a folder that has it is whole.

        Only then do older ones go: there is always a whole one, and never more than one above Trainer's limit.
        """
        self._refuse_broken()
        limit, self.args.save_total_limit = self.args.save_total_limit, None
        try:
            super()._save_checkpoint(model, trial)
        finally:
            self.args.save_total_limit = limit
        self.accelerator.wait_for_everyone()  # each process has its random state in it
        if self.args.should_save:
            folder = Path(self._get_output_dir(trial)) / f"checkpoint-{self.state.global_step}"
            complete(folder, self._own_state())
            rotate(folder, limit, self.state.best_model_checkpoint)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        state = load_file(Path(resume_from_checkpoint) / STATE)
        self._own_state().load_state_dict(state)
        if self.shrinking is not None and not bool(self.shrinking.kept.all()):
            self._shrink(self.shrinking.kept)  # the weights in the checkpoint, and the moments, have its shapes
        super()._load_from_checkpoint(resume_from_checkpoint, model)


def _fast_attention(device: torch.device) -> AbstractContextManager[Any]:
    """PyTorch's fused attention is slow in the backward on CPUs (RESULTS.md): there training spells attention out."""
    return sdpa_kernel(SDPBackend.MATH) if device.type == "cpu" else nullcontext()


def _freeze(teacher: nn.Module, device: torch.device) -> None:
    teacher.to(device).eval().requires_grad_(False)


def _counts(batch: Mapping[str, Tensor]) -> dict[str, int | Tensor]:
    """What means are taken over, and how many there are of them in a batch."""
    found: dict[str, int | Tensor] = {"rows": len(next(iter(batch.values())))}
    if "attention_mask" in batch:
        found["tokens"] = batch["attention_mask"].sum()
    if "labels" in batch:
        found["labels"] = (batch["labels"] != UNLABELLED).sum()
    return found


class _Advance(TrainerCallback):
    """Tells the trainer of every optimizer step, before and after."""

    def __init__(self, trainer: PruningTrainer) -> None:
        self.trainer = trainer

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.trainer.before_step()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.trainer.step_taken()
