"""The page of a plan on a network: who invites whom, what it reaches, how far from the best, what more places buy."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from counterlog.core.choice import Choice
from counterlog.core.files import write_whole
from counterlog.core.network import Network
from counterlog.core.results import show
from counterlog.report.blocks import Section, grid
from counterlog.report.files import csv_text
from counterlog.report.network_figures import capacity_figure, network_figure, starters_figure
from counterlog.report.page import render_sections
from counterlog.spread.capacity_constrained_im import CapacityConstrainedIM
from counterlog.spread.centrality import Centrality, CentralityConfig

MOST_ROWS = 2_000


@dataclass(frozen=True, kw_only=True)
class NetworkReport:
    """A plan, the plans for other capacities, the plain alternative, and what made them."""

    network: Network
    plan: Choice
    capacities: tuple[int, ...]
    plans: tuple[Choice, ...]
    alone: Choice
    command: str
    source: str
    fingerprint: str
    rng: int

    @property
    def verdict(self) -> tuple[str, ...]:
        """The sentences that matter most."""
        p, own = self.plan, self.alone
        starters = sum(s.chosen > 0 for s in p.starters)
        lead = (
            f"{starters:,} starters invite {len(p.seeds):,} friends, who reach {show(p.spread)} of {p.n:,} people in "
            f"expectation (95% interval {show(p.lo)} to {show(p.hi)})."
        )
        bound = (
            f"No choice within these capacities reaches more than {show(p.upper)}; this one is worth at least "
            f"{p.ratio:.0%} of the best, with probability {1 - p.delta:.4g}."
        )
        beside = (
            f"If every starter invited its own best connected friends, {len(own.seeds):,} people would be invited and "
            f"{show(own.spread)} reached ({show(own.lo)} to {show(own.hi)})."
        )
        return (lead, bound, beside, *p.notes)

    def html(self) -> str:
        """The page as text."""
        return render_sections(
            [self._drawing(), self._capacity(), self._starters(), self._invitations(), self._run()],
            title="Invitation plan",
            about=f"{self.network.n:,} people and {self.network.m:,} links from {self.source}.",
            heading="Whom each starter should invite",
            verdict=self.verdict,
        )

    def _drawing(self) -> Section:
        drawn, count = network_figure(self.network, self.plan, self.rng)
        whole = (
            "All are drawn."
            if count == self.network.n
            else f"{count:,} of {self.network.n:,} people are drawn: "
        )
        more = (
            "" if count == self.network.n else "starters, invited friends and some of those they may reach."
        )
        return Section(
            slug="network",
            title="The network",
            text=(
                whole + more,
                "Heavy lines are invitations; purple are starters, orange the invited, grey others.",
            ),
            figure=drawn,
            alt="The network with starters, their invitations and some of the people around them",
        )

    def _capacity(self) -> Section:
        rows = [
            (k, len(c.seeds), c.spread, c.lo, c.hi, c.upper, c.ratio)
            for k, c in zip(self.capacities, self.plans, strict=True)
        ]
        columns = (
            ("friends a starter may invite", "capacity"),
            ("people invited", "each counted once"),
            ("reached", "expected"),
            ("from", "95%"),
            ("to", "95%"),
            ("no plan exceeds", "certified"),
            ("share of the best", "at least"),
        )
        return Section(
            slug="capacity",
            title="What a larger capacity buys",
            text=("Each point is a plan of its own, valued on people drawn apart from those that chose it.",),
            figure=capacity_figure(self.capacities, self.plans),
            alt="Expected spread against capacity",
            grids=(grid("Spread against capacity", columns, rows),),
        )

    def _starters(self) -> Section:
        rows = [
            (s.starter, s.friends, s.capacity, s.chosen, s.alone, s.next_gain)
            for s in sorted(self.plan.starters, key=lambda s: -s.alone)[:MOST_ROWS]
        ]
        columns = (
            "starter",
            ("friends", "on offer"),
            ("capacity", "at most"),
            ("invited", "by this starter"),
            ("reached through this starter alone", "lost if the starter stays away"),
            ("one more place would add", "people"),
        )
        return Section(
            slug="starters",
            title="What each starter brings",
            text=("The thirty largest are drawn.",) if len(self.plan.starters) > 30 else (),
            figure=starters_figure(self.plan),
            alt="What each starter alone brings and what one more place would add",
            grids=(grid("Starters", columns, rows, open=len(rows) <= 20),),
        )

    def _invitations(self) -> Section:
        rows = [(i, p.starter, p.node, p.gain) for i, p in enumerate(self.plan.picks[:MOST_ROWS], 1)]
        note = "" if len(rows) == len(self.plan.picks) else f"The first {len(rows):,}; all are in plan.csv."
        columns = ("order", "starter", "invites", ("adds", "people, to those before"))
        return Section(
            slug="invitations",
            title="The invitations",
            grids=(grid("Invitations", columns, rows, note=note, open=len(rows) <= 20),),
        )

    def _run(self) -> Section:
        p = self.plan
        rows = [
            ("command", self.command),
            ("network", f"{self.source}, SHA-256 {self.fingerprint[:16]}"),
            ("method", f"{p.method}; {p.sets:,} sets to choose and as many to validate, {p.rounds} rounds"),
            ("seed", str(self.rng)),
            (
                "versions",
                f"counterlog {version('counterlog')}, numpy {version('numpy')}, numba {version('numba')}",
            ),
        ]
        return Section(
            slug="run", title="How this page was made", grids=(grid("Run", ("what", "value"), rows),)
        )

    def write(self, folder: Path) -> Path:
        """`plan.json`, `plan.csv`, `run.json` and the page, which is written last."""
        self.plan.save(folder / "plan.json")
        picks = [[p.starter, p.node, p.gain] for p in self.plan.picks]
        write_whole(folder / "plan.csv", csv_text(["starter", "invites", "adds"], picks))
        run = {"command": self.command, "rng": self.rng, "network": self.source, "sha256": self.fingerprint}
        write_whole(folder / "run.json", json.dumps(run, indent=1))
        return write_whole(folder / "report.html", self.html())


def around(capacity: int) -> tuple[int, ...]:
    """Capacities to compare: a quarter, half, the one asked for, one and a half, twice."""
    return tuple(sorted({max(1, round(capacity * f)) for f in (0.25, 0.5, 1.0, 1.5, 2.0)}))


def build(
    network: Network,
    starters: Sequence[Any],
    planner: CapacityConstrainedIM,
    *,
    capacity: int | Sequence[int],
    rng: int = 0,
    command: str = "",
    source: str = "",
    fingerprint: str = "",
    progress: Callable[[str, float], None] | None = None,
) -> NetworkReport:
    """The plan, plans for smaller and larger capacities, and separate lists by degree. With one capacity a starter, the
    others scale them alike."""
    say = progress or (lambda what, share: None)
    each = [capacity] if isinstance(capacity, int) else list(capacity)
    middle = round(sum(each) / len(each))
    sizes, plans = around(middle), []
    for i, k in enumerate(sizes):
        say(f"planning for capacity {k}", i / (len(sizes) + 1))
        asked = k if isinstance(capacity, int) else [max(1, round(c * k / middle)) for c in each]
        plans.append(planner.choose(network, starters, capacity=capacity if k == middle else asked, rng=rng))
    say("separate lists by degree", len(sizes) / (len(sizes) + 1))
    model, threads = planner.config.model, planner.config.threads
    plain = Centrality(CentralityConfig(seeds=middle, model=model, threads=threads)).choose(
        network, starters, rng=rng
    )
    return NetworkReport(
        network=network,
        plan=plans[sizes.index(middle)],
        capacities=sizes,
        plans=tuple(plans),
        alone=plain,
        command=command,
        source=source,
        fingerprint=fingerprint,
        rng=rng,
    )
