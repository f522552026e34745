"""Sentence embeddings: texts and pairs in, what is refused, the scores, and prompts."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from small_world import config, tokenizer, write_model
from transformers import BertModel, EvalPrediction

from secateur.measure.evaluation import encoded, scores, scores_with_error
from secateur.surgery.checkpoint import save
from secateur.surgery.opening import open_model, open_tokenizer
from secateur.surgery.sentence.attach import attach_head, head_of
from secateur.surgery.sentence.head import SentenceHead, Settings
from secateur.system.errors import UserError
from secateur.tasks.embedding import SentenceEmbedding
from secateur.tasks.embedding_scores import Retrieval, ScoredPairs, text_scores
from secateur.tasks.task import examples, open_task

WORDS = ["fine", "bad", "good", "dull", "film", "book"]
TEXTS = [f"{one} {other}" for one in WORDS for other in WORDS]
SCORED = [f"a {text}" for text in TEXTS]
SETTINGS = Settings({"query": "a ", "document": "book and "}, None, "cosine", 12)


def lines(path, texts=TEXTS):
    path.write_text("\n".join(texts) + "\n")
    return str(path)


def rows_of(path, rows):
    path.write_text("\n".join(map(json.dumps, rows)))
    return str(path)


def embedder(folder, settings=SETTINGS):
    model = open_model(write_model(folder / "encoder"))
    attach_head(model, SentenceHead(["mean"], width=16, settings=settings))
    save(model, folder / "embedder", tokenizer=tokenizer())
    return str(folder / "embedder")


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A sentence-transformers folder, its encoder alone, texts, pairs with scores, and a folder of retrieval."""
    folder = tmp_path_factory.mktemp("embedding")
    embedder(folder)
    lines(folder / "texts.txt")
    pairs = zip(SCORED, SCORED[7:], strict=False)
    rows = [{"sentence1": one, "sentence2": other, "score": float(n % 5)} for n, (one, other) in enumerate(pairs)]
    rows_of(folder / "pairs.jsonl", rows)
    (folder / "retrieval" / "qrels").mkdir(parents=True)
    rows_of(folder / "retrieval" / "corpus.jsonl", [{"_id": f"d{n}", "text": text} for n, text in enumerate(TEXTS)])
    rows_of(folder / "retrieval" / "queries.jsonl", [{"_id": f"q{n}", "text": SCORED[n]} for n in range(8)])
    qrels = ["query-id\tcorpus-id\tscore", *(f"q{n}\td{(n + 1) % 8}\t1" for n in range(8)), "q0\td9\t0"]
    (folder / "retrieval" / "qrels" / "test.tsv").write_text("\n".join(qrels) + "\n")
    return folder


def read(world, name="texts.txt", **options):
    return SentenceEmbedding.from_data(str(world / name), **options)


def test_texts_are_read_once_each_and_some_are_split_off(world, tmp_path):
    task = SentenceEmbedding.from_data(lines(tmp_path / "t.txt", [*TEXTS, "", *TEXTS[:9]]))
    train, scored = (task.splits[name]["text"] for name in ("train", "validation"))
    assert sorted([*train, *scored]) == sorted(TEXTS) and len(scored) == 4
    assert task.metric == "neighbours" and task.labels is None and task.label_names == ()


def test_columns_of_text_are_all_texts(tmp_path):
    rows = [{"id": str(n), "one": text, "two": text.upper()} for n, text in enumerate(TEXTS)]
    task = SentenceEmbedding.from_data(rows_of(tmp_path / "t.jsonl", rows))
    assert len(task.splits["train"]) + len(task.splits["validation"]) == 2 * len(TEXTS)


def test_pairs_keep_their_texts_together(world, tmp_path):
    rows = [{"anchor": text, "positive": f"a {text}", "negative": "and"} for text in TEXTS]
    task = SentenceEmbedding.from_data(rows_of(tmp_path / "p.jsonl", rows)).fitted(str(world / "embedder"), "model")
    found = encoded(task, "train", open_tokenizer(world / "embedder"), 12)
    words = tokenizer()
    for own in examples(found):
        anchor, positive, negative = (words.decode(found[n]["input_ids"][1:-1]) for n in own)
        assert anchor.startswith("a ") and positive == f"book and {anchor}" and negative == "book and and"
    assert len(examples(found)) == len(task.splits["train"])


