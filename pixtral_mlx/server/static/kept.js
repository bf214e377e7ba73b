// Conversations, kept in this browser and nowhere else.
//
// A conversation is { id, revision, turns, pictures, draft }: its files and pictures are told by
// their ids, and lie beside it: as { type, bytes }, since WebKit, in private windows, never answers
// when it is given a blob. A list of all conversations is small and quick to read.

const STORES = { list: "id", talks: "id", files: null };
const MOST_BYTES = 400e6;   // of all conversations: browsers give a page more, but not much more
const TITLE = 60;
const PATIENCE = 20_000;   // ms

export const newId = () => `${Date.now().toString(36)}-${Math.random().toString(36).slice(2, 10)}`;

const done = (request) => new Promise((resolve, reject) => {
  request.onsuccess = () => resolve(request.result);
  request.onerror = () => reject(request.error);
});

function openDatabase() {
  return new Promise((resolve, reject) => {
    const request = indexedDB.open("pixtral-mlx", 1);
    request.onupgradeneeded = () => {
      for (const [name, keyPath] of Object.entries(STORES)) request.result.createObjectStore(name, keyPath ? { keyPath } : {});
    };
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });
}

const filesOf = ({ turns, pictures, draft }) =>
  [...turns.flatMap(({ files }) => files), ...draft?.files ?? [], ...pictures].map(({ id }) => id);

const mapBytes = ({ turns }) => turns.reduce((sum, { answer }) =>
  sum + (answer?.tokens ?? []).reduce((all, { map }) => all + 60 + (map?.length ?? 0), 0), 0);

// Deletes those of some files that no conversation has any more.
function sweep(files, all, some) {
  const used = new Set(all.flatMap((talk) => talk.files));
  for (const file of some) if (!used.has(file)) files.delete(file);
}

// blobs: a Map of ids to blobs, of everything that is open.
export async function keeper(blobs) {
  const database = await openDatabase();

  // Runs `work` in one transaction: all of it, or nothing. A browser that does not answer is given up.
  function within(mode, work) {
    const late = new Promise((resolve, reject) => { setTimeout(() => reject(new Error("it does not answer")), PATIENCE); });
    return Promise.race([transact(mode, work), late]);
  }

  async function transact(mode, work) {
    const transaction = database.transaction(Object.keys(STORES), mode);
    const over = new Promise((resolve, reject) => {
      transaction.oncomplete = resolve;
      transaction.onabort = () => reject(transaction.error ?? new Error("the browser gave up"));
    });
    over.catch(() => {});
    let result;
    try {
      result = await work(Object.fromEntries(Object.keys(STORES).map((name) => [name, transaction.objectStore(name)])));
    } catch (error) {
      try { transaction.abort(); } catch { /* it has ended by itself */ }
      throw error;
    }
    await over;
    return result;
  }

  async function put({ list, talks, files }, talk, ids, fresh) {
    const all = await done(list.getAll());
    const before = all.find(({ id }) => id === talk.id);
    const id = before && before.revision !== talk.revision ? newId() : talk.id;
    const others = all.filter((other) => other.id !== id);
    const bytes = ids.reduce((sum, one) => sum + (blobs.get(one)?.size ?? 0), 0) + mapBytes(talk);
    if (others.reduce((sum, other) => sum + other.bytes, bytes) > MOST_BYTES) throw new Error(`there is room for ${MOST_BYTES / 1e6} MB`);
    const { text = "" } = talk.turns[0] ?? talk.draft ?? {};
    const entry = { id, title: text.slice(0, TITLE), when: Date.now(), bytes, revision: newId(), files: ids };
    list.put(entry);
    talks.put({ id, revision: entry.revision, turns: talk.turns, pictures: talk.pictures, draft: talk.draft });
    for (const [file, held] of fresh) files.put(held, file);
    sweep(files, [...others, entry], before?.files ?? []);
    return { id, revision: entry.revision };
  }

  return {
    // [{ id, title, when }, ...], the latest one first.
    list: () => within("readonly", async ({ list }) => (await done(list.getAll())).sort((a, b) => b.when - a.when)),

    load: (id) => within("readonly", async ({ talks, files }) => {
      const talk = await done(talks.get(id));
      for (const file of talk ? filesOf(talk) : []) {
        const found = await done(files.get(file));
        if (found) blobs.set(file, new Blob([found.bytes], { type: found.type }));
      }
      return talk;
    }),

    // Its { id, revision } from then on: where another tab has gone on with the same conversation, this
    // one becomes one of its own.
    async save(talk) {
      const ids = filesOf(talk);
      const there = new Set(await within("readonly", ({ files }) => done(files.getAllKeys())));
      const fresh = await Promise.all(ids.filter((id) => blobs.has(id) && !there.has(id)).map(async (id) => {
        const blob = blobs.get(id);
        return [id, { type: blob.type, bytes: await blob.arrayBuffer() }];
      }));
      return within("readwrite", (stores) => put(stores, talk, ids, fresh));
    },

    remove: (id) => within("readwrite", async ({ list, talks, files }) => {
      const all = await done(list.getAll());
      list.delete(id);
      talks.delete(id);
      sweep(files, all.filter((other) => other.id !== id), all.find((other) => other.id === id)?.files ?? []);
    }),
  };
}
