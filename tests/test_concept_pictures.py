"""The pictures of docs/concepts.md are those that its script draws, and show what the page says."""

import importlib.util
import math
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

SCRIPT = Path(__file__).parents[1] / "docs" / "pictures" / "draw.py"
spec = importlib.util.spec_from_file_location("draw", SCRIPT)
assert spec
assert spec.loader
draw = importlib.util.module_from_spec(spec)
spec.loader.exec_module(draw)

VISIBLE = 32
FEW = 100  # pixels of half a million: what rounding may move, and no curve


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("drawn")
    draw.draw(folder)
    return folder


def test_each_picture_of_the_page_is_drawn_and_no_other() -> None:
    page = (SCRIPT.parents[1] / "concepts.md").read_text()
    names = sorted(draw.PICTURES)
    assert sorted(path.stem for path in draw.FOLDER.iterdir()) == names
    assert [name for name in names if f"(pictures/concepts/{name}.png)" not in page] == []


@pytest.mark.parametrize("name", draw.PICTURES)
def test_a_picture_is_what_the_script_draws(drawn: Path, name: str) -> None:
    with Image.open(draw.FOLDER / f"{name}.png") as kept, Image.open(drawn / f"{name}.png") as new:
        if kept.info["Software"] != new.info["Software"]:
            pytest.skip(f"drawn by {kept.info['Software']}, and here by {new.info['Software']}")
        assert kept.size == new.size
        difference = np.abs(np.asarray(kept.convert("RGB"), dtype=int) - np.asarray(new.convert("RGB"), dtype=int))
    assert (difference.max(axis=2) > VISIBLE).sum() <= FEW


def test_noise_moves_what_labels_say_is_best_and_lifts_l_dmi_by_a_constant() -> None:
    judged = draw.thresholds_judged()
    missed, l_dmi = judged["share of labels missed"], judged["L_DMI"]
    best = {name: draw.THRESHOLDS[values.argmin()] for name, values in missed.items()}
    assert best == {"clean": pytest.approx(0), "noisy": -3}
    np.testing.assert_allclose(l_dmi["noisy"] - l_dmi["clean"], -math.log(0.4), rtol=1e-9)


def test_l_dmi_is_the_same_on_both_sides_of_a_wall_and_cross_entropy_is_not() -> None:
    losses = draw.slopes_judged()
    l_dmi, cross_entropy = losses["L_DMI"], losses["cross-entropy"]
    np.testing.assert_allclose(l_dmi, l_dmi[::-1], rtol=1e-6)
    assert np.isinf(l_dmi[len(l_dmi) // 2])
    assert np.isfinite(np.delete(l_dmi, len(l_dmi) // 2)).all()
    assert draw.SLOPES[cross_entropy.argmin()] > 0
    falls = np.diff(cross_entropy) < 0
    assert (np.diff(falls.astype(int)) != 0).sum() == 1, "one minimum"


def test_a_gain_is_that_of_samples_drawn() -> None:
    rng = np.random.RandomState(0)
    truth = rng.randint(0, 2, 400_000)
    x = rng.randn(len(truth)) + 2 * truth - 1
    label = np.where(rng.rand(len(truth)) < draw.T[truth, 0], 0, 1)

    def scores(threshold: float) -> np.ndarray:
        decision = (x > threshold).astype(int)
        counts = np.bincount(2 * label + decision, minlength=4).reshape(2, 2)
        return np.log(counts / counts.sum(axis=0))[label, decision]  # type: ignore[no-any-return]

    for threshold, warmup in ((0.0, -1.0), (-1.5, 0.5)):
        more = scores(threshold) - scores(warmup)
        assert draw.gain(threshold, warmup, draw.T) == pytest.approx((more.mean(), more.std()), abs=2e-3)


def test_l_dmi_takes_the_place_of_the_warm_up_only_where_the_page_says_so() -> None:
    gained, deviation = draw.gain(0.0, -3.0, draw.T)
    assert gained > 3 * deviation / math.sqrt(draw.HELD_OUT)
    gains = np.array([draw.gain(each, 0.0, draw.DOMINANT) for each in draw.THRESHOLDS])
    assert (gains[:, 0] <= gains[:, 1] / math.sqrt(draw.HELD_OUT)).all()
