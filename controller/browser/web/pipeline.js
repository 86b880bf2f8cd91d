// A release's pipeline in the page, where it is the straight one of pictures: decode, resize, normalise, the model,
// softmax, labels; or a part of it. Any other is left to the device.

import { resize } from "./resize.js";

/** What this page knows to do, and every setting of it: a step that says more is one that it does not know. */
const KNOWN = {
  decode_image: ["colour"],
  resize_image: ["height", "width"],
  normalise: ["scale", "offset"],
  run_model: [],
  softmax: [],
  top_labels: ["count"],
};
const ORDER = Object.keys(KNOWN);
/** Where the pipeline does not say how many. */
const MOST_LABELS = 5;

/** Says why a pipeline cannot be run here; an empty text where it can. */
export function whyNot(spec) {
  let before = -1;
  for (const step of spec.steps) {
    const place = ORDER.indexOf(step.type);
    if (place < 0 || place <= before) {
      return `the step ${step.type} is the device's to do`;
    }
    const strange = Object.keys(step).find((name) => name !== "type" && !KNOWN[step.type].includes(name));
    if (strange) {
      return `${strange} of the step ${step.type} is the device's to do`;
    }
    before = place;
  }
  return "";
}

const find = (spec, type) => spec.steps.find((each) => each.type === type);

/** Whether the device takes and gives the model's own tensors. */
export const isModelOnly = (spec) => spec.steps.length === 1;

/** Whether the pipeline starts from a picture. */
export const takesPictures = (spec) => spec.steps[0].type === "decode_image";

/** What the device is sent by way of `infer`: the item as the pipeline has it once a picture is decoded. */
export function itemOf(spec, { shape, dtype }) {
  const kind = takesPictures(spec) ? "uint8" : find(spec, "normalise") ? "float32" : dtype;
  return { name: "input", shape, dtype: kind };
}

/** Returns a picture's pixels in the size that the model takes, as an item for page and device. */
export function itemFrom(spec, picture) {
  let made = channelsOf(picture, find(spec, "decode_image").colour ?? "RGB");
  const size = find(spec, "resize_image");
  if (size) {
    made = resize(made, size.width, size.height);
  }
  return { name: "input", shape: [1, made.height, made.width, made.channels], dtype: "uint8", values: made.pixels };
}

/** Returns what the model is fed for an item. */
export function feed(spec, { name, dtype }, item) {
  const step = find(spec, "normalise");
  const values = step ? normalised(item.values, step) : item.values;
  if (dtype === "float32") {
    return { name, dtype, shape: item.shape, values: Float32Array.from(values) };
  }
  if (step || dtype !== item.dtype) {
    throw new Error(`this page makes no ${dtype} of ${step ? "float32" : item.dtype}`);
  }
  return { name, dtype, shape: item.shape, values };
}

/** Returns what the device calls `scores`, of the model's first output. */
export function scoresOf(spec, values) {
  if (!find(spec, "softmax")) {
    return Float32Array.from(values);
  }
  const greatest = Math.max(...values);
  const powers = Float32Array.from(values, (value) => Math.exp(value - greatest));
  const sum = powers.reduce((total, power) => total + power, 0);
  return powers.map((power) => power / sum);
}

/** Returns labels with scores, the best first. */
export function labelsOf(spec, scores) {
  const ranked = Array.from(scores, (score, index) => ({
    label: spec.labels?.[index] ?? `output ${index}`,
    score,
    index,
  }));
  ranked.sort((one, other) => other.score - one.score || one.index - other.index);
  return ranked.slice(0, find(spec, "top_labels")?.count ?? MOST_LABELS);
}

/** In float32 all the way, as the device computes. */
function normalised(values, { scale = 1, offset = 0 }) {
  const [by, to] = [Math.fround(scale), Math.fround(offset)];
  return Float32Array.from(values, (value) => Math.fround(value * by) + to);
}

/** Takes transparency out, and colour where the model wants grey. Source: Pillow, src/libImaging/Convert.c */
function channelsOf({ data, width, height }, colour) {
  const channels = colour === "L" ? 1 : 3;
  const pixels = new Uint8Array(width * height * channels);
  for (let from = 0, to = 0; from < data.length; from += 4, to += channels) {
    if (channels === 1) {
      pixels[to] = (data[from] * 19595 + data[from + 1] * 38470 + data[from + 2] * 7471 + 0x8000) >> 16;
    } else {
      pixels.set(data.subarray(from, from + 3), to);
    }
  }
  return { pixels, width, height, channels };
}
