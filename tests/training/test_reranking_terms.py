"""The term that compares passages of the same query: its value by hand, and the rows that it sees."""

import pytest
import torch
from quiet import arguments
from tiny_models import tiny
from tiny_training import collate, examples
from torch.fx.experimental.proxy_tensor import make_fx
from transformers.modeling_outputs import SequenceClassifierOutput

from secateur.system.errors import UserError
from secateur.training.objectives import Labels, MarginMSE
from secateur.training.step import Step
from secateur.training.trainer import PruningTrainer

STUDENT, TEACHER = [2.0, 1.0, 0.5, 3.0, 0.0], [3.0, 0.0, 1.0, 1.0, 1.0]


def step(student, labels, queries, teacher=TEACHER):
    outputs = [SequenceClassifierOutput(logits=torch.tensor(own)[:, None]) for own in (student, teacher)]
    return Step({"labels": torch.tensor(labels)}, *outputs, examples=torch.tensor([[query, 0] for query in queries]))


@pytest.mark.parametrize("shape", [(5,), (5, 1)])
def test_the_value_is_the_mean_over_pairs_of_a_query(shape):
    """Query 0: margins (1, 1.5) against (3, 2); query 1: 3 against 0: ((-2)^2 + (-0.5)^2 + 3^2) / 3."""
    found = MarginMSE()(step(STUDENT, torch.tensor([1.0, 0, 0, 1, 0]).reshape(shape).tolist(), [0, 0, 0, 1, 1]))
    assert float(found) == pytest.approx((4 + 0.25 + 9) / 3)


def test_pairs_are_ordered_by_degrees_of_relevance():
    """Three degrees of one query give all three pairs: errors of the rows are -1, 1 and -0.5."""
    found = MarginMSE()(step(STUDENT[:3], [2.0, 1.0, 0.0], [4, 4, 4], TEACHER[:3]))
    assert float(found) == pytest.approx((4 + 0.25 + 2.25) / 3)


def test_what_is_added_to_all_scores_of_a_query_does_not_count():
    shifted = [score + (7.0, -2.0)[place > 2] for place, score in enumerate(TEACHER)]
    assert float(MarginMSE()(step(shifted, [1.0, 0, 0, 1, 0], [0, 0, 0, 1, 1]))) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize(("labels", "queries"), [([1.0, 0, 0, 1, 0], [0, 1, 2, 3, 4]), ([1.0] * 5, [0] * 5)])
def test_a_batch_without_a_pair_has_no_value_and_no_gradient(labels, queries):
    one = step(STUDENT, labels, queries)
    one.student.logits.requires_grad_()
    value = MarginMSE()(one)
    value.backward()
    assert float(value.detach()) == 0 and not one.student.logits.grad.any()


def test_its_operations_depend_on_the_shapes_alone():
    """So that they can be recorded: those of one batch give the value of another one."""

    def value(student, teacher, labels, examples):
        outputs = (SequenceClassifierOutput(logits=own) for own in (student, teacher))
        return MarginMSE()(Step({"labels": labels}, *outputs, examples=examples))

    def batch(seed):
        generator = torch.Generator().manual_seed(seed)
        scores = torch.randn(2, 12, 1, generator=generator)
        return (*scores, *(torch.randint(0, 2, shape, generator=generator) for shape in ((12,), (12, 2))))

    recorded = make_fx(value)(*batch(0))
    assert float(value(*batch(1))) > 0
    assert torch.equal(recorded(*batch(1)), value(*batch(1)))


def test_outputs_that_are_no_scores_of_labelled_rows_are_refused():
    for batch, width in (({"labels": torch.zeros(2)}, 3), ({}, 1)):
        outputs = SequenceClassifierOutput(logits=torch.zeros(2, width))
        with pytest.raises(UserError, match="models of one output, and labels"):
            MarginMSE()(Step(batch, outputs, outputs, examples=torch.zeros(2, 2)))


def rows(queries=6):
    """24 rows, which take turns among the queries, with the numbers that a batch carries."""
    return [{**row, "index": torch.tensor(100 + n), "example": n % queries} for n, row in enumerate(examples())]


def without(row, name):
    return {key: value for key, value in row.items() if key != name}


def trainer(folder, rows, objective):
    student, teacher = (tiny("bert", dtype=torch.float32, num_labels=1, seed=seed) for seed in (1, 2))
    order = {"per_device_train_batch_size": 8, "train_sampling_strategy": "group_by_length"}
    args = arguments(folder, 3, remove_unused_columns=False, **order)
    return PruningTrainer(
        student,
        teacher=teacher,
        objective=objective,
        args=args,
        train_dataset=rows,
        data_collator=lambda batch: collate([without(row, "example") for row in batch]),
    )


def test_a_batch_has_all_passages_of_its_queries(tmp_path):
    seen = []

    class Watching(MarginMSE):
        def forward(self, step):
            seen.append((step.examples[:, 0].tolist(), step.batch["input_ids"].tolist()))
            return super().forward(step)

    numbered = rows()
    trainer(tmp_path, numbered, [Watching()]).train()
    query_of = {tuple(row["input_ids"].tolist()): row["example"] for row in numbered}
    assert len(seen) == 3
    for queries, texts in seen:
        assert sorted(map(queries.count, {*queries})) == [4, 4]
        assert queries == [query_of[tuple(text)] for text in texts]


def test_rows_that_name_no_example_are_refused(tmp_path):
    plain = [without(row, "example") for row in rows()]
    with pytest.raises(UserError, match="the term 'margin' compares rows of the same example, which rows of this data"):
        trainer(tmp_path, plain, [Labels(), MarginMSE()])
