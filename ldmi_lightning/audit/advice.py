"""What to do about the labels, in one paragraph, from an audit's figures alone: leave them, correct some, or train with L_DMI."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ldmi_lightning.audit.audit import Audit
from ldmi_lightning.errors import UserError

Floats = NDArray[np.float64]

LEAVE = 0.02
"""Labels may stay as they are where surely at most this share of them is wrong, and no class loses more than it keeps."""

RELABEL = 0.1
"""Up to this share of wrong labels a person's look at the doubtful ones is enough."""

FIRST = 100
"""So many doubtful labels are looked at first: the share of wrong ones among them is then known within 10 points."""

UNEVEN = 0.25
"""Errors are class-dependent where this share of them, beyond chance, would have to fall elsewhere to be spread evenly."""


def advice(found: Audit, class_names: Sequence[str], *, held_out: bool | None = None) -> str:
    """Return the paragraph.

    Args:
        found: the audit.
        class_names: C of them.
        held_out: whether the model was neither trained nor selected on any of these labels; ``None`` where nobody knows. It is
            taken for granted of outputs of true labels, and never of those of the labels as given.

    >>> from ldmi_lightning.audit.audit import audit
    >>> probs, y = np.eye(2)[[0] * 500 + [1] * 500], np.array([0] * 500 + [1] * 500)
    >>> print(advice(audit(probs, y), ["cat", "dog"]))
    About 0 of 1,000 labels (0.0 %) are wrong, 95 % interval 0 to 0. Leave them as they are: at most 0.0 % are wrong, and no class loses more labels to another one than it keeps.
    """  # noqa: E501
    if len(class_names) != found.num_classes:
        raise UserError(f"There are {found.num_classes} classes, but {len(class_names)} names. Name each class.")
    many = len(found.given)
    share, most = found.wrong.value / many, found.wrong.high / many
    sentences = [_how_many(found)]
    lost = _lost(found.transition.value)
    if found.outputs == "given":
        sentences.append(_of_given(found))
    if most <= LEAVE and not len(lost):
        sentences.append(_few(found, held_out))
        return " ".join(sentences)
    sentences += [_pattern(found, class_names), _cost(found, lost, class_names)]
    doubtful = int((found.quality < 0.5).sum())
    hits = float((1 - found.quality[found.quality < 0.5]).sum())
    expected = _percent(hits / max(doubtful, 1))
    looked = f"look at the {doubtful:,} most doubtful labels, of which {expected} are expected to be wrong"
    relabel = share <= RELABEL and not len(lost)
    if found.outputs == "given":
        sentences.append(_hard_or_wrong(doubtful, relabel))
    elif relabel:
        sentences.append(f"Relabel: {looked}; that leaves about {max(found.wrong.value - hits, 0):,.0f} wrong ones.")
    else:
        sentences.append(
            f"Train with L_DMI on the labels as they are, or on the corrected ones; to correct by hand, {looked}."
        )
    return " ".join(sentences)


def uneven(transition: Floats, priors: Floats, num_samples: int) -> tuple[float, float]:
    """Return the share of the errors that would have to fall elsewhere to be symmetric, and what chance makes of that share.

    Symmetric errors fall on all other classes alike, from each class in proportion to its size. Chance: errors that are
    symmetric, but fall on their cells one by one.

    >>> symmetric = np.array([[0.7, 0.3], [0.3, 0.7]])
    >>> round(uneven(symmetric, np.array([0.5, 0.5]), 10**6)[0], 6)
    0.0
    >>> one_way = np.array([[0.7, 0.3], [0.0, 1.0]])  # half of the errors would have to be of the other class
    >>> round(uneven(one_way, np.array([0.5, 0.5]), 10**6)[0], 6)
    0.5
    """
    num_classes = len(priors)
    off = ~np.eye(num_classes, dtype=bool)
    errors = (priors[:, None] * transition)[off]
    even = np.repeat(priors / (num_classes - 1), num_classes - 1)
    if errors.sum() <= 0:
        return 0.0, 0.0
    share = abs(errors / errors.sum() - even / even.sum()).sum() / 2
    expected = np.maximum(even / even.sum() * errors.sum() * num_samples, 1e-300)
    # The mean distance of a Poisson number from its mean: 2 m exp(-m) for small ones, sqrt(2 m / pi) for great ones.
    chance = np.minimum(2 * expected * np.exp(-expected), np.sqrt(2 * expected / np.pi)) * (expected < 1)
    chance += np.sqrt(2 * expected / np.pi) * (expected >= 1)
    return float(share), float(min(chance.sum() / expected.sum() / 2, 1.0))


def information(transition: Floats, priors: Floats) -> float:
    """Return what the labels tell of the true class, as a share of what true labels would: I(given; true) / H(true).

    >>> information(np.eye(3), np.full(3, 1 / 3)), information(np.full((2, 2), 0.5), np.array([0.5, 0.5]))
    (1.0, 0.0)
    """
    joint = priors[:, None] * transition
    independent = priors[:, None] * joint.sum(axis=0)
    seen = joint > 0
    gained = (joint[seen] * np.log(joint[seen] / independent[seen])).sum()
    present = priors[priors > 0]
    entropy = -(present * np.log(present)).sum()
    return float(np.clip(gained / entropy, 0, 1)) if entropy > 0 else 1.0


