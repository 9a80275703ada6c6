"""``ldmi fit``: train all stages, test each, and keep all of it in a folder of the run's own."""

import os
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.loggers import WandbLogger

from ldmi_lightning import files, pictures
from ldmi_lightning.batch import LabelledData
from ldmi_lightning.callbacks import JointMatrixLogger, WandbRecord
from ldmi_lightning.checkpoints import read_checkpoint
from ldmi_lightning.commands.begin_together import BeginTogether
from ldmi_lightning.commands.configuration import as_plain, in_order, name_run, repeatable, write_yaml
from ldmi_lightning.commands.description import describe
from ldmi_lightning.commands.epoch_timer import EpochTimer
from ldmi_lightning.commands.lightning import LDMICLI, Run, carry_out, is_rank_zero
from ldmi_lightning.commands.row_outputs import outputs_of, stage_of_outputs
from ldmi_lightning.commands.stage_keeper import StageKeeper
from ldmi_lightning.commands.testing import kind_of_test_labels, test_stages
from ldmi_lightning.datamodules import NoisyDataModule
from ldmi_lightning.datamodules.fold_splits import FOLD
from ldmi_lightning.errors import UserError
from ldmi_lightning.runs import outputs, results
from ldmi_lightning.runs.folder import (
    CONFIG,
    JOINT,
    LAST,
    RESULTS,
    claim,
    is_run_folder,
    make_folder,
    make_run_folder,
    to_go_on_from,
)
from ldmi_lightning.runs.loggers import RunCSVLogger, logger_config, offline_runs, open_wandb
from ldmi_lightning.runs.outputs import OUTPUTS
from ldmi_lightning.runs.stage_cache import StageCache, keys_of, remove_unfinished
from ldmi_lightning.saying import say
from ldmi_lightning.training.compat import callbacks_of, is_fast_dev_run
from ldmi_lightning.training.module import LDMIModule
from ldmi_lightning.training.stage_loop import NO_CHECKPOINT, StageCheckpoint
from ldmi_lightning.training.trainer_rules import check_strategy

SHARED_STAGES = "LDMI_SHARED_STAGES"
"""Environment variable by which the ranks that rank 0 starts learn what it has found: an entry may appear meanwhile."""


def run(words: list[str]) -> int:
    """Carry out ``ldmi fit``; return its exit code."""
    return carry_out(lambda run: fit(words, run))


def fit(words: list[str], run: Run) -> None:
    """Train, test and keep."""
    begun = time.monotonic()
    cli = FitCLI("fit", in_order(words), run)
    introduce(cli)
    arguments = cli.arguments()
    if (cache := cli.config.stage_cache) is not None:
        if cli.run.folder is not None:
            remove_unfinished(cache, cli.run.folder)
        if cli.config.ckpt_path is None:
            arguments["ckpt_path"] = begin_after_shared_stages(cli, cache)
    cli.trainer.fit(**arguments)
    conclude(cli, begun)


