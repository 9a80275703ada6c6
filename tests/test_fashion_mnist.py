"""Fashion-MNIST keeps the paper's classes, splits, labels and pixels, and says what is wrong with a folder."""

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import datasets
import numpy as np
import pytest
import torch
import writers

from ldmi_lightning.datamodules import Examples, FashionMNISTDataModule
from ldmi_lightning.errors import UserError
from ldmi_lightning.noise import MatrixNoise

pytestmark = pytest.mark.usefixtures("hub_of_its_own")

Classes = Literal["bag", "all"]

REAL = Path(__file__).parents[2] / "shared/data/fashion_mnist"
SIZES = {"train": 600, "test": 40}  # of the data set that is written here


def write(folder: Path, *, image: str = "image", **labels: Sequence[int]) -> Path:
    """Write splits in the hub's layout; every pixel of sample i is i mod 256."""
    pictures = [writers.cell(np.full((28, 28), grey, np.uint8)) for grey in range(256)]
    splits = {
        split: {image: [pictures[i % 256] for i in range(len(values))], "label": values}
        for split, values in labels.items()
    }
    features = {image: datasets.Image(), "label": datasets.Value("int64")}
    return writers.write_parquet(folder / "fashion_mnist", features, splits).parent


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rng = np.random.RandomState(0)
    labels = {split: rng.randint(0, 10, size).tolist() for split, size in SIZES.items()}
    return write(tmp_path_factory.mktemp("written"), **labels)


@pytest.fixture(scope="module")
def real() -> Path:
    if not REAL.is_dir():
        pytest.skip(f"the real Fashion-MNIST is not in {REAL}")
    return REAL


@functools.cache
def read(classes: Classes, root: str) -> Mapping[str, Examples]:
    return FashionMNISTDataModule(classes, root=root).load()


class FashionMNIST(FashionMNISTDataModule):
    """Decodes a folder once for all tests, which takes some seconds."""

    def load(self) -> Mapping[str, Examples]:
        assert self.root is not None
        return read(self.classes, self.root)


@pytest.fixture(params=["written", "real"])
def root(request: pytest.FixtureRequest) -> str:
    return str(request.getfixturevalue(request.param))


def test_bag_is_class_0_and_everything_else_is_class_1(root: str) -> None:
    bag, ten = read("bag", root), read("all", root)
    for name in ("train", "val", "test"):
        assert (bag[name].y == np.where(ten[name].y == 8, 0, 1)).all()
    assert FashionMNISTDataModule("bag").class_names[0] == "bag"
    assert FashionMNISTDataModule("all").class_names[8] == "Bag"


def test_first_images_train_and_those_after_them_validate(root: str) -> None:
    splits = read("all", root)
    in_order = np.concatenate([splits["train"].index, splits["val"].index])
    assert in_order.tolist() == list(range(len(in_order)))


def test_images_keep_their_labels_and_their_order(written: Path) -> None:
    data = datasets.load_dataset(str(written))
    splits = read("all", str(written))
    assert [*splits["train"].y, *splits["val"].y] == data["train"]["label"][:]
    assert splits["test"].y.tolist() == data["test"]["label"][:]
    for split in splits.values():
        grey = torch.from_numpy(split.index % 256).view(-1, 1, 1, 1)
        assert split.x.shape == (len(split.y), 1, 28, 28)
        assert (split.x == grey).all()


def test_real_splits_have_the_papers_sizes_and_balanced_classes(real: Path) -> None:
    splits = read("all", str(real))
    assert {name: len(split.y) for name, split in splits.items()} == {"train": 50_000, "val": 10_000, "test": 10_000}
    assert (np.bincount(splits["train"].y) + np.bincount(splits["val"].y)).tolist() == [6_000] * 10
    assert np.bincount(splits["test"].y).tolist() == [1_000] * 10
    assert splits["train"].y[:10].tolist() == [9, 0, 0, 3, 0, 2, 7, 2, 5, 5]


def test_noise_runs_in_one_stream_through_the_real_training_and_validation_labels(real: Path) -> None:
    transition = [[0.8, 0.2], [0.4, 0.6]]
    data = FashionMNIST("bag", MatrixNoise(transition, seed=1), root=str(real))
    data.setup("fit")
    train, val = data.splits["train"], data.splits["val"]
    rng = np.random.RandomState(1)
    expected = [rng.choice(2, p=transition[label]) for label in torch.cat([train.y_clean, val.y_clean]).tolist()]
    assert torch.cat([train.y, val.y]).tolist() == expected
    assert torch.equal(data.splits["test"].y, data.splits["test"].y_clean)


def test_pixels_are_normalised_as_in_the_paper() -> None:
    pixels = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16)
    expected = (torch.arange(256).view(1, 1, 16, 16) / 255 - 0.1307) / 0.3081
    torch.testing.assert_close(FashionMNISTDataModule().eval_transform()(pixels), expected)


# -- what goes wrong --------------------------------------------------------------------------------------------------


def refusal(classes: Classes = "all", root: Path | None = None) -> str:
    """Return the message of the error that setting up must end in."""
    with pytest.raises(UserError) as caught:
        FashionMNISTDataModule(classes, root=None if root is None else str(root)).setup("fit")
    return str(caught.value)


def test_missing_folder_is_named_with_the_command_that_makes_it(tmp_path: Path) -> None:
    missing = tmp_path / "fmnist"
    command = f"hf download zalando-datasets/fashion_mnist --repo-type dataset --local-dir {missing}"
    assert f"--data.root {missing} is no folder" in refusal(root=missing)
    assert command in refusal(root=missing)


def test_folder_without_data_is_named(tmp_path: Path) -> None:
    assert f"--data.root {tmp_path}" in refusal(root=tmp_path)


def test_folder_without_parquet_is_named(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("nothing here\n")
    assert f"--data.root {tmp_path}" in refusal(root=tmp_path)


def test_broken_parquet_is_named(tmp_path: Path) -> None:
    (tmp_path / "train-00000-of-00001.parquet").write_bytes(b"PAR1")
    assert f"--data.root {tmp_path}" in refusal(root=tmp_path)


def test_folder_without_a_test_split_is_named(tmp_path: Path) -> None:
    assert f"--data.root {tmp_path}" in refusal(root=write(tmp_path, train=[0, 1]))


def test_folder_with_other_columns_is_named(tmp_path: Path) -> None:
    assert f"--data.root {tmp_path}" in refusal(root=write(tmp_path, image="img", train=[0, 1], test=[0, 1]))


@pytest.mark.parametrize("classes", ["bag", "all"])
def test_labels_out_of_range_are_named(tmp_path: Path, classes: Classes) -> None:
    message = refusal(classes, write(tmp_path, train=[0, 12], test=[0, 1]))
    assert "train split of FashionMNISTDataModule has labels from 0 to 12" in message


def test_training_set_too_small_to_split_is_refused(tmp_path: Path) -> None:
    message = refusal(root=write(tmp_path, train=[0], test=[0, 1]))
    assert "split of FashionMNISTDataModule has no samples" in message


def test_unreachable_hub_leads_to_data_root() -> None:
    message = refusal(root=None)
    assert "could not be loaded from the hub" in message
    assert "Give a local copy with --data.root" in message


def test_unknown_classes_are_refused() -> None:
    unknown: Any = "bags"
    with pytest.raises(UserError, match="bags"):
        FashionMNISTDataModule(unknown)
