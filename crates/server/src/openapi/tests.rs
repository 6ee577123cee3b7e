//! The committed document is the served one, and never loses what clients rely on.

use serde_json::Value;

const PATH: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/openapi.json");

/// What `new` lacks of `old`: paths, methods, parameters, properties; and what it newly requires.
fn broken(old: &Value, new: &Value) -> Vec<String> {
    let mut found = Vec::new();
    let empty = serde_json::Map::new();
    let map =
        |v: &Value, key: &str| v.get(key).and_then(Value::as_object).cloned().unwrap_or_default();
    for (path, methods) in map(old, "paths") {
        for (method, operation) in methods.as_object().unwrap_or(&empty) {
            let Some(now) = new["paths"].get(&path).and_then(|p| p.get(method)) else {
                found.push(format!("{method} {path} is gone"));
                continue;
            };
            let names = |v: &Value| -> Vec<String> {
                let list = v["parameters"].as_array().cloned().unwrap_or_default();
                list.iter().map(|p| p["name"].as_str().unwrap_or_default().to_owned()).collect()
            };
            let gone = names(operation).into_iter().filter(|n| !names(now).contains(n));
            found.extend(gone.map(|n| format!("{method} {path} lost the parameter {n}")));
        }
    }
    let schemas = |v: &Value| v["components"]["schemas"].as_object().cloned().unwrap_or_default();
    let new_schemas = schemas(new);
    for (name, old) in schemas(old) {
        let Some(new) = new_schemas.get(&name) else {
            found.push(format!("the schema {name} is gone"));
            continue;
        };
        for property in map(&old, "properties").keys() {
            if !map(new, "properties").contains_key(property) {
                found.push(format!("{name} lost {property}"));
            }
        }
        let required = |v: &Value| v["required"].as_array().cloned().unwrap_or_default();
        for property in required(new) {
            if !required(&old).contains(&property) {
                found.push(format!("{name} newly requires {property}"));
            }
        }
    }
    found
}

#[test]
fn the_committed_document_is_served_and_nothing_breaks() {
    let document = super::document();
    let served: Value = serde_json::from_str(&document).unwrap();
    let committed = std::fs::read_to_string(PATH).unwrap_or_default();
    if let Ok(old) = serde_json::from_str::<Value>(&committed) {
        assert_eq!(broken(&old, &served), Vec::<String>::new(), "v1 only grows");
    }
    if std::env::var_os("PAWL_WRITE_DOCS").is_some() {
        std::fs::write(PATH, &document).unwrap();
    }
    let committed = std::fs::read_to_string(PATH).unwrap();
    assert_eq!(committed, document, "run the tests with PAWL_WRITE_DOCS=1");
}

#[test]
fn a_breaking_difference_is_seen() {
    let old: Value = serde_json::from_str(&super::document()).unwrap();
    let mut new = old.clone();
    new["paths"].as_object_mut().unwrap().remove("/v1/feedback");
    new["components"]["schemas"]["DecideRequest"]["required"]
        .as_array_mut()
        .unwrap()
        .push("session_id".into());
    new["components"]["schemas"]["DecideReply"]["properties"]
        .as_object_mut()
        .unwrap()
        .remove("probability");
    let found = broken(&old, &new);
    assert_eq!(found.len(), 3, "{found:?}");
    assert!(broken(&old, &old).is_empty());
}
