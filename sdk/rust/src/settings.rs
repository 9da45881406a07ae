//! A plugin's own settings.

use serde::de::DeserializeOwned;

/// Reads a plugin's settings from what `Plugin::start` is given.
///
/// # Errors
/// The key that is missing, unknown or of another type, in words for the operator. Give the settings' type
/// `#[serde(deny_unknown_fields)]` to have misspelt keys refused.
///
/// ```
/// #[derive(serde::Deserialize, Default)]
/// #[serde(default, deny_unknown_fields)]
/// struct Settings {
///     limit: u32,
/// }
///
/// let settings: Settings = eunomia_plugin::from_config(r#"{"limit": 7}"#).unwrap();
/// assert_eq!(settings.limit, 7);
/// let error = eunomia_plugin::from_config::<Settings>(r#"{"limt": 7}"#).err().unwrap();
/// assert_eq!(error, "[config]: unknown field `limt`, expected `limit`");
/// ```
pub fn from_config<T: DeserializeOwned>(config: &str) -> Result<T, String> {
    serde_json::from_str(config).map_err(|error| {
        // The place in the JSON is not one that the operator, who wrote TOML, could look up.
        let text = error.to_string();
        let text = text.split(" at line ").next().unwrap_or_default();
        format!("[config]: {text}")
    })
}
