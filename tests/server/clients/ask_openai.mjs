// openai for Node, as its README shows it.

import OpenAI from "openai";
import { zodResponseFormat } from "openai/helpers/zod";
import { baseURL, isRows, key, model, question, Rows, tell, text, tool, url } from "./common.mjs";

const client = new OpenAI({ baseURL, apiKey: key });
const content = [
  { type: "text", text: question },
  { type: "image_url", image_url: { url } },
];
const messages = [{ role: "user", content }];
const ask = (more = {}) => client.chat.completions.create({ model, messages, ...more });
const first = (calls) =>
  calls.slice(0, 1).map((c) => [c.function.name, JSON.parse(c.function.arguments)]);

const whole = await ask();
let streamed = "";
let usage;
for await (const chunk of await ask({ stream: true, stream_options: { include_usage: true } })) {
  streamed += chunk.choices[0]?.delta?.content ?? "";
  usage = chunk.usage ?? usage;
}
const parsed = await client.chat.completions.parse({
  model, messages, response_format: zodResponseFormat(Rows, "rows"),
});
const called = (await ask({ tools: [tool], tool_choice: "required" })).choices[0].message;
const runner = client.chat.completions.stream({
  model, messages, tools: [tool], tool_choice: "required",
});
const again = await runner.finalMessage();
const results = called.tool_calls.map((c) => ({
  role: "tool", tool_call_id: c.id, content: "reported",
}));
const after = await ask({ messages: [...messages, called, ...results], tools: [tool] });
const listing = [];
for await (const each of client.models.list()) listing.push(each.id);

tell({
  text: (await ask({ messages: [{ role: "user", content: text }] })).choices[0].message.content,
  picture: whole.choices[0].message.content,
  stream: streamed,
  schema: isRows(parsed.choices[0].message.parsed),
  tools: first(called.tool_calls),
  streamed_tools: first(again.tool_calls),
  after_tools: after.choices[0].message.content,
  usage: whole.usage.total_tokens,
  streamed_usage: usage.total_tokens,
  listing,
});
