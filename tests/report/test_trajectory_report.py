import json
import math

import numpy as np
import pytest
from scipy.special import stdtrit

torch = pytest.importorskip("torch")

from typer.testing import CliRunner  # noqa: E402

from counterlog.cli import app  # noqa: E402
from counterlog.core.episodes import Episodes  # noqa: E402
from counterlog.core.errors import ConfigError, LogError, SupportError  # noqa: E402
from counterlog.core.results import Estimate  # noqa: E402
from counterlog.core.tabular import TabularMDP  # noqa: E402
from counterlog.datasets.pendulum import Pendulum, pendulum_log  # noqa: E402
from counterlog.report import trajectory_report as module  # noqa: E402
from counterlog.report.trajectory_policies import away_from_log, chosen_learners, folds_of  # noqa: E402
from counterlog.report.trajectory_report import (  # noqa: E402
    LearntPolicy,
    TrajectoryReport,
    TrajectoryReportConfig,
    build_trajectories,
    default_gamma,
)
from counterlog.report.trajectory_values import Lead, SelfCheck  # noqa: E402
from counterlog.report.trajectory_verdict import speak  # noqa: E402

pytestmark = pytest.mark.torch
SMALL = TrajectoryReportConfig(
    learners=("bc", "bc-best"), steps=60, members=4, hidden=(16,), batch=32, starts=50, gamma=0.9
)


def run(*words):
    return CliRunner().invoke(app, [str(w) for w in words])


@pytest.fixture(scope="module")
def log():
    return pendulum_log("pendulum-mix", 4000, rng=0)


@pytest.fixture(scope="module")
def made(log):
    return build_trajectories(log, SMALL, low=-2, high=2, simulator=Pendulum, truth={"logged": -120.0}, rng=1)


# what is said


def lead(first, second, value, half, *, agree=True, needed=500):
    return Lead(
        first=first, second=second, value=value, lo=value - half, hi=value + half, se=half / 2, unit="r", n=100,
        agree=agree, needed=needed, visible=half * 1.4,
    )  # fmt: skip


def said(leads, *, away=0.0, valid=True, passed=True):
    names = ("a", "b")
    values = {"logged": 1.0, "a": 3.0, "b": 2.0}
    estimates = [
        Estimate(value=v, lo=v - 1, hi=v + 1, unit="r", n=100, policy=k, estimator="NDR", valid=valid or k != "a",
                 reason="" if valid else "no weight")
        for k, v in values.items()
    ]  # fmt: skip
    policies = [LearntPolicy(name=n, about="", claim=math.nan, away=away if n == "a" else 0.0) for n in names]
    check = SelfCheck(value=0.0 if passed else 9.0, se=1.0, spread=5.0, unit="r", n=100, passed=passed)
    return speak(None, estimates, leads, check, policies, 0.95)


def test_a_policy_that_is_ahead_of_everything_is_named():
    text, told = said([lead("a", "logged", 2, 1), lead("b", "logged", 1, 2), lead("a", "b", 1, 0.5)])
    assert told and text.startswith("“a” would earn 2 more than what was done (95% interval")
    assert "It is ahead of “b” too." in text


def test_two_policies_ahead_of_the_log_that_cannot_be_told_apart_are_said_so():
    text, told = said([lead("a", "logged", 2, 1), lead("b", "logged", 1, 0.5), lead("a", "b", 1, 2)])
    assert told and "cannot tell it apart from “b”" in text


def test_a_log_that_cannot_tell_says_so_and_what_it_would_take():
    text, told = said([lead("a", "logged", 2, 3), lead("b", "logged", 1, 2), lead("a", "b", 1, 2)])
    assert not told and text.startswith("The log cannot tell the learnt policies apart")
    assert "shows differences of 4.2 and more" in text and "about 500 trajectories" in text


def test_estimators_that_contradict_each_other_take_a_claim_back():
    text, told = said(
        [lead("a", "logged", 2, 1, agree=False), lead("b", "logged", 1, 2), lead("a", "b", 1, 2)]
    )
    assert not told and "The estimators disagree about its sign." in text


def test_nothing_is_claimed_of_a_policy_that_leaves_the_log():
    leads = [lead("a", "logged", 2, 1), lead("b", "logged", 1, 2), lead("a", "b", 1, 0.5)]
    text, told = said(leads, away=0.6)
    assert (
        not told and "“a” cannot be judged: 60% of its decisions are unlike any that the log holds." in text
    )
    text, told = said(leads, valid=False)
    assert not told and "“a” cannot be judged: no weight." in text


