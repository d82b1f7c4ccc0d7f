r"""The peers' half of scale.py and correctness.py: run by the interpreter that COUNTERLOG_PEERS names, never imported.

Such an interpreter (Python 3.11) is made by

    python3.11 -m venv peers
    peers/bin/pip install "numpy<2.3" "pandas<3" scipy scikit-learn torch \
        matplotlib seaborn tqdm pyyaml vowpalwabbit==9.11.9
    peers/bin/pip install --no-deps --ignore-requires-python obp==0.5.7 pyieoe
    peers/bin/pip install --no-deps scope-rl==0.2.1 offline-evaluation==0.0.6

obp 0.5.7 declares Python below 3.11 and one version of torch, so it must be forced. Of scope-rl only the interval
functions are called; `gym`, which its module imports and they do not use, is stood in by an empty module.
The last line of the output is the answer as JSON.
"""

import json
import logging
import resource
import sys
import time
import types
import warnings
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np

warnings.filterwarnings("ignore")
logging.disable(logging.INFO)
PACKAGES = (
    "obp",
    "vowpalwabbit",
    "scope-rl",
    "offline-evaluation",
    "numpy",
    "scikit-learn",
    "torch",
    "pandas",
)


def versions():
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def peak_mb():
    """Peak resident megabytes of this process."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def cpu(work):
    start = time.process_time()
    value = work()
    return time.process_time() - start, value


def arrays(folder):
    """What obp's estimators take, as one mapping of arguments."""
    log = dict(np.load(Path(folder) / "arrays.npz"))
    return {
        "reward": log["reward"],
        "action": log["action"],
        "pscore": log["propensity"],
        "position": np.zeros(len(log["reward"]), dtype=int),
        "action_dist": log["pi"][:, :, None],
        "estimated_rewards_by_reg_model": log["q"][:, :, None],
    }, log


def obp_estimators():
    from obp import ope

    return {
        "IPS": ope.InverseProbabilityWeighting(),
        "SNIPS": ope.SelfNormalizedInverseProbabilityWeighting(),
        "DM": ope.DirectMethod(),
        "DR": ope.DoublyRobust(),
        "SNDR": ope.SelfNormalizedDoublyRobust(),
        "SwitchDR(2)": ope.SwitchDoublyRobust(lambda_=2.0),
        "DRos(3)": ope.DoublyRobustWithShrinkage(lambda_=3.0),
        "SubGaussianIPS(0.1)": ope.SubGaussianInverseProbabilityWeighting(lambda_=0.1),
        "SGDR(0.1)": ope.SubGaussianDoublyRobust(lambda_=0.1),
    }


def obp_points(folder):
    """Processor seconds and value of each point estimate, inputs in memory."""
    given, _ = arrays(folder)
    named = obp_estimators()
    timed = {
        name: min(cpu(lambda e=named[name]: e.estimate_policy_value(**given)) for _ in range(3))
        for name in ("IPS", "SNIPS", "DM", "DR")
    }
    return {
        "seconds": {k: v[0] for k, v in timed.items()},
        "values": {k: float(v[1]) for k, v in timed.items()},
        "rss_mb": peak_mb(),
    }


def obp_bootstrap(folder, replicates=20):
    """Processor seconds of `replicates` bootstrap replicates of IPS and SNIPS together."""
    given, _ = arrays(folder)
    named, seconds = obp_estimators(), 0.0
    for name in ("IPS", "SNIPS"):
        e = named[name]
        seconds += cpu(
            lambda e=e: e.estimate_interval(**given, n_bootstrap_samples=replicates, random_state=0)
        )[0]
    return {"seconds": seconds, "replicates": replicates}


def vw(folder, kind, actions=10, data=None):
    """Processor seconds and value of VW's progressive evaluation from its text file."""
    from vowpalwabbit import Workspace

    def work():
        space = Workspace(
            f"--cb {actions} --eval --cb_type {kind} -d {data or Path(folder) / 'log.vw'} --quiet"
        )
        value = -space.get_sum_loss() / space.get_weighted_examples()
        space.finish()
        return value

    seconds, value = cpu(work)
    return {
        "seconds": seconds,
        "value": value,
        "rss_mb": peak_mb(),
    }


