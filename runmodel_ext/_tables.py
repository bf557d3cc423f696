"""Rows on the screen, as a table, CSV, JSON or Markdown."""

import csv
import io
import json
import math
import shutil
import sys
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from importlib.util import find_spec
from typing import Any, Literal, get_args

Format = Literal["table", "csv", "json", "markdown"]
FORMATS: tuple[str, ...] = get_args(Format)

# rich takes 0.08 s to import and 1.4 ms a row; a table that fills several screens gains nothing from it.
RICH_ROWS = 100
NARROWEST = 12


def print_rows(columns: Sequence[str], rows: Sequence[Sequence[Any]], form: Format = "table") -> None:
    """Print rows; a table keeps to the terminal's width, and takes all it needs in a pipe or a file.

    Args:
        columns: The titles.
        rows: The cells of each row: plain values, ``None`` where there is nothing.
        form: ``"table"``, ``"csv"``, ``"json"`` or ``"markdown"``.
    """
    on_screen = form == "table" and sys.stdout.isatty()
    if on_screen and len(rows) <= RICH_ROWS and find_spec("rich"):
        _print_with_rich(columns, rows)
        return
    text = render(columns, rows, form, shutil.get_terminal_size().columns if on_screen else None)
    if text:
        print(text)


def render(
    columns: Sequence[str], rows: Sequence[Sequence[Any]], form: Format = "table", width: int | None = None
) -> str:
    """The rows as text, without the last line's end.

    Args:
        columns: The titles.
        rows: The cells of each row: plain values, ``None`` where there is nothing.
        form: ``"table"``, ``"csv"``, ``"json"`` or ``"markdown"``.
        width: How many characters a line of a table may have; ``None`` for as many as it needs.

    Example:
        >>> print(render(["name", "lr"], [["a", 0.1], ["b", None]]))
        name   lr
        a     0.1
        b       -
        >>> print(render(["name", "lr"], [["a", 0.1], ["b", float("nan")]], "json"))
        [{"name": "a", "lr": 0.1},
         {"name": "b", "lr": null}]
    """
    match form:
        case "json":
            lines = [to_json(dict(zip(columns, row, strict=True)), indent=None) for row in rows]
            return "[" + ",\n ".join(lines) + "]"
        case "csv":
            file = io.StringIO()
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(columns)
            writer.writerows(["" if cell is None else _exact(cell) for cell in row] for row in rows)
            return file.getvalue().rstrip("\n")
        case "markdown":
            return _markdown(columns, rows)
        case _:
            return _plain(columns, rows, width)


def to_json(value: Any, indent: int | None = 1) -> str:
    """The value as JSON that every reader takes: ``nan`` and ``inf``, which JSON lacks, become ``null``.

    Example:
        >>> to_json({"loss": float("inf"), "betas": (0.9, 0.999)}, indent=None)
        '{"loss": null, "betas": [0.9, 0.999]}'
    """
    return json.dumps(_jsonable(value), indent=indent, ensure_ascii=False, allow_nan=False, default=str)


def shown(cell: Any) -> str:
    """A cell as one line of text for people.

    Example:
        >>> shown(1e-05), shown(True), shown([1, 2]), shown("word"), shown(None)
        ('1e-05', 'true', '[1, 2]', 'word', '-')
    """
    if cell is None:
        return "-"
    text = _exact(cell)
    if not text.isprintable():  # a stranger's text must neither break the line nor steer the terminal
        text = "".join(c if c.isprintable() else "\ufffd" for c in " ".join(text.split()))
    return text


def _exact(cell: Any) -> str:
    if isinstance(cell, (str, float)):
        return str(cell)
    return to_json(cell, indent=None)


def _jsonable(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _jsonable(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_jsonable(entry) for entry in value]
    return value


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return text == "-"
    return True


def _columns_of_numbers(columns: Sequence[str], cells: Sequence[Sequence[str]]) -> list[bool]:
    return [bool(cells) and all(_is_number(row[i]) for row in cells) for i in range(len(columns))]


def _plain(columns: Sequence[str], rows: Sequence[Sequence[Any]], width: int | None) -> str:
    cells = [[shown(cell) for cell in row] for row in rows]
    titles = [shown(title) for title in columns]
    widths = [max(map(_width, column)) for column in zip(titles, *cells, strict=True)]
    if width is not None:
        widths = _fitted(widths, width)
    numbers = _columns_of_numbers(titles, cells)
    return "\n".join(_line(row, widths, numbers) for row in [titles, *cells])


def _line(row: Sequence[str], widths: Sequence[int], numbers: Sequence[bool]) -> str:
    padded = []
    for text, width, right in zip(row, widths, numbers, strict=True):
        gap = width - _width(text)
        if gap < 0:
            text, gap = _cut(text, width), 0
        padded.append(" " * gap + text if right else text + " " * gap)
    return "  ".join(padded).rstrip()


def _fitted(widths: Sequence[int], width: int) -> list[int]:
    """The widths with the widest columns narrowed until a line fits, none below the narrowest."""
    fitted = list(widths)
    while fitted and sum(fitted) + 2 * (len(fitted) - 1) > width and max(fitted) > NARROWEST:
        fitted[fitted.index(max(fitted))] -= 1
    return fitted


def _cut(text: str, width: int) -> str:
    """The text in ``width`` characters, without its middle: a name's end tells it apart."""
    head = (width - 1) // 4
    return f"{text[:head]}…{text[len(text) - (width - 1 - head) :]}"


def _width(text: str) -> int:
    if text.isascii():
        return len(text)
    wide = sum(unicodedata.east_asian_width(character) in "WF" for character in text)
    return len(text) + wide


def _markdown(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    cells = [[shown(cell).replace("\\", "\\\\").replace("|", "\\|") for cell in row] for row in rows]
    titles = [shown(title).replace("|", "\\|") for title in columns]
    rule = ["--:" if number else ":--" for number in _columns_of_numbers(titles, cells)]
    return "\n".join(_markdown_line(row) for row in [titles, rule, *cells])


def _markdown_line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _print_with_rich(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    cells = [[shown(cell) for cell in row] for row in rows]
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title, right in zip(columns, _columns_of_numbers(columns, cells), strict=True):
        table.add_column(Text(title), justify="right" if right else "left", overflow="fold")
    for row in cells:
        table.add_row(*(Text(text) for text in row))
    Console(file=sys.stdout).print(table)
