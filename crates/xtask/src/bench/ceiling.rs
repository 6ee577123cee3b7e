//! The ceiling: a bare axum server that parses the body of the fixed workload into a struct and answers.

use anyhow::Result;
use axum::{Json, Router, routing::post, serve::ListenerExt};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// A context of the fixed workload: twenty numbers and two categories, by name.
#[derive(Deserialize)]
struct Body {
    context: Context,
}

#[derive(Deserialize)]
struct Context {
    region: String,
    tier: String,
    #[serde(flatten)]
    numbers: BTreeMap<String, f64>,
}

/// As many bytes as a decide reply has.
#[derive(Serialize)]
struct Reply {
    decision_id: &'static str,
    model: &'static str,
    version: &'static str,
    position: &'static str,
    action: &'static str,
    probability: f64,
    outcome: &'static str,
}

async fn answer(Json(body): Json<Body>) -> Json<Reply> {
    let sum: f64 = body.context.numbers.values().sum();
    let categories = body.context.region.len() + body.context.tier.len();
    Json(Reply {
        decision_id: "1-0-1a2b3c4d-0123456789abcdef",
        model: "router",
        version: "1.0.0",
        position: "0.123456789",
        action: "action-3",
        probability: 1.0 / (1.0 + sum.abs() + categories as f64),
        outcome: "ok",
    })
}

/// Serves until killed. Prints the address first.
pub fn run() -> Result<()> {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(async {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
        println!("listens on http://{}", listener.local_addr()?);
        let listener = listener.tap_io(|stream| {
            let _nagle = stream.set_nodelay(true);
        });
        let app = Router::new().route("/v1/models/router/decide", post(answer));
        axum::serve(listener, app).await?;
        Ok(())
    })
}
