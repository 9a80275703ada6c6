"""Reading the splits of one's own data: a file, a folder, or what the hub has, each as rows with labels as given."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from ldmi_lightning.csv_file import CSVColumns, read_csv
from ldmi_lightning.errors import UserError
from ldmi_lightning.file_kinds import kind_of_file

from .hub import UnreadableDataset, is_saved, read_dataset, reasons, shard_at_fault
from .labels import GivenLabels, given_labels
from .own_data import shorten

SOURCE_SPLITS = {"train": "train", "val": "validation", "test": "test"}
"""Our splits, and what ``datasets`` calls them."""
CSV, JSON, PARQUET = (".csv", ".tsv"), (".jsonl", ".json"), (".parquet",)
FILES = (*CSV, *PARQUET, *JSON)
BUILDERS = {JSON: "json", PARQUET: "parquet"}
NAME_ON_THE_HUB = r"\w[\w.-]*(/[\w.-]+)?"
NAMED_ROWS = 5
"""So many rows are named in a line."""


class Rows(NamedTuple):
    """One split of a source.

    Attributes:
        data: a ``datasets.Dataset`` with the columns of the inputs.
        labels: the labels as given; ``None`` where there is no such column.
        files: what each file holds of it, where they are CSV.
        notes: what was found out about them, to say it.
        paths: of the parquet files that hold it, in the order of the rows; empty where it is stored otherwise.
    """

    data: Any
    labels: GivenLabels | None
    files: Mapping[str, CSVColumns]
    notes: list[str]
    paths: Sequence[str] = ()

    def where(self, rows: Sequence[int]) -> str:
        """Name the places of some rows, at most five of them."""
        named, begin, said = list(rows[:NAMED_ROWS]), 0, []
        for name, held in self.files.items():
            here = [row - begin for row in named if begin <= row < begin + len(held.lines)]
            said += [place(name, held.lines, here)] if here else []
            begin += len(held.lines)
        told = "; ".join(said) or f"rows {shorten(named)}, counted from 0"
        return told if len(rows) <= NAMED_ROWS else f"{told}, …"


class Wanted(NamedTuple):
    """What is asked of each split.

    Attributes:
        kind: what the inputs are.
        columns: names of the columns of the inputs, by the options that name them.
        label: name of the column of labels.
        class_names: names of the classes, where they are given.
        encoding: how characters are stored in CSV files.
        source: what the user called the source, for messages.
    """

    kind: Literal["image", "text"]
    columns: Mapping[str, str]
    label: str
    class_names: list[str] | None
    encoding: str
    source: str

    def called(self, split: str) -> str:
        """Name a split, for messages."""
        return f"The {SOURCE_SPLITS[split]} split of {self.source}"

    def check_names(self, columns: Sequence[str], split: str) -> None:
        """Refuse a split that lacks a column; that of the labels is needed to train on alone."""
        needed = dict(self.columns) | ({"label_column": self.label} if split == "train" else {})
        for option, column in needed.items():
            if column not in columns:
                where = self.source if split == "train" else f"the {SOURCE_SPLITS[split]} split of {self.source}"
                raise UserError(
                    f"--data.{option} {column} is no column of {where}, whose columns are {shorten(list(columns))}."
                )

    def check_kinds(self, features: Mapping[str, Any]) -> None:
        """Refuse columns of inputs that hold something else."""
        import datasets

        other = "text" if self.kind == "image" else "image"
        for option, column in self.columns.items():
            found = features[column]
            is_text = getattr(found, "dtype", None) in ("string", "large_string") and column != self.label
            if not (isinstance(found, datasets.Image) if self.kind == "image" else is_text):
                what = "the labels" if column == self.label else found
                raise UserError(
                    f"--data.{option} {column} of {self.source} holds no {self.kind}s, but {what}. Its columns are "
                    f"{shorten(list(features))}; for {other}s set --data.{other}_column."
                )

    def check_class_label(self, names: Sequence[str]) -> None:
        """Refuse class names that cannot be those of a column that numbers its classes."""
        if self.class_names is None:
            return
        if len(names) != len(self.class_names):
            raise UserError(
                f"--data.class_names names {len(self.class_names)} classes, but column {self.label} of {self.source} has "
                f"{len(names)}: {shorten(names)}."
            )
        if set(names) & set(self.class_names) and list(names) != self.class_names:
            raise UserError(
                f"--data.class_names must be in the order of column {self.label} of {self.source}: [{', '.join(names)}]."
            )


class AnyColumn(Wanted):
    """One column, whatever it holds, that an option of its own names, such as ``{"--group": "person"}``."""

    __slots__ = ()

    def check_names(self, columns: Sequence[str], split: str) -> None:
        """Refuse a split that lacks it."""
        for option, column in self.columns.items():
            if column not in columns:
                raise UserError(
                    f"{option} {column} is no file, and no column of {self.source}, whose columns are {shorten(list(columns))}."
                )

    def check_kinds(self, features: Mapping[str, Any]) -> None:
        """Take what it holds."""


def read_file(file: str, split: str, wanted: Wanted) -> Rows:
    """Read one file as a split.

    Args:
        file: its path; ``.csv``, ``.tsv``, ``.parquet``, ``.jsonl`` or ``.json``.
        split: which split it is.
        wanted: what is asked of it.
    """
    path = Path(file)
    if path.suffix.lower() in CSV:
        return _from_csv([file], split, wanted)
    builder = next((name for suffixes, name in BUILDERS.items() if path.suffix.lower() in suffixes), None)
    if builder is None:
        raise UserError(
            f"{file} is none of the kinds of files that are read: {', '.join(FILES)}. Save it as one of them."
        )
    if kind := kind_of_file(path):
        raise UserError(f"{file} is {kind}.")
    try:
        data = _load_files(builder, [file])
    except UnreadableDataset:
        _refuse_shards(builder, {split: [file]})
        raise
    return _from_dataset(data, [file], split, wanted)


def read_splits(source: str, subset: str | None, wanted: Wanted) -> dict[str, Rows]:
    """Read the splits of a folder, or of a data set on the hub.

    Args:
        source: the folder, or the name on the hub.
        subset: which of its several data sets.
        wanted: what is asked of each split.

    Raises:
        UnreadableDataset: if ``datasets`` cannot read it.
    """
    files, kind = _local_files(source, subset)
    found = {split: files[name] for split, name in SOURCE_SPLITS.items() if name in files}
    if files and kind == "csv":
        _need_train(list(files), source)
        return {split: _from_csv(paths, split, wanted) for split, paths in found.items()}
    try:
        data = read_dataset(source, subset)
    except UnreadableDataset:
        _refuse_shards(kind, files)
        if kind is None or "train" not in files or len(files) == 1:
            raise
        data = {name: _load_files(kind, paths) for name, paths in files.items()}  # whose columns may differ
    _need_train(list(data), source)
    return {
        split: _from_dataset(data[name], files.get(name, []), split, wanted)
        for split, name in SOURCE_SPLITS.items()
        if name in data
    }


def is_name_on_the_hub(source: str) -> bool:
    """Whether a source that is not there may be a name on the hub, and no file.

    >>> is_name_on_the_hub("stanfordnlp/imdb"), is_name_on_the_hub("imdb"), is_name_on_the_hub("own.csv")
    (True, True, False)
    """
    return re.fullmatch(NAME_ON_THE_HUB, source) is not None and Path(source).suffix.lower() not in FILES


def place(name: str, lines: Sequence[int], rows: Sequence[int]) -> str:
    """Name the lines of some rows.

    >>> place("a.csv", [2, 3, 5], [0, 2])
    'a.csv, lines 2, 5'
    """
    return f"{name}, line{'s' if len(rows) > 1 else ''} {shorten([lines[row] for row in rows])}"


def _need_train(splits: Sequence[str], source: str) -> None:
    if "train" not in splits:
        raise UserError(
            f"--data.source {source} has no train split, but {shorten(splits)}. Give a folder in which the files to train on are "
            "named train, such as train.parquet."
        )


def _local_files(source: str, subset: str | None) -> tuple[dict[str, list[str]], str | None]:
    """Return the files of a folder by the name of their split, and which of CSV, JSON or parquet they are."""
    if not Path(source).is_dir() or is_saved(source):
        return {}, None
    import datasets

    with reasons():
        config = datasets.load_dataset_builder(source, subset).config
    kind = {"CsvConfig": "csv", "JsonConfig": "json", "ParquetConfig": "parquet"}.get(type(config).__name__)
    files = {str(name): [str(path) for path in paths] for name, paths in (config.data_files or {}).items()}
    every = [path for paths in files.values() for path in paths]
    if kind == "csv" and not all(Path(path).suffix.lower() in CSV and Path(path).is_file() for path in every):
        return {}, None  # compressed, for example: `datasets` knows more about files
    return files, kind


def _refuse_shards(kind: str | None, files: Mapping[str, Sequence[str]]) -> None:
    """Raise if a parquet file of a split is what cannot be read."""
    for paths in files.values() if kind == "parquet" else ():
        if _are_parquet(paths) and (fault := shard_at_fault(paths)) is not None:
            raise UserError(f"{fault}. Repair it, or take it out of --data.source.")


def _load_files(builder: str, paths: Sequence[str]) -> Any:
    import datasets

    with reasons():
        return datasets.load_dataset(builder, data_files={"train": list(paths)}, split="train")


def _from_csv(paths: Sequence[str], split: str, wanted: Wanted) -> Rows:
    import datasets

    columns = [*wanted.columns.values(), wanted.label]
    files = {path: read_csv(Path(path), columns, wanted.encoding, option="--data.encoding") for path in paths}
    for held in files.values():
        wanted.check_names(held.names, split)
    cells = {name: [cell for held in files.values() for cell in held.cells[name]] for name in wanted.columns.values()}
    labels = None
    if all(wanted.label in held.cells for held in files.values()):
        column = [label for held in files.values() for label in held.cells[wanted.label]]
        labels = given_labels(column, f"{wanted.called(split)}, column {wanted.label},")
    data = datasets.Dataset.from_dict(
        cells, datasets.Features({name: datasets.Value("string") for name in wanted.columns.values()})
    )
    wanted.check_kinds(data.features)
    notes = [note for held in files.values() for note in held.notes]
    return Rows(data, labels, {Path(path).name: held for path, held in files.items()}, notes)


def _from_dataset(data: Any, files: Sequence[str], split: str, wanted: Wanted) -> Rows:
    import datasets

    wanted.check_names(data.column_names, split)
    wanted.check_kinds(data.features)
    labels = None
    if wanted.label in data.column_names:
        feature, what = data.features[wanted.label], f"{wanted.called(split)}, column {wanted.label},"
        names = feature.names if isinstance(feature, datasets.ClassLabel) else None
        if names is not None:
            wanted.check_class_label(names)
        categories = _categories(files, wanted.label) if names is None else None
        column = data[wanted.label][:] if categories is None else categories
        # Class names that are given are other names for the classes that are numbered.
        labels = given_labels(column, what, names if wanted.class_names is None else None)
    return Rows(data, labels, {}, [], files if _are_parquet(files) else ())


def _are_parquet(files: Sequence[str]) -> bool:
    return bool(files) and all(path.endswith(PARQUET) and Path(path).is_file() for path in files)


def _categories(files: Sequence[str], column: str) -> Any:
    """Return a column of parquet files in which pandas has stored categories, which ``datasets`` forgets; ``None`` for others."""
    if not _are_parquet(files):
        return None
    import pyarrow
    import pyarrow.parquet as parquet

    schemas = [parquet.read_schema(path) for path in files]
    if not all(column in each.names and pyarrow.types.is_dictionary(each.field(column).type) for each in schemas):
        return None
    parts = [parquet.read_table(path, columns=[column]) for path in files]
    return pyarrow.concat_tables(parts).unify_dictionaries()[column].to_pandas()
