//! Writes the guest SDK's bindings (`make bindings`).

use sandmill_bindings::BINDINGS;

fn main() -> std::io::Result<()> {
    for bindings in BINDINGS {
        std::fs::write(bindings.path(), bindings.code)?;
        println!("{}", bindings.file);
    }
    Ok(())
}
