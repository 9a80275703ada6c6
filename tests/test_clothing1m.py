"""Clothing1M: both layouts, its balanced subset, what a user may get wrong, ResNet-50, and both stages by the real command."""

import contextlib
import io
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_resume import same
from torch import nn
from writers import write_clothing1m

from ldmi_lightning.commands import main
from ldmi_lightning.commands.description import describe_labels
from ldmi_lightning.datamodules import Clothing1MDataModule, DigitsDataModule, NoisyDataModule
from ldmi_lightning.datamodules.clothing1m import balanced_subset
from ldmi_lightning.datamodules.clothing1m_lists import AUTHORS
from ldmi_lightning.errors import UserError
from ldmi_lightning.models import ResNet50
from ldmi_lightning.noise import SymmetricNoise

CONFIG = Path(__file__).parents[1] / "configs/clothing1m.yaml"
SIZES = {"train": 61, "val": 28, "test": 15}
TINY = """
import multiprocessing
import os
import time
import pytorch_lightning as pl
import torch

class Net(torch.nn.Sequential):
    def __init__(self, num_classes):
        super().__init__(torch.nn.AvgPool2d(32), torch.nn.Flatten(), torch.nn.Linear(147, num_classes))

class Interrupt(pl.Callback):
    def on_train_batch_start(self, trainer, *_):
        if str(trainer.global_step) == os.environ.get("INTERRUPT_AT"):
            raise KeyboardInterrupt

class KillWorker(pl.Callback):
    def on_train_batch_start(self, trainer, *_):
        multiprocessing.active_children()[0].kill()
        time.sleep(1)
"""


def write_official(folder: Path, sizes: dict[str, int]) -> Path:
    """Write the same tree with the data set's own lists, whose labels stand in another order."""
    write_clothing1m(folder, sizes)
    labels: dict[str, list[str]] = {"noisy": [], "clean": []}
    for name in AUTHORS.values():
        lines = (folder / "annotations" / name).read_text().splitlines()
        labels[name[:5]] += lines
        keys = "".join(f"{line.split()[0]}\n" for line in lines)
        (folder / f"{name.removesuffix('.txt')}_key_list.txt").write_text(keys)
    for kind, lines in labels.items():
        (folder / f"{kind}_label_kv.txt").write_text("".join(f"{line}\n" for line in sorted(lines)))
    shutil.rmtree(folder / "annotations")
    return folder


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


# -- ResNet-50 --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights in the layout of torchvision's file, of a net that is as tame as a trained one."""
    torch.manual_seed(0)
    net = ResNet50(1000)
    for each in net.modules():
        if isinstance(each, nn.BatchNorm2d):
            each.momentum = None
        if hasattr(each, "bn3"):
            nn.init.constant_(each.bn3.weight, 0.2)
    with torch.no_grad():
        net(torch.randn(16, 3, 96, 96))
    path = tmp_path_factory.mktemp("weights") / "resnet50.pth"
    torch.save(net.state_dict(), path)
    return path


def test_resnet50_is_torchvisions_with_another_last_layer() -> None:
    net = ResNet50(14)
    assert net.fc.weight.shape == (14, 2048)
    assert sum(parameter.numel() for parameter in net.parameters()) == 25_557_032 - 1000 * 2049 + 14 * 2049


def test_resnet50_takes_all_but_the_last_layer_from_a_file(weights: Path) -> None:
    saved = torch.load(weights, weights_only=True)
    torch.manual_seed(1)
    state = ResNet50(14, str(weights)).state_dict()
    assert state.keys() == saved.keys()
    assert all(torch.equal(state[name], saved[name]) for name in saved if not name.startswith("fc."))
    torch.manual_seed(1)
    assert torch.equal(state["fc.weight"], ResNet50(14).fc.weight)


def test_resnet50_takes_what_torchvision_has_downloaded(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "checkpoints").mkdir()
    shutil.copy(weights, tmp_path / "checkpoints/resnet50-0676ba61.pth")
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path))
    assert same(ResNet50(1000, "imagenet").conv1.state_dict(), ResNet50(1000, str(weights)).conv1.state_dict())


