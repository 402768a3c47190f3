//! Where the hub is, where its files are kept, and who is asking.

use std::path::PathBuf;

use crate::run::Verbosity;

const ENDPOINT: &str = "https://huggingface.co";

/// Settings of the hub.
///
/// ```
/// use temper_engine::hub::HubConfig;
///
/// let config = HubConfig { offline: true, ..HubConfig::from_env() };
/// assert!(!format!("{config:?}").contains("hf_"), "the token is never shown");
/// ```
#[derive(Clone)]
pub struct HubConfig {
    /// Folder of the cache. `HF_HUB_CACHE`, else `HF_HOME/hub`, else `~/.cache/huggingface/hub`.
    pub cache: PathBuf,
    /// Address of the hub. `HF_ENDPOINT`, else `https://huggingface.co`.
    pub endpoint: String,
    /// Access token. `HF_TOKEN`, else the file `HF_TOKEN_PATH`, else the file `HF_HOME/token`.
    pub token: Option<String>,
    /// Whether only the cache is used. `HF_HUB_OFFLINE=1`.
    pub offline: bool,
    /// How often a transfer that stopped without any progress is tried again.
    pub retries: u32,
    /// Whether downloads show progress on stderr.
    pub verbosity: Verbosity,
}

impl HubConfig {
    /// Reads the settings from the environment variables named at each field.
    pub fn from_env() -> Self {
        Self::from_variables(|name| std::env::var(name).ok(), std::env::home_dir())
    }

    fn from_variables(variable: impl Fn(&str) -> Option<String>, user: Option<PathBuf>) -> Self {
        let variable = |name: &str| variable(name).filter(|value| !value.trim().is_empty());
        let path = |name: &str| variable(name).map(PathBuf::from);
        let home = path("HF_HOME").unwrap_or_else(|| {
            path("XDG_CACHE_HOME")
                .or_else(|| user.map(|user| user.join(".cache")))
                .unwrap_or_else(std::env::temp_dir)
                .join("huggingface")
        });
        let token_file = path("HF_TOKEN_PATH").unwrap_or_else(|| home.join("token"));
        let token = variable("HF_TOKEN").or_else(|| std::fs::read_to_string(token_file).ok());
        let endpoint = variable("HF_ENDPOINT").unwrap_or_else(|| ENDPOINT.to_owned());
        let offline = variable("HF_HUB_OFFLINE").map(|value| value.to_lowercase());
        Self {
            cache: path("HF_HUB_CACHE").unwrap_or_else(|| home.join("hub")),
            endpoint: endpoint.trim_end_matches('/').to_owned(),
            token: token
                .map(|token| token.trim().to_owned())
                .filter(|token| !token.is_empty()),
            offline: offline
                .is_some_and(|value| matches!(value.as_str(), "1" | "true" | "yes" | "on")),
            retries: 5,
            verbosity: Verbosity::Normal,
        }
    }
}

impl std::fmt::Debug for HubConfig {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("HubConfig")
            .field("cache", &self.cache)
            .field("endpoint", &self.endpoint)
            .field("token", &self.token.as_ref().map(|_| "(hidden)"))
            .field("offline", &self.offline)
            .field("retries", &self.retries)
            .field("verbosity", &self.verbosity)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(variables: &[(&str, &str)]) -> HubConfig {
        let find = |name: &str| {
            variables
                .iter()
                .find(|(key, _)| *key == name)
                .map(|(_, value)| (*value).to_owned())
        };
        HubConfig::from_variables(find, Some("/home/user".into()))
    }

    #[test]
    fn defaults_are_those_of_the_ecosystem() {
        let config = with(&[]);
        assert_eq!(
            config.cache,
            PathBuf::from("/home/user/.cache/huggingface/hub")
        );
        assert_eq!(config.endpoint, "https://huggingface.co");
        assert!(!config.offline);
    }

    #[test]
    fn variables_are_honoured_in_order() {
        assert_eq!(with(&[("HF_HOME", "/h")]).cache, PathBuf::from("/h/hub"));
        let both = with(&[("HF_HOME", "/h"), ("HF_HUB_CACHE", "/c")]);
        assert_eq!(both.cache, PathBuf::from("/c"));
        assert_eq!(
            with(&[("HF_ENDPOINT", "http://mirror/")]).endpoint,
            "http://mirror"
        );
        assert!(with(&[("HF_HUB_OFFLINE", "1")]).offline);
        assert!(!with(&[("HF_HUB_OFFLINE", "0")]).offline);
    }

    #[test]
    fn token_comes_from_the_variable_or_the_file_and_is_hidden() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("token"), "hf_file\n").unwrap();
        let home = dir.path().to_str().unwrap();
        let config = with(&[("HF_HOME", home)]);
        assert_eq!(config.token.as_deref(), Some("hf_file"));
        assert!(!format!("{config:?}").contains("hf_file"));
        let config = with(&[("HF_HOME", home), ("HF_TOKEN", " hf_variable ")]);
        assert_eq!(config.token.as_deref(), Some("hf_variable"));
    }
}
