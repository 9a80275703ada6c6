"""MR: sentences as token ids, the vocabulary of the training texts, and how it travels with a checkpoint."""

import csv
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch

from ldmi_lightning.batch import LabelledData
from ldmi_lightning.commands import main
from ldmi_lightning.datamodules import MRDataModule
from ldmi_lightning.datamodules.loaders import ResidentLoader
from ldmi_lightning.datamodules.text import encode, frequent_words
from ldmi_lightning.errors import UserError
from ldmi_lightning.noise import ClassDependentNoise

pytestmark = pytest.mark.usefixtures("hub_of_its_own")

REPO = Path(__file__).parents[1]
REAL = REPO.parent / "shared/data/rotten_tomatoes"
SMALL = ("--data.batch_size", "16", "--data.vocab_size", "100")  # for the few sentences that are written here
SIZES = {"train": 80, "validation": 20, "test": 20}
FLIP = ClassDependentNoise(0.6, {1: 0}, seed=1)

SIZED_NET = """
from pathlib import Path
from torch import nn

class SizedNet(nn.Sequential):
    def __init__(self, num_classes: int, vocab_size: int = 7) -> None:
        super().__init__(nn.Flatten(), nn.Linear(64, num_classes))
        Path("size").write_text(str(vocab_size))
"""

Rows = tuple[Sequence[Any], Sequence[int]]


def write(folder: Path, splits: dict[str, Rows], column: str = "text") -> Path:
    """Write splits in the hub's layout."""
    folder.mkdir(parents=True, exist_ok=True)
    features = datasets.Features({column: datasets.Value("string"), "label": datasets.Value("int64")})
    for split, (texts, labels) in splits.items():
        table = datasets.Dataset.from_dict({column: texts, "label": labels}, features)
        table.to_parquet(folder / f"{split}-00000-of-00001.parquet")
    return folder


def reviews(seed: int = 0, prefix: str = "") -> dict[str, Rows]:
    """Sentences of 1 to 12 words, positive ones first as on the hub; a third of the words tell the class."""
    rng = np.random.RandomState(seed)
    found = {}
    for split, size in SIZES.items():
        labels = [1] * (size // 2) + [0] * (size // 2)
        texts = []
        for label in labels:
            kinds = rng.choice([["bad", "good"][label], "word", "Word"], size=rng.randint(1, 13))
            texts.append(" ".join(f"{prefix}{kind}{rng.randint(9)}" for kind in kinds))
        texts[::4] = [f"{text} only-in-{split}-{number}" for number, text in enumerate(texts[::4])]
        found[split] = (texts, labels)
    return found


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write(tmp_path_factory.mktemp("written") / "mr", reviews()))


@pytest.fixture(scope="module")
def real() -> str:
    if not REAL.is_dir():
        pytest.skip(f"the real MR is not in {REAL}")
    return str(REAL)


@pytest.fixture(scope="module", params=["written", "real"])
def root(request: pytest.FixtureRequest) -> str:
    return str(request.getfixturevalue(request.param))


def set_up(root: str, **options: Any) -> MRDataModule:
    module = MRDataModule(root=root, **{"noise": FLIP, **options})
    module.setup("fit")
    return module


@pytest.fixture(scope="module", params=["random", "hub"])
def module(root: str, request: pytest.FixtureRequest) -> MRDataModule:
    return set_up(root, split=request.param)


def originals(root: str) -> list[str]:
    """Return all texts in the order that a sample's original index counts in."""
    data = datasets.load_dataset(root)
    return [text for split in SIZES for text in data[split]["text"][:]]


# -- splits and labels ------------------------------------------------------------------------------------------------


def test_random_split_takes_a_tenth_for_the_test_and_a_fifth_of_the_rest_for_validation(written: str) -> None:
    sizes = {name: len(split) for name, split in set_up(written).splits.items()}
    assert sizes == {"train": 87, "val": 21, "test": 12}


