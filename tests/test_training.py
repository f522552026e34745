"""What a trainer chooses: the best evaluation, of those where the method has settled."""

import pytest
import torch
from tiny_models import tiny
from transformers import TrainerCallback, TrainingArguments

from secateur.methods.magnitude import Magnitude
from secateur.objectives import Labels
from secateur.schedules import cubic
from secateur.space import Space
from secateur.training import PruningTrainer

STEPS = 6


class Watch(TrainerCallback):
    """The weights and masks after each step."""

    def __init__(self):
        self.seen = []

    def on_evaluate(self, args, state, control, model=None, **kwargs):
        self.seen.append({name: value.clone() for name, value in model.state_dict().items()})


def collate(rows):
    return {name: torch.stack([row[name] for row in rows]) for name in rows[0]}


def trainer(folder, scores, watch, *, method=True, select="score"):
    """Six steps, scored after each; `scores` are what the evaluations find."""
    student = tiny("bert", dtype=torch.float32)
    space = Space(student, "ffn", "head")
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(5, 50, (8, 5), generator=generator)
    rows = [{"input_ids": i, "attention_mask": torch.ones_like(i), "labels": i[0] % 2} for i in ids]
    found = iter(scores)
    return PruningTrainer(
        student,
        method=Magnitude(space, cubic(1.0, 0.6, begin=0.1, end=0.5)) if method else None,
        objective=[Labels()],
        select=select,
        args=TrainingArguments(
            str(folder),
            max_steps=STEPS,
            per_device_train_batch_size=4,
            learning_rate=1e-2,
            eval_strategy="steps",
            eval_steps=1,
            save_strategy="no",
            use_cpu=True,
            report_to=[],
            disable_tqdm=True,
        ),
        train_dataset=rows,
        eval_dataset=rows,
        data_collator=collate,
        compute_metrics=lambda prediction: {"score": next(found)},
        callbacks=[watch],
    )


def assert_weights(model, expected):
    assert all(torch.equal(value, expected[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize(
    ("scores", "best"),
    [
        ([0.1, 0.2, 0.3, 0.9, 0.5, 0.4], 3),
        ([0.9, 0.9, 0.3, 0.3, 0.4, 0.2], 4),  # the first two are at a higher density: they do not count
        ([0.1, 0.2, 0.3, 0.5, 0.5, 0.4], 4),  # of equals the later, which was trained longer
    ],
)
def test_the_best_settled_evaluation_is_the_result(tmp_path, scores, best):
    watch = Watch()
    made = trainer(tmp_path, scores, watch)
    made.train()
    assert_weights(made.model, watch.seen[best])
    assert made.method.space.density(made.method.masks()) <= 0.6


def test_without_a_method_every_evaluation_counts(tmp_path):
    watch = Watch()
    made = trainer(tmp_path, [0.1, 0.9, 0.3, 0.3, 0.4, 0.2], watch, method=False)
    made.train()
    assert_weights(made.model, watch.seen[1])


def test_by_default_the_last_weights_are_the_result(tmp_path):
    watch = Watch()
    made = trainer(tmp_path, [0.1, 0.9, 0.3, 0.3, 0.4, 0.2], watch, select=None)
    made.train()
    assert_weights(made.model, watch.seen[-1])
    assert not list(tmp_path.glob("best*"))


def test_an_evaluation_outside_training_is_not_kept(tmp_path):
    made = trainer(tmp_path, [0.9], Watch())
    made.evaluate()
    assert not list(tmp_path.glob("best*"))
