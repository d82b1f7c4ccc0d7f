"""Whom each starter may invite: friends that are no starters themselves, in flat lists, and their inverse."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from counterlog.core.errors import ConfigError, SupportError, message
from counterlog.core.network import Index, Network, Nodes


@dataclass(frozen=True, eq=False)
class FriendLists:
    """List u is `friends[indptr[u]:indptr[u+1]]`, sorted; at most `capacity[u]` of them may be chosen.

    `owners[owner_ptr[v]:owner_ptr[v+1]]` are the lists that hold node v.
    """

    starters: Nodes
    indptr: Index
    friends: Nodes
    capacity: Index
    owner_ptr: Index
    owners: Nodes

    @property
    def sizes(self) -> Index:
        """Friends of every starter."""
        return np.diff(self.indptr)

    @property
    def candidates(self) -> Nodes:
        """Every node that is somebody's friend."""
        return np.flatnonzero(np.diff(self.owner_ptr)).astype(np.int32)

    @property
    def overlap(self) -> float:
        """Share of the places in all lists that hold a friend who is in an earlier list too."""
        return 1.0 - len(self.candidates) / max(len(self.friends), 1)


def friend_lists(
    network: Network,
    starters: ArrayLike,
    capacity: int | Sequence[int],
    *,
    order: str = "given",
    rng: int = 0,
) -> FriendLists:
    """Lists of the starters (labels) with one capacity, or one each.

    Raises `LogError` for unknown or repeated starters, `ConfigError` for capacities that are not whole and positive,
    `SupportError` when there is no starter or nobody has a friend to invite.
    """
    if not np.size(starters):
        raise SupportError(message("no starter is named", hint="name at least one"))
    who = network.ids(starters, "starter")
    each = capacities(capacity, len(who))
    if order == "random":
        turn = np.random.default_rng([rng, 5]).permutation(len(who))
        who, each = who[turn], each[turn]
    passive = np.ones(network.n, bool)
    passive[who] = False
    begin, degree = network.indptr[who], network.out_degree[who]
    place = np.repeat(begin - np.concatenate([[0], np.cumsum(degree)[:-1]]), degree) + np.arange(degree.sum())
    owner, friend = np.repeat(np.arange(len(who)), degree), network.targets[place].astype(np.int64)
    key = np.unique(owner[passive[friend]] * network.n + friend[passive[friend]])
    if not len(key):
        msg = message("no starter has a friend who is not a starter", hint="name fewer starters, or others")
        raise SupportError(msg)
    owner, friend = np.divmod(key, network.n)
    by_friend = np.argsort(friend, kind="stable")
    return FriendLists(
        starters=who,
        indptr=_ends(owner, len(who)),
        friends=friend.astype(np.int32),
        capacity=each,
        owner_ptr=_ends(friend, network.n),
        owners=owner[by_friend].astype(np.int32),
    )


def capacities(capacity: int | Sequence[int], d: int) -> NDArray[np.int64]:
    """One whole positive number a starter. Raises `ConfigError` with the first that is not."""
    given = np.asarray(capacity)
    if given.ndim > 0 and given.shape != (d,):
        raise ConfigError(message(f"{given.size} capacities for {d} starters", expected="one, or one each"))
    each = np.broadcast_to(given, (d,))
    bad = [v for v in each.tolist() if isinstance(v, (bool, float, str)) or v <= 0]
    if bad:
        raise ConfigError(message(f"capacity {bad[0]!r}", expected="a whole number of at least 1"))
    return each.astype(np.int64)


def _ends(sorted_or_not: NDArray[np.int64], n: int) -> Index:
    return np.concatenate([[0], np.cumsum(np.bincount(sorted_or_not, minlength=n))]).astype(np.int64)
