//! Change detectors on defined Bernoulli streams and on the errors of a real one, beside River's.

use std::{
    collections::BTreeMap,
    io::Read as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Instant,
};

use anyhow::{Context as _, Result, bail};
use clap::Args;
use pawl_stats::{
    drift::{Adwin, Cusum, HddmW, PageHinkley, threshold_for},
    rng::uniform,
};

use crate::python::python;

/// Options of the measurement.
#[derive(Args, Debug)]
pub struct Options {
    /// Directory of `elec2.csv.gz`; also PAWL_DATA/streams. Without either only the defined streams are measured
    #[arg(long)]
    data: Option<PathBuf>,
}

/// A stream of errors: their probabilities, where it changes, its seeds.
struct Stream {
    name: &'static str,
    p: Vec<f64>,
    change: Option<usize>,
    seeds: std::ops::Range<u64>,
}

fn streams() -> Vec<Stream> {
    let steps = |parts: &[(usize, f64)]| -> Vec<f64> {
        parts.iter().flat_map(|&(n, p)| std::iter::repeat_n(p, n)).collect()
    };
    let ramp = (0..1000).map(|k| 0.2 + 0.6 * f64::from(k) / 1000.0);
    let gradual = steps(&[(1000, 0.2)]).into_iter().chain(ramp).chain(steps(&[(2000, 0.8)]));
    vec![
        Stream {
            name: "abrupt",
            p: steps(&[(1000, 0.2), (2000, 0.8)]),
            change: Some(1000),
            seeds: 1000..1200,
        },
        Stream { name: "gradual", p: gradual.collect(), change: Some(1000), seeds: 2000..2200 },
        Stream {
            name: "small",
            p: steps(&[(5000, 0.2), (10_000, 0.3)]),
            change: Some(5000),
            seeds: 3000..3200,
        },
        Stream { name: "none", p: steps(&[(100_000, 0.2)]), change: None, seeds: 4000..4020 },
    ]
}

