//! Laws: of probabilities, of learning by metric, of encoding.

use pawl_domain::{CheckedSpec, ModelSpec};
use pawl_model::{Encoded, HashKey, Request, Views, context::Context, snapshot::Workspace};
use proptest::prelude::*;
use serde_json::{Map, Value, json};

use crate::environment::Bandit;

const LEARNERS: [&str; 13] = [
    "algorithm = \"uniform\"",
    "algorithm = \"epsilon_greedy\"\nepsilon = 0.2\nepsilon_decay = 0.99",
    "algorithm = \"ucb1\"\nfloor = 0.05",
    "algorithm = \"thompson\"\nfloor = 0.05",
    "algorithm = \"thompson\"\nlikelihood = \"normal\"",
    "algorithm = \"linucb\"\nfloor = 0.05",
    "algorithm = \"linear_thompson\"",
    "algorithm = \"linear_thompson\"\nparameters = \"shared\"\nfloor = 0.05",
    "algorithm = \"linear_thompson\"\nparameters = \"hybrid\"",
    "algorithm = \"linucb\"\nparameters = \"hybrid\"",
    "algorithm = \"squarecb\"\nfloor = 0.05",
    "algorithm = \"squarecb\"\nestimator = \"sgd\"",
    "algorithm = \"squarecb\"\nestimator = \"ftrl\"\nl1 = 0.01",
];

fn policy(learner: &str) -> String {
    format!(
        "schema = 1\nname = \"laws\"\nkind = \"policy\"\nactions = [\"a\", \"b\", \"c\", \"d\"]\n\
         [features]\nx = {{ type = \"number\" }}\nk = {{ type = \"category\", vocabulary = [\"u\", \"v\"] }}\n\
         [metrics]\nquality = {{ bounds = [0, 1] }}\ncost = {{ goal = \"min\", explore = false }}\n\
         [objective]\nweights = {{ quality = 1.0, cost = -0.3 }}\n[learner]\n{learner}\n"
    )
}

fn context(x: f64, k: bool) -> String {
    json!({"x": x, "k": if k { "u" } else { "v" }}).to_string()
}

type Lesson = (f64, bool, u16, f64, f64);

fn lessons() -> impl Strategy<Value = Vec<Lesson>> {
    let one = (-3.0..3.0_f64, any::<bool>(), 0..4_u16, 0.0..1.0_f64, 0.0..2.0_f64);
    prop::collection::vec(one, 0..40)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn probabilities_sum_to_one_respect_eligibility_and_keep_the_floor(
        which in 0..LEARNERS.len(), lessons in lessons(), x in -3.0..3.0_f64,
        wanted in prop::sample::subsequence(vec![0_u16, 1, 2, 3], 1..=4), seed in any::<u64>(),
    ) {
        let mut bandit = Bandit::new(&policy(LEARNERS[which]));
        for (x, k, action, quality, cost) in lessons {
            bandit.learn(&context(x, k), action, "quality", quality);
            bandit.learn(&context(x, k), action, "cost", cost);
        }
        let text = context(x, true);
        let read = Context::read(&bandit.spec, &HashKey::default(), &text).unwrap();
        let request = Request { context: &read, actions: Some(&wanted), seed };
        let snapshot = bandit.snapshot();
        let choice = snapshot.decide(&request, &mut Workspace::default()).unwrap();
        prop_assert_eq!(&choice.eligible, &wanted);
        prop_assert_eq!(choice.removed.len(), 4 - wanted.len());
        prop_assert!((choice.probabilities.iter().sum::<f64>() - 1.0).abs() < 1e-9);
        let floor = bandit.spec.policy().floor;
        prop_assert!(choice.probabilities.iter().all(|p| *p >= floor - 1e-12 && *p <= 1.0 + 1e-12));
        prop_assert!(choice.probabilities[choice.chosen] > 0.0);
        let again = snapshot.decide(&request, &mut Workspace::default()).unwrap();
        prop_assert_eq!(choice, again, "the same seed decides the same");
    }

    #[test]
    fn learning_each_metric_equals_learning_the_reward(lessons in lessons(), x in -3.0..3.0_f64) {
        let spec = |metrics: &str| format!(
            "schema = 1\nname = \"laws\"\nkind = \"policy\"\nactions = [\"a\", \"b\", \"c\", \"d\"]\n\
             [features]\nx = {{ type = \"number\" }}\nk = {{ type = \"category\", vocabulary = [\"u\", \"v\"] }}\n\
             {metrics}\n[learner]\nalgorithm = \"linucb\"\n"
        );
        let mut apart = Bandit::new(&spec(
            "[metrics]\nquality = { bounds = [0, 1] }\ncost = { goal = \"min\", bounds = [0, 2] }\n\
             [objective]\nweights = { quality = 1.0, cost = -0.3 }",
        ));
        let mut scalar = Bandit::new(&spec("[metrics]\nreward = { bounds = [-0.6, 1] }"));
        for (x, k, action, quality, cost) in lessons {
            apart.learn(&context(x, k), action, "quality", quality);
            apart.learn(&context(x, k), action, "cost", cost);
            scalar.learn(&context(x, k), action, "reward", quality - 0.3 * cost);
        }
        let text = context(x, false);
        let score = |bandit: &Bandit| {
            let read = Context::read(&bandit.spec, &HashKey::default(), &text).unwrap();
            bandit.snapshot().scores(&read, &[0, 1, 2, 3]).score
        };
        for (a, b) in score(&apart).iter().zip(score(&scalar)) {
            prop_assert!((a - b).abs() < 1e-9, "{} {}", a, b);
        }
    }
}

