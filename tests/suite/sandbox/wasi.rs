//! The imports of other languages' runtimes: all stable interfaces of WASI 0.2 except HTTP are
//! linked.

use sandmill::sandbox::Limits;
use sandmill_tests::{
    calls::{sandbox, unhurried},
    handmade,
};

/// The component traps in `describe`, which it reaches only if all of its imports are linked.
#[test]
fn every_minor_version_of_wasi_is_linked() {
    let sandbox = sandbox(Limits { instances: 2, ..unhurried() });
    for version in ["0.2.0", "0.2.3", "0.2.12"] {
        let refused = sandbox.load(&handmade::importing_wasi(version)).err().expect("it traps").to_string();
        assert!(refused.starts_with("`describe` failed: trap: wasm `unreachable`"), "{version}: {refused}");
    }
}
