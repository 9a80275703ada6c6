"""Functions and classes of one's own from the command line and from YAML: they work, or the true reason is one line."""

import textwrap
from pathlib import Path

import pytest
import refusals
import yaml
from jsonargparse import Namespace

from ldmi_lightning.commands import main, parse_fit
from ldmi_lightning.commands.configuration import fill_in_seed, name_run
from ldmi_lightning.commands.from_data import told

REPO = Path(__file__).parents[1]
QUICK = [
    *("--config", str(REPO / "configs/quickstart.yaml"), "--trainer.fast_dev_run", "1"),
    *("--trainer.enable_progress_bar", "false", "--trainer.accelerator", "cpu"),
]
MINE = """
import functools
from pathlib import Path

import pytorch_lightning as pl
import torch

from ldmi_lightning.datamodules import DigitsDataModule


def note(text):
    with Path("made").open("a") as file:
        file.write(f"{text} ")


def bare(params):
    return with_arguments(params)


def with_arguments(params, lr=0.1, momentum=0.0):
    note(f"{lr}/{momentum}")
    return torch.optim.SGD(params, lr=lr, momentum=momentum)


def needs_rate(params, lr):
    return with_arguments(params, lr)


part = functools.partial(with_arguments, lr=0.05)


def steps(optimizer, size=1):
    note(f"step {size}")
    return torch.optim.lr_scheduler.StepLR(optimizer, size)


def nothing(params):
    pass


NUMBER = 3


class Net(torch.nn.Sequential):
    def __init__(self, num_classes: int, num_features: int, vocab_size: int = 7):
        note(f"{num_classes}/{num_features}/{vocab_size}")
        super().__init__(torch.nn.Flatten(), torch.nn.Linear(num_features, num_classes))


def bare_net(num_classes):
    return Net(num_classes, 64)


class NoLoss(torch.nn.Module):
    pass


class Notes(pl.Callback):
    def __init__(self, word: str = "fit"):
        self.word = word

    def on_fit_start(self, trainer, module):
        note(self.word)


class Knows(DigitsDataModule):
    num_features = 64


class Odd(pl.LightningDataModule):
    def train_dataloader(self):
        return object()


class OddOfTen(Odd):
    num_classes = 10
"""


@pytest.fixture(autouse=True)
def in_own_folder(in_own_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(in_own_folder))


@pytest.fixture
def mine(tmp_path: Path, request: pytest.FixtureRequest) -> str:
    """A module of one's own, under a name that no other test has imported."""
    name = f"mine_{abs(hash(request.node.nodeid))}"
    (tmp_path / f"{name}.py").write_text(MINE)
    return name


def fit(*words: str) -> list[str]:
    """Run `ldmi fit` on a batch of each stage; return what was noted meanwhile."""
    assert main(["fit", *QUICK, *words]) == 0
    return Path("made").read_text().split()


