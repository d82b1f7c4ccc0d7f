"""The same seed gives the same answer: in every process, with every number of threads."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from typing import Any

import pytest

ASK = """
import json, sys
import numpy as np
import polars as pl
from counterlog.audit.decision_log import audit
from counterlog.core.crossfit import folds_of, reward_model
from counterlog.core.evaluate import evaluate
from counterlog.core.policies import best_fixed
from counterlog.core.results import plain
from counterlog.core.rounds import Rounds

rows, seed = int(sys.argv[1]), int(sys.argv[2])
gen = np.random.default_rng(4)
p = np.array([0.5, 0.3, 0.2])
action = gen.choice(3, rows, p=p)
frame = pl.DataFrame({
    "item": np.array(["a", "b", "c"])[action], "p": p[action], "x": gen.normal(size=rows),
    "kind": gen.choice(["u", "v"], rows), "user": gen.integers(0, rows // 3, rows),
    "money": gen.gamma(2.0, 3.0, rows) * (gen.random(rows) < 0.2 + 0.2 * action),
})
log = Rounds(frame, action="item", reward="money", propensity="p", context=["x", "kind"], segment="kind",
             unit="user" if len(sys.argv) < 4 else None)
policies = ["uniform", "always:a", "logged"]
small = rows < 100_000
answers = [evaluate(log, policies, ["IPS", "SNIPS"], interval=kind, rng=seed) for kind in ("t", "bootstrap")]
if small:
    answers.append(evaluate(log, ["uniform", "best-fixed"], ["DR", "DM"], model="linear", rng=seed))
made = {
    "estimates": [e.to_dict() for a in answers for e in a.estimates],
    "printed": [str(e) for a in answers for e in a.estimates],
    "folds": folds_of(log, 3, rng=seed).tolist()[:5000],
    "buckets": answers[0].table.part()["n"].to_list()[:5000],
    "fingerprint": log.fingerprint,
}
if small:
    made["decisions"] = best_fixed(log, rng=seed).matrix.argmax(axis=1).tolist()
    made["q"] = reward_model(log, model="boosting", rng=seed)[:500].ravel().tolist()
    made["audit"] = [[f.check, f.severity, f.value] for f in audit(log, ["uniform"], rng=seed).findings]
print(json.dumps(plain(made)))
"""


def ask(
    threads: int,
    *,
    rows: int = 3000,
    seed: int = 0,
    extra: tuple[str, ...] = (),
    python: str = sys.executable,
) -> dict[str, Any]:
    """The answers of a process with so many threads."""
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "POLARS_MAX_THREADS", "MKL_NUM_THREADS")
    environment = {**os.environ, **dict.fromkeys(names, str(threads)), "PYTHONHASHSEED": str(seed + threads)}
    words = [python, "-c", ASK, str(rows), str(seed), *extra]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def differences(first: Any, second: Any, place: str = "") -> list[str]:
    """Where two answers differ by more than 1e-12 relative, or at all when they are no floats."""
    if isinstance(first, dict) and isinstance(second, dict) and first.keys() == second.keys():
        return [d for k in first for d in differences(first[k], second[k], f"{place}.{k}")]
    if isinstance(first, list) and isinstance(second, list) and len(first) == len(second):
        return [
            d
            for i, (a, b) in enumerate(zip(first, second, strict=True))
            for d in differences(a, b, f"{place}[{i}]")
        ]
    if isinstance(first, float) and isinstance(second, float):
        same = math.isclose(first, second, rel_tol=1e-12, abs_tol=1e-300)
    else:
        same = first == second
    return [] if same else [f"{place}: {first} and {second}"]


@pytest.fixture(scope="module")
def one() -> dict[str, Any]:
    """The answers of one thread."""
    return ask(1)


def test_two_threads_give_the_answers_of_one(one: dict[str, Any]) -> None:
    assert differences(one, ask(2)) == []


def test_other_pythons_give_the_same_answers(one: dict[str, Any]) -> None:
    others = [p for p in os.environ.get("COUNTERLOG_PYTHONS", "").split(os.pathsep) if p]
    if not others:
        pytest.skip("COUNTERLOG_PYTHONS names no other interpreter; `make test-pythons` makes them")
    assert [differences(one, ask(1, python=p)) for p in others] == [[]] * len(others)


def test_another_seed_gives_other_folds(one: dict[str, Any]) -> None:
    other = ask(1, seed=1)
    assert other["folds"] != one["folds"] and other["fingerprint"] == one["fingerprint"]
    assert len(differences(one["estimates"], other["estimates"])) > 0


@pytest.mark.slow
@pytest.mark.parametrize("extra", [(), ("rows",)])
def test_a_log_that_is_streamed_gives_the_same_digits(extra: tuple[str, ...]) -> None:
    first, again, more = (ask(t, rows=400_000, extra=extra) for t in (1, 1, 2))
    assert differences(first, again) == []
    assert differences(first, more) == []


def test_a_difference_is_found() -> None:
    assert differences({"a": [1.0, "x"]}, {"a": [1.0 + 1e-11, "x"]}) == [".a[0]: 1.0 and 1.00000000001"]
