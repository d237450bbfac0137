// Conversations, kept in this browser (IndexedDB): a small head of each for the list, and the whole.
//
// At most MAX_CONVERSATIONS and MAX_LENGTH characters are kept; beyond that the oldest go. Where the browser
// refuses storage, conversations live as long as the page.

const MAX_CONVERSATIONS = 200;
const MAX_LENGTH = 20_000_000;
const NAME = "mesh-chat";

export class Store {
  /** Opens what was kept. `onChange` is called when another tab changed something. */
  static async open(onChange) {
    const store = new Store();
    try {
      store.database = await openDatabase();
    } catch {
      store.memory = new Map();
    }
    if (globalThis.BroadcastChannel) {
      store.channel = new BroadcastChannel(NAME);
      store.channel.addEventListener("message", onChange);
    }
    return store;
  }

  get isLasting() {
    return Boolean(this.database);
  }

  /** Returns { id, title, changed, length } of each, the latest first. */
  async listHeads() {
    const heads = this.memory
      ? [...this.memory.values()].map(makeHead)
      : await wait(this.begin("heads", "readonly").objectStore("heads").getAll());
    return heads.sort((one, two) => two.changed - one.changed);
  }

  /** Returns a conversation, undefined if it is not kept. */
  async load(id) {
    if (this.memory) return this.memory.get(id);
    return wait(this.begin("bodies", "readonly").objectStore("bodies").get(id));
  }

  /** Keeps a conversation and returns how many old ones went for it. Throws if the browser refuses. */
  async save(conversation) {
    if (this.memory) {
      this.memory.set(conversation.id, conversation);
      return 0;
    }
    const transaction = this.begin(["heads", "bodies"], "readwrite");
    const head = makeHead(conversation);
    transaction.objectStore("heads").put(head);
    transaction.objectStore("bodies").put(conversation);
    // At once: a page that is left drops what only waits to be committed.
    transaction.commit?.();
    await finish(transaction);
    const dropped = findExcess(await this.listHeads(), head.id);
    await this.remove(dropped);
    this.channel?.postMessage("changed");
    return dropped.length;
  }

  async remove(ids) {
    if (!ids.length) return;
    if (this.memory) {
      ids.forEach((id) => this.memory.delete(id));
      return;
    }
    const transaction = this.begin(["heads", "bodies"], "readwrite");
    for (const name of ["heads", "bodies"]) ids.forEach((id) => transaction.objectStore(name).delete(id));
    await finish(transaction);
    this.channel?.postMessage("changed");
  }

  /** Returns the ids of conversations with the words in their title or in a message. */
  async search(words) {
    const wanted = words.toLowerCase();
    const holds = ({ title, nodes }) =>
      [title, ...Object.values(nodes).map(({ text }) => text)].some((text) => text.toLowerCase().includes(wanted));
    if (this.memory) return new Set([...this.memory.values()].filter(holds).map(({ id }) => id));
    const found = new Set();
    const asked = this.begin("bodies", "readonly").objectStore("bodies").openCursor();
    await new Promise((resolve, reject) => {
      asked.onerror = () => reject(asked.error);
      asked.onsuccess = () => {
        const cursor = asked.result;
        if (!cursor) return resolve();
        if (holds(cursor.value)) found.add(cursor.value.id);
        return cursor.continue();
      };
    });
    return found;
  }

  begin(names, mode) {
    return this.database.transaction(names, mode);
  }
}

function openDatabase() {
  const asked = indexedDB.open(NAME, 1);
  asked.onupgradeneeded = () => {
    for (const name of ["heads", "bodies"]) asked.result.createObjectStore(name, { keyPath: "id" });
  };
  return wait(asked);
}

function makeHead({ id, title, changed, nodes }) {
  const length = Object.values(nodes).reduce(
    (sum, { text, thinking, receipt }) => sum + text.length + (thinking?.length ?? 0) + (receipt?.length ?? 0), 0);
  return { id, title, changed, length };
}

/** Returns the ids of what is too much; `heads` are the latest first, and `kept` is never among them. */
function findExcess(heads, kept) {
  let length = 0;
  return heads
    .filter((head, place) => {
      length += head.length;
      return (place >= MAX_CONVERSATIONS || length > MAX_LENGTH) && head.id !== kept;
    })
    .map(({ id }) => id);
}

function wait(asked) {
  return new Promise((resolve, reject) => {
    asked.onsuccess = () => resolve(asked.result);
    asked.onerror = () => reject(asked.error);
    asked.onblocked = () => reject(new Error("The storage is in use."));
  });
}

function finish(transaction) {
  return new Promise((resolve, reject) => {
    transaction.oncomplete = resolve;
    transaction.onabort = () => reject(transaction.error);
  });
}
