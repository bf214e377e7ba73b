"""Functions that an answer may call: what is sent, and the calls as they are read.

mistral-common checks the functions and puts them into the prompt. An answer that calls them is
`[TOOL_CALLS]` and a list of JSON, in the template of Pixtral's tokenizers; in those of its heirs
(v11, v13) each call is `[TOOL_CALLS]`, a name, `[ARGS]` and JSON.
"""

import json
import re
import secrets
import string
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from ..checks import shown
from .clients import fields_of, is_list

CHOICES = ("auto", "none", "required")
_CALL = re.compile(r'[\[, }]*\{"name": ("(?:[^"\\]|\\.)*"), "arguments": ')
_ID_LETTERS = string.ascii_letters + string.digits


@dataclass(frozen=True)
class Tools:
    """The functions of a request, and whether they are to be called.

    Arguments:
        functions: name and JSON schema of the arguments of each.
        choice: "auto" leaves it to the model, "none" forbids calls, "required" forbids anything
            else.
        parallel: whether an answer may have several calls.
        request: what mistral-common puts into the prompt.
    """

    functions: tuple[tuple[str, Mapping[str, Any]], ...]
    choice: str
    parallel: bool
    request: Mapping[str, Any]


def as_tools(tools: Any, choice: Any = "auto", parallel: bool = True) -> Tools | None:
    """The functions that `tools=` and `tool_choice=` name, in the shapes of OpenAI and Mistral.

    Arguments:
        tools: {"type": "function", "function": {"name", "description", "parameters"}} each, or a
            pydantic class, whose name and fields these are.
        choice: "auto", "none", "any" or "required", or {"type": "function", "function": {"name"}},
            which requires a call of that one.

    Raises:
        ValueError: another shape, or a choice of what is not there.
    """
    if isinstance(tools, Tools):
        return tools
    if tools is None or (is_list(tools) and not tools):
        return None
    if not is_list(tools):
        raise ValueError(f"tools must be a list, got {shown(tools)}")
    listed = [_tool(tool, f"tools[{i}]") for i, tool in enumerate(tools)]
    functions = {tool["function"]["name"]: tool["function"]["parameters"] for tool in listed}
    if len(functions) < len(listed):
        raise ValueError("tools must have a name each, and two have the same")
    named = (fields_of((fields_of(choice) or {}).get("function")) or {}).get("name")
    if named is None:
        choice = "required" if choice == "any" else choice
        if choice not in CHOICES:
            raise ValueError(
                "tool_choice must be auto, none, any, required or "
                f'{{"type": "function", "function": {{"name": ...}}}}, got {shown(choice)}'
            )
    elif named not in functions:
        raise ValueError(f"tool_choice names {named!r}; allowed: {', '.join(functions)}")
    else:
        functions, choice = {named: functions[named]}, "required"
    request = {"tools": listed} if choice != "none" else {}
    return Tools(tuple(functions.items()), choice, parallel, request)


def _tool(sent: Any, where: str) -> dict[str, Any]:
    """One function, as mistral-common takes it."""
    if isinstance(sent, type) and hasattr(sent, "model_json_schema"):
        schema = sent.model_json_schema()
        about = {"name": sent.__name__, "description": schema.pop("description", "")}
        return {"type": "function", "function": {**about, "parameters": schema}}
    function = dict(fields_of((fields_of(sent) or {}).get("function")) or {})
    name, parameters = function.get("name"), function.get("parameters") or {}
    if not isinstance(name, str) or not re.fullmatch(r"[a-zA-Z0-9_-]{1,64}", name):
        raise ValueError(
            f"{where}: no function with a name of letters, digits, _ and -; allowed: "
            '{"type": "function", "function": {"name", "description", "parameters"}}'
        )
    if not isinstance(parameters, Mapping):
        raise ValueError(f"{where}: parameters must be a JSON schema, got {shown(parameters)}")
    schema = {"type": "object", "properties": {}} | dict(parameters)  # nothing: no arguments
    described = str(function.get("description") or "")
    return {
        "type": "function",
        "function": {"name": name, "description": described, "parameters": schema},
    }


class CallMarks(NamedTuple):
    """The control tokens that a template has for calls.

    Arguments:
        begin: `[TOOL_CALLS]`.
        arguments: `[ARGS]`; None where calls are a list of JSON.
        call_id: `[CALL_ID]`, if an id stands between the name and the arguments.
    """

    begin: int
    arguments: int | None = None
    call_id: int | None = None


