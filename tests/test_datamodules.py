"""One contract for all datamodules; Fashion-MNIST, besides, keeps the paper's splits, labels and noise stream."""

import functools
import hashlib
import io
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import datasets
import huggingface_hub.constants
import numpy as np
import pytest
import torch
from PIL import Image

from ldmi_lightning.batch import LabelledData
from ldmi_lightning.datamodules import DigitsDataModule, Examples, FashionMNISTDataModule, NoisyDataModule
from ldmi_lightning.errors import UserError
from ldmi_lightning.noise import Noise, SymmetricNoise

Classes = Literal["bag", "all"]

REAL = Path(__file__).parents[2] / "shared/data/fashion_mnist"
SIZES = {"train": 600, "test": 40}  # of the data set that is written here
BLACK, WHITE = (0 - 0.1307) / 0.3081, (1 - 0.1307) / 0.3081


@pytest.fixture(scope="module", autouse=True)
def hub_of_its_own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep `datasets` offline and out of the home directory."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("datasets"))
        patch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path_factory.mktemp("hub")))
        patch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
        yield


def write(folder: Path, *, image: str = "image", **labels: Sequence[int]) -> Path:
    """Write splits in the hub's layout; every pixel of sample i is i mod 256."""
    pictures = []
    for grey in range(256):
        png = io.BytesIO()
        Image.new("L", (28, 28), grey).save(png, "png")
        pictures.append({"bytes": png.getvalue(), "path": None})
    features = datasets.Features({image: datasets.Image(), "label": datasets.Value("int64")})
    for split, values in labels.items():
        columns = {image: [pictures[i % 256] for i in range(len(values))], "label": values}
        path = folder / "fashion_mnist" / f"{split}-00000-of-00001.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        datasets.Dataset.from_dict(columns, features).to_parquet(path)
    return folder


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


class Case(NamedTuple):
    """A datamodule, and what is known of it beforehand."""

    make: Callable[[Noise | None], NoisyDataModule]
    num_classes: int
    shape: tuple[int, ...]
    limits: tuple[float, float]
    one_stream: bool


@pytest.fixture(
    scope="module",
    params=[("digits", ""), ("bag", "written"), ("all", "written"), ("bag", "real"), ("all", "real")],
    ids=lambda param: " ".join(param).strip(),
)
def case(request: pytest.FixtureRequest) -> Case:
    classes, source = request.param
    if classes == "digits":
        return Case(DigitsDataModule, 10, (1, 8, 8), (-1, 1), one_stream=False)
    root = str(request.getfixturevalue(source))
    return Case(
        lambda noise: FashionMNIST(classes, noise, root=root),
        2 if classes == "bag" else 10,
        (1, 28, 28),
        (BLACK, WHITE),
        one_stream=True,
    )


def set_up(case: Case, noise: Noise | None) -> NoisyDataModule:
    module = case.make(noise)
    module.setup("fit")
    return module


@pytest.fixture(scope="module")
def module(case: Case) -> NoisyDataModule:
    return set_up(case, SymmetricNoise(0.4, seed=1))


# -- the contract -----------------------------------------------------------------------------------------------------


def test_classes_are_known_before_anything_is_read(case: Case) -> None:
    module = case.make(None)
    assert module.num_classes == len(module.class_names) == case.num_classes
    assert not module.splits


def test_module_finds_all_that_it_asks_of_labelled_data(module: NoisyDataModule) -> None:
    assert isinstance(module, LabelledData)


def test_batches_hold_float_inputs_and_labels_in_range(case: Case, module: NoisyDataModule) -> None:
    low, high = case.limits
    for loader in (module.train_dataloader(), module.val_dataloader(), module.test_dataloader()):
        batch = next(iter(loader))
        assert batch.x.dtype == torch.float32
        assert batch.x.shape == (len(batch.y), *case.shape)
        assert low - 1e-4 <= batch.x.min() < batch.x.max() <= high + 1e-4
        for labels in (batch.y, batch.y_clean):
            assert labels.dtype == torch.int64
            assert labels.shape == (len(batch.x),)
            assert set(labels.tolist()) <= set(range(case.num_classes))


def test_inputs_are_stored_as_bytes(module: NoisyDataModule) -> None:
    assert {split.x.dtype for split in module.splits.values()} == {torch.uint8}


def test_training_and_validation_share_no_sample(module: NoisyDataModule) -> None:
    train, val = (module.splits[name].original_index.tolist() for name in ("train", "val"))
    assert len(set(train) | set(val)) == len(train) + len(val)


def test_equal_seeds_give_equal_labels(case: Case, module: NoisyDataModule) -> None:
    again = set_up(case, SymmetricNoise(0.4, seed=1))
    for name in ("train", "val"):
        assert torch.equal(module.splits[name].y, again.splits[name].y)
    assert module.noise_report() == again.noise_report()


