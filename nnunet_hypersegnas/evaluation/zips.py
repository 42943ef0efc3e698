"""Zips that anybody may have made: limits first, by what their directory says, then members, piece by piece."""

from __future__ import annotations

import errno
import shutil
import stat
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from nnunet_hypersegnas.errors import HyperSegNASError
from nnunet_hypersegnas.evaluation.unreadable import UnreadableImageError, check_is_file, shortened

ENCRYPTED = 1  # a bit of a member's flags
COMPRESSIONS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
# What Python's reader raises at damage, and at what it does not know.
DAMAGE = (zipfile.BadZipFile, NotImplementedError, RuntimeError, ValueError, EOFError, zlib.error)


class ZipError(HyperSegNASError):
    """A file that is no zip, or one that is too large."""


class MemberError(HyperSegNASError):
    """A member that cannot be read; says why, and whoever names the member goes before."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """How much a zip can hold.

    Attributes:
        members: files and folders.
        member_bytes: of one of them, without compression.
        all_bytes: of all together.
    """

    members: int
    member_bytes: int
    all_bytes: int


@contextmanager
def opened_zip(path: Path, limits: Limits) -> Iterator[zipfile.ZipFile]:
    """Open a zip, whose directory keeps within the limits on members and on all bytes.

    Raises:
        ZipError: it does not, or it is no zip.
    """
    try:
        check_is_file(path)
        archive = zipfile.ZipFile(path)
    except UnreadableImageError as error:
        raise ZipError(f"there is no zip {path}: {error}") from None
    except (*DAMAGE, OSError) as error:
        raise ZipError(f"{path} is no zip, or it is cut off ({shortened(error)})") from error
    with archive:
        members = archive.infolist()
        if len(members) > limits.members:
            raise ZipError(f"{path} has {len(members):,} members; {limits.members:,} are possible")
        if (size := sum(member.file_size for member in members)) > limits.all_bytes:
            raise ZipError(f"{path} has {size:,} bytes without compression; {limits.all_bytes:,} are possible")
        yield archive


def extract(archive: zipfile.ZipFile, member: zipfile.ZipInfo, file: Path, most_bytes: int) -> None:
    """Write what is in a member.

    Args:
        archive: that it is in.
        member: which one.
        file: that is written; its folder is there.
        most_bytes: that it can have.

    Raises:
        MemberError: it has more, is no plain file, or cannot be read.
    """
    kind = stat.S_IFMT(member.external_attr >> 16)
    if kind not in (0, stat.S_IFREG):
        raise MemberError("it is a folder, a link or something else than a file")
    if member.flag_bits & ENCRYPTED:
        raise MemberError("it is encrypted; make the zip without a password")
    if member.compress_type not in COMPRESSIONS:
        raise MemberError(f"it is compressed by method {member.compress_type}; 0 (stored) and 8 (deflate) are possible")
    if member.file_size > most_bytes:
        raise MemberError(f"it has {member.file_size:,} bytes; a label map has at most {most_bytes:,} here")
    try:
        with archive.open(member) as source, file.open("wb") as target:
            shutil.copyfileobj(source, target)
    except DAMAGE as error:
        raise MemberError(f"the zip is damaged there ({shortened(error)})") from error
    except OSError as error:
        if error.errno != errno.EINVAL:  # a place that no file has
            raise
        raise MemberError("the zip is damaged there (its directory names a place outside of it)") from error
