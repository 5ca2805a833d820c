"""How the build talks to the person in front of it."""

from __future__ import annotations

import sys


class BuildError(SystemExit):
    """Stops the build with one sentence: as a ``SystemExit`` it is printed without a traceback, with exit status 1."""

    def __init__(self, sentence: str) -> None:
        self.sentence = sentence
        super().__init__(f"\nfastgan: {sentence}")

    def __str__(self) -> str:
        return self.sentence


def warn(sentence: str) -> None:
    """Print one warning to standard error."""
    print(f"fastgan: warning: {sentence}", file=sys.stderr, flush=True)
