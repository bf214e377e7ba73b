"""What is answered instead of an answer: one sentence, in the shape of OpenAI's errors.

A refusal says what was seen and what is allowed. Every dialect raises it; how it is written is the
dialect's own.
"""

from typing import Any

from ..errors import CapacityError, CheckpointError, ConfigError, PixtralError, shortened

KINDS = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "invalid_request_error",
    405: "invalid_request_error",
    408: "timeout_error",
    413: "invalid_request_error",
    431: "invalid_request_error",
    429: "rate_limit_error",
    500: "server_error",
    503: "server_error",
    504: "timeout_error",
}
"""`type` of an error, by its status."""


class Refusal(Exception):
    """A request that is not answered.

    Arguments:
        status: of HTTP.
        message: one sentence; what a log or a terminal could stumble over is replaced.
        param: the field of the request, if one is at fault.
        code: a word for programs, such as "model_not_found".
        headers: of the response.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        headers: dict[str, str] | None = None,
    ):
        message = shortened(message)
        message = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in message)
        super().__init__(message)
        self.status, self.message, self.param, self.code = status, message, param, code
        self.headers = headers or {}

    @property
    def kind(self) -> str:
        """Its `type`."""
        return KINDS.get(self.status, "server_error")

    def body(self) -> dict[str, Any]:
        """As OpenAI and Mistral write it."""
        return {
            "error": {
                "message": self.message,
                "type": self.kind,
                "param": self.param,
                "code": self.code,
            }
        }


def refusal_of(error: BaseException, param: str | None = None) -> Refusal:
    """What to answer where something went wrong.

    Arguments:
        param: the field that was being looked at.
    """
    if isinstance(error, Refusal):
        return error
    message = " ".join(str(error).split())
    if isinstance(error, CapacityError):
        return Refusal(400, message, param=param or "messages", code="insufficient_memory")
    if isinstance(error, CheckpointError | ConfigError):
        return Refusal(500, message, code="model_error")
    if isinstance(error, PixtralError | ValueError | TypeError):
        return Refusal(400, message, param=param)
    return Refusal(
        500,
        f"something went wrong here ({type(error).__name__}): `--log-level debug` logs where",
        code="internal_error",
    )