def _lost(transition: Floats) -> NDArray[np.intp]:
    """Return the classes of which another one gets more labels than the class keeps."""
    others = transition - 2 * np.eye(len(transition))
    return np.flatnonzero(others.max(axis=1) > transition.diagonal())


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _how_many(found: Audit) -> str:
    wrong, many = found.wrong, len(found.given)
    first = "About" if found.outputs == "true" else "By decisions alone, about"
    return (
        f"{first} {wrong.value:,.0f} of {many:,} labels ({_percent(wrong.value / many)}) are wrong, 95 % interval "
        f"{wrong.low:,.0f} to {wrong.high:,.0f}."
    )


def _of_given(found: Audit) -> str:
    differing, many = int(found.disagreeing.sum()), len(found.given)
    return (
        f"The model was made to predict the labels as given, and decides {differing:,} ({_percent(differing / many)}) "
        "otherwise; errors that it has learned are not in these figures, and hard samples whose labels are right may be."
    )


def _hard_or_wrong(doubtful: int, relabel: bool) -> str:
    """Say what to do with doubtful labels where the outputs cannot tell whether the labels are wrong or the samples hard."""
    if not doubtful:
        return "Train with L_DMI and audit its outputs, which see more: by these 0 labels are more probably wrong than right."
    every = "all of them before any is changed"
    part = f"{FIRST} of them first, and at the others only if most of these are wrong"
    looked = f"look at {every if doubtful <= FIRST else part}"
    if relabel:
        return (
            "Look before you relabel: to a model of the labels as given hard samples look like wrong labels, so that the "
            f"{doubtful:,} most doubtful labels may be right; {looked}, or train with L_DMI and audit its outputs."
        )
    return (
        f"Train with L_DMI and audit its outputs, which see more; until then the {doubtful:,} most doubtful labels may be right, "
        f"since hard samples look like wrong labels to a model of the labels as given: {looked}."
    )


def _few(found: Audit, held_out: bool | None) -> str:
    """Say what few wrong labels mean; by a model of the given labels only if it did not see them, and agrees with them."""
    most = _percent(found.wrong.high / len(found.given))
    leave = f"Leave them as they are: at most {most} are wrong, and no class loses more labels to another one than it keeps."
    if found.outputs == "true":
        if held_out is not False:
            return leave
        return "The model was trained or selected on some of these labels: audit held-out ones before they stay as they are."
    of_class = np.maximum(np.bincount(found.given, minlength=found.num_classes), 1)
    differing, worst = found.disagreeing.sum() / len(found.given), (found.disagreeing / of_class).max()
    if differing > LEAVE or worst >= 0.5:
        return (
            f"That is not enough to trust the labels: the decisions differ from more than {_percent(LEAVE)} of them, or from "
            f"half of a class (at most {_percent(worst)} of one), whether the samples are hard or the labels wrong. Train with "
            "L_DMI and audit its outputs."
        )
    if held_out:
        return leave
    return (
        f"That at most {most} are wrong can be trusted only if the model never saw these labels in training: give it outputs "
        "for held-out samples."
    )


def _pattern(found: Audit, names: Sequence[str]) -> str:
    transition, priors = found.transition.value, found.priors.value
    share, chance = uneven(transition, priors, len(found.given))
    if share <= chance + UNEVEN * (1 - chance):
        return (
            f"The errors are about symmetric: {_percent(share)} of them would have to fall elsewhere to be spread evenly over "
            f"the classes, and chance alone makes {_percent(chance)}."
        )
    errors = priors[:, None] * transition * (1 - np.eye(len(priors)))
    ranked = np.argsort(-errors, axis=None, kind="stable")
    k, j = divmod(int(ranked[0]), len(priors))
    few = int(np.searchsorted(errors.ravel()[ranked].cumsum() / errors.sum(), 0.8)) + 1
    pairs = "pair of classes holds" if few == 1 else "pairs of classes hold"
    return (
        f"The errors are class-dependent: {few:,} of {errors.size - len(priors):,} {pairs} 80 % of them, first {names[k]} → "
        f"{names[j]} ({_percent(transition[k, j])} of {names[k]})."
    )


def _cost(found: Audit, lost: NDArray[np.intp], names: Sequence[str]) -> str:
    """Say what cross-entropy loses: where a class is certain it decides for the label that this class gets most often."""
    transition, priors = found.transition.value, found.priors.value
    kept = transition.diagonal()
    others = (transition - 2 * np.eye(len(kept))).max(axis=1)
    told = f"the labels tell {_percent(information(transition, priors))} of what true ones would"
    if not len(lost):
        k = int((kept - others).argmin())
        return (
            f"T is dominant: each class keeps more labels than any other takes from it (closest: {names[k]}, "
            f"{_percent(kept[k])} against {_percent(others[k])}), so with much data cross-entropy decides as on true labels and "
            f"loses 0 %, but {told}."
        )
    k = int(lost[(priors[lost] * (others - kept)[lost]).argmax()])
    j = int((transition[k] - 2 * np.eye(len(kept))[k]).argmax())
    return (
        f"T is not dominant: of {len(lost):,} of {len(kept):,} classes another one takes more labels than the class keeps "
        f"({names[k]}: {_percent(kept[k])} kept, {_percent(others[k])} → {names[j]}), so cross-entropy decides up to "
        f"{_percent(priors[lost].sum())} of the samples wrongly, with however much data; {told}."
    )
