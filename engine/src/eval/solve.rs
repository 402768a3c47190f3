//! Problems to graded completions.

use std::path::Path;
use std::sync::Arc;

use temper_datasets::Tokenizer;
use temper_datasets::grade::{Grade, Grades, grade};
use temper_datasets::problems::{Problem, Skipped, Task, read_problems};
use temper_models::Llama;

use super::config::{DataId, Generation, hash_texts};
use super::directory::OutputDir;
use super::prompts::{Prompter, stop_strings};
use super::report::{Report, render};
use super::summary::Summary;
use super::traces::{Ended, Trace, TraceFile};
use super::{EvalConfig, EvalError};
use crate::generate::{Completion, Prompt, Sampling, generate};
use crate::recipe::PromptStyle;
use crate::run::{Progress, RunError, hash_file};

/// What is asked, and how.
#[derive(Clone, Debug)]
pub(crate) struct Questions<'a> {
    pub(crate) task: Task,
    pub(crate) data: &'a Path,
    /// 0 for all.
    pub(crate) limit: usize,
    pub(crate) style: PromptStyle,
    pub(crate) few_shot: usize,
    pub(crate) suffix: &'a str,
    /// `None` for those of the style.
    pub(crate) stop: Option<&'a [String]>,
}

/// Problems with their prompts, ready for a model.
#[derive(Debug)]
pub(crate) struct Exam {
    pub(crate) task: Task,
    asks: Vec<Ask>,
    pub(crate) skipped: Vec<Skipped>,
    pub(crate) data: DataId,
    pub(crate) generation: Generation,
    sampling: Sampling,
    tokenizer: Arc<Tokenizer>,
}

/// A problem with its prompt.
#[derive(Clone, Debug)]
struct Ask {
    problem: Problem,
    prompt: String,
    ids: Vec<u32>,
}

/// How a model goes through an exam.
pub(crate) struct Sitting<'a> {
    /// Completions at a time.
    pub(crate) batch_size: usize,
    /// Where rows go.
    pub(crate) directory: &'a OutputDir,
    pub(crate) progress: Progress,
    /// Whether to leave the rest for later.
    pub(crate) stop: &'a dyn Fn() -> bool,
}

impl Exam {
    /// Reads the problems and makes their prompts. The stop strings of `sampling` are replaced by those of the questions.
    pub(crate) fn prepare(
        questions: &Questions<'_>,
        mut sampling: Sampling,
        tokenizer: Arc<Tokenizer>,
    ) -> Result<Self, EvalError> {
        let (task, style) = (questions.task, questions.style);
        sampling.stop = questions
            .stop
            .map_or_else(|| stop_strings(task, style), <[String]>::to_vec);
        sampling.check()?;
        let path = questions.data;
        let (mut problems, skipped) = read_problems(task, path)?;
        let first_skipped = skipped
            .first()
            .map(|row| format!("line {}: {}", row.line, row.reason));
        if problems.is_empty() {
            return Err(EvalError::NoProblems {
                path: path.to_path_buf(),
                task: task.to_string(),
                reason: first_skipped.unwrap_or_else(|| "the file is empty".to_owned()),
            });
        }
        if questions.limit > 0 {
            problems.truncate(questions.limit);
        }
        let prompter = Prompter::new(
            task,
            style,
            questions.few_shot,
            questions.suffix,
            &tokenizer,
        )?;
        let asks = asks(problems, &prompter, &tokenizer)?;
        let (_, sha256) = hash_file(path).map_err(|source| RunError::io("read", path, source))?;
        let data = DataId {
            sha256,
            limit: questions.limit as u64,
            problems: asks.len() as u64,
            skipped: skipped.len() as u64,
        };
        Ok(Self {
            task,
            generation: generation(questions, &sampling, &asks),
            asks,
            skipped,
            data,
            sampling,
            tokenizer,
        })
    }

    /// Solves the problems of the shard that are not solved yet. `None` when it was told to leave the rest for later.
    pub(crate) fn sit(
        &self,
        model: &Llama,
        config: &EvalConfig,
        mut sitting: Sitting<'_>,
    ) -> Result<Option<Summary>, EvalError> {
        let mut traces = TraceFile::open(&sitting.directory.traces())?;
        let mine: Vec<&Ask> = self
            .asks
            .iter()
            .enumerate()
            .filter(|(place, _)| config.shard.holds(*place))
            .map(|(_, ask)| ask)
            .collect();
        let mut open: Vec<&Ask> = mine
            .iter()
            .copied()
            .filter(|ask| !traces.has(ask.problem.index))
            .collect();
        // Prompts of like length fill a batch with the least padding.
        open.sort_by_key(|ask| std::cmp::Reverse(ask.ids.len()));
        let begun = mine.len() - open.len();
        sitting.progress = sitting.progress.starting_at(begun as u64);
        let mut right = traces.rows().filter(|row| is_right(row)).count();
        for batch in open.chunks(sitting.batch_size.max(1)) {
            if (sitting.stop)() {
                return Ok(None);
            }
            for trace in self.solve(model, batch)? {
                right += usize::from(is_right(&trace));
                traces.append(trace)?;
            }
            let done = traces.rows().count();
            let share = super::table::percent(right as f64 / done as f64);
            sitting
                .progress
                .update(done as u64, &format!("accuracy {share}"));
        }
        sitting.progress.finish();
        Ok(Some(complete(
            &traces.finish()?,
            config,
            sitting.directory,
        )?))
    }

