from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers", reason="transformers is not installed (extra language)")

from counterlog.core.errors import ConfigError, ConvergenceError, LogError, MissingExtraError  # noqa: E402
from counterlog.core.run_folder import RunFolder, mark_of  # noqa: E402
from counterlog.core.token_losses import WAYS  # noqa: E402
from counterlog.core.tuning_config import TuningConfig  # noqa: E402
from counterlog.core.tuning_loop import learning_rate, make_accelerator, parts_of, run_loop  # noqa: E402
from counterlog.datasets import chain_sum  # noqa: E402
from counterlog.posttrain.group_relative_reinforce import (  # noqa: E402
    GroupRelativeReinforce,
    GroupRelativeReinforceConfig,
)

pytestmark = pytest.mark.language


def log(n=5, k=4):
    """Responses of unequal length, so that tokens and rows do not split alike."""
    gen = np.random.default_rng(1)
    return [
        {
            "prompt": text,
            "completion": " ".join(map(str, gen.integers(0, 20, gen.integers(1, 4)))),
            "reward": float(gen.random()),
        }
        for text in chain_sum.prompt_texts(chain_sum.operands(n, gen))
        for _ in range(k)
    ]


def trained(micro_batch, aggregation="token-mean", out=None, steps=3, command=""):
    config = GroupRelativeReinforceConfig(
        steps=steps, prompts=4, lr=1e-3, longest=5, samples=0, micro_batch=micro_batch, recompute_old=True,
        aggregation=aggregation,
    )  # fmt: skip
    found = GroupRelativeReinforce(config).tune(
        chain_sum.untrained_model(), log(), tokenizer=chain_sum.number_tokenizer(), out=out
    )
    return torch.cat([p.detach().flatten() for p in found.model.parameters()]), found.report


@pytest.mark.parametrize("aggregation", WAYS)
def test_any_split_into_parts_walks_the_same_path(aggregation):
    whole, report = trained(128, aggregation)
    for size in (5, 7, 1):
        split, again = trained(size, aggregation)
        assert (split - whole).abs().max() < 1e-5
        for a, b in zip(report.metrics, again.metrics, strict=True):
            assert a["loss"] == pytest.approx(b["loss"], abs=1e-6)
            assert a["ess_tokens"] == pytest.approx(b["ess_tokens"], abs=1e-6)


PROGRAM = """
import sys
sys.path.insert(0, sys.argv[1])
import torch
torch.set_num_threads(1)
from test_tuning_loop import trained, sampled
trained(128, out=sys.argv[2])
sampled(sys.argv[3])
"""


def sampled(out):
    config = GroupRelativeReinforceConfig(
        steps=3, prompts=4, responses=4, lr=1e-3, longest=4, samples=2, sync_interval=2, sampling_batch=8
    )
    prompts = chain_sum.prompt_texts(chain_sum.operands(12, np.random.default_rng(0)))
    return GroupRelativeReinforce(config).tune(
        chain_sum.untrained_model(),
        prompts=prompts,
        reward=small,
        tokenizer=chain_sum.number_tokenizer(),
        out=out,
    )


def small(completion_ids, **_):
    return [float(np.mean([t < 50 for t in ids])) for ids in completion_ids]


