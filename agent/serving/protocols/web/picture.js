// Pictures: read, turned into what the device takes, and drawn with what was found in them.

import { Refused } from "./answers.js";

const SENT_AS_THEY_ARE = ["image/jpeg", "image/png"];
/** Below this side a picture is shown enlarged. */
const SMALL_PX = 200;
const CAMERA_QUALITY = 0.9;

/** Returns `{blob, bitmap}`: what is sent, and what is shown. The device ignores how a camera was held, and so do we. */
export async function readPicture(file) {
  let bitmap;
  try {
    bitmap = await createImageBitmap(file, { imageOrientation: "none" });
  } catch {
    throw new Refused({ status: 400, reason: "unreadable", detail: `${file.name ?? "this"} is no readable picture` });
  }
  const blob = SENT_AS_THEY_ARE.includes(file.type) ? file : await encoded(bitmap, "image/png");
  return { blob, bitmap };
}

/** Returns what the camera sees at this moment, in the same form. */
export async function takeShot(video) {
  const bitmap = await createImageBitmap(video);
  return { blob: await encoded(bitmap, "image/jpeg", CAMERA_QUALITY), bitmap };
}

function encoded(bitmap, type, quality) {
  const canvas = document.createElement("canvas");
  canvas.width = bitmap.width;
  canvas.height = bitmap.height;
  canvas.getContext("2d").drawImage(bitmap, 0, 0);
  return new Promise((resolve) => canvas.toBlob(resolve, type, quality));
}

/** Draws a picture, and the boxes that an answer names. */
export function draw(canvas, bitmap, boxes = []) {
  canvas.width = bitmap.width;
  canvas.height = bitmap.height;
  canvas.classList.toggle("small", Math.max(bitmap.width, bitmap.height) < SMALL_PX);
  const pen = canvas.getContext("2d");
  pen.drawImage(bitmap, 0, 0);
  // So that lines and letters can be read when the picture is shown smaller than it is.
  const unit = Math.max(1, Math.max(bitmap.width, bitmap.height) / 400);
  pen.lineWidth = 2 * unit;
  pen.font = `600 ${12 * unit}px system-ui, sans-serif`;
  pen.textBaseline = "top";
  boxes.forEach((found, index) => drawBox(pen, corners(found, bitmap), `${found.label}`, colour(index), unit));
}

/** Returns `[left, top, width, height]` in pixels of a box. */
export function corners({ top, left, bottom, right }, { width, height }) {
  // Shares of the picture, or pixels of it.
  const [across, down] = Math.max(top, left, bottom, right) <= 1 ? [width, height] : [1, 1];
  return [left * across, top * down, (right - left) * across, (bottom - top) * down];
}

function drawBox(pen, [left, top, width, height], text, ink, unit) {
  pen.strokeStyle = ink;
  pen.strokeRect(left, top, width, height);
  const band = 16 * unit;
  const above = Math.max(0, top - band);
  pen.fillStyle = ink;
  pen.fillRect(left, above, pen.measureText(text).width + 8 * unit, band);
  pen.fillStyle = "#fff";
  pen.fillText(text, left + 4 * unit, above + 2 * unit);
}

function colour(index) {
  // The golden angle: neighbours in the list are far apart on the wheel.
  return `hsl(${(index * 137.5) % 360} 70% 35%)`;
}
