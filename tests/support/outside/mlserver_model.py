"""What MLServer runs: the model that we serve, through the same runtime, in the way that its documentation shows.

Runs in the environment of `tests/support/outside/mlserver.txt`, which knows nothing of this project.
"""

from __future__ import annotations

import numpy as np
from ai_edge_litert.interpreter import Interpreter
from mlserver import MLModel  # type: ignore[import-not-found]  # installed in an environment of its own
from mlserver.codecs import NumpyCodec  # type: ignore[import-not-found]  # as above
from mlserver.types import InferenceRequest, InferenceResponse  # type: ignore[import-not-found]  # as above


class LiteRtModel(MLModel):  # type: ignore[misc]  # as above
    """One interpreter, asked on the loop."""

    async def load(self) -> bool:
        """Open the file that `parameters.uri` names."""
        self._interpreter = Interpreter(self.settings.parameters.uri, num_threads=1)
        self._interpreter.allocate_tensors()
        self._input = self._interpreter.get_input_details()[0]["index"]
        self._output = self._interpreter.get_output_details()[0]["index"]
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        """Answer one request."""
        given = NumpyCodec.decode_input(payload.inputs[0])
        self._interpreter.set_tensor(self._input, given.astype(np.float32, copy=False))
        self._interpreter.invoke()
        answer = self._interpreter.get_tensor(self._output)
        return InferenceResponse(model_name=self.name, outputs=[NumpyCodec.encode_output("scores", answer)])
