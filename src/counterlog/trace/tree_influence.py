"""Which training rows made a boosted-tree model predict this, and which should be removed, relabelled or checked?

Use when    the model is a LightGBM, XGBoost, CatBoost or scikit-learn boosted ensemble (squared error, log-loss,
            softmax) trained on all given rows, and the training rows are at hand.
Not when    trees were bagged, dropped (DART) or grown on samples (GOSS): a leaf is then no Newton step of its rows, and
            the check refuses. For a linear model or a network use influence functions.
Data        a fitted model, X (n, p) as given to fit, y (n,), optional weights; targets X_test (m, p), y_test (m,)
Paper       Brophy, Hammoudeh, Lowd: Adapting and Evaluating Influence-Estimation Methods for Gradient-Boosted Decision
            Trees, JMLR 24(154), 2023, arXiv 2205.00359. BoostIn (section 4.1.2), LeafInfluence (4.2), TREX (4.1.1).
Equation    move_i[t,k] = eta (g_i + theta h_i) / H        what removing row i does to its leaf in round t         (1)
            BoostIn     = sum_tk 1[same leaf] move_i[t,k] G_test[t,k]                                            (2)
            LeafInfSP   = sum_tk 1[same leaf] move'_i[t,k] G_test[end,k], move' with the row's own later scores    (3)
            LeafInfluence = - dL_test / dw_i through all rows and later trees, structure fixed                   (4)
            LeafRefit   = L_test(leaves without row i) - L_test, structure fixed                                   (5)
            LOO         = L_test(trained without row i) - L_test                                                   (6)
Shapes      scores (n, m) float64 | g, h, theta, move (n, T, K) | H (L,) sum of h in the leaf plus l2
Units       scores: nats (log-loss, softmax) or half squared units of the target. Positive: row i helps the target,
            removing it raises the target's loss. Similarities and ranks have no unit
Raises      LogError: rows, labels or weights that do not fit the model; leaves that are not Newton steps of the rows
            ConfigError: a model that is not read; a method that must train again given a bare booster; too many rows
            NotFittedError: the model is not fitted
            ConvergenceError: TREX's surrogate did not reach its tolerance
Differs     softmax keeps the terms between classes in (3) and (4) (released code: diagonal), so (4) is the derivative
            of (5); LeafRefit evaluates gradients before the round's update (released code: after); TREX is solved to
            its optimum; Shapley stops by `shapley_truncation`, without the running-mean test.
Call        TreeInfluence(model, X, y).score(X_test, y_test); explain, topk, aggregate, self_influence, label_edit
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from counterlog.core.config import Config, param
from counterlog.core.errors import ConfigError, LogError, message
from counterlog.core.results import Result
from counterlog.core.tree_models import UNITS, Floats, TreeEnsemble, read_trees
from counterlog.trace import leaf_adjoint, leaf_derivatives, retraining, same_leaf, tree_kernels
from counterlog.trace.boosting_path import Block, TrainedTrees, block, require_newton, take_rows, trained

STREAMED = {"boostin": "path", "leafinfsp": "final", "leafsim": "one"}
NEWTON = ("boostin", "leafinfsp", "leafinfluence", "leafrefit")
SIMILARITY = ("leafsim", "treesim", "inputsim", "minority", "random", "randomsl")
METHODS = (*NEWTON, "trex", *SIMILARITY, "loss", "loo", "subsample", "shapley")
SIGN = "positive: the row helps the target; removing it raises the target's loss"


@dataclass(frozen=True, kw_only=True)
class TreeInfluenceConfig(Config):
    """Which score, and how much memory and training it may cost."""

    method: str = param("boostin", "how rows are scored", choices=METHODS)
    leaf_scale: str = param(
        "shrunk",
        "theta in (1): the model's leaf (released code) or the unshrunk Newton step (the derivative)",
        choices=("shrunk", "newton"),
    )
    leaf_weight: str = param(
        "none", "BoostIn: divide by the leaf's rows", choices=("none", "size", "size_squared")
    )
    update_set: int = param(
        -1, "LeafInfluence: -1 carries every row's score on, 0 the removed row's only", choices=(-1, 0)
    )
    space: str = param(
        "lpw", "tree space of TREX and TreeSim: leaf or value, by count", choices=("lp", "lpw", "lo", "low")
    )
    measure: str = param("dot", "TreeSim's similarity", choices=("dot", "cosine", "euclid"))
    trex_l2: float = param(0.003, "ridge penalty of TREX's surrogate", above=0)
    fits: int = param(400, "models that `subsample` trains", at_least=2)
    share: float = param(0.7, "share of the rows in each model of `subsample`", above=0, below=1)
    permutations: int = param(20, "orders that `shapley` draws", at_least=1)
    shapley_truncation: float = param(
        0.25, "share of an order after which `shapley` stops", above=0, at_most=1
    )
    shapley_step: int = param(1, "rows that enter together in `shapley`", at_least=1)
    memory_mb: float = param(1024.0, "working memory beside the data and the answer", unit="MB", above=0)
    max_rows: int = param(
        20_000, "training rows above which methods that need n^2 numbers refuse", at_least=1
    )
    jobs: int = param(1, "processes that train again (leave-one-out)", at_least=-1)
    atol: float = param(1e-5, "distance of a leaf from its Newton step that is let pass", at_least=0)
    allow_inexact: bool = param(False, "go on when leaves are not Newton steps, and record the distance")


@dataclass(frozen=True, kw_only=True)
class TargetScores:
    """One target: its prediction and loss, the ends of the ranking, how concentrated the influence is."""

    target: int
    prediction: tuple[float, ...]
    loss: float
    helpful_rows: tuple[int, ...]
    helpful: tuple[float, ...]
    harmful_rows: tuple[int, ...]
    harmful: tuple[float, ...]
    share_top_1_percent: float
    share_top_5_percent: float
    share_top_10_percent: float


@dataclass(frozen=True, kw_only=True)
class Scores(Result):
    """The most helpful and most harmful training rows of every target. `n` counts training rows.

    `leaf_error` is the largest distance of a leaf from its Newton step (raw score); nan when the method needs none.
    """

    method: str
    unit: str
    sign: str
    n: int
    targets: tuple[TargetScores, ...]
    leaf_error: float
    notes: tuple[str, ...] = ()

    def records(self) -> list[dict[str, Any]]:
        """A row a target, end and rank."""
        rows = []
        for t in self.targets:
            for end, numbers, values in (
                ("helpful", t.helpful_rows, t.helpful),
                ("harmful", t.harmful_rows, t.harmful),
            ):
                for rank, (row, value) in enumerate(zip(numbers, values, strict=True), start=1):
                    rows.append({"target": t.target, "end": end, "rank": rank, "row": row, "score": value})
        return rows


class TreeInfluence:
    """Scores of training rows for predictions of one boosted-tree model; trains again only where the method must."""

    def __init__(
        self,
        model: Any,
        X: Any,
        y: Any,
        sample_weight: Any = None,
        *,
        config: TreeInfluenceConfig = TreeInfluenceConfig(),
        fit: Callable[..., Any] | None = None,
        rng: int = 0,
    ) -> None:
        """`model` is fitted, or already read by `read_trees`. `fit(X, y, sample_weight)` trains again for the methods
        that need it; an estimator with scikit-learn's interface brings its own."""
        self.config, self.rng, self.model, self._fit = config, rng, model, fit
        trees = model if isinstance(model, TreeEnsemble) else read_trees(model)
        self._y, self._weight = np.asarray(y), sample_weight
        self.bytes_allowed = config.memory_mb * 2**20
        self.data: TrainedTrees = trained(trees, X, y, sample_weight, bytes_allowed=self.bytes_allowed / 4)
        if config.method in NEWTON and not config.allow_inexact:
            require_newton(self.data, config.atol)

    @property
    def n(self) -> int:
        """Training rows."""
        return self.data.n

    def check(self) -> list[dict[str, float]]:
        """By round: the largest distance of the library's leaves from the Newton steps of these rows (raw score)."""
        return [{"round": t, "distance": float(d)} for t, d in enumerate(self.data.reconstruction())]

    @property
    def unit(self) -> str:
        """What a score is measured in."""
        if self.config.method in (*SIMILARITY, "loss"):
            return "none (only the order means something)"
        return f"{UNITS[self.data.trees.objective]} (rise of the target's loss when the row is removed)"

    def explain(self, X_test: Any, y_test: Any) -> Floats:
        """(n, m) scores. Memory: the answer plus `memory_mb`; `topk` and `aggregate` do without the answer."""
        target = self._targets(X_test, y_test)
        out = np.empty((self.n, len(target)))
        if self.config.method in STREAMED:
            for at, cols, scores in self._stream(X_test, target):
                out[at, cols] = scores
            return out
        return self._dense(X_test, target, y_test)

    def topk(
        self, X_test: Any, y_test: Any, k: int
    ) -> tuple[tuple[NDArray[np.int64], Floats], tuple[NDArray[np.int64], Floats]]:
        """(rows (m, k), scores (m, k)) of the most helpful rows, and the same of the most harmful, best first."""
        target = self._targets(X_test, y_test)
        if self.config.method in STREAMED:
            pieces = self._stream(X_test, target)
        else:
            pieces = iter([(slice(0, self.n), slice(0, len(target)), self._dense(X_test, target, y_test))])
        return same_leaf.largest(pieces, self.n, len(target), k)

    def aggregate(self, X_test: Any, y_test: Any) -> Floats:
        """(n,) scores added over all targets: at the cost of one target for BoostIn, LeafInfSP and LeafInfluence."""
        c, kind = self.config, STREAMED.get(self.config.method)
        if c.method == "leafinfluence" and c.update_set < 0 and not self.data.trees.full_hessian:
            target = self._targets(X_test, y_test)
            leaves, slopes = same_leaf.target_sides(self.data.trees, X_test, target, "final")
            pull = leaf_adjoint.leaf_pull(leaves, slopes, self.data.trees.n_leaves)
            return -leaf_adjoint.adjoint(self.data, pull[:, None])[0][:, 0]
        if kind is None or kind == "one":
            return np.asarray(self.explain(X_test, y_test).sum(axis=1))
        target = self._targets(X_test, y_test)
        leaves, sides = same_leaf.target_sides(self.data.trees, X_test, target, kind)
        return same_leaf.summed(self.data, self._moves(), leaves, sides)

    def self_influence(self) -> Floats:
        """(n,) each row's score for itself; a mislabelled row tends to have a large one."""
        kind = STREAMED.get(self.config.method)
        if kind is None:
            return np.diag(self.explain(self.data.X, self._y)).copy()
        return same_leaf.own(self.data, self._moves(), kind)

    def label_edit(self, X_test: Any, y_test: Any, label: Any) -> Floats:
        """(n, m) by BoostIn or LeafRefit: positive when giving the row this `label` raises the target's loss."""
        target = self._targets(X_test, y_test)
        new = self.data.trees.targets(np.asarray([label]))[0]
        if self.config.method == "leafrefit":
            return self._columns(X_test, target, new)
        if self.config.method != "boostin":
            msg = message(
                f"label_edit by {self.config.method!r} is not defined here", expected="boostin or leafrefit"
            )
            raise ConfigError(msg)
        out = np.empty((self.n, len(target)))
        leaves, sides = same_leaf.target_sides(self.data.trees, X_test, target, "path")
        moves = same_leaf.relabel_moves(new, self.config.leaf_scale)
        for at, cols, scores in same_leaf.stream(self.data, moves, leaves, sides, self.bytes_allowed / 2):
            out[at, cols] = scores
        return out

    def score(self, X_test: Any, y_test: Any, *, k: int = 10) -> Scores:
        """The k (at most n) most helpful and most harmful rows of every target, some targets at a time."""
        target = self._targets(X_test, y_test)
        raw = self.data.trees.raw(X_test)
        prediction, loss, m = self.data.trees.link(raw), self.data.trees.loss(raw, target), len(target)
        streamed = self.config.method in STREAMED
        width = max(1, int(self.bytes_allowed // (32 * self.n))) if streamed else m
        found: list[TargetScores] = []
        for start in range(0, m, width):
            at = slice(start, min(start + width, m))
            dense = self.explain(take_rows(X_test, at), np.asarray(y_test)[at])
            found += self._ends(dense, start, prediction[at], loss[at], min(k, self.n))
        newton = self.config.method in NEWTON
        error = float(self.data.reconstruction().max(initial=0.0)) if newton else float("nan")
        return Scores(
            method=self.config.method,
            unit=self.unit,
            sign=SIGN,
            n=self.n,
            leaf_error=error,
            notes=self._notes(),
            targets=tuple(found),
        )

    def using(self, **settings: Any) -> TreeInfluence:
        """The same model and rows under another configuration, without reading them again."""
        other = object.__new__(TreeInfluence)
        other.__dict__.update(self.__dict__)
        other.config = replace(self.config, **settings)
        other.bytes_allowed = other.config.memory_mb * 2**20
        if other.config.method in NEWTON and not other.config.allow_inexact:
            require_newton(other.data, other.config.atol)
        return other

    # ------------------------------------------------------------------------------------------ one method each

    def _ends(
        self, dense: Floats, start: int, prediction: Floats, loss: Floats, k: int
    ) -> list[TargetScores]:
        """The ends of every column of `dense` (n, m'), whose first target is number `start`."""
        m = dense.shape[1]
        whole = iter([(slice(0, self.n), slice(0, m), dense)])
        (up, gains), (down, harms) = same_leaf.largest(whole, self.n, m, k)
        magnitude = -np.sort(-np.abs(dense), axis=0)
        share = magnitude.cumsum(axis=0) / np.maximum(magnitude.sum(axis=0), 1e-300)
        cut = [max(1, round(q * self.n)) - 1 for q in (0.01, 0.05, 0.1)]
        return [
            TargetScores(
                target=start + j,
                prediction=tuple(prediction[j].tolist()),
                loss=float(loss[j]),
                helpful_rows=tuple(up[j].tolist()),
                helpful=tuple(gains[j].tolist()),
                harmful_rows=tuple(down[j].tolist()),
                harmful=tuple(harms[j].tolist()),
                share_top_1_percent=float(share[cut[0], j]),
                share_top_5_percent=float(share[cut[1], j]),
                share_top_10_percent=float(share[cut[2], j]),
            )
            for j in range(m)
        ]

    def _notes(self) -> tuple[str, ...]:
        if self.config.method in ("loo", "subsample", "shapley"):
            return ("trees were grown again: structure moves with the rows",)
        if self.config.method in NEWTON:
            return ("tree structure held fixed: duplicates of a row share the credit",)
        return ()

    def _targets(self, X_test: Any, y_test: Any) -> Floats:
        target = self.data.trees.targets(y_test)
        same_leaf.refuse_empty(len(target))
        if X_test.shape[0] != len(target):
            msg = message(
                f"X_test has {X_test.shape[0]} rows and y_test has {len(target)}", expected="as many"
            )
            raise LogError(msg)
        return target

    def _moves(self) -> same_leaf.Moves:
        c = self.config
        if c.method == "boostin":
            return same_leaf.boostin_moves(c.leaf_scale, c.leaf_weight)
        return same_leaf.single_point_moves if c.method == "leafinfsp" else same_leaf.leaf_sim_moves

    def _stream(self, X_test: Any, target: Floats) -> Any:
        kind = STREAMED[self.config.method]
        trees = self.data.trees
        leaves, sides = same_leaf.target_sides(trees, X_test, target, kind)
        pieces = same_leaf.stream(self.data, self._moves(), leaves, sides, self.bytes_allowed / 2)
        if kind != "one":
            return pieces
        raw = trees.raw(X_test)
        return (
            (at, cols, s * tree_kernels.label_sign(trees, self.data.target[at], target[cols], raw[cols]))
            for at, cols, s in pieces
        )

    def _all_rows(self) -> Block:
        if self.n > self.config.max_rows:
            msg = message(
                f"{self.config.method} keeps numbers for every pair of {self.n} training rows",
                expected=f"at most max_rows={self.config.max_rows}",
                hint="use boostin or leafinfsp, which stream, or raise max_rows",
            )
            raise ConfigError(msg)
        return block(self.data.trees, self.data.X, self.data.target, self.data.weight, slice(0, self.n))

    def _columns(self, X_test: Any, target: Floats, label: Floats | None = None) -> Floats:
        """LeafInfluence, LeafRefit and its relabelled form, some training rows at a time."""
        d, whole, test = self.data, self._all_rows(), self.data.trees.leaves(X_test)
        out = np.empty((self.n, len(target)))
        for rows in leaf_derivatives.column_blocks(
            self.n, len(target), d.trees.shape[1], self.bytes_allowed / 2
        ):
            if label is not None:
                found = leaf_derivatives.leaf_refit_relabelled(d, whole.leaves, test, target, rows, label)
            elif self.config.method == "leafrefit":
                found = leaf_derivatives.leaf_refit(d, whole.leaves, test, target, rows)
            else:
                found = leaf_derivatives.leaf_influence(d, whole, test, target, rows)
            out[rows] = found
        return out

    def _dense(self, X_test: Any, target: Floats, y_test: Any) -> Floats:
        c, d = self.config, self.data
        if c.method == "leafinfluence" and c.update_set == 0:
            return self.using(method="leafinfsp").explain(X_test, y_test)
        if c.method in ("leafinfluence", "leafrefit"):
            return self._columns(X_test, target)
        if c.method in ("loo", "subsample", "shapley"):
            return self._retrained(X_test, target, y_test)
        raw = d.trees.raw(X_test)
        if c.method in ("minority", "random", "randomsl", "loss", "inputsim"):
            return self._model_free(X_test, target, raw)
        train, test = self._all_rows().leaves, d.trees.leaves(X_test)
        if c.method == "trex":
            return tree_kernels.trex(d, train, test, target, c.space, c.trex_l2)
        phi = tree_kernels.features(d, train, c.space), tree_kernels.features(d, test, c.space)
        sign = tree_kernels.label_sign(d.trees, d.target, target, raw)
        return np.asarray(tree_kernels.tree_similarity(*phi, c.measure) * sign)

    def _model_free(self, X_test: Any, target: Floats, raw: Floats) -> Floats:
        """Baselines that do not look at the trees: chance, label, loss, distance."""
        d, m, gen = self.data, len(target), np.random.default_rng(self.rng)
        if self.config.method == "random":
            return gen.standard_normal((self.n, m))
        if self.config.method == "loss":
            own = np.concatenate([d.trees.loss(b.path[:, -1], d.target[b.at]) for b in d.blocks()])
            return np.repeat(own[:, None], m, axis=1)
        if self.config.method == "minority":
            rare = 1 - (d.target.mean(axis=0) * d.target).sum(axis=1)
            if d.trees.objective == "logistic":
                rare = np.where(d.target[:, 0] == 1, 1 - d.target.mean(), d.target.mean())
            return np.repeat((rare + 1e-3 * gen.random(self.n))[:, None], m, axis=1)
        sign = tree_kernels.label_sign(d.trees, d.target, target, raw)
        if self.config.method == "randomsl":
            return np.asarray(sign * gen.random((self.n, m)))
        return np.asarray(
            sign * tree_kernels.input_similarity(*(np.asarray(x, float) for x in (d.X, X_test)))
        )

    def _retrained(self, X_test: Any, target: Floats, y_test: Any) -> Floats:
        c = self.config
        fit = self._fit or retraining.trainer(self.model)
        losses, rows = retraining.losses_without(fit, self.data.X, self._y, self._weight, X_test, y_test)
        if c.method == "loo":
            return retraining.leave_one_out(losses, rows, c.jobs)
        if c.method == "subsample":
            return retraining.subsampled(losses, rows, c.fits, c.share, self.rng)
        bias = np.broadcast_to(self.data.trees.bias, target.shape)
        empty = self.data.trees.loss(bias, target)
        return retraining.shapley(
            losses, rows, empty, c.permutations, c.shapley_truncation, c.shapley_step, self.rng
        )
