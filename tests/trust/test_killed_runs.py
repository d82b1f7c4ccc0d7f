"""Runs that end badly: killed at any moment, on a full disk, in a folder that cannot be written."""

from __future__ import annotations

import ast
import json
import os
import random
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest

import counterlog
from counterlog.core.evaluate import Evaluation
from counterlog.core.saved_policies import load_policy
from counterlog.report.decision_report import DecisionReport

SOURCE = Path(counterlog.__file__).parent
CLI = [sys.executable, "-c", "from counterlog.cli import main; main()"]
ROLES = ["--action", "action", "--reward", "reward", "--propensity", "p", "--context", "x"]
ONE_THREAD = {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "POLARS_MAX_THREADS": "1",
    "PYTHONDONTWRITEBYTECODE": "1",
}
FILE_LIMIT = 512
LONGEST = 300.0  # seconds


@pytest.fixture(scope="module")
def log_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small log as a file."""
    gen = np.random.default_rng(3)
    p = np.array([0.5, 0.3, 0.2])
    action = gen.choice(3, 400, p=p)
    path = tmp_path_factory.mktemp("log") / "log.csv"
    columns = {"action": np.array(["a", "b", "c"])[action], "p": p[action], "x": gen.normal(size=400)}
    pl.DataFrame({**columns, "reward": (gen.random(400) < 0.2 + 0.2 * action).astype(int)}).write_csv(path)
    return path


def start(arguments: list[str], *, limit: bool = False) -> subprocess.Popen[str]:
    """A command in a process of its own; with `limit` no file may grow beyond 512 bytes, as on a full disk."""
    full = (lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (FILE_LIMIT, FILE_LIMIT))) if limit else None
    return subprocess.Popen(
        arguments,
        env={**os.environ, **ONE_THREAD},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=full,
    )


WRITER = """
import sys
from pathlib import Path
from counterlog.core.files import write_whole
folder = Path(sys.argv[1])
for round in range(10**9):
    for name in ("page.html", "result.json", "policy.safetensors"):
        write_whole(folder / name, (b"old" if round % 2 else b"new") * 700_000)
"""


def kill_writers(folder: Path, times: int) -> None:
    """Starts a writer of two contents in turn and kills it, again and again; looks at what is there after each."""
    gen = random.Random(11)
    seen: set[bytes] = set()
    for _ in range(times):
        writer = start([sys.executable, "-c", WRITER, str(folder)])
        limit = time.monotonic() + 60
        while not (folder / "policy.safetensors").exists() and time.monotonic() < limit:
            time.sleep(0.01)
        time.sleep(0.3 + gen.random() * 0.3)
        assert writer.poll() is None, writer.communicate()
        writer.kill()
        writer.communicate()
        for name in ("page.html", "result.json", "policy.safetensors"):
            content = (folder / name).read_bytes()
            assert content in (b"old" * 700_000, b"new" * 700_000), f"{name} is half written"
            seen.add(content[:3])
    assert seen == {b"old", b"new"}


def test_a_file_is_the_old_or_the_new_one_whenever_the_writer_is_killed(tmp_path: Path) -> None:
    kill_writers(tmp_path, 5)


@pytest.mark.slow
def test_fifty_killed_writers_leave_whole_files(tmp_path: Path) -> None:
    kill_writers(tmp_path, 50)


WRITES = {
    "write_text",
    "write_bytes",
    "write_csv",
    "write_parquet",
    "write_json",
    "to_csv",
    "savetxt",
    "dump",
}
# these write into memory or the bundled data of the repository, or keep a lock and a journal of their own
OWN_WAYS = {
    "core/files.py",
    "datasets/pack.py",
    "datasets/simulated.py",
    "audit/holdout_ledger.py",
    "audit/holdout_state.py",
    "core/run_folder.py",
}


def _of_files(node: ast.Call) -> bool:
    """Whether it is `core.files.write_parquet(path, frame)`, a function and no frame's method."""
    return isinstance(node.func, ast.Name) and node.func.id == "write_parquet"


def writes(path: Path) -> list[str]:
    """Calls in a module that write to a file by themselves."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if not isinstance(node, ast.Call):
            continue
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        mode = [a.value for a in node.args if isinstance(a, ast.Constant) and isinstance(a.value, str)]
        mode += [
            k.value.value for k in node.keywords if k.arg == "mode" and isinstance(k.value, ast.Constant)
        ]
        if (name in WRITES and not _of_files(node)) or (
            name == "open" and any(set(m) <= set("wabxt+") and m for m in mode)
        ):
            found.append(f"{path.relative_to(SOURCE)}:{node.lineno} {name}")
    return found


def test_every_file_is_written_whole() -> None:
    modules = [p for p in SOURCE.rglob("*.py") if str(p.relative_to(SOURCE)) not in OWN_WAYS]
    assert [call for path in modules for call in writes(path)] == []
    assert writes(SOURCE / "audit" / "holdout_state.py"), "the search must be able to find something"


def check_report(folder: Path) -> None:
    """Every file of a report that is there is whole."""
    if (folder / "report.html").exists():
        assert (folder / "report.html").read_text().rstrip().endswith("</html>")
        assert {"result.json", "run.json", "policies.csv"} <= {p.name for p in folder.iterdir()}
    if (folder / "result.json").exists():
        assert DecisionReport.load(folder / "result.json").n == 400
    if (folder / "run.json").exists():
        assert json.loads((folder / "run.json").read_text())["data"]["rows"] == 400
    if (folder / "policies.csv").exists():
        assert (folder / "policies.csv").read_bytes().endswith(b"\r\n")
    for policy in folder.glob("learnt-policy*"):
        load_policy(policy)


def check_result(path: Path) -> None:
    """A saved evaluation that is there is whole."""
    if path.exists():
        assert Evaluation.load(path).n == 400


def check_policy(path: Path) -> None:
    """A saved policy that is there is whole."""
    if path.exists():
        assert load_policy(path).actions == ("a", "b", "c")


COMMANDS: dict[str, tuple[list[str], Callable[[Path], None]]] = {
    "report": (
        ["report", "LOG", *ROLES, "--model", "linear", "--estimators", "SNIPS", "--out", "OUT"],
        check_report,
    ),
    "estimate": (["estimate", "LOG", *ROLES, "--model", "linear", "--save", "OUT"], check_result),
    "learn": (["learn", "LOG", *ROLES, "--out", "OUT"], check_policy),
}


def command(name: str, log: Path, out: Path) -> list[str]:
    """The command line."""
    words = [{"LOG": str(log), "OUT": str(out)}.get(w, w) for w in COMMANDS[name][0]]
    return [*CLI, *words, "--quiet"]


def kill_commands(log: Path, folder: Path, times: int) -> None:
    """Kills each command in turn at a random moment of its run, in a folder that holds the run before."""
    gen = random.Random(5)
    lasted: dict[str, float] = {}
    for name in COMMANDS:
        begun = time.monotonic()
        done = start(command(name, log, folder / name))
        _, errors = done.communicate(timeout=120)
        assert done.returncode == 0, errors
        lasted[name] = time.monotonic() - begun
        COMMANDS[name][1](folder / name)
        assert (folder / name).exists()
    begun = time.monotonic()
    for i in range(times):
        if time.monotonic() - begun > LONGEST and i >= len(COMMANDS):
            break  # a busy machine kills fewer
        name = list(COMMANDS)[i % len(COMMANDS)]
        victim = start(command(name, log, folder / name))
        time.sleep(lasted[name] * gen.uniform(0.5, 1.02))  # the earlier half only imports and reads
        victim.kill()
        victim.communicate()
        assert (folder / name).exists()
        COMMANDS[name][1](folder / name)


@pytest.mark.slow
def test_fifty_killed_commands_leave_whole_outputs(log_path: Path, tmp_path: Path) -> None:
    kill_commands(log_path, tmp_path, 50)


@pytest.mark.parametrize("name", ["estimate", "learn"])
def test_a_full_disk_is_one_clear_message_and_nothing_half_written(
    name: str, log_path: Path, tmp_path: Path
) -> None:
    run = start(command(name, log_path, tmp_path / "out" / "file"), limit=True)
    _, errors = run.communicate(timeout=120)
    assert run.returncode == 1, errors
    assert errors.startswith("error: cannot write ") and "Traceback" not in errors
    assert (
        len(errors.strip().splitlines()) == 2 and "hint: choose a writable folder with free space" in errors
    )
    assert not (tmp_path / "out").exists() or list((tmp_path / "out").iterdir()) == []


def test_a_folder_that_cannot_be_written_is_one_clear_message(log_path: Path, tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o555)
    out = closed / "x" if os.geteuid() else Path("/proc/counterlog/x")  # nothing is closed to root but /proc
    run = start(command("estimate", log_path, out))
    _, errors = run.communicate(timeout=120)
    assert run.returncode == 1
    assert errors.startswith(f"error: cannot write {out}") and len(errors.strip().splitlines()) == 2
