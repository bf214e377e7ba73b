import assert from "node:assert/strict";
import test, { mock } from "node:test";

const { cividis, diverging } = await import(`${process.env.STATIC}/colours.js`);
const { share } = await import(`${process.env.STATIC}/numbers.js`);
const { connect, latest, nameOf, typed, unpacked } = await import(`${process.env.STATIC}/shared.js`);

mock.timers.enable({ apis: ["setTimeout", "Date"] });   // nobody waits in earnest

// A model whose messages are kept, and answered by hand.
function standIn(values = {}) {
  const handlers = {};
  return {
    sent: [],
    get: (name) => values[name],
    on(event, handler) { (handlers[event] ??= []).push(handler); },
    off() {},
    send(message) { this.sent.push(message); },
    tell(message, buffers) { handlers["msg:custom"].forEach((handler) => handler(message, buffers)); },
    change(name, value) { values[name] = value; handlers[`change:${name}`]?.forEach((handler) => handler()); },
  };
}

const settle = async () => { for (let i = 0; i < 20; i++) await Promise.resolve(); };

test("each answer goes to its own question", async () => {
  const model = standIn({ facts: { epoch: 1 } });
  const { ask } = connect(model);
  const [one, other] = [ask("look", { token: 1 }), ask("look", { token: 2 })];
  model.tell({ id: model.sent[1].id, data: "second" });
  model.tell({ id: model.sent[0].id, data: { map: { buffer: 0, shape: [2], type: "uint8" } } }, [Uint8Array.of(3, 4)]);
  assert.deepEqual([...(await one).map], [3, 4]);
  assert.equal(await other, "second");
});

test("a question is asked once, until the answer belongs to another prompt", async () => {
  const model = standIn({ facts: { epoch: 1 } });
  const { ask } = connect(model);
  const [one, other] = [ask("size", { image: 0, side: 16 }), ask("size", { side: 16, image: 0 })];
  assert.equal(model.sent.length, 1);
  model.tell({ id: model.sent[0].id, data: 5 });
  assert.deepEqual(await Promise.all([one, other]), [5, 5]);
  model.change("facts", { epoch: 2 });
  ask("size", { image: 0, side: 16 });
  assert.equal(model.sent.length, 2);
});

test("a problem is told, and the question may be asked again", async () => {
  const model = standIn();
  const { ask } = connect(model);
  const first = ask("look");
  model.tell({ id: model.sent[0].id, problem: "there is no answer yet" });
  await assert.rejects(first, /there is no answer yet/);
  ask("look");
  assert.equal(model.sent.length, 2);
});

test("what was saved needs no kernel, and a page says what was not saved", async () => {
  const saved = { [nameOf("size", { side: 0, image: 0 })]: { data: { rows: 8 }, buffers: [] } };
  const { ask } = connect({ ...standIn({ saved }), page: true });
  assert.equal((await ask("size", { image: 0, side: 0 })).rows, 8);
  await assert.rejects(ask("size", { image: 0, side: 64 }), /^Error: Not saved in this page: this needs the kernel\.$/);
});

// A kernel as JupyterLab shows it to widgets.
function kernel(status) {
  const one = { status, waiting: [], free: true };
  one.requestKernelInfo = () => new Promise((answer) => one.free ? answer() : one.waiting.push(answer));
  one.becomes = (next) => { one.status = next; };
  return one;
}

test("a kernel that is gone is told of, one that lives is waited for", async () => {
  const model = { ...standIn(), widget_manager: { kernel: kernel("idle") } };
  const { ask } = connect(model);
  const slow = ask("pixels");
  for (let i = 0; i < 5; i++) {   // 20 s in which the model has no time
    mock.timers.tick(4000);
    const asked = model.sent.at(-1);
    assert.equal(asked.what, "alive");
    model.tell({ id: asked.id, data: true });
    await settle();
  }
  model.tell({ id: model.sent[0].id, data: "late" });
  assert.equal(await slow, "late");
  const lost = ask("size");
  lost.catch(() => {});
  mock.timers.tick(4000);
  await settle();
  mock.timers.tick(4000);
  await assert.rejects(lost, /No answer from the kernel: .* Run the cell to ask again\./);
});

