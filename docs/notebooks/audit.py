# %% [markdown]
# # An audit
#
# Which labels of a table are wrong, how many there are, and what the worst look like.
#
# The table is scikit-learn's digits, 64 grey values a row. Of four digits, six labels in ten are turned into another's, so
# that we know which labels are wrong and can say how many were found. `LDMIClassifier` is never told.

# %%
import textwrap

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits

from ldmi_lightning import LDMIClassifier
from ldmi_lightning.noise import ClassDependentNoise

X, truth = load_digits(return_X_y=True)
noise = ClassDependentNoise(rate=0.6, flips={9: 1, 2: 0, 4: 7, 3: 5}, seed=1)
y = noise(truth, 10, index=np.arange(len(truth)))
wrong = y != truth
print(f"{wrong.sum()} of {len(y)} labels are wrong")

# %% [markdown]
# Each label is judged by a model that never saw it: the rows are split into three folds, and each fold is judged by the
# model of the other two.

# %%
found = LDMIClassifier(random_state=0).find_label_issues(X, y, folds=3)
shown = ["rank", "given_label", "predicted_label", "label_quality"]
print(found.sort_values("rank")[shown].head().to_string())
print()
print(*textwrap.wrap(found.attrs["advice"], 80), sep="\n")

# %% [markdown]
# We know the truth here, so the answer can be marked. *Precision* is the share of wrong labels among those that are called
# wrong, *recall* the share of wrong labels that are called wrong.

# %%
called = found["is_label_issue"].to_numpy()
precision = (called & wrong).sum() / called.sum()
recall = (called & wrong).sum() / wrong.sum()
print(f"precision {precision:.2f}, recall {recall:.2f}")
assert precision > 0.8
assert recall > 0.8

# %% [markdown]
# The ten whose label is the least believable:

# %%
worst = found.sort_values("rank").index[:10]
figure, axes = plt.subplots(2, 5, figsize=(6, 3), layout="constrained")
for place, row in zip(axes.flat, worst, strict=True):
    place.imshow(X[row].reshape(8, 8), cmap="gray_r")
    guess = found["predicted_label"][row]
    place.set_title(f"called {y[row]}, is {guess}?", fontsize=8)
    place.axis("off")

# %% [markdown]
# Trained on the corrected labels, or with L_DMI on the wrong ones? [Which labels are wrong](../audit.md) says how an audit
# goes on; from the command line it writes a page with pictures, and a file of corrected labels.