class FitCLI(LDMICLI):
    """The objects of ``ldmi fit``, and the folder of its run."""

    model: LDMIModule
    plain_config: dict[str, Any]
    """The configuration that repeats the run."""
    epochs_done = 0
    """Epochs that this process goes on after."""

    def look_for_checkpoint(self) -> None:
        """Look at the checkpoint that is resumed, and choose the run's folder on rank 0, which tells the other ranks."""
        config = self.config
        if config.run_folder is not None:
            if config.ckpt_path is not None:
                raise UserError(
                    "--run_folder says itself where the run goes on from, and --ckpt_path names another place: give one of "
                    "the two."
                )
            found = to_go_on_from(Path(config.run_folder))
            config.ckpt_path = None if found is None else str(found)
        if config.ckpt_path is not None:
            checkpoint = read_checkpoint(config.ckpt_path)
            refuse_earlier(Path(config.ckpt_path), checkpoint)
            self.epochs_done = checkpoint["epoch"] + 1
        self.plain_config = repeatable(as_plain(self.parser, config))  # before the logger is bound to this run's folder
        if config.trainer.fast_dev_run or not is_rank_zero():
            return
        beside = Path(config.ckpt_path).parent if config.ckpt_path else None
        left = beside if beside is not None and is_run_folder(beside) else None
        if left is not None:
            folder = left
        elif config.run_folder is not None:
            folder = Path(config.run_folder)
            self.run.made_folder = make_folder(folder)
        else:
            folder = make_run_folder(config.trainer.default_root_dir, *name_run(config))
            self.run.made_folder = True
        self.run.folder = folder
        self.run.held.enter_context(claim(folder))
        if left is None:
            write_config(folder, self.plain_config)
        config.trainer.logger = logger_config(config.trainer.logger, folder)

    def instantiate_classes(self) -> None:
        """Make the objects, and refuse a strategy that the module would refuse, too, but on each rank."""
        super().instantiate_classes()
        if isinstance(self.model, LDMIModule):
            check_strategy(self.trainer, [stage.loss for stage in self.model.stages.values()])

    def own_callbacks(self, given: Sequence[Callback]) -> list[Callback]:
        """Save checkpoints, the configuration and U, unless the user has switched it off."""
        config, callbacks = self.config_init.trainer, list[Callback]()
        callbacks.append(BeginTogether(self.epochs_done, self.config.ckpt_path or self.config.run_folder))
        if not config.fast_dev_run and config.enable_checkpointing is not False:
            callbacks += [StageCheckpoint(self.run.folder, curves=True), EpochTimer()]
        if self.run.folder is not None and not self.run.made_folder:
            callbacks.append(KeepConfig(self.run.folder, self.plain_config))
        if config.logger is not False:
            if not any(isinstance(each, JointMatrixLogger) for each in given):
                callbacks.append(JointMatrixLogger())
            callbacks.append(WandbRecord(self.plain_config))
        return callbacks

    @property
    def saving(self) -> StageCheckpoint | None:
        """The callback that saves checkpoints; ``None`` where none are saved."""
        found = (each for each in callbacks_of(self.trainer) if isinstance(each, StageCheckpoint) and each.save)
        return None if is_fast_dev_run(self.trainer) else next(found, None)