def obp_once(folder, copies):
    """One question, arrays to values: IPS and SNIPS of one policy, loading of the arrays not counted."""
    with np.load(Path(folder) / "arrays.npz") as held:  # only what these two estimators read
        needed = {
            name: np.concatenate([held[name]] * int(copies))
            for name in ("reward", "action", "propensity", "pi")
        }
    given = {
        "reward": needed["reward"],
        "action": needed["action"],
        "pscore": needed["propensity"],
        "position": np.zeros(len(needed["reward"]), dtype=int),
        "action_dist": needed["pi"][:, :, None],
    }
    named = obp_estimators()
    seconds, values = cpu(lambda: [float(named[n].estimate_policy_value(**given)) for n in ("IPS", "SNIPS")])
    return {"seconds": seconds, "values": values, "rss_mb": peak_mb()}


def vw_once(folder, copies):
    """One question, text to value: IPS of one policy."""
    text = Path(folder) / "log.vw"
    if int(copies) > 1:
        whole = Path(folder) / "copies.vw"
        with whole.open("wb") as file:
            for _ in range(int(copies)):
                file.write(text.read_bytes())
        text = whole
    answer = vw(folder, "ips", data=text)
    if int(copies) > 1:
        text.unlink()
    return {"seconds": answer["seconds"], "values": [answer["value"]], "rss_mb": answer["rss_mb"]}


def obp_agreement(folder):
    """Every estimator on one log."""
    from obp import ope

    given, log = arrays(folder)
    out = {name: float(e.estimate_policy_value(**given)) for name, e in obp_estimators().items()}
    mips = ope.MarginalizedInverseProbabilityWeighting(n_actions=log["pi"].shape[1])
    known = {k: given[k] for k in ("reward", "action", "position", "action_dist")}
    embed = log["category"][log["action"]][:, None]
    chances = np.eye(int(log["category"].max()) + 1)[log["category"]][:, :, None]
    out["MIPS(e)"] = float(
        mips.estimate_policy_value(
            **known, action_embed=embed, pi_b=log["logging"][:, :, None], p_e_a=chances
        )
    )
    return out


def snips_interval(folder):
    """Width of obp's 95% bootstrap interval of SNIPS."""
    given, _ = arrays(folder)
    ends = obp_estimators()["SNIPS"].estimate_interval(**given, n_bootstrap_samples=500, random_state=0)
    return {"width": ends["95.0% CI (upper)"] - ends["95.0% CI (lower)"]}


def snips_empty(folder):
    """SNIPS of a policy that agrees with no row."""
    given, _ = arrays(folder)
    given["action_dist"] = np.zeros_like(given["action_dist"])
    given["action_dist"][
        np.arange(len(given["action"])), (given["action"] + 1) % given["action_dist"].shape[1]
    ] = 1.0
    return {"value": str(obp_estimators()["SNIPS"].estimate_policy_value(**given))}


def negative_propensity(folder):
    """IPS of a log in which a propensity is NaN."""
    given, _ = arrays(folder)
    given["pscore"] = given["pscore"].copy()
    given["pscore"][3] = np.nan
    return said(lambda: obp_estimators()["IPS"].estimate_policy_value(**given))


def in_sample_model(folder):
    """obp's documented recipe on each of the stored logs: does DR's 95% interval cover?"""
    from obp import ope
    from sklearn.tree import DecisionTreeRegressor

    held = dict(np.load(Path(folder) / "many.npz"))
    covered, widths = 0, []
    for k in range(len(held["reward"])):
        x, action, reward = held["x"][k], held["action"][k], held["reward"][k]
        model = ope.RegressionModel(n_actions=3, base_model=DecisionTreeRegressor(random_state=0))
        q = model.fit_predict(context=x, action=action, reward=reward, random_state=0)
        ends = ope.DoublyRobust().estimate_interval(
            reward=reward,
            action=action,
            pscore=np.full(len(reward), 1 / 3),
            action_dist=held["pi"][k][:, :, None],
            estimated_rewards_by_reg_model=q,
            n_bootstrap_samples=200,
            random_state=k,
        )
        lo, hi = ends["95.0% CI (lower)"], ends["95.0% CI (upper)"]
        covered += lo <= held["truth"] <= hi
        widths.append(hi - lo)
    return {"coverage": covered / len(widths), "width": float(np.mean(widths))}


