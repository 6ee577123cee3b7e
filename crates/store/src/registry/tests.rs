//! The registry against real SQLite files.

use pawl_domain::{CheckedSpec, LearnerId, ModelSpec};

use super::*;

fn spec(extra: &str) -> CheckedSpec {
    let text = format!(
        "schema = 1\nname = \"router\"\nkind = \"policy\"\nactions = [\"a\", \"b\"{extra}]\n\
         [metrics]\nquality = {{ bounds = [0, 1] }}\n[learner]\nalgorithm = \"ucb1\"\n"
    );
    ModelSpec::from_toml(&text).unwrap().check().unwrap()
}

fn by(at_ms: u64) -> By {
    By { at_ms, principal: Some("alice".into()), why: None }
}

#[tokio::test]
async fn a_model_gets_versions_and_a_trail() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("registry.sqlite");
    let registry = Registry::open(&path).await.unwrap();
    let first = registry.create_model(&spec(""), None, &by(1)).await.unwrap();
    assert_eq!((first.version.to_string().as_str(), first.learner), ("1.0.0", LearnerId(1)));
    assert!(matches!(
        registry.create_model(&spec(""), None, &by(2)).await,
        Err(RegistryError::Exists { .. })
    ));
    let same = registry.create_version(&spec(""), None, None, &by(3)).await;
    assert!(matches!(same, Err(RegistryError::Unchanged(_))));
    let (second, why) =
        registry.create_version(&spec(", \"c\""), None, None, &by(4)).await.unwrap();
    assert_eq!((second.version.to_string().as_str(), second.learner), ("1.1.0", LearnerId(2)));
    assert_eq!(why[0].field, "actions.c");
    let stale = registry.create_version(&spec(", \"d\""), None, Some(&first.version), &by(5)).await;
    assert!(matches!(stale, Err(RegistryError::Conflict { .. })));
    registry.close().await;

    let registry = Registry::open(&path).await.unwrap();
    let versions = registry.versions(spec("").name()).await.unwrap();
    let stages: Vec<&str> = versions.iter().map(|v| v.stage.as_str()).collect();
    assert_eq!(stages, ["archived", "production"]);
    let changes = registry.changes_after(0, 10).await.unwrap();
    assert_eq!(changes.iter().map(|c| c.seq).collect::<Vec<_>>(), [1, 2]);
    let ChangeKind::Enrolled { inherits, version, .. } = &changes[1].kind else { panic!() };
    assert_eq!((*inherits, version), (Some(LearnerId(1)), &second.version));
    assert_eq!(registry.head().await.unwrap(), (1, 2));
    let audit = registry.audit(0, 10).await.unwrap();
    assert_eq!(audit[1].principal.as_deref(), Some("alice"));
    assert_ne!(audit[0].sha256, audit[1].sha256);
}

#[tokio::test]
async fn a_key_works_until_it_is_revoked_or_expires() {
    let dir = tempfile::tempdir().unwrap();
    let registry = Registry::open(&dir.path().join("registry.sqlite")).await.unwrap();
    let new = NewKey {
        name: "gateway".to_owned(),
        sha256: Sha256::of(b"secret"),
        scopes: vec![Scope::Decide, Scope::Feedback],
        model: "team-a.*".to_owned(),
        expires_ms: Some(1000),
    };
    registry.create_key(&new, &by(1)).await.unwrap();
    assert!(matches!(registry.create_key(&new, &by(1)).await, Err(RegistryError::Exists { .. })));
    let key = registry.keys().await.unwrap().remove(0);
    assert!(key.valid(999) && !key.valid(1000));
    assert!(key.allows(Scope::Decide, Some("team-a.router")));
    assert!(!key.allows(Scope::Read, Some("team-a.router")));
    assert!(!key.allows(Scope::Decide, Some("other")));
    registry.revoke_key("gateway", &by(2)).await.unwrap();
    assert!(registry.revoke_key("gateway", &by(3)).await.is_err());
    assert!(!registry.keys().await.unwrap()[0].valid(5));
    assert_eq!(registry.head().await.unwrap().1, 2);
}

#[tokio::test]
async fn concurrent_changes_stay_dense() {
    let dir = tempfile::tempdir().unwrap();
    let registry = Registry::open(&dir.path().join("registry.sqlite")).await.unwrap();
    let tasks: Vec<_> = (0..20)
        .map(|i| {
            let registry = registry.clone();
            tokio::spawn(async move {
                let sha256 = Sha256::of(format!("{i}").as_bytes());
                let name = format!("key{i}");
                let new = NewKey {
                    name,
                    sha256,
                    scopes: vec![Scope::Read],
                    model: "*".to_owned(),
                    expires_ms: None,
                };
                registry.create_key(&new, &by(i)).await
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap().unwrap();
    }
    let seqs: Vec<u64> = registry.audit(0, 100).await.unwrap().iter().map(|r| r.seq).collect();
    assert_eq!(seqs, (1..=20).collect::<Vec<_>>());
}

#[tokio::test]
async fn versions_are_cut_and_begin_from_artifacts() {
    let dir = tempfile::tempdir().unwrap();
    let registry = Registry::open(&dir.path().join("registry.sqlite")).await.unwrap();
    let first = registry.create_model(&spec(""), None, &by(1)).await.unwrap();
    let digest = Sha256::of(b"what it knew");
    let cut = registry.cut_version(&spec(""), &first.version, digest, 4096, &by(2)).await.unwrap();
    assert_eq!((cut.version.to_string().as_str(), cut.stage.as_str()), ("1.0.1", "staging"));
    let again =
        registry.cut_version(&spec(""), &first.version, digest, 8192, &by(3)).await.unwrap();
    assert_eq!(again.version.to_string(), "1.0.2");
    // A number that a cut has is not given again, and the same spec with other weights is a PATCH.
    let made = registry.create_version(&spec(""), Some(digest), None, &by(4)).await.unwrap();
    assert_eq!((made.0.version.to_string().as_str(), made.0.learner), ("1.0.3", LearnerId(2)));
    assert!(made.1[0].change.contains(&digest.to_string()));
    let stale = registry.cut_version(&spec(""), &first.version, digest, 9000, &by(5)).await;
    assert!(matches!(stale, Err(RegistryError::Conflict { .. })));
    let rows = registry.versions(spec("").name()).await.unwrap();
    let shown: Vec<_> = rows.iter().map(|r| (r.stage.as_str(), r.position)).collect();
    let expected = [
        ("archived", None),
        ("staging", Some(4096)),
        ("staging", Some(8192)),
        ("production", None),
    ];
    assert_eq!(shown, expected);
    let changes = registry.changes_after(1, 10).await.unwrap();
    assert_eq!((&changes[0].kind, &changes[1].kind), (&ChangeKind::Noted, &ChangeKind::Noted));
    let ChangeKind::Restored { artifact, learner, .. } = &changes[2].kind else { panic!() };
    assert_eq!((*artifact, *learner), (digest, LearnerId(2)));
    assert_eq!(registry.audit(1, 10).await.unwrap()[0].action, "version.cut");
}
