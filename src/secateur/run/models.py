"""The models of a run: the teacher, and the student that starts from it.

Where they are trained in parts, only the main process has their weights (`system/main_models.py`), and every process
must call what returns a model; while the others wait for the main process, it alone.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from transformers import PreTrainedConfig, PreTrainedModel, set_seed

from secateur.run.context import Context
from secateur.run.recipe import Recipe
from secateur.run.run_data import recipe_model
from secateur.run.teacher_scores import kept_classes, kept_scores
from secateur.run.vocabulary_data import counts_of_texts
from secateur.structure.architecture import Embedding, Norm
from secateur.structure.binding import bind
from secateur.structure.model_parts import EMBEDDINGS, part_of
from secateur.surgery.checkpoint import load
from secateur.surgery.factorisation import factorise, rank_for
from secateur.surgery.opening import with_padding
from secateur.surgery.sentence.attach import head_of, replace_head
from secateur.surgery.word_embeddings import stored_tables, table_paths
from secateur.system.errors import UserError
from secateur.system.main_models import held_by_main
from secateur.system.model_state import in_own_memory
from secateur.tasks.checkpoint_labels import config_of
from secateur.tasks.class_scores import ClassScore
from secateur.tasks.classification import MULTI_LABEL, REGRESSION
from secateur.training.dropout import set_dropout


def base_model(context: Context) -> PreTrainedModel:
    """The recipe's model; as all models of a run, it has the rows of the vocabulary that the run keeps."""
    return held_by_main(lambda: context.data.with_kept_rows(recipe_model(context.recipe, context.data.task)))


def untrained_teacher(context: Context) -> PreTrainedModel:
    """The recipe's model before it is trained to be the teacher.

    The bias of a regression's head is the mean of the training scores: a head that starts at 0 spends the first part of
    a short training on reaching it.
    """
    return held_by_main(partial(_untrained_teacher, context))


def _untrained_teacher(context: Context) -> PreTrainedModel:
    model, task = base_model(context), context.data.task
    if task.head().get("problem_type") == REGRESSION:
        scores = [float(row["labels"]) for row in context.data.train_rows]
        output = _last_linear(model)
        if output is not None:
            torch.nn.init.constant_(output.bias, fmean(scores))
    return model


def _last_linear(model: PreTrainedModel) -> torch.nn.Linear | None:
    """The Linear with a bias that computes the one output of a model, None if it has none."""
    single = [m for m in model.modules() if isinstance(m, torch.nn.Linear) and m.out_features == 1]
    return single[-1] if single and single[-1].bias is not None else None


def teacher_name(context: Context) -> str | None:
    """The teacher that the recipe names, or its model if that is fine-tuned; None where a teacher is trained first."""
    model = context.recipe.model
    return context.recipe.teacher or (model if context.data.task.is_finetuned(model) else None)


def named_teacher(context: Context) -> PreTrainedModel | None:
    """The model of `teacher_name`.

    Raises:
        UserError: it cannot be loaded, has no head for the task, or its labels are not those of the task.
    """
    name = teacher_name(context)
    if name is None:
        return None
    context.data.task.check_head(name, "teacher")
    return held_by_main(partial(_named, context, name))


def _named(context: Context, name: str) -> PreTrainedModel:
    teacher = with_padding(context.data.task.load_model(name), context.recipe.model)  # whose tokenizer reads the data
    context.data.task.check_labels(teacher, "teacher")
    return context.data.with_kept_rows(teacher)


def load_teacher(context: Context) -> PreTrainedModel:
    """The teacher, in evaluation mode: the named one, or the one that the stage `teacher` has trained."""
    teacher = named_teacher(context)
    if teacher is None:
        teacher = held_by_main(partial(_trained_here, context, context.teacher_folder))
    return teacher.eval()


def unchecked_teacher(context: Context) -> PreTrainedModel:
    """The teacher that the stage `teacher` has trained, before it is one."""
    return held_by_main(partial(_trained_here, context, context.unchecked_teacher)).eval()


