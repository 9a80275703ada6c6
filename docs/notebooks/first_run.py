# %% [markdown]
# # A first run
#
# Cross-entropy and then L_DMI, from Python, on ten digits of which four mostly carry the label of another.

# %%
import matplotlib.pyplot as plt
import numpy as np
import pytorch_lightning as pl
import torch

from ldmi_lightning import LDMIModule, Stage
from ldmi_lightning.datamodules import DigitsDataModule
from ldmi_lightning.losses import CELoss, DMILoss
from ldmi_lightning.models import DigitsCNN
from ldmi_lightning.noise import ClassDependentNoise

pl.seed_everything(1, verbose=False)
noise = ClassDependentNoise(rate=0.6, flips={9: 1, 2: 0, 4: 7, 3: 5})
data = DigitsDataModule(noise=noise)

# %% [markdown]
# The noise turns 60 % of the nines into ones, of the twos into zeros, and so on, in the training and the validation set.
# The test labels are clean, and nothing is selected by them.
#
# Two stages in one `fit`: L_DMI begins with the best weights of the warm-up.


# %%
def adam(params):
    return torch.optim.Adam(params, lr=1e-3)


warmup = Stage(CELoss(), epochs=20, optimizer=adam)
robust = Stage(DMILoss(memory=0.9), epochs=30, optimizer=adam)
module = LDMIModule(DigitsCNN(10), num_classes=10, warmup=warmup, robust=robust)
quiet = {"enable_progress_bar": False, "enable_model_summary": False}
trainer = pl.Trainer(accelerator="cpu", logger=False, **quiet)
trainer.fit(module, data)

# %% [markdown]
# After `fit` the module holds the weights of the stage that the noisy validation labels speak for. How it was decided:

# %%
print("kept:", module.chosen)
for each in module.choice:
    gain = f"{each['difference']:+.3f} ± {each['standard_error']:.3f}"
    print(f"{each['stage']} against {each['against']}: {gain}")

# %% [markdown]
# How well does it do on clean labels, digit by digit?

# %%
batches = trainer.predict(module, data)
probabilities = torch.cat([probs for _, probs in batches])
truth = np.concatenate([batch.y for batch in data.test_dataloader()])
predicted = probabilities.argmax(dim=1).numpy()
print(f"accuracy {(predicted == truth).mean():.3f}")
assert (predicted == truth).mean() > 0.85

counts = np.zeros((10, 10), dtype=int)
np.add.at(counts, (truth, predicted), 1)
figure, axes = plt.subplots(figsize=(3.6, 3.6), layout="constrained")
axes.imshow(counts, cmap="Blues")
axes.set(xlabel="prediction", ylabel="true digit")
axes.set(xticks=range(10), yticks=range(10))
for (row, column), count in np.ndenumerate(counts):
    colour = "white" if count > 15 else "black"
    axes.text(column, row, count or "", ha="center", va="center", color=colour)

# %% [markdown]
# The four digits that were mostly called another are told apart all the same. [Concepts](../concepts.md) says why that
# works, [From Python](../python.md) what else a stage, a loss or a backbone can be.
