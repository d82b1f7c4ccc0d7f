"""Write docs/speed.md from the committed results: every number on the page stands in benchmarks/results/*.json.

Run: python benchmarks/speed_page.py
"""

import json
from pathlib import Path

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"


def load(slug):
    return json.loads((RESULTS / f"{slug}.json").read_text())


def table(head, rows):
    """A markdown table; a bar in a cell is escaped."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(str(c).replace("|", "\\|") for c in row) + " |" for row in lines)


def number(x):
    """Three significant digits, no exponent where it can be read without."""
    if not isinstance(x, (int, float)):
        return "" if x is None else str(x)
    if x != 0 and not 1e-3 <= abs(x) < 1e6:
        return f"{x:.1e}"
    return f"{x:,.0f}" if abs(x) >= 100 else f"{x:.3g}"


def digits(x):
    """Twelve decimals, enough to see an agreement."""
    return "" if x is None else f"{x:.12f}"


def held(passed):
    return "" if passed is None else ("held" if passed else "**not held**")


def bars(result):
    """(claim, measured, bar, held) of a result, whichever of its three layouts it has."""
    for row in result.get("checks") or result.get("bars") or result.get("rows", ()):
        if "claim" in row:
            yield row["claim"], number(row["measured"]), row["bar"], held(row.get("held"))
        elif "what" in row and "bar" in row:
            unit = "" if row.get("unit") == "ratio" else f" {row.get('unit', '')}"
            yield (
                row["what"],
                number(row["measured"]) + unit,
                f"<= {number(row['bar'])}{unit}",
                held(row["held"]),
            )
        elif "passed" in row:
            limit = (
                f"<= {row['at_most']:g}"
                if "at_most" in row
                else f">= {row['at_least']:g}"
                if "at_least" in row
                else ""
            )
            yield row["bar"], number(row["measured"]), limit, held(row["passed"])


def made(result):
    """What made a result, in a sentence."""
    versions = [f"{k} {v}" for k, v in result.get("versions", {}).items()]
    if isinstance(result.get("peers"), dict):
        versions += [f"{k} {v} (peers' side)" for k, v in result["peers"].items()]
    when = f" Run on {result['date']} at commit {result['commit']}." if "date" in result else ""
    return f"Machine: {result.get('machine', 'not recorded')}. Versions: {', '.join(versions)}.{when}"


def scale_tables(result):
    sizes = result["sizes"]
    seconds = [[name, *(number(s["seconds"].get(name)) for s in sizes)] for name in sizes[0]["seconds"]]
    memory = [[kind, *(number(s["rss_mb"].get(kind)) for s in sizes)] for kind in sizes[0]["rss_mb"]]
    head = [f"{ENGINES[s['engine']]}, {s['rows']:,} rows" for s in sizes]
    out = [
        table(["Processor seconds", *head], seconds),
        table(["Peak resident MB, fresh process", *head], memory),
        ONCE,
        table(["", *ROWS], list(once_rows(result["everywhere"]))),
    ]
    peers = result["against_peers"]
    ours = {name: number(value) for name, value in peers["ours_seconds"].items()}
    if "obp_seconds" not in peers:
        return [*out, "The peers were left out of this run."]
    obp, vw = peers["obp_seconds"], peers["vw_seconds"]
    replicates = (
        f"{number(peers['obp_seconds_1000_replicates'])} (from {peers['obp_replicates_run']} replicates)"
    )
    memory = f"obp {number(peers['obp_rss_mb'])}, VW {number(peers['vw_rss_mb'])}"
    rows = [
        ["IPS and SNIPS", ours["IPS and SNIPS"], f"obp {number(obp['IPS'] + obp['SNIPS'])}"],
        ["IPS and SNIPS, sums alone", ours["IPS and SNIPS, sums alone"], "obp, as above"],
        [
            "IPS, SNIPS, DM, DR, predictions in columns",
            ours["IPS, SNIPS, DM and DR"],
            f"obp {number(sum(obp.values()))}",
        ],
        [
            "the same, sums alone",
            ours["IPS, SNIPS, DM and DR, sums alone"],
            "obp, as above",
        ],
        ["the same, from arrays", ours["IPS, SNIPS, DM and DR, arrays"], "obp, as above"],
        ["IPS and SNIPS, 1,000 replicates", ours["IPS and SNIPS, 1,000 replicates"], f"obp {replicates}"],
        ["IPS of a deterministic policy", ours["IPS of a deterministic policy"], f"VW {number(vw['ips'])}"],
        ["DR with its model", number(peers["ours_learnt_dr"]["seconds"]), f"VW {number(vw['dr'])}"],
        ["peak resident MB", number(peers["ours_rss_mb"]), memory],
    ]
    return [*out, table(["1,000,000 rows, 10 actions: processor seconds", "Counterlog", "Peer"], rows)]


ENGINES = {"polars": "Polars", "duckdb": "DuckDB"}
ROWS = ["1,000,000 rows", "10,000,000 rows", "100,000,000 rows"]
ONCE = """One question as a user asks it, in a fresh process: one policy by IPS and SNIPS, from Parquet to intervals.
obp starts from arrays in memory and ends with points; Vowpal Wabbit starts from its text and gives IPS alone. Seconds
are those of the job, memory that of the process, with Java's where Spark computes. `examples/estimate/plot_scale.py`
draws this table. obp holds the probabilities of all actions of all rows, which is what stops it first on a machine of
24 GB; Dask and Spark are made for more machines than one."""


def once_rows(found):
    """A row for each engine and peer: seconds and peak memory by number of rows."""
    for who in dict.fromkeys(r["who"] for r in found):
        held = {f"{r['rows']:,} rows": r for r in found if r["who"] == who}
        cells = [
            f"{number(r['seconds'])} s, {number(r['rss_mb'])} MB" if (r := held.get(n)) else "-" for n in ROWS
        ]
        yield [who, *cells]


TITLE = """# Speed and correctness, side by side

