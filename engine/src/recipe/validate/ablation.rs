//! `[ablation]`: names become directories, and files of problems must exist.

use super::Checker;
use crate::recipe::Ablation;

/// The directory of the model that all variants start from.
const BASE: &str = "base";

impl Checker<'_> {
    pub(super) fn ablation(&mut self, ablation: &Ablation) {
        let arms = ablation.arms.iter().map(|arm| arm.name.as_str());
        self.names("ablation.arms", arms.collect());
        let exams = ablation.exams.iter().map(|exam| exam.name.as_str());
        self.names("ablation.exams", exams.collect());
        if ablation
            .arms
            .iter()
            .any(|arm| directory_name(&arm.name) == BASE)
        {
            self.problem(
                &["ablation.arms"],
                "no variant can be called `base`",
                "the model that all variants start from is called so",
            );
        }
        for (index, exam) in ablation.exams.iter().enumerate() {
            self.local_or_hub(&format!("ablation.exams[{index}].path"), &exam.path, true);
        }
    }

    fn names(&mut self, key: &str, names: Vec<&str>) {
        let mut seen = Vec::new();
        for (index, name) in names.into_iter().enumerate() {
            let directory = directory_name(name);
            if directory.is_empty() {
                self.problem(
                    &[&format!("{key}[{index}].name"), key],
                    format!("`{name}` is no name for a directory"),
                    "use letters and digits",
                );
            } else if seen.contains(&directory) {
                self.problem(
                    &[&format!("{key}[{index}].name"), key],
                    format!("`{name}` shares the directory `{directory}` with another"),
                    "give each a name of its own",
                );
            }
            seen.push(directory);
        }
    }
}

/// A name as part of a path: letters and digits in lower case, and dashes for everything else.
///
/// ```text
/// + SV/FOBAR -> sv-fobar
/// ```
pub(crate) fn directory_name(name: &str) -> String {
    let words = name.split(|letter: char| !letter.is_ascii_alphanumeric());
    let words: Vec<String> = words
        .filter(|word| !word.is_empty())
        .map(str::to_ascii_lowercase)
        .collect();
    words.join("-")
}

#[cfg(test)]
mod tests {
    #[test]
    fn names_become_directories() {
        for (name, directory) in [("SFT", "sft"), ("+ SV/FOBAR", "sv-fobar"), ("../..", "")] {
            assert_eq!(super::directory_name(name), directory);
        }
    }
}
