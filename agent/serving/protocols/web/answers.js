// What an answer says, in the words of a person. Nothing here touches the page.

/** How many of a model's bare scores are shown. */
const MOST_SCORES = 5;

/** The device, or the way to it, said no. */
export class Refused extends Error {
  constructor({ status, reason, detail = "" }) {
    super(detail || reason);
    this.status = status;
    this.reason = reason;
    this.detail = detail;
  }
}

/** A sentence for each way in which there is no answer; the device's own sentence stands behind it. */
export function inPlainWords({ status, reason, detail }) {
  const [plain, own] = [plainly(status, reason), detail && detail !== reason ? detail : ""];
  return own ? `${plain} (${own})` : plain;
}

function plainly(status, reason) {
  if (reason === "unreachable") {
    return "The device does not answer. Is its agent running, and is this machine still connected?";
  }
  if (reason === "timeout") {
    return "The device took too long to answer.";
  }
  switch (status) {
    case 400:
      return "The device cannot use this picture with this model.";
    case 401:
      return "The device asks for an application key: enter it under “Application key”.";
    case 403:
      return "This application key does not cover the model.";
    case 404:
      return "The device does not serve this model any more: reload the page.";
    case 408:
      return "The picture did not arrive in time: the connection is too slow for its size.";
    case 413:
      return "The picture is too large for the device.";
    case 415:
      return "The device takes JPEG and PNG pictures only.";
    case 429:
      return "The device has more to do than it can: try again in a moment.";
    case 500:
      return "The model failed on this picture.";
    case 503:
      return "The model cannot answer at the moment.";
    default:
      return `The device refused (${status}).`;
  }
}

/** The boxes that an answer names anywhere: `{label, score, left, top, right, bottom}`, in pixels or shares. */
export function boxes(answer) {
  return named(answer.answers)
    .filter(({ entry }) => Array.isArray(entry.box))
    .map(({ entry }) => {
      const [left, top, right, bottom] = entry.box;
      return { label: entry.label, score: entry.score ?? entry.share, left, top, right, bottom };
    });
}

/** The rows to show: labels, or whatever else has a label and a score, or the best of bare scores. */
export function rows(answer) {
  const found = answer.labels?.length
    ? answer.labels.map((entry) => ({ entry, path: "" }))
    : named(answer.answers).map(({ entry, path }) => ({ entry, path: entry.box ? "" : path }));
  if (found.length) {
    return found.map(({ entry, path }) => row(path + entry.label, entry.score ?? entry.share));
  }
  const scores = (answer.scores ?? []).flat(Infinity).map((score, index) => ({ score, index }));
  scores.sort((one, other) => other.score - one.score || one.index - other.index);
  return scores.slice(0, MOST_SCORES).map(({ score, index }) => row(`output ${index}`, score));
}

/** Everything with a label and a score or a share in an answer of any shape, with the names that lead there. */
function named(value, path = "") {
  if (value === null || typeof value !== "object") {
    return [];
  }
  if (typeof value.label === "string" && typeof (value.score ?? value.share) === "number") {
    return [{ entry: value, path }];
  }
  if (Array.isArray(value)) {
    return value.flatMap((each) => named(each, path));
  }
  return Object.entries(value).flatMap(([name, each]) => named(each, name === "areas" ? path : `${name}: `));
}

function row(label, score) {
  const isShare = score >= 0 && score <= 1;
  return { label, share: isShare ? score : null, text: isShare ? percent(score) : score.toPrecision(4) };
}

/** A share as per cent; what is not quite nothing or everything never reads so. */
export function percent(share) {
  if (share > 0 && share < 0.001) {
    return "< 0.1 %";
  }
  if (share > 0.999 && share < 1) {
    return "> 99.9 %";
  }
  return `${(share * 100).toFixed(1)} %`;
}

/** A duration, as exact as it is of use. */
export function milliseconds(value) {
  return value < 10 ? `${value.toFixed(2)} ms` : value < 100 ? `${value.toFixed(1)} ms` : `${Math.round(value)} ms`;
}

/** The durations of a Server-Timing header, in milliseconds by name. */
export function serverTimes(header) {
  const times = {};
  for (const entry of header.split(",")) {
    const [name, ...parameters] = entry.split(";").map((part) => part.trim());
    const duration = parameters.find((part) => part.startsWith("dur="));
    if (name && duration) {
      times[name] = Number(duration.slice("dur=".length));
    }
  }
  return times;
}

/** The facts beside the answer, as pairs of name and text. */
export function facts({ answer, wholeMs, times, variant, unverified }, sent) {
  const found = [
    ["Model", answer.model_name],
    ["Version", answer.model_version],
  ];
  if (variant) {
    found.push(["Variant", variant]);
  }
  if (answer.release_id && answer.release_id !== "local") {
    found.push(["Release", answer.release_id]);
  }
  found.push(["Whole time", milliseconds(wholeMs)]);
  if (times.total !== undefined) {
    found.push(["On the device", `${milliseconds(times.total)}${parts(times)}`]);
  }
  found.push(["Sent", sent]);
  if (unverified) {
    found.push(["Unverified", unverified]);
  }
  return found;
}

function parts(times) {
  const timed = [
    ["waiting", times.queue],
    ["preparing", times.prepare],
    ["model", times.model],
  ];
  const known = timed.filter(([, value]) => value !== undefined);
  return known.length ? ` (${known.map(([name, value]) => `${name} ${milliseconds(value)}`).join(", ")})` : "";
}

/** The text of a size in bytes. */
export function size(bytes) {
  return bytes < 1024
    ? `${bytes} bytes`
    : bytes < 1024 ** 2
      ? `${Math.round(bytes / 1024)} KiB`
      : `${(bytes / 1024 ** 2).toFixed(1)} MiB`;
}
