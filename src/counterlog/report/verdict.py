"""The verdict: three sentences that can be read out in a meeting, each with its units and its interval.

First, what to do and what it would bring. Second, what the log cannot tell apart and how many more decisions would.
Third, how far the log can be trusted. Where the log has no answer, the sentence says so.
"""

from __future__ import annotations

from collections.abc import Sequence

from counterlog.core.errors import SupportError
from counterlog.core.evaluate import Evaluation
from counterlog.core.results import Estimate
from counterlog.report.contest import Comparison, Contest, contest, rough_gaps
from counterlog.report.deployment import RiskPoint
from counterlog.report.wording import (
    ALWAYS,
    BASELINE,
    BEST_FIXED,
    LEARNT,
    amount,
    brief,
    capital,
    listed,
    per_decision,
    percent,
    policy_words,
    rounded,
    span,
)

HOPELESS = 20


def summary(evaluation: Evaluation) -> str:
    """The first two sentences for every reward of an evaluation, without an audit."""
    texts = []
    rewards = list(dict.fromkeys(e.reward for e in evaluation.estimates))
    for reward in rewards:
        mine = tuple(e for e in evaluation.estimates if e.reward == reward)
        cells = tuple(c for c in evaluation.table.cells if c.reward == reward)
        table = type(evaluation.table)(
            evaluation.table.frame, cells, evaluation.table.clustered, evaluation.table.label
        )
        try:
            held: Contest | None = contest(mine, table, level=evaluation.level, rng=evaluation.rng)
        except SupportError:
            held = None
        said = " ".join(sentences(held, mine, rough_gaps(mine, table, level=evaluation.level)))
        texts.append(f"{reward}: {said}" if len(rewards) > 1 else said)
    return "\n".join(texts)


def sentences(
    held: Contest | None,
    estimates: Sequence[Estimate],
    rough: Sequence[Comparison] = (),
    *,
    trust: str = "",
    next_test: str = "",
) -> tuple[str, ...]:
    """The verdict on one reward; `trust` is the sentence on the log, `next_test` what to do if it can be trusted."""
    ahead = bool(next_test) and not trust.startswith("Do not")
    last = (f"{trust.rstrip('.')}; {next_test}." if ahead else trust,) if trust else ()
    if held is None:
        why = next(
            (e.reason for e in estimates if e.reason), "it has too few independent units to judge chance by"
        )
        return (f"The log cannot value any candidate: {why}.", "Nothing can be compared.", *last)
    if len(held.names) == 1 or BASELINE not in held.names:
        best = held.estimates[0]
        first = (
            f"Only {policy_words(best.policy)} has a value that can be relied on: "
            f"{amount(best.value, best.unit)} ({span(best.lo, best.hi, best.level)})."
        )
        lost = next((e for e in estimates if not e.valid and e.reason and e.policy != best.policy), None)
        why = f" ({policy_words(lost.policy)}: {lost.reason})" if lost else ""
        return (first, f"No other candidate can be valued reliably from this log{why}{_guide(rough)}.", *last)
    return (_first(held), _second(held), *last)


def _guide(rough: Sequence[Comparison]) -> str:
    """Roughly how many more decisions would show the largest gain that the log hints at."""
    best = max((c for c in rough if c.value > 0 and c.more > 0), key=lambda c: c.value, default=None)
    if best is None:
        return ""
    return (
        f"; as a rough guide, about {rounded(best.more)} more decisions would show the gain of {brief(best.value)} "
        f"{per_decision(best.unit)} that it hints at for {policy_words(best.first)} with 80% power"
    )


def _first(held: Contest) -> str:
    """What to do, and what it would bring against what was done."""
    best, logged = held.estimates[0], held.of(BASELINE)
    if best.policy == BASELINE:
        rival = next(e for e in held.estimates if e.policy != BASELINE)
        gap = held.compare(BASELINE, rival.policy)
        ahead = (
            "is ahead of every candidate" if gap.told_apart else "looks best, though not by a clear margin"
        )
        return (
            f"Keep what was done: it earned {amount(best.value, best.unit)} "
            f"({span(best.lo, best.hi, best.level)}) and {ahead}; the nearest, {policy_words(rival.policy)}, "
            f"would earn {brief(gap.value)} less ({span(gap.lo, gap.hi, gap.level)})."
        )
    gap = held.compare(best.policy, BASELINE)
    who = policy_words(best.policy)
    worth = f"would earn {amount(best.value, best.unit)} ({span(best.lo, best.hi, best.level)})"
    if not gap.told_apart:
        return (
            f"No candidate can be told apart from what was done, which earned {amount(logged.value, logged.unit)}: "
            f"the best-looking candidate, {who}, {worth}, a difference of {brief(gap.value)} "
            f"({span(gap.lo, gap.hi, gap.level)})."
        )
    relative = f", or {gap.value / abs(logged.value):+.0%}" if logged.value else ""
    return (
        f"{capital(who)} {worth}: {brief(gap.value)} {per_decision(best.unit)} more than the "
        f"{brief(logged.value)} of what was done "
        f"({span(gap.lo, gap.hi, gap.level)}{relative}, allowing for all {len(held.names)} policies compared)."
    )


