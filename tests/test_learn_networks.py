"""Networks whose weights are published under other names, and the class token with what each patch gave to it."""

from __future__ import annotations

import io
import pickle
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
import torchxrayvision
from safetensors.torch import save_file
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor
from transformers import Dinov2Config, Dinov2Model

from rentgen import bundle as bundles
from rentgen.data.download import Patience
from rentgen.engine.predictor import Predictor, measure_replay
from rentgen.errors import WeightsError
from rentgen.images.phantom import Finding, write_set
from rentgen.learn import weights as published
from rentgen.learn.backbones import load
from rentgen.learn.finetune import Films, FineTuning, find_stages, finetune
from rentgen.learn.head import Head
from rentgen.learn.networks import NETWORKS, Pooling, rename_dinov2, rename_open_clip
from rentgen.learn.recipe import load as load_recipe
from rentgen.learn.tokens import token_and_shares
from rentgen.learn.training import TrainingPlan, train
from rentgen.records import Precision

IMAGE = torch.arange(2 * 64 * 64, dtype=torch.int64).mul(7919).remainder(256).to(torch.uint8).view(2, 64, 64)


def small_dinov2() -> Any:  # noqa: ANN401
    """Return timm's form of a small DINOv2: layer scale, a class token, no registers."""
    build: Any = VisionTransformer
    return build(
        img_size=56,
        patch_size=14,
        embed_dim=48,
        depth=3,
        num_heads=4,
        num_classes=0,
        init_values=1e-5,
        dynamic_img_size=True,
    ).eval()


@pytest.mark.parametrize("spelling", ["published", "transformers"])
def test_dinov2_of_hugging_face_gives_the_same_tokens(spelling: str) -> None:
    torch.manual_seed(0)
    settings = Dinov2Config(
        hidden_size=48, num_hidden_layers=3, num_attention_heads=4, image_size=56, patch_size=14, layerscale_value=0.7
    )
    theirs: Any = Dinov2Model(settings)
    theirs.eval()
    state = dict(theirs.state_dict())
    if spelling == "published":
        names = {f"attention.{part[0]}_proj": f"attention.attention.{part}" for part in ("query", "key", "value")}
        names["attention.o_proj"] = "attention.output.dense"
        for new, old in names.items():
            state = {key.replace(new, old): value for key, value in state.items()}
        assert any("attention.attention.query" in key for key in state)
    ours = small_dinov2()
    ours.load_state_dict(rename_dinov2(state), strict=True)
    images = torch.randn(2, 3, 56, 56)
    with torch.inference_mode():
        expected = theirs(images).last_hidden_state
        torch.testing.assert_close(ours.forward_features(images), expected, rtol=1e-4, atol=1e-4)
        token, _ = token_and_shares(ours, images, 1)
    torch.testing.assert_close(token, expected[:, 0], rtol=1e-4, atol=1e-4)


def test_rad_dino_takes_a_file_with_the_published_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = timm.create_model("vit_base_patch14_dinov2", num_classes=0)
    theirs: dict[str, Tensor] = {}
    plain = {
        "cls_token": "embeddings.cls_token", "pos_embed": "embeddings.position_embeddings",
        "patch_embed.proj.weight": "embeddings.patch_embeddings.projection.weight",
        "patch_embed.proj.bias": "embeddings.patch_embeddings.projection.bias",
        "norm.weight": "layernorm.weight", "norm.bias": "layernorm.bias",
    }  # fmt: skip
    for key, value in base.state_dict().items():
        if key in plain:
            theirs[plain[key]] = value
            continue
        _, number, rest = key.split(".", 2)
        start = f"encoder.layer.{number}."
        if rest.startswith("attn.qkv"):
            for part, piece in zip(("query", "key", "value"), value.chunk(3), strict=True):
                theirs[f"{start}attention.attention.{part}.{rest.rsplit('.', 1)[1]}"] = piece.contiguous()
        else:
            for old, new in (("attn.proj", "attention.output.dense"), ("ls1.gamma", "layer_scale1.lambda1"),
                             ("ls2.gamma", "layer_scale2.lambda1")):  # fmt: skip
                rest = rest.replace(old, new)
            theirs[start + rest] = value
    theirs["embeddings.mask_token"] = torch.zeros(1, 768)
    save_file(theirs, tmp_path / "model.safetensors")
    backbone = load("rad-dino", weights=tmp_path / "model.safetensors", size=(56, 56))
    assert backbone.pooling is Pooling.TOKEN
    assert backbone.features == 768
    assert float(backbone.mean.flatten()[0]) == pytest.approx(0.5307 * 255)
    # Published at 518 pixels; its position embeddings are fitted to the size that is asked for.
    assert backbone.grid == (4, 4)


