//! `pawl simulate` on tables whose answers are known.

use std::io::Write as _;

use flate2::{Compression, write::GzEncoder};
use serde_json::Value;

use crate::process::pawl;

const SPEC: &str = r#"
schema = 1
name = "t"
kind = "policy"
actions = ["good", "bad"]
[features]
x = { type = "category", vocabulary = ["u", "v"] }
[metrics]
quality = { bounds = [0, 1] }
cost_usd = { goal = "min", explore = false, features = [] }
[objective]
weights = { quality = 1.0, cost_usd = -1.0 }
[learner]
algorithm = "linear_thompson"
"#;

fn simulate(dir: &std::path::Path, data: &str, arguments: &[&str]) -> (bool, String) {
    std::fs::write(dir.join("t.toml"), SPEC).unwrap();
    let output = pawl()
        .current_dir(dir)
        .args(["simulate", "t.toml", "--data", data, "--json"])
        .args(arguments)
        .output()
        .unwrap();
    let said = if output.status.success() { output.stdout } else { output.stderr };
    (output.status.success(), String::from_utf8(said).unwrap())
}

/// `good` is good for u, `bad` for v; good costs 0.2, bad 0.1.
fn table() -> String {
    let mut text = "x,quality__good,cost_usd__good,quality__bad,cost_usd__bad\n".to_owned();
    for i in 0..2000 {
        text.push_str(if i % 4 == 0 { "v,0,0.2,1,0.1\n" } else { "u,1,0.2,0,0.1\n" });
    }
    text
}

#[test]
fn baselines_are_those_of_the_table_and_the_policy_beats_the_best_single_action() {
    let dir = tempfile::tempdir().unwrap();
    let mut gz = GzEncoder::new(
        std::fs::File::create(dir.path().join("t.csv.gz")).unwrap(),
        Compression::fast(),
    );
    gz.write_all(table().as_bytes()).unwrap();
    gz.finish().unwrap();
    let (ok, said) = simulate(dir.path(), "t.csv.gz", &["--seeds", "3", "--trade-off", "0,1,20"]);
    assert!(ok, "{said}");
    let value: Value = serde_json::from_str(&said).unwrap();
    let close = |v: &Value, expected: f64| (v.as_f64().unwrap() - expected).abs() < 1e-9;
    assert!(close(&value["baselines"]["good"]["quality"], 0.75));
    assert!(close(&value["baselines"]["good"]["cost_usd"], 0.2));
    assert!(close(&value["baselines"]["bad"]["quality"], 0.25));
    assert!(close(&value["baselines"]["uniform"]["quality"], 0.5));
    assert!(close(&value["baselines"]["oracle"]["quality"], 1.0));
    assert_eq!(value["best_single"], "good");
    assert!(value["policy"]["quality"].as_f64().unwrap() > 0.95, "{said}");
    assert!(value["relative_quality"]["mean"].as_f64().unwrap() > 1.2);
    let frontier = value["frontier"].as_array().unwrap();
    assert_eq!(frontier.len(), 3);
    assert!(
        frontier[2]["saving"]["mean"].as_f64().unwrap() > 0.45,
        "cost dominates: always the cheap one"
    );
    assert!(value["saving_at"]["0.95"]["mean"].is_number());
}

#[test]
fn a_table_that_does_not_fit_is_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).unwrap();
    write("a.csv", &table().replace("quality__bad", "quality_bad"));
    assert!(simulate(dir.path(), "a.csv", &[]).1.contains("there is no column `quality__bad`"));
    write("b.csv", &table().replacen("u,1,0.2", "u,7,0.2", 1));
    assert!(simulate(dir.path(), "b.csv", &[]).1.contains("column `quality__good` holds `7`"));
    write("c.txt", "");
    assert!(simulate(dir.path(), "c.txt", &[]).1.contains("unknown format"));
    write(
        "d.jsonl",
        "{\"x\": \"u\", \"quality__good\": 1, \"cost_usd__good\": 0.2, \"quality__bad\": 0, \"cost_usd__bad\": 0.1}\n",
    );
    let (ok, said) = simulate(dir.path(), "d.jsonl", &[]);
    assert!(ok && said.contains("\"rows\":1"), "{said}");
}

