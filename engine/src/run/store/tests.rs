use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::*;

fn save(store: &mut CheckpointStore, step: u64) {
    store
        .save::<RunError>(step, 100, |writer| {
            writer.write(
                "adapter/adapter_model.safetensors",
                format!("weights {step}").as_bytes(),
            )?;
            writer.write("state.json", format!("{{\"step\":{step}}}").as_bytes())
        })
        .unwrap();
}

fn store_with(dir: &Path, steps: &[u64]) -> CheckpointStore {
    let mut store = CheckpointStore::open(dir).unwrap();
    for &step in steps {
        save(&mut store, step);
    }
    store
}

fn newest(store: &CheckpointStore) -> Option<u64> {
    store
        .latest_verified()
        .unwrap()
        .newest
        .map(|checkpoint| checkpoint.step)
}

/// Damages step 20 beside a good step 10 and returns why step 20 was skipped.
fn reason_after(damage: impl Fn(&Path)) -> RunError {
    let dir = tempfile::tempdir().unwrap();
    let store = store_with(dir.path(), &[10, 20]);
    damage(&dir.path().join("step-00000020"));
    let mut found = store.latest_verified().unwrap();
    assert_eq!(found.newest.unwrap().step, 10);
    assert_eq!(found.skipped.len(), 1);
    assert!(
        dir.path().join("step-00000020").exists(),
        "skipped, not deleted"
    );
    found.skipped.remove(0).reason
}

#[test]
fn saved_checkpoint_is_found_with_its_files() {
    let dir = tempfile::tempdir().unwrap();
    let store = store_with(dir.path(), &[5, 10]);
    let found = store.latest_verified().unwrap();
    assert!(found.skipped.is_empty());
    let checkpoint = found.newest.unwrap();
    assert_eq!(checkpoint.step, 10);
    let file = checkpoint
        .file("adapter/adapter_model.safetensors")
        .unwrap();
    assert_eq!(fs::read(file).unwrap(), b"weights 10");
    assert_eq!(
        fs::read_to_string(dir.path().join("latest")).unwrap(),
        "step-00000010\n"
    );
}

#[test]
fn unnamed_file_is_not_trusted() {
    let dir = tempfile::tempdir().unwrap();
    let store = store_with(dir.path(), &[5]);
    fs::write(dir.path().join("step-00000005/extra"), b"x").unwrap();
    let checkpoint = store.latest_verified().unwrap().newest.unwrap();
    assert!(matches!(
        checkpoint.file("extra"),
        Err(RunError::NotInManifest { .. })
    ));
}

#[test]
fn torn_saves_are_skipped_with_their_reason() {
    let weights = "adapter/adapter_model.safetensors";
    let missing_manifest = reason_after(|dir| fs::remove_file(dir.join("manifest.json")).unwrap());
    assert!(matches!(missing_manifest, RunError::NoManifest { .. }));

    let half_manifest = reason_after(|dir| {
        let path = dir.join("manifest.json");
        let bytes = fs::read(&path).unwrap();
        fs::write(path, &bytes[..bytes.len() / 2]).unwrap();
    });
    assert!(matches!(half_manifest, RunError::Decode { .. }));

    let truncated = reason_after(|dir| fs::write(dir.join(weights), b"weig").unwrap());
    assert!(matches!(
        truncated,
        RunError::WrongSize {
            expected: 10,
            actual: 4,
            ..
        }
    ));

    let flipped = reason_after(|dir| fs::write(dir.join(weights), b"weights 30").unwrap());
    assert!(matches!(flipped, RunError::WrongHash { .. }));

    let gone = reason_after(|dir| fs::remove_file(dir.join(weights)).unwrap());
    assert!(matches!(gone, RunError::MissingFile { .. }));
}

