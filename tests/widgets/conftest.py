"""Sessions that have answered, and what the model says by itself."""

import pytest
from views import OTHER, SCENE

import pixtral_mlx_widgets as w


@pytest.fixture(scope="module")
def asked():
    """`asked(question, *images)` is a session of pixtral-mini in float32 that has answered; all are
    closed after the last test of a file."""
    opened = []

    def ask(question, *images):
        opened.append(w.Session("mini", dtype="float32"))
        opened[-1].ask(question, images=images)
        opened[-1].wait(60)
        return opened[-1]

    yield ask
    for session in opened:
        session.close()


@pytest.fixture(scope="module")
def session(asked):
    """A session that has described `SCENE`."""
    return asked("Describe the picture.", SCENE.image)


@pytest.fixture(scope="module")
def reply(mini):
    """The answer of that session, by a second model on this thread."""
    return mini.generate("Describe the picture.", images=[SCENE.image], trace=True)


@pytest.fixture(scope="module")
def pair(asked):
    """A session that has been asked about two pictures, `SCENE` and `OTHER`."""
    return asked("How many rows are there?", SCENE.image, OTHER.image)
