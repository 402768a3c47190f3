//! `[eval]`: its file must exist, and a best one can only be chosen among several.

use super::Checker;
use crate::recipe::Evaluation;

impl Checker<'_> {
    pub(super) fn evaluation_of_tasks(&mut self, eval: &Evaluation) {
        self.local_or_hub("eval.path", &eval.path, true);
        if eval.choose_best && eval.every == 0 && !eval.at_start {
            self.problem(
                &["eval.choose_best", "eval.every"],
                "`eval.choose_best` has nothing to choose from: problems are solved only at the end",
                "add `every = 100`",
            );
        }
    }
}
