//! From a file or text to a checked recipe of one kind, with the problems of all stages together.

use std::path::Path;

use schemars::JsonSchema;
use serde::de::DeserializeOwned;
use toml::de::DeTable;

use super::problem::{RecipeErrors, Report};
use super::schema::schema_of;
use super::tree::{self, Node, Origin};
use super::validate::Checker;
use super::{Run, hints, overrides, walk};

/// A kind of recipe: its sections, and what the stages need to know of it.
pub(super) trait Kind: DeserializeOwned + JsonSchema {
    /// The section that marks recipes of this kind.
    const MARK: &'static str;

    /// Fills in defaults that differ from those of the types, before anything is checked.
    fn complete(_tree: &mut Node) {}

    /// Says the same in the schema.
    fn refine(_schema: &mut serde_json::Value) {}

    /// Reports contradictions between keys, and missing files.
    fn validate(&self, checker: &mut Checker<'_>);

    /// Fills in what depends on other keys.
    fn fill_defaults(&mut self);

    /// Where results go.
    fn run_mut(&mut self) -> &mut Run;
}

/// The kinds of recipes: the section that marks them, the command that runs them, and what they are for. The first mark decides.
const KINDS: [(&str, &str, &str); 3] = [
    ("questions", "temper bootstrap", "question sets"),
    ("images", "temper train", "diffusion models"),
    ("train", "temper train", "language models"),
];

/// A text of more bytes is not a recipe.
const LARGEST: usize = 1 << 16;

/// Reads and checks a file. Relative paths in it start at `base`.
pub(super) fn load<K: Kind>(
    path: &Path,
    overrides: &[String],
    base: &Path,
) -> Result<K, RecipeErrors> {
    parse(&read(path)?, &path.display().to_string(), overrides, base)
}

/// Checks a text.
pub(super) fn parse<K: Kind>(
    text: &str,
    file_name: &str,
    overrides: &[String],
    base: &Path,
) -> Result<K, RecipeErrors> {
    if text.len() > LARGEST {
        return Err(RecipeErrors::whole_file(
            file_name,
            too_large(file_name),
            None,
        ));
    }
    let mut sources = vec![text];
    sources.extend(overrides.iter().map(String::as_str));
    let mut report = Report::default();
    let checked = check(text, file_name, overrides, base, &mut report);
    match checked {
        Some(recipe) if report.is_empty() => Ok(recipe),
        _ => Err(report.finish(file_name, &sources)),
    }
}

/// Whether a recipe file has the section of the kind `K`; false for a file that cannot be read.
pub(super) fn is_marked<K: Kind>(path: &Path) -> bool {
    let Ok(text) = read(path) else { return false };
    let (document, _) = DeTable::parse_recoverable(&text);
    let marked = KINDS
        .iter()
        .find(|(mark, ..)| document.get_ref().contains_key(*mark));
    marked.is_some_and(|(mark, ..)| *mark == K::MARK)
}

/// Runs all stages; `None` only with a problem reported.
fn check<K: Kind>(
    text: &str,
    file_name: &str,
    overrides: &[String],
    base: &Path,
    report: &mut Report,
) -> Option<K> {
    let mut tree = parse_toml(text, report)?;
    if let Some((command, subject)) = other_kind::<K>(&tree) {
        let message = format!("this is a recipe for `{command}` on {subject}");
        let hint = format!("run `{command} {file_name}`");
        report.add(None, "", message, Some(hint));
        return None;
    }
    overrides::apply(&mut tree, overrides, report);
    K::complete(&mut tree);
    walk::check(&mut tree, &schema_of::<K>(), report);
    let mut recipe: K = match tree.to_toml().try_into() {
        Ok(recipe) => recipe,
        Err(error) => {
            let error: toml::de::Error = error;
            report.add(None, "", error.message().to_owned(), None);
            return None;
        }
    };
    if tree.find("run.dir").is_none() {
        let stem = Path::new(file_name)
            .file_stem()
            .unwrap_or("recipe".as_ref());
        recipe.run_mut().dir = Path::new("runs").join(stem);
    }
    let mut checker = Checker::new(&tree, base, report);
    recipe.validate(&mut checker);
    checker.run(recipe.run_mut());
    recipe.fill_defaults();
    Some(recipe)
}

/// The command for which a recipe was written and what it works on, if it is of another kind.
fn other_kind<K: Kind>(tree: &Node) -> Option<(&'static str, &'static str)> {
    let found = KINDS.iter().find(|(mark, ..)| tree.find(mark).is_some());
    let (_, command, subject) = found.filter(|(mark, ..)| *mark != K::MARK)?;
    Some((command, subject))
}

/// Parses TOML; all its errors are reported, with their places.
fn parse_toml(text: &str, report: &mut Report) -> Option<Node> {
    let (document, errors) = DeTable::parse_recoverable(text);
    for error in &errors {
        let origin = error.span().map(|span| Origin::new(0, span));
        let message = format!("not valid TOML: {}", error.message());
        report.add(origin, "", message, hints::syntax(error.message()));
    }
    errors.is_empty().then(|| tree::from_document(0, &document))
}

fn too_large(name: &str) -> String {
    format!("`{name}` is too large for a recipe: more than {LARGEST} bytes")
}

fn read(path: &Path) -> Result<String, RecipeErrors> {
    let name = path.display().to_string();
    let refuse = |message: String, hint: &str| {
        RecipeErrors::whole_file(&name, message, Some(hint.to_owned()))
    };
    let io = |error: std::io::Error| {
        refuse(
            format!("cannot read `{name}`: {error}"),
            "recipes come in `recipes/`, for example `recipes/quickstart.toml`",
        )
    };
    let about = std::fs::metadata(path).map_err(io)?;
    if about.is_dir() {
        let message = format!("`{name}` is a directory");
        return Err(refuse(message, "name a recipe file, `*.toml`"));
    }
    if !about.is_file() {
        let message = format!("`{name}` is no regular file but a pipe, a socket or a device");
        return Err(refuse(message, "name a recipe file, `*.toml`"));
    }
    if about.len() > LARGEST as u64 {
        return Err(refuse(too_large(&name), "name a recipe file, `*.toml`"));
    }
    String::from_utf8(std::fs::read(path).map_err(io)?).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        let message = format!("`{name}` is not UTF-8 text: byte {at}");
        refuse(message, "save it as UTF-8")
    })
}
