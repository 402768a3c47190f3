//! Requests to the hub: what is there, and the bytes of a file, resumed wherever they stopped.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::path::Path;
use std::time::Duration;

use serde::Deserialize;
use ureq::config::RedirectAuthHeaders;
use ureq::http::{HeaderMap, Response, StatusCode};
use ureq::{Agent, Body, RequestBuilder, typestate::WithoutBody};

use super::address::{encode_path, is_loopback, local_redirect, shown};
use super::spec::{RepoSpec, is_commit};
use super::{HubConfig, HubError};
use crate::run::{Progress, RunError, Verbosity};

const LISTING_LIMIT: u64 = 32 << 20;
const BUFFER: usize = 256 << 10;

/// A hub.
pub(super) struct Client {
    agent: Agent,
    endpoint: String,
    token: Option<String>,
    retries: u32,
}

/// What a repository holds at a revision.
pub(super) struct RepoListing {
    pub(super) commit: String,
    pub(super) names: Vec<String>,
}

/// One file, before it is fetched.
pub(super) struct RemoteFile {
    url: String,
    name: String,
    /// Names the content: a SHA-256 for large files, a git blob for small ones.
    pub(super) etag: String,
    size: Option<u64>,
}

impl RemoteFile {
    /// The content's SHA-256, if the tag is one.
    pub(super) fn sha256(&self) -> Option<String> {
        let is_sha256 = self.etag.len() == 64 && self.etag.bytes().all(|c| c.is_ascii_hexdigit());
        is_sha256.then(|| self.etag.to_ascii_lowercase())
    }
}

#[derive(Deserialize)]
struct Info {
    sha: String,
    #[serde(default)]
    siblings: Vec<Sibling>,
}

#[derive(Deserialize)]
struct Sibling {
    rfilename: String,
}

impl Client {
    pub(super) fn new(config: &HubConfig) -> Self {
        let seconds = |count| Some(Duration::from_secs(count));
        let mut settings = Agent::config_builder()
            .http_status_as_error(false)
            .user_agent(concat!("temper/", env!("CARGO_PKG_VERSION")))
            // A compressed reply would make positions in the file meaningless.
            .accept_encoding("identity")
            .redirect_auth_headers(RedirectAuthHeaders::SameHost)
            .max_redirects_will_error(false)
            .timeout_connect(seconds(20))
            .timeout_recv_response(seconds(60))
            .timeout_per_read(seconds(60));
        if is_loopback(&config.endpoint) {
            settings = settings.proxy(None);
        }
        Self {
            agent: settings.build().into(),
            endpoint: config.endpoint.clone(),
            token: config.token.clone(),
            retries: config.retries,
        }
    }

    /// Lists a repository.
    pub(super) fn info(&self, repo: &RepoSpec) -> Result<RepoListing, HubError> {
        let url = format!(
            "{}/api/{}",
            self.endpoint,
            repo.at(&repo.revision).api_url()
        );
        let mut reply = self.retry(|| {
            let reply = self.call(&url, self.agent.get(&url))?;
            self.accept(repo, &url, "such repository or revision", reply)
        })?;
        let read = reply
            .body_mut()
            .with_config()
            .limit(LISTING_LIMIT)
            .read_to_vec();
        let bytes = read.map_err(|source| request_error(&url, source))?;
        let info: Info = serde_json::from_slice(&bytes)
            .map_err(|error| bad_reply(&url, format!("an unreadable listing: {error}")))?;
        if !is_commit(&info.sha) {
            return Err(bad_reply(&url, format!("the commit {:?}", info.sha)));
        }
        let names = info
            .siblings
            .into_iter()
            .map(|sibling| sibling.rfilename)
            .collect();
        Ok(RepoListing {
            commit: info.sha,
            names,
        })
    }

