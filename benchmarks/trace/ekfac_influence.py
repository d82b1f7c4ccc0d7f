"""Speed and memory of influence with EK-FAC factors, side by side with kronfluence and dattri in one run.

Run: OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 PEER_PYTHON=... python benchmarks/trace/ekfac_influence.py
     (writes benchmarks/results/ekfac-influence.json)
PEER_PYTHON names a Python with torch, transformers, kronfluence 1.0.1 and dattri 0.3: both sides run there or here as
processes of their own, in turns (ours, peer, ours, peer), on the same weights and rows. Times are processor seconds of
factors and scores together, medians of TURNS; empirical Fisher, damping 1e-3, so that scores can be compared.
"""

import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from sklearn.datasets import load_digits

from counterlog.core.language_rows import TEXT_TASK
from counterlog.core.query_products import DenseQueries, low_rank
from counterlog.core.study import versions
from counterlog.core.torch_models import mlp
from counterlog.core.torch_training import TrainConfig, train
from counterlog.trace.ekfac_influence import EKFACInfluence, EKFACInfluenceConfig

TURNS = {"digits": 3, "gpt": 1}
PEER = r"""
import sys, time, json, tempfile, logging
import numpy as np, torch
import torch.nn as nn, torch.nn.functional as F
from torch.utils.data import TensorDataset
kind, path = sys.argv[1:3]
z = np.load(path)
torch.set_num_threads(1)
def digits():
    model = nn.Sequential(nn.Linear(64, 96), nn.ReLU(), nn.Linear(96, 48), nn.ReLU(), nn.Linear(48, 10))
    model.load_state_dict({k[2:]: torch.tensor(z[k]) for k in z if k.startswith("w.")})
    return model
def gpt():
    from transformers import GPT2Config, GPT2LMHeadModel
    model = GPT2LMHeadModel(GPT2Config(**json.loads(str(z["config"]))))
    model.load_state_dict({k[2:]: torch.tensor(z[k]) for k in z if k.startswith("w.")}, strict=False)
    model.tie_weights()
    for block in model.transformer.h:  # kronfluence tracks Linear, not Conv1D
        for name in ("c_fc", "c_proj"):
            old = getattr(block.mlp, name)
            new = nn.Linear(*old.weight.shape)
            new.weight.data, new.bias.data = old.weight.data.T.contiguous(), old.bias.data
            setattr(block.mlp, name, new)
    return model
x, y, xq, yq = (torch.tensor(z[k]) for k in ("x", "y", "xq", "yq"))
if kind.startswith("kronfluence"):
    from kronfluence.analyzer import Analyzer, prepare_model
    from kronfluence.arguments import FactorArguments, ScoreArguments
    from kronfluence.task import Task
    class Classes(Task):
        def compute_train_loss(self, batch, model, sample=False):
            return F.cross_entropy(model(batch[0]), batch[1], reduction="sum")
        def compute_measurement(self, batch, model):
            return self.compute_train_loss(batch, model)
        def get_influence_tracked_modules(self): return None
        def get_attention_mask(self, batch): return None
    class Texts(Classes):
        def compute_train_loss(self, batch, model, sample=False):
            logits = model(input_ids=batch[0], use_cache=False).logits[:, :-1].float()
            return F.cross_entropy(logits.flatten(0, 1), batch[1][:, 1:].flatten(), reduction="sum")
        def get_influence_tracked_modules(self):
            return [f"transformer.h.{i}.mlp.{m}" for i in range(2) for m in ("c_fc", "c_proj")]
        def get_attention_mask(self, batch): return None
    task = Texts() if kind.endswith("gpt") else Classes()
    model = prepare_model(gpt() if kind.endswith("gpt") else digits(), task)
    batch = int(sys.argv[3])
    with tempfile.TemporaryDirectory() as folder:
        start = time.process_time()
        a = Analyzer("bench", model, task, cpu=True, output_dir=folder, disable_tqdm=True, log_level=logging.ERROR)
        a.fit_all_factors("f", TensorDataset(x, y), per_device_batch_size=batch, overwrite_output_dir=True,
                          factor_args=FactorArguments(strategy="ekfac", use_empirical_fisher=True))
        a.compute_pairwise_scores("s", "f", TensorDataset(xq, yq), TensorDataset(x, y),
                                  per_device_query_batch_size=len(xq), per_device_train_batch_size=batch,
                                  score_args=ScoreArguments(damping_factor=1e-3), overwrite_output_dir=True)
        found = a.load_pairwise_scores("s")["all_modules"].numpy()
        spent = time.process_time() - start
else:
    from torch.utils.data import DataLoader
    from dattri.task import AttributionTask
    from dattri.algorithm.influence_function import IFAttributorEKFAC
    model = digits()
    def loss(params, data):
        out = torch.func.functional_call(model, params, (data[0],))
        return F.cross_entropy(out, data[1])
    task = AttributionTask(loss_func=loss, model=model, checkpoints=[model.state_dict()])
    start = time.process_time()
    attributor = IFAttributorEKFAC(task=task, device="cpu", damping=1e-3)
    attributor.cache(DataLoader(TensorDataset(x, y), batch_size=256))
    with torch.no_grad():
        asked = DataLoader(TensorDataset(xq, yq), batch_size=len(xq))
        found = attributor.attribute(DataLoader(TensorDataset(x, y), batch_size=256), asked)
    found = found.T.numpy()
    spent = time.process_time() - start
np.save(sys.argv[4], found)
print(json.dumps(spent))
"""