#[cfg(feature = "parquet")]
#[test]
fn a_parquet_table_says_the_same_as_csv() {
    use std::sync::Arc;

    use parquet::{
        data_type::{ByteArray, ByteArrayType, DoubleType},
        file::writer::SerializedFileWriter,
        schema::parser::parse_message_type,
    };
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("t.csv"), table()).unwrap();
    let schema = "message t { required binary x (UTF8); required double quality__good; required double cost_usd__good; \
                  required double quality__bad; required double cost_usd__bad; }";
    let file = std::fs::File::create(dir.path().join("t.parquet")).unwrap();
    let schema = Arc::new(parse_message_type(schema).unwrap());
    let mut writer = SerializedFileWriter::new(file, schema, Arc::default()).unwrap();
    let mut group = writer.next_row_group().unwrap();
    let text = table();
    let rows: Vec<Vec<&str>> = text.lines().skip(1).map(|l| l.split(',').collect()).collect();
    for column in 0..5 {
        let mut out = group.next_column().unwrap().unwrap();
        if column == 0 {
            let values: Vec<ByteArray> = rows.iter().map(|r| r[0].into()).collect();
            out.typed::<ByteArrayType>().write_batch(&values, None, None).unwrap();
        } else {
            let values: Vec<f64> = rows.iter().map(|r| r[column].parse().unwrap()).collect();
            out.typed::<DoubleType>().write_batch(&values, None, None).unwrap();
        }
        out.close().unwrap();
    }
    group.close().unwrap();
    writer.close().unwrap();
    let (csv, parquet) =
        (simulate(dir.path(), "t.csv", &[]), simulate(dir.path(), "t.parquet", &[]));
    assert!(csv.0 && parquet.0, "{}", parquet.1);
    assert_eq!(csv.1, parquet.1);
}

#[test]
fn a_floor_is_kept_and_says_so() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("t.csv"), table()).unwrap();
    let (ok, said) = simulate(dir.path(), "t.csv", &["--keep", "0.9"]);
    assert!(!ok && said.contains("objective.incumbent"), "{said}");
    let spec = SPEC.replace("[objective]", "[objective]\nincumbent = \"good\"");
    std::fs::write(dir.path().join("f.toml"), spec).unwrap();
    let output = pawl()
        .current_dir(dir.path())
        .args(["simulate", "f.toml", "--data", "t.csv", "--json", "--seeds", "3", "--keep", "0.6"])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let value: Value = serde_json::from_slice(&output.stdout).unwrap();
    let floor = &value["floors"]["quality"];
    assert_eq!((&floor["incumbent"], &floor["shown_broken"]), (&"good".into(), &0.into()));
    assert!(floor["least"].as_f64().unwrap() >= 0.6, "{floor}");
    // A quarter of the rows are cheaper and better elsewhere.
    assert!(value["saving"]["mean"].as_f64().unwrap() > 0.05, "{value}");
}

/// A log of the table above, by a policy that gives `good` with probability .8; quality known of half the rows.
fn log(with_probability: bool) -> String {
    use pawl_stats::rng::uniform;
    let mut text = format!(
        "x,action,quality,cost_usd{}\n",
        if with_probability { ",probability" } else { "" }
    );
    for i in 0..4000_u64 {
        let x = if i % 4 == 0 { "v" } else { "u" };
        let good = uniform(5, i) < 0.8;
        let (action, p) = if good { ("good", 0.8) } else { ("bad", 0.2) };
        let quality = u8::from(good == (x == "u"));
        let quality = if uniform(6, i) < 0.5 { quality.to_string() } else { String::new() };
        let cost = if good { 0.2 } else { 0.1 };
        text.push_str(&format!("{x},{action},{quality},{cost}"));
        text.push_str(&if with_probability { format!(",{p}\n") } else { "\n".to_owned() });
    }
    text
}

