"""Every mistake that docs/errors.md lists, made for real: one line, the next step in it, and nothing left behind.

The page is this table, rendered. After a change: ``make errors`` writes it anew.
"""

import os
import shlex
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader, TensorDataset

from ldmi_lightning import LDMIModule, Stage
from ldmi_lightning.cli import main
from ldmi_lightning.datamodules import Examples, NoisyDataModule
from ldmi_lightning.datamodules.loaders import ResidentLoader, Split
from ldmi_lightning.errors import UserError
from ldmi_lightning.losses import CELoss, DMILoss

REPO = Path(__file__).parents[1]
PAGE = REPO / "docs/errors.md"
CONFIG = "configs/quickstart.yaml"


class Mistake(NamedTuple):
    """What a user did: a command line, or a call from Python; and the files that it was done with."""

    group: str
    done: str
    call: Callable[[], Any] | None = None
    files: dict[str, str] = {}  # noqa: RUF012  (a NamedTuple's default, never changed)


def fit(module: LDMIModule, data: Any = None, **flags: Any) -> None:
    quiet = {"accelerator": "cpu", "logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    pl.Trainer(**{**quiet, **flags}).fit(module, data)


def linear(classes: int = 3, robust: Stage | None = None) -> LDMIModule:
    return LDMIModule(torch.nn.Linear(2, classes), classes, Stage(CELoss(), epochs=1), robust)


class Blobs(NoisyDataModule):
    """Three classes in the plane; the labels of a split can be given."""

    def __init__(self, **labels: list[int]) -> None:
        super().__init__(3, ["a", "b", "c"], batch_size=6)
        self.labels = labels

    def load(self) -> dict[str, Examples]:
        splits = {"train": [0, 1, 2] * 4, "val": [0, 1, 2] * 2, "test": [0, 1, 2]} | self.labels
        return {
            name: Examples(torch.randn(len(y), 2), np.array(y, dtype=np.int64), np.arange(len(y)))
            for name, y in splits.items()
        }


def loader(x: torch.Tensor, y: torch.Tensor) -> pl.LightningDataModule:
    data = pl.LightningDataModule()
    data.train_dataloader = data.val_dataloader = lambda: DataLoader(TensorDataset(x, y), batch_size=6)  # type: ignore[method-assign]
    return data


def dictionaries() -> Any:
    return [{"image": torch.randn(6, 2), "label": torch.zeros(6)}]


def three() -> torch.Tensor:
    return torch.tensor([0, 1, 2] * 4)


MISTAKES = [
    Mistake("Data", "ldmi fit --data FashionMNISTDataModule --data.root nowhere"),
    Mistake("Data", "ldmi fit --data FashionMNISTDataModule --data.root empty", files={"empty/readme.txt": "no data"}),
    Mistake("Data", "ldmi fit --data FashionMNISTDataModule --data.classes some"),
    Mistake("Data", "ldmi fit --data NoSuchDataModule"),
    Mistake("Data", "ldmi fit --data.batch_size 0"),
    Mistake("Data", "ldmi fit --data.batch_size many"),
    Mistake("Data", "ldmi fit --data.batch_sise 8"),
    Mistake(
        "Data",
        "ResidentLoader(split, batch_size=2, transform=net, world_size=4)",
        lambda: ResidentLoader(Split(*[torch.zeros(8)] * 4), 2, torch.nn.Identity(), world_size=4),
    ),
    Mistake(
        "Data", "a data set whose labels are 0..3, with num_classes=3", lambda: fit(linear(), Blobs(train=[0, 1, 2, 3]))
    ),
    Mistake("Data", "a data set with an empty test split", lambda: fit(linear(), Blobs(test=[]))),
    Mistake(
        "Data",
        "a validation split without class b, and DMI",
        lambda: fit(linear(robust=Stage(DMILoss(0.9), epochs=1)), Blobs(val=[0, 2] * 3)),
    ),
    Mistake("Data", "NaN in the inputs", lambda: fit(linear(), loader(torch.full((12, 2), torch.nan), three()))),
    Mistake(
        "Data",
        "labels of 5 in one's own data, with num_classes=3",
        lambda: fit(linear(), loader(torch.randn(12, 2), three() + 3)),
    ),
    Mistake("Data", "batches that are dictionaries", lambda: _fit_loader(dictionaries())),
    Mistake("Data", "a data set of 3 classes and LDMIModule(num_classes=4)", lambda: fit(linear(4), Blobs())),
    Mistake("Noise", "ldmi fit --data.noise.rate 1.2"),
    Mistake("Noise", "ldmi fit --data.noise.rate=-0.1"),
    Mistake("Noise", "ldmi fit --data.noise.rate often"),
    Mistake("Noise", "ldmi fit --data.noise.flips '{1: 12}'"),
    Mistake("Noise", "ldmi fit --data.noise.flips '{1: 1}'"),
    Mistake("Noise", "ldmi fit --data.noise MatrixNoise --data.noise.matrix '[[0.5, 0.4], [0, 1]]'"),
    Mistake("Noise", "ldmi fit --data.noise MatrixNoise --data.noise.matrix '[[1.5, -0.5], [0, 1]]'"),
    Mistake("Noise", "ldmi fit --data.noise MatrixNoise --data.noise.matrix '[[1, 0]]'"),
    Mistake("Noise", "ldmi fit --data.noise MatrixNoise --data.noise.matrix '[[1, 0], [0, 1]]'"),
    Mistake("Noise", "ldmi fit --data.noise NoSuchNoise"),
    Mistake("Model", "ldmi fit --model.backbone nowhere.Net"),
    Mistake("Model", "ldmi fit --model.backbone DigitsCnn"),
    Mistake("Model", "ldmi fit --model.backbone.width 64"),
    Mistake(
        "Model",
        "ldmi fit --model.backbone narrow.Net",
        files={
            "narrow.py": """
                import torch
                class Net(torch.nn.Sequential):
                    def __init__(self):
                        super().__init__(torch.nn.Flatten(), torch.nn.Linear(64, 7))
                """
        },
    ),
    Mistake(
        "Model",
        "LDMIModule(None, ...) of a class without build_backbone()",
        lambda: LDMIModule(None, 3, Stage(CELoss(), 1)),
    ),
    Mistake(
        "Model", "LDMIModule(net, num_classes=1, ...)", lambda: LDMIModule(torch.nn.Linear(2, 1), 1, Stage(CELoss(), 1))
    ),
    Mistake("Stages", "ldmi fit --model.warmup.epochs 0"),
    Mistake("Stages", "ldmi fit --model.warmup.epochs some"),
    Mistake("Stages", "ldmi fit --model.robust.patience 0"),
    Mistake("Stages", "ldmi fit --model.robust.monitor val/acc"),
    Mistake("Stages", "ldmi fit --model.robust.monitor val/akk --model.robust.mode max"),
    Mistake("Stages", "ldmi fit --model.robust.loss NoSuchLoss"),
    Mistake("Stages", "ldmi fit --model.robust.loss.memory 1"),
    Mistake("Stages", "ldmi fit --model.robust.loss.memory 0 --data.batch_size 8"),
    Mistake("Stages", "ldmi fit --model.robust.loss.memry 0.9"),
    Mistake("Stages", "ldmi fit --model.robust.optimizer NoSuchOptimizer"),
    Mistake("Stages", "ldmi fit --model.robust.optimizer.lr=-1"),
    Mistake("Stages", "ldmi fit --model.warmup.optimizer SGD --model.warmup.optimizer.lr 1e30"),
    Mistake("Stages", "Stage(torch.nn.CrossEntropyLoss(), epochs=1)", lambda: Stage(torch.nn.CrossEntropyLoss(), 1)),  # type: ignore[arg-type]
    Mistake("Trainer", "ldmi fit --trainer.max_epochs 3"),
    Mistake("Trainer", "ldmi fit --trainer.max_steps 100"),
    Mistake("Trainer", "ldmi fit --trainer.max_epoch 3"),
    Mistake("Trainer", "ldmi fit --trainer.precision 12"),
    Mistake("Trainer", "ldmi fit --trainer.overfit_batches 2"),
    Mistake("Trainer", "ldmi fit --trainer.accumulate_grad_batches 2 --model.robust.loss.memory 0"),
    Mistake("Trainer", "ldmi fit --trainer.default_root_dir taken", files={"taken": "a file"}),
    Mistake("Trainer", "ldmi fit --trainer.default_root_dir /proc/runs"),
    Mistake("Checkpoints", "ldmi fit --ckpt_path nowhere.ckpt"),
    Mistake("Checkpoints", "ldmi fit --ckpt_path text.ckpt", files={"text.ckpt": "no checkpoint"}),
    Mistake("Checkpoints", "ldmi test"),
    Mistake("Checkpoints", "ldmi test --ckpt_path nowhere.ckpt"),
    Mistake("Checkpoints", "ldmi predict"),
    Mistake("Configuration", "ldmi fit --config nowhere.yaml"),
    Mistake("Configuration", "ldmi fit --config broken.yaml", files={"broken.yaml": "model: [1, 2"}),
    Mistake("Configuration", "ldmi fit --config unknown.yaml", files={"unknown.yaml": "modle: 1"}),
    Mistake("Configuration", "ldmi fit --colour blue"),
    Mistake("Configuration", "ldmi train"),
]


def _fit_loader(batches: Any) -> None:
    quiet = {"accelerator": "cpu", "logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    pl.Trainer(**quiet).fit(linear(), DataLoader(batches, batch_size=None), DataLoader(batches, batch_size=None))


def line_of(mistake: Mistake, capsys: pytest.CaptureFixture[str]) -> str:
    """Make the mistake; return the one line that it gets."""
    for name, content in mistake.files.items():
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_text(textwrap.dedent(content))
    if mistake.call is not None:
        with pytest.raises(UserError) as raised:
            mistake.call()
        return str(raised.value)
    command, *args = shlex.split(mistake.done)[1:]
    quiet = ["--config", str(REPO / CONFIG), "--trainer.logger", "false", "--trainer.enable_progress_bar", "false"]
    code = main([command, *(quiet if command == "fit" else []), *args])
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert code != 0
    return line.replace(f"{Path.cwd()}/", "")


@pytest.fixture(autouse=True)
def in_own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("PL_GLOBAL_SEED", "0")


def rows() -> dict[str, str]:
    """Return the page's lines by mistake."""
    cells = [row.strip("|\n").split(" | ") for row in PAGE.read_text().splitlines() if row.startswith("| `")]
    return {cell[0].strip().strip("`"): cell[1].strip() for cell in cells}


@pytest.mark.parametrize("mistake", MISTAKES, ids=[mistake.done for mistake in MISTAKES])
def test_the_mistake_gets_the_line_of_the_page(mistake: Mistake, capsys: pytest.CaptureFixture[str]) -> None:
    line = line_of(mistake, capsys)
    left = {path.relative_to(Path.cwd()).as_posix() for path in Path.cwd().rglob("*") if path.is_file()}
    assert {name for name in left if not name.endswith(".pyc")} == set(mistake.files), "something was left behind"
    if "WRITE_ERRORS" in os.environ:
        with Path(os.environ["WRITE_ERRORS"]).open("a") as notes:
            notes.write(f"{mistake.group}\t{mistake.done}\t{line}\n")
    else:
        assert line.replace("|", "\\|") == rows()[mistake.done]


def test_the_page_lists_these_mistakes_and_at_least_forty() -> None:
    assert list(rows()) == [mistake.done for mistake in MISTAKES]
    assert len(MISTAKES) >= 40


HEAD = """# What goes wrong, and what it says

Each of these mistakes was made for real, and got this one line; `make test` makes them again. A command's line goes to
stderr, with an exit code other than 0; from Python it is the message of an `ldmi_lightning.errors.UserError`. Commands
stand here without `--config configs/quickstart.yaml`. With `LDMI_TRACEBACK=1` a command shows the whole traceback.
"""


def render(notes: str) -> str:
    """Return the page for lines of `group<TAB>mistake<TAB>message`."""
    page, group = HEAD, ""
    for row in notes.splitlines():
        here, done, line = row.split("\t")
        if here != group:
            page += f"\n## {here}\n\n| mistake | line |\n|---|---|\n"
            group = here
        page += f"| `{done}` | {line.replace('|', chr(92) + '|')} |\n"
    return page


if __name__ == "__main__":
    PAGE.write_text(render(Path(sys.argv[1]).read_text()))
