"""Reranking: the forms of data, what is refused, the scores, and models of sentence-transformers in and out."""

import itertools
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from datasets import ClassLabel, Dataset, DatasetDict
from scipy.stats import spearmanr
from small_world import config, recipe_values, tokenizer, write_model
from transformers import BertForSequenceClassification, EvalPrediction

import secateur
from secateur.budget.space import Space
from secateur.deploy.hub_layout import export_folder
from secateur.measure.evaluation import encoded, predicted
from secateur.run import pipeline, recipe
from secateur.structure.plan import Plan
from secateur.surgery.checkpoint import save
from secateur.surgery.cut import cut
from secateur.surgery.opening import open_model, open_tokenizer
from secateur.system.errors import UserError
from secateur.tasks.predictors import Asked
from secateur.tasks.reranking import Reranking
from secateur.tasks.reranking_scores import MRR, NDCG, random_order, ranking_scores

WORDS = ["fine", "bad", "good", "dull"]
QUERIES = [" ".join(words) for words in itertools.product(WORDS, WORDS)]
IDENTITY = "torch.nn.modules.linear.Identity"


def write(path, rows):
    path.write_text("\n".join(map(json.dumps, rows)))
    return str(path)


def with_negatives(path):
    """Queries, each with a passage that has its words and three that have not."""
    rows = [{"query": q, "positive": f"{q} film", "negatives": ["film", "book and", "a book"]} for q in QUERIES]
    return write(path, rows)


def alone(path):
    """Pairs without labels."""
    return write(path, [{"query": query, "passage": f"a {query} film"} for query in QUERIES])


def cross_encoder(folder, outputs=1, seed=0, **settings):
    """A model whose scores differ from pair to pair."""
    torch.manual_seed(seed)
    model = BertForSequenceClassification(config(num_labels=outputs, **settings))
    torch.nn.init.normal_(model.classifier.weight)
    model.save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return str(folder)


def lists(task):
    """Query -> its passages with their labels, of both splits."""
    return {
        row["query"]: list(zip(row["passages"], row["labels"], strict=True))
        for split in task.splits.values()
        for row in split
    }


# Forms of data

MANY = [f"q {number}" for number in range(20)]
ROWS = {
    "pairs": [{"query": q, "passage": p, "score": n} for q in MANY for p, n in (("a", 0.5), ("b", 0.25))],
    "a list of labels": [{"question": q, "documents": ["a", "b"], "labels": [0.5, 0.25]} for q in MANY],
    "a pair twice": [
        {"Query": q, "text": p, "label": n} for q in MANY for p, n in (("a", 0.5), ("b", 0.25), ("a", 0.5))
    ],
}
JUDGED = {
    "negatives": [{"anchor": q, "positive": "a", "negatives": ["b", "c"]} for q in MANY],
    "numbered negatives": [{"query": q, "positive": ["a"], "negative_1": "b", "negative_2": "c"} for q in MANY],
    "truth": [{"query": q, "passage": p, "label": p == "a"} for q in MANY for p in "abc"],
}


@pytest.mark.parametrize("form", ROWS)
def test_labels_belong_to_the_passages_of_a_query(tmp_path, form):
    task = Reranking.from_data(write(tmp_path / "d.jsonl", ROWS[form]))
    assert lists(task) == {q: [("a", 0.5), ("b", 0.25)] for q in MANY}
    assert [len(task.splits[name]) for name in ("train", "validation")] == [18, 2]
    assert task.metric == "spearman" and task.labelled and task.sigmoid  # no label is over 0.5
    assert Reranking.from_data(write(tmp_path / "d.jsonl", ROWS[form]), relevant=0.3).metric == MRR


