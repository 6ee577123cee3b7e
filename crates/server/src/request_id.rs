//! The id of a request: it stands in its answer and in every line that the server logs while answering.

use std::{
    sync::{
        OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};

use hyper::{HeaderMap, Method, Response, Uri, header::HeaderValue};

/// The header in which a caller may give it, and finds it.
const HEADER: &str = "x-request-id";
/// Longest id of a caller.
const LENGTH_MAX: usize = 128;

tokio::task_local! {
    static CURRENT: RequestId;
}

/// An id of visible ASCII.
#[derive(Clone, Debug)]
pub(crate) struct RequestId(HeaderValue);

impl RequestId {
    /// The caller's own, where it can stand in a line of text, or a new one.
    pub(crate) fn of(headers: &HeaderMap) -> Self {
        let sound = |v: &&HeaderValue| {
            (1..=LENGTH_MAX).contains(&v.len()) && v.as_bytes().iter().all(u8::is_ascii_graphic)
        };
        headers.get(HEADER).filter(sound).cloned().map_or_else(Self::new, Self)
    }

    fn new() -> Self {
        static FIRST: OnceLock<u64> = OnceLock::new();
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let first = *FIRST.get_or_init(|| {
            let mut bytes = [0; 8];
            // Without randomness ids only repeat between starts.
            let _predictable = getrandom::fill(&mut bytes);
            u64::from_le_bytes(bytes)
        });
        let n = first.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed));
        // An odd factor: every number has another image.
        let text = format!("{:016x}", n.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        Self(HeaderValue::from_str(&text).unwrap_or(HeaderValue::from_static("none")))
    }

    fn as_str(&self) -> &str {
        self.0.to_str().unwrap_or("none")
    }

    /// Runs what answers the request; what it logs has the id.
    pub(crate) async fn scope<F: Future>(&self, answering: F) -> F::Output {
        CURRENT.scope(self.clone(), answering).await
    }

    /// Puts the id into an answer, and logs one that failed. A query may say whom it is about: it is not logged.
    pub(crate) fn finish<B>(
        &self,
        method: &Method,
        uri: &Uri,
        begun: Instant,
        response: &mut Response<B>,
    ) {
        response.headers_mut().insert(HEADER, self.0.clone());
        let (status, path) = (response.status().as_u16(), uri.path());
        let seconds = begun.elapsed().as_secs_f64();
        let request_id = self.as_str();
        if status >= 500 {
            tracing::warn!(request_id, %method, path, status, seconds, "a request failed");
        } else {
            tracing::debug!(request_id, %method, path, status, seconds, "answered");
        }
    }
}

/// The id of the request that is being answered, to be logged; `none` outside of one.
pub(crate) fn current() -> String {
    CURRENT.try_with(|id| id.as_str().to_owned()).unwrap_or_else(|_| "none".to_owned())
}

/// What goes on after its caller may have gone keeps the id.
pub(crate) fn keep<F: Future>(work: F) -> impl Future<Output = F::Output> {
    let id = CURRENT.try_with(Clone::clone).ok();
    async move {
        match id {
            Some(id) => CURRENT.scope(id, work).await,
            None => work.await,
        }
    }
}
