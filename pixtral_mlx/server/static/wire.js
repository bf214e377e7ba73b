// Talks with the server that this page came from.

// What went wrong, in one sentence. status: of HTTP, 0 if there was no answer at all; wait: seconds
// after which to ask again, 0 if that would not help.
export class Problem extends Error {
  constructor(message, { status = 0, wait = 0 } = {}) {
    super(message);
    Object.assign(this, { status, wait });
  }
}

const GONE = "The server does not answer: is pixtral-mlx serve running?";

// Server-sent events, each { event, data }, out of a stream of bytes.
export async function* eventsOf(stream) {
  const reader = stream.getReader();
  const decoder = new TextDecoder();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read();
    rest += decoder.decode(value, { stream: !done });
    const parts = rest.split("\n\n");
    rest = parts.pop();
    for (const part of parts) {
      const found = { event: "message", data: "" };
      for (const line of part.split("\n")) {
        const [, name, text] = /^(event|data): ?(.*)$/.exec(line) ?? [];
        if (name) found[name] = text;
      }
      if (found.data) yield found;
    }
    if (done) return;
  }
}

async function refusal(response) {
  let message = `The server says ${response.status}.`;
  try { message = (await response.json()).error.message; } catch { /* not its own words */ }
  const busy = response.status === 429 || response.status === 503;
  const wait = Number(response.headers.get("retry-after")) || (busy ? 5 : 0);
  return new Problem(message, { status: response.status, wait });
}

// key(): what the server asks for, "" if it asks for nothing.
export function server(key) {
  async function request(path, options = {}) {
    const headers = { "Content-Type": "application/json" };
    if (key()) headers.Authorization = `Bearer ${key()}`;
    let response;
    try {
      response = await fetch(path, { ...options, headers });
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw new Problem(error instanceof TypeError ? GONE : error.message);
    }
    if (!response.ok) throw await refusal(response);
    return response;
  }
  return {
    // The first of the model's names, and what it can do.
    async model() { return (await (await request("v1/models")).json()).data[0]; },

    // Chunks of an answer, as they come.
    async* answer(body, signal) {
      const options = { method: "POST", body: JSON.stringify({ ...body, stream: true, stream_options: { include_usage: true } }), signal };
      const response = await request("v1/chat/completions", options);
      try {
        for await (const { event, data } of eventsOf(response.body)) {
          if (data === "[DONE]") return;
          const chunk = JSON.parse(data);
          if (event === "error") throw new Problem(chunk.error.message, { status: 500 });
          yield chunk;
        }
      } catch (error) {
        if (error.name === "AbortError" || error instanceof Problem) throw error;
      }
      throw new Problem("The server went away in the middle of the answer.");
    },
  };
}
