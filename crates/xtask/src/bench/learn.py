"""The peers of online learning. argv: `real` writes Shuttle and Phishing from the river wheel, standardised;
`run PEER SET N` learns progressively from SET.f32 and SET.y and prints seconds and mean log loss.
"""
import math, os, sys, time
os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = "1"
import numpy as np

def real():
    from river import datasets
    for name in ("Shuttle", "Phishing"):
        rows, labels = [], []
        for x, y in getattr(datasets, name)():
            rows.append([float(x[k]) for k in sorted(x)])
            labels.append(int(y))
        x, y = np.array(rows), np.array(labels)
        mean, sd = x.mean(0), x.std(0)
        sd[sd == 0] = 1
        z = np.round((x - mean) / sd, 4)
        with open(f"{name.lower()}.vw", "w") as vw, open(f"{name.lower()}.csv", "w") as table:
            table.write("y," + ",".join(f"x{j:02d}" for j in range(z.shape[1])) + "\n")
            for r, label in zip(z.tolist(), labels):
                vw.write(("1" if label else "-1") + " |f " + " ".join("%d:%.4f" % (j, v) for j, v in enumerate(r)) + "\n")
                table.write(f"{label}," + ",".join("%.4f" % v for v in r) + "\n")

def run(peer, name):
    table = np.loadtxt(f"{name}.csv", delimiter=",", skiprows=1, dtype=np.float64)
    y, x = table[:, 0].astype(int), table[:, 1:]
    n = len(y)
    p = np.full(n, .5)
    if peer == "river":
        from river import linear_model
        model = linear_model.LogisticRegression()
        if name == "categorical":
            rows = [{(f, v): 1.0 for f, v in enumerate(r)} for r in x.astype(int).tolist()]
        else:
            rows = [dict(enumerate(r)) for r in x.tolist()]
        labels = y.astype(bool).tolist()
        begun = time.perf_counter()
        for i in range(n):
            p[i] = model.predict_proba_one(rows[i]).get(True, .5)
            model.learn_one(rows[i], labels[i])
    else:
        from sklearn.linear_model import SGDClassifier
        if name == "categorical":
            from scipy.sparse import csr_matrix
            fields = x.shape[1]
            index = (x.astype(np.int64) + np.arange(fields) * 10_000).astype(np.int32)
            x = csr_matrix((np.ones(index.size), index.ravel(), np.arange(0, index.size + 1, fields)), shape=(n, fields * 10_000))
        model = SGDClassifier(loss="log_loss", learning_rate="constant", eta0=0.01, random_state=0)
        begun = time.perf_counter()
        for i in range(0, n, 1000):
            rows, labels = x[i:i + 1000], y[i:i + 1000]
            if i:
                p[i:i + 1000] = model.predict_proba(rows)[:, 1]
            model.partial_fit(rows, labels, classes=[0, 1])
    seconds = time.perf_counter() - begun
    p = np.clip(p, 1e-7, 1 - 1e-7)
    print(seconds, float(-np.mean(np.where(y == 1, np.log(p), np.log1p(-p)))))

if sys.argv[1] == "real":
    real()
else:
    run(*sys.argv[2:4])
