"""Mistakes with models, stages, runs and grids, in the order of docs/errors.md; test_errors.py makes them."""

from functools import partial

import torch
from full_disks import room
from mistakes import Mistake, fit, linear, loader, three

from ldmi_lightning import LDMIModule, Stage
from ldmi_lightning.losses import CELoss, ForwardLoss, LCCNLoss, Predictions

GRID = {
    "data": "data: {digits: {config: digits.yaml, noise: {pairs: {class_path: PairFlipNoise}}}}",
    "rates": "rates: [0.2]",
    "methods": "methods: {dmi: dmi.yaml}",
    "seeds": "seeds: [1]",
}


def grid(words: str = "", **changes: str) -> Mistake:
    """Begin to carry out a grid, some lines of which are others."""
    lines = {key: line for key, line in (GRID | changes).items() if line}
    comments = [line or f"without {key}" for key, line in changes.items()]
    files = {
        "grid.yaml": "\n".join(lines.values()),
        "digits.yaml": "seed_everything: 1",
        "dmi.yaml": "seed_everything: 1",
    }
    said = f" # {'; '.join(comments)}" if comments else words
    return Mistake("Grids", f"ldmi benchmark grid.yaml {said}".rstrip(), files=files)


def predictions(predicted: list[int], y: list[int]) -> Predictions:
    """Return what a model of three classes says of some samples, and their labels."""
    probs = torch.nn.functional.one_hot(torch.tensor(predicted, dtype=torch.int64), 3).float()
    return Predictions(probs, torch.tensor(y, dtype=torch.int64), torch.arange(len(y)))


OWN = """
    import torch
    def sgd(params, lr=0.1):
        return torch.optim.SGD(params, lr)
    def nothing(params):
        pass
    def net(num_classes):
        return torch.nn.Linear(64, num_classes)
    """


def own(done: str, text: str = OWN, name: str = "mine.py") -> Mistake:
    """Begin a run with a module of one's own, which no other mistake has imported."""
    return Mistake("Own Python", f"ldmi fit {done}", files={name: text})


