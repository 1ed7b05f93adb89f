"""One ONNX graph, run by OpenVINO or ONNX Runtime.

On a CPU the throughput is best with one stream per core, each running small batches on one thread, and the latency of a
single film with one stream on all cores; both are a setting here (`streams`).
"""

from __future__ import annotations

import io
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import openvino

from rentgen.engine import cache as caches
from rentgen.engine.graph import check_whole
from rentgen.errors import BundleError, MissingExtraError, SettingError
from rentgen.parallel.local import cores
from rentgen.records import EngineName, Float32, Precision, UInt8

MAX_STREAMS = 64

MAIN = "main"
EXACT = "distance"
"""The output that is computed in f32 whatever the precision of the others."""
UNREADABLE = "The model's graph cannot be read by OpenVINO: expected ONNX with one uint8 input."

_HINT = "INFERENCE_PRECISION_HINT"
_FIRST_USE = threading.Lock()


TOLERANCE = {Precision.F32: 2e-3, Precision.BF16: 1e-1}
"""How far outputs may stand from the golden ones, relative to their own largest value (or 1)."""


def best_precision(wanted: Precision = Precision.AUTO) -> Precision:
    """Return the precision to use on this machine.

    Raises:
        SettingError: bf16 was demanded, but the processor has none.
    """
    has_bf16 = "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    if wanted is Precision.AUTO:
        return Precision.BF16 if has_bf16 else Precision.F32
    if wanted is Precision.BF16 and not has_bf16:
        raise SettingError("Precision bf16 was asked for, but this processor has none. Use f32 or auto.")
    return wanted


