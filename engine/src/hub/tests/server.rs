//! A hub on the loopback interface, with faults on request.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use sha2::{Digest, Sha256};

use crate::hub::{HubConfig, HubError, resolve_model_with};
use crate::run::Verbosity;

pub(super) const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";
pub(super) const TOKEN: &str = "hf_very_secret";

/// How the test hub is special.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Trait {
    IgnoresRanges,
    NeedsToken,
    Corrupts,
    /// Answers with a redirect to another path of its own.
    Redirects,
    /// Keeps content on another host, as real hubs do for large files.
    HasStorage,
}

#[derive(Default)]
pub(super) struct Quirks {
    pub(super) traits: Vec<Trait>,
    /// Breaks each of the next connections that carry a body, after this many bytes of it.
    pub(super) cuts: Vec<usize>,
    /// Answers the next requests with this status.
    pub(super) statuses: Vec<u16>,
}

impl Quirks {
    pub(super) fn of(traits: &[Trait]) -> Self {
        Self {
            traits: traits.to_vec(),
            ..Self::default()
        }
    }

    pub(super) fn with_cuts(mut self, cuts: &[usize]) -> Self {
        self.cuts = cuts.to_vec();
        self
    }

    fn has(&self, wanted: Trait) -> bool {
        self.traits.contains(&wanted)
    }
}

/// A hub on the loopback interface, for as long as the value lives and 200 connections at most.
pub(super) struct Hub {
    pub(super) endpoint: String,
    requests: Arc<Mutex<Vec<String>>>,
    cache: tempfile::TempDir,
}

impl Hub {
    pub(super) fn start(files: &[(&str, &[u8])], quirks: Quirks) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let requests = Arc::new(Mutex::new(Vec::new()));
        let owned = |&(name, bytes): &(&str, &[u8])| (name.to_owned(), bytes.to_vec());
        let mut site = Site {
            files: files.iter().map(owned).collect(),
            quirks,
            requests: Arc::clone(&requests),
        };
        std::thread::spawn(move || {
            for stream in listener.incoming().take(200).flatten() {
                stream
                    .set_read_timeout(Some(Duration::from_secs(5)))
                    .unwrap();
                // A client that went away is its own business.
                let _ = site.answer(stream);
            }
        });
        Self {
            endpoint,
            requests,
            cache: tempfile::tempdir().unwrap(),
        }
    }

    pub(super) fn config(&self) -> HubConfig {
        HubConfig {
            cache: self.cache.path().join("hub"),
            endpoint: self.endpoint.clone(),
            token: Some(TOKEN.to_owned()),
            offline: false,
            retries: 1,
            verbosity: Verbosity::Silent,
        }
    }

    pub(super) fn model(&self) -> Result<PathBuf, HubError> {
        resolve_model_with("org/name", &self.config())
    }

    pub(super) fn requests(&self) -> Vec<String> {
        self.requests.lock().unwrap().clone()
    }

    pub(super) fn blobs(&self) -> PathBuf {
        self.config().cache.join("models--org--name/blobs")
    }
}

struct Site {
    files: BTreeMap<String, Vec<u8>>,
    quirks: Quirks,
    requests: Arc<Mutex<Vec<String>>>,
}

