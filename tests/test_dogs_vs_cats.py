"""Dogs vs. Cats: its split or lists, its size, its augmentation, and its configuration through the real command."""

import json
from collections.abc import Mapping
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
import writers
from PIL import Image

from ldmi_lightning.commands import main
from ldmi_lightning.datamodules import DogsVsCatsDataModule
from ldmi_lightning.datamodules.dogs_vs_cats import read_lists
from ldmi_lightning.datamodules.transforms import rotate
from ldmi_lightning.errors import UserError
from ldmi_lightning.noise import ClassDependentNoise

REPO = Path(__file__).parents[1]
REAL = REPO.parent / "shared/data/cats_vs_dogs"
N = 100

pytestmark = pytest.mark.usefixtures("hub_of_its_own")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(writers.write_images(tmp_path_factory.mktemp("dogs"), ("image", "labels"), {"train": N}, classes=2))


@pytest.fixture(scope="module")
def module(root: str) -> DogsVsCatsDataModule:
    data = DogsVsCatsDataModule(noise=ClassDependentNoise(0.6, {1: 0}, seed=1), batch_size=10, root=root)
    data.setup("fit")
    return data


def write_lists(folder: Path, **lists: str) -> Path:
    """Write lists, separated by blanks instead of lines, each under the line that names its column."""
    folder.mkdir(exist_ok=True)
    for name, entries in lists.items():
        (folder / f"{name}.csv").write_text("\n".join(["index", *entries.split(), ""]))
    return folder


# -- splits and images ------------------------------------------------------------------------------------------------


def test_each_image_is_in_one_split_and_each_split_is_half_dogs(module: DogsVsCatsDataModule) -> None:
    assert {name: len(split) for name, split in module.splits.items()} == {"train": 72, "val": 18, "test": 10}
    assert torch.cat([split.original_index for split in module.splits.values()]).sort().values.tolist() == [*range(N)]
    assert [split.y_clean.sum().item() for split in module.splits.values()] == [36, 9, 5]


