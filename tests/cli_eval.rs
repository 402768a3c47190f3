//! `temper eval` as a user runs it: completions graded, models evaluated, killed, sharded, merged and compared, and evaluated while
//! they are trained; pictures against photographs and control maps.

#[cfg(test)]
#[path = "cli_eval/completions.rs"]
mod completions;
#[cfg(test)]
#[path = "cli_eval/control.rs"]
mod control;
#[cfg(test)]
#[path = "cli_eval/models.rs"]
mod models;
#[cfg(test)]
#[path = "cli_eval/perplexity.rs"]
mod perplexity;
#[cfg(test)]
#[path = "cli_eval/subject.rs"]
mod subject;
#[cfg(test)]
#[path = "cli_eval/support.rs"]
mod support;
#[cfg(test)]
#[path = "cli_eval/training.rs"]
mod training;
