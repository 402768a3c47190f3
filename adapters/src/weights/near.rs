//! Names that look like another name, for error messages.

/// Up to three of `names` closest to `wanted`, best first; none when nothing is close.
pub(crate) fn near<'a>(wanted: &str, names: impl IntoIterator<Item = &'a str>) -> Vec<String> {
    let limit = wanted.chars().count() / 3 + 1;
    let mut scored: Vec<(usize, &str)> = names
        .into_iter()
        .take(20_000)
        .filter_map(|name| {
            let last = name.rsplit('.').next().unwrap_or(name);
            let distance = distance(wanted, name).min(distance(wanted, last) + 1);
            (distance <= limit).then_some((distance, name))
        })
        .collect();
    scored.sort_unstable();
    scored
        .into_iter()
        .take(3)
        .map(|(_, name)| name.to_owned())
        .collect()
}

/// Edit distance, cut short at 200 characters.
fn distance(left: &str, right: &str) -> usize {
    let right: Vec<char> = right.chars().take(200).collect();
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (i, from) in left.chars().take(200).enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, to) in right.iter().enumerate() {
            let cost = diagonal + usize::from(from != *to);
            diagonal = row[j + 1];
            row[j + 1] = cost.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[right.len()]
}

/// The tail of a message that offers `near` names; nothing when there are none.
pub(crate) fn hint_list(near: &[String]) -> String {
    if near.is_empty() {
        return String::new();
    }
    let names: Vec<String> = near.iter().map(|name| format!("`{name}`")).collect();
    format!("; the nearest names are {}", names.join(", "))
}

/// The first problems of many, and how many more there are.
pub(crate) fn list(problems: &[impl ToString]) -> String {
    const SHOWN: usize = 12;
    let shown: Vec<String> = problems
        .iter()
        .take(SHOWN)
        .map(ToString::to_string)
        .collect();
    let rest = problems.len().saturating_sub(SHOWN);
    let more = if rest == 0 {
        String::new()
    } else {
        format!("; and {rest} more")
    };
    format!("{}{more}", shown.join("; "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn misspelt_name_finds_the_real_one() {
        let names = ["model.layers.0.q_proj", "model.layers.0.mlp"];
        assert_eq!(near("q_porj", names), ["model.layers.0.q_proj"]);
    }

    #[test]
    fn unrelated_name_finds_nothing() {
        assert!(near("conv_in", ["model.layers.0.q_proj"]).is_empty());
    }
}
