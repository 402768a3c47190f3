use super::*;

fn render(kind: Kind, instruction: &str, input: Option<&str>) -> Rendered {
    let row = Row::Pair {
        instruction: instruction.into(),
        input: input.map(Into::into),
        response: "R".into(),
    };
    Renderer(kind).render(&row).unwrap()
}

const OFFICIAL: Kind = Kind::Instruction { split_query: true };
const WHOLE: Kind = Kind::Instruction { split_query: false };

#[test]
fn a_query_of_one_line_uses_the_prompt_without_input() {
    let rendered = render(OFFICIAL, "What is {1} + 1?", None);
    assert_eq!(
        rendered.prompt,
        "Below is an instruction that describes a task. Write a response that appropriately completes \
         the request.\n\n### Instruction:\nWhat is {1} + 1?\n\n### Response:"
    );
    assert_eq!(rendered.response, "R");
}

#[test]
fn the_lines_after_the_first_are_the_input() {
    assert_eq!(
        render(OFFICIAL, "A\nB\nC", None).prompt,
        "Below is an instruction that describes a task, paired with an input that provides further \
         context. Write a response that appropriately completes the request.\n\n### Instruction:\nA\n\n\
         ### Input:\nB\nC\n\n### Response:"
    );
    let blank = render(OFFICIAL, "A\n\nB", None).prompt;
    assert!(
        blank.contains("### Instruction:\nA\n\n### Input:\n\nB\n\n### Response:"),
        "{blank}"
    );
}

#[test]
fn a_trailing_line_end_gives_no_input() {
    let prompt = render(OFFICIAL, "A\n", None).prompt;
    assert!(
        prompt.ends_with("### Instruction:\nA\n\n### Response:"),
        "{prompt}"
    );
    assert!(prompt.starts_with("Below is an instruction that describes a task. "));
}

#[test]
fn with_a_single_field_the_query_stays_whole() {
    let prompt = render(WHOLE, "A\nB", None).prompt;
    assert!(
        prompt.ends_with("### Instruction:\nA\nB\n\n### Response:"),
        "{prompt}"
    );
}

#[test]
fn fields_of_the_file_are_used_as_they_are() {
    let prompt = render(OFFICIAL, "A\nB", Some("")).prompt;
    assert!(
        prompt.ends_with("### Instruction:\nA\nB\n\n### Response:"),
        "{prompt}"
    );
    let prompt = render(WHOLE, "A", Some("C")).prompt;
    assert!(
        prompt.ends_with("### Instruction:\nA\n\n### Input:\nC\n\n### Response:"),
        "{prompt}"
    );
}

#[test]
fn a_raw_row_has_no_words_of_its_own() {
    assert_eq!(render(Kind::Raw, "A", None).prompt, "A");
    assert_eq!(render(Kind::Raw, "A", Some("B")).prompt, "A\nB");
    let text = Renderer(Kind::Raw).render(&Row::Text("T".into())).unwrap();
    assert_eq!(
        text,
        Rendered {
            prompt: String::new(),
            response: "T".into()
        }
    );
}

#[test]
fn a_conversation_needs_a_chat_template() {
    let row = Row::Chat(vec![
        Message::new("user", "a"),
        Message::new("assistant", "b"),
    ]);
    let error = Renderer(OFFICIAL).render(&row).unwrap_err();
    assert!(error.to_string().contains("template `chat`"), "{error}");
}
