use std::fs;
use std::net::TcpListener;

use super::*;
use server::{COMMIT, Hub, Quirks, Trait};

mod server;

fn weights() -> Vec<u8> {
    (0..300_000_u32)
        .map(|index| (index.wrapping_mul(2_654_435_761) >> 24) as u8)
        .collect()
}

fn model_files(weights: &[u8]) -> [(&str, &[u8]); 4] {
    [
        ("README.md", b"not needed"),
        ("config.json", b"{}"),
        ("model.safetensors", weights),
        ("pytorch_model.bin", b"never"),
    ]
}

fn refused_endpoint() -> String {
    // Bound and closed again: nobody listens there.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    format!("http://{}", listener.local_addr().unwrap())
}

#[test]
fn model_is_downloaded_once_into_the_shared_layout() {
    let weights = weights();
    let hub = Hub::start(&model_files(&weights), Quirks::of(&[Trait::NeedsToken]));
    let dir = hub.model().unwrap();
    assert!(dir.ends_with(format!("models--org--name/snapshots/{COMMIT}")));
    assert_eq!(fs::read(dir.join("model.safetensors")).unwrap(), weights);
    assert!(!dir.join("pytorch_model.bin").exists() && !dir.join("README.md").exists());
    let reference = hub.config().cache.join("models--org--name/refs/main");
    assert_eq!(fs::read_to_string(reference).unwrap(), COMMIT);
    if cfg!(unix) {
        let link = fs::read_link(dir.join("model.safetensors")).unwrap();
        assert!(link.starts_with("../../blobs"), "{}", link.display());
    }
    let before = hub.requests().len();
    assert_eq!(hub.model().unwrap(), dir);
    assert_eq!(
        hub.requests().len(),
        before + 1,
        "only the listing is asked for again"
    );
}

#[test]
fn cut_connection_goes_on_where_it_stopped() {
    let weights = weights();
    // The first body is that of `config.json`.
    let cuts = vec![usize::MAX, 100_000, 70_000];
    let hub = Hub::start(
        &model_files(&weights),
        Quirks {
            cuts,
            ..Quirks::default()
        },
    );
    let dir = hub.model().unwrap();
    assert_eq!(fs::read(dir.join("model.safetensors")).unwrap(), weights);
    let ranges = hub
        .requests()
        .into_iter()
        .filter(|request| request.contains("bytes="))
        .collect::<Vec<_>>();
    assert_eq!(ranges.len(), 2, "{ranges:?}");
    assert!(ranges[0].ends_with("bytes=100000-") && ranges[1].ends_with("bytes=170000-"));
}

#[test]
fn later_run_goes_on_with_what_an_earlier_one_left() {
    let weights = weights();
    let mut cuts = vec![usize::MAX, 100_000];
    cuts.extend([0; 2]);
    let hub = Hub::start(
        &model_files(&weights),
        Quirks {
            cuts,
            ..Quirks::default()
        },
    );
    let error = hub.model().unwrap_err();
    assert!(error.to_string().contains("run again to go on"), "{error}");
    assert_eq!(
        fs::read(hub.model().unwrap().join("model.safetensors")).unwrap(),
        weights
    );
    let last = hub.requests().pop().unwrap();
    assert!(last.ends_with("bytes=100000-"), "{last}");
}

#[test]
fn server_that_ignores_ranges_does_not_corrupt_the_file() {
    let weights = weights();
    let quirks = Quirks::of(&[Trait::IgnoresRanges]).with_cuts(&[usize::MAX, 100_000]);
    let hub = Hub::start(&model_files(&weights), quirks);
    assert_eq!(
        fs::read(hub.model().unwrap().join("model.safetensors")).unwrap(),
        weights
    );
}

#[test]
fn damaged_file_is_thrown_away_and_never_linked() {
    let weights = weights();
    let hub = Hub::start(&model_files(&weights), Quirks::of(&[Trait::Corrupts]));
    let error = hub.model().unwrap_err();
    assert!(matches!(error, HubError::Damaged { .. }), "{error}");
    assert_eq!(fs::read_dir(hub.blobs()).unwrap().count(), 0);
}

#[test]
fn busy_server_is_asked_again() {
    let weights = weights();
    let hub = Hub::start(
        &model_files(&weights),
        Quirks {
            statuses: vec![503],
            ..Quirks::default()
        },
    );
    hub.model().unwrap();
}

