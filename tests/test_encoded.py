"""Any data set through a frozen encoder: features once, their cache, labels, augmented passes, and runs on them."""

import json
import multiprocessing
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
import torch.distributed as dist
from conftest import MakeTrainer
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from ldmi_lightning import LDMIModule, Stage
from ldmi_lightning.datamodules import (
    DigitsDataModule,
    EncodedDataModule,
    Examples,
    HFDataModule,
    NoisyDataModule,
    TensorDataModule,
)
from ldmi_lightning.datamodules.encoding.encode import Place, encode
from ldmi_lightning.datamodules.encoding.transforms import with_colours
from ldmi_lightning.datamodules.streamed import ImageFiles
from ldmi_lightning.datamodules.transforms import Normalise, RandomFlip
from ldmi_lightning.errors import UserError
from ldmi_lightning.losses import CELoss
from ldmi_lightning.models import Probe, built_by
from ldmi_lightning.models.encoders import without_head
from ldmi_lightning.noise import InstanceDependentNoise, Noise, SymmetricNoise

N = 700
CPU = torch.device("cpu")


class Counting(nn.Module):
    """Remembers which batches it has seen; it maps five numbers to three."""

    def __init__(self, fail_after: int | None = None) -> None:
        super().__init__()
        self.net = nn.Linear(5, 3)
        with torch.no_grad():
            self.net.weight.copy_(torch.arange(15.0).view(3, 5) / 10)
            self.net.bias.zero_()
        self.__dict__["_seen"], self.__dict__["_fail_after"] = (
            [],
            fail_after,
        )  # no settings: the same encoder all the same

    @property
    def seen(self) -> list[int]:
        return self.__dict__["_seen"]

    def forward(self, x: Tensor) -> Tensor:
        assert not self.training
        if len(self.seen) == self.__dict__["_fail_after"]:
            raise KeyboardInterrupt
        self.seen.append(len(x))
        features: Tensor = self.net(x)
        return features


def numbers(seed: int = 0, n: int = N) -> NDArray[np.float32]:
    return (np.random.RandomState(seed).randn(n, 5) + np.arange(n)[:, None] % 2).astype(np.float32)


def tables(x: Any = None, **options: Any) -> TensorDataModule:
    x = numbers() if x is None else x
    return TensorDataModule(x, np.arange(len(x)) % 2, batch_size=50, **options)


def encoded(
    folder: Path, encoder: nn.Module | None = None, data: NoisyDataModule | None = None, **options: Any
) -> EncodedDataModule:
    given = EncodedDataModule(data or tables(), encoder or Counting(), cache=str(folder / "features"), **options)
    given.setup("fit")
    return given


def stored(data: EncodedDataModule, name: str = "train") -> Tensor:
    data.encode(name)
    x: Tensor = data.splits[name].x
    return x


def said(capsys: pytest.CaptureFixture[str]) -> str:
    return capsys.readouterr().out


def refusal(call: Callable[[], Any]) -> str:
    with pytest.raises(UserError) as caught:
        call()
    assert "\n" not in str(caught.value)
    return str(caught.value)


# -- features ---------------------------------------------------------------------------------------------------------


def test_features_are_what_the_encoder_gives(tmp_path: Path) -> None:
    data = encoded(tmp_path)
    for name, split in data.data.splits.items():
        expected = split.x @ (torch.arange(15.0).view(3, 5) / 10).T
        assert torch.allclose(stored(data, name), expected, atol=1e-5)
    assert data.num_features == 3


def test_batches_are_standardised_by_the_training_set_alone(tmp_path: Path) -> None:
    data = encoded(tmp_path)
    train, val = stored(data), stored(data, "val")
    mean, std = train.double().mean(0), train.double().std(0, correction=0)
    for loader, x in ((data.train_eval_dataloader(), train), (data.val_dataloader(), val)):
        batches = list(loader)
        index = torch.cat([batch.index for batch in batches])
        assert torch.allclose(torch.cat([batch.x for batch in batches]).double(), (x[index] - mean) / std, atol=1e-5)
    assert abs(torch.cat([batch.x for batch in data.val_dataloader()]).mean()) > 1e-4


