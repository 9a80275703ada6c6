"""The ``ldmi`` command: ``ldmi fit | validate | test | predict``, which train and use a model, and ``ldmi noise``."""

import csv
import logging
import os
import shutil
import signal
import sys
import time
import warnings
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
import yaml
from jsonargparse import Namespace
from lightning_fabric.utilities.exceptions import MisconfigurationException
from lightning_fabric.utilities.rank_zero import rank_zero_only
from pytorch_lightning.callbacks import Callback, ProgressBar
from pytorch_lightning.cli import LightningArgumentParser, LightningCLI
from pytorch_lightning.loggers import WandbLogger
from pytorch_lightning.utilities.exceptions import SIGTERMException

import ldmi_lightning.models  # noqa: F401  (short class names need the module imported)
from ldmi_lightning import benchmark_command, noise_command, pictures, results
from ldmi_lightning.benchmarking.tables import write
from ldmi_lightning.callbacks import JointMatrixLogger, StageCheckpoint, StageKeeper, StageProgressBar, WandbRecord
from ldmi_lightning.callbacks.stage_checkpoint import NO_CHECKPOINT
from ldmi_lightning.checkpoints import read_checkpoint
from ldmi_lightning.datamodules import NoisyDataModule
from ldmi_lightning.errors import UserError
from ldmi_lightning.loggers import RunCSVLogger, close_wandb, logger_config, name_folder, offline_runs, open_wandb
from ldmi_lightning.module import LDMIModule
from ldmi_lightning.noise import NoNoise
from ldmi_lightning.parsing import (
    Parser,
    add_own_config,
    check_mappings,
    check_seed,
    configs_first,
    nulls_in_stages,
    one_line,
)
from ldmi_lightning.ranks import gather_over_ranks, leave
from ldmi_lightning.run_folder import LAST, claim, is_run_folder, make_run_folder
from ldmi_lightning.stage_cache import StageCache, keys_of
from ldmi_lightning.trainer_rules import callbacks_of, check_strategy, is_fast_dev_run

DEFAULT_DATA = {"class_path": "ldmi_lightning.datamodules.DigitsDataModule"}
DEFAULT_MODEL = {
    "class_path": "ldmi_lightning.LDMIModule",
    "init_args": {
        "backbone": {"class_path": "ldmi_lightning.models.DigitsCNN"},
        "warmup": {
            "loss": {"class_path": "ldmi_lightning.losses.CELoss"},
            "epochs": 10,
            "optimizer": {"class_path": "torch.optim.Adam", "init_args": {"lr": 1e-3}},
        },
        "robust": {
            "loss": {"class_path": "ldmi_lightning.losses.DMILoss", "init_args": {"memory": 0.9}},
            "epochs": 20,
            "optimizer": {"class_path": "torch.optim.Adam", "init_args": {"lr": 1e-3}},
        },
    },
}
CONFIG_NAME = "config.yaml"
SHARED_STAGES = "LDMI_SHARED_STAGES"
"""Environment variable by which the ranks that rank 0 starts learn what it has found: an entry may appear meanwhile."""
HARMLESS_WARNINGS = (
    r"GPU available but not used",  # who asks for the CPU knows
    r"`isinstance\(treespec, LeafSpec\)` is deprecated",  # Lightning on torch 2.15, in every fit
    r"\s*skip_none parameter was deprecated",  # of jsonargparse, whose earlier versions do not know the new name
    r"The number of training batches .* is smaller than the logging interval",  # all is logged at the epoch's end
)
# What PyTorch's RuntimeErrors say when a process that reads data has died, and when another rank has.
LOST_WORKER, LOST_RANK = "DataLoader worker (pid", "Connection closed by peer"
DESCRIPTION = "Train classifiers on labels that cannot be trusted: a cross-entropy warm-up, then L_DMI, in one fit."
COMMANDS = {
    "fit": "train both stages, test each on clean labels, and keep all of it in a folder of the run's own",
    "validate": "show a checkpoint's val/acc, val/log_dmi, ... on the validation set",
    "test": "show a checkpoint's accuracy on the clean test set",
    "predict": "write a checkpoint's predictions of the test set to files",
    "noise": "show what label noise does to a data set, and keep the labels, without training",
    "benchmark": "carry out a grid of runs, and draw up its table and figure",
}


