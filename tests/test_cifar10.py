"""CIFAR-10: the paper's splits, noise and augmentation, and its configuration through the real command."""

import functools
import json
from collections.abc import Mapping
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
import writers

from ldmi_lightning.commands import main
from ldmi_lightning.datamodules import CIFAR10DataModule, Examples
from ldmi_lightning.errors import UserError
from ldmi_lightning.noise import ClassDependentNoise

REPO = Path(__file__).parents[1]
CONFIG = str(REPO / "configs/cifar10.yaml")
REAL = REPO.parent / "shared/data/cifar10"
FLIPS = {9: 1, 2: 0, 4: 7, 3: 5}

pytestmark = pytest.mark.usefixtures("hub_of_its_own")


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> str:
    sizes = {"train": 400, "test": 30}
    return str(writers.write_images(tmp_path_factory.mktemp("cifar10"), ("img", "label"), sizes, shape=(32, 32, 3)))


@pytest.fixture(scope="module")
def real() -> str:
    if not REAL.is_dir():
        pytest.skip(f"the real CIFAR-10 is not in {REAL}")
    return str(REAL)


@functools.cache
def read(root: str) -> Mapping[str, Examples]:
    return CIFAR10DataModule(root=root).load()


class CIFAR10(CIFAR10DataModule):
    """Decodes a folder once for all tests, which takes some seconds."""

    def load(self) -> Mapping[str, Examples]:
        assert self.root is not None
        return read(self.root)


@pytest.fixture(params=["written", "real"])
def root(request: pytest.FixtureRequest) -> str:
    return str(request.getfixturevalue(request.param))


# -- splits and images ------------------------------------------------------------------------------------------------


