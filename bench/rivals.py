"""Two servers of models that others use, with the same bundle, as small as their own tutorials.

They get the same work: read the file, prepare it with this project's own functions, and infer. They do not look whether
it is a film at all, nor keep a hash of it, nor measure anything: for that they get no discount.
"""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

_ENGINE = '''
import numpy as np
from rentgen import bundle as bundles
from rentgen.images.prepare import prepare
from rentgen.images.read import read
from rentgen.engine.predictor import softmax

OUTPUTS = ["logits", "distance"]
# Otherwise all workers pin their one thread to the same processor.
OPTIONS = {"INFERENCE_NUM_THREADS": 1, "NUM_STREAMS": 1, "ENABLE_CPU_PINNING": False}

class Engine:
    """One worker's engine, on one thread: there are as many workers as processors."""

    def __init__(self, kind):
        self.bundle = bundles.read("pneumonia")
        self.kind = kind
        if kind == "onnxruntime":
            import onnxruntime
            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads = 1
            self.session = onnxruntime.InferenceSession(self.bundle.model, options, providers=["CPUExecutionProvider"])
        else:
            import openvino
            graph = openvino.Core().read_model(model=self.bundle.model)
            size = graph.inputs[0].partial_shape
            graph.reshape({"image": [1, size[1].get_length(), size[2].get_length()]})
            compiled = openvino.Core().compile_model(graph, "CPU", OPTIONS)
            self.request = compiled.create_infer_request()

    def __call__(self, data):
        card = self.bundle.card
        image = prepare(read(data), card.preprocessing).pixels[None]
        if self.kind == "onnxruntime":
            logits, distance = self.session.run(OUTPUTS, {"image": image})
        else:
            self.request.infer({"image": image})
            logits, distance = (self.request.get_tensor(name).data.copy() for name in OUTPUTS)
        probabilities = softmax(logits[0] * np.array(card.calibration.scale) + np.array(card.calibration.bias))
        return dict(zip(card.classes, probabilities.tolist())) | {"distance": float(distance[0])}
'''

_LITSERVE = """
import sys
import litserve
from engine import Engine

class Api(litserve.LitAPI):
    def setup(self, device):
        self.engine = Engine(sys.argv[2])
    def decode_request(self, request):
        return request["film"].file.read()
    def predict(self, data):
        return self.engine(data)
    def encode_response(self, output):
        return output

if __name__ == "__main__":
    import os
    workers = len(os.sched_getaffinity(0))
    server = litserve.LitServer(Api(), accelerator="cpu", workers_per_device=workers, fast_queue=True)
    server.run(host="127.0.0.1", port=int(sys.argv[1]), generate_client_file=False, log_level="warning")
"""

_BENTOML = """
import os
from pathlib import Path
import bentoml
from engine import Engine

@bentoml.service(
    workers=len(os.sched_getaffinity(0)),
    metrics={"enabled": False},
    logging={"access": {"enabled": False}},
    traffic={"timeout": 60},
)
class Films:
    def __init__(self):
        self.engine = Engine(os.environ["ENGINE"])
    @bentoml.api
    def predict(self, film: Path) -> dict:
        return self.engine(film.read_bytes())
"""

HEALTH = {"LitServe": "/health", "BentoML": "/readyz"}
"""Path that answers 200 when the server is ready."""
ENGINES = ("onnxruntime", "openvino")


@dataclass(frozen=True)
class Peer:
    """How a server is started and asked.

    Attributes:
        name: of the product.
        python: of an environment where it, rentgen and both engines are installed.
    """

    name: str
    python: Path

    def start(self, folder: Path, port: int, engine: str) -> subprocess.Popen[bytes]:
        """Return the server's process; its files and what it says are in the folder."""
        (folder / "engine.py").write_text(_ENGINE)
        (folder / "lit.py").write_text(_LITSERVE)
        (folder / "films.py").write_text(_BENTOML)
        serve = {
            "LitServe": ["lit.py", str(port), engine],
            "BentoML": ["-m", "bentoml", "serve", "films:Films", "--host", "127.0.0.1", "--port", str(port)],
        }[self.name]
        # One thread a worker for whatever else would start some; ENGINE is for BentoML, which has no arguments.
        environment = os.environ | {
            "ENGINE": engine,
            "OMP_NUM_THREADS": "1",
            "BENTOML_HOME": str(folder / "bentoml"),
            "BENTOML_DO_NOT_TRACK": "true",
        }
        with (folder / f"{self.name}-{engine}.log").open("wb") as log:
            return subprocess.Popen(
                [str(self.python), *serve],
                cwd=folder,
                env=environment,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
