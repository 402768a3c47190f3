//! The name of this machine.

/// The host name, restricted to characters that are safe in a file name; `localhost` if unknown.
pub(super) fn host_name() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname")
        .ok()
        .or_else(|| std::env::var("HOSTNAME").ok())
        .or_else(|| std::env::var("COMPUTERNAME").ok())
        .unwrap_or_default();
    clean(&name)
}

fn clean(name: &str) -> String {
    let safe = |c: &char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
    let name: String = name.trim().chars().filter(safe).take(64).collect();
    if name.is_empty() {
        "localhost".to_owned()
    } else {
        name
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_name_is_safe_in_a_file_name() {
        assert_eq!(clean("node-7\n"), "node-7");
        assert_eq!(clean("../a b"), "ab");
        assert_eq!(clean(""), "localhost");
        assert!(!host_name().is_empty());
    }
}
