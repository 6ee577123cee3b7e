//! The description of the API, made from the handlers. `docs/openapi.json` is its committed form.

use axum::response::IntoResponse;
use hyper::header;
use utoipa::OpenApi;

use crate::{
    archive, backup, budgets, decide, decisions, elsewhere, erase, explain, feedback, hash_key,
    health, learner, levers, models, predict, report, versions,
};

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Pawl",
        description = "Keep models moving forward.",
        license(name = "Apache-2.0")
    ),
    paths(
        decide::decide_description,
        decide::batch,
        feedback::feedback_description,
        predict::predict,
        predict::examples,
        elsewhere::report,
        decisions::show,
        decisions::list,
        explain::explain,
        models::create,
        learner::change,
        levers::pull,
        report::report,
        budgets::show,
        archive::archive,
        archive::unarchive,
        archive::delete,
        decisions::list_feedback,
        models::list,
        models::show,
        versions::list,
        versions::add,
        versions::cut,
        versions::artifact,
        hash_key::show,
        models::create_key,
        models::keys,
        models::revoke_key,
        models::changes,
        health::livez,
        health::readyz,
        health::metrics,
        health::checkpoint,
        backup::describe,
        backup::file,
        erase::erase,
        health::log
    )
)]
struct Api;

/// The document.
#[must_use]
pub fn document() -> String {
    let mut text = Api::openapi().to_pretty_json().unwrap_or_default();
    text.push('\n');
    text
}

pub(crate) async fn serve() -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "application/json")], document())
}

#[cfg(test)]
mod tests;
