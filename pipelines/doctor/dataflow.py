"""Dataflow's options: what it must be given, and what it refuses only minutes after a job was submitted."""

import re
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from pipelines.doctor.finding import Finding, error, warning

if TYPE_CHECKING:  # Beam is slow to load
    from pipelines.runners.options import Understood

ACCELERATOR = "worker_accelerator="
"""Start of the service option that asks for GPUs."""

FAMILIES = {
    "nvidia-l4": "g2-",
    "nvidia-tesla-a100": "a2-highgpu-",
    "nvidia-a100-80gb": "a2-ultragpu-",
    "nvidia-h100-80gb": "a3-highgpu-",
    "nvidia-tesla-t4": "n1-",
    "nvidia-tesla-v100": "n1-",
    "nvidia-tesla-p100": "n1-",
    "nvidia-tesla-p4": "n1-",
}
"""GPU -> machine types that it can be attached to, as Compute Engine documents them; others are not judged."""

IMAGE = "one built from deploy/dataflow/Dockerfile: --sdk_container_image=... (make: IMAGE=...)"


def look(asked: "Understood") -> Iterator[Finding]:
    """What a job of Dataflow lacks, and what it cannot have together."""
    try:
        metadata.distribution("google-cloud-dataflow-client")
    except metadata.PackageNotFoundError:
        yield error("dataflow", "its client is not installed", "pip install 'fastslow[dataflow,gcs]'")
    missing = [name for name in ("project", "region", "temp_location") if not asked.values[name]]
    if missing:
        named = " ".join(f"--{name}=..." for name in missing)
        yield error("dataflow", f"missing: {', '.join(missing)}", named)
    for name in ("temp_location", "staging_location"):
        place = asked.values[name]
        if place and not re.match("gs://[^/]+/.", str(place)):
            yield error("dataflow", f"--{name}={place}", "a folder of a bucket: gs://BUCKET/FOLDER")
    if asked.values["environment_type"]:
        kind = asked.values["environment_type"]
        yield error("dataflow", f"--environment_type={kind}: its workers are containers", "leave it out")
    yield from _code(asked)


def _code(asked: "Understood") -> Iterator[Finding]:
    """Workers need libraries from an image, and our code from there or by a package that is sent along."""
    from pipelines.runners.dataflow import own_package

    image = asked.values["sdk_container_image"] or asked.values["worker_harness_container_image"]
    if not image and not asked.values["requirements_file"]:
        yield error("workers", "no --sdk_container_image: Beam's own has neither torch nor gcsfs", IMAGE)
    package = asked.values["setup_file"]
    if package and not Path(package).is_file():
        yield error("workers", f"--setup_file={package}: no such file", "leave it out: a checkout sends its own")
    if package is None and own_package() is None:
        yield warning(
            "workers",
            "fastslow is installed without its sources here and is not sent along: the image must have this version",
            "run from a checkout; or --setup_file= says that the image has it",
        )


def accelerators(asked: "Understood") -> Iterator[Finding]:
    """GPUs are asked for in one way, where that is understood, on machines that can have them, a model each."""
    dataflow = "Dataflow" in asked.runner
    hints = list(asked.values["resource_hints"] or ())
    services = [one for one in asked.values["dataflow_service_options"] or () if one.startswith(ACCELERATOR)]
    named = [hint for hint in hints if "accelerator" in hint]
    if hints and services:
        yield error(
            "accelerators",
            f"--resource_hint={hints[0]} and --dataflow_service_options={services[0]}: hints and a worker_accelerator "
            "exclude each other",
            "leave one of them out",
        )
    if len(services) > 1:
        yield error("accelerators", f"more than one: {' and '.join(services)}", "leave all but one of them out")
    if hints and asked.values["flexrs_goal"]:
        yield error("accelerators", "resource hints do not work with --flexrs_goal", "leave one of them out")
    if (named or services) and not dataflow:
        yield warning("accelerators", f"only Dataflow acts on {(named + services)[0]}", "leave it out")
    if dataflow and services:
        yield from _attached(asked, services[0].removeprefix(ACCELERATOR))
    yield from _processes(asked, bool(named or services))


def _attached(asked: "Understood", accelerator: str) -> Iterator[Finding]:
    """One accelerator, as `type:...;count:...;install-nvidia-driver`, and the machine that is to have it."""
    parts = dict(part.partition(":")[::2] for part in accelerator.split(";"))
    kind, machine = parts.get("type", ""), str(asked.values["machine_type"] or "")
    if not kind or not parts.get("count", "").isdecimal():
        yield error(
            "accelerators",
            f"worker_accelerator={accelerator}",
            "type:nvidia-l4;count:1;install-nvidia-driver, in quotes: a shell ends the command at a semicolon",
        )
    elif "install-nvidia-driver" not in parts:
        yield error(
            "accelerators", f"worker_accelerator={accelerator}: no driver", "add ;install-nvidia-driver, in quotes"
        )
    family = FAMILIES.get(kind)
    if family is not None and not machine.startswith(family):
        said = f"--machine_type={machine}" if machine else "the default machine type"
        yield error(
            "accelerators", f"{said} cannot have an {kind}", f"--machine_type={family}... (make: MACHINE={family}...)"
        )


def _processes(asked: "Understood", gpu: bool) -> Iterator[Finding]:
    if "Dataflow" not in asked.runner:
        return
    experiments = asked.values["experiments"] or ()
    shared = "no_use_multiple_sdk_containers" in experiments
    if shared and "use_multiple_sdk_containers" in experiments:
        yield error(
            "workers",
            "--experiments=use_multiple_sdk_containers and no_use_multiple_sdk_containers exclude each other",
            "leave one of them out",
        )
    if gpu and not shared:
        yield warning(
            "accelerators",
            "a process, and so a model, for every core of a worker",
            "--experiments=no_use_multiple_sdk_containers: one model a worker",
        )
