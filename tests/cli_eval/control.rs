//! `temper eval --task control`: edges and labels of pictures, counted by hand.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use temper_datasets::images::{Photo, canny, write_png};

use super::support::{fail, rows, succeed, text};

/// A white box on black with this left side: 24 × 20 pixels.
fn boxed(left: usize) -> Photo {
    let mut photo = Photo::filled(24, 20, [10; 3]);
    for y in 6..14 {
        for x in left..left + 9 {
            photo.rgb[(y * 24 + x) * 3..][..3].fill(250);
        }
    }
    photo
}

fn edges(photo: &Photo) -> Vec<u8> {
    let edges = canny(photo, 100.0, 200.0).unwrap();
    assert!(edges.iter().filter(|edge| **edge > 0).count() > 15);
    edges
}

struct Studio(tempfile::TempDir);

impl Studio {
    fn new() -> Self {
        let studio = Self(tempfile::tempdir().unwrap());
        for folder in ["generated", "control", "labels", "predicted"] {
            std::fs::create_dir(studio.path(folder)).unwrap();
        }
        studio
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn picture(&self, name: &str, photo: &Photo) {
        write_png(self.path(name), photo, &[]).unwrap();
    }

    fn map(&self, name: &str, photo: &Photo, grey: &[u8]) {
        let map = Photo::from_grey(photo.width, photo.height, grey).unwrap();
        self.picture(name, &map);
    }

    /// A grey PNG of two rows.
    fn labels(&self, name: &str, labels: &[u8]) {
        let file = std::fs::File::create(self.path(name)).unwrap();
        let mut encoder = png::Encoder::new(file, labels.len() as u32 / 2, 2);
        encoder.set_color(png::ColorType::Grayscale);
        let mut writer = encoder.write_header().unwrap();
        writer.write_image_data(labels).unwrap();
    }

    fn edge_arguments(&self) -> Vec<String> {
        let (generated, control) = (self.path("generated"), self.path("control"));
        let words = ["--generated", text(&generated), "--control", text(&control)];
        words.map(str::to_owned).to_vec()
    }

    fn label_arguments(&self) -> Vec<String> {
        let (labels, predicted) = (self.path("labels"), self.path("predicted"));
        let words = [
            "--labels",
            text(&labels),
            "--predicted",
            text(&predicted),
            "--classes",
            "3",
        ];
        words.map(str::to_owned).to_vec()
    }
}

fn arguments(given: &[String], more: &[&str]) -> Vec<String> {
    let fixed = ["eval", "--task", "control"].map(str::to_owned);
    let more = more.iter().map(|&word| word.to_owned());
    fixed
        .into_iter()
        .chain(given.iter().cloned())
        .chain(more)
        .collect()
}

fn eval(given: &[String], more: &[&str]) -> (Value, String) {
    let (out, said) = succeed(&arguments(given, &[more, &["--json"]].concat()));
    (serde_json::from_str(&out).unwrap(), said)
}

fn refuse(code: i32, given: &[String], more: &[&str]) -> String {
    fail(code, &arguments(given, more))
}

/// Both, the first's, the second's edges.
fn count(found: &[u8], wanted: &[u8]) -> [f64; 3] {
    let pairs = found.iter().zip(wanted).filter(|(a, b)| **a > 0 && **b > 0);
    let some = |map: &[u8]| map.iter().filter(|edge| **edge > 0).count() as f64;
    [pairs.count() as f64, some(found), some(wanted)]
}

fn near(ours: &Value, theirs: f64) {
    assert!(
        (ours.as_f64().unwrap() - theirs).abs() < 1e-12,
        "{ours}, not {theirs}"
    );
}

#[test]
fn edges_are_compared_with_the_map_of_the_same_name_by_picture_and_over_all_pixels() {
    let studio = Studio::new();
    let (obeys, strays) = (boxed(5), boxed(7));
    let wanted = edges(&obeys);
    studio.picture("generated/a.png", &obeys);
    studio.picture("generated/b.png", &strays);
    for name in ["control/a.png", "control/b.png", "control/unused.png"] {
        studio.map(name, &obeys, &wanted);
    }
    let output = studio.path("result");
    let (summary, _) = eval(&studio.edge_arguments(), &["--output", text(&output)]);
    let found = &summary["edges"];
    let [both, ours, theirs] = count(&edges(&strays), &wanted);
    assert!(both > 0.0 && both < ours);
    let iou = both / (ours + theirs - both);
    near(&found["iou"]["mean"], f64::midpoint(1.0, iou));
    near(&found["iou"]["standard_error"], (1.0 - iou) / 2.0);
    near(
        &found["f1"]["mean"],
        f64::midpoint(1.0, 2.0 * both / (ours + theirs)),
    );
    near(
        &found["l1"]["mean"],
        (ours + theirs - 2.0 * both) / 480.0 / 2.0,
    );
    let (all, shared) = (2.0 * theirs + ours, theirs + both);
    near(
        &found["pooled"]["iou"],
        shared / (theirs + ours + theirs - both),
    );
    near(&found["pooled"]["f1"], 2.0 * shared / (all + theirs));
    near(&found["pooled"]["l1"], (ours + theirs - 2.0 * both) / 960.0);
    assert_eq!(found["thresholds"], json!([100.0, 200.0]));
    assert_eq!(
        (&found["pictures"], &found["unused_maps"]),
        (&json!(2), &json!(1))
    );
    let kept = rows(&std::fs::read_to_string(output.join("pictures.jsonl")).unwrap());
    assert_eq!(kept.len(), 2);
    assert_eq!(
        (&kept[0]["iou"], &kept[0]["l1"]),
        (&json!(1.0), &json!(0.0))
    );
    near(&kept[1]["iou"], iou);
    // Thresholds that nothing reaches find no edge.
    let (summary, _) = eval(
        &studio.edge_arguments(),
        &["--low", "5000", "--high", "5000"],
    );
    assert_eq!(summary["edges"]["iou"]["mean"], 0.0);
    assert!(summary.get("labels").is_none());
}

#[test]
fn grey_maps_are_cut_at_the_middle_and_photographs_give_their_own_edges() {
    let studio = Studio::new();
    let photo = boxed(5);
    studio.picture("generated/a.png", &photo);
    let soft: Vec<u8> = edges(&photo)
        .iter()
        .map(|edge| 100 + edge / 5 * 2)
        .collect();
    studio.map("control/a.png", &photo, &soft);
    let (summary, said) = eval(&studio.edge_arguments(), &[]);
    assert_eq!(summary["edges"]["iou"]["mean"], 1.0);
    assert_eq!(summary["edges"]["grey_maps"], 1);
    assert_eq!(summary["edges"]["map_threshold"], 128);
    assert!(
        said.contains("not black and white") && said.contains("128"),
        "{said}"
    );
    studio.picture("control/a.png", &photo);
    let (summary, _) = eval(&studio.edge_arguments(), &["--photographs"]);
    assert_eq!(summary["edges"]["iou"]["mean"], 1.0);
}

#[test]
fn a_picture_drawn_after_a_control_picture_finds_its_map_by_that_name() {
    let studio = Studio::new();
    let photo = boxed(5);
    studio.map("control/house.png", &photo, &edges(&photo));
    let recipe = json!({"prompt": "a house", "control": {"image": "elsewhere/house.jpg"}});
    let text = ("temper".to_owned(), recipe.to_string());
    write_png(
        studio.path("generated/prompt00-seed0-0000.png"),
        &photo,
        &[text],
    )
    .unwrap();
    let (summary, _) = eval(&studio.edge_arguments(), &[]);
    assert_eq!(summary["edges"]["iou"]["mean"], 1.0);
}

#[test]
fn missing_maps_other_sizes_and_doubled_names_are_errors_by_name() {
    let studio = Studio::new();
    let photo = boxed(5);
    studio.picture("generated/a.png", &photo);
    studio.map("control/b.png", &photo, &edges(&photo));
    let said = refuse(1, &studio.edge_arguments(), &[]);
    assert!(
        said.contains("no map for") && said.contains("a.png"),
        "{said}"
    );
    let double =
        temper_datasets::images::resize(&photo, 48, 40, temper_datasets::images::Filter::Bilinear);
    std::fs::remove_file(studio.path("control/b.png")).unwrap();
    let large: Vec<u8> = (0..40 * 48)
        .map(|at| edges(&photo)[at / 96 * 24 + at % 48 / 2])
        .collect();
    studio.map("control/a.png", &double, &large);
    let said = refuse(1, &studio.edge_arguments(), &[]);
    assert!(
        said.contains("48 × 40") && said.contains("--resize"),
        "{said}"
    );
    let (summary, _) = eval(&studio.edge_arguments(), &["--resize"]);
    assert_eq!(summary["edges"]["iou"]["mean"], 1.0);
    std::fs::copy(studio.path("control/a.png"), studio.path("control/a.jpg")).unwrap();
    let said = refuse(1, &studio.edge_arguments(), &[]);
    assert!(
        said.contains("a.jpg") && said.contains("one name"),
        "{said}"
    );
}

#[test]
fn black_and_broken_pictures_are_left_out_and_broken_maps_are_errors() {
    let studio = Studio::new();
    let photo = boxed(5);
    for name in ["a", "b", "c"] {
        studio.map(&format!("control/{name}.png"), &photo, &edges(&photo));
    }
    studio.picture("generated/a.png", &photo);
    studio.picture("generated/b.png", &Photo::filled(24, 20, [0; 3]));
    std::fs::write(studio.path("generated/c.png"), b"\x89PNG\r\n\x1a\nno more").unwrap();
    let recipe = json!({"prompt": ["a", "b"]}).to_string();
    let sheet = ("temper".to_owned(), recipe);
    write_png(studio.path("generated/grid.png"), &photo, &[sheet]).unwrap();
    let (summary, said) = eval(&studio.edge_arguments(), &[]);
    let found = &summary["edges"];
    assert_eq!(found["left_out"]["sheets"], 1);
    assert_eq!(
        (&found["pictures"], &found["iou"]["mean"]),
        (&json!(1), &json!(1.0))
    );
    assert_eq!(
        (
            &found["left_out"]["black"],
            &found["left_out"]["unreadable"]
        ),
        (&json!(1), &json!(1))
    );
    assert!(said.contains("c.png"), "{said}");
    std::fs::write(studio.path("control/a.png"), "no map").unwrap();
    assert!(refuse(1, &studio.edge_arguments(), &[]).contains("control/a.png"));
}

#[test]
fn label_scores_are_those_counted_by_hand() {
    let studio = Studio::new();
    // Pairs of true and predicted: (0,0) three times, (0,1), (1,1) twice, (1,0); 9 does not count.
    studio.labels("labels/a.png", &[0, 0, 0, 0, 9, 9]);
    studio.labels("predicted/a.png", &[0, 0, 0, 1, 2, 0]);
    studio.labels("labels/b.png", &[1, 1, 1, 9]);
    studio.labels("predicted/b.png", &[1, 1, 0, 2]);
    let ignore = ["--ignore", "9"];
    let (summary, _) = eval(&studio.label_arguments(), &ignore);
    let found = &summary["labels"];
    near(&found["miou"], f64::midpoint(3.0 / 5.0, 2.0 / 4.0));
    near(&found["macc"], f64::midpoint(3.0 / 4.0, 2.0 / 3.0));
    near(&found["aacc"], 5.0 / 7.0);
    assert_eq!(found["iou"][2], Value::Null);
    assert!(summary.get("edges").is_none());
    // Without --ignore 9 is a label beyond the classes.
    let said = refuse(1, &studio.label_arguments(), &[]);
    assert!(
        said.contains("label 9") && said.contains("--ignore"),
        "{said}"
    );
    studio.labels("predicted/a.png", &[0, 0, 0, 1]);
    let said = refuse(1, &studio.label_arguments(), &ignore);
    assert!(said.contains("2 × 2") && said.contains("a.png"), "{said}");
    std::fs::rename(
        studio.path("predicted/a.png"),
        studio.path("predicted/c.png"),
    )
    .unwrap();
    let said = refuse(1, &studio.label_arguments(), &ignore);
    assert!(said.contains("c.png"), "{said}");
}

#[test]
fn label_maps_without_a_pixel_that_counts_have_no_score() {
    let studio = Studio::new();
    studio.labels("labels/a.png", &[9, 9, 9, 9]);
    studio.labels("predicted/a.png", &[0, 0, 1, 1]);
    let said = refuse(1, &studio.label_arguments(), &["--ignore", "9"]);
    assert!(
        said.contains("can be scored") && said.contains("ignored label 9"),
        "{said}"
    );
}

#[test]
fn incomplete_and_foreign_options_are_usage_errors() {
    let studio = Studio::new();
    let folder = studio.path("generated");
    let given = |words: &[&str]| {
        words
            .iter()
            .map(|word| (*word).to_owned())
            .collect::<Vec<_>>()
    };
    assert!(refuse(2, &[], &[]).contains("--control"));
    assert!(refuse(2, &given(&["--generated", text(&folder)]), &[]).contains("--control"));
    assert!(refuse(2, &given(&["--control", text(&folder)]), &[]).contains("--generated"));
    let said = refuse(2, &given(&["--labels", text(&folder)]), &[]);
    assert!(said.contains("--predicted"), "{said}");
    for wrong in [
        ["--dtype", "f32"],
        ["--device", "cpu"],
        ["--clip", "x"],
        ["--model", "x"],
    ] {
        let said = refuse(2, &studio.edge_arguments(), &wrong);
        assert!(said.contains(wrong[0]), "{said}");
    }
    let said = refuse(2, &studio.edge_arguments(), &["--low", "300"]);
    assert!(said.contains("--low 300"), "{said}");
    assert!(!Path::new("pictures.jsonl").exists());
}