Every number here was measured by a script under `benchmarks/` and stands in `benchmarks/results/`; this page is
written from those files by `python benchmarks/speed_page.py`. Times are processor seconds (user and system, all
threads), the least of several repeats in which the sides take turns, because the machine is shared. A bar that does
not hold is listed as such.

## Evaluating a large log

Parquet files with the rewards, the propensities and ten candidate policies as columns of probabilities. The limit
is the engine's own scan: the sums of the same columns and nothing else. `statistics` are the sums alone, which give
values and t intervals; buckets add the bootstrap, paired differences and the check for heavy tails."""

SIDES = """Our side of the comparison opens, checks and reads the Parquet file each time. obp's has its arrays in
memory, and in the rows without replicates it gives point estimates alone, where ours come with intervals and
effective sample sizes. Vowpal Wabbit reads its text format. Its DR learns a linear model in one pass as it goes;
ours cross-fits a logistic regression on two folds and predicts every action of every row, which costs more."""

NOT_HELD = """What does not hold, and why. The file holds float64 numbers as pyarrow writes them by default, of which
random digits do not compress; 100,000,000 rows are one file of 10,000,000 read ten times over, timed once without a
warm-up, which favours whatever runs later than the bare scan of 3 columns. The statistics of a policy are five sums and
a maximum of products and the least and largest of its column, where the bare scan has one sum, and the buckets scatter
two sums a policy into 1,024 places. At 1,000,000 rows the fixed costs show as well: a few milliseconds to plan a scan,
and the draws and products of 1,000 replicates, which do not grow with the log. The width of a bootstrap interval from
1,024 buckets and 1,000 replicates varies by some percent, and the bar is on the widest of twenty. obp's point estimates
from arrays in memory are a product and a mean, which leaves no large factor to be had once reading and checking the
file is counted; the factor is in the intervals and the memory. Scans were timed first, on a machine that did little
else; the other rows an hour later, while it was busy."""


def page():
    scale, correct = load("estimate-scale"), load("estimate-correctness")
    agreement = [
        [r["estimator"], digits(r["ours"]), digits(r["obp"]), number(r["relative_difference"])]
        for r in correct["agreement"]
    ]
    cases = [
        [
            r["case"],
            r["truth"],
            f"{r['peer']}: {r['theirs']}" if r["peer"] else "not run",
            r["ours"],
            r["why"],
        ]
        for r in correct["rows"]
    ]
    left_out = ", ".join(scale.get("left_out", ()))
    parts = [
        TITLE,
        *scale_tables(scale),
        SIDES,
        table(["Bar", "Measured", "Limit", ""], bars(scale)),
        NOT_HELD,
        *([f"Not measured in this run, by the script's names: {left_out}."] if left_out else []),
        made(scale),
        "## Where the answers differ",
        "On one random log of 5,000 rows the values agree with obp's:",
        table(["Estimator", "Counterlog", "obp", "Relative difference"], agreement),
        "Cases in which a peer is wrong, silent or broken, each run on both sides:",
        table(["Case", "Should be", "Peer", "Counterlog", "Why"], cases),
        made(correct),
        "## Other systems",
    ]
    for path in sorted(RESULTS.glob("*.json")):
        result = load(path.stem)
        rows = list(bars(result))
        if not path.stem.startswith("estimate-") and rows:
            parts += [f"### {path.stem}", table(["Bar", "Measured", "Limit", ""], rows), made(result)]
    return "\n\n".join(parts) + "\n"


if __name__ == "__main__":
    (ROOT / "docs" / "speed.md").write_text(page())
