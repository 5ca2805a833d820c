"""Images for training: decoded once to uint8, handed out as batches in [-1, 1].

digits = data.load("digits")                     # or a folder: data.load("photos", image_size=(64, 96))
faces = data.load(data.pack("faces.zip"))        # decoded once for all runs, then memory-mapped
stream = data.stream_of(digits, batch_size=64)   # or a tensor, a Dataset, a DataLoader
real = stream.batch(step=0)                      # float32 [64, 1, 32, 32], the same for the same step
"""

from .folder import DataNotFound
from .image_set import ImageSet, to_float, to_uint8
from .loading import check_pairs, load, native_size
from .pack import pack
from .sources import CACHES, Stream, from_dataset, stream_of
from .stream import BatchStream
from .tensors import from_tensor

__all__ = [
    "CACHES",
    "BatchStream",
    "DataNotFound",
    "ImageSet",
    "Stream",
    "check_pairs",
    "from_dataset",
    "from_tensor",
    "load",
    "native_size",
    "pack",
    "stream_of",
    "to_float",
    "to_uint8",
]
