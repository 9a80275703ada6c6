"""``ldmi_lightning.load``: what a run has learnt, as an object that predicts arrays, image files or texts."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ldmi_lightning.commands.from_checkpoint import Made, make_from
from ldmi_lightning.datamodules.new_data import NewData
from ldmi_lightning.errors import UserError
from ldmi_lightning.losses import TransitionLoss
from ldmi_lightning.training.module import LDMIModule


def load(place: str | Path, device: str = "cpu") -> "Predictor":
    """Return what predicts as a run does.

    Its training data need not be there: classes, words and normalisation are those of the checkpoint, the rest is in the
    ``config.yaml`` beside it.

    Args:
        place: folder of a run, of which the stage counts that was kept to predict; or one of its checkpoints.
        device: where it is computed, such as ``"cuda"``.

    Raises:
        UserError: there is no run or no checkpoint, or it cannot be used.
    """
    return Predictor(make_from(place), torch.device(device))


class Predictor:
    """Predicts new samples by what a run has learnt.

    Args:
        made: the model and its data set.
        device: where it is computed.

    Attributes:
        classes_: names of the classes, shape ``(C,)``, in the order of the probabilities.
        transition_: T̂ of the run's last stage that has one, shape ``(C, C)``, row = true class, column = given one; ``None``
            where no stage has one, as after cross-entropy alone.
    """

    def __init__(self, made: Made, device: torch.device) -> None:
        self.classes_: NDArray[np.str_] = np.array(made.class_names, dtype=np.str_)
        self.transition_ = transition_of(made.results, made.module)
        self._module = made.module.to(device)
        self._new = NewData(made.data, device)

    def predict_proba(self, inputs: Any) -> NDArray[np.float32]:
        """Return the probability of each class, shape ``(N, C)``.

        Args:
            inputs: what the run was trained on, without labels: a list of texts (or of pairs of them), a list of paths of
                images, or arrays as the training inputs are stored (images ``(N, C, H, W)`` in uint8, numbers ``(N, D)``).

        Raises:
            UserError: they are of another kind, or one of them cannot be read.
        """
        rows = [np.empty((0, len(self.classes_)), np.float32)]
        with torch.inference_mode():
            for x in self._new.batches(listed(inputs)):
                rows.append(self._module.probabilities(x).cpu().numpy())
        return np.concatenate(rows)

    def predict(self, inputs: Any) -> NDArray[np.str_]:
        """Return the name of the most likely class of each sample, shape ``(N,)``; see :meth:`predict_proba`."""
        found: NDArray[np.str_] = self.classes_[self.predict_proba(inputs).argmax(axis=1)]
        return found

    def __repr__(self) -> str:
        """Say what it is."""
        return f"Predictor({self._new.kind}, {len(self.classes_)} classes)"


def listed(inputs: Any) -> Any:
    """Return texts and paths as a list, wherever they came in; arrays as they are.

    >>> listed(np.array(["a", "b"])), listed(("a", "b"))
    (['a', 'b'], ['a', 'b'])

    Raises:
        UserError: it is a single text or path.
    """
    if isinstance(inputs, str | bytes | Path):
        raise UserError(
            f"predict takes several samples, but got one ({str(inputs)[:60]!r}): give [{str(inputs)[:20]!r}]."
        )
    values = inputs.tolist() if hasattr(inputs, "tolist") and getattr(inputs, "dtype", None) is not None else inputs
    if isinstance(values, list | tuple) and values and all(isinstance(each, str | Path) for each in values):
        return list(values)
    return inputs


def transition_of(results: Mapping[str, Any], module: LDMIModule) -> NDArray[np.float64] | None:
    """Return T̂, shape ``(C, C)``: that of the last stage in ``results.json`` that has one, else that of the module's loss."""
    stages = [stage for stage in results.get("stages", {}).values() if stage is not None]
    known = [stage["transition"] for stage in stages if stage.get("transition") is not None]
    if known:
        return np.array(known[-1], dtype=np.float64)
    method = module.method()
    if isinstance(method, TransitionLoss) and method.transition.numel():
        return np.asarray(method.transition.detach().cpu().numpy(), dtype=np.float64)
    return None
