// The page `/try`: a picture from a file or the camera to a model of this device, and what it answers.

import { Refused, boxes, facts, inPlainWords, rows, size } from "./answers.js";
import { Camera, Repeated } from "./camera.js";
import { classify, listModels } from "./device.js";
import { draw, readPicture, takeShot } from "./picture.js";

const page = (id) => document.getElementById(id);

const camera = new Camera(page("video"));
const repeated = new Repeated(sendShot);
const NOTHING = "The model found nothing.";
/** The last picture, to be sent again when another model is chosen. */
let shown = null;
/** Answers may overtake each other; only the one to the last picture is shown. */
let asked = 0;
/** Moments of the last answers from the camera, for their rate. */
let answered = [];

async function showModels() {
  const chooser = page("model");
  try {
    const models = await listModels(page("key").value.trim());
    const before = chooser.value;
    chooser.replaceChildren(...options(models));
    if ([...chooser.options].some((option) => option.value === before && !option.disabled)) {
      chooser.value = before;
    }
    chooser.disabled = !models.some((model) => model.takesPictures);
    showProblem(chooser.disabled ? nothingToTry(models) : "");
  } catch (error) {
    showProblem(told(error));
  }
}

function options(models) {
  // One entry a model: which of its versions answers is the device's to say.
  const byName = new Map([...models].reverse().map((model) => [model.name, model]));
  const listed = [...byName.values()].reverse().map(({ name, takesPictures, state }) => {
    const why = state === "READY" ? "takes numbers, not pictures" : "does not answer";
    const option = new Option(takesPictures ? name : `${name} (${why})`, name);
    option.disabled = !takesPictures;
    return option;
  });
  return listed.length ? listed : [new Option("none", "")];
}

function nothingToTry(models) {
  return models.length
    ? "No model of this device takes pictures: the page “API” has a form for numbers."
    : "This device serves no model yet.";
}

async function send(picture) {
  const model = page("model").value;
  if (page("model").disabled) {
    return false;
  }
  const mine = ++asked;
  page("answer").setAttribute("aria-busy", "true");
  try {
    const reply = await classify(model, picture.blob, page("key").value.trim());
    if (mine === asked) {
      showProblem("");
      showAnswer(reply, picture);
    }
    return true;
  } catch (error) {
    if (mine === asked) {
      clearAnswer();
      showProblem(told(error));
    }
    return false;
  } finally {
    if (mine === asked) {
      page("answer").setAttribute("aria-busy", "false");
    }
  }
}

async function sendFile(file) {
  stopCamera();
  try {
    shown = await readPicture(file);
  } catch (error) {
    clearAnswer();
    showProblem(told(error));
    return;
  }
  showPicture();
  await send(shown);
}

async function sendShot() {
  if (!camera.isOn) {
    return false;
  }
  shown = await takeShot(page("video"));
  const isSent = await send(shown);
  if (!isSent) {
    setStreaming(false);
  }
  return isSent;
}

function showAnswer(reply, { blob, bitmap }) {
  page("labels").replaceChildren(...rows(reply.answer).map(labelRow));
  page("waiting").textContent = NOTHING;
  page("waiting").hidden = page("labels").hasChildNodes();
  const sent = `${bitmap.width} × ${bitmap.height}, ${size(blob.size)}`;
  const known = facts(reply, sent);
  if (repeated.isRunning) {
    known.push(["Rate", `${rate()} a second`]);
  }
  page("facts").replaceChildren(...known.flatMap(([name, text]) => [element("dt", name), element("dd", text)]));
  page("whole-answer").hidden = false;
  page("json").textContent = JSON.stringify(reply.answer, null, 2);
  const found = boxes(reply.answer);
  // A moving picture stands for itself, unless there is something to be drawn into it.
  const isStill = !camera.isOn || found.length > 0;
  if (isStill) {
    draw(page("picture"), bitmap, found);
  }
  page("picture").hidden = !isStill;
  page("video").hidden = isStill;
}

