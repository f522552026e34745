"""What commands show of names and texts: the characters that they hold, and no others."""

import json

from secateur.cli import output

CODES = ["a:x:b", "12:100:3"]
"""Texts that hold what rich reads as the names of emoji."""


def test_a_text_with_the_name_of_an_emoji_is_as_it_was_in_json(capsys):
    output.show_json({"texts": CODES})
    assert json.loads(capsys.readouterr().out) == {"texts": CODES}


def test_a_text_with_the_name_of_an_emoji_is_as_it_was_in_a_table_a_line_and_a_message(capsys):
    output.show_table(["", "a:x:c"], [CODES], "title:x:")
    output.show_text_table(["", "a:x:d"], [CODES])
    output.show_lines("line:x:")
    output.show_message("message:x:")
    shown = capsys.readouterr()
    assert all(text in shown.out for text in ("title:x:", "a:x:c", "a:x:d", *CODES, "line:x:"))
    assert shown.err == "message:x:\n"
