"""Two or three processes train what one trains: the same labels, the same selection, the same weights, written once."""

import csv
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from blobs import drift
from conftest import MakeTrainer
from numpy.typing import NDArray
from pytorch_lightning.callbacks import GradientAccumulationScheduler
from pytorch_lightning.strategies import DeepSpeedStrategy
from pytorch_lightning.trainer.states import TrainerFn
from ranks_script import EPOCHS, RIVALS, SAME_AS_ONE_PROCESS, batchnorm, ldmi
from test_lccn import ByDefinition
from torch import Tensor, nn
from worlds import FewDigits

from ldmi_lightning.datamodules import DigitsDataModule
from ldmi_lightning.errors import UserError
from ldmi_lightning.losses import CELoss, DMILoss, Loss, Predictions
from ldmi_lightning.models import DigitsCNN
from ldmi_lightning.training.trainer_rules import check_strategy, out_of_time

REPO = Path(__file__).parents[1]
LIMIT = 300
"""Seconds that a subprocess may take; a rank that waits for another in vain ends much earlier, with an error."""

ROUNDING = 1e-9
"""How far weights may drift apart in 64 bits when sums are taken in another order; 1e-5 is what was promised."""

Seen = Mapping[str, Any]


def run(command: list[str], folder: Path) -> str:
    """Run a command in a folder, as from a shell that knows of no other run; return what it printed."""
    ours = ("PL_", "LOCAL_RANK", "NODE_RANK", "WORLD_SIZE", "MASTER_", "LDMI_")
    env = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    env |= {"OMP_NUM_THREADS": "1", "WANDB_MODE": "offline"}
    ended = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=LIMIT)
    assert ended.returncode == 0, ended.stderr[-4000:]
    assert "Traceback" not in ended.stderr
    return ended.stdout


def run_script(folder: Path, accelerator: str) -> Path:
    run([sys.executable, str(REPO / "tests/ranks_script.py"), str(folder), accelerator], folder)
    return folder


def load(folder: Path, ranks: int) -> list[dict[str, Any]]:
    return [torch.load(folder / f"{ranks}-{rank}.pt", weights_only=False) for rank in range(ranks)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run_script(tmp_path_factory.mktemp("ranks"), "cpu")


@pytest.fixture(scope="module")
def alone(folder: Path) -> dict[str, Any]:
    """What the one process saw of each case."""
    return load(folder, 1)[0]


@pytest.fixture(scope="module")
def two(folder: Path) -> list[dict[str, Any]]:
    return load(folder, 2)


@pytest.fixture(scope="module")
def three(folder: Path) -> list[dict[str, Any]]:
    return load(folder, 3)


def same(one: Any, other: Any) -> bool:
    """Compare bit for bit, through mappings and sequences."""
    if isinstance(one, Tensor):
        return torch.equal(one, other)
    if isinstance(one, Mapping):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)


def assert_same_run(one: Seen, other: Seen) -> None:
    """Compare two runs up to rounding: weights, labels, selection, metrics, and the loss's state after each step."""
    assert drift(one["weights"], other["weights"]) < ROUNDING
    assert one["noise"] == other["noise"]
    assert same(one["labels"], other["labels"])
    close = {"rtol": 1e-6, "atol": ROUNDING}  # metrics are kept in 32 bits
    assert one["stages"].keys() == other["stages"].keys() == {"warmup", "robust"}
    for stage in one["stages"]:
        theirs = other["stages"][stage]
        assert one["stages"][stage]["best_epoch"] == theirs["best_epoch"] is not None
        torch.testing.assert_close(one["stages"][stage]["best_score"], theirs["best_score"], **close)
        torch.testing.assert_close(one["stages"][stage]["best_joint"], theirs["best_joint"], **close)
    torch.testing.assert_close(one["metrics"], other["metrics"], **close)
    assert one["counts"] == other["counts"]
    torch.testing.assert_close(one["memories"], other["memories"], **close)
    torch.testing.assert_close(one["state"], other["state"], **close)


