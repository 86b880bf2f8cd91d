// Lays out, from installed packages, the files that the pages are shown with.
//
//   node build.mjs NODE_MODULES agent FOLDER        the explorer of the inference API
//   node build.mjs NODE_MODULES controller FOLDER   the runtime for models in a page
//   node build.mjs lock FILE                        take out of a lock file what names a host

import { copyFileSync, mkdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";

const PARTS = {
  agent: [
    ["swagger-ui-dist/swagger-ui-bundle.js", "swagger-ui-bundle.js"],
    ["swagger-ui-dist/swagger-ui.css", "swagger-ui.css"],
    ["swagger-ui-dist/LICENSE", "swagger-ui.LICENSE"],
    ["swagger-ui-dist/NOTICE", "swagger-ui.NOTICE"],
    ["swagger-ui-dist/swagger-ui-bundle.js.LICENSE.txt", "swagger-ui-bundle.js.LICENSE.txt"],
  ],
  controller: [
    ["@litertjs/core/dist/index.js", "litert.js"],
    ["@litertjs/wasm-utils/dist/index.js", "litert_wasm_utils.js"],
    // One of the two is fetched: the first where the browser knows relaxed SIMD, the other where it does not.
    ["@litertjs/core/wasm/litert_wasm_internal.js", "litert_wasm_internal.js"],
    ["@litertjs/core/wasm/litert_wasm_internal.wasm", "litert_wasm_internal.wasm"],
    ["@litertjs/core/wasm/litert_wasm_compat_internal.js", "litert_wasm_compat_internal.js"],
    ["@litertjs/core/wasm/litert_wasm_compat_internal.wasm", "litert_wasm_compat_internal.wasm"],
    // The package names its licence, Apache-2.0, and brings no text of it; another one does.
    ["swagger-ui-dist/LICENSE", "litert.LICENSE"],
  ],
};

/** A page has no package names to resolve, and a map of them would have to stand inline. */
const RENAMED = ['from "@litertjs/wasm-utils"', 'from "./litert_wasm_utils.js"'];

/** Maps lead to sources that are not here. */
const SOURCE_MAP = /^(\/\/|\/\*)# sourceMappingURL=.*$/gm;

function layOut(modules, part, folder) {
  // Away with what an older build has left: a file that is there is served.
  rmSync(folder, { recursive: true, force: true });
  mkdirSync(folder, { recursive: true });
  for (const [from, to] of PARTS[part]) {
    const source = join(modules, from);
    if (/\.(js|css)$/.test(to)) {
      writeFileSync(join(folder, to), readFileSync(source, "utf8").replace(SOURCE_MAP, ""));
    } else {
      copyFileSync(source, join(folder, to));
    }
  }
  if (part === "controller") {
    rename(join(folder, "litert.js"));
  }
}

function rename(file) {
  const text = readFileSync(file, "utf8");
  const [before, after] = RENAMED;
  if (text.split(before).length !== 2) {
    throw new Error(`${file}: expected one import ${before}`);
  }
  writeFileSync(file, text.replace(before, after));
}

function stripLock(file) {
  const lock = JSON.parse(readFileSync(file, "utf8"));
  for (const entry of Object.values(lock.packages)) {
    delete entry.resolved;
    delete entry.funding;
  }
  writeFileSync(file, `${JSON.stringify(lock, null, 2)}\n`);
}

const [first, part, folder] = process.argv.slice(2);
if (first === "lock" && part) {
  stripLock(part);
} else if (part in PARTS && folder) {
  layOut(first, part, folder);
} else {
  console.error("usage: node build.mjs NODE_MODULES agent|controller FOLDER, or: node build.mjs lock FILE");
  process.exit(2);
}