def test_biomedclip_is_the_trunk_of_its_image_tower(tmp_path: Path) -> None:
    trunk = timm.create_model("vit_base_patch16_224", num_classes=0).eval()
    state = {f"visual.trunk.{key}": value for key, value in trunk.state_dict().items()}
    state |= {"visual.head.proj.weight": torch.zeros(512, 768), "text.proj.weight": torch.zeros(2, 2)}
    assert rename_open_clip(state).keys() == trunk.state_dict().keys()
    torch.save(state, tmp_path / "open_clip_pytorch_model.bin")
    backbone = load("biomedclip", weights=tmp_path / "open_clip_pytorch_model.bin")
    image = IMAGE.repeat(1, 4, 4)[:, :224, :224]
    with torch.inference_mode():
        features, _ = backbone.embed(image)
        grey = (image.unsqueeze(1).float().expand(-1, 3, -1, -1) - backbone.mean) / backbone.std
        torch.testing.assert_close(features, trunk(grey), rtol=1e-4, atol=1e-4)


@pytest.fixture(scope="module")
def xrv() -> Any:  # noqa: ANN401
    """Return a TorchXRayVision DenseNet with drawn weights."""
    torch.manual_seed(1)
    return torchxrayvision.models.DenseNet(weights=None, num_classes=18).eval()


@pytest.mark.parametrize("kind", ["state", "whole", "legacy"])
def test_torchxrayvision_gives_the_same_features(xrv: Any, kind: str, tmp_path: Path) -> None:  # noqa: ANN401
    path = tmp_path / "densenet.pt"
    if kind == "state":
        torch.save(xrv.state_dict(), path)
    else:
        # As its releases are saved: the module whole.
        torch.save(xrv, path, _use_new_zipfile_serialization=kind == "whole")
    if kind == "legacy":
        with pytest.raises(WeightsError, match="safe to read"):
            load("xrv-densenet121", weights=path)
        return
    backbone = load("xrv-densenet121", weights=path)
    assert backbone.channels == 1
    image = IMAGE.repeat(1, 4, 4)[:, :224, :224]
    normalised = torch.from_numpy(torchxrayvision.datasets.normalize(image.numpy().astype("float32"), 255))[:, None]
    with torch.inference_mode():
        torch.testing.assert_close(backbone.embed(image)[0], xrv.features2(normalised), rtol=1e-4, atol=1e-4)


class _Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return (exec, ("raise SystemExit(7)",))


def test_a_module_that_was_saved_whole_runs_nothing(xrv: Any, tmp_path: Path) -> None:  # noqa: ANN401
    xrv.hidden_trick = _Evil()
    try:
        torch.save(xrv, tmp_path / "evil.pt")
    finally:
        del xrv.hidden_trick
    with pytest.raises(WeightsError, match="safe to read"):
        published.read(tmp_path / "evil.pt")
    (tmp_path / "plain.pt").write_bytes(pickle.dumps(_Evil()))
    with pytest.raises(WeightsError, match="safe to read"):
        published.read(tmp_path / "plain.pt")
    shell = io.BytesIO()
    torch.save({"weight": torch.zeros(2)}, shell)
    (tmp_path / "fine.pt").write_bytes(shell.getvalue())
    assert published.read(tmp_path / "fine.pt").keys() == {"weight"}


