//! Problems to graded completions.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use temper_datasets::Tokenizer;
use temper_datasets::grade::{Grade, Grades, grade};
use temper_datasets::problems::{Problem, Skipped, Task, read_problems};
use temper_models::Llama;

use super::config::{DataId, Generation, hash_texts};
use super::directory::OutputDir;
use super::prompts::{Prompter, stop_strings};
use super::report::{Report, render};
use super::summary::Summary;
use super::table::percent;
use super::traces::{Ended, Trace, TraceFile};
use super::{EvalConfig, EvalError};
use crate::generate::{
    Completion, Engine, Event, GenerateError, Limits, Prompt, Request, RequestId, Sampling,
};
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

/// What became of a problem: a completion, or why there is none.
type Answer<'a> = (&'a Ask, Result<Completion, String>);

/// Problems on their way through an engine.
struct Answers<'a> {
    engine: Engine,
    running: HashMap<RequestId, &'a Ask>,
    /// Problems that the engine did not take.
    refused: Vec<Answer<'a>>,
}

impl<'a> Answers<'a> {
    /// The problems that the next step finished; `None` when nothing is left.
    fn next(&mut self) -> Result<Option<Vec<Answer<'a>>>, EvalError> {
        let mut answers = std::mem::take(&mut self.refused);
        if answers.is_empty() && self.engine.is_idle() {
            return Ok(None);
        }
        for event in self.engine.step()? {
            let (id, outcome) = match event {
                Event::Token { .. } => continue,
                Event::Done { id, completion } => (id, Ok(completion)),
                Event::Failed { id, error } => (id, Err(error.to_string())),
            };
            answers.extend(self.running.remove(&id).map(|ask| (ask, outcome)));
        }
        Ok(Some(answers))
    }
}

/// How a model goes through an exam.
pub(crate) struct Sitting<'a> {
    /// What runs at once.
    pub(crate) limits: Limits,
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
        sitting: Sitting<'_>,
    ) -> Result<Option<Summary>, EvalError> {
        let mut traces = TraceFile::open(&sitting.directory.traces())?;
        let mine: Vec<&Ask> = self
            .asks
            .iter()
            .enumerate()
            .filter(|(place, _)| config.shard.holds(*place))
            .map(|(_, ask)| ask)
            .collect();
        let open: Vec<&Ask> = mine
            .iter()
            .copied()
            .filter(|ask| !traces.has(ask.problem.index))
            .collect();
        let begun = (mine.len() - open.len()) as u64;
        let mut progress = sitting.progress.starting_at(begun);
        let mut right = traces.rows().filter(|row| is_right(row)).count();
        let mut done = begun;
        let (start, mut written) = (Instant::now(), 0);
        let mut running = self.engine(model, &open, sitting.limits)?;
        while let Some(answers) = running.next()? {
            if (sitting.stop)() {
                return Ok(None);
            }
            for (ask, completion) in answers {
                let trace = self.trace(ask, completion);
                right += usize::from(is_right(&trace));
                written += trace.tokens;
                traces.append(trace)?;
                done += 1;
                let share = percent(right as f64 / done as f64);
                let speed = written as f64 / start.elapsed().as_secs_f64();
                progress.update(done, &format!("accuracy {share}, {speed:.0} tokens/s"));
            }
        }
        progress.finish();
        Ok(Some(complete(
            &traces.finish()?,
            config,
            sitting.directory,
        )?))
    }

    /// An engine to which all of `asks` were submitted.
    fn engine<'a>(
        &self,
        model: &Llama,
        asks: &[&'a Ask],
        limits: Limits,
    ) -> Result<Answers<'a>, EvalError> {
        let lengths = asks.iter().map(|ask| ask.ids.len());
        let longest = lengths.max().unwrap_or(0) + self.sampling.max_new_tokens;
        let limits = Limits {
            max_sequences: limits.max_sequences.min(asks.len()),
            max_length: Some(longest),
            ..limits
        };
        let mut answers = Answers {
            engine: Engine::new(model, Some(self.tokenizer.clone()), limits)?,
            running: HashMap::new(),
            refused: Vec::new(),
        };
        for ask in asks {
            let prompt = Prompt {
                row: ask.problem.index,
                ids: ask.ids.clone(),
            };
            let sampling = self.sampling.clone();
            match answers.engine.submit(Request { prompt, sampling }) {
                Ok(id) => {
                    answers.running.insert(id, *ask);
                }
                Err(error @ GenerateError::TooLong { .. }) => {
                    answers.refused.push((*ask, Err(error.to_string())));
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(answers)
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
