"""Hostile names, categories and files do nothing but appear as text, or are refused; nothing reaches the network."""

from __future__ import annotations

import json
import os
import pickle
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import polars as pl
import pytest
from safetensors.numpy import save

from counterlog.core.errors import ConfigError, CounterlogError, DatasetError, LogError
from counterlog.core.evaluate import evaluate
from counterlog.core.features import Encoder
from counterlog.core.policies import parse_policy
from counterlog.core.results import Estimate
from counterlog.core.rounds import Rounds
from counterlog.core.saved_policies import FORMAT, SoftmaxPolicy, load_policy
from counterlog.datasets.registry import get
from counterlog.report.decision_report import build

MARKUP = "<img src=x onerror=alert(1)>"
SCRIPT = "</script><script>alert(2)</script>"
FORMULA = '=HYPERLINK("http://evil.example","x")'
WIDE = "\uff1d1+1"
PATHS = "../../../../tmp/escaped"
SQL = "x'); DROP TABLE log; --"


def columns(rows: int = 240) -> dict[str, Any]:
    """A log whose every name and category is hostile."""
    gen = np.random.default_rng(2)
    action = gen.choice(3, rows)
    return {
        SQL: [(MARKUP, SCRIPT, FORMULA)[a] for a in action],
        FORMULA: (gen.random(rows) < 0.2 + 0.2 * action).astype(int).tolist(),
        PATHS: gen.gamma(2.0, 1.0, rows).tolist(),
        SCRIPT: gen.normal(size=rows).tolist(),
        MARKUP: gen.choice([MARKUP, SQL, WIDE], rows).tolist(),
        "{{7*7}}": gen.choice([SCRIPT, "{% raw %}"], rows).tolist(),
    }


@pytest.fixture(scope="module")
def hostile() -> Rounds:
    """The log as `Rounds`."""
    roles: dict[str, Any] = {"context": [SCRIPT, MARKUP], "segment": ["{{7*7}}"], "propensity": "uniform"}
    return Rounds(columns(), action=SQL, reward={FORMULA: "+euros", PATHS: MARKUP}, **roles)


