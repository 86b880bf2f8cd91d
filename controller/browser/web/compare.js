// The page: a release runs here, the device is asked the same, and what differs is shown.

import { compare, median, seeded } from "./agreement.js";
import { classify, infer } from "./device.js";
import { feed, isModelOnly, itemFrom, itemOf, labelsOf, scoresOf, takesPictures, whyNot } from "./pipeline.js";
import { Model, fetchModel } from "./runtime.js";

/** Latencies are the middle ones of so many runs, of which the first would say more of loading than of running. */
const RUNS = 15;
const SENT_AS_THEY_ARE = ["image/jpeg", "image/png"];

const page = (id) => document.getElementById(id);

let release;
let model;

async function start() {
  try {
    release = await (await fetch("/release.json")).json();
    showRelease([]);
    const { bytes } = await fetchModel(release);
    const loaded = await Model.load(bytes);
    model = loaded.model;
    showRelease([
      ["Checked here", "the file is the one that the release names, by its sha256"],
      ["Batch", batchInWords(loaded.changed)],
      ["Loaded in", `${loaded.loadMs.toFixed(0)} ms`],
    ]);
    const canShow = takesPictures(release.pipeline) && !whyNot(release.pipeline);
    page("file").disabled = !canShow;
    page("choose").hidden = !canShow;
    page("random").disabled = false;
    await runRandom();
  } catch (error) {
    failed(error);
  }
}

function batchInWords(changed) {
  return changed
    ? `open in the signed file; ${changed} open sizes were set in memory to those that the file is laid out for`
    : "fixed, as signed";
}

function showRelease(more) {
  page("title").textContent = `${release.name} in this browser`;
  page("device").textContent = `beside ${release.device_url}`;
  const facts = [
    ["Artifact", `${release.scheme}, ${release.length_bytes.toLocaleString("en")} bytes`],
    ["SHA-256", release.sha256],
    ["Signature", release.signature],
    ["Device", release.device],
    ...more,
  ];
  page("release").replaceChildren(...facts.flatMap(([name, text]) => [element("dt", name), element("dd", text)]));
}

async function runRandom() {
  const seed = Number(page("seed").value) || 1;
  const { pipeline, inputs } = release;
  const wanted = isModelOnly(pipeline) || whyNot(pipeline) ? inputs : [itemOf(pipeline, inputs[0])];
  const drawn = wanted.map((input, index) => {
    const count = input.shape.reduce((product, size) => product * size, 1);
    return { ...input, values: seeded(seed + index, count, input.dtype) };
  });
  page("picture").hidden = true;
  await show(() => compared(drawn));
}

async function runPicture(file) {
  await show(async () => {
    const bitmap = await createImageBitmap(file, {
      imageOrientation: "none",
      premultiplyAlpha: "none",
      colorSpaceConversion: "none",
    });
    const pixels = pixelsOf(bitmap);
    const result = await compared([itemFrom(release.pipeline, pixels)]);
    return { ...result, whole: await wholePipeline(file, result) };
  });
}

function pixelsOf(bitmap) {
  const canvas = page("picture");
  canvas.width = bitmap.width;
  canvas.height = bitmap.height;
  canvas.hidden = false;
  const pen = canvas.getContext("2d", { willReadFrequently: true });
  pen.drawImage(bitmap, 0, 0);
  return pen.getImageData(0, 0, bitmap.width, bitmap.height);
}

/** Runs the release here and there on the same numbers. */
async function compared(inputs) {
  const { pipeline } = release;
  const cannot = isModelOnly(pipeline) ? "" : whyNot(pipeline);
  if (cannot) {
    const ours = await repeated(() => model.run(inputs));
    return { ours, trouble: `its pipeline is more than this page runs: ${cannot}` };
  }
  const [run, names] = isModelOnly(pipeline) ? [() => model.run(inputs), []] : [() => runLine(inputs[0]), ["scores"]];
  const ours = await repeated(run);
  const key = page("key").value.trim();
  try {
    const theirs = await repeated(() => infer(inputs, names, key));
    return { ours, theirs, agreement: compare(ours.outputs, theirs.outputs) };
  } catch (error) {
    return { ours, trouble: error.message };
  }
}

