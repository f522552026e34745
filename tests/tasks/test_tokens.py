"""Token classification: the data that it reads and refuses, labels at first sub-words, entities, the whole job."""

import json
import shutil

import numpy as np
import pyarrow as pa
import pytest
import torch
from datasets import ClassLabel, Dataset, DatasetDict, Features, List, Value
from pyarrow import parquet
from small_world import config as bert
from small_world import recipe_values, write_model, write_sentences
from small_world import tokenizer as whole_words
from tokenizers import Tokenizer
from tokenizers.models import WordPiece
from tokenizers.pre_tokenizers import ByteLevel, Whitespace
from tokenizers.processors import BertProcessing
from transformers import (
    AutoModelForTokenClassification,
    AutoTokenizer,
    BertForTokenClassification,
    EvalPrediction,
    PreTrainedTokenizerFast,
    RobertaConfig,
    RobertaForTokenClassification,
    RobertaTokenizer,
    pipeline,
)

from secateur.measure.evaluation import encoded, scores
from secateur.report.report import Report
from secateur.run import pipeline as stages
from secateur.run import recipe
from secateur.surgery import checkpoint
from secateur.system.errors import UserError
from secateur.tasks import TASKS
from secateur.tasks.tokens import Tokens

BIO = ["O", "B-PER", "I-PER"]


def rows(count=20, **columns):
    """`count` sentences of three words, a person in each; `columns` replace or add to `tokens` and `ner_tags`."""
    table = {
        "tokens": [["film", f"by{i}", "Agnes"] for i in range(count)],
        "ner_tags": [["O", "B-PER", "I-PER"] if i % 2 else ["O", "O", "B-PER"] for i in range(count)],
    }
    return table | columns


def write(path, table):
    """Write a table of columns in the form that the file's suffix names; return the path as a string."""
    if path.suffix == ".parquet":
        Dataset.from_dict(table).to_parquet(path)
    else:
        lines = [json.dumps(dict(zip(table, row, strict=True))) for row in zip(*table.values(), strict=True)]
        text = "\n".join(lines) if path.suffix == ".jsonl" else f"[{','.join(lines)}]"
        path.write_text(text, encoding="utf-8")
    return str(path)


@pytest.fixture
def task(tmp_path):
    return Tokens.from_data(write(tmp_path / "data.jsonl", rows()))


def pieces(**options):
    """A WordPiece tokenizer: "films" is two tokens, "filming" three, a blank word none."""
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "film", "##s", "##i", "##ng", "by", "a"]
    model = WordPiece({word: i for i, word in enumerate(vocabulary)}, unk_token="[UNK]")
    words = Tokenizer(model)
    words.pre_tokenizer = Whitespace()
    words.post_processor = BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    special = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    names = ["input_ids", "token_type_ids", "attention_mask"]
    return PreTrainedTokenizerFast(
        tokenizer_object=words, model_max_length=32, model_input_names=names, **special, **options
    )


def bytes_of_words():
    """RoBERTa's: "go" after a space is another token than "go" without."""
    known = ["<s>", "<pad>", "</s>", "<unk>", "<mask>", *sorted(ByteLevel.alphabet()), "go", "Ġgo"]
    return RobertaTokenizer(
        vocab={word: i for i, word in enumerate(known)}, merges=[("g", "o"), ("Ġ", "go")], model_max_length=32
    )


# ---- what it reads


@pytest.mark.parametrize("suffix", ["parquet", "json", "jsonl"])
def test_a_folder_holds_a_file_per_split(tmp_path, suffix):
    write(tmp_path / f"train.{suffix}", rows(12))
    write(tmp_path / f"dev.{suffix}", rows(4))
    task = Tokens.from_data(str(tmp_path))
    assert (task.words, task.label, task.labels, task.metric) == ("tokens", "ner_tags", tuple(BIO), "f1")
    assert task.splits["train"].to_dict() == {
        "tokens": rows(12)["tokens"],
        "ner_tags": [[BIO.index(tag) for tag in row] for row in rows(12)["ner_tags"]],
    }
    assert len(task.splits["validation"]) == 4


def test_a_folder_of_save_to_disk(tmp_path):
    DatasetDict(train=Dataset.from_dict(rows(8)), test=Dataset.from_dict(rows(4))).save_to_disk(tmp_path / "both")
    assert len(Tokens.from_data(str(tmp_path / "both")).splits["validation"]) == 4


