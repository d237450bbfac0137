// Checks a receipt in the browser, as mesh/client/receipt_check.py does: signatures, neighbours, prompt and
// tokens. How tokens were to be drawn (`sampling`) is signed too, and only `mesh receipt check` computes it again.

import { blake2b } from "./blake2b.js";

const VERSION = 1;
const TAG = "mesh/receipt/1";
const MAX_HOPS = 64;
const BASE58 = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz";
/** Before the public key in the peer id of an Ed25519 key. */
const PEER_PREFIX = [0x00, 0x24, 0x08, 0x01, 0x12, 0x20];

/** A receipt that does not hold; the message says what is wrong. */
export class ReceiptRefused extends Error {}

/** Whether this browser can check signatures here: it needs https, or a page of this machine. */
export async function canCheck() {
  try {
    await crypto.subtle.importKey("raw", new Uint8Array(32), "Ed25519", false, ["verify"]);
    return true;
  } catch {
    return false;
  }
}

/** Returns the hops of all parts: { part, peer, blocks, signedS }; `signedS` is null where one signed nothing. */
export function listHops({ parts }) {
  return parts.flatMap(({ hops }, part) =>
    hops.map(({ peer_id: peer, blocks, receipt }) => ({ part, peer, blocks, signedS: receipt?.signed_s ?? null })));
}

/** Throws ReceiptRefused unless the receipt holds and its last part went over `route`. */
export async function checkReceipt(receipt, route) {
  try {
    if (receipt.version !== VERSION) refuse(`it is of version ${receipt.version}`);
    const ends = [...receipt.parts.slice(1).map(({ first_index: start }) => start), receipt.token_ids.length];
    for (const [place, part] of receipt.parts.entries()) await new PartCheck(receipt, part, ends[place], place).check();
    compareRoute(receipt.parts.at(-1).hops, route);
  } catch (error) {
    if (error instanceof ReceiptRefused) throw error;
    throw new ReceiptRefused("it is malformed");
  }
}

function refuse(message) {
  throw new ReceiptRefused(message);
}

function compareRoute(hops, route) {
  const name = ({ peer_id: peer, blocks }) => `${peer} ${blocks.join(":")}`;
  if (hops.map(name).join() !== route.map(name).join()) refuse("it is of another route than the answer's");
}

class PartCheck {
  constructor(receipt, part, end, place) {
    Object.assign(this, { receipt, part, end, place });
    this.salt = readHex(receipt.salt, 32);
    this.keys = part.hops.map(({ peer_id: peer }) => readPeer(peer));
  }

  async check() {
    const { part } = this;
    this.checkRoute();
    this.checkAsked();
    for (const [place, { receipt }] of part.hops.entries()) {
      if (receipt && !(await this.isSigned(place, receipt))) refuse(`${part.hops[place].peer_id} did not sign it`);
    }
    this.checkNeighbours();
    this.checkTokens();
  }

  checkRoute() {
    const { hops, first_index: start } = this.part;
    if (!hops.length || hops.length > MAX_HOPS) refuse("a part has no route");
    if ((this.place === 0) !== (start === 0) || !(start < this.end)) refuse("its parts do not follow each other");
    let layer = 0;
    for (const { blocks } of hops) {
      if (blocks.length !== 2 || blocks[0] !== layer || blocks[1] <= layer) refuse("its route has a gap");
      [, layer] = blocks;
    }
    if (new Set(hops.map(({ peer_id: peer }) => peer)).size !== hops.length) refuse("a hoster stands twice in a route");
  }

  /** What was asked is what all hosters signed; a later part's prompt has the tokens before it. */
  checkAsked() {
    const { receipt, part } = this;
    const prompt = [...receipt.prompt_token_ids, ...receipt.token_ids.slice(0, part.first_index)];
    if (toHex(blake2b(new Uint8Array(), this.salt, "mesh-rcpt-salt")) !== part.salt_digest) refuse("its salt is another");
    if (this.hashTokens(prompt, "mesh-rcpt-prompt") !== part.prompt_digest) refuse("its prompt is another");
  }

  hashTokens(ids, person) {
    const view = new DataView(new ArrayBuffer(4 * ids.length));
    ids.forEach((id, place) => view.setUint32(4 * place, readNumber(id, 2 ** 32), true));
    return toHex(blake2b(new Uint8Array(view.buffer), this.salt, person));
  }

