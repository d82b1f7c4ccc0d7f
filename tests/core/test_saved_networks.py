from __future__ import annotations

import json

import numpy as np
import polars as pl
import pytest

pytestmark = pytest.mark.torch
torch = pytest.importorskip("torch", reason="torch is not installed (extra torch)")

from safetensors.torch import load_file, save_file  # noqa: E402

from counterlog.core.errors import CounterlogError, LogError  # noqa: E402
from counterlog.core.saved_networks import FORMAT, SavedNetwork, is_network_file, load_network  # noqa: E402
from counterlog.core.torch_training import TrainConfig, train  # noqa: E402


def table(n=200):
    gen = np.random.default_rng(0)
    x = gen.normal(size=n)
    colour = gen.choice(["red", "blue"], n)
    y = np.where(x + (colour == "red") + 0.3 * gen.normal(size=n) > 0.5, "yes", "no")
    return pl.DataFrame({"x": x, "colour": colour, "y": y})


def network(**extra):
    return SavedNetwork.fit(
        table(), "y", hidden=(8,), training=TrainConfig(epochs=20, lr=0.01), rng=3, **extra
    )


def test_a_saved_network_is_the_same_network(tmp_path):
    made = network()
    found = load_network(made.save(tmp_path / "n.safetensors"))
    x, y = made.rows(table())
    assert torch.equal(found.model(x), made.model(x))
    assert torch.equal(found.rows(table())[1], y)
    assert (found.classes, found.sizes, found.rng) == (("no", "yes"), (3, 8, 2), 3)
    assert is_network_file(tmp_path / "n.safetensors")
    assert (made.model(x).argmax(1) == y).double().mean() > 0.8


def test_the_recipe_in_the_file_trains_the_same_network_again(tmp_path):
    made = network()
    found = load_network(made.save(tmp_path / "n.safetensors"))
    x, y = found.rows(table())
    again = train(found.start(), x, y, found.training, rng=found.rng)
    assert torch.equal(again(x), made.model(x))


def test_other_files_and_changed_ones_are_refused(tmp_path):
    path = network().save(tmp_path / "n.safetensors")
    (tmp_path / "x.safetensors").write_bytes(b"\x80\x04nothing")
    save_file({"a": torch.zeros(1)}, tmp_path / "plain.safetensors")
    assert not is_network_file(tmp_path / "x.safetensors")
    for name in ("x", "plain", "absent"):
        with pytest.raises(CounterlogError, match="not a saved network"):
            load_network(tmp_path / f"{name}.safetensors")
    from safetensors import safe_open

    with safe_open(path, framework="pt") as stream:
        content = json.loads(stream.metadata()[FORMAT])
    for changed, said in (
        ({"sizes": [3, 9, 2]}, "tensors"),
        ({"classes": ["a"]}, "classes"),
        ({"sizes": [4, 8, 2]}, "encoding"),
    ):
        said_so = {FORMAT: json.dumps({**content, **changed})}
        save_file(load_file(path), tmp_path / "changed.safetensors", metadata=said_so)
        with pytest.raises(CounterlogError, match=said):
            load_network(tmp_path / "changed.safetensors")


def test_labels_and_columns_that_it_never_saw_are_refused():
    made = network()
    with pytest.raises(LogError, match=r"'maybe' in rows 0, 1"):
        made.rows(table().with_columns(y=pl.lit("maybe")))
    with pytest.raises(LogError, match="no column 'colour'"):
        made.rows(table().drop("colour"))
    with pytest.raises(LogError, match="1 classes"):
        SavedNetwork.fit(table().with_columns(y=pl.lit("yes")), "y")
