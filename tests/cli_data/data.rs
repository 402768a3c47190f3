//! `temper data`: previews and generated problems.

use std::fs;

use serde_json::Value;
use temper_datasets::images::{Photo, write_png};

use super::support::{fails, ok, rows, text_of};

/// Previews GSM8K rows without leaving a cache in the repository.
fn preview(more: &[&str]) -> String {
    let mut arguments = vec![
        "data",
        "preview",
        "recipes/quickstart.toml",
        "--set",
        "data.cache=false",
    ];
    arguments.extend(["--set", "data.limit=20", "--set", "data.eval.limit=5"]);
    arguments.extend(more);
    ok(&arguments)
}

#[test]
fn only_the_response_is_marked_as_trained() {
    let text = preview(&["--rows", "2"]);
    assert_eq!(text.matches('«').count(), 2);
    for row in text.split("--- row").skip(1) {
        let (prompt, rest) = row.split_once('«').unwrap();
        let (response, _) = rest.split_once('»').unwrap();
        assert!(
            prompt.ends_with("### Response:") && prompt.contains("### Instruction:"),
            "{prompt}"
        );
        assert!(
            response.contains("The answer is: ") && response.ends_with("</s>"),
            "{response}"
        );
        assert!(
            !response.contains("### Instruction") && !response.contains("Below is"),
            "the prompt is not trained: {response}"
        );
    }
    assert!(!text.contains('\u{1b}'), "no colours in a pipe");
    let all = preview(&["--rows", "1", "--set", "data.loss_on=all"]);
    assert!(all.contains("<s>« Below is"), "{all}");
}

#[test]
fn the_preview_counts_all_rows() {
    let text = preview(&["--rows", "0"]);
    assert!(
        text.starts_with("training rows\n  rows 20, kept "),
        "{text}"
    );
    assert!(
        text.contains("held-out rows\n  rows 5, kept ")
            && text.contains("line 8 (567 tokens): dropped"),
        "{text}"
    );
    assert!(!text.contains("--- row"), "{text}");
}

#[test]
fn rows_of_ids_are_shown_without_a_tokenizer() {
    let dir = tempfile::tempdir().unwrap();
    let (data, recipe) = (dir.path().join("ids.jsonl"), dir.path().join("ids.toml"));
    fs::write(&data, "{\"input_ids\": [7, 8, 9]}\n").unwrap();
    let text = format!(
        "[model]\npath = \"tests/golden/llama/mha/model\"\n[data]\nkind = \"tokens\"\npath = \"{}\"\ncache = false\n\
         [train]\nsteps = 1\nbatch_size = 1\nlr = 1e-3\n",
        data.display()
    );
    fs::write(&recipe, text).unwrap();
    assert!(ok(&["data", "preview", text_of(&recipe)]).contains("\n7 «8» «9»\n"));
}

