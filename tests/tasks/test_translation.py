"""Translation and summarisation: data, labels, scores of what a model writes, its distillation, the whole job."""

import json
import math
import sys
import unicodedata
from collections import Counter
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import two_ranks
import two_writers
from datasets import Dataset, DatasetDict, Translation
from quiet import arguments
from sacrebleu import corpus_bleu
from seq2seq_world import SIZES, write_digits, write_splits
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer, EvalPrediction, PreTrainedTokenizerFast

import secateur as sec
from secateur.measure.evaluation import batches, encoded, runner_scores, scores
from secateur.report.report import Report
from secateur.run import pipeline, recipe
from secateur.run.new_model import new_model
from secateur.run.new_tokenizer import ALGORITHMS, trained_tokenizer
from secateur.run.run_data import RunData, numbered
from secateur.structure.binding import bind
from secateur.surgery.cut import cut
from secateur.system.errors import MissingPackage, UserError
from secateur.tasks.generation import BeamSearch, generate
from secateur.tasks.summarisation import Summarisation
from secateur.tasks.task import open_task
from secateur.tasks.translation import Translation as Translations
from secateur.training.objectives import Hidden, Labels, Logits, Step
from secateur.training.step import INDEX
from secateur.training.teacher_cache import CachedTeacher
from secateur.training.trainer import PruningTrainer