def test_no_training_text_is_scored(world, tmp_path):
    task = read(world, evaluation=str(world / "pairs.jsonl"))
    scored = set(task.splits["validation"]["text"])
    assert task.metric == "spearman" and not scored & {*task.splits["train"]["text"]}
    with pytest.raises(UserError, match="every training text is scored"):
        SentenceEmbedding.from_data(lines(tmp_path / "t.txt", sorted(scored)), evaluation=str(world / "pairs.jsonl"))


def test_a_scored_text_with_spaces_around_it_is_no_training_text(world, tmp_path):
    rows = [{"sentence1": f" {text} ", "sentence2": "a film", "score": n} for n, text in enumerate(TEXTS[:9])]
    task = read(world, evaluation=rows_of(tmp_path / "pairs.jsonl", rows))
    assert {*TEXTS[:9]} <= {*task.splits["validation"]["text"]} and not {*TEXTS[:9]} & {*task.splits["train"]["text"]}


def test_a_reference_with_fewer_positions_reads_the_first_tokens(world, tmp_path):
    torch.manual_seed(1)
    large = BertModel(config())
    large.config.max_position_embeddings = 64
    large = attach_head(BertModel(large.config), SentenceHead(["mean"], width=16))
    save(large, tmp_path / "large", tokenizer=tokenizer(max_length=64))
    texts = lines(tmp_path / "long.txt", [" ".join([text] * 20) for text in TEXTS])
    task = SentenceEmbedding.from_data(texts, reference=str(world / "embedder")).fitted(large, "model")
    rows = encoded(task, "validation", tokenizer(max_length=64), 64)
    assert max(len(row["input_ids"]) for row in rows) > 32
    assert 0.0 <= scores(large, task, rows, tokenizer(max_length=64))["neighbours"] <= 1.0


def paired(folder):
    return rows_of(folder / "anchors.jsonl", [{"anchor": text, "positive": f"a {text}"} for text in TEXTS])


def test_prompts_are_the_models_unless_others_are_named(world, tmp_path):
    own = read(world).fitted(str(world / "embedder"), "model")
    assert [own.prompt(kind) for kind in (None, "query", "document")] == ["book and ", "a ", "book and "]
    other = SentenceEmbedding.from_data(paired(tmp_path), query_prompt="good ").fitted(str(world / "embedder"), "model")
    assert [other.prompt(kind) for kind in (None, "query", "document")] == ["book and ", "good ", "book and "]
    assert own.limits(256) == {"input_ids": 12} and own.limits(8) == {"input_ids": 8}


@pytest.mark.parametrize(
    ("prompts", "default", "asked", "expected"),
    [
        ({"query": "a ", "document": "book and "}, None, {}, "book and "),
        ({"query": "a ", "document": "book and "}, None, {"document_prompt": ""}, ""),
        ({"query": "a "}, None, {}, ""),
        ({"query": "a ", "other": "the "}, "other", {}, "the "),
        ({"query": "a ", "other": "the "}, "other", {"document_prompt": "film "}, "film "),
        ({}, None, {"document_prompt": "film "}, "film "),
    ],
)
@pytest.mark.parametrize("evaluation", [None, "pairs.jsonl"])
def test_single_texts_have_the_prompt_with_which_documents_are_embedded(
    world, tmp_path, prompts, default, asked, expected, evaluation
):
    """Those that are trained on, and those that are scored."""
    folder, words = embedder(tmp_path, Settings(prompts, default, "cosine", 12)), tokenizer()
    evaluation = evaluation and str(world / evaluation)
    task = read(world, evaluation=evaluation, **asked).fitted(folder, "model")
    for split in ("train", "validation"):
        (row, *_) = encoded(task, split, open_tokenizer(folder), 12)
        assert words.decode(row["input_ids"][1:-1]) == words.decode(
            words(expected + task.splits[split]["text"][0])["input_ids"][1:-1]
        )
    assert task.described()["prompts"] == (f"{expected!r} before single texts" if expected else "none")


