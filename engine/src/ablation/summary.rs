//! What came out: means and standard deviations over seeds.

use serde::Serialize;

use super::plan::Plan;

/// The content of `summary.json`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct AblationSummary {
    /// The seeds, in the order of all accuracies.
    pub seeds: Vec<u64>,
    /// Names of the exams, in the order of all results.
    pub exams: Vec<String>,
    /// The model that all variants started from, before any of them.
    pub base: Option<ArmSummary>,
    /// The variants.
    pub arms: Vec<ArmSummary>,
}

/// One variant.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ArmSummary {
    /// Its name.
    pub name: String,
    /// What it changes.
    pub set: Vec<String>,
    /// How it did, exam by exam.
    pub results: Vec<ExamSummary>,
}

/// One variant in one exam. Accuracies are shares of the problems, 0 to 1.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ExamSummary {
    /// One per seed.
    pub accuracies: Vec<f64>,
    /// Their mean.
    pub mean: f64,
    /// Their standard deviation, with n − 1; there is none of one seed.
    pub standard_deviation: Option<f64>,
}

impl AblationSummary {
    /// `scores` are those of all runs of the plan, in their order.
    pub(super) fn new(plan: &Plan, scores: Vec<Vec<f64>>) -> Self {
        let mut scores = scores.into_iter();
        let base = plan.base.as_ref().and_then(|_| scores.next());
        let base = base.map(|scores| ArmSummary::new("base", &[], &[scores]));
        let arms = plan.arms.iter().map(|arm| {
            let of_seeds: Vec<Vec<f64>> = scores.by_ref().take(arm.runs.len()).collect();
            ArmSummary::new(&arm.name, &arm.set, &of_seeds)
        });
        Self {
            seeds: plan.seeds.clone(),
            exams: plan.exams.iter().map(|exam| exam.name.clone()).collect(),
            arms: arms.collect(),
            base,
        }
    }

    /// The base, if there is one, and the variants.
    pub(super) fn rows(&self) -> impl Iterator<Item = &ArmSummary> {
        self.base.iter().chain(&self.arms)
    }
}

impl ArmSummary {
    /// `of_seeds` has a list of scores, one per exam, for each seed.
    fn new(name: &str, set: &[String], of_seeds: &[Vec<f64>]) -> Self {
        let exams = of_seeds.first().map_or(0, Vec::len);
        let column = |exam: usize| of_seeds.iter().map(|scores| scores[exam]).collect();
        Self {
            name: name.to_owned(),
            set: set.to_vec(),
            results: (0..exams)
                .map(|exam| ExamSummary::new(column(exam)))
                .collect(),
        }
    }
}

impl ExamSummary {
    fn new(accuracies: Vec<f64>) -> Self {
        let count = accuracies.len() as f64;
        let mean = accuracies.iter().sum::<f64>() / count;
        let squares: f64 = accuracies.iter().map(|one| (one - mean).powi(2)).sum();
        Self {
            standard_deviation: (count > 1.0).then(|| (squares / (count - 1.0)).sqrt()),
            mean,
            accuracies,
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// Two exams, three seeds, a base and two variants; the markup in a name is there to be escaped.
    pub(in super::super) fn summary() -> AblationSummary {
        let arm = |name: &str, scores: &[[f64; 2]]| {
            let scores: Vec<Vec<f64>> = scores.iter().map(|pair| pair.to_vec()).collect();
            ArmSummary::new(name, &[], &scores)
        };
        AblationSummary {
            seeds: vec![1, 2, 3],
            exams: vec!["forward".into(), "backward".into()],
            base: Some(arm("base", &[[0.25, 0.0]])),
            arms: vec![
                arm("SFT", &[[0.4, 0.0], [0.5, 0.1], [0.6, 0.2]]),
                arm("+ <SV> & FOBAR", &[[1.0, 0.5]; 3]),
            ],
        }
    }

    #[test]
    fn spread_is_that_of_a_sample() {
        let result = &summary().arms[0].results[0];
        assert!((result.mean - 0.5).abs() < 1e-12);
        assert!((result.standard_deviation.unwrap() - 0.1).abs() < 1e-12);
        assert_eq!(summary().base.unwrap().results[1].standard_deviation, None);
        assert_eq!(summary().arms[1].results[1].standard_deviation, Some(0.0));
    }
}
