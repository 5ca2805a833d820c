"""The loader against the training it feeds: 50,000 packed images of 64x64 in batches of 64.

How many images a second each of them takes, in the same rounds; the seconds from a pack to its first batch; and the
memory of this process, against a pack a tenth as large.
"""

import subprocess
import sys
import time

import numpy as np
import pytest
import torch

from fastgan import data
from fastgan.proof import interleaved
from fastgan.training import TrainConfig, Trainer

N, SIZE, BATCH = 50_000, 64, 64
SEVERAL = 32  # batches that are timed as one, since a single one takes less than a millisecond
BAR = 5  # times the training's rate
READY = 1.0  # seconds from a pack to its first batch; the import of torch takes longer
MEMORY = 128 << 20  # bytes that the process may grow by, whatever the size of the set; the larger one has 614 MB

MEASURE = """
import sys, torch
from fastgan import data
def resident(): return int(open("/proc/self/statm").read().split()[1]) * 4096
stream = data.stream_of(data.load(sys.argv[1]), {batch})
stream.batch(0)
before = most = resident()
for step in range(2000):
    stream.batch(step)
    most = max(most, resident())
print(most - before)
"""


@pytest.fixture(scope="module")
def packs(tmp_path_factory):
    """The pack of N random images and one of a tenth of them."""
    folder = tmp_path_factory.mktemp("packs")
    generator = np.random.default_rng(0)
    made = {}
    for n in (N // 10, N):
        array = np.lib.format.open_memmap(folder / f"{n}.npy", "w+", np.uint8, (n, SIZE, SIZE, 3))
        for first in range(0, n, 1000):
            array[first : first + 1000] = generator.integers(0, 256, array[first : first + 1000].shape, np.uint8)
        array.flush()
        made[n] = data.pack(folder / f"{n}.npy", folder / f"{n}.pack")
        (folder / f"{n}.npy").unlink()
    return made


def run(code, *arguments):
    done = subprocess.run([sys.executable, "-c", code, *map(str, arguments)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_loader_is_faster_than_training(packs, capsys):
    stream = data.stream_of(data.load(packs[N]), BATCH, mirror=True)
    trainer = Trainer(TrainConfig(data=str(packs[N]), device="cpu", batch_size=BATCH))
    real = stream.batch(0)
    steps = iter(range(10**9))
    calls = {
        "loader": lambda: [stream.batch(next(steps)) for _ in range(SEVERAL)],
        "training": lambda: trainer.step(real),
    }
    seconds = interleaved(calls, 8)
    rates = {"loader": SEVERAL * BATCH / seconds["loader"], "training": BATCH / seconds["training"]}
    with capsys.disabled():
        threads, ratio = torch.get_num_threads(), rates["loader"] / rates["training"]
        found = ", ".join(f"{name} {rate:,.0f} images/s" for name, rate in rates.items())
        print(f"\n{found}, {ratio:.0f}x ({threads} threads, {trainer.precision})")
    assert ratio >= BAR


def test_first_batch_is_soon_there(packs, capsys):
    code = f"""
import sys, time
began = time.perf_counter()
from fastgan import data
imported = time.perf_counter()
data.stream_of(data.load(sys.argv[1]), {BATCH}).batch(0)
print(imported - began, time.perf_counter() - imported)
"""
    began = time.perf_counter()
    imported, loaded = map(float, run(code, packs[N]))
    total = time.perf_counter() - began
    with capsys.disabled():
        print(f"\nfirst batch after {total:.2f} s: import {imported:.2f} s, from the pack on {1e3 * loaded:.0f} ms")
    assert loaded <= READY


def test_memory_does_not_grow_with_the_set(packs, capsys):
    grown = {n: int(run(MEASURE.format(batch=BATCH), path)[0]) for n, path in packs.items()}
    with capsys.disabled():
        print("\nin 2,000 batches grown by", *(f"{size / 2**20:.0f} MiB of {n:,} images" for n, size in grown.items()))
    assert max(grown.values()) <= MEMORY
