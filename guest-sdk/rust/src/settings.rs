//! What operators set for this plugin, with the tenant's own values laid over it. The same during a whole batch.

/// One setting.
pub fn get(key: &str) -> Option<String> {
    #[cfg(target_arch = "wasm32")]
    return crate::bindings::sandmill::processor::settings::get(key);
    #[cfg(not(target_arch = "wasm32"))]
    crate::testing::setting(key)
}

/// All settings.
pub fn get_all() -> Vec<(String, String)> {
    #[cfg(target_arch = "wasm32")]
    return crate::bindings::sandmill::processor::settings::get_all();
    #[cfg(not(target_arch = "wasm32"))]
    crate::testing::settings()
}
