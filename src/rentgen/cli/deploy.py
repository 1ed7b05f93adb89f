"""Commands about clouds: `rentgen deploy ...`."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer
from rich.markup import escape
from rich.table import Column, Table

from rentgen.cli.options import DataArgument, JsonOption, PatternOption, app, films_in
from rentgen.errors import RentgenError
from rentgen.terminal import err, open_text, out, write_json

if TYPE_CHECKING:
    from rentgen.deploy.plan import Plan
    from rentgen.deploy.vertex import Clients

deploy_app = typer.Typer(no_args_is_help=True, help="Clouds: check the contract, render files, call Vertex AI.")
vertex_app = typer.Typer(no_args_is_help=True, help="Call Vertex AI; needs the extra `gcp` and Google's credentials.")
app.add_typer(deploy_app, name="deploy")
deploy_app.add_typer(vertex_app, name="vertex")

Name = Annotated[str, typer.Option(help="Of model, endpoint and job.")]
Image = Annotated[str, typer.Option(help="The image that serves, in the cloud's own registry.")]
TrainImage = Annotated[str, typer.Option(help="The image that trains.")]
Project = Annotated[str, typer.Option(help="Of Google Cloud; the bucket's prefix elsewhere.")]
Region = Annotated[str, typer.Option(help="Of the cloud.")]
ModelPlace = Annotated[
    str, typer.Option("--model", help="The bundle's place: gs://..., s3://...tar.gz or azureml:NAME:VERSION.")
]
DataPlace = Annotated[str, typer.Option("--data", help="The films' place: gs://..., s3://... or azureml:...")]
OutputPlace = Annotated[str, typer.Option("--output", help="Where a job leaves what it made.")]
Machine = Annotated[str, typer.Option(help="Type of machine; a small one by default.")]
Gpu = Annotated[bool, typer.Option("--gpu", help="Ask for a GPU.")]
Tpu = Annotated[bool, typer.Option("--tpu", help="Ask for a TPU (training on Vertex AI only).")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print what would be sent; send nothing.")]
Recipe = Annotated[str, typer.Option(help="Of training, as `rentgen train` takes it.")]
EndpointOption = Annotated[str, typer.Option(help="Its id or whole resource name.")]
ApiEndpoint = Annotated[str | None, typer.Option(help="Address of the interface; the region's own by default.")]
_DEFAULT = {"image": "REGISTRY/rentgen:serve", "train_image": "REGISTRY/rentgen:train"}
_REGION = "europe-west4"


@deploy_app.command("check")
def deploy_check(
    target: Annotated[str, typer.Argument(help="vertex, sagemaker, azure or all.")] = "all",
    bundle: Annotated[str, typer.Option(metavar="FILE", help="A bundle to serve, by file or name.")] = "pneumonia",
    json_file: JsonOption = None,
    training: Annotated[bool, typer.Option(help="Look at training jobs, too; takes a minute or two.")] = True,
    entry: Annotated[
        str | None, typer.Option(metavar="COMMAND", help="Starts the container, in place of our own entry point.")
    ] = None,
) -> None:
    """Start the container's entry point as each cloud would and replay its contract; the exit code is 1 on a breach."""
    from rentgen.deploy.check import check, passed

    command = None if entry is None else shlex.split(entry)
    results = []
    for result in check(target, bundle=bundle, command=command, training=training):
        results.append(result)
        word = {True: "ok", False: "BREACH", None: "not looked at"}[result.passed]
        err.print(f"{result.platform}: {result.check}: {word}", markup=False, highlight=False, style="dim")
    if json_file is not None:
        write_json({"passed": passed(results), "results": [result.to_dict() for result in results]}, json_file)
    if json_file != "-":
        table = Table(Column("cloud", no_wrap=True), "check", "expected", "measured", "verdict", title="Contracts")
        words = {True: "[green]passes[/]", False: "[bold red]breach[/]", None: "[yellow]not looked at[/]"}
        for result in results:
            cells = (result.platform, result.check, result.expected, result.measured)
            table.add_row(*(escape(str(cell)) for cell in cells), words[result.passed])
        out.print(table)
    if not passed(results):
        raise typer.Exit(1)


