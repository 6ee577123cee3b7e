//! Listeners, workers, connections: one single-threaded runtime a worker, and the two hot routes before all others.

use std::{
    net::SocketAddr,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use axum::Router;
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{Method, Request, Response, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch},
};
use tower::ServiceExt;

use crate::{
    app::{App, StartError},
    archive,
    auth::Caller,
    backup, budgets, decide, decisions, elsewhere, erase,
    error::{ApiError, ApiResult, Code},
    explain, feedback, hash_key, health, learner, levers, models, openapi, predict, report,
    request_id::RequestId,
    tls::Tls,
    versions,
};

/// How long a client may take to send a request.
const READ_TIMEOUT: Duration = Duration::from_secs(10);
/// The same for an artifact.
const ARTIFACT_TIMEOUT: Duration = Duration::from_secs(60);

type Body = axum::body::Body;
/// A connection and its place among those that may be open.
type Accepted = (TcpStream, OwnedSemaphorePermit);

/// A server that runs until it is stopped.
#[derive(Debug)]
pub struct Running {
    address: SocketAddr,
    scheme: &'static str,
    app: Arc<App>,
    stop: watch::Sender<bool>,
    workers: Vec<thread::JoinHandle<()>>,
}

/// Serves `app` on its configured address.
///
/// # Errors
/// If the address cannot be used or is not protected, or the certificate cannot be used.
pub async fn serve(app: Arc<App>) -> Result<Running, StartError> {
    let config = app.config();
    let wanted = config.listen;
    if !wanted.ip().is_loopback() && !config.insecure && !app.keys().any(app.now_ms()) {
        return Err(StartError::Unprotected(wanted));
    }
    let refused = |why| StartError::Listen { address: wanted, why };
    let listener = TcpListener::bind(wanted).await.map_err(refused)?;
    let address = listener.local_addr().map_err(refused)?;
    let cores = thread::available_parallelism().map_or(1, usize::from);
    let count = if config.workers == 0 { cores } else { config.workers };
    let (stop, stopped) = watch::channel(false);
    let tls = Tls::open(&app, &stopped).map_err(StartError::Tls)?;
    let mut workers = Vec::new();
    let mut queues = Vec::new();
    for i in 0..count {
        let (queue, connections) = mpsc::channel::<Accepted>(64);
        queues.push(queue);
        let (app, tls, stopped) = (app.clone(), tls.clone(), stopped.clone());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(StartError::Start)?;
        let work = move || runtime.block_on(worker(app, tls, connections, stopped));
        let thread = thread::Builder::new().name(format!("pawl-http-{i}")).spawn(work);
        workers.push(thread.map_err(StartError::Start)?);
    }
    let room = Arc::new(Semaphore::new(config.limits.connections));
    tokio::spawn(accept(listener, queues, room, stopped));
    let scheme = if tls.is_some() { "https" } else { "http" };
    Ok(Running { address, scheme, app, stop, workers })
}

impl Running {
    /// Where it listens.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// The same as a URL.
    #[must_use]
    pub fn url(&self) -> String {
        format!("{}://{}", self.scheme, self.address)
    }

    /// What it serves.
    #[must_use]
    pub const fn app(&self) -> &Arc<App> {
        &self.app
    }

    /// Takes no more requests, answers those that are open, folds and stores everything.
    pub async fn stop(self) {
        self.app.begin_stop();
        let _no_workers = self.stop.send(true);
        let workers = self.workers;
        let joined = tokio::task::spawn_blocking(move || {
            workers.into_iter().for_each(|w| {
                let _panicked = w.join();
            });
        });
        let _panicked = joined.await;
        self.app.close().await;
        // The last reference closes the fold: it writes its checkpoint on a thread of its own.
        let app = self.app;
        let _panicked = tokio::task::spawn_blocking(move || drop(app)).await;
    }
}

/// Returns when the server is told to stop.
pub(crate) async fn told(stopped: &mut watch::Receiver<bool>) {
    let _sender_gone = stopped.wait_for(|s| *s).await.map(drop);
}

