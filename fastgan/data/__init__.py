"""Images for training: loaded and decoded once as uint8, handed out as batches in [-1, 1].

digits = data.load("digits")                     # or a folder: data.load("photos", image_size=(64, 96))
stream = data.stream_of(digits, batch_size=64)   # or a tensor, a Dataset, a DataLoader
real = stream.batch(step=0)                      # float32 [64, 1, 32, 32], the same for the same step
"""

from .folder import DataNotFound
from .image_set import ImageSet, to_float, to_uint8
from .loading import load
from .sources import Stream, from_dataset, from_tensor, stream_of
from .stream import BatchStream

__all__ = [
    "BatchStream",
    "DataNotFound",
    "ImageSet",
    "Stream",
    "from_dataset",
    "from_tensor",
    "load",
    "stream_of",
    "to_float",
    "to_uint8",
]