impl Site {
    fn answer(&mut self, stream: TcpStream) -> std::io::Result<()> {
        let mut reader = BufReader::new(stream.try_clone()?.take(64 << 10));
        let mut head = Vec::new();
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line)? == 0 || line.trim().is_empty() {
                break;
            }
            head.push(line.trim().to_owned());
        }
        let header = |name: &str| {
            head.iter().find_map(|line| {
                let (key, value) = line.split_once(':')?;
                key.eq_ignore_ascii_case(name)
                    .then(|| value.trim().to_owned())
            })
        };
        let first = head.first().cloned().unwrap_or_default();
        let mut words = first.split(' ');
        let (method, path) = (words.next().unwrap_or(""), words.next().unwrap_or(""));
        let range = header("range");
        let token = if header("authorization").is_some() {
            "with token"
        } else {
            ""
        };
        let note = format!(
            "{method} {path} {token} {}",
            range.clone().unwrap_or_default()
        );
        self.requests.lock().unwrap().push(note.trim().to_owned());
        if !self.quirks.statuses.is_empty() {
            let status = self.quirks.statuses.remove(0);
            return reply(stream, &format!("{status} Quirk"), "", b"", None);
        }
        let allowed = header("authorization") == Some(format!("Bearer {TOKEN}"));
        if self.quirks.has(Trait::NeedsToken) && !allowed {
            return reply(stream, "401 Unauthorized", "", b"", None);
        }
        self.route(stream, method, path, range.as_deref())
    }

    fn route(
        &mut self,
        stream: TcpStream,
        method: &str,
        path: &str,
        range: Option<&str>,
    ) -> std::io::Result<()> {
        if path.starts_with("/api/") && path.ends_with("s/org/name/revision/main") {
            let names = self
                .files
                .keys()
                .map(|name| serde_json::json!({ "rfilename": name }));
            let listing =
                serde_json::json!({ "sha": COMMIT, "siblings": names.collect::<Vec<_>>() });
            return reply(stream, "200 OK", "", listing.to_string().as_bytes(), None);
        }
        let path = path.strip_prefix("/datasets").unwrap_or(path);
        let moved = path
            .strip_prefix("/moved")
            .or_else(|| path.strip_prefix("/storage"));
        let name = moved
            .unwrap_or(path)
            .strip_prefix(&format!("/org/name/resolve/{COMMIT}/"));
        let Some(bytes) = name.and_then(|name| self.files.get(name)).cloned() else {
            return reply(stream, "404 Not Found", "", b"", None);
        };
        let (tag, size) = (crate::run::hex(&Sha256::digest(&bytes)), bytes.len());
        if moved.is_none() && self.quirks.has(Trait::Redirects) {
            let headers = format!("Location: /moved{path}\r\n");
            return reply(stream, "307 Temporary Redirect", &headers, b"", None);
        }
        if moved.is_none() && self.quirks.has(Trait::HasStorage) {
            let port = stream.local_addr()?.port();
            let headers = format!(
                "ETag: \"of-the-redirect\"\r\nX-Linked-Etag: \"{tag}\"\r\nX-Linked-Size: {size}\r\n\
                 Location: http://localhost:{port}/storage{path}\r\n"
            );
            return reply(stream, "302 Found", &headers, b"", None);
        }
        let headers = format!("ETag: \"{tag}\"\r\nX-Repo-Commit: {COMMIT}\r\n");
        if method == "HEAD" {
            return send(stream, "200 OK", &headers, size, b"");
        }
        self.send_content(stream, bytes, &headers, range)
    }

    fn send_content(
        &mut self,
        stream: TcpStream,
        mut bytes: Vec<u8>,
        headers: &str,
        range: Option<&str>,
    ) -> std::io::Result<()> {
        if self.quirks.has(Trait::Corrupts) {
            bytes[0] ^= 1;
        }
        let cut = if self.quirks.cuts.is_empty() {
            None
        } else {
            Some(self.quirks.cuts.remove(0))
        };
        let start = range
            .filter(|_| !self.quirks.has(Trait::IgnoresRanges))
            .map(|range| {
                range
                    .trim_start_matches("bytes=")
                    .trim_end_matches('-')
                    .parse::<usize>()
                    .unwrap()
            });
        let Some(start) = start else {
            return reply(stream, "200 OK", headers, &bytes, cut);
        };
        let (last, total) = (bytes.len() - 1, bytes.len());
        let headers = format!("{headers}Content-Range: bytes {start}-{last}/{total}\r\n");
        reply(
            stream,
            "206 Partial Content",
            &headers,
            &bytes[start..],
            cut,
        )
    }
}

/// Sends a whole reply, or breaks off after `cut` bytes of its body.
fn reply(
    stream: TcpStream,
    status: &str,
    headers: &str,
    body: &[u8],
    cut: Option<usize>,
) -> std::io::Result<()> {
    let sent = &body[..cut.unwrap_or(body.len()).min(body.len())];
    send(stream, status, headers, body.len(), sent)
}

fn send(
    mut stream: TcpStream,
    status: &str,
    headers: &str,
    length: usize,
    body: &[u8],
) -> std::io::Result<()> {
    let head = format!(
        "HTTP/1.1 {status}\r\n{headers}Content-Length: {length}\r\nConnection: close\r\n\r\n"
    );
    stream.write_all(head.as_bytes())?;
    stream.write_all(body)
}