#[test]
fn a_recipe_on_images_shows_its_pictures_and_what_becomes_of_them() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    fs::create_dir_all(at("photos")).unwrap();
    fs::create_dir_all(at("masks")).unwrap();
    fs::create_dir_all(at("class")).unwrap();
    for (name, width, height) in [("a", 40, 24), ("b", 64, 64), ("c", 80, 48)] {
        let file = format!("{name}.png");
        let photo = Photo::filled(width, height, [200; 3]);
        write_png(at("photos").join(&file), &photo, &[]).unwrap();
        write_png(at("masks").join(&file), &photo, &[]).unwrap();
        fs::write(
            at("photos").join(format!("{name}.txt")),
            format!("a {} dog", name.repeat(90)),
        )
        .unwrap();
    }
    write_png(at("class/1.png"), &Photo::filled(32, 32, [9; 3]), &[]).unwrap();
    let recipe = format!(
        "[model]\npath = \"assets/tiny-diffusion\"\n[images]\npath = {:?}\nresolution = 32\nbuckets = true\n\
         bucket_step = 8\nflip = true\nmasks = \"folder\"\nmask_dir = {:?}\nclass_dir = {:?}\n\
         class_prompt = \"a photo of dog\"\nnum_class_images = 4\n[train]\nsteps = 1\nbatch_size = 2\n",
        at("photos"),
        at("masks"),
        at("class")
    );
    fs::write(at("r.toml"), recipe).unwrap();
    let text = ok(&["data", "preview", text_of(&at("r.toml"))]);
    let row = |name: &str| {
        let line = text.lines().find(|line| line.starts_with(name)).unwrap();
        line.split_whitespace().collect::<Vec<_>>().join(" ")
    };
    assert!(
        row("b.png").starts_with("b.png 64 × 64 32 × 32 32 × 32 yes a bbb"),
        "{text}"
    );
    assert!(
        row("c.png").starts_with("c.png 80 × 48 40 × 24 40 × 24 yes a ccc"),
        "{text}"
    );
    assert!(
        row("a.png").ends_with('…') && !text.contains(&"a".repeat(70)),
        "{text}"
    );
    for part in [
        "crop: the middle   mirrored: half of them",
        "an epoch: 1 of 32 × 32, 2 of 40 × 24",
        "steps of an epoch: 2, images of a step: up to 2",
        "images of the class: 1 in",
        "3 will be made: a photo of dog",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    let one = ok(&["data", "preview", text_of(&at("r.toml")), "--rows", "1"]);
    assert!(
        one.contains("… and 2 more") && !one.contains("b.png"),
        "{one}"
    );
}

#[test]
fn broken_data_is_named_in_a_preview() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("rows.jsonl");
    fs::write(
        &data,
        "{\"question\": \"1+1?\", \"answer\": \"2\\n#### 2\"}\n{\"question\": 3}\n",
    )
    .unwrap();
    let path = format!("data.path={}", data.display());
    let message = fails(
        &[
            "data",
            "preview",
            "recipes/quickstart.toml",
            "--set",
            "data.cache=false",
            "--set",
            &path,
        ],
        1,
    );
    assert!(message.contains("rows.jsonl` line 2"), "{message}");
}

/// `temper data generate arithmetic` with these arguments.
fn arithmetic(more: &[&str]) -> Vec<Value> {
    rows(&ok(&[&["data", "generate", "arithmetic"], more].concat()))
}

#[test]
fn word_problems_are_written_in_the_shapes_of_their_models() {
    let plain = arithmetic(&["--problems", "5", "--steps", "2"]);
    assert_eq!(plain.len(), 5);
    assert!(plain.iter().all(|row| row["steps"] == 2));
    let sets = "original,ans-aug,rephrased,sv,fobar";
    let augmented = arithmetic(&["--problems", "5", "--sets", sets, "--format", "metamathqa"]);
    let kinds: std::collections::BTreeSet<&str> = augmented
        .iter()
        .filter_map(|row| row["type"].as_str())
        .collect();
    assert_eq!(kinds.len(), 5, "{kinds:?}");
    for row in &augmented {
        let response = row["response"].as_str().unwrap();
        assert!(response.contains("\nThe answer is: "), "{response}");
    }
    let backward = [
        "--split",
        "test",
        "--sets",
        "sv,fobar",
        "--format",
        "gsm8k-backward",
        "--rows",
        "20",
    ];
    let backward = arithmetic(&backward);
    assert_eq!(backward.len(), 20);
    let number = |row: &Value| {
        row["answer"]
            .as_str()
            .and_then(|text| text.parse::<u32>().ok())
    };
    assert!(backward.iter().all(|row| number(row).is_some()));
}

#[test]
fn word_problems_go_to_a_file_whole_or_not_at_all() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("rows.jsonl");
    ok(&["data", "generate", "arithmetic", "--output", text_of(&file)]);
    assert_eq!(rows(&fs::read_to_string(&file).unwrap()).len(), 1000);
    let refused = ["data", "generate", "arithmetic", "--steps", "9", "--output"];
    let message = fails(&[&refused[..], &[text_of(&file)]].concat(), 2);
    assert!(message.contains("`steps`"), "{message}");
    assert_eq!(rows(&fs::read_to_string(&file).unwrap()).len(), 1000);
}
