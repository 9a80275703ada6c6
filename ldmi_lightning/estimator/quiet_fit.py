"""One fit in memory: rows and stages in, the chosen nets out; it prints nothing, writes nothing, and puts back global state."""

import logging
import os
import threading
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from typing import Any, NamedTuple

import numpy as np
import pytorch_lightning as pl
import torch
from lightning_fabric.plugins.environments.lightning import LightningEnvironment
from lightning_fabric.utilities.exceptions import MisconfigurationException
from numpy.typing import NDArray
from torch import Tensor, nn

from ldmi_lightning.datamodules.base import Examples, NoisyDataModule
from ldmi_lightning.errors import UserError
from ldmi_lightning.likelihood import fit_transition
from ldmi_lightning.losses import DMILoss, TransitionLoss
from ldmi_lightning.method import Method
from ldmi_lightning.training.module import LDMIModule
from ldmi_lightning.training.stages import Stage

SEED = "PL_GLOBAL_SEED"
"""Where Lightning keeps the seed that order and dropout come from."""
LIBRARIES = ("pytorch_lightning", "lightning_fabric")
SAID = ("loss", "selected_by", "epochs", "best_epoch", "best_score")
"""What is kept of a stage's summary: plain values."""
ROWS_AT_ONCE = 8192
"""How many rows a net is given at once to predict."""

_ONE_AT_A_TIME = threading.Lock()
"""PyTorch's generator, the seed in the environment and the filters of warnings belong to the whole process."""


class Fitted(NamedTuple):
    """What a fit leaves.

    Attributes:
        method: that of the chosen stage.
        nets: its nets, with the best weights, on the CPU and in eval mode.
        chosen: name of the stage that held-out labels chose.
        choice: why; see :attr:`ldmi_lightning.LDMIModule.choice`.
        stages: for each stage ``loss``, ``selected_by``, ``epochs``, ``best_epoch`` (from 1) and ``best_score``.
        transition: T, float64, shape ``(C, C)``; ``None`` where no stage implies one.
        truthful: method and nets of the last stage where its outputs are probabilities of TRUE labels, whichever stage was
            chosen; ``None`` where they are of the noisy ones.
    """

    method: Method
    nets: list[nn.Module]
    chosen: str
    choice: list[dict[str, Any]]
    stages: dict[str, dict[str, Any]]
    transition: NDArray[np.float64] | None
    truthful: tuple[Method, list[nn.Module]] | None


class Rows(NoisyDataModule):
    """Rows that are split already, with labels that may be noisy.

    Args:
        train: inputs float32, shape ``(N, D)``, and labels, shape ``(N,)``.
        val: the same of the rows that select.
        num_classes: C.
        batch_size: size of a batch.
    """

    def __init__(
        self,
        train: tuple[Tensor, NDArray[np.int64]],
        val: tuple[Tensor, NDArray[np.int64]],
        num_classes: int,
        batch_size: int,
    ) -> None:
        super().__init__(num_classes, [str(label) for label in range(num_classes)], None, batch_size)
        self.given = {"train": train, "val": val}

    def load(self) -> Mapping[str, Examples]:
        """Return the two splits; nothing is tested."""
        return {name: Examples(x, y, np.arange(len(y))) for name, (x, y) in self.given.items()}

    def labels_are_true(self, split: str) -> bool:
        """Nobody knows the true ones."""
        return False


class QuietModule(LDMIModule):
    """A module that keeps to itself what it says of its stages: it is in their summaries."""

    def print(self, *args: Any, **kwargs: Any) -> None:
        """Print nothing."""