def test_the_prompts_of_pairs_and_of_retrieval_are_told(world, tmp_path):
    pairs = SentenceEmbedding.from_data(paired(tmp_path)).fitted(str(world / "embedder"), "model")
    assert pairs.described()["prompts"] == "'book and ' before documents, 'a ' before queries"
    searched = read(world, evaluation=str(world / "retrieval"), query_prompt="good ", document_prompt="")
    assert searched.described()["prompts"] == "'good ' before queries"


@pytest.mark.parametrize("evaluation", [None, "pairs.jsonl"])
def test_a_prompt_for_queries_is_refused_where_there_are_none(world, evaluation):
    with pytest.raises(UserError, match="no queries to put query_prompt before: single texts have document_prompt"):
        read(world, query_prompt="a ", evaluation=evaluation and str(world / evaluation))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pooling": "median"}, "pooling 'median' is not known"),
        ({"metric": "spearman"}, "'spearman' is not known for this evaluation: choose one of neighbours, cosine"),
        ({"evaluation": "nowhere.csv"}, "is neither a file of pairs"),
        ({"pairs": True}, "has no pairs of texts"),
    ],
)
def test_what_does_not_fit_is_refused(world, options, message):
    with pytest.raises(UserError, match=message):
        read(world, **options)


def test_other_tasks_refuse_an_evaluation_and_a_pooling():
    with pytest.raises(UserError, match=r"task 'classification' has no evaluation: leave out --eval"):
        open_task("classification", "bbc", {}, metric=None, seed=0, rows=None, evaluation="pairs.csv")


def test_a_bare_encoder_needs_a_pooling(world):
    encoder = str(world / "encoder")
    with pytest.raises(UserError, match="name a pooling by --pooling"):
        read(world).load_model(encoder)
    model = read(world, pooling="cls").load_model(encoder)
    assert head_of(model).poolings == ("cls",) and model.pooler is None


# Scores


def score(task, world, name="embedder"):
    model, words = open_model(world / name), open_tokenizer(world / name)
    return scores_with_error(model, task.fitted(str(world / "embedder"), "model"), encoded_rows(task, world), words)


def encoded_rows(task, world):
    fitted = task.fitted(str(world / "embedder"), "model")
    return encoded(fitted, "validation", open_tokenizer(world / "embedder"), 256)


def test_a_model_agrees_with_itself(world):
    found, error = score(read(world), world)
    assert found["neighbours"] == 1.0 and found["cosine"] == pytest.approx(1, abs=1e-6) and error == 0.0


def test_the_reference_reads_as_many_tokens_as_the_model_that_is_scored(world):
    """A teacher agrees with itself also where texts are cut short, and its vectors are not those of whole texts."""
    task = read(world).fitted(str(world / "embedder"), "model")
    model, words = task.load_model(world / "embedder"), open_tokenizer(world / "embedder")
    short, whole = (encoded(task, "validation", words, length) for length in (3, 256))
    assert scores(model, task, short, words)["cosine"] == pytest.approx(1, abs=1e-6)
    vectors = [task.reference.vectors(task, rows) for rows in (short, whole)]
    assert not np.allclose(*vectors, atol=1e-3)


def test_scores_of_texts_by_hand():
    reference = np.eye(12, dtype=np.float32)[:, :4] + np.arange(48).reshape(12, 4) / 100
    assert text_scores(2 * reference, reference) == {"neighbours": 1.0, "cosine": pytest.approx(1.0)}
    assert set(text_scores(reference[:, :3], reference)) == {"neighbours"}
    flipped = reference.copy()
    flipped[0] *= -1
    assert text_scores(flipped, reference)["cosine"] == pytest.approx(10 / 12)


def test_pairs_are_scored_by_the_rank_correlation_of_their_cosines(world):
    task = read(world, evaluation=str(world / "pairs.jsonl"))
    found, error = score(task, world)
    rows = encoded_rows(task, world)
    with torch.no_grad():
        model, words = open_model(world / "embedder"), open_tokenizer(world / "embedder")
        one, other = (
            torch.cat([model(**words(f"book and {t}", return_tensors="pt")).sentence_embedding for t in own])
            for own in zip(*task.evaluation.pairs, strict=True)
        )
    expected = spearmanr((one * other).sum(-1), task.evaluation.gold).statistic
    assert found["spearman"] == pytest.approx(expected, abs=1e-4)
    assert len(examples(rows)) == len(task.evaluation.pairs) and error > 0


