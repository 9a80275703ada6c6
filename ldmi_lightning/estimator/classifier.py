"""LDMIClassifier: the stages as an estimator of scikit-learn, for arrays, tables and features."""

import math
import operator
import re
import warnings
from collections.abc import Callable, Sequence
from copy import deepcopy
from functools import partial
from typing import Any, Self

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, ClassifierMixin, clone
from sklearn.preprocessing import StandardScaler
from sklearn.utils import check_random_state
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import Tensor, nn

from ldmi_lightning.errors import UserError
from ldmi_lightning.estimator.held_out import repeated, split_rows
from ldmi_lightning.estimator.issues import find_label_issues
from ldmi_lightning.estimator.quiet_fit import Rows, fit_in_memory, isolated, predict_rows
from ldmi_lightning.losses import CELoss, DMILoss, ELRLoss, ForwardLoss, GCELoss, LCCNLoss, SCELoss, VolMinLoss
from ldmi_lightning.method import Method
from ldmi_lightning.methods import CoTeaching, DivideMix
from ldmi_lightning.training.stages import Stage

MakeBackbone = Callable[[int, int], nn.Module]

LOSSES: dict[str, Callable[[], Method]] = {
    "dmi": partial(DMILoss, memory=0.9),
    "ce": CELoss,
    "gce": GCELoss,
    "fw": ForwardLoss,
    "sce": SCELoss,
    "lccn": LCCNLoss,
    "elr": ELRLoss,
    "volminnet": VolMinLoss,
    "co-teaching": CoTeaching,
    "dividemix": partial(DivideMix, warmup=2, views=1),  # for few epochs, of rows, which have no augmentation
}
"""Losses of the robust stage that have a name; any other is given as an object."""
DEVICES = ("cpu", "gpu", "cuda", "mps", "auto")