def test_last_fifth_of_the_training_images_validates_and_order_is_kept(root: str) -> None:
    splits, labels = read(root), datasets.load_dataset(root)["train"]["label"][:]
    n = len(labels)
    assert splits["train"].index.tolist() == list(range(n * 4 // 5))
    assert splits["val"].index.tolist() == list(range(n * 4 // 5, n))
    assert [*splits["train"].y, *splits["val"].y] == labels


def test_images_are_the_pixels_of_the_files(written: str) -> None:
    data, splits = datasets.load_dataset(written), read(written)
    for name, source in (("train", "train"), ("val", "train"), ("test", "test")):
        for at in (0, len(splits[name].y) - 1):
            pixels = np.asarray(data[source][int(splits[name].index[at])]["img"])
            assert (splits[name].x[at].permute(1, 2, 0).numpy() == pixels).all()


def test_real_splits_have_the_papers_sizes_and_balanced_classes(real: str) -> None:
    splits = read(real)
    assert {name: len(split.y) for name, split in splits.items()} == {"train": 40_000, "val": 10_000, "test": 10_000}
    assert (np.bincount(splits["train"].y) + np.bincount(splits["val"].y)).tolist() == [5_000] * 10
    assert np.bincount(splits["test"].y).tolist() == [1_000] * 10
    assert splits["train"].y[:10].tolist() == [6, 9, 9, 4, 1, 1, 2, 7, 8, 3]


def test_real_pixels_are_normalised_to_mean_0_and_deviation_1(real: str) -> None:
    x = CIFAR10DataModule().eval_transform()(read(real)["train"].x[:5_000])
    assert x.mean((0, 2, 3)).abs().max() < 0.03
    assert (x.std((0, 2, 3)) - 1).abs().max() < 0.03


# -- noise ------------------------------------------------------------------------------------------------------------


def test_noise_begins_anew_for_the_validation_labels(root: str) -> None:
    noise = ClassDependentNoise(0.6, FLIPS, seed=1)
    data = CIFAR10(noise, root=root)
    data.setup("fit")
    transition = noise.transition_matrix(10)
    for name in ("train", "val"):
        rng = np.random.RandomState(1)
        clean = data.splits[name].y_clean.tolist()
        assert data.splits[name].y.tolist() == [rng.choice(10, p=transition[label]) for label in clean]
    assert torch.equal(data.splits["test"].y, data.splits["test"].y_clean)


# -- augmentation -----------------------------------------------------------------------------------------------------


def test_training_images_are_windows_of_the_bordered_image_mirrored_or_not(written: str) -> None:
    data = CIFAR10(root=written, batch_size=20)
    data.setup("fit")
    black = data.eval_transform()(torch.zeros(1, 3, 1, 1, dtype=torch.uint8))
    torch.manual_seed(0)
    places = set()
    for batch in data.train_dataloader():
        stored = data.eval_transform()(data.splits["train"].x[batch.index])
        bordered = black.expand(len(stored), 3, 40, 40).clone()
        bordered[:, :, 4:36, 4:36] = stored
        for image, result in zip(bordered, batch.x, strict=True):
            windows = image.unfold(1, 32, 1).unfold(2, 32, 1).permute(1, 2, 0, 3, 4)
            found = [
                (int(top), int(left), mirrored)
                for mirrored in (False, True)
                for top, left in (windows == (result.flip(-1) if mirrored else result)).flatten(2).all(2).nonzero()
            ]
            assert len(found) == 1
            places.update(found)
    assert len(places) > 120  # of 162, in 320 draws


def test_only_training_batches_are_augmented(written: str) -> None:
    data = CIFAR10(root=written)
    data.setup("fit")
    loaders = {"train": data.train_eval_dataloader(), "val": data.val_dataloader(), "test": data.test_dataloader()}
    for name, loader in loaders.items():
        x = torch.cat([batch.x for batch in loader])
        assert torch.equal(x, data.eval_transform()(data.splits[name].x))


# -- the command ------------------------------------------------------------------------------------------------------


def fit(root: str, *flags: str) -> dict[str, dict[str, object]]:
    """Train one epoch of each stage with the shipped configuration; return what results.json says of the stages."""
    short = ("--model.warmup.epochs", "1", "--model.robust.epochs", "1")
    quiet = ("--trainer.logger", "false", "--trainer.enable_progress_bar", "false", "--trainer.accelerator", "cpu")
    assert main(["fit", "--config", CONFIG, "--data.root", root, *short, *quiet, *flags]) == 0
    (results,) = Path("runs").glob("*/results.json")
    stages: dict[str, dict[str, object]] = json.loads(results.read_text())["stages"]
    return stages


@pytest.mark.slow
@pytest.mark.usefixtures("in_own_folder")
def test_shipped_configuration_trains_both_stages_on_the_real_data(real: str) -> None:
    # So few samples cannot fill a matrix of ten classes: it takes a memory, and a rate that keeps the outputs moderate.
    few = [f"--trainer.limit_{split}_batches={n}" for split, n in (("train", 6), ("val", 2), ("test", 2))]
    possible = ("--model.robust.loss.memory", "0.9", "--model.warmup.optimizer.lr", "1e-3")
    stages = fit(real, "--data.batch_size", "8", *few, *possible)
    assert (stages["warmup"]["loss"], stages["robust"]["loss"]) == ("CELoss", "DMILoss")
    assert stages["warmup"]["epochs"] == stages["robust"]["epochs"] == 1


@pytest.mark.usefixtures("in_own_folder")
def test_small_net_takes_the_backbones_place(written: str) -> None:
    possible = ("--model.robust.loss.memory", "0.9", "--model.warmup.optimizer.lr", "1e-2")
    stages = fit(written, "--model.backbone", "CIFARCNN", "--data.batch_size", "40", *possible)
    assert stages["robust"]["epochs"] == 1
    assert stages["robust"]["test_acc"] is not None


# -- what goes wrong --------------------------------------------------------------------------------------------------


def refusal(root: Path) -> str:
    """Return the message of the error that setting up must end in."""
    with pytest.raises(UserError) as caught:
        CIFAR10DataModule(root=str(root)).setup("fit")
    return str(caught.value)


def test_missing_folder_is_named_with_the_command_that_makes_it(tmp_path: Path) -> None:
    message = refusal(tmp_path / "nowhere")
    assert f"--data.root {tmp_path / 'nowhere'} is no folder" in message
    assert "hf download uoft-cs/cifar10 --repo-type dataset" in message


def test_other_columns_are_named(tmp_path: Path) -> None:
    root = writers.write_images(tmp_path, ("image", "label"), {"train": 10, "test": 10}, shape=(32, 32, 3))
    assert "train split in" in refusal(root)
    assert "has no column img" in refusal(root)


def test_broken_image_is_named_by_its_position(tmp_path: Path) -> None:
    pixels = np.zeros((32, 32, 3), dtype=np.uint8)
    whole = writers.encoded(pixels)
    cells = [{"bytes": content, "path": None} for content in (whole, whole, whole[: len(whole) // 2], whole)]
    features = {"img": datasets.Image(), "label": datasets.Value("int64")}
    columns = {"img": cells, "label": [0, 1, 2, 3]}
    root = writers.write_parquet(tmp_path, features, {"train": columns, "test": columns})
    assert "Image 2 of column img cannot be decoded" in refusal(root)


def test_label_out_of_range_is_named(tmp_path: Path) -> None:
    root = writers.write_images(tmp_path, ("img", "label"), {"train": 60, "test": 12}, classes=12, shape=(32, 32, 3))
    assert "of CIFAR10DataModule has labels from 0 to 11" in refusal(root)