@pytest.mark.parametrize("similarity", ["cosine", "dot", "euclidean", "manhattan"])
def test_vectors_are_compared_as_the_model_does(world, similarity):
    """As evaluators of sentence-transformers do with a model whose folder says so."""
    from sentence_transformers.util import SimilarityFunction

    pairs, retrieval = (read(world, evaluation=str(world / name)) for name in ("pairs.jsonl", "retrieval"))
    fitted = [replace(task, settings=Settings(similarity=similarity)) for task in (pairs, retrieval)]
    names = [task.splits["validation"]["member"] for task in fitted]
    vectors = [np.random.default_rng(0).normal(size=(len(own), 3)).astype(np.float32) ** 3 for own in names]
    found, searched = (
        task.score(EvalPrediction(rows, None), [{"member": name} for name in own])
        for task, rows, own in zip(fitted, vectors, names, strict=True)
    )
    theirs = SimilarityFunction.to_similarity_pairwise_fn(similarity)(vectors[0][::2], vectors[0][1::2])
    assert found["spearman"] == pytest.approx(spearmanr(theirs, pairs.evaluation.gold).statistic, abs=1e-6)
    queries, documents = vectors[1][:8], vectors[1][8:]
    ranked = (-SimilarityFunction.to_similarity_fn(similarity)(queries, documents)).argsort(dim=1)
    ranks = [own.tolist().index((number + 1) % 8) + 1 for number, own in enumerate(ranked)]
    expected = np.mean([1 / rank if rank <= 10 else 0 for rank in ranks])
    assert searched["mrr@10"] == pytest.approx(expected) and fitted[0].described()["similarity"] == similarity


def test_neighbours_are_those_of_the_models_similarity():
    """Lengths change the nearest by dot product and by distance, and none by cosine."""
    generator = np.random.default_rng(0)
    vectors, lengths = generator.normal(size=(60, 4)), generator.uniform(1, 9, size=(60, 1))
    rows, longer = (each.astype(np.float32) for each in (vectors, vectors * lengths))
    assert text_scores(longer, rows, "cosine")["neighbours"] == 1.0
    others = [text_scores(longer, rows, name)["neighbours"] for name in ("dot", "euclidean", "manhattan")]
    assert max(others) < 0.9 and len({*others}) == 3


def test_a_similarity_that_is_not_known_is_refused(world, tmp_path):
    shutil.copytree(world / "embedder", tmp_path / "odd")
    (tmp_path / "odd" / "config_sentence_transformers.json").write_text('{"similarity_fn_name": "angle"}')
    with pytest.raises(UserError, match="compares by 'angle': expected one of cosine, dot, euclidean, manhattan"):
        open_model(tmp_path / "odd")


def test_retrieval_finds_what_the_qrels_name(world):
    task = read(world, evaluation=str(world / "retrieval"))
    assert isinstance(task.evaluation, Retrieval) and task.evaluation.relevant == [[(n + 1) % 8] for n in range(8)]
    names = task.splits["validation"]["member"]
    vectors = np.zeros((len(names), len(TEXTS)), np.float32)
    for place, name in enumerate(names):
        vectors[place, (int(name[1:]) + 1) % 8 if name[0] == "q" else int(name[1:])] = 1
    perfect = task.score(EvalPrediction(vectors, None), [{"member": name} for name in names])
    assert perfect == {name: 1.0 for name in ("ndcg@10", "mrr@10", "recall@10", "recall@100", "map@100")}
    found, error = score(task, world)
    assert 0 < found["ndcg@10"] < 1 and error > 0
    assert len(examples(encoded_rows(task, world))) == 8, "an example is a query"


@pytest.mark.parametrize("score", ["", "high"])
def test_a_score_of_the_qrels_that_is_no_number_is_refused(world, tmp_path, score):
    shutil.copytree(world / "retrieval", tmp_path / "retrieval")
    with (tmp_path / "retrieval" / "qrels" / "test.tsv").open("a") as file:
        file.write(f"q1\td5\t{score}\n")
    with pytest.raises(UserError, match=r"test\.tsv has the score .* of d5: give a number in every row"):
        read(world, evaluation=str(tmp_path / "retrieval"))


