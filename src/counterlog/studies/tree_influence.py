"""Study of influence for boosted trees: do the named rows matter when they are really removed, and are flips found?

For each target the most helpful rows by a method are removed (one row, then 1, 2 and 5 %), the model is trained again,
and the rise of the target's loss is what the method earns. For mislabels, a share of the training labels is flipped and
30 % of the rows are inspected in the order that a score gives.
"""

from __future__ import annotations

import csv
from typing import Any

import numpy as np

from counterlog.core.errors import need_extra
from counterlog.core.study import Check, Clock, Study, Table, versions
from counterlog.core.tree_models import CLIP, Floats
from counterlog.datasets.registry import get
from counterlog.trace.influence_measures import average_rank, flip_labels, mislabel_detection, removal
from counterlog.trace.tree_influence import TreeInfluence

SLUG = "tree-influence"
WAYS: dict[str, dict[str, Any]] = {
    "BoostIn": {"method": "boostin"},
    "BoostIn (newton)": {"method": "boostin", "leaf_scale": "newton"},
    "LeafInfSP": {"method": "leafinfsp"},
    "LeafInfluence": {"method": "leafinfluence"},
    "LeafSim": {"method": "leafsim"},
    "TREX": {"method": "trex"},
    "RandomSL": {"method": "randomsl"},
    "Random": {"method": "random"},
}
SMALL = ("breast-cancer", "german-credit")
SHARES = (0.01, 0.02, 0.05)
FLIPS = (("breast-cancer", 0.4), ("breast-cancer", 0.2), ("german-credit", 0.4), ("german-credit", 0.2))
Data = tuple[Floats, Any]


def breast_cancer() -> Data:
    """569 rows, 30 numbers, bundled with scikit-learn."""
    from sklearn.datasets import load_breast_cancer

    X, y = load_breast_cancer(return_X_y=True)
    return X, y


def table(name: str, file: str, label: str, drop: tuple[int, ...] = (), separator: str = ",") -> Data:
    """A delimited file without missing labels: numbers stay, words become their sorted position."""
    with get(name, file).open(newline="") as lines:
        rows = [r for r in csv.reader(lines, delimiter=separator, skipinitialspace=True) if r]
    if label == "yes":
        rows = rows[1:]
    columns = [list(c) for i, c in enumerate(zip(*rows, strict=True)) if i not in drop]
    *inputs, last = columns
    return np.column_stack([_numbers(c) for c in inputs]), np.array([v == label for v in last]).astype(int)


def _numbers(column: list[str]) -> Floats:
    try:
        return np.array(column, dtype=np.float64)
    except ValueError:
        return np.unique(column, return_inverse=True)[1].astype(np.float64)


def data_set(name: str) -> Data:
    """One of the four data sets, as numbers and 0/1 labels."""
    if name == "breast-cancer":
        return breast_cancer()
    if name == "german-credit":
        return table("uci-german-credit", "german.csv", "1")
    if name == "adult":
        return table("uci-adult", "adult-train.csv", ">50K")
    return table("uci-bank-marketing", "bank_marketing_test.csv", "yes", drop=(10,))


def split(X: Floats, y: Any, n: int, gen: np.random.Generator) -> tuple[Floats, Any, Floats, Any]:
    """n rows to train on; the rest to test."""
    order = gen.permutation(len(y))
    return X[order[:n]], y[order[:n]], X[order[n:]], y[order[n:]]


def learner(rounds: int) -> Any:
    """`fit(X, y)`: LightGBM with 15 leaves and 63 bins, one thread."""
    lightgbm = need_extra("lightgbm", "trees")

    def fit(X: Floats, y: Any, sample_weight: Any = None) -> Any:
        model = lightgbm.LGBMClassifier(
            n_estimators=rounds,
            num_leaves=15,
            max_bin=63,
            n_jobs=1,
            verbose=-1,
            deterministic=True,
            force_col_wise=True,
        )
        return model.fit(X, y, sample_weight=sample_weight)

    return fit


def log_loss(model: Any, X: Floats, y: Any) -> Floats:
    """(m,) nats, probabilities held inside [1e-5, 1 - 1e-5]."""
    p = np.clip(model.booster_.predict(X), CLIP, 1 - CLIP)
    return np.asarray(-np.log(np.where(np.asarray(y) == 1, p, 1 - p)))


def leave_one_out(fit: Any, X: Floats, y: Any, X_test: Floats, y_test: Any) -> Floats:
    """(n, m) by training n times."""
    now = log_loss(fit(X, y), X_test, y_test)
    rows = np.arange(len(y))
    return np.stack([log_loss(fit(X[rows != i], y[rows != i]), X_test, y_test) for i in rows]) - now


def removal_cell(name: str, n: int, targets: int, rounds: int, rng: int, loo: bool) -> dict[str, list[float]]:
    """Method -> rise of the loss after removing one row and each share, mean over targets."""
    gen = np.random.default_rng(rng)
    X, y, X_rest, y_rest = split(*data_set(name), n, gen)
    X_test, y_test = X_rest[:targets], y_rest[:targets]
    fit = learner(rounds)
    model = fit(X, y)
    explainer = TreeInfluence(model, X, y, rng=rng)
    scores = {way: explainer.using(**settings).explain(X_test, y_test) for way, settings in WAYS.items()}
    if loo:
        scores["LOO"] = leave_one_out(fit, X, y, X_test, y_test)
    out = {}
    for way, found in scores.items():
        rises = []
        for j in range(targets):
            one, label = X_test[j : j + 1], y_test[j : j + 1]
            records = removal(fit, X, y, found[:, j], one, label, (0.5 / n, *SHARES), log_loss, model)
            rises.append([r["loss_increase"] for r in records])
        out[way] = np.mean(rises, axis=0).tolist()
    return out