#[test]
fn redirects_within_the_hub_are_followed() {
    let weights = weights();
    let hub = Hub::start(&model_files(&weights), Quirks::of(&[Trait::Redirects]));
    assert_eq!(
        fs::read(hub.model().unwrap().join("model.safetensors")).unwrap(),
        weights
    );
}

#[test]
fn content_on_another_host_is_checked_and_resumed_but_never_gets_the_token() {
    let weights = weights();
    let quirks = Quirks::of(&[Trait::HasStorage]).with_cuts(&[usize::MAX, 100_000]);
    let hub = Hub::start(&model_files(&weights), quirks);
    assert_eq!(
        fs::read(hub.model().unwrap().join("model.safetensors")).unwrap(),
        weights
    );
    let requests = hub.requests();
    let is_storage = |request: &&String| request.contains("/storage/");
    assert!(
        requests
            .iter()
            .any(|request| is_storage(&request) && request.ends_with("bytes=100000-"))
    );
    assert!(
        !requests
            .iter()
            .any(|request| is_storage(&request) && request.contains("with token"))
    );
    assert!(
        requests
            .iter()
            .filter(|r| !is_storage(r))
            .all(|r| r.contains("with token"))
    );
}

#[test]
fn missing_repository_is_named_with_its_revision() {
    let hub = Hub::start(&[], Quirks::default());
    let error = resolve_model_with("org/other@v2", &hub.config()).unwrap_err();
    let message = error.to_string();
    assert!(
        message.contains("`org/other` at revision `v2`"),
        "{message}"
    );
    assert!(message.contains(&hub.endpoint), "{message}");
}

#[test]
fn refused_access_says_what_to_do_and_never_the_token() {
    let hub = Hub::start(&[], Quirks::of(&[Trait::NeedsToken]));
    let without = HubConfig {
        token: None,
        ..hub.config()
    };
    let error = resolve_model_with("org/name", &without).unwrap_err();
    assert!(error.to_string().contains("set `HF_TOKEN`"), "{error}");
    let wrong = HubConfig {
        token: Some("hf_wrong".to_owned()),
        ..hub.config()
    };
    let error = resolve_model_with("org/name", &wrong).unwrap_err();
    assert!(
        error.to_string().contains("the token lacks access"),
        "{error}"
    );
    assert!(!format!("{error:?} {error}").contains("hf_wrong"));
}

#[test]
fn listing_that_leaves_the_cache_is_refused() {
    for name in [
        "../../evil.safetensors",
        "/etc/evil.safetensors",
        "a/../../b.json",
    ] {
        let hub = Hub::start(&[("config.json", b"{}"), (name, b"x")], Quirks::default());
        let error = hub.model().unwrap_err();
        assert!(matches!(error, HubError::UnsafeName { .. }), "{error}");
        assert!(!hub.blobs().exists(), "nothing was downloaded");
    }
}

#[test]
fn offline_model_comes_from_the_cache() {
    let weights = weights();
    let hub = Hub::start(&model_files(&weights), Quirks::default());
    let online = hub.model().unwrap();
    let offline = HubConfig {
        offline: true,
        endpoint: refused_endpoint(),
        ..hub.config()
    };
    assert_eq!(resolve_model_with("org/name", &offline).unwrap(), online);
    let commit = format!("org/name@{COMMIT}");
    assert_eq!(resolve_model_with(&commit, &offline).unwrap(), online);
}

#[test]
fn pipeline_without_one_of_its_parts_is_no_model() {
    let dir = tempfile::tempdir().unwrap();
    let config = HubConfig {
        cache: dir.path().to_path_buf(),
        offline: true,
        ..HubConfig::from_env()
    };
    let snapshot = dir.path().join("models--org--name/snapshots").join(COMMIT);
    let index = r#"{"unet": ["diffusers", "UNet2DConditionModel"], "vae": ["diffusers", "AutoencoderKL"],
        "safety_checker": [null, null]}"#;
    fs::create_dir_all(snapshot.join("unet")).unwrap();
    fs::write(snapshot.join("model_index.json"), index).unwrap();
    fs::write(snapshot.join("unet/weights.safetensors"), "x").unwrap();
    let commit = format!("org/name@{COMMIT}");
    let message = resolve_model_with(&commit, &config)
        .unwrap_err()
        .to_string();
    assert!(message.contains("`vae/*.safetensors`"), "{message}");
    fs::create_dir_all(snapshot.join("vae")).unwrap();
    fs::write(snapshot.join("vae/weights.safetensors"), "x").unwrap();
    assert_eq!(resolve_model_with(&commit, &config).unwrap(), snapshot);
}

