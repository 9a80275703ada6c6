"""The tour of a stranger: what docs/own-data.md shows is run, on data as untidy as it says."""

import csv
import re
from pathlib import Path

import numpy as np
import pytest
import writers
from PIL import Image
from tiny_tokenizers import write_tokenizer
from tiny_transformers import tiny_bert

from ldmi_lightning.commands import main

pytestmark = pytest.mark.usefixtures("hub_of_its_own")

PAGE = (Path(__file__).parents[1] / "docs" / "own-data.md").read_text()
LONGEST = 12
QUICK = [
    *("--trainer.enable_progress_bar", "false", "--trainer.logger", "false", "--trainer.accelerator", "cpu"),
    *("--model.warmup.epochs", "1", "--model.robust.epochs", "1", "--data.batch_size", "16"),
]


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PL_GLOBAL_SEED", "0")
    return tmp_path


def shown(file: str, **replaced: str) -> Path:
    """Write a file that the page shows, with some of its words replaced, and return its path."""
    (text,) = re.findall(rf"^```\w+\n(# {re.escape(file)}\n.*?)^```", PAGE, flags=re.DOTALL | re.MULTILINE)
    for old, new in replaced.items():
        text = text.replace(old, new)
    Path(file).write_text(text)
    return Path(file)


def feedback() -> None:
    """Write 80 texts: two classes in four spellings, and three without a label."""
    spellings = [["bad", "good"], ["Bad", "good"], ["bad ", "good"], ["bad", "GOOD"]]
    rows = [[f"a {['bad', 'good'][i % 2]} film, number {i}", spellings[i // 2 % 4][i % 2]] for i in range(80)]
    for i, missing in ((7, ""), (20, "  "), (33, "nan")):
        rows[i][1] = missing
    with Path("feedback.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["text", "label"], *rows])


def checkpoint() -> Path:
    (path,) = Path("runs").glob("*/robust-best.ckpt")
    return path


def test_every_example_is_short() -> None:
    blocks = re.findall(r"^```(?:yaml|python)\n(.*?)^```", PAGE, flags=re.DOTALL | re.MULTILINE)
    assert len(blocks) == 4
    assert max(len(block.splitlines()) for block in blocks) <= LONGEST


def test_csv_with_strings_blanks_and_missing_labels_predicts_new_texts(capsys: pytest.CaptureFixture[str]) -> None:
    feedback()
    assert main(["fit", "--config", str(shown("feedback.yaml")), *QUICK]) == 0
    said = capsys.readouterr().out
    assert "Classes, as column label of feedback.csv names them: bad, good." in said
    assert "has no label for 3 of 80 samples, which are left out." in said
    assert "'GOOD' (9) is taken for 'good'; 'nan' (1) is taken for no label" in said
    Path("new.csv").write_text("text\n" + "".join(f"a good one {i}\n" for i in range(7)))
    (command,) = re.findall(r"^ldmi (predict .*)$", PAGE, flags=re.MULTILINE)
    words = command.replace("RUN", str(checkpoint().parent)).split()
    assert main([*words, "--trainer.enable_progress_bar", "false"]) == 0
    with (checkpoint().parent / "predictions.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["row"] for row in rows] == list("0123456")
    assert {row["name"] for row in rows} <= {"bad", "good"}


def photographs() -> None:
    """Write 200 photographs of two classes in nine kinds of file, in folders within folders, and a note beside them."""
    rng = np.random.RandomState(0)
    for i in range(200):
        pixels = writers.picture(rng, i % 2 / 2, (*rng.randint(12, 30, 2), 3))
        image, kind = Image.fromarray(pixels), i // 2 % 9
        suffix = ("jpg", "jpeg", "png", "webp", "bmp", "tif", "gif", "png", "jpg")[kind]
        if kind == 7:
            image = Image.fromarray(pixels[:, :, 0].astype(np.uint16) * 257)
        elif kind == 8:
            image = image.convert("CMYK")
        folder = Path("shots") / ["cat", "dog"][i % 2] / f"day{i % 3}"
        folder.mkdir(parents=True, exist_ok=True)
        image.save(folder / f"{i}.{suffix}")
    Path("shots/cat/notes.txt").write_text("taken at noon")


@pytest.mark.slow
def test_200_photographs_of_nine_kinds_of_file(capsys: pytest.CaptureFixture[str]) -> None:
    photographs()
    assert main(["fit", "--config", str(shown("shots.yaml")), "--data.image_size", "16", *QUICK]) == 0
    assert checkpoint().is_file()
    assert "left out are 1 .txt" in (said := capsys.readouterr().out)
    assert "200" in said


def test_table_of_numbers_trains_in_python() -> None:
    (code,) = re.findall(r"^```python\n(.*?)^```", PAGE, flags=re.DOTALL | re.MULTILINE)
    names: dict[str, object] = {}
    exec(compile(code, "own-data.md", "exec"), names)
    assert names["data"].class_names == ["narrow", "wide"]  # type: ignore[attr-defined]
    assert list(Path().iterdir()) == []


def test_tiny_transformer_with_frozen_body(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("transformers")
    feedback()
    folder = tiny_bert(Path("tiny"), "BertForSequenceClassification", num_labels=3)
    write_tokenizer(folder, ["good", "bad", "film,", "a", "number"], model_max_length=16)
    config = shown("sentiment.yaml", **{"sentence-transformers/all-MiniLM-L6-v2": "tiny"})
    assert main(["fit", "--config", str(config), *QUICK]) == 0
    said = capsys.readouterr().out
    assert "tiny: the body is loaded; new, and to be trained, are head.classifier" in said
    assert "parts made of them stay in eval mode" in said