def test_hostile_names_are_only_text_on_the_page_and_in_its_folder(hostile: Rounds, tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "deeper" / "deepest" / "out"
    made = build(hostile, estimators=["SNIPS", "DR"], model="linear")
    page = made.write(folder).read_text()
    for text in (MARKUP, SCRIPT, "alert(2)</script>"):
        assert text not in page
    assert "onerror=alert(1)&gt;" in page and "49" not in page.split("{{7*7}}")[0][-5:]
    assert "{{7*7}}" in page, "templates are not run on what the log holds"
    lines = (folder / "policies.csv").read_text().splitlines()
    assert lines[1].startswith("\"'=HYPERLINK") and not any(line.startswith(("=", '"=')) for line in lines)
    assert {p.parent for p in tmp_path.rglob("*") if p.is_file()} == {folder}
    assert all(p.name.replace("-", "").replace(".", "").isalnum() for p in folder.iterdir())
    assert not Path("/tmp/escaped").exists()


def test_hostile_files_are_read_as_what_they_are(hostile: Rounds, tmp_path: Path) -> None:
    truth = evaluate(hostile, ["uniform"], ["SNIPS"], segments=False).estimates[0].value
    frame = pl.DataFrame(columns())
    for name in ("a[1].parquet", "b*.csv", "c d;rm -rf.jsonl", "'; DROP TABLE x; --.parquet"):
        path = tmp_path / name
        {".parquet": frame.write_parquet, ".csv": frame.write_csv}.get(path.suffix, frame.write_ndjson)(path)
        (tmp_path / f"a1{path.suffix}").write_text("another file that the name would match as a pattern")
        log = Rounds(path, action=SQL, reward=FORMULA, propensity="uniform")
        assert evaluate(log, ["uniform"], ["SNIPS"]).estimates[0].value == pytest.approx(truth, rel=1e-12)
    base = tmp_path / "x.duckdb"
    with duckdb.connect(str(base)) as connection:
        connection.register("frame", frame)
        connection.execute('CREATE TABLE "a""; DROP TABLE b; --" AS SELECT * FROM frame')
    log = Rounds(f'{base}::a"; DROP TABLE b; --', action=SQL, reward=FORMULA, propensity="uniform")
    assert evaluate(log, ["uniform"], ["SNIPS"]).estimates[0].value == pytest.approx(truth, rel=1e-12)


@pytest.mark.parametrize(
    "path", ["http://127.0.0.1:9/x.parquet", "s3://bucket/x.parquet", "hf://datasets/x/y.csv"]
)
def test_a_log_is_never_fetched_from_afar(path: str) -> None:
    with pytest.raises(LogError, match="there is no file"):
        Rounds(path, action="a", reward="r")


def test_a_database_view_may_not_reach_the_network(tmp_path: Path) -> None:
    (tmp_path / "broken.duckdb").write_bytes(b"DUCK" * 5000)
    with pytest.raises(LogError, match="cannot be read as a database"):
        Rounds(f"{tmp_path / 'broken.duckdb'}::t", action="a", reward="r")
    with duckdb.connect(str(tmp_path / "x.duckdb")) as connection:
        connection.execute("CREATE TABLE t AS SELECT 'a' AS a, 1 AS r")
    from counterlog.core.frames import open_frame

    frame = open_frame(f"{tmp_path / 'x.duckdb'}::t").to_native()
    setting = (
        "SELECT current_setting('autoinstall_known_extensions'), current_setting('autoload_known_extensions')"
    )
    assert frame.query("t", setting).fetchall() == [(False, False)]


def test_files_that_are_not_what_their_name_says_are_refused(tmp_path: Path) -> None:
    for suffix in ("parquet", "csv.gz", "jsonl"):
        path = tmp_path / f"log.{suffix}"
        path.write_bytes(pickle.dumps({"a": 1}) + b"\xff\xfe\x00")
        with pytest.raises(LogError):
            Rounds(path, action="a", reward="r")


# policies


def policy(**changes: Any) -> SoftmaxPolicy:
    """A valid policy, or one that is not."""
    frame = pl.DataFrame({"x": [0.0, 1.0], "k": ["u", "v"]})
    layers = ((np.ones((3, 2)), np.zeros(2)),)
    usual = {"name": "mine", "actions": ("a", "b"), "encoder": Encoder.fit(frame), "layers": layers}
    return SoftmaxPolicy(**{**usual, **changes})


def content(change: Callable[[dict[str, Any]], Any]) -> bytes:
    """The file of the valid policy with its JSON changed."""
    whole = policy().to_bytes()
    length = struct.unpack("<Q", whole[:8])[0]
    header = json.loads(whole[8 : 8 + length])
    inner = json.loads(header["__metadata__"][FORMAT])
    change(inner)
    metadata = {FORMAT: json.dumps(inner)}
    return bytes(save({"weights.0": np.ones((3, 2)), "bias.0": np.zeros(2)}, metadata=metadata))


class Trap:
    """Fails the test when it is unpickled."""

    def __reduce__(self) -> Any:
        return (pytest.fail, ("the pickle was executed",))


def nested(depth: int) -> bytes:
    """A safetensors file whose JSON is nested deeper than a reader may follow."""
    metadata = {FORMAT: "[" * depth + "]" * depth}
    return bytes(save({"weights.0": np.ones(1)}, metadata=metadata))


HOSTILE_POLICIES: dict[str, Callable[[], bytes]] = {
    "a pickle": lambda: pickle.dumps(Trap()),
    "a pickle behind a header": lambda: struct.pack("<Q", 2) + b"{}" + pickle.dumps(Trap()),
    "a header of 10 GB": lambda: struct.pack("<Q", 10 * 2**30) + b"{" * 64,
    "a header of 2^63": lambda: struct.pack("<Q", 2**63) + b"{}",
    "nothing": lambda: b"",
    "JSON nested without end": lambda: nested(100_000),
    "NaN weights": lambda: policy(layers=((np.full((3, 2), np.nan), np.zeros(2)),)).to_bytes(),
    "infinite bias": lambda: policy(layers=((np.ones((3, 2)), np.array([np.inf, 0.0])),)).to_bytes(),
    "weights for another context": lambda: policy(layers=((np.ones((4, 2)), np.zeros(2)),)).to_bytes(),
    "scores of another number of actions": lambda: policy(
        layers=((np.ones((3, 5)), np.zeros(5)),)
    ).to_bytes(),
    "weights in three dimensions": lambda: policy(layers=((np.ones((3, 2, 2)), np.zeros(2)),)).to_bytes(),
    "text instead of layers": lambda: content(lambda c: c.update(layers="many")),
    "10^12 layers": lambda: content(lambda c: c.update(layers=10**12)),
    "no layers": lambda: content(lambda c: c.update(layers=0)),
    "no actions": lambda: content(lambda c: c.update(actions=[])),
    "an action twice": lambda: content(lambda c: c.update(actions=["a", "a"])),
    "a list as an action": lambda: content(lambda c: c.update(actions=["a", ["b"]])),
    "a negative temperature": lambda: content(lambda c: c.update(temperature=-1)),
    "a temperature that is no number": lambda: content(lambda c: c.update(temperature="NaN")),
    "exploration beyond 1": lambda: content(lambda c: c.update(explore=7)),
    "an encoding of a made-up kind": lambda: content(lambda c: c["encoder"][0].update(kind="exec")),
    "an encoding that divides by 0": lambda: content(lambda c: c["encoder"][0].update(scale=0.0)),
    "an encoding with other fields": lambda: content(lambda c: c["encoder"][0].update(code="import os")),
    "an encoding that is a number": lambda: content(lambda c: c.update(encoder=7)),
    "an origin that is no record": lambda: content(lambda c: c.update(origin=3)),
    "a list instead of a policy": lambda: bytes(save({"w": np.ones(1)}, metadata={FORMAT: "[]"})),
}


@pytest.mark.parametrize("kind", HOSTILE_POLICIES)
def test_a_hostile_policy_file_is_refused_unexecuted(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "p.safetensors"
    path.write_bytes(HOSTILE_POLICIES[kind]())
    with pytest.raises(CounterlogError, match="is not a saved policy"):
        load_policy(path)


def test_the_valid_policy_behind_the_hostile_ones_is_read(tmp_path: Path) -> None:
    path = tmp_path / "p.safetensors"
    path.write_bytes(content(lambda c: c.update(name=SCRIPT, origin={"python:os:system": "x"})))
    assert load_policy(path).name == SCRIPT


def test_a_policy_is_always_written_in_the_same_bytes() -> None:
    assert len({policy(origin={"rows": 3}).to_bytes() for _ in range(30)}) == 1


def test_python_runs_only_when_the_user_names_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "trap.py").write_text("raise SystemExit('the module was imported')")
    hook = "python:trap:policy"
    rows = {
        "a": [hook, "file:trap", "column:p", hook] * 30,
        "r": [0, 1, 1, 0] * 30,
        "p": [1 / 3] * 120,
        hook: [1.0] * 120,
    }
    log = Rounds(rows, action="a", reward="r", propensity="p", context=[hook])
    values = evaluate(log, [f"always:{hook}", "best-fixed", "uniform"], ["SNIPS", "DR"], model="linear")
    assert {e.policy for e in values.estimates} == {f"always:{hook}", "best-fixed", "uniform"}
    build(log, estimators=["SNIPS"]).html()
    path = policy(name=hook, actions=(hook, "b")).save(tmp_path / "p.safetensors")
    assert load_policy(path).name == hook
    for text in ("trap:policy", "import:trap", "PYTHON:trap:policy", "os.system", "python:trap"):
        with pytest.raises(ConfigError, match="is not a policy"):
            parse_policy(text, log)
    with pytest.raises(SystemExit, match="the module was imported"):
        parse_policy(hook, log)


# results and data sets


def test_hostile_results_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    good = Estimate(value=1.0, lo=0.0, hi=2.0, unit="clicks", n=3)
    written = json.loads(good.save(path).read_text())
    assert Estimate.load(path).to_json() == good.to_json()
    hostile_texts = (
        "[" * 200_000,
        '{"result": "Estimate", "counterlog": "1"}',
        json.dumps({**written, "__class__": "os.system"}),
        json.dumps([written]),
        "\x80\x04.",
        "",
        "NaN",
    )
    for text in hostile_texts:
        path.write_text(text)
        with pytest.raises(CounterlogError, match="is not a saved result"):
            Estimate.load(path)
    with open(path, "wb") as stream:
        stream.truncate(2**40)  # a terabyte of nothing
    with pytest.raises(CounterlogError, match="it has 1,099,511,627,776 bytes"):
        Estimate.load(path)


@pytest.mark.parametrize(
    "name", ["../../etc/passwd", "/etc/passwd", "hillstrom/../../x", "", "hillstrom\x00"]
)
def test_a_data_set_is_a_name_and_no_path(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COUNTERLOG_DATA", str(tmp_path))
    with pytest.raises(DatasetError, match="there is no data set"):
        get(name)
    with pytest.raises(DatasetError, match="has no file"):
        get("hillstrom", f"../{name}x")


# the network

OFFLINE = """
import sys

def forbid(event, arguments):
    if event.startswith(("socket.", "urllib.", "http.", "ftplib.", "smtplib.", "webbrowser.")):
        print("NETWORK", event, file=sys.stderr)
        raise RuntimeError(event)

sys.addaudithook(forbid)
from counterlog.cli import app
log, out = sys.argv[1:]
roles = [log, "--action", "a", "--reward", "r", "--propensity", "p", "--context", "x", "--quiet"]
for words in (
    ["audit", *roles, "--json"],
    ["estimate", *roles, "--model", "linear", "--save", out + "/result"],
    ["report", *roles, "--estimators", "SNIPS,DR", "--model", "linear", "--out", out + "/report"],
):
    app(words, standalone_mode=False)
import socket
try:
    socket.socket()
except RuntimeError:
    print("the guard stood")
"""


def test_report_estimate_and_audit_open_no_socket(tmp_path: Path) -> None:
    gen = np.random.default_rng(0)
    action = gen.choice(2, 300)
    pl.DataFrame(
        {
            "a": np.array(["u", "v"])[action],
            "p": np.full(300, 0.5),
            "x": gen.normal(size=300),
            "r": (gen.random(300) < 0.3).astype(int),
        }
    ).write_csv(tmp_path / "log.csv")
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    words = [sys.executable, "-c", OFFLINE, str(tmp_path / "log.csv"), str(tmp_path)]
    done = subprocess.run(words, capture_output=True, text=True, env=environment, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    assert "NETWORK" not in done.stderr.replace("NETWORK socket.__new__", "", 1)
    assert done.stdout.rstrip().endswith("the guard stood")
    assert (tmp_path / "report" / "report.html").exists() and (tmp_path / "result").exists()