def _second(held: Contest) -> str:
    """What cannot be told apart from the best, and what it would take."""
    best = held.estimates[0]
    rivals = [held.compare(best.policy, name) for name in held.names[1:]]
    twins = [c for c in rivals if c.same]
    open_ = _open(held)
    also = f"{capital(listed([policy_words(c.second) for c in twins]))} comes to the same; " if twins else ""
    if not open_:
        rest = [c for c in rivals if not c.same]
        if not rest:
            return capital(f"{also}there was nothing else to compare.")
        nearest = min(rest, key=lambda c: c.value)
        return capital(
            f"{also}every other candidate is clearly behind, the nearest, {policy_words(nearest.second)}, by "
            f"{brief(nearest.value)} {per_decision(nearest.unit)} ({span(nearest.lo, nearest.hi, nearest.level)})."
        )
    rival = worth_asking(open_)
    if rival.second == BASELINE:
        return capital(f"{also}{more_needed(rival)}.")
    others = f" (nor from {len(open_) - 1} more)" if len(open_) > 1 else ""
    return capital(
        f"{also}the log cannot tell {policy_words(best.policy)} apart from {policy_words(rival.second)}{others}: "
        f"the difference is {brief(rival.value)} {per_decision(rival.unit)} "
        f"({span(rival.lo, rival.hi, rival.level)}), and {more_needed(rival)}"
        + ("; the single action is the simpler choice." if _simpler(best.policy, rival.second) else ".")
    )


def loss_words(point: RiskPoint) -> str:
    """How likely the policy is a loss, over the redrawn logs."""
    if point.loss_chance == 0:
        return "in none of 1,000 redrawn logs would it earn less than what was done"
    return f"in {percent(point.loss_chance)} of 1,000 redrawn logs it would earn less than what was done"


def next_test(held: Contest, points: Sequence[RiskPoint]) -> str:
    """Which policies to test next and at what risk, or "" when none has a gain."""
    gains = {p.policy: p for p in points if p.gain > 0}
    best = max(gains.values(), key=lambda p: p.gain, default=None)
    if best is None:
        return ""
    open_ = [c for c in _open(held) if c.second in gains and held.names[0] == best.policy]
    if not open_:
        return f"test {policy_words(best.policy)} next: {loss_words(best)}"
    other = gains[worth_asking(open_).second]
    worst = max(best.loss_chance, other.loss_chance)
    often = "none" if worst == 0 else f"at most {percent(worst)}"
    return (
        f"test {policy_words(best.policy)} and {policy_words(other.policy)} next: in {often} of 1,000 redrawn logs "
        "would either earn less than what was done"
    )


def _simpler(best: str, rival: str) -> bool:
    """Whether the rival does one thing for everybody and the best does not."""
    return best == LEARNT and (rival.startswith(ALWAYS) or rival == BEST_FIXED)


def _open(held: Contest) -> list[Comparison]:
    """Policies that the best one cannot be told apart from; of those that come to the same, one."""
    rivals = [held.compare(held.names[0], name) for name in held.names[1:]]
    found = [c for c in rivals if not c.same and not c.told_apart]
    singles = [c.second for c in found if c.second.startswith(ALWAYS)]
    if BEST_FIXED in held.names and any(held.compare(name, BEST_FIXED).same for name in singles):
        found = [c for c in found if c.second != BEST_FIXED]
    return found


def worth_asking(open_: Sequence[Comparison]) -> Comparison:
    """The rival that a meeting would ask about: what was done, the learnt policy, a single action, then any."""
    for wanted in (BASELINE, LEARNT, ALWAYS, BEST_FIXED):
        for c in open_:
            if c.second.startswith(wanted):
                return c
    return open_[0]


def more_needed(c: Comparison) -> str:
    """How many more decisions would show a difference of the estimated size with 80% power."""
    if c.more < 0:
        return "no number of further decisions shows a difference of nothing"
    if c.more == 0:
        return (
            f"if that difference is real, the {c.n:,} decisions logged had an 80% chance of showing it "
            "in a test of its own"
        )
    if c.more > HOPELESS * c.n:
        return f"if there is one, it is so small that even {HOPELESS} times as many decisions would hardly show it"
    return f"if that difference is real, about {rounded(c.more)} more decisions would show it with 80% power"