RUN_MISTAKES = [
    Mistake("Model", "ldmi fit --model.backbone nowhere.Net"),
    Mistake("Model", "ldmi fit --model.backbone DigitsCnn"),
    Mistake("Model", "ldmi fit --model.backbone WordCNN"),
    Mistake("Model", "ldmi fit --model.backbone.width 64"),
    Mistake("Model", "ldmi fit --model.backbone ResNet50 --model.backbone.weights nowhere.pth"),
    Mistake(
        "Model",
        "ldmi fit --model.backbone ResNet50 --model.backbone.weights text.pth",
        files={"text.pth": "no weights"},
    ),
    Mistake(
        "Model",
        "ldmi fit --model.backbone narrow.Net",
        files={
            "narrow.py": """
                import torch
                class Net(torch.nn.Sequential):
                    def __init__(self):
                        super().__init__(torch.nn.Flatten(), torch.nn.Linear(64, 7))
                """
        },
    ),
    Mistake(
        "Model",
        "LDMIModule(None, ...) of a class without build_backbone()",
        lambda: LDMIModule(None, 3, Stage(CELoss(), 1)),
    ),
    Mistake(
        "Model", "LDMIModule(net, num_classes=1, ...)", lambda: LDMIModule(torch.nn.Linear(2, 1), 1, Stage(CELoss(), 1))
    ),
    Mistake("Stages", "ldmi fit --model.warmup.epochs 0"),
    Mistake("Stages", "ldmi fit --model.warmup.epochs some"),
    Mistake("Stages", "ldmi fit --model.robust.patience 0"),
    Mistake("Stages", "ldmi fit --model.robust.monitor val/acc"),
    Mistake("Stages", "ldmi fit --model.robust.monitor val/akk --model.robust.mode max"),
    Mistake("Stages", "ldmi fit --model.robust.loss NoSuchLoss"),
    Mistake("Stages", "ldmi fit --model.robust.loss.memory 1"),
    Mistake("Stages", "ldmi fit --model.robust.loss.memory 0 --data.batch_size 8"),
    Mistake("Stages", "ldmi fit --model.robust.loss.memry 0.9"),
    Mistake("Stages", "ldmi fit --model.robust.optimizer NoSuchOptimizer"),
    Mistake("Stages", "ldmi fit --model.robust.optimizer.lr=-1"),
    Mistake("Stages", "ldmi fit --model.warmup.optimizer SGD --model.warmup.optimizer.lr 1e30"),
    Mistake("Stages", "Stage(torch.nn.CrossEntropyLoss(), epochs=1)", lambda: Stage(torch.nn.CrossEntropyLoss(), 1)),  # type: ignore[arg-type]
    Mistake("Stages", "ldmi fit --model.more_stages '{robust: {loss: CELoss, epochs: 1}}'"),
    Mistake("Stages", "ldmi fit --model.warmup null --model.robust null"),
    Mistake("Stages", "ldmi fit --model.warm_start runs/none/warmup-best.ckpt"),
    Mistake("Stages", "ldmi fit --model.warm_start notes.txt", files={"notes.txt": "no weights"}),
    Mistake("Stages", "ldmi fit --model.warm_start warmup-best.ckpt --model.robust null"),
    Mistake("Stages", "ldmi fit --stage_cache notes.txt", files={"notes.txt": "no folder"}),
    Mistake("Stages", "ldmi fit --stage_cache cache --trainer.fast_dev_run 1"),
    own("--model.warmup.optimizer mine.adam"),
    own("--model.warmup.optimizer mine.nothing"),
    own("--model.warmup.optimizer mine.sgd --model.warmup.optimizer.rate 1"),
    own("--model.backbone mine.net"),
    own("--model.robust.loss mine.sgd"),
    own("--model.robust.loss broken.Loss", "import nothing_of_the_kind\n", "broken.py"),
    own("--trainer.callbacks EarlyStoping"),
    Mistake("Losses", "ldmi fit --model.robust.loss GCELoss --model.robust.loss.q 1.5"),
    Mistake("Losses", "ldmi fit --model.robust.loss GCELoss --model.robust.loss.truncation 1"),
    Mistake("Losses", "ldmi fit --model.robust.loss ForwardLoss --model.robust.loss.transition anker"),
    Mistake("Losses", "ldmi fit --model.robust.loss ForwardLoss --model.robust.loss.transition '[[0.5, 0.4], [0, 1]]'"),
    Mistake("Losses", "ldmi fit --model.robust.loss ForwardLoss --model.robust.loss.transition '[[0.5, 0.5], [0, 1]]'"),
    Mistake(
        "Losses",
        "ForwardLoss() where noise left no training label of class 1",
        lambda: ForwardLoss().prepare(predictions([0, 1, 2], [0, 0, 2]), predictions([0, 1, 2], [0, 1, 2])),
    ),
    Mistake(
        "Losses",
        "ForwardLoss('held_out') without a validation set",
        lambda: ForwardLoss("held_out").prepare(predictions([0, 1, 2], [0, 1, 2]), predictions([], [])),
    ),
    Mistake("Losses", "ldmi fit --model.robust.loss LCCNLoss --model.robust.loss.prior 0"),
    Mistake("Losses", "ldmi fit --model.robust.loss LCCNLoss --model.robust.loss.refresh_every 0"),
    Mistake("Losses", "ldmi fit --model.robust.loss LCCNLoss --model.robust.loss.warmup_steps=-1"),
    Mistake(
        "Losses",
        "LCCNLoss with batches of (x, y)",
        lambda: fit(
            linear(robust=Stage(LCCNLoss(), epochs=1)), loader(torch.randn(12, 2), three()), enable_checkpointing=False
        ),
    ),
    Mistake("Trainer", "ldmi fit --trainer.max_epochs 3"),
    Mistake("Trainer", "ldmi fit --trainer.max_steps 100"),
    Mistake("Trainer", "ldmi fit --trainer.min_epochs 3"),
    Mistake("Trainer", "ldmi fit --trainer.min_steps 100"),
    Mistake("Trainer", "ldmi fit --trainer.max_epoch 3"),
    Mistake("Trainer", "ldmi fit --trainer.callbacks StochasticWeightAveraging --trainer.callbacks.swa_lrs 0.1"),
    Mistake("Trainer", "ldmi fit --trainer.callbacks LearningRateFinder"),
    Mistake("Trainer", "ldmi fit --trainer.precision 12"),
    Mistake("Trainer", "ldmi fit --trainer.overfit_batches 2"),
    Mistake("Trainer", "ldmi fit --trainer.accumulate_grad_batches 2 --model.robust.loss.memory 0"),
    Mistake("Trainer", "ldmi fit --trainer.default_root_dir taken", files={"taken": "a file"}),
    Mistake("Trainer", "ldmi fit --trainer.default_root_dir /proc/runs"),
    Mistake("Trainer", "ldmi fit --model.warmup.epochs 1  # on a full disk", where=partial(room, 20_000)),
    Mistake("Checkpoints", "ldmi fit --ckpt_path nowhere.ckpt"),
    Mistake("Checkpoints", "ldmi fit --ckpt_path text.ckpt", files={"text.ckpt": "no checkpoint"}),
    Mistake("Checkpoints", "ldmi test"),
    Mistake("Checkpoints", "ldmi test --ckpt_path nowhere.ckpt"),
    Mistake("Checkpoints", "ldmi predict"),
    Mistake("Configuration", "ldmi fit --config nowhere.yaml"),
    Mistake("Configuration", "ldmi fit --config broken.yaml", files={"broken.yaml": "model: [1, 2"}),
    Mistake("Configuration", "ldmi fit --config unknown.yaml", files={"unknown.yaml": "modle: 1"}),
    Mistake("Configuration", "ldmi fit --colour blue"),
    Mistake("Configuration", "ldmi fit --seed_everything=-1"),
    Mistake("Configuration", "ldmi fit --seed_everything false"),
    Mistake("Configuration", "ldmi train"),
    Mistake("Configuration", "ldmi --config a.yaml fit"),
    Mistake("Configuration", "ldmi fit --model.help LDMIModul"),
    Mistake("Grids", "ldmi benchmark"),
    Mistake("Grids", "ldmi benchmark nowhere.yaml"),
    Mistake("Grids", "ldmi benchmark broken.yaml", files={"broken.yaml": "data: [1, 2"}),
    Mistake("Grids", "ldmi benchmark text.yaml", files={"text.yaml": "all data sets"}),
    grid(methods=""),
    grid(methods="methods: [[dmi]]"),
    grid(seeds="seed: [1]"),
    grid(seeds="seeds: []"),
    grid(seeds="seeds: 1"),
    grid(seeds="seeds: [1, 1]"),
    grid(seeds="seeds: [0.5]"),
    grid(rates="rates: [60]"),
    grid(rates=""),
    grid(methods="methods: [dmy]"),
    grid(data="data: {digits: {config: nowhere.yaml}}"),
    grid(data="data: {digits: {config: digits.yaml, noise: {pairs: PairFlipNoise}}}"),
    grid(data="data: {digits: {config: digits.yaml, noise: {pairs: {class_path: NoSuchNoise}}}}"),
    grid(data="data: {digits: {config: digits.yaml, noise: {a b: {class_path: NoNoise}, a-b: {class_path: NoNoise}}}}"),
    grid(options="options: {model.warmup.epoch: 2}"),
    grid("--jobs 0"),
    grid("--data_root mr=/data"),
    grid("--data_root digits=nowhere"),
    grid("--cell digits-pairs-r0.2-dmi-seed2"),
    Mistake("Grids", "ldmi benchmark grid.yaml --output digits.yaml", files=grid().files),
]
