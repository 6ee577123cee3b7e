//! `POST /v1/backups`: what a backup of this moment consists of, and its files.

use std::{io, sync::Arc};

use axum::extract::{Query, State};
use bytes::Bytes;
use http_body_util::Full;
use hyper::{HeaderMap, Response};
use pawl_domain::{Position, Sha256};
use pawl_store::{
    Disk,
    backup::{Entry, Manifest},
    checkpoints, log,
    registry::Scope,
};
use serde::Deserialize;
use sha2::{Digest, Sha256 as Hasher};

use crate::{
    app::App,
    error::{ApiError, ApiResult, Code},
    http,
};

/// The copy of the registry that belongs to the newest backup.
const REGISTRY: &str = "backup/registry.sqlite";
/// Bytes read at a time.
const BLOCK: usize = 1 << 20;
/// Largest file: a segment ends at its size and one batch.
const FILE_MAX: u64 = 1 << 30;

/// Describe a backup of this moment: a checkpoint is written, the registry is copied, and every file that belongs to it is
/// listed with its digest. The client fetches those that it lacks.
#[utoipa::path(
    post, path = "/v1/backups",
    responses((status = 201, description = "format, created_ms, position, state_sha256, files (path, bytes, sha256)"))
)]
pub(crate) async fn describe(
    State(app): State<Arc<App>>,
    headers: HeaderMap,
) -> ApiResult<Response<Full<Bytes>>> {
    app.keys().caller(&headers, app.now_ms())?.may(Scope::Admin, None)?;
    let busy = |_| ApiError::new(Code::TooManyRequests, "another backup is being described");
    let _one = app.backing_up().try_acquire().map_err(busy)?;
    let (position, end) = {
        // No change of the registry gets between the log and the copy of the registry.
        let _still = app.hold_relay().await;
        let asked = app.clone();
        let written = tokio::task::spawn_blocking(move || asked.live().checkpoint()).await;
        let position = written
            .map_err(ApiError::internal)?
            .map_err(|e| ApiError::new(Code::LogUnavailable, e.to_string()))?;
        let end = app.log().synced();
        let path = app.config().data.join(REGISTRY);
        app.registry().copy_to(&path).await.map_err(ApiError::internal)?;
        (position, end)
    };
    let asked = app.clone();
    let manifest = tokio::task::spawn_blocking(move || manifest(&asked, position, end)).await;
    let manifest = manifest.map_err(ApiError::internal)?.map_err(|e| match e.kind() {
        // Trimming goes on meanwhile.
        io::ErrorKind::NotFound => {
            ApiError::new(Code::Unavailable, "a file went while it was read")
        }
        _ => ApiError::internal(e),
    })?;
    let text = serde_json::to_string(&manifest).map_err(ApiError::internal)?;
    Ok(http::json(201, text))
}

/// What belongs to a backup at `position`, with the log up to `end`.
fn manifest(app: &App, position: u64, end: u64) -> io::Result<Manifest> {
    let disk = app.disk().as_ref();
    let mut files = Vec::new();
    for (path, bytes) in log::files(disk, end)? {
        files.push(entry(disk, path, bytes)?);
    }
    for at in checkpoints::positions(disk)?.into_iter().filter(|at| *at <= position) {
        files.push(whole(disk, checkpoints::path(at))?);
    }
    if disk.list("log")?.iter().any(|name| name == "epoch") {
        files.push(whole(disk, "log/epoch".to_owned())?);
    }
    for shard in disk.list("artifacts")? {
        for name in disk.list(&format!("artifacts/{shard}"))? {
            // What is being written has no digest for a name yet.
            let Ok(sha256) = format!("{shard}{name}").parse::<Sha256>() else { continue };
            let found = whole(disk, format!("artifacts/{shard}/{name}"))?;
            if found.sha256 != sha256 {
                return Err(io::Error::other(format!("`{}` is damaged", found.path)));
            }
            files.push(found);
        }
    }
    let mut registry = whole(disk, REGISTRY.to_owned())?;
    "registry.sqlite".clone_into(&mut registry.path);
    files.push(registry);
    let state = checkpoints::digest(disk, position)?;
    let state = state.ok_or_else(|| io::Error::other("the checkpoint is not valid"))?;
    Ok(Manifest::new(app.now_ms(), Position { partition: 0, offset: position }, state, files))
}

