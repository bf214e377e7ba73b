// The model's thread, from the page's side: questions in, answers back, each by its number.

// source: the text of the worker's script.
export function client(source) {
  const url = URL.createObjectURL(new Blob([source], { type: "text/javascript" }));
  const worker = new Worker(url);
  const waiting = new Map();
  let id = 0;
  worker.onmessage = ({ data: { id: of, done, problem, ...part } }) => {
    const { resolve, reject, onPart } = waiting.get(of);
    if (problem != null) reject(new Error(problem));
    else if (done) resolve(done);
    else { onPart?.(part); return; }
    waiting.delete(of);
  };
  worker.onerror = (event) => {
    for (const { reject } of waiting.values()) reject(new Error(event.message ?? "the worker did not start"));
    waiting.clear();
  };
  // What the model answers to a message of worker.js; onPart is called with what comes meanwhile.
  return (what, options = {}, onPart = null) => new Promise((resolve, reject) => {
    waiting.set(++id, { resolve, reject, onPart });
    worker.postMessage({ id, what, ...options });
  });
}
