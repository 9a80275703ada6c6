"""The two callbacks that walk the stages: one begins an epoch before all other callbacks, one closes and saves it after all."""

from pathlib import Path
from typing import Literal, Protocol, cast

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback, Checkpoint
from pytorch_lightning.trainer.states import TrainerFn

from ldmi_lightning import files
from ldmi_lightning.errors import UserError
from ldmi_lightning.runs.curves import write_curves
from ldmi_lightning.runs.folder import CURVES, LAST, checkpoint_name, is_run_folder, make_run_folder
from ldmi_lightning.training.compat import callbacks_of
from ldmi_lightning.training.stages import Progress

NO_CHECKPOINT = (
    "The run has stopped before the end of its first epoch: there is no checkpoint to go on from. Begin it anew."
)
NOTHING_KEPT = (
    "No checkpoints are kept, since the Trainer has neither a default_root_dir nor a logger: give it one of them, or a "
    "ldmi_lightning.training.stage_loop.StageCheckpoint among its callbacks, to keep them."
)


class Staged(Protocol):
    """What the callbacks ask of the module."""

    progress: Progress
    improved: bool
    chosen: str | None

    @property
    def next_stage(self) -> str | None:
        """Name of the stage that follows the running one."""

    def begin_epoch(self) -> None:
        """Begin the next stage, where the running one is over."""

    def end_epoch(self) -> bool:
        """Close the epoch; return whether it was a whole one."""


class StageStart(Callback):
    """Begins a stage before any other callback sees its first epoch, so that a learning rate logged there is the new one's.

    It is a callback, and the first, since Lightning calls the callbacks before the module.
    """

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Begin the epoch."""
        cast(Staged, pl_module).begin_epoch()


def put_first(trainer: pl.Trainer) -> None:
    """Move the :class:`StageStart` before all other callbacks."""
    callbacks = callbacks_of(trainer)
    callbacks.sort(key=lambda callback: not isinstance(callback, StageStart))


class StageCheckpoint(Checkpoint):
    """Keep ``<stage>-best.ckpt`` and ``<stage>-last.ckpt`` of each stage, and ``last.ckpt``, the newest, to resume from.

    It derives from Lightning's ``Checkpoint`` and not from ``ModelCheckpoint``, which would remove the user's own; and
    as a ``Checkpoint`` it runs after the user's ``EarlyStopping``, so that it is also what closes the module's epoch.

    Args:
        folder: the run's folder; ``None`` makes one, or continues in that of the checkpoint that is resumed.
        save: whether files are written at all; ``None`` for where the Trainer says that files are wanted: it has a logger or
            a ``default_root_dir``, or resumes a run from its folder.
        curves: whether ``curves.csv``, what each epoch has come to, is written beside them.
    """

    def __init__(self, folder: str | Path | None = None, save: bool | None = True, curves: bool = False) -> None:
        self.given = Path(folder) if folder is not None else None
        self.folder: Path | None = None
        self.wanted = save
        self.save = save is not False
        self.curves = curves
        self._best_of = ""

    @property
    def best_model_path(self) -> str:
        """What ``ckpt_path="best"`` means: the best checkpoint of the stage that was chosen, and until then the newest."""
        path = self.path_of(self._best_of, "best") if self._best_of else None
        return str(path) if path is not None and path.is_file() else ""

    def path_of(self, stage: str, which: Literal["best", "last"]) -> Path:
        """Return where the best or last checkpoint of a stage is kept."""
        return self._in_folder(checkpoint_name(stage, which))

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Choose the run's folder, on rank 0; not in ``setup``, where Lightning does not yet say what is resumed."""
        self.save = self.wanted is not False
        if not self.save:
            return
        folder = self.given
        if trainer.is_global_zero:
            folder = folder or self._own_folder(trainer)
            if folder is not None:
                files.remove_unfinished(folder)  # what an earlier process was writing when it was killed
        self.folder = trainer.strategy.broadcast(folder)
        if self.folder is None:
            self.save = False
            pl_module.print(NOTHING_KEPT)

    def _own_folder(self, trainer: pl.Trainer) -> Path | None:
        """Return the folder of the run that is resumed, or a new one; ``None`` where nobody has asked for files."""
        resumed = Path(trainer.ckpt_path).parent if isinstance(trainer.ckpt_path, str | Path) else None
        if resumed is not None and is_run_folder(resumed):
            return resumed
        data = getattr(trainer, "datamodule", None)
        noise = getattr(data, "noise", None)
        # Lightning fills default_root_dir with the working directory where none was given.
        root = None if trainer.default_root_dir == str(Path.cwd()) else trainer.default_root_dir
        if not (self.wanted or root or trainer.loggers):
            return None
        return make_run_folder(
            root,
            type(data).__name__.removesuffix("DataModule") if data is not None else "data",
            type(noise).__name__.removesuffix("Noise") if noise is not None else "labels",
        )

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Save the stage's best checkpoint while the module holds its weights."""
        module = cast(Staged, pl_module)
        if self.save and module.improved and trainer.state.fn == TrainerFn.FITTING and not trainer.sanity_checking:
            self._save(trainer, self.path_of(module.progress.stage, "best"))
            self._best_of = module.progress.stage

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Close the module's epoch, and save it."""
        module = cast(Staged, pl_module)
        whole = module.end_epoch()
        if not (self.save and whole):
            return
        # The newest comes last: a run killed before it repeats the epoch, and writes the others again.
        self._write_curves(trainer, module)
        others = [self.path_of(module.progress.stage, "last")] if module.progress.over else []
        self._save(trainer, *others, self._in_folder(LAST))

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Let ``best`` mean the stage that was chosen; a run that had no epoch left to run has its curves, too."""
        module = cast(Staged, pl_module)
        self._best_of = module.chosen or self._best_of
        if self.save and module.progress.over and module.next_stage is None:
            self._write_curves(trainer, module)

    def _write_curves(self, trainer: pl.Trainer, module: Staged) -> None:
        if self.curves and trainer.is_global_zero:
            write_curves(module.progress.history, self._in_folder(CURVES))

    @staticmethod
    def _save(trainer: pl.Trainer, *paths: Path) -> None:
        """Save under each of the names, so that none is ever seen half-written; rank 0 alone writes, but all take part."""
        if not trainer.is_global_zero:
            trainer.save_checkpoint(paths[-1], weights_only=False)
            return
        with files.beside(paths[-1]) as unfinished:
            trainer.save_checkpoint(unfinished, weights_only=False)
            for path in paths[:-1]:
                files.copy(unfinished, path)

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Say where an interrupted run can be resumed; one that was refused says so itself."""
        if isinstance(exception, UserError):
            return
        self._say_how_to_resume(pl_module)
        if self.save and self.folder is not None and not is_run_folder(self.folder):
            pl_module.print(NO_CHECKPOINT)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Say the same where ``max_time`` has ended the run."""
        module = cast(Staged, pl_module)
        if not (module.progress.over and module.next_stage is None):
            self._say_how_to_resume(pl_module)

    def _say_how_to_resume(self, pl_module: pl.LightningModule) -> None:
        if self.save and self.folder is not None and is_run_folder(self.folder):
            pl_module.print(f"The run has stopped early. Go on with --ckpt_path={self._in_folder(LAST)}")

    def _in_folder(self, name: str) -> Path:
        assert self.folder is not None, "on_fit_start() chooses the folder before anything is saved"
        return self.folder / name
