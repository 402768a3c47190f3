//! Which options belong to which task.

use std::collections::BTreeSet;

use clap::parser::ValueSource;
use clap::{ArgMatches, Args, Command, FromArgMatches};

use super::pictures::{ControlArgs, PictureArgs, SubjectArgs};
use super::{Asking, Rows, TaskName};
use crate::Failure;

/// Names of the options that stand on the command line, whatever their defaults.
#[derive(Debug, Default)]
pub(super) struct Given(BTreeSet<String>);

impl FromArgMatches for Given {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let typed =
            |id: &&clap::Id| matches.value_source(id.as_str()) == Some(ValueSource::CommandLine);
        let ids = matches.ids().filter(typed);
        Ok(Self(ids.map(|id| id.as_str().to_owned()).collect()))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

impl Args for Given {
    fn augment_args(command: Command) -> Command {
        command
    }

    fn augment_args_for_update(command: Command) -> Command {
        command
    }
}

impl Given {
    /// Refuses options of other tasks, which would be without effect.
    pub(super) fn check(&self, task: TaskName) -> Result<(), Failure> {
        for (options, tasks) in table() {
            let foreign = options.iter().find(|option| self.0.contains(*option));
            if let Some(option) = foreign.filter(|_| !tasks.contains(&task)) {
                let names: Vec<&str> = tasks.iter().map(|task| task.name()).collect();
                let message = format!(
                    "--{} means nothing for --task {}; it belongs to {}",
                    option.replace('_', "-"),
                    task.name(),
                    names.join(", ")
                );
                return Err(Failure::usage(message));
            }
        }
        Ok(())
    }
}

/// Options, and the tasks that know them.
fn table() -> Vec<(Vec<String>, Vec<TaskName>)> {
    use TaskName::{Control, Gsm8k, Gsm8kBackward, Math, Perplexity, Subject};
    let texts = vec![Gsm8k, Gsm8kBackward, Math, Perplexity];
    let models = [texts.as_slice(), &[Subject]].concat();
    let named = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
    vec![
        (
            named(&["model", "adapter", "data", "limit", "shard", "completions"]),
            texts.clone(),
        ),
        (named(&["device", "dtype"]), models),
        (of::<Asking>(), texts.clone()),
        (of::<Rows>(), texts),
        (of::<PictureArgs>(), vec![Subject, Control]),
        (of::<SubjectArgs>(), vec![Subject]),
        (of::<ControlArgs>(), vec![Control]),
    ]
}

/// Names of the options of a group.
fn of<T: Args>() -> Vec<String> {
    let command = T::augment_args(Command::new("eval"));
    let options = command.get_arguments().map(clap::Arg::get_id);
    options.map(|id| id.as_str().to_owned()).collect()
}
