"""Ad load in a feed: a simulator with known truth, for the study and the tests of `ad-load`.

Three hidden user types differ in how fast ads drive them away; deep in a session ads cost less:

    P(continue | type, depth d, load a) = sigmoid(2.2 - s_type a (1.4 - 0.9 d / 5)),    s = (0.15, 0.5, 1.0)
    E[revenue | type, a]                = v_type (1 - exp(-a / 2)),                     v = (0.5, 0.35, 0.6)

Revenue is its mean times exp(N(-1/2, 1)). The context shows noisy indicators of the type, the depth, three columns of
noise, and the products and square that a linear policy needs. The logging policy plays the production level with
probability 0.6 and every other level with 0.1. `sessions` chains fetches: the load of the previous fetch divides the
user's patience by (1 - carry x load), and an exit ends the session.
Units: revenue in US dollars a fetch, `continued` in fetches.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray
from scipy.special import expit

from counterlog.core.errors import ConfigError, message
from counterlog.core.policies import Policy
from counterlog.core.rounds import Rounds

Floats = NDArray[np.float64]
Codes = NDArray[np.int64]
IMPATIENCE = np.array([0.15, 0.5, 1.0])
VALUE = np.array([0.5, 0.35, 0.6])
LEVELS, DEPTHS = 5, 6
KEPT, OTHER = 0.6, 0.1
TEST_ROWS, TEST_SEED = 50_000, 999
PLAIN = ("type_0", "type_1", "type_2", "depth", "noise_0", "noise_1", "noise_2")
DERIVED = ("type_0_depth", "type_1_depth", "type_2_depth", "depth_squared")
CONTEXT = (*PLAIN, *DERIVED)
SEGMENTS = ("patient", "middling", "hasty")


@dataclass(frozen=True)
class Visits:
    """Hidden type (n,), depth (n,) and the context columns of n fetches."""

    kind: Codes
    depth: Codes
    context: pl.DataFrame


def visits(n: int, *, rng: int) -> Visits:
    """n independent fetches."""
    gen = np.random.default_rng(rng)
    kind, depth = gen.integers(0, 3, n), gen.integers(0, DEPTHS, n)
    return Visits(kind, depth, context_of(kind, depth, gen))


def context_of(kind: Codes, depth: Codes, gen: np.random.Generator) -> pl.DataFrame:
    """The eleven columns that the log shows of a fetch."""
    n = len(kind)
    signs = np.eye(3)[kind] + 0.3 * gen.standard_normal((n, 3))
    d, noise = depth / (DEPTHS - 1), gen.standard_normal((n, 3))
    columns = [signs, d, noise, signs * d[:, None], d**2]
    return pl.DataFrame(np.column_stack(columns), schema=list(CONTEXT))


def continue_chance(
    kind: Codes, depth: Codes, load: NDArray[np.number], patience: Floats | float = 1.0
) -> Floats:
    """P(continue), broadcast over its arguments."""
    pull = IMPATIENCE[kind] * load * (1.4 - 0.9 * depth / (DEPTHS - 1)) / patience
    return np.asarray(expit(2.2 - pull), dtype=np.float64)


def revenue_mean(kind: Codes, load: NDArray[np.number]) -> Floats:
    """E[revenue], US dollars a fetch, broadcast over its arguments."""
    return np.asarray(VALUE[kind] * (1 - np.exp(-0.5 * load)), dtype=np.float64)


def truth(found: Visits) -> tuple[Floats, Floats]:
    """Expected satisfaction (n, 5) and revenue (n, 5) of every level in every fetch."""
    load = np.arange(LEVELS)[None, :]
    kind, depth = found.kind[:, None], found.depth[:, None]
    return continue_chance(kind, depth, load), revenue_mean(kind, load)


def draw_load(
    n: int, production: int, gen: np.random.Generator, most: Codes | None = None
) -> tuple[Codes, Floats]:
    """Loads (n,) and the probability of each, after the inventory limit `most` cut the draw."""
    drawn = np.full((n, LEVELS), OTHER)
    drawn[:, production] = KEPT
    load = (drawn.cumsum(axis=1) < gen.random(n)[:, None]).sum(axis=1).clip(max=LEVELS - 1)
    if most is None:
        return load, drawn[np.arange(n), load]
    load = np.minimum(load, most)
    beyond = np.arange(LEVELS)[None, :] >= most[:, None]
    cut = np.where(beyond, 0.0, drawn)
    cut[np.arange(n), most] = (drawn * beyond).sum(axis=1)
    return load, cut[np.arange(n), load]


def make_fetches(n: int = 20_000, *, rng: int = 0, production: int = 2, limited: float = 0.0) -> pl.DataFrame:
    """A log of n independent fetches, one user each.

    `limited` is the share of fetches whose inventory holds fewer than four ads: column `eligible_max`, and `available`
    as text. Raises `ConfigError` for a production level outside 0..4.
    """
    if not 0 <= production < LEVELS:
        msg = message(f"production={production}", expected=f"a level from 0 to {LEVELS - 1}")
        raise ConfigError(msg)
    found = visits(n, rng=rng)
    gen = np.random.default_rng([rng, 1])
    short = gen.random(n) < limited
    most = np.where(short, gen.integers(1, LEVELS, n), LEVELS - 1)
    load, propensity = draw_load(n, production, gen, most)
    continued = gen.random(n) < continue_chance(found.kind, found.depth, load)
    revenue = revenue_mean(found.kind, load) * np.exp(gen.standard_normal(n) - 0.5)
    lists = np.array(["|".join(map(str, range(m + 1))) for m in range(LEVELS)])
    return found.context.with_columns(
        user_id=pl.Series(np.arange(n)),
        session_id=pl.Series(np.arange(n)),
        fetch_index=pl.Series(np.zeros(n, dtype=np.int64)),
        patience=pl.Series(np.array(SEGMENTS)[signal(found.context)]),
        ad_load=pl.Series(load),
        propensity=pl.Series(propensity),
        eligible_max=pl.Series(most),
        available=pl.Series(lists[most]),
        continued=pl.Series(continued.astype(np.float64)),
        revenue=pl.Series(revenue),
    )


def signal(context: pl.DataFrame) -> Codes:
    """(n,) type that the noisy indicators point to: the segments of the study."""
    return np.asarray(context.select(PLAIN[:3]).to_numpy().argmax(axis=1), dtype=np.int64)


def make_sessions(
    users: int = 4_000, *, rng: int = 0, production: int = 2, carry: float = 0.1, ends: bool = True
) -> pl.DataFrame:
    """Sessions of at most six fetches, one a user.

    `carry` is the share of patience lost by each ad of the previous fetch; with `ends` an exit ends the session. Both
    off gives fetches that share a user and nothing else.
    """
    gen = np.random.default_rng(rng)
    kind = gen.integers(0, 3, users)
    alive, previous = np.arange(users), np.zeros(users, dtype=np.int64)
    parts: list[pl.DataFrame] = []
    for step in range(DEPTHS):
        k, depth = kind[alive], np.full(len(alive), step)
        load, propensity = draw_load(len(alive), production, gen)
        patience = np.maximum(1 - carry * previous[alive], 0.1)
        stays = gen.random(len(alive)) < continue_chance(k, depth, load, patience)
        revenue = revenue_mean(k, load) * np.exp(gen.standard_normal(len(alive)) - 0.5)
        parts.append(
            context_of(k, depth, gen).with_columns(
                user_id=pl.Series(alive),
                session_id=pl.Series(alive),
                fetch_index=pl.Series(depth),
                ad_load=pl.Series(load),
                propensity=pl.Series(propensity),
                continued=pl.Series(stays.astype(np.float64)),
                revenue=pl.Series(revenue),
            )
        )
        previous[alive] = load
        alive = alive[stays] if ends else alive
    return pl.concat(parts).sort("session_id", "fetch_index")


def as_rounds(frame: pl.DataFrame, *, limits: bool = False, context: tuple[str, ...] = CONTEXT) -> Rounds:
    """The simulated log with its roles."""
    return Rounds(
        frame,
        action="ad_load",
        reward={"continued": "fetches", "revenue": "US dollars"},
        propensity="propensity",
        context=context,
        unit="user_id",
        segment="patience" if "patience" in frame.columns else (),
        position="fetch_index",
        available="available" if limits else None,
    )


def fetch_log(found: Visits) -> Rounds:
    """The contexts of `found` in the form that a policy reads; its actions and rewards are placeholders."""
    n = len(found.kind)
    blank = found.context.with_columns(
        ad_load=pl.Series(np.arange(n) % LEVELS),
        propensity=pl.lit(1.0 / LEVELS),
        continued=pl.lit(0.0),
        revenue=pl.lit(0.0),
        user_id=pl.Series(np.arange(n)),
        fetch_index=pl.lit(0),
        patience=pl.Series(np.array(SEGMENTS)[signal(found.context)]),
    )
    return as_rounds(blank)


def true_values(policy: Policy, *, n: int = TEST_ROWS, rng: int = TEST_SEED) -> tuple[float, float]:
    """The policy's satisfaction and revenue, averaged over n fresh fetches, exact given their contexts."""
    found = visits(n, rng=rng)
    satisfaction, revenue = truth(found)
    p = policy.probs(fetch_log(found))
    return float((p * satisfaction).sum(axis=1).mean()), float((p * revenue).sum(axis=1).mean())
