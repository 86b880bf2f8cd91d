// The calls that the page makes to the device that served it.

import { Refused, serverTimes } from "./answers.js";

/** Longer than the device's own deadline for a request, which it tells in words of its own. */
const DEADLINE_MS = 60_000;

/** The models of the device: name, version, whether it answers, and whether it takes pictures. */
export async function listModels(key) {
  const { answer: entries } = await call("/v2/repository/index", { method: "POST", body: "{}" }, key);
  return Promise.all(entries.map(async (entry) => ({ ...entry, takesPictures: await takesPictures(entry, key) })));
}

/** Sends a picture, and returns the answer, its headers and how long it took from here. */
export function classify(model, picture, key) {
  const path = `/v2/models/${encodeURIComponent(model)}/classify`;
  return call(path, { method: "POST", body: picture, headers: { "Content-Type": picture.type } }, key);
}

async function takesPictures(entry, key) {
  if (entry.state !== "READY") {
    return false;
  }
  try {
    const { answer } = await call(`/model/metadata?model=${encodeURIComponent(entry.name)}`, {}, key);
    return answer.type.startsWith("Image");
  } catch (error) {
    // The list is still of use; the answer to a picture will tell what is wrong with this one.
    if (error instanceof Refused) {
      return false;
    }
    throw error;
  }
}

async function call(path, options, key) {
  const headers = { ...options.headers, ...(key ? { Authorization: `Bearer ${key}` } : {}) };
  const began = performance.now();
  let response;
  let text;
  try {
    response = await fetch(path, { ...options, headers, signal: AbortSignal.timeout(DEADLINE_MS) });
    text = await response.text();
  } catch (error) {
    throw new Refused({ status: 0, reason: error.name === "TimeoutError" ? "timeout" : "unreachable" });
  }
  const wholeMs = performance.now() - began;
  const answer = parsed(text);
  if (!response.ok || answer === undefined) {
    throw new Refused({ status: response.status, reason: answer?.reason ?? "", detail: answer?.detail ?? "" });
  }
  return {
    answer,
    wholeMs,
    times: serverTimes(response.headers.get("Server-Timing") ?? ""),
    variant: response.headers.get("Litefleet-Variant") ?? answer.parameters?.variant ?? "",
    unverified: response.headers.get("Litefleet-Unverified") ?? "",
  };
}

function parsed(text) {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}
