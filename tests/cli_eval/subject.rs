//! `temper eval --task subject`: pictures against photographs, by the tiny models of `tests/golden/vision`.

use std::path::PathBuf;

use serde_json::{Value, json};
use temper_datasets::images::{Photo, grid, read, write_png};

use super::support::{fail, path, rows, succeed, text};

fn golden(name: &str) -> PathBuf {
    path("tests/golden/vision").join(name)
}

fn expected() -> Value {
    let text = std::fs::read_to_string(golden("subject/expected.json")).unwrap();
    serde_json::from_str(&text).unwrap()
}

/// A temporary folder with copies of the golden pictures.
struct Studio(tempfile::TempDir);

impl Studio {
    fn new() -> Self {
        let studio = Self(tempfile::tempdir().unwrap());
        studio.copy("generated", "generated");
        studio.copy("real", "real");
        studio
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Copies the golden pictures of a kind.
    fn copy(&self, kind: &str, to: &str) {
        let to = self.path(to);
        std::fs::create_dir_all(&to).unwrap();
        for entry in std::fs::read_dir(golden("subject").join(kind)).unwrap() {
            let from = entry.unwrap().path();
            std::fs::copy(&from, to.join(from.file_name().unwrap())).unwrap();
        }
    }

    fn arguments(&self, more: &[&str]) -> Vec<String> {
        let (generated, real) = (self.path("generated"), self.path("real"));
        let fixed = ["eval", "--task", "subject", "--device", "cpu"];
        let folders = ["--generated", text(&generated), "--real", text(&real)];
        let all = fixed.iter().chain(&folders).chain(more);
        all.map(|word| (*word).to_owned()).collect()
    }

    fn eval(&self, more: &[&str]) -> (String, String) {
        succeed(&self.arguments(more))
    }

    /// The summary as JSON, and what was said on stderr.
    fn json(&self, more: &[&str]) -> (Value, String) {
        let (out, said) = self.eval(&[more, &["--json"]].concat());
        (serde_json::from_str(&out).unwrap(), said)
    }

    fn fail(&self, code: i32, more: &[&str]) -> String {
        fail(code, &self.arguments(more))
    }
}

/// Options for all three models.
fn models() -> Vec<String> {
    let of = |option: &str, name: &str| [format!("--{option}"), text(&golden(name)).to_owned()];
    let all = [
        of("clip", "clip"),
        of("dino", "dino"),
        of("lpips", "lpips_alex"),
    ];
    all.concat()
}

fn words(words: &[String]) -> Vec<&str> {
    words.iter().map(String::as_str).collect()
}

fn close(what: &str, ours: &Value, theirs: &Value) {
    match (ours, theirs) {
        (Value::Object(ours), Value::Object(theirs)) => {
            let keys = |of: &serde_json::Map<String, Value>| {
                let mut keys: Vec<String> = of.keys().cloned().collect();
                keys.sort();
                keys
            };
            assert_eq!(keys(ours), keys(theirs), "{what}");
            for (key, value) in ours {
                close(&format!("{what}.{key}"), value, &theirs[key]);
            }
        }
        (Value::Number(ours), Value::Number(theirs)) => {
            let [ours, theirs] = [ours, theirs].map(|number| number.as_f64().unwrap());
            assert!((ours - theirs).abs() < 1e-4, "{what}: {ours}, not {theirs}");
        }
        _ => assert_eq!(ours, theirs, "{what}"),
    }
}

#[test]
fn figures_errors_and_rows_are_those_of_their_definitions() {
    let (studio, models) = (Studio::new(), models());
    let output = studio.path("result");
    let more = [words(&models), vec!["--output", text(&output)]].concat();
    let (summary, _) = studio.json(&more);
    let expected = expected();
    close("scores", &summary["scores"], &expected["scores"]);
    close("real", &summary["real"], &expected["real"]);
    assert_eq!(summary["pictures"], 5);
    assert_eq!(summary["real_pictures"], 3);
    assert_eq!(summary["without_prompt"], 0);
    for model in ["clip", "dino", "lpips"] {
        let hash = summary["models"][model]["sha256"].as_str().unwrap();
        assert_eq!(hash.len(), 64, "{model}");
    }
    let kept = std::fs::read_to_string(output.join("pictures.jsonl")).unwrap();
    let kept = rows(&kept);
    for (at, (row, one)) in kept
        .iter()
        .zip(expected["pictures"].as_array().unwrap())
        .enumerate()
    {
        let file = studio.path(&format!("generated/{at}.png"));
        assert_eq!(row["file"], text(&file));
        for key in ["clip_i", "clip_t", "dino", "prompt"] {
            close(key, &row[key], &one[key]);
        }
    }
    assert_eq!(kept.len(), 5);
    let prompts = summary["subjects"][0]["prompts"].as_array().unwrap();
    let seen: Vec<_> = prompts
        .iter()
        .map(|one| (&one["prompt"], &one["pictures"]))
        .collect();
    assert_eq!(
        seen,
        [
            (&json!("a red dog"), &json!(3)),
            (&json!("dog on a cat"), &json!(2))
        ]
    );
    // The mean over pairs is that over prompts, each with its number of pairs.
    let [three, two] = [0, 1].map(|at| prompts[at]["lpips"].as_f64().unwrap());
    close(
        "lpips",
        &json!((3.0 * three + two) / 4.0),
        &expected["scores"]["lpips"]["mean"],
    );
}

#[test]
fn earlier_results_stay_unless_told_otherwise_and_the_table_shows_errors() {
    let (studio, models) = (Studio::new(), models());
    let output = studio.path("result");
    let more = [words(&models), vec!["--output", text(&output)]].concat();
    let (summary, _) = studio.json(&more);
    let saved = std::fs::read_to_string(output.join("summary.json")).unwrap();
    assert_eq!(serde_json::from_str::<Value>(&saved).unwrap(), summary);

    let said = studio.fail(1, &more);
    assert!(
        said.contains("pictures.jsonl") && said.contains("--overwrite"),
        "{said}"
    );
    let (table, _) = studio.eval(&[more, vec!["--overwrite"]].concat());
    for shown in [
        "5 pictures against 3 photographs",
        "0.9047 ± 0.0132",
        "dog on a cat",
    ] {
        assert!(table.contains(shown), "{table}");
    }
}

#[test]
fn a_figure_whose_model_is_not_given_is_absent_and_one_model_is_needed() {
    let studio = Studio::new();
    let dino = golden("dino");
    let (summary, _) = studio.json(&["--dino", text(&dino)]);
    let names: Vec<&String> = summary["scores"].as_object().unwrap().keys().collect();
    assert_eq!(names, ["dino"]);
    assert!(summary["models"].get("clip").is_none());
    close(
        "dino",
        &summary["scores"]["dino"],
        &expected()["scores"]["dino"],
    );
    let said = studio.fail(2, &[]);
    assert!(said.contains("--clip, --dino or --lpips"), "{said}");
}

#[test]
fn black_broken_and_joined_pictures_are_left_out_by_name_and_change_nothing() {
    let (studio, models) = (Studio::new(), models());
    let folder = studio.path("generated");
    write_png(
        folder.join("black.png"),
        &Photo::filled(40, 36, [0; 3]),
        &[],
    )
    .unwrap();
    let whole = std::fs::read(folder.join("0.png")).unwrap();
    std::fs::write(folder.join("cut.png"), &whole[..whole.len() / 2]).unwrap();
    std::fs::write(folder.join("empty.jpg"), "").unwrap();
    let sheet = grid(
        &[
            read(folder.join("0.png")).unwrap(),
            read(folder.join("1.png")).unwrap(),
        ],
        2,
        4,
    );
    let recipe = (
        "temper".to_owned(),
        json!({"prompt": ["a red dog"]}).to_string(),
    );
    write_png(folder.join("sheet.png"), &sheet, &[recipe]).unwrap();
    std::fs::write(studio.path("real/broken.png"), "no picture").unwrap();
    let output = studio.path("result");
    let more = [words(&models), vec!["--output", text(&output)]].concat();
    let (summary, said) = studio.json(&more);
    close("scores", &summary["scores"], &expected()["scores"]);
    close("real", &summary["real"], &expected()["real"]);
    let left_out = &summary["left_out"];
    let counts = ["black", "unreadable", "sheets"].map(|kind| left_out[kind].as_u64().unwrap());
    assert_eq!(counts, [1, 3, 1]);
    for name in [
        "black.png",
        "cut.png",
        "empty.jpg",
        "sheet.png",
        "broken.png",
    ] {
        let files = left_out["files"].as_array().unwrap();
        let named = |one: &Value| one["file"].as_str().unwrap().ends_with(name);
        assert!(files.iter().any(named), "{name}: {left_out}");
        assert!(said.contains(name), "{said}");
    }
    let kept = rows(&std::fs::read_to_string(output.join("pictures.jsonl")).unwrap());
    assert_eq!(kept.len(), 9, "a row each generated picture");
    let black = kept.iter().find(|row| row["left_out"] == "black").unwrap();
    assert!(black.get("clip_i").is_none(), "{black}");
}

#[test]
fn a_folder_of_which_nothing_counts_fails_with_the_reasons() {
    let studio = Studio::new();
    let dino = golden("dino");
    for at in 0..5 {
        let file = studio.path(&format!("generated/{at}.png"));
        write_png(file, &Photo::filled(40, 36, [0; 3]), &[]).unwrap();
    }
    let said = studio.fail(1, &["--dino", text(&dino)]);
    assert!(
        said.contains("no picture") && said.contains("5 black"),
        "{said}"
    );
    std::fs::remove_dir_all(studio.path("generated")).unwrap();
    std::fs::create_dir(studio.path("generated")).unwrap();
    let said = studio.fail(1, &["--dino", text(&dino)]);
    assert!(said.contains("generated"), "{said}");
}

#[test]
fn prompts_come_from_a_list_the_picture_a_text_or_the_command_line() {
    let studio = Studio::new();
    let clip = golden("clip");
    let by_clip = ["--clip", text(&clip)];
    // Without a word of their own, two pictures of five have no prompt.
    let folder = studio.path("generated");
    for at in [3, 4] {
        let file = folder.join(format!("{at}.png"));
        write_png(&file, &read(&file).unwrap(), &[]).unwrap();
    }
    std::fs::remove_file(folder.join("4.txt")).unwrap();
    let (summary, said) = studio.json(&by_clip);
    assert_eq!(summary["without_prompt"], 2);
    assert_eq!(summary["scores"]["clip_t"]["n"], 3);
    assert_eq!(summary["scores"]["clip_i"]["n"], 5);
    assert!(said.contains("2 pictures have no prompt"), "{said}");
    let whole = &expected()["scores"]["clip_t"];
    let (summary, _) = studio.json(&[&by_clip[..], &["--prompt", "dog on a cat"]].concat());
    close("--prompt", &summary["scores"]["clip_t"], whole);
    let row = |at: usize, prompt: &str| {
        json!({"file_name": format!("{at}.png"), "text": prompt}).to_string()
    };
    let list = [row(3, "dog on a cat"), row(4, "dog on a cat")].join("\n");
    std::fs::write(folder.join("metadata.jsonl"), &list).unwrap();
    let (summary, _) = studio.json(&by_clip);
    close("metadata.jsonl", &summary["scores"]["clip_t"], whole);
    // A list that is named stands above what pictures say.
    let named = studio.path("prompts.jsonl");
    std::fs::write(&named, row(0, "dog on a cat")).unwrap();
    let listed = [&by_clip[..], &["--prompts", text(&named)]].concat();
    let (summary, _) = studio.json(&listed);
    assert_eq!(
        summary["subjects"][0]["prompts"][0]["prompt"],
        "dog on a cat"
    );
    assert_eq!(summary["subjects"][0]["prompts"][0]["pictures"], 3);
    std::fs::write(&named, format!("{}\n{}", row(0, "a"), row(0, "b"))).unwrap();
    let said = studio.fail(1, &listed);
    assert!(
        said.contains("line 2") && said.contains("another prompt"),
        "{said}"
    );
    std::fs::write(&named, "{\"file_name\": 3}").unwrap();
    assert!(studio.fail(1, &listed).contains("line 1"));
}

#[test]
fn a_word_for_the_subject_is_left_out_of_prompts() {
    let studio = Studio::new();
    let clip = golden("clip");
    let list = studio.path("prompts.jsonl");
    let row = |at: usize, prompt: &str| {
        json!({"file": format!("{at}.png"), "prompt": prompt}).to_string()
    };
    let strange = [
        row(0, "a sks red dog"),
        row(1, "a sks red dog"),
        row(2, "a sks red dog"),
    ];
    std::fs::write(&list, strange.join("\n")).unwrap();
    let more = ["--clip", text(&clip), "--prompts", text(&list)];
    let whole = &expected()["scores"]["clip_t"];
    let (with, _) = studio.json(&more);
    assert_ne!(with["scores"]["clip_t"]["mean"], whole["mean"]);
    let (without, _) = studio.json(&[&more[..], &["--identifier", "sks"]].concat());
    close("clip_t", &without["scores"]["clip_t"], whole);
    assert_eq!(
        without["subjects"][0]["prompts"][0]["prompt"],
        "a sks red dog"
    );
}

#[test]
fn subjects_in_folders_are_averaged_and_one_without_photographs_is_named() {
    let (studio, models) = (Studio::new(), models());
    for kind in ["generated", "real"] {
        std::fs::remove_dir_all(studio.path(kind)).unwrap();
        studio.copy(kind, &format!("{kind}/dog"));
        studio.copy(kind, &format!("{kind}/cat"));
    }
    for at in 0..3 {
        std::fs::remove_file(studio.path(&format!("generated/cat/{at}.png"))).unwrap();
    }
    let (summary, _) = studio.json(&words(&models));
    let expected = expected();
    let [cat, dog] = [0, 1].map(|at| &summary["subjects"][at]);
    assert_eq!(
        (&cat["subject"], &dog["subject"]),
        (&json!("cat"), &json!("dog"))
    );
    close("dog", &dog["scores"], &expected["scores"]);
    let last_two = expected["pictures"].as_array().unwrap()[3..].iter();
    let of_cat = last_two
        .map(|one| one["clip_i"].as_f64().unwrap())
        .sum::<f64>()
        / 2.0;
    let of_dog = expected["scores"]["clip_i"]["mean"].as_f64().unwrap();
    let mean = &summary["scores"]["clip_i"];
    close("mean", &mean["mean"], &json!(f64::midpoint(of_cat, of_dog)));
    close(
        "error",
        &mean["standard_error"],
        &json!((of_cat - of_dog).abs() / 2.0),
    );
    assert_eq!(mean["n"], 2);
    // One pair has a distance and no error.
    assert_eq!(cat["scores"]["lpips"]["pairs"], 1);
    assert_eq!(cat["scores"]["lpips"]["standard_error"], Value::Null);
    let (table, _) = studio.eval(&words(&models));
    assert!(
        table.contains("mean of subjects") && table.contains("cat: dog on a cat"),
        "{table}"
    );

    std::fs::remove_dir_all(studio.path("real/cat")).unwrap();
    let said = studio.fail(1, &words(&models));
    assert!(said.contains("`cat`") && said.contains("real"), "{said}");
    std::fs::rename(studio.path("generated/cat"), studio.path("real/bird")).unwrap();
    let said = studio.fail(1, &words(&models));
    assert!(
        said.contains("`bird`") && said.contains("generated"),
        "{said}"
    );
}

#[test]
fn copies_are_said_and_pictures_in_folders_within_count() {
    let studio = Studio::new();
    let dino = golden("dino");
    std::fs::create_dir(studio.path("generated/more")).unwrap();
    std::fs::copy(
        studio.path("generated/0.png"),
        studio.path("generated/more/0.png"),
    )
    .unwrap();
    std::fs::copy(studio.path("real/1.png"), studio.path("generated/real.png")).unwrap();
    let (summary, said) = studio.json(&["--dino", text(&dino)]);
    assert_eq!(summary["pictures"], 7);
    assert_eq!(
        summary["subjects"][0]["duplicates"]
            .as_array()
            .unwrap()
            .len(),
        2
    );
    assert!(said.contains("copies of others"), "{said}");
}

#[test]
fn wrong_models_and_small_pictures_are_named() {
    let studio = Studio::new();
    let (clip, lpips, missing) = (golden("clip"), golden("lpips_alex"), studio.path("missing"));
    for (option, directory) in [("--clip", &missing), ("--dino", &clip), ("--lpips", &clip)] {
        let said = studio.fail(1, &[option, text(directory)]);
        assert!(
            said.contains(option) && said.contains(text(directory)),
            "{said}"
        );
    }
    let said = studio.fail(1, &["--lpips", text(&lpips), "--lpips-size", "16"]);
    assert!(
        said.contains("16 × 16") && said.contains("--lpips-size"),
        "{said}"
    );
    // A model directory without its tokenizer.
    std::fs::create_dir(&missing).unwrap();
    for file in ["config.json", "model.safetensors"] {
        std::fs::copy(clip.join(file), missing.join(file)).unwrap();
    }
    let said = studio.fail(1, &["--clip", text(&missing)]);
    assert!(
        said.contains("tokenizer") && said.contains("missing"),
        "{said}"
    );
}

#[test]
fn options_of_other_tasks_are_refused_by_name() {
    let studio = Studio::new();
    let dino = golden("dino");
    let by_dino = ["--dino", text(&dino)];
    for (option, value) in [
        ("--model", "x"),
        ("--few-shot", "0"),
        ("--limit", "0"),
        ("--kind", "text"),
        ("--classes", "3"),
    ] {
        let more = [&by_dino[..], &[option, value]].concat();
        let said = studio.fail(2, &more);
        assert!(said.contains(option), "{said}");
    }
    let said = fail(
        2,
        &[
            "eval", "--task", "gsm8k", "--model", "x", "--data", "y", "--output", "z", "--clip",
            "c",
        ],
    );
    assert!(
        said.contains("--clip") && said.contains("subject"),
        "{said}"
    );
    let said = fail(
        2,
        &[
            "eval",
            "--task",
            "subject",
            "--generated",
            "x",
            "--dino",
            text(&dino),
        ],
    );
    assert!(said.contains("--real"), "{said}");
}

#[test]
fn a_prompt_of_any_length_fits_the_table() {
    let studio = Studio::new();
    let clip = golden("clip");
    let prompt = "x".repeat(80_000);
    let row = |at: usize| json!({"file_name": format!("{at}.png"), "text": prompt}).to_string();
    let list = studio.path("prompts.jsonl");
    std::fs::write(&list, [row(0), row(1)].join("\n")).unwrap();
    let (out, _) = studio.eval(&["--clip", text(&clip), "--prompts", text(&list)]);
    let longest = out.lines().map(|line| line.chars().count()).max();
    assert!(longest.is_some_and(|length| length < 200), "{longest:?}");
    assert!(out.contains("xxx…"), "{out}");
}
