"""Changed copies of rows: what may change, and what never does."""

from collections import Counter
from random import Random

import pytest
from small_world import tokenizer as word_tokenizer
from small_world import write_model, write_sentences
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast

from secateur.run import pipeline, recipe
from secateur.run.context import Context
from secateur.run.models import load_teacher
from secateur.run.run_data import RunData
from secateur.run.stages.outputs import outputs_of
from secateur.run.training_arguments import steps_of_run
from secateur.system.errors import UserError
from secateur.training import augment
from secateur.training.augment import augmented, crop, drop, swap

SPECIAL = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
PAD, UNK, CLS, SEP = range(4)
WORDS = [[2 * n, 2 * n + 1] for n in range(7)]
MANY = 300


def marking(*tokens, **special):
    """A tokenizer that has these tokens after the special ones."""
    vocabulary = {token: number for number, token in enumerate([*SPECIAL.values(), *tokens])}
    words = Tokenizer(WordLevel(vocabulary, unk_token="[UNK]"))
    names = ["input_ids", "token_type_ids", "attention_mask"]
    return PreTrainedTokenizerFast(tokenizer_object=words, model_input_names=names, **SPECIAL | special)


def row(*ids, types=None, label=1):
    types = types or [0] * len(ids)
    return {
        "input_ids": list(ids),
        "token_type_ids": types,
        "attention_mask": [1] * len(ids),
        "labels": label,
        "index": 9,
    }


def pair(first, second):
    types = [0] * (len(first) + 2) + [1] * (len(second) + 1)
    return row(CLS, *first, SEP, *second, SEP, types=types)


def texts(ids):
    """What lies between the special tokens."""
    found = [[]]
    for token in ids:
        if token in (CLS, SEP):
            found.append([])
        else:
            found[-1].append(token)
    return [text for text in found if text]


PAIR = pair([4, 5, 6, 7], [8, 9, 10])
PLAIN = marking(*"abcdefgh")


def test_the_originals_come_first_unchanged_and_without_their_labels():
    rows = [row(CLS, 4, 5, SEP), PAIR]
    made = augmented(rows, PLAIN, 3, seed=0)
    inputs = ("input_ids", "token_type_ids", "attention_mask")
    assert made[:2] == [{name: one[name] for name in inputs} for one in rows]
    assert len(made) == 8
    assert all(set(one) == set(inputs) for one in made)
    assert [one["input_ids"] for one in rows] == [[CLS, 4, 5, SEP], PAIR["input_ids"]]


def test_the_seed_alone_decides_and_first_copies_do_not_depend_on_later_ones():
    rows = [PAIR] * 20
    three = augmented(rows, PLAIN, 3, seed=5)
    assert augmented(rows, PLAIN, 3, seed=5) == three
    assert augmented(rows, PLAIN, 1, seed=5) == three[:40]
    assert augmented(rows, PLAIN, 3, seed=6) != three
    assert three[20:40] != three[40:60]


def test_special_tokens_and_the_borders_of_a_pair_stay():
    for made in augmented([PAIR], PLAIN, MANY, seed=0):
        ids = made["input_ids"]
        assert [token for token in ids if token in (CLS, SEP)] == [CLS, SEP, SEP]
        assert (ids[0], ids[-1]) == (CLS, SEP)
        first, second = texts(ids)
        assert set(first) <= {4, 5, 6, 7} and set(second) <= {8, 9, 10}
        assert made["token_type_ids"] == [0] * (len(first) + 2) + [1] * (len(second) + 1)
        assert made["attention_mask"] == [1] * len(ids)


def test_a_border_may_be_in_the_token_types_alone():
    """As of tokenizers that put nothing between the texts of a pair."""
    for made in augmented([row(4, 5, 6, 7, 8, types=[0, 0, 0, 1, 1])], PLAIN, MANY, seed=0):
        kinds = [(token, kind) for token, kind in zip(made["input_ids"], made["token_type_ids"], strict=True)]
        assert set(kinds) <= {(4, 0), (5, 0), (6, 0), (7, 1), (8, 1)}
        assert made["token_type_ids"] == sorted(made["token_type_ids"])
        assert {0, 1} <= set(made["token_type_ids"])


