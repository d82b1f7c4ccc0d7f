"""Speed of group-relative REINFORCE on a small language model, side by side with TRL.

Run with a Python that has TRL 1.16.0 beside Counterlog's dependencies:
     OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 python benchmarks/posttrain/group_relative_reinforce.py
     (writes benchmarks/results/group-relative-reinforce.json)
Both sides train the same model (120,256 parameters) on the same prompts: 16 prompts, 8 responses of at most 4 tokens,
on policy, sampling and reward included. Processor seconds of one thread, medians over steps, the sides in turns.
Memory is the peak resident size of fresh processes over what they had before the pass.
"""

import json
import logging
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np
import polars as pl
import torch

from counterlog.core.rollouts import Rollouts
from counterlog.core.study import versions
from counterlog.core.token_batches import TokenBatch
from counterlog.core.token_logprobs import TokenLogProbs
from counterlog.core.tuning_loop import make_accelerator
from counterlog.datasets import chain_sum
from counterlog.posttrain.group_relative_reinforce import (
    GroupRelativeLoss,
    GroupRelativeReinforce,
    GroupRelativeReinforceConfig,
)

STEPS, ROUNDS = 8, 2
VOCABULARY = 32_000
PASS = """
import sys, torch
def kilobytes(what):
    return int(next(line for line in open("/proc/self/status") if line.startswith(what)).split()[1])
torch.set_num_threads(1)
from counterlog.core.token_logprobs import selected_logprobs
kind, v, n, d = sys.argv[1], int(sys.argv[2]), 2048, 64
gen = torch.Generator().manual_seed(0)
h = torch.randn(n, d, generator=gen).requires_grad_(True)
w = torch.randn(v, d, generator=gen).requires_grad_(True)
y = torch.randint(v, (n,), generator=gen)
open("/proc/self/clear_refs", "w").write("5")  # the peak starts again from here
before = kilobytes("VmRSS")
if kind == "naive":
    logp = (h @ w.T).float().log_softmax(-1).gather(-1, y[:, None])[:, 0]
else:
    logp = selected_logprobs(h, w, y, chunk_bytes=64 * 2**20)[0]
logp.mean().backward()
print((kilobytes("VmHWM") - before) / 1024)
"""


def prompts(n=512):
    return chain_sum.prompt_texts(chain_sum.operands(n, np.random.default_rng(0)))


class Clock:
    """Processor seconds of every step, for our loop and for TRL's."""

    def __init__(self):
        self.at = [time.process_time()]

    def on_step_end(self, *args, **said):
        self.at.append(time.process_time())

    def steps(self):
        return np.diff(self.at)[2:].tolist()


def ours(folder):
    clock = Clock()
    config = GroupRelativeReinforceConfig.preset(
        "grpo", steps=STEPS + 2, lr=3e-4, prompts=16, longest=4, sync_interval=1, samples=0
    )
    GroupRelativeReinforce(config).tune(
        folder, prompts=prompts(), reward=chain_sum.reward, callbacks=(clock,)
    )
    return clock.steps()


def theirs(folder):
    import transformers
    import trl

    clock = Clock()

    class Heard(transformers.TrainerCallback):
        def on_step_end(self, *args, **said):
            clock.on_step_end()

    with tempfile.TemporaryDirectory() as out:
        args = trl.GRPOConfig(
            output_dir=out, per_device_train_batch_size=128, num_generations=8, max_completion_length=4, beta=0.0,
            learning_rate=3e-4, max_steps=STEPS + 2, report_to=[], use_cpu=True, bf16=False, save_strategy="no",
            logging_strategy="no", disable_tqdm=True, temperature=1.0, lr_scheduler_type="constant",
        )  # fmt: skip
        import datasets

        trainer = trl.GRPOTrainer(
            model=transformers.AutoModelForCausalLM.from_pretrained(folder),
            reward_funcs=trl_reward,
            args=args,
            train_dataset=datasets.Dataset.from_list([{"prompt": p} for p in prompts()]),
            processing_class=chain_sum.number_tokenizer(),
            callbacks=[Heard()],
        )
        trainer.train()
    return clock.steps()


def trl_reward(prompts, completions, completion_ids, **_):
    ids = [[int(t) + chain_sum.ZERO for t in p.split() if t != "="] for p in prompts]
    return chain_sum.reward(prompts, completion_ids=completion_ids, prompt_ids=ids)


def beside_trl(folder):
    a, b = [], []
    for _ in range(ROUNDS):
        a += ours(folder)
        b += theirs(folder)
    return statistics.median(a), statistics.median(b)