def test_lists_with_long_offsets(tmp_path):
    kinds = {"tokens": pa.large_list(pa.large_string()), "ner_tags": pa.large_list(pa.int8())}
    columns = rows(ner_tags=[[0, 8, 1]] * 20)
    parquet.write_table(
        pa.table({name: pa.array(columns[name], kinds[name]) for name in kinds}), tmp_path / "a.parquet"
    )
    names = [f"tag{number}" for number in range(9)]
    task = Tokens.from_data(str(tmp_path / "a.parquet"), labels=names)
    assert task.splits["train"]["tokens"][0][::2] == ["film", "Agnes"]
    assert task.splits["train"]["ner_tags"][:] == [[0, 8, 1]] * 18
    assert task.splits["train"].features["ner_tags"] == List(ClassLabel(names=names, id="asked"))


@pytest.mark.parametrize(
    ("names", "found"),
    [
        (("tokens", "ner_tags"), None),
        (("words", "tags"), None),
        (("words", "labels"), None),
        (("tokens", "pos_tags"), None),
        (("id", "tokens", "pos_tags", "ner_tags"), ("tokens", "ner_tags")),
    ],
)
def test_columns_are_recognised(tmp_path, names, found):
    table = {name: rows()["tokens" if name in ("tokens", "words") else "ner_tags"] for name in names}
    task = Tokens.from_data(write(tmp_path / "data.jsonl", table))
    assert (task.words, task.label) == (found or names)


def test_columns_can_be_named(tmp_path):
    data = write(tmp_path / "data.jsonl", rows(mine=[["x", "y", "z"]] * 20, kinds=[["N", "V", "N"]] * 20))
    for text in ("mine", ("mine",)):
        task = Tokens.from_data(data, text=text, label="kinds")
        assert (task.words, task.label, task.labels, task.metric) == ("mine", "kinds", ("N", "V"), "accuracy")


@pytest.mark.parametrize(
    ("tags", "labels"),
    [
        (["I-B", "B-B", "I-A", "B-A", "O"], ("O", "B-A", "I-A", "B-B", "I-B")),
        (["I-A", "O", "I-B", "B-B", "O"], ("O", "I-A", "B-B", "I-B")),
        (["VERB", "NOUN", "X", "NOUN", "X"], ("NOUN", "VERB", "X")),
    ],
)
def test_tags_and_their_order(tmp_path, tags, labels):
    table = rows(tokens=[list("abcde")] * 4, ner_tags=[tags] * 4)
    task = Tokens.from_data(write(tmp_path / "data.jsonl", table))
    assert task.labels == labels
    wanted = [labels.index(tag) if isinstance(tag, str) else tag for tag in tags]
    assert task.splits["train"][0]["ner_tags"] == wanted


def test_names_of_the_data_are_kept(tmp_path):
    names = ["I-PER", "O", "B-PER"]
    features = Features(tokens=List(Value("string")), ner_tags=List(ClassLabel(names=names)))
    Dataset.from_dict(rows(), features=features).to_parquet(tmp_path / "data.parquet")
    assert Tokens.from_data(str(tmp_path / "data.parquet")).labels == tuple(names)


def test_integers_that_are_not_entities_are_named_by_number(tmp_path):
    task = Tokens.from_data(write(tmp_path / "data.jsonl", {"words": [["a", "b"]] * 9, "pos": [[0, 2]] * 9}))
    assert (task.labels, task.metric) == (("LABEL_0", "LABEL_1", "LABEL_2"), "accuracy")


def test_rows_limits_the_training_rows(tmp_path):
    task = Tokens.from_data(write(tmp_path / "data.jsonl", rows(50)), rows=8)
    assert {name: len(split) for name, split in task.splits.items()} == {"train": 8, "validation": 5}


# ---- what it refuses


def one_sentence(error):
    message = str(error.value)
    return "\n" not in message and ": " in message


TAGS = rows()["ner_tags"]


