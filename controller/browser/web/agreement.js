// How far two answers to the same question are apart.

/** Compares output with output: whether every bit is the same, how far apart numbers are, and whether the best is one. */
export function compare(ours, theirs) {
  if (ours.length !== theirs.length) {
    throw new Error(`the page has ${ours.length} outputs, and the device ${theirs.length}`);
  }
  // Two runtimes may list outputs in different orders; where both know the names, those decide.
  const byName = new Map(theirs.map((output) => [output.name, output]));
  const named = ours.every(({ name }) => byName.has(name));
  return ours.map(({ name, values }, index) => compareOne(values, (named ? byName.get(name) : theirs[index]).values));
}

function compareOne(mine, yours) {
  if (mine.length !== yours.length || mine.constructor !== yours.constructor) {
    throw new Error("page and device answer in different shapes or types");
  }
  let maxDifference = 0;
  for (let index = 0; index < mine.length; index += 1) {
    const difference = Math.abs(mine[index] - yours[index]);
    // A NaN is a difference, too, and the greatest of all.
    maxDifference = Number.isNaN(difference) ? Infinity : Math.max(maxDifference, difference);
  }
  return {
    isBitEqual: bytesOf(mine).every((byte, index) => byte === bytesOf(yours)[index]),
    maxDifference,
    isSameTop: top(mine) === top(yours),
    top: top(mine),
    count: mine.length,
  };
}

function top(values) {
  return values.reduce((best, value, index) => (value > values[best] ? index : best), 0);
}

function bytesOf(array) {
  return new Uint8Array(array.buffer, array.byteOffset, array.byteLength);
}

/** The middle one of durations. */
export function median(values) {
  const sorted = [...values].sort((one, other) => one - other);
  return sorted[Math.floor(sorted.length / 2)];
}

/** Numbers that look random and are the same for the same seed. Source: G. Marsaglia, Xorshift RNGs (2003) */
export function seeded(seed, count, dtype) {
  let state = seed * 2654435761 + 1;
  const next = () => {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    return state >>> 0;
  };
  const drawn = Array.from({ length: count }, next);
  switch (dtype) {
    case "float32":
      return Float32Array.from(drawn, (bits) => bits / 2 ** 32);
    case "uint8":
      return Uint8Array.from(drawn, (bits) => bits >>> 24);
    case "int8":
      return Int8Array.from(drawn, (bits) => (bits >>> 24) - 128);
    case "int32":
      return Int32Array.from(drawn, (bits) => bits >>> 28);
    default:
      throw new Error(`this page makes no inputs of ${dtype}`);
  }
}
