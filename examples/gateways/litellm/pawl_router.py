"""A LiteLLM proxy whose models are chosen by Pawl.

In the proxy's configuration (config.yaml beside this file is a whole one):

    litellm_settings:
      callbacks: pawl_router.router

Requests for the model group PAWL_GROUP are decided by Pawl's model PAWL_MODEL. An action of it is the `pawl_action` in a
deployment's `model_info`, or its `litellm_params.model`. Pawl is asked once, within PAWL_DEADLINE_MS; if it does not answer,
the incumbent is called, and the decision is reported when Pawl is back. What came of a call (cost_usd, latency_s, failed,
prompt_tokens, completion_tokens: what the model's spec declares) is sent in batches by a thread of its own.

A client may send, in the request's `metadata`: `context` (an object, features of its own), `request_id` (its own id, by which
it can send feedback later) and `targeting_key`. The reply carries `x-pawl-decision-id`, unless it is streamed.
"""

import asyncio
import atexit
import collections
import json
import logging
import os
import threading
import time
import uuid

import httpx
from litellm.integrations.custom_logger import CustomLogger

log = logging.getLogger("pawl_router")

BATCH = 200
BATCH_BYTES = 256 << 10
QUEUE_MAX = 100_000


class Made:
    """A decision on its way through a request. No JSON that a client sends becomes one."""

    def __init__(self, context, actions):
        self.id, self.action, self.context, self.actions = None, None, context, actions
        self.at, self.told = round(time.time() * 1000), False
        # By it a decision that was made too late for us can be taken back.
        self.ask = uuid.uuid4().hex


