//! Artifacts: a learner goes through a file and goes on as if nothing had happened; other programs read it; a damaged
//! or hostile one is refused.

use std::{path::Path, process::Command};

use pawl_learn::Artifact;
use pawl_model::{Encoded, HashKey, context::Context};
use pawl_stats::rng::uniform;
use proptest::prelude::*;

use crate::environment::Bandit;

const POLICIES: [&str; 9] = [
    "algorithm = \"uniform\"",
    "algorithm = \"ucb1\"",
    "algorithm = \"thompson\"",
    "algorithm = \"linucb\"",
    "algorithm = \"linear_thompson\"\ncovariance = \"block\"",
    "algorithm = \"linear_thompson\"\nparameters = \"shared\"",
    "algorithm = \"linucb\"\nparameters = \"hybrid\"\nhalf_life = 100\nhalf_life_force = true",
    "algorithm = \"squarecb\"\nestimator = \"sgd\"\naverage = true",
    "algorithm = \"squarecb\"\nestimator = \"ftrl\"\nl1 = 0.01",
];

fn spec(learner: &str) -> String {
    let text = if learner.contains("block") { "t = { type = \"text\", bits = 5 }\n" } else { "" };
    format!(
        "schema = 1\nname = \"m\"\nkind = \"policy\"\nactions = [\"a\", \"b\"]\n[features]\nx = {{ type = \"number\" }}\n\
         k = {{ type = \"category\", bits = 3 }}\n{text}[metrics]\nquality = {{ bounds = [0, 1] }}\n\
         cost = {{ goal = \"min\", explore = false }}\n[objective]\nweights = {{ quality = 1.0, cost = -0.3 }}\n\
         [learner]\n{learner}\n"
    )
}

fn context(k: u64) -> String {
    format!("{{\"x\":{},\"k\":\"{}\",\"t\":\"word{} and\"}}", uniform(1, k), k % 5, k % 7)
}

fn learn(bandit: &mut Bandit, range: std::ops::Range<u64>) {
    assert!(learns(bandit, range));
}

/// False if its statistics have become degenerate, which puts a learner in service into quarantine.
fn learns(bandit: &mut Bandit, mut range: std::ops::Range<u64>) -> bool {
    range.all(|k| {
        let (context, action) = (context(k), (k % 2) as u16);
        bandit.learner.decided(1000 * k);
        let learned = bandit.learns(&context, action, "quality", uniform(2, k))
            && bandit.learns(&context, action, "cost", uniform(3, k));
        let full = bandit.learner.batch_full(bandit.spec.policy());
        learned && (!full || bandit.learner.flush(&bandit.spec, &bandit.views).is_ok())
    })
}

fn through_a_file(bandit: &Bandit) -> Bandit {
    let bytes = Artifact::write(&bandit.spec, &bandit.learner, &HashKey::default()).unwrap();
    assert_eq!(bytes, Artifact::write(&bandit.spec, &bandit.learner, &HashKey::default()).unwrap());
    let Artifact { spec, learner, .. } = Artifact::read(&bytes).unwrap();
    assert_eq!(spec, *bandit.spec);
    Bandit { spec: spec.into(), views: bandit.views.clone(), learner }
}

/// What it learns afterwards, it learns as the one that never was a file: equal bits of every score.
#[test]
fn a_learner_goes_on_where_it_was() {
    for learner in POLICIES {
        let mut bandit = Bandit::new(&spec(learner));
        // Whole batches: what waits for one is not in the file.
        learn(&mut bandit, 0..320);
        let mut again = through_a_file(&bandit);
        learn(&mut bandit, 320..640);
        learn(&mut again, 320..640);
        let text = context(1000);
        let read = Context::read(&bandit.spec, &HashKey::default(), &text).unwrap();
        let scores = [&bandit, &again].map(|b| b.snapshot().scores(&read, &[0, 1]));
        assert_eq!(scores[0], scores[1], "{learner}");
        assert_eq!(bandit.learner.examples(), again.learner.examples());
    }
}

