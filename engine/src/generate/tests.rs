use std::path::Path;

use burn::tensor::{Device, FloatDType};

use super::*;

fn loaded() -> (Llama, Arc<Tokenizer>) {
    let directory = Path::new(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../assets/stories260k"
    ));
    let model = Llama::load(directory, FloatDType::F32, &Device::flex()).unwrap();
    (model, Arc::new(Tokenizer::load(directory).unwrap()))
}

fn prompts(tokenizer: &Tokenizer) -> Vec<Prompt> {
    let texts = [
        "Once upon a time",
        "Tom and Lily went to the park. They saw a big dog and",
        "The",
        "One day, a little girl named Mia found a red ball in her room. She was very happy and said",
        "Once upon a time there was a bird",
        "Ben had a toy car. He liked",
        "It was raining",
    ];
    (0..)
        .zip(texts)
        .map(|(row, text)| Prompt {
            row,
            ids: tokenizer.encode(text, true).unwrap(),
        })
        .collect()
}

fn texts(sampling: &Sampling, limits: Limits) -> Vec<(String, Vec<u32>)> {
    let (model, tokenizer) = loaded();
    let prompts = prompts(&tokenizer);
    let done = generate(
        &model,
        Some(&tokenizer),
        &prompts,
        sampling,
        limits,
        &mut |_, _| (),
    );
    done.unwrap()
        .into_iter()
        .map(|done| (done.text, done.ids))
        .collect()
}

fn limits(max_sequences: usize, order: Order) -> Limits {
    Limits {
        max_sequences,
        order,
        ..Limits::default()
    }
}

#[test]
fn every_sequence_gets_in_company_what_it_gets_alone() {
    for temperature in [0.0, 0.9] {
        let sampling = Sampling {
            temperature,
            max_new_tokens: 40,
            seed: 5,
            stop: vec!["happy".to_owned()],
            ..Sampling::default()
        };
        let alone = texts(&sampling, limits(1, Order::Arrival));
        assert_eq!(texts(&sampling, limits(3, Order::Arrival)), alone);
        assert_eq!(texts(&sampling, limits(7, Order::Longest)), alone);
    }
}

#[test]
fn pieces_join_to_the_text_and_a_stop_string_is_no_part_of_it() {
    let (model, tokenizer) = loaded();
    let prompts = prompts(&tokenizer);
    let sampling = Sampling {
        max_new_tokens: 60,
        stop: vec!["was a".to_owned()],
        ..Sampling::default()
    };
    let mut shown = vec![String::new(); prompts.len()];
    let mut show = |index: usize, text: &str| shown[index].push_str(text);
    let done = generate(
        &model,
        Some(&tokenizer),
        &prompts,
        &sampling,
        limits(4, Order::Arrival),
        &mut show,
    );
    let done = done.unwrap();
    for (done, shown) in done.iter().zip(&shown) {
        assert_eq!(&done.text, shown);
        assert!(!done.text.contains("was a"));
    }
    assert!(done.iter().any(|done| done.finish == Finish::Stop));
    assert!(
        done.iter()
            .any(|done| done.finish == Finish::Length && done.ids.len() == 60)
    );
}

/// Runs an engine to its end; what it did, and the texts by request.
fn run(engine: &mut Engine) -> HashMap<RequestId, Vec<u32>> {
    let mut done = HashMap::new();
    while !engine.is_idle() {
        for event in engine.step().unwrap() {
            if let Event::Done { id, completion } = event {
                done.insert(id, completion.ids);
            }
        }
    }
    done
}