def records(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_two_processes_walk_the_path_of_one(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    here = str(Path(__file__).parent)
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"]
    launch += ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"]
    launch += ["--main_process_port", str(port), "--num_cpu_threads_per_process", "1"]
    done = subprocess.run(
        [*launch, str(program), here, str(tmp_path / "log2"), str(tmp_path / "sampled2")],
        capture_output=True, text=True, timeout=500, env={**os.environ, "ACCELERATE_USE_CPU": "true"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    trained(128, out=tmp_path / "log1")
    sampled(tmp_path / "sampled1")
    for kind in ("log", "sampled"):
        one, two = records(tmp_path / f"{kind}1"), records(tmp_path / f"{kind}2")
        assert len(one) == len(two) == 3
        for a, b in zip(one, two, strict=True):
            assert set(a) == set(b)
            for name, value in a.items():
                assert b[name] == pytest.approx(value, rel=1e-4, abs=1e-5), (kind, name)
    assert json.loads((tmp_path / "log2" / "run.json").read_text())["processes"] == 2


# ------------------------------------------------------------------------------------------------ the loop alone


class Line:
    """Fits one number to the mean of a batch of numbers."""

    def __init__(self, rows=6, bad_at=None):
        self.module = torch.nn.Linear(1, 1, bias=False)
        torch.nn.init.zeros_(self.module.weight)
        self.rows, self.bad_at, self.seen = rows, bad_at, []

    def batch(self, step, accelerator):
        self.seen.append(step)
        return Rows(torch.arange(self.rows).float()[:, None], self.rows)

    def loss(self, module, part, step):
        x = part.x
        value = ((module(torch.ones_like(x)) - x) ** 2).sum() / part.n
        if step == self.bad_at:
            value = value * torch.nan
        return value, {"total": x.sum(), "each": torch.stack([x.sum(), x.square().sum()])}

    def report(self, sums, batch, step):
        return {"mean": sums["total"] / len(batch), "square": sums["each"][1]}

    def stepped(self, module, step):
        pass

    def state(self):
        return {}

    def load_state(self, tensors, step):
        pass


class Rows:
    def __init__(self, x, n):
        self.x, self.n = x, n

    def __len__(self):
        return len(self.x)

    def part(self, rows):
        return Rows(self.x[rows], self.n)

    def to(self, device):
        return self


def test_sums_add_up_over_parts_and_callbacks_hear_every_event(tmp_path):
    heard = []

    class Ear:
        def on_train_begin(self, **said):
            heard.append("begin")

        def on_step_end(self, *, step, metrics, model):
            heard.append((step, metrics["mean"]))

        def on_save(self, **said):
            heard.append("save")

        def on_train_end(self, **said):
            heard.append("end")

    config = TuningConfig(steps=3, lr=0.5, micro_batch=4, save_every=2)
    found = run_loop(Line(), config, folder=RunFolder(tmp_path), callbacks=(Ear(),))
    assert heard == ["begin", (0, 2.5), (1, 2.5), "save", (2, 2.5), "save", "end"]
    assert found[0]["square"] == 55 and found[0]["loss"] == pytest.approx(55 / 6)


def test_step_sizes():
    config = TuningConfig(steps=12, lr=1.0, warmup=2, schedule="linear")
    assert [learning_rate(config, s) for s in (0, 1, 2, 7)] == [0.5, 1.0, 1.0, 0.5]
    cosine = TuningConfig(steps=10, lr=1.0, schedule="cosine")
    assert learning_rate(cosine, 5) == pytest.approx(0.5)


@pytest.mark.parametrize(("n", "processes", "largest"), [(128, 1, 128), (128, 2, 28), (3, 2, 1), (7, 3, 2)])
def test_parts_hold_every_row_once_and_are_as_many_on_each(n, processes, largest):
    found = parts_of(n, processes, largest)
    assert sorted(np.concatenate([r for p in found for r in p]).tolist()) == list(range(n))
    assert len({len(p) for p in found}) == 1
    assert all(len(r) > 0 for p in found for r in p)
    with pytest.raises(LogError, match="2 rows for 3 processes"):
        parts_of(2, 3, 1)


def test_a_loss_that_is_not_finite_stops_the_run():
    with pytest.raises(ConvergenceError, match=r"nan.*step 1"):
        run_loop(Line(bad_at=1), TuningConfig(steps=3))


def test_a_tracker_that_is_missing_is_named():
    with pytest.raises(MissingExtraError, match="pip install notracker"):
        make_accelerator(TuningConfig(), ("notracker",))


def test_a_run_folder_knows_its_run(tmp_path):
    folder = RunFolder(tmp_path)
    said = {"slug": "x", "config": {"steps": 3, "lr": 1.0}, "rng": 0}
    folder.begin(said)
    folder.save_state(2, {"model": {"w": torch.ones(2)}}, {"step": 2})
    folder.save_state(3, {"model": {"w": torch.zeros(2)}}, {"step": 3})
    assert folder.latest() == 3 and [p.name for p in (tmp_path / "state").glob("step-*")] == ["step-0000003"]
    assert folder.load_state(3)[0]["model"]["w"].tolist() == [0, 0]
    folder.begin({**said, "config": {"steps": 9, "lr": 1.0}})
    with pytest.raises(ConfigError, match="another model"):
        folder.begin({**said, "config": {"steps": 3, "lr": 2.0}})
    cosine = {"steps": 3, "schedule": "cosine"}
    assert mark_of({"config": cosine}) != mark_of({"config": {**cosine, "steps": 4}})


def test_half_a_line_of_metrics_is_left_out(tmp_path):
    folder = RunFolder(tmp_path)
    for step in range(3):
        folder.log({"step": step})
    with open(tmp_path / "metrics.jsonl", "a") as stream:
        stream.write('{"step": 3, "lo')
    assert [r["step"] for r in folder.records()] == [0, 1, 2]
    assert folder.keep_records(2) == [{"step": 0}, {"step": 1}]