def error(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """Run `ldmi fit`, which must fail, and return its one line."""
    return refusals.error(capsys, "fit", *QUICK, *words).removeprefix("ldmi: error: ")


@pytest.mark.parametrize(
    ("words", "made"),
    [
        (["bare"], "0.1/0.0"),
        (["part"], "0.05/0.0"),
        (["with_arguments", "--model.warmup.optimizer.lr", "0.2"], "0.2/0.0"),
        (["needs_rate", "--model.warmup.optimizer.lr", "1e-3"], "0.001/0.0"),
        (
            ["{class_path: MINE.with_arguments, init_args: {lr: 0.3}}", "--model.warmup.optimizer.momentum=0.5"],
            "0.3/0.5",
        ),
    ],
)
def test_a_function_makes_the_optimizer(words: list[str], made: str, mine: str) -> None:
    first = words[0].replace("MINE", mine) if "MINE" in words[0] else f"{mine}.{words[0]}"
    assert made in fit("--model.warmup.optimizer", first, *words[1:])


def test_a_function_makes_the_scheduler_in_yaml_too(mine: str) -> None:
    stage = {"scheduler": {"class_path": f"{mine}.steps", "init_args": {"size": 4}}, "optimizer": f"{mine}.bare"}
    Path("own.yaml").write_text(yaml.safe_dump({"model": {"init_args": {"warmup": stage}}}))
    assert set(fit("--config", "own.yaml")) == {"0.1/0.0", "step", "4"}


def test_the_configuration_repeats_the_function_and_its_arguments(mine: str) -> None:
    found = parse_fit(
        ["fit", *QUICK, "--model.robust.optimizer", f"{mine}.part", "--model.robust.optimizer.momentum", "0.5"]
    )
    kept = found["model"]["init_args"]["robust"]["optimizer"]
    assert kept["init_args"] == {"function": f"{mine}.part", "arguments": {"momentum": 0.5}}
    Path("kept.yaml").write_text(yaml.safe_dump(found))
    assert parse_fit(["fit", "--config", "kept.yaml"]) == found


@pytest.mark.parametrize(
    ("option", "given", "line"),
    [
        (
            "model.warmup.optimizer",
            "MINE.nothing",
            "cannot be made: MINE.nothing returns no torch.optim.Optimizer, but None.",
        ),
        ("model.warmup.optimizer", "MINE.needs_rate", "needs_rate() missing 1 required positional argument: 'lr'"),
        ("model.warmup.optimizer", "MINE.NUMBER", "MINE.NUMBER is int, but not a torch.optim.Optimizer."),
        ("model.warmup.optimizer", "MINE.brae", "MINE has no brae. Did you mean bare"),
        ("model.warmup.optimizer", "Adma", "Adma is no class known here. Did you mean Adamax or Adam?"),
        ("model.warmup.optimizer", "MINE.Net", "MINE.Net is a class, but not derived from torch.optim.Optimizer."),
        ("model.backbone", "MINE.bare_net", "annotate it, as in `def bare_net(...) -> torch.nn.Module:`."),
        ("model.robust.loss", "MINE.NoLoss", "MINE.NoLoss is a class, but not derived from ldmi_lightning.losses.Loss"),
        ("model.robust.loss", "{class_path: DMILos}", "DMILos is no class known here. Did you mean DMILoss?"),
        ("trainer.callbacks", "EarlyStoping", "Did you mean EarlyStopping"),
        ("data.noise", "PairFlip", "PairFlip is no class known here. Did you mean PairFlipNoise"),
        (
            "data",
            "nowhere.Data",
            "nowhere.Data cannot be imported: there is no module nowhere. Install it, or put its folder on",
        ),
    ],
)
def test_what_cannot_be_used_gets_the_true_reason(
    option: str, given: str, line: str, mine: str, capsys: pytest.CaptureFixture[str]
) -> None:
    said = error(capsys, f"--{option}", given.replace("MINE", mine))
    assert said.startswith(f"--{option}")
    assert line.replace("MINE", mine) in said


def test_an_argument_that_a_function_does_not_take_is_named(mine: str, capsys: pytest.CaptureFixture[str]) -> None:
    said = error(capsys, "--model.warmup.optimizer", f"{mine}.with_arguments", "--model.warmup.optimizer.rate", "1")
    takes = "it takes lr, momentum, beside what the stage gives it."
    assert said == f"--model.warmup.optimizer: {mine}.with_arguments has no argument rate: {takes}"


@pytest.mark.parametrize("option", ["model.backbone", "model.warmup.optimizer", "data.noise"])
@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (
            "import not_there_at_all\n",
            "line 1, cannot be imported: ModuleNotFoundError: No module named 'not_there_at_all'.",
        ),
        ("x = 1\ny = x.z\n", "line 2, cannot be imported: AttributeError: 'int' object has no attribute 'z'."),
        ("def f(:\n", "line 1, cannot be imported: SyntaxError: invalid syntax."),
    ],
)
def test_a_module_that_fails_is_named_with_its_line(
    option: str, text: str, reason: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name = f"fails_{abs(hash((option, text)))}"
    (tmp_path / f"{name}.py").write_text(text)
    assert error(capsys, f"--{option}", f"{name}.Thing") == f"--{option}: {name}.py, {reason}"


def test_a_callback_of_ones_own_takes_its_arguments(mine: str) -> None:
    assert fit("--trainer.callbacks", f"{mine}.Notes", "--trainer.callbacks.word", "begun") == ["begun"]


@pytest.mark.parametrize("data", ["Odd", "OddOfTen"])
def test_data_that_cannot_be_printed_get_one_line(data: str, mine: str, capsys: pytest.CaptureFixture[str]) -> None:
    said = error(capsys, "--data", f"{mine}.{data}", "--model.backbone", "WordCNN")
    missing = "num_classes" if data == "Odd" else "vocab_size"
    assert f"{data} has no attribute {missing}." in said


# -- what the model is told by the data -------------------------------------------------------------------------------


def test_a_backbone_is_told_what_the_data_know(mine: str) -> None:
    assert fit("--data", f"{mine}.Knows", "--model.backbone", f"{mine}.Net") == ["10/64/7"]


@pytest.mark.parametrize("more", [["--model.warmup.epochs", "3"], ["--model.robust.optimizer.lr", "0.3"], []])
def test_what_is_given_is_kept_beside_a_part_of_a_stage(mine: str, more: list[str]) -> None:
    given = ["--model.backbone", f"{mine}.Net", "--model.backbone.num_features", "64"]
    kept = parse_fit(["fit", *given, *more])["model"]["init_args"]
    assert kept["backbone"]["init_args"] == {"num_features": 64}
    assert "num_classes" not in kept


def test_what_is_given_wins_and_is_kept(mine: str, capsys: pytest.CaptureFixture[str]) -> None:
    given = [
        "--model.backbone",
        f"{mine}.Net",
        "--model.backbone.num_features",
        "64",
        "--model.backbone.vocab_size",
        "7",
    ]
    assert fit(*given) == ["10/64/7"]
    kept = parse_fit(["fit", *QUICK, *given])["model"]["init_args"]["backbone"]["init_args"]
    assert kept == {"num_features": 64, "vocab_size": 7}
    capsys.readouterr()
    with pytest.raises(SystemExit):
        main(["fit", *QUICK, *given, "--print_config"])
    assert yaml.safe_load(capsys.readouterr().out)["model"]["init_args"]["backbone"]["init_args"] == kept
    assert "has no attribute num_features. Take other data, or give --model.backbone.num_features" in error(
        capsys, "--model.backbone", f"{mine}.Net"
    )


def test_a_value_given_is_not_replaced_by_that_of_the_data() -> None:
    backbone = Namespace(
        class_path="ldmi_lightning.models.WordCNN", init_args=Namespace(num_classes=None, vocab_size=9)
    )
    model = Namespace(class_path="ldmi_lightning.LDMIModule", init_args=Namespace(num_classes=0, backbone=backbone))

    class Data:
        num_classes, vocab_size = 3, 100

    place = "model.init_args.backbone.init_args"
    values = told(Namespace(model=model), {f"{place}.vocab_size": 9}, Data())
    assert values[f"{place}.vocab_size"] == 9
    assert values[f"{place}.num_classes"] == values["model.init_args.num_classes"] == 3


def test_noise_of_data_within_data_takes_the_seed_of_the_run() -> None:
    noise = Namespace(class_path="ldmi_lightning.noise.PairFlipNoise", init_args=Namespace(rate=0.4, seed=None))
    inner = Namespace(class_path="ldmi_lightning.datamodules.MRDataModule", init_args=Namespace(noise=noise))
    outer = Namespace(
        class_path="ldmi_lightning.datamodules.EncodedDataModule", init_args=Namespace(data=inner, noise=None)
    )
    config = Namespace(seed_everything=7, data=outer)
    fill_in_seed(config)
    assert noise.init_args.seed == 7
    assert name_run(config) == ("MREncoded", "PairFlip")


# -- where the command stands -----------------------------------------------------------------------------------------


def test_an_option_before_the_command_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--config", "a.yaml", "fit"]) == 2
    line = capsys.readouterr().err
    assert line == "ldmi: error: The command comes first, and its options after it: ldmi fit --config a.yaml\n"
    assert main(["--config", "a.yaml"]) == 2
    assert "The command comes first" in capsys.readouterr().err


def test_a_command_that_is_none_is_answered_by_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fitt"]) == 2
    assert "fitt is no command. Did you mean fit?" in textwrap.shorten(capsys.readouterr().err, 300)
