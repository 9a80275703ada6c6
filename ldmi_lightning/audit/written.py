"""The folder that an audit writes: whole, or not at all."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ldmi_lightning import files
from ldmi_lightning.audit.annotators import ANNOTATORS, Crowd, crowd_summary, write_annotators
from ldmi_lightning.audit.audit import Audit, corrected
from ldmi_lightning.audit.label_studio import write_tasks
from ldmi_lightning.audit.rows import Rows
from ldmi_lightning.audit.summary import as_json, summary
from ldmi_lightning.audit.tables import UNENCODABLE, doubtful, to_review, write_issues, write_labels

ISSUES, LABELS, REVIEW, SUMMARY, PAGE = "issues.csv", "labels.csv", "review.csv", "summary.json", "audit.html"


def write_audit(
    folder: Path, found: Audit, rows: Rows, *, threshold: float, head: Mapping[str, Any], crowd: Crowd | None = None
) -> None:
    """Write all files of an audit into a new folder.

    - ``issues.csv``: every label, the worst first; see :func:`ldmi_lightning.audit.tables.write_issues`.
    - ``labels.csv``: a label for each sample, corrected where P(suggested is right) reaches the threshold, else as given.
    - ``review.csv``: the doubtful labels that were not corrected, in the form of ``issues.csv``.
    - ``annotators.csv``: where there are votes, what those of each annotator are worth, and his T.
    - ``summary.json``: all figures.
    - ``label_studio.json``, ``label_studio.xml``: all doubtful labels as tasks, and the labeling configuration for them.
    - ``audit.html``: a page to look at.

    Args:
        folder: where to; it must not be there.
        found: the audit.
        rows: its samples.
        threshold: from which P(suggested is right) on a label is corrected.
        head: what the command knows: ``truth``, ``advice``, and whatever says how the audit was made.
        crowd: what is known of the annotators; ``None`` where each sample has one label.

    Raises:
        OSError: the folder is there already, or cannot be written; then nothing is left of it.
    """
    # Jinja2 and matplotlib take their time, which a list of labels need not wait for.
    from ldmi_lightning.audit.worst import worst
    from ldmi_lightning.pages.audit_page import audit_page

    labels = corrected(found, threshold)
    people = None if crowd is None else crowd_summary(crowd)
    content = summary(found, rows, labels, threshold=threshold, head={**head, "annotators": people})
    with files.new_folder(folder) as unfinished:
        write_issues(unfinished / ISSUES, found, rows, found.order)
        write_labels(unfinished / LABELS, found, rows, labels)
        write_issues(unfinished / REVIEW, found, rows, found.order[to_review(found, labels)[found.order]])
        if crowd is not None:
            write_annotators(unfinished / ANNOTATORS, crowd, rows.class_names)
        root = write_tasks(unfinished, found, rows, found.order[doubtful(found)[found.order]])
        content["label_studio_root"] = None if root is None else str(root)
        files.write(unfinished / SUMMARY, as_json(content).encode(errors=UNENCODABLE))
        files.write(unfinished / PAGE, audit_page(content, worst(found, rows, labels)).encode(errors=UNENCODABLE))
