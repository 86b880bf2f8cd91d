// The device, asked by way of the command that serves this page: so no device has to let other pages in.

import { answerOf, request } from "./tensors.js";

const TIME_HEADER = "Litefleet-Device-Ms";

/** Asks the device for its outputs, or the named ones, to the very numbers that the page has run. */
export async function infer(inputs, outputs, key) {
  const { body, headers } = request(inputs, outputs);
  const response = await sent("/device/infer", body, headers, key);
  return { outputs: (await answerOf(response)).outputs, ms: timeOf(response) };
}

/** Asks the device for the labels of a picture, by its own whole pipeline. */
export async function classify(picture, key) {
  const response = await sent("/device/classify", picture, { "Content-Type": picture.type }, key);
  return { answer: await response.json(), ms: timeOf(response) };
}

async function sent(path, body, headers, key) {
  const authorization = key ? { Authorization: `Bearer ${key}` } : {};
  const response = await fetch(path, { method: "POST", body, headers: { ...headers, ...authorization } });
  if (!response.ok) {
    const told = await response.json().catch(() => ({}));
    throw new Error(told.detail || `the device refused (${response.status})`);
  }
  return response;
}

/** Between the command and the device, without the way through the browser. */
function timeOf(response) {
  return Number(response.headers.get(TIME_HEADER));
}
