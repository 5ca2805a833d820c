"""A judge of generated digits: a small CNN in plain torch, fitted to the embedded real ones.

    from digit_judge import report
    report(images)    # {"mean_top_probability": 0.93, "shares": [0.11, 0.09, ...]}

or as a script, on a run folder or on a .npy file of images (uint8, or floats in [-1, 1], [N, 1, H, W] or [N, H, W]):

    python tests/digit_judge.py RUN --count 1000 --seeds 0 1 2
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fastgan import data

HELD_OUT = 500


def network() -> nn.Sequential:
    """float32 [N, 1, 28, 28] in [-1, 1] to logits [N, 10]."""
    # No batch-norm and no pooling: both make it as sure of noise as of a digit.
    return nn.Sequential(
        *(nn.Conv2d(1, 16, 5, stride=2, padding=2), nn.ReLU()),
        *(nn.Conv2d(16, 32, 5, stride=2, padding=2), nn.ReLU()),
        *(nn.Flatten(), nn.Dropout(0.3), nn.Linear(32 * 49, 128), nn.ReLU(), nn.Linear(128, 10)),
    )


@lru_cache(maxsize=4)
def fitted(seed: int = 0, epochs: int = 8) -> tuple[nn.Sequential, float]:
    """The fitted network in eval mode and its accuracy on the 500 digits it never saw; a function of the seed."""
    digits = data.load("digits", image_size=28)
    images, labels = digits.batch(torch.arange(len(digits))), digits.labels
    with torch.random.fork_rng(devices=[]), torch.enable_grad(), _one_thread():
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would seed the GPU too, and nobody puts that back
        order = torch.randperm(len(digits))
        held_out, seen = order[:HELD_OUT], order[HELD_OUT:]
        model = network().to(memory_format=torch.channels_last)
        _fit(model, images[seen], labels[seen], epochs)
    with torch.no_grad():
        accuracy = (model(images[held_out]).argmax(1) == labels[held_out]).float().mean().item()
    return model, accuracy


@contextmanager
def _one_thread() -> Iterator[None]:
    """Layers this small gain little from a second thread, and lose tenfold where other processes hold the cores."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _fit(model: nn.Sequential, images: Tensor, labels: Tensor, epochs: int, batch_size: int = 64) -> None:
    steps = epochs * (len(images) // batch_size)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=3e-3, total_steps=steps)
    model.train()
    for _ in range(epochs):
        for batch in torch.randperm(len(images))[: len(images) // batch_size * batch_size].split(batch_size):
            loss = F.cross_entropy(model(_shifted(images[batch])), labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    model.eval()


def _shifted(images: Tensor, reach: int = 2) -> Tensor:
    """The whole batch moved by up to ``reach`` pixels, so that the judge does not mind where a digit stands."""
    down, right = torch.randint(-reach, reach + 1, (2,)).tolist()
    return F.pad(images, (reach,) * 4, value=-1.0)[
        ..., reach + down : reach + down + images.shape[2], reach + right : reach + right + images.shape[3]
    ]


@torch.no_grad()
def judge(images: Tensor, seed: int = 0) -> Tensor:
    """Probabilities [N, 10] of images [N, 1, H, W], uint8 or floats in [-1, 1], of 28x28 or 32x32 pixels (cropped)."""
    images = images.detach().cpu()
    images = data.to_float(images) if images.dtype == torch.uint8 else images.float()
    if images.shape[1:] == (1, 32, 32):
        images = images[:, :, 2:-2, 2:-2]
    if images.shape[1:] != (1, 28, 28):
        raise ValueError(f"the judge reads [N, 1, 28, 28] or [N, 1, 32, 32], not {list(images.shape)}")
    model, _ = fitted(seed)
    return torch.cat([model(part).softmax(1) for part in images.split(500)])


def report(images: Tensor, seed: int = 0) -> dict[str, float | list[float]]:
    """``mean_top_probability``: how sure the judge is on average; ``shares``: of all images, by digit."""
    probabilities = judge(images, seed)
    shares = torch.bincount(probabilities.argmax(1), minlength=10).double() / len(images)
    return {"mean_top_probability": probabilities.amax(1).mean().item(), "shares": shares.tolist()}


def _print_report(title: str, images: Tensor) -> None:
    found = report(images)
    shares = " ".join(f"{digit}:{share:.1%}" for digit, share in enumerate(found["shares"]))
    print(f"{title}: mean top probability {found['mean_top_probability']:.4f}, shares {shares}")


def main() -> None:
    parser = argparse.ArgumentParser(description="How digit-like are these images?")
    parser.add_argument("what", type=Path, help="a run folder, or a .npy file of images")
    parser.add_argument("--count", type=int, default=1000, help="images to generate from a run")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="seeds to generate them with")
    arguments = parser.parse_args()

    start = time.perf_counter()
    _, accuracy = fitted()
    print(f"judge: {accuracy:.1%} right on {HELD_OUT} held-out digits, fitted in {time.perf_counter() - start:.1f} s")
    if arguments.what.is_dir():
        import fastgan

        model = fastgan.load(arguments.what)
        for seed in arguments.seeds:
            _print_report(f"seed {seed}", model.generate(arguments.count, seed=seed))
    else:
        images = torch.from_numpy(np.load(arguments.what, allow_pickle=False))
        _print_report(arguments.what.name, images.unsqueeze(1) if images.dim() == 3 else images)


if __name__ == "__main__":
    main()
