"""Checks that go wrong in the ways of a Mac, for a process of their own."""

import os
import time

from pixtral_mlx.doctor.check import OK, Check


def ends_by_itself(text):
    """As Metal ends a process whose job takes too long."""
    yield Check("first", OK, text)
    os.abort()


def never_ends():
    """As a driver that hangs."""
    yield Check("first", OK, "seen")
    time.sleep(600)


def raises():
    """As any mistake."""
    yield Check("first", OK, "seen")
    raise RuntimeError("[METAL] no\nsuch kernel")
