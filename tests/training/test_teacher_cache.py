"""Cached teachers: the live teacher's answers, computed once, read back from disk under a key that tells all."""

import copy

import numpy as np
import pytest
import torch
from small_world import tokenizer
from tiny_models import ENCODERS, tiny

from secateur.system.errors import UserError
from secateur.tasks.task import PaddingCollator
from secateur.training import teacher_run
from secateur.training.array_cache import ROOM_FOR_ABOUT
from secateur.training.teacher_cache import CachedTeacher
from secateur.training.teacher_run import TeacherRun

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


def entries(folder):
    """The folders in which something is kept; the lock beside them is a file."""
    return [path for path in folder.iterdir() if path.is_dir()]


def shifted(rows):
    """A collator that gives the model one more input."""
    batch = COLLATE(rows)
    return {**batch, "position_ids": torch.arange(1, 1 + batch["input_ids"].shape[1])[None]}


def broken(*args, **kwargs):
    raise AssertionError("the teacher runs again")


@pytest.mark.parametrize("kind", ENCODERS)
def test_a_cached_teacher_returns_the_outputs_of_the_model(kind, tmp_path):
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


@pytest.mark.parametrize("kind", ENCODERS)
@pytest.mark.parametrize("layers", [LAYERS, ()])
def test_logits_of_tokens_are_kept_for_real_tokens_only(kind, layers, tmp_path, monkeypatch):
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
    assert len(entries(tmp_path)) == 1


def test_of_a_bare_encoder_hidden_states_alone_are_kept(tmp_path, monkeypatch):
    teacher = tiny("bert", "Model", dtype=torch.float32)
    answer, batch = asked(cached(teacher, tmp_path), [4, 2, 0])
    with torch.no_grad():
        live = teacher(**batch, output_hidden_states=True)
    real = batch["attention_mask"].bool()
    for layer in LAYERS:
        torch.testing.assert_close(
            answer.hidden_states[layer][real].float(), live.hidden_states[layer][real], atol=1e-3, rtol=1e-3
        )
    assert not hasattr(answer, "logits")
    monkeypatch.setattr(teacher, "forward", broken)
    again = cached(teacher, tmp_path)
    assert torch.equal(asked(again, [4, 2, 0])[0].hidden_states[2], answer.hidden_states[2])
    assert again.nbytes == again.states.nbytes


def test_a_bare_encoder_without_layers_has_nothing_to_keep(tmp_path):
    with pytest.raises(UserError, match="a BertModel returns neither logits nor sentence embeddings, and no layers"):
        cached(tiny("bert", "Model", dtype=torch.float32), tmp_path, layers=())


def test_without_layers_only_logits_are_kept(teacher, tmp_path):
    answer, _ = asked(cached(teacher, tmp_path, layers=()), [0, 1])
    assert answer.logits.shape == (2, 2) and answer.hidden_states == {}
    (place,) = entries(tmp_path)
    assert {path.name: path.stat().st_size for path in place.iterdir()}["logits"] == 4 * 2 * len(ROWS)
    assert (place / "states").stat().st_size == 0


def test_other_weights_rows_or_layers_are_another_entry(teacher, tmp_path):
    other, softer, renamed = copy.deepcopy(teacher), copy.deepcopy(teacher), copy.deepcopy(teacher)
    with torch.no_grad():
        other.classifier.bias[0] += 1
    softer.config.hidden_act = "relu"
    renamed.__class__ = type("Another", (type(teacher),), {})
    segments = [row | {"token_type_ids": [0] * (len(row["input_ids"]) - 1) + [1]} for row in ROWS]
    made = [
        lambda: cached(teacher, tmp_path),
        lambda: cached(other, tmp_path),
        lambda: cached(softer, tmp_path),
        lambda: cached(renamed, tmp_path),
        lambda: cached(copy.deepcopy(teacher).double(), tmp_path),
        lambda: cached(teacher, tmp_path, bf16=True),
        lambda: CachedTeacher.of(teacher, ROWS, shifted, tmp_path, layers=LAYERS, batch=2),
        lambda: cached(teacher, tmp_path, ROWS[::-1]),
        lambda: cached(teacher, tmp_path, ROWS[:5]),
        lambda: cached(teacher, tmp_path, layers=(0, 1)),
        lambda: cached(teacher, tmp_path, layers=(2, 0)),
        lambda: cached(teacher, tmp_path, segments),
    ]
    for count, make in enumerate(made, start=1):
        make()
        assert len(entries(tmp_path)) == count


def test_settings_that_do_not_affect_outputs_do_not_change_the_key(teacher, tmp_path, monkeypatch):
    cached(teacher, tmp_path)
    twin = copy.deepcopy(teacher)
    twin.config._name_or_path, twin.config.problem_type = "elsewhere", "single_label_classification"
    monkeypatch.setattr(twin, "forward", broken)
    relabelled = [{**row, "labels": number, "index": number} for number, row in enumerate(ROWS)]
    cached(twin, tmp_path, relabelled)
    assert len(entries(tmp_path)) == 1


