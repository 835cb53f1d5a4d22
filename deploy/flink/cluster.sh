#!/usr/bin/env bash
# A standalone Flink cluster on this machine: cluster.sh up | down | status | job-server
#
# up          installs Flink once, starts a job manager and what is missing of 2 task managers; waits until all answer
# down        stops what `up` started, and nothing else
# job-server  prints the path of the Beam job server, fetched or built where there is none yet
#
# Everything it keeps is in $FASTSLOW_CACHE/flink (default ~/.cache/fastslow/flink). PYTHON: one that has pip or uv, and Beam.
# FLINK_PORT=8081, FLINK_RPC_PORT (FLINK_PORT - 1000), FLINK_TASK_MANAGERS=2
# FLINK_JOB_SERVER_JAR=file: a job server of your own
set -euo pipefail

FLINK_VERSION=1.19.3
FLINK_MINOR=${FLINK_VERSION%.*}
HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
PYTHON=${PYTHON:-$HERE/../../.venv/bin/python}
CACHE=${FASTSLOW_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/fastslow}/flink
PORT=${FLINK_PORT:-8081}
RPC_PORT=${FLINK_RPC_PORT:-$((PORT - 1000))}
TASK_MANAGERS=${FLINK_TASK_MANAGERS:-2}
STARTED_WITHIN_S=60

DIST=$CACHE/flink-$FLINK_VERSION
STATE=$CACHE/cluster-$PORT
export FLINK_HOME=$DIST/pyflink FLINK_CONF_DIR=$STATE/conf FLINK_LOG_DIR=$STATE/log FLINK_PID_DIR=$STATE/pid
export FLINK_IDENT_STRING=fastslow

fail() { echo "cluster.sh: $*" >&2; exit 1; }

command -v "$PYTHON" >/dev/null || fail "$PYTHON not found: give a Python that has pip or uv, and Beam, with PYTHON="

alone() {  # alone COMMAND: when no other cluster.sh on this machine is at it; what it starts has no lock to keep
  mkdir -p "$CACHE"
  (flock 9; "$@") 9>"$CACHE/.lock"
}

install_flink() {
  [ -d "$DIST" ] && return
  command -v java >/dev/null || fail "java not found: install Java 11 or 17, Flink and Beam's job server run on it"
  echo "installing Flink $FLINK_VERSION into $CACHE, once" >&2
  rm -rf "$DIST.partial"
  local packages=("apache-flink==$FLINK_VERSION" "apache-flink-libraries==$FLINK_VERSION") uv
  uv=$(dirname "$PYTHON")/uv
  if [ -x "$uv" ]; then
    "$uv" pip install --quiet --no-deps --python "$PYTHON" --target "$DIST.partial" "${packages[@]}" >&2
  else
    "$PYTHON" -m pip install --quiet --disable-pip-version-check --no-deps --target "$DIST.partial" "${packages[@]}" >&2
  fi
  mv "$DIST.partial" "$DIST"
}

job_server() {
  local built=$CACHE/job-server-$FLINK_MINOR.jar
  if [ -n "${FLINK_JOB_SERVER_JAR:-}" ]; then
    [ -f "$FLINK_JOB_SERVER_JAR" ] || fail "FLINK_JOB_SERVER_JAR=$FLINK_JOB_SERVER_JAR: no such file"
    echo "$FLINK_JOB_SERVER_JAR"
    return
  fi
  [ -f "$built" ] && { echo "$built"; return; }
  "$PYTHON" -c '
import logging, sys
logging.disable()
from apache_beam.utils.subprocess_server import JavaJarServer as jars
try:
    print(jars.local_jar(jars.path_to_beam_jar(f"runners:flink:{sys.argv[1]}:job-server:shadowJar")))
except RuntimeError as error:
    sys.exit(f"Beam has no job server to fetch here ({str(error)[:200]})")' "$FLINK_MINOR" && return
  command -v mvn >/dev/null || fail "no Beam job server for Flink $FLINK_MINOR: it cannot be fetched, and mvn, to build one, \
is not installed. Give yours with FLINK_JOB_SERVER_JAR=file"
  echo "building one with Maven into $CACHE, once" >&2
  local work=$CACHE/job-server-build
  rm -rf "$work" && mkdir "$work"
  cp "$HERE/job-server/pom.xml" "$work"
  (cd "$work" && mvn --quiet --batch-mode package >&2) || { rm -rf "$work"; fail "Maven could not build the job server"; }
  mv "$work/target/job-server-$FLINK_MINOR.jar" "$built"
  rm -rf "$work"
  echo "$built"
}

running() {  # running NAME: how many daemons of that name live, of those started here
  local count=0 pid
  [ -f "$FLINK_PID_DIR/flink-$FLINK_IDENT_STRING-$1.pid" ] || { echo 0; return; }
  while read -r pid; do
    tr '\0' ' ' <"/proc/$pid/cmdline" 2>/dev/null | grep -q "$STATE" && count=$((count + 1))
  done <"$FLINK_PID_DIR/flink-$FLINK_IDENT_STRING-$1.pid"
  echo "$count"
}

overview() { curl --silent --fail --max-time 2 "http://localhost:$PORT/overview"; }

task_managers() { overview | "$PYTHON" -c 'import json, sys; print(json.load(sys.stdin)["taskmanagers"])' 2>/dev/null || echo 0; }

up() {
  alone install_flink
  if [ "$(running standalonesession)" = 0 ]; then
    overview >/dev/null && fail "port $PORT answers already, and it is not ours: choose another with FLINK_PORT="
    rm -rf "$STATE" && mkdir -p "$STATE/tmp" "$FLINK_LOG_DIR" "$FLINK_PID_DIR"
    cp -r "$FLINK_HOME/conf" "$FLINK_CONF_DIR"
    {
      cat "$HERE/config.yaml"
      printf '%s: %s\n' io.tmp.dirs "$STATE/tmp" rest.port "$PORT" jobmanager.rpc.port "$RPC_PORT"
    } >"$FLINK_CONF_DIR/config.yaml"
    bash "$FLINK_HOME/bin/jobmanager.sh" start >/dev/null
  fi
  local missing i
  missing=$((TASK_MANAGERS - $(running taskexecutor)))
  for ((i = 0; i < missing; i++)); do bash "$FLINK_HOME/bin/taskmanager.sh" start >/dev/null; done
  for ((i = 0; i < STARTED_WITHIN_S; i++)); do
    [ "$(task_managers)" -ge "$TASK_MANAGERS" ] && { status; return; }
    sleep 1
  done
  fail "the cluster did not come up within $STARTED_WITHIN_S s; see $FLINK_LOG_DIR"
}

down() {
  [ -d "$STATE" ] || { echo "no cluster of ours on port $PORT"; return; }
  bash "$FLINK_HOME/bin/taskmanager.sh" stop-all >/dev/null 2>&1 || true
  bash "$FLINK_HOME/bin/jobmanager.sh" stop-all >/dev/null 2>&1 || true
  rm -rf "$STATE"
  echo "cluster on port $PORT stopped"
}

status() {
  overview >/dev/null || { echo "no cluster answers on port $PORT"; return 1; }
  echo "Flink $FLINK_VERSION on http://localhost:$PORT: $(task_managers) task managers, logs in $FLINK_LOG_DIR"
}

case "${1:-}" in
  up) up ;;
  down) down ;;
  status) status ;;
  job-server) alone job_server ;;
  *) fail "expected up, down, status or job-server" ;;
esac