# -- two ranks against one process ------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", SAME_AS_ONE_PROCESS)
def test_two_ranks_train_as_one_process_does(alone: Seen, two: list[Seen], case: str) -> None:
    assert_same_run(alone[case], two[0][case])
    learnt = [metrics["train/loss"] for metrics in alone[case]["metrics"][1:]]
    assert learnt[1] < learnt[0], "weights that do not move prove nothing"
    other = case in ("CE, CE", *(f"CE, {rival}" for rival in RIVALS))
    assert len(alone[case]["counts"]) == (0 if other else EPOCHS * alone[case]["batches"])


@pytest.mark.parametrize("case", [*SAME_AS_ONE_PROCESS, "batchnorm", "dropout"])
def test_ranks_agree_bit_for_bit(two: list[Seen], case: str) -> None:
    first, second = ({**rank[case], "written": None, "printed": None, "seen": None} for rank in two)
    assert same(first, second)


def test_memory_and_counts_of_steps_survive_what_ddp_copies(two: list[Seen]) -> None:
    seen = two[1]["CE, DMI with memory"]
    assert [steps for steps, _ in seen["counts"]] == [*range(1, 10)] * EPOCHS
    assert not any(singular for _, singular in seen["counts"])
    assert all(before.ne(after).any() for before, after in zip(seen["memories"], seen["memories"][1:], strict=False))


def test_fw_renews_its_matrix_from_what_all_ranks_saw(alone: Seen, two: list[Seen]) -> None:
    steps = alone["CE, FW"]["batches"]
    first, *later = alone["CE, FW"]["memories"][::steps]
    assert len(later) == EPOCHS - 1
    for renewed in (*later, alone["CE, FW"]["state"]["transition"]):
        assert not torch.allclose(renewed, first, atol=1e-3)
        torch.testing.assert_close(renewed.sum(1), torch.ones(10, dtype=torch.float64))
    assert same([rank["CE, FW"]["state"] for rank in two], [two[0]["CE, FW"]["state"]] * 2)


@pytest.mark.parametrize("ranks", [1, 2])
def test_lccn_counts_on_each_rank_what_a_loop_over_the_samples_of_all_counts(
    alone: Seen, two: list[Seen], monkeypatch: pytest.MonkeyPatch, ranks: int
) -> None:
    world = [rank["CE, LCCN"] for rank in ([alone] if ranks == 1 else two)]
    definition = ByDefinition(Predictions(*world[0]["given"][0]), refresh_every=4, warmup_steps=4, seed=1)
    start = definition.counts[0][:]
    assert len(world[0]["seen"]) == EPOCHS * 9
    for step, parts in enumerate(zip(*(rank["seen"] for rank in world), strict=True)):
        definition(*(torch.cat(column) for column in zip(*parts, strict=True)))
        for rank in world:
            np.testing.assert_allclose(rank["memories"][step], definition.transition, rtol=1e-14)
    for rank in world:
        assert rank["latent"].tolist() == definition.counts
    assert definition.counts[0] != start
    assert sum(map(sum, definition.counts)) == 900


@pytest.mark.parametrize(("case", "size"), [("CE, DMI with memory", 900), ("accumulated, limited", 5 * 97)])
def test_the_pass_between_stages_is_gathered_in_index_order(alone: Seen, two: list[Seen], case: str, size: int) -> None:
    for rank in two:
        train, held_out = rank[case]["given"]
        for (probs, y, index, votes), split, n in ((train, "train", size), (held_out, "val", 151)):
            assert index.tolist() == sorted(set(index.tolist()))
            assert len(index) == n
            assert torch.equal(y, rank[case]["labels"][split][index])
            assert probs.shape == (n, 10)
            assert torch.equal(votes[:, 0], y)
            assert torch.equal(votes[:, 1], index)
        torch.testing.assert_close(rank[case]["given"], alone[case]["given"])


@pytest.mark.parametrize("case", SAME_AS_ONE_PROCESS)
def test_only_one_rank_writes_checkpoints(alone: Seen, two: list[Seen], folder: Path, case: str) -> None:
    assert two[0][case]["written"] == alone[case]["written"] != []
    assert two[1][case]["written"] == two[1][case]["printed"] == []
    (run_folder,) = (folder / "2 ranks" / case).iterdir()
    names = ["last", "robust-best", "robust-last", "warmup-best", "warmup-last"]
    assert sorted(path.name for path in run_folder.iterdir()) == [f"{name}.ckpt" for name in names]


# -- resume -----------------------------------------------------------------------------------------------------------

STOPPED = ["stopped at the switch", "stopped in the robust stage"]


@pytest.mark.parametrize(
    ("stopped", "case"),
    [
        *((name, "CE, DMI with memory") for name in STOPPED),
        *((f"{rival}, stopped", f"CE, {rival}") for rival in RIVALS),
        ("dropout, stopped", "dropout"),
    ],
)
def test_two_ranks_go_on_where_two_ranks_stopped_bit_for_bit(two: list[Seen], stopped: str, case: str) -> None:
    for rank in two:
        resumed, whole = rank[stopped], rank[case]
        for what in ("weights", "progress", "state"):
            assert same(resumed[what], whole[what])
        assert 0 < len(resumed["metrics"]) < len(whole["metrics"])
        for what in ("counts", "memories"):
            assert (len(resumed[what]) > 0) == (len(whole[what]) > 0)
            assert same(resumed[what], whole[what][len(whole[what]) - len(resumed[what]) :])
        assert resumed["folders"] == 1


def test_the_pass_between_stages_is_not_repeated_on_resume(two: list[Seen]) -> None:
    given = {name: [len(rank[name][when]) for rank in two for when in ("given before", "given")] for name in STOPPED}
    # A stage begins before all other callbacks, and so before the one that stops the run here: at the switch it is repeated,
    # since no checkpoint holds it yet.
    assert given == {"stopped at the switch": [2, 2, 2, 2], "stopped in the robust stage": [2, 0, 2, 0]}


@pytest.mark.parametrize(
    ("stopped", "case"),
    [
        *((name, "CE, DMI with memory") for name in STOPPED),
        *((f"{rival}, stopped", f"CE, {rival}") for rival in RIVALS),
    ],
)
def test_one_process_goes_on_where_two_ranks_stopped(alone: Seen, two: list[Seen], stopped: str, case: str) -> None:
    resumed, whole = alone[f"{stopped}, on"], two[0][case]
    assert len(resumed["metrics"]) < len(whole["metrics"])
    assert drift(resumed["weights"], whole["weights"]) < ROUNDING
    assert resumed["stages"]["robust"]["best_epoch"] == whole["stages"]["robust"]["best_epoch"]


# -- nothing is counted twice, and nobody waits in vain ---------------------------------------------------------------


def by_hand(weights: Mapping[str, Tensor], data: FewDigits, split: str) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return softmax outputs of the net of two layers and the labels, over a whole split, by NumPy."""
    data.setup("fit")
    x = data.eval_transform()(data.splits[split].x).flatten(1).double().numpy()
    w0, b0, w1, b1 = (value.numpy() for value in weights.values())
    logits = np.maximum(x @ w0.T + b0, 0) @ w1.T + b1
    probs = np.exp(logits - logits.max(axis=1, keepdims=True))
    return probs / probs.sum(axis=1, keepdims=True), data.splits[split].y.numpy()


def assert_counted_once(seen: Seen, data: FewDigits) -> None:
    """Compare U and the accuracy of the selected epoch, and those on the test set, with NumPy's on the whole split."""
    best = seen["progress"]["best_weights"]
    probs, y = by_hand(best, data, "val")
    joint = seen["progress"]["best_joint"].numpy()
    np.testing.assert_allclose(joint * len(y), np.eye(10)[y].T @ probs, atol=1e-4)
    np.testing.assert_allclose(joint.sum(axis=1) * len(y), np.bincount(y, minlength=10), atol=1e-4)
    epoch = seen["metrics"][EPOCHS + seen["progress"]["best_epoch"] - 1]
    assert epoch["val/acc"] == pytest.approx((probs.argmax(axis=1) == y).mean(), abs=1e-6)
    probs, y = by_hand(best, data, "test")
    assert seen["test"]["test/acc"] == pytest.approx((probs.argmax(axis=1) == y).mean(), abs=1e-6)


def test_three_ranks_count_every_sample_once_where_nothing_divides(alone: Seen, three: list[Seen]) -> None:
    for rank in three:
        assert_same_run(alone["CE, DMI with memory"], rank["CE, DMI with memory"])
        assert_counted_once(rank["CE, DMI with memory"], FewDigits())


def test_a_rank_may_be_left_without_a_sample(alone: Seen, three: list[Seen]) -> None:
    assert_counted_once(alone["crumbs"], FewDigits(3, (61, 7, 2)))
    for rank in three:
        assert_same_run(alone["crumbs"], rank["crumbs"])
        assert_counted_once(rank["crumbs"], FewDigits(3, (61, 7, 2)))


def test_the_clock_of_rank_0_ends_all_ranks(two: list[Seen]) -> None:
    for rank in two:
        progress = rank["clocks"]["progress"]
        assert (progress["stage"], progress["epochs"], progress["over"]) == ("warmup", 1, False)
    assert "stopped early" in two[0]["clocks"]["printed"][-1]


def test_without_a_timer_there_is_always_time(make_trainer: MakeTrainer) -> None:
    assert not out_of_time(make_trainer())


# -- BatchNorm --------------------------------------------------------------------------------------------------------


def test_batchnorm_on_cpu_ranks_is_said_to_be_per_rank_in_one_line(alone: Seen, two: list[Seen]) -> None:
    said = [[line for line in each["batchnorm"]["printed"] if "BatchNorm" in line] for each in (alone, *two)]
    line = "BatchNorm uses each process's part of the batch: PyTorch can synchronise it on GPUs only."
    assert said == [[], [line], []]


