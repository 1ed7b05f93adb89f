"""What each cloud tells the container, for serving and for training."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rentgen.deploy.environment import Platform, find_bundles, find_platform, read_serve, serve_options
from rentgen.deploy.job import MAX_FAILURE, read_train, reason
from rentgen.errors import BundleError, DataError, RentgenError, SettingError

VERTEX = {
    "AIP_HTTP_PORT": "9090", "AIP_ENDPOINT_ID": "7", "AIP_DEPLOYED_MODEL_ID": "9", "AIP_STORAGE_URI": "gs://b/model",
}  # fmt: skip


def put(path: Path, text: str = "") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def test_vertex_says_port_routes_and_place(tmp_path: Path) -> None:
    found = read_serve(VERTEX | {"AIP_HEALTH_ROUTE": "/health", "AIP_PREDICT_ROUTE": "/predict"}, tmp_path)
    assert (found.platform, found.port) == (Platform.VERTEX, 9090)
    assert (found.health, found.predict, found.storage_uri) == ("/health", "/predict", "gs://b/model")
    assert found.models == ()


def test_vertex_without_routes_means_its_defaults(tmp_path: Path) -> None:
    found = read_serve(VERTEX, tmp_path)
    assert found.health == "/v1/endpoints/7/deployedModels/9"
    assert found.predict == "/v1/endpoints/7/deployedModels/9:predict"


def test_without_any_platform_the_shipped_bundle_is_served_on_8080(tmp_path: Path) -> None:
    found = read_serve({"PORT": "1"}, tmp_path)
    assert (found.platform, found.port, found.models, found.health) == (Platform.LOCAL, 8080, ("pneumonia",), None)
    options = serve_options(found, {})
    assert options == {"host": "0.0.0.0", "port": 8080, "models": ("pneumonia",)}  # noqa: S104


def test_the_model_directory_is_searched_in_the_contracts_order(tmp_path: Path) -> None:
    given = put(tmp_path / "given/deep/a.rentgen").parent.parent
    mounted = put(tmp_path / "opt/ml/model/x/b.rentgen")
    named = put(tmp_path / "azure/c.rentgen")
    standing = put(tmp_path / "var/azureml-app/azureml-models/xr/1/x/d.rentgen")
    environ = {"AIP_STORAGE_URI": "gs://b/m", "AZUREML_MODEL_DIR": str(named.parent)}
    assert read_serve(environ, tmp_path, model_dir=given).models == (str(given / "deep/a.rentgen"),)
    assert read_serve(environ, tmp_path).storage_uri == "gs://b/m"
    del environ["AIP_STORAGE_URI"]
    assert read_serve(environ, tmp_path).models == (str(mounted),)
    mounted.unlink()
    with pytest.raises(BundleError, match="holds no bundle"):
        read_serve(environ, tmp_path)
    mounted.parent.rmdir()
    mounted.parent.parent.rmdir()
    assert read_serve(environ, tmp_path).models == (str(named),)
    assert read_serve({}, tmp_path).models == (str(standing),)


def test_what_a_person_names_goes_before_what_the_platform_mounts(tmp_path: Path) -> None:
    (tmp_path / "opt/ml/model").mkdir(parents=True)
    assert read_serve({"RENTGEN_MODELS": "pneumonia, b.rentgen"}, tmp_path).models == ("pneumonia", "b.rentgen")
    assert read_serve({"RENTGEN_MODELS": "gs://b/m"}, tmp_path).storage_uri == "gs://b/m"


def test_several_bundles_are_all_served_and_links_are_followed_once(tmp_path: Path) -> None:
    real = put(tmp_path / "real/one.rentgen").parent
    put(tmp_path / "real/.hidden.rentgen")
    folder = tmp_path / "mounted"
    folder.mkdir()
    (folder / "link").symlink_to(real, target_is_directory=True)
    (real / "loop").symlink_to(folder, target_is_directory=True)
    put(folder / "two.rentgen")
    assert [path.name for path in find_bundles(folder)] == ["one.rentgen", "two.rentgen"]
    with pytest.raises(BundleError, match="there is none"):
        find_bundles(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("environ", "platform"),
    [
        ({"AIP_MODE": "PREDICTION"}, Platform.VERTEX),
        ({"SAGEMAKER_BATCH": "true"}, Platform.SAGEMAKER),
        ({"TRAINING_JOB_NAME": "x"}, Platform.SAGEMAKER),
        ({"AZUREML_RUN_ID": "x"}, Platform.AZURE),
        ({"PATH": "/bin"}, Platform.LOCAL),
    ],
)
def test_the_platform_is_known_by_its_variables(environ: dict[str, str], platform: Platform, tmp_path: Path) -> None:
    assert find_platform(environ, tmp_path) is platform


def test_on_a_platform_nobody_is_asked_and_nothing_kept_unless_a_person_says_so(tmp_path: Path) -> None:
    found = read_serve({"SAGEMAKER_BIND_TO_PORT": "8081", "SAGEMAKER_MAX_PAYLOAD_IN_MB": "500"}, tmp_path)
    options = serve_options(found, {})
    assert (options["auth"], options["store"], options["port"]) == ("platform", False, 8081)
    assert options["max_body_mb"] == pytest.approx(550)
    said = serve_options(found, {"RENTGEN_AUTH": "keys", "RENTGEN_DATABASE": "sqlite:///x", "RENTGEN_MAX_BODY_MB": "1"})
    assert not {"auth", "store", "max_body_mb"} & set(said)


def test_cloud_runs_port_is_taken_only_there(tmp_path: Path) -> None:
    assert read_serve({"K_SERVICE": "x", "PORT": "5000"}, tmp_path).port == 5000
    assert read_serve({"RENTGEN_PORT": "5001", "PORT": "5000"}, tmp_path).port == 5001


@pytest.mark.parametrize(
    ("environ", "message"),
    [
        ({"AIP_HTTP_PORT": "80a"}, "AIP_HTTP_PORT to be a port from 1 to 65535, but got '80a'"),
        ({"SAGEMAKER_BIND_TO_PORT": "70000"}, "SAGEMAKER_BIND_TO_PORT"),
        ({"AIP_STORAGE_URI": "s3://b/m"}, "AIP_STORAGE_URI to be gs://"),
        ({"AIP_HEALTH_ROUTE": "health"}, "AIP_HEALTH_ROUTE to be a path"),
        ({"AIP_PREDICT_ROUTE": "/a/{b}"}, "AIP_PREDICT_ROUTE to be a path"),
        ({"SAGEMAKER_MAX_CONCURRENT_TRANSFORMS": "-1"}, "a whole number"),
    ],
)
def test_a_wrong_variable_is_named(environ: dict[str, str], message: str, tmp_path: Path) -> None:
    with pytest.raises(SettingError, match=message):
        read_serve(environ, tmp_path)


def sagemaker(root: Path, **files: object) -> Path:
    (root / "opt/ml/input/data/train").mkdir(parents=True)
    for name, value in files.items():
        put(root / f"opt/ml/input/config/{name}.json", json.dumps(value))
    return root


def test_sagemakers_files_become_options_and_places(tmp_path: Path) -> None:
    hyper = {
        "epochs": "7",
        "recipe": '"fine-tune"',
        "patient-pattern": "^(P\\d+)_",
        "sagemaker_region": '"x"',
        "_tuning": "y",
    }
    channels = {name: {"TrainingInputMode": "File"} for name in ("train", "validation", "config")}
    root = sagemaker(tmp_path, hyperparameters=hyper, inputdataconfig=channels)
    found = read_train({"TRAINING_JOB_NAME": "x"}, root)
    assert found.options == {"epochs": 7, "recipe": "fine-tune", "patient_pattern": "^(P\\d+)_"}
    assert found.sources == {part: str(root / "opt/ml/input/data" / part) for part in ("train", "validation")}
    assert found.out == str(root / "opt/ml/model/model.rentgen")
    assert found.report == str(root / "opt/ml/model/model-report")
    assert found.checkpoints == str(root / "opt/ml/checkpoints")
    assert found.failure == root / "opt/ml/output/failure"
    assert found.leads


def test_of_several_machines_one_trains(tmp_path: Path) -> None:
    hosts = {"current_host": "algo-2", "hosts": ["algo-2", "algo-1"]}
    assert not read_train({}, sagemaker(tmp_path, resourceconfig=hosts)).leads


def test_a_lone_channel_is_the_data_whatever_its_name(tmp_path: Path) -> None:
    (tmp_path / "opt/ml/input/data/films").mkdir(parents=True)
    assert read_train({}, tmp_path).sources == {"train": str(tmp_path / "opt/ml/input/data/films")}


def test_vertex_places_are_paths_where_buckets_are_mounted(tmp_path: Path) -> None:
    environ = {
        "AIP_MODEL_DIR": "gs://b/job/model/", "AIP_CHECKPOINT_DIR": "gs://b/job/checkpoints/",
        "AIP_TENSORBOARD_LOG_DIR": "gs://b/job/logs/", "AIP_TRAINING_DATA_URI": "gs://b/d/training-*",
        "AIP_TEST_DATA_URI": "gs://b/d/test-*", "AIP_DATA_FORMAT": "jsonl",
    }  # fmt: skip
    away = read_train(environ, tmp_path, ["--name", "xr", "--epochs=3"])
    assert away.out == "gs://b/job/model/xr.rentgen"
    assert away.sources == {"train": "gs://b/d/training-*", "test": "gs://b/d/test-*"}
    (tmp_path / "gcs").mkdir()
    here = read_train(environ, tmp_path, ["--data", "gs://b/films"])
    assert here.out == str(tmp_path / "gcs/b/job/model/model.rentgen")
    assert here.sources == {"train": str(tmp_path / "gcs/b/films")}
    assert here.logs == str(tmp_path / "gcs/b/job/logs/")


def test_azure_says_places_in_the_arguments_and_sweeps_in_variables(tmp_path: Path) -> None:
    environ = {"AZUREML_RUN_ID": "x", "AZUREML_PARAMETER_epochs": "5", "AZUREML_PARAMETER_films": "/mnt/films"}
    found = read_train(
        environ, tmp_path, ["--data", "/mnt/films", "--out=/mnt/out", "--seed", "2", "--cache", "/mnt/c"]
    )
    assert found.options == {"epochs": 5, "seed": 2}
    assert (found.out, found.checkpoints) == ("/mnt/out/model.rentgen", "/mnt/c")
    assert read_train(environ, tmp_path, ["--data=/d", "--out=/o/xr.rentgen"]).out == "/o/xr.rentgen"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--dat", "x"], "no option 'dat'.* Did you mean 'data'"),
        (["x"], "Expected --NAME VALUE"),
        (["--data"], "Expected --NAME VALUE"),
        (["--data=d", "--epochs", "ten"], "epochs to be a whole number, but got 'ten'"),
        (["--data=d", "--name", "../x"], "name to be letters"),
    ],
)
def test_a_wrong_argument_is_named(arguments: list[str], message: str, tmp_path: Path) -> None:
    with pytest.raises(SettingError, match=message):
        read_train({}, tmp_path, arguments)


def test_a_wrong_file_of_sagemaker_is_named(tmp_path: Path) -> None:
    root = sagemaker(tmp_path, inputdataconfig={"train": {"TrainingInputMode": "Pipe"}})
    with pytest.raises(SettingError, match="Pipe mode"):
        read_train({}, root)
    put(root / "opt/ml/input/config/hyperparameters.json", "[1]")
    with pytest.raises(SettingError, match=r"hyperparameters\.json to be a JSON object"):
        read_train({}, root)


def test_without_films_nothing_is_trained(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="Nobody says where the films are"):
        read_train({}, tmp_path)
    with pytest.raises(SettingError, match="AIP_DATA_FORMAT to be jsonl"):
        read_train({"AIP_TRAINING_DATA_URI": "gs://b/x", "AIP_DATA_FORMAT": "csv"}, tmp_path)


def test_a_failure_names_no_file() -> None:
    sources = {"train": "/opt/ml/input/data/train"}
    text = (
        "/opt/ml/input/data/train/t.csv: 2 rows name a file that is not there: row 2, /opt/ml/input/data/train/DOE "
        "JANE.png; row 3, /opt/ml/input/data/train/DOE.JOHN.png."
    )
    told = reason(RentgenError(text), sources)
    assert "DOE" not in told
    assert told.startswith("<train>/...: 2 rows name a file")
    assert len(reason(RentgenError("x" * 5000), sources)) == MAX_FAILURE