class PawlRouter(CustomLogger):
    def __init__(self, server=None, model=None, group=None, key=None, deadline_s=None):
        super().__init__()
        self.server = (server or os.environ.get("PAWL_SERVER", "http://127.0.0.1:7295")).rstrip("/")
        self.model = model or os.environ.get("PAWL_MODEL", "router")
        self.group = group or os.environ.get("PAWL_GROUP", "auto")
        self.deadline_s = deadline_s or float(os.environ.get("PAWL_DEADLINE_MS", "20")) / 1000
        self.incumbent = os.environ.get("PAWL_INCUMBENT")
        # The names that the spec declares; not known before Pawl has answered once.
        self.metrics, self.features = None, set()
        self.warned = set()
        key = key or os.environ.get("PAWL_KEY")
        self.headers = {"authorization": f"Bearer {key}"} if key else {}
        self.clients = {}
        self.queue = collections.deque()
        self.counts = {"acknowledged": 0, "rejected": 0, "dropped": 0}
        self.wake = threading.Event()
        self.stopping = False
        self.sender = threading.Thread(target=self._send_all, name="pawl-feedback", daemon=True)
        self.sender.start()
        atexit.register(self.close)

    # On the request's path

    async def async_filter_deployments(
        self, model, healthy_deployments, messages, request_kwargs=None, parent_otel_span=None
    ):
        if model != self.group or not healthy_deployments:
            return healthy_deployments
        try:
            by_action = {}
            for deployment in healthy_deployments:
                by_action.setdefault(action_of(deployment), []).append(deployment)
            metadata = metadata_of(request_kwargs)
            before = metadata.get("pawl")
            if isinstance(before, Made):
                # The proxy tries again: the one before failed, and LiteLLM tells only of the last.
                self._tell(before, before.action, {"failed": 1})
            made = Made(context_of(messages, request_kwargs), list(by_action))
            await self._decide(made, metadata, first=not isinstance(before, Made))
            metadata["pawl"] = made
            return by_action.get(made.action, healthy_deployments)
        except Exception as error:  # whatever it is, the request goes on
            log.warning("pawl was not asked: %r", error)
            return healthy_deployments

    async def _decide(self, made, metadata, first):
        body = {"context": made.context, "actions": made.actions, "request_id": made.ask}
        if metadata.get("targeting_key"):
            body["targeting_key"] = str(metadata["targeting_key"])
        # A retry is a decision of its own: the caller's id belongs to the first.
        if metadata.get("request_id") and first:
            body["request_id"] = str(metadata["request_id"])
        fallback = None
        try:
            url = f"{self.server}/v1/models/{self.model}/decide"
            reply = await asyncio.wait_for(self._client().post(url, json=body), self.deadline_s)
            answer = reply.json()
            if reply.status_code == 200:
                made.id, made.action = answer["decision_id"], answer["action"]
                return
            if reply.status_code == 503:
                fallback = answer.get("error", {}).get("fallback_action")
            else:
                log.warning("pawl answered %s: %s", reply.status_code, reply.text[:300])
        except Exception as error:
            log.warning("pawl did not answer within %s s: %r", self.deadline_s, error)
            if body["request_id"] == made.ask:
                # If it was decided after all, nobody acted on it.
                self._queue("events", {"model": self.model, "request_id": made.ask, "not_used": True})
        made.action = next((a for a in (fallback, self.incumbent) if a in made.actions), None)

    def _client(self):
        loop = asyncio.get_running_loop()
        if loop not in self.clients:
            limits = httpx.Limits(max_connections=512, max_keepalive_connections=64)
            self.clients = {loop: httpx.AsyncClient(headers=self.headers, limits=limits, timeout=5)}
        return self.clients[loop]

    async def async_post_call_success_hook(self, data, user_api_key_dict, response):
        made = metadata_of(data).get("pawl")
        hidden = getattr(response, "_hidden_params", None)
        if isinstance(made, Made) and made.id and isinstance(hidden, dict):
            headers = hidden.get("additional_headers") or {}
            hidden["additional_headers"] = headers | {"x-pawl-decision-id": made.id}
        return response

    # After it

    async def async_log_success_event(self, kwargs, response_obj, start_time, end_time):
        self._came(kwargs, response_obj, start_time, end_time, failed=0)

    async def async_log_failure_event(self, kwargs, response_obj, start_time, end_time):
        self._came(kwargs, response_obj, start_time, end_time, failed=1)

    def _came(self, kwargs, response, start_time, end_time, failed):
        params = kwargs.get("litellm_params") or {}
        metadata = params.get("metadata") or {}
        made = metadata.get("pawl")
        if not isinstance(made, Made):
            return
        usage = getattr(response, "usage", None)
        cost = kwargs.get("response_cost")
        if not cost and not failed:
            # LiteLLM knows no price: that it is free is the one thing that must not be learned.
            self._warn_once(f"no price for {kwargs.get('model')}: set input_cost_per_token and output_cost_per_token")
            cost = None
        values = {
            "cost_usd": cost,
            "latency_s": (end_time - start_time).total_seconds(),
            "failed": failed,
            "prompt_tokens": getattr(usage, "prompt_tokens", None),
            "completion_tokens": getattr(usage, "completion_tokens", None),
        }
        info = metadata.get("model_info") or params.get("model_info") or {}
        taken = info.get("pawl_action") or metadata.get("deployment") or kwargs.get("model")
        self._tell(made, taken, {k: v for k, v in values.items() if v is not None})

    def _warn_once(self, what):
        if what not in self.warned:
            self.warned.add(what)
            log.warning(what)

    def _tell(self, made, taken, values):
        """Queues what came of a decision, once."""
        if made.told or not taken:
            return
        made.told = True
        if made.id:
            event = {"decision_id": made.id, "metrics": values}
            self._queue("events", event if taken == made.action else event | {"action_taken": taken})
        elif taken in made.actions:
            report = {"context": made.context, "actions": made.actions, "at": made.at}
            self._queue("decisions", report | {"action": taken, "metrics": values})

    def _queue(self, kind, item):
        try:
            json.dumps(item).encode()  # what cannot be sent must not stop what can
        except (TypeError, ValueError) as error:
            log.warning("not sent to pawl: %r", error)
            return
        if len(self.queue) >= QUEUE_MAX:
            self.counts["dropped"] += 1
            return
        self.queue.append((kind, item))
        self.wake.set()

    def _send_all(self):
        client = httpx.Client(headers=self.headers, timeout=10)
        wait, asked = 0.2, 0.0
        while True:
            self.wake.wait(timeout=1.0)
            self.wake.clear()
            try:
                if self.metrics is None or time.monotonic() - asked > 60:
                    self._learn_spec(client)
                    asked = time.monotonic()
                while self.queue:
                    self._send_batch(client)
                wait = 0.2
            except Exception as error:
                log.warning("pawl takes no feedback; %s wait: %r", len(self.queue), error)
                time.sleep(wait)
                wait = min(2 * wait, 5.0)
                self.wake.set()
            if self.stopping and not self.queue:
                return

    def _learn_spec(self, client):
        reply = client.get(f"{self.server}/v1/models/{self.model}")
        reply.raise_for_status()
        spec = reply.json()["spec"]
        self.metrics = set(spec.get("metrics") or {})
        self.features = set(spec.get("features") or {})
        self.incumbent = (spec.get("objective") or {}).get("incumbent") or self.incumbent

    def _send_batch(self, client):
        kind = self.queue[0][0]
        items, size = [], 0
        while len(items) < min(BATCH, len(self.queue)) and self.queue[len(items)][0] == kind:
            item = dict(self.queue[len(items)][1])
            if "metrics" in item:
                item["metrics"] = {k: v for k, v in item["metrics"].items() if k in self.metrics}
            if "context" in item:
                item["context"] = {k: v for k, v in item["context"].items() if k in self.features}
            size += len(json.dumps(item))
            if items and size > BATCH_BYTES:
                break
            items.append(item)
        path = "/v1/feedback" if kind == "events" else f"/v1/models/{self.model}/decisions"
        reply = client.post(f"{self.server}{path}", json={kind: items})
        # Later may help after these; anything else would be refused again.
        if reply.status_code in (401, 403, 408, 429) or reply.status_code >= 500:
            reply.raise_for_status()
        answer = reply.json() if reply.is_success else {"accepted": 0, "rejected": items}
        self.counts["acknowledged"] += answer["accepted"]
        self.counts["rejected"] += len(answer["rejected"])
        if answer["rejected"]:
            log.warning("pawl rejected %s: %s", len(answer["rejected"]), reply.text[:300])
        for _ in items:
            self.queue.popleft()

    def close(self):
        """Sends what waits, for two seconds at most."""
        self.stopping = True
        self.wake.set()
        self.sender.join(timeout=2)