@pytest.mark.parametrize(("device", "ranks", "converted"), [("cuda", 2, True), ("cuda", 1, False), ("cpu", 2, False)])
def test_batchnorm_is_synchronised_over_gpus(
    device: str, ranks: int, converted: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    module = ldmi(CELoss(), batchnorm)
    before = module.backbone.state_dict()
    strategy = SimpleNamespace(root_device=torch.device(device))
    fitting = SimpleNamespace(fn=TrainerFn.FITTING)
    fake = SimpleNamespace(
        world_size=ranks, strategy=strategy, state=fitting, is_global_zero=True, progress_bar_callback=None
    )
    module._trainer = fake  # type: ignore[assignment]
    module.configure_model()
    assert any(isinstance(each, nn.SyncBatchNorm) for each in module.backbone.modules()) == converted
    assert same(dict(module.backbone.state_dict()), dict(before))
    assert ("BatchNorm" in capsys.readouterr().out) == (device == "cpu")


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_two_gpus_train_as_one_does_batchnorm_included(tmp_path: Path) -> None:
    run_script(tmp_path, "cuda")
    (one,), both = load(tmp_path, 1), load(tmp_path, 2)
    for case in [*SAME_AS_ONE_PROCESS, "batchnorm"]:
        assert drift(one[case]["weights"], both[0][case]["weights"]) < 1e-5
        assert drift(both[0][case]["weights"], both[1][case]["weights"]) == 0


# -- what is refused --------------------------------------------------------------------------------------------------


def test_strategies_that_shard_weights_are_refused_before_they_do(alone: Seen) -> None:
    assert len(alone["refused"]) == 2
    assert all("--trainer.strategy ddp" in message for message in alone["refused"].values())


def test_deepspeed_is_refused(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer()
    # Its constructor wants the package, which is not installed here.
    trainer._accelerator_connector.strategy = DeepSpeedStrategy.__new__(DeepSpeedStrategy)
    with pytest.raises(UserError, match=r"DeepSpeedStrategy spreads the weights.*--trainer\.strategy ddp"):
        check_strategy(trainer, [CELoss()])


@pytest.mark.parametrize("strategy", ["ddp_spawn", "ddp_fork", "ddp_notebook"])
def test_strategies_that_lose_the_stages_are_refused(make_trainer: MakeTrainer, strategy: str) -> None:
    trainer = make_trainer(devices=2, strategy=strategy)
    with pytest.raises(UserError, match=r"ddp_spawn.*--trainer\.strategy ddp"):
        check_strategy(trainer, [CELoss()])


SCHEDULED = GradientAccumulationScheduler({2: 4})


@pytest.mark.parametrize(("flags", "parts"), [({"accumulate_grad_batches": 2}, 2), ({"callbacks": [SCHEDULED]}, 4)])
def test_determinants_of_parts_of_a_batch_are_refused(
    make_trainer: MakeTrainer, flags: dict[str, Any], parts: int
) -> None:
    with pytest.raises(UserError, match=rf"accumulate_grad_batches={parts} .*--model\.robust\.loss\.memory 0\.99"):
        make_trainer(**flags).fit(ldmi(DMILoss(0.0)), FewDigits())


@pytest.mark.parametrize("loss", [CELoss(), DMILoss(0.9)])
def test_gradients_of_other_losses_may_be_accumulated(make_trainer: MakeTrainer, loss: Loss) -> None:
    check_strategy(make_trainer(accumulate_grad_batches=2), [CELoss(), loss])


def test_a_batch_smaller_than_the_number_of_ranks_is_refused(make_trainer: MakeTrainer) -> None:
    data = FewDigits(batch_size=2)
    data.setup("fit")
    data.trainer = make_trainer(devices=3, strategy="ddp")
    with pytest.raises(UserError, match="2 is less than the 3 devices"):
        data.train_dataloader()


# -- the command ------------------------------------------------------------------------------------------------------

COMMANDS = {
    "devices": [sys.executable],
    "torchrun": [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"],
}


@pytest.fixture(scope="module", params=[pytest.param(name, marks=pytest.mark.slow) for name in ("devices", "torchrun")])
def fitted(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """Fit the quickstart on two ranks by a command; return where, and the lines that it printed."""
    where = tmp_path_factory.mktemp(request.param)
    flags = [
        "--config",
        str(REPO / "configs/quickstart.yaml"),
        "--trainer.accelerator",
        "cpu",
        "--trainer.devices",
        "2",
    ]
    flags += ["--model.warmup.epochs", "1", "--model.robust.epochs", "1"]
    printed = run([*COMMANDS[request.param], "-m", "ldmi_lightning", "fit", *flags], where)
    return where, [line for line in printed.splitlines() if line]


def test_two_devices_simply_work(fitted: tuple[Path, list[str]]) -> None:
    where, lines = fitted
    assert [path.name for path in where.iterdir()] == ["runs"], "nothing lies outside the run folder"
    (run_folder,) = (where / "runs").iterdir()
    names = {"config.yaml", "results.json", "metrics.csv", "last.ckpt", "warmup-best.ckpt", "robust-best.ckpt"}
    assert {path.name for path in run_folder.iterdir()} >= names
    assert len(list(where.rglob("results.json"))) == len(list(where.rglob("config.yaml"))) == 1
    assert lines[0] == lines[-1] == f"Run folder: {run_folder.relative_to(where)}"
    for once in ("stage   loss", "warmup  CELoss", "robust  DMILoss", "robust: DMILoss for up to 1 epochs, from"):
        assert sum(line.startswith(once) for line in lines) == 1, lines
    stages = json.loads((run_folder / "results.json").read_text())["stages"]
    assert stages["warmup"]["test_acc"] > 0.2
    assert stages["robust"]["test_acc"] > 0.2


def test_three_ranks_predict_every_sample_once(folder: Path, three: list[Seen]) -> None:
    (run_folder,) = (folder / "1 ranks" / "digits").iterdir()
    (line,) = three[0]["predict"]
    assert line.startswith("300 predictions")
    assert [rank["predict"] for rank in three[1:]] == [[], []]
    checkpoint = torch.load(run_folder / "last.ckpt", weights_only=True)["state_dict"]
    net = DigitsCNN(10)
    net.load_state_dict({name: checkpoint[f"backbone.{name}"] for name in net.state_dict()})
    data = DigitsDataModule()
    data.setup("test")
    with torch.no_grad():
        probs = net(data.eval_transform()(data.splits["test"].x)).softmax(1)
    np.testing.assert_allclose(np.load(run_folder / "probabilities.npy"), probs, atol=1e-5)
    with (run_folder / "predictions.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [int(row["index"]) for row in rows] == list(range(300))
    assert [int(row["class"]) for row in rows] == probs.argmax(1).tolist()
