"""Images through frozen encoders: files that cannot be read, sizes, colours, and heads that are taken off."""

from pathlib import Path

import numpy as np
import pytest
import torch
from features import encoded, said, stored
from PIL import Image
from refusals import refusal
from torch import nn

from ldmi_lightning.datamodules import (
    Examples,
    NoisyDataModule,
    TensorDataModule,
)
from ldmi_lightning.datamodules.encoding.transforms import with_colours
from ldmi_lightning.datamodules.image_files import ImageFiles
from ldmi_lightning.datamodules.transforms import Normalise, RandomFlip
from ldmi_lightning.models import built_by
from ldmi_lightning.models.encoders import without_head

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
