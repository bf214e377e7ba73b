"""LlamaIndex's OpenAILike, as its page shows it."""

from common import BASE_URL, KEY, MODEL, PICTURE, QUESTION, TEXT, Rows, report_rows, tell
from llama_index.core.llms import ChatMessage, ImageBlock, TextBlock
from llama_index.core.tools import FunctionTool
from llama_index.llms.openai_like import OpenAILike

llm = OpenAILike(
    model=MODEL, api_base=BASE_URL, api_key=KEY, is_chat_model=True,
    is_function_calling_model=True, should_use_structured_outputs=True,
)  # fmt: skip
question = ChatMessage(role="user", blocks=[TextBlock(text=QUESTION), ImageBlock(path=PICTURE)])
tool = FunctionTool.from_defaults(report_rows)


def first(response):
    calls = llm.get_tool_calls_from_response(response)
    return [(call.tool_name, call.tool_kwargs) for call in calls[:1]]


called = llm.chat_with_tools([tool], chat_history=[question], tool_required=True)
*_, streamed_call = llm.stream_chat_with_tools([tool], chat_history=[question], tool_required=True)
results = [
    ChatMessage(role="tool", content="reported", additional_kwargs={"tool_call_id": call.tool_id})
    for call in llm.get_tool_calls_from_response(called)
]
whole = llm.chat([question])

tell(
    text=llm.complete(TEXT).text,
    picture=whole.message.content,
    stream="".join(part.delta or "" for part in llm.stream_chat([question])),
    schema=isinstance(llm.as_structured_llm(Rows).chat([question]).raw, Rows),
    tools=first(called),
    streamed_tools=first(streamed_call),
    after_tools=llm.chat([question, called.message, *results]).message.content,
    usage=whole.raw.usage.total_tokens,
)
