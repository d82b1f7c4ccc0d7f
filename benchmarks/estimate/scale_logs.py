"""The logs that scale.py measures on: a wide one for the peers, and narrow ones of any size, written in pieces."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

ACTIONS, FEATURES, POLICIES, BATCH = 10, 5, 10, 250_000
PIECE = 10_000_000
COLUMNS = ["reward", "propensity", *(f"pi_{k}" for k in range(POLICIES))]


def narrow(folder, n):
    """A folder of Parquet files with n rows: reward, propensity and ten candidates' probabilities, as users have them.

    float64 numbers, written with pyarrow's defaults (snappy, dictionaries). One file for every 10 million rows, 1 GB as
    random digits do not compress; beyond that the same file stands in the folder under further names (hard links), so
    that 1e8 rows are read and decoded without taking 10 GB of disk. Files that exist are kept.
    """
    place = folder / f"narrow-{n}"
    place.mkdir(parents=True, exist_ok=True)
    first = place / "part-000.parquet"
    if not first.exists():
        _piece(first, min(PIECE, n))
    for k in range(1, n // PIECE):
        path = place / f"part-{k:03d}.parquet"
        if not path.exists():
            path.hardlink_to(first)
    return place


def _piece(path, n):
    gen, half = np.random.default_rng(0), path.with_suffix(".half")
    writer = None
    for start in range(0, n, BATCH):
        m = min(BATCH, n - start)
        propensity = 0.05 + 0.25 * gen.random(m)
        columns = {
            "action": gen.integers(0, ACTIONS, m),
            "reward": (gen.random(m) < 0.2 + propensity).astype(float),
            "propensity": propensity,
        }
        columns |= {f"pi_{k}": 0.3 * gen.random(m) for k in range(POLICIES)}
        table = pa.table(columns)
        writer = writer or pq.ParquetWriter(half, table.schema)
        writer.write_table(table)
    writer.close()
    half.rename(path)


def softmax(z):
    z = np.exp(z - z.max(axis=1, keepdims=True))
    return z / z.sum(axis=1, keepdims=True)


def wide(folder, n):
    """A log with context in Parquet, and the same rows as the peers read them: arrays, and VW's text."""
    path = folder / f"wide-{n}.parquet"
    if path.exists():
        return path
    gen = np.random.default_rng(0)
    beta, gamma = gen.standard_normal((2, FEATURES, ACTIONS))
    target = gen.standard_normal((FEATURES, ACTIONS))
    x = gen.standard_normal((n, FEATURES))
    logging, q = softmax(0.3 * x @ beta), 1 / (1 + np.exp(-(x @ gamma)))
    rows = np.arange(n)
    action = (logging.cumsum(axis=1) < gen.random(n)[:, None]).sum(axis=1).clip(0, ACTIONS - 1)
    reward = (gen.random(n) < q[rows, action]).astype(float)
    pi, best = softmax(0.5 * x @ target), (x @ target).argmax(axis=1)
    q = q.clip(0.1, 0.9)
    p = logging[rows, action]
    np.savez(folder / "arrays.npz", reward=reward, action=action, propensity=p, pi=pi, q=q, best=best, x=x)
    with (folder / "log.vw").open("w") as file:
        lists = (v.tolist() for v in (best, action, reward, p, x))
        for b, a, r, chance, values in zip(*lists, strict=True):
            text = " ".join(f"{j}:{v:.5f}" for j, v in enumerate(values))
            file.write(f"{b + 1} {a + 1}:{-r:g}:{chance:.8f} | {text}\n")
    columns = {"action": action, "reward": reward, "propensity": p, "best": 1.0 * (best == action)}
    columns |= {"pi_0": pi[rows, action], "q": q[rows, action], "v": np.einsum("ij,ij->i", pi, q)}
    columns |= {f"x{j}": v for j, v in enumerate(x.T)}
    pq.write_table(pa.table(columns), path, row_group_size=BATCH)
    return path
