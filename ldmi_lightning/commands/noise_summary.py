"""Label noise in words and tables: T as requested and as it came out, and what it means for cross-entropy and L_DMI."""

import inspect
import textwrap
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ldmi_lightning.crowds.aggregate import agreement
from ldmi_lightning.crowds.votes import NO_VOTE
from ldmi_lightning.datamodules import NoisyDataModule
from ldmi_lightning.noise import CrowdLabels, Noise, NoNoise
from ldmi_lightning.transition import (
    condition_number,
    dominated_classes,
    flip_rates,
    realised_matrix,
    samples_to_tell_from_singular,
)

Matrix = NDArray[np.float64]

SPLITS = {"train": "training", "val": "validation"}
LISTED_CLASSES = 20
"""Up to so many classes are listed one by one."""
NAMED_FLIPS = 6
MARGIN = 3
"""Without a memory of U a batch should hold so many times the samples that the best classifier needs to see det T.

On Fashion-MNIST (b) at r = 0.9 it needs 99, and batches of 128 without a memory have not found the classes.
"""
WIDTH = 100


class Seen(NamedTuple):
    """What is known of the noise in a data set.

    Attributes:
        requested: T that the injector was asked for, shape ``(C, C)``; ``None`` where it has none, or what it changed was no
            true label.
        realised: T as it came out, in ``"training"`` and ``"validation"`` where labels are noisy and the true ones known,
            and in both ``"together"``.
        counts: samples of each true class there, shape ``(C,)``.
    """

    requested: Matrix | None
    realised: dict[str, Matrix]
    counts: dict[str, NDArray[np.int64]]


def look(data: NoisyDataModule) -> Seen:
    """Return what is known of the noise, after ``data.setup``."""
    classes = data.num_classes
    known = {SPLITS[name]: data.splits[name] for name in data.noisy_splits if data.labels_are_true(name)}
    labels = {title: np.stack([split.y_clean.numpy(), split.y.numpy()]) for title, split in known.items()}
    if len(labels) > 1:
        labels["together"] = np.concatenate(list(labels.values()), axis=1)
    return Seen(
        data.noise.transition_matrix(classes) if data.labels_are_true("train") else None,
        {title: realised_matrix(clean, noisy, classes) for title, (clean, noisy) in labels.items()},
        {title: np.bincount(clean, minlength=classes) for title, (clean, _) in labels.items()},
    )


def describe(data: NoisyDataModule) -> str:
    """Say all of it, as text to print; known after ``data.setup``."""
    seen, names = look(data), list(map(str, data.class_names))
    transitions = {
        "T as requested (row: true class; column: noisy label)": seen.requested,
        "T as it came out in training": seen.realised.get("training"),
    }
    few = len(names) <= LISTED_CLASSES
    parts = [f"{type(data).__name__}: {data.num_classes} classes, {name_noise(data)}."]
    if isinstance(data.noise, CrowdLabels):
        parts.append(_wrap(votes_in_words(data.noise)))
    parts += [
        f"{title}\n{matrix_table(each, names)}" for title, each in transitions.items() if few and each is not None
    ]
    if "training" in seen.realised:
        parts += [
            f"Share of labels that are wrong\n{rate_table(seen, names)}",
            figure_table(seen),
            _wrap(meaning_for_ce(seen.realised["training"], seen.counts["training"], names)),
            _wrap(meaning_for_dmi(seen, data.batch_size)),
        ]
    else:
        parts.append("Nobody knows the true training labels: neither T nor the share of wrong labels can be counted.")
        counts = enumerate(data.class_counts("train").tolist())
        rows = [[_numbered(label, names[label]), f"{count:,}"] for label, count in counts]
        parts += [f"Training labels\n{_align(rows)}"] if few else []
    return "\n\n".join([*parts, f"SHA-256 of the labels: {data.noise_report()['sha256']}"])


def name_noise(data: NoisyDataModule) -> str:
    """Say which noise is injected where."""
    noise: Noise = data.noise
    if isinstance(noise, NoNoise):
        return "labels as they are"
    parameters = inspect.signature(type(noise)).parameters
    values = {name: getattr(noise, name, None) for name in parameters}
    told = [
        f"{name}={value!r}"
        for name, value in values.items()
        if isinstance(value, int | float | str | dict) and value is not False and value != parameters[name].default
    ]
    splits = " and ".join(SPLITS[name] for name in data.noisy_splits)
    return f"{type(noise).__name__}({', '.join(told)}) on {splits} labels"


def votes_in_words(noise: CrowdLabels) -> str:
    """Say how many people gave how many votes, how far they agree, and how often a lot decides."""
    assert noise.table is not None
    assert noise.aggregated is not None
    given = noise.table.votes != NO_VOTE
    counts, agreeing, ties = given.sum(axis=1), agreement(noise.table.votes), noise.aggregated.ties
    fewest, most = int(counts.min()), int(counts.max())
    each = f"{fewest} each" if fewest == most else f"{fewest} to {most} each, {counts.mean():.2f} on average"
    agree = "no item has two votes" if np.isnan(agreeing) else f"of two votes on one item {agreeing:.1%} agree"
    lots = f"{ties:,} ties ({ties / len(counts):.1%} of the items) are decided by lot" if ties else "there are no ties"
    return (
        f"Votes: {given.shape[1]:,} annotators gave {counts.sum():,} on {len(counts):,} items, {each}; {agree}; labels are by "
        f"{noise.aggregate}, and {lots}."
    )


