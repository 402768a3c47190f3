//! Who may ask.

use std::fmt;
use std::path::PathBuf;

use sha2::{Digest, Sha256};
use subtle::{Choice, ConstantTimeEq};

use crate::Failure;

/// Where keys are to be found.
#[derive(Clone, Debug)]
pub(crate) enum KeySource {
    /// Anybody who reaches the server may ask.
    Nowhere,
    /// The name of an environment variable that holds one key.
    Environment(String),
    /// A file with one key a line.
    File(PathBuf),
}

/// The keys, as digests: they cannot be printed by accident, and comparing them takes the same time for any two texts.
#[derive(Clone)]
pub(crate) struct Keys {
    digests: Vec<[u8; 32]>,
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Keys({})", self.digests.len())
    }
}

impl Keys {
    /// # Errors
    /// A variable that is not set, a file that cannot be read, no key in either, or one that no client could send.
    pub(crate) fn read(source: &KeySource) -> Result<Self, Failure> {
        let (text, place) = match source {
            KeySource::Nowhere => {
                return Ok(Self {
                    digests: Vec::new(),
                });
            }
            KeySource::Environment(name) => {
                let text = std::env::var(name).map_err(|_| {
                    Failure::usage(format!("--api-key-env: the variable `{name}` is not set"))
                })?;
                (text, format!("the variable `{name}`"))
            }
            KeySource::File(path) => {
                let place = format!("`{}`", path.display());
                let text = std::fs::read_to_string(path)
                    .map_err(|error| Failure::run(format!("cannot read {place}: {error}")))?;
                (text, place)
            }
        };
        let keys: Vec<&str> = text
            .lines()
            .map(str::trim)
            .filter(|line| !line.is_empty())
            .collect();
        if keys.is_empty() {
            return Err(Failure::usage(format!("{place} holds no key")));
        }
        if !keys
            .iter()
            .all(|key| key.bytes().all(|byte| byte.is_ascii_graphic()))
        {
            return Err(Failure::usage(format!(
                "{place} holds a key with characters other than visible ASCII, which no client can send"
            )));
        }
        Ok(Self {
            digests: keys.into_iter().map(digest).collect(),
        })
    }

    /// Whether there are any.
    pub(crate) fn are_required(&self) -> bool {
        !self.digests.is_empty()
    }

    /// Whether an `Authorization` header holds one of the keys. Without keys everything does.
    pub(crate) fn accept(&self, authorization: Option<&str>) -> bool {
        if !self.are_required() {
            return true;
        }
        let given = authorization.and_then(|header| header.split_once(' '));
        let Some((_, key)) = given.filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
        else {
            return false;
        };
        let given = digest(key.trim());
        let found = self
            .digests
            .iter()
            .fold(Choice::from(0), |found, key| found | key.ct_eq(&given));
        found.into()
    }
}

fn digest(key: &str) -> [u8; 32] {
    Sha256::digest(key.as_bytes()).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(text: &str) -> Result<Keys, Failure> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        Keys::read(&KeySource::File(file.path().to_owned()))
    }

    #[test]
    fn only_the_whole_key_of_a_line_opens() {
        let keys = keys("first-key\n\n  second-key \r\n").unwrap();
        for good in ["Bearer first-key", "bearer second-key", "Bearer  first-key"] {
            assert!(keys.accept(Some(good)), "{good}");
        }
        for bad in [
            "Bearer first-ke",
            "Bearer first-keyy",
            "Basic first-key",
            "first-key",
            "Bearer ",
            "",
        ] {
            assert!(!keys.accept(Some(bad)), "{bad}");
        }
        assert!(!keys.accept(None));
    }

    #[test]
    fn a_source_without_a_usable_key_is_refused() {
        assert!(keys(" \n").is_err());
        assert!(keys("two words").is_err());
        assert!(keys("schlüssel").is_err());
        assert!(Keys::read(&KeySource::Environment("TEMPER_TEST_UNSET".into())).is_err());
    }

    #[test]
    fn a_key_is_never_printed() {
        assert_eq!(format!("{:?}", keys("secret").unwrap()), "Keys(1)");
    }
}
