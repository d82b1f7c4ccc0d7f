"""Cost of selection over 4 x 4 x 4 triples against fitting each learner once a fold, and one triple beside doubleml.

Run: OMP_NUM_THREADS=1 PEER_PYTHON=path/to/python python benchmarks/estimate/invalid_iv_ate.py
Writes benchmarks/results/invalid-iv-ate.json. `PEER_PYTHON` is an interpreter with doubleml; without it that part is
left out. Times are processor seconds, two sides of a ratio in turn in one run.
"""

import json
import os
import platform
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

import numpy as np
from threadpoolctl import threadpool_limits

from counterlog.core.crossfit import folds_by_key, splits
from counterlog.core.hashing import row_keys
from counterlog.core.nuisances import Features
from counterlog.core.orthogonal import interactive_iv, partially_linear, solve, standard_error
from counterlog.core.study import versions
from counterlog.core.units import Units
from counterlog.datasets.encouragement import encouragement
from counterlog.estimate.invalid_iv_ate import InvalidIV, InvalidIVConfig
from counterlog.estimate.invalid_iv_folds import Observed, fold_nuisances

N, FOLDS, REPEATS = 4_000, 5, 3
ROLES = {"outcome": "y", "treatment": "a", "instrument": "z", "covariates": ["x1", "x2"]}
WIDE = InvalidIVConfig(repeats=1, folds=FOLDS)
NARROW = InvalidIVConfig(
    repeats=1,
    folds=FOLDS,
    instrument_learners=("forest",),
    treatment_learners=("forest",),
    outcome_learners=("forest/ridge",),
    selection="none",
)
PEER = """
import json, sys, time, warnings
warnings.simplefilter("ignore")
import numpy as np, pandas as pd, doubleml as dml
from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor
z = np.load(sys.argv[1])
settings = dict(n_estimators=50, min_samples_leaf=20, max_features=0.5, max_samples=0.5, random_state=0, n_jobs=1)
frame = pd.DataFrame({"y": z["y"], "a": z["a"], "z": z["z"], "x1": z["x"][:, 0], "x2": z["x"][:, 1]})
data = dml.DoubleMLData(frame, y_col="y", d_cols="a", z_cols="z", x_cols=["x1", "x2"])
c, r = RandomForestClassifier(**settings), RandomForestRegressor(**settings)
smpls = [[(np.flatnonzero(z["fold"] != k), np.flatnonzero(z["fold"] == k)) for k in range(5)]]
seconds = []
for _ in range(int(sys.argv[2])):
    model = dml.DoubleMLIIVM(data, r, c, c, n_folds=5, draw_sample_splitting=False, normalize_ipw=False)
    model.set_sample_splitting(smpls)
    start = time.process_time()
    model.fit()
    seconds.append(time.process_time() - start)
shared = {k: z[k].reshape(-1, 1) for k in ("ml_g0", "ml_g1", "ml_m", "ml_r0", "ml_r1")}
model = dml.DoubleMLIIVM(data, r, c, c, n_folds=5, draw_sample_splitting=False, normalize_ipw=False)
model.set_sample_splitting(smpls)
model.fit(external_predictions={"a": shared})
late = [float(model.coef[0]), float(model.se[0])]
plain = dml.DoubleMLData(frame.drop(columns="z").assign(z=z["z"]), y_col="y", d_cols="a", x_cols=["x1", "x2", "z"])
plr = dml.DoubleMLPLR(plain, r, r, n_folds=5, draw_sample_splitting=False)
plr.set_sample_splitting(smpls)
plr.fit(external_predictions={"a": {"ml_l": z["ml_l"].reshape(-1, 1), "ml_m": z["ml_a"].reshape(-1, 1)}})
print(json.dumps([seconds, late, [float(plr.coef[0]), float(plr.se[0])], dml.__version__]))
"""


def cpu(work):
    start = time.process_time()
    work()
    return time.process_time() - start


def fit_once(data, fold, config, halves):
    """Every learner once a fold; with `halves` also on the two halves, as the estimator does."""
    names = tuple(dict.fromkeys(t.partition("/")[0] for t in config.outcome_learners))
    with threadpool_limits(1):
        for fit, rest in splits(fold):
            if halves:
                fold_nuisances(
                    data,
                    fit,
                    rest,
                    instrument=config.instrument_learners,
                    treatment=config.treatment_learners,
                    outcome=names,
                    rng=0,
                )
                continue
            for name in config.instrument_learners:
                data.features.fit(name, fit, data.z[fit], chance=True)(rest)
            for arm in (0, 1):
                rows = fit[data.z[fit] == arm]
                for name in config.treatment_learners:
                    data.features.fit(name, rows, data.a[rows], chance=True)(rest)
                for name in names:
                    data.features.fit(name, rows, data.y[rows], chance=False)(rest)


