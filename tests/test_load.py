"""``ldmi_lightning.load``: a run's predictor, without its training data."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import writers
from sklearn.datasets import load_digits

import ldmi_lightning
from ldmi_lightning.commands import main
from ldmi_lightning.commands.from_checkpoint import checkpoint_in
from ldmi_lightning.errors import UserError

pytestmark = pytest.mark.usefixtures("hub_of_its_own")

QUIET = ["--trainer.accelerator", "cpu", "--trainer.logger", "false", "--trainer.enable_progress_bar", "false"]
SHORT = ["--model.warmup.epochs", "1", "--model.robust.epochs", "1"]


def fit(folder: Path, *words: str) -> Path:
    """Train a run of two epochs in a folder; return the run's own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PL_GLOBAL_SEED", "0")
        assert main(["fit", *QUIET, *SHORT, "--trainer.default_root_dir", str(folder), *words]) == 0
    (run,) = (path for path in folder.iterdir() if (path / "results.json").is_file())
    return run


def predicted(run: Path, folder: Path) -> np.ndarray:
    """Return the probabilities that ``ldmi predict`` gives for the test set."""
    chosen = checkpoint_in(run)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PL_GLOBAL_SEED", "0")
        assert main(["predict", *QUIET, "--ckpt_path", str(chosen), "--output", str(folder)]) == 0
    return np.load(folder / "probabilities.npy")


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fit(tmp_path_factory.mktemp("digits"), "--data.noise", "SymmetricNoise", "--data.noise.rate", "0.2")


@pytest.fixture(scope="module")
def model(digits: Path) -> ldmi_lightning.Predictor:
    before = torch.get_rng_state()
    loaded = ldmi_lightning.load(digits)
    assert torch.equal(before, torch.get_rng_state())
    return loaded


def test_arrays_get_the_probabilities_of_the_command(
    digits: Path, model: ldmi_lightning.Predictor, tmp_path: Path
) -> None:
    wanted = predicted(digits, tmp_path)
    images = load_digits().images.astype(np.uint8)
    test = np.random.RandomState(0).permutation(len(images))[:300]
    found = model.predict_proba(images[test])
    np.testing.assert_allclose(found, wanted, atol=1e-6)
    assert model.predict(images[test]).tolist() == [str(each) for each in found.argmax(1)]
    assert model.classes_.tolist() == list("0123456789")
    assert str(model) == "Predictor(images, 10 classes)"


def test_the_transition_matrix_is_that_of_the_last_stage_that_has_one(digits: Path) -> None:
    stages = json.loads((digits / "results.json").read_text())["stages"]
    assert "transition" not in stages["warmup"]
    # Also of the warm-up's checkpoint: whichever stage predicts, T̂ is the run's.
    for name in ("warmup", "robust"):
        found = ldmi_lightning.load(digits / f"{name}-best.ckpt").transition_
        np.testing.assert_array_equal(found, stages["robust"]["transition"])


def test_a_run_that_has_not_ended_has_chosen_no_stage(digits: Path, tmp_path: Path) -> None:
    shutil.copytree(digits, tmp_path / "run")
    (tmp_path / "run/results.json").unlink()
    with pytest.raises(UserError, match=r"has not ended.*robust-best\.ckpt\."):
        ldmi_lightning.load(tmp_path / "run")
    assert ldmi_lightning.load(tmp_path / "run/robust-best.ckpt").transition_ is None
    (tmp_path / "run/config.yaml").unlink()
    with pytest.raises(UserError, match=r"There is no .*config\.yaml.*load_from_checkpoint"):
        ldmi_lightning.load(tmp_path / "run/robust-best.ckpt")


@pytest.mark.parametrize(
    ("inputs", "fault"),
    [
        ("photo.png", "takes several samples, but got one"),
        (["photo.png"], "Sample 0 cannot be predicted"),
        (np.zeros((2, 9, 9), np.uint8), r"shape \(1, 8, 8\)"),
        (np.full((2, 8, 8), 17, np.uint8), "from 0 to 16, but got 17"),
        (["a", 3], "values of type"),
    ],
)
def test_other_inputs_are_refused_in_one_line(model: ldmi_lightning.Predictor, inputs: object, fault: str) -> None:
    with pytest.raises(UserError, match=fault):
        model.predict(inputs)


def test_no_place_and_no_run_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no such file"):
        ldmi_lightning.load(tmp_path / "gone.ckpt")
    with pytest.raises(UserError, match="no run's folder"):
        ldmi_lightning.load(tmp_path)


def test_no_sample_gives_no_row(model: ldmi_lightning.Predictor) -> None:
    assert model.predict_proba(np.zeros((0, 8, 8), np.uint8)).shape == (0, 10)


def test_texts_are_read_by_the_words_of_a_run_whose_files_are_gone(tmp_path: Path) -> None:
    source, texts = tmp_path / "texts.csv", [f"{'good' if each % 2 else 'bad'} film {each % 7}" for each in range(60)]
    source.write_text("\n".join(["text,label", *(f"{text},{'yes' if 'good' in text else 'no'}" for text in texts)]))
    test = tmp_path / "test.csv"
    test.write_text("\n".join(["text", *texts[:20]]))
    data = [
        "--data",
        "HFDataModule",
        "--data.source",
        str(source),
        "--data.text_column",
        "text",
        "--data.vocab_size",
        "20",
    ]
    run = fit(tmp_path / "runs", *data, "--data.test_source", str(test), "--model.backbone", "WordCNN")
    wanted = predicted(run, tmp_path / "out")
    source.unlink()
    test.unlink()
    model = ldmi_lightning.load(run)
    np.testing.assert_allclose(model.predict_proba(texts[:20]), wanted, atol=1e-6)
    assert model.classes_.tolist() == ["no", "yes"]
    assert set(model.predict(("a good film", "what"))) <= {"no", "yes"}


def test_image_files_are_read_as_those_of_a_folder_that_is_gone(tmp_path: Path) -> None:
    random = np.random.RandomState(0)
    for number in range(48):
        split, name = ("test", "train")[number >= 8], ("dark", "light")[number % 2]
        path = tmp_path / "photos" / split / name / f"{number:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(writers.encoded(writers.picture(random, number % 2, (12, 10, 3))))
    data = ["--data", "ImageFolderDataModule", "--data.root", str(tmp_path / "photos"), "--data.image_size", "16"]
    run = fit(tmp_path / "runs", *data, "--model.backbone", "CIFARCNN")
    wanted = predicted(run, tmp_path / "out")
    shutil.copytree(tmp_path / "photos/test", tmp_path / "new")
    shutil.rmtree(tmp_path / "photos")
    model, paths = ldmi_lightning.load(run), sorted((tmp_path / "new").glob("*/*.png"))
    np.testing.assert_allclose(model.predict_proba(paths), wanted, atol=1e-6)
    assert set(model.predict([str(path) for path in paths])) <= {"dark", "light"}
