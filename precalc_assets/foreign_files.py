"""Reading files that other people's programs write: only regular ones of a bounded size. Standard library only.

A pipe would block for ever, a device would fill the memory, and neither heeds a timeout.
"""

import errno
import io
import os
import stat
from pathlib import Path
from typing import BinaryIO

_THE_FILES_FAULT = (errno.EACCES, errno.EPERM, errno.ELOOP, errno.ENOTDIR, errno.ENXIO, errno.ENAMETOOLONG)
"""Errors of open(2) that another file would not have; all others are the machine's."""


class ForeignFileError(Exception):
    """A file is not one that may be read. The message says why, without the file's name."""


def open_foreign(path: Path, most: int) -> BinaryIO:
    """Open a regular file of at most `most` bytes. Links are followed; a file without a size, as in /proc, is empty.

    Raises ForeignFileError for everything else, FileNotFoundError, and OSError if the machine is to blame.
    """
    try:
        _require_regular(path.stat(), most)  # before it is opened: opening a device may do something
        file = os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb")
    except OSError as error:
        if error.errno not in _THE_FILES_FAULT:
            raise
        raise ForeignFileError(f"it cannot be opened: {error.strerror}") from None
    try:
        found = os.fstat(file.fileno())
        _require_regular(found, most)
    except ForeignFileError:
        file.close()
        raise
    if found.st_size:
        return file
    file.close()
    return io.BytesIO()


def read_foreign(path: Path, most: int) -> bytes:
    """Return the content of a regular file of at most `most` bytes. Raises like `open_foreign`."""
    with open_foreign(path, most) as file:
        return file.read(most)


def _require_regular(found: os.stat_result, most: int) -> None:
    if not stat.S_ISREG(found.st_mode):
        raise ForeignFileError("it is not a regular file")
    if found.st_size > most:
        raise ForeignFileError(f"it has {found.st_size:,} bytes, and at most {most:,} are read")
