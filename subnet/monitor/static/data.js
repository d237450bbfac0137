// The state of the page: one snapshot, changed by live events, and the history. Falls back to
// polling where events do not come.

const RECONNECT_MS = 3_000;
const POLL_MS = 10_000;
const HISTORY_PAUSE_MS = 1_500;
const EPOCHS = 64;

export async function getJson(path) {
  const response = await fetch(path, { headers: { Accept: "application/json" } });
  if (!response.ok) {
    const problem = await response.json().catch(() => ({}));
    const error = new Error(problem.error ?? `The monitor answered ${response.status}.`);
    error.fix = problem.fix ?? "";
    error.status = response.status;
    throw error;
  }
  return response.json();
}

/** The history without the epochs of which nothing is scored, such as the present one. */
function keepScored(history) {
  const columns = history.epochs.map((_, column) => column).filter((column) => history.scores.some((row) => row[column] !== null));
  const pick = (rows) => rows.map((row) => columns.map((column) => row[column]));
  return {
    nodes: history.nodes, epochs: columns.map((column) => history.epochs[column]),
    scores: pick(history.scores), problems: pick(history.problems), paid: pick(history.paid),
  };
}

export class Store extends EventTarget {
  constructor() {
    super();
    this.revision = 0;
    this.head = null;
    this.nodes = new Map();
    this.byNodeId = new Map();
    this.history = null;
    this.scored = null;
    this.link = "waiting";
    this.isReading = false;
    this.isReadAgain = false;
  }

  start() {
    this.readSnapshot().then(() => this.readHistory());
    this.follow();
    setInterval(() => {
      if (this.link !== "live") this.readSnapshot();
    }, POLL_MS);
  }

  tell(name, detail) {
    this.dispatchEvent(new CustomEvent(name, { detail }));
  }

  setLink(link) {
    if (this.link === link) return;
    this.link = link;
    this.tell("link");
  }

  /** Read the snapshot; if it is under way, once more after it, as it may be older than the wish. */
  async readSnapshot() {
    if (this.isReading) {
      this.isReadAgain = true;
      return;
    }
    this.isReading = true;
    try {
      do {
        this.isReadAgain = false;
        await this.readOnce();
      } while (this.isReadAgain);
    } finally {
      this.isReading = false;
    }
  }

  async readOnce() {
    try {
      const snapshot = await getJson("/api/v1/snapshot");
      this.revision = snapshot.revision;
      this.head = snapshot.head;
      this.nodes = new Map(snapshot.nodes.map((row) => [row.key, row]));
      this.index();
      if (this.link !== "live") this.setLink("polling");
      this.tell("change");
    } catch (error) {
      if (error.status === 503) this.setLink("empty");
      else this.setLink("lost");
    }
  }

  index() {
    this.byNodeId = new Map();
    for (const row of this.nodes.values()) if (row.node_id !== null) this.byNodeId.set(row.node_id, row);
  }

  async readHistory() {
    try {
      this.history = await getJson(`/api/v1/history?epochs=${EPOCHS}`);
      this.scored = keepScored(this.history);
      this.tell("history");
    } catch {
      // The next epoch brings the next attempt.
    }
  }

  follow() {
    const events = new EventSource("/api/v1/events");
    events.addEventListener("hello", () => {
      // What changed while nothing was followed.
      this.setLink("live");
      this.readSnapshot();
    });
    events.addEventListener("delta", (event) => this.apply(JSON.parse(event.data)));
    events.addEventListener("resync", () => this.readSnapshot());
    events.addEventListener("epoch", (event) => this.noteEpoch(JSON.parse(event.data)));
    const stop = () => {
      events.close();
      this.setLink("lost");
      setTimeout(() => this.follow(), RECONNECT_MS);
    };
    events.addEventListener("closed", stop);
    events.addEventListener("error", stop);
  }

  apply(delta) {
    if (this.isReading || this.head === null) {
      this.readSnapshot();
      return;
    }
    if (delta.base !== this.revision) {
      if (delta.revision > this.revision) this.readSnapshot();
      return;
    }
    this.revision = delta.revision;
    this.head = delta.head;
    for (const key of delta.removed) this.nodes.delete(key);
    for (const row of delta.changed) this.nodes.set(row.key, row);
    this.index();
    this.tell("change");
  }

  noteEpoch({ epoch, has_results: hasResults }) {
    this.tell("epoch", epoch);
    if (!hasResults || this.historyTimer) return;
    this.historyTimer = setTimeout(() => {
      this.historyTimer = null;
      this.readHistory();
    }, HISTORY_PAUSE_MS);
  }
}