@deploy_app.command("render")
def deploy_render(
    target: Annotated[
        str,
        typer.Argument(
            help="vertex, vertex-job, vertex-vm, aws-vm, sagemaker, azure, cloud-run, kubernetes, ray-gke or "
            "ray-vertex."
        ),
    ],
    directory: Annotated[Path, typer.Option("--out", metavar="DIR", help="Where the files go.")],
    name: Name = "rentgen",
    image: Image = _DEFAULT["image"],
    train_image: TrainImage = _DEFAULT["train_image"],
    project: Project = "my-project",
    region: Region = _REGION,
    model: ModelPlace = "",
    data: DataPlace = "",
    output: OutputPlace = "",
    role: Annotated[
        str, typer.Option(help="That SageMaker takes, arn:aws:iam::...")
    ] = "arn:aws:iam::123456789012:role/rentgen",
    recipe: Recipe = "paper",
    machine: Machine = "",
    gpu: Gpu = False,
    tpu: Tpu = False,
    workers: Annotated[int, typer.Option(help="Machines of a Ray cluster that read films, at most.")] = 4,
) -> None:
    """Write what a cloud's own tools take: requests, YAML and the script that hands them over.

    `ray-gke` and `ray-vertex` are clusters for `--ray`: how large they should be says `rentgen cost`.
    """
    from rentgen.deploy.plan import Plan
    from rentgen.deploy.render import Target, render, write
    from rentgen.errors import SettingError

    if target not in list(Target):
        raise SettingError(f"Expected {', '.join(Target)}, but got {target!r}.")
    plan = Plan(
        name, image, train_image, project, region, model, data, output, role, recipe, machine, gpu, tpu, workers
    )
    for path in write(render(Target(target), plan), directory):
        out.print(str(path), markup=False, highlight=False, soft_wrap=True)


@deploy_app.command("automl-csv")
def deploy_automl(
    data: DataArgument,
    prefix: Annotated[str, typer.Option("--gs-prefix", metavar="gs://...", help="Where DATA lies in Cloud Storage.")],
    destination: Annotated[str, typer.Option("--out", metavar="FILE", help="- for standard output.")] = "-",
    seed: Annotated[int, typer.Option(help="Of the split.", min=0)] = 0,
    patient_pattern: PatternOption = None,
) -> None:
    """Write the import file of Vertex AI's AutoML (ML_USE,URI,LABEL), with the films divided by patient."""
    from rentgen.data.listing import list_images
    from rentgen.data.split import split
    from rentgen.deploy.automl import write

    listing = split(list_images(data, patient_pattern=patient_pattern), rng=np.random.default_rng(seed))
    with open_text(destination) as stream:
        number = write(listing, prefix, stream)
    err.print(f"{number} films", highlight=False)


@vertex_app.command("upload")
def vertex_upload(
    project: Project,
    model: ModelPlace = "",
    name: Name = "rentgen",
    image: Image = _DEFAULT["image"],
    region: Region = _REGION,
    dry_run: DryRun = False,
    api_endpoint: ApiEndpoint = None,
) -> None:
    """Upload a model: the image, and the place of the bundle."""
    from rentgen.deploy import plan as plans
    from rentgen.deploy.vertex import upload

    plan = plans.Plan(name=name, image=image, project=project, region=region, model=model)
    if _shown(dry_run, {"model": plans.vertex_model(plan)}):
        return
    out.print(f"Model: {upload(_clients(plan, api_endpoint), plan)}", markup=False, highlight=False, soft_wrap=True)


