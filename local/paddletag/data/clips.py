"""Clips as columns: what training needs of millions of records, without a Python object for each of them.

The functions take plain lists of records too, so that code which uses them need not know which of the two it has.
Nothing here needs pyarrow: `clip_table` fills the columns from a file.
"""

import bisect
import json
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import overload

import numpy as np

from paddletag.type_aliases import Record


class Texts(Sequence[str]):
    """Texts as one buffer of UTF-8 and int64 [N + 1] offsets into it: each is decoded when it is asked for."""

    def __init__(self, offsets: np.ndarray, content: memoryview) -> None:
        self.offsets, self.content = offsets, content

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @overload
    def __getitem__(self, row: int) -> str: ...
    @overload
    def __getitem__(self, row: slice) -> list[str]: ...
    def __getitem__(self, row: int | slice) -> str | list[str]:
        if isinstance(row, slice):
            return [self[k] for k in range(*row.indices(len(self)))]
        return str(self.encoded(row), "utf-8")

    def encoded(self, row: int) -> memoryview:
        """The bytes of a text, where they lie. IndexError for a row that there is not."""
        if not 0 <= row < len(self):
            raise IndexError(row)
        return self.content[self.offsets[row] : self.offsets[row + 1]]

    def find(self, text: str) -> int | None:
        """The row of a text, where all are in the order of their bytes (that of Python's texts); None if not there."""
        wanted = text.encode("utf-8", "surrogatepass")
        row = bisect.bisect_left(range(len(self)), wanted, key=lambda row: bytes(self.encoded(row)))
        return row if row < len(self) and self.encoded(row) == wanted else None


@dataclass(frozen=True)
class Columns:
    """The columns of all clips of a prepared folder, mapped from a file that all processes share."""

    lines: Texts  # the manifest's lines
    ids: Texts
    listed: Texts  # `clip_list.listed_row` of each: what a model's list of clips says
    label_offsets: np.ndarray  # int [N + 1]: of each clip's labels in `label_codes`
    label_codes: np.ndarray  # int32: places in `labels`
    split_codes: np.ndarray  # int32 [N]: places in `splits`
    by_id: np.ndarray  # int32 [N]: the rows in the order of their ids
    splits: list[int | str]  # the folds or splits that occur
    labels: list[str]  # of labels.txt
    digest: str  # `manifest.digest` of all clips


class Clips(Sequence[Record]):
    """Some of the clips of a prepared folder. A record is made from its line of the manifest when it is asked for."""

    def __init__(self, columns: Columns, rows: np.ndarray | None = None) -> None:
        self.columns = columns
        self.rows = np.arange(len(columns.ids), dtype=np.int32) if rows is None else rows
        self.digest = columns.digest if rows is None else ""  # of all clips; empty for a part of them

    def __len__(self) -> int:
        return len(self.rows)

    @overload
    def __getitem__(self, place: int) -> Record: ...
    @overload
    def __getitem__(self, place: slice) -> "Clips": ...
    def __getitem__(self, place: int | slice) -> "Record | Clips":
        if isinstance(place, slice):
            return Clips(self.columns, self.rows[place])
        return json.loads(bytes(self.columns.lines.encoded(int(self.rows[place]))))

    def __iter__(self) -> Iterator[Record]:
        return (self[place] for place in range(len(self)))


class _Ids(Sequence[str]):
    """The ids of `Clips`."""

    def __init__(self, clips: Clips) -> None:
        self.texts, self.rows = clips.columns.ids, clips.rows

    def __len__(self) -> int:
        return len(self.rows)

    @overload
    def __getitem__(self, place: int) -> str: ...
    @overload
    def __getitem__(self, place: slice) -> list[str]: ...
    def __getitem__(self, place: int | slice) -> str | list[str]:
        if isinstance(place, slice):
            return [self.texts[int(row)] for row in self.rows[place]]
        return self.texts[int(self.rows[place])]


class _ById(Mapping[str, Record]):
    """The records of `Clips` by id."""

    def __init__(self, clips: Clips) -> None:
        self.clips = clips
        self.is_there = np.zeros(len(clips.columns.ids), bool)
        self.is_there[clips.rows] = True

    def __len__(self) -> int:
        return len(self.clips)

    def __iter__(self) -> Iterator[str]:
        return iter(_Ids(self.clips))

    def __getitem__(self, clip_id: str) -> Record:
        columns, wanted = self.clips.columns, clip_id.encode("utf-8", "surrogatepass")
        at = bisect.bisect_left(columns.by_id, wanted, key=lambda row: bytes(columns.ids.encoded(int(row))))
        row = int(columns.by_id[at]) if at < len(columns.by_id) else -1
        if row < 0 or columns.ids.encoded(row) != wanted or not self.is_there[row]:
            raise KeyError(clip_id)
        return json.loads(bytes(columns.lines.encoded(row)))