/// Name, where it changes, one run of values a seed.
type Input = (&'static str, Option<usize>, Vec<Vec<f64>>);

/// What a detector did on one stream.
#[derive(Clone, Debug)]
struct Found {
    median: f64,
    mean: f64,
    p95: f64,
    early: f64,
    miss: u64,
    runs: u64,
    alarms: f64,
    rate: f64,
}

type Make = fn() -> Box<dyn FnMut(&[f64], &mut Vec<usize>)>;

/// The positions of the alarms of a detector. The loop is compiled for each detector, as in a caller of it.
macro_rules! detector {
    ($make:expr) => {
        || {
            Box::new(|values: &[f64], alarms: &mut Vec<usize>| {
                let mut detector = $make;
                let found = values.iter().enumerate().filter(|(_, x)| detector.update(**x));
                alarms.extend(found.map(|(k, _)| k));
            })
        }
    };
}

/// Ours, and River's to compare with.
const DETECTORS: [(&str, Make, &str); 5] = [
    ("ADWIN .002", detector!(Adwin::new(0.002, 32)), "ADWIN .002"),
    ("ADWIN .05", detector!(Adwin::new(0.05, 32)), "ADWIN .05"),
    ("Page-Hinkley", detector!(PageHinkley::default()), "Page-Hinkley"),
    ("CUSUM", detector!(Cusum::learning(500, 0.1, threshold_for(0.1, 1e7))), "Page-Hinkley"),
    ("HDDM-W", detector!(HddmW::default()), "HDDM-W"),
];

fn percentile(sorted: &[usize], q: f64) -> f64 {
    let Some(last) = sorted.len().checked_sub(1) else { return f64::NAN };
    let at = q * last as f64;
    let (low, high) = (sorted[at.floor() as usize] as f64, sorted[at.ceil() as usize] as f64);
    low + (at - at.floor()) * (high - low)
}

fn measure(make: Make, runs: &[Vec<f64>], change: Option<usize>) -> Found {
    let (mut delays, mut early, mut miss, mut alarms) = (Vec::new(), 0, 0, 0);
    let mut seconds = 0.0;
    let mut found = Vec::with_capacity(1024);
    for values in runs {
        let mut run = make();
        found.clear();
        let begun = Instant::now();
        run(values, &mut found);
        seconds += begun.elapsed().as_secs_f64();
        alarms += found.len();
        let Some(change) = change else { continue };
        early += found.iter().filter(|k| **k < change).count();
        match found.iter().find(|k| **k >= change) {
            Some(k) => delays.push(k - change + 1),
            None => miss += 1,
        }
    }
    delays.sort_unstable();
    let updates = runs.iter().map(Vec::len).sum::<usize>() as f64;
    Found {
        median: percentile(&delays, 0.5),
        mean: delays.iter().sum::<usize>() as f64 / delays.len() as f64,
        p95: percentile(&delays, 0.95),
        early: early as f64 / runs.len() as f64,
        miss,
        runs: runs.len() as u64,
        alarms: alarms as f64 / updates * 1e5,
        rate: updates / seconds,
    }
}

/// Whether the label differs from the one before: the errors of the forecast "as it was".
fn elec2(path: &Path) -> Result<Vec<f64>> {
    let file = std::fs::File::open(path).with_context(|| format!("no {}", path.display()))?;
    let mut text = String::new();
    flate2::read::GzDecoder::new(file).read_to_string(&mut text)?;
    let labels: Vec<&str> = text.lines().skip(1).filter_map(|l| l.rsplit(',').next()).collect();
    Ok(labels.windows(2).map(|w| f64::from(u8::from(w[0] != w[1]))).collect())
}

fn peers(elec2: Option<&Path>) -> Result<BTreeMap<(String, String), Found>> {
    let python = python("bench/venv", &["river==0.26.1"])?;
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/bench/drift.py");
    let output = Command::new(python)
        .arg(script)
        .arg(elec2.unwrap_or(Path::new("-")))
        .stderr(Stdio::inherit())
        .output()?;
    if !output.status.success() {
        bail!("the peers failed");
    }
    let mut found = BTreeMap::new();
    for line in String::from_utf8(output.stdout)?.lines() {
        let fields: Vec<&str> = line.split(',').collect();
        let number = |i: usize| -> Result<f64> { Ok(fields.get(i).context("a field")?.parse()?) };
        found.insert(
            (fields[0].to_owned(), fields[1].to_owned()),
            Found {
                median: number(2)?,
                mean: number(3)?,
                p95: number(4)?,
                early: number(5)?,
                miss: number(6)? as u64,
                runs: number(7)? as u64,
                alarms: number(8)?,
                rate: number(9)?,
            },
        );
    }
    Ok(found)
}

fn print(who: &str, detector: &str, stream: &str, f: &Found) {
    println!(
        "{:28} {stream:8} delay {:5.0} median {:7.1} mean {:6.0} p95   early {:6.3} a run   missed {:3}/{:<3}   alarms {:7.2} /100k   {:6.1} M/s",
        format!("{who} {detector}"),
        f.median,
        f.mean,
        f.p95,
        f.early,
        f.miss,
        f.runs,
        f.alarms,
        f.rate / 1e6
    );
}

/// Measures and prints.
pub fn run(options: &Options) -> Result<()> {
    if cfg!(debug_assertions) {
        let mut arguments =
            vec!["run", "--release", "--quiet", "-p", "xtask", "--", "bench", "drift"];
        let data = options.data.as_ref().map(|d| d.to_string_lossy().into_owned());
        arguments.extend(data.iter().flat_map(|d| ["--data", d.as_str()]));
        return crate::cargo(&arguments, &[]);
    }
    let directory = options
        .data
        .clone()
        .or_else(|| Some(PathBuf::from(std::env::var_os("PAWL_DATA")?).join("streams")));
    let real = directory.map(|d| d.join("elec2.csv.gz"));
    let peers = peers(real.as_deref())?;
    let mut inputs: Vec<Input> = Vec::new();
    for stream in streams() {
        let run = |seed: u64| -> Vec<f64> {
            let error = |(k, p): (usize, &f64)| f64::from(u8::from(uniform(seed, k as u64) < *p));
            stream.p.iter().enumerate().map(error).collect()
        };
        inputs.push((stream.name, stream.change, stream.seeds.map(run).collect()));
    }
    if let Some(real) = &real {
        inputs.push(("elec2", None, vec![elec2(real)?]));
    }
    for (name, make, peer) in DETECTORS {
        let (mut ours, mut theirs) = (0.0, 0.0);
        for (stream, change, runs) in &inputs {
            let found = measure(make, runs, *change);
            print("pawl", name, stream, &found);
            let seen = peers.get(&(peer.to_owned(), (*stream).to_owned())).context("no peer")?;
            print("river", peer, stream, seen);
            ours += 1.0 / found.rate;
            theirs += 1.0 / seen.rate;
        }
        println!("{name}: {:.1} × River's {peer}\n", theirs / ours);
    }
    Ok(())
}