fn whole(disk: &dyn Disk, path: String) -> io::Result<Entry> {
    let bytes = disk.open_existing(&path)?.ok_or(io::ErrorKind::NotFound)?.size()?;
    entry(disk, path, bytes)
}

fn entry(disk: &dyn Disk, path: String, bytes: u64) -> io::Result<Entry> {
    let file = disk.open_existing(&path)?.ok_or(io::ErrorKind::NotFound)?;
    let mut hasher = Hasher::new();
    let mut block = vec![0; BLOCK];
    let mut done = 0;
    while done < bytes {
        let most = BLOCK.min((bytes - done) as usize);
        let read = file.read_at(&mut block[..most], done)?;
        if read == 0 {
            return Err(io::Error::other(format!("`{path}` became shorter")));
        }
        hasher.update(&block[..read]);
        done += read as u64;
    }
    Ok(Entry { path, bytes, sha256: Sha256(hasher.finalize().into()) })
}

/// Which file, and how much of it.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
pub struct FileQuery {
    /// As the manifest names it.
    pub path: String,
    /// As the manifest says.
    pub bytes: u64,
}

/// The beginning of a file of the backup that was described last.
#[utoipa::path(
    get, path = "/v1/backups/file", params(FileQuery),
    responses((status = 200, description = "the bytes", content_type = "application/octet-stream", body = Vec<u8>))
)]
pub(crate) async fn file(
    State(app): State<Arc<App>>,
    query: Result<Query<FileQuery>, axum::extract::rejection::QueryRejection>,
    headers: HeaderMap,
) -> ApiResult<Response<Full<Bytes>>> {
    app.keys().caller(&headers, app.now_ms())?.may(Scope::Admin, None)?;
    let _in_flight = app.enter()?;
    let Query(FileQuery { path, bytes }) =
        query.map_err(|e| ApiError::field("query", e.body_text()))?;
    if bytes > FILE_MAX {
        return Err(ApiError::field("bytes", format!("`{bytes}` is more than any file has")));
    }
    // Files may be large: one at a time is read.
    let _one = app.backing_up().acquire().await.map_err(ApiError::internal)?;
    let asked = app.clone();
    let found = tokio::task::spawn_blocking(move || read(asked.disk().as_ref(), &path, bytes));
    let found = found.await.map_err(ApiError::internal)?.map_err(ApiError::internal)?;
    let gone = || ApiError::new(Code::NotFound, "no backup has such a file: describe one again");
    Ok(http::binary(found.ok_or_else(gone)?))
}

/// `None` where there is no such file, or none that a backup may have.
fn read(disk: &dyn Disk, path: &str, bytes: u64) -> io::Result<Option<Vec<u8>>> {
    let path = if path == "registry.sqlite" { REGISTRY } else { path };
    let Some((directory, name)) = path.rsplit_once('/') else { return Ok(None) };
    let hex = |text: &str, len| text.len() == len && text.bytes().all(|b| b.is_ascii_hexdigit());
    let artifact = directory.strip_prefix("artifacts/").is_some_and(|s| hex(s, 2)) && hex(name, 62);
    let numbered = |suffix: &str| {
        let number = name.strip_suffix(suffix);
        number.is_some_and(|n| n.len() == 20 && n.bytes().all(|b| b.is_ascii_digit()))
    };
    let backed_up = match directory {
        "log" => numbered(".seg") || name == "epoch",
        "checkpoints" => numbered(".ckpt"),
        _ => artifact || path == REGISTRY,
    };
    let Some(file) = (if backed_up { disk.open_existing(path)? } else { None }) else {
        return Ok(None);
    };
    let mut content = vec![0; usize::try_from(bytes.min(file.size()?)).map_err(io::Error::other)?];
    let read = file.read_at(&mut content, 0)?;
    content.truncate(read);
    Ok(Some(content))
}