/// Hands connections to the workers in turn.
async fn accept(
    listener: TcpListener,
    queues: Vec<mpsc::Sender<Accepted>>,
    room: Arc<Semaphore>,
    mut stopped: watch::Receiver<bool>,
) {
    let mut next = 0;
    loop {
        // Beyond the limit, connections wait in the system's queue.
        let place = tokio::select! {
            place = room.clone().acquire_owned() => place,
            () = told(&mut stopped) => return,
        };
        let Ok(place) = place else { return };
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = told(&mut stopped) => return,
        };
        match accepted {
            Ok((stream, _)) => {
                let _nagle = stream.set_nodelay(true);
                next = (next + 1) % queues.len();
                if queues[next].send((stream, place)).await.is_err() {
                    return;
                }
            }
            // Out of descriptors, mostly: the connections that close will free some.
            Err(e) => {
                tracing::warn!(%e, "cannot accept a connection");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

/// Serves connections until told to stop, then drains them.
async fn worker(
    app: Arc<App>,
    tls: Option<Arc<Tls>>,
    mut connections: mpsc::Receiver<Accepted>,
    mut stopped: watch::Receiver<bool>,
) {
    let router = router(app.clone());
    let mut open = tokio::task::JoinSet::new();
    loop {
        let stream = tokio::select! {
            stream = connections.recv() => stream,
            () = told(&mut stopped) => None,
            Some(_) = open.join_next() => continue,
        };
        let Some((stream, place)) = stream else { break };
        // The stream was registered with the accepting runtime: register it with this one.
        let Ok(stream) = stream.into_std().and_then(TcpStream::from_std) else { continue };
        let (app, router, mut stopped) = (app.clone(), router.clone(), stopped.clone());
        let tls = tls.clone();
        open.spawn(async move {
            let _place = place;
            let Some(tls) = tls else {
                return converse(&app, &router, stream, stopped).await;
            };
            let shaken = tokio::select! {
                shaken = tls.accept(stream) => shaken,
                () = told(&mut stopped) => None,
            };
            if let Some(stream) = shaken {
                converse(&app, &router, stream, stopped).await;
            }
        });
    }
    let wait = Duration::from_millis(app.config().limits.shutdown.ms());
    let drained = tokio::time::timeout(wait, async { while open.join_next().await.is_some() {} });
    if drained.await.is_err() {
        tracing::warn!("connections were still open after `limits.shutdown`");
    }
}

/// Answers the requests of a connection until it closes or the server is told to stop.
async fn converse(
    app: &Arc<App>,
    router: &Router,
    stream: impl AsyncRead + AsyncWrite + Unpin,
    mut stopped: watch::Receiver<bool>,
) {
    let service = service_fn(|request| answer(app, router, request));
    let mut builder = http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(Duration::from_secs(75))
        .pipeline_flush(true);
    let connection = builder.serve_connection(TokioIo::new(stream), service);
    tokio::pin!(connection);
    tokio::select! {
        _closed = connection.as_mut() => {}
        () = told(&mut stopped) => {
            connection.as_mut().graceful_shutdown();
            let _closed = connection.await;
        }
    }
}

/// How much of a body that is too large is read and thrown away, so that its sender gets to read the answer.
const DISCARD_MAX: usize = 8 << 20;

/// The whole body, within the limits of size and time.
///
/// # Errors
/// If it is too large or too slow.
pub(crate) async fn read_body<B>(app: &App, body: B) -> ApiResult<Bytes>
where
    B: hyper::body::Body<Data = Bytes>,
    B::Error: core::fmt::Display,
{
    let most = app.config().limits.body_bytes;
    if body.size_hint().lower() > (most + DISCARD_MAX) as u64 {
        return Err(too_large(most));
    }
    let late = |_| ApiError::new(Code::BodyTimeout, "the body did not come within 10 seconds");
    tokio::time::timeout(READ_TIMEOUT, collect(body, most)).await.map_err(late)?
}

/// Reads the body of a request that carries an artifact.
pub(crate) async fn read_artifact<B>(app: &App, body: B) -> ApiResult<Bytes>
where
    B: hyper::body::Body<Data = Bytes>,
    B::Error: core::fmt::Display,
{
    let most = app.config().limits.artifact_bytes;
    if body.size_hint().lower() > most as u64 {
        return Err(too_large(most));
    }
    let late = |_| ApiError::new(Code::BodyTimeout, "the artifact did not come within a minute");
    tokio::time::timeout(ARTIFACT_TIMEOUT, collect(body, most)).await.map_err(late)?
}

fn too_large(most: usize) -> ApiError {
    ApiError::new(Code::BodyTooLarge, format!("the body has more than {most} bytes"))
}

async fn collect<B>(body: B, most: usize) -> ApiResult<Bytes>
where
    B: hyper::body::Body<Data = Bytes>,
    B::Error: core::fmt::Display,
{
    let mut body = core::pin::pin!(body);
    let (mut whole, mut seen) = (Bytes::new(), 0);
    let mut several = Vec::new();
    while let Some(frame) = body.frame().await {
        let broken = |e| ApiError::new(Code::InvalidJson, format!("the body broke off: {e}"));
        let Ok(data) = frame.map_err(broken)?.into_data() else { continue };
        seen += data.len();
        if seen > most {
            several = Vec::new();
            if seen > most + DISCARD_MAX {
                break;
            }
        } else if whole.is_empty() && several.is_empty() {
            whole = data; // mostly the only one: no copy
        } else {
            several.extend_from_slice(&core::mem::take(&mut whole));
            several.extend_from_slice(&data);
        }
    }
    if seen > most {
        return Err(too_large(most));
    }
    Ok(if several.is_empty() { whole } else { several.into() })
}

/// The model of `/v1/models/{model}/decide`.
fn decide_path(path: &str) -> Option<&str> {
    let model = path.strip_prefix("/v1/models/")?.strip_suffix("/decide")?;
    (!model.contains('/')).then_some(model)
}

async fn answer(
    app: &Arc<App>,
    router: &Router,
    request: Request<Incoming>,
) -> Result<Response<Body>, hyper::Error> {
    let (id, begun) = (RequestId::of(request.headers()), Instant::now());
    let (method, uri) = (request.method().clone(), request.uri().clone());
    let mut response = id.scope(route(app, router, request)).await;
    id.finish(&method, &uri, begun, &mut response);
    Ok(response)
}

async fn route(app: &Arc<App>, router: &Router, request: Request<Incoming>) -> Response<Body> {
    let hot = request.method() == Method::POST;
    let response = if hot && let Some(model) = decide_path(request.uri().path()) {
        let model = model.replace("%40", "@");
        hot_route(app, request, async |caller, body| {
            decide::decide(app, &model, &caller, &body).await
        })
        .await
    } else if hot && request.uri().path() == "/v1/feedback" {
        hot_route(app, request, async |caller, body| feedback::feedback(app, &caller, &body).await)
            .await
    } else {
        let response = router.clone().oneshot(request).await;
        return response.unwrap_or_else(|never| match never {});
    };
    response.map(Body::new)
}

async fn hot_route(
    app: &Arc<App>,
    request: Request<Incoming>,
    work: impl AsyncFnOnce(Caller, Bytes) -> ApiResult<Response<Full<Bytes>>>,
) -> Response<Full<Bytes>> {
    let done = async {
        if request.uri().query().is_some() {
            return Err(ApiError::field(
                "query",
                "this route takes none; everything is in the body",
            ));
        }
        // Who may not ask takes no place from those who may.
        let caller = app.keys().caller(request.headers(), app.now_ms())?;
        let _in_flight = app.enter()?;
        let body = read_body(app, request.into_body()).await?;
        work(caller, body).await
    };
    done.await.unwrap_or_else(|e: ApiError| {
        app.metrics().problems.inc();
        e.response()
    })
}

/// The content type of what is no text.
pub(crate) const BINARY: &str = "application/octet-stream";

/// A response of bytes.
pub(crate) fn binary(bytes: Vec<u8>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(bytes)));
    let binary = hyper::header::HeaderValue::from_static(BINARY);
    response.headers_mut().insert(hyper::header::CONTENT_TYPE, binary);
    response
}

/// A JSON response.
pub(crate) fn json(status: u16, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = hyper::StatusCode::from_u16(status).unwrap_or(hyper::StatusCode::OK);
    let json = hyper::header::HeaderValue::from_static("application/json");
    response.headers_mut().insert(hyper::header::CONTENT_TYPE, json);
    response
}

async fn method_not_allowed(request: Request<Body>) -> ApiError {
    let detail = format!("`{}` is not a method of `{}`", request.method(), request.uri().path());
    ApiError::new(Code::MethodNotAllowed, detail)
}

/// Every other route.
fn router(app: Arc<App>) -> Router {
    use axum::routing::{any, delete, get, post};
    Router::new()
        .route("/v1/models", get(models::list).post(models::create))
        .route("/v1/models/{model}", get(models::show).delete(archive::delete))
        .route("/v1/models/{model}/versions", get(versions::list).post(versions::add))
        .route("/v1/models/{model}/versions/cut", post(versions::cut))
        .route("/v1/models/{model}/versions/{version}/artifact", get(versions::artifact))
        .route("/v1/models/{model}/hash-key", get(hash_key::show))
        .route("/v1/models/{model}/decide", any(method_not_allowed))
        .route("/v1/feedback", any(method_not_allowed))
        .route("/v1/models/{model}/decide/batch", post(decide::batch))
        .route("/v1/models/{model}/learner", post(learner::change))
        .route("/v1/models/{model}/report", get(report::report))
        .route("/v1/models/{model}/feedback", get(decisions::list_feedback))
        .route("/v1/models/{model}/archive", post(archive::archive).delete(archive::unarchive))
        .route("/v1/models/{model}/budgets", get(budgets::show))
        .route("/v1/models/{model}/levers", post(levers::pull))
        .route("/v1/models/{model}/predict", post(predict::predict))
        .route("/v1/models/{model}/examples", post(predict::examples))
        .route("/v1/models/{model}/decisions", get(decisions::list).post(elsewhere::report))
        .route("/v1/decisions/{id}", get(decisions::show))
        .route("/v1/decisions/{id}/explain", get(explain::explain))
        .route("/v1/keys", get(models::keys).post(models::create_key))
        .route("/v1/keys/{name}", delete(models::revoke_key))
        .route("/v1/erasures", post(erase::erase))
        .route("/v1/changes", get(models::changes))
        .route("/v1/backups", post(backup::describe))
        .route("/v1/backups/file", get(backup::file))
        .route("/v1/checkpoints", post(health::checkpoint))
        .route("/v1/log", get(health::log))
        .route("/livez", get(health::livez))
        .route("/readyz", get(health::readyz))
        .route("/metrics", get(health::metrics))
        .route("/openapi.json", get(openapi::serve))
        .fallback(async |request: Request<Body>| {
            ApiError::new(Code::NotFound, format!("there is nothing at `{}`", request.uri().path()))
        })
        .method_not_allowed_fallback(method_not_allowed)
        .with_state(app)
}