def test_networks_that_do_not_repeat_the_log_are_not_believed():
    leads = [lead("a", "logged", 2, 1), lead("b", "logged", 1, 2), lead("a", "b", 1, 0.5)]
    text, told = said(leads, passed=False)
    assert not told and text.startswith("The values cannot be trusted on this log.") and "9 more" in text


def test_a_policy_that_would_lose_is_said_to():
    text, told = said([lead("logged", "a", 2, 1), lead("logged", "b", 3, 1), lead("a", "b", 1, 2)])
    assert not told and text.startswith("None of the learnt policies") and "“b” would earn less" in text


# what is computed


def valued_by_hand(monkeypatch):
    """Eight trajectories of one step that earn 0..7, one policy, four members: all pieces are chosen numbers."""
    from types import SimpleNamespace

    from counterlog.estimate.neural_fitted_q import NeuralFQEConfig
    from counterlog.report import trajectory_values

    log = Episodes(
        offsets=np.arange(9), state=np.zeros((8, 1)), action=np.zeros((8, 1)), reward=np.arange(8.0),
        terminated=np.ones(8, bool),
    )  # fmt: skip
    fold = np.arange(8) % 2
    config = NeuralFQEConfig(gamma=0.9, members=4)
    pieces = []
    for k in range(2):
        starts = np.zeros((2, 4, 4))  # policy, member, trajectory
        starts[1] = [[6.0] * 4, [4.0] * 4] * 2
        gain = np.array([1.0, 2.0, 1.0, 2.0])
        units = np.stack([np.full(4, -99.0), np.arange(8.0)[fold == k] + gain])
        fitted = SimpleNamespace(config=config, starts=starts, moved=np.zeros(2), rows=None)
        moves = np.array([[9.0, 9.0], [1.0, -1.0]])
        pieces.append(
            SimpleNamespace(fitted=fitted, units=units, moves=moves, ess=np.full(2, 20.0), weights=None)
        )
    monkeypatch.setattr(
        trajectory_values, "weighted_by_member", lambda weights, fitted: np.array([[0.0] * 4, [5.0] * 4])
    )
    return trajectory_values.Valued(log, fold, pieces, [("logged", [0]), ("a", [1])])


def test_a_difference_and_its_error_worked_by_hand(monkeypatch):
    valued = valued_by_hand(monkeypatch)
    (found,) = valued.leads(0.95)
    assert (found.first, found.second, found.value, found.agree) == ("a", "logged", 1.5, True)
    # gains 1, 2, .. over returns: variance 2/7, over 8; a pair moves it by 1, folds weigh 1/2
    assert found.se == pytest.approx(math.sqrt(2 / 7 / 8 + 0.25 * 1 + 0.25 * 1))
    # fits and weights say 5, and a pair moves them by 1 (fits) or 0: the interval reaches up to that of the fits, whose
    # two folds have 2 degrees of freedom each
    assert found.hi == pytest.approx(5 + stdtrit(4, 0.975) * math.sqrt(0.5))
    assert 1.5 - 6 < found.lo < 1.5 - stdtrit(8, 0.975) * found.se
    main = {e.policy: e for e in reversed(valued.estimates(0.95))}
    assert main["logged"].value == 3.5 and main["logged"].estimator == "Monte Carlo"
    assert main["a"].value == 5.0 and main["a"].estimator == "NDR" and main["a"].ess == 40


def test_draws_of_gains_spread_as_trajectories_and_fits_do(monkeypatch):
    gains, drawn = valued_by_hand(monkeypatch).gains(20_000, 0)
    assert gains.tolist() == [1.5]
    assert drawn.mean() == pytest.approx(1.5, abs=0.02)
    # a Poisson mean of 8 gains has variance of at least 1/4 / 8; the fits add 1/4 + 1/4
    assert drawn.std() == pytest.approx(math.sqrt(0.25 / 8 + 0.5), rel=0.03)


def test_the_discount_leaves_a_hundredth_after_the_cut(log):
    assert default_gamma(log) ** 200 == pytest.approx(0.01, rel=0.1)
    over = Episodes(
        offsets=log.offsets, state=log.state, action=log.action, reward=log.reward, terminated=log.truncated
    )
    assert default_gamma(over) == 0.99


