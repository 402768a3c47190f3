//! The JSON Schema that editors complete from.

use serde_json::Value;

use crate::recipe::{PRESETS, bootstrap_schema, diffusion_schema, explain, schema};

/// Calls `visit` with every key of the schema.
fn each_key(schema: &Value, path: &str, visit: &mut impl FnMut(&str, &Value)) {
    for (name, inner) in schema["properties"].as_object().into_iter().flatten() {
        let path = if path.is_empty() {
            name.clone()
        } else {
            format!("{path}.{name}")
        };
        visit(&path, inner);
        each_key(inner, &path, visit);
    }
}

#[test]
fn every_key_has_a_description() {
    let mut keys = 0;
    each_key(&schema(), "", &mut |key, schema| {
        keys += 1;
        let text = schema["description"].as_str().unwrap_or_default();
        assert!(text.len() > 5 && !text.contains('\n'), "{key}: {text:?}");
        assert!(explain(key).unwrap().contains(text), "{key}");
    });
    assert!(keys > 80, "{keys}");
    each_key(&bootstrap_schema(), "", &mut |key, schema| {
        keys += 1;
        let text = schema["description"].as_str().unwrap_or_default();
        assert!(text.len() > 5 && !text.contains('\n'), "{key}: {text:?}");
        assert!(explain(key).is_some(), "{key}");
    });
    assert!(keys > 120, "{keys}");
    each_key(&diffusion_schema(), "", &mut |key, schema| {
        keys += 1;
        let text = schema["description"].as_str().unwrap_or_default();
        assert!(text.len() > 5 && !text.contains('\n'), "{key}: {text:?}");
        assert!(explain(key).is_some(), "{key}");
    });
    assert!(keys > 240, "{keys}");
}

#[test]
fn tables_refuse_unknown_keys_and_nothing_is_null() {
    for schema in [schema(), bootstrap_schema(), diffusion_schema()] {
        assert_eq!(schema["additionalProperties"], false);
        each_key(&schema, "", &mut |key, schema| {
            if schema.get("properties").is_some() {
                assert_eq!(schema["additionalProperties"], false, "{key}");
            }
        });
        let text = schema.to_string();
        assert!(!text.contains("null"), "{text}");
        assert!(!text.contains("$ref"), "{text}");
    }
}

#[test]
fn defaults_ranges_and_values_are_stated() {
    let schema = schema();
    let train = &schema["properties"]["train"]["properties"];
    assert_eq!(train["beta2"]["default"], 0.999);
    assert_eq!(train["lr"]["exclusiveMinimum"], 0);
    assert_eq!(train["lr"]["maximum"], 1);
    assert!(train["lr"].get("default").is_none());
    assert_eq!(
        schema["properties"]["train"]["required"],
        serde_json::json!(["batch_size", "lr"])
    );
    assert_eq!(schema["properties"]["seed"]["default"], 42);
    let presets = schema["properties"]["model"]["properties"]["preset"]["enum"]
        .as_array()
        .unwrap();
    assert_eq!(presets.len(), PRESETS.len());
    let kinds = schema["properties"]["adapter"]["properties"]["kind"]["oneOf"]
        .as_array()
        .unwrap();
    assert!(kinds.iter().all(|kind| kind["description"].is_string()));
}

#[test]
fn explanation_of_a_key_has_values_default_and_range() {
    let text = explain("train.schedule").unwrap();
    assert!(text.contains("`linear`  A straight line"), "{text}");
    assert!(explain("train.lr").unwrap().contains("required"));
    assert!(
        explain("train.lr")
            .unwrap()
            .contains("above 0 and at most 1")
    );
    assert!(explain("data.eval").unwrap().contains("fraction: Share"));
    assert_eq!(explain("train.nothing"), None);
}
