import assert from "node:assert/strict";
import { test } from "node:test";

import { compare, median, seeded } from "../../controller/browser/web/agreement.js";
import { feed, itemFrom, itemOf, labelsOf, scoresOf, whyNot } from "../../controller/browser/web/pipeline.js";

const output = (...values) => [{ name: "scores", values: Float32Array.from(values) }];

test("the same bits are equal", () => {
  const [found] = compare(output(0.1, 0.9), output(0.1, 0.9));
  assert.deepEqual(found, { isBitEqual: true, maxDifference: 0, isSameTop: true, top: 1, count: 2 });
});

test("the greatest difference and another best are told", () => {
  const [found] = compare(output(0.5, 0.25), output(0.25, 0.5));
  assert.deepEqual([found.isBitEqual, found.maxDifference, found.isSameTop], [false, 0.25, false]);
});

test("a NaN is the greatest difference of all", () => {
  assert.equal(compare(output(NaN), output(1))[0].maxDifference, Infinity);
});

test("outputs are paired by name where both sides know the names", () => {
  const [one, other] = [
    { name: "a", values: Float32Array.of(1) },
    { name: "b", values: Float32Array.of(2) },
  ];
  assert.ok(compare([one, other], [other, one]).every(({ isBitEqual }) => isBitEqual));
});

test("answers of different shapes are no answers to the same question", () => {
  assert.throws(() => compare(output(1), output(1, 2)), /different shapes/);
  assert.throws(() => compare(output(1), []), /1 outputs, and the device 0/);
});

test("seeded numbers are the same again, within range, and others for another seed", () => {
  for (const dtype of ["float32", "uint8", "int8", "int32"]) {
    assert.deepEqual(seeded(7, 100, dtype), seeded(7, 100, dtype));
    assert.notDeepEqual(seeded(7, 100, dtype), seeded(8, 100, dtype));
  }
  assert.ok(seeded(1, 1000, "float32").every((value) => value >= 0 && value <= 1));
  assert.throws(() => seeded(1, 1, "string"), /no inputs of string/);
});

test("the middle one of durations is not moved by one slow run", () => {
  assert.equal(median([1, 900, 2]), 2);
});

const STRAIGHT = {
  steps: [
    { type: "decode_image", colour: "L" },
    { type: "resize_image", height: 1, width: 2 },
    { type: "normalise", scale: 1 / 255, offset: -0.5 },
    { type: "run_model" },
    { type: "softmax" },
    { type: "top_labels", count: 2 },
  ],
  labels: ["a", "b", "c"],
};

test("a straight pipeline of pictures is run in the page, and one that says more is left to the device", () => {
  assert.equal(whyNot(STRAIGHT), "");
  assert.equal(whyNot({ steps: [{ type: "run_model" }] }), "");
  assert.match(whyNot({ steps: [{ type: "decode_audio" }] }), /decode_audio is the device's/);
  const fitted = [STRAIGHT.steps[0], { ...STRAIGHT.steps[1], fit: "cover" }, ...STRAIGHT.steps.slice(2)];
  assert.match(whyNot({ steps: fitted }), /fit of the step resize_image/);
  assert.match(whyNot({ steps: [...STRAIGHT.steps].reverse() }), /is the device's/);
});

const FED = { name: "image", dtype: "float32", shape: [1, 1, 2, 1] };

test("a picture becomes pixels for both sides, and from them what the model is fed, in float32 as on the device", () => {
  const picture = { data: Uint8ClampedArray.of(255, 255, 255, 255, 10, 10, 10, 255), width: 2, height: 1 };
  const item = itemFrom(STRAIGHT, picture);
  assert.deepEqual({ ...item, values: [...item.values] }, { ...itemOf(STRAIGHT, FED), values: [255, 10] });
  const by = Math.fround(1 / 255);
  const wanted = [255, 10].map((pixel) => Math.fround(Math.fround(pixel * by) - 0.5));
  assert.deepEqual([...feed(STRAIGHT, FED, item).values], wanted);
});

test("pixels go as they are into a model that takes them, and into no other of whole numbers", () => {
  const bare = { steps: STRAIGHT.steps.filter(({ type }) => type !== "normalise") };
  const item = { name: "input", shape: [1, 1, 2, 1], dtype: "uint8", values: Uint8Array.of(1, 2) };
  assert.deepEqual(feed(bare, { ...FED, dtype: "uint8" }, item).values, Uint8Array.of(1, 2));
  assert.throws(() => feed(bare, { ...FED, dtype: "int8" }, item), /no int8 of uint8/);
});

test("scores become labels by softmax, the best first, as many as declared", () => {
  const labels = labelsOf(STRAIGHT, scoresOf(STRAIGHT, Float32Array.of(1, 3, 2)));
  assert.deepEqual(
    labels.map(({ label }) => label),
    ["b", "c"],
  );
  assert.ok(Math.abs(labels[0].score - 0.6652) < 1e-4);
});
