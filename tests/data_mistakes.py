"""Mistakes with data and noise, in the order of docs/errors.md; test_errors.py makes them."""

from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from mistakes import Mistake, fit, linear, loader, three
from torch.utils.data import DataLoader

from ldmi_lightning import Stage
from ldmi_lightning.datamodules import Examples, NoisyDataModule, TensorDataModule
from ldmi_lightning.datamodules.dogs_vs_cats import read_lists
from ldmi_lightning.datamodules.loaders import ResidentLoader, Split
from ldmi_lightning.datamodules.text import check_texts
from ldmi_lightning.datamodules.transforms import RandomCrop
from ldmi_lightning.losses import DMILoss
from ldmi_lightning.noise import InstanceDependentNoise


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


def dictionaries() -> Any:
    return [{"image": torch.randn(6, 2), "label": torch.zeros(6)}]


def _fit_loader(batches: Any) -> None:
    quiet = {"accelerator": "cpu", "logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    pl.Trainer(**quiet).fit(linear(), DataLoader(batches, batch_size=None), DataLoader(batches, batch_size=None))


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


DATA_MISTAKES = [
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
]