async function runLine(item) {
  const { outputs, ms } = await model.run([feed(release.pipeline, release.inputs[0], item)]);
  return { outputs: [{ name: "scores", values: scoresOf(release.pipeline, outputs[0].values) }], ms };
}

async function repeated(run) {
  const times = [];
  let last;
  for (let index = 0; index <= RUNS; index += 1) {
    last = await run();
    times.push(last.ms);
  }
  return { ...last, ms: median(times.slice(1)) };
}

/** From the file to labels, by each side's own decoding. */
async function wholePipeline(file, { ours, trouble }) {
  const labels = labelsOf(release.pipeline, ours.outputs[0].values);
  if (trouble || !SENT_AS_THEY_ARE.includes(file.type)) {
    return { labels };
  }
  const { answer } = await classify(file, page("key").value.trim());
  return { labels, theirs: answer.labels };
}

async function show(work) {
  page("result").setAttribute("aria-busy", "true");
  try {
    const result = await work();
    showProblem(result.trouble ? `There is no answer of the device: ${result.trouble}` : "");
    showVerdict(result.agreement);
    page("rows").replaceChildren(...rowsOf(result));
    page("table").hidden = false;
  } catch (error) {
    failed(error);
  } finally {
    page("result").setAttribute("aria-busy", "false");
  }
}

function showVerdict(agreement) {
  const verdict = page("verdict");
  verdict.className = "verdict";
  if (!agreement) {
    verdict.textContent = "It runs here; there is nothing to compare it with.";
    page("explanation").textContent = "";
    return;
  }
  const isEqual = agreement.every((output) => output.isBitEqual);
  const isSame = agreement.every((output) => output.isSameTop);
  const difference = Math.max(...agreement.map((output) => output.maxDifference));
  const count = agreement.reduce((total, output) => total + output.count, 0);
  verdict.textContent = isEqual
    ? "Equal to the last bit"
    : `${isSame ? "The same top answer" : "Another top answer"}, numbers differ by at most ${difference.toExponential(2)}`;
  verdict.classList.add(isSame ? "good" : "bad");
  page("explanation").textContent =
    `On the same ${takesPictures(release.pipeline) ? "pixels, after decoding" : "numbers"}; ${count} outputs compared.`;
}

function rowsOf({ ours, theirs, agreement, whole }) {
  const rows = [];
  if (agreement) {
    rows.push([
      "Best output",
      ...(agreement[0].isSameTop ? [agreement[0].top, agreement[0].top] : [agreement[0].top, "another"]),
    ]);
  }
  rows.push(["Latency, model alone", milliseconds(ours.ms), theirs ? `${milliseconds(theirs.ms)} with HTTP` : "–"]);
  (whole?.labels ?? []).forEach(({ label, score }, index) => {
    const other = whole.theirs?.[index];
    const what = index === 0 ? "From the file to labels" : "";
    rows.push([what, labelled(label, score), other ? labelled(other.label, other.score) : "–"]);
  });
  return rows.map(([name, ...cells]) => {
    const row = element("tr");
    const head = element("th", name);
    head.scope = "row";
    row.append(head, ...cells.map((text) => element("td", String(text))));
    return row;
  });
}

function milliseconds(value) {
  // Browsers tell no finer times, so that pages cannot spy on each other.
  return value < 0.1 ? "< 0.1 ms" : `${value.toFixed(2)} ms`;
}

function labelled(label, score) {
  return `${label} ${score.toPrecision(6)}`;
}

function failed(error) {
  showProblem(error.message);
  page("verdict").textContent = model ? "No answer" : "The model does not run here";
  page("verdict").className = "verdict bad";
  page("explanation").textContent = "";
}

function showProblem(text) {
  page("problem").textContent = text;
  page("problem").hidden = !text;
}

function element(name, text = "") {
  const made = document.createElement(name);
  made.textContent = text;
  return made;
}

page("random").addEventListener("click", runRandom);
page("seed").addEventListener("change", () => model && runRandom());
page("file").addEventListener("change", async ({ target }) => {
  if (target.files.length) {
    await runPicture(target.files[0]);
  }
  target.value = "";
});
await start();