def test_shares_are_what_patches_gave_to_the_class_token() -> None:
    """The derivative of a score by how much is taken of each patch, with MLP and norm's divisor held, by autograd."""
    torch.manual_seed(2)
    network = small_dinov2()
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    images = torch.randn(2, 3, 56, 56)
    direction = torch.randn(48)
    with torch.no_grad():
        tokens = network.norm_pre(network._pos_embed(network.patch_embed(images)))
        for block in list(network.blocks)[:-1]:
            tokens = block(tokens)
    last: Any = network.blocks[-1]
    amounts = torch.ones(2, tokens.shape[1], requires_grad=True)
    inside = last.norm1(tokens)
    query, key, value = (part.unflatten(-1, (4, 12)).transpose(1, 2) for part in last.attn.qkv(inside).chunk(3, -1))
    attention = (query @ key.transpose(-2, -1) / 12**0.5).softmax(-1)
    taken = ((attention[:, :, 0] * amounts[:, None]).unsqueeze(-2) @ value).transpose(1, 2).flatten(1)
    state = tokens[:, 0] + last.ls1(last.attn.proj(taken))
    state = state + last.ls2(last.mlp(last.norm2(state))).detach()
    divisor = (state.var(-1, correction=0, keepdim=True) + network.norm.eps).sqrt().detach()
    norm: Any = network.norm
    normed = norm.weight * (state - state.mean(-1, keepdim=True)) / divisor + norm.bias
    (expected,) = torch.autograd.grad((normed @ direction).sum(), amounts)
    with torch.no_grad():
        token, shares = token_and_shares(network, images, 1)
    torch.testing.assert_close(token, normed.detach(), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(shares @ direction, expected[:, 1:], rtol=1e-3, atol=1e-4)


def test_features_are_what_timm_gives_for_the_class_token() -> None:
    backbone = load("deit_tiny_distilled_patch16_224", weights="random", size=(64, 64), pooling="token")
    plain = load("deit_tiny_distilled_patch16_224", weights="random", size=(64, 64), pooling="mean")
    assert backbone.fingerprint != plain.fingerprint
    assert backbone.weights_sha256 == plain.weights_sha256
    with torch.inference_mode():
        features, shares = backbone.embed(IMAGE)
        network: Any = backbone.network
        grey = (IMAGE.unsqueeze(1).float().expand(-1, 3, -1, -1) - backbone.mean) / backbone.std
        torch.testing.assert_close(features, network.forward_features(grey)[:, 0], rtol=1e-4, atol=1e-5)
    assert shares.shape == (2, 192, 4, 4)


@pytest.mark.parametrize("name", ["test_resnet", "swin_tiny_patch4_window7_224"])
def test_what_has_no_class_token_says_so(name: str) -> None:
    with pytest.raises(WeightsError, match="class token"):
        load(name, weights="random", size=(64, 64), pooling="token")


@pytest.mark.parametrize("name", NETWORKS)
def test_every_row_is_one_that_timm_builds(name: str) -> None:
    row = NETWORKS[name]
    assert timm.is_model(row.timm)
    config = timm.get_pretrained_cfg(row.timm)
    assert config is not None
    if not (row.repository or row.url or row.package):
        # timm's own weights: its licence and size are ours.
        assert row.licence.lower() == config.license
        assert row.side in (config.input_size[1], config.input_size[2])
    assert row.licence
    assert row.taught


@contextmanager
def _served(folder: Path) -> Iterator[str]:
    class Handler(SimpleHTTPRequestHandler):
        def __init__(self, *arguments: Any, **settings: Any) -> None:  # noqa: ANN401
            super().__init__(*arguments, directory=str(folder), **settings)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def test_a_release_is_fetched_once(
    xrv: Any,  # noqa: ANN401
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    row = NETWORKS["xrv-densenet121"]
    (tmp_path / "release").mkdir()
    torch.save(xrv, tmp_path / "release" / row.file)
    with _served(tmp_path / "release") as url:
        monkeypatch.setitem(NETWORKS, row.name, replace(row, url=url))
        first = load("xrv-densenet121", size=(64, 64))
    again = load("xrv-densenet121", size=(64, 64))
    assert first.fingerprint == again.fingerprint
    assert first.weights == f"release, {row.file}"


def test_what_cannot_be_reached_says_what_to_bring(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("rentgen.learn.weights.PATIENCE", Patience(timeout_s=0.5, attempts=1))
    monkeypatch.setattr("rentgen.learn.weights._can_reach_hub", lambda: False)
    row = NETWORKS["xrv-densenet121"]
    monkeypatch.setitem(NETWORKS, row.name, replace(row, url="http://127.0.0.1:9/"))
    with pytest.raises(WeightsError, match=r"--weights FILE \(http://127\.0\.0\.1:9/nih.*best\.pt"):
        load("xrv-densenet121")
    with pytest.raises(WeightsError, match=r"--weights FILE \(model\.safetensors of microsoft/rad-dino"):
        load("rad-dino")


def test_a_class_token_goes_the_whole_road(tmp_path: Path) -> None:
    """Training itself holds graph and maps against torch's autograd, and the bundle's golden vectors are replayed."""
    write_set(tmp_path / "films", films=44, rng=np.random.default_rng(4), findings=(Finding.NORMAL, Finding.EFFUSION))
    recipe = load_recipe("fine-tune").change("backbone", name="test_vit", pooling="token")
    recipe = recipe.change("preprocessing", height=64, width=64).change("finetune", epochs=1, frozen_stages=0)
    recipe = recipe.change("head", epochs=4).change("augment", views=0).change("data", validation=0.3, test=0.2)
    made = train(
        TrainingPlan(
            data=tmp_path / "films",
            out=tmp_path / "token.rentgen",
            recipe=recipe,
            cache=tmp_path / "cache",
            weights="random",
            probed=False,
        )
    )
    bundle = bundles.read(tmp_path / "token.rentgen")
    assert bundle.card.backbone["pooling"] == "token"
    predictor = Predictor(bundle, precision=Precision.F32)
    assert measure_replay(bundle, predictor.session)["logits"] < 1e-3
    maps = predictor.run(np.zeros((1, 64, 64), np.uint8), ("activation_maps",))["activation_maps"]
    assert maps.shape == (1, 2, 4, 4)
    assert made.test is not None


@pytest.mark.filterwarnings("ignore:torch.searchsorted", "ignore:Using a non-tuple sequence")
@pytest.mark.parametrize(
    "name", ["test_vit", "deit_tiny_patch16_224", "swin_tiny_patch4_window7_224", "test_convnext", "xrv-densenet121"]
)
def test_each_family_is_trained_on(name: str, tmp_path: Path) -> None:
    backbone = load(name, weights="random", size=(64, 64))
    rng = np.random.default_rng(0)
    head = Head(
        rng.normal(0, 0.1, (8, backbone.features)).astype(np.float32),
        np.zeros(8, np.float32),
        rng.normal(0, 0.1, (2, 8)).astype(np.float32),
        np.zeros(2, np.float32),
    )
    films = Films(IMAGE.numpy().repeat(4, 0), np.arange(8) % 2)
    recipe = load_recipe("fine-tune")
    task = FineTuning(
        backbone=backbone,
        head=head,
        parts=dict.fromkeys(("train", "validation", "stress"), films),
        settings=replace(recipe.finetune, epochs=2, batch_size=4, precision="f32", unfreeze_epochs=0.5),
        shift=recipe.shift,
        smooth_px=0.8,
        dropout=0.1,
        identity=name,
        checkpoint=tmp_path / "state.pt",
    )
    tuned, _, history = finetune(task)
    assert len(history.parts["train"]) == 2
    before, after = backbone.network.state_dict(), tuned.network.state_dict()
    moved = {key for key, value in after.items() if not torch.equal(value, before[key])}
    stages = find_stages(backbone.network)
    top = max(stages.values())
    # The lowest stage is frozen by the recipe; the high ones have moved, but for a norm after the pooling.
    assert not any(stages.get(key) == 0 for key in moved)
    assert any(stages.get(key, 0) >= top - 1 for key in moved)
