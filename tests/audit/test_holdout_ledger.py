import json

import pytest

from counterlog.audit.holdout_ledger import FIRST, Ledger, Lock, row_hash
from counterlog.core.errors import CounterlogError


def filled(path):
    ledger = Ledger(path)
    for k in range(4):
        ledger.append(name=f"q{k}", answer=k / 10)
    return ledger


def test_every_row_names_the_hash_of_the_row_before(tmp_path):
    ledger = filled(tmp_path / "l.jsonl")
    rows = [json.loads(line) for line in (tmp_path / "l.jsonl").read_text().splitlines()]
    assert rows == ledger.rows
    assert rows[0]["prev_hash"] == FIRST
    assert [r["prev_hash"] for r in rows[1:]] == [r["hash"] for r in rows[:-1]]
    assert rows[2]["hash"] == row_hash(rows[2])
    assert ledger.verify(head=rows[-1]["hash"]) == 4
    ledger.close()


def test_a_reopened_ledger_goes_on_where_it_ended(tmp_path):
    filled(tmp_path / "l.jsonl").close()
    again = Ledger(tmp_path / "l.jsonl")
    again.append(name="later")
    assert again.verify() == 5
    again.close()


def test_an_empty_ledger_and_one_in_memory_verify():
    ledger = Ledger()
    assert (ledger.verify(), ledger.head) == (0, FIRST)
    ledger.append(name="q", answer=float("nan"))
    assert ledger.verify() == 1
    assert ledger.rows[0]["answer"] == "NaN"
    ledger.rows[0]["answer"] = 0.5
    with pytest.raises(CounterlogError, match="row 0"):
        ledger.verify()


@pytest.mark.parametrize("damage", ["edit", "remove", "swap"])
def test_an_edited_removed_or_moved_row_is_found(tmp_path, damage):
    path = tmp_path / "l.jsonl"
    filled(path).close()
    lines = path.read_text().splitlines()
    if damage == "edit":
        lines[2] = lines[2].replace("0.2", "0.3")
    elif damage == "remove":
        del lines[2]
    else:
        lines[2], lines[3] = lines[3], lines[2]
    path.write_text("\n".join(lines) + "\n")
    with pytest.raises(CounterlogError, match="row 2 of the holdout ledger"):
        Ledger(path)


def test_an_edit_with_its_hash_recomputed_shows_in_the_next_row(tmp_path):
    path = tmp_path / "l.jsonl"
    filled(path).close()
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    rows[1]["answer"] = 0.9
    rows[1]["hash"] = row_hash(rows[1])
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    with pytest.raises(CounterlogError, match="row 2"):
        Ledger(path)


def test_a_cut_end_shows_only_against_a_noted_head(tmp_path):
    path = tmp_path / "l.jsonl"
    ledger = filled(path)
    head = ledger.head
    ledger.close()
    path.write_text("\n".join(path.read_text().splitlines()[:3]) + "\n")
    shorter = Ledger(path)
    assert shorter.verify() == 3
    with pytest.raises(CounterlogError, match="3 rows; expected the end"):
        shorter.verify(head=head)
    shorter.close()


def test_a_half_written_line_is_named(tmp_path):
    path = tmp_path / "l.jsonl"
    filled(path).close()
    with open(path, "a") as stream:
        stream.write('{"index": 4, "na')
    with pytest.raises(CounterlogError, match=r"line 5 .* not a ledger row(.|\n)*delete that line"):
        Ledger(path)


def test_what_cannot_be_recorded_is_refused(tmp_path):
    ledger = filled(tmp_path / "l.jsonl")
    ledger.close()
    with pytest.raises(CounterlogError, match="cannot write the ledger"):
        ledger.append(name="late")
    assert len(ledger.rows) == 4


def test_a_lock_has_one_owner_until_released(tmp_path):
    lock = Lock(tmp_path / "lock")
    with pytest.raises(CounterlogError, match="is open in another"):
        Lock(tmp_path / "lock")
    lock.release()
    Lock(tmp_path / "lock").release()
