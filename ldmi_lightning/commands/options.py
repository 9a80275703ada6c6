"""What the help pages say that no docstring says: the options of a run, the defaults, and the Trainer's most used options."""

from typing import Any, NamedTuple

DEFAULT_SEED = 1
DEFAULT_DATA: dict[str, Any] = {"class_path": "ldmi_lightning.datamodules.DigitsDataModule"}
DEFAULT_MODEL: dict[str, Any] = {
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

DESCRIPTIONS = {
    "fit": "Train all stages in one fit, test each, and keep all of it in a folder of the run's own.",
    "validate": "Show a checkpoint's figures on the validation set.",
    "test": "Show a checkpoint's figures on the test set.",
    "predict": "Write a checkpoint's predictions of the test set, or of new samples, to files.",
}

FROM_DATA = ("num_classes", "vocab_size", "num_features")
"""What a backbone is told by the datamodule, where it takes it and the datamodule knows it, unless it is given."""


class Option(NamedTuple):
    """An option: how it is written, what it takes, and what it does.

    Attributes:
        name: the option.
        takes: what follows it; empty for a switch.
        help: what it does.
        only: the commands that have it; all, if empty.
    """

    name: str
    takes: str
    help: str
    only: tuple[str, ...] = ()


RUN = {
    "config": Option("--config", "FILE", "YAML file of options; can be repeated, and a later one wins."),
    "seed_everything": Option(
        "--seed_everything",
        "INT",
        "The run's seed: of weights, order, dropout, and of the noise unless it has its own.",
    ),
    "ckpt_path": Option("--ckpt_path", "FILE", "Checkpoint to resume from, such as RUN/last.ckpt.", ("fit",)),
    "ckpt_path_used": Option(
        "--ckpt_path",
        "FILE",
        "Checkpoint to use, such as RUN/robust-best.ckpt; RUN/config.yaml is read unless --config is given.",
        ("validate", "test", "predict"),
    ),
    "run_folder": Option(
        "--run_folder",
        "DIR",
        "Folder of the run: begin there, or go on from the last.ckpt in it. The same command does both.",
        ("fit",),
    ),
    "stage_cache": Option(
        "--stage_cache", "DIR", "Folder of finished stages, shared by runs that differ in later ones only.", ("fit",)
    ),
    "fold": Option(
        "--fold",
        "K/N",
        "Hold out the K-th of N folds of training and validation rows; a fit predicts it at its end.",
    ),
    "group": Option(
        "--group",
        "NAME|FILE",
        "What keeps rows in one fold: a column of the data's table, or a CSV file of index,group.",
    ),
    "input": Option(
        "--input",
        "PLACE",
        "New samples: images (a folder or one), a table, or a .npy.",
        ("predict",),
    ),
    "output": Option("--output", "DIR", "Folder for the predictions; else beside the checkpoint.", ("predict",)),
    "verbose": Option("--verbose", "BOOL", "Whether the figures are printed.", ("validate", "test")),
    "weights_only": Option(
        "--weights_only", "BOOL", "Lightning's argument; a checkpoint is checked, and cannot run code, in any case."
    ),
    "print_config": Option("--print_config", "", "Print the whole configuration as YAML, and do nothing else."),
    "help": Option("-h, --help", "", "Show this page."),
    "help_all": Option("--help_all", "", "Show all of the Trainer's options, and all that is said of each."),
}

FOLDS = 5
"""Folds of an audit, unless it is given others."""

FOLD_OPTIONS = ("fold", "group")
"""The options of folds, which are part of what a run is."""

SELDOM = ("--weights_only", "-h, --help")
SELDOM_AFTER_FIT = ("--fold", "--group")
"""Options that stand behind ``--help_all``; the latter of the commands that use what a fit has left."""

TRAINER = {
    "accelerator": ("NAME", "What to compute on: cpu, gpu, mps, or auto"),
    "devices": ("INT|LIST", "How many devices, or which; the batch is shared by them"),
    "precision": ("NAME", "Of the net, such as bf16-mixed; determinants stay in float64"),
    "default_root_dir": ("DIR", "Folder of the runs' folders; else ./runs"),
    "logger": ("CLASS", "Such as CSVLogger, or false for none; else W&B, offline without a key"),
    "callbacks": ("CLASS", "Work in each stage as in a fit of its own; [A, B] for several"),
    "max_time": ("TIME", "Stop after DD:HH:MM:SS; the run can be resumed"),
    "fast_dev_run": ("INT", "Run so many batches of each stage, and keep nothing"),
    "limit_train_batches": ("INT|FLOAT", "Use so many training batches of an epoch, or a share of them"),
    "gradient_clip_val": ("FLOAT", "Clip the norm of the gradient at this value"),
    "deterministic": ("BOOL", "Use deterministic algorithms alone, or fail"),
    "enable_progress_bar": ("BOOL", "Whether the progress of an epoch is shown"),
}
"""The options that most runs need, in plain words; the others have Lightning's, and stand behind ``--help_all``."""

REFUSED = ("max_epochs", "max_steps", "min_epochs", "min_steps", "overfit_batches")
"""The Trainer's options that :mod:`ldmi_lightning.training.trainer_rules` refuses, whatever their value."""

BASES = (
    *("Loss", "TransitionLoss", "Noise", "TransitionNoise", "NoisyDataModule", "TextDataModule"),
    *("Optimizer", "LRScheduler", "Callback", "Checkpoint", "Logger"),
)
"""Public classes that others derive from, and nobody chooses."""

PLACES = {
    "model": ("ldmi_lightning",),
    "data": ("ldmi_lightning.datamodules",),
    "backbone": ("ldmi_lightning.models", "torchvision.models"),
    "encoder": ("ldmi_lightning.models", "torchvision.models"),
    "loss": ("ldmi_lightning.losses", "ldmi_lightning.methods"),
    "noise": ("ldmi_lightning.noise",),
    "optimizer": ("torch.optim",),
    "scheduler": ("torch.optim.lr_scheduler", "ldmi_lightning.schedulers"),
    "augmentation": ("ldmi_lightning.datamodules.transforms",),
    "callbacks": ("ldmi_lightning.callbacks", "pytorch_lightning.callbacks"),
    "logger": ("pytorch_lightning.loggers",),
    "profiler": ("pytorch_lightning.profilers",),
    "strategy": ("pytorch_lightning.strategies",),
    "accelerator": ("pytorch_lightning.accelerators",),
    "plugins": ("pytorch_lightning.plugins",),
}
"""Where the classes that an option takes are looked for by their short names, by the option's last word."""