FAMILIES = ("marian", "bart", "t5")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_splits(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def task(data):
    return Translations.from_data(data, beams=2)


@pytest.fixture(scope="module")
def made(task, tmp_path_factory):
    """Folders of untrained models by family."""
    folder = tmp_path_factory.mktemp("models")
    for kind in FAMILIES:
        new_model(task, folder / kind, architecture=kind, **SIZES)
    return folder


def opened(task, made, kind="marian", seed=0):
    """A model with weights large enough to tell texts apart, in evaluation mode, and its tokenizer."""
    model = task.load_model(made / kind).eval()
    noise = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() == 2 and weight.requires_grad:
                weight += 0.3 * torch.randn(weight.shape, generator=noise)
    return model, AutoTokenizer.from_pretrained(made / kind)


# Data


def splits_of(path, rows, **options):
    path.write_text("\n".join(map(json.dumps, rows)))
    return Translations.from_data(str(path), **options).splits["train"]


@pytest.mark.parametrize(
    ("row", "options", "pair"),
    [
        ({"source": "a", "target": "b"}, {}, ("a", "b")),
        ({"id": "7", "en": "a", "de": "b"}, {}, ("a", "b")),
        ({"de": "b", "en": "a"}, {"text": "en"}, ("a", "b")),
        ({"de": "b", "en": "a"}, {"label": "de"}, ("a", "b")),
        ({"en": "a", "de": "b", "fr": "c"}, {"text": ("en",), "label": "fr"}, ("a", "c")),
        ({"target": "a", "source": "b"}, {"text": "target", "label": "source"}, ("a", "b")),
        ({"translation": {"en": "a", "de": "b"}}, {}, ("a", "b")),
        ({"translation": {"en": "a", "de": "b"}}, {"text": "de"}, ("b", "a")),
        ({"left": "a", "right": "b"}, {"text": "left", "label": "right"}, ("a", "b")),
    ],
)
def test_columns_are_recognised_or_named(row, options, pair, tmp_path):
    found = splits_of(tmp_path / "d.jsonl", [row] * 4, **options)
    assert found.column_names == ["source", "target"] and set(zip(*found[:].values(), strict=True)) == {pair}


def test_a_translation_column_as_on_the_hub_is_read(tmp_path):
    split = Dataset.from_dict({"translation": [{"en": "a", "de": "b"}] * 3})
    split = split.cast_column("translation", Translation(languages=["en", "de"]))
    DatasetDict(train=split, validation=split).save_to_disk(tmp_path / "d")
    found = Translations.from_data(str(tmp_path / "d")).splits
    assert found["validation"][0] == {"source": "a", "target": "b"}


@pytest.mark.parametrize(
    "row",
    [{"article": "a", "highlights": "b"}, {"document": "a", "summary": "b"}, {"dialogue": "a", "summary": "b"}],
)
def test_columns_of_summaries_are_recognised(row, tmp_path):
    path = tmp_path / "d.jsonl"
    path.write_text("\n".join([json.dumps(row | {"id": "1"})] * 3))
    assert Summarisation.from_data(str(path)).splits["train"][0] == {"source": "a", "target": "b"}


@pytest.mark.parametrize(
    ("row", "options", "said"),
    [
        ({"left": "a", "right": "b"}, {}, "no source and target under usual names: name both"),
        ({"en": "a", "de": "b", "fr": "c"}, {}, "name both by `text` and `label`, out of en, de, fr"),
        ({"en": "a", "de": "b"}, {"label": "fr"}, "no column 'fr': give one of en, de by `label`"),
        ({"en": "a", "de": "b"}, {"text": ("en", "de")}, "`text` names 2 columns"),
        ({"en": "a", "de": "b"}, {"text": "en", "label": "en"}, "'en' is both source and target"),
        ({"en": "a", "de": 3}, {"text": "en", "label": "de"}, "'de' of the train split holds no text"),
        (
            {"en": "a", "de": " "},
            {},
            "4 of the 4 rows of the train split lack a source or a target .the first is row 0",
        ),
        ({"en": "a", "de": "b"}, {"metric": "rouge1"}, "'rouge1' is not known for texts: choose one of bleu, chrf"),
        ({"en": "a", "de": "b"}, {"beams": 0}, "beams is 0: give at least 1"),
        ({"en": "a", "de": "b"}, {"max_new_tokens": 0}, "max_new_tokens is 0"),
        ({"en": "a", "de": "b"}, {"max_target_length": 1}, "max_target_length is 1: give at least 2"),
        (
            {"en": "a", "de": "b"},
            {"validation": "test"},
            "no labelled split 'test', with the column 'de' filled, for validation",
        ),
    ],
)
def test_data_without_pairs_of_texts_is_refused_in_one_sentence(row, options, said, tmp_path):
    with pytest.raises(UserError, match=said) as refusal:
        splits_of(tmp_path / "d.jsonl", [row] * 4, **options)
    assert "\n" not in str(refusal.value)


def test_the_split_to_score_may_be_named(data, tmp_path):
    for split, rows in (("train", 4), ("validation", 3), ("test", 2)):
        write_digits(tmp_path / f"{split}.jsonl", rows)
    sizes = [
        len(Translations.from_data(str(tmp_path), validation=name).splits["validation"]) for name in (None, "test")
    ]
    assert sizes == [3, 2]


def of_targets(kind, folder, targets, **options):
    """A task whose targets are these texts, each several times."""
    rows = [f"a film {number}\t{text}" for number, text in enumerate(targets * 4)]
    for name in ("train", "validation"):
        (folder / f"{name}.tsv").write_text("\n".join(["source\ttarget", *rows]), encoding="utf-8")
    return kind.from_data(str(folder), **options)


@pytest.mark.parametrize(
    ("targets", "near", "expected"),
    [
        (["Хороший фильм вышел", "Плохая книга"], ["Хороший фильм", "Плохая книга"], (0.8 + 1) / 2),
        (["好电影上映了", "一本坏书"], ["好电影", "一本坏书"], (2 * 3 / 9 + 1) / 2),
        (["अच्छी फ़िल्म आई", "बुरी किताब"], ["अच्छी फ़िल्म", "बुरी किताब"], (0.8 + 1) / 2),
        (["خرج فيلم جيد", "كتاب سيئ"], ["خرج فيلم", "كتاب سيئ"], (0.8 + 1) / 2),
        (["The good films ended", "Très bon, 2020"], ["the good film", "tr s bon 2020"], (2 * 3 / 7 + 1) / 2),
        (["2020 31 7", "12"], ["2020 31", "12"], (0.8 + 1) / 2),
    ],
    ids=["Russian", "Chinese", "Hindi", "Arabic", "Latin", "digits"],
)
def test_rouge_counts_the_words_of_any_script(tmp_path, targets, near, expected):
    task = of_targets(Summarisation, tmp_path, targets)
    assert task.score_texts(targets, targets)["rougeL"] == 1.0
    assert task.score_texts(near, targets)["rouge1"] == pytest.approx(expected)
    assert task.score_texts(["!", "?"], targets) == {"rougeL": 0.0, "rouge1": 0.0, "rouge2": 0.0}


def test_other_forms_of_the_same_characters_are_the_same_words(tmp_path):
    task = of_targets(Summarisation, tmp_path, ["Первый фильм ２０２０", "第２部 ｶﾒﾗ"])
    written = [unicodedata.normalize("NFKD", "Первый фильм 2020"), "第2部 カメラ"]
    assert task.score_texts(written, ["Первый фильм ２０２０", "第２部 ｶﾒﾗ"])["rougeL"] == 1.0


@pytest.mark.parametrize(
    ("targets", "script", "tokenizer"),
    [
        (["我喜欢这部好电影", "这本书很坏"], "Chinese", "zh"),
        (["良い映画が好きです", "悪い本です"], "Japanese", "ja-mecab"),
        (["ฉันชอบหนังดี", "หนังสือไม่ดี"], "Thai", "char"),
        (["좋은 영화를 봤다", "나쁜 책"], "Korean", "ko-mecab"),
    ],
)
def test_a_tokenizer_of_bleu_that_is_wrong_for_the_targets_is_warned_of(tmp_path, targets, script, tokenizer, caplog):
    task = of_targets(Translations, tmp_path, targets)
    assert f"targets are {script}" in caplog.text and f"tokenize={tokenizer}, or score by --metric chrf" in caplog.text
    caplog.clear()
    other = of_targets(Translations, tmp_path, targets, tokenize="char")
    assert of_targets(Translations, tmp_path, targets, metric="chrf").metric == "chrf" and not caplog.text
    wrong = [targets[0][:-1], targets[1]]
    assert other.score_texts(wrong, targets)["bleu"] > 50 > task.score_texts(wrong, targets)["bleu"]


def test_bleu_of_latin_targets_is_that_of_13a_and_unknown_tokenizers_are_refused(tmp_path, caplog):
    task = of_targets(Translations, tmp_path, ["a good film, here", "a bad book and more"])
    texts, targets = ["a good film here", "a bad book and more"], ["a good film, here", "a bad book and more"]
    assert task.tokenize == "13a" and not caplog.text
    assert task.score_texts(texts, targets)["bleu"] == corpus_bleu(texts, [targets]).score
    with pytest.raises(UserError, match=r"tokenize '14b' is no tokenizer of sacrebleu: choose one of .*13a"):
        of_targets(Translations, tmp_path, targets, tokenize="14b")
    with pytest.raises(UserError, match=r"tokenize 'ja-mecab' cannot be used .*: install what it needs, or choose"):
        of_targets(Translations, tmp_path, targets, tokenize="ja-mecab")


@pytest.mark.parametrize(("kind", "name"), [(Translations, "sacrebleu"), (Summarisation, "rouge_score")])
def test_a_missing_package_is_named_before_the_data_is_read(kind, name, monkeypatch):
    monkeypatch.setitem(sys.modules, name, None)
    wanted = rf"need the package {name}, which is not installed: run pip install {name.replace('_', '-')}$"
    with pytest.raises(MissingPackage, match=wanted):
        kind.from_data("nowhere")


# Rows and batches


def test_labels_are_the_target_s_tokens_and_padding_is_no_label(task, made):
    words = AutoTokenizer.from_pretrained(made / "marian")
    rows = encoded(task, "train", words, 40)
    for row, pair in zip(rows, task.splits["train"], strict=True):
        assert words.decode(row["labels"], skip_special_tokens=True) == pair["target"] == row["target"]
        assert words.decode(row["input_ids"], skip_special_tokens=True) == pair["source"]
        assert row["labels"][-1] == row["input_ids"][-1] == words.eos_token_id
    collate = task.collator(words)
    collate.pad_to_multiple_of = 4
    batch = collate([row | {INDEX: 3} for row in rows])
    assert set(batch) == {"input_ids", "attention_mask", "labels", INDEX}
    assert batch["labels"].shape[1] % 4 == 0
    for row, labels in zip(rows, batch["labels"].tolist(), strict=True):
        own = len(row["labels"])
        assert labels[:own] == row["labels"] and set(labels[own:]) <= {-100}
    assert (batch["labels"] == -100).any()


def test_a_prefix_goes_before_the_source_and_targets_have_a_length_of_their_own(data, made):
    words = AutoTokenizer.from_pretrained(made / "t5")
    prefixed = Translations.from_data(data, prefix="0 0 ", max_target_length=3)
    plain = Translations.from_data(data)
    for long, row in zip(*(encoded(one, "train", words, 40) for one in (prefixed, plain)), strict=True):
        assert long["input_ids"] == words("0 0", add_special_tokens=False)["input_ids"] + row["input_ids"]
        assert long["labels"] == (row["labels"] if len(row["labels"]) <= 3 else [*row["labels"][:2], row["labels"][-1]])
    with pytest.raises(UserError, match="max_length is 41: give at most 40"):
        encoded(Translations.from_data(data, max_target_length=41), "train", words, 40)


# Scores


def test_bleu_is_the_geometric_mean_of_the_precisions_with_a_penalty_for_brevity(task):
    assert task.score_texts(["a b c d e f"], ["a b c d e f"])["bleu"] == pytest.approx(100)
    one_wrong = 100 * (5 / 6 * 4 / 5 * 3 / 4 * 2 / 3) ** 0.25
    assert task.score_texts(["a b c d e f"], ["a b c d e g"])["bleu"] == pytest.approx(one_wrong)
    short = task.score_texts(["a b c d e"], ["a b c d e f"])["bleu"]
    assert short == pytest.approx(100 * math.exp(1 - 6 / 5))
    assert task.score_texts(["A b c d e f"], ["a b c d e f"])["bleu"] == pytest.approx(one_wrong)  # case counts
    corpus = task.score_texts(["a b c d e f", "a b c d e f"], ["a b c d e f", "a b c d e g"])["bleu"]
    assert corpus == pytest.approx(100 * (11 / 12 * 9 / 10 * 7 / 8 * 5 / 6) ** 0.25)  # counts are added, not scores


def chrf(said, wanted, orders=6, beta=2):
    """Popović (2015): mean precision and recall of characters 1- to 6-grams, spaces left out, recall counting more."""
    found = []
    for order in range(1, orders + 1):
        grams = [
            Counter(text[place : place + order] for place in range(len(text) - order + 1))
            for text in (said.replace(" ", ""), wanted.replace(" ", ""))
        ]
        common = sum((grams[0] & grams[1]).values())
        found.append((common / sum(grams[0].values()), common / sum(grams[1].values())))
    precision, recall = np.mean(found, axis=0)
    return 100 * (1 + beta**2) * precision * recall / (beta**2 * precision + recall)


def test_chrf_is_the_f_score_of_characters(task):
    said, wanted = "the film is good", "the film was good"
    assert task.score_texts([said], [wanted])["chrf"] == pytest.approx(chrf(said, wanted))
    assert 0 < chrf(said, wanted) < 100


@pytest.mark.parametrize(
    ("said", "wanted", "expected"),
    [
        ("the cat sat", "the cat sat", (1, 1, 1)),
        ("the cat sat", "the cat sat down", (6 / 7, 6 / 7, 4 / 5)),  # precision 1; recall 3/4 and 2/3
        ("sat the cat", "the cat sat", (2 / 3, 1, 1 / 2)),
        ("the cats jumped", "The cat jumps", (1, 1, 1)),  # stems, whatever the case
        ("a dog", "the cat sat", (0, 0, 0)),
    ],
)
def test_rouge_is_the_f_score_of_words_pairs_and_subsequences(said, wanted, expected, tmp_path):
    path = tmp_path / "d.jsonl"
    path.write_text("\n".join([json.dumps({"document": "a", "summary": "b"})] * 3))
    task = Summarisation.from_data(str(path))
    found = task.score_texts([said], [wanted])
    assert found == pytest.approx(dict(zip(("rougeL", "rouge1", "rouge2"), expected, strict=True)))
    both = task.score_texts([said, "a"], [wanted, "a"])
    assert both["rouge1"] == pytest.approx((expected[1] + 1) / 2)


def test_scores_compare_generated_texts_with_whole_targets(task):
    rows = [{"target": "eins zwei drei vier"}]
    said = EvalPrediction(np.array(["eins zwei drei vier"]), np.array(["eins"]))
    assert task.score(said, rows)["bleu"] == pytest.approx(100)
    assert task.compute_metrics(said)["bleu"] < 100
    with pytest.raises(UserError, match="scored on generated texts, and these are logits: generate first"):
        task.score(EvalPrediction(np.zeros((1, 3, 9)), np.zeros((1, 3))), rows)


# What a model writes


@pytest.mark.parametrize("kind", FAMILIES)
@pytest.mark.parametrize("beams", [1, 3])
def test_scores_are_those_of_texts_generated_row_by_row(kind, beams, data, made):
    task = Translations.from_data(data, beams=beams, max_new_tokens=6)
    model, words = opened(task, made, kind)
    rows = encoded(task, "validation", words, 40)
    alone = [
        words.decode(
            model.generate(torch.tensor([row["input_ids"]]), num_beams=beams, do_sample=False, max_new_tokens=6)[0],
            skip_special_tokens=True,
        ).strip()
        for row in rows
    ]
    assert len(set(alone)) > 1
    assert scores(model, task, rows, words) == pytest.approx(
        task.score_texts(alone, task.splits["validation"]["target"][:])
    )
    options = {"beams": beams, "max_new_tokens": 6, "max_length": 40, "batch": 3}
    assert generate(model, words, task.splits["validation"]["source"][:], **options) == alone


@pytest.mark.parametrize(
    "left",
    [
        {"num_beams": 4, "num_return_sequences": 2},
        {"return_dict_in_generate": True},
        {"num_beams": 4, "num_beam_groups": 2},
        {"penalty_alpha": 0.6, "top_k": 4},
        {"prompt_lookup_num_tokens": 2},
        {"num_beams": 4, "force_words_ids": [[5]]},
        {"stop_strings": ["1"]},
    ],
    ids=lambda left: list(left)[-1],
)
@pytest.mark.parametrize("beams", [1, 4])
def test_a_source_has_one_text_whatever_search_the_generation_config_asks_for(beams, left, data, made):
    task = Translations.from_data(data, beams=beams, max_new_tokens=6)
    model, words = opened(task, made)
    rows, inputs = (
        encoded(task, "validation", words, 40),
        words(["1 2 3", "4", "0 1"], return_tensors="pt", padding=True),
    )
    expected, texts = scores(model, task, rows, words), task.search(model, inputs)
    model.generation_config.update(**left)
    assert torch.equal(task.search(model, inputs), texts) and len(texts) == 3
    assert scores(model, task, rows, words) == expected


def test_another_number_of_texts_than_of_targets_is_refused(task):
    with pytest.raises(UserError, match="expected a generated text for each of 2 targets, got 4: generate one for"):
        task.compute_metrics(EvalPrediction(np.array(["a", "b", "c", "d"]), np.array(["a", "b"])))


def test_rows_with_numbers_are_scored_as_those_without(task, made):
    """As those that are scored while the density decreases."""
    model, words = opened(task, made)
    rows = encoded(task, "validation", words, 40)
    assert scores(model, task, numbered(rows), words) == scores(model, task, rows, words)


def test_the_length_of_a_text_is_limited_by_its_source_or_the_model(task, made):
    model, words = opened(task, made)
    model.generation_config.eos_token_id = model.config.eos_token_id = None
    model.generation_config.forced_eos_token_id = None
    inputs = words(["1 2 3", "1"], return_tensors="pt", padding=True)
    longest = inputs["input_ids"].shape[1]
    assert BeamSearch(1)(model, inputs).shape == (2, 1 + int(1.2 * longest) + 10)  # and the token that begins
    assert BeamSearch(1, max_new_tokens=3)(model, inputs).shape == (2, 4)
    assert BeamSearch(1, max_new_tokens=400)(model, inputs).shape == (2, 40)


def test_an_empty_source_is_refused(task, made):
    model, words = opened(task, made)
    with pytest.raises(UserError, match="a text is empty"):
        generate(model, words, ["1", " "], max_length=40)


def test_a_runtime_that_cannot_generate_is_refused(task):
    with pytest.raises(UserError, match="generated texts, which needs PyTorch"):
        runner_scores(SimpleNamespace(inputs=()), task, [], None)


@pytest.mark.parametrize("kind", FAMILIES)
def test_an_evaluation_under_masks_generates_the_texts_of_the_cut_model(kind, task, made, tmp_path):
    """The encoder is called by itself in generation: it must see the masks of this evaluation, not of a step before."""
    model, words = opened(task, made, kind)
    rows, collate, said = encoded(task, "validation", words, 40), task.collator(words), []
    method = sec.Magnitude(sec.Space(model, "ffn", "head"), density=0.4)
    method.alive.copy_(method.plan(0.4).masks > 0)
    trainer = PruningTrainer(
        model,
        method=method,
        args=arguments(tmp_path, 1, remove_unused_columns=False, label_names=["labels"]),
        eval_dataset=rows,
        data_collator=collate,
        generate=task.generate,
        compute_metrics=lambda found: said.append(found) or {},
    )
    found = trainer.evaluate()
    texts = task.read(said[0], words).predictions
    small = cut(model, method.plan(0.4)).train()
    wanted = generate(small, words, task.splits["validation"]["source"][:], max_length=40, beams=2)
    assert list(texts) == wanted and small.training and small.get_encoder().training
    assert wanted != generate(model, words, task.splits["validation"]["source"][:], max_length=40, beams=2)
    assert found["eval_loss"] > 0


# Terms of the loss


def batch_of(task, words, numbers=(0, 1, 2, 3), **more):
    rows = encoded(task, "train", words, 40)
    return dict(task.collator(words)([rows[number] | more for number in numbers]))


def stepped(task, made, kind, *terms, seed=1, tmp_path):
    """A step of a student and another model as its teacher, as the trainer makes it."""
    student, words = opened(task, made, kind)
    teacher, _ = opened(task, made, kind, seed=seed)
    trainer = PruningTrainer(student, teacher=teacher, objective=terms, args=arguments(tmp_path, 1))
    for term in terms:
        term.bind(student, teacher)
    return trainer.loss.step(student, batch_of(task, words))


@pytest.mark.parametrize("kind", FAMILIES)
def test_student_and_teacher_read_the_same_decoder_inputs(kind, task, made, tmp_path):
    step = stepped(task, made, kind, Logits(1.0, divergence=True), seed=0, tmp_path=tmp_path)
    begin, labels = step.batch["decoder_input_ids"][:, 0], step.batch["labels"]
    assert set(begin.tolist()) == {2}  # <s>
    shifted = step.batch["decoder_input_ids"][:, 1:]
    assert torch.equal(shifted[labels[:, :-1] >= 0], labels[:, :-1][labels[:, :-1] >= 0])
    assert Logits(1.0, divergence=True)(step).item() == pytest.approx(0, abs=1e-6)
    other = stepped(task, made, kind, Logits(1.0, divergence=True), tmp_path=tmp_path)
    assert Logits(1.0, divergence=True)(other).item() > 0.01


@pytest.mark.parametrize("kind", FAMILIES)
def test_terms_are_averages_over_the_real_tokens_of_source_or_target(kind, task, made, tmp_path):
    terms = [Logits(2.0), Hidden("every 1", stack="encoder"), Hidden("every 1", stack="decoder")]
    step = stepped(task, made, kind, *terms, tmp_path=tmp_path)
    source, target = step.batch["attention_mask"].bool(), step.batch["labels"] >= 0
    assert not source.all() and not target.all() and source.shape != target.shape
    mine, theirs = (said.logits[target] / 2 for said in (step.student, step.teacher))
    wanted = -(theirs.softmax(-1) * mine.log_softmax(-1)).sum(-1).mean()
    torch.testing.assert_close(terms[0](step), wanted)
    for term, real, name in ((terms[1], source, "encoder"), (terms[2], target, "decoder")):
        pairs = zip(*(said[f"{name}_hidden_states"] for said in (step.student, step.teacher)), strict=True)
        by_hand = sum((a[real] - b[real]).square().mean() for a, b in pairs)  # projections are the identity yet
        torch.testing.assert_close(term(step), by_hand)
    assert [term.over(step) for term in terms] == ["labels", "tokens", "labels"]
    assert [term.name for term in terms] == ["logits", "hidden_encoder", "hidden_decoder"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({}, 'stack="encoder" and stack="decoder"'),
        ({"stack": "middle"}, "neither of encoder and decoder"),
        ({"stack": "decoder", "match": "nearer"}, "not a way to match layers"),
        ({"stack": "decoder", "layers": [3]}, "numbers from 0 to 2"),
    ],
)
def test_hidden_states_of_two_stacks_are_two_terms(options, said, task, made):
    model, _ = opened(task, made)
    with pytest.raises(UserError, match=said):
        Hidden(**options).bind(model, model)


