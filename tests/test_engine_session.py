from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import onnx
import openvino
import pytest
from conftest import Trained
from onnx import TensorProto, helper

from rentgen.engine.session import Session, best_precision
from rentgen.errors import BundleError, SettingError
from rentgen.records import EngineName, Precision, UInt8

HAS_BF16 = "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
OUTPUTS = {"logits", "embedding", "activation_maps"}


@pytest.fixture(scope="module")
def model(trained: Trained) -> bytes:
    return trained.training.bundle.model


@pytest.fixture(scope="module")
def images(trained: Trained) -> UInt8:
    """Return seven prepared films of which no two are the same."""
    golden = trained.training.bundle.golden.prepared
    return np.concatenate([golden, 255 - golden])[:7]


def test_both_engines_give_the_same(model: bytes, images: UInt8) -> None:
    by_openvino = Session(model).run(images)
    by_onnxruntime = Session(model, engine=EngineName.ONNXRUNTIME).run(images)
    assert set(by_openvino) == set(by_onnxruntime) == OUTPUTS
    for name, values in by_openvino.items():
        assert values.dtype == np.float32
        np.testing.assert_allclose(values, by_onnxruntime[name], rtol=1e-4, atol=1e-4 * float(np.abs(values).max()))


@pytest.mark.parametrize("engine", EngineName)
@pytest.mark.parametrize("batch_size", [1, 3, 7, 16])
def test_batches_and_padding_do_not_matter(engine: EngineName, batch_size: int, model: bytes, images: UInt8) -> None:
    one_by_one = Session(model, engine=engine)
    expected = np.concatenate([one_by_one.run(image[None])["logits"] for image in images])
    came = Session(model, engine=engine, batch_size=batch_size, streams=1).run(images)
    assert {name: len(values) for name, values in came.items()} == dict.fromkeys(OUTPUTS, len(images))
    np.testing.assert_allclose(came["logits"], expected, rtol=1e-4, atol=1e-5)


def test_only_the_outputs_asked_for_come(model: bytes, images: UInt8) -> None:
    assert set(Session(model).run(images, ("embedding",))) == {"embedding"}


@pytest.mark.parametrize("engine", EngineName)
def test_eight_threads_get_the_same_answers(engine: EngineName, model: bytes, images: UInt8) -> None:
    session = Session(model, engine=engine, batch_size=2, streams=2)
    expected = [session.run(image[None])["logits"] for image in images]
    jobs = [index % len(images) for index in range(160)]
    with ThreadPoolExecutor(8) as pool:
        came = list(pool.map(lambda index: session.run(images[index][None])["logits"], jobs))
    for index, logits in zip(jobs, came, strict=True):
        np.testing.assert_array_equal(logits, expected[index])


@pytest.mark.parametrize(
    "wrong",
    [
        np.zeros((1, 96, 95), np.uint8),
        np.zeros((96, 96), np.uint8),
        np.zeros((1, 96, 96), np.float32),
        np.zeros((1, 1, 96, 96), np.uint8),
        np.zeros((0, 96, 96), np.uint8),
    ],
    ids=lambda array: f"{array.dtype}{array.shape}",
)
def test_wrong_images_are_refused_by_name(wrong: UInt8, model: bytes) -> None:
    with pytest.raises(ValueError, match=r"Expected uint8 images \(N, 96, 96\), but got"):
        Session(model).run(wrong)


def test_auto_is_what_the_processor_has() -> None:
    assert best_precision() is (Precision.BF16 if HAS_BF16 else Precision.F32)
    assert best_precision(Precision.F32) is Precision.F32


@pytest.mark.skipif(HAS_BF16, reason="this processor has bf16, so nothing is refused")
def test_bf16_without_hardware_is_refused(model: bytes) -> None:
    with pytest.raises(SettingError, match=r"Precision bf16 was asked for, but this processor has none. Use f32"):
        Session(model, precision=Precision.BF16)


@pytest.mark.skipif(not HAS_BF16, reason="this processor has no bf16")
def test_bf16_is_near_f32(model: bytes, images: UInt8) -> None:
    exact, fast = (Session(model, precision=precision).run(images) for precision in (Precision.F32, Precision.BF16))
    assert not np.array_equal(exact["embedding"], fast["embedding"])
    np.testing.assert_allclose(exact["logits"], fast["logits"], atol=0.1)


def test_onnx_runtime_refuses_a_precision_that_it_has_not(model: bytes) -> None:
    with pytest.raises(SettingError, match="ONNX Runtime computes in f32 only, but bf16 was asked for"):
        Session(model, engine=EngineName.ONNXRUNTIME, precision=Precision.BF16)


@pytest.mark.parametrize(("name", "value"), [("batch_size", 0), ("batch_size", 1025), ("streams", 0), ("streams", -1)])
def test_numbers_out_of_range_are_refused(name: str, value: int, model: bytes) -> None:
    batch_size, streams = (value, None) if name == "batch_size" else (1, value)
    with pytest.raises(SettingError, match=rf"{name.replace('_size', ' size').rstrip('s')}.*but got {value}"):
        Session(model, batch_size=batch_size, streams=streams)


def graph_with(kind: int, shape: list[int | str], name: str = "image") -> bytes:
    """Return a graph that does nothing but cast its input."""
    graph = helper.make_graph(
        [helper.make_node("Cast", [name], ["logits"], to=TensorProto.FLOAT)],
        "graph",
        [helper.make_tensor_value_info(name, kind, shape)],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, shape)],
    )
    opset = helper.make_opsetid("", 17)
    model: onnx.ModelProto = helper.make_model(graph, opset_imports=[opset], ir_version=8)
    serialized: bytes = model.SerializeToString()
    return serialized


@pytest.mark.parametrize("engine", EngineName)
@pytest.mark.parametrize(
    "garbage",
    [
        b"",
        b"garbage",
        b"\x08\x08" * 300,
        graph_with(TensorProto.FLOAT, ["N", 3, 32, 32]),
        graph_with(TensorProto.UINT8, ["N", "height", "width"]),
        graph_with(TensorProto.UINT8, ["N", 32, 32], name="input"),
        graph_with(TensorProto.FLOAT, ["N", 32, 32]),
    ],
    ids=["nothing", "garbage", "fields", "colour", "any-size", "other-name", "float"],
)
def test_another_graph_is_refused_by_both(engine: EngineName, garbage: bytes) -> None:
    with pytest.raises(
        BundleError,
        match=r"Expected a graph with one input 'image' of uint8|graph cannot be read by O|graph is not ONNX",
    ):
        Session(garbage, engine=engine)


@pytest.mark.parametrize("engine", EngineName)
def test_half_a_graph_is_refused_by_both(engine: EngineName, model: bytes) -> None:
    with pytest.raises(BundleError, match="graph is not ONNX, or is damaged"):
        Session(model[: len(model) // 2], engine=engine)
