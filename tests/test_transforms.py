"""Transforms of batches: each against the same done in NumPy image by image, and drawn for each image."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ldmi_lightning.datamodules import transforms
from ldmi_lightning.datamodules.transforms import (
    CenterCrop,
    Normalise,
    RandomCrop,
    RandomFlip,
    RandomRotation,
    crop,
    flip,
    rotate,
)
from ldmi_lightning.errors import UserError

Pixels = NDArray[np.uint8]

RANDOM = {
    "crop": RandomCrop(12, padding=2),
    "crop, flip": RandomCrop(12, padding=2, flip=True),
    "flip": RandomFlip(),
    "rotation": RandomRotation(45),
    "rotation, flip": RandomRotation(45, flip=True),
}


def images(n: int, height: int = 12, width: int = 12, channels: int = 3) -> Tensor:
    """Return images without a black pixel."""
    generator = torch.Generator().manual_seed(n)
    return torch.randint(1, 256, (n, channels, height, width), generator=generator, dtype=torch.uint8)


def seeded(transform: nn.Module, x: Tensor, seed: int = 0) -> Tensor:
    torch.manual_seed(seed)
    out: Tensor = transform(x)
    return out


def some(n: int) -> Tensor:
    """Return n truth values, both of them among the first three."""
    return torch.arange(n) * 7 % 3 == 1


# -- against NumPy ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("height", "width", "size", "padding"),
    [(12, 12, 12, 4), (12, 12, 7, 0), (9, 14, 8, 1), (5, 5, 11, 3), (6, 8, 6, 0)],
)
@pytest.mark.parametrize("mirrored", [False, True])
def test_crop_is_a_slice_of_the_padded_image(height: int, width: int, size: int, padding: int, mirrored: bool) -> None:
    tops, lefts = range(height + 2 * padding - size + 1), range(width + 2 * padding - size + 1)
    places = [(top, left) for top in tops for left in lefts]
    x, which = images(len(places), height, width), some(len(places))
    top, left = torch.tensor(places).T
    out = crop(x, top, left, which if mirrored else None, size=size, padding=padding)
    for image, result, (t, ell), turned in zip(x.numpy(), out.numpy(), places, which.tolist(), strict=True):
        padded = np.pad(image, ((0, 0), (padding, padding), (padding, padding)))
        expected = padded[:, t : t + size, ell : ell + size]
        assert (result == (expected[:, :, ::-1] if mirrored and turned else expected)).all()


def test_flip_mirrors_the_chosen_images_alone() -> None:
    x, which = images(20, 5, 8), some(20)
    for image, result, turned in zip(x.numpy(), flip(x, which).numpy(), which.tolist(), strict=True):
        assert (result == (image[:, :, ::-1] if turned else image)).all()


def source(image: Pixels, degrees: float) -> tuple[Pixels, NDArray[np.bool_]]:
    """Rotate one image in float64; tell, too, which pixels do not stand so near to two that rounding decides."""
    height, width = image.shape[1:]
    out, clear = np.zeros_like(image), np.ones((height, width), dtype=bool)
    cosine, sine = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
    for i in range(height):
        for j in range(width):
            down, right = i - (height - 1) / 2, j - (width - 1) / 2
            place = cosine * down + sine * right + (height - 1) / 2, cosine * right - sine * down + (width - 1) / 2
            row, column = (int(np.floor(p + 0.5)) for p in place)
            clear[i, j] = all(abs(p + 0.5 - round(p + 0.5)) > 1e-4 for p in place)
            if 0 <= row < height and 0 <= column < width:
                out[:, i, j] = image[:, row, column]
    return out, clear


@pytest.mark.parametrize(("height", "width"), [(24, 24), (17, 30), (31, 12)])
@pytest.mark.parametrize("mirrored", [False, True])
def test_rotation_takes_the_nearest_pixel(height: int, width: int, mirrored: bool) -> None:
    degrees = torch.tensor([-45.0, -17.3, -0.4, 0.0, 3.0, 29.7, 45.0, 90.0, 133.0, -180.0])
    x, which = images(len(degrees), height, width), some(len(degrees))
    out = rotate(x, degrees, which if mirrored else None)
    for image, result, angle, turned in zip(x.numpy(), out.numpy(), degrees.tolist(), which.tolist(), strict=True):
        expected, clear = source(image, angle)
        result = result[:, :, ::-1] if mirrored and turned else result
        assert clear.mean() > 0.9 or angle % 90 == 0
        assert (result == expected)[:, clear].all()


def test_rotation_goes_against_the_clock_as_torchvisions_does() -> None:
    x = images(1, 5, 5)
    assert torch.equal(rotate(x, torch.tensor([90.0])), torch.rot90(x, 1, (2, 3)))
    assert torch.equal(rotate(x, torch.tensor([0.0])), x)


def test_rotation_fills_with_black() -> None:
    corners = rotate(images(1, 20, 20), torch.tensor([45.0]))[0, :, [0, 0, -1, -1], [0, -1, 0, -1]]
    assert not corners.any()


@pytest.mark.parametrize(("height", "width"), [(10, 10), (11, 8)])
def test_center_crop_is_the_middle(height: int, width: int) -> None:
    x = images(3, height, width)
    top, left = (height - 6) // 2, (width - 6) // 2
    assert torch.equal(CenterCrop(6)(x), x[:, :, top : top + 6, left : left + 6])


def test_normalise_takes_each_channel_for_itself() -> None:
    mean, std = [0.1, 0.5, 0.7], [0.2, 0.3, 0.4]
    x = images(4)
    expected = (x.numpy() / 255 - np.reshape(mean, (3, 1, 1))) / np.reshape(std, (3, 1, 1))
    out = Normalise(mean, std)(x)
    assert out.dtype == torch.float32
    torch.testing.assert_close(out, torch.from_numpy(expected).float(), atol=1e-6, rtol=1e-5)


# -- drawn for each image ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", RANDOM)
def test_images_of_a_batch_are_treated_differently(name: str) -> None:
    same = images(1).repeat(64, 1, 1, 1)
    assert len(torch.unique(RANDOM[name](same), dim=0)) >= 2
    if name != "flip":
        assert len(torch.unique(RANDOM[name](same), dim=0)) >= 20


@pytest.mark.parametrize("name", RANDOM)
def test_torchs_seed_decides(name: str) -> None:
    x = images(32)
    assert torch.equal(seeded(RANDOM[name], x), seeded(RANDOM[name], x))
    assert not torch.equal(seeded(RANDOM[name], x), seeded(RANDOM[name], x, seed=1))


@pytest.mark.parametrize("name", RANDOM)
def test_bytes_stay_bytes_and_the_batch_given_stays_as_it_was(name: str) -> None:
    x = images(9)
    before = x.clone()
    out = RANDOM[name](x)
    assert (out.dtype, out.shape) == (torch.uint8, x.shape)
    assert torch.equal(x, before)


@pytest.mark.parametrize("name", RANDOM)
def test_work_in_parts_gives_the_same_pixels(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    x = images(50)
    whole = seeded(RANDOM[name], x)
    monkeypatch.setattr(transforms, "AT_ONCE", 7 * x[0].nbytes)
    assert torch.equal(seeded(RANDOM[name], x), whole)


@pytest.mark.parametrize("name", RANDOM)
def test_strided_batches_and_batches_of_one_are_images_like_any(name: str) -> None:
    x = images(6, 12, 24)[..., ::2]
    assert torch.equal(seeded(RANDOM[name], x), seeded(RANDOM[name], x.contiguous()))
    assert RANDOM[name](x[:1]).shape == x[:1].shape


@pytest.mark.parametrize(
    ("fused", "steps"),
    [
        (RandomCrop(10, padding=1, flip=True), [RandomCrop(10, padding=1), RandomFlip()]),
        (RandomRotation(45, flip=True), [RandomRotation(45), RandomFlip()]),
    ],
)
def test_flip_on_the_way_is_the_flip_afterwards(fused: nn.Module, steps: list[nn.Module]) -> None:
    x = images(40)
    assert torch.equal(seeded(fused, x), seeded(nn.Sequential(*steps), x))


def test_every_place_of_a_crop_comes_equally_often() -> None:
    # The first pixel of a crop tells its place.
    grid = torch.arange(1, 37, dtype=torch.uint8).view(1, 1, 6, 6)
    firsts = seeded(RandomCrop(4), grid.expand(9_000, 1, 6, 6))[:, 0, 0, 0]
    places, counts = firsts.unique(return_counts=True)
    assert places.tolist() == grid[0, 0, :3, :3].flatten().tolist()
    assert (counts - 1_000).abs().max() < 150  # five standard deviations


def test_every_other_image_is_mirrored() -> None:
    x = torch.tensor([1, 2], dtype=torch.uint8).expand(10_000, 1, 1, 2)
    mirrored = (seeded(RandomFlip(), x)[:, 0, 0, 0] == 2).sum()
    assert abs(int(mirrored) - 5_000) < 250


def test_angles_fill_the_range_evenly() -> None:
    # Each pixel holds its row and its column, so that the one 100 to the right of the centre tells the angle.
    rows, columns = torch.meshgrid(torch.arange(255), torch.arange(255), indexing="ij")
    x = torch.stack([rows, columns]).to(torch.uint8).expand(600, 2, 255, 255)
    down, right = (seeded(RandomRotation(30), x)[:, :, 127, 227].double() - 127).T
    angles = torch.rad2deg(torch.atan2(down, right))
    assert angles.abs().max() < 30.5
    assert (torch.histc(angles, bins=6, min=-30.5, max=30.5) - 100).abs().max() < 46  # five standard deviations


# -- on a GPU, and what goes wrong ------------------------------------------------------------------------------------


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("name", RANDOM)
def test_pixels_are_the_same_on_cuda_and_nothing_waits_for_it(name: str) -> None:
    x = images(300, 40, 40)
    on_gpu = x.cuda()
    torch.cuda.set_sync_debug_mode("error")
    try:
        out = seeded(RANDOM[name], on_gpu)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert torch.equal(out.cpu(), seeded(RANDOM[name], x))


@pytest.mark.parametrize("transform", [RandomCrop(13), CenterCrop(13), RandomCrop(17, padding=2)])
def test_square_larger_than_the_images_is_refused(transform: Callable[[Tensor], Tensor]) -> None:
    with pytest.raises(UserError, match=r"A square of 1[37]×1[37] cannot be cut out of images of 12×12"):
        transform(images(2))
