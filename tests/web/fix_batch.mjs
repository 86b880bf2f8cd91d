// node fix_batch.mjs IN OUT: what the page does to a file with an open batch, for a test to run natively.

import { readFileSync, writeFileSync } from "node:fs";

import { withFixedBatch } from "../../controller/browser/web/fixed_batch.js";

const [from, to] = process.argv.slice(2);
const { bytes, changed } = withFixedBatch(new Uint8Array(readFileSync(from)));
writeFileSync(to, bytes);
console.log(changed);
