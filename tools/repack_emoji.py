"""Repacks the emoji of the npm package @lobehub/fluent-emoji-3d 1.1.0 into ``fastgan/data/assets/emoji.webp``.

    npm pack @lobehub/fluent-emoji-3d@1.1.0
    python tools/repack_emoji.py lobehub-fluent-emoji-3d-1.1.0.tgz

The result is checked in; this script is kept as the record of where it comes from (see
``fastgan/data/assets/README.md``).
"""

from __future__ import annotations

import hashlib
import io
import re
import sys
import tarfile
from pathlib import Path

from PIL import Image

from fastgan.data.emoji import ASSET, COLUMNS, COUNT, NATIVE_SIZE

SHA256 = "c1bb7eee7de090205a232518a9ab4adb3df458bfbe8a1f78232991194c8b2e58"
SKIN_TONES = re.compile("1f3f[b-f]")
QUALITY = 93  # 2 MB; WebP halves the resolution of colour at any quality


def read_package(package: Path) -> dict[str, Image.Image]:
    """The images by the names of their files, which are code points, without those of another skin tone."""
    if hashlib.sha256(package.read_bytes()).hexdigest() != SHA256:
        raise SystemExit(f"{package} is not the package @lobehub/fluent-emoji-3d 1.1.0 (its SHA-256 differs)")
    images = {}
    with tarfile.open(package) as archive:
        for member in archive:
            name = Path(member.name).name
            if name.endswith(".webp") and not SKIN_TONES.search(name):
                images[name] = Image.open(io.BytesIO(archive.extractfile(member).read())).convert("RGBA")
    return images


def tile(image: Image.Image) -> Image.Image:
    """The image, in the middle of a white square, at the atlas' size. Four of them are not quite square."""
    side = max(image.size)
    square = Image.new("RGBA", (side, side), "white")
    square.alpha_composite(image, ((side - image.width) // 2, (side - image.height) // 2))
    return square.convert("RGB").resize((NATIVE_SIZE, NATIVE_SIZE), Image.Resampling.LANCZOS)


def main(package: str) -> None:
    images = read_package(Path(package))
    assert len(images) == COUNT
    atlas = Image.new("RGB", (COLUMNS * NATIVE_SIZE, -(-COUNT // COLUMNS) * NATIVE_SIZE), "white")
    for index, name in enumerate(sorted(images)):
        row, column = divmod(index, COLUMNS)
        atlas.paste(tile(images[name]), (column * NATIVE_SIZE, row * NATIVE_SIZE))
    atlas.save(ASSET, quality=QUALITY, method=6)
    print(f"{ASSET}: {COUNT:,} images, {ASSET.stat().st_size:,} bytes")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit(__doc__)
    main(sys.argv[1])