@pytest.mark.parametrize("stack", ["encoder", "decoder"])
def test_layers_are_matched_within_their_stack(stack, task, made, tmp_path):
    term = Hidden([1, 2], match="nearest-ordered", stack=stack)
    step = stepped(task, made, "marian", term, tmp_path=tmp_path)
    real = step.batch["attention_mask"] if stack == "encoder" else step.batch["labels"] >= 0
    both = (step.student, step.teacher)
    mine, theirs = ([state[real > 0] for state in said[f"{stack}_hidden_states"]] for said in both)
    error = {(m, t): (mine[m] - theirs[t]).square().mean() for m in (1, 2) for t in (1, 2)}
    above = min((1, 2), key=lambda m: error[m, 2])
    torch.testing.assert_close(term(step), error[above, 2] + error[1, 1])  # below the first there is only itself


@pytest.mark.parametrize(
    ("stack", "shut", "left"),
    [
        ("encoder", ("encoder.1.attention", "encoder.1.mlp"), [True, False]),
        ("decoder", ("encoder.1.attention", "encoder.1.mlp"), [True, True]),
        ("decoder", ("decoder.0.attention", "decoder.0.mlp"), [True, True]),
        ("decoder", ("decoder.0.attention", "decoder.0.cross.attention", "decoder.0.mlp"), [False, True]),
    ],
)
def test_a_layer_counts_as_removed_if_all_its_sublayers_are(stack, shut, left, task, made, tmp_path):
    term = Hidden([1, 2], match="nearest-ordered", stack=stack)
    step = stepped(task, made, "marian", term, tmp_path=tmp_path)
    gates = {one.gate: torch.tensor([float(one.gate not in shut)]) for one in bind(opened(task, made)[0]).sublayers}
    assert set(shut) <= gates.keys()
    assert term._exists(replace(step, sites=gates), 2, torch.device("cpu")).tolist() == left
    layers = torch.tensor([True, stack == "decoder" or left[1], left[0] or stack == "encoder", True])
    term.restrict(torch.arange(term.width), layers)
    assert term._exists(step, 2, torch.device("cpu")).tolist() == left