class LDMICLI(LightningCLI):
    """LightningCLI with a run folder, plain words, and a tested result."""

    def __init__(self, args: list[str]) -> None:
        self.started = time.monotonic()
        self.folder: Path | None = None
        self.made_folder = False
        self.held = ExitStack()
        """What is held until the command ends: the run's folder."""
        self.complete = True
        """Whether the command did all that it was asked for; a fit that ``max_time`` ended did not."""
        self.plain_config: dict[str, Any] = {}
        super().__init__(
            LDMIModule,
            pl.LightningDataModule,
            subclass_mode_model=True,
            subclass_mode_data=True,
            auto_configure_optimizers=False,
            save_config_callback=None,
            seed_everything_default=1,
            parser_class=Parser,
            parser_kwargs={"prog": "ldmi", "description": DESCRIPTION},
            args=args,
        )

    # -- configuration ------------------------------------------------------------------------------------------------

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Link the number of classes to the model and its backbone, and set the embedded defaults."""
        for target in ("model.init_args.num_classes", "model.init_args.backbone.init_args.num_classes"):
            parser.link_arguments("data", target, compute_fn=number_of_classes, apply_on="instantiate")
        # Passed over where the data has no such attribute, or the backbone no such argument.
        vocab_size = "model.init_args.backbone.init_args.vocab_size"
        parser.link_arguments("data.vocab_size", vocab_size, apply_on="instantiate")
        parser.set_defaults({"data": DEFAULT_DATA, "model": DEFAULT_MODEL})

    def _prepare_subcommand_parser(self, klass: type, subcommand: str, **kwargs: Any) -> LightningArgumentParser:
        parser = super()._prepare_subcommand_parser(klass, subcommand, **kwargs)
        if subcommand == "fit":
            parser.add_argument(
                "--stage_cache",
                type=str | None,
                default=None,
                help="Folder of finished stages, shared by runs that differ in later ones only (default: none).",
            )
        if subcommand == "predict":
            parser.add_argument(
                "--output", type=str, default=None, help="Folder for the predictions (default: beside the checkpoint)."
            )
        return parser

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parse the arguments that :func:`main` has put in order."""
        self.config = parser.parse_args(args)
        check_seed(self.config[self.config.subcommand].seed_everything)

    def _parse_ckpt_path(self) -> None:
        """Command line and YAML win over what the checkpoint holds."""

    def _dump_config(self) -> None:
        # Lightning writes the linked number of classes into this copy, and fails where the backbone has no other argument.
        super()._dump_config()
        backbone = self.config_dump["model"].get("init_args", {}).get("backbone")
        if isinstance(backbone, dict):
            backbone.setdefault("init_args", {})

    def before_instantiate_classes(self) -> None:
        """Fill in seeds, look for the checkpoint, and choose the run's folder."""
        config = self.config[self.subcommand]
        noise = config.data.get("init_args", Namespace()).get("noise")
        if isinstance(noise, Namespace) and "init_args" in noise and noise.init_args.get("seed", 0) is None:
            noise.init_args.seed = config.seed_everything
        ckpt_path = config.get("ckpt_path")
        if ckpt_path is None and self.subcommand != "fit":
            raise UserError(
                f"ldmi {self.subcommand} needs --ckpt_path, such as runs/.../robust-best.ckpt; without one it would use "
                "random weights."
            )
        if ckpt_path is not None:
            checkpoint = read_checkpoint(ckpt_path)
            if self.subcommand == "fit":
                refuse_earlier(Path(ckpt_path), checkpoint)
        if self.subcommand == "predict":
            self._output().mkdir(parents=True, exist_ok=True)
        if self.subcommand == "fit" and not config.trainer.fast_dev_run:
            self.saved_config = self._saved_config()  # before the logger is bound to this run's folder
            self.plain_config = yaml.safe_load(self.saved_config)
            self._choose_folder()
            if is_rank_zero():
                assert self.folder is not None
                self.held.enter_context(claim(self.folder))
                config.trainer.logger = logger_config(config.trainer.logger, self.folder)
        elif self.subcommand != "fit":
            config.trainer.logger = False  # these commands print, and make no run folder

    def _choose_folder(self) -> None:
        """Choose the run's folder on rank 0, from which StageCheckpoint tells the other ranks, and keep the config there."""
        if not is_rank_zero():
            return
        config = self.config["fit"]
        beside = Path(config.ckpt_path).parent if config.ckpt_path else None
        if beside is not None and is_run_folder(beside):
            self.folder = beside
            return
        noise = config.data.get("init_args", Namespace()).get("noise")
        self.folder = make_run_folder(
            config.trainer.default_root_dir,
            config.data.class_path.rsplit(".", 1)[-1].removesuffix("DataModule"),
            noise.class_path.rsplit(".", 1)[-1].removesuffix("Noise") if isinstance(noise, Namespace) else "No",
        )
        self.made_folder = True
        write(self.folder / CONFIG_NAME, self.saved_config.encode())

    def _saved_config(self) -> str:
        """Return the configuration that repeats the run."""
        saved = self.config["fit"].clone()
        saved.ckpt_path = None
        del saved["stage_cache"]  # a matter of this machine, and unknown to `ldmi test`
        return str(self._parser("fit").dump(saved, skip_none=False))

    def instantiate_classes(self) -> None:
        """Make the objects; a mistake that one of them found comes out of jsonargparse's wrapping as it was said."""
        try:
            super().instantiate_classes()
        except ValueError as error:
            raise UserError(one_line(str(error))) from error
        if self.subcommand == "fit" and isinstance(self.model, LDMIModule):
            # The module would refuse it too, but on each rank.
            check_strategy(self.trainer, [stage.loss for stage in self.model.stages.values()])

    def instantiate_trainer(self, **kwargs: Any) -> pl.Trainer:
        """Add the callbacks that a run needs."""
        config = self._get(self.config_init, "trainer")
        given = config.get("callbacks") or []
        callbacks: list[Callback] = list(given) if isinstance(given, list) else [given]
        checkpoints = config.get("enable_checkpointing") is not False
        if self.subcommand == "fit" and not config.get("fast_dev_run") and checkpoints:
            callbacks.append(StageCheckpoint(self.folder))
        if self.folder is not None and not self.made_folder:
            callbacks.append(KeepConfig(self.folder, self.saved_config))
        if self.subcommand == "fit" and config.get("logger") is not False:
            given_matrix = any(isinstance(each, JointMatrixLogger) for each in callbacks)
            callbacks += [] if given_matrix else [JointMatrixLogger()]
            callbacks.append(WandbRecord(self.plain_config))
        if config.get("enable_progress_bar") is not False and not any(isinstance(c, ProgressBar) for c in callbacks):
            callbacks.append(StageProgressBar())
        if config.get("enable_model_summary") is None:
            kwargs["enable_model_summary"] = False
        if self.folder is None:
            kwargs["default_root_dir"] = config.get("default_root_dir")
        return super().instantiate_trainer(callbacks=callbacks, **kwargs)

    # -- fit ----------------------------------------------------------------------------------------------------------

    def before_fit(self) -> None:
        """Say in plain words what is about to happen."""
        if self.folder is not None:
            say(f"Run folder: {self.folder}")
        for logger in self.trainer.loggers:
            if isinstance(logger, WandbLogger):
                say(open_wandb(logger))
        say(describe(self.model, self.datamodule))
        if self.config_init["fit"].stage_cache is not None and self.config_init["fit"].ckpt_path is None:
            self.config_init["fit"].ckpt_path = self._begin_after_shared_stages(self.config_init["fit"].stage_cache)

    def _begin_after_shared_stages(self, folder: str) -> Path | None:
        """Bring the finished stages that this run shares with earlier ones, and see that its own are kept.

        Returns:
            The checkpoint to go on from; ``None`` where nothing is shared yet.
        """
        if self._saving() is None or not isinstance(self.datamodule, NoisyDataModule):
            raise UserError(
                "--stage_cache needs checkpoints and a NoisyDataModule, whose inputs and labels tell one run from another: "
                "leave it out."
            )
        try:
            Path(folder).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"--stage_cache {folder} can be no folder: {error.strerror}. Choose another.") from error
        self.datamodule.prepare_data()
        self.datamodule.setup("fit")
        cache = StageCache(folder, keys_of(self.plain_config, self.datamodule))
        if is_rank_zero() or SHARED_STAGES not in os.environ:
            os.environ[SHARED_STAGES] = " ".join(cache.finished())
        shared = os.environ[SHARED_STAGES].split()
        if is_rank_zero():
            assert self.folder is not None
            cache.bring(shared, self.folder)
            callbacks_of(self.trainer).append(StageKeeper(cache, self.folder))
        for logger in self.trainer.loggers:
            if isinstance(logger, RunCSVLogger):
                logger.go_on()
        for stage in shared:
            say(f"{stage}: taken from {cache.entry(stage)}, where an earlier run has left it.")
        return cache.last_checkpoint(shared[-1]) if shared else None

    def _saving(self) -> StageCheckpoint | None:
        """Return the callback that saves checkpoints; ``None`` where none are saved."""
        return next(
            (each for each in callbacks_of(self.trainer) if isinstance(each, StageCheckpoint) and each.save), None
        )

    def after_fit(self) -> None:
        """Test each stage's checkpoints, print the table, write ``results.json`` and the picture of U."""
        trainer, module = self.trainer, self.model
        checkpoint = self._saving()
        if checkpoint is None or is_fast_dev_run(trainer):
            say("No checkpoints were kept, so no results are written.")
            return
        self.complete = module.progress.over and module.next_stage is None
        if not self.complete:
            if self.folder is not None and not is_run_folder(self.folder):
                say(NO_CHECKPOINT)
            return
        stages = results.test_stages(trainer, module, self.datamodule, checkpoint)
        if not trainer.is_global_zero:
            return
        assert self.folder is not None
        found = results.collect(
            module, self.datamodule, stages, self._get(self.config, "seed_everything"), time.monotonic() - self.started
        )
        WandbRecord.record_transitions(trainer, stages)
        joints = {
            name: summary["best_joint"]
            for name, summary in module.stage_summaries().items()
            if summary["best_joint"] is not None
        }
        if joints:
            titled = {f"after {name}": joint for name, joint in joints.items()}
            figure = pictures.draw_joints(titled, list(getattr(self.datamodule, "class_names", [])))
            pictures.save(figure, self.folder / "joint.png")
        say(f"\n{results.table(stages)}\n")
        for name, stage in stages.items():
            if stage.get("transition_error") is not None:
                say(f"{name}: T̂ differs from the injected T by {stage['transition_error']:.3f} a row (L1).")
        say("test acc, balanced acc: each stage's selected epoch, on clean test labels that selection never saw.")
        for run in offline_runs(self.folder):
            say(f"`wandb sync {run}` sends the offline run to W&B.")
        results.write_json(found, self.folder / "results.json")
        say(f"Run folder: {self.folder}")

    # -- predict ------------------------------------------------------------------------------------------------------

    def _output(self) -> Path:
        return Path(self._get(self.config, "output") or Path(self._get(self.config, "ckpt_path")).parent)

    def predict(self, model: LDMIModule, datamodule: pl.LightningDataModule, ckpt_path: str, **kwargs: Any) -> None:
        """Write ``predictions.csv`` (index, class, name, confidence) and ``probabilities.npy`` (N, C)."""
        pairs = self.trainer.predict(model, datamodule=datamodule, ckpt_path=ckpt_path, **kwargs)
        index, probs = (gather_over_ranks(torch.cat(parts)) for parts in zip(*(pairs or []), strict=True))
        if not self.trainer.is_global_zero:
            return
        if bool((index < 0).any()):
            index = torch.arange(len(probs))
        order = index.argsort()
        confidence, label = probs[order].max(dim=1)
        names = getattr(datamodule, "class_names", [str(each) for each in range(probs.shape[1])])
        output = self._output()
        np.save(output / "probabilities.npy", probs[order].numpy())
        with (output / "predictions.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["index", "class", "name", "confidence"])
            for row in zip(index[order].tolist(), label.tolist(), confidence.tolist(), strict=True):
                writer.writerow([row[0], row[1], names[row[1]], f"{row[2]:.6f}"])
        say(f"{len(probs)} predictions: {output / 'predictions.csv'}, {output / 'probabilities.npy'}")


class KeepConfig(Callback):
    """Keeps, in the folder of a run that goes on, the configuration that it goes on with."""

    def __init__(self, folder: Path, text: str) -> None:
        self.folder, self.text = folder, text

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write it: a checkpoint of another run has been refused by now."""
        write(self.folder / CONFIG_NAME, self.text.encode())


class FitConfig(LDMICLI):
    """Parses the options of ``ldmi fit`` into the whole configuration, defaults included, and carries nothing out."""

    def __init__(self) -> None:
        super().__init__(["fit"])

    def __call__(self, args: list[str]) -> dict[str, Any]:
        """Return the configuration that repeats the run of ``args``, the words after ``ldmi``."""
        check_mappings(args)
        self.parse_arguments(self.parser, name_folder(args))
        config: dict[str, Any] = yaml.safe_load(self._saved_config())
        return config

    def _set_seed(self) -> None:
        """Leave all generators alone."""

    def before_instantiate_classes(self) -> None:
        """Choose no folder."""

    def instantiate_classes(self) -> None:
        """Make no objects."""

    def _run_subcommand(self, subcommand: str) -> None:
        """Run nothing."""


def refuse_earlier(path: Path, checkpoint: Mapping[str, Any]) -> None:
    """Refuse to go on in a run's folder from before its last epoch, which would overwrite the later ones."""
    last = path.parent / LAST
    if path.name == LAST or not last.is_file():
        return
    try:
        reached = read_checkpoint(last)["epoch"]
    except UserError:
        return  # damaged: then an earlier one is the way on
    if checkpoint["epoch"] < reached:
        raise UserError(
            f"{path} ends with epoch {checkpoint['epoch'] + 1}, but its run has come to epoch {reached + 1}, and going on would "
            f"overwrite what came later. Go on with --ckpt_path {last}, or begin a run of its own with --model.warm_start {path}."
        )


def number_of_classes(data: pl.LightningDataModule) -> int:
    """Return what the model and its backbone are told by the datamodule."""
    found = getattr(data, "num_classes", None)
    if not isinstance(found, int):
        raise UserError(
            f"The model takes its number of classes from the data, but {type(data).__name__} has no attribute num_classes. "
            "Give it one."
        )
    return found


def describe(module: LDMIModule, data: pl.LightningDataModule) -> str:
    """Say in plain words what a fit does."""
    lines, seen_on = [], "labels as given"
    if isinstance(data, NoisyDataModule):
        labels, seen_on = describe_labels(data)
        lines.append(f"{type(data).__name__}: {data.num_classes} classes; {labels}.")
    for name, stage in module.stages.items():
        if name == "warmup" and module.warm_start is not None:
            lines.append(f"warmup: passed over, for the weights of {module.warm_start}.")
            continue
        lines.append(
            f"{name}: {type(stage.loss).__name__} for up to {stage.epochs} epochs; keeps the epoch with the "
            f"{'highest' if stage.selecting_mode == 'max' else 'lowest'} {stage.selected_by}, seen on {seen_on}."
        )
    return "\n".join(lines)


def describe_labels(data: NoisyDataModule) -> tuple[str, str]:
    """Say in which splits labels are noisy, and what kind of labels an epoch is selected on."""
    words = {"train": "training", "val": "validation", "test": "test"}
    injected = () if isinstance(data.noise, NoNoise) else data.noisy_splits
    doubtful = [split for split in words if not data.labels_are_true(split)]
    rate = getattr(data.noise, "rate", None)
    injector = type(data.noise).__name__ + (f" at rate {rate:g}" if rate is not None else "")
    kinds = {
        f"{injector} on %s labels": [split for split in words if split in injected],
        "%s labels may be wrong as given": doubtful,
        "%s labels are clean": [split for split in words if split not in {*injected, *doubtful}],
    }
    said = [
        kind % " and ".join(words[split] for split in splits).replace(" and ", ", ", len(splits) - 2)
        for kind, splits in kinds.items()
        if splits
    ]
    seen_on = "noisy labels" if "val" in injected else "labels as given" if "val" in doubtful else "clean labels"
    return "; ".join(said), seen_on


def help_page() -> str:
    """Return what ``ldmi --help`` prints: all commands on one page."""
    commands = "\n".join(f"  {name:10} {what}" for name, what in COMMANDS.items())
    return (
        f"usage: ldmi COMMAND [--config FILE] [OPTIONS]\n\n{DESCRIPTION}\n\ncommands:\n{commands}\n\n"
        "`ldmi COMMAND --help` lists the options of a command; each can stand in a YAML file, too."
    )


def check_command(args: list[str]) -> None:
    """Raise unless the first word is a command (or an option, which the parser answers)."""
    remedy = f"Choose from {', '.join(COMMANDS)}; `ldmi --help` says what each does."
    if not args:
        raise UserError(f"A command is missing. {remedy}")
    if args[0] not in COMMANDS and not args[0].startswith("-"):
        raise UserError(f"{args[0]} is no command. {remedy}")


def is_rank_zero() -> bool:
    """Whether this process is the one that writes; known from the environment before the Trainer exists."""
    return getattr(rank_zero_only, "rank", 0) == 0


@rank_zero_only
def say(text: str) -> None:
    """Print for the user, once."""
    print(text, flush=True)


def main(args: list[str] | None = None) -> int:
    """Run the command; return its exit code."""
    args = list(sys.argv[1:] if args is None else args)
    args = nulls_in_stages(name_folder(configs_first(add_own_config(args, CONFIG_NAME))))
    if "" not in sys.path and str(Path.cwd()) not in sys.path:
        # So that `--model.backbone my_module.MyNet` finds a file in the working directory, as `python` itself would.
        sys.path.append(str(Path.cwd()))
    # Lightning's own INFO lines speak of hooks and hardware; what a user needs is said in plain words.
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
    for noise in HARMLESS_WARNINGS:
        warnings.filterwarnings("ignore", message=noise)
    if args[:1] in (["-h"], ["--help"]):
        print(help_page())
        return 0
    cli = LDMICLI.__new__(LDMICLI)
    try:
        check_command(args)
        check_mappings(args)
        if args[0] == "noise":
            noise_command.run(args[1:], DEFAULT_DATA)
            return 0
        if args[0] == "benchmark":
            return benchmark_command.run(args[1:], FitConfig())
        cli.__init__(args)  # type: ignore[misc]
    except (UserError, MisconfigurationException, OSError, RuntimeError) as error:
        line = _one_line_of(error)
        if os.environ.get("LDMI_TRACEBACK") or not line:
            raise
        forget_unused_folder(cli)
        print(f"ldmi: error: {line}", file=sys.stderr)
        return 2
    except SIGTERMException:
        print("ldmi: stopped by SIGTERM.", file=sys.stderr)
        return 128 + signal.SIGTERM
    except KeyboardInterrupt:  # outside of Lightning's loops, which answer it with exit code 1
        print("ldmi: stopped by Ctrl-C.", file=sys.stderr)
        return 128 + signal.SIGINT
    finally:
        close_wandb()
        if hasattr(cli, "held"):
            cli.held.close()
    leave()
    return 0 if cli.complete else 1


def _one_line_of(error: Exception) -> str:
    """Say what went wrong; nothing for an error that only a traceback explains."""
    if isinstance(error, OSError) and error.strerror:
        place = f" ({error.filename})" if error.filename else ""
        return (
            f"{error.strerror}{place}. Make room, or choose another folder with --trainer.default_root_dir; a run that was "
            "stopped goes on with --ckpt_path RUN/last.ckpt."
        )
    said = " ".join(str(error).split())
    if not isinstance(error, RuntimeError):
        return said
    if said.startswith(LOST_WORKER):
        return f"{said.rstrip('.')}. Is memory short? Lower --data.num_workers; 0 reads in the main process."
    return "Another process of this run has stopped; its own line says why." if LOST_RANK in said else ""


def forget_unused_folder(cli: LDMICLI) -> None:
    """Remove a folder that a refused run has made and saved no checkpoint in."""
    if getattr(cli, "made_folder", False) and cli.folder is not None and not any(cli.folder.glob("*.ckpt")):
        shutil.rmtree(cli.folder, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
