"""Whose prompt is read next: short ones overtake long ones, and a long one comes to its end."""

from collections.abc import Callable, Iterator

from .prompt_cache import PromptCache
from .request import Request


class Turns:
    """Requests whose prompts have not been read to their end, in the order in which they came.

    Every other part that is read belongs to the request that came first. The parts between go to
    the one with the least left to read, if that is at most half of what the first has left: a short
    question need not wait for a long document, and the document takes at most twice as many parts
    as it would have taken alone. While the first waits for room, nobody else begins.

    Nobody overtakes a request that is computing what it needs as well, the same picture or the same
    beginning, which would be computed twice.

    Arguments:
        cache: what earlier requests have left.
    """

    def __init__(self, cache: PromptCache):
        self._cache, self._unread = cache, list[Request]()
        self._overtook = False  # whether the last part was not the first one's

    def __iter__(self) -> Iterator[Request]:
        return iter(self._unread)

    def __len__(self) -> int:
        return len(self._unread)

    @property
    def begun(self) -> list[Request]:
        """Those of which a part has been read."""
        return [request for request in self._unread if request.begun]

    def add(self, request: Request) -> None:
        """It came last."""
        self._unread.append(request)

    def remove(self, request: Request) -> None:
        """It is read no further."""
        self._unread.remove(request)

    def clear(self) -> None:
        """None of them is read any further."""
        self._unread.clear()

    def finish(self, request: Request) -> None:
        """It has been read; who begins as it does has less to read."""
        self.remove(request)
        for other in self._unread:
            if other.opened:
                other.cached = max(other.cached, other.shared(request))

    def next(self, fits: Callable[[Request], bool]) -> Request | None:
        """The one that has a part read now, which may be that it is opened; None: there is none, or
        no room for one to begin.

        Arguments:
            fits: whether there is room for a request beside those that have begun.
        """
        if not self._unread:
            return None
        first = self._unread[0]
        if not first.begun:
            if not first.opened or fits(first):
                return first
            return min(self.begun, key=lambda request: request.left, default=None)
        other = None if self._overtook else self._overtaking(first, fits)
        self._overtook = other is not None
        return other or first

    def _overtaking(self, first: Request, fits: Callable[[Request], bool]) -> Request | None:
        """The one that goes before the first; None if there is none."""
        later = self._unread[1:]
        short = [request for request in later if request.opened and 2 * request.left <= first.left]
        begun = self.begun
        for request in sorted(short, key=lambda request: request.left):
            repeats = any(request.repeats(other, self._cache) for other in begun)
            if request.begun or (not repeats and fits(request)):
                return request
        if any(request.opened and not request.begun for request in later):
            return None  # pictures take memory: those of one more are opened, and no others
        return next((request for request in later if not request.opened), None)
