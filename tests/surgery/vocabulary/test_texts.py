"""Plain text files: one text a line."""

import pytest

from secateur.surgery.vocabulary.texts import read_texts
from secateur.system.errors import UserError


def test_a_line_is_a_text(tmp_path):
    (tmp_path / "one.txt").write_text("First text\n\n  second \u2028 text \n", encoding="utf-8")
    (tmp_path / "two.txt").write_bytes(b"dritter\r\n")
    assert read_texts([tmp_path / "one.txt", str(tmp_path / "two.txt")]) == [
        "First text",
        "second \u2028 text",
        "dritter",
    ]
    assert read_texts([]) == []


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "cannot be read (No such file or directory): give a file of plain text, one text a line"),
        (b"\xff\xfe", "cannot be read (it is not UTF-8): give"),
        (b"\n \n", "holds no text: give a file of plain text, one text a line"),
    ],
)
def test_a_file_without_texts_is_refused(tmp_path, content, reason):
    path = tmp_path / "texts.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError) as refused:
        read_texts([path])
    assert reason in str(refused.value) and str(path) in str(refused.value)