def test_a_text_of_two_words_or_more_changes_and_one_word_stays():
    for made in augmented([row(CLS, 4, 5, SEP)], PLAIN, MANY, seed=0)[1:]:
        assert made["input_ids"] in ([CLS, 4, SEP], [CLS, 5, SEP], [CLS, 5, 4, SEP])
    for one in (row(CLS, 4, SEP), row(CLS, SEP), row(CLS, SEP, 4, SEP), row(4), row(CLS)):
        made = augmented([one], PLAIN, 20, seed=0)
        assert all(copy["input_ids"] == one["input_ids"] for copy in made)


def test_an_unknown_word_is_a_word_unless_its_token_has_another_role():
    kept = [copy["input_ids"] for copy in augmented([row(CLS, UNK, 4, 5, SEP)], PLAIN, MANY, seed=0)]
    assert [CLS, 4, 5, SEP] in kept
    both = marking(*"abc", unk_token="[SEP]")
    assert all(UNK not in copy["input_ids"] for copy in augmented([row(CLS, 4, 5, SEP)], both, 9, seed=0))
    for copy in augmented([row(CLS, 4, 5, SEP, 6, 4, SEP)], both, MANY, seed=0):
        assert [token for token in copy["input_ids"] if token in (CLS, SEP)] == [CLS, SEP, SEP]


@pytest.mark.parametrize(
    "tokens",
    [
        ("fine", "film", "##s", "##y", "book"),
        ("Ġfine", "Ġfilm", "s", "y", "Ġbook"),
        ("▁fine", "▁film", "s", "y", "▁book"),
    ],
    ids=["WordPiece", "byte-level", "SentencePiece"],
)
def test_words_change_as_a_whole(tokens):
    """The words 4, 5-6-7 and 8-6, of tokens 4 to 8."""
    whole = {(4,), (5, 6, 7), (8, 6)}
    words = marking(*tokens, *(("##z", "x", "▁") if tokens[0] == "fine" else ("▁▁" if "Ġ" in tokens[0] else "##",)))
    for made in augmented([row(CLS, 4, 5, 6, 7, 8, 6, SEP)], words, MANY, seed=0):
        found = []
        for token in made["input_ids"][1:-1]:
            if token in (6, 7):
                found[-1] += (token,)
            else:
                found.append((token,))
        assert found and set(found) <= whole


def test_the_first_token_of_a_text_begins_a_word_whatever_its_mark():
    words = marking("Ġa", "Ġb", "c")
    made = {tuple(copy["input_ids"]) for copy in augmented([row(CLS, 6, 4, 5, SEP)], words, MANY, seed=0)}
    assert (CLS, 4, 5, SEP) in made and (CLS, 6, 4, SEP) in made


# The kinds


def drawn(kind, words=WORDS):
    draw = Random(0)
    return [kind(words, draw) for _ in range(MANY)]


def multiset(words):
    return Counter(map(tuple, words))


def test_dropping_keeps_the_order_and_some_words():
    for left in drawn(drop):
        assert 1 <= len(left) < len(WORDS)
        assert left == [word for word in WORDS if word in left]


def test_words_are_dropped_with_the_documented_probability():
    words = [[n] for n in range(100)]
    lost = [1 - len(left) / 100 for left in drawn(drop, words)]
    assert sum(lost) / MANY == pytest.approx(augment.DROP, abs=0.01)  # its standard error is 0.002


def test_at_least_one_word_is_kept(monkeypatch):
    monkeypatch.setattr(augment, "DROP", 1.0)
    assert {len(left) for left in drawn(drop)} == {1}
    assert len({left[0][0] for left in drawn(drop)}) == len(WORDS)


