"""Vowpal Wabbit's contextual bandits on the tables and permutations of `pawl simulate`.

stdin: {"table", "features": [[name, kind, edges]], "terms": [[name] | [a, b]], "actions", "weight", "seeds", "settings"}
stdout: {setting: {seed: mean reward}}
"""
import csv, gzip, json, sys
import vowpalwabbit

MASK = (1 << 64) - 1

def mix(z):
    z ^= z >> 30
    z = z * 0xBF58476D1CE4E5B9 & MASK
    z ^= z >> 27
    z = z * 0x94D049BB133111EB & MASK
    return z ^ z >> 31

class Stream:
    def __init__(self, seed):
        self.seed, self.next = seed, 0

    def bits(self):
        self.next += 1
        return mix((self.seed + self.next * 0x9E3779B97F4A7C15) & MASK)

    def below(self, n):
        return self.bits() * n >> 64

    def uniform(self):
        return (self.bits() >> 11) * 2.0**-53

def order(rows, seed):
    order = list(range(rows))
    if seed:
        stream = Stream(seed)
        for i in range(rows - 1, 0, -1):
            j = stream.below(i + 1)
            order[i], order[j] = order[j], order[i]
    return order

def clean(text):
    return "".join(c if c.isalnum() or c in "._-" else "_" for c in text)

def slot(feature, row):
    """One feature as VW's text: name or name:value."""
    import math
    name, kind, edges = feature
    cell = row[name]
    if kind == "category":
        return f"{name}={clean(cell)}"
    x = float(cell)
    if kind == "bucketed":
        return f"{name}_{sum(e <= x for e in edges)}"
    return f"{name}:{math.copysign(math.log1p(abs(x)), x):.6g}" if kind == "log" else f"{name}:{x:.6g}"

def main():
    job = json.load(sys.stdin)
    rows = list(csv.DictReader(gzip.open(job["table"], "rt")))
    features = {f[0]: f for f in job["features"]}
    actions, weight = job["actions"], job["weight"]
    shared, rewards = [], []
    for row in rows:
        terms = ["x".join(slot(features[n], row) for n in term) for term in job["terms"]]
        shared.append("shared |S " + " ".join(terms))
        rewards.append([float(row[f"quality__{a}"]) - weight * float(row[f"cost_usd__{a}"]) for a in actions])
    flat = [r for rs in rewards for r in rs]
    low, high = -max(flat), -min(flat)
    tails = [f"|A a{i}" for i in range(len(actions))]
    plain = "\n".join(tails)
    result = {}
    for setting in job["settings"]:
        options = setting.replace("MIN", f"{low:.6g}").replace("MAX", f"{high:.6g}")
        result[setting] = {}
        for seed in job["seeds"]:
            vw = vowpalwabbit.Workspace(f"--quiet -q SA --random_seed {seed + 1} --cb_explore_adf {options}")
            stream, total = Stream(mix(seed ^ 0xB45E)), 0.0
            for i in order(len(rows), seed):
                example = vw.parse(shared[i] + "\n" + plain)
                p = vw.predict(example)
                vw.finish_example(example)
                u, a = stream.uniform() * sum(p), 0
                while a < len(p) - 1 and u >= p[a]:
                    u -= p[a]
                    a += 1
                reward = rewards[i][a]
                total += reward
                lines = tails[:a] + [f"0:{-reward:.6g}:{p[a] / sum(p):.6g} {tails[a]}"] + tails[a + 1:]
                example = vw.parse(shared[i] + "\n" + "\n".join(lines))
                vw.learn(example)
                vw.finish_example(example)
            vw.finish()
            result[setting][seed] = total / len(rows)
    json.dump(result, sys.stdout)

main()
