"""What deploy/schedule ships is taken by the tools it is for, and the commands in it by ours."""

import json
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from schemas.errors import BusyError, ConfigError, FastslowError, GateError

SCHEDULE = Path(__file__).resolve().parents[2] / "deploy" / "schedule"
PROGRAM = "/opt/fastslow/.venv/bin/fastslow"
STATE = "/var/lib/fastslow"

NEEDS_A_PERSON = {ConfigError.exit_code, GateError.exit_code}
TRIED_AGAIN = {BusyError.exit_code, FastslowError.exit_code}


@pytest.fixture(scope="module")
def planning(make_command) -> Path:
    """The command, held to a dry run."""
    return make_command("--dry-run")


@pytest.fixture
def state(tmp_path) -> Path:
    """What stands for /var/lib/fastslow."""
    (tmp_path / "state" / "metrics").mkdir(parents=True)
    return tmp_path / "state"


def stages(out: str) -> list[str]:
    """Of the plan that a dry run prints."""
    return [step["stage"] for step in json.loads(out.splitlines()[0])]


def settings(unit: str) -> list[tuple[str, str]]:
    """Keys and values of a unit file, in order."""
    text = (SCHEDULE / "systemd" / unit).read_text().replace("\\\n", " ")
    return [(key, value) for key, value in re.findall(r"^(\w+)=(.*)$", text, re.MULTILINE)]


def systemd(*arguments: str) -> subprocess.CompletedProcess[str]:
    program = shutil.which("systemd-analyze")
    if program is None:
        pytest.skip("systemd-analyze is not installed (Debian: apt-get install systemd)")
    return subprocess.run([program, *arguments], capture_output=True, text=True, check=False)


@pytest.fixture
def units(tmp_path, planning) -> Path:
    """The units with a program that is there."""
    for path in (SCHEDULE / "systemd").glob("*@.*"):
        (tmp_path / path.name).write_text(path.read_text().replace(PROGRAM, str(planning)))
    return tmp_path


def test_systemd_takes_the_units(units):
    done = systemd("verify", "--man=no", *(str(path) for path in units.glob("*@.*")))
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    ("unit", "right", "wrong"),
    [("timer", "OnCalendar=*-*-* 02:15:00", "OnCalendar=25:15:00"), ("service", "Type=oneshot", "Type=onceshot")],
)
def test_systemd_would_not_take_wrong_ones(units, unit, right, wrong):
    path = units / f"fastslow-reindex@.{unit}"
    assert right in path.read_text()
    path.write_text(path.read_text().replace(right, wrong))
    assert wrong.split("=")[1] in systemd("verify", "--man=no", str(path)).stderr


def test_the_service_is_confined(units):
    done = systemd("security", "--offline=true", "--threshold=30", str(units / "fastslow-reindex@.service"))
    assert done.returncode == 0, done.stdout


def test_the_timer_is_for_one_moment_a_night():
    [calendar] = [value for key, value in settings("fastslow-reindex@.timer") if key == "OnCalendar"]
    done = systemd("calendar", "--iterations=3", "--base-time=2026-03-01 12:00:00 UTC", calendar)
    assert done.returncode == 0, done.stderr
    assert re.findall(r"2026-03-\d\d \d\d:\d\d:\d\d", done.stdout)[-3:] == [
        f"2026-03-{day:02d} 02:15:00" for day in (2, 3, 4)
    ]


