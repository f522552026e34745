"""Cached teachers: the live teacher's answers, computed once, read back from disk, never half-written."""

import copy

import pytest
import torch
from small_world import tokenizer
from tiny_models import ARCHITECTURES, tiny

from secateur.errors import UserError
from secateur.tasks.task import PaddingCollator
from secateur.teachers import CachedTeacher

LAYERS = (0, 2)
TEXTS = ("a good film", "dull", "a fine book and a good film and a dull book", "bad and dull", "fine book", "good")
COLLATE = PaddingCollator(tokenizer())


def encoded(*texts):
    names = ("input_ids", "attention_mask")
    return [{name: tokenizer()(text)[name] for name in names} for text in texts]


ROWS = encoded(*TEXTS)


@pytest.fixture
def teacher():
    return tiny("bert", dtype=torch.float32)


def cached(teacher, folder, rows=ROWS, layers=LAYERS, **options):
    return CachedTeacher.of(teacher, rows, COLLATE, folder, layers=layers, batch=2, **options)


def asked(teacher, index):
    """A cached teacher's answer for rows in any order, and the batch that it was asked with."""
    batch = COLLATE([ROWS[number] for number in index])
    return teacher(torch.tensor(index), batch["attention_mask"], output_hidden_states=True), batch


def broken(*args, **kwargs):
    raise AssertionError("the teacher runs again")


@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_it_answers_like_the_live_teacher(kind, tmp_path):
    teacher = tiny(kind, dtype=torch.float32)
    answer, batch = asked(cached(teacher, tmp_path), [4, 2, 0])
    assert answer.logits.shape == (3, 2)
    with torch.no_grad():
        live = teacher(**batch, output_hidden_states=True)
    torch.testing.assert_close(answer.logits, live.logits, rtol=1e-5, atol=1e-5)
    assert set(answer.hidden_states) == set(LAYERS)
    real = batch["attention_mask"].bool()
    for layer, states in answer.hidden_states.items():
        torch.testing.assert_close(states[real].float(), live.hidden_states[layer][real], rtol=1e-3, atol=1e-3)
        assert not real.all() and not states[~real].any()


@pytest.mark.parametrize("kind", ARCHITECTURES)
@pytest.mark.parametrize("layers", [LAYERS, ()])
def test_logits_of_tokens_are_kept_of_the_real_ones(kind, layers, tmp_path, monkeypatch):
    teacher = tiny(kind, "ForTokenClassification", dtype=torch.float32, num_labels=3)
    first, batch = asked(cached(teacher, tmp_path, layers=layers), [4, 2, 0])
    with torch.no_grad():
        live = teacher(**batch).logits
    real = batch["attention_mask"].bool()
    assert first.logits.shape == live.shape and set(first.hidden_states) == set(layers)
    torch.testing.assert_close(first.logits[real], live[real], rtol=1e-5, atol=1e-5)
    assert not real.all() and not first.logits[~real].any()
    monkeypatch.setattr(teacher, "forward", broken)
    again, _ = asked(cached(teacher, tmp_path, layers=layers), [4, 2, 0])
    assert torch.equal(first.logits, again.logits)


def test_it_is_read_back_without_the_teacher(teacher, tmp_path, monkeypatch):
    first, _ = asked(cached(teacher, tmp_path), [1, 3, 5])
    monkeypatch.setattr(teacher, "forward", broken)
    again, _ = asked(cached(teacher, tmp_path), [1, 3, 5])
    assert torch.equal(first.logits, again.logits)
    assert all(torch.equal(first.hidden_states[layer], again.hidden_states[layer]) for layer in LAYERS)
    assert len(list(tmp_path.iterdir())) == 1


def test_without_layers_only_logits_are_kept(teacher, tmp_path):
    answer, _ = asked(cached(teacher, tmp_path, layers=()), [0, 1])
    assert answer.logits.shape == (2, 2) and answer.hidden_states == {}
    (place,) = tmp_path.iterdir()
    assert [path.name for path in place.iterdir()] == ["logits.safetensors"]


def test_other_weights_rows_or_layers_are_other_outputs(teacher, tmp_path):
    other = copy.deepcopy(teacher)
    with torch.no_grad():
        other.classifier.bias[0] += 1
    segments = [row | {"token_type_ids": [0] * (len(row["input_ids"]) - 1) + [1]} for row in ROWS]
    made = [
        lambda: cached(teacher, tmp_path),
        lambda: cached(other, tmp_path),
        lambda: cached(teacher, tmp_path, ROWS[::-1]),
        lambda: cached(teacher, tmp_path, ROWS[:5]),
        lambda: cached(teacher, tmp_path, layers=(0, 1)),
        lambda: cached(teacher, tmp_path, layers=(2, 0)),
        lambda: cached(teacher, tmp_path, segments),
    ]
    for count, make in enumerate(made, start=1):
        make()
        assert len(list(tmp_path.iterdir())) == count


def test_too_much_is_refused_before_the_teacher_runs(teacher, tmp_path, monkeypatch):
    monkeypatch.setattr(teacher, "forward", broken)
    with pytest.raises(UserError, match="limit is 1e-06 GB: raise the limit") as refusal:
        cached(teacher, tmp_path / "cache", limit_gb=1e-6)
    assert "\n" not in str(refusal.value)
    assert not (tmp_path / "cache").exists()


def test_a_teacher_that_fails_midway_leaves_nothing(teacher, tmp_path, monkeypatch):
    forward, calls = teacher.forward, []

    def fail_at_second(**inputs):
        calls.append(inputs)
        if len(calls) == 2:
            raise RuntimeError("out of memory")
        return forward(**inputs)

    monkeypatch.setattr(teacher, "forward", fail_at_second)
    with pytest.raises(RuntimeError, match="out of memory"):
        cached(teacher, tmp_path)
    assert list(tmp_path.iterdir()) == []
