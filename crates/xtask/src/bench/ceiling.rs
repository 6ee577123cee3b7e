//! The ceiling: a bare axum server that parses the body of the fixed workload into a struct and answers.

use anyhow::Result;
use axum::{Json, Router, routing::post, serve::ListenerExt};
use serde::{Deserialize, Serialize};

/// A request of the fixed workload: twenty numbers and two categories.
#[derive(Deserialize)]
struct Body {
    context: Context,
}

macro_rules! context {
    ($($number:ident)*) => {
        #[derive(Deserialize)]
        struct Context {
            region: String,
            tier: String,
            $($number: f64,)*
        }

        impl Context {
            fn sum(&self) -> f64 {
                0.0 $(+ self.$number)*
            }
        }
    };
}

context! {
    feature_00 feature_01 feature_02 feature_03 feature_04 feature_05 feature_06 feature_07 feature_08 feature_09
    feature_10 feature_11 feature_12 feature_13 feature_14 feature_15 feature_16 feature_17 feature_18 feature_19
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
    let sum = body.context.sum();
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
