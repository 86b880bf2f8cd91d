// node resize.mjs WIDTH HEIGHT CHANNELS WIDE HIGH < pixels > pixels: the page's own resizing, held against the device's.

import { readFileSync, writeSync } from "node:fs";

import { resize } from "../../controller/browser/web/resize.js";

const [width, height, channels, wide, high] = process.argv.slice(2).map(Number);
const pixels = new Uint8Array(readFileSync(0));
writeSync(1, resize({ pixels, width, height, channels }, wide, high).pixels);
