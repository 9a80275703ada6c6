# %% [markdown]
# # Methods beside each other
#
# Cross-entropy, a rival and L_DMI on the same wrong labels: once where cross-entropy must fail, once where it need not.
#
# Each method starts from the same warm-up and trains for as many epochs. Three seeds draw the noise and the weights. The
# accuracies are those on clean labels of rows that no training saw.

# %%
import numpy as np
import pandas as pd
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from ldmi_lightning import LDMIClassifier
from ldmi_lightning.noise import ClassDependentNoise, SymmetricNoise

METHODS = ["ce", "gce", "dmi"]
FLIPS = {9: 1, 2: 0, 4: 7, 3: 5}
NOISE = {
    "4 digits of 10": lambda seed: ClassDependentNoise(rate=0.6, flips=FLIPS, seed=seed),
    "4 labels of 10": lambda seed: SymmetricNoise(rate=0.4, seed=seed),
}
X, truth = load_digits(return_X_y=True)
X_train, X_test, y_train, y_test = train_test_split(X, truth, test_size=0.3, random_state=0, stratify=truth)

# %% [markdown]
# In the first kind of noise four digits of ten carry another's label more often than their own: T is not diagonally dominant.
# In the second four labels of ten are drawn at random, and each class keeps its own label most of the time.

# %%
rows = []
for kind, make in NOISE.items():
    for seed in range(3):
        y = make(seed)(y_train, 10, index=np.arange(len(y_train)))
        for method in METHODS:
            model = LDMIClassifier(loss=method, random_state=seed).fit(X_train, y)
            accuracy = 100 * model.score(X_test, y_test)
            rows.append((kind, method, seed, accuracy, model.chosen_))
runs = pd.DataFrame(rows, columns=["noise", "method", "seed", "accuracy", "kept"])

# %% [markdown]
# Mean and standard deviation over the seeds, in percent, of the stage that each run keeps:

# %%
groups = runs.groupby(["noise", "method"], sort=False)
table = groups["accuracy"].agg(["mean", "std"]).round(1)
table["kept"] = groups["kept"].agg(", ".join)
print(table.to_string())

# %% [markdown]
# A run keeps the warm-up where the later stage is not better by more than one standard error on held-out noisy labels. There
# are 250 of those here, which is few: L_DMI can have found the classes, and the warm-up be kept.

# %% [markdown]
# A comparison is fairer seed by seed, since all methods get the same labels: the difference to cross-entropy, and its
# standard error.

# %%
accuracy = runs.pivot(index=["noise", "seed"], columns="method", values="accuracy")
less = accuracy.sub(accuracy["ce"], axis=0)[["gce", "dmi"]].groupby("noise")
mean, error = less.mean().round(1), (less.std() / 3**0.5).round(1)
print((mean.astype(str) + " ± " + error.astype(str)).to_string())

# %% [markdown]
# Three seeds of one small data set settle nothing. [Which method for which noise](../when-it-helps.md) has eleven methods on
# five data sets, and `ldmi benchmark` runs such a grid ([command line](../command-line.md)).
