//! Quotas of namespaces: what one team may ask of a server that others use too.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
    time::Instant,
};

use crate::{
    config::Quota,
    error::{ApiError, ApiResult, Code},
};

/// The namespace of models without a dot in their name.
pub const DEFAULT: &str = "default";

/// The namespace of a model: what its name has before the first dot.
#[must_use]
pub fn namespace(model: &str) -> &str {
    model.split_once('.').map_or(DEFAULT, |(namespace, _)| namespace)
}

/// What may be taken at once: a second's worth, and less as it is taken. Signed: a large request is let in where anything is left, and paid
/// off before the next.
#[derive(Debug)]
struct Bucket {
    a_second: f64,
    left: f64,
}

impl Bucket {
    const fn new(a_second: f64) -> Self {
        Self { a_second, left: a_second }
    }

    fn refill(&mut self, seconds: f64) {
        self.left = (self.left + seconds * self.a_second).min(self.a_second);
    }
}

#[derive(Debug)]
struct Buckets {
    at: Instant,
    requests: Option<Bucket>,
    bytes: Option<Bucket>,
}

/// The quotas of a server.
#[derive(Debug)]
pub(crate) struct Quotas {
    by: BTreeMap<String, (Quota, Mutex<Buckets>)>,
}

impl Quotas {
    pub(crate) fn new(quotas: &BTreeMap<String, Quota>) -> Self {
        let begin = |(name, quota): (&String, &Quota)| {
            let bucket = |most: Option<u64>| most.map(|most| Bucket::new(most as f64));
            let buckets = Buckets {
                at: Instant::now(),
                requests: bucket(quota.requests),
                bytes: bucket(quota.bytes),
            };
            (name.clone(), (*quota, Mutex::new(buckets)))
        };
        Self { by: quotas.iter().map(begin).collect() }
    }

    /// Takes `requests` of `bytes` in all out of what the model's namespace has left.
    ///
    /// # Errors
    /// If nothing is left.
    pub(crate) fn take(&self, model: &str, requests: usize, bytes: usize) -> ApiResult<()> {
        // Mostly there are none.
        if self.by.is_empty() {
            return Ok(());
        }
        let name = namespace(model);
        let Some((_, buckets)) = self.by.get(name) else { return Ok(()) };
        let mut buckets = buckets.lock().unwrap_or_else(PoisonError::into_inner);
        buckets.take(name, requests as f64, bytes as f64, Instant::now())
    }

    /// Whether a model may be added to those of its namespace.
    ///
    /// # Errors
    /// If there are as many as there may be.
    pub(crate) fn admit<'a>(
        &self,
        model: &str,
        models: impl Iterator<Item = &'a str>,
    ) -> ApiResult<()> {
        let name = namespace(model);
        let Some(most) = self.by.get(name).and_then(|(quota, _)| quota.models) else {
            return Ok(());
        };
        let n = models.filter(|m| namespace(m) == name).count();
        if n < most {
            return Ok(());
        }
        let detail = format!("the namespace `{name}` has {n} models, its quota is {most}");
        Err(ApiError::new(Code::ModelQuotaExceeded, detail))
    }
}

impl Buckets {
    fn take(&mut self, name: &str, requests: f64, bytes: f64, now: Instant) -> ApiResult<()> {
        let seconds = now.saturating_duration_since(self.at).as_secs_f64();
        self.at = now;
        let mut empty = None;
        for (bucket, what) in [(&mut self.requests, "requests"), (&mut self.bytes, "bytes")] {
            let Some(bucket) = bucket else { continue };
            bucket.refill(seconds);
            if bucket.left <= 0.0 {
                empty.get_or_insert((what, bucket.a_second));
            }
        }
        if let Some((what, most)) = empty {
            let detail = format!("the namespace `{name}` has used its {most} {what} a second");
            return Err(ApiError::new(Code::QuotaExceeded, detail));
        }
        for (bucket, n) in [(&mut self.requests, requests), (&mut self.bytes, bytes)] {
            bucket.iter_mut().for_each(|b| b.left -= n);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// Over any time no more is let in than the rate gives, a second's worth at once and one request that is larger than what is left.
    #[test]
    fn no_more_is_let_in_than_the_rate_gives() {
        let begun = Instant::now();
        let mut buckets = Buckets {
            at: begun,
            requests: Some(Bucket::new(10.0)),
            bytes: Some(Bucket::new(1000.0)),
        };
        let mut taken = 0;
        for ms in 0..10_000 {
            let now = begun + Duration::from_millis(ms);
            taken += u32::from(buckets.take("a", 1.0, 1.0, now).is_ok());
        }
        assert!((109..=111).contains(&taken), "{taken}");
        let later = begun + Duration::from_secs(20);
        assert!(buckets.take("a", 1.0, 5000.0, later).is_ok());
        let refused = buckets.take("a", 1.0, 1.0, later + Duration::from_secs(3)).unwrap_err();
        assert!(refused.detail.contains("`a`") && refused.detail.contains("1000 bytes a second"));
        assert!(buckets.take("a", 1.0, 1.0, later + Duration::from_secs(5)).is_ok());
    }

    #[test]
    fn a_namespace_is_what_stands_before_the_first_dot() {
        assert_eq!(["search.eu.router", "router", "a."].map(namespace), ["search", DEFAULT, "a"]);
    }
}
