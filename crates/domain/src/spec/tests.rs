//! Specs: what passes, and what each violation says.

use super::*;

const ROUTER: &str = r#"
schema = 1
name = "router"
kind = "policy"
actions = ["gpt-4-1106-preview", "mixtral-8x7b"]

[features]
prompt_tokens = { type = "number", scale = "log" }
subject       = { type = "category", vocabulary = ["law", "physics"] }

[metrics]
quality  = { bounds = [0, 1], goal = "max" }
cost_usd = { goal = "min", explore = false, features = ["subject", "prompt_tokens:raw"] }

[objective]
incumbent = "gpt-4-1106-preview"
weights   = { quality = 1.0, cost_usd = -30.0 }

[feedback]
deadline = "24h"
missing  = { quality = "skip" }

[learner]
algorithm = "linear_thompson"
parameters = "per_action"
batch     = { size = 32, after = "10ms" }
checkpoint_interval = "5m"
"#;

fn errors(edit: impl Fn(String) -> String) -> String {
    match ModelSpec::from_toml(&edit(ROUTER.to_owned())) {
        Err(message) => message,
        Ok(spec) => spec.check().map(|_| String::new()).unwrap_or_else(|e| e.to_string()),
    }
}

#[test]
fn the_documented_spec_passes_and_survives_json() {
    let checked = ModelSpec::from_toml(ROUTER).unwrap().check().unwrap();
    assert_eq!(checked.actions().len(), 2);
    assert_eq!(checked.incumbent(), Some(0));
    assert_eq!(
        checked.metrics()[0].terms[0],
        Term::Alone(1, checked.features()[1].encoding.clone())
    );
    assert_eq!(checked.metrics()[0].terms[1], Term::Alone(0, Encoding::Raw));
    let again = CheckedSpec::from_json(&checked.to_json()).unwrap();
    assert_eq!((again.sha256(), &again), (checked.sha256(), &checked));
}

#[test]
fn violations_name_the_field_and_the_remedy() {
    for (from, to, expected) in [
        ("schema = 1", "schema = 2", "schema: `2` is not a known schema; write 1"),
        ("deadline", "dedline", "did you mean `deadline`?"),
        (
            "algorithm = \"linear_thompson\"",
            "algorithm = \"linear_tompson\"",
            "did you mean `linear_thompson`?",
        ),
        ("batch ", "epsilon = 0.1\nbatch ", "learner.epsilon: `linear_thompson` has no `epsilon`"),
        ("\"subject\", ", "\"subjet\", ", "did you mean `subject`?"),
        ("cost_usd = -30.0", "cost_usd = 30.0", "objective.weights.cost_usd: `30` is positive"),
        ("weights   = {", "keep = { quality = 0.98 }\nweights   = {", "objective.keep: a floor"),
        (", explore = false", "", "metrics.cost_usd.bounds: an explored metric needs bounds"),
        (
            "incumbent = \"gpt-4-1106-preview\"",
            "incumbent = \"gpt-4\"",
            "objective.incumbent: `gpt-4` is not a declared action",
        ),
        (
            "scale = \"log\"",
            "scale = \"bounded\"",
            "features.prompt_tokens.bounds: give two finite numbers",
        ),
        (
            "type = \"category\"",
            "type = \"category\", period = 7",
            "`period` does not apply to type `category`",
        ),
        (
            "[\"gpt-4-1106-preview\", \"mixtral-8x7b\"]",
            "[\"gpt-4-1106-preview\"]",
            "actions: a policy has 2 to",
        ),
        ("batch ", "half_life = 10\nbatch ", "learner.half_life: `10` is below ten times"),
        (
            "bounds = [0, 1]",
            "bounds = [1, 0]",
            "metrics.quality.bounds: give two finite numbers, the smaller first",
        ),
        ("kind = \"policy\"", "kind = \"regressor\"", "actions: only a policy has `actions`"),
        (
            "batch ",
            "rate = 0.1\nbatch ",
            "learner.rate: `linear_thompson` has no rate and so no schedule",
        ),
    ] {
        let message = errors(|s| s.replacen(from, to, 1));
        assert!(message.contains(expected), "{from} → {to}: {message}");
    }
}

