"""`bdh ui`: MLflow's user interface on this machine, with the view of the comparison."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import suppress
from types import FrameType
from typing import Annotated

import psutil
import typer

from bdh.commands.console import say
from bdh.project.errors import HatcheryError, shown
from bdh.project.files import enter_root

HOST = "127.0.0.1"
PORT = 5000
PATIENCE_S = 120.0
STOP_S = 10.0


class ServerError(HatcheryError):
    """The MLflow server cannot be started."""


def ui(
    port: Annotated[int, typer.Option(help="Port on 127.0.0.1.", min=1, max=65535)] = PORT,
) -> None:
    """Browse the runs in MLflow's user interface until Ctrl-C."""
    enter_root()
    from bdh.tracking.store import open_store, prepare_view, store_uri

    remote = store_uri().startswith(("http://", "https://"))
    if not remote:
        check_port(port)
    store = open_store()
    prepare_view(store)
    if remote:
        show_address(shown(store.uri), store.experiment_id)
        return
    server = subprocess.Popen(server_command(port), env=server_environment(store.uri))
    with suppress(KeyboardInterrupt):
        signal.signal(signal.SIGTERM, _interrupt)
        try:
            wait_until_up(server, port)
            show_address(f"http://{HOST}:{port}", store.experiment_id)
            server.wait()
        finally:
            stop(server)


def server_command(port: int) -> list[str]:
    """The MLflow server with one worker: the default four need gigabytes."""
    flags = ["--host", HOST, "--port", str(port), "--workers", "1"]
    flags += ["--uvicorn-opts", "--log-level warning"]
    return [sys.executable, "-m", "mlflow", "ui", *flags]


def server_environment(uri: str) -> dict[str, str]:
    """The store, without the job runner, whose processes outlive the server, and without a line per request.

    The address stands here, for everybody on the machine sees the words of a command and the password in them.
    """
    settings = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    settings["MLFLOW_BACKEND_STORE_URI"] = uri
    return {**os.environ, **settings, "PYTHONWARNINGS": "ignore"}


def check_port(port: int) -> None:
    """Raise ServerError, with a port that is free, when `port` is taken."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except PermissionError:
            raise ServerError(f"port {port} is reserved for root; try `bdh ui --port {free_port()}`") from None
        except OSError:
            raise ServerError(f"port {port} is in use; try `bdh ui --port {free_port()}`") from None


def free_port() -> int:
    """A port that nothing listens on now."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return probe.getsockname()[1]


def wait_until_up(server: subprocess.Popen[bytes], port: int) -> None:
    """Return when the server answers; raises ServerError when it ends or stays silent."""
    end = time.monotonic() + PATIENCE_S
    while time.monotonic() < end:
        if server.poll() is not None:
            raise ServerError(f"the MLflow server ended with exit code {server.returncode}; its output is above")
        with (
            suppress(urllib.error.URLError, OSError),
            urllib.request.urlopen(f"http://{HOST}:{port}/health", timeout=2),
        ):
            return
        time.sleep(0.2)
    raise ServerError(f"the MLflow server has not answered for {PATIENCE_S:.0f} s")


def show_address(server: str, experiment: str) -> None:
    """Print the two addresses that one wants: the table of runs and their curves."""
    from bdh.tracking.store import address

    say(f"table:  {address(server, experiment, 'TABLE')}")
    say(f"charts: {address(server, experiment, 'CHART')}")
    sys.stdout.flush()


def stop(server: subprocess.Popen[bytes]) -> None:
    """End the server and its workers, gently first."""
    if server.poll() is not None:
        return
    with suppress(psutil.NoSuchProcess):
        family = [*psutil.Process(server.pid).children(recursive=True), psutil.Process(server.pid)]
        for process in family:
            with suppress(psutil.NoSuchProcess):
                process.terminate()
        _, left = psutil.wait_procs(family, timeout=STOP_S)
        for process in left:
            with suppress(psutil.NoSuchProcess):
                process.kill()
    server.wait()


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt
