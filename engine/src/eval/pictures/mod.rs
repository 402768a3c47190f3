//! Pictures, measured: how well they show a subject ([`SubjectSummary`]) and how well they follow a control map ([`ControlSummary`]).
//!
//! | figure | of | needs |
//! |---|---|---|
//! | CLIP-I, DINO | mean cosine of the embeddings of generated and real pictures of a subject | CLIP, a `ViT` by DINO |
//! | CLIP-T | mean cosine of picture and prompt | CLIP |
//! | LPIPS diversity | mean distance of pictures with the same subject and prompt | LPIPS |
//! | L1, `IoU`, F1 | edges of a picture against its control map | nothing |
//! | mIoU, mAcc, aAcc | label maps of pictures against the true ones | the user's segmenter |
//!
//! Definitions are those of DreamBooth (arXiv 2208.12242, section 4) and OFT (arXiv 2306.07280, section 5). Each picture is embedded
//! once; pictures that are all black are left out, as are those that cannot be read, and both are counted and named.

mod control;
mod diversity;
mod files;
mod judges;
mod mean;
mod output;
mod prompts;
mod seen;
mod subject;
mod summary;
mod table;

pub use control::{ControlSummary, EdgeRow, EdgeSummary, LabelSummary};
pub use files::{LeftOut, LeftOuts, Unfit};
pub use judges::{JudgeId, JudgeIds};
pub use mean::Figure;
pub use summary::{OneSubject, PictureRow, PromptScores, Scores, SubjectSummary};

pub(crate) use control::{EdgeRequest, LabelRequest, measure_edges, measure_labels};
pub(crate) use judges::{JudgePaths, Judges};
pub(crate) use output::PictureOutput;
pub(crate) use subject::{SubjectRequest, measure_subjects};
pub(crate) use table::{control_table, subject_table};