    /// One batch of problems.
    fn solve(&self, model: &Llama, asks: &[&Ask]) -> Result<Vec<Trace>, EvalError> {
        let limit = model.config().max_position_embeddings;
        let (fitting, long): (Vec<&Ask>, Vec<&Ask>) =
            asks.iter().partition(|ask| ask.ids.len() < limit);
        let prompts: Vec<Prompt> = fitting
            .iter()
            .map(|ask| Prompt {
                row: ask.problem.index,
                ids: ask.ids.clone(),
            })
            .collect();
        let completions = generate(
            model,
            Some(&self.tokenizer),
            &prompts,
            &self.sampling,
            prompts.len(),
            &mut |_, _| (),
        )?;
        let mut traces: Vec<Trace> = fitting
            .into_iter()
            .zip(completions)
            .map(|(ask, completion)| self.trace(ask, Ok(completion)))
            .collect();
        traces.extend(long.into_iter().map(|ask| {
            let tokens = ask.ids.len();
            let reason =
                format!("the prompt has {tokens} tokens, and the model's context holds {limit}");
            self.trace(ask, Err(reason))
        }));
        Ok(traces)
    }

    fn trace(&self, ask: &Ask, completion: Result<Completion, String>) -> Trace {
        let problem = &ask.problem;
        let (text, tokens, finish, error) = match completion {
            Ok(Completion { text, ids, finish }) => (text, ids.len(), finish.into(), None),
            Err(reason) => (String::new(), 0, Ended::Error, Some(reason)),
        };
        Trace {
            index: problem.index,
            question: problem.question.clone(),
            level: problem.level.clone(),
            subject: problem.subject.clone(),
            prompt: ask.prompt.clone(),
            graders: verdict(self.task, &text, &problem.answer),
            completion: text,
            finish,
            answer: problem.answer.clone(),
            prompt_tokens: ask.ids.len() as u64,
            tokens: tokens as u64,
            error,
        }
    }
}

/// Leaves summary and report of rows that are all there.
pub(crate) fn complete(
    traces: &[Trace],
    config: &EvalConfig,
    directory: &OutputDir,
) -> Result<Summary, EvalError> {
    let summary = Summary::of(&config.task, config.data.skipped, traces);
    let report = Report {
        config,
        summary: &summary,
    };
    directory.complete(&summary, &render(&report, traces)?)?;
    Ok(summary)
}

fn is_right(trace: &Trace) -> bool {
    trace.graders.metamath.correct
}

fn verdict(task: Task, completion: &str, answer: &str) -> Grades {
    grade(task, completion, answer).unwrap_or_else(|_| {
        // Problems without a true answer are left out when they are read.
        let none = Grade {
            extracted: None,
            correct: false,
        };
        Grades {
            metamath: none.clone(),
            lm_eval_strict: none.clone(),
            lm_eval_flexible: none,
        }
    })
}

fn asks(
    problems: Vec<Problem>,
    prompter: &Prompter,
    tokenizer: &Tokenizer,
) -> Result<Vec<Ask>, EvalError> {
    let ask = |problem: Problem| {
        let prompt = prompter.text(&problem.question)?;
        let ids = prompter.ids(&problem.question, &prompt, tokenizer)?;
        Ok(Ask {
            problem,
            prompt,
            ids,
        })
    };
    problems.into_iter().map(ask).collect()
}

fn generation(questions: &Questions<'_>, sampling: &Sampling, asks: &[Ask]) -> Generation {
    Generation {
        prompt_style: questions.style,
        few_shot: questions.few_shot,
        suffix: questions.suffix.to_owned(),
        prompts_sha256: hash_texts(asks.iter().map(|ask| ask.prompt.as_str())),
        temperature: sampling.temperature,
        top_k: sampling.top_k,
        top_p: sampling.top_p,
        seed: sampling.seed,
        max_new_tokens: sampling.max_new_tokens,
        stop: sampling.stop.clone(),
    }
}
