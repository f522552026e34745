"""Training with masks and distillation: `transformers.Trainer` with three things of our own.

The loss is a list of terms; while a method listens, the gradient of what it hears is taken with respect to the masks
(activation gradients only: no second backward through the weights); and the method's and terms' state is part of every
checkpoint. Everything else is Trainer's: devices, mixed precision, accumulation, logging, checkpoints, resuming.

A loss, gradient or weight that is not finite stops the training, and nothing is saved of it. What is watched stays on
the device until Trainer waits for it anyway, at a log or a checkpoint; its own filter, which hides such losses from the
logs and waits in every micro-batch, is off.
"""

from __future__ import annotations

import math
import os
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.optim.lr_scheduler import LambdaLR
from transformers import PreTrainedModel, Trainer, TrainerCallback, get_scheduler
from transformers.trainer_pt_utils import LengthGroupedSampler

from secateur.errors import UserError
from secateur.masking import Attachment, attached
from secateur.methods.method import Method
from secateur.objectives import Labels, Step, Term
from secateur.shrinking import Shrinking
from secateur.teachers import INDEX, CachedTeacher

STATE = "secateur.safetensors"
BEST = "best.safetensors"
WORTH = 0.75  # of the density that the model has; each cut costs new code for new shapes (RESULTS.md)

