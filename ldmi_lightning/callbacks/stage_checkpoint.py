"""Checkpoints of each stage's best and last epoch, and the newest one to resume from."""

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Literal, cast

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Checkpoint
from pytorch_lightning.trainer.states import TrainerFn

from ldmi_lightning.errors import UserError
from ldmi_lightning.run_folder import LAST, is_run_folder, make_run_folder

if TYPE_CHECKING:
    from ldmi_lightning.module import LDMIModule


NO_CHECKPOINT = (
    "The run has stopped before the end of its first epoch: there is no checkpoint to go on from. Begin it anew."
)


class StageCheckpoint(Checkpoint):
    """Keep ``<stage>-best.ckpt`` and ``<stage>-last.ckpt`` of each stage, and ``last.ckpt``, the newest, to resume from.

    It derives from Lightning's ``Checkpoint`` and not from ``ModelCheckpoint``, which would remove the user's own; and
    as a ``Checkpoint`` it runs after the user's ``EarlyStopping``, so that it is also what closes the module's epoch.

    Args:
        folder: the run's folder; ``None`` makes one, or goes on in that of the checkpoint that is resumed.
        save: whether files are written at all.
    """

    def __init__(self, folder: str | Path | None = None, save: bool = True) -> None:
        self.given = Path(folder) if folder is not None else None
        self.folder: Path | None = None
        self.save = save
        self._stage = ""

    @property
    def best_model_path(self) -> str:
        """The newest stage's best checkpoint, which is what ``ckpt_path="best"`` means; empty where there is none."""
        path = self.path_of(self._stage, "best") if self._stage else None
        return str(path) if path is not None and path.is_file() else ""

    def path_of(self, stage: str, which: Literal["best", "last"]) -> Path:
        """Return where the best or last checkpoint of a stage is kept."""
        return self._in_folder(f"{stage}-{which}.ckpt")

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Choose the run's folder, on rank 0; not in ``setup``, where Lightning does not yet say what is resumed."""
        if not self.save:
            return
        folder = self.given
        if trainer.is_global_zero and folder is None:
            resumed = Path(trainer.ckpt_path).parent if isinstance(trainer.ckpt_path, str | Path) else None
            if resumed is not None and is_run_folder(resumed):
                folder = resumed
            else:
                data = getattr(trainer, "datamodule", None)
                noise = getattr(data, "noise", None)
                # Lightning fills default_root_dir with the working directory where none was given.
                root = trainer.default_root_dir
                folder = make_run_folder(
                    None if root == str(Path.cwd()) else root,
                    type(data).__name__.removesuffix("DataModule") if data is not None else "data",
                    type(noise).__name__.removesuffix("Noise") if noise is not None else "labels",
                )
        self.folder = trainer.strategy.broadcast(folder)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Save the stage's best checkpoint while the module holds its weights."""
        module = cast("LDMIModule", pl_module)
        if self.save and module.improved and trainer.state.fn == TrainerFn.FITTING and not trainer.sanity_checking:
            self._save(trainer, self.path_of(module.progress.stage, "best"))
            self._stage = module.progress.stage

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Close the module's epoch, and save it."""
        module = cast("LDMIModule", pl_module)
        whole = module.end_epoch()
        if not (self.save and whole):
            return
        # The newest comes last: a run killed before it repeats the epoch, and writes the others again.
        others = [self.path_of(module.progress.stage, "last")] if module.progress.over else []
        self._save(trainer, *others, self._in_folder(LAST))

    @staticmethod
    def _save(trainer: pl.Trainer, *paths: Path) -> None:
        """Save under each of the names, so that none is ever seen half-written.

        Lightning writes into the system's temporary folder, and moves: a copy where that is another file system.
        """
        unfinished = paths[-1].with_suffix(".tmp")
        trainer.save_checkpoint(unfinished, weights_only=False)
        if trainer.is_global_zero:
            for path in paths[:-1]:
                _copy(unfinished, path)
            unfinished.replace(paths[-1])

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Say where an interrupted run can be taken up again; one that was refused says so itself."""
        if isinstance(exception, UserError):
            return
        self._say_how_to_resume(pl_module)
        if self.save and self.folder is not None and not is_run_folder(self.folder):
            pl_module.print(NO_CHECKPOINT)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Say the same where ``max_time`` has ended the run."""
        module = cast("LDMIModule", pl_module)
        if not (module.progress.over and module.next_stage is None):
            self._say_how_to_resume(pl_module)

    def _say_how_to_resume(self, pl_module: pl.LightningModule) -> None:
        if self.save and self.folder is not None and is_run_folder(self.folder):
            pl_module.print(f"The run has stopped early. Go on with --ckpt_path={self._in_folder(LAST)}")

    def _in_folder(self, name: str) -> Path:
        assert self.folder is not None, "on_fit_start() chooses the folder before anything is saved"
        return self.folder / name


def _copy(source: Path, target: Path) -> None:
    """Copy so that ``target`` is never seen half-written."""
    unfinished = target.with_suffix(".tmp")
    shutil.copyfile(source, unfinished)
    unfinished.replace(target)
