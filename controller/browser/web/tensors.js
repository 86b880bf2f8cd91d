// Tensors to the device and back: the Open Inference Protocol, with their bytes behind the JSON.

const LENGTH_HEADER = "Inference-Header-Content-Length";

const KINDS = {
  float32: ["FP32", Float32Array],
  int32: ["INT32", Int32Array],
  int8: ["INT8", Int8Array],
  uint8: ["UINT8", Uint8Array],
};

/** Returns body and headers of a request, which asks for bytes in return; of `outputs`, or of all. */
export function request(inputs, outputs = []) {
  const described = inputs.map(({ name, shape, dtype, values }) => ({
    name,
    shape,
    datatype: KINDS[dtype][0],
    parameters: { binary_data_size: values.byteLength },
  }));
  const asked = { inputs: described, parameters: { binary_data_output: true } };
  if (outputs.length) {
    asked.outputs = outputs.map((name) => ({ name }));
  }
  const text = new TextEncoder().encode(JSON.stringify(asked));
  const body = new Blob([text, ...inputs.map(({ values }) => values)]);
  return { body, headers: { [LENGTH_HEADER]: String(text.length), "Content-Type": "application/octet-stream" } };
}

/** Returns the answer's JSON, each output with its values. */
export async function answerOf(response) {
  const bytes = await response.arrayBuffer();
  const length = Number(response.headers.get(LENGTH_HEADER) ?? bytes.byteLength);
  const answer = JSON.parse(new TextDecoder().decode(bytes.slice(0, length)));
  let from = length;
  for (const output of answer.outputs) {
    const to = from + output.parameters.binary_data_size;
    output.values = valuesOf(output.datatype, bytes.slice(from, to));
    from = to;
  }
  return answer;
}

function valuesOf(datatype, bytes) {
  const known = Object.values(KINDS).find(([name]) => name === datatype);
  if (!known) {
    throw new Error(`this page reads no outputs of ${datatype}`);
  }
  return new known[1](bytes);
}
