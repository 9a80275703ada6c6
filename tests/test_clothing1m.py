"""Clothing1M: both layouts, its balanced subset, its images, and what a user may get wrong."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from writers import write_clothing1m, write_official

from ldmi_lightning.datamodules import Clothing1MDataModule
from ldmi_lightning.datamodules.clothing1m import balanced_subset
from ldmi_lightning.datamodules.clothing1m_lists import AUTHORS
from ldmi_lightning.errors import UserError
from ldmi_lightning.noise import SymmetricNoise

SIZES = {"train": 61, "val": 28, "test": 15}


@pytest.fixture(scope="module")
def authors(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clothing1m(tmp_path_factory.mktemp("authors"), SIZES)


@pytest.fixture(scope="module")
def official(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_official(tmp_path_factory.mktemp("official"), SIZES)


def clothing1m(root: Path, **options: Any) -> Clothing1MDataModule:
    module = Clothing1MDataModule(root=str(root), **{"num_workers": 0, "batch_size": 8, **options})
    module.setup("fit")
    return module


# -- the lists --------------------------------------------------------------------------------------------------------


def test_lists_give_paths_labels_and_original_positions(authors: Path) -> None:
    splits = clothing1m(authors).splits
    begin = 0
    for name, size in SIZES.items():
        lines = (authors / "annotations" / AUTHORS[name]).read_text().splitlines()
        found = [f"{splits[name].x.path(i).relative_to(authors)} {splits[name].y[i]}" for i in range(size)]
        assert found == lines
        assert splits[name].original_index.tolist() == list(range(begin, begin + size))
        begin += size


@pytest.mark.parametrize("annotations", ["", "annotations"])
def test_official_lists_give_the_same(authors: Path, official: Path, tmp_path: Path, annotations: str) -> None:
    root = shutil.copytree(official, tmp_path / "copy")
    (root / annotations).mkdir(exist_ok=True)
    for path in root.glob("*.txt"):
        path.rename(root / annotations / path.name)
    one, other = clothing1m(authors).splits, clothing1m(root).splits
    for name, split in one.items():
        assert split.x.paths.tolist() == other[name].x.paths.tolist()
        assert torch.equal(split.y, other[name].y)
        assert torch.equal(split.original_index, other[name].original_index)


def test_windows_line_ends_and_blank_lines_change_nothing(authors: Path, tmp_path: Path) -> None:
    root = shutil.copytree(authors, tmp_path / "copy")
    path = root / "annotations/noisy_train.txt"
    path.write_bytes(b"\r\n\r\n".join(path.read_bytes().splitlines()))
    assert torch.equal(clothing1m(root).splits["train"].y, clothing1m(authors).splits["train"].y)


# -- labels -----------------------------------------------------------------------------------------------------------


def test_true_labels_are_unknown_in_training_and_known_elsewhere(authors: Path) -> None:
    module = clothing1m(authors)
    assert (module.splits["train"].y_clean == -1).all()
    for name in ("val", "test"):
        assert torch.equal(module.splits[name].y, module.splits[name].y_clean)
    report = module.noise_report()
    assert (report["injector"], report["train_rate"], report["matrix"]) == ("NoNoise", None, None)


def test_noise_goes_into_training_labels_alone(authors: Path) -> None:
    plain, noisy = clothing1m(authors), clothing1m(authors, noise=SymmetricNoise(0.5, seed=1))
    given = plain.splits["train"].y.numpy()
    drawn = SymmetricNoise(0.5, seed=1)(given, 14, index=np.arange(len(given)))
    assert noisy.splits["train"].y.tolist() == drawn.tolist() != given.tolist()
    for name in ("val", "test"):
        assert torch.equal(plain.splits[name].y, noisy.splits[name].y)
    assert noisy.noise_report()["sha256"] != plain.noise_report()["sha256"]


def test_balanced_subset_has_as_many_of_each_class_as_the_rarest(authors: Path) -> None:
    every, some = clothing1m(authors).splits["train"], clothing1m(authors, balanced=True).splits["train"]
    assert torch.bincount(every.y).tolist() == [5] * 5 + [4] * 9
    assert torch.bincount(some.y).tolist() == [4] * 14
    assert torch.equal(every.y[some.original_index], some.y)
    assert some.x.paths.tolist() == every.x.paths[some.original_index.numpy()].tolist()
    assert sorted(set(some.original_index.tolist())) == some.original_index.tolist()


def test_balanced_subset_of_a_given_size_is_the_same_in_every_run(
    authors: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = []
    for seed in ("1", "2"):
        monkeypatch.setenv("PL_GLOBAL_SEED", seed)
        drawn.append(clothing1m(authors, balanced=2).splits["train"].original_index.tolist())
    assert len(drawn[0]) == 28
    assert drawn[0] == drawn[1] != list(range(28))
    assert clothing1m(authors, balanced=2).splits["val"].y.shape == (28,)


def test_balanced_subset_draws_without_preference() -> None:
    labels = np.tile([0, 1, 1, 1], 100)
    drawn = np.array([np.bincount(balanced_subset(labels, 30, seed), minlength=400) for seed in range(300)])
    assert (drawn.sum(1) == 60).all()
    assert drawn.max() == 1
    assert np.abs(drawn[:, labels == 1].mean(0) - 0.1).max() < 0.08
    assert np.abs(drawn[:, labels == 0].mean(0) - 0.3).max() < 0.11


# -- inputs -----------------------------------------------------------------------------------------------------------


def test_training_crops_and_evaluation_takes_the_middle(authors: Path) -> None:
    module = clothing1m(authors)
    pixels = torch.arange(256, dtype=torch.uint8).expand(1, 3, 256, 256)
    red = module.eval_transform()(pixels)[0, 0]
    assert red.shape == (224, 224)
    torch.testing.assert_close(red[0], (torch.arange(16, 240) / 255 - 0.485) / 0.229)
    assert {tuple(batch.x.shape) for batch in module.train_dataloader()} == {(8, 3, 224, 224)}
    torch.manual_seed(0)
    rows = module.train_transform()(pixels.expand(200, 3, 256, 256))[:, 0, 0]
    rising = rows[:, 1] > rows[:, 0]
    assert 60 < rising.sum() < 140
    assert len(rows[rising].unique(dim=0)) > 20


def test_images_are_256_pixels_wide_until_they_are_cropped(authors: Path, tmp_path: Path) -> None:
    split = clothing1m(authors, cache=str(tmp_path / "made/for/me")).splits["train"]
    assert split.x.read(0).shape == (3, 256, 256)
    assert len(list(tmp_path.glob("made/for/me/*/*.jpg"))) == 1


# -- what goes wrong --------------------------------------------------------------------------------------------------


def refusal(root: Path | None, **options: Any) -> str:
    with pytest.raises(UserError) as raised:
        Clothing1MDataModule(root=None if root is None else str(root), **options).setup("fit")
    return str(raised.value)


@pytest.fixture
def broken(authors: Path, tmp_path: Path) -> Path:
    return shutil.copytree(authors, tmp_path / "broken")


def test_missing_root_says_where_the_data_set_comes_from(tmp_path: Path) -> None:
    assert "cannot be downloaded. Ask the data set's owners" in refusal(None)
    assert f"--data.root {tmp_path / 'nowhere'} is no folder" in refusal(tmp_path / "nowhere")


def test_missing_list_is_named(broken: Path, official: Path, tmp_path: Path) -> None:
    (broken / "annotations/clean_val.txt").unlink()
    assert f"--data.root {broken} has no clean_val.txt, neither in itself nor in annotations/" in refusal(broken)
    root = shutil.copytree(official, tmp_path / "official")
    (root / "clean_label_kv.txt").unlink()
    assert "has no clean_label_kv.txt" in refusal(root)
    shutil.rmtree(root / "images")
    for path in root.iterdir():
        path.unlink()
    assert "has no noisy_train_key_list.txt" in refusal(root)


def test_entry_without_a_label_is_named(official: Path, tmp_path: Path) -> None:
    root = shutil.copytree(official, tmp_path / "official")
    labels = root / "clean_label_kv.txt"
    labels.write_text("".join(f"{line}\n" for line in labels.read_text().splitlines() if "val17," not in line))
    message = refusal(root)
    assert "clean_val_key_list.txt names images/7/3/val17,17.jpg, which has no label in" in message
    assert str(labels) in message


@pytest.mark.parametrize(
    "line", ["images/0/0/a.jpg", "images/0/0/a.jpg two", "images/0/0/a.jpg 2 3", "images/0/0/a.jpg 1.5"]
)
def test_broken_line_is_named(broken: Path, line: str) -> None:
    path = broken / "annotations/clean_test.txt"
    path.write_text(f"{path.read_text()}\n{line}\nimages/0/0/b.jpg 3\n")
    assert f"clean_test.txt, line 17 reads '{line}': each line must hold" in refusal(broken)


@pytest.mark.parametrize("label", ["Dress", "11.0"])
def test_labels_may_be_class_names_or_floats(authors: Path, broken: Path, label: str) -> None:
    path = broken / "annotations/noisy_train.txt"
    text = path.read_text().replace(" 11\n", f" {label}\n").replace(" 8\n", " Down Coat\r")
    path.write_bytes(b"\xef\xbb\xbf" + text.encode())
    expected, found = clothing1m(authors).splits["train"], clothing1m(broken).splits["train"]
    assert torch.equal(found.y, expected.y)
    assert found.x.paths.tolist() == expected.x.paths.tolist()


@pytest.mark.parametrize("layout", ["authors", "official"])
def test_image_with_two_labels_is_refused(request: pytest.FixtureRequest, tmp_path: Path, layout: str) -> None:
    root = shutil.copytree(request.getfixturevalue(layout), tmp_path / "copy")
    path = root / ("annotations/noisy_train.txt" if layout == "authors" else "clean_label_kv.txt")
    name = "train17,17" if layout == "authors" else "val17,17"
    with path.open("a") as file:
        file.write(f"images/7/3/{name}.jpg 5\n")
    said = refusal(root)
    assert f"{path} gives images/7/3/{name}.jpg two labels, 3 and 5 (1 lines disagree" in said


def test_same_label_twice_is_no_conflict_but_counted(broken: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with (broken / "annotations/noisy_train.txt").open("a") as file:
        file.write("images/7/3/train17,17.jpg 3\n")
    assert len(clothing1m(broken).splits["train"]) == 62
    assert capsys.readouterr().out == (
        "The train list names 1 of its 62 images again: each counts as often as it is named.\n"
    )


@pytest.mark.parametrize("layout", ["authors", "official"])
@pytest.mark.parametrize("other", ["train", "val"])
def test_test_image_that_is_seen_before_is_refused(
    request: pytest.FixtureRequest, tmp_path: Path, layout: str, other: str
) -> None:
    root = shutil.copytree(request.getfixturevalue(layout), tmp_path / "copy")
    kind = "noisy_train" if other == "train" else "clean_val"
    end = " 3\n" if layout == "authors" else "\n"
    path = root / (f"annotations/{kind}.txt" if layout == "authors" else f"{kind}_key_list.txt")
    with path.open("a") as file:
        file.write(f"images/3/3/test3,3.jpg{end}")
    if layout == "official" and other == "train":
        with (root / "noisy_label_kv.txt").open("a") as file:
            file.write("images/3/3/test3,3.jpg 9\n")
    said = refusal(root)
    assert (
        f"1 images of the test list are in the {other} list, too, the first of which is images/3/3/test3,3.jpg" in said
    )


def test_validation_image_that_is_trained_on_is_said(broken: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with (broken / "annotations/noisy_train.txt").open("a") as file:
        file.write("images/3/3/val3,3.jpg 1\n")
    clothing1m(broken)
    assert capsys.readouterr().out.startswith(
        "1 images of the val list are in the train list, too, the first of which is"
    )


def test_list_that_is_a_pointer_is_called_that(broken: Path) -> None:
    (broken / "annotations/clean_val.txt").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\n")
    assert "clean_val.txt is a Git-LFS pointer" in refusal(broken)


def test_label_out_of_range_is_named(broken: Path) -> None:
    path = broken / "annotations/noisy_train.txt"
    path.write_text(path.read_text().replace(" 13\n", " 14\n"))
    assert "The train split of Clothing1MDataModule has labels from 0 to 14, but with 14 classes" in refusal(broken)


@pytest.mark.parametrize("balanced", [False, True])
def test_class_without_training_images_is_named(broken: Path, balanced: bool) -> None:
    path = broken / "annotations/noisy_train.txt"
    path.write_text("".join(f"{line}\n" for line in path.read_text().splitlines() if not line.endswith(" 10")))
    assert "has no sample of 1 of its 14 classes (Shawl)" in refusal(broken, balanced=balanced)


@pytest.mark.parametrize("split", AUTHORS)
def test_empty_split_is_named(broken: Path, split: str) -> None:
    (broken / "annotations" / AUTHORS[split]).write_text("\n")
    assert f"{broken / 'annotations' / AUTHORS[split]} is empty" in refusal(broken)


def test_images_elsewhere_are_found_out_before_training(broken: Path) -> None:
    shutil.rmtree(broken / "images")
    for skip in (False, True):
        assert "an image of the train list, is not there (61 of 61 that were looked for" in refusal(
            broken, skip_broken=skip
        )


def test_missing_image_is_named_unless_it_may_be_left_out(broken: Path) -> None:
    (broken / "images/3/3/val3,3.jpg").unlink()
    assert f"{broken}/images/3/3/val3,3.jpg, an image of the val list, is not there (1 of 28" in refusal(broken)
    assert len(clothing1m(broken, skip_broken=True).splits["val"]) == 28


def test_more_of_each_class_than_there_are_is_refused(authors: Path) -> None:
    message = refusal(authors, balanced=5)
    assert "--data.balanced 5 needs so many images of each class, but only 4 are labelled Hoodie" in message
    assert "Lower it to 4" in message


@pytest.mark.parametrize(("option", "value"), [("balanced", 0), ("num_workers", -1), ("batch_size", 0)])
def test_number_below_its_least_is_refused(option: str, value: int) -> None:
    with pytest.raises(UserError, match=f"--data.{option} must be .*at least .*, but got {value}"):
        Clothing1MDataModule(**{option: value})


def test_cache_that_is_no_folder_is_refused_before_training(authors: Path, tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file")
    assert f"--data.cache {tmp_path / 'taken'} cannot be made a folder" in refusal(
        authors, cache=str(tmp_path / "taken")
    )