def test_weights_that_cannot_be_downloaded_name_their_address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path))
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    with pytest.raises(ValueError, match=r"Download https://.*resnet50-0676ba61.pth and give the file with --model"):
        ResNet50(14, "imagenet")


class Code:
    """Would leave a mark if a file of weights were allowed to run code."""

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (Path("ran"),)


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (None, r"cannot be read as weights of PyTorch \(no such file\)"),
        (b"no weights", "cannot be read as weights of PyTorch"),
        ({"code": Code()}, "cannot be read as weights of PyTorch"),
        ([torch.zeros(3)], "holds a list, but must hold a state dict"),
        ({"conv1.weight": torch.zeros(3)}, r"conv1.weight has shape \(3,\), but must have \(64, 3, 7, 7\)"),
        ({"net": {"conv1.weight": torch.zeros(64, 3, 7, 7)}}, "they lack conv1.weight"),
        ("less", "they lack layer4.2.bn3.bias"),
        ("more", "extra is unknown"),
    ],
)
def test_weights_that_do_not_fit_are_named(
    weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: Any, fault: str
) -> None:
    monkeypatch.chdir(tmp_path)
    if content in ("less", "more"):
        state = torch.load(weights, weights_only=True)
        state.pop("layer4.2.bn3.bias") if content == "less" else state.update(extra=torch.zeros(1))
        torch.save(state, "given.pth")
    elif isinstance(content, bytes):
        Path("given.pth").write_bytes(content)
    elif content is not None:
        torch.save(content, "given.pth")
    with pytest.raises(ValueError, match=f"--model.backbone.weights given.pth .*{fault}"):
        ResNet50(14, "given.pth")
    assert not Path("ran").exists()


# -- the command ------------------------------------------------------------------------------------------------------


@pytest.fixture
def in_own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "tiny.py").write_text(TINY)
    for name in ("PL_GLOBAL_SEED", "PL_SEED_WORKERS"):  # which seed_everything leaves in the environment
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    return tmp_path


def fit(root: Path, name: str, *flags: str) -> tuple[int, list[str]]:
    """Run `ldmi fit` with the shipped config and a tiny net; return its exit code and what it printed."""
    printed = io.StringIO()
    args = [
        *("fit", "--config", str(CONFIG), "--data.root", str(root), "--trainer.default_root_dir", name),
        *("--data.batch_size", "16", "--model.robust.loss.memory", "0.9", "--model.backbone", "tiny.Net"),
        *("--model.warmup.epochs", "2", "--model.robust.epochs", "2"),
        *("--trainer.enable_progress_bar", "false", "--trainer.logger", "false", "--trainer.accelerator", "cpu"),
    ]
    with contextlib.redirect_stdout(printed):
        try:
            code = main([*args, *flags])
        except SystemExit as end:  # Lightning's answer to Ctrl-C
            code = int(end.code or 0)
    return code, printed.getvalue().splitlines()


def weights_of(name: str, file: str = "robust-last.ckpt") -> Any:
    (folder,) = Path(name).iterdir()
    return torch.load(folder / file, weights_only=True)["state_dict"]


def test_both_stages_train_alike_with_and_without_workers(in_own_folder: Path, official: Path) -> None:
    code, lines = fit(official, "alone", "--data.num_workers", "0")
    assert code == 0
    assert (
        "Clothing1MDataModule: 14 classes; training labels may be wrong as given; validation and test labels are"
        in ("\n".join(lines))
    )
    assert sum("the highest val/acc, seen on clean labels." in line for line in lines) == 2
    assert fit(official, "helped", "--data.num_workers", "2")[0] == 0
    assert same(weights_of("alone"), weights_of("helped"))
    (folder,) = Path("alone").iterdir()
    results = json.loads((folder / "results.json").read_text())
    assert results["data"] == "Clothing1MDataModule"
    selected_by = {name: stage["selected_by"] for name, stage in results["stages"].items() if stage is not None}
    assert selected_by == {"warmup": "val/acc", "robust": "val/acc"}