def test_two_texts_of_one_number_are_refused(world, tmp_path):
    shutil.copytree(world / "retrieval", tmp_path / "retrieval")
    with (tmp_path / "retrieval" / "corpus.jsonl").open("a") as file:
        file.write("\n" + json.dumps({"_id": "d0", "text": "another"}))
    with pytest.raises(UserError, match=r"corpus\.jsonl has two texts of the _id 'd0'"):
        read(world, evaluation=str(tmp_path / "retrieval"))


def test_the_fingerprint_changes_with_the_scores_of_pairs(world, tmp_path):
    """It is that of the scored texts only, not that of the training texts, which are the same."""
    rows = [json.loads(line) for line in (world / "pairs.jsonl").read_text().splitlines()]
    rows[0]["score"] += 1
    one, other = (
        read(world, evaluation=place) for place in (str(world / "pairs.jsonl"), rows_of(tmp_path / "p.jsonl", rows))
    )
    assert one.fingerprint() != other.fingerprint() and one.fingerprint("validation") != other.fingerprint("validation")
    assert one.fingerprint("train") == other.fingerprint("train")


def test_pairs_are_numbered_by_their_place(world):
    task = read(world, evaluation=str(world / "pairs.jsonl"))
    assert isinstance(task.evaluation, ScoredPairs)
    vectors = np.random.default_rng(0).normal(size=(len(task.splits["validation"]), 4)).astype(np.float32)
    order = np.random.default_rng(1).permutation(len(vectors))
    rows = [{"member": name} for name in task.splits["validation"]["member"]]
    whole = task.score(EvalPrediction(vectors, None), rows)
    assert task.score(EvalPrediction(vectors[order], None), [rows[n] for n in order]) == pytest.approx(whole)


def test_without_a_reference_or_an_evaluation_nothing_can_be_scored(world):
    task = read(world)
    model, words = open_model(world / "embedder"), open_tokenizer(world / "embedder")
    with pytest.raises(UserError, match="reference=MODEL, or score pairs or retrieval by --eval"):
        scores(model, task, encoded(task, "validation", words, 12), words)


def test_a_reference_is_refused_before_anything_is_written_or_trained(world, tmp_path):
    with pytest.raises(UserError, match=r"typo' does not exist"):
        read(world, reference=str(tmp_path / "typo"))
    with pytest.raises(UserError, match="the reference is no sentence-transformers model"):
        read(world, reference=str(world / "encoder"))
    shutil.copytree(world / "embedder", tmp_path / "bare", ignore=shutil.ignore_patterns("*token*", "vocab*"))
    with pytest.raises(UserError, match="has no tokenizer"):
        read(world, reference=str(tmp_path / "bare"))


def test_the_reference_may_be_a_run_and_has_its_own_pooling(world, tmp_path):
    """The pooling is that of the model which is scored."""
    shutil.copytree(world / "embedder", tmp_path / "run" / "model")
    task = read(world, reference=str(tmp_path / "run"), pooling="cls").fitted(str(world / "encoder"), "model")
    rows = encoded(task, "validation", tokenizer(), 12)
    found = task.reference.vectors(task, rows)
    assert np.allclose(found, read(world, reference=str(world / "embedder")).reference.vectors(task, rows))


def test_one_column_of_texts_may_be_named_as_it_is(tmp_path):
    path = rows_of(tmp_path / "d.jsonl", [{"sentence": text, "note": f"of {text}"} for text in TEXTS])
    texts = [
        {text for split in SentenceEmbedding.from_data(path, text=named).splits.values() for text in split["text"]}
        for named in ("sentence", ["sentence"])
    ]
    assert texts[0] == texts[1] == {*TEXTS}


def test_pairs_that_are_left_out_are_counted(tmp_path, caplog):
    rows = [{"query": text, "passage": f"a {text}", "negative": "" if n % 3 else "b"} for n, text in enumerate(TEXTS)]
    path = rows_of(tmp_path / "train.jsonl", rows)
    with caplog.at_level("WARNING", "secateur"):
        SentenceEmbedding.from_data(path)
    counts = [record.args for record in caplog.records if "left out" in record.msg]
    assert sum(count for count, *_ in counts) == 24 and sum(whole for _, whole, *_ in counts) == 36
    assert {named for *_, named in counts} == {"negative"}
