// The device's own way to resize, to the bit: bilinear with every source pixel counted, in whole numbers.
// A canvas would smooth in a way of its own. Source: Pillow, src/libImaging/Resample.c

const PRECISION_BITS = 22;
const HALF = 1 << (PRECISION_BITS - 1);

/** Returns the pixels, `channels` a pixel, of a picture in another size. */
export function resize({ pixels, width, height, channels }, wide, high) {
  const across = wide === width ? pixels : pass(pixels, { lines: height, from: width, to: wide, channels }, true);
  const down = high === height ? across : pass(across, { lines: wide, from: height, to: high, channels }, false);
  return { pixels: down, width: wide, height: high, channels };
}

function pass(source, { lines, from, to, channels }, isAcross) {
  const made = new Uint8Array(lines * to * channels);
  // How far apart in memory neighbours along the pass, and its lines, are; before and after.
  const [step, line] = isAcross ? [channels, from * channels] : [lines * channels, channels];
  const [madeStep, madeLine] = isAcross ? [channels, to * channels] : [lines * channels, channels];
  weights(from, to).forEach(({ first, shares }, place) => {
    for (let at = 0; at < lines; at += 1) {
      for (let channel = 0; channel < channels; channel += 1) {
        let sum = HALF;
        let index = at * line + first * step + channel;
        for (const share of shares) {
          sum += source[index] * share;
          index += step;
        }
        made[at * madeLine + place * madeStep + channel] = Math.min(255, Math.max(0, sum >> PRECISION_BITS));
      }
    }
  });
  return made;
}

/** What counts how much towards each place of the result. */
function weights(from, to) {
  const scale = from / to;
  const support = Math.max(scale, 1);
  return Array.from({ length: to }, (_, place) => {
    const centre = (place + 0.5) * scale;
    const first = Math.max(0, Math.trunc(centre - support + 0.5));
    const last = Math.min(from, Math.trunc(centre + support + 0.5));
    const raw = Array.from({ length: last - first }, (_unused, offset) => {
      const distance = Math.abs((offset + first - centre + 0.5) * (1 / support));
      return distance < 1 ? 1 - distance : 0;
    });
    const sum = raw.reduce((total, share) => total + share, 0);
    return { first, shares: raw.map((share) => Math.trunc(0.5 + (sum ? share / sum : share) * (1 << PRECISION_BITS))) };
  });
}
