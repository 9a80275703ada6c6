"""The worst labels of an audit as a page shows them: with a small picture, or with the text."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ldmi_lightning.audit.audit import Audit
from ldmi_lightning.audit.rows import Rows
from ldmi_lightning.audit.tables import ranks
from ldmi_lightning.originals import Original, caption, thumbnail
from ldmi_lightning.pages.audit_page import Suspect

SHOWN = 200
SIZES = (96, 64, 48, 32)
"""Widths of pictures, of which the first is taken that keeps a page small."""
ROOM = 1_800_000
"""So many bytes all pictures of a page may take."""
LETTERS = 600
"""Of a longer text the beginning is shown."""


def worst(found: Audit, rows: Rows, labels: NDArray[np.int64]) -> list[Suspect]:
    """Return the worst labels, at most :data:`SHOWN` of them.

    Args:
        found: the audit.
        rows: its samples.
        labels: corrected labels, shape ``(N,)``.
    """
    places = found.order[:SHOWN].tolist()
    originals = [rows.originals[place] for place in places]
    rank = ranks(found.order)
    return [
        Suspect(
            rank=int(rank[place]),
            index=int(rows.index[place]),
            split=str(rows.split[place]),
            seen=bool(rows.seen[place]),
            given=int(found.given[place]),
            suggested=int(found.suggested[place]),
            quality=float(found.quality[place]),
            confidence=float(found.confidence[place]),
            corrected=bool(labels[place] != found.given[place]),
            true=-1 if rows.true is None else int(rows.true[place]),
            caption=clipped(caption(original)),
            is_text=original is not None and original.kind == "text",
            picture=picture,
        )
        for place, original, picture in zip(places, originals, pictures(originals), strict=True)
    ]


def pictures(originals: Sequence[Original | None]) -> list[bytes | None]:
    """Return a PNG of each, as large as the page has room for; ``None`` where there is no picture."""
    for size in SIZES:
        made = [thumbnail(original, size) for original in originals]
        if sum(len(picture) for picture in made if picture) <= ROOM:
            break
    return made


def clipped(text: str) -> str:
    """Return a text, or the beginning of one that is too long for a page, with its length.

    >>> clipped("a" * 601)[595:]
    'aaaaa … (601 characters)'
    """
    return text if len(text) <= LETTERS else f"{text[:LETTERS]} … ({len(text):,} characters)"
