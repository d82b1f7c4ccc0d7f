"""Study of stale rollouts: which group-relative losses keep learning from a sampler 20 steps old, and which collapse?

The base model is trained here on the chain-sum corpus and kept (see `datasets/chain_sum.py`): it answers rightly one
time in six. 16 prompts with 8 responses a step, AdamW 3e-4, no KL penalty; the sampler is refreshed at every step
(on policy), every 20 steps, or never (all rows are the base model's). Accuracy on 256 prompts that were never trained
on, two responses each, at temperature 1.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from counterlog.core.files import write_whole
from counterlog.core.study import Check, Clock, Study, Table, versions
from counterlog.datasets import chain_sum
from counterlog.datasets.registry import cache_folder
from counterlog.index import ROOT
from counterlog.posttrain.group_relative_reinforce import GroupRelativeReinforce, GroupRelativeReinforceConfig

SLUG = "group-relative-reinforce"
CLIPPED, IS = "rec-oneside-nois", "rec-oneside-is"
WAYS: dict[str, dict[str, Any]] = {
    "reinforce": {},
    "grpo": {},
    CLIPPED: {},
    IS: {},
    "rec-oneside-nois-wide": {},
    "rec-twoside-nois": {},
    "rec-ring-nois": {},
    "asymre": {},
    "opmd": {},
    "opmd c=1": {"regularizer_coef": 1.0},
    "red-weight": {},
    "red-drop": {},
}
OFFLINE = ("reinforce", "grpo", CLIPPED, "asymre", "opmd", "red-weight")
ON_POLICY = ("reinforce", CLIPPED)
HELD, TWICE = 256, 2
SETTINGS: dict[str, Any] = {
    "lr": 3e-4,
    "prompts": 16,
    "responses": 8,
    "longest": chain_sum.LONGEST,
    "samples": 0,
}
SYNC = {1: "every step", 20: "every 20 steps", 0: "never"}


def prompts(rng: int) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """All 2,401 prompts in two parts: to train on, and 256 to judge by."""
    every = np.array(list(product(range(chain_sum.HIGHEST + 1), repeat=chain_sum.OPERANDS)))
    order = np.random.default_rng([rng, 77]).permutation(len(every))
    texts = [{"prompt": t} for t in chain_sum.prompt_texts(every[order])]
    return texts[HELD:], texts[:HELD]


class Accuracy:
    """Judges the model after some steps; a callback of the loop."""

    def __init__(self, at: tuple[int, ...], held: list[dict[str, Any]], rng: int) -> None:
        self.at, self.held, self.rng = at, held, rng
        self.found: dict[int, float] = {}

    def on_step_end(self, *, step: int, metrics: dict[str, float], model: Any) -> None:
        """Remember the accuracy where it is asked for."""
        if step + 1 in self.at:
            self.found[step + 1] = accuracy(model.model, self.held, self.rng)


def accuracy(model: Any, held: list[dict[str, Any]], rng: int, *, times: int = TWICE) -> float:
    """Share of right responses at temperature 1."""
    return float(judged(model, held, rng, times).mean())


def judged(model: Any, held: list[dict[str, Any]], rng: int, times: int) -> Any:
    """(prompts, times) rewards."""
    from counterlog.core.language_models import LanguageModel
    from counterlog.core.rollout_sources import read_prompts, sample_scored

    found = LanguageModel(model, chain_sum.number_tokenizer(), chain_sum.PAD, chain_sum.END)
    asked = np.repeat(np.arange(len(held)), times)
    batch = sample_scored(
        found, read_prompts(held, found), asked, [chain_sum.reward], seed=rng + 991, longest=chain_sum.LONGEST
    )
    return batch.rewards.numpy().reshape(len(held), times)


def one_run(folder: Any, cell: tuple[str, int, int], steps: int, rng: int) -> dict[str, Any]:
    """A way, a sync interval and a seed: accuracies, and what the run measured about itself."""
    import torch

    torch.set_num_threads(1)
    logging.getLogger("accelerate").setLevel(logging.ERROR)
    way, sync, seed = cell
    train, held = prompts(rng)
    config = GroupRelativeReinforceConfig.preset(
        way.split(" ")[0], steps=steps, sync_interval=sync, **SETTINGS, **WAYS[way]
    )
    watch = Accuracy((40, steps), held, rng + seed)
    tuned = GroupRelativeReinforce(config).tune(
        str(folder), prompts=train, reward=chain_sum.reward, rng=rng + seed, callbacks=(watch,)
    )
    last = tuned.report.metrics[-20:]
    mean = {k: float(np.mean([m[k] for m in last if k in m] or [np.nan])) for k in MEASURED}
    curve = [float(np.mean(tuned.report.column("reward")[i : i + 20])) for i in range(0, steps, 20)]
    return {
        "way": way,
        "sync": sync,
        "acc 40": watch.found[40],
        "acc end": watch.found[steps],
        **mean,
        "curve": curve,
    }


def code_mark() -> str:
    """A hash of everything that a run computes with: runs of other code are not taken over."""
    files = [*sorted((ROOT / "core").glob("*.py")), ROOT / "datasets" / "chain_sum.py"]
    files += [ROOT / "posttrain" / "group_relative_reinforce.py", Path(__file__)]
    return hashlib.sha256(b"".join(f.read_bytes() for f in files)).hexdigest()[:16]


def kept_run(folder: Path, work: Callable[..., dict[str, Any]], cell: tuple[str, int, int]) -> dict[str, Any]:
    """The run, read from the folder where a study that was stopped has left it."""
    said = json.dumps([cell, work.keywords])  # type: ignore[attr-defined]
    file = folder / f"{hashlib.sha256(said.encode()).hexdigest()[:16]}.json"
    if not file.exists():
        write_whole(file, json.dumps(work(cell)))
    found: dict[str, Any] = json.loads(file.read_text())
    return found


MEASURED = (
    "entropy",
    "clip_positive",
    "clip_negative",
    "ess_tokens",
    "kl_behaviour",
    "ratio_q99",
    "staleness",
)


def cells_of(full: bool, seeds: int) -> list[tuple[str, int, int]]:
    """What is run: every way at 20 steps; some never refreshed, some on policy."""
    if not full:
        return [(way, 20, 0) for way in ("reinforce", CLIPPED, "grpo")]
    grid = [(way, 20) for way in WAYS] + [(way, 0) for way in OFFLINE] + [(way, 1) for way in ON_POLICY]
    return [(way, sync, seed) for way, sync in grid for seed in range(seeds)]


def run(*, full: bool = False, rng: int = 0, jobs: int = 2) -> Study:
    """The study. Quick: three ways, 40 steps, one seed."""
    from joblib import Parallel, delayed

    clock = Clock()
    steps, seeds = (160, 3) if full else (40, 1)
    folder = chain_sum.base_model_folder()
    cells = cells_of(full, seeds)
    work = partial(one_run, folder, steps=steps, rng=rng)
    if full:
        kept = partial(kept_run, cache_folder() / "studies" / SLUG / code_mark(), work)
        found = Parallel(n_jobs=jobs)(delayed(kept)(c) for c in cells)
    else:
        found = [work(c) for c in cells]
    base = base_scores(folder, rng)
    rows = summary(found, steps)
    return Study(
        slug=SLUG,
        mode="full" if full else "quick",
        rng=rng,
        unit=f"share of right responses on {HELD} held-out prompts, {TWICE} each",
        n=seeds,
        tables=(
            Table(title="The base model", rows=(base,), unit="share of right responses"),
            Table(
                title="Accuracy by loss and age of the sampler",
                rows=tuple(rows),
                unit="share of right responses, mean and sd over seeds; the rest over the last 20 steps",
            ),
            Table(
                title="Reward of the rows trained on",
                rows=tuple(curve_rows(found)),
                unit="mean over 20 steps and seeds",
            ),
        ),
        checks=tuple(checks(rows, full)),
        notes=(
            "Refreshed never: every row is the base model's, as in a log.",
            "The reward of a step is that of its rows, which the sampler drew up to 19 steps before.",
        ),
        seconds=clock.seconds(),
        versions=versions("counterlog", "torch", "transformers", "accelerate"),
    )


def base_scores(folder: Any, rng: int) -> dict[str, float]:
    """One response, and the best of eight."""
    from counterlog.core.language_models import open_language_model

    rewards = judged(open_language_model(folder).model, prompts(rng)[1], rng, 8)
    return {"pass@1": float(rewards.mean()), "pass@8": float(rewards.max(axis=1).mean())}


def summary(found: list[dict[str, Any]], steps: int) -> list[dict[str, Any]]:
    """One row a way and sync interval."""
    rows = []
    for way, sync in dict.fromkeys((f["way"], f["sync"]) for f in found):
        mine = [f for f in found if (f["way"], f["sync"]) == (way, sync)]
        row: dict[str, Any] = {"loss": way, "sampler refreshed": SYNC[sync]}
        for name, key in (("step 40", "acc 40"), (f"step {steps}", "acc end")):
            values = [f[key] for f in mine]
            row[name], row[f"{name} sd"] = float(np.mean(values)), float(np.std(values))
        rows.append(row | {k: float(np.mean([f[k] for f in mine])) for k in MEASURED})
    return rows


def curve_rows(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The curves, a column for every 20 steps."""
    rows = []
    for way, sync in dict.fromkeys((f["way"], f["sync"]) for f in found):
        mean = np.mean([f["curve"] for f in found if (f["way"], f["sync"]) == (way, sync)], axis=0)
        row: dict[str, Any] = {"loss": way, "sampler refreshed": SYNC[sync]}
        rows.append(row | {f"steps {20 * i}-{20 * i + 19}": float(v) for i, v in enumerate(mean)})
    return rows


