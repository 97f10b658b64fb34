"""Whether a folder is the user's alone, so that pickled objects in it are the user's own."""

from __future__ import annotations

import grp
import os
import pwd
import stat
import struct
from collections.abc import Iterable, Iterator
from pathlib import Path

_ACL_USER, _ACL_GROUP, _ACL_MASK, _WRITE = 0x02, 0x08, 0x10, 0x2  # of Linux: linux/posix_acl.h


def intruder(folder: Path, parts: Iterable[str]) -> str | None:
    """Who else could have written what is in a folder, in words; ``None`` where nobody could.

    Looks at everything below the named parts of the folder, and at the folders above them up to the root: whoever may
    write to one of these may put another folder there. Root may do everything anyway; a sticky folder such as ``/tmp``
    lets nobody move what belongs to others.

    Args:
        folder: with all that lies directly on the way to it.
        parts: names of files and folders in it; those that are missing do not count.
    """
    place = folder.resolve()
    for path in place.parents:
        if problem := _problem(path, sticky=True):
            return problem
    if problem := _problem(place):
        return problem
    return next((problem for name in parts for path in _below(place / name) if (problem := _problem(path))), None)


def _below(path: Path) -> Iterator[Path]:
    if not os.path.lexists(path):
        return
    yield path
    if path.is_dir() and not path.is_symlink():
        for inner in path.iterdir():
            yield from _below(inner)


def _problem(path: Path, sticky: bool = False) -> str | None:
    found = path.lstat()
    if stat.S_ISLNK(found.st_mode):
        return f"{path} is a link to somewhere else"
    if others := _by_acl(path):
        return f"an access control list lets {others} write to {path}"
    if found.st_uid not in (os.geteuid(), 0):
        return f"{path} belongs to {_user(found.st_uid)}"
    if sticky and found.st_mode & stat.S_ISVTX:
        return None
    if found.st_mode & stat.S_IWOTH:
        return f"everybody may write to {path}"
    if found.st_mode & stat.S_IWGRP and not _private(found.st_gid):
        return f"the group {_group(found.st_gid)} may write to {path}"
    return None


def _by_acl(path: Path) -> str:
    """Whom a POSIX access control list lets write besides the owner and the group; empty where it lets nobody.

    The list's mask stands where the group's bits do: these alone do not tell.
    """
    try:
        data = os.getxattr(path, "system.posix_acl_access", follow_symlinks=False)
    except (OSError, AttributeError):  # no list, or a system without them
        return ""
    entries = [struct.unpack_from("<HHI", data, place) for place in range(4, len(data) - 7, 8)]
    most = next((rights for tag, rights, _ in entries if tag == _ACL_MASK), _WRITE)
    for tag, rights, number in entries:
        if rights & most & _WRITE and tag == _ACL_USER and number not in (os.geteuid(), 0):
            return _user(number)
        if rights & most & _WRITE and tag == _ACL_GROUP and not _private(number):
            return f"the group {_group(number)}"
    return ""


def _private(gid: int) -> bool:
    """Whether a group is its user's own, of that name and without other members, as many systems give each user."""
    try:
        user, group = pwd.getpwuid(os.geteuid()), grp.getgrgid(gid)
    except KeyError:
        return False
    return user.pw_gid == gid and user.pw_name == group.gr_name and set(group.gr_mem) <= {user.pw_name}


def _user(uid: int) -> str:
    try:
        return f"the user {pwd.getpwuid(uid).pw_name}"
    except KeyError:
        return f"the user {uid}"


def _group(gid: int) -> str:
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return str(gid)