def digits_case():
    x, y = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(y))
    x, y = torch.tensor(x[order] / 16, dtype=torch.float32), torch.tensor(y[order])
    model = train(mlp((64, 96, 48, 10), rng=0), x[:1200], y[:1200], TrainConfig(epochs=30, lr=2e-3))
    return model, (x[:1200], y[:1200], x[1200:1300], y[1200:1300]), {}


def gpt_case(n=512, q=16, t=64):
    import transformers

    config = {"vocab_size": 256, "n_positions": t, "n_embd": 128, "n_layer": 2, "n_head": 2, "resid_pdrop": 0.0,
              "embd_pdrop": 0.0, "attn_pdrop": 0.0, "bos_token_id": 0, "eos_token_id": 0}  # fmt: skip
    torch.manual_seed(0)
    model = transformers.GPT2LMHeadModel(transformers.GPT2Config(**config)).eval()
    x = torch.randint(0, 256, (n + q, t))
    return model, (x[:n], x[:n], x[n:], x[n:]), {"config": json.dumps(config)}


def ours(kind, model, rows):
    x, y, xq, yq = rows
    settings = {"fisher": "empirical", "damping": 1e-3}
    task = None
    if kind == "gpt":
        settings |= {"include": ("*mlp*",), "batch": 64}
        task = TEXT_TASK
        y, yq = (torch.stack([v, torch.ones_like(v)], dim=1) for v in (y, yq))
    start = time.process_time()
    found = EKFACInfluence(model, x, y, task=task, config=EKFACInfluenceConfig(**settings)).explain(xq, yq).T
    return time.process_time() - start, found


def peer(name, path, batch):
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "scores.npy"
        done = subprocess.run(
            [os.environ["PEER_PYTHON"], "-W", "ignore", "-c", PEER, name, str(path), str(batch), str(out)],
            capture_output=True, text=True, env={**os.environ, "PYTHONPATH": ""},
        )  # fmt: skip
        if done.returncode:
            return None, done.stderr.strip().splitlines()[-1]
        return float(done.stdout.splitlines()[-1]), np.load(out)


def side_by_side(kind, case, peers, batch):
    """Turns of ours and each peer on one case; the scores' largest distance over the largest score."""
    model, rows, extra = case
    out = {
        "case": kind,
        "n": len(rows[0]),
        "queries": len(rows[2]),
        "ours_s": [],
        "peers": {p: [] for p in peers},
    }
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "case.npz"
        weights = {f"w.{k}": v.detach().numpy() for k, v in model.state_dict().items()}
        np.savez(
            path,
            **weights,
            **extra,
            **dict(zip(("x", "y", "xq", "yq"), (r.numpy() for r in rows), strict=True)),
        )
        for _ in range(TURNS[kind]):
            spent, found = ours(kind, model, rows)
            out["ours_s"].append(spent)
            for name in peers:
                spent, theirs = peer(name, path, batch)
                if spent is None:
                    out[f"{name} failed"] = theirs
                    continue
                out["peers"][name].append(spent)
                if name.startswith("dattri"):  # it damps and averages otherwise: only the order is compared
                    out[f"{name} correlation"] = float(np.corrcoef(theirs.ravel(), found.ravel())[0, 1])
                else:
                    out[f"{name} distance"] = float(np.abs(theirs - found).max() / np.abs(found).max())
    out["ours_s"] = statistics.median(out["ours_s"])
    out["peers"] = {p: statistics.median(v) for p, v in out["peers"].items() if v}
    return out


def query_cache(size=512, rank=32):
    v = torch.randn(2, size, size, generator=torch.Generator().manual_seed(0))
    return low_rank(v, rank, 0)[0].bytes / DenseQueries(v).bytes


def main():
    torch.set_num_threads(1)
    cases = [
        side_by_side("digits", digits_case(), ("kronfluence-digits", "dattri-digits"), 256),
        side_by_side("gpt", gpt_case(), ("kronfluence-gpt",), 64),
    ]
    checks = []
    for case, most in zip(cases, (0.5, 0.8), strict=True):
        name = f"kronfluence-{case['case']}"
        if name in case["peers"]:
            ratio, apart = case["ours_s"] / case["peers"][name], case[f"{name} distance"]
            checks += [
                {"claim": f"{case['case']}: factors and scores, seconds over kronfluence's", "measured": ratio,
                 "bar": f"<= {most}", "held": ratio <= most},
                {"claim": f"{case['case']}: largest distance of scores from kronfluence's", "measured": apart,
                 "bar": "<= 1e-3", "held": apart <= 1e-3},
            ]  # fmt: skip
    share = query_cache()
    checks.append(
        {
            "claim": "rank-32 query cache over the dense one, 512 x 512",
            "measured": share,
            "bar": "<= 0.25",
            "held": share <= 0.25,
        }
    )
    result = {
        "checks": checks,
        "cases": cases,
        "peers": {"kronfluence": "1.0.1", "dattri": "0.3.0"},
        "versions": versions("counterlog", "numpy", "torch", "transformers"),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
    }
    path = Path(__file__).parents[1] / "results" / "ekfac-influence.json"
    if "--dry" not in sys.argv:
        path.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