def test_split_is_the_same_whatever_the_runs_seed(
    module: DogsVsCatsDataModule, root: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PL_GLOBAL_SEED", "7")
    again = DogsVsCatsDataModule(root=root).load()
    for name, split in module.splits.items():
        assert again[name].index.tolist() == split.original_index.tolist()


def test_labels_and_images_stay_together(module: DogsVsCatsDataModule, root: str) -> None:
    data = datasets.load_dataset(root)["train"]
    labels = torch.tensor(data["labels"][:])
    for split in module.splits.values():
        assert torch.equal(split.y_clean, labels[split.original_index])
        assert (split.x.dtype, split.x.shape[1:]) == (torch.uint8, (3, 150, 150))
        for at in (0, len(split) - 1):
            image = data[int(split.original_index[at])]["image"].convert("RGB")
            resized = np.asarray(image.resize((150, 150), Image.Resampling.BILINEAR)).astype(int)
            assert np.abs(split.x[at].permute(1, 2, 0).numpy() - resized).max() <= 1


def test_images_of_another_size_are_the_same_split(module: DogsVsCatsDataModule, root: str) -> None:
    larger = DogsVsCatsDataModule(root=root, image_size=160).load()
    assert {name: tuple(part.x.shape[1:]) for name, part in larger.items()} == dict.fromkeys(larger, (3, 160, 160))
    assert all(larger[name].index.tolist() == split.original_index.tolist() for name, split in module.splits.items())
    with pytest.raises(UserError, match=r"--data\.image_size must be at least 1, but got 0"):
        DogsVsCatsDataModule(image_size=0)


def test_noise_begins_anew_for_the_validation_labels(module: DogsVsCatsDataModule) -> None:
    for name in ("train", "val"):
        rng = np.random.RandomState(1)
        clean = module.splits[name].y_clean.tolist()
        assert module.splits[name].y.tolist() == [rng.choice(2, p=[[1, 0], [0.6, 0.4]][label]) for label in clean]
    assert torch.equal(module.splits["test"].y, module.splits["test"].y_clean)


def test_lists_say_which_image_is_where_and_in_which_order(root: str, tmp_path: Path) -> None:
    lists = {"train": "5 3 90 8 11 12", "val": "0 1 2 99", "test": "7 6 4 20"}
    data = DogsVsCatsDataModule(str(write_lists(tmp_path, **lists)), root=root)
    data.setup("fit")
    labels = torch.tensor(datasets.load_dataset(root)["train"]["labels"][:])
    for name, entries in lists.items():
        assert data.splits[name].original_index.tolist() == [int(entry) for entry in entries.split()]
        assert torch.equal(data.splits[name].y_clean, labels[data.splits[name].original_index])


def test_lists_may_hold_further_columns(tmp_path: Path) -> None:
    for name, text in {"train": "file,index\na.jpg,4\n", "val": "index\r\n2\r\n", "test": "index,y\n0,1\n\n"}.items():
        (tmp_path / f"{name}.csv").write_text(text)
    assert {name: part.tolist() for name, part in read_lists(tmp_path, 5).items()} == {
        "train": [4],
        "val": [2],
        "test": [0],
    }


# -- augmentation -----------------------------------------------------------------------------------------------------


def test_training_images_are_rotated_and_mirrored(module: DogsVsCatsDataModule) -> None:
    batch = next(iter(module.train_dataloader()))
    stored = module.splits["train"].x[batch.index]
    torch.manual_seed(3)
    result = module.train_transform()(stored)
    torch.manual_seed(3)
    degrees = (2 * torch.rand(len(stored)) - 1) * 45
    turned = rotate(stored, degrees, torch.rand(len(stored)) < 0.5)
    assert torch.equal(result, module.eval_transform()(turned))


def test_only_training_batches_are_augmented(module: DogsVsCatsDataModule) -> None:
    loaders = {
        "train": module.train_eval_dataloader(),
        "val": module.val_dataloader(),
        "test": module.test_dataloader(),
    }
    for name, loader in loaders.items():
        x = torch.cat([batch.x for batch in loader])
        assert torch.equal(x, module.eval_transform()(module.splits[name].x))


# -- the command ------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_shipped_configuration_trains_both_stages_on_real_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not REAL.is_dir():
        pytest.skip(f"the real Dogs vs. Cats is not in {REAL}")
    monkeypatch.chdir(tmp_path)
    for name in ("PL_GLOBAL_SEED", "PL_SEED_WORKERS"):  # seed_everything leaves its seed in the environment
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    short = ["--model.warmup.epochs", "1", "--model.robust.epochs", "1", "--data.batch_size", "8"]
    few = [f"--trainer.limit_{split}_batches={n}" for split, n in (("train", 2), ("val", 2), ("test", 2))]
    quiet = ["--trainer.logger", "false", "--trainer.enable_progress_bar", "false", "--trainer.accelerator", "cpu"]
    config = ["--config", str(REPO / "configs/dogs_vs_cats.yaml"), "--data.root", str(REAL)]
    # A seed with which each of the few batches holds both labels.
    assert main(["fit", *config, *short, *few, *quiet, "--seed_everything", "3"]) == 0
    (results,) = Path("runs").glob("*/results.json")
    stages = json.loads(results.read_text())["stages"]
    assert (stages["warmup"]["loss"], stages["robust"]["loss"]) == ("CELoss", "DMILoss")
    assert stages["warmup"]["epochs"] == stages["robust"]["epochs"] == 1


# -- what goes wrong --------------------------------------------------------------------------------------------------


WHOLE = {"train": "0 1 2", "val": "3 4", "test": "5"}


@pytest.mark.parametrize(
    ("lists", "message"),
    [
        ({"val": "3 10"}, "val.csv, line 3 names sample 10, but the data set has 10, 0 to 9"),
        ({"train": "0 1 0"}, "train.csv, line 4 names sample 0, which train.csv, line 2 has named"),
        ({"test": "5 4"}, "test.csv, line 3 names sample 4, which val.csv, line 3 has named"),
        ({"val": ""}, "val.csv names no sample"),
        ({"val": "3 cat.jpg"}, "val.csv, line 3 must hold the position of a sample, .* but holds 'cat.jpg'"),
        ({"val": "-1"}, "val.csv, line 2 must hold the position of a sample, .* but holds '-1'"),
    ],
)
def test_list_that_is_none_is_named_with_its_line(tmp_path: Path, lists: Mapping[str, str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        read_lists(write_lists(tmp_path, **WHOLE | lists), 10)


def test_missing_list_is_named(tmp_path: Path) -> None:
    (write_lists(tmp_path, **WHOLE) / "val.csv").unlink()
    with pytest.raises(UserError, match=r"val.csv cannot be read \(No such file or directory\). The folder must hold"):
        read_lists(tmp_path, 10)


def test_list_without_its_column_is_named(tmp_path: Path) -> None:
    (write_lists(tmp_path, **WHOLE) / "train.csv").write_text("0\n1\n")
    with pytest.raises(UserError, match=r"train.csv must name the column index in its first line, but has \['0'\]"):
        read_lists(tmp_path, 10)


def test_list_that_is_no_text_is_named(tmp_path: Path) -> None:
    (write_lists(tmp_path, **WHOLE) / "train.csv").write_bytes(b"\xff\xfe\x00\x81")
    with pytest.raises(UserError, match=r"train.csv is not UTF-8: .* It is probably UTF-16: save it as UTF-8"):
        read_lists(tmp_path, 10)


def test_list_without_dogs_is_refused(root: str, tmp_path: Path) -> None:
    labels = np.array(datasets.load_dataset(root)["train"]["labels"][:])
    cats = [str(i) for i in np.flatnonzero(labels == 0)]
    lists = {"train": " ".join(cats[:20]), "val": " ".join(cats[20:30]), "test": " ".join(cats[30:])}
    with pytest.raises(UserError, match=r"train split .* has no sample of 1 of its 2 classes \(dog\)"):
        DogsVsCatsDataModule(str(write_lists(tmp_path, **lists)), root=root).setup("fit")


def test_broken_photograph_is_named_by_its_position(tmp_path: Path) -> None:
    rng = np.random.RandomState(0)
    cells = [writers.cell(writers.picture(rng, 0.5, (40, 60, 3)), "jpeg") for _ in range(20)]
    cells[13]["bytes"] = cells[13]["bytes"][:200]
    features = {"image": datasets.Image(), "labels": datasets.Value("int64")}
    writers.write_parquet(tmp_path, features, {"train": {"image": cells, "labels": [0, 1] * 10}})
    with pytest.raises(UserError, match=r"Image 13 of column image cannot be decoded"):
        DogsVsCatsDataModule(root=str(tmp_path)).setup("fit")


def test_missing_folder_is_named_with_the_command_that_makes_it(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"is no folder.*hf download microsoft/cats_vs_dogs --repo-type dataset"):
        DogsVsCatsDataModule(root=str(tmp_path / "nowhere")).setup("fit")


def test_label_out_of_range_is_named(tmp_path: Path) -> None:
    root = writers.write_images(tmp_path, ("image", "labels"), {"train": 30}, classes=3)
    with pytest.raises(UserError, match="data of DogsVsCatsDataModule has labels from 0 to 2"):
        DogsVsCatsDataModule(root=str(root)).setup("fit")
