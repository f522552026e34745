"""What commands show of names and texts: the characters that they hold, and no others."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from made_up_run import REPORT

from secateur.cli import output
from secateur.cli.run_output import next_commands

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


@pytest.mark.parametrize(("folder", "shown"), [("runs/a", "runs/a"), ("my runs/a", "'my runs/a'"), ("a;b", "'a;b'")])
def test_the_next_commands_can_be_pasted(folder, shown):
    lines = next_commands(replace(REPORT, asked={}), Path(folder))
    assert [line.split(" --")[0] for line in lines[1:]] == [f"secateur bench {shown}", f"secateur export {shown}"]
    assert lines[0].startswith(f"secateur predict {shown} ") and shown.rstrip("'") in lines[2].partition("--output ")[2]
