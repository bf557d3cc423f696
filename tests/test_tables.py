import csv
import io
import json
import re
from contextlib import redirect_stdout

import pytest

from runmodel_ext._tables import RICH_ROWS, print_rows, render

NAME = "digits/classification-cnn/lr=0.034,width=32-l7wowzx7/seed=0/v1"


class Screen(io.StringIO):
    """A terminal of 60 columns."""

    def isatty(self) -> bool:
        return True


def test_columns_of_numbers_stand_on_the_right() -> None:
    assert render(["name", "epoch"], [["a", 7], ["long", 10]]).splitlines() == [
        "name  epoch",
        "a         7",
        "long     10",
    ]


def test_wide_characters_keep_the_columns_in_line() -> None:
    lines = render(["tag", "x"], [["数字", "y"], ["abcd", "y"]]).splitlines()
    assert lines[1:] == ["数字  y", "abcd  y"]


def test_a_table_that_is_not_on_a_screen_cuts_no_name(capsys: pytest.CaptureFixture[str]) -> None:
    print_rows(["name", "notes"], [[NAME, "x" * 200]])
    assert NAME in capsys.readouterr().out


@pytest.mark.parametrize("rows", [3, RICH_ROWS + 1], ids=["few rows, by rich", "many rows"])
def test_a_table_on_a_screen_keeps_to_its_width(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    with redirect_stdout(Screen()) as screen:
        print_rows(["name", "lr"], [[NAME, 0.1]] * rows)
    lines = screen.getvalue().splitlines()
    assert max(len(re.sub("\x1b.*?m", "", line)) for line in lines) <= 60
    assert len(lines) > rows


def test_a_name_that_is_cut_keeps_its_end() -> None:
    line = render(["name", "lr"], [[NAME, 0.1]], width=50).splitlines()[1]
    assert len(line) == 50
    assert line.endswith("-l7wowzx7/seed=0/v1  0.1")


def test_csv_is_read_back_as_it_was() -> None:
    rows = [["a,b", 'say "x"', "two\nlines"], [0.1 + 0.2, float("nan"), None]]
    read = list(csv.reader(io.StringIO(render(["x", "y", "z"], rows, "csv"))))
    assert read == [["x", "y", "z"], rows[0], [repr(0.1 + 0.2), "nan", ""]]


def test_json_holds_exact_numbers_and_null_for_what_json_lacks() -> None:
    text = render(["lr", "loss", "betas"], [[0.1 + 0.2, float("nan"), (0.9, float("inf"))]], "json")

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    assert json.loads(text, parse_constant=refuse) == [{"lr": 0.1 + 0.2, "loss": None, "betas": [0.9, None]}]


def test_json_without_rows_is_an_empty_list() -> None:
    assert json.loads(render(["name"], [], "json")) == []


def test_markdown_escapes_what_would_end_a_cell() -> None:
    lines = render(["tags", "lr"], [["a|b\nc", 0.1]], "markdown").splitlines()
    assert lines == ["| tags | lr |", "| :-- | --: |", "| a\\|b c | 0.1 |"]


@pytest.mark.parametrize("form", ["table", "markdown"])
def test_a_strangers_text_does_not_steer_the_terminal(form: str) -> None:
    assert "\x1b" not in render(["notes"], [["\x1b[2Jgone"]], form)