def _trained_here(context: Context, folder: Path) -> PreTrainedModel:
    return context.data.with_kept_rows(context.data.task.load_model(folder))


def load_compact(folder: Path) -> PreTrainedModel:
    """A compact model of the run."""
    return held_by_main(partial(load, folder))


def teacher_scores(context: Context, teacher: PreTrainedModel) -> dict[str, float]:
    """The scores of a whole teacher on the validation rows, which are kept and shared. All processes must call it."""
    return kept_scores(context.data.whole, teacher, context.cache_folder)


def teacher_classes(context: Context, teacher: PreTrainedModel) -> list[ClassScore] | None:
    """As `teacher_scores`, the scores of each class; None where an older version has kept the others alone."""
    return kept_classes(context.data.whole, teacher, context.cache_folder)


def new_student(context: Context, teacher: PreTrainedModel) -> PreTrainedModel:
    """The model that pruning starts from: with the teacher's weights, or its own and a new head."""
    return held_by_main(partial(_new_student, context, teacher))


def _new_student(context: Context, teacher: PreTrainedModel) -> PreTrainedModel:
    recipe = context.recipe
    set_seed(recipe.seed)
    student = base_model(context)
    in_own_memory(student)
    if recipe.distillation.start == "teacher":
        student.load_state_dict(teacher.state_dict())
    return prepared(recipe, shaped(context, student), teacher)


def problem_type_to_save(context: Context, trained: PreTrainedConfig) -> Any:
    """The `problem_type` of the result: that of the teacher as it came, where training sets what it needs.

    It decides how pipelines read the outputs: a sigmoid for one output without it, as in a re-ranker, none for a
    regression. A teacher that was trained here has that of the task, as has a multi-label one that came without it.
    """
    task, name = context.data.task, teacher_name(context)
    own = task.head().get("problem_type")
    if own is None:
        return trained.problem_type
    several = own == MULTI_LABEL and task.labels is not None
    return own if name is None or several else config_of(name).problem_type


def shaped(context: Context, model: PreTrainedModel) -> PreTrainedModel:
    """The model as the student has its modules: with factorised word embeddings and a way back, if it should have them.

    Raises:
        UserError: a way back is asked for, and the model has no sentence head.
    """
    target = context.recipe.target
    weighted = target.embedding_rank is not None and target.embedding_svd == "frequency"
    counts = counts_of_texts(context.data) if weighted else None
    rank = rank_for(target.embedding_rank, model, counts)
    student = factorise(model, rank, counts) if rank else model
    if target.output_dim is None:
        return student
    head = head_of(student)
    if head is None:
        raise UserError("target.output_dim is the width of sentence embeddings, and this task has none: leave it out")
    replace_head(student, head.with_way_back())
    return student


def prepared(recipe: Recipe, model: PreTrainedModel, dense: PreTrainedModel) -> PreTrainedModel:
    """A student as it is trained, in place: its embeddings frozen and its dropout set as the recipe says.

    Args:
        model: the student, or what has been cut out of it.
        dense: a stock model of the student's family and unpruned shape.
    """
    if recipe.training.freeze_embeddings:
        for table in stored_tables(model, table_paths(bind(dense))).values():
            table.requires_grad_(False)
    if recipe.training.freeze_embeddings == "all":
        own = dict(model.named_parameters())
        for name in _outside_layers(dense) & own.keys():
            own[name].requires_grad_(False)
    if recipe.training.dropout is not None:
        set_dropout(model, recipe.training.dropout)
    return model


def _outside_layers(dense: PreTrainedModel) -> set[str]:
    """Names of the parameters of embeddings and norms that belong to no layer and to no head."""
    return {
        parameter.name
        for parameter in bind(dense).parameters
        if part_of(parameter) == EMBEDDINGS and isinstance(parameter.row, Embedding | Norm)
    }
