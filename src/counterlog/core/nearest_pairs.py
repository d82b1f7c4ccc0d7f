"""The logged pair nearest to a state and an action, exactly:  d^2 = beta^2 |x - x_i|^2 + |a - a_i|^2.

Two ways; the one that was faster is taken, the other tried now and then. A tree over the pairs, turned to their
principal axes so that it cuts where they spread, answers question by question. A product scores all pairs, in blocks
that stay in the cache; it wins where a tree cannot prune. Ties go to the lowest row. Distances are single precision.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from counterlog.core.errors import ConfigError, message

if TYPE_CHECKING:
    from scipy.spatial import cKDTree

Floats = NDArray[np.float64]
BLOCK, RUN = 2048, 128  # pairs of a product; pairs of them that share a minimum
SPARE = 2  # runs beyond those asked for: they absorb the product's rounding
ROUNDING = 4e-6  # of a product in single precision, relative to the squared norms
TIED = 1e-5  # distances this close, relatively, are compared again
GROUPS = 16  # of questions with bounds alike
TRIAL = 50  # every so many searches go the way that was slower


@dataclass(frozen=True)
class Pairs:
    """The nearest pairs of n questions, nearest first: rows and the two parts of the squared distance, (n, k) each."""

    row: Tensor
    state_part: Tensor
    action_part: Tensor

    @property
    def squared(self) -> Tensor:
        """(n, k) squared distances."""
        return self.state_part + self.action_part


class NearestPairs:
    """Search among the pairs (state, action) of a log, or of its rows `among`.

    beta    how much states count: 0 leaves actions alone, a large one asks for the same state
    """

    def __init__(
        self, state: Tensor, action: Tensor, *, beta: float, among: NDArray[np.int64] | None = None
    ) -> None:
        self.beta, self.rows = beta, len(state)
        self.state = beta * state.float()
        ids = np.arange(self.rows) if among is None else np.sort(among)
        if not ids.size or len(action) != self.rows:
            msg = message(f"{len(action)} actions for {self.rows} states, {ids.size} to choose from")
            raise ConfigError(message(msg, expected="as many actions as states and one row or more"))
        self.ids = torch.from_numpy(ids)
        self.keys = torch.cat([self.state[self.ids], action.float()[self.ids]], dim=1)
        self.size = len(ids)
        self.width = self.state.shape[1]
        self.action = self.keys[:, self.width :].contiguous()
        self._searches, self._cost = 0, [0.0, 0.0]  # processor seconds a question, last time: tree, product

    def of_rows(self, row: Tensor, action: Tensor, k: int = 1) -> Pairs:
        """The k pairs nearest to (state of `row`, `action`).  (n,) row numbers, (n, columns) actions."""
        self._check(k)
        action = action.float()
        bound = None
        if k == 1 and self.size == self.rows:  # the row's own pair is one of them
            bound = (action - self.action.index_select(0, row)).square_().sum(dim=1).sqrt_().double().numpy()
        return self._search(torch.cat([self.state.index_select(0, row), action], dim=1), k, bound)

    def of_pairs(self, state: Tensor, action: Tensor, k: int = 1) -> Pairs:
        """The k pairs nearest to any (state, action), (n, columns) each."""
        self._check(k)
        return self._search(torch.cat([self.beta * state.float(), action.float()], dim=1), k)

    def losing_betas(self, row: Tensor, action: Tensor) -> Tensor:
        """(n,) the beta below which the row's own pair is no longer the nearest one; 0 when it always is.

        The largest sqrt((|a - a_row|^2 - |a - a_i|^2) / |x_row - x_i|^2) over the other pairs i; needs beta > 0.
        """
        out = []
        for r, a in zip(row, action, strict=True):
            gap = (self.action - a).square().sum(dim=1)
            far = (self.keys[:, : self.width] - self.state[r]).square().sum(dim=1) / self.beta**2
            own = self.ids == r
            gain = (gap[own].sum() - gap).clamp(min=0)
            ratio = torch.where(far > 0, gain / far, torch.zeros(()))
            out.append(ratio.amax().sqrt())
        return torch.stack(out)

    def _check(self, k: int) -> None:
        if not 1 <= k <= self.size:
            msg = message(f"{k} neighbours asked for", expected=f"1 to {self.size:,}, the pairs there are")
            raise ConfigError(msg)

    def _search(self, query: Tensor, k: int, bound: Floats | None = None) -> Pairs:
        _ = self._tree, self._padded  # made before the clock runs
        way = int(self._cost[1] < self._cost[0])
        self._searches += 1
        if self._searches % TRIAL == 0:
            way = 1 - way
        start = time.process_time()
        local = self._tree_search(query, k, bound) if way == 0 else self._product_search(query, k)
        self._cost[way] = (time.process_time() - start) / max(len(query), 1)
        return Pairs(self.ids[local], *self._parts(local, query))

    def _parts(self, local: Tensor, query: Tensor) -> tuple[Tensor, Tensor]:
        """The two parts of the squared distances of pairs (n, k) to questions (n, columns)."""
        gaps = self.keys.index_select(0, local.reshape(-1)).view(*local.shape, self.keys.shape[1])
        gaps = gaps.sub_(query[:, None]).square_()
        return gaps[..., : self.width].sum(dim=2), gaps[..., self.width :].sum(dim=2)

    def _best(self, local: Tensor, query: Tensor, k: int) -> Tensor:
        """The nearest k of candidates (n, m) in ascending order, so that ties go to the lowest row; size: no pair."""
        near, gaps = self._parts(local.clamp(max=self.size - 1), query)
        total = (near + gaps).masked_fill_(local == self.size, torch.inf)
        place = total.argmin(dim=1, keepdim=True) if k == 1 else total.sort(dim=1, stable=True).indices[:, :k]
        return local.gather(1, place)

    @cached_property
    def _axes(self) -> NDArray[np.float64]:
        """The principal axes of the keys, widest first: a tree cuts along them."""
        keys = self.keys.double()
        centred = keys - keys.mean(dim=0)
        axes: NDArray[np.float64] = torch.linalg.eigh(centred.T @ centred).eigenvectors.flip(1).numpy()
        return axes

    @cached_property
    def _tree(self) -> cKDTree:
        from scipy.spatial import cKDTree

        return cKDTree(self.keys.double().numpy() @ self._axes)

    def _tree_search(self, query: Tensor, k: int, bound: Floats | None = None) -> Tensor:
        """By the tree: one neighbour more shows where a tie may hide, and there all of the tied are looked at.

        `bound` are distances within which a pair is known to lie: questions with alike ones are asked together.
        """
        turned = query.double().numpy() @ self._axes
        wide = min(k + 1, self.size)
        far, at = np.empty((len(turned), wide)), np.empty((len(turned), wide), np.int64)
        groups = [np.arange(len(turned))] if bound is None else np.array_split(bound.argsort(), GROUPS)
        for part in groups:
            most = np.inf if bound is None else bound[part].max(initial=0) * (1 + 2 * TIED) + 1e-5
            answer: Any = self._tree.query(turned[part], k=np.arange(1, wide + 1), distance_upper_bound=most)
            far[part], at[part] = answer
        out = self._best(torch.from_numpy(np.sort(at, axis=1)), query, k)
        if wide > k:
            edge = far[:, k - 1] * (1 + TIED) + 1e-12
            for i in np.flatnonzero(far[:, k] <= edge):
                tied: Any = self._tree.query_ball_point(turned[i], edge[i])
                some = torch.tensor(sorted({*tied, *at[i, :k].tolist()}))[None]
                out[i] = self._best(some, query[i : i + 1], k)
        return out

    @cached_property
    def _padded(self) -> tuple[Tensor, Tensor]:
        """Squared norms and the keys across, filled up to whole runs with pairs that are infinitely far."""
        spare = -self.size % RUN
        norms = torch.cat([self.keys.square().sum(dim=1), torch.full((spare,), torch.inf)])
        return norms, torch.cat([self.keys, torch.zeros(spare, self.keys.shape[1])]).T.contiguous()

    def _product_search(self, query: Tensor, k: int) -> Tensor:
        """By products with blocks: the k nearest pairs lie in the k runs with the smallest minima."""
        norms, across = self._padded
        least = torch.empty(len(query), len(norms) // RUN)
        for start in range(0, len(norms), BLOCK):
            part = slice(start, start + BLOCK)
            scores = torch.addmm(norms[part], query, across[:, part], alpha=-2)
            minima = scores.view(len(query), -1, RUN).amin(dim=2)
            least[:, start // RUN : start // RUN + minima.shape[1]] = minima
        wide = min(k + SPARE, least.shape[1])
        value, place = least.topk(wide, dim=1, largest=False)
        hidden = torch.zeros(len(query), dtype=torch.bool)
        if wide < least.shape[1]:
            doubt = 2 * ROUNDING * (query.square().sum(dim=1) + norms[: self.size].max())
            hidden = value[:, -1] <= value[:, k - 1] + doubt
        out = torch.empty(len(query), k, dtype=torch.int64)
        for i in hidden.nonzero()[:, 0].tolist():
            out[i] = self._best(torch.arange(self.size)[None], query[i : i + 1], k)
        for part in (~hidden).nonzero()[:, 0].split(max(1, 2**21 // (wide * RUN))):
            within = (place[part].sort(dim=1).values[..., None] * RUN + torch.arange(RUN)).flatten(1)
            out[part] = self._best(within.clamp_(max=self.size), query[part], k)
        return out
