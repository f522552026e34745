"""Training with masks and distillation: `transformers.Trainer` with parts for what it does not do.

Trainer does everything general: devices, mixed precision, accumulation, logging, checkpoints, resuming. The parts are

- `masks`: the method's masks on the model in every forward;
- `loss`: a list of terms, with the forward of student and teacher (`loss.py`);
- `evidence`: the gradient of the masks that the method observes (`evidence.py`);
- `replayed`: on a GPU, steps of a shape that occurred before are launched as one (`replayed_steps.py`);
- `micro_batches`, `row_order`: micro-batches and processes act as one large batch, in an order that can be resumed;
- `shrinking`, `refit`, `averaging`, `best`: the model's shapes and weights as it is pruned, and those of the result;
- `finite`: stops a training whose losses, gradients or weights are not finite, before anything of it is saved;
- `checkpointing`: the state of all these in every checkpoint.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR
from transformers import PreTrainedModel, TrainerCallback

from secateur.methods.method import Method
from secateur.surgery.masking import Attachment
from secateur.surgery.optimizer_state import Moments, moments_of, set_moments
from secateur.surgery.shrinking import Shrinking
from secateur.system import process_memory
from secateur.system.parts import whole_state
from secateur.training import checks
from secateur.training.averaging import Averaging
from secateur.training.best import best_evaluation
from secateur.training.checkpoints import OwnCheckpoint, complete_one, parts_of
from secateur.training.evaluating import EvaluatingTrainer
from secateur.training.evidence import Evidence
from secateur.training.foreign_arguments import check_arguments, check_options
from secateur.training.learning_rate import part_of_schedule
from secateur.training.logs import TermAverages
from secateur.training.loss import TermLoss
from secateur.training.masks import TrainingMasks, masked
from secateur.training.micro_batches import SHARES, MicroBatches
from secateur.training.models_in_training import StepCallback, fast_attention, restored_models
from secateur.training.nonfinite import FiniteWatch
from secateur.training.optimizer import add_groups, average_gradients, check_trains, clip_gradients, extend_schedule
from secateur.training.replayed_steps import ReplayedSteps, StepValues, replayable
from secateur.training.running_refit import RunningRefit
from secateur.training.samplers import StageOrder, seed_of_order
from secateur.training.shrink_policy import ShrinkPolicy
from secateur.training.step import INDEX, Term
from secateur.training.teacher_cache import CachedTeacher


class PruningTrainer(EvaluatingTrainer):
    """Trains a model under a method's masks, or a cut model without a method.

    Args:
        model: the student; in parts (FSDP) processes other than the main one may have it, and the teacher, on `meta`.
        method: computes the masks; None trains the model as it is (a teacher, or a cut model that recovers).
        teacher: frozen; terms that distil need it. A `CachedTeacher` needs batches with the key `index`.
        objective: terms of the loss, summed with their weights, or one term; by default the task's own loss.
        begin: the progress of the whole run, in [0, 1], at which this stage begins.
        end: the progress at which it ends.
        decay: the part of the learning-rate schedule that this stage runs through; by default `(begin, end)`, so that
            the schedule continues from stage to stage.
        restarts: the progress of the whole run at which the learning rate starts again, with its warm-up; each part
            between two of them has a schedule of its own.
        shrink: cut the model in place as units are removed, if the method allows it. When `train` returns, the model
            has its original shapes, with zeros where it was cut. The result is the same, and training is faster.
        refit: change weights at each removal, so that the units that are left make up for it (`running_refit`).
        moments: of an earlier stage (`PruningTrainer.moments`); the model's as `cut_moments` cuts them, if it was cut.
        rows_seen: training rows that earlier stages have taken. The order of the rows continues after them, if they
            were of the same rows, which needs rows grouped by length.
        select: the metric by which the best evaluation is chosen, once the method has settled, with one after the last
            step. Its weights are the result; by default the last weights are.
        generate: returns the tokens `(batch, tokens)` that a model in evaluation mode generates for a batch without
            labels; evaluations then use these in place of the outputs.
        average: the fraction of the steps, at the end, over which the weights are averaged for the result; 0 for none.
            It cannot be combined with a method or with `select`.
        cuda_graphs: on one GPU, replay the steps of a shape of batch as CUDA graphs, if all terms allow it.
        **kwargs: Trainer's own arguments.

    Attributes:
        terms: the terms of the loss, as a module.
        window: `(begin, end)`.
        own_state: the modules whose state each checkpoint keeps besides Trainer's files.

    Raises:
        UserError: terms of one name, a term without its teacher, a teacher that shares weights with the model, fp16
            with a method, several GPUs, averaging, a refit or FSDP where not possible; from `train`, a value is not
            finite, or a `compute_loss` of one's own does not call this one.
    """

    loss_is_scaled_for_ga = False
    model: PreTrainedModel
    replayed: ReplayedSteps
    row_order: StageOrder

    def __init__(
        self,
        model: PreTrainedModel,
        *,
        method: Method | None = None,
        teacher: PreTrainedModel | CachedTeacher | None = None,
        objective: Term | Sequence[Term] | None = None,
        begin: float = 0.0,
        end: float = 1.0,
        decay: tuple[float, float] | None = None,
        restarts: Sequence[float] = (),
        shrink: bool = False,
        refit: bool = False,
        moments: Mapping[str, Moments] | None = None,
        rows_seen: int = 0,
        select: str | None = None,
        generate: Callable[[PreTrainedModel, Mapping[str, Tensor]], Tensor] | None = None,
        average: float = 0.0,
        cuda_graphs: bool = True,
        callbacks: Sequence[TrainerCallback] | None = None,
        **kwargs: Any,
    ) -> None:
        check_options(kwargs)
        args, generates = kwargs.get("args"), generate is not None
        check_arguments(args, pruning=method is not None, select=select, average=average, generates=generates)
        self.method, self.teacher, self.generate = method, checks.in_float32(teacher, "teacher"), generate
        self.objective: list[Term] = checks.terms_of(objective)
        self.terms, self.term_averages = nn.ModuleList(self.objective), TermAverages()
        self.window, self.decay, self.restarts = (begin, end), decay or (begin, end), tuple(restarts)
        self.earlier_moments, self.rows_seen, own = moments or {}, rows_seen, [StepCallback(self), *(callbacks or ())]
        super().__init__(checks.in_float32(model, "model"), callbacks=own, **kwargs)
        self.args.logging_nan_inf_filter = False  # `finite` replaces it
        checks.check_objective(self.objective, self.model, teacher)
        checks.check_devices(self.args, self.sharded_elsewhere)
        checks.check_sharding(self.sharding, refit, generates)
        checks.check_average(average, method is not None or select is not None)
        checks.check_method(method, self.model, self.args)
        checks.check_order(self.args, rows_seen)
        own_loss = type(self).compute_loss is not PruningTrainer.compute_loss  # a recorded step would not call it
        self._make_parts(select, shrink, refit, average, cuda_graphs and not own_loss)

    def _make_parts(self, select: str | None, shrink: bool, refit: bool, average: float, cuda_graphs: bool) -> None:
        method, args, accelerator = self.method, self.args, self.accelerator
        self.average = partial(accelerator.reduce, reduction="mean")
        self.masks, self.free_pages = TrainingMasks(self.model, method), process_memory.FreePages()
        self.refit = RunningRefit(self.masks, refit, self.average)
        self.finite = FiniteWatch(args, accelerator, lambda: self.state)
        self.micro_batches = MicroBatches(self.model, method, accelerator)
        self.loss = TermLoss(self.objective, self.model, self.teacher, self.label_names, args.bf16, self.train_dataset)
        self.row_order = StageOrder(seed_of_order(args), self.rows_seen, self.loss.examples)
        self.averaging = Averaging(self.model, average) if average else None
        self.shrinking: ShrinkPolicy | None = None
        if shrink and method is not None and method.shrinks:
            shrinking = Shrinking(self.model, method.space)
            replaced = (self.rewrap, lambda: self.replayed.forget())
            self.shrinking = ShrinkPolicy(
                shrinking, method, self.masks, select is not None, lambda: self.plain_optimizer, replaced
            )
        self.evidence = Evidence(method, self.finite, self.objective, cut=self.shrinking is not None)
        replays = cuda_graphs and replayable(args, accelerator, self.objective)
        self.replayed = ReplayedSteps(replays, self.loss, self.masks, self.evidence, accelerator.backward)
        cut, mean = getattr(self.shrinking, "shrinking", None), self.averaging
        self.own_state = parts_of(terms=self.terms, method=method, shrinking=cut, averaging=mean, refit=self.refit)
        self.best = best_evaluation(args, select, {"model": self.model, "own": self.own_state})
        restored = self.shrinking.cut_as_restored if self.shrinking is not None else lambda: None
        self.checkpointing = OwnCheckpoint(
            self.own_state, args, accelerator, lambda: self.state, self._check_weights, restored
        )

    @property
    def progress(self) -> float:
        """The fraction of the whole run that is done, in [begin, end]."""
        begin, end = self.window
        return begin + (end - begin) * self.state.global_step / max(1, self.state.max_steps)

    @property
    def rows_taken(self) -> int:
        """The number of training rows that this stage and those before it have taken; repeated rows count again."""
        return self.row_order.rows_taken(self.state.global_step, self.train_dataset, self.args)

    @property
    def attachment(self) -> Attachment | None:
        """The masks on the model, while it is trained or evaluated under a method."""
        return self.masks.attachment

    # Training

    def train(self, resume_from_checkpoint: str | bool | None = None, *args: Any, **kwargs: Any) -> Any:
        """As in Trainer, under the masks. Afterwards, also if interrupted, the model is whole and without masks.

        A second call trains on from these weights, with new learning rates; the units that a method removed stay so.
        """
        resume_from_checkpoint = complete_one(resume_from_checkpoint, str(self.args.output_dir))
        self.begin_selection(resumed=bool(resume_from_checkpoint))
        device = self.args.device
        self.replayed.forget()
        with (
            restored_models(self.loss, device, self.shrinking, self.sharding),
            fast_attention(device),
            process_memory.keep_free_pages(),
        ):
            self.earlier_moments = self.loss.bind(self.teacher, {} if resume_from_checkpoint else self.earlier_moments)
            self.terms.to(device)
            for part in (self.finite, self.evidence, self.term_averages):
                part.clear()
            self.free_pages = process_memory.FreePages()
            with self.masks.attached(device):
                with self.finite.named_as_cause():
                    result = super().train(resume_from_checkpoint, *args, **kwargs)
                self._check_weights()
                self._choose_weights()
        return result

    def _check_weights(self) -> None:
        """Refuse weights that are not finite before they are saved or become the result."""
        self.finite.watch_weights(self.model, self.own_state)
        self.finite.check()

    def _choose_weights(self) -> None:
        """Give the model the weights and the shapes that are the result of the training."""
        self.accelerator.wait_for_everyone()
        if self.best is not None:
            self.best.restore(self.method)
        if self.averaging is not None:
            self.averaging.take(self.state.global_step, self.state.max_steps)
        if self.shrinking is not None:
            self.shrinking.restore()
        self.replayed.forget()

    def micro_batches_collected(self, batches: list[dict[str, Tensor]]) -> None:
        self.micro_batches.begin(batches)

    @masked
    def compute_loss(
        self, model: nn.Module, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """The sum of the terms and the method's penalty; in evaluation only the task's own loss."""
        index, shares = inputs.pop(INDEX, None), inputs.pop(SHARES, None)
        if not model.training:
            outputs = model(**inputs)
            loss = outputs.get("loss", torch.zeros((), device=self.args.device))  # a bare encoder has none
            return (loss, outputs) if return_outputs else loss
        self.micro_batches.repeat_sample()
        with self.refit.watching(inputs, self.state.global_step):
            step = self.loss.step(model, inputs, index, self.attachment, self.progress)
        terms = self.loss.values(step, shares)
        loss = self._watched(StepValues(terms, self.evidence.gradient(terms, step.masks, self.micro_batch_count)))
        return (loss, step.student) if return_outputs else loss

    def _watched(self, values: StepValues) -> Tensor:
        """The loss `()` of a micro-batch, the method's penalty included, whose parts are inspected and collected."""
        penalty = torch.as_tensor(self.method.penalty() if self.method is not None else 0.0)
        for name, value in values.terms.items():
            self.finite.watch(f"the loss term {name!r}", value)
        self.finite.watch("the method's penalty", penalty)
        self.term_averages.add(values.terms)
        self.evidence.add(values.evidence)
        return sum(values.terms.values()) + penalty

    @masked
    def training_step(self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Any = None) -> Tensor:
        """As in Trainer, but a step of a shape that occurred before is replayed, where that is possible."""
        if not self.replayed.enabled or self.refit.gathers(self.state.global_step):
            return super().training_step(model, inputs, num_items_in_batch)
        model.train()
        batch: dict[str, Any] = dict(self.on_device(inputs))
        index, shares = batch.pop(INDEX, None), batch.pop(SHARES, None)
        self.micro_batches.repeat_sample()
        values = self.replayed.step(model, batch, index, shares, self.micro_batch_count)
        if values is None:
            loss = super().training_step(model, inputs, num_items_in_batch)
            self.replayed.ran(self.plain_optimizer)
            return loss
        loss = self._watched(values) / self.micro_batch_count
        if loss.requires_grad:
            self.accelerator.backward(loss)  # of the penalty: that of the terms was replayed
        return loss.detach()

    def gradient_norm_known(self, norm: Tensor) -> None:
        if not self.args.fp16:  # its scaler skips steps whose gradients are not finite, as it should
            self.finite.watch("the norm of the gradient", norm)

    def before_step(self) -> None:
        """Before an optimizer step: average and clip the gradients of the terms and the method."""
        checks.check_computed(self.term_averages.step_over(), type(self))
        if self.accelerator.num_processes > 1:
            average_gradients(self.own_state, self.average)
        if self.method is not None:
            clip_gradients(self.method)

    def step_taken(self) -> None:
        """After an optimizer step: the method observes the whole step's evidence and advances; the model may shrink."""
        if self.method is not None:
            self.evidence.hand_over(self.average)
            with self.refit.removals():
                self.method.advance(self.progress)
        self.own_state.zero_grad()  # Trainer clears the model's gradients only
        self.free_pages.check()
        if self.averaging is not None:
            self.averaging.add(self.state.global_step, self.state.max_steps)
        if self.method is not None and self.shrinking is not None and self.shrinking.due():
            self.shrinking.cut(self.method.alive)

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """As in Trainer, with the average of each term since the last log and the values that the method logs."""
        if "loss" in logs:
            self.finite.check()
            logs |= self.term_averages.take(self.average)
        if self.method is not None:
            logs |= self.method.log_values()
        logs["progress"] = self.progress
        super().log(logs, *args, **kwargs)

    # Optimizer

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """As in Trainer, with the parameters of terms and method, also in an optimizer that was passed in."""
        exists = self.optimizer is not None
        super().create_optimizer(model)
        optimizer = self.plain_optimizer
        assert optimizer is not None
        if exists:
            check_trains(optimizer, self.model)
        added = add_groups(optimizer, self.terms, self.method, self.args.weight_decay)
        if self.lr_scheduler is not None:
            extend_schedule(self.lr_scheduler, added)
        if not exists or not optimizer.state:
            for name, moments in self.earlier_moments.items():
                set_moments(moments, optimizer, {"model": self.model, "terms": self.terms}[name])
            self.earlier_moments = {}
        return self.optimizer or optimizer

    def new_schedule(self, optimizer: torch.optim.Optimizer, steps: int) -> LambdaLR:
        """The part `decay` of Trainer's schedule over the whole run."""
        return part_of_schedule(self.args, optimizer, steps, self.decay, self.restarts)

    # For the stages that follow

    def whole_state(self) -> dict[str, Tensor]:
        """The model's state dict in its original shapes, with zeros where it was cut."""
        return whole_state(self.model) if self.shrinking is None else self.shrinking.shrinking.full_state()

    def moments(self) -> dict[str, Moments]:
        """Moments for the whole `model`, 0 where it was cut (of parts in the main process alone), and for `terms`."""
        optimizer: Any = self.plain_optimizer
        own = moments_of(optimizer, self.model, keep=self.args.should_save)
        full = own if self.shrinking is None else self.shrinking.shrinking.full_moments(own)
        return {"model": full, "terms": moments_of(optimizer, self.terms)}
