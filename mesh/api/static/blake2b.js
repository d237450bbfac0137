// BLAKE2b (RFC 7693) with a key and a personalisation: browsers have none of their own.

const BLOCK_SIZE = 128;
const DIGEST_SIZE = 32;
const MASK = (1n << 64n) - 1n;
const IV = [
  0x6a09e667f3bcc908n, 0xbb67ae8584caa73bn, 0x3c6ef372fe94f82bn, 0xa54ff53a5f1d36f1n,
  0x510e527fade682d1n, 0x9b05688c2b3e6c1fn, 0x1f83d9abfb41bd6bn, 0x5be0cd19137e2179n,
];
const SIGMA = [
  [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15],
  [14, 10, 4, 8, 9, 15, 13, 6, 1, 12, 0, 2, 11, 7, 5, 3],
  [11, 8, 12, 0, 5, 2, 15, 13, 10, 14, 3, 6, 7, 1, 9, 4],
  [7, 9, 3, 1, 13, 12, 11, 14, 2, 6, 5, 10, 4, 0, 15, 8],
  [9, 0, 5, 7, 2, 4, 10, 15, 14, 1, 11, 12, 6, 8, 3, 13],
  [2, 12, 6, 10, 0, 11, 8, 3, 4, 13, 7, 5, 15, 14, 1, 9],
  [12, 5, 1, 15, 14, 13, 4, 10, 0, 7, 6, 3, 9, 2, 8, 11],
  [13, 11, 7, 14, 12, 1, 3, 9, 5, 0, 15, 4, 8, 6, 2, 10],
  [6, 15, 14, 9, 11, 3, 0, 8, 12, 2, 13, 7, 1, 4, 10, 5],
  [10, 2, 8, 4, 7, 6, 1, 5, 15, 11, 9, 14, 3, 12, 13, 0],
];
/** Columns, then diagonals. */
const QUARTERS = [
  [0, 4, 8, 12], [1, 5, 9, 13], [2, 6, 10, 14], [3, 7, 11, 15],
  [0, 5, 10, 15], [1, 6, 11, 12], [2, 7, 8, 13], [3, 4, 9, 14],
];

const rotate = (word, bits) => ((word >> bits) | (word << (64n - bits))) & MASK;

function compress(state, view, offset, counter, isLast) {
  const words = Array.from({ length: 16 }, (_, place) => view.getBigUint64(offset + 8 * place, true));
  const v = [...state, ...IV];
  v[12] ^= BigInt(counter);
  if (isLast) v[14] ^= MASK;
  for (let round = 0; round < 12; round += 1) {
    const order = SIGMA[round % 10];
    QUARTERS.forEach(([a, b, c, d], place) => {
      v[a] = (v[a] + v[b] + words[order[2 * place]]) & MASK;
      v[d] = rotate(v[d] ^ v[a], 32n);
      v[c] = (v[c] + v[d]) & MASK;
      v[b] = rotate(v[b] ^ v[c], 24n);
      v[a] = (v[a] + v[b] + words[order[2 * place + 1]]) & MASK;
      v[d] = rotate(v[d] ^ v[a], 16n);
      v[c] = (v[c] + v[d]) & MASK;
      v[b] = rotate(v[b] ^ v[c], 63n);
    });
  }
  for (let place = 0; place < 8; place += 1) state[place] ^= v[place] ^ v[place + 8];
}

/** Returns 32 bytes. `key` has 1 to 64 bytes, `person` is at most 16 letters. */
export function blake2b(data, key, person) {
  const parameters = new Uint8Array(64);
  parameters.set([DIGEST_SIZE, key.length, 1, 1]);
  parameters.set(new TextEncoder().encode(person), 48);
  const given = new DataView(parameters.buffer);
  const state = IV.map((word, place) => word ^ given.getBigUint64(8 * place, true));
  // The key fills a block of its own before the data.
  const size = BLOCK_SIZE + data.length;
  const padded = new Uint8Array(Math.ceil(size / BLOCK_SIZE) * BLOCK_SIZE);
  padded.set(key);
  padded.set(data, BLOCK_SIZE);
  const view = new DataView(padded.buffer);
  for (let offset = 0; offset < padded.length; offset += BLOCK_SIZE) {
    const end = offset + BLOCK_SIZE;
    compress(state, view, offset, Math.min(end, size), end === padded.length);
  }
  const digest = new DataView(new ArrayBuffer(64));
  state.forEach((word, place) => digest.setBigUint64(8 * place, word, true));
  return new Uint8Array(digest.buffer, 0, DIGEST_SIZE);
}