def test_a_constant_feature_has_deviation_one(tmp_path: Path) -> None:
    encoder = nn.Linear(5, 2)
    with torch.no_grad():
        encoder.weight[0], encoder.bias[0] = 0, 0.1
    batch = next(iter(encoded(tmp_path, encoder).train_dataloader()))
    assert torch.equal(batch.x[:, 0], torch.zeros(50))
    assert batch.x[:, 1].std() > 0.5


def test_float16_takes_half_the_space(tmp_path: Path) -> None:
    half, whole = (encoded(tmp_path / dtype, dtype=dtype) for dtype in ("float16", "float32"))
    assert stored(half).dtype == torch.float16
    assert torch.allclose(stored(half).float(), stored(whole), rtol=1e-3)
    assert next(iter(half.train_dataloader())).x.dtype == torch.float32
    sizes = [sum(path.stat().st_size for path in (tmp_path / each).rglob("*.npy")) for each in ("float16", "float32")]
    assert sizes[0] < 0.6 * sizes[1]


def test_maps_are_averaged_and_the_line_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = encoded(tmp_path, nn.Conv2d(1, 4, (3, 5)), DigitsDataModule())
    x = data.data.eval_transform()(data.data.splits["test"].x)
    assert torch.allclose(stored(data, "test"), data.encoder(x).mean((2, 3)), atol=1e-6)
    assert "maps of 6×4: features are the mean over each" in said(capsys)


@pytest.mark.parametrize(
    ("encoder", "line"),
    [
        (nn.Unflatten(1, (5, 1)), r"gives shape \(64, 5, 1\) for a batch of 64, but features are a tensor \(B, D\)"),
        (nn.LSTM(5, 2), "gives a tuple for a batch of 64"),
        (nn.Linear(4, 2), r"Linear fails on a batch of shape \(64, 5\): .*mat1 and mat2 shapes cannot be multiplied"),
    ],
)
def test_what_is_no_encoder_is_refused_in_one_line(encoder: nn.Module, line: str, tmp_path: Path) -> None:
    assert re.search(line, refusal(lambda: stored(encoded(tmp_path, encoder))))


def test_features_that_are_no_numbers_are_refused_by_the_sample(tmp_path: Path) -> None:
    x = numbers()
    x[:, 0] = np.arange(N)
    data = encoded(tmp_path, nn.Sequential(_Logarithm()), tables(x - 300))
    position = int((data.data.splits["train"].x[:, 0] < 0).nonzero()[0])
    original = int(data.data.splits["train"].original_index[position])
    expected = f"NaN or infinity for sample {position} of the train split (number {original} of the data set)"
    assert expected in refusal(lambda: stored(data))


class _Logarithm(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.log()


def test_what_float16_cannot_hold_is_refused(tmp_path: Path) -> None:
    x = numbers()
    x[17] = 1e6
    assert "more than float16 can hold (65504): set --data.dtype float32" in refusal(
        lambda: [stored(encoded(tmp_path, data=tables(x), dtype="float16"), name) for name in ("train", "val", "test")]
    )


# -- labels -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "noise", [SymmetricNoise(0.4, seed=1), InstanceDependentNoise(0.3, seed=1)], ids=["class", "instance"]
)
def test_labels_are_those_without_the_encoder(noise: Noise, tmp_path: Path) -> None:
    plain = tables(noise=noise)
    plain.setup("fit")
    outside = encoded(tmp_path, noise=noise, batch_size=20)
    inside = encoded(tmp_path, data=tables(noise=noise))
    for data in (outside, inside):
        for name, split in plain.splits.items():
            for field in ("y", "y_clean", "original_index"):
                assert torch.equal(getattr(data.splits[name], field), getattr(split, field))
        assert data.noise_report() == plain.noise_report()
        assert all(data.labels_are_true(name) == plain.labels_are_true(name) for name in plain.splits)
    assert outside.batch_size == outside.data.batch_size == 20
    assert inside.batch_size == 50


def test_noise_given_twice_is_refused(tmp_path: Path) -> None:
    noise = SymmetricNoise(0.4)
    line = refusal(lambda: EncodedDataModule(tables(noise=noise), Counting(), noise=SymmetricNoise(0.2)))
    assert "Noise is given twice" in line


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"passes": -1}, "--data.passes must be at least 0, but got -1"),
        ({"dtype": "bfloat16"}, "--data.dtype must be float32 or float16, but got bfloat16"),
        ({"image_size": 0}, "--data.image_size must be at least 1, but got 0"),
        ({"passes": 2}, "TensorDataModule has no augmentation"),
        ({"image_size": 8}, r"--data.image_size is for images .* but the data gives inputs of shape \(64, 5\)"),
    ],
)
def test_arguments_that_cannot_be_meant_are_refused(options: dict[str, Any], line: str, tmp_path: Path) -> None:
    assert re.search(line, refusal(lambda: stored(encoded(tmp_path, **options))))


