//! Keys and values kept between calls: what a sequence gets does not depend on its company.
#![expect(clippy::unwrap_used, reason = "a failed step is a failed test")]

use burn::tensor::{Device, FloatDType};
use temper_models::{KeyValueCache, Llama, ModelError, Segment};

fn model() -> Llama {
    let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/../assets/stories260k");
    Llama::load(directory.as_ref(), FloatDType::F32, &Device::flex()).unwrap()
}

fn read(model: &Llama, cache: &mut KeyValueCache, segments: &[(usize, &[u32])]) -> Vec<Vec<f32>> {
    let segments: Vec<Segment<'_>> = segments
        .iter()
        .map(|&(slot, ids)| Segment { slot, ids })
        .collect();
    let logits = model.read(&segments, cache).unwrap();
    let [_, vocabulary] = logits.dims();
    let values = logits.into_data().try_to_vec::<f32>().unwrap();
    values.chunks(vocabulary).map(<[f32]>::to_vec).collect()
}

const A: [u32; 9] = [1, 403, 407, 261, 378, 33, 17, 8, 96];
const B: [u32; 5] = [1, 44, 45, 300, 12];

#[test]
fn a_sequence_gets_the_same_bits_alone_in_company_and_in_pieces() {
    let model = model();
    let whole = read(&model, &mut model.cache(1, 16).unwrap(), &[(0, &A)]).remove(0);
    let mut cache = model.cache(3, 16).unwrap();
    read(&model, &mut cache, &[(2, &A[..4]), (0, &B)]);
    read(
        &model,
        &mut cache,
        &[(0, &[7]), (2, &A[4..6]), (1, &B[..3])],
    );
    read(&model, &mut cache, &[(1, &B[3..]), (0, &[9])]);
    let pieces = read(&model, &mut cache, &[(0, &[11]), (2, &A[6..])]);
    assert_eq!(pieces[1], whole);
    let full = model.logits(&A, [1, A.len()]).unwrap();
    let full = full.into_data().try_to_vec::<f32>().unwrap();
    for (cached, full) in whole.iter().zip(&full[8 * whole.len()..]) {
        assert!((cached - full).abs() < 1e-4, "{cached} {full}");
    }
}

#[test]
fn a_shared_beginning_gives_the_same_bits_as_reading_it_again() {
    let model = model();
    let mut cache = model.cache(2, 16).unwrap();
    let whole = read(&model, &mut cache, &[(0, &A)]).remove(0);
    cache.share(0, 1, 6);
    assert_eq!(read(&model, &mut cache, &[(1, &A[6..])]).remove(0), whole);
    cache.share(0, 0, 3);
    assert_eq!(cache.len(0), 3);
    assert_eq!(read(&model, &mut cache, &[(0, &A[3..])]).remove(0), whole);
    cache.truncate(1, 0);
    assert!(cache.is_empty(1));
}

#[test]
fn a_slot_that_is_full_says_so_and_keeps_what_it_has() {
    let model = model();
    let mut cache = model.cache(1, 8).unwrap();
    let segment = Segment { slot: 0, ids: &A };
    let error = model.read(&[segment], &mut cache).unwrap_err();
    assert!(
        matches!(
            error,
            ModelError::TooLong {
                tokens: 9,
                limit: 8,
                ..
            }
        ),
        "{error}"
    );
    assert!(cache.is_empty(0));
}
