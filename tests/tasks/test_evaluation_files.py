"""Files that embeddings are scored by: under which names pairs and numbers are found, and every form of BEIR's."""

import gzip
import json

import pytest
from datasets import Dataset

from secateur.system.errors import UserError
from secateur.tasks.embedding_scores import Retrieval, ScoredPairs
from secateur.tasks.evaluation_files import read_evaluation

pytest.importorskip("sentence_transformers")

PAIRS = [("a good film", "a fine film"), ("a bad book", "a film"), ("a dull book", "a bad book")]
GOLD = ["4.5", "1", "3.25"]


def table(path, names, columns):
    rows = [names, *zip(*columns, strict=True)]
    path.write_text("".join(f"{','.join(row)}\n" for row in rows))
    return str(path)


# Pairs


SICK = ["pair_ID", "sentence_A", "sentence_B", "relatedness_score", "entailment_judgment"]
ONE, OTHER = zip(*PAIRS, strict=True)
FORMS = {
    "the names of STS": (["sentence1", "sentence2", "score"], [ONE, OTHER, GOLD]),
    "SICK's own names": (SICK, [["1", "2", "5"], ONE, OTHER, GOLD, ["NEUTRAL", "NEUTRAL", "ENTAILMENT"]]),
    "SICK with its class as label": (
        ["id", "sentence_A", "sentence_B", "label", "relatedness_score"], [["1", "2", "5"], ONE, OTHER, "121", GOLD],
    ),
    "names of one's own": (["a", "b", "gold"], [ONE, OTHER, GOLD]),
    "another order, and numbers of rows": (["gold", "idx", "a", "b"], [GOLD, "012", ONE, OTHER]),
    "stsb_multi_mt": (["sentence1", "sentence2", "similarity_score"], [ONE, OTHER, GOLD]),
}  # fmt: skip


@pytest.mark.parametrize("case", FORMS)
def test_two_texts_and_a_number_are_found(case, tmp_path):
    found = read_evaluation(table(tmp_path / "pairs.csv", *FORMS[case]))
    assert isinstance(found, ScoredPairs)
    assert (list(found.pairs), list(found.gold)) == (PAIRS, [4.5, 1.0, 3.25])


def test_a_number_is_found_by_its_type_too(tmp_path):
    rows = {"gold": [4.5, 1.0, 3.25], "a": ONE, "b": OTHER}
    Dataset.from_dict(rows).to_parquet(tmp_path / "pairs.parquet")
    assert list(read_evaluation(str(tmp_path / "pairs.parquet")).gold) == [4.5, 1.0, 3.25]


@pytest.mark.parametrize(
    ("names", "columns"),
    [(["a", "b", "x", "y"], [ONE, OTHER, GOLD, GOLD]), (["a", "b"], [ONE, OTHER]), (["a", "gold"], [ONE, GOLD])],
    ids=["two numbers", "no number", "one text"],
)
def test_columns_that_do_not_say_which_is_meant_are_refused_with_the_names_that_would(names, columns, tmp_path):
    with pytest.raises(UserError, match=r"sentence1 and sentence2, .* and a number, named score, .*labels or the only"):
        read_evaluation(table(tmp_path / "pairs.csv", names, columns))


# Retrieval


TEXTS = ["a film", "a good film", "a book"]
METADATA = [{}, {"url": "x"}, {"url": 3}]
"""Of several types, as in BEIR's corpora."""


def beir(folder, qrels="qrels/test.tsv", *, degrees=(1, 1, 0), packed=False):
    """The second and the third document, with the numbers of query 0 and 1; identifiers begin with zeros."""
    corpus = [
        {"_id": f"00{n}", "title": "on" if n else "", "text": text, "metadata": own}
        for n, (text, own) in enumerate(zip(TEXTS, METADATA, strict=True))
    ]
    files = {
        "corpus.jsonl": "\n".join(map(json.dumps, corpus)),
        "queries.jsonl": "\n".join(json.dumps({"_id": str(n), "text": f"what {n}"}) for n in range(2)),
        qrels: "query-id\tcorpus-id\tscore\n"
        + "".join(f"{q}\t{d}\t{s}\n" for q, d, s in zip("010", ["001", "002", "000"], degrees, strict=True)),
    }
    (folder / "qrels").mkdir(parents=True)
    for name, text in files.items():
        path = folder / (f"{name}.gz" if packed else name)
        path.write_bytes(gzip.compress(text.encode()) if packed else text.encode())
    return folder


@pytest.mark.parametrize("packed", [False, True], ids=["plain", "gzip"])
@pytest.mark.parametrize("qrels", ["qrels/test.tsv", "qrels/dev.tsv", "qrels.tsv"])
def test_the_forms_of_beir_are_read(qrels, packed, tmp_path, caplog):
    """With titles and metadata; a file of qrels with another name than test, if it is the only one."""
    found = read_evaluation(str(beir(tmp_path / "data", qrels, packed=packed)))
    assert isinstance(found, Retrieval)
    assert (found.queries, found.relevant) == (["what 0", "what 1"], [[1], [2]])
    assert found.corpus == ["a film", "on a good film", "on a book"]
    assert "the column 'metadata'" in caplog.text and "count alike" not in caplog.text


def test_retrieval_is_read_from_parquet_with_the_other_names_of_its_columns(tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    Dataset.from_dict({"id": ["x", "y"], "text": TEXTS[:2]}).to_parquet(folder / "corpus.parquet")
    Dataset.from_dict({"id": [7], "text": ["what"]}).to_parquet(folder / "queries.parquet")
    Dataset.from_dict({"query_id": [7], "corpus_id": ["y"]}).to_parquet(folder / "qrels.parquet")
    assert read_evaluation(str(folder)).relevant == [[1]]


def test_of_several_qrels_test_counts_or_the_one_that_is_named(tmp_path):
    folder = beir(tmp_path / "data")
    (folder / "qrels" / "dev.tsv").write_text("query-id\tcorpus-id\tscore\n1\t000\t1\n")
    assert read_evaluation(str(folder)).relevant == [[1], [2]]
    assert read_evaluation(str(folder / "qrels" / "dev.tsv")).relevant == [[0]]
    (folder / "qrels" / "test.tsv").rename(folder / "qrels" / "train.tsv")
    with pytest.raises(UserError, match=r"qrels has dev\.tsv, train\.tsv: give one of them .*qrels/dev\.tsv"):
        read_evaluation(str(folder))


def test_degrees_of_relevance_count_alike_which_is_said(tmp_path, caplog):
    found = read_evaluation(str(beir(tmp_path / "data", degrees=(1, 2, 0))))
    assert found.relevant == [[1], [2]]
    assert "has 2 degrees of relevance, from 1 to 2, which count alike" in caplog.text
