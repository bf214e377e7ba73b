// Conversations, kept in this browser and nowhere else.
//
// A conversation is { id, revision, turns, pictures, draft }: its files and pictures are told by
// their ids, and lie beside it as blobs. A list of all of them is small and quick to read.

const STORES = { list: "id", talks: "id", files: null };
const MOST_BYTES = 400e6;   // of all conversations: browsers give a page more, but not much more
const TITLE = 60;

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

// blobs: a Map of ids to blobs, of everything that is open.
export async function keeper(blobs) {
  const database = await openDatabase();

  // Runs `work` in one transaction: all of it, or nothing.
  async function within(mode, work) {
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

  return {
    // [{ id, title, when }, ...], the latest one first.
    list: () => within("readonly", async ({ list }) => (await done(list.getAll())).sort((a, b) => b.when - a.when)),

    load: (id) => within("readonly", async ({ talks, files }) => {
      const talk = await done(talks.get(id));
      for (const file of talk ? filesOf(talk) : []) {
        const blob = await done(files.get(file));
        if (blob) blobs.set(file, blob);
      }
      return talk;
    }),

    // Its { id, revision } from then on: where another tab has gone on with the same conversation, this
    // one becomes one of its own.
    save: (talk) => within("readwrite", async ({ list, talks, files }) => {
      const all = await done(list.getAll());
      const before = all.find(({ id }) => id === talk.id);
      const id = before && before.revision !== talk.revision ? newId() : talk.id;
      const old = id === talk.id ? before?.files ?? [] : [];
      const ids = filesOf(talk);
      const bytes = ids.reduce((sum, id) => sum + (blobs.get(id)?.size ?? 0), 0) + mapBytes(talk);
      const others = all.reduce((sum, other) => sum + (other.id === id ? 0 : other.bytes), 0);
      if (others + bytes > MOST_BYTES) throw new Error(`there is room for ${MOST_BYTES / 1e6} MB`);
      const { text = "" } = talk.turns[0] ?? talk.draft ?? {};
      const revision = newId();
      list.put({ id, title: text.slice(0, TITLE), when: Date.now(), bytes, revision, files: ids });
      talks.put({ id, revision, turns: talk.turns, pictures: talk.pictures, draft: talk.draft });
      for (const file of ids) if (!old.includes(file)) files.put(blobs.get(file), file);
      for (const file of old) if (!ids.includes(file)) files.delete(file);
      return { id, revision };
    }),

    remove: (id) => within("readwrite", async ({ list, talks, files }) => {
      const known = await done(list.get(id));
      for (const file of known?.files ?? []) files.delete(file);
      list.delete(id);
      talks.delete(id);
    }),
  };
}
