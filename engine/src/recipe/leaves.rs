//! A written recipe as a flat list.

use toml::Value;

/// Every value of a recipe that is no table or an empty one, under its dotted key. Nothing of a text that is no recipe.
pub(crate) fn leaves(recipe: &str) -> Vec<(String, Value)> {
    let mut found = Vec::new();
    if let Ok(table) = recipe.parse() {
        collect("", Value::Table(table), &mut found);
    }
    found
}

fn collect(key: &str, value: Value, found: &mut Vec<(String, Value)>) {
    match value {
        Value::Table(table) if !table.is_empty() => {
            for (name, value) in table {
                collect(&super::overrides::join(key, &name), value, found);
            }
        }
        value => found.push((key.to_owned(), value)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_stand_under_their_dotted_keys() {
        let found = leaves("seed = 3\n[model]\npath = \"m\"\n[a.b]\nlist = [1, 2]\n[c]\n");
        let keys: Vec<_> = found
            .iter()
            .map(|(key, value)| format!("{key}={value}"))
            .collect();
        assert_eq!(
            keys,
            ["a.b.list=[1, 2]", "c={}", "model.path=\"m\"", "seed=3"]
        );
        assert!(leaves("no recipe").is_empty());
    }
}
