//! Small helpers on bytes and files.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use sha2::{Digest, Sha256};

use crate::error::{DataError, Result};

/// Lower-case hexadecimal of a digest.
pub(crate) fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut text = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        text.push(char::from(DIGITS[usize::from(byte >> 4)]));
        text.push(char::from(DIGITS[usize::from(byte & 15)]));
    }
    text
}

/// Adds `part` to `hasher` with its length first, so that no two lists of parts look the same.
pub(crate) fn hash_part(hasher: &mut Sha256, part: &[u8]) {
    hasher.update((part.len() as u64).to_le_bytes());
    hasher.update(part);
}

/// Sha256 of a file's contents, read in pieces.
pub(crate) fn hash_file(path: &Path) -> Result<[u8; 32]> {
    let mut file = File::open(path).map_err(DataError::io("open", path))?;
    let mut hasher = Sha256::new();
    let mut buffer = vec![0_u8; 1 << 20];
    loop {
        let count = file
            .read(&mut buffer)
            .map_err(DataError::io("read", path))?;
        if count == 0 {
            return Ok(hasher.finalize().into());
        }
        hasher.update(&buffer[..count]);
    }
}

/// The start of `text`, short enough to quote in a message.
pub(crate) fn excerpt(text: &str) -> String {
    const LIMIT: usize = 60;
    let text = text.trim();
    let mut short: String = text.chars().take(LIMIT).collect();
    if text.chars().nth(LIMIT).is_some() {
        short.push('…');
    }
    short.escape_debug().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hex_is_lower_case_and_two_digits_per_byte() {
        assert_eq!(hex(&[0, 1, 0xab, 0xff]), "0001abff");
    }

    #[test]
    fn excerpt_is_short_and_has_no_control_characters() {
        assert_eq!(excerpt("  a\u{7}b "), "a\\u{7}b");
        assert_eq!(excerpt(&"x".repeat(1000)).chars().count(), 61);
    }
}
