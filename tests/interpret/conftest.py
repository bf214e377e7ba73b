"""What this folder looks into."""

import pytest
from questions import noise


@pytest.fixture(scope="module")
def prompt(loaded):
    """A question about two pictures, of 3 x 5 and of 2 x 2 patches; the second is a corner of the
    first."""
    whole = noise(3, 75, 40)
    return loaded.encode("What?", [whole, whole.crop((0, 0, 30, 30))])