def test_another_seed_gives_other_labels(case: Case, module: NoisyDataModule) -> None:
    other = set_up(case, SymmetricNoise(0.4, seed=2))
    for name in ("train", "val"):
        assert not torch.equal(module.splits[name].y, other.splits[name].y)
        assert torch.equal(module.splits[name].y_clean, other.splits[name].y_clean)
    assert module.noise_report()["sha256"] != other.noise_report()["sha256"]


def test_noise_is_the_sequential_draw_in_the_declared_streams(case: Case, module: NoisyDataModule) -> None:
    transition = SymmetricNoise(0.4).transition_matrix(case.num_classes)
    train, val = module.splits["train"], module.splits["val"]
    streams = [torch.cat([train.y_clean, val.y_clean])] if case.one_stream else [train.y_clean, val.y_clean]
    expected = []
    for stream in streams:
        rng = np.random.RandomState(1)
        expected += [rng.choice(case.num_classes, p=transition[label]) for label in stream.tolist()]
    assert torch.cat([train.y, val.y]).tolist() == expected


def test_no_noise_in_the_test_set(module: NoisyDataModule) -> None:
    assert torch.equal(module.splits["test"].y, module.splits["test"].y_clean)


def test_without_noise_labels_are_clean(case: Case) -> None:
    clean = set_up(case, None)
    assert all(torch.equal(split.y, split.y_clean) for split in clean.splits.values())
    assert clean.noise_report()["train_rate"] == 0


def test_labels_and_inputs_stay_the_same_from_epoch_to_epoch(module: NoisyDataModule) -> None:
    loader, split = module.train_dataloader(), module.splits["train"]
    for epoch in range(2):
        loader.set_epoch(epoch)
        for batch in loader:
            assert torch.equal(batch.y, split.y[batch.index])
            assert torch.equal(batch.y_clean, split.y_clean[batch.index])
        assert torch.equal(batch.x, module.eval_transform()(split.x[batch.index]))


def test_second_setup_changes_nothing(module: NoisyDataModule) -> None:
    before = dict(module.splits)
    module.setup("test")
    assert module.splits == before


def test_class_counts_count_the_noisy_labels(case: Case, module: NoisyDataModule) -> None:
    for name in ("train", "val"):
        labels = module.splits[name].y.tolist()
        assert module.class_counts(name).tolist() == [labels.count(c) for c in range(case.num_classes)]


def test_noise_report_tells_what_came_out(case: Case, module: NoisyDataModule) -> None:
    train, val = module.splits["train"], module.splits["val"]
    report = json.loads(json.dumps(module.noise_report()))
    assert (report["injector"], report["seed"], report["requested_rate"]) == ("SymmetricNoise", 1, 0.4)
    assert report["train_rate"] == pytest.approx((train.y != train.y_clean).double().mean().item())
    for label, row in enumerate(report["matrix"]):
        drawn = train.y[train.y_clean == label].numpy()
        assert row == pytest.approx([np.mean(drawn == c) for c in range(case.num_classes)])
    labels = np.concatenate([train.y, val.y]).astype("<i8")
    assert report["sha256"] == hashlib.sha256(labels.tobytes()).hexdigest()


def test_noise_report_before_setup_says_what_to_call(case: Case) -> None:
    with pytest.raises(UserError, match=r"setup\('fit'\)"):
        case.make(None).noise_report()


def test_order_follows_the_runs_seed_and_labels_do_not(
    module: NoisyDataModule, monkeypatch: pytest.MonkeyPatch
) -> None:
    firsts = []
    for seed in ("1", "2", "1"):
        monkeypatch.setenv("PL_GLOBAL_SEED", seed)
        firsts.append(next(iter(module.train_dataloader())).index.tolist())
    assert firsts[0] == firsts[2] != firsts[1]


def test_train_eval_loader_goes_through_the_training_set_in_index_order(module: NoisyDataModule) -> None:
    index = torch.cat([batch.index for batch in module.train_eval_dataloader()])
    assert torch.equal(index, torch.arange(len(module.splits["train"])))


def test_train_eval_loader_takes_a_seeded_subset(module: NoisyDataModule) -> None:
    first, again = (
        [i for batch in module.train_eval_dataloader(num_samples=300) for i in batch.index.tolist()] for _ in range(2)
    )
    assert first == again == sorted(set(first))
    assert len(first) == 300
    assert first != list(range(300))


def test_batch_without_samples_is_refused() -> None:
    with pytest.raises(UserError, match=r"--data.batch_size must be at least 1, but got 0"):
        DigitsDataModule(batch_size=0)


# -- digits -----------------------------------------------------------------------------------------------------------


def test_digits_splits_are_all_of_the_data_set() -> None:
    digits = DigitsDataModule()
    digits.setup("fit")
    assert {name: len(split) for name, split in digits.splits.items()} == {"train": 1197, "val": 300, "test": 300}
    everything = torch.cat([split.original_index for split in digits.splits.values()])
    assert torch.equal(everything.sort().values, torch.arange(1797))


# -- Fashion-MNIST ----------------------------------------------------------------------------------------------------


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
