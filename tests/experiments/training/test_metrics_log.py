"""The record of a run: `training/metrics_log.py`."""

import json
import struct

import numpy as np
import pytest
from tensorboardX.proto.event_pb2 import Event

from experiments.runtime import files
from experiments.runtime.errors import UsageError
from experiments.training import metrics_log

ROW = {"loss": np.float32(0.1), "by_bin": [1.0, float("nan")], "count": np.int32(3)}


def events(directory):
    """Scalars of all event files: {(tag, step): value}, in file order."""
    found = {}
    for path in sorted(directory.iterdir()):
        content = path.read_bytes()
        while content:
            (size,) = struct.unpack("<Q", content[:8])
            event = Event.FromString(content[12 : 12 + size])
            content = content[16 + size :]
            for value in event.summary.value:
                found[value.tag, event.step] = value.simple_value
    return found


def write(workdir, start, steps):
    log = metrics_log.MetricsWriter(workdir, start)
    for step in steps:
        log.write(step, ROW | {"value": step}, {"examples_per_second": 7.0})
    log.close()


def test_rows_are_json_and_events_follow(tmp_path):
    write(tmp_path, 0, [10, 20])
    text = (tmp_path / "metrics.jsonl").read_text()
    assert text.splitlines()[0] == (
        '{"step": 10, "loss": 0.100000001, "by_bin": [1.0, null], "count": 3, '
        '"value": 10}'
    )
    assert "examples_per_second" not in text
    assert metrics_log.read(tmp_path / "metrics.jsonl")[1]["step"] == 20
    found = events(tmp_path / "tensorboard")
    assert found["examples_per_second", 20] == 7
    assert found["loss", 10] == pytest.approx(0.1)
    assert found["by_bin/00", 10] == 1


def test_a_resumed_log_has_the_bytes_of_an_uninterrupted_one(tmp_path):
    straight, resumed = tmp_path / "a", tmp_path / "b"
    straight.mkdir()
    resumed.mkdir()
    write(straight, 0, [10, 20, 30, 40])
    write(resumed, 0, [10, 20, 30])
    with (resumed / "metrics.jsonl").open("ab") as file:
        file.write(b'{"step": 40, "lo')  # torn by a kill
    write(resumed, 20, [30, 40])
    files = [path / "metrics.jsonl" for path in (straight, resumed)]
    assert files[0].read_bytes() == files[1].read_bytes()
    again = tmp_path / "b"
    write(again, 0, [10, 20, 30, 40])  # before the first checkpoint: from the start
    assert files[0].read_bytes() == files[1].read_bytes()


def test_wall_clock_is_only_added_to(tmp_path):
    write(tmp_path, 0, [10, 20])
    path = tmp_path / "wall_clock.jsonl"
    with path.open("ab") as file:
        file.write(b'{"step": 30, "ima')  # torn by a kill
    assert [row["step"] for row in metrics_log.read(path)] == [10, 20]
    write(tmp_path, 10, [20, 30])
    rows = metrics_log.read(path)
    assert [row["step"] for row in rows] == [10, 20, 20, 30]
    assert rows[0] == {"step": 10, "examples_per_second": 7.0}


def test_a_torn_line_is_skipped_and_a_corrupted_one_is_named(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n{"step": 2}\n{"st')
    assert [row["step"] for row in metrics_log.read(path)] == [1, 2]
    for corrupted in ('{"st', "5", "{}", '{"step": null}'):
        path.write_text(f'{{"step": 1}}\n{corrupted}\n{{"step": 3}}\n')
        with pytest.raises(UsageError, match="line 2 is no JSON with a step: .*remove"):
            metrics_log.read(path)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (np.float32(1 / 3), 0.333333343),
        (float("inf"), None),
        (np.float32("nan"), None),
        (np.int64(5), 5),
        (True, True),
        (None, None),
        ("text", "text"),
        (np.array([1.5, np.nan], np.float32), [1.5, None]),
        ((1, 2.5), [1, 2.5]),
    ],
)
def test_values_as_json(value, expected):
    plain = files.plain(value)
    assert plain == expected
    assert type(plain) is type(expected)
    json.dumps(plain, allow_nan=False)


def test_nine_digits_give_back_every_float32():
    values = np.random.RandomState(0).standard_normal(1000).astype(np.float32)
    values *= np.float32(10) ** np.random.RandomState(1).randint(-20, 20, 1000)
    for value in values.astype(np.float32):
        assert np.float32(files.plain(value)) == value
