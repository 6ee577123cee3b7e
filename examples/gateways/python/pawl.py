"""Asks Pawl which action to take, within a deadline and without ever failing. Nothing but the standard library.

    pawl = Pawl("http://127.0.0.1:7295", "router", incumbent="gpt-4o")
    decision = pawl.decide({"task": "code", "prompt_tokens": 350})
    answer = call_model(decision["action"], ...)
    pawl.feedback(decision, {"cost_usd": 0.002, "latency_s": 0.8})
"""

import json
import queue
import threading
import time
import urllib.error
import urllib.request


class Pawl:
    def __init__(self, server, model, incumbent, key=None, deadline_s=0.02):
        self.server, self.model, self.incumbent, self.deadline_s = server, model, incumbent, deadline_s
        self.headers = {"content-type": "application/json"} | ({"authorization": f"Bearer {key}"} if key else {})
        self.waiting = queue.Queue(maxsize=100_000)
        threading.Thread(target=self._send, daemon=True).start()

    def _post(self, path, body, timeout):
        request = urllib.request.Request(self.server + path, json.dumps(body).encode(), self.headers)
        with urllib.request.urlopen(request, timeout=timeout) as reply:
            return json.load(reply)

    def decide(self, context, actions=None):
        asked = {"context": context} | ({"actions": actions} if actions else {})
        try:
            return self._post(f"/v1/models/{self.model}/decide", asked, self.deadline_s)
        except Exception:  # late, gone or refused: the incumbent, reported when Pawl is back
            return {"decision_id": None, "action": self.incumbent, "asked": asked, "at": round(time.time() * 1000)}

    def feedback(self, decision, metrics):
        if decision["decision_id"]:
            path, key = "/v1/feedback", "events"
            item = {"decision_id": decision["decision_id"], "metrics": metrics}
        else:
            path, key = f"/v1/models/{self.model}/decisions", "decisions"
            item = decision["asked"] | {"action": decision["action"], "at": decision["at"], "metrics": metrics}
        body = {key: [item]}
        json.dumps(body)  # what cannot be sent is the caller's mistake, and told here
        if not self.waiting.full():
            self.waiting.put_nowait((path, body))

    def _send(self):
        while True:
            path, body = self.waiting.get()
            wait = 0.2
            while True:
                try:
                    self._post(path, body, 10)
                    break
                except urllib.error.HTTPError as refused:
                    if refused.code not in (401, 403, 408, 429) and refused.code < 500:
                        break  # it would be refused again
                except Exception:  # gone, cut off, or somebody else's answer: again
                    pass
                time.sleep(wait)
                wait = min(2 * wait, 5)
