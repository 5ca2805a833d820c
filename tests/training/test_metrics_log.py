import json

import torch

from fastgan.training.metrics_log import MetricsLog


def rows(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_keeps_rows_until_it_is_time(tmp_path):
    log = MetricsLog(tmp_path / "m.jsonl", interval=60)
    assert log.flush() == []
    for step in (1, 2):
        assert log.add(step, step / 4, 8, {"loss": torch.tensor(step / 2)}) == []
    assert rows(tmp_path / "m.jsonl") == []
    written = log.flush()
    assert rows(tmp_path / "m.jsonl") == written
    assert {**written[1], "images_per_second": 0} == {"step": 2, "epoch": 0.5, "images_per_second": 0, "loss": 1.0}
    log.add(3, None, 8, {"loss": torch.tensor(0.0)})
    log.close()
    assert [row["step"] for row in rows(tmp_path / "m.jsonl")] == [1, 2, 3]


def test_writes_when_it_is_time(tmp_path):
    log = MetricsLog(tmp_path / "m.jsonl", interval=0)
    assert [row["loss"] for row in log.add(1, None, 8, {"loss": torch.tensor(0.5)})] == [0.5]


def test_what_is_not_finite_is_null(tmp_path):
    log = MetricsLog(tmp_path / "m.jsonl")
    log.add(1, None, 8, {"a": torch.tensor(float("nan")), "b": torch.tensor(float("inf")), "c": torch.tensor(1.0)})
    log.close()
    (row,) = rows(tmp_path / "m.jsonl")
    assert (row["a"], row["b"], row["c"]) == (None, None, 1.0)


def test_hands_on_all_rows_that_it_has_written(tmp_path):
    read = []
    log = MetricsLog(tmp_path / "m.jsonl", interval=60, read=read.extend)
    for step in (1, 2):
        log.add(step, None, 8, {"loss": torch.tensor(step / 2)})
    log.flush()
    assert read == rows(tmp_path / "m.jsonl") and [row["loss"] for row in read] == [0.5, 1.0]