def fit_in_memory(backbone: nn.Module, stages: Mapping[str, Stage], data: Rows, device: str) -> Fitted:
    """Train a backbone in stages, on one device.

    Args:
        backbone: maps ``(N, D)`` to logits ``(N, C)``; it is trained in place.
        stages: ``warmup``, ``robust`` and, where it is wanted, ``refine``.
        data: the rows.
        device: what Lightning calls an accelerator, such as ``"cpu"``.

    Raises:
        UserError: the data cannot be learnt from as it is, or there is no such device.
    """
    module = QuietModule(backbone, data.num_classes, stages["warmup"], stages["robust"], stages.get("refine"))
    trainer = _make_trainer(device)
    try:
        trainer.fit(module, datamodule=data)
    except SystemExit as end:
        if isinstance(end.__context__, KeyboardInterrupt):  # which Lightning turns into an exit of the whole program
            raise KeyboardInterrupt from None
        raise
    module.cpu().eval().zero_grad(set_to_none=True)
    method = module.method()
    kept = [module.backbone, *([module.second_backbone] if method.networks == 2 else [])]
    truthful = last_stage(module)
    return Fitted(
        method=method,
        nets=[net for net in kept if net is not None],
        chosen=str(module.chosen),
        choice=module.choice,
        stages={name: {key: said[key] for key in SAID} for name, said in module.stage_summaries().items()},
        transition=None if truthful is None else implied_transition(*truthful, *data.given["val"]),
        truthful=truthful,
    )


def _make_trainer(device: str) -> pl.Trainer:
    try:
        return pl.Trainer(
            accelerator=device,
            devices=1,
            plugins=LightningEnvironment(),  # also within a job of a cluster, whose tasks are the caller's
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
        )
    except MisconfigurationException as error:
        raise UserError(
            f"device={device!r} cannot be used here ({str(error).rstrip('.!')}). Use 'cpu', or 'auto'."
        ) from error


def last_stage(module: LDMIModule) -> tuple[Method, list[nn.Module]] | None:
    """Return method and net of the last stage's best epoch, whichever stage was chosen to predict.

    ``None`` after cross-entropy and its like, whose outputs are probabilities of NOISY labels.

    Args:
        module: has been fitted, and is on the CPU and in eval mode.
    """
    loss = module.losses[module.progress.stage]
    if not isinstance(loss, DMILoss | TransitionLoss) or module.progress.best_weights is None:
        return None
    net = deepcopy(module.backbone)
    net.load_state_dict(module.progress.best_weights)
    return loss, [net]


def implied_transition(loss: Method, nets: Sequence[nn.Module], x: Tensor, y: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the loss's T where it has one, the most likely one after L_DMI, shape ``(C, C)``.

    Args:
        loss: of the last stage.
        nets: its nets.
        x: rows that select, shape ``(N, D)``.
        y: their labels, shape ``(N,)``.
    """
    if isinstance(loss, TransitionLoss):
        return loss.transition.detach().double().numpy().copy()
    return fit_transition(predict_rows(loss, nets, x).double().numpy(), y).transition


@torch.inference_mode()
def predict_rows(method: Method, nets: Sequence[nn.Module], x: Tensor) -> Tensor:
    """Return the probabilities that nets in eval mode give to rows ``(N, D)``, N at least 1: shape ``(N, C)``, float32."""
    return torch.cat([method.probabilities(nets, part) for part in x.split(ROWS_AT_ONCE)])


@contextmanager
def isolated(seed: int, device: str) -> Iterator[None]:
    """Give what is made and trained within a seed of its own, and put back afterwards what belongs to the process.

    PyTorch's generators, the seed in the environment, Lightning's INFO lines and its warnings about itself. Threads wait for
    each other.

    >>> before = torch.random.get_rng_state()
    >>> with isolated(1, "cpu"):
    ...     one = torch.rand(1)
    >>> with isolated(1, "cpu"):
    ...     print(bool(torch.rand(1) == one))
    True
    >>> bool((torch.random.get_rng_state() == before).all())
    True
    """
    gpus = range(torch.cuda.device_count()) if device != "cpu" or torch.cuda.is_initialized() else ()
    loggers = [logging.getLogger(name) for name in LIBRARIES]
    with _ONE_AT_A_TIME, torch.random.fork_rng(devices=list(gpus)), warnings.catch_warnings():
        before, levels = os.environ.get(SEED), [logger.level for logger in loggers]
        for library in LIBRARIES:
            warnings.filterwarnings("ignore", module=library)
        try:
            for logger in loggers:
                logger.setLevel(logging.WARNING)
            os.environ[SEED] = str(seed)
            torch.manual_seed(seed)
            yield
        finally:
            os.environ.pop(SEED)
            if before is not None:
                os.environ[SEED] = before
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
