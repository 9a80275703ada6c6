"""`ldmi noise` as a user meets it: what it shows, what it writes, and that a fit gets the same labels from its file."""

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from refusals import error

from ldmi_lightning.commands import COMMANDS, main, noise_summary
from ldmi_lightning.commands import noise_run as noise_command
from ldmi_lightning.commands.lightning import LDMICLI
from ldmi_lightning.datamodules import DigitsDataModule, Examples, NoisyDataModule
from ldmi_lightning.errors import UserError
from ldmi_lightning.noise import (
    ClassDependentNoise,
    LabelFileNoise,
    MatrixNoise,
    Noise,
    NoNoise,
    PairFlipNoise,
    SymmetricNoise,
    fingerprint,
)

pytestmark = pytest.mark.usefixtures("in_own_folder")

REPO = Path(__file__).parents[1]
SHARED = REPO.parent / "shared/data"
QUICK = ["--config", str(REPO / "configs/quickstart.yaml")]


def noise(capsys: pytest.CaptureFixture[str], *args: str) -> str:
    """Run `ldmi noise`, and return what it prints."""
    assert main(["noise", *args]) == 0
    return capsys.readouterr().out


def sha256(shown: str) -> str:
    found = re.search("SHA-256 of the labels: ([0-9a-f]{64})", shown)
    assert found is not None
    return found[1]


class Points(NoisyDataModule):
    """Points in the plane, with as many classes and samples as a test needs; training labels may be noisy already."""

    def __init__(self, noise: Noise, num_classes: int = 3, per_class: int = 100, unknown: bool = False) -> None:
        super().__init__(num_classes, [f"class {label}" for label in range(num_classes)], noise, batch_size=50)
        self.per_class, self.unknown = per_class, unknown

    def load(self) -> dict[str, Examples]:
        y = np.arange(self.num_classes * self.per_class) % self.num_classes
        return {
            name: Examples(torch.zeros(len(y), 2), y, np.arange(len(y)) + len(y) * place)
            for place, name in enumerate(("train", "val", "test"))
        }

    def labels_are_true(self, split: str) -> bool:
        return not (self.unknown and split == "train")


def described(noise: Noise, **arguments: int) -> str:
    data = Points(noise, **arguments)  # type: ignore[arg-type]
    data.setup("fit")
    return " ".join(noise_summary.describe(data).split())


# -- what it shows ----------------------------------------------------------------------------------------------------


def test_it_shows_the_noise_of_a_fit_without_training(capsys: pytest.CaptureFixture[str]) -> None:
    shown = noise(capsys, *QUICK)
    data = DigitsDataModule(noise=ClassDependentNoise(0.6, {9: 1, 2: 0, 4: 7, 3: 5}, seed=1))
    data.setup("fit")
    told = data.noise_report()
    assert "ClassDependentNoise(rate=0.6, flips={9: 1, 2: 0, 4: 7, 3: 5}, seed=1" in shown
    assert "2  0.60     0  0.40     0" in shown, "T as requested"
    assert f"2  {told['matrix'][2][0]:.2f}     0  {told['matrix'][2][2]:.2f}" in shown, "T as it came out"
    assert re.search(rf"all 10 classes\s+1,197\s+0\.\d+\s+{told['train_rate']:.4f}", shown)
    assert re.search(rf"det T\s+{0.4**4:.4g}\s+{np.linalg.det(np.array(told['matrix'])):.4g}", shown)
    assert re.search(r"diagonally dominant\s+no\s+no", shown)
    assert sha256(shown) == told["sha256"]
    assert not Path("runs").exists()


