"""Runs a sample of requests through every model of an OpenAI-compatible endpoint: a table for `pawl simulate`.

    pawl simulate router.toml --data log.csv --sample 500 --out sample.jsonl
    python collect.py --requests sample.jsonl --base-url https://api.openai.com/v1 \\
        --model gpt-4o=2.5,10 --model gpt-4o-mini=0.15,0.6 --judge gpt-4o > table.jsonl
    pawl simulate router.toml --data table.jsonl --seeds 20

A request is a JSON object a line with `messages`, or with `prompt`; its other fields go into the table as they are. A model is its
name and its prices in USD for a million prompt and completion tokens. Quality is 1 where the answer contains the field that `--expect`
names, or what `--judge` says of it; without either, 1 for any answer. The key is in OPENAI_API_KEY. Rows that are already in the
file of `--resume` are not paid for again. Nothing but the standard library.
"""

import argparse
import concurrent.futures
import json
import os
import re
import sys
import time
import urllib.error
import urllib.request

JUDGE = (
    "Here is a request and an answer. Say how good the answer is with one number from 0 (useless or wrong) to 10 (nothing is missing), "
    "and nothing else.\n\nRequest:\n{request}\n\nAnswer:\n{answer}"
)


def ask(args, model, messages):
    """The answer, what it cost in USD, and how long it took; three tries."""
    body = json.dumps({"model": model, "messages": messages, "max_tokens": args.max_tokens}).encode()
    headers = {"content-type": "application/json", "authorization": f"Bearer {os.environ.get('OPENAI_API_KEY', '')}"}
    for attempt in range(3):
        begun = time.monotonic()
        try:
            request = urllib.request.Request(f"{args.base_url.rstrip('/')}/chat/completions", body, headers)
            with urllib.request.urlopen(request, timeout=args.timeout) as reply:
                answer = json.load(reply)
            break
        except urllib.error.HTTPError as error:
            if error.code < 500 and error.code != 429:
                raise SystemExit(f"{model}: {error.code} {error.read().decode(errors='replace')[:500]}")
            failure = error
        except OSError as error:
            failure = error
        time.sleep(2**attempt)
    else:
        print(f"{model}: {failure!r}; counted as an answer of quality 0", file=sys.stderr)
        return None, 0.0, args.timeout
    took = time.monotonic() - begun
    usage = answer.get("usage") or {}
    prompt, completion = args.prices.get(model, (0.0, 0.0))
    cost = (usage.get("prompt_tokens", 0) * prompt + usage.get("completion_tokens", 0) * completion) / 1e6
    return answer["choices"][0]["message"].get("content") or "", cost, took


def quality(args, row, messages, answer):
    if answer is None:
        return 0.0
    if args.expect:
        return float(str(row[args.expect]).strip().lower() in answer.lower())
    if args.judge:
        request = "\n".join(str(m.get("content")) for m in messages)
        said, _, _ = ask(args, args.judge, [{"role": "user", "content": JUDGE.format(request=request, answer=answer)}])
        number = re.search(r"\d+(\.\d+)?", said or "")
        return min(float(number.group()), 10.0) / 10 if number else 0.0
    return 1.0


def collect(args, row):
    messages = row.get("messages") or [{"role": "user", "content": row["prompt"]}]
    # What was logged of one action is not what every action gives.
    out = {k: v for k, v in row.items() if k not in ("messages", "action", "probability", "quality", "cost_usd", "latency_s")}
    for model in args.prices:
        answer, cost, took = ask(args, model, messages)
        out[f"quality__{model}"] = quality(args, row, messages, answer)
        out[f"cost_usd__{model}"] = cost
        out[f"latency_s__{model}"] = took
    return out


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", required=True)
    parser.add_argument("--base-url", required=True)
    parser.add_argument("--model", action="append", required=True, metavar="NAME=PROMPT,COMPLETION")
    parser.add_argument("--expect", metavar="FIELD")
    parser.add_argument("--judge", metavar="MODEL")
    parser.add_argument("--max-tokens", type=int, default=1024)
    parser.add_argument("--timeout", type=float, default=120)
    parser.add_argument("--parallel", type=int, default=4)
    parser.add_argument("--resume", metavar="FILE")
    args = parser.parse_args()
    try:
        named = (m.rsplit("=", 1) for m in args.model)
        args.prices = {name: tuple(float(p) for p in prices.split(",", 1)) for name, prices in named}
    except ValueError:
        parser.error("--model takes NAME=PROMPT,COMPLETION, the prices in USD for a million tokens")
    with open(args.requests) as lines:
        rows = [json.loads(line) for line in lines if line.strip()]
    for i, row in enumerate(rows):
        if not row.get("messages") and not row.get("prompt"):
            parser.error(f"request {i + 1} has neither `messages` nor `prompt`")
        if args.expect and args.expect not in row:
            parser.error(f"request {i + 1} has no `{args.expect}`")
    done = []
    if args.resume and os.path.exists(args.resume):
        with open(args.resume) as lines:
            done = [line for line in lines if line.strip()]
    sys.stdout.writelines(done)
    with concurrent.futures.ThreadPoolExecutor(args.parallel) as pool:
        for out in pool.map(lambda row: collect(args, row), rows[len(done):]):
            print(json.dumps(out), flush=True)


if __name__ == "__main__":
    main()
