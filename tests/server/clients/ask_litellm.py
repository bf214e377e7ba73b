"""LiteLLM, as its pages on OpenAI-compatible endpoints and on Mistral show it."""

import json
import sys

import litellm
from common import BASE_URL, KEY, MODEL, PARTS, TEXT, Rows, tell
from litellm.utils import get_valid_models

provider = sys.argv[3]
TOOL = {
    "name": "report_rows",
    "description": "Report the number of rows.",
    "parameters": {
        "type": "object",
        "properties": {"rows": {"type": "string", "enum": ["one", "two", "three"]}},
        "required": ["rows"],
    },
}
question = {"role": "user", "content": PARTS}


def ask(*messages, **fields):
    return litellm.completion(
        model=f"{provider}/{MODEL}", api_base=BASE_URL, api_key=KEY, messages=[*messages], **fields
    )


def first(calls):
    return [(call.function.name, json.loads(call.function.arguments)) for call in calls[:1]]


whole = ask(question)
chunks = list(ask(question, stream=True, stream_options={"include_usage": True}))
streamed = litellm.stream_chunk_builder(chunks)
tools = [{"type": "function", "function": TOOL}]
called = ask(question, tools=tools, tool_choice="required").choices[0].message
chunks = list(ask(question, tools=tools, tool_choice="required", stream=True))
streamed_call = litellm.stream_chunk_builder(chunks).choices[0].message
results = [
    {"role": "tool", "tool_call_id": call.id, "name": call.function.name, "content": "reported"}
    for call in called.tool_calls
]
parsed = ask(question, response_format=Rows).choices[0].message.content
found = {}
if provider == "openai":  # it can list no other provider's models at an address of one's own
    found["listing"] = get_valid_models(
        check_provider_endpoint=True, custom_llm_provider=provider, api_base=BASE_URL, api_key=KEY
    )

tell(
    text=ask({"role": "user", "content": TEXT}).choices[0].message.content,
    picture=whole.choices[0].message.content,
    stream=streamed.choices[0].message.content,
    schema=isinstance(Rows.model_validate_json(parsed), Rows),
    tools=first(called.tool_calls),
    streamed_tools=first(streamed_call.tool_calls),
    after_tools=ask(question, called, *results).choices[0].message.content,
    usage=whole.usage.total_tokens,
    streamed_usage=streamed.usage.total_tokens,
    **found,
)