@vertex_app.command("deploy")
def vertex_deploy(
    model: Annotated[str, typer.Option(help="Its id or whole resource name, as upload prints it.")],
    project: Project,
    endpoint: Annotated[str | None, typer.Option(help="An endpoint that is there; a new one by default.")] = None,
    name: Name = "rentgen",
    region: Region = _REGION,
    machine: Machine = "",
    gpu: Gpu = False,
    dry_run: DryRun = False,
    api_endpoint: ApiEndpoint = None,
) -> None:
    """Put a model on an endpoint; it costs from then on until `undeploy`."""
    from rentgen.deploy import plan as plans
    from rentgen.deploy.vertex import deploy, resource

    plan = plans.Plan(name=name, project=project, region=region, machine=machine, gpu=gpu)
    if _shown(dry_run, plans.vertex_deployed(plan, resource(plan, "models", model))):
        return
    place = deploy(_clients(plan, api_endpoint), plan, model, endpoint=endpoint)
    out.print(f"Endpoint: {place}", markup=False, highlight=False, soft_wrap=True)


@vertex_app.command("train")
def vertex_train(
    data: DataPlace,
    output: OutputPlace,
    project: Project,
    name: Name = "rentgen",
    train_image: TrainImage = _DEFAULT["train_image"],
    region: Region = _REGION,
    recipe: Recipe = "paper",
    machine: Machine = "",
    gpu: Gpu = False,
    tpu: Tpu = False,
    wait: Annotated[bool, typer.Option(help="Until the job ends.")] = True,
    dry_run: DryRun = False,
    api_endpoint: ApiEndpoint = None,
) -> None:
    """Submit a training job; the bundle appears in OUTPUT/model/."""
    from rentgen.deploy import plan as plans
    from rentgen.deploy.vertex import train

    plan = plans.Plan(
        name=name, train_image=train_image, project=project, region=region, data=data, output=output, recipe=recipe,
        machine=machine, gpu=gpu, tpu=tpu,
    )  # fmt: skip
    if _shown(dry_run, plans.vertex_job(plan)):
        return
    job = train(_clients(plan, api_endpoint), plan, wait=wait, progress=lambda state: err.print(state, style="dim"))
    out.print(f"Job: {job}", markup=False, highlight=False, soft_wrap=True)


@vertex_app.command("predict")
def vertex_predict(
    films: Annotated[list[Path], typer.Argument(metavar="PATH...", help="Films, or folders of films.")],
    endpoint: EndpointOption,
    project: Project,
    region: Region = _REGION,
    api_endpoint: ApiEndpoint = None,
) -> None:
    """Ask an endpoint about films; one JSON object a line."""
    from rentgen.deploy.plan import Plan
    from rentgen.deploy.vertex import predict

    plan = Plan(project=project, region=region)
    paths = films_in(films)
    answers = predict(_clients(plan, api_endpoint), plan, endpoint, paths)
    failed = 0
    for path, answer in zip(paths, answers, strict=True):
        failed += "error" in answer
        # JSON lines: rich would fold them.
        print(json.dumps({"path": str(path)} | answer, ensure_ascii=False), file=sys.stdout, flush=True)  # noqa: T201
    if failed:
        raise RentgenError(f"{failed} of {len(paths)} films could not be read there.")


@vertex_app.command("undeploy")
def vertex_undeploy(
    endpoint: EndpointOption,
    project: Project,
    region: Region = _REGION,
    api_endpoint: ApiEndpoint = None,
) -> None:
    """Take every model off an endpoint and delete the endpoint; the uploaded models stay."""
    from rentgen.deploy.plan import Plan
    from rentgen.deploy.vertex import undeploy

    plan = Plan(project=project, region=region)
    number = undeploy(_clients(plan, api_endpoint), plan, endpoint)
    out.print(f"{number} models taken off, endpoint deleted.", highlight=False)


def _clients(plan: Plan, api_endpoint: str | None) -> Clients:
    from rentgen.deploy.vertex import connect

    if api_endpoint is None:
        return connect(plan.region)
    # Another address than Google's is a stand-in: the machine's credentials are not for it.
    from google.auth.credentials import AnonymousCredentials

    # google-auth is typed, this constructor is not.
    return connect(plan.region, api_endpoint=api_endpoint, credentials=AnonymousCredentials())  # type: ignore[no-untyped-call]


def _shown(dry_run: bool, request: Mapping[str, Any]) -> bool:
    """Print a request where that is all that is wanted, and return whether it is."""
    if dry_run:
        # JSON: rich would fold it.
        print(json.dumps(request, indent=2))  # noqa: T201
    return dry_run