class KeepConfig(Callback):
    """Keeps, in the folder of a run that is resumed, the configuration with which it is resumed."""

    def __init__(self, folder: Path, config: Mapping[str, Any]) -> None:
        self.folder, self.config = folder, config

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write it: a checkpoint of another run has been refused by now."""
        write_config(self.folder, self.config)


def write_config(folder: Path, config: Mapping[str, Any]) -> None:
    """Keep the configuration that repeats a run in its folder."""
    files.write(folder / CONFIG, write_yaml(config).encode())


def refuse_earlier(path: Path, checkpoint: Mapping[str, Any]) -> None:
    """Refuse to resume a run in its folder from before its last epoch, which would overwrite the later ones."""
    last = path.parent / LAST
    if path.name == LAST or not last.is_file():
        return
    reached = -1  # a damaged one: then an earlier one is the way on
    with suppress(UserError):
        reached = read_checkpoint(last)["epoch"]
    if checkpoint["epoch"] < reached:
        raise UserError(
            f"{path} ends with epoch {checkpoint['epoch'] + 1}, but its run has come to epoch {reached + 1}, and resuming "
            f"would overwrite what came later. Resume with --ckpt_path {last}, or begin a run of its own with "
            f"--model.warm_start {path}."
        )


# -- before -----------------------------------------------------------------------------------------------------------


def introduce(cli: FitCLI) -> None:
    """Say in plain words what is about to happen."""
    if cli.run.folder is not None:
        say(f"Run folder: {cli.run.folder}")
    for logger in cli.trainer.loggers:
        if isinstance(logger, WandbLogger):
            say(open_wandb(logger))
    say(describe(cli.model, cli.datamodule))


def begin_after_shared_stages(cli: FitCLI, folder: str) -> Path | None:
    """Bring the finished stages that this run shares with earlier ones, and see that its own are kept.

    Returns:
        The checkpoint to resume from; ``None`` where nothing is shared yet.
    """
    if cli.saving is None or not isinstance(cli.datamodule, NoisyDataModule):
        raise UserError(
            "--stage_cache needs checkpoints and a NoisyDataModule, whose inputs and labels tell one run from another: "
            "leave it out."
        )
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--stage_cache {folder} can be no folder: {error.strerror}. Choose another.") from error
    cli.datamodule.prepare_data()
    cli.datamodule.setup("fit")
    cache = StageCache(folder, keys_of(cli.plain_config, cli.datamodule))
    if is_rank_zero() or SHARED_STAGES not in os.environ:
        os.environ[SHARED_STAGES] = " ".join(cache.finished())
    shared = os.environ[SHARED_STAGES].split()
    if cli.run.folder is not None:  # on rank 0
        cache.bring(shared, cli.run.folder)
        callbacks_of(cli.trainer).append(StageKeeper(cache, cli.run.folder))
    for logger in cli.trainer.loggers:
        if isinstance(logger, RunCSVLogger):
            logger.go_on()
    for stage in shared:
        say(f"{stage}: taken from {cache.entry(stage)}, where an earlier run has left it.")
    return cache.last_checkpoint(shared[-1]) if shared else None


# -- after ------------------------------------------------------------------------------------------------------------


def conclude(cli: FitCLI, begun: float) -> None:
    """Test each stage's checkpoints, print the table, write ``results.json`` and the picture of U."""
    module, folder = cli.model, cli.run.folder
    if cli.saving is None:
        say("No checkpoints were kept, so no results are written.")
        return
    cli.run.complete = module.progress.over and module.next_stage is None
    if not cli.run.complete:
        if folder is not None and not is_run_folder(folder):
            say(NO_CHECKPOINT)
        return
    stages = test_stages(cli.trainer, module, cli.datamodule, cli.saving)
    keep_fold(cli, cli.saving)
    if folder is None:  # another rank than 0
        return
    timer = next(each for each in callbacks_of(cli.trainer) if isinstance(each, EpochTimer))
    names = list(getattr(cli.datamodule, "class_names", []))
    found = results.collect(
        data=type(cli.datamodule).__name__,
        seed=cli.config.seed_everything,
        noise=cli.datamodule.noise_report() if isinstance(cli.datamodule, LabelledData) else None,
        stages=stages,
        chosen=module.chosen,
        choice=module.choice,
        wall_time_s=time.monotonic() - begun,
        epoch_times={name: timer.medians(name) for name in stages},
        class_names=names,
    )
    WandbRecord.record_transitions(cli.trainer, stages)
    draw_joints(module, folder, names)
    say(f"\n{results.table(stages, module.chosen, module.choice)}\n")
    for name, stage in stages.items():
        if stage.get("transition_error") is not None:
            say(f"{name}: T̂ differs from the injected T by {stage['transition_error']:.3f} a row (L1).")
    kind = kind_of_test_labels(cli.datamodule)
    say(f"test acc, balanced acc: each stage's selected epoch, on {kind}, which selection never saw.")
    for offline in offline_runs(folder):
        say(f"`wandb sync {offline}` sends the offline run to W&B.")
    results.write_json(found, folder / RESULTS)
    say(f"Run folder: {folder}")


def keep_fold(cli: FitCLI, saving: StageCheckpoint) -> None:
    """Keep the probabilities of the rows of the fold that was held out, if one was."""
    module, data = cli.model, cli.datamodule
    if not isinstance(data, NoisyDataModule) or data.fold is None:
        return
    stage = stage_of_outputs(dict(module.losses.items()), module.chosen or module.progress.stage)
    places = [saving.path_of(stage[0], which) for which in ("best", "last")]
    kept = cli.trainer.strategy.broadcast([path for path in places if path.is_file()])  # which rank 0 alone may see
    found = outputs_of(cli.trainer, module, data, kept[0], stage, [FOLD])
    if cli.run.folder is not None:
        outputs.write(cli.run.folder, found)
        say(f"{cli.run.folder / OUTPUTS}: what {stage[0]} says of the {len(found.splits[FOLD].index):,} rows held out.")


def draw_joints(module: LDMIModule, folder: Path, names: list[str]) -> None:
    """Draw U on the noisy validation set, after each stage's best epoch."""
    summaries = module.stage_summaries().items()
    joints = {f"after {name}": each["best_joint"] for name, each in summaries if each["best_joint"] is not None}
    if joints:
        pictures.save(pictures.draw_joints(joints, names), folder / JOINT)