  async isSigned(place, receipt) {
    const key = await crypto.subtle.importKey("raw", this.keys[place], "Ed25519", false, ["verify"]);
    return crypto.subtle.verify("Ed25519", key, readHex(receipt.signature, 64), this.makeMessage(place, receipt));
  }

  /** The bytes that a hoster signs: mesh/inference/receipt_statement.py. */
  makeMessage(place, { reused, signed_s: signedS, received, sent }) {
    const { part, receipt } = this;
    const numbers = new DataView(new ArrayBuffer(18));
    numbers.setUint32(0, readNumber(part.first_index, 2 ** 32), true);
    numbers.setUint8(4, place);
    numbers.setUint8(5, part.hops.length);
    numbers.setUint32(6, readNumber(reused, 2 ** 32), true);
    numbers.setBigUint64(10, BigInt(readNumber(signedS, Number.MAX_SAFE_INTEGER)), true);
    const route = part.hops.flatMap(({ blocks }, hop) => {
      const span = new DataView(new ArrayBuffer(4));
      blocks.forEach((layer, end) => span.setUint16(2 * end, readNumber(layer, 2 ** 16), true));
      return [this.keys[hop], new Uint8Array(span.buffer)];
    });
    return join([
      new TextEncoder().encode(TAG), readHex(receipt.network_id, 32), readHex(part.session_id, 16),
      readHex(part.salt_digest, 32), readHex(part.prompt_digest, 32), readHex(part.sampling_digest, 32),
      new Uint8Array(numbers.buffer), readHex(received, 32), readHex(sent, 32), ...route,
    ]);
  }

  /** What one sent is what the next received; the last one's tokens are the first one's. */
  checkNeighbours() {
    const { hops } = this.part;
    const first = hops.find(({ receipt }) => receipt)?.receipt;
    hops.forEach(({ peer_id: peer, receipt }, place) => {
      const after = hops[(place + 1) % hops.length];
      if (receipt && after.receipt && receipt.sent !== after.receipt.received) {
        refuse(`${after.peer_id} signed that it received something else than ${peer} signed that it sent`);
      }
      if (receipt && receipt.reused !== first.reused) refuse("the hosters did not keep equally much of the prompt");
    });
  }

  checkTokens() {
    const { receipt, part } = this;
    const digest = this.hashTokens(receipt.token_ids.slice(part.first_index, this.end), "mesh-rcpt-tokens");
    const told = [part.hops[0].receipt?.received, part.hops.at(-1).receipt?.sent];
    if (told.some((theirs) => theirs !== undefined && theirs !== digest)) refuse("its tokens are not those that were signed");
  }
}

function readNumber(value, limit) {
  return Number.isInteger(value) && value >= 0 && value < limit ? value : refuse("a number in it is none");
}

function readHex(text, size) {
  if (typeof text !== "string" || text.length !== 2 * size || /[^0-9a-f]/.test(text)) refuse("it is malformed");
  return Uint8Array.from({ length: size }, (_, place) => parseInt(text.slice(2 * place, 2 * place + 2), 16));
}

const toHex = (bytes) => [...bytes].map((byte) => byte.toString(16).padStart(2, "0")).join("");

/** Returns the public key in a peer id. */
function readPeer(text) {
  if (typeof text !== "string" || text.length > 64) refuse("a peer id in it is none");
  let number = 0n;
  for (const letter of text) {
    const digit = BASE58.indexOf(letter);
    number = number * 58n + BigInt(digit < 0 ? refuse("a peer id in it is none") : digit);
  }
  // The multihash begins with a zero byte, which base58 writes as 1.
  const bytes = readHex(`${number.toString(16)}`.padStart(76, "0"), 38);
  if (!text.startsWith("1") || PEER_PREFIX.some((byte, place) => bytes[place] !== byte)) refuse("a peer id in it is none");
  return bytes.slice(PEER_PREFIX.length);
}

function join(parts) {
  const joined = new Uint8Array(parts.reduce((size, part) => size + part.length, 0));
  let place = 0;
  for (const part of parts) {
    joined.set(part, place);
    place += part.length;
  }
  return joined;
}