def test_the_depth_of_a_decoder_is_its_own(task, tmp_path):
    model = new_model(task, tmp_path / "m", **SIZES | {"decoder_layers": 3})
    depths = [Hidden(stack=stack).depth_of(model.config) for stack in ("encoder", "decoder")]
    assert depths == [2, 3]


def test_label_smoothing_is_spread_over_all_classes(task, made, tmp_path):
    step = stepped(task, made, "marian", Labels(), tmp_path=tmp_path)
    target = step.batch["labels"] >= 0
    logs = step.student.logits[target].log_softmax(-1)
    right = logs.gather(1, step.batch["labels"][target][:, None]).mean()
    torch.testing.assert_close(Labels(smoothing=0.1)(step), -(0.9 * right + 0.1 * logs.mean()))
    torch.testing.assert_close(Labels()(step), -right)
    torch.testing.assert_close(Labels(smoothing=1e-9)(step), Labels()(step))


@pytest.mark.parametrize("smoothing", [-0.1, 1.0])
def test_a_smoothing_outside_0_to_1_is_refused(smoothing):
    with pytest.raises(UserError, match=rf"smoothing is {smoothing}: expected a number from 0 on and below 1"):
        Labels(smoothing=smoothing)


def test_label_smoothing_of_a_regression_is_refused():
    step = Step({"labels": torch.zeros(2)}, SimpleNamespace(logits=torch.zeros(2, 1), loss=torch.zeros(())))
    with pytest.raises(UserError, match="this model has none"):
        Labels(smoothing=0.1)(step)