def checks(rows: list[dict[str, Any]], full: bool) -> list[Check]:
    """The claims against their bars."""
    at = {(r["loss"], r["sampler refreshed"]): r for r in rows}
    stale = {way: at[way, SYNC[20]] for way in WAYS if (way, SYNC[20]) in at}
    out = [
        _least("20 steps stale: the clip mask alone learns by step 40", stale[CLIPPED]["step 40"], 0.35),
        _most(
            "20 steps stale: unclipped REINFORCE collapses by step 40", stale["reinforce"]["step 40"], 0.20
        ),
    ]
    if not full:
        return out
    end = {way: r["step 160"] for way, r in stale.items()}
    on_policy = at["reinforce", SYNC[1]]["step 160"]
    return [
        *out,
        _most("importance weights make no difference to the clipped loss", abs(end[IS] - end[CLIPPED]), 0.05),
        _most("the clipped loss stays near the on-policy run", on_policy - end[CLIPPED], 0.10),
        _least("the clipped loss is far above unclipped REINFORCE", end[CLIPPED] - end["reinforce"], 0.30),
        _least(
            "wide thresholds learn faster at first",
            stale["rec-oneside-nois-wide"]["step 40"] - stale[CLIPPED]["step 40"],
            0.0,
        ),
        _least("one-sided clipping beats two-sided", end[CLIPPED] - end["rec-twoside-nois"], 0.0),
        _most("a little k2 (OPMD) is as good as clipping", end[CLIPPED] - end["opmd"], 0.10),
        _least("AsymRE stops the collapse", end["asymre"] - end["reinforce"], 0.10),
        _least("RED-Weight stops the collapse", end["red-weight"] - end["reinforce"], 0.10),
        _most("RED-Drop alone matches clipping at this age", end[CLIPPED] - end["red-drop"], 0.10),
    ]


def _least(claim: str, measured: float, bar: float) -> Check:
    return Check(claim=claim, measured=float(measured), bar=f">= {bar:.2f}", passed=bool(measured >= bar))


def _most(claim: str, measured: float, bar: float) -> Check:
    return Check(claim=claim, measured=float(measured), bar=f"<= {bar:.2f}", passed=bool(measured <= bar))