#[test]
fn a_log_with_probabilities_says_what_others_would_have_got() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("log.csv"), log(true)).unwrap();
    let (ok, said) = simulate(dir.path(), "log.csv", &["--trade-off", "0,1"]);
    assert!(ok, "{said}");
    let value: Value = serde_json::from_str(&said).unwrap();
    let holds = |policy: &str, metric: &str, estimator: &str, truth: f64| {
        let interval = &value["policies"][policy][metric][estimator]["interval"];
        let [low, high] = [0, 1].map(|i| interval[i].as_f64().unwrap());
        assert!(
            (low - 1e-9..=high + 1e-9).contains(&truth),
            "{policy} {metric} {estimator}: {low} {truth} {high}"
        );
        high - low
    };
    for estimator in ["ips", "snips", "dr"] {
        holds("always good", "quality", estimator, 0.75);
        holds("always bad", "quality", estimator, 0.25);
        holds("always good", "cost_usd", estimator, 0.2);
    }
    // The model comes to know both by x: the doubly robust interval is much the narrower.
    assert!(
        holds("always bad", "quality", "dr", 0.25)
            < 0.5 * holds("always bad", "quality", "ips", 0.25)
    );
    let learned = value["policies"]["weight 0"]["quality"]["dr"]["value"].as_f64().unwrap();
    assert!(learned > 0.95, "{learned}");
    let effective = value["policies"]["always bad"]["cost_usd"]["effective"].as_f64().unwrap();
    assert!((700.0..900.0).contains(&effective), "a fifth of 4000: {effective}");
    assert_eq!(value["logged"]["cost_usd"]["n"], 4000);

    let refused = |text: &str, arguments: &[&str], told: &str| {
        std::fs::write(dir.path().join("bad.csv"), text).unwrap();
        let (ok, said) = simulate(dir.path(), "bad.csv", arguments);
        assert!(!ok && said.contains(told), "{told}: {said}");
    };
    refused(
        &log(true).replacen(",0.8\n", ",\n", 1),
        &[],
        "`probability` is empty in 1 of 4000 rows",
    );
    refused(&log(true).replacen(",0.8\n", ",1.8\n", 1), &[], "at least 0.000001 and at most 1");
    refused(
        &log(true).replacen("good", "god", 1),
        &[],
        "`god`, which is none of the spec's: good, bad",
    );
    refused(&log(true), &["--seeds", "3"], "a log is followed once");
}

#[test]
fn a_log_without_probabilities_says_what_it_holds_and_gives_a_sample() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("log.csv"), log(false)).unwrap();
    let (ok, said) = simulate(dir.path(), "log.csv", &[]);
    assert!(ok, "{said}");
    let value: Value = serde_json::from_str(&said).unwrap();
    assert!(value["policies"].is_null());
    assert_eq!((&value["rows"], &value["segments"]["x"]["v"]["n"]), (&4000.into(), &1000.into()));
    let spent = value["all"]["metrics"]["cost_usd"]["sum"].as_f64().unwrap();
    let good = value["actions"]["good"]["n"].as_f64().unwrap();
    assert!((spent - (0.2 * good + 0.1 * (4000.0 - good))).abs() < 1e-6);
    let known = value["all"]["metrics"]["quality"]["n"].as_f64().unwrap() / 4000.0;
    assert!((known - 0.5).abs() < 0.03, "{known}");

    let (ok, said) = simulate(dir.path(), "log.csv", &["--sample", "50", "--out", "sample.jsonl"]);
    assert!(ok, "{said}");
    let sample = std::fs::read_to_string(dir.path().join("sample.jsonl")).unwrap();
    let rows: Vec<Value> = sample.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    let of = |x: &str, action: &str| {
        rows.iter().filter(|r| r["x"] == x && r["action"] == action).count()
    };
    // A quarter v, four fifths good: 30, 7.5, 10, 2.5 of 50.
    assert_eq!(rows.len(), 50);
    for (count, expected) in [
        (of("u", "good"), 30.0),
        (of("u", "bad"), 7.5),
        (of("v", "good"), 10.0),
        (of("v", "bad"), 2.5),
    ] {
        assert!((count as f64 - expected).abs() <= 1.5, "{count} {expected}");
    }
}
