"""The page of an invitation plan, and the command that writes it."""

from __future__ import annotations

import json
import re
from pathlib import Path

import networkx as nx
import pytest
from typer.testing import CliRunner

from counterlog.cli import app
from counterlog.cli.networks import read_starters
from counterlog.core.choice import Choice
from counterlog.core.errors import ConfigError, CounterlogError, LogError
from counterlog.core.network import Network
from counterlog.report.network_figures import MOST_DRAWN, drawn_nodes, network_figure
from counterlog.report.network_page import around, build
from counterlog.spread.capacity_constrained_im import CapacityConstrainedIM, CapacityConstrainedIMConfig

pytestmark = pytest.mark.graphs


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    nx.write_edgelist(nx.barabasi_albert_graph(400, 4, seed=1), tmp_path / "graph.txt", data=False)
    (tmp_path / "starters.txt").write_text("0, 7\n12:2\n")
    return tmp_path


def test_the_command_writes_plan_and_page(folder: Path) -> None:
    words = [
        "spread",
        folder / "graph.txt",
        "--starters",
        folder / "starters.txt",
        "--capacity",
        "3",
        "--undirected",
    ]
    done = CliRunner().invoke(app, [*map(str, words), "--out", str(folder / "out"), "--json", "--quiet"])
    assert done.exit_code == 0, done.output
    said = json.loads(done.stdout)
    plan = Choice.load(folder / "out" / "plan.json")
    assert {s.starter: s.chosen for s in plan.starters} == {0: 3, 7: 3, 12: 2}
    assert said["plan"]["spread"] == plan.spread
    assert len((folder / "out" / "plan.csv").read_text().splitlines()) == 9
    page = (folder / "out" / "report.html").read_text()
    assert page.startswith("<!DOCTYPE html>") or "<!DOCTYPE html>" in page[:20]
    assert ">invitations</li>" in page and ">no plan can reach more than</li>" in page
    for title in ("Whom each starter should invite", "The network", "What a larger capacity buys"):
        assert title in page
    assert f"{plan.n:,} people in expectation" in page
    assert not re.search(r'(src|href)="https?:', page.split("<script>")[0])


def test_labels_from_the_file_cannot_become_markup(tmp_path: Path) -> None:
    bad = "<img/src=x>"
    (tmp_path / "g.csv").write_text(f"{bad},b\n{bad},c\nb,d\nc,d\nd,e\n")
    network = Network.from_edges([bad, bad, "b", "c"], ["b", "c", "d", "d"], 0.5)
    made = build(network, [bad], CapacityConstrainedIM(CapacityConstrainedIMConfig(threads=1)), capacity=1)
    assert bad not in made.html()


def test_a_large_network_is_sampled_and_starters_stay() -> None:
    network = Network.from_networkx(nx.barabasi_albert_graph(2_000, 5, seed=2))
    choice = CapacityConstrainedIM(CapacityConstrainedIMConfig(threads=1)).choose(network, [0, 1], capacity=2)
    shown = drawn_nodes(network, network.ids([0, 1]), network.ids(list(choice.seeds)))
    assert len(shown) == MOST_DRAWN
    assert {0, 1, *choice.seeds} <= set(network.labels[shown].tolist())
    drawn, count = network_figure(network, choice)
    assert count == MOST_DRAWN
    assert [t.name for t in drawn.data] == ["links", "invitations", "others", "invited", "starters"]


def test_capacities_around_the_one_asked_for() -> None:
    assert around(10) == (2, 5, 10, 15, 20)
    assert around(1) == (1, 2)


def test_starters_that_cannot_be_read_are_refused(tmp_path: Path) -> None:
    with pytest.raises(LogError, match="there is no file"):
        read_starters(tmp_path / "none", 3)
    (tmp_path / "s").write_text("a:two b")
    with pytest.raises(ConfigError, match="capacity 'two'"):
        read_starters(tmp_path / "s", 3)
    (tmp_path / "s").write_text("a:2 b")
    assert read_starters(tmp_path / "s", 3) == (["a", "b"], [2, 3])
    assert issubclass(ConfigError, CounterlogError)
