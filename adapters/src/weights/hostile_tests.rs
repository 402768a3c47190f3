//! One hostile file per way of being wrong; none may panic, each must name file and tensor.

use std::path::{Path, PathBuf};

use tempfile::TempDir;

use super::{Checkpoint, IndexProblem, WeightsError};

/// Bytes of a safetensors file with the given header text and data length.
fn file_bytes(header: &str, data: usize) -> Vec<u8> {
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.as_bytes());
    bytes.resize(bytes.len() + data, 7);
    bytes
}

fn tensor(name: &str, start: u64, end: u64) -> String {
    let size = end.saturating_sub(start);
    format!(r#""{name}":{{"dtype":"U8","shape":[{size}],"data_offsets":[{start},{end}]}}"#)
}

fn write(directory: &TempDir, name: &str, bytes: &[u8]) -> PathBuf {
    let path = directory.path().join(name);
    std::fs::write(&path, bytes).unwrap();
    path
}

/// Opens a file with these bytes; it must fail and the message must name the file.
fn refused(bytes: &[u8]) -> WeightsError {
    let directory = tempfile::tempdir().unwrap();
    let path = write(&directory, "bad.safetensors", bytes);
    let error = Checkpoint::open(&path).unwrap_err();
    assert!(error.to_string().contains("bad.safetensors"), "{error}");
    error
}

fn refused_header(header: &str, data: usize) -> WeightsError {
    refused(&file_bytes(header, data))
}

#[test]
fn every_prefix_of_a_good_file_is_truncated() {
    let good = file_bytes(&format!("{{{}}}", tensor("a", 0, 16)), 16);
    for length in 0..good.len() {
        let error = refused(&good[..length]);
        let WeightsError::Truncated {
            actual, expected, ..
        } = error
        else {
            panic!("{length} bytes gave {error}");
        };
        assert_eq!(actual, length as u64);
        assert!(expected > actual);
    }
}

#[test]
fn header_lengths_zero_huge_and_over_the_limit_are_refused() {
    for length in [0_u64, 1, 100_000_001, 1 << 63, u64::MAX] {
        let mut bytes = length.to_le_bytes().to_vec();
        bytes.extend([b' '; 64]);
        assert!(
            matches!(refused(&bytes), WeightsError::HeaderLength { length: l, .. } if l == length)
        );
    }
    for pickle in [
        &b"PK\x03\x04 and so on"[..],
        b"\x80\x02}q\x00X\x05\x00 and so on",
    ] {
        let said = refused(pickle).to_string();
        assert!(
            said.contains("pickled") && said.contains("convert it"),
            "{said}"
        );
    }
    let mut bytes = 7_u64.to_le_bytes().to_vec();
    bytes.extend(b"{\"a\":1}");
    assert!(matches!(refused(&bytes), WeightsError::HeaderJson { .. }));
}

#[test]
fn header_that_is_not_text_or_not_json_is_refused() {
    let mut bytes = 4_u64.to_le_bytes().to_vec();
    bytes.extend([0xff, 0xfe, 0x00, 0x01]);
    assert!(matches!(refused(&bytes), WeightsError::HeaderUtf8 { .. }));
    for header in [
        "not json at all",
        "[1,2,3]",
        "{\"a\":3}",
        "{\"__metadata__\":{\"x\":1}}",
    ] {
        assert!(
            matches!(refused_header(header, 0), WeightsError::HeaderJson { .. }),
            "{header}"
        );
    }
}

#[test]
fn deeply_nested_header_is_refused_without_overflowing_the_stack() {
    let bomb = format!("{{\"a\":{}", "[".repeat(2_000_000));
    assert!(matches!(
        refused_header(&bomb, 0),
        WeightsError::HeaderJson { .. }
    ));
}

#[test]
fn repeated_tensor_names_are_refused() {
    let header = format!("{{{},{}}}", tensor("twin", 0, 4), tensor("twin", 4, 8));
    let error = refused_header(&header, 8);
    assert!(matches!(&error, WeightsError::DuplicateTensor { tensor, .. } if tensor == "twin"));
}

#[test]
fn overlapping_and_gapped_tensors_are_refused() {
    for (start, expected) in [(2, 4), (6, 4)] {
        let header = format!(
            "{{{},{}}}",
            tensor("a", 0, 4),
            tensor("b", start, start + 4)
        );
        let error = refused_header(&header, start as usize + 4);
        assert!(
            matches!(&error, WeightsError::Misplaced { tensor, expected: e, .. } if tensor == "b" && *e == expected),
            "{error}"
        );
    }
}

#[test]
fn offsets_beyond_the_file_are_truncation_and_unused_bytes_are_refused() {
    let header = format!("{{{}}}", tensor("a", 0, 1_000_000_000_000));
    assert!(matches!(
        refused_header(&header, 4),
        WeightsError::Truncated { .. }
    ));
    let header = format!("{{{}}}", tensor("a", 0, 4));
    assert!(matches!(
        refused_header(&header, 5),
        WeightsError::TrailingBytes { .. }
    ));
}

#[test]
fn offsets_that_run_backwards_or_below_zero_name_the_tensor() {
    let header = r#"{"back":{"dtype":"U8","shape":[4],"data_offsets":[8,4]}}"#;
    assert!(matches!(
        refused_header(header, 8),
        WeightsError::SizeMismatch { .. }
    ));
    let header = r#"{"below":{"dtype":"U8","shape":[4],"data_offsets":[-4,0]}}"#;
    assert!(refused_header(header, 0).to_string().contains("`below`"));
    let header = r#"{"float":{"dtype":"U8","shape":[1.5],"data_offsets":[0,1]}}"#;
    assert!(refused_header(header, 1).to_string().contains("`float`"));
}

#[test]
fn shapes_that_overflow_or_disagree_with_their_span_are_refused() {
    let header =
        r#"{"big":{"dtype":"F32","shape":[4294967296,4294967296,9],"data_offsets":[0,4]}}"#;
    assert!(
        matches!(refused_header(header, 4), WeightsError::ImpossibleSize { tensor, .. } if tensor == "big")
    );
    let header = r#"{"half":{"dtype":"F4","shape":[3],"data_offsets":[0,2]}}"#;
    assert!(matches!(
        refused_header(header, 2),
        WeightsError::ImpossibleSize { .. }
    ));
    let header = r#"{"short":{"dtype":"F32","shape":[2],"data_offsets":[0,4]}}"#;
    let error = refused_header(header, 4);
    assert!(
        matches!(&error, WeightsError::SizeMismatch { expected: 8, .. }),
        "{error}"
    );
}

#[test]
fn unknown_dtype_is_named() {
    let header = r#"{"odd":{"dtype":"F12","shape":[2],"data_offsets":[0,3]}}"#;
    let message = refused_header(header, 3).to_string();
    assert!(
        message.contains("`odd`") && message.contains("`F12`"),
        "{message}"
    );
}

#[test]
fn arbitrary_bytes_never_panic() {
    let directory = tempfile::tempdir().unwrap();
    let good = file_bytes(
        &format!("{{{},{}}}", tensor("a", 0, 8), tensor("b", 8, 9)),
        9,
    );
    let path = directory.path().join("fuzz.safetensors");
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    for _ in 0..3000 {
        let mut bytes = good.clone();
        for _ in 0..3 {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            let at = (state >> 33) as usize % bytes.len();
            bytes[at] = (state >> 20) as u8;
        }
        std::fs::write(&path, &bytes).unwrap();
        if let Ok(weights) = Checkpoint::open(&path) {
            for name in weights.names() {
                assert_eq!(
                    weights.bytes(name).unwrap().len(),
                    weights.info(name).unwrap().bytes
                );
            }
        }
    }
}

#[test]
fn missing_tensor_suggests_near_names_and_wrong_shape_shows_both() {
    let directory = tempfile::tempdir().unwrap();
    let header = r#"{"q_proj.weight":{"dtype":"U8","shape":[2,2],"data_offsets":[0,4]}}"#;
    let path = write(&directory, "model.safetensors", &file_bytes(header, 4));
    let weights = Checkpoint::open(path).unwrap();
    let message = weights.read("q_prj.weight").unwrap_err().to_string();
    assert!(
        message.contains("nearest names are `q_proj.weight`"),
        "{message}"
    );
    let error = weights.expect("q_proj.weight", &[4, 1]).unwrap_err();
    assert!(
        error
            .to_string()
            .ends_with("has shape [2, 2], expected [4, 1]"),
        "{error}"
    );
    let message = weights.read_f32("q_proj.weight").unwrap_err().to_string();
    assert!(
        message.contains("`q_proj.weight`") && message.contains("U8"),
        "{message}"
    );
}

#[test]
fn empty_directory_directory_as_file_and_pickles_are_explained() {
    let directory = tempfile::tempdir().unwrap();
    let error = Checkpoint::open(directory.path()).unwrap_err();
    assert!(matches!(
        error,
        WeightsError::NoWeights { pickled: false, .. }
    ));
    write(&directory, "pytorch_model.bin", b"");
    let message = Checkpoint::open(directory.path()).unwrap_err().to_string();
    assert!(message.contains("convert them to safetensors"), "{message}");
    assert!(matches!(
        Checkpoint::open(directory.path().join("none.safetensors")),
        Err(WeightsError::Io { .. })
    ));
    #[cfg(unix)]
    assert!(matches!(
        Checkpoint::open("/dev/null"),
        Err(WeightsError::NotAFile { .. })
    ));
}

/// A directory with shards `one` (tensors a, b) and `two` (tensor c) and this weight map.
fn sharded(weight_map: &str) -> (TempDir, Result<Checkpoint, WeightsError>) {
    let directory = tempfile::tempdir().unwrap();
    let one = format!("{{{},{}}}", tensor("a", 0, 4), tensor("b", 4, 8));
    write(&directory, "one.safetensors", &file_bytes(&one, 8));
    let two = format!("{{{}}}", tensor("c", 0, 4));
    write(&directory, "two.safetensors", &file_bytes(&two, 4));
    let index = format!(r#"{{"metadata":{{}},"weight_map":{{{weight_map}}}}}"#);
    write(&directory, "model.safetensors.index.json", index.as_bytes());
    let opened = Checkpoint::open(directory.path());
    (directory, opened)
}

fn problems(weight_map: &str) -> Vec<IndexProblem> {
    match sharded(weight_map).1 {
        Err(WeightsError::Index { problems, .. }) => problems,
        other => panic!("expected index problems, got {other:?}"),
    }
}

#[test]
fn shards_are_read_through_the_index() {
    let map = r#""a":"one.safetensors","b":"one.safetensors","c":"two.safetensors""#;
    let (_directory, opened) = sharded(map);
    let weights = opened.unwrap();
    assert_eq!(weights.names().collect::<Vec<_>>(), ["a", "b", "c"]);
    assert_eq!(weights.total_bytes(), 12);
    assert!(weights.info("c").unwrap().file.ends_with("two.safetensors"));
    assert!(weights.warnings().is_empty());
    weights.release("c");
    assert_eq!(*weights.bytes("c").unwrap(), [7; 4]);
}

#[test]
fn shards_outside_the_directory_are_refused() {
    for shard in [
        "../x.safetensors",
        "/etc/passwd",
        "",
        "sub/../../x",
        "./one.safetensors",
        "a\\\\b",
    ] {
        let found = problems(&format!(r#""a":"{shard}""#));
        assert!(
            matches!(found[..], [IndexProblem::OutsideDirectory { .. }]),
            "{shard}: {found:?}"
        );
    }
}

#[test]
fn all_index_problems_are_reported_at_once() {
    let map = r#""a":"gone.safetensors","c":"one.safetensors","d":"two.safetensors","d":"one.safetensors""#;
    let found = problems(map);
    assert!(found.contains(&IndexProblem::MissingShard {
        shard: "gone.safetensors".to_owned()
    }));
    assert!(
        found
            .iter()
            .any(|p| matches!(p, IndexProblem::NotInShard { tensor, .. } if tensor == "c"))
    );
    assert!(
        found
            .iter()
            .any(|p| matches!(p, IndexProblem::InTwoShards { tensor, .. } if tensor == "d"))
    );
}

#[test]
fn unlisted_tensor_is_only_a_warning() {
    let (_directory, opened) = sharded(r#""a":"one.safetensors","c":"two.safetensors""#);
    assert_eq!(opened.unwrap().warnings().len(), 1);
}

#[test]
fn index_that_is_no_index_is_refused() {
    for text in [
        "",
        "[]",
        "{}",
        r#"{"weight_map":[]}"#,
        r#"{"weight_map":{"a":3}}"#,
    ] {
        let directory = tempfile::tempdir().unwrap();
        write(&directory, "model.safetensors.index.json", text.as_bytes());
        let error = Checkpoint::open(directory.path()).unwrap_err();
        assert!(
            matches!(error, WeightsError::IndexJson { .. }),
            "{text}: {error}"
        );
    }
}

#[cfg(unix)]
#[test]
fn links_may_lead_to_the_cache_of_their_repository_only() {
    use std::os::unix::fs::symlink;
    let root = tempfile::tempdir().unwrap();
    let bytes = file_bytes(&format!("{{{}}}", tensor("a", 0, 4)), 4);
    let snapshot = root.path().join("repository/snapshots/revision");
    std::fs::create_dir_all(&snapshot).unwrap();
    std::fs::create_dir_all(root.path().join("repository/blobs")).unwrap();
    std::fs::write(root.path().join("repository/blobs/hash"), &bytes).unwrap();
    std::fs::write(root.path().join("secret"), &bytes).unwrap();
    let link = snapshot.join("model.safetensors");
    symlink("../../blobs/hash", &link).unwrap();
    assert!(Checkpoint::open(&snapshot).is_ok());
    std::fs::remove_file(&link).unwrap();
    symlink(Path::new("../../../secret"), &link).unwrap();
    assert!(matches!(
        Checkpoint::open(&snapshot),
        Err(WeightsError::Index { .. })
    ));
}