/// The committed file of format 1 still says what it said. `PAWL_WRITE_GOLDEN=1` writes one of a new format.
#[test]
fn the_golden_artifact_predicts_what_it_did() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/artifact.1.safetensors");
    let mut bandit = Bandit::new(&spec(POLICIES[4]));
    learn(&mut bandit, 0..200);
    if std::env::var_os("PAWL_WRITE_GOLDEN").is_some() && !path.exists() {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(
            &path,
            Artifact::write(&bandit.spec, &bandit.learner, &HashKey::default()).unwrap(),
        )
        .unwrap();
    }
    let golden = Artifact::read(&std::fs::read(path).unwrap()).unwrap();
    let golden =
        Bandit { spec: golden.spec.into(), views: bandit.views.clone(), learner: golden.learner };
    let text = context(7);
    let read = Context::read(&bandit.spec, &HashKey::default(), &text).unwrap();
    let scores = golden.snapshot().scores(&read, &[0, 1]);
    // Made by the commit that added the format.
    let text = format!("{:?} {:?}", scores.predicted, scores.deviation);
    same_as(&text, "tests/golden/artifact.1.txt");
}

/// Compares with a committed file.
fn same_as(text: &str, path: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    if std::env::var_os("PAWL_WRITE_GOLDEN").is_some() && !path.exists() {
        std::fs::write(&path, text).unwrap();
    }
    assert_eq!(text, std::fs::read_to_string(path).unwrap());
}

/// The `safetensors` package of Python reads the weights, and makes the same prediction of them.
#[test]
fn python_reads_the_weights() {
    let Some(python) = std::env::var_os("PAWL_PYTHON") else {
        eprintln!("not run: `cargo xtask test` brings a Python with `safetensors`");
        return;
    };
    let mut bandit = Bandit::new(&spec("algorithm = \"squarecb\"\nestimator = \"sgd\""));
    learn(&mut bandit, 0..320);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m.safetensors");
    std::fs::write(
        &path,
        Artifact::write(&bandit.spec, &bandit.learner, &HashKey::default()).unwrap(),
    )
    .unwrap();
    let text = context(9);
    let read = Context::read(&bandit.spec, &HashKey::default(), &text).unwrap();
    let m = bandit.spec.metric("quality").unwrap();
    let x = Encoded::new(&bandit.spec, bandit.views.layout(m), &read, 1);
    let slots: Vec<String> = x.iter().map(|(slot, v)| format!("({slot},{v:?})")).collect();
    let program = format!(
        "import json\nfrom safetensors import safe_open\nf = safe_open({path:?}, 'np')\n\
         head = json.loads(f.metadata()['pawl'])\nassert head['format'] == 1\n\
         assert head['spec']['learner']['algorithm'] == 'squarecb'\n\
         layout = {{l['metric']: l for l in head['encoder']['layouts']}}['quality']\n\
         assert layout['blocks'][0] == ['', 0, 1]\n\
         w = dict(zip(f.get_tensor('quality/b/index'), f.get_tensor('quality/b/weight')))\n\
         print(repr(float(sum(w.get(s, 0.0) * v for s, v in [{}]))))\n",
        slots.join(",")
    );
    let output = Command::new(python).args(["-c", &program]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let theirs: f64 = String::from_utf8(output.stdout).unwrap().trim().parse().unwrap();
    let ours = bandit.snapshot().scores(&read, &[1]).predicted[m][0];
    // What is served is the weight in single precision.
    assert!((ours - theirs).abs() < 1e-6, "{ours} {theirs}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// A damaged file is refused or read as what it says; it never panics, whatever it learns then.
    #[test]
    fn damage_is_refused(which in 0..POLICIES.len(), at in 0.0..1.0_f64, bit in 0..8_u32, cut in any::<bool>()) {
        let mut bandit = Bandit::new(&spec(POLICIES[which]));
        learn(&mut bandit, 0..64);
        let mut bytes = Artifact::write(&bandit.spec, &bandit.learner, &HashKey::default()).unwrap();
        let at = (at * bytes.len() as f64) as usize;
        if cut {
            bytes.truncate(at);
        } else {
            bytes[at] ^= 1 << bit;
        }
        if let Ok(Artifact { spec, learner, .. }) = Artifact::read(&bytes) {
            let views = pawl_model::Views::of(&spec).into();
            let mut read = Bandit { spec: spec.into(), views, learner };
            let _degenerate = learns(&mut read, 64..128);
        }
    }
}