def test_a_report_holds_values_of_every_policy_by_every_estimator(made, log):
    assert [e.policy for e in made.estimates] == [p for p in ("logged", "bc", "bc-best") for _ in range(3)]
    assert [e.estimator for e in made.estimates[:4]] == ["Monte Carlo", "NFQE", "NMIS", "NDR"]
    assert made.main("logged").value == pytest.approx(log.returns(0.9).mean(), rel=1e-12)
    assert set(made.truth) == {"logged", "bc", "bc-best"} and len(made.leads) == 3
    first = made.leads[0]
    assert first.true == pytest.approx(made.truth[first.first] - made.truth[first.second])
    gap = made.main(first.first).value - made.main(first.second).value
    assert first.value == pytest.approx(gap) and first.value >= 0


def test_a_difference_is_surer_than_the_values_it_is_made_of(made):
    near = next(x for x in made.leads if {x.first, x.second} == {"bc", "bc-best"})
    assert near.n == made.n and near.se > 0 and near.lo < near.value < near.hi


def test_a_report_is_saved_drawn_and_written(made, tmp_path):
    again = TrajectoryReport.load(made.save(tmp_path / "r.json"))
    assert repr(again) == repr(made)
    assert made.to_frame().height == 9 and "truth" in made.to_frame().columns
    page = made.html()
    for words in ("Verdict", "What would each policy earn?", "Were the estimators right?", "cannot"):
        assert words in page
    assert "http://" not in page.split("<script>")[0] and "truth" in [t.name for t in made.plot().data]


def test_a_stopped_run_goes_on_to_the_same_report(log, tmp_path, monkeypatch):
    whole = build_trajectories(log, SMALL, low=-2, high=2, rng=1)

    class KilledError(Exception):
        pass

    def die(*_, **__):
        raise KilledError

    with monkeypatch.context() as patch:
        patch.setattr(module, "_value", die)
        with pytest.raises(KilledError):
            build_trajectories(log, SMALL, low=-2, high=2, rng=1, folder=tmp_path)
    kept = list((tmp_path / "state").glob("*/fold-0/bc/state/training.safetensors"))
    assert len(kept) == 1
    before = kept[0].stat().st_mtime_ns
    again = build_trajectories(log, SMALL, low=-2, high=2, rng=1, folder=tmp_path)
    assert kept[0].stat().st_mtime_ns == before
    assert [e.value for e in again.estimates] == [e.value for e in whole.estimates]
    assert again.verdict == whole.verdict
    assert (tmp_path / "policies" / "bc-2.safetensors").exists()


def test_several_seeds_are_averaged(log):
    two = build_trajectories(
        log, TrajectoryReportConfig(**{**SMALL.to_dict(), "seeds": 2, "learners": ("bc",)}), low=-2, high=2
    )
    assert [e.policy for e in two.estimates] == ["logged"] * 3 + ["bc"] * 3 and not two.advice


def test_decisions_the_log_does_not_know_are_counted(log):
    class Same:
        def act(self, states):
            return np.zeros((len(states), 1))

    class Extreme:
        def act(self, states):
            return np.full((len(states), 1), 2.0)

    near = away_from_log(pendulum_log("pendulum-mix", 8000), Same(), low=-20, high=20, rng=0)
    assert near < 0.15
    narrow = pendulum_log("pendulum-weak", 8000)
    assert away_from_log(narrow, Extreme(), low=-2, high=2, rng=0) > 0.5


def test_discrete_actions_nobody_took_nearby_are_counted():
    mdp = TabularMDP(np.full((4, 2, 4), 0.25), np.zeros((4, 2)), np.full(4, 0.25))
    log = mdp.sample(np.tile([1.0, 0.0], (4, 1)), 40, 10, rng=0)
    never = lambda states: np.tile([0.0, 1.0], (len(states), 1))  # noqa: E731
    always = lambda states: np.tile([1.0, 0.0], (len(states), 1))  # noqa: E731

    class Asked:
        def __init__(self, f):
            self.probs = f

    assert away_from_log(log, Asked(never), low=None, high=None, rng=0) == 1.0
    assert away_from_log(log, Asked(always), low=None, high=None, rng=0) == 0.0


