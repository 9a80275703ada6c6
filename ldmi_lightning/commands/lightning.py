"""What ``ldmi fit``, ``validate``, ``test`` and ``predict`` share: LightningCLI, and how they end."""

import shutil
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from jsonargparse import Namespace
from lightning_fabric.plugins.environments.cluster_environment import ClusterEnvironment
from lightning_fabric.plugins.environments.slurm import SLURMEnvironment
from lightning_fabric.utilities.exceptions import MisconfigurationException
from lightning_fabric.utilities.rank_zero import rank_zero_only
from pytorch_lightning.callbacks import Callback, ProgressBar
from pytorch_lightning.cli import LightningArgumentParser, LightningCLI
from pytorch_lightning.utilities.exceptions import SIGTERMException

from ldmi_lightning.callbacks import EpochLines, StageProgressBar
from ldmi_lightning.checkpoints import read_checkpoint
from ldmi_lightning.commands.configuration import as_plain, fill_in_seed, make_parser, parse
from ldmi_lightning.commands.from_data import TARGETS, told
from ldmi_lightning.commands.mistakes import line_of
from ldmi_lightning.commands.options import DEFAULT_SEED
from ldmi_lightning.commands.parser import Parser
from ldmi_lightning.commands.parsing import one_line
from ldmi_lightning.commands.quiet import quieten
from ldmi_lightning.commands.signals import ENDING
from ldmi_lightning.datamodules import NoisyDataModule
from ldmi_lightning.datamodules.fold_splits import hold_out
from ldmi_lightning.datamodules.folds import Fold
from ldmi_lightning.errors import UserError
from ldmi_lightning.ranks import leave
from ldmi_lightning.runs.loggers import close_wandb
from ldmi_lightning.training.module import LDMIModule


@dataclass
class Run:
    """What must be known of a command, however it ends.

    Attributes:
        folder: the run's folder, on rank 0; ``None`` for a command that has none.
        made_folder: whether this command has made it.
        held: what is held until the command ends: the run's folder.
        complete: whether the command did all that it was asked for; a fit that ``max_time`` ended did not.
    """

    folder: Path | None = None
    made_folder: bool = False
    held: ExitStack = field(default_factory=ExitStack)
    complete: bool = True

    def forget_unused_folder(self) -> None:
        """Remove a folder that a refused run has made and saved no checkpoint in."""
        if self.made_folder and self.folder is not None and not any(self.folder.glob("*.ckpt")):
            shutil.rmtree(self.folder, ignore_errors=True)


class LDMICLI(LightningCLI):
    """LightningCLI that reads a configuration and makes the objects; what is done with them stands in each command's file.

    Args:
        command: the word after ``ldmi``.
        words: all words after ``ldmi``, in order.
        run: what the command's end needs to know.
    """

    def __init__(self, command: str, words: list[str], run: Run) -> None:
        self.command = command
        self.run = run
        super().__init__(
            LDMIModule,
            pl.LightningDataModule,
            subclass_mode_model=True,
            subclass_mode_data=True,
            auto_configure_optimizers=False,
            save_config_callback=None,
            seed_everything_default=DEFAULT_SEED,
            args=words,
            run=False,
        )

    parser: Parser

    def setup_parser(self, *_: Any) -> None:
        """Make the command's parser."""
        self.parser = make_parser(self.command)

    def parse_arguments(self, _: LightningArgumentParser, args: Any) -> None:
        """Parse the words that are in order."""
        self.config: Namespace = parse(self.parser, args)

    def before_instantiate_classes(self) -> None:
        """Fill in seeds, and look for the checkpoint."""
        fill_in_seed(self.config)
        self.look_for_checkpoint()
        # Lightning would make it itself, then write the linked number of classes there, and fail where the backbone has no
        # other argument.
        self.config_dump = as_plain(self.parser, self.config, skip_link_targets=False)
        backbone = self.config_dump["model"].get("init_args", {}).get("backbone")
        if isinstance(backbone, dict):
            backbone.setdefault("init_args", {})

    def look_for_checkpoint(self) -> None:
        """Refuse a command without a checkpoint, which would use random weights; these commands make no run folder."""
        if self.config.ckpt_path is None:
            raise UserError(
                f"ldmi {self.command} needs --ckpt_path, such as runs/.../robust-best.ckpt; without one it would use "
                "random weights."
            )
        read_checkpoint(self.config.ckpt_path)
        self.config.trainer.logger = False

    def instantiate_classes(self) -> None:
        """Make the objects, the data first, of which the model is told; a mistake comes out as its finder has said it."""
        try:
            self.datamodule = self.parser.instantiate_classes(Namespace(data=self.config.data)).data
            hold_fold_out(self.datamodule, self.config)
            self.parser.told = told(self.config, self.parser.given, self.datamodule)
            config = self.config.clone()
            config.data = self.datamodule
            self.config_init = self.parser.instantiate_classes(config)
            self.model = self.config_init.model
            self.trainer = self.instantiate_trainer()
        except ValueError as error:
            raise UserError(one_line(str(error))) from error
        kept = self.model.hparams.get("backbone")
        for target in TARGETS[1:]:  # Lightning has noted all of them
            if isinstance(kept, dict) and target not in self.config:
                kept.get("init_args", {}).pop(target.rpartition(".")[2], None)

    def instantiate_trainer(self, **kwargs: Any) -> pl.Trainer:
        """Add the callbacks that the command needs."""
        config = self.config_init.trainer
        given = config.get("callbacks") or []
        callbacks: list[Callback] = list(given) if isinstance(given, list) else [given]
        callbacks += [*self.own_callbacks(callbacks), EndTogether()]
        if config.get("enable_progress_bar") is not False and not any(isinstance(c, ProgressBar) for c in callbacks):
            callbacks.append(progress())
        if config.get("enable_model_summary") is None:
            kwargs["enable_model_summary"] = False
        kwargs["plugins"] = without_requeue(config.get("plugins"))
        trainer = super().instantiate_trainer(callbacks=callbacks, **kwargs)
        ENDING.at_work = True
        if trainer.world_size > 1:
            ENDING.watch(lambda: getattr(trainer.strategy.launcher, "procs", []))
        return trainer

    def own_callbacks(self, given: Sequence[Callback]) -> list[Callback]:
        """Return the command's own callbacks, beside those that the user has given."""
        return []

    def arguments(self) -> dict[str, Any]:
        """Return what the Trainer's method of the command's name is called with."""
        own = {key: self.config_init[key] for key in TRAINER_ARGUMENTS if key in self.config_init}
        return {"model": self.model, "datamodule": self.datamodule, **own}


