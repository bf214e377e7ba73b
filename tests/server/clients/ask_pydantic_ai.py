"""pydantic-ai, as its pages on OpenAI-compatible models and on Mistral show it."""

import sys

from common import ADDRESS, BASE_URL, KEY, MODEL, PICTURE, QUESTION, TEXT, Rows, Word, tell
from pydantic_ai import Agent, BinaryContent, NativeOutput, ToolOutput
from pydantic_ai.models.mistral import MistralModel
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.mistral import MistralProvider
from pydantic_ai.providers.openai import OpenAIProvider

if sys.argv[3] == "openai":
    model = OpenAIChatModel(MODEL, provider=OpenAIProvider(base_url=BASE_URL, api_key=KEY))
    schema = NativeOutput(Rows)
else:
    model = MistralModel(MODEL, provider=MistralProvider(base_url=ADDRESS, api_key=KEY))
    schema = Rows  # through a tool: it has no other way for Mistral
question = [QUESTION, BinaryContent(data=PICTURE.read_bytes(), media_type="image/png")]
seen = []


def report_rows(rows: Word) -> str:
    """Report the number of rows."""
    seen.append(("report_rows", {"rows": rows}))
    return rows


agent = Agent(model)
whole = agent.run_sync(question)
streamed = agent.run_stream_sync(question)
text = streamed.get_output()
reporting = Agent(model, output_type=ToolOutput(report_rows, name="report_rows"))
called = reporting.run_sync(question)
called_once = seen[:1]
seen.clear()
reporting.run_stream_sync(question).get_output()

tell(
    text=agent.run_sync(TEXT).output,
    picture=whole.output,
    stream=text,
    schema=isinstance(Agent(model, output_type=schema).run_sync(question).output, Rows),
    tools=called_once,
    streamed_tools=seen[:1],
    after_tools=agent.run_sync(TEXT, message_history=called.all_messages()).output,
    usage=whole.usage.total_tokens,
    streamed_usage=streamed.usage.total_tokens,
)
