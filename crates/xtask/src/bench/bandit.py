"""numpy's LinUCB and Vowpal Wabbit's SquareCB on the defined linear Bernoulli bandit. argv: rounds seeds.

Prints one line a policy: name, rounds a second, mean regret.
"""
import os
os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = "1"
import sys, time
import numpy as np
import vowpalwabbit

D, K = 20, 5

def uniform(seed, n):
    with np.errstate(over="ignore"):
        z = np.uint64(seed) + np.arange(1, n + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        z ^= z >> np.uint64(30)
        z *= np.uint64(0xBF58476D1CE4E5B9)
        z ^= z >> np.uint64(27)
        z *= np.uint64(0x94D049BB133111EB)
        z ^= z >> np.uint64(31)
    return (z >> np.uint64(11)).astype(np.float64) * 2.0**-53

def environment(s, rounds):
    theta = (2 * uniform(10 * s + 1, K * 19) - 1).reshape(K, 19)
    theta /= np.linalg.norm(theta, axis=1, keepdims=True)
    x = np.ones((rounds, D))
    x[:, :19] = (2 * uniform(10 * s + 2, rounds * 19) - 1).reshape(rounds, 19)
    p = np.clip(0.5 + 0.4 * (x[:, :19] @ theta.T), 0.02, 0.98)
    return x, p, (uniform(10 * s + 3, rounds * K).reshape(rounds, K) < p).astype(np.float64)

class LinUcb:
    def __init__(self, seed):
        self.inverse = np.stack([np.eye(D)] * K)
        self.b, self.theta = np.zeros((K, D)), np.zeros((K, D))

    def decide(self, x):
        ax = self.inverse @ x
        return int(np.argmax(self.theta @ x + 0.5 * np.sqrt(ax @ x)))

    def update(self, x, a, r):
        v = self.inverse[a] @ x
        self.inverse[a] -= np.outer(v, v) / (1 + x @ v)
        self.b[a] += r * x
        self.theta[a] = self.inverse[a] @ self.b[a]

class SquareCb:
    def __init__(self, seed):
        self.vw = vowpalwabbit.Workspace(f"--quiet -q SA --random_seed {seed + 1} --cb_explore_adf --squarecb --gamma_scale 100")
        self.rng = np.random.default_rng(seed)

    def decide(self, x):
        self.shared = "shared |S " + " ".join(f"{i}:{v:.4f}" for i, v in enumerate(x.tolist()))
        example = self.vw.parse(self.shared + "\n" + "\n".join(f"|A a{k}" for k in range(K)))
        p = np.asarray(self.vw.predict(example))
        self.vw.finish_example(example)
        p /= p.sum()
        a = min(int(np.searchsorted(np.cumsum(p), self.rng.random())), K - 1)
        self.p = float(p[a])
        return a

    def update(self, x, a, r):
        lines = [f"0:{-r:g}:{self.p:g} |A a{k}" if k == a else f"|A a{k}" for k in range(K)]
        example = self.vw.parse(self.shared + "\n" + "\n".join(lines))
        self.vw.learn(example)
        self.vw.finish_example(example)

rounds, seeds = int(sys.argv[1]), int(sys.argv[2])
for name, policy in [("numpy LinUCB", LinUcb), ("vw squarecb", SquareCb)]:
    regret, seconds = 0.0, 0.0
    for s in range(seeds):
        x, p, r = environment(s, rounds)
        model = policy(s)
        begun = time.process_time()
        choices = np.empty(rounds, int)
        for t in range(rounds):
            a = model.decide(x[t])
            choices[t] = a
            model.update(x[t], a, r[t, a])
        seconds += time.process_time() - begun
        regret += (p.max(1) - p[np.arange(rounds), choices]).sum() / seeds
    print(f"{name},{seeds * rounds / seconds},{regret}")
