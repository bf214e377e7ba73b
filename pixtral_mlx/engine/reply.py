"""What an answer is made of: plain records, whoever writes it."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ..interpret.maps import Evidence

if TYPE_CHECKING:
    from ..interpret.trace import Trace


@dataclass(frozen=True)
class Piece:
    """One generated token.

    Arguments:
        text: what it adds to the answer, in whole characters; may be empty.
        token: its id.
        logprob: its log-probability (natural logarithm, float32), after logit bias and repetition
            penalty and before temperature and filters.
        trace: what can be looked at so far, or None; it grows with the answer.
        allowed_mass: how much of the probability was on tokens that `response_format` allowed; None
            without one.
        tool_calls: what it adds to the calls of tools, as OpenAI's stream has it: {"index", "id",
            "type", "function": {"name", "arguments"}}, then {"index", "function": {"arguments"}}.
        top_logprobs: with that option (id, log-probability) of the likeliest tokens in this place,
            likeliest first; of the same distribution as `logprob`, so before temperature, filters
            and the mask of a form. Tokens without any probability are left out.
        reasoning: what it adds to the thoughts of a model that thinks first (Magistral), see
            `Reply.reasoning`.
        forced: whether `response_format` left no choice about it; its log-probability then says
            nothing about what the model wanted to say.
    """

    text: str
    token: int
    logprob: float
    trace: "Trace | None" = field(default=None, repr=False, compare=False)
    allowed_mass: float | None = None
    tool_calls: tuple[dict[str, Any], ...] = ()
    top_logprobs: tuple[tuple[int, float], ...] = ()
    reasoning: str = ""
    forced: bool = False


@dataclass
class GenerationStats:
    """What an answer took.

    Arguments:
        prompt_tokens: tokens of the prompt, images included.
        cached_tokens: those whose keys and values were there already.
        image_tokens: those that stand for patches and breaks.
        generated_tokens: new tokens, the end token not counted.
        drafted_tokens: those that prompt lookup proposed.
        accepted_tokens: those of them that the model chose as well.
        forced_tokens: those that `response_format` left no choice about.
        reasoning_tokens: those of thoughts, `[THINK]` and `[/THINK]` included.
        vision_seconds: encoder and projector; part of `prompt_seconds`.
        prompt_seconds: from the call to the first token.
        decode_seconds: from the first token to the last.
        peak_bytes: most memory that MLX held at once.
        float32_products: "float32" or "TF32", see `Machine.float32_products`; it says nothing
            about a model that computes in 16 bits.
    """

    prompt_tokens: int = 0
    cached_tokens: int = 0
    image_tokens: int = 0
    generated_tokens: int = 0
    drafted_tokens: int = 0
    accepted_tokens: int = 0
    forced_tokens: int = 0
    reasoning_tokens: int = 0
    vision_seconds: float = 0.0
    prompt_seconds: float = 0.0
    decode_seconds: float = 0.0
    peak_bytes: int = 0
    float32_products: str = ""

    @property
    def prompt_tokens_per_second(self) -> float:
        """Speed of the prefill, vision included; tokens that were cached do not count."""
        computed = self.prompt_tokens - self.cached_tokens
        return computed / self.prompt_seconds if self.prompt_seconds else 0.0

    @property
    def decode_tokens_per_second(self) -> float:
        """Speed of the decoding, the first token not counted."""
        return (self.generated_tokens - 1) / self.decode_seconds if self.decode_seconds else 0.0


class _Growing:
    """A text that a record has as its attribute, and that grows piece by piece.

    Pieces are put together when somebody reads them: a text that is copied for every token costs
    more the longer it is. Other threads may read while one adds.
    """

    def __set_name__(self, owner: type, name: str):
        self._pieces, self._read = f"_{name}_pieces", f"_{name}_read"

    def __get__(self, record: Any, owner: type | None = None) -> str:
        if record is None:
            return ""  # what a dataclass takes for the default
        # One attribute holds both, so that whoever reads meanwhile finds what belongs together.
        count, text = getattr(record, self._read)
        if new := getattr(record, self._pieces)[count:]:
            count, text = count + len(new), text + "".join(new)
            setattr(record, self._read, (count, text))
        return text

    def __set__(self, record: Any, text: str):
        setattr(record, self._pieces, [])
        setattr(record, self._read, (0, text))

    def add(self, record: Any, piece: str) -> None:
        """A record's text goes on with this."""
        if piece:
            getattr(record, self._pieces).append(piece)


_text: Any = _Growing()  # to type checkers a text
_reasoning: Any = _Growing()


@dataclass
class Reply:
    """An answer.

    Arguments:
        text: what was written.
        tokens: generated ids, without the end token.
        logprobs: one a token, see `Piece.logprob`.
        finish_reason: "stop" (end token or stop string), "tool_calls", "length", "interrupted", or
            None while it is still being written.
        stats: what it took.
        parsed: with `response_format` the value: of JSON, of the pydantic class, or the text of a
            regular expression or a grammar. None while there is no whole answer.
        parse_error: why there is no value, in one sentence: the answer was cut, or it breaks what
            could only be checked when it was there.
        allowed_mass: with `response_format`, one a token, see `Piece.allowed_mass`.
        forced: with `response_format`, one a token, see `Piece.forced`.
        end_logprob: the log-probability of the end token, where the model wrote it; None where a
            form, a stop string or the limit ended the answer.
        tool_calls: of `tools`, whole ones, in OpenAI's shape: {"id", "type": "function",
            "function": {"name", "arguments"}}, the arguments as JSON in a string. They are no part
            of `text`.
        reasoning: what a model that thinks first wrote between `[THINK]` and `[/THINK]`; no part of
            `text`, and stop strings do not end it.
        top_logprobs: with that option, one a token, see `Piece.top_logprobs`.
        trace: what can be looked at, or None if `trace` was off.
    """

    text: str = _text  # by default ""
    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    finish_reason: str | None = None
    stats: GenerationStats = field(default_factory=GenerationStats)
    parsed: Any = None
    parse_error: str | None = None
    allowed_mass: list[float] = field(default_factory=list)
    forced: list[bool] = field(default_factory=list)
    end_logprob: float | None = None
    tool_calls: list[dict[str, Any]] = field(default_factory=list)
    reasoning: str = _reasoning
    top_logprobs: list[tuple[tuple[int, float], ...]] = field(default_factory=list)
    trace: "Trace | None" = field(default=None, repr=False, compare=False)

    def add(self, piece: Piece) -> None:
        """The answer goes on with a piece."""
        _text.add(self, piece.text)
        _reasoning.add(self, piece.reasoning)
        self.tokens.append(piece.token)
        self.logprobs.append(piece.logprob)
        if piece.allowed_mass is not None:
            self.allowed_mass.append(piece.allowed_mass)
            self.forced.append(piece.forced)
        if self.trace is not None:
            self.trace.words.append(piece.text or piece.reasoning)

    def evidence(self, token: int, image: int = 0) -> Evidence:
        """The box of patches that a generated token rests on; see `Trace.evidence`.

        Raises:
            ValueError: the answer was made without `trace=True`.
        """
        if self.trace is None:
            raise ValueError("this answer has no trace: call generate with trace=True")
        return self.trace.evidence(token, image)
