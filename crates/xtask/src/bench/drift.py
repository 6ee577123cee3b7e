"""River's change detectors on the defined Bernoulli streams and on the errors of elec2. argv: elec2.csv.gz or -.

Prints one line a detector and stream: detector, stream, median, mean and 95th percentile of the delay, early alarms a
run, misses, runs, alarms a 100,000 values, updates a second.
"""
import csv, gzip, sys, time
import numpy as np
from river import drift
from river.drift import binary

def uniform(seed, n):
    with np.errstate(over="ignore"):
        z = np.uint64(seed) + np.arange(1, n + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        z ^= z >> np.uint64(30)
        z *= np.uint64(0xBF58476D1CE4E5B9)
        z ^= z >> np.uint64(27)
        z *= np.uint64(0x94D049BB133111EB)
        z ^= z >> np.uint64(31)
    return (z >> np.uint64(11)).astype(np.float64) * 2.0**-53

STREAMS = {
    "abrupt": (np.r_[np.full(1000, .2), np.full(2000, .8)], 1000, range(1000, 1200)),
    "gradual": (np.r_[np.full(1000, .2), .2 + .6 * np.arange(1000) / 1000, np.full(2000, .8)], 1000, range(2000, 2200)),
    "small": (np.r_[np.full(5000, .2), np.full(10000, .3)], 5000, range(3000, 3200)),
    "none": (np.full(100_000, .2), None, range(4000, 4020)),
}
DETECTORS = {
    "ADWIN .002": lambda: drift.ADWIN(delta=0.002),
    "ADWIN .05": lambda: drift.ADWIN(delta=0.05),
    "Page-Hinkley": lambda: drift.PageHinkley(),
    "HDDM-W": lambda: binary.HDDMW(),
}

def line(*fields):
    print(",".join(map(str, fields)), flush=True)

for name, make in DETECTORS.items():
    for stream, (p, change, seeds) in STREAMS.items():
        delays, early, miss, alarms, updates, cpu = [], 0, 0, 0, 0, 0.0
        for seed in seeds:
            x = (uniform(seed, len(p)) < p).astype(int).tolist()
            detector, found = make(), []
            begun = time.process_time()
            for k, v in enumerate(x):
                detector.update(v)
                if detector.drift_detected:
                    found.append(k)
            cpu += time.process_time() - begun
            updates += len(x)
            alarms += len(found)
            if change is not None:
                early += sum(k < change for k in found)
                after = [k for k in found if k >= change]
                if after:
                    delays.append(after[0] - change + 1)
                else:
                    miss += 1
        of = lambda f: f(delays) if delays else float("nan")
        line(name, stream, of(np.median), of(np.mean), of(lambda d: np.percentile(d, 95)), early / len(seeds), miss,
             len(seeds), alarms / updates * 100_000, updates / cpu)
if sys.argv[1] != "-":
    label = [int(r["class_up"]) for r in csv.DictReader(gzip.open(sys.argv[1], "rt"))]
    errors = [int(a != b) for a, b in zip(label, label[1:])]
    for name, make in DETECTORS.items():
        detector, alarms = make(), 0
        begun = time.process_time()
        for v in errors:
            detector.update(v)
            alarms += detector.drift_detected
        cpu = time.process_time() - begun
        line(name, "elec2", "nan", "nan", "nan", 0, 0, 1, alarms / len(errors) * 100_000, len(errors) / cpu)
