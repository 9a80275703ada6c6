"""What ``ldmi noise --help`` says: apart from what carries the command out, since a help page should not wait for PyTorch."""

import argparse
from typing import NamedTuple

DESCRIPTION = (
    "Show the label noise of a configuration, without training: the transition matrix T as requested and as it came out, the "
    "share of wrong labels, whether T is diagonally dominant or nearly singular, and what that means for cross-entropy and "
    "L_DMI. Write a picture, and the labels to a file that LabelFileNoise reads back. All files and options of `ldmi fit` are "
    "accepted; those of model and trainer are not looked at."
)
PICTURE, LABELS, POSTERIOR = "noise.png", "labels.csv", "posterior.npz"
DATA = "The data set and its noise"


class Option(NamedTuple):
    """An option: how it is written, the default that a user sees, and what it does."""

    name: str
    default: str
    help: str


OPTIONS = {
    "config": Option("--config", "none", "YAML file, as for `ldmi fit`; can be repeated, and a later one wins."),
    "seed": Option("--seed_everything", "1", "The run's seed, and the noise's unless it has its own."),
    "output": Option("--output", "one in ./noise", f"Folder for {PICTURE} and {LABELS}."),
}
DATA_OPTIONS = (
    Option(
        "--data", "DigitsDataModule", "The data set: a class of ldmi_lightning.datamodules, or the path of your own."
    ),
    Option("--data.NAME", "its own", "An argument of it, such as --data.root; `--data.help CLASS` lists them."),
    Option("--data.noise", "none", "The noise: a class of ldmi_lightning.noise, such as PairFlipNoise."),
    Option("--data.noise.NAME", "its own", "An argument of it, such as --data.noise.rate 0.4."),
)


def help_page() -> str:
    """Return what ``ldmi noise --help`` prints."""
    page = argparse.ArgumentParser(
        prog="ldmi noise", description=DESCRIPTION, usage="ldmi noise [--config FILE] [OPTIONS]"
    )
    group = page.add_argument_group(DATA)
    for place, options in ((page, OPTIONS.values()), (group, DATA_OPTIONS)):
        for option in options:
            place.add_argument(option.name, metavar="VALUE", help=f"{option.help} (default: {option.default})")
    page.add_argument(
        "--print_config", action="store_true", help="Print the configuration as YAML, and do nothing else."
    )
    return page.format_help().rstrip()