    /// Asks for tag and size of a file, without its content.
    pub(super) fn describe(
        &self,
        repo: &RepoSpec,
        commit: &str,
        name: &str,
    ) -> Result<RemoteFile, HubError> {
        let at = repo.at(commit);
        let first = format!(
            "{}/{}/resolve/{commit}/{}",
            self.endpoint,
            at.url(),
            encode_path(name)
        );
        let mut url = first.clone();
        for _ in 0..5 {
            let reply = self.retry(|| {
                let head = self.agent.head(&url).config().max_redirects(0).build();
                let reply = self.call(&url, head)?;
                if reply.status().is_redirection() {
                    return Ok(reply);
                }
                self.accept(repo, &url, name, reply)
            })?;
            // Only redirects within the hub are followed here: where the content lies is described
            // by the hub, not by the storage it points to.
            match local_redirect(&self.endpoint, reply.status(), reply.headers()) {
                Some(next) => url = next,
                None => return describe_reply(first, name, reply.status(), reply.headers()),
            }
        }
        Err(bad_reply(&first, "too many redirects".to_owned()))
    }

    /// Brings `partial` to its full length. It may hold the beginning from an earlier attempt, and
    /// keeps what has arrived if this one fails.
    pub(super) fn fetch(
        &self,
        repo: &RepoSpec,
        remote: &RemoteFile,
        partial: &Path,
        verbosity: Verbosity,
    ) -> Result<(), HubError> {
        let begin = length(partial);
        let mut progress =
            Progress::bytes(&remote.name, remote.size.unwrap_or(0), verbosity).starting_at(begin);
        let (mut furthest, mut failures) = (begin, 0);
        loop {
            let error = match self.fetch_once(repo, remote, partial, &mut progress) {
                Ok(()) => return Ok(()),
                Err(error) if !error.is_transient() => return Err(error),
                Err(error) => error,
            };
            // Measured against the furthest point, so that a server that always starts over and
            // always breaks off does not keep this going forever.
            failures = if length(partial) > furthest {
                0
            } else {
                failures + 1
            };
            furthest = furthest.max(length(partial));
            if failures > self.retries {
                return Err(error);
            }
            std::thread::sleep(pause(failures));
        }
    }

    fn fetch_once(
        &self,
        repo: &RepoSpec,
        remote: &RemoteFile,
        partial: &Path,
        progress: &mut Progress,
    ) -> Result<(), HubError> {
        let url = &remote.url;
        let mut file = open_partial(partial)?;
        let mut have = length(partial);
        if remote.size.is_some_and(|size| have > size) {
            have = restart(&file, partial)?;
        }
        if remote.size == Some(have) {
            return sync(&file, partial);
        }
        let mut request = self.agent.get(url);
        if have > 0 {
            request = request.header("Range", format!("bytes={have}-"));
        }
        let mut reply = self.call(url, request)?;
        if have > 0 && refuses_range(&reply, have) {
            drop(reply);
            reply = self.call(url, self.agent.get(url))?;
        }
        if have > 0 && reply.status() == StatusCode::OK {
            // The whole file comes, whatever was asked for.
            have = restart(&file, partial)?;
        }
        let reply = self.accept(repo, url, &remote.name, reply)?;
        receive(remote, reply, &mut file, partial, have, progress)
    }

    fn call(
        &self,
        url: &str,
        mut request: RequestBuilder<WithoutBody>,
    ) -> Result<Response<Body>, HubError> {
        if let Some(token) = &self.token {
            request = request.header("Authorization", format!("Bearer {token}"));
        }
        request.call().map_err(|source| request_error(url, source))
    }

    /// Turns a status other than success into the error that says what to do.
    fn accept(
        &self,
        repo: &RepoSpec,
        url: &str,
        what: &str,
        reply: Response<Body>,
    ) -> Result<Response<Body>, HubError> {
        let status = reply.status().as_u16();
        let endpoint = shown(&self.endpoint);
        let id = repo.id.clone();
        match status {
            200..300 => Ok(reply),
            404 => Err(HubError::NotFound {
                repo: id,
                revision: repo.revision.clone(),
                what: what.to_owned(),
                endpoint,
            }),
            401 | 403 => {
                let hint = if self.token.is_some() {
                    "the token lacks access: accept the conditions on the repository's page, or use \
                     another token"
                } else {
                    "it does not exist, or needs a token: set `HF_TOKEN`"
                };
                Err(HubError::Denied {
                    repo: id,
                    status,
                    endpoint,
                    hint,
                })
            }
            _ => Err(HubError::Status {
                url: shown(url),
                status,
            }),
        }
    }

    fn retry<T>(&self, mut attempt: impl FnMut() -> Result<T, HubError>) -> Result<T, HubError> {
        let mut failures = 0;
        loop {
            match attempt() {
                Err(error) if error.is_transient() && failures < self.retries.min(2) => {
                    failures += 1;
                    std::thread::sleep(pause(failures));
                }
                result => return result,
            }
        }
    }
}

