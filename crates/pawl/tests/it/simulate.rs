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
