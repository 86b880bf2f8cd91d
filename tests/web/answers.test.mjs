import assert from "node:assert/strict";
import { test } from "node:test";

import {
  boxes,
  facts,
  inPlainWords,
  milliseconds,
  percent,
  rows,
  serverTimes,
} from "../../agent/serving/protocols/web/answers.js";
import { corners } from "../../agent/serving/protocols/web/picture.js";

test("labels become rows in the device's order, with a share where the score is one", () => {
  const answer = {
    labels: [
      { label: "cat", score: 0.75 },
      { label: "dog", score: -3.25 },
    ],
  };
  assert.deepEqual(rows(answer), [
    { label: "cat", share: 0.75, text: "75.0 %" },
    { label: "dog", share: null, text: "-3.250" },
  ]);
});

test("bare scores become the five best, named by their place", () => {
  const found = rows({ labels: [], scores: [0.1, 0.9, 0.2, 0.9, 0.3, 0.4, 0.05] });
  assert.deepEqual(
    found.map(({ label }) => label),
    ["output 1", "output 3", "output 5", "output 4", "output 2"],
  );
});

test("an answer with nothing in it has no rows", () => {
  assert.deepEqual(rows({ labels: [], boxes: [] }), []);
});

test("boxes are found wherever an answer names them, and are rows too", () => {
  const answer = { labels: [], answers: { detect: { left_eye: [{ label: "cat", score: 0.5, box: [1, 2, 3, 4] }] } } };
  assert.deepEqual(boxes(answer), [{ label: "cat", score: 0.5, left: 1, top: 2, right: 3, bottom: 4 }]);
  assert.deepEqual(rows(answer), [{ label: "cat", share: 0.5, text: "50.0 %" }]);
});

test("areas are boxes by their share, and labels of several models keep the name of theirs", () => {
  const areas = { height: 9, width: 9, areas: [{ label: "road", share: 0.25, box: [0, 0, 9, 5], runs: [0, 45] }] };
  const answer = {
    labels: [],
    answers: { segment: areas, small: [{ label: "car", score: 0.75 }], raw: [1, [2, null]] },
  };
  assert.deepEqual(
    boxes(answer).map(({ label, score }) => [label, score]),
    [["road", 0.25]],
  );
  assert.deepEqual(
    rows(answer).map(({ label }) => label),
    ["road", "small: car"],
  );
});

test("boxes are placed by shares and by pixels alike", () => {
  const size = { width: 200, height: 100 };
  assert.deepEqual(corners({ top: 0.5, left: 0.25, bottom: 1, right: 0.5 }, size), [50, 50, 50, 50]);
  assert.deepEqual(corners({ top: 50, left: 50, bottom: 100, right: 100 }, size), [50, 50, 50, 50]);
});

test("a share that is not quite nothing or everything never reads so", () => {
  assert.deepEqual([0, 0.0001, 0.5, 0.9999, 1].map(percent), ["0.0 %", "< 0.1 %", "50.0 %", "> 99.9 %", "100.0 %"]);
});

test("durations are as exact as they are of use", () => {
  assert.deepEqual([0.1234, 12.34, 1234.5].map(milliseconds), ["0.12 ms", "12.3 ms", "1235 ms"]);
});

test("the times of a Server-Timing header are read by name, and what is no time is left out", () => {
  assert.deepEqual(serverTimes("queue;dur=0.5, model;desc=x;dur=2, cache"), { queue: 0.5, model: 2 });
  assert.deepEqual(serverTimes(""), {});
});

test("the variant and a missing signature are named where there are any", () => {
  const reply = { answer: { model_name: "doors", model_version: "3" }, wholeMs: 5, times: {} };
  const plain = facts({ ...reply, variant: "", unverified: "" }, "1 KiB").map(([name]) => name);
  assert.deepEqual(plain, ["Model", "Version", "Whole time", "Sent"]);
  const told = Object.fromEntries(facts({ ...reply, variant: "blue", unverified: "a local file" }, "1 KiB"));
  assert.equal(told.Variant, "blue");
  assert.equal(told.Unverified, "a local file");
});

for (const status of [0, 400, 401, 403, 404, 408, 413, 415, 429, 500, 503, 418]) {
  test(`status ${status} is a sentence, and the device's own reason stands behind it`, () => {
    const text = inPlainWords({ status, reason: "odd", detail: "because of this" });
    assert.match(text, /^The|^This/);
    assert.match(text, /\(because of this\)$/);
  });
}
