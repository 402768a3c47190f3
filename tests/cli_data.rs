//! The commands that look at things, driven as a user drives them: `recipe`, `data`, `tokenize`, `inspect`.

#[cfg(test)]
#[path = "cli_data/data.rs"]
mod data;
#[cfg(test)]
#[path = "cli_data/inspect.rs"]
mod inspect;
#[cfg(test)]
#[path = "cli_data/recipe.rs"]
mod recipe;
#[cfg(test)]
#[path = "cli_data/support.rs"]
mod support;
#[cfg(test)]
#[path = "cli_data/tokenize.rs"]
mod tokenize;
