"""Writes metrics.json: metrics of scikit-learn and SciPy on seeded data, and
SQuAD-style answer scores by a direct transcription of their definition.

Run: python gen_metrics.py
"""

import collections
import json
import math
import os
import random
import re
import string
import sys

import numpy
import scipy
import sklearn
from scipy.stats import pearsonr, spearmanr
from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef, mean_squared_error

rng = random.Random(7)


def labellings():
    for classes, n in [(2, 1), (2, 2), (2, 17), (2, 408), (3, 56), (3, 250), (5, 40), (20, 200)]:
        for skill in (0.0, 0.5, 0.95):
            gold = [rng.randrange(classes) for _ in range(n)]
            pred = [g if rng.random() < skill else rng.randrange(classes) for g in gold]
            yield pred, gold
    yield [0] * 9, [0, 1] * 4 + [0]
    yield [1] * 9, [1] * 9
    yield [0] * 5, [0] * 5
    yield [0, 1, 0], [1, 0, 1]
    yield [2, 2, 7], [7, 7, 2]


def number(x):
    return None if math.isnan(x) else float(x)


def classification(pred, gold):
    return {
        "pred": pred,
        "gold": gold,
        "accuracy": number(accuracy_score(gold, pred)),
        "f1": number(f1_score(gold, pred, labels=[1], average="macro", zero_division=0)),
        "f1_macro": number(f1_score(gold, pred, average="macro", zero_division=0)),
        "matthews": number(matthews_corrcoef(gold, pred)),
    }


def vectors():
    for n in (2, 3, 10, 101, 400):
        for ties in (False, True):
            for noise in (0.01, 1.0, 10.0):
                y = [rng.uniform(0, 5) for _ in range(n)]
                x = [v + rng.gauss(0, noise) for v in y]
                if ties:
                    y = [round(v * 4) / 4 for v in y]
                    x = [round(v) for v in x]
                yield [round(v, 5) for v in x], [round(v, 5) for v in y]
    yield [1.0, 2.0, 3.0], [4.0, 4.0, 4.0]
    yield [1e9 + i for i in range(10)], [float(i * i) for i in range(10)]


def regression(x, y):
    return {
        "x": x,
        "y": y,
        "pearson": number(pearsonr(x, y)[0]),
        "spearman": number(spearmanr(x, y)[0]),
        "mse": float(mean_squared_error(y, x)),
    }


def normalize(text):
    text = "".join(c for c in text.lower() if c not in set(string.punctuation))
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", text).split())


def answer_f1(pred, gold):
    p, g = normalize(pred).split(), normalize(gold).split()
    same = sum((collections.Counter(p) & collections.Counter(g)).values())
    return 2.0 * (same / len(p)) * (same / len(g)) / (same / len(p) + same / len(g)) if same else 0.0


def answers():
    texts = ["The White House", "White House", "a house", "U.S.", "US", "Jeff Flake", "Jeff", "the", "l\u2019a b", "An-other", "New  York\u00a0City",
             "New York", "\u00e9a the", "St. John's", "St John s", "don't", "a, b", "", "b", "a the an"]
    for a in texts:
        for b in texts:
            yield {"pred": a, "gold": b, "f1": answer_f1(a, b), "em": float(normalize(a) == normalize(b))}


if __name__ == "__main__":
    import warnings

    warnings.simplefilter("ignore")
    out = {
        "versions": {"python": sys.version.split()[0], "numpy": numpy.__version__, "scipy": scipy.__version__, "sklearn": sklearn.__version__},
        "classification": [classification(p, g) for p, g in labellings()],
        "regression": [regression(x, y) for x, y in vectors()],
        "answers": list(answers()),
    }
    path = os.path.join(os.path.dirname(os.path.abspath(__file__)), "metrics.json")
    with open(path, "w", encoding="ascii") as f:
        json.dump(out, f, separators=(",", ":"))
        f.write("\n")
