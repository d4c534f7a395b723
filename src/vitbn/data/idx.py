"""MNIST's idx files, checked before use (format: a magic number, the sizes, then bytes)."""

import gzip
import hashlib
import math
import zlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from vitbn.errors import InputError


def read(path: Path, dims: int, md5: str | None = None) -> Tensor:
    """A file of unsigned bytes with `dims` dimensions as a uint8 tensor; InputError names a bad file.

    A name ending in .gz is unpacked; `md5` is that of the content.
    """
    remedy = "delete it to have it downloaded again, or put a good copy in its place"
    try:
        content = path.read_bytes()
        if path.suffix == ".gz" and content:
            content = gzip.decompress(content)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise InputError(f"{path}: not a whole gzip file ({error}); {remedy}") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    if not content:
        raise InputError(f"{path}: is empty; {remedy}")
    header = 4 + 4 * dims
    if content[:4] != bytes((0, 0, 8, dims)):
        found = content[:4].hex()
        raise InputError(f"{path}: not an idx file of bytes in {dims} dimensions (starts with {found}); {remedy}")
    shape = np.frombuffer(content[4:header].ljust(4 * dims, b"\0"), ">u4").tolist()
    expected = header + math.prod(shape)
    if len(content) != expected:
        raise InputError(f"{path}: {len(content)} bytes where {expected} were expected; {remedy}")
    if md5 is not None and hashlib.md5(content, usedforsecurity=False).hexdigest() != md5:
        raise InputError(f"{path}: its content is not the published file's (md5 is not {md5}); {remedy}")
    return torch.frombuffer(bytearray(content[header:]), dtype=torch.uint8).reshape(shape)