#[test]
fn text_needs_a_named_covariance() {
    let wide = |covariance: &str| {
        errors(|s| {
            s.replacen("[metrics]", "prompt = { type = \"text\", bits = 12 }\n[metrics]", 1)
                .replacen("batch ", &format!("{covariance}\nbatch "), 1)
        })
    };
    assert!(wide("").contains("too many for a full covariance"));
    assert_eq!(wide("covariance = \"block\""), "");
    assert_eq!(wide("covariance = \"diagonal\""), "");
}

#[test]
fn a_spec_is_bounded_as_a_whole() {
    let many: Vec<String> = (0..1000).map(|i| format!("\"a{i}\"")).collect();
    let message = errors(|s| {
        s.replacen(
            "[\"gpt-4-1106-preview\", \"mixtral-8x7b\"]",
            &format!("[{}]", many.join(",")),
            1,
        )
        .replacen("incumbent = \"gpt-4-1106-preview\"\n", "", 1)
        .replacen("[metrics]", "v = { type = \"vector\", dim = 200 }\n[metrics]", 1)
    });
    assert!(message.contains("learner.covariance: 1000 actions and 2 metrics need"), "{message}");
    for (from, to) in [
        ("bounds = [0, 1]", "bounds = [-1.7e308, 1.7e308]"),
        ("cost_usd = -30.0", "cost_usd = -1e308"),
        ("size = 32", "size = 4294967295"),
        ("batch ", "half_life = \"0ms\"\nbatch "),
        ("batch ", "prior_weight = 1e308\nbatch "),
    ] {
        assert_ne!(errors(|s| s.replacen(from, to, 1)), "", "{to}");
    }
}

#[test]
fn rules_and_shares_name_what_is_wrong() {
    let base = r#"
schema = 1
name = "router"
kind = "policy"
actions = ["a", "b"]
[features]
region = { type = "category" }
tokens = { type = "number" }
price = { type = "number", of = "action" }
[metrics]
quality = { bounds = [0, 1] }
[learner]
algorithm = "ucb1"
"#;
    let check = |extra: &str| ModelSpec::from_toml(&format!("{extra}\n{base}")).unwrap().check();
    let rule =
        |when: &str, deny: &str| format!("rules = [{{ when = {{ {when} }}, deny = [{deny}] }}]");
    assert!(check(&rule("region = [\"eu\", 7, true], tokens = { max = 5 }", "\"a\"")).is_ok());
    for (when, deny, field, message) in [
        ("regoin = \"eu\"", "\"a\"", "rules[0].when.regoin", "did you mean `region`?"),
        ("region = \"eu\"", "\"c\"", "rules[0].deny", "`c` is not a declared action"),
        ("", "\"a\"", "rules[0].when", "at least one condition"),
        ("region = \"eu\"", "", "rules[0].deny", "at least one action"),
        ("tokens = \"many\"", "\"a\"", "rules[0].when.tokens", "`tokens` is a number"),
        ("tokens = { min = 5, max = 4 }", "\"a\"", "rules[0].when.tokens", "the smaller first"),
        ("region = { min = 5 }", "\"a\"", "rules[0].when.region", "`region` is a category"),
        ("price = 5", "\"a\"", "rules[0].when.price", "a feature of actions"),
        ("region = []", "\"a\"", "rules[0].when.region", "1 to 1000 values"),
    ] {
        let errors = check(&rule(when, deny)).unwrap_err().to_string();
        assert!(errors.contains(field) && errors.contains(message), "{when} {deny}: {errors}");
    }
    for (objective, field) in [
        ("objective = { incumbent = \"a\", holdback = 1.5 }", "objective.holdback"),
        ("objective = { ramp = 0.5 }", "objective.ramp"),
    ] {
        let errors = check(objective).unwrap_err().to_string();
        assert!(errors.contains(field), "{objective}: {errors}");
    }
}

