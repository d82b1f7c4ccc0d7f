"""The page of a trajectory report: one HTML file that opens without a network, in the look of the decision report.

Where the truth is known it stands beside every estimate, and the estimators are judged by it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from counterlog.core.errors import CounterlogError
from counterlog.core.results import Estimate, show
from counterlog.estimate.sharpe_ratio_at_k import SharpeRatioAtK
from counterlog.report.blocks import Grid, Section, grid
from counterlog.report.deployment import AtK
from counterlog.report.figures import COLOURS, forest, gaps, ratio_curve
from counterlog.report.page import render_sections
from counterlog.report.trajectory_report import MOST_AWAY, TrajectoryReport
from counterlog.report.trajectory_values import MAIN, ON_POLICY, RATIOS, SECOND, TABLES
from counterlog.report.wording import BASELINE, brief, capital, percent

SEVERITY_WORDS = {"stop": "Stop", "warning": "Warning", "note": "Note", "ok": "Fine"}
ESTIMATOR_WORDS = {
    ON_POLICY: "the mean return of the log itself",
    MAIN: "fitted values, corrected by weighted Bellman errors; the verdict rests on it",
    "NFQE": "fitted Q evaluation by networks",
    "NMIS": "the logged rewards, reweighted to the policy's visits",
    TABLES: "exact tables of the state codes",
    RATIOS: "products of probability ratios, without any network",
}
TRUTH = "truth"


def render_trajectories(report: TrajectoryReport) -> str:
    """The page as text."""
    c = report.log
    sections = [value_section(report), lead_section(report), policy_section(report)]
    found = [test_section(report), audit_section(report), judged_section(report), made_section(report)]
    return render_sections(
        [*sections, *(s for s in found if s is not None)],
        title="Trajectory report",
        about=f"{c.trajectories:,} trajectories of {_span(c.shortest, c.longest)} steps, {c.rows:,} steps in all, "
        f"{c.actions}, propensities {'known' if c.propensity else 'unknown'}. Values: {report.unit}.",
        heading="Verdict",
        verdict=[report.verdict],
    )


def _span(low: int, high: int) -> str:
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


def value_figure(report: TrajectoryReport) -> Any:
    """Every policy by every estimator, with the truth as a line where it is known."""
    drawn = forest(report.estimates, words=lambda unit: unit)
    policies = list(dict.fromkeys(e.policy for e in report.estimates if math.isfinite(e.value)))
    known = [(i, report.truth[p]) for i, p in enumerate(policies) if p in report.truth]
    if known:
        x: list[float | None] = []
        y: list[float | None] = []
        for i, value in known:
            x += [value, value, None]
            y += [-i - 0.45, -i + 0.45, None]
        drawn.add_scatter(
            x=x,
            y=y,
            mode="lines",
            name=TRUTH,
            meta=TRUTH,
            marker={"color": COLOURS[7]},
            line={"color": COLOURS[7], "width": 2},
            hoverinfo="skip",
        )
    return drawn


def value_section(report: TrajectoryReport) -> Section:
    """The forest and its table."""
    names = list(dict.fromkeys(e.estimator for e in report.estimates))
    explained = "; ".join(f"{n}: {ESTIMATOR_WORDS[n]}" for n in names if n in ESTIMATOR_WORDS)
    text = [
        f"What each policy would earn, with {percent(report.level)} intervals. A hollow mark should not be believed; "
        "the table says why.",
        f"The ways of estimating: {explained}.",
    ]
    if report.truth:
        text.append("The upright line is the true value, from playing the policies in the simulator.")
    return Section(
        slug="values",
        title="What would each policy earn?",
        text=tuple(text),
        figure=value_figure(report),
        alt="Estimated value of each policy by each estimator, with the true value where it is known",
        grids=(_estimates_grid(report),),
    )


def _estimates_grid(report: TrajectoryReport) -> Grid:
    truth = [("truth", "from the simulator")] if report.truth else []
    columns: list[str | tuple[str, str]] = [
        "policy",
        "estimator",
        ("value", report.unit),
        ("low end", "of the interval"),
        ("high end", "of the interval"),
        *truth,
        ("effective trajectories", "that the weights rest on"),
        ("remarks", ""),
    ]
    rows = []
    for e in report.estimates:
        known = [report.truth.get(e.policy)] if report.truth else []
        ess = e.ess if math.isfinite(e.ess) else None
        rows.append([e.policy, e.estimator, e.value, e.lo, e.hi, *known, ess, "" if e.valid else e.reason])
    return grid("The numbers drawn", columns, rows, open=False)


def lead_section(report: TrajectoryReport) -> Section:
    """Differences of all pairs."""
    drawn = report.leads
    labels = [f"{x.first} − {x.second}" for x in drawn]
    known = any(math.isfinite(x.true) for x in drawn)
    columns: list[str | tuple[str, str]] = [
        "first",
        "second",
        ("difference", report.unit),
        ("low end", "for all pairs together"),
        ("high end", "for all pairs together"),
        *([("truth", "from the simulator")] if known else []),
        ("estimators agree", "on the sign"),
        ("told apart", ""),
        ("visible", "smallest difference seen with 80% power"),
        ("trajectories needed", "for a difference of this size"),
    ]
    rows = [
        (
            x.first,
            x.second,
            x.value,
            x.lo,
            x.hi,
            *([x.true] if known else []),
            x.agree,
            x.told_apart,
            x.visible,
            x.needed if x.needed >= 0 else None,
        )
        for x in drawn
    ]
    return Section(
        slug="leads",
        title="Can the log tell them apart?",
        text=(
            "Differences are paired by trajectory, so that what two policies share cancels. The intervals hold for all "
            "pairs together. Two policies are told apart when the interval leaves out 0 and no estimator has the other "
            "sign.",
        ),
        figure=gaps(
            labels, [x.value for x in drawn], [x.lo for x in drawn], [x.hi for x in drawn], report.unit
        ),
        alt="Differences between policies with their intervals",
        grids=(grid("All pairs", columns, rows),),
    )


def policy_section(report: TrajectoryReport) -> Section:
    """What was learnt, and how far it is from the log."""
    known = bool(report.truth)
    columns: list[str | tuple[str, str]] = [
        "policy",
        "what it does",
        ("value", f"by {MAIN}"),
        *([("truth", "from the simulator")] if known else []),
        ("its own critic says", "mean over the starts; not an estimate to rely on"),
        ("decisions unlike the log", f"nothing is claimed above {percent(MOST_AWAY)}"),
        ("saved as", ""),
    ]
    rows = [
        (
            p.name,
            p.about,
            report.main(p.name).value,
            *([report.truth.get(p.name)] if known else []),
            p.claim if math.isfinite(p.claim) else None,
            percent(p.away),
            ", ".join(p.files),
        )
        for p in report.policies
    ]
    return Section(
        slug="policies",
        title="What was learnt?",
        text=report.notes,
        grids=(grid("Learnt policies", columns, rows),),
    )


def test_section(report: TrajectoryReport) -> Section | None:
    """SharpeRatio@k and the risks of a test."""
    if not report.advice:
        return None
    points = [
        AtK(
            k=p.k, best=p.best, worst=p.worst, spread=math.nan, ratio=p.ratio, lo=p.lo, hi=p.hi, regret=math.nan,
            below=p.share_worse, unit=report.unit,
        )
        for p in report.advice
    ]  # fmt: skip
    columns: list[str | tuple[str, str]] = [
        ("k", "policies put to the test"),
        ("adds", "the k-th best-looking policy"),
        ("expected gain", "of that policy over what was done, luck taken back"),
        ("best", "expected best gain among the k"),
        ("worst", "expected worst gain among the k"),
        ("SharpeRatio@k", "gain of the best for each unit of spread"),
        ("chance of a loss", "that some of the k is worse than what was done"),
        ("chance of the best", "that the best of all is among the k"),
    ]
    rows = [
        (
            p.k,
            p.policy,
            p.expected_gain,
            p.best,
            p.worst,
            p.ratio if math.isfinite(p.ratio) else p.reason,
            percent(p.chance_worse),
            percent(p.chance_best_inside),
        )
        for p in report.advice
    ]
    known = [p for p in points if math.isfinite(p.ratio)]
    return Section(
        slug="test",
        title="Which to test next?",
        text=(
            "If the k best-looking policies that can be judged were tested live, beside what is done now. True values "
            "are unknown here: draws given this log stand for them.",
        ),
        figure=ratio_curve(known) if known else None,
        alt="SharpeRatio@k against k",
        grids=(grid("Testing the k best-looking policies", columns, rows),),
    )


def audit_section(report: TrajectoryReport) -> Section:
    """Facts of the log, the audit's findings, and the networks' check on themselves."""
    check, c = report.check, report.log
    word = (
        f"Of the log's own actions the networks say {brief(abs(check.value))} "
        f"{'more' if check.value > 0 else 'less'} than they earned (standard error {brief(check.se)}, spread of the "
        f"returns {brief(check.spread)})"
    )
    own = (
        ("ok", "Fine", "networks against the log", word, "")
        if check.passed
        else ("warning", "Warning", "networks against the log", word, "more steps, or more trajectories")
    )
    cards = tuple(
        (
            f.severity,
            SEVERITY_WORDS.get(f.severity, f.severity),
            f.check,
            capital(f.message).rstrip("."),
            f.remedy,
        )
        for f in report.audit
        if f.severity != "ok"
    )
    facts = [
        ("trajectories", c.trajectories),
        ("steps", c.rows),
        ("steps a trajectory", _span(c.shortest, c.longest)),
        ("state", f"{c.states} numbers" if c.states else "codes"),
        ("actions", c.actions),
        ("ended by themselves", c.terminated),
        ("cut by a limit", c.truncated),
        ("mean return", c.mean_return),
        ("best return", c.best_return),
    ]
    grids = [grid("The log", ("what", "value"), facts)]
    if report.profile:
        names = list(dict.fromkeys(k for row in report.profile for k in row))
        grids.append(
            grid(
                "Its quality and variety", names, [[_plain(r.get(k)) for k in names] for r in report.profile]
            )
        )
    return Section(
        slug="audit",
        title="What can this log support?",
        text=(report.audit_verdict,),
        cards=(own, *cards),
        grids=tuple(grids),
    )


def _plain(value: Any) -> Any:
    return value if value is None or isinstance(value, (bool, int, float)) else str(value)


def judged_section(report: TrajectoryReport) -> Section | None:
    """How the estimators did against the truth, as portfolios and as numbers."""
    policies = [p.name for p in report.policies if p.name in report.truth]
    if len(policies) < 2 or BASELINE not in report.truth:
        return None
    by_name = {e: _values(report.estimates, e, policies) for e in (MAIN, *SECOND)}
    by_name = {e: v for e, v in by_name.items() if len(v) == len(policies)}
    try:
        found = SharpeRatioAtK().assess(
            {p: report.truth[p] for p in policies},
            by_name,
            behaviour=report.truth[BASELINE],
            unit=report.unit,
        )
    except CounterlogError as refusal:
        return Section("judged", "Were the estimators right?", (str(refusal).splitlines()[0],))
    last = len(policies)
    rows = [
        (
            e,
            float(sum(v - report.truth[p] for v, p in zip(by_name[e], policies, strict=True)) / last),
            math.sqrt(found.find(e, "MSE").value),
            found.find(e, "Spearman").value,
            found.find(e, "Regret best", 1).value,
            *(_or_reason(found.find(e, "SharpeRatio", k)) for k in range(2, last + 1)),
        )
        for e in by_name
    ]
    columns: list[str | tuple[str, str]] = [
        "estimator",
        ("mean error", "estimate minus truth"),
        ("root mean square error", ""),
        ("rank correlation", "Spearman"),
        ("regret@1", "lost by taking the best-looking"),
        *((f"SharpeRatio@{k}", "with true values") for k in range(2, last + 1)),
    ]
    return Section(
        slug="judged",
        title="Were the estimators right?",
        text=(
            "The truth is known here, so each estimator can be judged by what its choices would truly have earned.",
        ),
        grids=(grid("Estimators against the truth", columns, rows),),
    )


def _values(estimates: Sequence[Estimate], estimator: str, policies: Sequence[str]) -> list[float]:
    own = {e.policy: e.value for e in estimates if e.estimator == estimator}
    return [own[p] for p in policies if p in own]


def _or_reason(metric: Any) -> Any:
    return metric.value if math.isfinite(metric.value) else metric.reason


def made_section(report: TrajectoryReport) -> Section:
    """What made this page."""
    rows = [
        ("command", report.command),
        ("discount a step", show(report.gamma)),
        ("data, SHA-256", report.log.fingerprint),
        ("settings", ", ".join(f"{k}={v}" for k, v in report.settings.items())),
        ("versions", ", ".join(f"{k} {v}" for k, v in report.versions.items())),
        ("processor time", f"{report.seconds:.1f} s"),
    ]
    return Section(
        slug="made",
        title="What made this page",
        text=("The same command on the same data gives the same numbers.",),
        grids=(grid("Command, data and versions", ("what", "value"), rows),),
    )
