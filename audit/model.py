"""Digest of a model file: flat little-endian float32, or an .npz that holds it as the array `flat`."""

from __future__ import annotations

import io
import zipfile
import zlib
from typing import TYPE_CHECKING

from audit.errors import InvalidCertificate
from protos import canonical

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_ZIP = b"PK\x03\x04"
_BYTES = 4
_HEADER = 4096
_UNREADABLE = (KeyError, ValueError, OSError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error)
"""What reading a damaged, encrypted or foreign archive raises."""


def model_digest(data: bytes, size: int) -> str:
    """SHA-256 of the flat model in a file.

    Args:
        data: the file's bytes.
        size: number of coordinates of the task's layout.

    Raises:
        InvalidCertificate: the file holds no such model.
    """
    flat = _from_archive(data, size) if data.startswith(_ZIP) else data
    if len(flat) != _BYTES * size:
        raise InvalidCertificate(f"the model file has {len(flat)} bytes of numbers, the task's model {_BYTES * size}")
    return canonical.digest(flat)


def _from_archive(data: bytes, size: int) -> bytes:
    import numpy as np

    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            # Looked at before anything is unpacked: a small file can unpack to a huge one.
            if archive.getinfo("flat.npy").file_size > _BYTES * size + _HEADER:
                raise InvalidCertificate("the array 'flat' of the model file is larger than the task's model")
        with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
            flat: NDArray[np.float32] = arrays["flat"]
    except _UNREADABLE as error:
        raise InvalidCertificate(f"the model file holds no readable array 'flat': {error}") from error
    if (flat.dtype.kind, flat.dtype.itemsize, flat.ndim) != ("f", _BYTES, 1):
        raise InvalidCertificate(f"the array 'flat' of the model file is {flat.dtype} {flat.shape}, not flat float32")
    return flat.astype("<f4").tobytes()
