"""Image files and arrays: the one place where files become arrays, and arrays files.

In numpy an image is H x W x 3 uint8 RGB; as a tensor it is N x 3 x H x W float32 in [0, 1].
"""
from .headers import IMAGE_SUFFIXES, ImageError, is_image, is_raw, max_pixels, suffix_of
from .photographs import (
    READING,
    WRITTEN_SUFFIXES,
    Photograph,
    check_can_hold,
    look_at,
    read_image,
    read_photograph,
    write_image,
    write_photograph,
)
from .tensors import to_image, to_tensor

__all__ = [
    "IMAGE_SUFFIXES",
    "READING",
    "WRITTEN_SUFFIXES",
    "ImageError",
    "Photograph",
    "check_can_hold",
    "is_image",
    "is_raw",
    "look_at",
    "max_pixels",
    "read_image",
    "read_photograph",
    "suffix_of",
    "to_image",
    "to_tensor",
    "write_image",
    "write_photograph",
]