@pytest.mark.parametrize(
    ("table", "options", "message"),
    [
        (rows(), {"text": "nope"}, r"no column 'nope'.*tokens, ner_tags.*`text`"),
        (rows(), {"label": "nope"}, r"no column 'nope'.*tokens, ner_tags.*`label`"),
        (rows(), {"text": ("tokens", "ner_tags")}, "names 2 columns"),
        (rows(), {"text": "ner_tags"}, "'ner_tags' is both words and tags"),
        ({"a": [["x"]] * 4, "tags": [["O"]] * 4}, {}, r"no text under a usual name.*a, tags"),
        ({"tokens": [["x"]] * 4, "b": [["O"]] * 4}, {}, r"no label under a usual name.*tokens, b"),
        (rows(tokens=["a film"] * 20), {}, r"'tokens' of the train split holds string.*csv cannot"),
        (rows(ner_tags=[1] * 20), {}, r"'ner_tags' of the train split holds int64"),
        (rows(tokens=[[1, 2, 3]] * 20), {}, "'tokens' of the train split holds lists without words"),
        (rows(ner_tags=[[0.5, 1.5, 2.5]] * 20), {}, "the tags in 'ner_tags' are of float64"),
        (rows(tokens=[["a"]] * 2 + [["a", "b", "c"]] * 18), {}, r"2 of the 20 rows.*more or fewer tags.*row 0"),
        (rows(tokens=[["a", "b", "c"]] * 19 + [[]]), {}, r"1 of the 20 rows of the train split have no words .*row 19"),
        (rows(tokens=[[]] * 20, ner_tags=[[]] * 20), {}, "20 of the 20 rows of the train split have no words"),
        (rows(tokens=[None, *rows()["tokens"][1:]]), {}, r"1 of the 20 rows.*no words.*row 0"),
        (rows(ner_tags=[*TAGS[:7], None, *TAGS[8:]]), {}, r"1 of the 20 rows.*more or fewer tags.*row 7"),
        (rows(tokens=[["a", None, "b"], *rows()["tokens"][1:]]), {}, r"1 of the 20 rows.*lack a word.*row 0"),
        (rows(ner_tags=[["O", "", "B-PER"], *TAGS[1:]]), {}, r"1 of the 20 rows.*lack a word or a tag.*row 0"),
        (rows(ner_tags=[[0, 1, -100]] * 20), {}, "20 of the 20 rows.*lack a word or a tag"),
        (rows(ner_tags=[["O"] * 3] * 20), {}, "the same tag in 'ner_tags'"),
        (rows(), {"metric": "f2"}, r"'f2' is not known for entities: choose one of f1, precision, recall, accuracy"),
        (
            rows(ner_tags=[["N", "V", "N"]] * 20),
            {"metric": "f1"},
            "'f1' is not known for tags that do not mark entities",
        ),
        (rows(), {"rows": 0}, "rows is 0"),
    ],
)
def test_unsuitable_data_is_refused_in_one_sentence(tmp_path, table, options, message):
    with pytest.raises(UserError, match=message) as error:
        Tokens.from_data(write(tmp_path / "data.jsonl", table), **options)
    assert one_sentence(error)


