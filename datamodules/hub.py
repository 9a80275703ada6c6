"""Loading a data set from a local folder or the Hugging Face hub, with errors that say what to do."""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ldmi_lightning.errors import UserError


def load_hub_dataset(root: str | None, hub_id: str, splits: Sequence[str] = (), columns: Sequence[str] = ()) -> Any:
    """Load a data set from a local folder, or from the hub where ``root`` is ``None``.

    Args:
        root: folder that ``datasets.load_dataset`` reads, such as a download of the hub's repository.
        hub_id: the data set's name on the Hugging Face hub.
        splits: the splits that it must have.
        columns: the columns that each of these must have.

    Returns:
        A ``datasets.DatasetDict``.
    """
    if root is not None and not Path(root).is_dir():
        raise UserError(
            f"--data.root {root} is no folder. Give the folder that holds the files of {hub_id}, for example one made by "
            f"`{download_command(hub_id, root)}`, or leave --data.root out to load it from the hub."
        )
    where = f"--data.root {root}" if root else "the hub"
    remedy = f"Give a local copy with --data.root, for example one made by `{download_command(hub_id)}`."
    try:
        data = read_dataset(root or hub_id)
    except UnreadableDataset as error:
        raise UserError(f"{hub_id} could not be loaded from {where}: {error}. {remedy}") from error
    for split in splits:
        if split not in data:
            raise UserError(f"{where} has no {split} split, but {sorted(data)}: it is not {hub_id}. {remedy}")
        if missing := sorted(set(columns) - set(data[split].column_names)):
            raise UserError(
                f"The {split} split in {where} has no column {missing[0]}, but {data[split].column_names}: "
                f"it is not {hub_id}. {remedy}"
            )
    return data


class UnreadableDataset(UserError):
    """A folder or a name that ``datasets`` cannot load; the message is its reason."""


def read_dataset(source: str, subset: str | None = None) -> Any:
    """Load a folder, also one made by ``save_to_disk``, or what the hub has under this name.

    Returns:
        A ``datasets.DatasetDict``.

    Raises:
        UnreadableDataset: if there is none.
    """
    import datasets

    with reasons():
        data = datasets.load_from_disk(source) if is_saved(source) else datasets.load_dataset(source, subset)
    return data if isinstance(data, datasets.DatasetDict) else datasets.DatasetDict(train=data)


def is_saved(source: str) -> bool:
    """Whether this is a folder made by ``save_to_disk``."""
    return any((Path(source) / name).is_file() for name in ("dataset_dict.json", "state.json"))


@contextmanager
def reasons() -> Iterator[None]:
    """Turn what ``datasets`` raises into :class:`UnreadableDataset`, and let it show no bars and log nothing beside."""
    import datasets

    datasets.disable_progress_bars()
    verbosity = datasets.logging.get_verbosity()
    datasets.logging.set_verbosity(datasets.logging.CRITICAL)
    try:
        yield
    except datasets.exceptions.DataFilesNotFoundError as error:
        raise UnreadableDataset("it holds no files of data") from error
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UnreadableDataset(reason.rstrip(".")) from error
    finally:
        datasets.logging.set_verbosity(verbosity)


def shard_at_fault(files: Sequence[str]) -> str | None:
    """Say which of some parquet files of one split cannot be read, or has other columns than the first; ``None`` for none."""
    import pyarrow
    import pyarrow.parquet as parquet

    first: list[str] = []
    for file in files:
        try:
            with parquet.ParquetFile(file) as opened:
                names = opened.schema_arrow.names
                for _ in opened.iter_batches(batch_size=1000):
                    pass
        except (OSError, ValueError, pyarrow.ArrowException) as error:
            return f"{file} cannot be read ({str(error).splitlines()[0].rstrip('.')})"
        first = first or names
        if set(names) != set(first):
            return f"{file} has the columns {', '.join(names)}, but {files[0]} has {', '.join(first)}"
    return None


def download_command(hub_id: str, folder: str = "FOLDER") -> str:
    """Return the command that makes a local copy of a data set on the hub."""
    return f"hf download {hub_id} --repo-type dataset --local-dir {folder}"


def remedy_for(source: str, reason: str) -> str:
    """Return what to do about a source that ``datasets`` cannot load, for a reason of its own."""
    if subsets := re.search(r"(?:BuilderConfig|Config name).*?(\[.*?\])", reason, flags=re.DOTALL):
        return f"Set --data.subset to one of {subsets[1]}."
    if Path(source).is_dir():
        return "Give a folder that datasets.load_dataset reads, such as one of parquet, CSV or JSON files."
    return (
        "It is no file and no folder. If it is a name on the hub, give a local copy instead, for example one made by "
        f"`{download_command(source)}`."
    )


def read_labels(data: Any, column: str) -> NDArray[np.int64]:
    """Return a column of whole numbers, shape ``(N,)``, with -1, which is no class, where one is missing."""
    return np.array([-1 if label is None else label for label in data[column][:]], dtype=np.int64)
