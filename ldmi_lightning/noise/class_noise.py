"""Noise that depends on the class alone, as a transition matrix T: the kind that L_DMI is proven for."""

import numpy as np
from numpy.typing import NDArray

from ldmi_lightning.errors import UserError
from ldmi_lightning.noise.base import Labels, Noise, check_rate, draw_exactly, draw_labels
from ldmi_lightning.transition import check_transition_matrix


class NoNoise(Noise):
    """Leave the labels as they are: clean data, or data whose labels are noisy already."""

    def transition_matrix(self, num_classes: int) -> NDArray[np.float64]:
        """Return the identity."""
        return np.eye(num_classes)

    def __call__(self, labels: Labels, num_classes: int, *, index: Labels, x: object = None) -> Labels:
        """Return a copy of the labels."""
        return labels.copy()


class TransitionNoise(Noise):
    """Base of the kinds that are drawn from a transition matrix: a subclass gives :meth:`transition_matrix`.

    Args:
        seed: seed of the draw; ``None`` takes the run's own seed (``seed_everything``).
        exact: ``False`` draws each label independently, with the authors' stream of random numbers; ``True`` flips
            exactly ``round((1 - T[i, i]) * n_i)`` of the n_i samples of class i that are given in one call (a split, or
            training and validation together where a data set draws them in one stream), see
            :func:`~ldmi_lightning.noise.draw_exactly`.
    """

    def __init__(self, seed: int | None = None, exact: bool = False) -> None:
        super().__init__(seed)
        self.exact = exact

    def transition_matrix(self, num_classes: int) -> NDArray[np.float64]:
        """Return T, shape ``(C, C)``."""
        raise NotImplementedError

    def __call__(self, labels: Labels, num_classes: int, *, index: Labels, x: object = None) -> Labels:
        """Draw noisy labels."""
        draw = draw_exactly if self.exact else draw_labels
        return draw(labels, self.transition_matrix(num_classes), self.seed)


class SymmetricNoise(TransitionNoise):
    """Class-independent noise: every other label is equally likely.

    Two definitions live in the literature, and ``include_true`` says which is meant:

    - ``False`` (Co-teaching; the paper's CIFAR-10): ``1 - rate`` on the diagonal, ``rate / (C - 1)`` elsewhere.
    - ``True`` (DivideMix, ELR; the paper's Fashion-MNIST): with probability ``rate`` a label is drawn from all C
      classes, the true one among them, so that only ``rate * (C - 1) / C`` of the labels are wrong.

    Args:
        rate: amount of noise, from 0 to 1.
        include_true: whether the true class is among those that a label is drawn from.
        seed: seed of the draw; ``None`` takes the run's own seed (``seed_everything``).
        exact: whether counts are exact; see :class:`TransitionNoise`.

    >>> SymmetricNoise(rate=0.5).transition_matrix(2).tolist()
    [[0.5, 0.5], [0.5, 0.5]]
    >>> SymmetricNoise(rate=0.5, include_true=True).transition_matrix(2).tolist()
    [[0.75, 0.25], [0.25, 0.75]]
    """

    def __init__(self, rate: float, include_true: bool = False, seed: int | None = None, exact: bool = False) -> None:
        super().__init__(seed, exact)
        self.rate = check_rate(rate)
        self.include_true = include_true

    def transition_matrix(self, num_classes: int) -> NDArray[np.float64]:
        """Return T, shape ``(C, C)``."""
        wrong = self.rate * (num_classes - 1) / num_classes if self.include_true else self.rate
        transition = np.full((num_classes, num_classes), wrong / (num_classes - 1))
        np.fill_diagonal(transition, 1 - wrong)
        return transition


class PairFlipNoise(TransitionNoise):
    """Class i becomes class i + 1 (the last becomes the first) with probability ``rate`` (Co-teaching).

    Args:
        rate: probability of a flip, from 0 to 1.
        seed: seed of the draw; ``None`` takes the run's own seed (``seed_everything``).
        exact: whether counts are exact; see :class:`TransitionNoise`.

    >>> PairFlipNoise(rate=0.25).transition_matrix(3).tolist()
    [[0.75, 0.25, 0.0], [0.0, 0.75, 0.25], [0.25, 0.0, 0.75]]
    """

    def __init__(self, rate: float, seed: int | None = None, exact: bool = False) -> None:
        super().__init__(seed, exact)
        self.rate = check_rate(rate)

    def transition_matrix(self, num_classes: int) -> NDArray[np.float64]:
        """Return T, shape ``(C, C)``."""
        identity = np.eye(num_classes)
        return (1 - self.rate) * identity + self.rate * np.roll(identity, 1, axis=1)


class ClassDependentNoise(TransitionNoise):
    """Named classes flip to named classes with probability ``rate``; all others keep their labels.

    The paper's CIFAR-10 pattern is ``flips={9: 1, 2: 0, 4: 7, 3: 5}``.

    Args:
        rate: probability of a flip, from 0 to 1.
        flips: which class becomes which, by their numbers.
        seed: seed of the draw; ``None`` takes the run's own seed (``seed_everything``).
        exact: whether counts are exact; see :class:`TransitionNoise`.

    >>> ClassDependentNoise(rate=0.25, flips={1: 0}).transition_matrix(2).tolist()
    [[1.0, 0.0], [0.25, 0.75]]
    """

    def __init__(self, rate: float, flips: dict[int, int], seed: int | None = None, exact: bool = False) -> None:
        super().__init__(seed, exact)
        self.rate = check_rate(rate)
        self.flips = {int(source): int(target) for source, target in flips.items()}

    def transition_matrix(self, num_classes: int) -> NDArray[np.float64]:
        """Return T, shape ``(C, C)``."""
        transition = np.eye(num_classes)
        for source, target in self.flips.items():
            if not (0 <= source < num_classes and 0 <= target < num_classes and source != target):
                raise UserError(
                    f"--data.noise.flips has {source}: {target}, but a flip must lead from one class to another "
                    f"among 0..{num_classes - 1}."
                )
            transition[source, source] = 1 - self.rate
            transition[source, target] = self.rate
        return transition


class MatrixNoise(TransitionNoise):
    """Any transition matrix: ``matrix[i][j] = P(noisy label = j | clean label = i)``.

    Args:
        matrix: T, C rows of C probabilities that sum to 1.
        seed: seed of the draw; ``None`` takes the run's own seed (``seed_everything``).
        exact: whether counts are exact; see :class:`TransitionNoise`.

    >>> MatrixNoise([[0.5, 0.5], [0.25, 0.75]]).transition_matrix(2).tolist()
    [[0.5, 0.5], [0.25, 0.75]]
    """

    def __init__(self, matrix: list[list[float]], seed: int | None = None, exact: bool = False) -> None:
        super().__init__(seed, exact)
        self.matrix = check_transition_matrix(matrix)

    def transition_matrix(self, num_classes: int) -> NDArray[np.float64]:
        """Return T, shape ``(C, C)``."""
        if len(self.matrix) != num_classes:
            raise UserError(
                f"--data.noise.matrix has {len(self.matrix)} rows, but the data set has {num_classes} classes."
            )
        return self.matrix