def test_swapping_keeps_every_word_and_moves_neighbours():
    for moved in drawn(swap):
        assert multiset(moved) == multiset(WORDS)
        assert moved != WORDS
    assert [WORDS[1], WORDS[0], *WORDS[2:]] in drawn(swap)


def test_cropping_leaves_one_span_of_at_least_half():
    spans = drawn(crop)
    for span in spans:
        first = WORDS.index(span[0])
        assert span == WORDS[first : first + len(span)]
    assert {len(span) for span in spans} == {4, 5, 6}
    assert {WORDS.index(span[0]) for span in spans} == {0, 1, 2, 3}


def test_the_kinds_of_change_are_equally_likely():
    rows = augmented([row(CLS, *range(4, 12), SEP)] * 3000, PLAIN, 1, seed=0)[3000:]
    swapped = sum(len(made["input_ids"]) == 10 for made in rows) / 3000
    assert swapped == pytest.approx(1 / 3, abs=0.04)  # its standard error is 0.009


# In a run


def values(folder, others=()):
    data = folder / "data.csv"
    texts = [f"{('dull', 'fine')[n % 2]} film and {('bad', 'good')[n % 2]} book" for n in range(20)]
    lines = [f"{text},{('bad', 'good')[n % 2]}" for n, text in enumerate(texts)]
    data.write_text("\n".join(["text,label", *lines]) + "\n")
    return {
        "model": write_model(folder / "model", ["bad", "good"]),
        "data": str(data),
        "target.density": 0.5,
        "training.epochs": 2,
        "method.begin": 0.1,
        "method.end": 0.5,
        "training.batch_size": 4,
        "data.max_length": 24,
        "measurement.shapes": [],
        "training.bf16": False,
        "training.evaluations": 0,
        "training.checkpoints": 0,
    } | dict(others)


def run(folder, others=()):
    wanted = recipe.make(values(folder, others))
    return Context(wanted, folder / "run", RunData(wanted))


def test_the_teacher_labels_copies_and_the_number_of_steps_stays(tmp_path):
    one = run(tmp_path, {"training.augment": 2, "training.select": 3, "training.evaluations": 1})
    assert len(one.data.train_rows) == 15 and len(one.data.distillation_rows) == 45  # of 20, two are for validation
    assert [made["index"] for made in one.data.distillation_rows] == list(range(45))
    assert all("labels" in made for made in one.data.train_rows + one.data.eval_rows)
    assert not any("labels" in made for made in one.data.distillation_rows)
    teacher = load_teacher(one)
    answers = outputs_of(one, teacher)
    for number in (0, 44):
        batch = one.data.task.collator(one.data.tokenizer)([one.data.distillation_rows[number]])
        index = batch.pop("index")
        assert answers(index, **batch).logits.tolist() == [pytest.approx(teacher(**batch).logits[0].tolist())]
    assert steps_of_run(one) == 2 * 15 / 4


def test_without_copies_the_rows_are_unchanged(tmp_path):
    one = run(tmp_path)
    assert one.data.distillation_rows is one.data.train_rows


def test_augmentation_of_token_classification_is_refused_before_the_folder_is_touched(tmp_path):
    given = values(tmp_path, {"training.augment": 1, "data.task": "tokens", "training.teacher_epochs": 1})
    given |= {"data": write_sentences(tmp_path / "sentences.jsonl"), "model": write_model(tmp_path / "bare")}
    with pytest.raises(UserError, match="the texts of the task 'tokens' cannot be augmented: set training"):
        pipeline.run(recipe.make(given), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_rows_of_a_real_tokenizer_are_accepted():
    words = word_tokenizer()
    encoded = words(["a fine film and a good book"], ["a dull book"])
    rows = [{name: encoded[name][0] for name in encoded}]
    for made in augmented(rows, words, 20, seed=0):
        assert words.decode(made["input_ids"]).count("[SEP]") == 2
