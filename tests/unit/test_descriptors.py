"""Whether a process can open files, and whose fault it is if not."""

import errno
import os
import resource

import pytest

from jobs_service import descriptors
from jobs_service.descriptors import Reserve


def test_a_process_with_room_is_not_exhausted():
    assert not descriptors.are_exhausted()


def test_a_process_without_room_is():
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, limits[1]))
    try:
        exhausted = descriptors.are_exhausted()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)

    assert exhausted


def test_a_reserve_can_be_used_once_it_is_released():
    reserve = Reserve()
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(reserve._held) + 1, limits[1]))
    filled = []
    try:
        while not descriptors.are_exhausted():
            filled.append(os.open(os.devnull, os.O_RDONLY))
        reserve.release()
        exhausted = descriptors.are_exhausted()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        for descriptor in filled:
            os.close(descriptor)

    assert not exhausted


@pytest.mark.parametrize("code", [errno.EMFILE, errno.ENFILE])
@pytest.mark.parametrize("wrap", ["bare", "as a cause", "in passing"])
def test_the_lack_is_found_wherever_it_stands_in_the_chain(code, wrap):
    lack = OSError(code, "too many open files")
    error = RuntimeError("no connection")
    error.__cause__ = lack if wrap == "as a cause" else None
    error.__context__ = lack

    assert descriptors.is_exhaustion(lack if wrap == "bare" else error)


def test_other_failures_are_none():
    error = OSError(errno.ENOENT, "not there")
    error.__context__ = error

    assert not descriptors.is_exhaustion(error)