def without_requeue(plugins: Any) -> Any:
    """Let a run under SLURM end when it is told to, and leave it to the job's script to put it in the queue again.

    Lightning would save a checkpoint of its own in mid-epoch, which cannot be resumed exactly, and requeue the job itself.
    """
    given = [] if plugins is None else plugins if isinstance(plugins, list) else [plugins]
    if not SLURMEnvironment.detect() or any(isinstance(each, ClusterEnvironment) for each in given):
        return plugins
    return [*given, SLURMEnvironment(auto_requeue=False)]


def hold_fold_out(data: pl.LightningDataModule, config: Namespace) -> None:
    """Let the data hold out the fold that the configuration names, if it names one."""
    if config.fold is None:
        if config.group is not None:
            raise UserError(
                f"--group {config.group} keeps rows in one fold, but there are no folds: give --fold K/N, too."
            )
        return
    if not isinstance(data, NoisyDataModule):
        raise UserError(
            f"--fold needs a NoisyDataModule, which tells its rows apart, but got {type(data).__name__}. Leave it out."
        )
    hold_out(data, Fold.parse(config.fold, config.seed_everything, config.group))


TRAINER_ARGUMENTS = ("ckpt_path", "weights_only", "verbose")


def progress() -> ProgressBar:
    """Return a progress bar; where stdout is no terminal, one plain line an epoch."""
    return StageProgressBar() if sys.stdout.isatty() else EpochLines()


class EndTogether(Callback):
    """Let the processes of a run on several ranks end together: see :mod:`ldmi_lightning.commands.signals`.

    Lightning registers its own handler of SIGTERM after ``setup``; these are the first hooks that follow.
    """

    def on_sanity_check_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Take SIGTERM from Lightning."""
        _take_sigterm(trainer)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Take SIGTERM from Lightning."""
        _take_sigterm(trainer)

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Take SIGTERM from Lightning."""
        _take_sigterm(trainer)

    def on_test_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Take SIGTERM from Lightning."""
        _take_sigterm(trainer)

    def on_predict_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Take SIGTERM from Lightning."""
        _take_sigterm(trainer)

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Leave the other ranks at once, which then do not wait for this one."""
        if trainer.world_size > 1:
            ENDING.hurry()
            leave()


def _take_sigterm(trainer: pl.Trainer) -> None:
    if trainer.world_size > 1:
        ENDING.install()


def carry_out(command: Callable[[Run], None]) -> int:
    """Carry out a command, and leave nothing behind that it holds; return its exit code."""
    quieten()
    run, failed = Run(), True
    try:
        command(run)
        failed = False
    except SIGTERMException:
        raise ENDING.stopped from None
    except Exception as error:
        if ENDING.told:  # it came in the midst of something that tells of it as a fault of its own
            raise ENDING.stopped from None
        if isinstance(error, UserError | MisconfigurationException | OSError | RuntimeError) and line_of(error):
            run.forget_unused_folder()
        if isinstance(error, MisconfigurationException):
            raise UserError(line_of(error)) from error
        raise
    finally:
        leave()
        close_wandb()
        run.held.close()
        ENDING.close_ranks(failed)
    return 0 if run.complete else 1


def is_rank_zero() -> bool:
    """Whether this process is the one that writes; known from the environment before the Trainer exists."""
    return getattr(rank_zero_only, "rank", 0) == 0