def test_a_label_that_is_the_limit_is_not_relevant(tmp_path):
    rows = [{"query": q, "passage": p, "label": n} for q in MANY for p, n in (("a", 0.3), ("b", 0.9), ("c", 0.0))]
    task = Reranking.from_data(write(tmp_path / "d.jsonl", rows), relevant=0.3)
    count = len(task.splits["validation"])
    labels = np.array([[0.3, 0.9, 0.0]] * count, np.float32).reshape(-1, 1)
    best_first = EvalPrediction(np.array([[3.0, 2.0, 1.0]] * count).reshape(-1, 1), labels)
    encodings = [{"example": n // 3, "labels": float(label)} for n, label in enumerate(labels.ravel())]
    assert task.score(best_first, encodings)[MRR] == 0.5 == task.compute_metrics(best_first)[MRR]
    assert task.baseline(encodings) == pytest.approx((1 + 1 / 2 + 1 / 3) / 3)
    none = [{"query": q, "passage": p, "label": n} for q in MANY for p, n in (("a", 0.3), ("b", 0.0))]
    assert Reranking.from_data(write(tmp_path / "n.jsonl", none), relevant=0.3).metric == "spearman"


@pytest.mark.parametrize("form", JUDGED)
def test_positives_and_negatives_have_the_labels_1_and_0(tmp_path, form):
    task = Reranking.from_data(write(tmp_path / "d.jsonl", JUDGED[form]))
    assert lists(task) == {q: [("a", 1.0), ("b", 0.0), ("c", 0.0)] for q in MANY} and task.metric == MRR


def test_columns_can_be_named(tmp_path):
    data = write(tmp_path / "d.jsonl", [{"x": q, "y": "a", "z": ["b"], "query": "no", "text": "no"} for q in MANY])
    assert lists(Reranking.from_data(data, text=["x", "y", "z"])) == {q: [("a", 1.0), ("b", 0.0)] for q in MANY}


@pytest.mark.parametrize("name", ["passage", "positive"])
def test_passages_of_other_queries_are_drawn_by_the_seed(tmp_path, name):
    rows = [{"query": q, name: f"{number % 12}"} for number, q in enumerate(MANY)]
    data = write(tmp_path / "d.jsonl", rows)
    task, again, other = (Reranking.from_data(data, negatives=3, seed=seed) for seed in (1, 1, 2))
    assert task.labelled == (name == "positive")
    for number, query in enumerate(MANY):
        (own, label), *others = lists(task)[query]
        assert (own, label) == (f"{number % 12}", 1.0)
        assert len({passage for passage, _ in others} - {own}) == len(others) and {n for _, n in others} == {0.0}
    assert {len(row["passages"]) for row in task.splits["train"]} == {4}
    assert lists(task) == lists(again) != lists(other)


def refused(tmp_path, match, rows, **options):
    with pytest.raises(UserError, match=match):
        Reranking.from_data(write(tmp_path / "d.jsonl", rows), **options)


@pytest.mark.parametrize(
    ("row", "match"),
    [
        ({"query": " ", "passage": "a", "label": 1}, "have no query"),
        ({"query": "q", "passage": None, "label": 1}, "have no passage"),
        ({"query": "q", "passage": "", "label": 1}, "have a passage that is empty, or no text"),
        (
            {"query": "q", "passage": "a", "label": None},
            "have a(nother)? number|no finite number|another number of labels",
        ),
    ],
)
def test_rows_that_are_incomplete_are_refused_with_their_number(tmp_path, row, match):
    good = {"query": "q", "passage": "a", "label": 0}
    refused(tmp_path, rf"1 of the 3 rows of the train split ({match}).*the first is row 1", [good, row, good])


@pytest.mark.parametrize(
    ("row", "options", "match"),
    [
        ({"query": "q", "passages": ["a", "b"]}, {}, "lists of passages without labels: name the column"),
        ({"query": "q", "passage": "a"}, {}, "has all passages of its split"),
        ({"query": "q", "passage": "a", "label": "yes"}, {}, "no finite number"),
        ({"query": "q", "passages": ["a", "b"], "labels": [1]}, {}, "another number of labels than of passages"),
        ({"query": "q", "passage": "a", "label": 1}, {"negatives": 2}, "leave out the task's option negatives"),
        ({"query": "q", "passage": "a", "label": 1}, {"metric": "map"}, "choose one of mrr@10, ndcg@10, spearman"),
        ({"query": "q", "passage": "a", "label": 1}, {"metric": MRR}, "needs queries with passages that are relevant"),
        ({"query": "q", "positive": "a", "negative": "b", "x": 1}, {"label": "x"}, "name either"),
        ({"query": "q", "passage": "a", "label": 1}, {"text": ["query"]}, "name that of the query and that of"),
        ({"query": "q", "answers": "a"}, {}, "the data has no text under a usual name"),
        ({"query": "q", "passage": "a"}, {"negatives": 0}, "at least 1"),
    ],
)
def test_data_and_options_that_do_not_fit_are_refused(tmp_path, row, options, match):
    refused(tmp_path, match, [{**row, "query": f"{row['query']} {number}"} for number in range(4)], **options)


def test_named_classes_are_refused(tmp_path):
    rows = Dataset.from_dict({"question": ["q", "r"] * 4, "sentence": ["a", "b"] * 4, "label": [0, 1] * 4})
    named = rows.cast_column("label", ClassLabel(names=["entailment", "not_entailment"]))
    DatasetDict(train=named).save_to_disk(tmp_path / "d")
    with pytest.raises(UserError, match="are the classes entailment, not_entailment: give numbers, larger for more"):
        Reranking.from_data(str(tmp_path / "d"))


# Rows and scores


def test_a_pair_is_a_row_that_names_its_query(tmp_path):
    task = Reranking.from_data(with_negatives(tmp_path / "d.jsonl"))
    rows = encoded(task, "train", tokenizer(), 8, [2, 0])
    assert [row["example"] for row in rows] == [0] * 4 + [1] * 4
    assert [row["labels"] for row in rows] == [[1.0], [0.0], [0.0], [0.0]] * 2
    query, passage = task.splits["train"][2]["query"], task.splits["train"][2]["passages"][1]
    assert rows[1]["input_ids"] == tokenizer()(query, passage)["input_ids"]
    assert max(len(row["input_ids"]) for row in rows) == 8
    assert task.collator(tokenizer())(rows).keys() == {"input_ids", "token_type_ids", "attention_mask", "labels"}


def test_the_scores_of_two_lists_by_hand(tmp_path):
    """Ranks 2 of 3 and 1 of 2; the third list has no relevant passage and counts for the correlation only."""
    task = Reranking.from_data(with_negatives(tmp_path / "d.jsonl"))
    logits, labels = np.array([[1.0], [2.0], [0.0], [5.0], [4.0], [9.0]]), np.array([1, 0, 0, 1, 0, 0])[:, None]
    rows = [{"example": number} for number in (0, 0, 0, 7, 7, 3)]
    found = task.score(EvalPrediction(logits, labels), rows)
    assert found[MRR] == pytest.approx((1 / 2 + 1) / 2)
    assert found[NDCG] == pytest.approx((1 / np.log2(3) + 1) / 2)
    ranks = np.array([2, 3, 1, 5, 4, 6]), np.array([5.5, 2.5, 2.5, 5.5, 2.5, 2.5])
    assert found["spearman"] == pytest.approx(np.corrcoef(*ranks)[0, 1])


def test_metrics_without_rows_are_those_of_the_scored_pairs_in_order(tmp_path):
    """Of both lists of four, the relevant passage is the first: it is on place 1 and on place 4."""
    task = Reranking.from_data(with_negatives(tmp_path / "d.jsonl"))
    logits, labels = np.array([9.0, 1, 2, 3, 0, 1, 2, 3]), np.array([1.0, 0, 0, 0] * 2)
    assert task.compute_metrics(EvalPrediction(logits, labels))[MRR] == pytest.approx((1 + 1 / 4) / 2)


def test_a_random_order_has_the_mean_of_all_orders():
    relevant = np.array([True, False, False, True, False])
    orders = [(np.array(order, float), relevant) for order in itertools.permutations(range(5))]
    found = ranking_scores(orders)
    for metric in (MRR, NDCG):
        assert random_order(metric, [relevant]) == pytest.approx(found[metric], rel=1e-9)
    many = np.arange(40) < 2  # of which ten places count
    drawn = [(np.random.default_rng(seed).normal(size=40), many) for seed in range(400)]
    assert random_order(MRR, [many]) == pytest.approx(ranking_scores(drawn)[MRR], rel=0.2)


def test_the_baseline_is_a_random_order(tmp_path):
    task = Reranking.from_data(with_negatives(tmp_path / "d.jsonl"))
    rows = encoded(task, "validation", tokenizer(), 16)
    assert task.baseline(rows) == pytest.approx((1 + 1 / 2 + 1 / 3 + 1 / 4) / 4)


# Models


def test_the_head_decides_whether_labels_are_probabilities(tmp_path):
    task = Reranking.from_data(with_negatives(tmp_path / "d.jsonl"))
    kinds = {None: True, "multi_label_classification": True, "regression": False}
    for problem_type, sigmoid in kinds.items():
        folder = cross_encoder(tmp_path / str(problem_type), problem_type=problem_type)
        assert task.fitted(folder, "model").sigmoid == sigmoid and task.is_finetuned(folder)
    assert task.fitted(write_model(tmp_path / "encoder"), "model").sigmoid  # whose new head is a CrossEncoder's
    with pytest.raises(UserError, match="2 labels"):
        task.load_model(cross_encoder(tmp_path / "two", outputs=2))


def test_pairs_alone_need_a_model_that_scores_them(tmp_path):
    values = recipe_values(write_model(tmp_path / "encoder"), alone(tmp_path / "d.jsonl"))
    with pytest.raises(UserError, match="no head that scores pairs, and the data no labels to train one by"):
        pipeline.run(recipe.make(values | {"data.task": "reranking"}), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_pairs_alone_are_compared_with_the_scores_of_the_teacher(tmp_path):
    folder, other = (cross_encoder(tmp_path / f"{seed}", seed=seed) for seed in (0, 1))
    task = Reranking.from_data(alone(tmp_path / "d.jsonl")).fitted(folder, "model")
    assert task.metric == "spearman" and task.reference == folder
    rows = encoded(task, "validation", tokenizer(), 6, [1, 0]) + encoded(task, "train", tokenizer(), 6, [3])
    found = {name: predicted(task.load_model(name), task, rows, tokenizer()) for name in (folder, other)}
    assert task.score(*found[folder])["spearman"] == pytest.approx(1)
    first, second = (np.ravel(prediction.predictions) for prediction, _ in found.values())
    expected = spearmanr(first, second).statistic
    assert task.score(*found[other])["spearman"] == pytest.approx(expected) and abs(expected) < 0.99
    fewer = EvalPrediction(second[:3], found[other][0].label_ids[:3])
    ranks = spearmanr(first[:3], second[:3]).statistic
    assert task.score(fewer, found[other][1][:3])["spearman"] == pytest.approx(ranks)
    with pytest.raises(UserError, match=r"compared with those of a reference: name it by --task-option reference="):
        replace(task, reference=None).score(*found[folder])


def test_the_reference_reads_as_many_tokens_as_the_pairs_whatever_was_scored_before(tmp_path):
    folder = cross_encoder(tmp_path / "model")
    task = Reranking.from_data(alone(tmp_path / "d.jsonl"), reference=folder).fitted(folder, "model")
    found = [
        task.score(*predicted(task.load_model(folder), task, rows, tokenizer()))["spearman"]
        for length in (5, 12)
        for rows in [encoded(task, "validation", tokenizer(), length)]
    ]
    assert found == pytest.approx([1, 1])


def test_a_reference_is_refused_before_anything_is_written_or_trained(tmp_path):
    data = alone(tmp_path / "d.jsonl")
    with pytest.raises(UserError, match="typo' does not exist"):
        Reranking.from_data(data, reference=str(tmp_path / "typo"))
    with pytest.raises(UserError, match="the reference is a BertModel, which has no head for the task 'reranking'"):
        Reranking.from_data(data, reference=write_model(tmp_path / "encoder"))
    with pytest.raises(UserError, match=r"the reference has .*2 labels"):
        Reranking.from_data(data, reference=cross_encoder(tmp_path / "two", outputs=2))
    cross_encoder(tmp_path / "run" / "model")
    assert Reranking.from_data(data, reference=str(tmp_path / "run")).reference == str(tmp_path / "run")


def test_a_cross_encoder_with_a_default_prompt_is_refused(tmp_path):
    folder = cross_encoder(tmp_path / "model")
    settings = {"model_type": "CrossEncoder", "prompts": {"x": "find: "}, "default_prompt_name": "x"}
    (tmp_path / "model" / "config_sentence_transformers.json").write_text(json.dumps(settings))
    with pytest.raises(UserError, match="puts the prompt 'x' before its texts"):
        Reranking.from_data(with_negatives(tmp_path / "d.jsonl")).load_model(folder)


def test_a_cut_cross_encoder_keeps_the_prompts_that_can_be_asked_for(tmp_path):
    from sentence_transformers import CrossEncoder

    prompts = {"web": "book and ", "none": ""}
    whole = CrossEncoder(cross_encoder(tmp_path / "plain"), prompts=prompts, activation_fn=torch.nn.Identity())
    whole.save_pretrained(str(tmp_path / "whole"))
    for name, opened in (("first", tmp_path / "whole"), ("again", tmp_path / "first")):
        model = open_model(opened)
        if name == "first":
            space = Space(model, "ffn")
            model = cut(model, Plan.of(space, torch.ones(len(space))))
        save(model, tmp_path / name, tokenizer=tokenizer())
        found = CrossEncoder(str(tmp_path / name), trust_remote_code=True)
        assert found.prompts == prompts and found.default_prompt_name is None
        scores = [float(each.predict([("good", "a film")], prompt_name="web")[0]) for each in (whole, found)]
        assert scores[0] == pytest.approx(scores[1], abs=1e-5)
    assert float(whole.predict([("good", "a film")])[0]) != pytest.approx(scores[0], abs=1e-4)


def test_a_cross_encoder_with_three_classes_is_cut_and_served_as_one(tmp_path):
    """It is none of this task, but of classification; its activation and its longest text stay."""
    from sentence_transformers import CrossEncoder

    plain = cross_encoder(tmp_path / "plain", outputs=3)
    tokenizer(7).save_pretrained(plain)
    whole = CrossEncoder(plain, activation_fn=torch.nn.Tanh())
    whole.save_pretrained(str(tmp_path / "whole"))
    model, words = open_model(tmp_path / "whole"), open_tokenizer(tmp_path / "whole")
    space = Space(model, "ffn")
    save(cut(model, Plan.of(space, torch.ones(len(space)))), tmp_path / "small", tokenizer=words)
    pair = [("good bad fine", "a film and a book and a film")]
    found = CrossEncoder(str(tmp_path / "small"), trust_remote_code=True)
    assert found.max_seq_length == whole.max_seq_length == 7 and found.predict(pair).shape == (1, 3)
    np.testing.assert_allclose(found.predict(pair), whole.predict(pair), atol=1e-5)
    for package in ("onnx", "onnxruntime"):
        pytest.importorskip(package)
    served = export_folder(open_model(tmp_path / "small"), tmp_path / "hub", tokenizer=words, dtypes=("fp32",))
    assert served.max_length == 7


@pytest.fixture(scope="module")
def saved_by_sentence_transformers(tmp_path_factory):
    """A `CrossEncoder` without a sigmoid, in its own folder."""
    from sentence_transformers import CrossEncoder

    folder = tmp_path_factory.mktemp("models")
    CrossEncoder(cross_encoder(folder / "plain"), activation_fn=torch.nn.Identity()).save_pretrained(str(folder / "ce"))
    return str(folder / "ce")


def test_a_cross_encoder_is_pruned_and_loads_as_one(saved_by_sentence_transformers, tmp_path):
    from sentence_transformers import CrossEncoder

    values = recipe_values(saved_by_sentence_transformers, alone(tmp_path / "d.jsonl"))
    own = {"data.task": "reranking", "distillation.terms": {"margin": {}}}
    report = pipeline.run(recipe.make(values | own | {"training.epochs": 2}), tmp_path / "run")
    assert {MRR, NDCG, "spearman"} <= report.scores.keys() and report.outputs["cached"]
    assert report.metric == "spearman" and report.teacher_scores["spearman"] == pytest.approx(1)
    log = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert any(entry.get("loss_margin", 0) > 0 for entry in log)

    folder, pair = str(tmp_path / "run" / "model"), ("fine bad", "a good film")
    assert json.loads((tmp_path / "run" / "model" / "config.json").read_text())["sentence_transformers"] == {
        "activation_fn": IDENTITY
    }
    inputs = tokenizer()(*pair, return_tensors="pt")
    with torch.no_grad():
        expected = float(secateur.load(folder)(**inputs).logits)
    found = CrossEncoder(folder, trust_remote_code=True).predict([pair])
    assert float(found[0]) == pytest.approx(expected, abs=1e-5)


def test_a_new_head_for_numbers_is_one_for_sentence_transformers_too(tmp_path):
    """Its default would be a sigmoid, of scores from 0 to 4."""
    from sentence_transformers import CrossEncoder

    rows = [{"query": q, "passage": p, "score": n} for q in QUERIES for p, n in (("a film", 4), ("a book", 0.5))]
    task = Reranking.from_data(write(tmp_path / "d.jsonl", rows))
    model = task.load_model(write_model(tmp_path / "encoder")).eval()
    model.save_pretrained(tmp_path / "model")
    tokenizer().save_pretrained(tmp_path / "model")
    with torch.no_grad():
        expected = float(model(**tokenizer()("good", "a film", return_tensors="pt")).logits)
    found = CrossEncoder(str(tmp_path / "model")).predict([("good", "a film")])
    assert float(found[0]) == pytest.approx(expected, abs=1e-5)
    predictor = Reranking.predictor
    assert predictor is not None
    (own,) = predictor(Asked(model, tokenizer(), 24, {}), [["good", "a film"]])
    assert own["score"] == pytest.approx(expected, abs=1e-5)
    kept = Reranking.from_data(with_negatives(tmp_path / "negatives.jsonl")).load_model(tmp_path / "encoder")
    assert getattr(kept.config, "sentence_transformers", None) is None  # a probability, as without a key