def test_long_rows_are_run_in_smaller_batches(teacher, tmp_path, monkeypatch):
    """The memory of a batch is that of its tokens; the outputs are the same."""
    first, _ = asked(cached(teacher, tmp_path / "rows"), [4, 2, 0])
    most = 2 + max(len(row["input_ids"]) for row in ROWS)
    monkeypatch.setattr(teacher_run, "MOST_TOKENS", most)
    seen = []
    teacher.register_forward_pre_hook(lambda _, args, inputs: seen.append(inputs["input_ids"].shape), with_kwargs=True)
    again, _ = asked(CachedTeacher.of(teacher, ROWS, COLLATE, tmp_path / "tokens", layers=LAYERS, batch=4), [4, 2, 0])
    rows, tokens = map(list, zip(*seen[1:], strict=True))  # without the row that shows the shapes of the outputs
    assert sum(rows) == len(ROWS) and max(rows) > 1 == rows[-1]
    assert all(count * longest <= most for count, longest in zip(rows, tokens, strict=True))
    torch.testing.assert_close(again.logits, first.logits, rtol=1e-5, atol=1e-5)


def test_all_arrays_are_memory_mapped(teacher, tmp_path):
    found = cached(teacher, tmp_path)
    assert isinstance(found.logits, np.memmap) and isinstance(found.states, np.memmap)
    assert not found.logits.flags.writeable


def test_the_padding_may_be_on_either_side(teacher, tmp_path):
    words = tokenizer()
    words.padding_side = "left"
    collate, index = PaddingCollator(words), [4, 2, 0]
    found = CachedTeacher.of(teacher, ROWS, collate, tmp_path, layers=LAYERS, batch=len(ROWS))
    mask = collate([ROWS[number] for number in index])["attention_mask"]
    answer = found(torch.tensor(index), mask, output_hidden_states=True)
    everything = collate(ROWS)  # as the cache was made: where padding is at the left, positions depend on the batch
    with torch.no_grad():
        live = teacher(**everything, output_hidden_states=True).hidden_states[2]
    wanted = torch.cat([live[number][everything["attention_mask"][number] > 0] for number in index])
    assert not mask[0, 0] and not answer.hidden_states[2][mask == 0].any()
    torch.testing.assert_close(answer.hidden_states[2][mask > 0].float(), wanted, rtol=1e-3, atol=1e-3)


def test_padded_rows_are_refused(teacher, tmp_path):
    hidden = [{**row, "attention_mask": [*row["attention_mask"][:-1], 0]} for row in ROWS]
    with pytest.raises(UserError, match="give them unpadded"):
        cached(teacher, tmp_path, hidden)
    assert entries(tmp_path) == []


def test_states_that_float16_cannot_hold_are_refused(teacher, tmp_path):
    with torch.no_grad():
        teacher.base_model.encoder.layer[1].output.LayerNorm.weight.fill_(1e6)
    with pytest.raises(UserError, match="do not fit float16"):
        cached(teacher, tmp_path)
    cached(teacher, tmp_path, layers=())


def test_a_damaged_entry_is_computed_again(teacher, tmp_path):
    first, _ = asked(cached(teacher, tmp_path), [1, 3])
    path = entries(tmp_path)[0] / "logits"
    path.write_bytes(bytes([path.read_bytes()[0] ^ 1]) + path.read_bytes()[1:])
    again, _ = asked(cached(teacher, tmp_path), [1, 3])
    assert torch.equal(first.logits, again.logits)


@pytest.mark.parametrize("head", ["ForSequenceClassification", "ForTokenClassification", "ForQuestionAnswering"])
def test_the_size_is_known_before_the_teacher_runs_over_the_rows(head, tmp_path):
    teacher = tiny("bert", head, dtype=torch.float32)
    found = cached(teacher, tmp_path)
    assert TeacherRun.of(teacher, ROWS, COLLATE, LAYERS).nbytes == found.nbytes + ROOM_FOR_ABOUT


def test_the_limit_counts_logits_of_tokens_too(tmp_path):
    teacher = tiny("bert", "ForTokenClassification", dtype=torch.float32, num_labels=3)
    tokens = sum(len(row["input_ids"]) for row in ROWS)
    needed = 4 * 3 * tokens + ROOM_FOR_ABOUT
    with pytest.raises(UserError, match="raise the limit"):
        cached(teacher, tmp_path, layers=(), limit_gb=(needed - 1) / 1e9)
    assert entries(tmp_path) == []
    cached(teacher, tmp_path, layers=(), limit_gb=needed / 1e9)


def test_too_large_outputs_are_refused_after_one_row(teacher, tmp_path, monkeypatch):
    forward, seen = teacher.forward, []
    monkeypatch.setattr(teacher, "forward", lambda **inputs: seen.append(len(inputs["input_ids"])) or forward(**inputs))
    with pytest.raises(UserError, match="limit is 1e-06 GB: raise the limit") as refusal:
        cached(teacher, tmp_path / "cache", limit_gb=1e-6)
    assert "\n" not in str(refusal.value) and seen == [1]
    assert entries(tmp_path / "cache") == []


def test_a_teacher_that_fails_leaves_no_entry(teacher, tmp_path, monkeypatch):
    forward, calls = teacher.forward, []

    def fail_at_second_batch(**inputs):
        calls.append(inputs)
        if len(calls) == 3:  # the first shows the size
            raise RuntimeError("out of memory")
        return forward(**inputs)

    monkeypatch.setattr(teacher, "forward", fail_at_second_batch)
    with pytest.raises(RuntimeError, match="out of memory"):
        cached(teacher, tmp_path)
    assert entries(tmp_path) == []
