"""BatchStream: every epoch a permutation, no ragged batch, and the batch of a step a function of the step alone."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fastgan import data
from fastgan.data import BatchStream
from fastgan.errors import UserError

sizes = st.integers(1, 60)
seeds = st.integers(-(2**70), 2**70)


@given(n=sizes, batch_size=sizes, seed=seeds, epochs=st.integers(1, 5))
def test_every_epoch_is_a_permutation_and_every_batch_full(n, batch_size, seed, epochs):
    stream = BatchStream(n, batch_size, seed)
    batches = [stream.indices(step) for step in range(stream.steps_for(epochs))]
    assert all(batch.shape == (batch_size,) and batch.dtype == torch.int64 for batch in batches)
    visited = torch.cat(batches)
    for epoch in range(epochs):
        assert visited[epoch * n : (epoch + 1) * n].sort().values.tolist() == list(range(n))


@given(n=sizes, batch_size=sizes, seed=seeds, steps=st.lists(st.integers(0, 200), min_size=1, max_size=8))
def test_any_order_of_steps_gives_the_same_batches(n, batch_size, seed, steps):
    visited_out_of_order = BatchStream(n, batch_size, seed)
    for step in steps:
        resumed = BatchStream(n, batch_size, seed)
        assert torch.equal(visited_out_of_order.indices(step), resumed.indices(step))


@given(n=sizes, batch_size=sizes, epochs=st.integers(0, 20))
def test_steps_for_is_the_fewest_batches_that_see_the_epochs(n, batch_size, epochs):
    stream = BatchStream(n, batch_size)
    steps = stream.steps_for(epochs)
    assert steps == math.ceil(epochs * n / batch_size)
    assert stream.epoch_of(steps) >= epochs
    assert epochs == 0 or stream.epoch_of(steps - 1) < epochs


@settings(max_examples=20)
@given(step=st.integers(0, 10**12))
def test_epoch_of_is_right_far_out(step):
    stream = BatchStream(5000, 64)
    assert stream.epoch_of(step) == step * 64 // 5000
    assert len(stream.indices(step).unique()) >= 32


def test_seeds_and_epochs_differ():
    first = torch.cat([BatchStream(100, 100, 0).indices(step) for step in range(2)])
    second = torch.cat([BatchStream(100, 100, 1).indices(step) for step in range(2)])
    assert not torch.equal(first[:100], first[100:])
    assert not torch.equal(first[:100], second[:100])
    # Seed 1, epoch 0 is not seed 0, epoch 1 (as it would be where both are added up).
    assert not torch.equal(first[100:], second[:100])


def test_does_not_touch_the_global_random_state():
    before = torch.get_rng_state()
    BatchStream(50, 7, 3).indices(40)
    assert torch.equal(before, torch.get_rng_state())


def test_one_epoch_of_the_digits_visits_5000_distinct_images():
    digits = data.load("digits")
    stream = BatchStream(len(digits), 64, seed=0)
    assert stream.steps_per_epoch == 79
    visited = torch.cat([stream.indices(step) for step in range(stream.steps_per_epoch)])[:5000]
    assert len(visited.unique()) == 5000
    assert len(torch.unique(digits.images[visited].flatten(1), dim=0)) == 5000


def test_steps_round_once_for_all_epochs():
    stream = BatchStream(5000, 64)
    assert (stream.steps_for(10), stream.steps_for(0.5), stream.steps_for(0.1)) == (782, 40, 8)


@pytest.mark.parametrize(
    ("n", "batch_size", "words"),
    [(0, 4, "at least 1 image"), (4, 0, "batch_size.*0"), (4, -2, "-2"), (4, 2.5, "2.5"), (4, "2", "'2'")],
)
def test_bad_sizes_are_named(n, batch_size, words):
    with pytest.raises(UserError, match=words):
        BatchStream(n, batch_size)


@pytest.mark.parametrize("mirror", [False, True])
def test_a_step_before_the_first_is_an_error(mirror):
    stream = data.stream_of(torch.zeros(4, 1, 2, 2), batch_size=2, mirror=mirror)
    with pytest.raises(UserError, match="at least 0"):
        stream.batch(-1)