#[test]
fn a_beginning_shared_by_many_prompts_is_read_once_and_changes_nothing() {
    let (model, tokenizer) = loaded();
    let shots = "Tom has a dog. The dog is big. Lily has a cat. The cat is small. ".repeat(4);
    let sampling = Sampling {
        max_new_tokens: 12,
        ..Sampling::default()
    };
    let requests: Vec<Request> = (0..6)
        .map(|row| {
            let text = format!(
                "{shots}{} has a",
                ["Ben", "Mia", "Sam", "Sue", "Tim", "Ann"][row as usize]
            );
            let ids = tokenizer.encode(&text, true).unwrap();
            Request {
                prompt: Prompt { row, ids },
                sampling: sampling.clone(),
            }
        })
        .collect();
    let prompt_tokens: u64 = requests
        .iter()
        .map(|request| request.prompt.ids.len() as u64)
        .sum();
    let prefix = tokenizer.encode(&shots, true).unwrap().len() as u64 - 1;
    let alone: Vec<Vec<u32>> = requests
        .iter()
        .map(|request| {
            let prompt = std::slice::from_ref(&request.prompt);
            let done = generate(
                &model,
                Some(&tokenizer),
                prompt,
                &sampling,
                limits(1, Order::Arrival),
                &mut |_, _| (),
            );
            done.unwrap().remove(0).ids
        })
        .collect();
    let mut engine = Engine::new(&model, Some(tokenizer), limits(3, Order::Arrival)).unwrap();
    let ids: Vec<RequestId> = requests
        .into_iter()
        .map(|request| engine.submit(request).unwrap())
        .collect();
    let done = run(&mut engine);
    assert!(ids.iter().zip(&alone).all(|(id, alone)| &done[id] == alone));
    let statistics = engine.statistics();
    assert_eq!(
        statistics.prompt_tokens + statistics.shared_tokens,
        prompt_tokens
    );
    assert!(
        statistics.shared_tokens >= 5 * (prefix - 2),
        "{statistics:?}, beginning of {prefix}"
    );
}

#[test]
fn a_cancelled_request_leaves_its_slot_to_the_next() {
    let (model, tokenizer) = loaded();
    let mut requests = prompts(&tokenizer).into_iter().map(|prompt| Request {
        prompt,
        sampling: Sampling {
            max_new_tokens: 20,
            ..Sampling::default()
        },
    });
    let mut engine = Engine::new(&model, Some(tokenizer), limits(1, Order::Arrival)).unwrap();
    let ids: Vec<RequestId> = requests
        .by_ref()
        .take(3)
        .map(|request| engine.submit(request).unwrap())
        .collect();
    engine.step().unwrap();
    assert_eq!((engine.running(), engine.waiting()), (1, 2));
    engine.cancel(ids[0]);
    engine.cancel(ids[1]);
    let done = run(&mut engine);
    assert_eq!(done.keys().copied().collect::<Vec<_>>(), [ids[2]]);
}

#[test]
fn a_memory_budget_bounds_how_many_run_and_one_too_small_is_refused() {
    let (model, tokenizer) = loaded();
    // stories260k: 5 blocks, 4 key/value heads of width 8, keys and values in f32.
    assert_eq!(model.cache_bytes_per_token(), 5 * 4 * 8 * 2 * 4);
    let with = |bytes: u64| Limits {
        cache_bytes: Some(bytes),
        max_length: Some(100),
        ..Limits::default()
    };
    let engine = Engine::new(&model, Some(Arc::clone(&tokenizer)), with(350_000)).unwrap();
    assert_eq!((engine.slots(), engine.max_length()), (2, 100));
    assert!(engine.cache_bytes() <= 350_000);
    let error = Engine::new(&model, Some(tokenizer), with(100_000)).unwrap_err();
    assert!(
        matches!(
            error,
            GenerateError::CacheTooSmall {
                needed: 128_000,
                tokens: 100,
                ..
            }
        ),
        "{error}"
    );
}

#[test]
fn prompts_that_cannot_run_are_named_by_their_row() {
    let (model, tokenizer) = loaded();
    let limits = Limits {
        max_length: Some(8),
        ..Limits::default()
    };
    let mut engine = Engine::new(&model, Some(tokenizer), limits).unwrap();
    let mut submit = |ids: Vec<u32>| {
        let prompt = Prompt { row: 7, ids };
        engine.submit(Request {
            prompt,
            sampling: Sampling::default(),
        })
    };
    assert!(matches!(
        submit(vec![]),
        Err(GenerateError::EmptyPrompt { row: 7 })
    ));
    assert!(matches!(
        submit(vec![1; 8]),
        Err(GenerateError::TooLong {
            row: 7,
            tokens: 8,
            limit: 8
        })
    ));
    assert!(matches!(
        submit(vec![1, 512]),
        Err(GenerateError::TokenId {
            row: 7,
            id: 512,
            vocabulary: 512
        })
    ));
    assert!(submit(vec![1; 7]).is_ok());
}