def test_run_interrupted_in_both_stages_goes_on_to_the_same_end(
    in_own_folder: Path, official: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flags = ["--trainer.callbacks+=tiny.Interrupt", "--data.num_workers", "2", "--data.cache", "cache"]
    assert fit(official, "whole", *flags)[0] == 0
    for step in ("4", "10"):  # the second of three batches in the second epoch of either stage
        monkeypatch.setenv("INTERRUPT_AT", step)
        code, lines = fit(official, "stopped", *flags)
        assert code == 1
        assert "Go on with" in lines[-1]
        (folder,) = Path("stopped").iterdir()
        flags += ["--ckpt_path", str(folder / "last.ckpt")] if step == "4" else []
    monkeypatch.delenv("INTERRUPT_AT")
    assert fit(official, "stopped", *flags)[0] == 0
    assert same(weights_of("stopped"), weights_of("whole"))


@pytest.mark.parametrize("workers", ["0", "2"])
def test_broken_image_is_one_line_or_left_out(
    in_own_folder: Path, broken: Path, capsys: pytest.CaptureFixture[str], workers: str
) -> None:
    image = broken / "images/6/6/train6,6.jpg"  # of a class of which all are in the balanced subset
    image.write_bytes(image.read_bytes()[:-50])
    short = ("--data.num_workers", workers, "--model.warmup.epochs", "1", "--model.robust", "null")
    code, _ = fit(broken, "refused", *short)
    (line,) = capsys.readouterr().err.splitlines()
    assert code == 2
    assert line.startswith(f"ldmi: error: {image} cannot be read (")
    assert not list(Path("refused").iterdir())
    code, lines = fit(broken, "skipped", *short, "--data.skip_broken", "true", "--data.balanced", "true")
    assert code == 0
    (line,) = [line for line in lines if "left out" in line]
    assert line.startswith(f"{image} cannot be read (")
    assert line.endswith("left out: 1 of 56 so far.")


def test_worker_that_dies_is_one_line(in_own_folder: Path, official: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ("--trainer.callbacks+=tiny.KillWorker", "--data.num_workers", "2", "--model.robust", "null")
    code, _ = fit(official, "runs", *flags)
    (line,) = capsys.readouterr().err.splitlines()
    assert code == 2
    assert line.startswith("ldmi: error: DataLoader worker (pid")
    assert line.endswith("Lower --data.num_workers; 0 reads in the main process.")


@pytest.mark.parametrize(
    ("data", "labels", "seen_on"),
    [
        (DigitsDataModule(), "training, validation and test labels are clean", "clean labels"),
        (
            DigitsDataModule(SymmetricNoise(0.25, seed=0)),
            "SymmetricNoise at rate 0.25 on training and validation labels; test labels are clean",
            "noisy labels",
        ),
        (
            Clothing1MDataModule(),
            "training labels may be wrong as given; validation and test labels are clean",
            "clean labels",
        ),
        (
            Clothing1MDataModule(noise=SymmetricNoise(0.25, seed=0)),
            "SymmetricNoise at rate 0.25 on training labels; training labels may be wrong as given; "
            "validation and test labels are clean",
            "clean labels",
        ),
    ],
)
def test_what_is_said_of_the_labels_is_true(data: NoisyDataModule, labels: str, seen_on: str) -> None:
    assert describe_labels(data) == (labels, seen_on)


@pytest.mark.slow
def test_shipped_config_trains_both_stages_of_resnet50(
    in_own_folder: Path, tmp_path_factory: pytest.TempPathFactory, weights: Path
) -> None:
    root = write_clothing1m(tmp_path_factory.mktemp("few"), {"train": 14, "val": 2, "test": 2})
    net = ("--model.backbone", "ldmi_lightning.models.ResNet50", "--model.backbone.weights", str(weights))
    short = ("--data.batch_size", "14", "--model.warmup.epochs", "1", "--model.robust.epochs", "1")
    code, lines = fit(root, "runs", *net, *short, "--model.robust.loss.memory", "0")
    assert code == 0
    assert any("robust  DMILoss" in line for line in lines)
    assert weights_of("runs")["backbone.fc.weight"].shape == (14, 2048)