#[test]
fn a_floor_names_what_it_lacks() {
    let spec = |objective: &str| {
        let text = format!(
            "schema = 1\nname = \"m\"\nkind = \"policy\"\nactions = [\"a\", \"b\"]\n[metrics]\n\
             quality = {{ bounds = [0, 1] }}\ncost = {{ goal = \"min\", explore = false }}\nother = {{ }}\n\
             [objective]\n{objective}\n[learner]\nalgorithm = \"epsilon_greedy\"\n"
        );
        ModelSpec::from_toml(&text).unwrap().check()
    };
    let whole = "incumbent = \"a\"\nminimize = \"cost\"\nkeep = { quality = 0.98 }";
    let checked = spec(whole).unwrap();
    assert_eq!((checked.floors().len(), checked.minimized()), (1, checked.metric("cost")));
    assert_eq!(checked.shares(), [0.05, 1.0], "a floor has a control group");
    for (from, to, field) in [
        ("incumbent = \"a\"", "", "objective.incumbent"),
        ("minimize = \"cost\"", "", "objective.keep"),
        ("keep = { quality = 0.98 }", "", "objective.keep"),
        ("minimize = \"cost\"", "minimize = \"quality\"", "objective.minimize"),
        ("quality = 0.98", "quality = 1.0", "objective.keep.quality"),
        ("quality = 0.98", "other = 0.98", "objective.keep.other"),
        ("quality = 0.98", "qualty = 0.98", "did you mean `quality`?"),
        ("minimize", "holdback = 0.0\nminimize", "objective.holdback"),
        ("minimize", "weights = { quality = 1.0 }\nminimize", "objective.weights"),
    ] {
        let errors = spec(&whole.replacen(from, to, 1)).unwrap_err().to_string();
        assert!(errors.contains(field), "{from} → {to}: {errors}");
    }
}

#[test]
fn budgets_and_sessions_name_what_is_wrong() {
    let spec = |extra: &str| {
        let text = format!(
            "schema = 1\nname = \"m\"\nkind = \"policy\"\nactions = [\"a\", \"b\"]\n[features]\n\
             tenant = {{ type = \"category\" }}\nhidden = {{ type = \"category\", log = \"encoded\" }}\n\
             size = {{ type = \"number\" }}\n[metrics]\ncost = {{ goal = \"min\", bounds = [0, 1] }}\n[learner]\nalgorithm = \"ucb1\"\n\
             {extra}\n"
        );
        ModelSpec::from_toml(&text).map_err(|e| e.to_string())?.check().map_err(|e| e.to_string())
    };
    let whole = "[[budget]]\nmetric = \"cost\"\nper = \"day\"\nby = \"tenant\"\nmax = 5\non_exceed = \"alert\"\n\
                 [session]\nsticky = \"30m\"\n";
    let checked = spec(whole).unwrap();
    assert_eq!((checked.budgets()[0].metric, checked.budgets()[0].by), (0, Some(2)));
    assert_eq!(checked.session().unwrap().credit, Credit::All);
    for (from, to, field) in [
        (
            "\"cost\"",
            "\"cots\"",
            "budget[0].metric: `cots` is not a declared metric; did you mean `cost`?",
        ),
        (
            "\"tenant\"",
            "\"tenat\"",
            "budget[0].by: `tenat` is not a declared feature; did you mean",
        ),
        ("\"tenant\"", "\"hidden\"", "budget[0].by: `hidden` must be a category"),
        ("\"tenant\"", "\"size\"", "budget[0].by: `size` must be a category"),
        ("max = 5", "max = 0", "budget[0].max: `0` must be above 0"),
        ("\"alert\"", "\"incumbent\"", "budget[0].on_exceed: there is no incumbent"),
        ("\"day\"", "\"month\"", "unknown variant `month`"),
        ("30m", "8d", "session.sticky: must be above 0 and at most 7d"),
        ("sticky", "stiky", "did you mean `sticky`?"),
    ] {
        let errors = spec(&whole.replacen(from, to, 1)).unwrap_err();
        assert!(errors.contains(field), "{from} → {to}: {errors}");
    }
    let twice = format!("{}{whole}", whole.split("[session]").next().unwrap());
    assert!(spec(&twice).unwrap_err().contains("there is one of this metric"));
}