def loss_overhead(folder):
    """Our whole step on given rows against a bare cross-entropy step on the same tokens, in turns."""
    from counterlog.core.language_models import open_language_model
    from counterlog.core.rollout_sources import read_prompts, sample_scored
    from counterlog.core.rollout_tuning import RolloutTrainee

    found = open_language_model(folder)
    asked = read_prompts(prompts(16), found)
    rows = sample_scored(found, asked, np.repeat(np.arange(16), 8), [chain_sum.reward], seed=0, longest=4)
    rows.group = torch.arange(128) // 8
    rows.rewards[::3] = 1 - rows.rewards[::3]
    config = GroupRelativeReinforceConfig.preset("rec-oneside-nois", longest=4)
    policy = GroupRelativeLoss(config)
    scorer = TokenLogProbs(found.model)
    trainee = RolloutTrainee(scorer, None, policy, config)
    ids, width = rows.input_ids, rows.prompt_width
    labels = torch.where(rows.response_mask > 0, ids[:, width:], -100).flatten()
    parts = {"ours": [], "bare": [], "loss": []}

    def bare():
        logits = found.model(input_ids=ids, attention_mask=rows.attention_mask).logits[:, width - 1 : -1]
        torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels, ignore_index=-100).backward()

    def whole():
        batch = policy.prepared(TokenBatch.from_tensors(rows.tensors()), 0).counted()
        trainee.loss(scorer, batch, 0)[0].backward()

    logp, entropy = (t.detach() for t in scorer(rows, 1.0, True))

    def arithmetic():
        batch = policy.prepared(TokenBatch.from_tensors(rows.tensors()), 0).counted()
        policy.loss(logp.requires_grad_(True), entropy, batch)[0].backward()

    for _ in range(25):
        for name, work in (("bare", bare), ("ours", whole), ("loss", arithmetic)):
            start = time.process_time()
            work()
            parts[name].append(time.process_time() - start)
    return {k: statistics.median(v[3:]) for k, v in parts.items()}


def forwards(folder):
    """Training and scoring passes of one on-policy step, sampling apart."""
    from counterlog.core import token_logprobs

    count = 0
    original = token_logprobs.TokenLogProbs.forward

    def counted(self, *args, **more):
        nonlocal count
        count += 1
        return original(self, *args, **more)

    token_logprobs.TokenLogProbs.forward = counted
    try:
        config = GroupRelativeReinforceConfig.preset(
            "grpo", steps=4, prompts=4, longest=4, sync_interval=1, samples=0
        )
        GroupRelativeReinforce(config).tune(folder, prompts=prompts(16), reward=chain_sum.reward)
    finally:
        token_logprobs.TokenLogProbs.forward = original
    return (count - 1) / 4  # one pass at the start checks the sampler


def memory():
    found = {}
    for kind in ("naive", "ours"):
        done = subprocess.run(
            [sys.executable, "-c", PASS, kind, str(VOCABULARY)], capture_output=True, text=True, check=True
        )
        found[kind] = float(done.stdout)
    return found


def ingest(rows=1_000_000, tokens=20):
    gen = np.random.default_rng(0)
    flat = gen.integers(5, 105, rows * tokens).astype(np.int32)
    logp = -gen.random(rows * tokens).astype(np.float32)
    frame = pl.DataFrame(
        {
            "prompt": gen.integers(5, 105, rows // 8 * 6).reshape(-1, 6).repeat(8, axis=0),
            "completion": flat.reshape(rows, tokens),
            "completion_logprobs": logp.reshape(rows, tokens),
            "reward": gen.random(rows),
            "group": np.arange(rows) // 8,
        }
    ).with_columns(pl.col("prompt", "completion").arr.to_list(), pl.col("completion_logprobs").arr.to_list())
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "log.parquet"
        frame.write_parquet(path)
        start = time.process_time()
        encoded = Rollouts(path).encode(None, vocabulary=105)
        order = gen.permutation(rows)
        for i in range(0, rows, 1024):
            encoded.batch(order[i : i + 1024], 0)
        return time.process_time() - start


def main():
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    folder = str(chain_sum.base_model_folder())
    make_accelerator(GroupRelativeReinforceConfig())
    mine, trl = beside_trl(folder)
    parts, mb = loss_overhead(folder), memory()
    passes, seconds = forwards(folder), ingest()
    rows = [
        ("a step, sampling included: processor seconds, ours / TRL", mine / trl, 0.8, "ratio"),
        (
            "a step on given rows: processor seconds, ours / bare cross-entropy",
            parts["ours"] / parts["bare"],
            1.05,
            "ratio",
        ),
        ("advantage and loss: share of a step", parts["loss"] / mine, 0.03, "ratio"),
        ("passes a step besides sampling", passes, 1.0, "passes"),
        (
            f"log-probabilities with {VOCABULARY:,} tokens: peak memory, ours / naive",
            mb["ours"] / mb["naive"],
            0.6,
            "ratio",
        ),
        ("1,000,000 responses of 20 tokens, file to batches", seconds, 20.0, "s"),
    ]
    result = {
        "bars": [
            {"what": name, "measured": value, "bar": limit, "unit": unit, "held": value <= limit}
            for name, value, limit, unit in rows
        ],
        "seconds": {
            "step, ours": mine,
            "step, TRL": trl,
            **{f"{k} (given rows)": v for k, v in parts.items()},
        },
        "megabytes": mb,
        "versions": versions("counterlog", "torch", "transformers", "accelerate", "trl"),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
    }
    path = Path(__file__).parents[1] / "results" / "group-relative-reinforce.json"
    path.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