def test_csv_is_refused_because_it_cannot_hold_lists(tmp_path):
    (tmp_path / "data.csv").write_text("tokens,ner_tags\na film,O O\na book,O O\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"'tokens' of the train split holds string.*csv cannot") as error:
        Tokens.from_data(str(tmp_path / "data.csv"))
    assert one_sentence(error)


@pytest.mark.parametrize(
    ("validation", "message"),
    [
        (rows(4, ner_tags=[["O", "B-LOC", "I-LOC"]] * 4), r"no training row has \(B-LOC, I-LOC\)"),
        (rows(4, ner_tags=[[0, 1, 2]] * 4), "are of int and string"),
        (rows(4, tokens=[["a"]] * 4), "4 of the 4 rows of the validation split have more or fewer tags"),
        ({"sentence": [["a"]] * 4, "ner_tags": [["O"]] * 4}, "no text under a usual name"),
    ],
)
def test_validation_that_does_not_match_training_is_refused(tmp_path, validation, message):
    write(tmp_path / "train.jsonl", rows())
    write(tmp_path / "validation.jsonl", validation)
    with pytest.raises(UserError, match=message) as error:
        Tokens.from_data(str(tmp_path))
    assert one_sentence(error)


# ---- what the model gets


def rows_of(words, tags, tokenizer, max_length=32):
    """Encoded rows of sentences, by a task with three tags."""
    table = Dataset.from_dict({"tokens": words, "ner_tags": tags})
    task = Tokens(DatasetDict(validation=table), "tokens", "ner_tags", tuple(BIO), "f1")
    return task, encoded(task, "validation", tokenizer, max_length)


def test_the_first_token_of_a_word_has_its_tag():
    _, (row,) = rows_of([["a", "filming", "by", "films"]], [[0, 1, 2, 1]], pieces())
    assert row == {
        "input_ids": [2, 9, 4, 6, 7, 8, 4, 5, 3],
        "token_type_ids": [0] * 9,
        "attention_mask": [1] * 9,
        "labels": [-100, 0, 1, -100, -100, 2, 1, -100, -100],
        "tags": [0, 1, 2, 1],
        "seen": [0, 1, 2, 3],
    }


def test_words_that_are_cut_off_or_blank_are_recorded():
    words = ["a", " ", "filming", "films", "by"]
    _, (row,) = rows_of([words], [[0, 1, 2, 1, 2]], pieces(), max_length=7)
    assert row["input_ids"] == [2, 9, 4, 6, 7, 4, 3]
    assert row["labels"] == [-100, 0, 2, -100, -100, 1, -100]
    assert (row["tags"], row["seen"]) == ([0, 1, 2, 1, 2], [0, 2, 3])


def test_more_tokens_than_the_model_takes_are_refused(task):
    with pytest.raises(UserError, match="max_length is 33: give at most 32"):
        task.encode(task.splits["train"], pieces(), max_length=33)


@pytest.mark.parametrize("side", ["right", "left"])
def test_a_batch_is_padded_and_its_padding_has_no_label(side):
    tokenizer = pieces(padding_side=side)
    task, both = rows_of([["films"], ["a", "film", "by"]], [[1], [0, 1, 2]], tokenizer)
    batch = task.collator(tokenizer)([{**row, "length": 3, "index": n} for n, row in enumerate(both)])
    assert set(batch) == {"input_ids", "token_type_ids", "attention_mask", "labels", "index"}
    padded = {"right": [-100, 1, -100, -100, -100], "left": [-100, -100, 1, -100, -100]}
    assert batch["labels"].tolist() == [padded[side], [-100, 0, 1, 2, -100]]
    assert batch["index"].tolist() == [0, 1]
    del batch["index"]
    assert BertForTokenClassification(bert(**task.head()))(**batch).loss.isfinite()
    assert "labels" not in task.collator(tokenizer)([{"input_ids": [2, 3], "attention_mask": [1, 1]}])


def test_a_tokenizer_that_marks_words_by_a_space_marks_the_first_too(tmp_path):
    tokenizer = bytes_of_words()
    _, (row,) = rows_of([["go", "going", "go"]], [[1, 2, 0]], tokenizer)
    tokens = tokenizer.convert_ids_to_tokens(row["input_ids"])
    assert tokens == ["<s>", "Ġgo", "Ġgo", "i", "n", "g", "Ġgo", "</s>"]
    assert row["labels"] == [-100, 1, 2, -100, -100, -100, 0, -100]
    RobertaConfig().save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    assert (
        AutoTokenizer.from_pretrained(tmp_path)("go go").input_ids
        == tokenizer(["go", "go"], is_split_into_words=True).input_ids
    )


def test_a_checkpoint_gets_a_head_with_the_names_of_the_tags(task, tmp_path):
    base = write_model(tmp_path / "base")
    assert not task.is_finetuned(base)
    model = task.load_model(base)
    assert model.config.id2label == dict(enumerate(BIO)) and model.config.label2id["I-PER"] == 2
    model.save_pretrained(tmp_path / "tagger")
    assert task.is_finetuned(tmp_path / "tagger")
    with pytest.raises(UserError, match="has the labels O, I-PER, B-PER, and the data has O, B-PER, I-PER"):
        other = bert(id2label=dict(enumerate(["O", "I-PER", "B-PER"])))
        task.check_labels(BertForTokenClassification(other), "teacher")


# ---- the scores


def predicted(rows_, wanted, labels=3):
    """A prediction of tags by index for every label of padded rows; -100 stays."""
    width = max(map(len, wanted))
    table = np.array([[*row, *[-100] * (width - len(row))] for row in wanted])
    found = np.full(table.shape, 0)
    for row, tags in enumerate(rows_):
        found[row][table[row] != -100] = tags
    return EvalPrediction((np.eye(labels)[found], "hidden states"), table)


def test_only_whole_entities_count(task):
    # gold: 0-1, 3, 0; said: 0-1 (right), 3-4 (too long), 1 (elsewhere): 1 of 3 found, 1 of 3 right
    wanted = [[1, -100, 2, 0, 1, 0, -100], [1, 0, -100]]
    found = task.compute_metrics(predicted([[1, 2, 0, 1, 2], [0, 1]], wanted))
    assert found == pytest.approx({"f1": 1 / 3, "precision": 1 / 3, "recall": 1 / 3, "accuracy": 4 / 7})


def test_a_kind_that_changes_begins_an_entity_as_in_iob1(task):
    wanted, found = [[2, 2, 0, 2]], [[1, 2, 0, 1]]
    assert task.compute_metrics(predicted(found, wanted))["f1"] == 1.0


def test_undefined_scores_are_zero(task):
    wanted = [[0, 0, 0]]
    assert task.compute_metrics(predicted([[0, 0, 0]], wanted)) == {"f1": 0, "precision": 0, "recall": 0, "accuracy": 1}
    assert task.compute_metrics(predicted([[]], [[-100]]))["accuracy"] == 0.0


def test_tags_that_do_not_mark_entities_have_only_an_accuracy(tmp_path):
    task = Tokens.from_data(write(tmp_path / "data.jsonl", rows(ner_tags=[["N", "V", "N"]] * 20)))
    assert task.compute_metrics(predicted([[0, 1, 1]], [[0, 1, 0]], labels=2)) == {"accuracy": pytest.approx(2 / 3)}
    seen = [{"tags": [0, 1, 0, 1], "seen": [0, 1, 2]}]
    assert task.score(predicted([[0, 1, 1]], [[0, 1, 0]], labels=2), seen) == {"accuracy": 0.5, "words_cut_off": 1}


def test_words_that_the_model_does_not_see_count_as_outside(task):
    # of three entities one is cut in two, one is cut off; word 1 is blank and no entity
    both = [{"tags": [1, 0, 1, 2, 2], "seen": [0, 2, 3]}, {"tags": [0, 1], "seen": [0]}]
    prediction = predicted([[1, 1, 2], [0]], [[1, 1, 2], [0]])
    assert task.compute_metrics(prediction)["f1"] == 1.0
    assert task.score(prediction, both) == pytest.approx(
        {"f1": 0.4, "precision": 0.5, "recall": 1 / 3, "accuracy": 5 / 7, "words_cut_off": 3}
    )


def test_scores_of_a_model_count_every_word():
    torch.manual_seed(0)
    tokenizer = whole_words()
    words = [["a", "good", "film"], ["good", "book", "and", "a", "dull", "film"], ["bad"]]
    task, short = rows_of(words, [[0, 1, 2], [1, 2, 0, 0, 1, 2], [0]], tokenizer, max_length=5)
    model = BertForTokenClassification(bert(**task.head())).eval()
    found = scores(model, task, short, tokenizer)
    assert set(found) == {"f1", "precision", "recall", "accuracy", "words_cut_off"}
    assert found["words_cut_off"] == 3
    right = 0
    for row in short:
        with torch.no_grad():
            said = model(torch.tensor([row["input_ids"]])).logits[0].argmax(-1)[1:-1].tolist()
        said += [0] * (len(row["tags"]) - len(said))
        right += sum(a == b for a, b in zip(said, row["tags"], strict=True))
    assert found["accuracy"] == pytest.approx(right / 10)


# ---- the whole job


@pytest.fixture(scope="module")
def values(tmp_path_factory):
    """A recipe whose model has no head yet, on sentences with four tags beside O."""
    folder = tmp_path_factory.mktemp("world")
    data = write_sentences(folder / "data.jsonl")
    learning = {
        "training.teacher_epochs": 6,
        "training.teacher_learning_rate": 2e-2,
        "training.epochs": 6,
        "training.learning_rate": 5e-3,
    }
    return recipe_values(write_model(folder / "model"), data) | learning | {"data.task": "tokens"}


NAMES = {0: "O", 1: "B-book", 2: "I-book", 3: "B-film", 4: "I-film"}


@pytest.fixture(scope="module")
def finished(values, tmp_path_factory):
    """(folder, report) of a run with GRAIN."""
    folder = tmp_path_factory.mktemp("run") / "grain"
    return folder, stages.run(recipe.make(values), folder)


def proved(report):
    return max(report.verified["masked_compact"], report.verified["compact_loaded"]) < 1e-5


def test_a_run_with_grain(finished):
    folder, report = finished
    assert report.metric == "f1" and min(report.teacher_scores["f1"], report.scores["f1"]) > 0.5
    assert set(report.scores) == {"f1", "precision", "recall", "accuracy", "words_cut_off"}
    assert 0 < report.density["prunable"] <= 0.3 and proved(report)
    assert "words_cut_off 0 and 0" in (folder / "report.md").read_text(encoding="utf-8")
    logged = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    assert any("eval_f1" in line for line in logged if line["stage"] == "recover")
    assert checkpoint.load(folder / "model").config.id2label == NAMES


@pytest.mark.parametrize(
    "options",
    [
        {"method": "cofi", "method.options": {"learning_rate": 0.5}, "method.ramp": 0.5, "training.select": 6},
        {"method": "magnitude", "distillation.cache": False, "distillation.labels_weight": 0.5},
        {"method": "random", "target.embedding_rank": 4},
    ],
    ids=lambda options: options["method"],
)
def test_a_run_with_other_methods(finished, values, tmp_path, options):
    teacher = str(shutil.copytree(finished[0] / "teacher", tmp_path / "teacher"))
    wanted = recipe.make({**values, "model": teacher, "training.epochs": 2, "training.evaluations": 2, **options})
    report = stages.run(wanted, tmp_path / "run")
    assert report.density["prunable"] <= 0.3 and proved(report)
    assert "teacher" not in report.seconds, "a tagger is its own teacher"


def test_a_run_saves_the_tokenizer_with_which_it_trained(values, tmp_path):
    tokenizer = bytes_of_words()
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
    torch.manual_seed(0)
    model = RobertaForTokenClassification(
        RobertaConfig(vocab_size=len(tokenizer), max_position_embeddings=40, id2label=NAMES, **sizes)
    )
    for part in (model, tokenizer):
        part.save_pretrained(tmp_path / "tagger")
    wanted = {
        **values,
        "model": str(tmp_path / "tagger"),
        "method": "magnitude",
        "training.epochs": 1,
        "training.evaluations": 0,
    }
    assert proved(stages.run(recipe.make(wanted), tmp_path / "run"))
    kept = AutoTokenizer.from_pretrained(tmp_path / "run" / "model")
    assert kept("go go").tokens() == ["<s>", "Ġgo", "Ġgo", "</s>"] != tokenizer("go go").tokens()


def test_the_compact_folder_works_in_a_pipeline_for_named_entities(finished):
    folder = str(finished[0] / "model")
    ner = pipeline("ner", model=folder, tokenizer=folder, ignore_labels=[])
    found = ner("a fine and good book")
    assert [entity["word"] for entity in found] == ["a", "fine", "and", "good", "book"]
    assert [entity["entity"] for entity in found][-2:] == ["B-book", "I-book"]
    grouped = pipeline("ner", model=folder, aggregation_strategy="simple")("good film")
    assert [(entity["entity_group"], entity["word"]) for entity in grouped] == [("film", "good film")]
    batch = whole_words()("a good film", return_tensors="pt")
    with torch.no_grad():
        logits = AutoModelForTokenClassification.from_pretrained(folder).eval()(**batch).logits
        assert torch.equal(logits, checkpoint.load(folder)(**batch).logits)


def test_the_command_knows_the_task(finished, values, tmp_path, secateur):
    folder, report = finished
    words = ("--data", values["data"], "--task", "tokens", "--max-length", 24)
    assert json.loads(secateur("eval", folder, *words, "--json"))["scores"] == report.scores
    assert json.loads(secateur("verify", folder, *words, "--json"))["passed"]
    shown = secateur("eval", folder, "--data", values["data"], "--task", "tokens", "--max-length", 5)
    assert next(line.split()[1] for line in shown.splitlines() if "words_cut_off" in line).isdigit()
    assert "named entities" in secateur("list")
    secateur(
        *("prune", folder / "teacher", *words, "--method", "magnitude", "--density", 0.4, "--output", tmp_path / "run"),
        *("--epochs", 1, "--set", "shapes=[[1, 8]]", "--set", "repeats=2", "--set", "checkpoints=0"),
    )
    assert Report.load(tmp_path / "run").recipe["data"]["task"] == "tokens"


def test_the_registry_knows_it():
    assert TASKS.get("tokens") is Tokens and Tokens.name == "tokens"