#[test]
fn any_flipped_byte_of_a_manifest_is_noticed_or_harmless() {
    let dir = tempfile::tempdir().unwrap();
    let _ = store_with(dir.path(), &[20]);
    let checkpoint = dir.path().join("step-00000020");
    let path = checkpoint.join("manifest.json");
    let good = fs::read(&path).unwrap();
    let original = verify(&checkpoint).unwrap();
    for index in 0..good.len() {
        let mut bad = good.clone();
        bad[index] ^= 1;
        fs::write(&path, &bad).unwrap();
        if let Ok(manifest) = verify(&checkpoint) {
            assert_eq!(manifest, original, "byte {index}");
        }
    }
}

#[test]
fn manifest_cannot_name_files_outside() {
    let dir = tempfile::tempdir().unwrap();
    let _ = store_with(dir.path(), &[20]);
    let checkpoint = dir.path().join("step-00000020");
    let path = checkpoint.join("manifest.json");
    let text = fs::read_to_string(&path)
        .unwrap()
        .replace("state.json", "../state.json");
    fs::write(&path, text).unwrap();
    assert!(matches!(
        verify(&checkpoint),
        Err(RunError::ManifestDigest { .. })
    ));
}

#[test]
fn renamed_checkpoint_is_not_taken_for_another_step() {
    let dir = tempfile::tempdir().unwrap();
    let store = store_with(dir.path(), &[20]);
    fs::rename(
        dir.path().join("step-00000020"),
        dir.path().join("step-00000099"),
    )
    .unwrap();
    let found = store.latest_verified().unwrap();
    assert!(found.newest.is_none());
    assert!(matches!(
        found.skipped[0].reason,
        RunError::WrongStep { found: 20, .. }
    ));
}

#[test]
fn leftovers_of_dead_saves_are_invisible_and_removed_at_the_next_start() {
    let dir = tempfile::tempdir().unwrap();
    drop(store_with(dir.path(), &[10]));
    let stale = dir.path().join(".tmp-20-4294967295");
    fs::create_dir(&stale).unwrap();
    fs::write(stale.join("state.json"), b"half").unwrap();
    fs::write(dir.path().join(".tmp-write-0-4294967295"), b"half").unwrap();
    let store = CheckpointStore::open(dir.path()).unwrap();
    assert_eq!(newest(&store), Some(10));
    assert!(!stale.exists());
    assert!(!dir.path().join(".tmp-write-0-4294967295").exists());
}

#[cfg(target_os = "linux")]
#[test]
fn directory_of_a_living_process_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let theirs = dir.path().join(".tmp-20-1");
    fs::create_dir(&theirs).unwrap();
    let _ = CheckpointStore::open(dir.path()).unwrap();
    assert!(theirs.exists());
}

#[test]
fn interrupted_replacement_brings_the_old_one_back() {
    let dir = tempfile::tempdir().unwrap();
    drop(store_with(dir.path(), &[10]));
    fs::rename(
        dir.path().join("step-00000010"),
        dir.path().join(".old-step-00000010"),
    )
    .unwrap();
    let store = CheckpointStore::open(dir.path()).unwrap();
    assert_eq!(newest(&store), Some(10));
}

#[test]
fn saving_a_step_again_replaces_it() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = store_with(dir.path(), &[10]);
    store
        .save::<RunError>(10, 1, |writer| writer.write("other", b"new"))
        .unwrap();
    let checkpoint = store.latest_verified().unwrap().newest.unwrap();
    assert_eq!(checkpoint.manifest.files.len(), 1);
    assert_eq!(fs::read(checkpoint.file("other").unwrap()).unwrap(), b"new");
}

#[test]
fn failed_save_leaves_the_old_checkpoint_and_no_trace() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = store_with(dir.path(), &[10]);
    let failed = store.save(20, 1, |writer| {
        writer.write("half", b"x")?;
        Err(RunError::io(
            "write",
            writer.dir(),
            std::io::ErrorKind::StorageFull.into(),
        ))
    });
    assert!(matches!(failed, Err(RunError::DiskFull { .. })));
    assert_eq!(newest(&store), Some(10));
    assert_eq!(
        fs::read_dir(dir.path()).unwrap().count(),
        2,
        "`step-…` and `latest` only"
    );
}

