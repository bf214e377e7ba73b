"""langchain-mistralai, as its page on ChatMistralAI shows it."""

from common import (
    BASE_URL,
    KEY,
    MODEL,
    PARTS,
    TEXT,
    Rows,
    report_rows,
    tell,
)  # fmt: skip
from langchain_core.messages import HumanMessage, ToolMessage
from langchain_core.tools import tool
from langchain_mistralai import ChatMistralAI

llm = ChatMistralAI(model=MODEL, base_url=BASE_URL, api_key=KEY, temperature=0)
question = HumanMessage(content=PARTS)

whole = llm.invoke([question])
streamed = None
for chunk in llm.stream([question]):
    streamed = chunk if streamed is None else streamed + chunk

asked = llm.bind_tools([tool(report_rows)], tool_choice="any")
called = asked.invoke([question])
streamed_call = None
for chunk in asked.stream([question]):
    streamed_call = chunk if streamed_call is None else streamed_call + chunk
results = [ToolMessage("reported", tool_call_id=call["id"]) for call in called.tool_calls]
structured = llm.with_structured_output(Rows, method="json_schema")

tell(
    text=llm.invoke(TEXT).content,
    picture=whole.content,
    stream=streamed.content,
    schema=isinstance(structured.invoke([question]), Rows),
    tools=[(call["name"], call["args"]) for call in called.tool_calls[:1]],
    streamed_tools=[(call["name"], call["args"]) for call in streamed_call.tool_calls[:1]],
    after_tools=llm.invoke([question, called, *results]).content,
    usage=whole.usage_metadata["total_tokens"],
    streamed_usage=streamed.usage_metadata["total_tokens"],
)