def predictions(data, fold):
    """Cross-fitted forest predictions for both sides."""
    out = {k: np.empty(data.n) for k in ("ml_g0", "ml_g1", "ml_m", "ml_r0", "ml_r1")}
    for fit, rest in splits(fold):
        out["ml_m"][rest] = data.features.fit("logit", fit, data.z[fit], chance=True)(rest)
        for arm in (0, 1):
            rows = fit[data.z[fit] == arm]
            out[f"ml_g{arm}"][rest] = data.features.fit("ridge2", rows, data.y[rows], chance=False)(rest)
            out[f"ml_r{arm}"][rest] = data.features.fit("logit", rows, data.a[rows], chance=True)(rest)
    own = data.z == 1
    out["ml_l"] = np.where(own, out["ml_g1"], out["ml_g0"])
    out["ml_a"] = np.where(own, out["ml_r1"], out["ml_r0"])
    return out


def main():
    frame = encouragement(N)
    units = Units(frame, **ROLES)
    keys = row_keys(N)
    data = Observed(
        units.outcome,
        units.treatment,
        units.instrument,
        units.weights,
        Features(units.covariates),
        keys,
        True,
    )
    fold = folds_by_key(keys, FOLDS)
    fit_once(data, fold, WIDE, halves=False)  # imports and caches
    turns = [
        (
            cpu(lambda: InvalidIV(WIDE).estimate(units)),
            cpu(lambda: fit_once(data, fold, WIDE, halves=True)),
            cpu(lambda: fit_once(data, fold, WIDE, halves=False)),
        )
        for _ in range(REPEATS)
    ]
    whole, with_halves, once = (statistics.median(t) for t in zip(*turns, strict=True))
    bars = [
        {
            "bar": "selection over 64 triples over fitting the same learners once (folds and halves)",
            "measured": whole / with_halves,
            "at_most": 1.5,
        },
        {
            "bar": "selection over 64 triples over fitting each learner once a fold, no halves",
            "measured": whole / once,
            "at_most": 1.5,
        },
    ]
    result = {"seconds": {"selection": whole, "folds and halves": with_halves, "folds": once}}
    peer = os.environ.get("PEER_PYTHON")
    if peer:
        shared = predictions(data, fold)
        means = (shared["ml_g0"], shared["ml_g1"]), (shared["ml_r0"], shared["ml_r1"])
        late, late_if = solve(*interactive_iv(data.y, data.a, data.z, *means, shared["ml_m"]), data.weight)
        plr, plr_if = solve(*partially_linear(data.y, data.a, shared["ml_l"], shared["ml_a"]), data.weight)
        ours_one = statistics.median(cpu(lambda: InvalidIV(NARROW).estimate(units)) for _ in range(REPEATS))
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "data.npz"
            np.savez(
                path, y=data.y, a=data.a, z=data.z, x=frame.select("x1", "x2").to_numpy(), fold=fold, **shared
            )
            done = subprocess.run(
                [peer, "-c", PEER, str(path), str(REPEATS)], capture_output=True, text=True, check=True
            )
        seconds, theirs, theirs_plr, version = json.loads(done.stdout.splitlines()[-1])
        bars += [
            {
                "bar": "one triple of forests over doubleml IIVM with the same forests",
                "measured": ours_one / statistics.median(seconds),
                "at_most": 2.0,
            },
            {
                "bar": "LATE and PLR from shared predictions, largest relative difference from doubleml",
                "measured": max(
                    abs(late / theirs[0] - 1),
                    abs(standard_error(late_if, data.weight, None) / theirs[1] - 1),
                    abs(plr / theirs_plr[0] - 1),
                    abs(standard_error(plr_if, data.weight, None) / theirs_plr[1] - 1),
                ),
                "at_most": 1e-8,
            },
        ]
        result["doubleml"] = {"version": version, "seconds": seconds, "late": theirs, "plr": theirs_plr}
        result["ours"] = {"seconds": ours_one, "late": late, "plr": plr}
    for bar in bars:
        bar["passed"] = bool(bar["measured"] <= bar["at_most"])
    result = {"bars": bars, **result, "versions": versions("counterlog", "numpy", "scikit-learn")}
    result["machine"] = f"{platform.machine()}, {os.cpu_count()} cores"
    path = Path(__file__).parents[1] / "results" / "invalid-iv-ate.json"
    path.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
