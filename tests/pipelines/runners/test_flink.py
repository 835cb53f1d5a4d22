"""What is added to Flink's options, and how a job is taken off its cluster; the cluster answers over a real port."""

import json
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from pipelines.runners import flink
from schemas.errors import ConfigError

FLINK = "--runner=FlinkRunner"


class Cluster:
    """A job manager's REST port: the jobs it lists, and what it was told to do with them."""

    def __init__(self) -> None:
        self.jobs: list[dict[str, str]] = []
        self.told: list[str] = []
        cluster = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self._answer({"slots-total": 3} if self.path == "/overview" else {"jobs": cluster.jobs})

            def do_PATCH(self) -> None:
                cluster.told.append(self.path)
                cluster.jobs = [job | {"state": "CANCELED"} for job in cluster.jobs]
                self._answer({})

            def _answer(self, value: dict) -> None:
                body = json.dumps(value).encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.master = f"127.0.0.1:{self.server.server_address[1]}"


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    one = Cluster()
    threading.Thread(target=one.server.serve_forever, daemon=True).start()
    yield one
    one.server.shutdown()
    one.server.server_close()


@pytest.fixture(autouse=True)
def places(tmp_path, monkeypatch):
    """Empty caches of Beam's and of ours; no program to tie Java to us."""
    monkeypatch.setattr(flink.shutil, "which", lambda program: None)
    monkeypatch.delenv("FLINK_JOB_SERVER_JAR", raising=False)
    monkeypatch.setenv("FASTSLOW_CACHE", str(tmp_path / "ours"))
    monkeypatch.setattr(flink.JavaJarServer, "JAR_CACHE", str(tmp_path / "beams"))
    for folder in ("ours/flink", "beams"):
        (tmp_path / folder).mkdir(parents=True)
    return tmp_path


def test_a_job_takes_every_slot_and_waits_for_slots_one_by_one(cluster):
    added = flink.complete([FLINK, f"--flink_master={cluster.master}"])[2:]
    assert added == ["--parallelism=3", "--execution_mode_for_batch=BATCH"]


def test_a_killed_run_leaves_no_java_behind(cluster, places, monkeypatch, tmp_path):
    monkeypatch.undo()
    for program in ("setpriv", "java"):
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed")
    monkeypatch.setenv("FASTSLOW_CACHE", str(tmp_path / "cache"))
    added = flink.complete([FLINK, f"--flink_master={cluster.master}", "--flink_job_server_jar=mine.jar"])
    [launcher] = [one.partition("=")[2] for one in added if one.startswith("--job_server_java_launcher=")]
    (tmp_path / "Wait.java").write_text(
        "class Wait { public static void main(String[] a) throws Exception {"
        ' System.out.println("up"); Thread.sleep(600000); } }'
    )
    parent = (
        "import subprocess, sys, time\n"
        "java = subprocess.Popen(sys.argv[1:], stdout=subprocess.PIPE, text=True)\n"
        "print(java.pid, java.stdout.readline().strip(), flush=True); time.sleep(600)"
    )
    command = [sys.executable, "-c", parent, launcher, str(tmp_path / "Wait.java")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as run:
        pid, said = run.stdout.readline().split()
        assert said == "up"
        run.kill()
    deadline = time.monotonic() + 20
    while Path("/proc", pid).exists() and "Z" not in Path("/proc", pid, "stat").read_text().split()[2]:
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_what_is_given_stays(cluster):
    given = [FLINK, f"--flink_master={cluster.master}", "--parallelism=1", "--execution_mode_for_batch=PIPELINED"]
    given.append("--flink_job_server_jar=mine.jar")
    assert flink.complete(given) == given


@pytest.mark.parametrize("other", [["--runner=DataflowRunner"], ["--direct_num_workers=1"]])
def test_options_of_other_runners_come_back(other):
    assert flink.complete(other) == other


def test_a_cluster_that_does_not_answer_is_named():
    with pytest.raises(ConfigError, match="--flink_master=127.0.0.1:9 does not answer .*make flink-up"):
        flink.complete([FLINK, "--flink_master=127.0.0.1:9"])


def test_the_job_server_that_is_given_then_beams_own_then_the_one_built_here(places, monkeypatch):
    assert flink.job_server("1.19") is None
    built = places / "ours" / "flink" / "job-server-1.19.jar"
    built.touch()
    assert flink.job_server("1.19") == built
    assert flink.job_server("2.0") is None
    beams = places / "beams" / "beam-runners-flink-1.19-job-server-2.77.0.jar"
    beams.touch()
    assert flink.job_server("1.19") == beams
    monkeypatch.setenv("FLINK_JOB_SERVER_JAR", str(places / "mine.jar"))
    with pytest.raises(ConfigError, match="mine.jar: no such file"):
        flink.job_server("1.19")
    (places / "mine.jar").touch()
    assert flink.job_server("1.19") == places / "mine.jar"


@pytest.mark.parametrize(("state", "told"), [("RUNNING", True), ("FINISHED", False), ("FAILED", False)])
def test_a_job_is_cancelled_by_its_name_unless_it_has_ended(cluster, state, told):
    cluster.jobs = [{"name": "other", "jid": "1", "state": "RUNNING"}, {"name": "ours", "jid": "2", "state": state}]
    flink.cancel(cluster.master, "ours")
    assert cluster.told == (["/jobs/2?mode=cancel"] if told else [])


def test_a_job_that_never_got_there_is_not_waited_for_long(cluster, monkeypatch):
    monkeypatch.setattr(flink, "SHOWN_WITHIN_S", 0.1)
    flink.cancel(cluster.master, "ours")
    assert cluster.told == []