@pytest.mark.parametrize(
    ("injector", "ce", "dmi"),
    [
        (
            MatrixNoise([[1, 0, 0], [0.6, 0.4, 0], [0, 0, 1]], seed=1),
            "that of class 1 is class 0. Where",
            "det T is not 0",
        ),
        (
            MatrixNoise([[1, 0, 0], [0.6, 0.4, 0], [0, 0, 1]], seed=1),
            "right on 66.7 % of the samples",
            "same -log|det T|",
        ),
        (SymmetricNoise(0.2, seed=1), "T is diagonally dominant", "samples show that det T is not 0; a batch has 50."),
        (
            SymmetricNoise(0.4, seed=1),
            "T is diagonally dominant",
            "a batch has 50. While it still learns it takes several times as many: keep a memory of U",
        ),
        (SymmetricNoise(0.65, seed=1), "Cross-entropy: T is", "nearly singular. The 300 training samples do not show"),
        (SymmetricNoise(2 / 3, seed=1), "Cross-entropy: T is", "det T = 0. The labels do not tell all classes apart"),
        (NoNoise(), "T is diagonally dominant", "the same -log|det T| = 0. "),
    ],
)
def test_it_says_what_the_noise_means_for_both_losses(injector: Noise, ce: str, dmi: str) -> None:
    shown = described(injector)
    assert ce in shown[shown.index("Cross-entropy") : shown.index("L_DMI")]
    assert dmi in shown[shown.index("L_DMI") : shown.index("SHA-256")]


def test_rates_stand_by_class_for_each_split_and_for_both(capsys: pytest.CaptureFixture[str]) -> None:
    shown = described(MatrixNoise([[1, 0, 0], [0.5, 0.5, 0], [0, 0.25, 0.75]], seed=1, exact=True))
    assert "0 class 0 100 0.0000 0.0000 0.0000 0.0000" in shown
    assert "1 class 1 100 0.5000 0.5000 0.5000 0.5000" in shown
    assert "all 3 classes 300 0.2500 0.2500 0.2500 0.2500" in shown


def test_of_many_classes_it_lists_those_with_the_highest_rates_alone() -> None:
    transition = np.eye(100)
    transition[7, 7], transition[7, 8] = 0.2, 0.8
    data = Points(MatrixNoise(transition.tolist(), seed=1, exact=True), num_classes=100)
    data.setup("fit")
    lines = noise_summary.describe(data).splitlines()
    assert max(map(len, lines)) <= 130
    assert len(lines) < 30
    rates = lines.index("Share of labels that are wrong")
    assert lines[rates + 2].split() == ["7", "class", "7", "100", "0.8000", "0.8000", "0.8000", "0.8000"]


def test_where_the_true_labels_are_unknown_it_says_so(tmp_path: Path) -> None:
    shown = described(NoNoise(), unknown=True)
    assert "Nobody knows the true training labels" in shown
    assert "Cross-entropy" not in shown
    assert "0 class 0 100" in shown, "how many samples carry each label"
    data = Points(NoNoise(), unknown=True)
    data.setup("fit")
    (tmp_path / "noise.png").write_text("that of other labels")
    assert not noise_command.write_picture(data, tmp_path / "noise.png")
    assert not (tmp_path / "noise.png").exists()
    noise_command.write_labels(data, tmp_path / "labels.csv")
    assert (tmp_path / "labels.csv").read_text().startswith("index,label\n0,0\n")


# -- what it writes ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "injector",
    [
        ["PairFlipNoise", "--data.noise.rate", "0.45"],
        ["SymmetricNoise", "--data.noise.rate", "0.4", "--data.noise.exact", "true"],
        ["InstanceDependentNoise", "--data.noise.rate", "0.4"],
    ],
)
def test_its_file_gives_the_same_labels(capsys: pytest.CaptureFixture[str], injector: list[str]) -> None:
    first = noise(capsys, *QUICK, "--data.noise", *injector, "--output", "kept")
    again = noise(capsys, *QUICK, "--data.noise", "LabelFileNoise", "--data.noise.path", "kept/labels.csv")
    assert sha256(first) == sha256(again)
    assert np.asarray(Image.open("kept/noise.png")).std() > 10
    assert {path.name for path in Path("kept").iterdir()} == {"noise.png", "labels.csv"}


