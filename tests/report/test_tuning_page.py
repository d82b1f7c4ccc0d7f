from __future__ import annotations

import json
import sys

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers", reason="transformers is not installed (extra language)")

from typer.testing import CliRunner

from counterlog.cli import app
from counterlog.core.errors import ConfigError, CounterlogError
from counterlog.core.tuning_result import TuningReport
from counterlog.datasets import chain_sum
from counterlog.report.tuning_page import render_tuning, write_page

pytestmark = pytest.mark.language
RUN = {
    "command": "counterlog <b>",
    "rng": 0,
    "versions": {"counterlog": "0"},
    "config": {"lr": 1},
    "data": {"rows": 4},
}
PNG = "data:image/png;base64,iVBORw0KGgo="


def report(**more):
    metrics = tuple(
        {"step": i, "reward": 0.1 * i, "entropy": 1.0, "loss": -0.1, "grad_norm": 1.0} for i in range(4)
    )
    return TuningReport(slug="x", unit="reward", n=8, rng=0, metrics=metrics, **more)


def test_what_a_model_said_is_text_and_only_a_png_is_an_image():
    samples = (
        {
            "prompt": "<script>p</script>",
            "before": "<img src=x>",
            "after": PNG,
            "reward_before": 0.0,
            "reward_after": 1.0,
        },
        {
            "prompt": "q",
            "before": "javascript:1",
            "after": PNG + '" onerror="x',
            "reward_before": None,
            "reward_after": None,
        },
    )
    page = render_tuning(report(samples=samples, notes=("a <note>",)), RUN)
    assert "<script>p</script>" not in page and "&lt;script&gt;p" in page and "&lt;img src=x&gt;" in page
    assert page.count(f'<img src="{PNG}"') == 1 and 'onerror="x' not in page
    assert "counterlog &lt;b&gt;" in page and "A &lt;note&gt;" in page
    assert "from 0 to 1" in page


def test_the_page_shows_what_was_measured_and_leaves_out_what_was_not():
    off = {"staleness": {"0": 4, "1": 4}, "ratio_quantiles": {"0.5": 1.0}}
    page = render_tuning(report(off_policy=off), RUN)
    assert "mean reward" in page and "Rows by staleness" in page and "entropy, nats a token" in page
    assert "KL(policy || reference)" not in page
    assert "0 in the first 1 steps and 0.3 in the last 1 of 4" in page


def test_a_folder_without_a_run_is_refused(tmp_path):
    with pytest.raises(CounterlogError, match="no finished run"):
        write_page(tmp_path)


def test_the_command_tunes_writes_and_goes_on(tmp_path, monkeypatch):
    model = tmp_path / "model"
    chain_sum.untrained_model().save_pretrained(model)
    chain_sum.number_tokenizer().save_pretrained(model)
    gen = np.random.default_rng(0)
    rows = [
        {"prompt": p, "completion": f"{gen.integers(9)}", "reward": float(gen.random())}
        for p in chain_sum.prompt_texts(chain_sum.operands(4, gen))
        for _ in range(3)
    ]
    log = tmp_path / "log.jsonl"
    log.write_text("".join(json.dumps(r) + "\n" for r in rows))
    out = tmp_path / "run"
    args = [
        "posttrain",
        "group-relative-reinforce",
        "--model",
        str(model),
        "--log",
        str(log),
        "--out",
        str(out),
    ]
    args += [
        "--preset",
        "asymre",
        "--set",
        "prompts=2",
        "--set",
        "longest=4",
        "--set",
        "lr=1e-3",
        "--set",
        "samples=2",
    ]
    args += ["--quiet"]
    monkeypatch.setattr(sys, "argv", ["counterlog", *args])
    first = CliRunner().invoke(app, [*args, "--set", "steps=2"])
    assert first.exit_code == 0, first.output
    again = CliRunner().invoke(app, [*args, "--set", "steps=3", "--json"])
    assert again.exit_code == 0, again.output
    said = json.loads(again.stdout)
    assert [m["step"] for m in said["report"]["metrics"]] == [0, 1, 2]
    page = (out / "report.html").read_text()
    assert "Post-training report" in page and str(log) in page
    assert {p.name for p in out.iterdir()} >= {
        "run.json",
        "metrics.jsonl",
        "result.json",
        "model",
        "state",
        "report.html",
    }


def test_systems_that_tune_nothing_and_unknown_presets_are_refused(tmp_path):
    base = ["--model", "x", "--out", str(tmp_path)]
    found = CliRunner().invoke(app, ["posttrain", "tree-influence", *base])
    assert isinstance(found.exception, ConfigError) and "tunes no model" in str(found.exception)
    found = CliRunner().invoke(app, ["posttrain", "group-relative-reinforce", *base, "--preset", "grop"])
    assert isinstance(found.exception, ConfigError) and "preset" in str(found.exception)