/// Writes the body behind the `have` bytes that are there.
fn receive(
    remote: &RemoteFile,
    reply: Response<Body>,
    file: &mut File,
    partial: &Path,
    mut have: u64,
    progress: &mut Progress,
) -> Result<(), HubError> {
    let size = remote
        .size
        .or_else(|| reply.body().content_length().map(|rest| have + rest));
    // One byte more than announced is enough to notice, and all that is ever stored.
    let limit = size.map_or(u64::MAX, |size| size - have.min(size) + 1);
    let mut body = reply.into_body().into_reader().take(limit);
    let mut buffer = vec![0; BUFFER];
    loop {
        let count = match body.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => count,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(request_error(&remote.url, error.into())),
        };
        let written = file.write_all(&buffer[..count]);
        written.map_err(|source| RunError::io("write", partial, source))?;
        have += count as u64;
        progress.update(have, "");
    }
    match size {
        Some(size) if have > size => {
            restart(file, partial)?;
            let problem = format!("more than the {size} bytes announced");
            Err(HubError::Damaged {
                name: remote.name.clone(),
                problem,
            })
        }
        Some(size) if have < size => {
            let early = std::io::Error::from(std::io::ErrorKind::UnexpectedEof);
            Err(request_error(&remote.url, early.into()))
        }
        _ => sync(file, partial),
    }
}

fn describe_reply(
    url: String,
    name: &str,
    status: StatusCode,
    headers: &HeaderMap,
) -> Result<RemoteFile, HubError> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let Some(etag) = text("x-linked-etag").or_else(|| text("etag")) else {
        return Err(bad_reply(&url, "no `ETag`; is this a hub?".to_owned()));
    };
    let etag = etag.trim_start_matches("W/").trim_matches('"').to_owned();
    // The length of a redirect is that of the redirect.
    let length = if status.is_redirection() {
        None
    } else {
        text("content-length")
    };
    let size = text("x-linked-size")
        .or(length)
        .and_then(|size| size.parse().ok());
    Ok(RemoteFile {
        url,
        name: name.to_owned(),
        etag,
        size,
    })
}

/// Whether a server cannot or will not go on at `have`, and has to be asked for the whole file.
fn refuses_range(reply: &Response<Body>, have: u64) -> bool {
    let range = reply
        .headers()
        .get("content-range")
        .and_then(|value| value.to_str().ok());
    let start = range.and_then(|range| range.strip_prefix("bytes ")?.split('-').next());
    match reply.status() {
        StatusCode::RANGE_NOT_SATISFIABLE => true,
        StatusCode::PARTIAL_CONTENT => start.and_then(|start| start.parse().ok()) != Some(have),
        _ => false,
    }
}

fn open_partial(path: &Path) -> Result<File, RunError> {
    let mut options = OpenOptions::new();
    let file = options.append(true).create(true).open(path);
    file.map_err(|source| RunError::io("open", path, source))
}

fn restart(file: &File, path: &Path) -> Result<u64, RunError> {
    file.set_len(0)
        .map_err(|source| RunError::io("truncate", path, source))?;
    Ok(0)
}

fn sync(file: &File, path: &Path) -> Result<(), HubError> {
    Ok(file
        .sync_all()
        .map_err(|source| RunError::io("sync", path, source))?)
}

fn length(path: &Path) -> u64 {
    fs::metadata(path).map_or(0, |metadata| metadata.len())
}

/// None after progress, then half a second, doubling to a quarter of a minute.
fn pause(failures: u32) -> Duration {
    match failures {
        0 => Duration::ZERO,
        count => Duration::from_millis((250 << count.min(6)).min(15_000)),
    }
}

fn request_error(url: &str, source: ureq::Error) -> HubError {
    HubError::Request {
        url: shown(url),
        source: Box::new(source),
    }
}

fn bad_reply(url: &str, problem: String) -> HubError {
    HubError::BadReply {
        url: shown(url),
        problem,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_and_stay_bounded() {
        assert_eq!(pause(0), Duration::ZERO);
        assert_eq!(pause(1), Duration::from_millis(500));
        assert_eq!(pause(100), Duration::from_secs(15));
    }
}
