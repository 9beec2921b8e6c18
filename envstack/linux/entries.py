"""What readdir(3) tells besides names, which Python's os module keeps to itself."""

from __future__ import annotations

import ctypes
import os

_DT_UNKNOWN = 0


class _Dirent(ctypes.Structure):
    """struct dirent of 64-bit Linux, as glibc and musl have it."""

    _fields_ = (
        ("d_ino", ctypes.c_uint64),
        ("d_off", ctypes.c_int64),
        ("d_reclen", ctypes.c_ushort),
        ("d_type", ctypes.c_ubyte),
        ("d_name", ctypes.c_char * 256),
    )


_libc = ctypes.CDLL(None, use_errno=True)
_libc.opendir.restype = ctypes.c_void_p
_libc.readdir.restype = ctypes.POINTER(_Dirent)


def tell_types(directory: bytes) -> bool:
    """Tell whether the file system says of each entry what it is; raises OSError.

    An overlay needs that of its upper (overlayfs.rst). An empty directory says it of `.` and `..`.
    """
    stream = _libc.opendir(directory)
    if not stream:
        number = ctypes.get_errno()
        raise OSError(number, f"opendir: {os.strerror(number)}")
    try:
        entry = _libc.readdir(ctypes.c_void_p(stream))
        return bool(entry) and entry.contents.d_type != _DT_UNKNOWN
    finally:
        _libc.closedir(ctypes.c_void_p(stream))