def test_a_fit_gets_the_labels_that_were_shown_and_written(capsys: pytest.CaptureFixture[str]) -> None:
    shown = noise(capsys, *QUICK, "--seed_everything", "5", "--output", "kept")
    short = ["--model.warmup.epochs", "1", "--model.robust", "null", "--trainer.enable_progress_bar", "false"]
    for number, flags in enumerate(([], ["--data.noise", "LabelFileNoise", "--data.noise.path", "kept/labels.csv"])):
        root = ["--trainer.default_root_dir", f"runs{number}", "--trainer.logger", "false"]
        assert main(["fit", *QUICK, "--seed_everything", "5", *flags, *short, *root]) == 0
        (folder,) = Path(f"runs{number}").iterdir()
        assert json.loads((folder / "results.json").read_text())["noise"]["sha256"] == sha256(shown)


def test_the_same_labels_have_one_folder_and_others_another(capsys: pytest.CaptureFixture[str]) -> None:
    for seed in ("1", "1", "2"):
        noise(capsys, *QUICK, "--data.noise.seed", seed)
    assert len(list(Path("noise").iterdir())) == 2
    for folder in Path("noise").iterdir():
        assert re.fullmatch(r"Digits-ClassDependent-[12]-[0-9a-f]{8}", folder.name)


def test_samples_that_share_an_original_index_are_refused(tmp_path: Path) -> None:
    class Both(Points):
        def load(self) -> dict[str, Examples]:
            return {name: part._replace(index=np.arange(len(part.y))) for name, part in super().load().items()}

    data = Both(PairFlipNoise(0.2, seed=1))
    data.setup("fit")
    with pytest.raises(UserError, match="the same original index"):
        noise_command.write_labels(data, tmp_path / "labels.csv")
    assert not list(tmp_path.iterdir())


def test_the_labels_of_every_noisy_split_are_written(tmp_path: Path) -> None:
    data = Points(PairFlipNoise(0.2, seed=1))
    data.setup("fit")
    noise_command.write_labels(data, tmp_path / "labels.csv")
    again = Points(LabelFileNoise(str(tmp_path / "labels.csv")))
    again.setup("fit")
    for name in ("train", "val"):
        assert torch.equal(again.splits[name].y, data.splits[name].y)
    both = fingerprint(data.splits["train"].y.numpy(), data.splits["val"].y.numpy())
    assert both == again.noise_report()["sha256"]


# -- the command ------------------------------------------------------------------------------------------------------


def test_flags_of_a_fit_are_accepted_whatever_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    plain = sha256(noise(capsys, *QUICK))
    flags = ["--model.robust.loss.memory", "0", "--model.warmup.epochs=3", "--trainer.logger", "CSVLogger"]
    assert sha256(noise(capsys, *flags, *QUICK, "--trainer.devices", "2", "--ckpt_path", "x.ckpt")) == plain
    assert sha256(noise(capsys, *QUICK, "--model.robust", "null")) == plain
    assert sha256(noise(capsys, *QUICK, "--seed_everything", "2")) != plain
    assert sha256(noise(capsys, *QUICK, "--seed_everything", "2", "--data.noise.seed", "1")) == plain


def test_a_run_s_own_config_is_accepted(capsys: pytest.CaptureFixture[str]) -> None:
    short = ["--model.warmup.epochs", "1", "--model.robust.epochs", "1", "--trainer.enable_progress_bar", "false"]
    assert main(["fit", *QUICK, *short, "--trainer.logger", "false"]) == 0
    (run,) = Path("runs").iterdir()
    told = json.loads((run / "results.json").read_text())["noise"]["sha256"]
    capsys.readouterr()
    assert sha256(noise(capsys, "--config", str(run / "config.yaml"))) == told


def test_every_shipped_config_is_understood(capsys: pytest.CaptureFixture[str]) -> None:
    for config in sorted({*(REPO / "configs").rglob("*.yaml")} - {*(REPO / "configs/grids").iterdir()}):
        with pytest.raises(SystemExit) as stop:
            main(["noise", "--config", str(config), "--print_config"])
        assert stop.value.code == 0
        assert yaml.safe_load(capsys.readouterr().out)["data"]["class_path"].startswith("ldmi_lightning.datamodules.")