function rate() {
  const now = performance.now();
  answered = [...answered.filter((moment) => now - moment < 3000), now];
  const span = now - answered[0];
  // Of a shorter time, the first answers would say too much.
  return span > 1000 ? (((answered.length - 1) * 1000) / span).toFixed(1) : "…";
}

function labelRow({ label, share, text }) {
  const item = element("li");
  item.append(element("span", label, "name"), element("span", text, "score"));
  if (share !== null) {
    const bar = element("progress");
    bar.max = 1;
    bar.value = share;
    bar.setAttribute("aria-hidden", "true"); // the number says it
    item.append(bar);
  }
  return item;
}

function element(name, text = "", kind = "") {
  const made = document.createElement(name);
  made.textContent = text;
  made.className = kind;
  return made;
}

function clearAnswer() {
  page("labels").replaceChildren();
  page("facts").replaceChildren();
  page("whole-answer").hidden = true;
  page("waiting").textContent = "The answer will stand here.";
  page("waiting").hidden = false;
}

function showPicture() {
  draw(page("picture"), shown.bitmap);
  page("picture").hidden = false;
  page("hint").hidden = true;
  page("stage").classList.add("filled");
}

function showProblem(text) {
  page("problem").textContent = text;
  page("problem").hidden = !text;
}

function told(error) {
  return error instanceof Refused ? inPlainWords(error) : error.message;
}

async function startCamera() {
  try {
    await camera.start();
  } catch (error) {
    showProblem(error.message);
    return;
  }
  showProblem("");
  page("camera").textContent = "Stop the camera";
  page("camera-controls").hidden = false;
  page("video").hidden = false;
  page("picture").hidden = true;
  page("hint").hidden = true;
  page("stage").classList.add("filled");
}

function stopCamera() {
  setStreaming(false);
  camera.stop();
  page("camera").textContent = "Use the camera";
  page("camera-controls").hidden = true;
  page("video").hidden = true;
  if (!shown) {
    page("hint").hidden = false;
    page("stage").classList.remove("filled");
  } else {
    page("picture").hidden = false;
  }
}

function setStreaming(on) {
  page("stream").setAttribute("aria-pressed", String(on));
  page("stream").textContent = on ? "Stop sending" : "Keep sending";
  if (!on) {
    repeated.stop();
  } else if (!repeated.isRunning) {
    answered = [];
    repeated.start(() => Number(page("rate").value));
  }
}

function listen() {
  page("file").addEventListener("change", ({ target }) => {
    if (target.files.length) {
      sendFile(target.files[0]);
    }
    // So that the same file can be chosen again.
    target.value = "";
  });
  page("camera").addEventListener("click", () => (camera.isOn ? stopCamera() : startCamera()));
  page("shot").addEventListener("click", sendShot);
  page("stream").addEventListener("click", () => setStreaming(!repeated.isRunning));
  page("model").addEventListener("change", () => shown && send(shown));
  page("key").addEventListener("change", async () => {
    await showModels();
    if (shown) {
      await send(shown);
    }
  });
  listenForDrops(page("stage"));
  document.addEventListener("paste", ({ clipboardData }) => {
    if (clipboardData.files.length) {
      sendFile(clipboardData.files[0]);
    }
  });
}

function listenForDrops(stage) {
  // Everywhere: a picture that misses the field would replace the page.
  for (const kind of ["dragover", "drop"]) {
    document.addEventListener(kind, (event) => event.preventDefault());
  }
  stage.addEventListener("dragover", () => stage.classList.add("over"));
  stage.addEventListener("dragleave", () => stage.classList.remove("over"));
  stage.addEventListener("drop", ({ dataTransfer }) => {
    stage.classList.remove("over");
    if (dataTransfer.files.length) {
      sendFile(dataTransfer.files[0]);
    }
  });
}

listen();
await showModels();
