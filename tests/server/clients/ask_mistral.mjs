// @mistralai/mistralai for Node, as its README shows it.

import { Mistral } from "@mistralai/mistralai";
import { address, isRows, key, model, question, Rows, tell, text, tool, url } from "./common.mjs";

const client = new Mistral({ serverURL: address, apiKey: key });
const content = [
  { type: "text", text: question },
  { type: "image_url", imageUrl: url },
];
const messages = [{ role: "user", content }];
const ask = (more = {}) => client.chat.complete({ model, messages, ...more });
const first = (calls) =>
  calls.slice(0, 1).map((c) => [c.function.name, JSON.parse(c.function.arguments)]);

const whole = await ask();
let streamed = "";
let usage;
for await (const { data } of await client.chat.stream({ model, messages })) {
  streamed += data.choices[0]?.delta?.content ?? "";
  usage = data.usage ?? usage;
}
const parsed = await client.chat.parse({ model, messages, responseFormat: Rows });
const called = (await ask({ tools: [tool], toolChoice: "any" })).choices[0].message;
const calls = [];
for await (const { data } of await client.chat.stream({
  model, messages, tools: [tool], toolChoice: "any",
})) {
  calls.push(...(data.choices[0]?.delta?.toolCalls ?? []));
}
const results = called.toolCalls.map((c) => ({
  role: "tool", name: c.function.name, toolCallId: c.id, content: "reported",
}));
const after = await ask({ messages: [...messages, { ...called, role: "assistant" }, ...results] });

tell({
  text: (await ask({ messages: [{ role: "user", content: text }] })).choices[0].message.content,
  picture: whole.choices[0].message.content,
  stream: streamed,
  schema: isRows(parsed.choices[0].message.parsed),
  tools: first(called.toolCalls),
  streamed_tools: first(calls),
  after_tools: after.choices[0].message.content,
  usage: whole.usage.totalTokens,
  streamed_usage: usage.totalTokens,
  listing: (await client.models.list()).data.map((each) => each.id),
});