def test_a_log_of_discrete_actions_has_its_report(tmp_path):
    step = np.array([[[0.7, 0.3], [0.2, 0.8]], [[0.6, 0.4], [0.1, 0.9]]])
    mdp = TabularMDP(step, np.array([[0.0, 1.0], [2.0, 0.5]]), np.array([1, 0]))
    log = mdp.sample(np.full((2, 2), 0.5), 60, 12, rng=0)
    found = build_trajectories(log, TrajectoryReportConfig(**{**SMALL.to_dict(), "learners": ()}))
    names = ["bc", "bc-best", "discrete-cql"]
    assert [p.name for p in found.policies] == names and found.html()
    ratios = [e for e in found.estimates if e.estimator in ("DM", "SNPDIS")]
    assert [e.policy for e in ratios] == [n for n in names for _ in range(2)]
    assert all((e.valid and e.lo <= e.value <= e.hi) or e.reason for e in ratios)


def test_references_give_quality_and_coverage(log):
    from counterlog.report.trajectory_report import audited

    rows, _, _ = audited(log, 0, reference=log, random=-1200.0, best=-150.0)
    by_name = {r["measure"]: r["value"] for r in rows}
    assert by_name["TQ"] == pytest.approx((log.returns().mean() + 1200) / 1050)
    assert by_name["SACo"] == pytest.approx(1.0)
    assert "The audit refused" in audited(log, 0, random=5.0, best=1.0)[2]


def test_what_a_report_cannot_do_is_refused(log):
    with pytest.raises(SupportError, match="cannot both teach and judge"):
        folds_of(log.take(np.arange(7)), 0)
    with pytest.raises(ConfigError, match="no learner 'dqn' for continuous"):
        chosen_learners(log, ("bc", "dqn"))
    with pytest.raises(ConfigError, match="named twice"):
        chosen_learners(log, ("bc", "bc"))
    bare = Episodes(offsets=log.offsets, state=log.state, action=log.action, truncated=log.truncated)
    with pytest.raises(LogError, match="no 'reward'"):
        build_trajectories(bare, SMALL)


# the command


def test_the_command_reads_a_file_and_writes_page_result_and_policies(log, tmp_path):
    path = log.to_npz(tmp_path / "log.npz")
    words = ("--learners", "bc,bc-best", "--steps", 20, "--quick", "--quiet", "--gamma", 0.9)
    done = run("report", path, *words, "--truth", "pendulum-mix", "--out", tmp_path / "out", "--json")
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert set(found["truth"]) == {"logged", "bc", "bc-best"} and found["verdict"]
    for name in ("report.html", "result.json", "run.json", "policies.csv", "policies/bc-1.safetensors"):
        assert (tmp_path / "out" / name).exists(), name
    known = tmp_path / "known.json"
    known.write_text('{"logged": -100, "bc": -90}')
    done = run("report", path, *words, "--truth", known, "--out", tmp_path / "page.html")
    assert done.exit_code == 0 and (tmp_path / "page.html").exists(), done.output
    assert json.loads((tmp_path / "page" / "result.json").read_text())["truth"] == {"logged": -100, "bc": -90}


def test_the_command_reads_a_table(tmp_path):
    import polars as pl

    gen = np.random.default_rng(0)
    n, size = 24, 6
    frame = pl.DataFrame(
        {
            "who": np.repeat(np.arange(n), size), "when": np.tile(np.arange(size), n), "x": gen.normal(size=n * size),
            "offer": gen.choice(["<b>a</b>", "b"], n * size), "pay": gen.normal(size=n * size),
            "end": np.tile([False] * (size - 1) + [True], n),
        }
    )  # fmt: skip
    frame.write_csv(tmp_path / "log.csv")
    done = run(
        "report", tmp_path / "log.csv", "--trajectory", "who", "--t", "when", "--state", "x,", "--action", "offer",
        "--reward", "pay", "--reward-unit", "pay=<i>euros</i>", "--terminated", "end", "--steps", 10, "--quick",
        "--quiet", "--out", tmp_path / "out",
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    page = (tmp_path / "out" / "report.html").read_text()
    assert "<i>euros" not in page and "&lt;i&gt;euros" in page


@pytest.mark.parametrize(
    ("words", "match"),
    [
        (("--steps", 5), "does not apply to a log of decisions"),
        (("log.npz", "--context", "x"), "does not apply to a log of trajectories"),
        (("log.npz", "--action", "a"), "names its own actions"),
        (("log.csv", "--trajectory", "t"), "--t is missing"),
        (("log.npz", "--truth", "nowhere"), "no simulator"),
        (("log.npz", "--truth", "none.json"), "holds no values"),
    ],
)
def test_the_command_refuses_what_does_not_fit(words, match, log, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    log.to_npz(tmp_path / "log.npz")
    done = run("report", *words, "--quiet")
    assert done.exit_code != 0 and match in str(done.exception)
