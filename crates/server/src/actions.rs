//! The `actions` of a request: names, or names with features of their own.

use std::borrow::Cow;

use pawl_domain::{CheckedSpec, suggest};
use pawl_model::context::Context;
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::{
    decide::parse,
    error::{ApiError, ApiResult, Code},
};

/// An action with features of its own.
#[derive(Debug, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct FeaturedAction<'a> {
    /// Its name.
    #[serde(borrow)]
    #[schema(value_type = String)]
    pub name: Cow<'a, str>,
    /// A JSON object: features that the spec declares with `of = "action"` are stored, the rest is ignored.
    #[serde(borrow)]
    #[schema(value_type = Object)]
    pub features: &'a RawValue,
}

/// The index of an action.
pub(crate) fn index(spec: &CheckedSpec, field: &str, name: &str) -> ApiResult<u16> {
    let unknown = || {
        let known = spec.actions().iter().map(|a| a.name.as_str());
        let hint = suggest::nearest(name, known).map_or_else(
            || "see the model's `actions`".to_owned(),
            |n| format!("did you mean `{n}`?"),
        );
        ApiError::field(field, format!("`{name}` is not an action of `{}`; {hint}", spec.name()))
    };
    spec.action(name).map(|i| i as u16).ok_or_else(unknown)
}

/// The indices of the actions listed. Their features go into `context`.
pub(crate) fn read<'a>(
    spec: &CheckedSpec,
    listed: &[&'a RawValue],
    context: &mut Context<'a>,
) -> ApiResult<Vec<u16>> {
    let mut found: Vec<u16> = Vec::with_capacity(listed.len());
    for (i, item) in listed.iter().enumerate() {
        let text = item.get();
        let field = || format!("actions[{i}]");
        if text.starts_with('"') {
            found.push(index(spec, &field(), &parse::<Cow<'_, str>>(text)?)?);
            continue;
        }
        if !text.starts_with('{') {
            return Err(ApiError::field(
                &field(),
                "must be a name, or an object of name and features",
            ));
        }
        let given: FeaturedAction<'a> = parse(text)?;
        let action = index(spec, &format!("actions[{i}].name"), &given.name)?;
        let field = format!("actions[{i}].features");
        if !spec.has_action_features() {
            let detail = format!(
                "`{}` declares no feature with `of = \"action\"`; declare one, or send the name only",
                spec.name()
            );
            return Err(ApiError::field(&field, detail));
        }
        if found.contains(&action) {
            return Err(ApiError::field(&field, format!("`{}` is listed twice", given.name)));
        }
        context
            .add_action(spec, action, given.features.get())
            .map_err(|e| ApiError::new(Code::InvalidContext, format!("`{field}`: {e}")))?;
        found.push(action);
    }
    Ok(found)
}