def said(work):
    """What a call returned, or the error it raised."""
    try:
        return {"value": str(work())}
    except Exception as cause:
        return {"error": f"{type(cause).__name__}: {str(cause).splitlines()[0][:120]}"}


def mips_learnt(folder):
    """MIPS when P(a|x, e) must be learnt."""
    from obp import ope

    given, log = arrays(folder)
    mips = ope.MarginalizedInverseProbabilityWeighting(n_actions=log["pi"].shape[1])
    known = {k: given[k] for k in ("reward", "action", "position", "action_dist")}
    x, embed = log["x"], log["category"][log["action"]][:, None]
    return said(
        lambda: mips.estimate_policy_value(
            **known, action_embed=embed, pi_b=log["logging"][:, :, None], context=x
        )
    )


def weight_classifier(folder):
    """Weights by a classifier, for logs without propensities."""
    from obp import ope
    from sklearn.linear_model import LogisticRegression

    given, log = arrays(folder)

    def work():
        model = ope.ImportanceWeightEstimator(base_model=LogisticRegression(), n_actions=log["pi"].shape[1])
        return model.fit_predict(
            context=log["x"], action=log["action"], action_dist=given["action_dist"], n_folds=2
        )

    return said(work)


def scope_intervals(folder):
    """scope-rl's Hoeffding half-widths at two sizes, its order of ends for losses, its t interval's coverage."""

    class Empty(types.ModuleType):
        def __getattr__(self, name):
            return type(name, (), {})

    sys.modules["gym"] = Empty("gym")
    from scope_rl.utils import estimate_confidence_interval_by_hoeffding as hoeffding
    from scope_rl.utils import estimate_confidence_interval_by_t_test as t_interval

    def ends(found):
        return found["95.0% CI (lower)"], found["95.0% CI (upper)"]

    gen = np.random.default_rng(0)
    half = {n: float(np.subtract(*ends(hoeffding(gen.random(n)))[::-1])) / 2 for n in (100, 10_000)}
    lo, hi = ends(hoeffding(-gen.random(100)))
    draws = np.random.default_rng(1).standard_normal((2_000, 200))
    covered = [lo_ <= 0 <= hi_ for lo_, hi_ in (ends(t_interval(y)) for y in draws)]
    return {
        "half_100": half[100],
        "half_10000": half[10_000],
        "losses_lower": float(lo),
        "losses_upper": float(hi),
        "t_coverage": float(np.mean(covered)),
    }


def banditml_interval(folder):
    """What banditml's IPS returns by default."""
    import pandas as pd
    from ope.methods import inverse_propensity_scoring as ips

    _, log = arrays(folder)
    n, names = 500, [f"a{k}" for k in range(log["pi"].shape[1])]
    frame = pd.DataFrame(
        {
            "context": list(range(n)),
            "action": [names[a] for a in log["action"][:n]],
            "reward": log["reward"][:n],
            "action_prob": log["propensity"][:n],
        }
    )
    chances = [dict(zip(names, row, strict=True)) for row in log["pi"].tolist()]
    return said(lambda: ips.evaluate(frame, lambda i: chances[i])["expected_reward_new_policy"])


if __name__ == "__main__":
    if sys.argv[1] == "versions":
        answer = versions()
    else:
        extra = [sys.argv[3]] if len(sys.argv) > 3 else []
        answer = globals()[sys.argv[1]](sys.argv[2], *extra)
    print(json.dumps(answer))
