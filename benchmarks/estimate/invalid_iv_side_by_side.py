"""401(k): what doubleml and econml say beside ours, on the same rows, covariates and kind of learners.

Run: OMP_NUM_THREADS=1 PEER_PYTHON=path/to/python python benchmarks/estimate/invalid_iv_side_by_side.py
Writes benchmarks/results/invalid-iv-side-by-side.json. `PEER_PYTHON` is an interpreter with doubleml and econml
(pip install doubleml econml). All learners are ridge and logistic regressions on standardised covariates, five folds.
None of the peers allows a direct effect of the instrument: they answer under assumptions of their own.
"""

import json
import os
import platform
import subprocess
import tempfile
from pathlib import Path

import numpy as np

from counterlog.core.study import versions
from counterlog.estimate.invalid_iv_ate import InvalidIV, InvalidIVConfig
from counterlog.studies.invalid_iv_ate import pension

LINEAR = InvalidIVConfig(
    repeats=1,
    instrument_learners=("logit",),
    treatment_learners=("logit",),
    outcome_learners=("ridge2/ridge",),
    selection="none",
)
PEERS = """
import json, sys, warnings
warnings.simplefilter("ignore")
import numpy as np, pandas as pd, doubleml as dml, econml
from econml.dml import LinearDML
from econml.iv.dml import OrthoIV
from econml.iv.dr import LinearIntentToTreatDRIV
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
d = np.load(sys.argv[1])
y, a, z, x = d["y"], d["a"], d["z"], d["x"]
def ridge(): return make_pipeline(StandardScaler(), Ridge(1.0))
def logit(): return make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000))
rows = []
names = [f"x{i}" for i in range(x.shape[1])]
frame = pd.DataFrame(x, columns=names).assign(y=y, a=a, z=z)
np.random.seed(0)
iivm = dml.DoubleMLIIVM(dml.DoubleMLData(frame, "y", "a", names, z_cols="z"), ridge(), logit(), logit(), n_folds=5,
                        subgroups={"always_takers": False, "never_takers": True})
rows.append(("doubleml IIVM (LATE)", *map(float, (iivm.fit().coef[0], iivm.se[0]))))
plr = dml.DoubleMLPLR(dml.DoubleMLData(frame, "y", "a", [*names, "z"]), ridge(), ridge(), n_folds=5)
rows.append(("doubleml PLR", *map(float, (plr.fit().coef[0], plr.se[0]))))
dml_ = LinearDML(model_y=ridge(), model_t=logit(), discrete_treatment=True, cv=5, random_state=0)
dml_.fit(y, a, X=None, W=np.column_stack([x, z]))
found = dml_.ate_inference()
rows.append(("econml LinearDML", float(found.mean_point), float(found.stderr_mean)))
ortho = OrthoIV(model_y_xw=ridge(), model_t_xw=logit(), model_z_xw=logit(), discrete_treatment=True,
                discrete_instrument=True, cv=5, random_state=0)
ortho.fit(y, a, Z=z, X=None, W=x)
found = ortho.effect_inference(None)
rows.append(("econml OrthoIV", float(np.ravel(found.point_estimate)[0]), float(np.ravel(found.stderr)[0])))
driv = LinearIntentToTreatDRIV(model_y_xw=ridge(), model_t_xwz=logit(), cv=5, random_state=0)
driv.fit(y, a, Z=z, X=x)
found = driv.ate_inference(x)
rows.append(("econml LinearIntentToTreatDRIV", float(found.mean_point), float(found.stderr_mean)))
print(json.dumps([rows, {"doubleml": dml.__version__, "econml": econml.__version__}]))
"""


def main():
    units = pension()
    found = InvalidIV(LINEAR).estimate(units)
    rows = [("invalid-iv-ate (logit, logit, ridge)", found.value, found.se)]
    rows += [(e.estimator, e.value, e.se) for e in found.beside]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "data.npz"
        np.savez(path, y=units.outcome, a=units.treatment, z=units.instrument, x=units.covariates)
        done = subprocess.run(
            [os.environ["PEER_PYTHON"], "-c", PEERS, str(path)], capture_output=True, text=True
        )
    if done.returncode:
        raise SystemExit(done.stderr)
    theirs, packages = json.loads(done.stdout.splitlines()[-1])
    result = {
        "unit": "dollars",
        "n": units.n,
        "rows": [{"estimator": n, "value": v, "se": s} for n, v, s in (*rows, *theirs)],
        "valid": bool(found.valid),
        "reason": found.reason,
        "versions": {**versions("counterlog", "numpy", "scikit-learn"), **packages},
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
    }
    place = Path(__file__).parents[1] / "results" / "invalid-iv-side-by-side.json"
    place.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
