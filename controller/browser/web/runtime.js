// The runtime in the page: the release's own file, checked again, and run by LiteRT in WebAssembly.

import { Tensor, loadAndCompile, loadLiteRt } from "./litert.js";
import { withFixedBatch } from "./fixed_batch.js";

/** Fetches the file, and returns `{bytes, sha256}`. Raises Error where it is not what the release names. */
export async function fetchModel(release) {
  const response = await fetch("/model.tflite");
  if (!response.ok) {
    throw new Error(`the model could not be read (${response.status})`);
  }
  const bytes = new Uint8Array(await response.arrayBuffer());
  const sha256 = await digest(bytes);
  if (sha256 !== release.sha256) {
    throw new Error(`the file that arrived is ${sha256}, and the release names ${release.sha256}: it is not run`);
  }
  return { bytes, sha256 };
}

async function digest(bytes) {
  const hash = new Uint8Array(await crypto.subtle.digest("SHA-256", bytes));
  return Array.from(hash, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

/** A model that runs in this page. */
export class Model {
  #compiled;

  /** Returns `{model, changed, loadMs}`: how many open sizes had to be fixed, and what loading took. */
  static async load(bytes) {
    const began = performance.now();
    const { bytes: fixed, changed } = withFixedBatch(bytes);
    await loadLiteRt("/web/");
    const model = new Model();
    model.#compiled = await loadAndCompile(fixed, { accelerator: "wasm" });
    return { model, changed, loadMs: performance.now() - began };
  }

  /** Returns the outputs, and what running took. `inputs` are in the order of the release. */
  async run(inputs) {
    const fed = this.#named(inputs.map(({ name, values, shape }) => [name, new Tensor(values, shape)]));
    const began = performance.now();
    const answered = await this.#compiled.run(fed);
    const ms = performance.now() - began;
    const names = this.#compiled.getOutputDetails().map(({ name }) => name);
    const outputs = answered.map((output, index) => ({ name: names[index], values: output.toTypedArray().slice() }));
    for (const tensor of [...fed, ...answered]) {
      tensor.delete();
    }
    return { outputs, ms };
  }

  /** In the runtime's order: by name where it knows them all, else as they come. */
  #named(inputs) {
    const wanted = this.#compiled.getInputDetails().map(({ name }) => name);
    const byName = new Map(inputs);
    return wanted.every((name) => byName.has(name)) ? wanted.map((name) => byName.get(name)) : [...byName.values()];
  }
}
