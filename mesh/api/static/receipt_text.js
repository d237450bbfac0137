// A receipt as the text that it came as. A parsed seed of 64 bits would lose its last digits.

/** Returns the first receipt in an event's data. */
export function cutReceipt(data) {
  const found = /"receipts":\s*\[\s*/.exec(data);
  const start = found.index + found[0].length;
  let depth = 0;
  let isString = false;
  for (let place = start; place < data.length; place += 1) {
    const letter = data[place];
    if (isString) {
      if (letter === "\\") place += 1;
      else if (letter === '"') isString = false;
    } else if (letter === '"') isString = true;
    else if (letter === "{" || letter === "[") depth += 1;
    else if (letter === "}" || letter === "]") depth -= 1;
    if (depth === 0) return data.slice(start, place + 1);
  }
  return null;
}