fn everything() -> CheckedSpec {
    ModelSpec::from_toml(
        "schema = 1\nname = \"laws\"\nkind = \"policy\"\nactions = [\"a\", \"b\"]\ncrosses = [[\"cat\", \"bucket\"]]\n\
         [features]\nraw = { type = \"number\" }\nlog = { type = \"number\", scale = \"log\" }\n\
         bounded = { type = \"number\", scale = \"bounded\", bounds = [0, 10] }\n\
         bucket = { type = \"number\", scale = \"bucketed\", edges = [0, 1, 5] }\n\
         hour = { type = \"number\", scale = \"cyclic\", period = 24 }\nflag = { type = \"boolean\" }\n\
         cat = { type = \"category\", vocabulary = [\"u\", \"v\"] }\nhashed = { type = \"category\", bits = 4 }\n\
         text = { type = \"text\", bits = 6, ngrams = 2 }\nvec = { type = \"vector\", dim = 3 }\n\
         kept = { type = \"text\", bits = 6, log = \"encoded\" }\nnever = { type = \"number\", log = \"drop\" }\n\
         [metrics]\nquality = { bounds = [0, 1] }\n[learner]\nalgorithm = \"linucb\"\ncovariance = \"block\"\n",
    )
    .unwrap()
    .check()
    .unwrap()
}

fn json_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<f64>().prop_map(|x| json!(x)),
        any::<i64>().prop_map(Value::from),
        ".*".prop_map(Value::from),
        prop::collection::vec(-2.0..2.0_f64, 0..5).prop_map(|v| json!(v)),
        Just(json!({"pawl:slots": [[1, 2.0]]})),
    ];
    leaf.prop_recursive(3, 16, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map(".*", inner, 0..4).prop_map(|m| json!(m)),
        ]
    })
}

const NAMES: [&str; 13] = [
    "raw",
    "log",
    "bounded",
    "bucket",
    "hour",
    "flag",
    "cat",
    "hashed",
    "text",
    "vec",
    "kept",
    "never",
    "undeclared",
];

proptest! {
    #[test]
    fn encoding_is_total_and_the_log_keeps_what_it_needs(
        fields in prop::collection::vec((0..NAMES.len(), json_value()), 0..12),
    ) {
        let spec = everything();
        let views = Views::of(&spec);
        let object: Map<String, Value> = fields.into_iter().map(|(i, v)| (NAMES[i].to_owned(), v)).collect();
        let text = Value::Object(object).to_string();
        let context = Context::read(&spec, &HashKey::default(), &text).unwrap();
        let encoded = Encoded::new(&spec, views.layout(0), &context, 0);
        prop_assert!(encoded.iter().all(|(slot, v)| slot < views.layout(0).slots && v.is_finite()));
        let logged = context.logged(&spec, &[]).into_owned();
        let kept: Map<String, Value> = serde_json::from_str(&logged).unwrap();
        prop_assert!(!kept.contains_key("never") && !kept.contains_key("undeclared"));
        let again = Context::read_logged(&spec, &logged).unwrap();
        prop_assert_eq!(encoded, Encoded::new(&spec, views.layout(0), &again, 0));
    }
}

