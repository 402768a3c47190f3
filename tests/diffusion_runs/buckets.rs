//! Photographs of several shapes: batches of one size each, and each of them what its pictures give alone.

use temper_datasets::images::{Photo, write_png};

use super::replay::{Replay, Seen, noise_photo, only_match};
use super::support::{Bench, ROOT};

const PROMPT: &str = "a photo of sks dog";
/// Sizes of buckets at 32 pixels in steps of 8, so that nothing is scaled.
const SIZES: [(usize, usize); 6] = [(40, 24), (32, 32), (40, 24), (24, 40), (32, 32), (40, 24)];

/// Batches that a size can fill: two pictures in either order, or the one that is left.
fn batches(photos: &[Photo]) -> Vec<Vec<usize>> {
    let size = |at: usize| (photos[at].width, photos[at].height);
    let all = || 0..photos.len();
    let partner =
        |first: usize| all().filter(move |second| first != *second && size(first) == size(*second));
    let pairs = all().flat_map(|first| partner(first).map(move |second| vec![first, second]));
    pairs.chain(all().map(|one| vec![one])).collect()
}

#[test]
fn each_batch_has_one_size_and_the_loss_of_its_pictures_alone_and_every_picture_is_seen() {
    let bench = Bench::new();
    let folder = bench.path("photos");
    std::fs::create_dir(&folder).unwrap();
    let photos: Vec<Photo> = (0..)
        .zip(SIZES)
        .map(|(number, (width, height))| noise_photo(number, width, height))
        .collect();
    for (number, photo) in photos.iter().enumerate() {
        write_png(folder.join(format!("{number}.png")), photo, &[]).unwrap();
    }
    let run = bench.run(
        "run",
        &format!(
            "device = \"cpu\"\nseed = 5\n[model]\npath = \"assets/tiny-diffusion\"\n[adapter]\nkind = \"oft\"\noft_block_size = 8\n\
             [images]\npath = {folder:?}\ninstance_prompt = {PROMPT:?}\nresolution = 32\nbuckets = true\nbucket_step = 8\n\
             [train]\nepochs = 2\nbatch_size = 2\nlr = 1e-12\n[validation]\nimages = 0\n[sample]\ncount = 0\n"
        ),
    );
    run.succeed(&["--quiet"]);
    let replay = Replay::new(&std::path::Path::new(ROOT).join("assets/tiny-diffusion"), 5);
    let losses = run.losses();
    assert_eq!(losses.len(), 8);
    let mut seen = Vec::new();
    for (step, loss) in losses.into_iter().enumerate() {
        let error = |row: usize, picture: usize| {
            let picture = Seen::new(&photos[picture], PROMPT);
            replay.error(step as u64, row as u64, picture)
        };
        let errors: Vec<[f64; 2]> = (0..photos.len())
            .map(|picture| [error(0, picture), error(1, picture)])
            .collect();
        let candidates = batches(&photos).into_iter().map(|batch| {
            let rows = batch.iter().enumerate();
            let sum: f64 = rows.map(|(row, picture)| errors[*picture][row]).sum();
            let mean = sum / batch.len() as f64;
            (batch, mean)
        });
        seen.push(only_match(
            &format!("step {step}"),
            loss,
            candidates.collect(),
        ));
    }
    // Two batches of the wide pictures, one each of the others: an epoch has four steps.
    for epoch in seen.chunks(4) {
        let mut pictures = epoch.concat();
        pictures.sort_unstable();
        assert_eq!(pictures, [0, 1, 2, 3, 4, 5], "{seen:?}");
    }
    assert_eq!(run.summary()["images"], 12);
}