class LabelLists:
    """The labels of clips as numbers: clip k has codes[offsets[rows[k]] : offsets[rows[k] + 1]]."""

    def __init__(self, codes: np.ndarray, offsets: np.ndarray, rows: np.ndarray) -> None:
        self.codes, self.offsets, self.rows = codes, offsets, rows

    def __getitem__(self, place: int) -> np.ndarray:
        """The numbers of a clip's labels: int [L]."""
        row = self.rows[place]
        return self.codes[self.offsets[row] : self.offsets[row + 1]]

    def flat(self) -> tuple[np.ndarray, np.ndarray]:
        """(the numbers of all labels, clip after clip; the place of the clip that each is of): int [L], int [L]."""
        counts = self.offsets[self.rows + 1] - self.offsets[self.rows]
        places = np.repeat(np.arange(len(self.rows)), counts)
        within = np.arange(len(places)) - np.repeat(np.cumsum(counts) - counts, counts)
        return self.codes[self.offsets[self.rows][places] + within], places

    def counts(self, labels: int) -> np.ndarray:
        """How many clips each of so many labels has: int [labels]. A label counts once in a clip."""
        codes, places = self.flat()
        if len(self.codes) and len(places):
            pairs = np.unique(places.astype(np.int64) * labels + codes)
            codes = pairs % labels
        return np.bincount(codes, minlength=labels)

    def multi_hot(self, places: Iterable[int], labels: int) -> np.ndarray:
        """The targets of some clips: float32 [N, labels], 0 or 1."""
        lists = [self[place] for place in places]
        targets = np.zeros((len(lists), labels), np.float32)
        for row, codes in zip(targets, lists, strict=True):
            row[codes] = 1
        return targets


def ids_of(records: Sequence[Record]) -> Sequence[str]:
    """The ids of `records`."""
    return _Ids(records) if isinstance(records, Clips) else [record["id"] for record in records]


def labels_of(records: Sequence[Record], labels: Sequence[str] | None = None) -> LabelLists:
    """The labels of `records` as places in `labels`; with None, as numbers of any order."""
    if isinstance(records, Clips) and labels in (None, records.columns.labels):
        return LabelLists(records.columns.label_codes, records.columns.label_offsets, records.rows)
    if labels is None:
        labels = list(dict.fromkeys(name for record in records for name in record["labels"]))
    index = {name: code for code, name in enumerate(labels)}
    lists = [[index[name] for name in record["labels"]] for record in records]
    offsets = np.cumsum([0, *map(len, lists)])
    codes = np.array([code for codes in lists for code in codes], np.int32)
    return LabelLists(codes, offsets, np.arange(len(lists)))


def by_id(records: Sequence[Record]) -> Mapping[str, Record]:
    """{id: record} of `records`."""
    return _ById(records) if isinstance(records, Clips) else {record["id"]: record for record in records}


def in_id_order(records: Sequence[Record]) -> Sequence[Record]:
    """`records` in the order of their ids."""
    if not isinstance(records, Clips):
        return sorted(records, key=lambda record: record["id"])
    place = np.empty(len(records.columns.by_id), np.int32)
    place[records.columns.by_id] = np.arange(len(place), dtype=np.int32)
    return select(records, np.argsort(place[records.rows], kind="stable"))


def no_blanks_in_ids(records: Sequence[Record]) -> bool:
    """Whether no id has a blank or a control character, so that lines which begin with ids sort as the ids do."""
    if not isinstance(records, Clips):
        return all(character > " " for record in records for character in record["id"])
    return not (np.frombuffer(records.columns.ids.content, np.uint8) <= ord(" ")).any()


def splits_of(records: Sequence[Record]) -> tuple[np.ndarray, list[int | str | None]]:
    """(codes, names): the fold or split of record k is names[codes[k]]; None where it has none. int [N]."""
    if isinstance(records, Clips):
        return records.columns.split_codes[records.rows], list(records.columns.splits)
    names: dict[int | str | None, int] = {}
    codes = [names.setdefault(record.get("fold", record.get("split")), len(names)) for record in records]
    return np.array(codes, np.int32), list(names)


def with_splits(records: Sequence[Record], wanted: Collection[int | str | None]) -> Sequence[Record]:
    """Those of `records` whose fold or split is one of `wanted`, in their order."""
    codes, names = splits_of(records)
    return select(records, np.flatnonzero(np.isin(codes, [n for n, name in enumerate(names) if name in wanted])))


def select(records: Sequence[Record], places: np.ndarray) -> Sequence[Record]:
    """The records at `places`, int [N]."""
    if isinstance(records, Clips):
        return Clips(records.columns, records.rows[places])
    return [records[place] for place in places]


def joined(records: Sequence[Record], others: Sequence[Record]) -> Sequence[Record]:
    """`records` and then `others`, of the same prepared folder."""
    if isinstance(records, Clips) and isinstance(others, Clips):
        return Clips(records.columns, np.concatenate([records.rows, others.rows])) if len(others) else records
    return [*records, *others]