def test_a_step_of_micro_batches_equals_the_step_of_one_batch(task, made, tmp_path):
    """Means over source tokens and over target tokens, whose shares of a micro-batch differ."""

    def weights(size):
        student, words = opened(task, made)
        teacher, _ = opened(task, made, seed=1)
        terms = [Logits(2.0), Hidden(stack="encoder"), Hidden(stack="decoder"), Labels(smoothing=0.1)]
        options = {"gradient_accumulation_steps": 4 // size, "remove_unused_columns": False, "label_names": ["labels"]}
        trainer = PruningTrainer(
            student,
            teacher=teacher,
            objective=terms,
            args=arguments(tmp_path / str(size), 2, per_device_train_batch_size=size, optim="sgd", **options),
            train_dataset=encoded(task, "train", words, 40)[:8],
            data_collator=task.collator(words),
        )
        trainer.train()
        return torch.cat([weight.detach().flatten() for weight in student.parameters()])

    whole, parts = weights(4), weights(1)
    torch.testing.assert_close(parts, whole, rtol=1e-5, atol=1e-6)


def test_two_processes_give_the_weights_and_texts_of_one(data, made, tmp_path):
    """Seven rows to write, so that the processes have not as many of them, nor texts of one length."""
    alone = two_writers.written(tmp_path / "one", data, str(made / "marian"), 4)
    first, second = two_ranks.of_script(two_writers.__file__, tmp_path, data, str(made / "marian"))
    assert alone["eval_chrf"] > 0
    for name, value in alone.items():
        torch.testing.assert_close(first[name], value, rtol=1e-4, atol=1e-5, msg=name)
        assert torch.equal(first[name], second[name]), name


# The cached teacher


def cached(task, teacher, words, folder, **options):
    rows = encoded(task, "train", words, 40)
    options = {"layers": [0, 2], "target_layers": [1], "batch": 5} | options
    return CachedTeacher.of(teacher, rows, task.collator(words), folder, **options)


@pytest.mark.parametrize("kind", FAMILIES)
def test_a_cached_teacher_with_a_decoder_returns_the_outputs_of_the_model(kind, task, made, tmp_path, monkeypatch):
    teacher, words = opened(task, made, kind)
    frozen = cached(task, teacher, words, tmp_path)
    batch = batch_of(task, words, (5, 0, 9))
    labels = batch.pop("labels")
    batch["decoder_input_ids"] = teacher.prepare_decoder_input_ids_from_labels(labels)
    with torch.no_grad():
        live = teacher(**batch, output_hidden_states=True)
    found = frozen(torch.tensor([5, 0, 9]), **batch, output_hidden_states=True)
    source, target = batch["attention_mask"].bool(), labels >= 0
    torch.testing.assert_close(found.logits[target], live.logits[target], rtol=1e-4, atol=1e-4)
    assert set(found.encoder_hidden_states) == {0, 2} and set(found.decoder_hidden_states) == {1}
    for layer, states in found.encoder_hidden_states.items():
        wanted = live.encoder_hidden_states[layer][source]
        torch.testing.assert_close(states[source].float(), wanted, rtol=1e-2, atol=1e-2)
    wanted = live.decoder_hidden_states[1][target]
    torch.testing.assert_close(found.decoder_hidden_states[1][target].float(), wanted, rtol=1e-2, atol=1e-2)
    assert not found.logits[~target].any() and not found.decoder_hidden_states[1][~target].any()
    monkeypatch.setattr(teacher, "forward", None)
    again = cached(task, teacher, words, tmp_path)
    assert torch.equal(again(torch.tensor([5, 0, 9]), **batch).logits, found.logits)


def test_other_targets_are_another_entry_of_the_cache(task, made, tmp_path):
    teacher, words = opened(task, made)
    rows = encoded(task, "train", words, 40)
    longest = max(rows, key=lambda row: len(row["input_ids"]))  # in the middle of the order, no sample of it tells
    changed = [row | {"labels": row["labels"][::-1]} if row is rows[3] else row for row in rows]
    assert rows[3] is not longest and rows[3]["labels"] != changed[3]["labels"]
    for number, own in enumerate((rows, rows, changed), start=1):
        CachedTeacher.of(teacher, own, task.collator(words), tmp_path)
        assert len([place for place in tmp_path.iterdir() if place.is_dir()]) == max(1, number - 1)


def test_logits_over_a_vocabulary_count_towards_the_limit(task, made, tmp_path):
    teacher, words = opened(task, made)
    tokens = sum(len(row["labels"]) for row in encoded(task, "train", words, 40))
    needed = 4 * tokens * len(words)
    with pytest.raises(UserError, match="raise the limit"):
        cached(task, teacher, words, tmp_path, layers=[], target_layers=[], limit_gb=(needed - 1) / 1e9)
    assert not any(place.is_dir() for place in tmp_path.iterdir())


# Models from nothing


@pytest.mark.parametrize("kind", FAMILIES)
def test_a_new_model_has_the_requested_sizes_and_counts_as_untrained(kind, task, made):
    config = AutoModelForSeq2SeqLM.from_pretrained(made / kind).config
    words = AutoTokenizer.from_pretrained(made / kind)
    assert config.model_type == kind and config.hidden_size == 16 and config.num_hidden_layers == 2
    assert Hidden(stack="decoder").depth_of(config) == 2 and config.vocab_size == len(words) <= 40
    assert config.decoder_start_token_id == words.bos_token_id and config.eos_token_id == words.eos_token_id
    assert not task.is_finetuned(made / kind)
    model = task.load_model(made / kind)
    assert model.get_input_embeddings().weight is model.get_output_embeddings().weight


def test_a_trained_model_counts_as_fine_tuned_unless_the_option_says_otherwise(task, data, made, tmp_path):
    sec.save(task.load_model(made / "marian"), tmp_path / "m")
    assert task.is_finetuned(tmp_path / "m")
    assert not Translations.from_data(data, fine_tuned=False).is_finetuned(tmp_path / "m")


def test_the_same_data_and_seed_give_the_same_files(task, made, tmp_path):
    new_model(task, tmp_path / "again", **SIZES)
    new_model(task, tmp_path / "other", **SIZES, seed=1)
    for name in ("tokenizer.json", "config.json"):
        assert (tmp_path / "again" / name).read_bytes() == (made / "marian" / name).read_bytes()
    weights = [folder / "model.safetensors" for folder in (made / "marian", tmp_path / "again", tmp_path / "other")]
    first, again, other = (path.read_bytes() for path in weights)
    assert first == again != other


@pytest.mark.parametrize("kind", ALGORITHMS)
def test_decoding_the_tokens_of_a_text_returns_the_text(kind, tmp_path):
    path = tmp_path / "d.jsonl"
    texts = ["Ein Hund, zwei Hunde!", "Zwei Hunde (und Katzen).", "  und  Katzen?", "Katzen und Hunde, Ä ö ß"]
    path.write_text("\n".join(json.dumps({"en": text, "de": text}) for text in texts * 5))
    words = trained_tokenizer(Translations.from_data(str(path)), 60, algorithm=kind)
    assert isinstance(words, PreTrainedTokenizerFast) and len(words) <= 60
    for text in (*texts[:2], texts[3], "Hunde."):
        ids = words(text)["input_ids"]
        assert words.decode(ids, skip_special_tokens=True) == text
        assert ids[-1] == words.eos_token_id and words.unk_token_id not in ids
    assert words.unk_token_id in words("Ü")["input_ids"]


@pytest.mark.parametrize(
    ("sizes", "said"),
    [
        ({"layers": 0}, "layers is 0: give at least 1"),
        ({"width": 18, "heads": 2}, "give a multiple of 4"),
        ({"dropout": 1.0}, "dropout 1.0 is not in"),
        ({"tokenizer": "words"}, "'words' is not known: choose one of bpe, unigram"),
        (
            {"architecture": "bert"},
            "'bert' is no supported encoder-decoder: choose one of bart, marian, t5",
        ),
        ({"vocabulary": 8}, "characters: give a vocabulary of at least"),
    ],
)
def test_a_new_model_of_impossible_sizes_is_refused(sizes, said, task, tmp_path):
    with pytest.raises(UserError, match=said):
        new_model(task, tmp_path / "m", **SIZES | sizes)
    assert not (tmp_path / "m").exists()


def test_a_new_model_needs_a_task_that_generates(tmp_path):
    path = tmp_path / "d.csv"
    path.write_text("text,label\na,x\nb,y\nc,x\nd,y\n")
    with pytest.raises(UserError, match="for translation or summarisation alone"):
        new_model(open_task("classification", str(path), {}, metric=None, seed=0, rows=None), tmp_path / "m")


# The whole job


def test_the_command_creates_trains_prunes_and_scores_a_model(data, tmp_path, secateur):
    sizes = [word for name, value in SIZES.items() for word in (f"--{name.replace('_', '-')}", value)]
    shown = json.loads(secateur("new", "--data", data, *sizes, "-o", tmp_path / "new", "--json"))
    assert shown["vocabulary"] <= 40
    keys = {
        "training.epochs": 1,
        "training.teacher_epochs": 1,
        "measurement.shapes": [[1, 8]],
        "measurement.repeats": 1,
        "training.bf16": False,
        "training.evaluation_rows": 3,
    }
    values = {"model": str(tmp_path / "new"), "data": data, "data.task": "translation", "data.options": {"beams": 2}}
    wanted = recipe.make(
        values
        | keys
        | {
            "target.density": 0.5,
            "data.max_length": 40,
            "training.batch_size": 8,
            "training.evaluations": 1,
            "target.units": ["ffn", "head"],
        }
    )
    assert wanted.distillation.label_smoothing == 0.1 and not wanted.distillation.cache
    assert len(RunData(wanted).eval_rows) == 3
    report = pipeline.run(wanted, tmp_path / "run")
    assert set(report.scores) == {"bleu", "chrf"} and 0.3 < report.density["prunable"] <= 0.5
    assert report.verified["masked_compact"] < 1e-3
    assert (tmp_path / "run" / "teacher").is_dir()  # the new model was not fine-tuned yet
    logged = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert {"loss_logits", "loss_hidden_encoder", "loss_hidden_decoder"} <= set().union(*logged)
    assert any("eval_bleu" in line for line in logged)
    card = (tmp_path / "run" / "model" / "README.md").read_text()
    assert "pipeline_tag: translation" in card and "model.generate(**inputs, num_beams=5)" in card
    options = ("--data", data, "--task", "translation", "--max-length", 40, "--task-option", "beams=2")
    scored = json.loads(secateur("eval", tmp_path / "run", *options, "--json"))
    assert scored["scores"] == pytest.approx(Report.load(tmp_path / "run").scores)
    assert scored["rows"] == 7
    assert json.loads(secateur("verify", tmp_path / "run", "--json"))["passed"]


def test_batches_that_compare_models_have_decoder_inputs(task, made):
    words = AutoTokenizer.from_pretrained(made / "marian")
    (batch,) = batches(task, encoded(task, "validation", words, 40), words)
    assert batch["labels"].shape[0] == 7


def test_cofi_prunes_a_model_that_generates_with_its_defaults(data, made, tmp_path):
    keys = {
        "training.epochs": 4,
        "training.teacher_epochs": 1,
        "measurement.shapes": [],
        "training.bf16": False,
        "training.evaluations": 0,
        "data.max_length": 40,
    }
    values = {"model": str(made / "marian"), "data": data, "data.task": "translation", "data.options": {"beams": 2}}
    wanted = recipe.make(
        values | keys | {"method": "cofi", "method.options": {"learning_rate": 0.3}, "target.density": 0.6}
    )
    assert wanted.distillation.match == "nearest-ordered"
    report = pipeline.run(wanted, tmp_path / "run")
    assert report.density["prunable"] <= 0.6 and report.verified["masked_compact"] < 1e-3