def test_random_split_is_the_same_whatever_the_noise_and_the_runs_seed(
    written: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = set_up(written)
    monkeypatch.setenv("PL_GLOBAL_SEED", "5")
    two = set_up(written, noise=None)
    for name, split in one.splits.items():
        assert torch.equal(split.original_index, two.splits[name].original_index)
        assert torch.equal(split.x, two.splits[name].x)


def test_hub_split_is_the_hubs(root: str) -> None:
    module, data = set_up(root, split="hub", noise=None), datasets.load_dataset(root)
    for name, hub_split in zip(("train", "val", "test"), SIZES, strict=True):
        assert module.splits[name].y_clean.tolist() == data[hub_split]["label"][:]


def test_every_sentence_is_in_one_split(module: MRDataModule, root: str) -> None:
    index = torch.cat([split.original_index for split in module.splits.values()])
    assert torch.equal(index.sort().values, torch.arange(len(originals(root))))


def test_noise_is_drawn_anew_for_each_split_and_never_in_the_test(module: MRDataModule) -> None:
    transition = [[1, 0], [0.6, 0.4]]
    for name in ("train", "val"):
        rng = np.random.RandomState(1)
        drawn = [rng.choice(2, p=transition[label]) for label in module.splits[name].y_clean.tolist()]
        assert module.splits[name].y.tolist() == drawn
    assert torch.equal(module.splits["test"].y, module.splits["test"].y_clean)


def test_equal_seeds_give_equal_labels_and_others_others(written: str) -> None:
    reports = [set_up(written, noise=ClassDependentNoise(0.6, {1: 0}, seed=seed)).noise_report() for seed in (1, 1, 2)]
    assert reports[0] == reports[1]
    assert reports[0]["sha256"] != reports[2]["sha256"]


def test_module_finds_all_that_it_asks_of_labelled_data(module: MRDataModule) -> None:
    assert isinstance(module, LabelledData)
    assert (module.num_classes, module.class_names) == (2, ["negative", "positive"])


# -- words ------------------------------------------------------------------------------------------------------------


def test_vocabulary_comes_from_the_training_texts_alone(module: MRDataModule, root: str) -> None:
    texts = originals(root)
    counts: Counter[str] = Counter()
    for position in module.splits["train"].original_index.tolist():
        counts.update(texts[position].lower().split())
    assert set(module.words or []) == set(counts)
    frequencies = [counts[word] for word in module.words or []]
    assert frequencies == sorted(frequencies, reverse=True)


def test_tokens_spell_the_sentences_and_what_the_training_texts_lack_is_unknown(
    module: MRDataModule, root: str
) -> None:
    texts, words = originals(root), ["<padding>", "<unknown>", *(module.words or [])]
    known, unknown = set(words), 0
    for name, split in module.splits.items():
        for row, position in zip(split.x.tolist(), split.original_index.tolist(), strict=True):
            sentence = texts[position].lower().split()
            expected = [word if word in known else "<unknown>" for word in sentence]
            assert [words[token] for token in row if token] == expected
            assert row[len(sentence) :] == [0] * (len(row) - len(sentence))
            unknown += expected.count("<unknown>") if name != "train" else 0
            assert name != "train" or "<unknown>" not in expected
    assert unknown > 0


def test_only_the_most_frequent_words_are_kept_when_the_vocabulary_is_small(written: str) -> None:
    full, small = set_up(written), set_up(written, vocab_size=12)
    assert full.words is not None
    assert small.words == full.words[:10]
    assert small.vocab_size == 12
    assert small.splits["train"].x.max() == 11
    assert torch.equal(
        small.splits["train"].x, torch.where(full.splits["train"].x < 12, full.splits["train"].x, torch.tensor(1))
    )


def test_words_of_equal_frequency_stand_in_alphabetical_order() -> None:
    assert frequent_words(["d c b", "a b"], 3) == frequent_words(["a b", "b d c"], 3) == ["b", "a", "c"]


def test_sentences_are_padded_to_five_and_cut_at_three_hundred() -> None:
    assert encode(["a", "b a"], ["a"]).tolist() == [[2, 0, 0, 0, 0], [1, 2, 0, 0, 0]]
    long = encode(["a b " * 200, "b"], ["a", "b"])
    assert long.shape == (2, 300)
    assert long[0].tolist() == [2, 3] * 150


def test_tokens_are_stored_in_the_smallest_type_that_holds_them(module: MRDataModule) -> None:
    for split in module.splits.values():
        assert split.x.dtype == torch.int16
        assert 5 <= split.x.shape[1] == int((split.x != 0).sum(1).max()) or split.x.shape[1] == 5
    many = [str(number) for number in range(2**15 - 1)]
    assert encode([many[-2], many[-1]], many[:-1])[:, 0].tolist() == [2**15 - 1, 1]
    assert encode([many[-1]], many).dtype == torch.int32
    assert encode([many[-1]], many)[0, 0] == 2**15


# -- batches ----------------------------------------------------------------------------------------------------------


def test_batches_are_what_an_embedding_takes(module: MRDataModule) -> None:
    for loader in (module.train_dataloader(), module.val_dataloader(), module.test_dataloader()):
        batch = next(iter(loader))
        assert batch.x.dtype == torch.int64
        assert batch.x.shape[0] == len(batch.y) == len(batch.y_clean)


def test_two_ranks_batches_join_to_the_single_process_batch(module: MRDataModule) -> None:
    def loader(rank: int, world_size: int) -> ResidentLoader:
        place = {"rank": rank, "world_size": world_size}
        return ResidentLoader(module.splits["train"], 16, module.train_transform(), shuffle_seed=3, **place)

    for whole, *parts in zip(loader(0, 1), loader(0, 2), loader(1, 2), strict=True):
        assert torch.equal(whole.x, torch.cat([part.x for part in parts]))
        assert torch.equal(whole.index, torch.cat([part.index for part in parts]))


# -- the real data ----------------------------------------------------------------------------------------------------


def test_real_splits_have_the_papers_sizes(real: str) -> None:
    module = set_up(real)
    assert {name: len(split) for name, split in module.splits.items()} == {"train": 7677, "val": 1919, "test": 1066}
    counts = sum(torch.bincount(split.y_clean) for split in module.splits.values())
    assert counts.tolist() == [5331, 5331]  # type: ignore[union-attr]
    assert 17_000 < len(module.words or []) < 19_000
    assert (module.splits["val"].x == 1).sum() / (module.splits["val"].x != 0).sum() < 0.07


def test_real_noise_comes_out_as_requested(real: str) -> None:
    for rate in (0.3, 0.6):
        module = set_up(real, noise=ClassDependentNoise(rate, {1: 0}, seed=1))
        matrix = module.noise_report()["matrix"]
        assert matrix[0] == [1, 0]
        assert matrix[1][0] == pytest.approx(rate, abs=0.02)
        assert module.noise_report()["train_rate"] == pytest.approx(rate / 2, abs=0.01)


# -- the command line -------------------------------------------------------------------------------------------------


def fit(root: str, *flags: str) -> Path:
    """Run `ldmi fit` on the shipped configuration, shortened, and return the folder of the run."""
    short = ["--model.warmup.epochs", "1", "--model.robust.epochs", "1", "--trainer.enable_progress_bar", "false"]
    quiet = ["--trainer.logger", "false", "--trainer.accelerator", "cpu"]
    config = ["--config", str(REPO / "configs/mr.yaml"), "--data.root", root]
    before = set(Path("runs").glob("*"))
    assert main(["fit", *config, *short, *quiet, *flags]) == 0
    (folder,) = set(Path("runs").glob("*")) - before
    return folder


def probabilities(folder: Path, *flags: str) -> np.ndarray:
    given = ["--config", str(folder / "config.yaml"), "--ckpt_path", str(folder / "robust-best.ckpt")]
    assert main(["predict", *given, *flags]) == 0
    return np.load(folder / "probabilities.npy")


@pytest.mark.usefixtures("in_own_folder")
def test_shipped_configuration_trains_both_stages_on_the_real_data(real: str) -> None:
    folder = fit(real, "--trainer.limit_train_batches", "12")
    found = json.loads((folder / "results.json").read_text())
    assert found["data"] == "MRDataModule"
    assert found["noise"]["train_rate"] == pytest.approx(0.3, abs=0.01)
    assert found["noise"]["matrix"][1] == pytest.approx([0.6, 0.4], abs=0.02)
    for name, loss in (("warmup", "CELoss"), ("robust", "DMILoss")):
        assert found["stages"][name]["loss"] == loss
        assert 0.45 < found["stages"][name]["test_acc"] < 0.75


@pytest.mark.usefixtures("in_own_folder")
def test_prediction_reads_other_data_with_the_words_of_the_checkpoint(written: str, tmp_path: Path) -> None:
    folder = fit(written, "--data.split", "hub", *SMALL)
    own = probabilities(folder)
    rows = list(csv.DictReader((folder / "predictions.csv").read_text().splitlines()))
    assert {row["name"] for row in rows} <= {"negative", "positive"}
    texts = reviews(seed=9, prefix="un") | {"test": reviews()["test"]}
    other = write(tmp_path / "other", texts)
    assert set_up(str(other), split="hub").words != set_up(written, split="hub").words
    assert np.allclose(probabilities(folder, "--data.root", str(other)), own, atol=1e-6)
    capital = write(
        tmp_path / "short", {split: ([text.upper() for text in part[0]], part[1]) for split, part in reviews().items()}
    )
    assert np.allclose(probabilities(folder, "--data.root", str(capital)), own, atol=1e-6)


@pytest.mark.usefixtures("in_own_folder")
def test_run_goes_on_with_the_same_words_and_with_no_others(
    written: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = fit(written, *SMALL)
    (folder / "last.ckpt").write_bytes((folder / "warmup-last.ckpt").read_bytes())  # as if stopped at the switch
    again = ["fit", "--config", str(folder / "config.yaml"), "--ckpt_path", str(folder / "last.ckpt")]
    # Each word gets another spelling, so that the token ids stay what they were.
    swapped = {
        split: ([" ".join(f"x{word}" for word in text.split()) for text in texts], labels)
        for split, (texts, labels) in reviews().items()
    }
    assert main([*again, "--data.root", str(write(tmp_path / "swapped", swapped))]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert "words of the training texts are not those of the checkpoint" in line
    assert "--data.root" in line
    assert main(again) == 0


@pytest.mark.usefixtures("in_own_folder")
def test_data_without_a_vocabulary_leaves_a_backbones_own_size_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("sized_net.py").write_text(SIZED_NET)
    monkeypatch.syspath_prepend(str(tmp_path))
    quick = [
        "--config",
        str(REPO / "configs/quickstart.yaml"),
        "--trainer.fast_dev_run",
        "1",
        "--trainer.logger",
        "false",
    ]
    net = ["--model.backbone", "sized_net.SizedNet", "--trainer.enable_progress_bar", "false"]
    for flags, size in (([], 7), (["--model.backbone.vocab_size", "9"], 9)):
        assert main(["fit", *quick, *net, *flags]) == 0
        assert Path("size").read_text() == str(size)


def test_checkpoint_holds_the_words_as_plain_strings(written: str) -> None:
    module = set_up(written)
    state = module.state_dict()
    assert set(state) == {"words"}
    assert {type(word) for word in state["words"]} == {str}
    assert MRDataModule(root=written).state_dict() == {}


def test_words_given_before_setup_are_kept(written: str) -> None:
    module = MRDataModule(root=written)
    module.load_state_dict({"words": ["word1", "good2"]})
    module.setup("test")
    assert module.words == ["word1", "good2"]
    assert int(module.splits["train"].x.max()) == 3


# -- what goes wrong --------------------------------------------------------------------------------------------------


def refusal(root: str | None, **options: Any) -> str:
    """Return the message of the error that setting up must end in."""
    with pytest.raises(UserError) as caught:
        set_up(root, **options)  # type: ignore[arg-type]
    return str(caught.value)


@pytest.mark.parametrize("text", ["", "  \n", None])
def test_empty_text_is_named(tmp_path: Path, text: str | None) -> None:
    rows = reviews()
    rows["validation"] = (["good", text, *rows["validation"][0][2:]], rows["validation"][1])
    assert "Text 1 of the validation split is empty" in refusal(str(write(tmp_path / "mr", rows)))


def test_missing_text_column_is_named(tmp_path: Path) -> None:
    message = refusal(str(write(tmp_path / "mr", reviews(), column="sentence")))
    assert "has no column text" in message
    assert f"--data.root {tmp_path / 'mr'}" in message


def test_missing_split_is_named(tmp_path: Path) -> None:
    two = {split: rows for split, rows in reviews().items() if split != "validation"}
    assert "has no validation split" in refusal(str(write(tmp_path / "mr", two)))


def test_label_out_of_range_is_named(tmp_path: Path) -> None:
    rows = reviews()
    rows["train"] = (rows["train"][0], [2, *rows["train"][1][1:]])
    message = refusal(str(write(tmp_path / "mr", rows)), split="hub")
    assert "train split of MRDataModule has labels from 0 to 2" in message


def test_unreachable_hub_leads_to_data_root() -> None:
    assert "Give a local copy with --data.root" in refusal(None)


def test_unknown_split_is_refused(written: str) -> None:
    assert "--data.split must be random or hub, but got kfold" in refusal(written, split="kfold")


@pytest.mark.parametrize("size", [-1, 0, 2])
def test_vocabulary_without_words_is_refused(written: str, size: int) -> None:
    assert f"--data.vocab_size must be at least 3, for padding, unknown words and one word, but got {size}" in refusal(
        written, vocab_size=size
    )


@pytest.mark.parametrize("words", [None, "good", [1, 2]])
def test_state_without_words_is_refused(written: str, words: Any) -> None:
    with pytest.raises(UserError, match="holds no list of words"):
        set_up(written).load_state_dict({"words": words})


def test_checkpoint_with_more_words_than_the_vocabulary_holds_is_refused(written: str) -> None:
    with pytest.raises(UserError, match=r"holds 5 words, too many for --data.vocab_size 6"):
        set_up(written, vocab_size=6).load_state_dict({"words": list("abcde")})