# Batches of many lengths times layers of many widths are more shapes than oneDNN remembers code for by default (1,024).
os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "8192")


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
            whole again, with zeros where it was cut. Same result, faster. One process only.
        select: the metric by which the best evaluation is chosen, once the method has settled: its weights are
            the result. By default the last weights are.
        The rest is Trainer's.

    Raises:
        UserError: a term needs a teacher and there is none, or fp16 is asked for with a method that listens; from
            `train`, a loss, gradient or weight is not finite.
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
        select: str | None = None,
        **kwargs: Any,
    ) -> None:
        self.method, self.teacher = method, teacher
        self.objective: list[Term] = list(objective) or [Labels()]
        self.terms = nn.ModuleList(self.objective)
        self.window, self.decay, self.select = (begin, end), decay or (begin, end), select
        self.attachment: Attachment | None = None
        self.shrinking: Shrinking | None = None
        if shrink and method is not None and method.shrinks:
            self.shrinking = Shrinking(model, method.space)
        self.evidence: Tensor | None = None
        self.seen: dict[str, Any] = defaultdict(float)
        self.faults: dict[str, Tensor] = {}
        super().__init__(model, callbacks=[_Advance(self), *kwargs.pop("callbacks", [])], **kwargs)
        self.args.logging_nan_inf_filter = False
        self._check()

    def _check(self) -> None:
        silent = [term.name for term in self.objective if term.needs_teacher and self.teacher is None]
        if silent:
            raise UserError(f"the terms {', '.join(silent)} need a teacher and none is given: pass teacher=")
        if self.args.fp16 and self.method is not None:
            raise UserError("fp16 scales the loss that the method listens to: use bf16 or fp32 for pruning")

    @property
    def progress(self) -> float:
        """Part of the whole run that is done, in [begin, end]."""
        begin, end = self.window
        return begin + (end - begin) * self.state.global_step / max(1, self.state.max_steps)

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """As in Trainer, under the masks; they are taken off when it returns."""
        if isinstance(self.teacher, PreTrainedModel):
            _freeze(self.teacher, self.args.device)
        for term in self.objective:
            term.bind(self.model, self.teacher)
        self.terms.to(self.args.device)
        self.faults.clear()
        with self._masked(), _fast_attention(self.args.device):
            try:
                result = super().train(*args, **kwargs)
            except Exception:
                if self.accelerator.num_processes == 1:  # others may be elsewhere, and would be waited for
                    self._refuse_faults()  # of which the error may be a consequence
                raise
            self._refuse_broken()
            self._take_best()
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
        super()._run_epoch(*args, **kwargs)

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """As in Trainer, under the method's deterministic masks."""
        with self._masked():
            metrics = super().evaluate(*args, **kwargs)
        if self.select is not None and self.is_in_train and (self.method is None or self.method.settled()):
            self._keep_if_best(metrics[f"eval_{self.select}"])
        return metrics

    # The best evaluation, where one is chosen

    def _keep_if_best(self, score: float) -> None:
        """Keep model, terms and method as they are if no earlier evaluation scored higher."""
        self._refuse_faults()
        path = Path(str(self.args.output_dir)) / BEST
        if score < _score_of(path, self.state.global_step) or not self.args.should_save:
            return
        state = {f"model.{name}": value for name, value in self.model.state_dict().items()}
        state |= {f"own.{name}": value for name, value in self._own_state().state_dict().items()}
        partial, note = path.with_suffix(".partial"), {"score": repr(score), "step": str(self.state.global_step)}
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file({name: value.detach().clone().contiguous() for name, value in state.items()}, partial, note)
        partial.replace(path)

    def _take_best(self) -> None:
        """Go back to the best evaluation; without one that counts, the last weights stay."""
        path = Path(str(self.args.output_dir)) / BEST
        self.accelerator.wait_for_everyone()
        if self.select is None or not path.is_file():
            return
        state = load_file(path, device=str(self.args.device))
        for part, module in (("model.", self.model), ("own.", self._own_state())):
            own = {name.removeprefix(part): value for name, value in state.items() if name.startswith(part)}
            module.load_state_dict(own)

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
        self, model: nn.Module, inputs: dict[str, Tensor], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """The sum of the terms and the method's penalty; in evaluation the task's own loss alone."""
        index = inputs.pop(INDEX, None)
        if not model.training:
            outputs = model(**inputs)
            return (outputs.loss, outputs) if return_outputs else outputs.loss
        step = self._step(model, inputs, index)
        values = {term.name: term.weight * term(step) for term in self.objective}
        self._note(values)
        self._listen(values)
        penalty = self.method.penalty() if self.method is not None else 0.0
        self._watch("the method's penalty", torch.as_tensor(penalty))
        loss = sum(values.values()) + penalty
        return (loss, step.student) if return_outputs else loss

    def _step(self, model: nn.Module, inputs: dict[str, Tensor], index: Tensor | None) -> Step:
        hidden = any(term.needs_hidden for term in self.objective)
        student = model(**inputs, output_hidden_states=hidden)
        taught = self._teach(inputs, index, hidden)
        if self.attachment is None:
            return Step(inputs, student, taught, progress=self.progress)
        return Step(inputs, student, taught, self.attachment.masks, self.attachment.at_sites, self.progress)

    @torch.no_grad()
    def _teach(self, inputs: dict[str, Tensor], index: Tensor | None, hidden: bool) -> Any:
        if self.teacher is None or not any(term.needs_teacher for term in self.objective):
            return None
        given = {name: value for name, value in inputs.items() if name != "labels"}
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
        gradient = gradient.float() / self.args.gradient_accumulation_steps
        self._watch("the gradient of the masks", gradient)
        self.evidence = gradient if self.evidence is None else self.evidence + gradient

    def before_step(self) -> None:
        """Before an optimizer step: average over devices the gradients that no wrapper of the model knows of."""
        if self.accelerator.num_processes > 1:
            for parameter in self._own_state().parameters():
                if parameter.grad is not None:
                    parameter.grad = self.accelerator.reduce(parameter.grad, reduction="mean")

    def step_taken(self) -> None:
        """After an optimizer step: the method observes the whole step's evidence, then moves on."""
        self._own_state().zero_grad()  # Trainer clears the model's gradients alone
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
        """Whether much less is alive than the model still has; not while the best evaluation may be gone back to."""
        assert self.shrinking is not None
        if self.accelerator.num_processes > 1 or (self.select is not None and method.settled()):
            return False
        alive, has = (method.space.density(units) for units in (method.alive, self.shrinking.kept))
        return alive <= WORTH * has

    def whole_state(self) -> dict[str, Tensor]:
        """The model's state dict as if nothing had been cut away: with 0 in its place."""
        return self.model.state_dict() if self.shrinking is None else self.shrinking.whole()

    def _shrink(self, kept: Tensor | None) -> None:
        """Leave `kept` `(N,)` bool of the model and of the optimizer's moments, or with None make both whole."""
        if self.shrinking is None:
            return
        optimizer = getattr(self.optimizer, "optimizer", self.optimizer)  # accelerate wraps it
        if self.attachment is not None:
            self.attachment.detach()
        if kept is None:
            self.shrinking.restore(optimizer)
        else:
            self.shrinking.cut(kept, optimizer)
        if self.attachment is not None:
            self.attachment.attach(self.shrinking.places)

    # What is not finite

    def _watch(self, name: str, value: Tensor) -> None:
        """Keep the first optimizer step at which the value is not finite, without waiting for the device."""
        if name not in self.faults:
            self.faults[name] = torch.full((), math.inf, device=self.args.device)
        first, finite = self.faults[name], value.detach().isfinite().all().to(self.args.device)
        step = min(self.state.global_step + 1, self.state.max_steps)
        self.faults[name] = torch.where(finite, first, first.clamp(max=step))

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
        if not self.faults:
            return
        found = self.accelerator.gather(torch.stack(list(self.faults.values()))).view(-1, len(self.faults))
        step, name = min(zip(found.amin(dim=0).tolist(), self.faults, strict=True), key=lambda fault: fault[0])
        if math.isfinite(step):
            other = ", or fp32 in place of bf16" if self.args.bf16 else ""
            raise UserError(
                f"{name} is not finite at step {step:.0f} of {self.state.max_steps} ({self.args.output_dir}): training "
                f"stopped and saved nothing since; try a lower learning rate, a longer warmup{other}"
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
            logs |= {f"loss_{name}": float(total) / count for name, total in self.seen.items()}
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
        return _ByLength(sampler.batch_size, sampler.lengths, seed)

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """As in Trainer, and the parameters of the terms and of the method; before the scheduler is made."""
        fresh = self.optimizer is None
        optimizer = super().create_optimizer(model)
        if fresh:
            projections = [parameter for parameter in self.terms.parameters() if parameter.requires_grad]
            groups = [{"params": projections, "weight_decay": self.args.weight_decay}] if projections else []
            for group in groups + (self.method.param_groups() if self.method is not None else []):
                optimizer.add_param_group(group)
        return optimizer

    def create_scheduler(self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None) -> Any:
        """Trainer's schedule over the whole run, of which this stage is the part `decay`."""
        if self.lr_scheduler is None:
            optimizer = optimizer or self.create_optimizer()
            begin, end = self.decay
            whole = round(num_training_steps / (end - begin))
            offset = round(whole * begin)
            schedule = get_scheduler(self.args.lr_scheduler_type, optimizer, self.args.get_warmup_steps(whole), whole)
            if not isinstance(schedule, LambdaLR):
                raise UserError(
                    f"lr_scheduler_type {self.args.lr_scheduler_type} cannot span stages: use linear or cosine"
                )
            shifted = [
                _shifted(rule, offset) if not group.get("constant") else _constant
                for rule, group in zip(schedule.lr_lambdas, optimizer.param_groups, strict=True)
            ]
            for group in optimizer.param_groups:
                group["lr"] = group.pop("initial_lr")
            self.lr_scheduler = LambdaLR(optimizer, shifted)
        return self.lr_scheduler

    def _own_state(self) -> nn.ModuleDict:
        parts: dict[str, nn.Module] = {"terms": self.terms}
        if self.method is not None:
            parts["method"] = self.method
        if self.shrinking is not None:
            parts["shrinking"] = self.shrinking
        return nn.ModuleDict(parts)

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        """Trainer's checkpoint, then our state: the last file written, so a folder that has it is whole."""
        self._refuse_broken()
        super()._save_checkpoint(model, trial)
        if self.args.should_save:
            folder = Path(self._get_output_dir(trial)) / f"checkpoint-{self.state.global_step}"
            partial = folder / f"{STATE}.partial"
            save_file({name: value.contiguous() for name, value in self._own_state().state_dict().items()}, partial)
            partial.replace(folder / STATE)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        state = load_file(Path(resume_from_checkpoint) / STATE, device=str(self.args.device))
        self._own_state().load_state_dict(state)
        if self.shrinking is not None and not bool(self.shrinking.kept.all()):
            self._shrink(self.shrinking.kept)  # the weights in the checkpoint, and the moments, have its shapes
        super()._load_from_checkpoint(resume_from_checkpoint, model)


def _fast_attention(device: torch.device) -> AbstractContextManager[Any]:
    """PyTorch's fused attention is slow in the backward on CPUs (RESULTS.md): there training spells attention out."""
    return sdpa_kernel(SDPBackend.MATH) if device.type == "cpu" else nullcontext()


def _freeze(teacher: nn.Module, device: torch.device) -> None:
    teacher.to(device).eval().requires_grad_(False)


def _shifted(rule: Callable[[int], float], offset: int) -> Callable[[int], float]:
    """A rule of the learning rate that starts `offset` steps into another."""
    return lambda step: rule(step + offset)


def _score_of(path: Path, step: int) -> float:
    """The score of the best evaluation up to a step; one that a crash has left behind from later steps is void."""
    if not path.is_file():
        return -math.inf
    with safe_open(path, "pt") as file:
        note = file.metadata()
    return float(note["score"]) if int(note["step"]) < step else -math.inf


def _constant(step: int) -> float:
    """The rule of a group that keeps its learning rate."""
    return 1.0


def last_checkpoint(folder: Path | str) -> str | None:
    """The latest whole checkpoint in a folder, None if there is none."""
    found = {
        int(path.name.split("-")[1]): path for path in Path(folder).glob("checkpoint-*") if (path / STATE).is_file()
    }
    return str(found[max(found)]) if found else None


class _ByLength(LengthGroupedSampler):
    """Rows grouped by length, in an order that the seed and the epoch alone decide.

    Trainer's own draws from the global generator, whose state in the middle of an epoch is not that of its start.
    """

    def __init__(self, batch_size: int, lengths: list[int], seed: int) -> None:
        super().__init__(batch_size, lengths=lengths, generator=torch.Generator())
        self.seed, self.epoch = seed, 0

    def set_epoch(self, epoch: int) -> None:
        """Called by Trainer before every epoch."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        self.generator.manual_seed(1_000_003 * self.seed + self.epoch)
        return super().__iter__()


class _Advance(TrainerCallback):
    """Tells the trainer of every optimizer step, before and after."""

    def __init__(self, trainer: PruningTrainer) -> None:
        self.trainer = trainer

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.trainer.before_step()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.trainer.step_taken()
