// Gives a .tflite file a batch of one, byte by byte: this runtime takes no size that is left open.
//
// A tensor has two shapes: `shape`, with which it is laid out before anybody asks for another, and `shape_signature`,
// where what is open is -1. Where they differ, the second is made equal to the first: four bytes for each open size,
// at places that hold nothing else. Weights, operators and the file's length stay as they were signed.
// Source: tensorflow/compiler/mlir/lite/schema/schema.fbs

const OPEN = -1;
const [SUBGRAPHS, TENSORS, SHAPE, SIGNATURE] = [2, 0, 0, 7];

/** Returns `{bytes, changed}`: the file, a copy where it had to be changed, and how many sizes were open. */
export function withFixedBatch(file) {
  const bytes = file.slice();
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const written = new Map();
  for (const graph of tables(view, root(view), SUBGRAPHS)) {
    for (const tensor of tables(view, graph, TENSORS)) {
      fix(view, sizes(view, tensor, SHAPE), sizes(view, tensor, SIGNATURE), written);
    }
  }
  return { bytes, changed: written.size };
}

function fix(view, shape, signature, written) {
  if (shape.length !== signature.length) {
    return; // none is open where the signature is absent
  }
  signature.places.forEach((place, axis) => {
    const size = view.getInt32(shape.places[axis], true);
    if (written.has(place) && written.get(place) !== size) {
      throw new Error("two tensors share one open shape, and are laid out differently: convert with --batch 1");
    }
    if (view.getInt32(place, true) === OPEN) {
      view.setInt32(place, size, true);
      written.set(place, size);
    }
  });
}

function root(view) {
  return view.getUint32(0, true);
}

/** Where a field of a table stands; 0 where the table leaves it out. */
function field(view, table, number) {
  const entries = table - view.getInt32(table, true);
  const entry = 4 + 2 * number;
  const offset = entry < view.getUint16(entries, true) ? view.getUint16(entries + entry, true) : 0;
  return offset ? table + offset : 0;
}

/** Where the items of a vector stand, each four bytes long. */
function vector(view, table, number) {
  const at = field(view, table, number);
  if (!at) {
    return [];
  }
  const start = at + view.getUint32(at, true);
  return Array.from({ length: view.getUint32(start, true) }, (_, index) => start + 4 + 4 * index);
}

function tables(view, table, number) {
  return vector(view, table, number).map((place) => place + view.getUint32(place, true));
}

function sizes(view, table, number) {
  const places = vector(view, table, number);
  return { places, length: places.length };
}