def test_the_service_calls_the_command_and_knows_its_exit_codes(planning, state):
    unit = settings("fastslow-reindex@.service")
    for line in (SCHEDULE / "systemd" / "demo.env").read_text().splitlines():
        assert re.fullmatch(r"#.*|[A-Z]+=.*", line)
    given = dict(re.findall(r"^([A-Z]+)=(.*)$", (SCHEDULE / "systemd" / "demo.env").read_text(), re.MULTILINE))
    values = {"DATASET": "demo", "ROOT": f"{state}/index"} | given
    commands = [value for key, value in unit if key == "ExecStart"]
    assert len(commands) == 2
    for number, text in enumerate(commands):
        text = text.replace(PROGRAM, str(planning)).replace("%S/fastslow", str(state)).replace("%i", "demo")
        text = re.sub(r"\$\{?(\w+)\}?", lambda match: values[match[1]], text)
        done = subprocess.run(shlex.split(text), capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        if number == 0:
            assert stages(done.stdout)[-1] == "publish"
    unit_values = dict(unit)
    assert unit_values["Restart"] == "on-failure"
    assert {int(code) for code in unit_values["RestartPreventExitStatus"].split()} == NEEDS_A_PERSON


CRON_RANGES = ((0, 59), (0, 23), (1, 31), (1, 12), (0, 7))


def times(fields: list[str]) -> list[set[int]]:
    """What five fields of a crontab stand for: stars, numbers, lists, ranges, steps."""
    found = []
    for field, (low, high) in zip(fields, CRON_RANGES, strict=True):
        values: set[int] = set()
        for part in field.split(","):
            match = re.fullmatch(r"(\*|\d+)(?:-(\d+))?(?:/(\d+))?", part)
            assert match, field
            first = low if match[1] == "*" else int(match[1])
            last = int(match[2]) if match[2] else high if match[1] == "*" else first
            assert low <= first <= last <= high, field
            values |= set(range(first, last + 1, int(match[3] or 1)))
        found.append(values)
    return found


def test_the_crontab_says_when_and_its_lines_run_in_a_shell(planning, state):
    lines = [line for line in (SCHEDULE / "cron" / "fastslow").read_text().splitlines() if line and line[0] != "#"]
    variables = dict(line.split("=", 1) for line in lines if re.match(r"[A-Z]+=", line))
    assert variables["FASTSLOW"] == PROGRAM
    variables |= {"FASTSLOW": str(planning), "ROOT": variables["ROOT"].replace(STATE, str(state))}
    entries = [line.split(maxsplit=6) for line in lines if not re.match(r"[A-Z]+=", line)]
    assert [times(entry[:5])[:2] for entry in entries] == [[{15}, {2, 5}], [{45}, {6}]]
    for entry in entries:
        assert entry[5] == "fastslow"
        assert "%" not in entry[6]  # cron makes a newline of it
        done = subprocess.run(
            [variables["SHELL"], "-c", entry[6].replace(STATE, str(state))],
            env=variables | {"PATH": "/usr/bin:/bin"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert (done.returncode, done.stderr) == (0, "")
    assert stages((state / "demo.jsonl").read_text())[-1] == "publish"


def documents() -> list[dict]:
    return list(yaml.safe_load_all((SCHEDULE / "kubernetes" / "cronjob.yaml").read_text()))


@pytest.mark.parametrize("document", documents(), ids=lambda document: document["metadata"]["name"])
def test_the_kubernetes_models_take_every_key(document):
    client = pytest.importorskip("kubernetes.client", reason="kubernetes, the API's own models, is not installed")

    model = getattr(client, f"V1{document['kind']}")
    with client.ApiClient() as api:
        assert api.sanitize_for_serialization(model.from_dict(document)) == document


def test_kubernetes_calls_the_command_and_knows_its_exit_codes(planning, state):
    _, nightly, cleaning = documents()
    for job in (nightly, cleaning):
        pod = job["spec"]["jobTemplate"]["spec"]["template"]["spec"]
        assert pod["restartPolicy"] == "Never"  # a failure policy needs it
        [container] = pod["containers"]
        assert container["command"] == ["fastslow"]
        mounted = [mount["mountPath"] for mount in container["volumeMounts"]]
        assert mounted == [STATE, "/tmp"]
        assert [mount["name"] for mount in container["volumeMounts"]] == [volume["name"] for volume in pod["volumes"]]
        arguments = [argument.replace(STATE, str(state)) for argument in container["args"]]
        done = subprocess.run([planning, *arguments], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    spec = nightly["spec"]["jobTemplate"]["spec"]
    names = {container["name"] for container in spec["template"]["spec"]["containers"]}
    codes: dict[str, set[int]] = {}
    for rule in spec["podFailurePolicy"]["rules"]:
        if "onExitCodes" in rule:
            assert rule["onExitCodes"]["containerName"] in names
            codes.setdefault(rule["action"], set()).update(rule["onExitCodes"]["values"])
    assert codes["FailJob"] == NEEDS_A_PERSON
    assert codes["Count"] >= TRIED_AGAIN
    waits = [min(10 * 2**number, 360) for number in range(spec["backoffLimit"])]
    from pipelines.reindex.lock import STALE_S

    assert sum(waits) > STALE_S  # of a pod that was killed the lock stays that long