#[test]
fn offline_error_says_what_is_missing_and_where_it_looked() {
    let dir = tempfile::tempdir().unwrap();
    let config = HubConfig {
        cache: dir.path().to_path_buf(),
        offline: true,
        ..HubConfig::from_env()
    };
    let message = resolve_model_with("org/name", &config)
        .unwrap_err()
        .to_string();
    assert!(
        message.contains("models--org--name") && message.contains("HF_HUB_OFFLINE"),
        "{message}"
    );

    let snapshot = dir.path().join("models--org--name/snapshots").join(COMMIT);
    fs::create_dir_all(&snapshot).unwrap();
    fs::create_dir_all(dir.path().join("models--org--name/refs")).unwrap();
    fs::write(dir.path().join("models--org--name/refs/main"), COMMIT).unwrap();
    fs::write(snapshot.join("config.json"), "{}").unwrap();
    fs::write(snapshot.join("a.safetensors"), "x").unwrap();
    let index = r#"{"weight_map": {"x": "a.safetensors", "y": "b.safetensors"}}"#;
    fs::write(snapshot.join("model.safetensors.index.json"), index).unwrap();
    let message = resolve_model_with("org/name", &config)
        .unwrap_err()
        .to_string();
    assert!(message.contains("`b.safetensors`"), "{message}");
    fs::write(snapshot.join("b.safetensors"), "x").unwrap();
    assert_eq!(resolve_model_with("org/name", &config).unwrap(), snapshot);
}

#[test]
fn unreachable_hub_falls_back_to_the_cache() {
    let weights = weights();
    let hub = Hub::start(&model_files(&weights), Quirks::default());
    let online = hub.model().unwrap();
    let away = HubConfig {
        endpoint: refused_endpoint(),
        retries: 0,
        ..hub.config()
    };
    assert_eq!(resolve_model_with("org/name", &away).unwrap(), online);
    let error = resolve_model_with("org/never-seen", &away).unwrap_err();
    assert!(matches!(error, HubError::Request { .. }), "{error}");
}

#[test]
fn dataset_files_are_chosen_and_downloaded() {
    let files: [(&str, &[u8]); 3] = [
        ("main/test-00000-of-00001.parquet", b"test"),
        ("main/train-00000-of-00001.parquet", b"train"),
        ("README.md", b""),
    ];
    let hub = Hub::start(&files, Quirks::default());
    let train = resolve_dataset_with("org/name", &hub.config()).unwrap();
    assert_eq!(train.len(), 1);
    assert_eq!(fs::read(&train[0]).unwrap(), b"train");
    let test = resolve_dataset_with("org/name:main/test-*", &hub.config()).unwrap();
    assert_eq!(fs::read(&test[0]).unwrap(), b"test");
    let offline = HubConfig {
        offline: true,
        ..hub.config()
    };
    assert_eq!(resolve_dataset_with("org/name", &offline).unwrap(), train);
    let error = resolve_dataset_with("org/name:main/validation-*", &offline).unwrap_err();
    assert!(matches!(error, HubError::NotCached { .. }), "{error}");
}

#[test]
fn empty_file_is_a_file() {
    let files: [(&str, &[u8]); 1] = [("data.jsonl", b"")];
    let hub = Hub::start(&files, Quirks::default());
    let found = resolve_dataset_with("org/name", &hub.config()).unwrap();
    assert_eq!(fs::read(&found[0]).unwrap(), b"");
}

#[test]
fn local_paths_need_no_hub() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("train.jsonl"), "").unwrap();
    fs::write(dir.path().join("test.jsonl"), "").unwrap();
    let spec = dir.path().to_str().unwrap();
    assert_eq!(resolve_model(spec).unwrap(), dir.path());
    assert_eq!(
        resolve_dataset(spec).unwrap(),
        [dir.path().join("train.jsonl")]
    );
    let test = resolve_dataset(&format!("{spec}:test.jsonl")).unwrap();
    assert_eq!(test, [dir.path().join("test.jsonl")]);
    let file = format!("{spec}/train.jsonl");
    assert_eq!(resolve_dataset(&file).unwrap(), [PathBuf::from(&file)]);
}
