"""A service in a process of its own, on the fake cascade, with a delay in each prediction.

``python tests/rest_process.py '{"delay_file": "f", ...}'`` prints its port and serves.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

TESTS = Path(__file__).resolve().parent
LOCK = threading.Lock()


def next_delay(file):
    """Seconds of the first number in the file, which is taken away if others follow."""
    with LOCK:
        first, *others = file.read_text(encoding="utf-8").split()
        if others:
            file.write_text(" ".join(others), encoding="utf-8")
    return float(first)


def main():
    """Serve what the first argument says."""
    wanted = json.loads(sys.argv[1])
    from rest_fakes import fake_model

    from cascade.progress import setup_logging
    from cascade.serving.rest import api, server
    from cascade.serving.rest.settings import ServiceSettings

    setup_logging()
    server.PATIENCE_S = wanted.get("patience_s", server.PATIENCE_S)
    server.GRACE_S = wanted.get("grace_s", server.GRACE_S)
    model = fake_model()
    plain = model.cascade.segmenter.predict

    def predict(images):
        if len(model.cascade.segmenter.batches):  # the first is the warm-up
            time.sleep(next_delay(Path(wanted["delay_file"])))
        return plain(images)

    model.cascade.segmenter.predict = predict
    api.load_model = lambda _: model
    server.check_model = lambda _: None
    settings = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in wanted.get("settings", {}).items()
    }
    server.serve(ServiceSettings(port=0, **settings))


class Process:
    """The service, from outside."""

    def __init__(self, folder, **wanted):
        self.delay_file = folder / "delay_s"
        self.delay(0)
        wanted["delay_file"] = str(self.delay_file)
        (folder / "work").mkdir(exist_ok=True)
        self.child = subprocess.Popen(
            [sys.executable, str(Path(__file__)), json.dumps(wanted)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            cwd=folder / "work",
            env={**os.environ, "PYTHONPATH": f"{TESTS.parent}:{TESTS}", "OMP_NUM_THREADS": "1"},
        )
        self.lines = []
        self.ready = threading.Event()
        self.port = 0
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()
        if not self.ready.wait(120):
            self.child.kill()
            raise AssertionError("".join(self.lines))

    def _read(self):
        for line in self.child.stderr:
            self.lines.append(line)
            if line.startswith("listening on "):
                self.port = int(line.split(",")[0].rsplit(":", 1)[1])
            if line.startswith("ready: "):
                self.ready.set()

    def delay(self, *seconds):
        """How long the next predictions take; the last number is for all that follow."""
        self.delay_file.write_text(" ".join(map(str, seconds)), encoding="utf-8")

    def memory_mb(self):
        """Resident memory of the process now."""
        status = Path(f"/proc/{self.child.pid}/status").read_text(encoding="utf-8")
        line = next(line for line in status.splitlines() if line.startswith("VmRSS"))
        return int(line.split()[1]) / 1000

    def terminate(self):
        self.child.send_signal(signal.SIGTERM)

    def close(self):
        with contextlib.suppress(ProcessLookupError):
            self.child.kill()
        self.child.wait(10)
        self.reader.join(10)
        self.child.stderr.close()


if __name__ == "__main__":
    main()
