"""What scale.py and correctness.py share: asking the peers' interpreter, and writing a result with what made it."""

import datetime
import json
import os
import subprocess
import sys
from pathlib import Path

from counterlog.core.study import versions

HERE = Path(__file__).parent
PEERS = os.environ.get("COUNTERLOG_PEERS", "")


def child(command):
    """The JSON on the last line that a command prints."""
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    if done.returncode:
        sys.stderr.write(done.stderr)
        raise SystemExit(f"{' '.join(map(str, command))} ended with {done.returncode}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def peer(check, *arguments):
    """The peers' answer to a check of peers.py, or None without COUNTERLOG_PEERS."""
    return child([PEERS, HERE / "peers.py", check, *map(str, arguments)]) if PEERS else None


def write(slug, result):
    """benchmarks/results/SLUG.json with versions, machine, date and commit."""
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False, cwd=HERE
    ).stdout.strip()
    made = {
        "slug": slug,
        **result,
        "peers": peer("versions") or "left out: COUNTERLOG_PEERS names no interpreter",
        "versions": versions("counterlog", "numpy", "polars", "narwhals", "pyarrow", "scikit-learn"),
        "machine": f"{os.cpu_count()} cores, shared with other work",
        "date": datetime.date.today().isoformat(),
        "commit": commit,
    }
    target = HERE.parent / "results" / f"{slug}.json"
    target.write_text(json.dumps(made, indent=1) + "\n")