test("a kernel that is busy is waited for, however long, and the reader is told", async () => {
  const [one, said] = [kernel("busy"), []];
  const model = { ...standIn(), widget_manager: { kernel: one } };
  const { ask } = connect(model, { wait: (text) => said.push(text) });
  one.becomes("busy");
  const question = ask("pixels");
  mock.timers.tick(1000);
  assert.match(said.at(-1), /^Waiting for the kernel/);
  for (let i = 0; i < 100; i++) {
    mock.timers.tick(4000);
    await settle();
    if (i % 7 === 0) { one.becomes("idle"); one.becomes("busy"); }   // between two cells
  }
  assert.deepEqual(model.sent.map(({ what }) => what), ["pixels"]);
  one.becomes("idle");
  model.tell({ id: model.sent[0].id, data: "at last" });
  assert.equal(await question, "at last");
  assert.equal(said.at(-1), null);
});

test("a cell that runs while widgets' own messages make the kernel look idle is waited for", async () => {
  const [one, said] = [kernel("idle"), []];
  one.free = false;
  const model = { ...standIn(), widget_manager: { kernel: one } };
  const { ask } = connect(model, { wait: (text) => said.push(text) });
  const question = ask("pixels");
  for (let i = 0; i < 20; i++) { mock.timers.tick(1000); await settle(); }
  assert.match(said.at(-1), /^Waiting for the kernel: it is busy/);
  assert.deepEqual(model.sent.map(({ what }) => what), ["pixels"]);
  assert.equal(one.waiting.length, 1, "asked once while there is no answer");
  one.free = true;
  one.waiting[0]();
  await settle();
  mock.timers.tick(4000);   // the kernel has nothing to do, and says nothing: now it is doubted
  await settle();
  mock.timers.tick(4000);
  await settle();
  assert.equal(model.sent.at(-1).what, "alive");
  mock.timers.tick(4000);
  await assert.rejects(question, /No answer from the kernel/);
});

test("a kernel that is dead is not waited for", async () => {
  const one = kernel("busy");
  const { ask } = connect({ ...standIn(), widget_manager: { kernel: one } });
  const question = ask("pixels");
  question.catch(() => {});
  one.becomes("dead");
  mock.timers.tick(4000);
  await assert.rejects(question, /No answer from the kernel/);
});

test("where nobody tells of the kernel, it is waited for", async () => {
  const [model, said] = [standIn(), []];
  const { ask } = connect(model, { wait: (text) => said.push(text) });
  const question = ask("pixels");
  for (let i = 0; i < 10; i++) { mock.timers.tick(4000); await settle(); }
  assert.match(said.at(-1), /^Waiting for the kernel\. If it was restarted, run the cell again\./);
  model.tell({ id: model.sent[0].id, data: "at last" });
  assert.equal(await question, "at last");
});

test("a kernel that was started again takes no message", async () => {
  const { ask, act } = connect({ ...standIn(), send() { throw new Error("Cannot send"); } });
  for (const asked of [ask("look"), act("stop")]) await assert.rejects(asked, /No answer from the kernel: .* Run the cell/);
});

test("of questions that come while one is under way only the last is asked, and shown", async () => {
  const [asked, shown, waiting] = [[], [], []];
  const look = latest(
    (number) => { asked.push(number); return new Promise((resolve) => waiting.push(() => resolve(number))); },
    (answer) => shown.push(answer),
  );
  look(1);
  look(2);
  look(3);
  await settle();
  assert.deepEqual(asked, [1]);
  waiting[0]();
  await settle();
  assert.deepEqual([asked, shown], [[1, 3], []]);
  waiting[1]();
  await settle();
  assert.deepEqual(shown, [3]);
});

test("buffers of any kind become arrays", () => {
  const bytes = Uint8Array.of(9, 0, 0, 128, 63, 0, 0, 0, 64);   // a byte, then 1 and 2 as float32
  const view = new DataView(bytes.buffer, 1, 8);
  for (const buffer of [view, bytes.slice(1).buffer, bytes.subarray(1)]) {
    assert.deepEqual([...typed(buffer, "float32")], [1, 2]);
  }
  const answer = unpacked({ rows: [{ buffer: 0, shape: [2, 1], type: "float32" }], top: 0.5 }, [view]);
  assert.deepEqual([answer.rows[0].shape, answer.top], [[2, 1], 0.5]);
});

test("colours go from dark to bright, and shares have their unit", () => {
  assert.deepEqual([cividis(0), cividis(1), cividis(7)], [[0, 34, 78], [254, 232, 56], [254, 232, 56]]);
  assert.deepEqual([diverging(-1), diverging(0), diverging(1)], [[0, 84, 147], [245, 245, 245], [190, 70, 0]]);
  assert.deepEqual([0, 0.0002, 0.0123, 0.35].map(share), ["0 %", "< 0.1 %", "1.2 %", "35 %"]);
});
