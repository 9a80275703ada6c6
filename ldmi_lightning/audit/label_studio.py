"""Doubtful labels as tasks for Label Studio, with the suggested class as prediction: its documented format for imports.

The names of a prediction must match the labeling configuration of the project, so that one is written beside the tasks.
"""

import json
import os
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any
from urllib.parse import quote
from xml.sax.saxutils import quoteattr

import numpy as np
from numpy.typing import NDArray

from ldmi_lightning import files
from ldmi_lightning.audit.audit import Audit
from ldmi_lightning.audit.rows import Rows
from ldmi_lightning.audit.tables import UNENCODABLE

TASKS, CONFIGURATION = "label_studio.json", "label_studio.xml"
MODEL = "ldmi audit"
CONTROL, OBJECT = "label", "sample"
"""How the choices, and what they are made for, are called in the configuration and in each prediction."""
LOCAL = "/data/local-files/?d="
"""How Label Studio addresses a file below its document root."""
CHUNK = 10_000
NO_SCORE = 0.5
"""Stands in a task until its own is known."""


def write_tasks(folder: Path, found: Audit, rows: Rows, places: NDArray[np.int64]) -> Path | None:
    """Write ``label_studio.json``, a task for each place, and ``label_studio.xml``, the labeling configuration.

    A text is ``data.text``, a file ``data.image``, addressed below the folder that all of them share; of all else there is
    ``data.index`` alone.

    Args:
        folder: where to.
        found: the audit.
        rows: its samples.
        places: positions of those that become tasks, in their order.

    Returns:
        The folder that Label Studio must serve, its ``LOCAL_FILES_DOCUMENT_ROOT``; ``None`` where samples are no files.
    """
    shown: set[str] = set()
    root = _shared_folder(rows, places)
    encode = json.JSONEncoder(ensure_ascii=False).encode
    # Tasks differ in their data and scores alone, by class: to encode all of each would take three times as long.
    parts = [_around(encode(task({}, name, NO_SCORE))) for name in rows.class_names]
    given, suggested = found.given[places].tolist(), found.suggested[places].tolist()
    scores = found.confidence[places].tolist()

    def tasks() -> Iterator[str]:
        for place, label, other, score in zip(places.tolist(), given, suggested, scores, strict=True):
            field, value = _field(rows, place, root)
            shown.add(field)
            data = {"index": int(rows.index[place]), "given_label": rows.class_names[label], field: value}
            before, between, after = parts[other]
            yield f"{before}{encode(data)}{between}{round(score, 6)}{after}"

    def write(file: Any) -> None:
        lines, between = tasks(), "[\n"
        while some := list(islice(lines, CHUNK)):
            file.write((between + ",\n".join(some)).encode(errors=UNENCODABLE))
            between = ",\n"
        file.write(b"\n]\n" if len(places) else b"[]\n")

    files.write_with(folder / TASKS, write)
    field = shown.pop() if len(shown) == 1 else "index"
    files.write(folder / CONFIGURATION, configuration(field, rows.class_names).encode())
    return root


def task(data: dict[str, Any], suggested: str, confidence: float) -> dict[str, Any]:
    """Return a task with its prediction.

    >>> made = task({"index": 7, "text": "a fine film"}, "good", 0.9)
    >>> made["data"], made["predictions"][0]["result"][0]["value"]
    ({'index': 7, 'text': 'a fine film'}, {'choices': ['good']})
    """
    choice = {"from_name": CONTROL, "to_name": OBJECT, "type": "choices", "value": {"choices": [suggested]}}
    return {"data": data, "predictions": [{"model_version": MODEL, "score": round(confidence, 6), "result": [choice]}]}


def _around(encoded: str) -> tuple[str, str, str]:
    """Return what stands before the empty data of an encoded task, between them and its score, and after that.

    >>> _around('{"data": {}, "score": 0.5, "choices": ["{} 0.5"]}')
    ('{"data": ', ', "score": ', ', "choices": ["{} 0.5"]}')
    """
    before, _, rest = encoded.partition("{}")
    between, _, after = rest.partition(str(NO_SCORE))
    return before, between, after


def configuration(field: str, class_names: Sequence[str]) -> str:
    """Return the labeling configuration of a project.

    Args:
        field: which one of the data is shown: ``text``, ``image`` or ``index``.
        class_names: the choices.

    >>> print(configuration("text", ["bad", "<b>"]), end="")
    <View>
      <Text name="sample" value="$text"/>
      <Choices name="label" toName="sample" choice="single">
        <Choice value="bad"/>
        <Choice value="&lt;b&gt;"/>
      </Choices>
    </View>
    """
    choices = "".join(f"    <Choice value={quoteattr(name)}/>\n" for name in class_names)
    return (
        "<View>\n"
        f'  <{"Image" if field == "image" else "Text"} name="{OBJECT}" value="${field}"/>\n'
        f'  <Choices name="{CONTROL}" toName="{OBJECT}" choice="single">\n{choices}  </Choices>\n</View>\n'
    )


def _field(rows: Rows, place: int, root: Path | None) -> tuple[str, Any]:
    """Return which field of a task's data is shown, and what it holds."""
    original = rows.originals[place]
    if original is not None and original.kind == "text":
        return "text", original.value
    if original is not None and original.kind == "file":
        path = Path(str(original.value)).absolute()
        return "image", LOCAL + quote(os.fsencode((path.relative_to(root) if root else path).as_posix()))
    return "index", int(rows.index[place])


def _shared_folder(rows: Rows, places: NDArray[np.int64]) -> Path | None:
    """Return the folder below which all files lie; ``None`` where samples are no files, or lie on several drives."""
    first = rows.originals[int(places[0])] if len(places) else None
    if first is None or first.kind != "file":
        return None
    originals = (rows.originals[place] for place in places.tolist())
    parents = {
        Path(str(each.value)).absolute().parent for each in originals if each is not None and each.kind == "file"
    }
    try:
        return Path(os.path.commonpath(parents))
    except ValueError:
        return None
