//! Addresses: which hub, which file, and what of them may be shown.

use ureq::http::{HeaderMap, StatusCode};

/// Whether an endpoint is on this machine, where no proxy can help.
pub(crate) fn is_loopback(endpoint: &str) -> bool {
    let host = endpoint.split("://").nth(1).unwrap_or(endpoint);
    ["127.", "localhost", "[::1]"]
        .iter()
        .any(|local| host.starts_with(local))
}

/// The address of a redirect that stays on the hub.
pub(super) fn local_redirect(
    endpoint: &str,
    status: StatusCode,
    headers: &HeaderMap,
) -> Option<String> {
    if !status.is_redirection() || headers.contains_key("x-linked-etag") {
        return None;
    }
    let location = headers.get("location")?.to_str().ok()?;
    if !location.starts_with('/') || location.starts_with("//") {
        return None;
    }
    let host = endpoint.find("://").map_or(0, |at| at + 3);
    let end = endpoint[host..]
        .find('/')
        .map_or(endpoint.len(), |at| host + at);
    Some(format!("{}{location}", &endpoint[..end]))
}

/// An address without the password it may hold.
pub(super) fn shown(url: &str) -> String {
    match url.split_once("://") {
        Some((scheme, rest)) => {
            let end = rest.find('/').unwrap_or(rest.len());
            let host = rest[..end].rfind('@').map_or(0, |at| at + 1);
            format!("{scheme}://{}", &rest[host..])
        }
        None => url.to_owned(),
    }
}

/// Percent-encodes every byte of a path that is not plainly allowed in one.
pub(super) fn encode_path(name: &str) -> String {
    use std::fmt::Write as _;
    name.bytes()
        .fold(String::with_capacity(name.len()), |mut path, byte| {
            if byte.is_ascii_alphanumeric() || b"-_.~/".contains(&byte) {
                path.push(char::from(byte));
            } else {
                let _ = write!(path, "%{byte:02X}");
            }
            path
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_shown_without_passwords() {
        assert_eq!(
            shown("https://me:secret@hub.example/a@b"),
            "https://hub.example/a@b"
        );
        assert_eq!(shown("https://hub.example"), "https://hub.example");
    }

    #[test]
    fn names_are_encoded() {
        assert_eq!(encode_path("a b/ü?.json"), "a%20b/%C3%BC%3F.json");
    }

    #[test]
    fn only_redirects_within_the_hub_are_local() {
        let next = |location: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert("location", ureq::http::HeaderValue::from_static(location));
            local_redirect("https://hub.example/mirror", StatusCode::FOUND, &headers)
        };
        assert_eq!(next("/other").as_deref(), Some("https://hub.example/other"));
        assert_eq!(next("//evil.example/x"), None);
        assert_eq!(next("https://evil.example/x"), None);
    }
}
