"""The loop: what it records, how it stops and goes on, and what it refuses."""

from __future__ import annotations

import json

import pytest

torch = pytest.importorskip("torch")

from counterlog.core.errors import ConfigError, ConvergenceError  # noqa: E402
from counterlog.core.seed_streams import SeedStreams  # noqa: E402
from counterlog.core.stacked_nets import StackedTensors  # noqa: E402
from counterlog.core.training_loop import TrainingReport, one_thread, run_training  # noqa: E402

pytestmark = pytest.mark.torch


class Walk:
    """Adds noise to a number a seed; breaks at a step, as a killed process would."""

    def __init__(self, die_at=None):
        self.streams = SeedStreams((0, 5), "walk")
        self.where = StackedTensors({"x": ()}, (0, 5))
        self.die_at = die_at

    def advance(self, step):
        if step == self.die_at:
            raise KeyboardInterrupt
        self.where.flat.add_(self.streams.normal())
        return {"x": self.where.flat.clone()}

    def run(self, folder=None, steps=20, mark="walk", **options):
        parts = {"walk": self.where, "streams": self.streams}
        return run_training(
            self.advance,
            steps=steps,
            seeds=(0, 5),
            stateful=parts,
            log_every=3,
            evaluate=lambda step: {"place": self.where.flat * 2},
            evaluate_every=10,
            folder=folder,
            save_every=4,
            mark=mark,
            **options,
        )


def test_metrics_and_evaluations_are_recorded_by_step_and_seed() -> None:
    history = Walk().run()
    assert [r["step"] for r in history.metrics if r["seed"] == 5] == [3, 6, 9, 12, 15, 18, 20]
    assert [r["step"] for r in history.evaluations if r["seed"] == 0] == [10, 20]
    assert history.evaluations[-1]["place"] == 2 * history.metrics[-1]["x"]


def test_a_killed_run_goes_on_to_bit_equal_metrics(tmp_path) -> None:
    whole = Walk().run()
    with pytest.raises(KeyboardInterrupt):
        Walk(die_at=15).run(tmp_path)
    resumed = Walk().run(tmp_path)
    assert resumed.metrics == whole.metrics
    assert resumed.evaluations == whole.evaluations
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == [*whole.metrics, *whole.evaluations]
    assert Walk(die_at=1).run(tmp_path).metrics == whole.metrics  # nothing left to do


def test_another_runs_folder_is_refused(tmp_path) -> None:
    Walk().run(tmp_path)
    with pytest.raises(ConfigError, match="holds another run"):
        Walk().run(tmp_path, mark="other")
    with pytest.raises(ConfigError, match=r"holds another run \(step 20\)"):
        Walk().run(tmp_path, steps=10)


def test_a_metric_that_is_not_finite_stops_the_run() -> None:
    with pytest.raises(ConvergenceError, match="loss of seed 5 is nan at step 3"):
        run_training(
            lambda step: {"loss": torch.tensor([0.0, float("nan")])},
            steps=9,
            seeds=(0, 5),
            stateful={},
            log_every=3,
        )


def test_a_report_gives_curves_last_and_best_and_saves(tmp_path) -> None:
    rows = tuple(
        {"step": t, "seed": s, "score": float(v)} for t, s, v in ((1, 0, 5), (1, 1, 2), (2, 0, 3), (2, 1, 4))
    )
    report = TrainingReport(
        system="X", unit="reward", n=10, steps=2, seeds=(0, 1), metrics=({"step": 1, "seed": 0, "q": 1.0},),
        evaluations=rows, seconds=3.0,
    )  # fmt: skip
    assert report.last("score") == [3.0, 4.0]
    assert report.best("score") == [5.0, 4.0]
    assert report.curve("q") == {0: [(1, 1.0)], 1: []}
    with pytest.raises(ConfigError, match="nothing was measured as 'loss'; expected q, score"):
        report.curve("loss")
    again = TrainingReport.load(report.save(tmp_path / "report.json"))
    assert again == report
    assert report.to_frame().height == 4


def test_torch_gets_its_threads_back() -> None:
    before = torch.get_num_threads()
    with one_thread():
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == before