class LDMIClassifier(ClassifierMixin, BaseEstimator):  # type: ignore[misc]  # scikit-learn has no types
    """A classifier for labels that cannot be trusted, over rows of numbers: arrays, DataFrames, features of an encoder.

    ``fit`` standardises the features, trains a warm-up with cross-entropy and then a robust stage, and keeps the stage that
    held-out rows speak for, whose labels are as noisy as the others' (:mod:`ldmi_lightning.decisions`).

    Args:
        loss: the robust stage's: ``"dmi"`` (L_DMI with memory 0.9), ``"ce"``, ``"gce"``, ``"fw"``, ``"sce"``, ``"lccn"``,
            ``"elr"``, ``"volminnet"``, ``"co-teaching"``, ``"dividemix"`` (without augmentation), or a
            :class:`~ldmi_lightning.losses.Loss` or other :class:`~ldmi_lightning.Method` as an object.
        backbone: a function of the number of features and of classes that returns a net, or a net, of which a copy is trained
            from the weights that it has; ``None`` for a linear one, or what ``hidden`` says.
        hidden: units of one hidden layer; 0 for none.
        refine: whether forward correction with the T that L_DMI implies follows as a third stage.
        warmup_epochs: epochs of the warm-up.
        epochs: epochs of each stage that follows.
        batch_size: rows in a batch; all rows where there are fewer.
        lr: learning rate of AdamW; ``None`` for 1e-3, and for a linear net with fewer than 384 features more
            (:func:`suited_lr`).
        val_share: share of each class's rows that is held out to select epochs and stages, and to estimate T.
        device: where it is trained: ``"cpu"``, ``"cuda"``, ``"mps"`` or ``"auto"``. Predictions are made on the CPU.
        random_state: seed of the weights, the order and the held-out rows, as everywhere in scikit-learn.

    Attributes:
        classes_: the labels, sorted.
        chosen_: name of the stage that predicts: ``"warmup"``, ``"robust"`` or ``"refine"``.
        choice_: why: for each later stage the difference of its scores to the one kept until then, and its standard error.
        stages_: for each stage its ``loss``, ``epochs``, ``best_epoch``, what it was ``selected_by``, and the ``best_score``.
        n_features_in_: number of features.
        feature_names_in_: names of the columns, where ``X`` had them.

    >>> X, y = np.array([[-1.0], [1.0]] * 60), ["no", "yes"] * 60
    >>> model = LDMIClassifier(random_state=0, warmup_epochs=2, epochs=2).fit(X, y)
    >>> model.predict([[3.0], [-2.0]]).tolist(), model.transition_.round(2).tolist()
    (['yes', 'no'], [[1.0, 0.0], [0.0, 1.0]])
    """

    def __init__(
        self,
        loss: str | Method = "dmi",
        *,
        backbone: nn.Module | MakeBackbone | None = None,
        hidden: int = 0,
        refine: bool = False,
        warmup_epochs: int = 8,
        epochs: int = 12,
        batch_size: int = 128,
        lr: float | None = None,
        val_share: float = 0.2,
        device: str = "cpu",
        random_state: int | np.random.RandomState | None = None,
    ) -> None:
        self.loss = loss
        self.backbone = backbone
        self.hidden = hidden
        self.refine = refine
        self.warmup_epochs = warmup_epochs
        self.epochs = epochs
        self.batch_size = batch_size
        self.lr = lr
        self.val_share = val_share
        self.device = device
        self.random_state = random_state

    def fit(self, X: Any, y: Any, **refused: Any) -> Self:
        """Train on rows and their labels.

        Args:
            X: numbers, shape ``(N, D)``, dense and finite.
            y: labels of any kind, shape ``(N,)``.
            refused: ``sample_weight`` has no place in the signature, since scikit-learn takes its name there for a promise.

        Raises:
            UserError: a setting that cannot work, sample weights, or rows that cannot be learnt from.
        """
        if refused:
            raise UserError(
                f"LDMIClassifier.fit takes no {', '.join(refused)}: no loss weighs samples. Leave it out, or repeat rows as "
                "often as they weigh."
            )
        self._check_settings()
        X, y = validate_data(self, X, y, dtype=_dtype(X))
        check_classification_targets(y)
        self.classes_, labels = np.unique(y, return_inverse=True)
        if len(self.classes_) < 2:
            raise UserError(
                f"y has one class ({self.classes_.tolist()[0]!r}), but to tell classes apart takes at least two."
                " Add rows of others."
            )
        seed = int(check_random_state(self.random_state).randint(2**31))
        split = split_rows(labels, self.val_share, seed)
        if split.said:
            warnings.warn(f"LDMIClassifier: {split.said.format(*self.classes_.tolist())}", UserWarning, stacklevel=2)
        self.scaler_ = StandardScaler().fit(X[split.train])
        rows = [(self._inputs(X[part]), labels[part]) for part in (repeated(split.train, self.batch_size), split.val)]
        data = Rows(rows[0], rows[1], len(self.classes_), min(int(self.batch_size), len(split.train)))
        try:
            with isolated(seed, self.device):
                found = fit_in_memory(self._make_backbone(), self._make_stages(), data, self.device)
        except UserError as error:
            raise UserError(in_own_words(str(error))) from error
        self.chosen_, self.choice_, self.stages_ = found.chosen, found.choice, found.stages
        self._transition, self._method, self._nets = found.transition, found.method, found.nets
        self._truthful = found.truthful
        return self

    def predict(self, X: Any) -> NDArray[Any]:
        """Return the most probable label of each row, shape ``(N,)``."""
        most_probable = self.predict_proba(X).argmax(axis=1)
        return np.asarray(self.classes_[most_probable])

    def predict_proba(self, X: Any) -> NDArray[np.float64]:
        """Return the chosen stage's probabilities, shape ``(N, C)``, in the order of ``classes_``.

        After L_DMI and refine they are of the TRUE label, and too sure; after cross-entropy of the noisy one.
        """
        check_is_fitted(self)
        X = validate_data(self, X, dtype=_dtype(X), reset=False)
        return self._probabilities(self._method, self._nets, X)

    def find_label_issues(self, X: Any, y: Any, folds: int = 5) -> pd.DataFrame:
        """Judge each label by a model that never saw it; see :func:`ldmi_lightning.estimator.issues.find_label_issues`.

        This classifier itself is left as it is: copies of it are fitted.

        Args:
            X: as :meth:`fit` takes it.
            y: labels as given, shape ``(N,)``.
            folds: into how many parts the rows are divided, 2 at least.

        Returns:
            A row for each of X, in its order: ``given_label``, ``predicted_label``, ``label_quality``, ``confidence``,
            ``is_label_issue`` and ``rank``, 1 for the worst.
        """
        seed = int(check_random_state(self.random_state).randint(2**31))

        def judge(X: NDArray[Any], y: NDArray[Any], held_out: NDArray[Any]) -> tuple[NDArray[np.float64], bool]:
            model = clone(self).set_params(random_state=seed).fit(X, y)
            method, nets = model._truthful or (model._method, model._nets)
            return model._probabilities(method, nets, held_out), model._truthful is not None

        return find_label_issues(judge, X, y, folds, seed)

    @property
    def transition_(self) -> NDArray[np.float64]:
        """T as L_DMI, refine or another loss with a T implies it: ``T[i, j]`` is P(label j | true class i), shape ``(C, C)``.

        It is estimated on the held-out rows, by likelihood, whichever stage predicts.
        """
        check_is_fitted(self)
        if self._transition is None:
            raise AttributeError(
                f"loss={self.loss!r} implies no transition_: its probabilities are those of noisy labels. Use loss='dmi'."
            )
        return self._transition

    def _probabilities(self, method: Method, nets: Sequence[nn.Module], X: NDArray[Any]) -> NDArray[np.float64]:
        probs: NDArray[np.float64] = predict_rows(method, nets, self._inputs(X)).double().numpy()
        probs /= probs.sum(axis=1, keepdims=True)
        return probs

    def _inputs(self, X: NDArray[Any]) -> Tensor:
        """Return standardised rows, float32."""
        return torch.from_numpy(self.scaler_.transform(X).astype(np.float32, copy=False))

    def _make_backbone(self) -> nn.Module:
        features, classes = self.n_features_in_, len(self.classes_)
        if isinstance(self.backbone, nn.Module):
            return deepcopy(self.backbone)
        if self.backbone is not None:
            return self.backbone(features, classes)
        if not self.hidden:
            return nn.Linear(features, classes)
        return nn.Sequential(nn.Linear(features, self.hidden), nn.ReLU(), nn.Linear(self.hidden, classes))

    def _make_stages(self) -> dict[str, Stage]:
        robust = LOSSES[self.loss]() if isinstance(self.loss, str) else deepcopy(self.loss)
        linear = self.backbone is None and not self.hidden
        lr = self.lr if self.lr is not None else suited_lr(self.n_features_in_) if linear else 1e-3
        adamw = partial(torch.optim.AdamW, lr=float(lr))
        stages = {
            # Of few rows many epochs have equal accuracy, and the first of them would be taken.
            "warmup": Stage(CELoss(), operator.index(self.warmup_epochs), adamw, monitor="val/nll", mode="min"),
            "robust": Stage(robust, operator.index(self.epochs), adamw),
        }
        if self.refine:
            stages["refine"] = Stage(ForwardLoss("held_out", renew=True), operator.index(self.epochs), adamw)
        return stages

    def _check_settings(self) -> None:
        for name, low in {"warmup_epochs": 1, "epochs": 1, "batch_size": 1, "hidden": 0}.items():
            value = getattr(self, name)
            if isinstance(value, bool) or not hasattr(value, "__index__") or operator.index(value) < low:
                raise UserError(f"{name} must be a whole number of at least {low}, but is {value!r}.")
        if self.lr is not None and not self.lr > 0:
            raise UserError(f"lr must be above 0, or None for one that suits the features, but is {self.lr!r}.")
        if not 0 < self.val_share < 1:
            raise UserError(
                f"val_share must lie between 0 and 1, but is {self.val_share!r}: held-out rows choose what is kept."
            )
        if self.device not in DEVICES:
            raise UserError(f"device must be one of {', '.join(DEVICES)}, but is {self.device!r}.")
        self._check_loss()

    def _check_loss(self) -> None:
        known = self.loss in LOSSES if isinstance(self.loss, str) else isinstance(self.loss, Method)
        if not known:
            raise UserError(
                f"loss must be one of {', '.join(LOSSES)}, or a loss of ldmi_lightning.losses as an object, but is {self.loss!r}."
            )
        if isinstance(self.loss, Method) and self.loss.views > 1:
            raise UserError(
                f"{type(self.loss).__name__} wants {self.loss.views} augmented views, which rows do not have. Take another loss."
            )
        if self.refine and not (self.loss == "dmi" or isinstance(self.loss, DMILoss)):
            raise UserError(
                f"refine=True takes the T that L_DMI implies, but loss is {self.loss!r}. Use loss='dmi', or refine=False."
            )


def suited_lr(features: int) -> float:
    """Return a learning rate at which a step of Adam changes a linear net's outputs about as much, however few the features.

    >>> suited_lr(1280), suited_lr(384), suited_lr(96), suited_lr(1)
    (0.001, 0.001, 0.002, 0.01)
    """
    return min(1e-3 * max(1.0, math.sqrt(384 / features)), 1e-2)


def in_own_words(said: str) -> str:
    """Name the settings of an error as they are called here, and not as options of the command line.

    >>> in_own_words("Lower --model.robust.optimizer.lr, or try --model.robust.loss.memory 0.99 or a larger --data.batch_size.")
    'Lower lr, or try loss=DMILoss(0.99) or a larger batch_size.'
    """
    said = re.sub(r"--model\.\w+\.loss\.memory ([\d.]*\d)", r"loss=DMILoss(\1)", said)
    return re.sub(r"--(?:data|model\.\w+\.optimizer)\.", "", said)


def _dtype(X: Any) -> Any:
    """Return what scikit-learn makes of the rows: 16 bits, in which features are stored, become 32; whole numbers 64."""
    return np.float32 if getattr(X, "dtype", None) == np.float16 else [np.float64, np.float32]
