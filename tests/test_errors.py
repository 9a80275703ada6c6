"""Every mistake that docs/errors.md lists, made for real: one line, the next step in it, and nothing left behind.

The page is this table, rendered. After a change: ``make errors`` writes it anew.
"""

import os
import resource
import shlex
import signal
import sys
import textwrap
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader, TensorDataset

from ldmi_lightning import LDMIModule, Stage
from ldmi_lightning.commands import main
from ldmi_lightning.datamodules import Examples, NoisyDataModule, TensorDataModule
from ldmi_lightning.datamodules.dogs_vs_cats import read_lists
from ldmi_lightning.datamodules.loaders import ResidentLoader, Split
from ldmi_lightning.datamodules.text import check_texts
from ldmi_lightning.datamodules.transforms import RandomCrop
from ldmi_lightning.errors import UserError
from ldmi_lightning.losses import CELoss, DMILoss, ForwardLoss, LCCNLoss, Predictions
from ldmi_lightning.noise import InstanceDependentNoise

pytestmark = pytest.mark.usefixtures("hub_of_its_own")

REPO = Path(__file__).parents[1]
PAGE = REPO / "docs/errors.md"
CONFIG = "configs/quickstart.yaml"


class Mistake(NamedTuple):
    """What a user did: a command line, or a call from Python; the files that it was done with, and where it was done."""

    group: str
    done: str
    call: Callable[[], Any] | None = None
    files: dict[str, str] = {}  # noqa: RUF012  (a NamedTuple's default, never changed)
    where: Callable[[], AbstractContextManager[None]] = nullcontext


@contextmanager
def short_of_room() -> Iterator[None]:
    """Let every write end after 20 kB, as on a disk that is full by then."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # the write then fails, and the process goes on
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, ignored)


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


def photos(done: str, **files: str) -> Mistake:
    """Begin a run on folders of images, which are none."""
    return Mistake(
        "Own data",
        f"ldmi fit --data ImageFolderDataModule --data.root photos --data.image_size 8 {done}",
        files={f"photos/{name}": content for name, content in files.items()},
    )


REVIEWS = "--data.text_column text --data.class_names '[bad, good]'"
FOUR_REVIEWS = "text,label\nno,0\nyes,1\nnever,0\nalways,1\n"
TEN_PHOTOS = [f"{name}/{number}.jpg" for name in ("cat", "dog") for number in range(5)]
arrays = TensorDataModule


def reviews(done: str, table: str | None = None) -> Mistake:
    """Begin a run on a table of texts and labels; what is done comes after the rest, where it wins."""
    files = {"reviews/notes.md": ""} if table is None else {"reviews/train.csv": table}
    return Mistake("Own data", f"ldmi fit --data HFDataModule --data.source reviews {REVIEWS} {done}", files=files)


GRID = {
    "data": "data: {digits: {config: digits.yaml, noise: {pairs: {class_path: PairFlipNoise}}}}",
    "rates": "rates: [0.2]",
    "methods": "methods: {dmi: dmi.yaml}",
    "seeds": "seeds: [1]",
}


def grid(words: str = "", **changes: str) -> Mistake:
    """Begin to carry out a grid, some lines of which are others."""
    lines = {key: line for key, line in (GRID | changes).items() if line}
    comments = [line or f"without {key}" for key, line in changes.items()]
    files = {
        "grid.yaml": "\n".join(lines.values()),
        "digits.yaml": "seed_everything: 1",
        "dmi.yaml": "seed_everything: 1",
    }
    said = f" # {'; '.join(comments)}" if comments else words
    return Mistake("Grids", f"ldmi benchmark grid.yaml {said}".rstrip(), files=files)


def three() -> torch.Tensor:
    return torch.tensor([0, 1, 2] * 4)


def predictions(predicted: list[int], y: list[int]) -> Predictions:
    """Return what a model of three classes says of some samples, and their labels."""
    probs = torch.nn.functional.one_hot(torch.tensor(predicted, dtype=torch.int64), 3).float()
    return Predictions(probs, torch.tensor(y, dtype=torch.int64), torch.arange(len(y)))


def clothing1m(done: str, images: bool = True, **changed: str) -> Mistake:
    """Begin a run on a Clothing1M of images that are none, one for each class and split, with some of its lists changed."""
    lists = {"noisy_train.txt": "t", "clean_val.txt": "v", "clean_test.txt": "e"}
    files = {name: "".join(f"{split}{label}.jpg {label}\n" for label in range(14)) for name, split in lists.items()}
    files |= {name.replace("_txt", ".txt"): content for name, content in changed.items()}
    if images:
        files |= {f"{split}{label}.jpg": "no photograph" for split in lists.values() for label in range(14)}
    return Mistake(
        "Data",
        f"ldmi fit --data Clothing1MDataModule --data.root clothes {done}",
        files={f"clothes/{name}": content for name, content in files.items() if content},
    )


OWN = """
    import torch
    def sgd(params, lr=0.1):
        return torch.optim.SGD(params, lr)
    def nothing(params):
        pass
    def net(num_classes):
        return torch.nn.Linear(64, num_classes)
    """


def own(done: str, text: str = OWN, name: str = "mine.py") -> Mistake:
    """Begin a run with a module of one's own, which no other mistake has imported."""
    return Mistake("Own Python", f"ldmi fit {done}", files={name: text})