# -- the cache --------------------------------------------------------------------------------------------------------


def test_the_encoder_sees_each_sample_once_and_a_second_run_none(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = encoded(tmp_path)
    first.encode()
    assert sum(first.encoder.seen) == N
    assert "Encoded 560 samples of the train split in" in said(capsys)
    second = encoded(tmp_path, noise=SymmetricNoise(0.4), batch_size=7)
    second.encode()
    assert second.encoder.seen == []
    assert "The features of the train split (560 samples) are in" in said(capsys)
    assert all(torch.equal(stored(first, name), stored(second, name)) for name in first.splits)


def test_other_weights_settings_transforms_or_inputs_have_features_of_their_own(tmp_path: Path) -> None:
    twice = Counting()
    with torch.no_grad():
        twice.net.weight.mul_(2)
    other = numbers()
    other[0] += 1
    digits = nn.Sequential(nn.Flatten(), nn.Linear(64, 2))
    for first, second in (
        (encoded(tmp_path), encoded(tmp_path, twice)),
        (encoded(tmp_path, nn.Sequential(nn.ELU(1.0))), encoded(tmp_path, nn.Sequential(nn.ELU(2.0)))),
        (encoded(tmp_path, nn.ReLU()), encoded(tmp_path, nn.GELU())),
        (encoded(tmp_path), encoded(tmp_path, data=tables(other))),
        (encoded(tmp_path), encoded(tmp_path, dtype="float16")),
        (encoded(tmp_path, digits, DigitsDataModule()), encoded(tmp_path, digits, _HalfDigits())),
    ):
        keys = [data.features.folder(data.features.made_by("train", 0)).folder for data in (first, second)]
        assert keys[0] != keys[1]


class _HalfDigits(DigitsDataModule):
    def eval_transform(self) -> nn.Module:
        return Normalise([0.0], [2.0], scale=16)


def test_other_code_has_features_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keys = []
    for factor in (2, 3):
        name = f"own_code_{factor}"
        (tmp_path / f"{name}.py").write_text(
            f"from torch import nn\n\n\nclass Own(nn.Module):\n    def forward(self, x):\n        return {factor} * x\n"
        )
        monkeypatch.syspath_prepend(str(tmp_path))
        data = encoded(tmp_path, __import__(name).Own())
        keys.append(data.features.folder(data.features.made_by("train", 0)).folder)
        assert data.features.encoder_key == encoded(tmp_path, __import__(name).Own()).features.encoder_key
    assert keys[0] != keys[1]


def test_a_pass_that_was_interrupted_is_resumed_after_the_last_whole_shard(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = stored(encoded(tmp_path / "whole"))
    broken_off = encoded(tmp_path, Counting(fail_after=6))  # a shard is four batches of 64
    with pytest.raises(KeyboardInterrupt):
        broken_off.encode("train")
    resumed = encoded(tmp_path)
    capsys.readouterr()
    assert torch.equal(stored(resumed), whole)
    assert sum(resumed.encoder.seen) == 560 - 256
    assert "Encoded 304 of 560 samples of the train split" in said(capsys)


@pytest.mark.parametrize("damage", ["cut short", "emptied", "another width"])
def test_a_damaged_shard_is_encoded_anew_and_the_line_names_it(
    damage: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = encoded(tmp_path)
    before = stored(first).clone()
    folder = first.features.folder(first.features.made_by("train", 0))
    path = folder.path(1)
    if damage == "another width":
        np.save(path, np.zeros((256, 9), np.float32))
    else:
        path.write_bytes(path.read_bytes()[: 1000 if damage == "cut short" else 0])
    capsys.readouterr()
    second = encoded(tmp_path)
    assert torch.equal(stored(second), before)
    assert sum(second.encoder.seen) == 256
    assert f"{path} is damaged, and is encoded anew." in said(capsys)


def test_a_description_says_what_a_folder_holds(tmp_path: Path) -> None:
    data = encoded(tmp_path)
    data.encode("train")
    (text,) = (path.read_text() for path in tmp_path.rglob("description.json"))
    words = json.loads(text)
    assert words["what"].startswith("features of the train split of TensorDataModule")
    assert (words["samples"], words["features"], words["encoder"]) == (560, 3, "Counting, 18 parameters")


def test_a_cache_that_takes_nothing_is_told_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "features").write_text("a file")
    line = refusal(lambda: stored(encoded(tmp_path)))
    assert line.startswith(f"--data.cache {tmp_path / 'features'} cannot keep more features (")
    assert "choose another folder" in line


def _encode_as(rank: int, ranks: int, folder: Path) -> None:
    torch.set_num_threads(1)
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    dist.init_process_group("gloo", init_method=f"file://{folder / 'meeting'}", rank=rank, world_size=ranks)
    data = encoded(folder)
    run = data.features.made_by("train", 0)
    encode(run, data.encoder, data.features.folder(run), Place(CPU, rank, ranks))
    (folder / f"seen-{rank}").write_text(str(sum(data.encoder.seen)))
    dist.destroy_process_group()


def test_two_ranks_encode_a_share_each_and_the_rows_are_those_of_one(tmp_path: Path) -> None:
    fork = multiprocessing.get_context("fork")
    processes = [fork.Process(target=_encode_as, args=(rank, 2, tmp_path)) for rank in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
    assert [process.exitcode for process in processes] == [0, 0]
    assert [int((tmp_path / f"seen-{rank}").read_text()) for rank in range(2)] == [256 + 48, 256]
    both = encoded(tmp_path)
    assert torch.equal(stored(both), stored(encoded(tmp_path / "one")))
    assert both.encoder.seen == []


# -- images from files ------------------------------------------------------------------------------------------------


class Photos(NoisyDataModule):
    """Images that are read from files; numbers 3 and 300 of the training set cannot be read."""

    def __init__(self, folder: Path, skip_broken: bool, batch_size: int = 32) -> None:
        super().__init__(2, ["dark", "bright"], batch_size=batch_size)
        self.folder, self.skip_broken = folder, skip_broken

    def load(self) -> dict[str, Examples]:
        self.folder.mkdir(exist_ok=True)
        splits, first = {}, 0
        for name, n in {"train": 320, "val": 20, "test": 20}.items():
            paths = [f"{name}{number}.png" for number in range(n)]
            for number, path in enumerate(paths):
                if not (self.folder / path).exists():
                    grey = (number % 2) * 100 + number % 97
                    Image.fromarray(np.full((6, 6, 3), grey, np.uint8)).save(self.folder / path)
                    if name == "train" and number in (3, 300):
                        (self.folder / path).write_bytes(b"no image")
            files = ImageFiles(paths, 4, root=self.folder, skip_broken=self.skip_broken)
            splits[name] = Examples(files, np.arange(n) % 2, np.arange(first, first + n))
            first += n
        return splits

    def eval_transform(self) -> nn.Module:
        return Normalise([0.5] * 3, [0.5] * 3)


def test_images_that_cannot_be_read_are_left_out_of_the_split_and_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for attempt in ("encoded", "read back"):
        data = encoded(tmp_path, nn.Flatten(), Photos(tmp_path / "photos", skip_broken=True))
        x = stored(data)
        assert "2 of 320 images of the train split cannot be read and are left out" in said(capsys), attempt
        kept = [number for number in range(320) if number not in (3, 300)]
        split = data.splits["train"]
        assert split.original_index.tolist() == kept
        assert split.y.tolist() == [number % 2 for number in kept]
        greys = torch.tensor([(number % 2) * 100 + number % 97 for number in kept])
        assert torch.allclose(x, ((greys / 255 - 0.5) / 0.5)[:, None].expand(-1, 48), atol=1e-6)
        assert sorted(i for batch in data.train_eval_dataloader() for i in batch.index.tolist()) == list(range(318))
        data.teardown("fit")


def test_images_that_cannot_be_read_are_refused_by_name(tmp_path: Path) -> None:
    line = refusal(lambda: stored(encoded(tmp_path, nn.Flatten(), Photos(tmp_path / "photos", skip_broken=False))))
    assert f"{tmp_path / 'photos/train3.png'} cannot be read" in line
    stored(encoded(tmp_path, nn.Flatten(), Photos(tmp_path / "photos", skip_broken=True)))
    line = refusal(lambda: stored(encoded(tmp_path, nn.Flatten(), Photos(tmp_path / "photos", skip_broken=False))))
    assert f"{tmp_path / 'photos/train3.png'} could not be read when features were computed" in line


# -- images and their encoders ----------------------------------------------------------------------------------------


def test_images_are_brought_to_the_size_and_colours_that_the_encoder_expects(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from torchvision.models import resnet18

    torch.manual_seed(0)
    images = np.random.RandomState(0).randint(0, 256, (40, 8, 8, 3)).astype(np.uint8)
    inner = TensorDataModule(images, np.arange(40) % 2, batch_size=8)
    inner.eval_transform = lambda: Normalise([0.0] * 3, [1.0] * 3)  # type: ignore[method-assign]
    net = resnet18()
    data = encoded(tmp_path, net, inner, image_size=32)
    x = stored(data, "test")
    assert x.shape == (4, 512)
    assert net.fc.out_features == 1000  # the net that was given keeps its head
    expected = Normalise([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])(data.data.splits["test"].x)
    expected = nn.functional.interpolate(expected, (32, 32), mode="bilinear", antialias=True)
    with torch.inference_mode():
        assert torch.allclose(x, without_head(net.eval())[0](expected), atol=1e-4)
    lines = said(capsys)
    assert "ResNet's head fc (512 → 1000) is taken off" in lines
    assert "Images are normalised as the encoder expects, by mean (0.485, 0.456, 0.406)" in lines


def small_nets() -> dict[str, nn.Module]:
    models = __import__("torchvision").models
    sizes = {"image_size": 64, "patch_size": 32, "num_layers": 1, "num_heads": 2, "hidden_dim": 8, "mlp_dim": 8}
    return {
        "fc (512": models.resnet18(),
        "classifier.3 (1024": models.mobilenet_v3_small(),
        "classifier (14": models.DenseNet(growth_rate=4, block_config=(1, 1), num_init_features=16),
        "heads.head (8": models.VisionTransformer(**sizes),
    }


def test_heads_of_torchvisions_nets_are_taken_off() -> None:
    for place, net in small_nets().items():
        bare, line = without_head(net.eval())
        assert f"head {place} → 1000) is taken off" in line
        with torch.inference_mode():
            assert bare(torch.zeros(1, 3, 64, 64)).shape == (1, int(place.rpartition("(")[2]))
        assert without_head(bare) == (bare, "")


def test_heads_of_other_nets() -> None:
    own = nn.Sequential(nn.Linear(2, 1000))
    assert without_head(own) == (own, "")
    with pytest.raises(ValueError, match="SqueezeNet does not end with a linear layer"):
        without_head(built_by("torchvision.models.squeezenet1_1"))


def test_timms_nets_lose_their_head_and_say_what_images_they_expect(tmp_path: Path) -> None:
    timm = pytest.importorskip("timm")
    images = np.random.RandomState(0).randint(0, 256, (30, 8, 8, 3)).astype(np.uint8)
    data = encoded(tmp_path, timm.create_model("tf_efficientnet_lite0"), TensorDataModule(images, np.arange(30) % 2))
    assert stored(data, "test").shape == (3, 1280)
    (normalise,) = [
        part for part in data.features.made_by("test", 0).transform.modules() if isinstance(part, Normalise)
    ]
    assert torch.allclose(normalise.factor, torch.full((3, 1, 1), 2 / 255))


def test_colours_are_replaced_wherever_they_stand() -> None:
    transform = nn.Sequential(RandomFlip(), nn.Sequential(nn.Identity(), Normalise([0.1] * 3, [0.2] * 3)))
    changed, different = with_colours(transform, (0.5,) * 3, (0.5,) * 3)
    x = torch.full((1, 3, 2, 2), 255, dtype=torch.uint8)
    assert different
    assert torch.allclose(changed(x), torch.ones(1, 3, 2, 2))
    assert torch.allclose(transform(x), torch.full((1, 3, 2, 2), 4.5))
    assert not with_colours(Normalise([0.1], [0.2]), (0.5,) * 3, (0.5,) * 3)[1]


def test_functions_that_do_not_say_what_they_return_build_encoders_too() -> None:
    with pytest.raises(ValueError, match=r"torch\.hub\.nothing is no function"):
        built_by("torch.hub.nothing")
    with pytest.raises(ValueError, match=r"os\.getcwd returns a str, but an nn\.Module is needed"):
        built_by("os.getcwd")


# -- augmented passes -------------------------------------------------------------------------------------------------


class Jitter(nn.Module):
    """Adds what is drawn for each sample."""

    def forward(self, x: Tensor) -> Tensor:
        return x + torch.rand(len(x), 1)


def with_passes(folder: Path, passes: int, **options: Any) -> EncodedDataModule:
    return encoded(folder, data=tables(augmentation=Jitter()), passes=passes, **options)


def test_training_batches_take_one_of_the_passes_by_seed_and_epoch(tmp_path: Path) -> None:
    data = with_passes(tmp_path, 3)
    loader, again = data.train_dataloader(), with_passes(tmp_path, 3, batch_size=20).train_dataloader()
    passes = data.train_dataloader().passes  # type: ignore[attr-defined]
    assert passes.shape == (560, 3, 3)
    assert len({tuple(passes[0, number].tolist()) for number in range(3)}) == 3
    rows = []
    for epoch in range(2):
        taken = {}
        for each in (loader, again):
            each.set_epoch(epoch)
            rows_by_index = {i: row for batch in each for i, row in zip(batch.index.tolist(), batch.x, strict=True)}
            taken[each] = rows_by_index
        common = taken[loader].keys() & taken[again].keys()
        assert all(torch.equal(taken[loader][i], taken[again][i]) for i in common)
        rows.append(taken[loader])
    standard = data.eval_transform()
    for i, row in rows[0].items():
        assert any(torch.equal(row, standard(passes[i, number])) for number in range(3))
    same = [torch.equal(rows[0][i], rows[1][i]) for i in rows[0].keys() & rows[1].keys()]
    assert 0.2 < np.mean(same) < 0.5


def test_two_views_are_two_passes(tmp_path: Path) -> None:
    data = with_passes(tmp_path, 3)
    data.views = 2
    standard, loader = data.eval_transform(), data.train_dataloader()
    for batch in loader:
        assert not (batch.x == batch.second_view).all(1).any()
        options = standard(loader.passes[batch.index])  # type: ignore[attr-defined]
        assert (options == batch.second_view[:, None]).all(2).any(1).all()


def test_two_views_without_two_passes_are_refused(tmp_path: Path) -> None:
    data = with_passes(tmp_path, 0)
    data.views = 2
    assert "set --data.passes 2 or more" in refusal(lambda: next(iter(data.train_dataloader())))


def test_passes_do_not_depend_on_batches_or_on_what_was_drawn_before(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = with_passes(tmp_path / "a", 1)
    torch.manual_seed(1)
    state = torch.get_rng_state()
    one = first.train_dataloader().passes  # type: ignore[attr-defined]
    assert torch.equal(torch.get_rng_state(), state)  # a run draws the same, whether features were there or not
    torch.manual_seed(2)
    two = with_passes(tmp_path / "b", 1, batch_size=9).train_dataloader().passes  # type: ignore[attr-defined]
    assert torch.equal(one, two)
    assert "augmented pass 1" in said(capsys)


def test_augmentation_that_is_not_used_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = with_passes(tmp_path, 0)
    data.encode()
    assert said(capsys).count("Features are computed without TensorDataModule's augmentation") == 1


# -- checkpoints and runs ---------------------------------------------------------------------------------------------


def last(folder: Path) -> str | None:
    """Return the newest checkpoint of the run in a folder, where there is one."""
    return next(map(str, folder.rglob("last.ckpt")), None)


def fitted(folder: Path, make_trainer: MakeTrainer, **options: Any) -> tuple[pl.Trainer, LDMIModule, EncodedDataModule]:
    data = EncodedDataModule(tables(), Counting(), cache=str(folder / "features"), **options)
    module = LDMIModule(Probe(data.num_features, 2), 2, warmup=Stage(CELoss(), epochs=2))
    trainer = make_trainer()
    trainer.fit(module, data)
    return trainer, module, data


def test_other_data_is_standardised_as_in_training(tmp_path: Path, make_trainer: MakeTrainer) -> None:
    _, module, data = fitted(tmp_path, make_trainer)
    checkpoint = last(tmp_path)
    train = stored(data)
    other = EncodedDataModule(tables(numbers(7) + 50), Counting(), cache=str(tmp_path / "features"))
    make_trainer().test(module, other, ckpt_path=checkpoint, verbose=False, weights_only=True)
    batch = next(iter(other.test_dataloader()))
    expected = (stored(other, "test")[batch.index] - train.mean(0)) / train.std(0, correction=0)
    assert torch.allclose(batch.x, expected, rtol=1e-3)
    assert other.encoder.seen == [64, 6]  # what is tested, and nothing else


def test_another_encoder_than_the_checkpoints_is_refused(tmp_path: Path, make_trainer: MakeTrainer) -> None:
    _, module, _ = fitted(tmp_path, make_trainer)
    twice = Counting()
    with torch.no_grad():
        twice.net.weight.mul_(2)
    other = EncodedDataModule(tables(), twice, cache=str(tmp_path / "features"))
    path = last(tmp_path)
    line = refusal(lambda: make_trainer().test(module, other, ckpt_path=path, verbose=False, weights_only=True))
    assert "The encoder Counting is not that of the checkpoint" in line


@pytest.mark.parametrize("changed", [{"passes": 1}, {"dtype": "float16"}])
def test_a_run_is_not_resumed_on_other_features(
    changed: dict[str, Any], tmp_path: Path, make_trainer: MakeTrainer
) -> None:
    data = EncodedDataModule(tables(augmentation=Jitter()), Counting(), cache=str(tmp_path / "features"))
    module = LDMIModule(Probe(3, 2), 2, warmup=Stage(CELoss(), epochs=1))
    make_trainer().fit(module, data)
    other = EncodedDataModule(tables(augmentation=Jitter()), Counting(), cache=str(tmp_path / "features"), **changed)
    longer = LDMIModule(Probe(3, 2), 2, warmup=Stage(CELoss(), epochs=2))
    line = refusal(lambda: make_trainer().fit(longer, other, ckpt_path=last(tmp_path), weights_only=True))
    assert f"data.{next(iter(changed))}" in line


class KeepFirst(pl.Callback):
    """Keeps the checkpoint of the first epoch."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.current_epoch == 1 and (path := last(self.folder)):
            shutil.copy(path, self.folder / "first.ckpt")


def test_a_resumed_run_ends_as_one_that_was_left_alone(tmp_path: Path, make_trainer: MakeTrainer) -> None:
    weights = []
    for begun in (None, str(tmp_path / "whole/first.ckpt")):
        pl.seed_everything(1, verbose=False)
        data = EncodedDataModule(tables(augmentation=Jitter()), Counting(), cache=str(tmp_path / "features"), passes=2)
        module = LDMIModule(Probe(3, 2, hidden=4, dropout=0.5), 2, warmup=Stage(CELoss(), epochs=3))
        root = tmp_path / ("resumed" if begun else "whole")
        make_trainer(default_root_dir=root, callbacks=[KeepFirst(root)]).fit(
            module, data, ckpt_path=begun, weights_only=True
        )
        weights.append(module.state_dict())
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])


def test_a_probe_without_a_width_is_told_where_it_comes_from() -> None:
    with pytest.raises(ValueError, match="where that is an EncodedDataModule"):
        Probe(num_classes=2)


class Counts(nn.Module):
    """How often each of the first ids stands in a text."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.nn.functional.one_hot(x, 50).sum(1).float()


def test_rows_without_labels_are_predicted_not_training_rows_in_their_place(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "own.csv").write_text("text,label\n" + "".join(f"word{i % 7} one,{'ab'[i % 2]}\n" for i in range(60)))
    (tmp_path / "new.csv").write_text("text\nword1 one\nword2 one\nword2\n")
    own = HFDataModule(
        str(tmp_path / "own.csv"), text_column="text", test_source=str(tmp_path / "new.csv"), vocab_size=50
    )
    data = EncodedDataModule(own, Counts(), cache=str(tmp_path / "features"))
    data.setup("predict")
    (batch,) = data.predict_dataloader()
    seen = batch.x * data.eval_transform().std + data.eval_transform().mean
    assert torch.equal(seen.round(), Counts()(own.splits["predict"].x.long()))
    assert (len(batch.x), batch.y.tolist()) == (3, [-1, -1, -1])
    assert "samples of the predict split" in capsys.readouterr().out
