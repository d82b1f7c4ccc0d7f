"""The profile of a log of trajectories: what `DatasetCharacteristics` returns, and the reference that it compares with.

Both are saved as JSON; a profile of one log is the reference of another (`as_reference`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from counterlog.audit.distinct_pairs import Distinct, Frequencies
from counterlog.audit.log_plane import LogPlane, Recommendation
from counterlog.audit.visit_cells import CellGrid
from counterlog.core.results import Finding, Result


@dataclass(frozen=True, kw_only=True)
class CellReference(Result):
    """What is kept of a reference log: its grid, how many pairs it visits and how often, its mean return.

    `pair_frequencies` (count, pairs with it) is empty for a sketch. `n` counts trajectories.
    """

    n: int
    rows: int
    unit: str
    grid: CellGrid
    pairs: Distinct
    states: Distinct
    pair_frequencies: Frequencies
    mean_return: float | None
    fingerprint: str = ""


@dataclass(frozen=True, kw_only=True)
class LogProfile(Result):
    """Quality, coverage and shape of a log. Numbers that nothing was given for are None.

    n, rows               trajectories, steps; `finished` of the trajectories count for TQ
    tq, saco, lsaco       with references only; `*_low`, `*_high`: 95 % interval. SACo's is that of the counting alone
    compared_rows         rows at which the two logs' pairs are compared
    states, pairs         distinct cells
    coverage              chance that one more step shows a pair seen before (Good-Turing)
    pair_bound            lower bound of the pairs that this behaviour can reach (Chao1)
    doubled               expected new pairs if as many rows again were logged
    pair_entropy          of the visits, nats; `evenness` = exp(entropy) / pairs
    possible_share        pairs / all pairs that exist, where that number was given
    good_coverage         pairs of the best quarter of episodes / all pairs
    behaviour_entropy     of the logging policy, nats a state, and how it was had
    sensitivity           pairs and coverage on coarser and finer grids
    drift                 for tenths of the log (or its parts): pairs that no other holds, a step
    """

    verdict: str
    severity: str
    findings: tuple[Finding, ...]
    unit: str
    n: int
    rows: int
    finished: int
    length_mean: float
    length_sd: float
    sparsity: float | None
    mean_return: float | None
    random_return: float | None
    best_return: float | None
    tq: float | None
    tq_low: float | None
    tq_high: float | None
    tq_quantiles: tuple[float, ...]
    states: Distinct
    pairs: Distinct
    saco: float | None
    saco_low: float | None
    saco_high: float | None
    lsaco: float | None
    compared_rows: int | None
    reference_pairs: float | None
    coverage: float | None
    pair_bound: float | None
    doubled: float | None
    pair_entropy: float | None
    evenness: float | None
    possible_share: float | None
    good_coverage: float | None
    behaviour_entropy: float | None
    behaviour_method: str
    action_counts: tuple[int, ...]
    grid: CellGrid
    pair_frequencies: Frequencies
    rarefaction: tuple[tuple[int, float], ...]
    sensitivity: tuple[dict[str, Any], ...]
    drift: tuple[dict[str, Any], ...]
    recommendation: Recommendation | None
    fingerprint: str = ""

    def __str__(self) -> str:
        lines = [self.verdict]
        lines += [
            f"[{f.severity}] {f.check}: {f.message}" + (f" -> {f.remedy}" if f.remedy else "")
            for f in self.findings
            if f.severity != "ok"
        ]
        return "\n".join(lines)

    def records(self) -> list[dict[str, Any]]:
        """One record: every number that is one number."""
        (record,) = super().records()
        counted = {
            "unique_states": self.states.value,
            "unique_pairs": self.pairs.value,
            "counting": self.pairs.method,
            "bins": self.grid.bins if self.grid.cut else None,
        }
        record.pop("verdict")
        return [{**record, **counted}]

    def table(self) -> list[dict[str, Any]]:
        """The numbers one a row, as `measure`, `value`, `low`, `high`, `meaning`: what a page or a terminal prints."""
        whole = [
            ("TQ", self.tq, self.tq_low, self.tq_high, "0: as the random policy, 1: as the reference policy"),
            ("SACo", self.saco, self.saco_low, self.saco_high, "distinct pairs / those of the reference"),
            ("lSACo", self.lsaco, None, None, "the same, of logarithms"),
            ("mean return", self.mean_return, None, None, f"{self.unit}, finished episodes"),
            ("episodes", self.n, None, None, f"{self.finished:,} of them finished"),
            ("steps", self.rows, None, None, f"{self.length_mean:,.1f} an episode, sd {self.length_sd:,.1f}"),
            ("pairs", self.pairs.value, self.pairs.low, self.pairs.high, f"{self.pairs.method} count"),
            ("states", self.states.value, self.states.low, self.states.high, f"{self.states.method} count"),
            ("share of all pairs", self.possible_share, None, None, "of the number given"),
            ("coverage", self.coverage, None, None, "chance that one more step shows a pair seen before"),
            ("pairs within reach", self.pair_bound, None, None, "lower bound for this behaviour (Chao1)"),
            ("new pairs if doubled", self.doubled, None, None, "expected, from as many steps again"),
            ("pair entropy", self.pair_entropy, None, None, "nats"),
            ("evenness", self.evenness, None, None, "exp(entropy) / pairs; 1: all alike"),
            ("best quarter's pairs", self.good_coverage, None, None, "share of pairs in the best episodes"),
            ("behaviour entropy", self.behaviour_entropy, None, None, f"nats, from {self.behaviour_method}"),
            ("sparsity", self.sparsity, None, None, "share of zero rewards, mean over episodes"),
        ]
        names = ("measure", "value", "low", "high", "meaning")
        return [dict(zip(names, row, strict=True)) for row in whole if row[1] is not None]

    def as_reference(self) -> CellReference:
        """This log as the reference of others."""
        return CellReference(
            n=self.n,
            rows=self.rows,
            unit=self.unit,
            grid=self.grid,
            pairs=self.pairs,
            states=self.states,
            pair_frequencies=self.pair_frequencies,
            mean_return=self.mean_return,
            fingerprint=self.fingerprint,
        )

    def plot(self, plane: LogPlane | None = None, learner: str | None = None) -> Any:
        """The log in the plane of SACo and TQ, over a plane's logs when one is given; else how its pairs add up."""
        import plotly.graph_objects as go

        if self.tq is None or self.saco is None:
            figure = go.Figure()
            rows, seen = zip(*self.rarefaction, strict=True) if self.rarefaction else ((), ())
            figure.add_scatter(x=rows, y=seen, mode="lines+markers", name="distinct pairs")
            figure.update_layout(
                title="How pairs add up with steps", xaxis_title="steps", yaxis_title="distinct pairs"
            )
            return figure
        chosen = learner or (self.recommendation.learner if self.recommendation else None)
        figure = plane.plot(chosen) if plane is not None else go.Figure()
        figure.add_scatter(
            x=[self.saco],
            y=[self.tq],
            mode="markers+text",
            text=["this log"],
            textposition="top center",
            name="this log",
            marker={"size": 15, "symbol": "star", "color": "#cf4d4d"},
            error_y={
                "type": "data",
                "symmetric": False,
                "array": [(self.tq_high or self.tq) - self.tq],
                "arrayminus": [self.tq - (self.tq_low or self.tq)],
            },
        )
        if plane is None:
            figure.add_hline(y=1, line={"color": "grey", "width": 1})
            figure.add_vline(x=1, line={"color": "grey", "width": 1})
            figure.update_layout(
                title="Coverage and quality of the log", xaxis_title="SACo", yaxis_title="TQ"
            )
        return figure