@pytest.mark.parametrize(
    ("args", "named"),
    [
        (["--data.noise.rate", "1.2"], "must lie in [0, 1], but got 1.2"),
        (["--data.noice", "3"], "Did you mean noise? `ldmi noise --help` lists the options."),
        (["--colour", "blue"], "--colour"),
        (["--data.noise", "HumanNoise", "--data.noise.file", "x.pt", "--data.noise.kind", "worst"], "worst"),
        (["--data.noise", "LabelFileNoise", "--data.noise.path", "nowhere.csv"], "nowhere.csv is no file"),
        (["--output", "/proc/noise"], "another folder with --output"),
        (["--seed_everything", "-1"], "whole number in 0..2**32-1"),
        (["--seed_everything", "false"], "whole number in 0..2**32-1"),
        (["--config", "nowhere.yaml"], "nowhere.yaml"),
        (["--data", "null"], "required: data"),
        (["--data", "pytorch_lightning.LightningDataModule"], "NoisyDataModule"),
    ],
)
def test_a_mistake_gets_one_line(capsys: pytest.CaptureFixture[str], args: list[str], named: str) -> None:
    assert named in error(capsys, "noise", *QUICK, *args)


@pytest.mark.parametrize("command", ["fit", "noise"])
@pytest.mark.parametrize("seed", ["-1", "4294967296", "true", "false", "null", "some"])
def test_a_seed_that_is_none_is_named(capsys: pytest.CaptureFixture[str], command: str, seed: str) -> None:
    line = error(capsys, command, *QUICK, "--seed_everything", seed)
    assert line == (f"ldmi: error: --seed_everything must be a whole number in 0..2**32-1, but got {seed}.")
    assert not list(Path().iterdir())


@pytest.mark.parametrize("flips", ["{1:12}", "{1: 2, 3:4}"])
def test_a_mapping_without_blanks_is_shown_as_it_should_be(capsys: pytest.CaptureFixture[str], flips: str) -> None:
    line = error(capsys, "fit", *QUICK, "--data.noise.flips", flips)
    assert f"write '{re.sub(':(?=[0-9])', ': ', flips)}'" in line


@pytest.mark.slow
def test_a_reader_that_has_seen_enough_does_not_keep_the_files_from_being_written() -> None:
    command = [sys.executable, "-m", "ldmi_lightning", "noise", *QUICK, "--output", "kept"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as run:
        assert run.stdout is not None
        assert run.stderr is not None
        run.stdout.close()
        assert run.stderr.read() == b""
    assert run.returncode == 0
    assert {path.name for path in Path("kept").iterdir()} == {"noise.png", "labels.csv"}


def test_help_shows_all_commands_on_one_page(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    page = capsys.readouterr().out
    assert set(COMMANDS) == {*LDMICLI.subcommands(), "noise", "benchmark", "audit", "report", "export"}
    assert all(re.search(rf"^  {command}  ", page, flags=re.MULTILINE) for command in COMMANDS)
    assert max(map(len, page.splitlines())) <= 120
    assert "`ldmi --help`" in error(capsys, "train")
    assert "`ldmi --help`" in error(capsys)


def test_help_of_the_command_lists_what_counts_alone(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["noise", "--help"])
    assert stop.value.code == 0
    page = capsys.readouterr().out
    assert all(option in page for option in ("--config", "--seed_everything", "--output", "--data"))
    assert "--trainer" not in page
    assert ":meth:" not in page


def test_cifar10n_worse_on_the_real_data(capsys: pytest.CaptureFixture[str]) -> None:
    root, file = SHARED / "cifar10", SHARED / "cifar_n/CIFAR-10_human.pt"
    if not (root.is_dir() and file.is_file()):
        pytest.skip(f"needs CIFAR-10 and CIFAR-10N in {SHARED}")
    shown = noise(
        capsys,
        *("--data", "CIFAR10DataModule", "--data.root", str(root), "--data.noise", "HumanNoise"),
        *("--data.noise.file", str(file), "--data.noise.kind", "worse"),
    )
    assert re.search(r"all 10 classes +40,000 +0\.404\d +0\.393\d +0\.402\d", shown), "training, validation, together"
