"""Cells of csv files: text as it is written, of which the labels of a task decide what it is."""

import logging

import pytest

from secateur.system.errors import UserError
from secateur.tasks.classification import Classification
from secateur.tasks.multilabel import MultiLabel
from secateur.tasks.questions import Questions
from secateur.tasks.splits import read_splits
from secateur.tasks.translation import Translation


def write(path, labels, texts=("a film", "a book"), times=6, separator=","):
    rows = [(texts[n % len(texts)], label) for n, label in enumerate([*labels] * times)]
    lines = [separator.join(row) for row in (("text", "label"), *rows)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8", newline="")
    return str(path)


def labels_of(path, **options):
    """The names of the labels, and the name of that of the first rows."""
    task = Classification.from_data(path, **options)
    return task.labels


@pytest.mark.parametrize(
    ("labels", "names"),
    [
        (("007", "010", "100"), ("007", "010", "100")),  # codes keep their zeros, also those without any
        (("7", "10", "0"), tuple(f"LABEL_{n}" for n in range(11))),
        (("3", "10", "1"), ("1", "3", "10")),
        (("1e5", "A7"), ("1e5", "A7")),
        (("EU", "NA", "AS"), ("AS", "EU", "NA")),
        (("null", "None", "nan"), ("None", "nan", "null")),
        (("True", "False"), ("false", "true")),
        (("True", "False", "Mostly"), ("False", "Mostly", "True")),
        (("2024-01-31", "2023-12-01"), ("2023-12-01", "2024-01-31")),
        ((" good", "bad "), ("bad", "good")),
        (("0.5", "1e-05", "-.5", "2"), None),  # scores
    ],
)
@pytest.mark.parametrize("suffix", ["csv", "tsv"])
def test_labels_are_what_all_cells_of_their_column_are(tmp_path, labels, names, suffix):
    separator = "," if suffix == "csv" else "\t"
    assert labels_of(write(tmp_path / f"d.{suffix}", labels, separator=separator)) == names


def test_the_cells_of_all_splits_decide_together(tmp_path):
    write(tmp_path / "train.csv", ("007", "100"))
    write(tmp_path / "dev.csv", ("100", "100"))
    task = Classification.from_data(str(tmp_path))
    assert task.labels == ("007", "100") and set(task.splits["validation"]["label"]) == {1}


def test_labels_that_the_user_names_are_text(tmp_path):
    exponents = write(tmp_path / "a.csv", ("1e5", "2e5"))
    with pytest.raises(UserError, match="decimals without fractions, which may be classes or scores"):
        labels_of(exponents)
    assert labels_of(exponents, labels=("2e5", "1e5")) == ("2e5", "1e5")
    assert labels_of(write(tmp_path / "b.csv", ("1.0", "0.0")), labels=("0", "1")) == ("0", "1")
    assert labels_of(write(tmp_path / "c.csv", ("True", "False")), labels=("True", "False")) == ("True", "False")


def test_a_number_that_is_missing_is_refused_with_its_row(tmp_path):
    for missing in ("", "NA", "nan", "null"):
        with pytest.raises(UserError, match=r"6 of the 18 rows of the train split lack .*the first is row 2"):
            labels_of(write(tmp_path / "d.csv", ("0", "1", missing)))


def test_numbers_with_a_decimal_comma_are_no_classes(tmp_path):
    with pytest.raises(UserError, match=r"'label' holds numbers with a decimal comma, such as '0,5': write them"):
        labels_of(write(tmp_path / "d.csv", ("0,5", "1,5"), separator=";"))


def test_texts_are_kept_as_they_are_written(tmp_path):
    texts = ("007", "1.50", "1e5", "NA", "null", "None", "True", "2024-01-31", " a ", "0")
    for chosen in (texts, texts[:3], ("True", "False"), ("NA", "null")):
        split = read_splits(write(tmp_path / "d.csv", ("0", "1"), chosen))
        assert {*split["train"]["text"], *split["validation"]["text"]} == {*chosen}


def test_quotes_newlines_marks_and_line_ends_of_a_file(tmp_path):
    content = '\ufeff"text", label\r\n"a ""fine"",\r\nfilm",1\r\na 2" disk,0\r\n' + "a film,1\r\na book,0\r\n" * 4
    (tmp_path / "d.csv").write_text(content + "\r\n,\r\n , \r\n\r\n", encoding="utf-8", newline="")
    task = Classification.from_data(str(tmp_path / "d.csv"))
    texts = [text for split in task.splits.values() for text in split["text"]]
    assert {*texts} == {'a "fine",\r\nfilm', 'a 2" disk', "a film", "a book"} and len(texts) == 10


@pytest.mark.parametrize("separator", [";", "\t", "|"])
def test_the_first_line_of_a_csv_file_shows_the_separator(tmp_path, separator, caplog):
    with caplog.at_level(logging.INFO, "secateur"):
        path = write(tmp_path / "d.csv", ("good", "bad"), ("a film, a book", "a book"), separator=separator)
        task = Classification.from_data(path)
    assert {*task.splits["train"]["text"]} == {"a film, a book", "a book"}
    assert f"separated by {separator!r}" in caplog.text


def test_of_two_separators_in_the_first_line_the_one_that_divides_the_rows_counts(tmp_path):
    for number, head in enumerate(("text;label, or class", "text;label|sure|twice")):
        path = tmp_path / f"{number}.csv"
        path.write_text("\n".join([head, *["a film, a book;1", "a book;0"] * 5]) + "\n")
        name = head.partition(";")[2]
        data = Classification.from_data(str(path), text=("text",), label=name)
        assert {*data.splits["train"]["text"]} == {"a film, a book", "a book"}


def test_two_separators_that_divide_alike_are_refused(tmp_path):
    (tmp_path / "d.csv").write_text("text|sure,label\n" + "a|b,1\nc|d,0\n" * 3)
    with pytest.raises(UserError, match=r"by comma \(text\|sure, label\) or bar \(text, sure,label\)"):
        labels_of(str(tmp_path / "d.csv"))


def test_a_row_of_too_few_cells_and_other_encodings_are_refused(tmp_path):
    path = tmp_path / "d.csv"
    path.write_text("text,label\na,1\nb\n")
    with pytest.raises(UserError, match=r"cannot be read.*Row #3: Expected 2 columns, got 1"):
        labels_of(str(path))
    path.write_bytes("text,label\ncafé,1\n".encode("latin-1"))
    with pytest.raises(UserError, match="not text in UTF-8"):
        labels_of(str(path))


def test_a_test_split_whose_cells_are_no_labels_counts_as_missing(tmp_path):
    write(tmp_path / "train.csv", ("0", "1"))
    for hidden in ("-1", "", "-1.0"):
        write(tmp_path / "test.csv", (hidden, hidden))
        assert len(Classification.from_data(str(tmp_path)).splits["validation"]) == 1


def test_cells_of_other_tasks(tmp_path):
    marks = "text,bad,dull\n" + "a film,1,False\na book,0,True\n" * 6
    (tmp_path / "marks.csv").write_text(marks)
    assert MultiLabel.from_data(str(tmp_path / "marks.csv"), label="bad,dull").labels == ("bad", "dull")
    codes = MultiLabel.from_data(write(tmp_path / "codes.csv", ("007", "010")))
    assert codes.labels == ("007", "010")
    asked = "question,context,answer,answer_start,is_impossible\n" + "".join(
        f"which?,agent 007 in film {n},007,6,False\nwhich?,a book {n},,,True\n" for n in range(9)
    )
    (tmp_path / "asked.csv").write_text(asked)
    task = Questions.from_data(str(tmp_path / "asked.csv"))
    assert {answer for split in task.splits.values() for row in split["answers"] for answer in row} == {"007"}
    (tmp_path / "texts.csv").write_text("idx,en,de\n" + "".join(f"{n},a {n},ein {n}\n" for n in range(20)))
    assert Translation.from_data(str(tmp_path / "texts.csv")).splits["train"][0]["target"].startswith("ein ")
