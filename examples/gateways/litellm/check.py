"""Runs the real LiteLLM proxy with this hook, a fake upstream and a real Pawl that is up, slow, dead and restarted.

    python check.py PAWL        # with requirements.txt installed; PAWL is the binary

No request of the gateway may fail because of Pawl, and what Pawl acknowledged must be there after it was killed.
"""

import concurrent.futures
import http.server
import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request

HERE = pathlib.Path(__file__).resolve().parent


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def call(url, body=None, timeout=30):
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"content-type": "application/json", "authorization": "Bearer sk-test"})
    with urllib.request.urlopen(request, timeout=timeout) as reply:
        return json.load(reply), reply.headers


def until(what, seconds, ready):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            if ready():
                return
        except (OSError, urllib.error.URLError):
            pass
        time.sleep(0.05)
    raise SystemExit(f"not within {seconds} s: {what}")


def is_up(url):
    return urllib.request.urlopen(url, timeout=2).status == 200


class Upstream(http.server.BaseHTTPRequestHandler):
    """Answers as an OpenAI-compatible endpoint; a request whose prompt says so fails at its first try."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    failed, calls, lock = set(), [], threading.Lock()

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        prompt = body["messages"][-1]["content"]
        with self.lock:
            fails = prompt.startswith("fail") and prompt not in self.failed
            self.failed.add(prompt)
            self.calls.append(body["model"])
        answer = {"error": {"message": "overloaded", "type": "server_error"}} if fails else {
            "id": "1", "object": "chat.completion", "created": 1, "model": body["model"],
            "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "yes"}}],
            "usage": {"prompt_tokens": len(prompt), "completion_tokens": 5, "total_tokens": len(prompt) + 5},
        }
        data = json.dumps(answer).encode()
        self.send_response(500 if fails else 200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_):
        pass


class Pawl:
    def __init__(self, binary, data):
        self.binary, self.data, self.port = binary, data, free_port()
        self.url = f"http://127.0.0.1:{self.port}"

    def start(self):
        listen = f"127.0.0.1:{self.port}"
        command = [self.binary, "serve", "--data", self.data, "--listen", listen]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        until("pawl is ready", 20, lambda: is_up(f"{self.url}/readyz"))

    def signal(self, which):
        self.process.send_signal(which)
        if which == signal.SIGKILL:
            self.process.wait()

    def model(self):
        return call(f"{self.url}/v1/models/router")[0]


def start_proxy(folder, upstream, pawl):
    config = (HERE / "config.yaml").read_text().replace(
        "api_key: os.environ/OPENAI_API_KEY", f"api_key: none, api_base: {upstream}"
    )
    config += "router_settings: { num_retries: 2, disable_cooldowns: true }\n"
    (folder / "config.yaml").write_text(config)
    (folder / "pawl_router.py").write_text((HERE / "pawl_router.py").read_text())
    port = free_port()
    environment = os.environ | {
        "PAWL_SERVER": pawl.url, "PAWL_DEADLINE_MS": "100", "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        "LITELLM_TELEMETRY": "False", "LITELLM_MASTER_KEY": "sk-test", "NO_PROXY": "127.0.0.1",
    }
    command = [str(pathlib.Path(sys.executable).parent / "litellm"), "--config", str(folder / "config.yaml")]
    log = open(folder / "proxy.log", "w")
    process = subprocess.Popen(
        command + ["--host", "127.0.0.1", "--port", str(port)], cwd=folder, env=environment, stdout=log, stderr=log
    )
    return process, f"http://127.0.0.1:{port}"


def main(binary):
    upstream = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Upstream)
    threading.Thread(target=upstream.serve_forever, daemon=True).start()
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        pawl = Pawl(binary, str(folder / "data"))
        pawl.start()
        subprocess.run([binary, "model", "create", HERE / "router.toml", "--server", pawl.url], check=True,
                       stdout=subprocess.DEVNULL)
        proxy, url = start_proxy(folder, f"http://127.0.0.1:{upstream.server_port}", pawl)
        try:
            until("the proxy is ready", 90, lambda: proxy.poll() is not None or is_up(f"{url}/health/liveliness"))
            check(pawl, url)
        except BaseException:
            print((folder / "proxy.log").read_text()[-8000:])
            raise
        finally:
            proxy.terminate()
            proxy.wait(timeout=20)
            pawl.signal(signal.SIGCONT)
            pawl.signal(signal.SIGKILL)


def check(pawl, url):
    sent = []

    def ask(k):
        # One of fifty fails at its first try: the proxy tries again.
        prompt = f"fail {k}" if k % 50 == 7 else f"is {k} even? " * (1 + k % 9)
        body = {"model": "auto", "messages": [{"role": "user", "content": prompt}], "metadata": {"targeting_key": f"u{k % 7}"}}
        begun = time.monotonic()
        _, headers = call(f"{url}/v1/chat/completions", body)
        return time.monotonic() - begun, headers.get("x-pawl-decision-id")

    def drive(what, count, meanwhile=lambda: None):
        begin = sum(len(s) for s in sent)
        with concurrent.futures.ThreadPoolExecutor(2) as pool:
            asked = [pool.submit(ask, begin + k) for k in range(count)]
            meanwhile()
            answers = [a.result() for a in asked]
        sent.append(answers)
        times = sorted(t for t, _ in answers)
        decided = sum(d is not None for _, d in answers)
        print(f"{what:24} {count} requests, none failed; {decided} decided by Pawl; "
              f"p50 {1e3 * times[count // 2]:.0f} ms, p99 {1e3 * times[count * 99 // 100]:.0f} ms", flush=True)
        return decided

    drive("first, to warm up", 20)
    assert drive("Pawl is up", 150) >= 120
    pawl.signal(signal.SIGSTOP)
    assert drive("Pawl is stopped", 40) == 0
    pawl.signal(signal.SIGCONT)
    drive("Pawl goes on", 40)
    pawl.signal(signal.SIGKILL)
    assert drive("Pawl is dead", 60) == 0

    def restart():
        time.sleep(0.3)
        pawl.start()
        time.sleep(1.0)
        pawl.signal(signal.SIGKILL)
        time.sleep(0.3)
        pawl.start()

    drive("killed and restarted", 400, restart)
    assert drive("Pawl is back", 100) >= 80

    # What clients may send that is no use: every request is answered, and nothing that is queued is stopped by it.
    odd = [{"metadata": {"context": "abc"}}, {"metadata": {"pawl": "x"}}, {"metadata": {"pawl": {"id": "1-0-0-0"}}},
           {"metadata": {"context": [1]}}]
    for more in odd:
        call(f"{url}/v1/chat/completions", {"model": "auto", "messages": [{"role": "user", "content": "odd"}]} | more)

    # A user's verdict, by the id that came with the reply.
    rated = [d for _, d in sent[-1] if d][:50]
    events = [{"decision_id": d, "metrics": {"quality": 1}} for d in rated]
    assert call(f"{pawl.url}/v1/feedback", {"events": events})[0]["accepted"] == len(rated)

    total = sum(len(s) for s in sent) + len(odd)
    cost = lambda: sum(a["metrics"].get("cost_usd", {}).get("n", 0) for a in pawl.model()["actions"].values())
    until("every request's cost is there", 30, lambda: cost() >= total)
    pawl.signal(signal.SIGKILL)
    pawl.start()
    actions = pawl.model()["actions"]
    values = {m: sum(a["metrics"].get(m, {}).get("n", 0) for a in actions.values()) for m in ("cost_usd", "failed", "quality")}
    failed = sum(a["metrics"]["failed"]["n"] * a["metrics"]["failed"]["mean"] for a in actions.values() if "failed" in a["metrics"])
    print(f"{total} requests, {len(Upstream.calls)} calls upstream; Pawl knows {values}, of them {failed:.0f} failed")
    # A report whose answer was cut off is sent again: more than once is possible, less is not.
    assert total <= values["cost_usd"] <= total + 200 and values["quality"] == len(rated)
    assert failed >= total // 50 - 2


if __name__ == "__main__":
    main(sys.argv[1])