class Session:
    """A compiled graph; `run` may be called from several threads at once.

    Attributes:
        engine: who runs it.
        precision: of the arithmetic, resolved.
        batch_size: images that one call computes; fewer are padded.
        streams: calls that run side by side without waiting.
        size: height and width of the input, pixels.
    """

    def __init__(
        self,
        model: bytes,
        *,
        engine: EngineName = EngineName.OPENVINO,
        precision: Precision = Precision.F32,
        batch_size: int = 1,
        streams: int | None = None,
        threads: int | None = None,
        cache: Path | None = None,
    ) -> None:
        """Compile a graph whose input is uint8 (N, height, width).

        Args:
            model: ONNX.
            engine: who runs it.
            precision: of the arithmetic; ONNX Runtime has f32 only.
            batch_size: images per call.
            streams: calls side by side; the number of cores by default. 1 gives a single film all cores.
            threads: of the engine, for a process that may not use the whole machine; the number of cores by default.
            cache: folder where OpenVINO's compiled graphs are kept and looked for; none by default.

        Raises:
            BundleError: the graph cannot be read, or does not take films.
            SettingError: a number out of range, or a precision that there is not.
            MissingExtraError: ONNX Runtime is not installed.
        """
        if not 1 <= batch_size <= 1024:
            raise SettingError(f"Expected a batch size in [1, 1024], but got {batch_size}.")
        if streams is not None and streams < 1:
            raise SettingError(f"Expected at least one stream, but got {streams}.")
        check_whole(model)
        self.engine = EngineName(engine)
        self.batch_size = batch_size
        self.streams = min(streams or cores(), MAX_STREAMS)
        self._own = threading.local()
        if self.engine is EngineName.OPENVINO:
            self.precision = best_precision(Precision(precision))
            self._graphs, self.size, self._names = _open_openvino(
                model, self.precision, batch_size=batch_size, options=_options(self.streams, threads), cache=cache
            )
            # OpenVINO's Python layer fills tables on first use, under locks that two threads can turn into a deadlock
            # with the interpreter's own (seen in 2026.4: Tensor.data). So the first use of all is made alone, here.
            with _FIRST_USE:
                self._run_batch(np.zeros((batch_size, *self.size), np.uint8), tuple(self._names))
        else:
            if Precision(precision) is Precision.BF16:
                raise SettingError("ONNX Runtime computes in f32 only, but bf16 was asked for. Use f32 or auto.")
            self.precision = Precision.F32
            self._runtime = _open_runtime(model, self.streams, threads)
            self.size = _find_size([(item.name, item.type, item.shape) for item in self._runtime.get_inputs()])
            self._names = [output.name for output in self._runtime.get_outputs()]

    @property
    def outputs(self) -> tuple[str, ...]:
        """Return the names of what the graph gives."""
        return tuple(self._names)

    def run(self, images: UInt8, outputs: tuple[str, ...] | None = None) -> dict[str, Float32]:
        """Return the named outputs (all by default), each (N, ...), for images (N, height, width).

        Raises:
            ValueError: the images are of another size or type, or there is none.
        """
        if images.dtype != np.uint8 or images.ndim != 3 or images.shape[1:] != self.size or not len(images):
            raise ValueError(
                f"Expected uint8 images (N, {self.size[0]}, {self.size[1]}), but got {images.dtype} {images.shape}."
            )
        names = outputs or tuple(self._names)
        batches = [
            self._run_batch(images[i : i + self.batch_size], names) for i in range(0, len(images), self.batch_size)
        ]
        return {name: np.concatenate([batch[name] for batch in batches]) for name in names}

    def _run_batch(self, images: UInt8, names: tuple[str, ...]) -> dict[str, Float32]:
        try:
            return self._infer(images, names)
        except Exception as error:
            # Each engine has classes of its own for what goes wrong inside it.
            raise BundleError(
                f"The model's graph failed in {self.engine} while it ran. Try the other engine."
            ) from error

    def _infer(self, images: UInt8, names: tuple[str, ...]) -> dict[str, Float32]:
        count = len(images)
        if self.engine is EngineName.ONNXRUNTIME:
            return dict(zip(names, self._runtime.run(list(names), {"image": images}), strict=True))
        if count < self.batch_size:
            images = np.concatenate([images, np.zeros((self.batch_size - count, *self.size), np.uint8)])
        asked: dict[str, tuple[Any, list[str]]] = {}
        for place in self._graphs:
            wanted = [name for name in names if place == (name if name in self._graphs else MAIN)]
            if wanted:
                request = self._request(place)
                request.get_input_tensor().data[:] = images
                request.start_async()
                asked[place] = request, wanted
        # All have begun before one is waited for: a film alone has its two graphs computed side by side.
        answers: dict[str, Float32] = {}
        for request, wanted in asked.values():
            request.wait()
            answers |= {name: request.get_tensor(name).data[:count].copy() for name in wanted}
        return answers

    def _request(self, place: str) -> Any:  # noqa: ANN401
        """Return this thread's own request of a graph."""
        request = getattr(self._own, place, None)
        if request is None:
            request = self._graphs[place].create_infer_request()
            setattr(self._own, place, request)
        return request


def _find_size(inputs: Sequence[tuple[str, str, Sequence[object]]]) -> tuple[int, int]:
    """Return height and width of a graph's one input, which takes films.

    Args:
        inputs: name, type and shape of each, as the engine names them.
    """
    match list(inputs):
        case [("image", "u8" | "tensor(uint8)", (_, int(height), int(width)))]:
            return height, width
    raise BundleError(
        f"Expected a graph with one input 'image' of uint8 (N, height, width), but got {list(inputs)}. "
        "Fetch or train the bundle anew."
    )


def _read(model: bytes, batch_size: int) -> tuple[Any, tuple[int, int], list[str]]:
    """Return the graph for a batch size, height and width of its input, and the names of its outputs."""
    try:
        graph = openvino.Core().read_model(model=model)
        size = _find_size(
            [
                (
                    item.get_any_name(),
                    item.get_element_type().get_type_name(),
                    [axis.get_length() if axis.is_static else str(axis) for axis in item.partial_shape],
                )
                for item in graph.inputs
            ]
        )
        # Before compiling: what is optimised away leaves its names to what stays, and any of them may be told.
        names = [output.get_any_name() for output in graph.outputs]
        graph.reshape({"image": [batch_size, *size]})
        return graph, size, names
    except RuntimeError as error:
        raise BundleError(UNREADABLE) from error


def _without(graph: Any, names: Sequence[str]) -> Any:  # noqa: ANN401
    """Return the graph after taking some outputs off it, and with them what only they need."""
    for result in list(graph.get_results()):
        if set(names) & result.output(0).get_names():
            graph.remove_result(result)
    return graph


def _open_openvino(
    model: bytes, precision: Precision, *, batch_size: int, options: Mapping[str, object], cache: Path | None
) -> tuple[dict[str, Any], tuple[int, int], list[str]]:
    """Return the compiled graphs by what they are for, height and width of the input, and the names of the outputs."""
    if cache is None:
        return _compile_all(model, precision, batch_size, options)
    core = openvino.Core()
    made_with = {
        "engine": core.get_versions("CPU")["CPU"].build_number,
        "processor": core.get_property("CPU", "FULL_DEVICE_NAME"),
        "capabilities": sorted(core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")),
        "precision": precision,
        "batch_size": batch_size,
        "exact": EXACT,
        **options,
    }
    key = caches.key_of(model, made_with)
    found = caches.find(cache, key)
    if found is not None:
        try:
            graphs = {
                place: core.import_model(content, "CPU", {**options, _HINT: str(_precision_of(place, precision))})
                for place, content in found.graphs.items()
            }
            return graphs, found.size, list(found.names)
        except RuntimeError:
            # Another build under the same name, perhaps; it is compiled anew and kept in this one's place.
            pass
    graphs, size, names = _compile_all(model, precision, batch_size, options)
    caches.keep(cache, key, caches.Compiled(size, tuple(names), {place: _export(graphs[place]) for place in graphs}))
    return graphs, size, names


def _compile_all(
    model: bytes, precision: Precision, batch_size: int, options: Mapping[str, object]
) -> tuple[dict[str, Any], tuple[int, int], list[str]]:
    graph, size, names = _read(model, batch_size)
    # A distance whitens small differences of features: in bf16 it would be of rounding.
    exact = precision is Precision.BF16 and EXACT in names
    graphs = {MAIN: _compile(_without(graph, [EXACT]) if exact else graph, precision, options)}
    if exact:
        whole, _, _ = _read(model, batch_size)
        rest = [name for name in names if name != EXACT]
        graphs[EXACT] = _compile(_without(whole, rest), Precision.F32, options)
    return graphs, size, names


def _precision_of(place: str, precision: Precision) -> Precision:
    return Precision.F32 if place == EXACT else precision


def _options(streams: int, threads: int | None) -> dict[str, object]:
    """Return how the engine shall use the processors.

    Pinned threads stand still where another program has their processor, and two programs pin to the same ones.
    """
    return {
        "INFERENCE_NUM_THREADS": max(streams, threads or cores()),
        "NUM_STREAMS": streams,
        "ENABLE_CPU_PINNING": False,
    }


def _compile(graph: Any, precision: Precision, options: Mapping[str, object]) -> Any:  # noqa: ANN401
    try:
        return openvino.Core().compile_model(graph, "CPU", {**options, _HINT: str(precision)})
    except RuntimeError as error:
        raise BundleError(UNREADABLE) from error


def _export(graph: Any) -> bytes:  # noqa: ANN401
    stream: io.BytesIO = graph.export_model()
    return stream.getvalue()


def _open_runtime(model: bytes, streams: int, threads: int | None) -> Any:  # noqa: ANN401
    try:
        import onnxruntime
    except ImportError as error:
        raise MissingExtraError("onnxruntime", "onnxruntime", "the engine onnxruntime") from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = max(1, (threads or cores()) // streams)
    try:
        return onnxruntime.InferenceSession(model, options, providers=onnxruntime.get_available_providers())
    except Exception as error:
        # ONNX Runtime has an exception class per status code and no common one.
        raise BundleError(
            "The model's graph cannot be read by ONNX Runtime: expected ONNX with one uint8 input."
        ) from error
