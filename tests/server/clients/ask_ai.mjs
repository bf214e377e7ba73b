// The Vercel AI SDK with its providers for OpenAI and Mistral, as its pages show them.

import { createMistral } from "@ai-sdk/mistral";
import { createOpenAI } from "@ai-sdk/openai";
import { generateObject, generateText, streamText, tool } from "ai";
import {
  baseURL, data, isRows, key, model as name, question, Report, Rows, tell, text, way,
} from "./common.mjs";

const settings = { baseURL, apiKey: key };
const model = {
  openai: () => createOpenAI(settings).chat(name),
  responses: () => createOpenAI(settings)(name), // what it asks unless told otherwise
  mistral: () => createMistral(settings)(name),
}[way]();
const content = [
  { type: "text", text: question },
  { type: "image", image: data },
];
const messages = [{ role: "user", content }];
const tools = {
  report_rows: tool({
    description: "Report the number of rows.",
    inputSchema: Report,
    execute: async () => "reported",
  }),
};
const first = (calls) => calls.slice(0, 1).map((c) => [c.toolName, c.input]);

const whole = await generateText({ model, messages });
const stream = streamText({ model, messages });
let streamed = "";
for await (const part of stream.textStream) streamed += part;
const found = await generateObject({ model, messages, schema: Rows });
const called = await generateText({ model, messages, tools, toolChoice: "required" });
const again = streamText({ model, messages, tools, toolChoice: "required" });
await again.consumeStream();
const after = await generateText({
  model, messages: [...messages, ...called.response.messages], tools, toolChoice: "none",
});

tell({
  text: (await generateText({ model, prompt: text })).text,
  picture: whole.text,
  stream: streamed,
  schema: isRows(found.object),
  tools: first(called.toolCalls),
  streamed_tools: first(await again.toolCalls),
  after_tools: after.text,
  usage: whole.usage.totalTokens,
  streamed_usage: (await stream.usage).totalTokens,
});