class CallReader:
    """Calls out of the text that follows `[TOOL_CALLS]`, as it comes.

    `calls` are those that are complete, in OpenAI's shape; their ids are drawn anew, whatever the
    seed, since a conversation may have the same call twice.
    """

    def __init__(self) -> None:
        self.calls: list[dict[str, Any]] = []
        self._text = ""  # that has not been read: the beginning of a call
        self._open: dict[str, Any] | None = None
        self._depth, self._quoted, self._escaped = 0, False, False

    def add(self, text: str, token: int | None = None) -> list[dict[str, Any]]:
        """What the text adds, as OpenAI's stream has it: each with the "index" of its call.

        Arguments:
            token: that the text comes from; a control token has none.
        """
        return list(self._read(text, token))

    def _begins(self, token: int | None) -> str | None:
        """The name of the call whose arguments begin here, if one does."""
        if not (found := _CALL.match(self._text)):
            return None
        self._text = self._text[found.end() :]
        return json.loads(found[1])

    def _read(self, text: str, token: int | None) -> Iterator[dict[str, Any]]:
        self._text += text
        if self._open is None and (name := self._begins(token)) is not None:
            yield self._opened(name)
        while self._text and self._open is not None:
            end = self._end_of_arguments(self._text)
            piece = self._text if end is None else self._text[:end]
            self._text = self._text[len(piece) :]
            if piece:
                self._open["function"]["arguments"] += piece
                yield {"index": len(self.calls), "function": {"arguments": piece}}
            if end is not None:
                self.calls.append(self._open)
                self._open = None
                if (name := self._begins(None)) is not None:
                    yield self._opened(name)

    def _opened(self, name: str) -> dict[str, Any]:
        function = {"name": name, "arguments": ""}
        self._open = {"id": new_id(), "type": "function", "function": function}
        return {"index": len(self.calls), **self._open, "function": dict(function)}

    def _end_of_arguments(self, text: str) -> int | None:
        """Where the value ends, if it does."""
        for place, letter in enumerate(text):
            if self._quoted:
                self._quoted = letter != '"' or self._escaped
                self._escaped = letter == "\\" and not self._escaped
            elif letter == '"':
                self._quoted = True
            elif letter in "{[":
                self._depth += 1
            elif letter in "}]":
                self._depth -= 1
                if self._depth == 0:
                    return place + 1
        return None


class MarkedCallReader(CallReader):
    """The same where control tokens stand between the calls, their names and their arguments.

    Arguments:
        marks: those tokens.
    """

    def __init__(self, marks: CallMarks) -> None:
        super().__init__()
        self._marks, self._name = marks, ""

    def _begins(self, token: int | None) -> str | None:
        if token == self._marks.call_id and token is not None:
            self._name, self._text = self._text, ""  # what follows is an id, which is drawn anew
        if token != self._marks.arguments or token is None:
            return None
        name, self._name, self._text = self._name or self._text, "", ""
        return name.strip()


def new_id() -> str:
    """Nine letters and digits, as the template has them."""
    return "".join(secrets.choice(_ID_LETTERS) for _ in range(9))


def calls_schema(parameters: Sequence[tuple[str, Mapping[str, Any]]], most: int) -> dict[str, Any]:
    """The JSON schema of a list of calls.

    Arguments:
        parameters: name and schema of the arguments of each function; their `$ref` lead to
            themselves.
        most: calls at most.
    """
    calls = []
    for i, (name, schema) in enumerate(parameters):
        place = f"#/items/anyOf/{i}/properties/arguments"
        fields = {"name": {"const": name}, "arguments": _moved(schema, place)}
        calls.append(
            {
                "type": "object",
                "properties": fields,
                "required": [*fields],
                "additionalProperties": False,
            }
        )
    return {"type": "array", "items": {"anyOf": calls}, "minItems": 1, "maxItems": most}


def _moved(value: Any, place: str) -> Any:
    """A schema whose `$ref` lead where they led, when it stands at another place."""
    if isinstance(value, list):
        return [_moved(each, place) for each in value]
    if not isinstance(value, Mapping):
        return value
    moved = {name: _moved(each, place) for name, each in value.items()}
    if isinstance(target := value.get("$ref"), str) and target.startswith("#"):
        moved["$ref"] = f"{place}{target[1:]}"
    return moved