proptest! {
    /// Whatever the words: the log has none of them, one key gives one result, and another key other slots.
    #[test]
    fn words_that_are_logged_encoded_are_hidden_by_the_key(
        words in prop::collection::btree_set("[a-z]{6,12}", 4..9),
    ) {
        let spec = everything();
        let words: Vec<String> = words.into_iter().collect();
        let text = json!({"kept": words.join(" ")}).to_string();
        let under = |secret: u8| {
            let key = HashKey::of(&[secret; 32], spec.name());
            Context::read(&spec, &key, &text).unwrap().logged(&spec, &[]).into_owned()
        };
        let kept = under(1);
        let slots = |logged: &str| serde_json::from_str::<Value>(logged).unwrap()["kept"]["pawl:slots"].clone();
        prop_assert!(slots(&kept).is_array());
        prop_assert!(words.iter().all(|w| !kept.contains(w.as_str())));
        prop_assert_eq!(&kept, &under(1));
        // Four words of 64 slots: some key of ten puts them elsewhere.
        prop_assert!((2..12).any(|k| slots(&under(k)) != slots(&kept)));
    }
}

#[test]
fn what_is_no_object_is_refused() {
    let spec = everything();
    for text in ["", "1", "[]", "null", "{\"raw\":}", "{} {}"] {
        assert!(Context::read(&spec, &HashKey::default(), text).is_err(), "{text}");
    }
}

#[test]
fn encodings_are_the_documented_ones() {
    let spec = everything();
    let read = |text: &str, name: &str| {
        let context = Context::read(&spec, &HashKey::default(), text).unwrap();
        let i = spec.features().iter().position(|f| f.name == name).unwrap();
        pawl_model::encode::slots_of(&spec.features()[i].encoding, &context.values[i])
    };
    assert_eq!(read(r#"{"raw": -2.5}"#, "raw"), [(0, -2.5)]);
    assert_eq!(read(r#"{"log": 0}"#, "log"), [(0, 0.0)]);
    assert!((read(r#"{"log": -1.718281828459045}"#, "log")[0].1 + 1.0).abs() < 1e-15);
    assert_eq!(read(r#"{"bounded": 99}"#, "bounded"), [(0, 1.0)]);
    assert_eq!(read(r#"{"bucket": -1}"#, "bucket"), [(0, 1.0)]);
    assert_eq!(read(r#"{"bucket": 1}"#, "bucket"), [(2, 1.0)]);
    assert_eq!(read(r#"{"flag": false}"#, "flag"), [(0, -1.0)]);
    assert_eq!(read(r#"{"cat": "v"}"#, "cat"), [(1, 1.0)]);
    assert_eq!(read(r#"{"cat": "w"}"#, "cat"), [(2, 1.0)]);
    assert_eq!(read("{}", "cat"), [(2, 1.0)]);
    assert_eq!(read("{}", "raw"), []);
    let hour = read(r#"{"hour": 30}"#, "hour");
    assert!((hour[0].1 - 1.0).abs() < 1e-12 && hour[1].1.abs() < 1e-12, "6 o'clock: {hour:?}");
    let words = read(r#"{"text": "Red fox, red FOX!"}"#, "text");
    let norm: f64 = words.iter().map(|(_, v)| v * v).sum();
    assert!((norm - 1.0).abs() < 1e-12 && words == read(r#"{"text": "red fox RED fox"}"#, "text"));
    assert_eq!(
        Context::read(&spec, &HashKey::default(), r#"{"raw": "x", "vec": [1, 2], "flag": null}"#)
            .unwrap()
            .gaps(&spec),
        (10, 2)
    );
}

#[test]
fn a_half_life_added_later_keeps_what_was_learned() {
    let mut before = Bandit::new(&policy("algorithm = \"linear_thompson\""));
    for i in 0..500 {
        before.learner.decided(1_700_000_000_000 + i);
        before.learn(&context(1.0, true), (i % 4) as u16, "quality", 0.8);
    }
    for half_life in ["500", "\"7d\""] {
        let text = format!(
            "algorithm = \"linear_thompson\"\nhalf_life = {half_life}\nhalf_life_force = true"
        );
        let mut after = Bandit::new(&policy(&text));
        after.learner = before.learner.inherit(&after.spec, &after.views).unwrap();
        after.learn(&context(1.0, true), 0, "quality", 0.8);
        let (spec, views) = (after.spec.clone(), after.views.clone());
        after.learner.flush(&spec, &views).unwrap();
        let text = context(1.0, true);
        let predicted = |bandit: &Bandit| {
            let read = Context::read(&bandit.spec, &HashKey::default(), &text).unwrap();
            let quality = bandit.spec.metric("quality").unwrap();
            bandit.snapshot().scores(&read, &[0, 1, 2, 3]).deviation[quality].clone()
        };
        for (old, new) in predicted(&before).iter().zip(predicted(&after)) {
            assert!(new < 1.1 * old, "half-life {half_life}: {old} became {new}");
        }
    }
}