def mislabel_cell(name: str, share: float, n: int, rounds: int, rng: int) -> dict[str, tuple[float, float]]:
    """Score -> share of flips found by inspecting 30 % of the rows, and accuracy after mending them."""
    X, y, X_rest, y_rest = split(*data_set(name), n, np.random.default_rng(rng))
    held = len(y_rest) // 2
    noisy, _ = flip_labels(y, share, rng)
    fit = learner(rounds)
    explainer = TreeInfluence(fit(X, noisy), X, noisy)
    suspicion = {
        "BoostIn, validation sum": -explainer.aggregate(X_rest[:held], y_rest[:held]),
        "BoostIn, self-influence": explainer.self_influence(),
        "loss": explainer.using(method="loss").explain(X_rest[:1], y_rest[:1])[:, 0],
        "random": np.random.default_rng(rng + 99).random(n),
    }
    found = {}
    for way, values in suspicion.items():
        (r,) = mislabel_detection(fit, X, y, noisy, values, X_rest[held:], y_rest[held:], (0.3,), log_loss)
        found[way] = (r["found"], r["accuracy"])
    return found


def run(*, full: bool = False, rng: int = 0) -> Study:
    """The study. Quick: breast cancer alone, 20 targets, 20 rounds, one seed. Raises `MissingExtraError` and
    `DatasetError`."""
    clock = Clock()
    seeds, targets, rounds = (3, 15, 50) if full else (1, 20, 20)
    sizes = {"breast-cancer": 400, "german-credit": 500, "adult": 2_000, "bank-marketing": 2_000}
    names = tuple(sizes) if full else ("breast-cancer",)
    rows, by_name, settings = [], {}, []
    for name in names:
        small = name in SMALL
        asked = targets if small else min(targets, 10)
        cells = [
            removal_cell(name, sizes[name], asked, rounds, rng + s, loo=full and small) for s in range(seeds)
        ]
        mean = {way: np.mean([c[way] for c in cells], axis=0) for way in cells[0]}
        spread = {way: np.std([c[way] for c in cells], axis=0) for way in cells[0]}
        by_name[name] = mean
        settings += [{way: c[way][2] for way in WAYS} for c in cells]
        rows += [
            {
                "data": name,
                "method": way,
                **{
                    f"{label}{suffix}": float(value[i])
                    for i, label in enumerate(("one row", "1 %", "2 %", "5 %"))
                    for suffix, value in (("", m), (" sd", spread[way]))
                },
            }
            for way, m in mean.items()
        ]
    ranks = average_rank({way: [s[way] for s in settings] for way in WAYS})
    flips = FLIPS if full else FLIPS[:1]
    detection, found_by = [], {}
    for name, share in flips:
        found = [mislabel_cell(name, share, sizes[name], rounds, rng + s) for s in range(seeds)]
        for way in found[0]:
            both = np.mean([f[way] for f in found], axis=0)
            found_by[name, share, way] = float(both[0])
            detection.append(
                {
                    "data": name,
                    "flipped": share,
                    "score": way,
                    "found": float(both[0]),
                    "accuracy": float(both[1]),
                }
            )
    return Study(
        slug=SLUG,
        mode="full" if full else "quick",
        rng=rng,
        unit="nats: rise of the target's log-loss after training without the rows",
        n=seeds,
        tables=(
            Table(
                title="Removing the most helpful rows of each target",
                rows=tuple(rows),
                unit="nats, mean over targets and seeds; sd over seeds",
            ),
            Table(
                title="Average rank at 2 % over data sets and seeds (1 is best)",
                rows=tuple({"method": w, "rank": r} for w, r in sorted(ranks.items(), key=lambda kv: kv[1])),
            ),
            Table(
                title="Flipped labels found by inspecting 30 % of the rows",
                rows=tuple(detection),
                unit="share of flips; accuracy on held-out rows after mending",
            ),
        ),
        checks=tuple(checks(by_name, found_by)),
        notes=("BoostIn uses the shrunk leaf of the released code; 'newton' the derivative of the leaf.",),
        seconds=clock.seconds(),
        versions=versions("counterlog", "numpy", "scikit-learn", "lightgbm"),
    )


def checks(by_name: dict[str, Any], found: dict[Any, float]) -> list[Check]:
    """The paper's claims against their bars."""
    out = []
    for name, mean in by_name.items():
        chance = max(float(mean["Random"][2]), float(mean["RandomSL"][2]), 0.0)
        gain = float(mean["BoostIn"][2])
        out.append(
            Check(
                claim=f"{name}: BoostIn's 2 % matter at least five times as much as random rows",
                measured=gain,
                bar=f">= {5 * chance:.3f} nats",
                passed=gain > 0 and gain >= 5 * chance,
            )
        )
        if "LOO" in mean:
            sets, one = float(mean["BoostIn"][3] - mean["LOO"][3]), float(mean["LOO"][0] - mean["BoostIn"][0])
            out += [
                Check(
                    claim=f"{name}: for 5 % of the rows BoostIn beats leave-one-out",
                    measured=sets,
                    bar=">= 0 nats",
                    passed=sets >= 0,
                ),
                Check(
                    claim=f"{name}: for one row leave-one-out beats BoostIn",
                    measured=one,
                    bar=">= 0 nats",
                    passed=one >= 0,
                ),
            ]
    key = ("breast-cancer", 0.4)
    best, plain = found[*key, "BoostIn, validation sum"], found[*key, "loss"]
    bar = max(0.65, plain + 0.1)
    claim = "breast-cancer, 40 % flipped: validation-sum BoostIn finds flips where plain loss does not"
    return [*out, Check(claim=claim, measured=best, bar=f">= {bar:.2f} of flips", passed=best >= bar)]
