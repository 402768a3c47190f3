//! Runs that are killed, stopped, or resumed with something else.

use std::io::Write;
use std::process::Child;

use super::server::{Act, Server};
use super::support::{Bench, Ran, Run, wait_until};

fn slow() -> Server {
    Server::start(|_, _| Act::Slow(15))
}

/// Waits until so many generations are on record.
fn wait_for_lines(run: &Run, count: usize) {
    wait_until("generations", || {
        let text = std::fs::read_to_string(run.dir.join("provenance.jsonl")).unwrap_or_default();
        text.matches('\n').count() >= count
    });
}

#[test]
fn a_killed_run_goes_on_at_the_row_where_it_was() {
    let (bench, server) = (Bench::new(8), slow());
    let whole = bench.run("whole", &server.url);
    whole.output().ok();
    let all = server.seen().len();
    let run = bench.run("killed", &server.url);
    let mut kills = 0;
    for lines in [5, 17, 30, 41] {
        let started = if kills == 0 {
            run.clone()
        } else {
            run.clone().with("--resume")
        };
        let mut child: Child = started.start();
        wait_for_lines(&run, lines);
        child.kill().unwrap();
        child.wait().unwrap();
        kills += 1;
        // As if the process had died while it wrote.
        let mut file = std::fs::File::options()
            .append(true)
            .open(run.dir.join("provenance.jsonl"))
            .unwrap();
        file.write_all(b"{\"row\":3,\"kind\":\"fobar\",\"repl")
            .unwrap();
    }
    let stderr = run.clone().with("--resume").output().ok().stderr();
    assert!(stderr.contains("torn"), "{stderr}");
    assert_eq!(run.file("data.json"), whole.file("data.json"));
    assert_eq!(run.file("provenance.jsonl"), whole.file("provenance.jsonl"));
    let asked = server.seen().len() - all;
    let lost = asked - all;
    assert!(
        lost <= kills * 4,
        "{lost} requests were made twice, with 4 under way at {kills} kills"
    );
}

#[cfg(unix)]
#[test]
fn a_signal_ends_a_run_with_everything_saved() {
    let (bench, server) = (Bench::new(8), slow());
    let run = bench.run("stopped", &server.url);
    let child = run.start();
    wait_for_lines(&run, 6);
    let kill = std::process::Command::new("kill")
        .args(["-INT", &child.id().to_string()])
        .status();
    assert!(kill.unwrap().success());
    let ran = Ran(child.wait_with_output().unwrap());
    let ran = ran.fails(130, &["stopped by signal 2", "--resume"]);
    assert!(ran.stdout().contains("not come to"), "{}", ran.stdout());
    let saved = run.lines("provenance.jsonl").len();
    assert_eq!(
        saved,
        server.seen().len(),
        "requests under way were waited for"
    );
    run.clone().with("--resume").output().ok();
    assert_eq!(run.rows().len(), 48);
    assert_eq!(server.seen().len(), 8 * 9);
}

#[test]
fn a_run_is_not_begun_twice_nor_resumed_with_another_recipe() {
    let (bench, server) = (Bench::new(2), Server::good());
    let run = bench.run("once", &server.url);
    run.clone()
        .with("--resume")
        .output()
        .fails(1, &["no run to resume"]);
    run.output().ok();
    run.output().fails(1, &["not empty", "--resume"]);
    let other = run
        .clone()
        .set("text_model.temperature=0.2")
        .set("seed=1")
        .with("--resume");
    other.output().fails(
        2,
        &["`seed`, `text_model.temperature`", "another `run.dir`"],
    );
    let text = std::fs::read_to_string(bench.path("questions.jsonl")).unwrap();
    std::fs::write(
        bench.path("questions.jsonl"),
        text.replace("red pens", "old pens"),
    )
    .unwrap();
    run.clone()
        .with("--resume")
        .output()
        .fails(1, &["row 0 of the questions", "provenance.jsonl"]);
    let asked = server.seen().len();
    run.set("run.overwrite=true").output().ok();
    assert_eq!(server.seen().len(), 2 * asked);
}

#[test]
fn a_masked_question_set_goes_on_with_a_writer() {
    let (bench, server) = (Bench::new(2), slow());
    let run = bench.run("masked", &server.url);
    run.clone().set("text_model.kind=none").output().ok();
    run.clone().with("--resume").output().ok();
    assert_eq!(run.summary()["finished"], true);
    assert!(!run.lines("provenance.jsonl").is_empty());
}