MISTAKES = [
    Mistake("Data", "ldmi fit --data FashionMNISTDataModule --data.root nowhere"),
    Mistake("Data", "ldmi fit --data FashionMNISTDataModule --data.root empty", files={"empty/readme.txt": "no data"}),
    Mistake("Data", "ldmi fit --data FashionMNISTDataModule --data.classes some"),
    Mistake("Data", "ldmi fit --data MRDataModule --data.root nowhere"),
    Mistake("Data", "ldmi fit --data MRDataModule --data.split half"),
    Mistake("Data", "ldmi fit --data MRDataModule --data.vocab_size 2"),
    Mistake(
        "Data", "a text that is empty", lambda: check_texts(["a good film", " "], "column text of the train split")
    ),
    Mistake("Data", "ldmi fit --data CIFAR10DataModule --data.root nowhere"),
    Mistake("Data", "ldmi fit --data DogsVsCatsDataModule --data.root nowhere"),
    Mistake("Data", "read_lists('splits', 3)  # --data.lists splits", lambda: read_lists(Path("splits"), 3)),
    Mistake(
        "Data",
        "read_lists('lists', 3), with an image that the data set does not have",
        lambda: read_lists(Path("lists"), 3),
        files={"lists/train.csv": "index\n0\n25000\n"},
    ),
    Mistake(
        "Data",
        "read_lists('lists', 3), with an image in two lists",
        lambda: read_lists(Path("lists"), 3),
        files={"lists/train.csv": "index\n0\n1\n", "lists/val.csv": "index\n1\n"},
    ),
    Mistake(
        "Data",
        "read_lists('lists', 3), with an empty list",
        lambda: read_lists(Path("lists"), 3),
        files={"lists/train.csv": "index\n"},
    ),
    Mistake("Data", "ldmi fit --data Clothing1MDataModule"),
    Mistake("Data", "ldmi fit --data Clothing1MDataModule --data.root nowhere"),
    Mistake("Data", "ldmi fit --data Clothing1MDataModule --data.balanced 0"),
    clothing1m("# without a list", clean_val_txt=""),
    clothing1m("# with a broken line in a list", clean_val_txt="v0.jpg\n"),
    clothing1m("# with an empty list", clean_val_txt="\n"),
    clothing1m("# with a label of 14", clean_val_txt="v0.jpg 14\n"),
    clothing1m(
        "# of which only the official training lists are there",
        noisy_train_txt="",
        clean_val_txt="",
        clean_test_txt="",
        noisy_train_key_list_txt="t0.jpg\n",
    ),
    clothing1m("# without its images", images=False),
    clothing1m("--data.num_workers 0  # with an image that is none"),
    clothing1m("--data.num_workers 2  # with an image that is none"),
    clothing1m("--data.balanced 2"),
    clothing1m("--data.cache clothes/t0.jpg"),
    Mistake("Data", "RandomCrop(33) of images of 32×32", lambda: RandomCrop(33)(torch.zeros(1, 3, 32, 32))),
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
    Mistake("Own data", "ldmi fit --data ImageFolderDataModule --data.root nowhere --data.image_size 8"),
    photos("# with one class", **{"cat/a.jpg": ""}),
    photos("# with a folder without images", **{"cat/a.jpg": "", "dog/a.txt": ""}),
    photos("# with an image that is none", **dict.fromkeys(TEN_PHOTOS, "no photograph")),
    photos("--data.val_share 0.7 --data.test_share 0.4", **dict.fromkeys(TEN_PHOTOS, "no photograph")),
    photos("# with a class in test alone", **{f"{name}/a.jpg": "" for name in ("train/cat", "train/dog", "test/fox")}),
    reviews("--data.text_column review", FOUR_REVIEWS),
    reviews("--data.label_column stars", FOUR_REVIEWS),
    reviews("--data.image_column text", FOUR_REVIEWS),
    reviews("--data.class_names '[bad, good, fair]' --data.val_share 0.25 --data.test_share 0.25", FOUR_REVIEWS),
    reviews("# with a label of 2", "text,label\nno,0\nyes,2\n"),
    reviews("# with a label that is no class name", "text,label\nno,bad\nyes,fine\n"),
    reviews("# with an empty text", "text,label\n" + 5 * "no,0\n,1\n"),
    reviews("# of too few texts to split", FOUR_REVIEWS),
    reviews("# of nothing"),
    Mistake("Own data", f"ldmi fit --data HFDataModule --data.source ./nowhere {REVIEWS}"),
    Mistake("Own data", f"ldmi fit --data HFDataModule --data.source someone/reviews {REVIEWS}  # without a network"),
    Mistake(
        "Own data", "TensorDataModule(x, y) of 5 inputs and 4 labels", lambda: arrays(np.zeros((5, 2)), [0, 1] * 2)
    ),
    Mistake("Own data", "TensorDataModule(x, y) of NaN", lambda: arrays(np.full((4, 2), np.nan), [0, 1] * 2)),
    Mistake("Own data", "TensorDataModule(x, y, x_test)", lambda: TensorDataModule([[1.0]] * 4, [0, 1] * 2, [[1.0]])),
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
    Mistake("Noise", "ldmi fit --data.noise.flips '{1:12}'"),
    Mistake("Noise", "ldmi fit --data.noise.seed=-1"),
    Mistake("Noise", "ldmi fit --data.noise LabelFileNoise --data.noise.path nowhere.csv"),
    Mistake("Noise", "ldmi fit --data.noise LabelFileNoise --data.noise.path labels.txt", files={"labels.txt": "0,1"}),
    Mistake("Noise", "ldmi fit --data.noise LabelFileNoise --data.noise.path labels.npy", files={"labels.npy": "text"}),
    Mistake(
        "Noise", "ldmi fit --data.noise LabelFileNoise --data.noise.path bare.csv", files={"bare.csv": "0,1\n1,1\n"}
    ),
    Mistake(
        "Noise",
        "ldmi fit --data.noise LabelFileNoise --data.noise.path twice.csv",
        files={"twice.csv": "index,label\n0,1\n0,2\n"},
    ),
    Mistake(
        "Noise",
        "ldmi noise --data.noise LabelFileNoise --data.noise.path few.csv",
        files={"few.csv": "index,label\n0,1\n"},
    ),
    Mistake(
        "Noise",
        "ldmi noise --data.noise LabelFileNoise --data.noise.path other.csv",
        files={"other.csv": "index,label,clean\n" + "".join(f"{index},1,1\n" for index in range(1797))},
    ),
    Mistake("Noise", "ldmi fit --data.noise HumanNoise --data.noise.file nowhere.pt --data.noise.kind worse"),
    Mistake(
        "Noise",
        "ldmi fit --data.noise HumanNoise --data.noise.file text.pt --data.noise.kind worse",
        files={"text.pt": "no labels"},
    ),
    Mistake("Noise", "ldmi fit --data.noise HumanNoise --data.noise.file human.pt --data.noise.kind worst"),
    Mistake(
        "Noise",
        "InstanceDependentNoise(rate=0.4) on the tokens of texts",
        lambda: InstanceDependentNoise(0.4)(three().numpy(), 3, index=three().numpy(), x=torch.ones(12, 5).long()),
    ),
    Mistake("Noise", "ldmi noise --output taken", files={"taken": "a file"}),
    Mistake("Model", "ldmi fit --model.backbone nowhere.Net"),
    Mistake("Model", "ldmi fit --model.backbone DigitsCnn"),
    Mistake("Model", "ldmi fit --model.backbone WordCNN"),
    Mistake("Model", "ldmi fit --model.backbone.width 64"),
    Mistake("Model", "ldmi fit --model.backbone ResNet50 --model.backbone.weights nowhere.pth"),
    Mistake(
        "Model",
        "ldmi fit --model.backbone ResNet50 --model.backbone.weights text.pth",
        files={"text.pth": "no weights"},
    ),
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
    Mistake("Stages", "ldmi fit --model.more_stages '{robust: {loss: CELoss, epochs: 1}}'"),
    Mistake("Stages", "ldmi fit --model.warmup null --model.robust null"),
    Mistake("Stages", "ldmi fit --model.warm_start runs/none/warmup-best.ckpt"),
    Mistake("Stages", "ldmi fit --model.warm_start notes.txt", files={"notes.txt": "no weights"}),
    Mistake("Stages", "ldmi fit --model.warm_start warmup-best.ckpt --model.robust null"),
    Mistake("Stages", "ldmi fit --stage_cache notes.txt", files={"notes.txt": "no folder"}),
    Mistake("Stages", "ldmi fit --stage_cache cache --trainer.fast_dev_run 1"),
    own("--model.warmup.optimizer mine.adam"),
    own("--model.warmup.optimizer mine.nothing"),
    own("--model.warmup.optimizer mine.sgd --model.warmup.optimizer.rate 1"),
    own("--model.backbone mine.net"),
    own("--model.robust.loss mine.sgd"),
    own("--model.robust.loss broken.Loss", "import nothing_of_the_kind\n", "broken.py"),
    own("--trainer.callbacks EarlyStoping"),
    Mistake("Losses", "ldmi fit --model.robust.loss GCELoss --model.robust.loss.q 1.5"),
    Mistake("Losses", "ldmi fit --model.robust.loss GCELoss --model.robust.loss.truncation 1"),
    Mistake("Losses", "ldmi fit --model.robust.loss ForwardLoss --model.robust.loss.transition anker"),
    Mistake("Losses", "ldmi fit --model.robust.loss ForwardLoss --model.robust.loss.transition '[[0.5, 0.4], [0, 1]]'"),
    Mistake("Losses", "ldmi fit --model.robust.loss ForwardLoss --model.robust.loss.transition '[[0.5, 0.5], [0, 1]]'"),
    Mistake(
        "Losses",
        "ForwardLoss() where noise left no training label of class 1",
        lambda: ForwardLoss().prepare(predictions([0, 1, 2], [0, 0, 2]), predictions([0, 1, 2], [0, 1, 2])),
    ),
    Mistake(
        "Losses",
        "ForwardLoss('held_out') without a validation set",
        lambda: ForwardLoss("held_out").prepare(predictions([0, 1, 2], [0, 1, 2]), predictions([], [])),
    ),
    Mistake("Losses", "ldmi fit --model.robust.loss LCCNLoss --model.robust.loss.prior 0"),
    Mistake("Losses", "ldmi fit --model.robust.loss LCCNLoss --model.robust.loss.refresh_every 0"),
    Mistake("Losses", "ldmi fit --model.robust.loss LCCNLoss --model.robust.loss.warmup_steps=-1"),
    Mistake(
        "Losses",
        "LCCNLoss with batches of (x, y)",
        lambda: fit(
            linear(robust=Stage(LCCNLoss(), epochs=1)), loader(torch.randn(12, 2), three()), enable_checkpointing=False
        ),
    ),
    Mistake("Trainer", "ldmi fit --trainer.max_epochs 3"),
    Mistake("Trainer", "ldmi fit --trainer.max_steps 100"),
    Mistake("Trainer", "ldmi fit --trainer.min_epochs 3"),
    Mistake("Trainer", "ldmi fit --trainer.min_steps 100"),
    Mistake("Trainer", "ldmi fit --trainer.max_epoch 3"),
    Mistake("Trainer", "ldmi fit --trainer.callbacks StochasticWeightAveraging --trainer.callbacks.swa_lrs 0.1"),
    Mistake("Trainer", "ldmi fit --trainer.callbacks LearningRateFinder"),
    Mistake("Trainer", "ldmi fit --trainer.precision 12"),
    Mistake("Trainer", "ldmi fit --trainer.overfit_batches 2"),
    Mistake("Trainer", "ldmi fit --trainer.accumulate_grad_batches 2 --model.robust.loss.memory 0"),
    Mistake("Trainer", "ldmi fit --trainer.default_root_dir taken", files={"taken": "a file"}),
    Mistake("Trainer", "ldmi fit --trainer.default_root_dir /proc/runs"),
    Mistake("Trainer", "ldmi fit --model.warmup.epochs 1  # on a full disk", where=short_of_room),
    Mistake("Checkpoints", "ldmi fit --ckpt_path nowhere.ckpt"),
    Mistake("Checkpoints", "ldmi fit --ckpt_path text.ckpt", files={"text.ckpt": "no checkpoint"}),
    Mistake("Checkpoints", "ldmi test"),
    Mistake("Checkpoints", "ldmi test --ckpt_path nowhere.ckpt"),
    Mistake("Checkpoints", "ldmi predict"),
    Mistake("Configuration", "ldmi fit --config nowhere.yaml"),
    Mistake("Configuration", "ldmi fit --config broken.yaml", files={"broken.yaml": "model: [1, 2"}),
    Mistake("Configuration", "ldmi fit --config unknown.yaml", files={"unknown.yaml": "modle: 1"}),
    Mistake("Configuration", "ldmi fit --colour blue"),
    Mistake("Configuration", "ldmi fit --seed_everything=-1"),
    Mistake("Configuration", "ldmi fit --seed_everything false"),
    Mistake("Configuration", "ldmi train"),
    Mistake("Configuration", "ldmi --config a.yaml fit"),
    Mistake("Configuration", "ldmi fit --model.help LDMIModul"),
    Mistake("Grids", "ldmi benchmark"),
    Mistake("Grids", "ldmi benchmark nowhere.yaml"),
    Mistake("Grids", "ldmi benchmark broken.yaml", files={"broken.yaml": "data: [1, 2"}),
    Mistake("Grids", "ldmi benchmark text.yaml", files={"text.yaml": "all data sets"}),
    grid(methods=""),
    grid(methods="methods: [[dmi]]"),
    grid(seeds="seed: [1]"),
    grid(seeds="seeds: []"),
    grid(seeds="seeds: 1"),
    grid(seeds="seeds: [1, 1]"),
    grid(seeds="seeds: [0.5]"),
    grid(rates="rates: [60]"),
    grid(rates=""),
    grid(methods="methods: [dmy]"),
    grid(data="data: {digits: {config: nowhere.yaml}}"),
    grid(data="data: {digits: {config: digits.yaml, noise: {pairs: PairFlipNoise}}}"),
    grid(data="data: {digits: {config: digits.yaml, noise: {pairs: {class_path: NoSuchNoise}}}}"),
    grid(data="data: {digits: {config: digits.yaml, noise: {a b: {class_path: NoNoise}, a-b: {class_path: NoNoise}}}}"),
    grid(options="options: {model.warmup.epoch: 2}"),
    grid("--jobs 0"),
    grid("--data_root mr=/data"),
    grid("--data_root digits=nowhere"),
    grid("--cell digits-pairs-r0.2-dmi-seed2"),
    Mistake("Grids", "ldmi benchmark grid.yaml --output digits.yaml", files=grid().files),
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
    command, *args = shlex.split(mistake.done, comments=True)[1:]
    quiet = ["--config", str(REPO / CONFIG), "--trainer.logger", "false", "--trainer.enable_progress_bar", "false"]
    with mistake.where():
        code = main([command, *(quiet if command == "fit" else []), *args])
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert code != 0
    return line.replace(f"{Path.cwd()}/", "")


@pytest.fixture(autouse=True)
def in_own_folder(in_own_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(in_own_folder))


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

TAIL = """
## What a run survives

No mistakes, but accidents: a run says one line, and loses nothing (`tests/test_kills.py`, `tests/test_wandb.py`).

| accident | line |
|---|---|
| Ctrl-C, SIGTERM or `--trainer.max_time` | The run has stopped early. Go on with --ckpt_path=RUN/last.ckpt |
| kill -9, or no more power | none: go on with `--ckpt_path RUN/last.ckpt` |
| W&B cannot be reached, or refuses the key | W&B: (what it says) The run is kept offline, in its folder. |
| no W&B key | W&B: offline, in the run folder, since no key is configured (`wandb login`). |
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
    return page + TAIL


if __name__ == "__main__":
    PAGE.write_text(render(Path(sys.argv[1]).read_text()))
