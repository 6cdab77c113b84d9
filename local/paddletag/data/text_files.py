"""Text files of a raw data set: lists of labels, tables, lines."""

import csv
from collections import Counter
from pathlib import Path

from paddletag.runtime import UserError
from paddletag.type_aliases import File


def read_text(path: File, raw: File | None, key: str = "data.metadata") -> str:
    """The text of a file that `key` of the config names, in the raw folder if `raw` is given.

    UserError for a file that is missing or no text.
    """
    try:
        return Path(path).read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        hint = f": is {raw} the folder of the data set? (--raw, {key})" if raw else f" ({key})"
        raise UserError(f"{path}: no such file{hint}") from None
    except (UnicodeDecodeError, IsADirectoryError) as error:
        raise UserError(f"{path}: not a text file: {error}") from None


def read_labels(path: File) -> dict[str, str]:
    """{label, or its mid: its name} in the order of the file: a name per line, or AudioSet's index,mid,display_name.

    UserError for a file that is missing, or of another kind.
    """
    lines = read_text(path, None, "data.labels").splitlines()
    if lines and lines[0].replace(" ", "") == "index,mid,display_name":
        rows = [row for row in csv.reader(lines[1:]) if row]
        if not all(len(row) == 3 for row in rows):
            raise UserError(f"{path}: a line has not three fields: index, mid, display_name")
        labels = {mid: name for _, mid, name in rows}
    else:
        labels = {name.strip(): name.strip() for name in lines if name.strip()}
    if not labels:
        raise UserError(f"{path}: has no labels")
    return labels


def _delimiter(table: Path, header: str) -> str:
    """What stands between the columns of a table."""
    if table.suffix.lower() == ".tsv":
        return "\t"
    return next((character for character in ",\t;" if character in header), ",")


def read_csv(table: Path, delimiter: str, raw: File) -> tuple[list[tuple[int, dict]], list[str]]:
    """([(line number, {column: value})], columns) of a table with a header, in the raw folder `raw`.

    delimiter: "" for a tab in .tsv files, else a comma, or where the header has none, a tab or a semicolon. A line of
    too many fields has the key None, one of too few the value None. UserError for what is no table, or an empty one.
    """
    delimiter = delimiter.replace(r"\t", "\t")
    if len(delimiter) > 1:
        raise UserError(f"data.delimiter must be one character, not {delimiter!r}")
    try:
        with open(table, encoding="utf-8-sig", newline="") as file:
            delimiter = delimiter or _delimiter(table, file.readline())
            file.seek(0)
            reader = csv.DictReader(file, strict=True, delimiter=delimiter)
            lines, columns = [(reader.line_num, row) for row in reader], reader.fieldnames
    except FileNotFoundError:
        raise UserError(f"{table}: no such file: is {raw} the folder of the data set? (--raw, data.metadata)") from None
    except (UnicodeDecodeError, csv.Error, IsADirectoryError) as error:
        raise UserError(f"{table}: not a CSV file: {error}") from None
    if not columns:
        raise UserError(f"{table}: is empty")
    if not lines:
        raise UserError(f"{table}: has no rows")
    if twice := [name for name, count in Counter(columns).items() if count > 1 and name]:
        raise UserError(f"{table}: has several columns called {twice[0]!r}: give each a name of its own")
    return lines, list(columns)