def action_of(deployment):
    info = deployment.get("model_info") or {}
    return info.get("pawl_action") or deployment["litellm_params"]["model"]


def metadata_of(kwargs):
    """The metadata of a request, which goes with it to the callbacks."""
    if kwargs is None:
        return {}
    if not isinstance(kwargs.get("metadata"), dict):
        kwargs["metadata"] = {}
    return kwargs["metadata"]


def context_of(messages, kwargs):
    """What Pawl may know of a request. It stores what the spec declares and nothing else."""
    texts, images = [], 0
    for message in messages or []:
        content = message.get("content")
        parts = content if isinstance(content, list) else [{"type": "text", "text": content or ""}]
        parts = [part for part in parts if isinstance(part, dict)]
        images += sum(part.get("type") == "image_url" for part in parts)
        text = "".join(part.get("text") or "" for part in parts if part.get("type") == "text")
        texts.append((message.get("role"), text))
    users = [text for role, text in texts if role == "user"]
    kwargs = kwargs or {}
    own = metadata_of(kwargs).get("context")
    return {
        "n_messages": len(texts),
        "n_chars": sum(len(text) for _, text in texts),
        "prompt": (users[-1] if users else "")[:4000].encode(errors="replace").decode(),
        "has_tools": bool(kwargs.get("tools")),
        "has_images": images > 0,
        "max_tokens": kwargs.get("max_tokens") or 0,
        **(own if isinstance(own, dict) else {}),
    }


router = PawlRouter()