#[test]
fn save_that_cannot_fit_is_refused_before_writing() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = store_with(dir.path(), &[10]);
    let refused = store.save::<RunError>(20, u64::MAX / 2, |_| unreachable!());
    assert!(matches!(refused, Err(RunError::NoSpace { .. })));
    assert_eq!(newest(&store), Some(10));
}

#[test]
fn checkpoint_without_files_or_with_escaping_names_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = CheckpointStore::open(dir.path()).unwrap();
    let empty = store.save::<RunError>(1, 1, |_| Ok(()));
    assert!(matches!(empty, Err(RunError::EmptyCheckpoint { .. })));
    let escaping = store.save::<RunError>(1, 1, |writer| writer.write("../x", b""));
    assert!(matches!(escaping, Err(RunError::UnsafeName { .. })));
}

#[test]
fn pruning_keeps_the_newest_the_best_and_the_damaged() {
    let dir = tempfile::tempdir().unwrap();
    drop(store_with(dir.path(), &[1, 2, 3, 4, 5, 6]));
    fs::remove_file(dir.path().join("step-00000002/state.json")).unwrap();
    fs::remove_file(dir.path().join("step-00000006/state.json")).unwrap();
    let mut store = CheckpointStore::open(dir.path()).unwrap();
    assert_eq!(store.keep_last(2, &[1]).unwrap(), vec![3]);
    assert_eq!(store.steps().unwrap(), vec![1, 2, 4, 5, 6]);
    assert_eq!(
        store.keep_last(0, &[]).unwrap(),
        vec![4, 1],
        "the newest good one always stays"
    );
    assert_eq!(newest(&store), Some(5));
}

#[test]
fn newer_checkpoints_of_an_abandoned_branch_are_set_aside() {
    let dir = tempfile::tempdir().unwrap();
    let mut store = store_with(dir.path(), &[1, 2, 3]);
    assert_eq!(store.set_aside_after(1).unwrap().len(), 2);
    assert_eq!(newest(&store), Some(1));
    save(&mut store, 2);
    assert_eq!(
        store.set_aside_after(1).unwrap().len(),
        1,
        "a second branch finds a free name"
    );
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 5);
}

/// Not a test: the process that the next test kills.
#[test]
#[ignore = "helper process of `killed_save_never_loses_a_finished_checkpoint`"]
fn child_saves_until_killed() {
    let Ok(dir) = std::env::var("TEMPER_TEST_SAVE_DIR") else {
        return;
    };
    let mut store = CheckpointStore::open(Path::new(&dir)).unwrap();
    let first = newest(&store).unwrap_or(0) + 1;
    for step in first..first + 10_000 {
        save(&mut store, step);
        store.keep_last(2, &[]).unwrap();
        println!("saved {step}");
    }
}

#[test]
fn killed_save_never_loses_a_finished_checkpoint() {
    let dir = tempfile::tempdir().unwrap();
    let mut finished = 0;
    for round in 0..12_u64 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--ignored", "--nocapture", "child_saves_until_killed"])
            .env("TEMPER_TEST_SAVE_DIR", dir.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        // Killed at an odd moment after the third save, so at every stage of a save over the
        // rounds.
        let saved = |line: &str| {
            line.strip_prefix("saved ")
                .and_then(|step| step.parse().ok())
        };
        let first: Vec<u64> = lines
            .by_ref()
            .map_while(Result::ok)
            .filter_map(|line| saved(&line))
            .take(3)
            .collect();
        let pause = Instant::now();
        while pause.elapsed() < Duration::from_micros(1 + round * 377) {}
        child.kill().unwrap();
        child.wait().unwrap();
        let rest = lines
            .map_while(Result::ok)
            .filter_map(|line| saved(&line))
            .last();
        finished = rest.or(first.last().copied()).unwrap_or(finished);

        let store = CheckpointStore::open(dir.path()).unwrap();
        let found = store.latest_verified().unwrap();
        assert!(
            found.skipped.is_empty(),
            "round {round}: {:?}",
            found.skipped
        );
        let step = found.newest.unwrap().step;
        assert!(
            step == finished || step == finished + 1,
            "round {round}: {step} of {finished}"
        );
    }
    assert!(finished >= 36);
}
