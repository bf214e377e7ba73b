"""Where pictures may come from: a person's own command reads whatever they name; a server does not
open its machine to whoever asks it."""

from dataclasses import dataclass

from ..errors import ImageError


@dataclass(frozen=True)
class Sources:
    """A rule for `read_source`; without arguments everything is allowed.

    Arguments:
        files: files of this machine, as paths and `file://` addresses.
        private: addresses of this machine and of private networks. Without them a name is looked up
            once, every address that it stands for must be public, and the connection goes to the
            one that was checked; so do those of redirects. Proxies are not asked.
        hosts: names that are fetched from all the same.
    """

    files: bool = True
    private: bool = True
    hosts: tuple[str, ...] = ()

    def check_file(self) -> None:
        """Whether a file may be looked for; what it is called is not repeated, and whether it is
        there is not looked at.

        Raises:
            ImageError: it may not.
        """
        if not self.files:
            raise ImageError(
                "a file of the server's machine; allowed: data: URLs, base64, and https or http "
                "addresses: send the picture itself"
            )


ANYWHERE = Sources()
