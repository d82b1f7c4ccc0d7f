"""
A report of trajectories, with the truth beside it
==================================================

A log of 100 pendulum trajectories, ten of them good. Two policies are learnt from it, each valued on trajectories it was not
learnt from; the line is what each truly earns. `counterlog report pendulum.npz --truth pendulum-mix` makes the whole
page; this is its first figure, with a smaller budget.
"""

from counterlog.datasets.episode_logs import known_truth
from counterlog.datasets.pendulum import pendulum_log
from counterlog.report.trajectory_report import TrajectoryReportConfig, build_trajectories, default_gamma

log = pendulum_log("pendulum-mix", 20_000)
simulator, logged = known_truth("pendulum-mix", default_gamma(log), rng=1)
report = build_trajectories(
    log,
    TrajectoryReportConfig(learners=("bc", "bc-best"), steps=1000, members=4),
    low=-2,
    high=2,
    simulator=simulator,
    truth={"logged": logged},
)
print(report.verdict)
fig = report.plot()