def meaning_for_ce(transition: Matrix, counts: NDArray[np.int64], names: Sequence[str]) -> str:
    """Say what cross-entropy learns under T, shape ``(C, C)``.

    >>> print(meaning_for_ce(np.array([[1.0, 0.0], [0.6, 0.4]]), np.array([10, 90]), ["bag", "shoe"]))
    ... # doctest: +NORMALIZE_WHITESPACE
    Cross-entropy: T is not diagonally dominant. It learns the most frequent label of each class, and that of shoe is bag. Where
    all classes can be told apart, it is then right on 10.0 % of the samples.
    """
    wrong = dominated_classes(transition)
    if not len(wrong):
        return (
            "Cross-entropy: T is diagonally dominant. It learns the most frequent label of each class, and that is the right "
            "one, as long as the net does not learn wrong labels by heart."
        )
    others = transition.copy()
    np.fill_diagonal(others, -1)
    flips = [f"that of {names[label]} is {names[others[label].argmax()]}" for label in wrong[:NAMED_FLIPS]]
    more = f" ({len(wrong) - NAMED_FLIPS} more)" if len(wrong) > NAMED_FLIPS else ""
    right = 1 - counts[wrong].sum() / counts.sum()
    return (
        f"Cross-entropy: T is not diagonally dominant. It learns the most frequent label of each class, and "
        f"{', '.join(flips)}{more}. Where all classes can be told apart, it is then right on {100 * right:.1f} % of the samples."
    )


def meaning_for_dmi(seen: Seen, batch_size: int) -> str:
    """Say what L_DMI learns under the noise, and how many samples it takes."""
    transition, counts = seen.realised["training"], seen.counts["training"]
    total = int(counts.sum())
    needed = samples_to_tell_from_singular(transition, counts / total)
    if seen.requested is not None and np.isinf(condition_number(seen.requested)):
        return "L_DMI: det T = 0. The labels do not tell all classes apart, and no loss can. Lower the rate of wrong labels."
    if needed > total:
        return (
            f"L_DMI: T is nearly singular. The {total:,} training samples do not show that det T is not 0; about "
            f"{_about(needed)} would. It takes more data, or fewer wrong labels."
        )
    shift = 0.0 - np.linalg.slogdet(transition).logabsdet
    said = (
        "L_DMI: det T is not 0. What minimises it is what minimises it with clean labels, since the loss of every classifier "
        f"is shifted by the same -log|det T| = {shift:.3g}."
    )
    if seen.requested is None:
        said += (
            " That holds as far as the class alone decides how a label goes wrong. Here more may decide: T is a mean over "
            "each class."
        )
    if needed >= 1:
        said += f" To the best classifier about {_about(needed)} samples show that det T is not 0; a batch has {batch_size}."
    if needed * MARGIN > batch_size:
        said += " While it still learns it takes several times as many: keep a memory of U (--model.robust.loss.memory 0.99)."
    return said


# -- tables -----------------------------------------------------------------------------------------------------------


def matrix_table(matrix: Matrix, names: Sequence[str]) -> str:
    """Return T as a table.

    >>> print(matrix_table(np.array([[1.0, 0.0], [0.6, 0.4]]), ["bag", "shoe"]))
               0     1
    0 bag   1.00     0
    1 shoe  0.60  0.40
    """
    heads = ["", *map(str, range(len(names)))]
    rows = [
        [_numbered(label, name), *(f"{share:.2f}" if share else "0" for share in row)]
        for label, (name, row) in enumerate(zip(names, matrix, strict=True))
    ]
    return _align([heads, *rows])


def rate_table(seen: Seen, names: Sequence[str]) -> str:
    """Return training samples and shares of wrong labels, by class and overall; of many classes the highest shares alone."""
    columns = dict(seen.realised) if seen.requested is None else {"requested": seen.requested} | seen.realised
    rates = {title: flip_rates(matrix) for title, matrix in columns.items()}
    counts = {"requested": seen.counts["training"]} | seen.counts
    listed: Sequence[int] = range(len(names))
    if len(names) > LISTED_CLASSES:
        listed = np.argsort(-rates["training"], kind="stable")[:NAMED_FLIPS].tolist()
    rows = [
        [
            _numbered(label, names[label]),
            f"{counts['training'][label]:,}",
            *(_share(each[label]) for each in rates.values()),
        ]
        for label in listed
    ]
    means = [np.nansum(each * counts[title]) / counts[title].sum() for title, each in rates.items()]
    last = [f"all {len(names)} classes", f"{counts['training'].sum():,}", *map(_share, means)]
    return _align([["", "samples", *rates], *rows, last])


def figure_table(seen: Seen) -> str:
    """Return determinant, condition number and dominance of T."""
    columns = ({} if seen.requested is None else {"requested": seen.requested}) | {
        "training": seen.realised["training"]
    }
    return _align(
        [
            ["", *columns],
            ["det T", *(f"{np.linalg.det(matrix):.4g}" for matrix in columns.values())],
            ["condition number", *(f"{condition_number(matrix):.4g}" for matrix in columns.values())],
            ["diagonally dominant", *("no" if len(dominated_classes(each)) else "yes" for each in columns.values())],
        ]
    )


def _numbered(label: int, name: str) -> str:
    return name if name == str(label) else f"{label} {name}"


def _share(value: float) -> str:
    return "–" if np.isnan(value) else f"{value:.4f}"


def _about(number: float) -> str:
    return f"{float(f'{number:.2g}'):,.0f}" if np.isfinite(number) else "infinitely many"


def _align(rows: Sequence[Sequence[str]]) -> str:
    """Align columns: the first to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(cell.rjust(width) if column else cell.ljust(width) for column, (cell, width) in enumerate(pairs))
        for pairs in (list(zip(row, widths, strict=True)) for row in rows)
    )


def _wrap(text: str) -> str:
    return textwrap.fill(text, WIDTH, subsequent_indent="  ", break_on_hyphens=False, break_long_words=False)
